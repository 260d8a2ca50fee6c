//! Leases: which ports of which frontend each backend may open flows on (S11, S14, S15, D1–D4).
//!
//! `Allocation::settle` brings leases to what the declared configuration grants: it drains what is too much, binds
//! backends that wait, and gives what is missing. It must never hand out a port that is leased, draining or reserved:
//! a block returns only by `Allocation::reclaimed` (F5). Called by `apply` after every command that can matter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use bincode::{Decode, Encode};
use engine::ids::{BackendId, ControlIndex, FrontendId, PortBlock, ShardId};
use engine::snapshot::OnReclaim;
use words::SplitMix;

use crate::buddy::{FreeBlocks, buddy_of, coalesce, halves};
use crate::default_outbound::ways::Sharers;
use crate::grants::{Grant, Grants, Sizes};
pub use crate::holdings::{Backend, Declared, Drain, Frontend, Purpose};
use crate::inbound::reach::Shores;
use crate::loads::{Loads, PortLoad};
use crate::places::{Places, blocks_on};
use crate::refusal::Refusal;
use crate::resource::Desired;
use crate::tier;

/// Smallest piece that a lease is cut into or filled up with.
const PIECE_LEN_MIN: u16 = tier::BLOCK_LEN_MIN;

/// Frontends, backends and their ports.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Allocation {
    /// Frontends.
    pub frontends: BTreeMap<FrontendId, Frontend>,
    /// Backends.
    pub backends: BTreeMap<BackendId, Backend>,
    /// Draining blocks.
    pub drains: BTreeMap<PortBlock, Drain>,
    /// The system address of each availability set, and of instances in none.
    pub sets: BTreeMap<Sharers, FrontendId>,
    /// Where all these are.
    pub(crate) places: Places,
    pub(crate) last_frontend: FrontendId,
    pub(crate) last_backend: BackendId,
}

/// What one settling depends on besides the allocation.
pub(crate) struct Settle<'a> {
    pub(crate) index: ControlIndex,
    pub(crate) stamped_unix_ms: u64,
    pub(crate) draw: u64,
    pub(crate) desired: &'a Desired,
    pub(crate) hints: &'a [PortLoad],
}

/// What one settling has counted: free blocks, and bound backends, by frontend.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) free: BTreeMap<FrontendId, FreeBlocks>,
    pub(crate) bound: BTreeMap<FrontendId, u32>,
}

impl Allocation {
    /// Where all these are, found anew.
    pub(crate) fn places_anew(&self, index: ControlIndex) -> Places {
        Places::of(&self.frontends, &self.backends, &self.drains, index)
    }

    /// Brings leases to what the configuration grants. Deterministic; backends are served in order of their ids.
    pub(crate) fn settle(&mut self, with: &Settle<'_>) {
        self.part_with_addresses(with);
        let (sizes, mut grants) = (Sizes::of(with.desired), Grants::new(with.desired, &self.frontends));
        let loads = Loads::new(with.hints);
        let ids: Vec<BackendId> = self.backends.keys().copied().collect();
        for id in &ids {
            let ports = sizes.ports(with.desired, &grants, &self.backends[id]);
            self.backend_mut(*id).grant = ports;
        }
        for id in &ids {
            let backend = &self.backends[id];
            let grant = grants.of(backend);
            let stays = backend.frontend.is_some_and(|frontend| grant.has(frontend));
            let target = if stays { grant.ports } else { 0 };
            let fate = self.fate(backend, &grant);
            self.withdraw_ruled(*id, grant.on_reclaim_if_any(), with.index);
            self.shrink(*id, target, fate, &loads, with.index);
            self.leave_frontend(*id, &grant);
        }
        self.hasten_unwanted(with.desired);
        self.unbind_drained();
        self.places = self.places_anew(with.index);
        let mut tally = Tally::default();
        for frontend in self.frontends.keys() {
            tally.free.insert(*frontend, self.free_on(*frontend));
            tally.bound.insert(*frontend, self.places.bound_count(*frontend));
        }
        self.assign_sets(with.desired, &sizes.sets, &grants);
        for id in &ids {
            let Some(backend) = self.backends.get(id) else { continue };
            let grant = grants.of(backend);
            if backend.frontend.is_none() && grant.ports > 0 {
                self.bind(*id, &grant, &mut tally, with);
            }
        }
        for id in &ids {
            let Some(backend) = self.backends.get(id) else { continue };
            let grant = grants.of(backend);
            if backend.frontend.is_some_and(|frontend| grant.has(frontend)) && backend.ports() < grant.ports {
                self.grow(*id, grant.ports, &mut tally, with.index);
            }
        }
        for id in &ids {
            if let Some(backend) = self.backends.get(id) {
                self.places.judge(*id, backend);
            }
        }
        self.hasten_stuck(ids.iter().copied());
        self.assign_homes(grants.shores());
        let frontends: Vec<FrontendId> = self.frontends.keys().copied().collect();
        for frontend in frontends {
            self.give_address(frontend);
            self.note_if_idle(frontend, with.stamped_unix_ms);
        }
    }

    /// A fence of the block was committed: its ports are free, if it still drains under exactly that index (F5). Returns
    /// whose it was.
    pub(crate) fn reclaimed(
        &mut self,
        block: PortBlock,
        reclaim_index: ControlIndex,
        shard: ShardId,
    ) -> Result<BackendId, Refusal> {
        match self.drains.get(&block) {
            None => Err(Refusal::BlockNotDraining {}),
            Some(drain) if drain.reclaim_index != reclaim_index => {
                Err(Refusal::BlockOfAnotherReclaim { reclaim: drain.reclaim_index, named: reclaim_index })
            }
            Some(_) if self.frontends.get(&block.frontend).is_none_or(|f| f.shard != shard) => {
                Err(Refusal::BlockOfAnotherShard { shard })
            }
            Some(drain) => {
                let backend = drain.backend;
                self.drains.remove(&block);
                self.places.drained(backend);
                Ok(backend)
            }
        }
    }

    /// Whether some lease or draining block is on the frontend.
    #[must_use]
    pub fn in_use(&self, frontend: FrontendId) -> bool {
        self.places.bound_count(frontend) > 0 || self.drains.range(blocks_on(frontend)).next().is_some()
    }

    /// Who leases or drains one of these ports of a frontend.
    pub(crate) fn user_of(&self, frontend: FrontendId, ports: &BTreeSet<u16>) -> Option<(u16, BackendId)> {
        self.blocks_of(frontend)
            .find_map(|(block, id)| ports.iter().find(|port| block.contains(**port)).map(|port| (*port, id)))
    }

    /// Blocks of a backend that drain on a frontend.
    pub(crate) fn drains_of(&self, id: BackendId, frontend: FrontendId) -> impl Iterator<Item = PortBlock> + '_ {
        let all = self.drains.range(blocks_on(frontend));
        all.filter(move |(_, drain)| drain.backend == id).map(|(block, _)| *block)
    }

    /// Leased blocks on a frontend, then draining ones, with whose they are.
    fn blocks_of(&self, frontend: FrontendId) -> impl Iterator<Item = (PortBlock, BackendId)> + '_ {
        let own = move |id: BackendId| self.backends[&id].blocks_on(frontend).map(move |block| (block, id));
        let leased = self.places.bound_to(frontend).flat_map(own);
        leased.chain(self.drains.range(blocks_on(frontend)).map(|(block, drain)| (*block, drain.backend)))
    }

    /// Declared frontends by address.
    pub(crate) fn frontends_by_address(&self) -> BTreeMap<Ipv4Addr, FrontendId> {
        self.frontends.iter().filter(|(_, f)| f.declared == Declared::Yes).map(|(id, f)| (f.ip, *id)).collect()
    }

    pub(crate) fn backend_mut(&mut self, id: BackendId) -> &mut Backend {
        self.backends
            .get_mut(&id)
            .expect("ids are taken from the map, and only unbind_drained removes, before the rest")
    }

    /// What is free on a frontend.
    pub(crate) fn free_on(&self, frontend: FrontendId) -> FreeBlocks {
        let used: Vec<PortBlock> = self.blocks_of(frontend).map(|(block, _)| block).collect();
        FreeBlocks::new(frontend, &used, &self.frontends[&frontend].barred())
    }

    /// Starts to drain what the lease has above `target` (S14): a half of each block, the one with fewer live flows, the
    /// upper one if equal (D4); several times if the pool grew by several tiers.
    fn shrink(&mut self, id: BackendId, target: u16, on_reclaim: OnReclaim, loads: &Loads, index: ControlIndex) {
        let mut lease = std::mem::take(&mut self.backend_mut(id).lease);
        let mut ports: u16 = lease.iter().map(|block| block.len).sum();
        let mut drained = Vec::new();
        if target == 0 {
            drained.append(&mut lease);
            ports = 0;
        }
        while ports > target {
            let halvable = ports / 2 >= target && lease.iter().all(|block| block.len >= 2 * PIECE_LEN_MIN);
            if halvable {
                for block in &mut lease {
                    let (keep, drain) = loads.split(*block);
                    *block = keep;
                    drained.push(drain);
                }
                ports /= 2;
                continue;
            }
            // A lease of odd pieces: give up the smallest that fits into the excess.
            let Some(at) = (0..lease.len()).min_by_key(|at| (lease[*at].len, u16::MAX - lease[*at].start)) else {
                break;
            };
            let excess = ports - target;
            let block = lease.swap_remove(at);
            if block.len <= excess {
                ports -= block.len;
                drained.push(block);
            } else {
                let (keep, other) = loads.split(block);
                lease.extend([keep, other]);
            }
        }
        for block in drained {
            self.drains.insert(block, Drain { backend: id, reclaim_index: index, on_reclaim });
        }
        coalesce(&mut lease);
        self.backend_mut(id).lease = lease;
    }

    /// Starts to drain the smallest pieces of a lease that hold ports of inbound rules (W3); `grow` makes up for them.
    fn withdraw_ruled(&mut self, id: BackendId, on_reclaim: OnReclaim, index: ControlIndex) {
        let backend = &self.backends[&id];
        let Some(frontend) = backend.frontend.map(|frontend| &self.frontends[&frontend]) else { return };
        if !backend.lease.iter().any(|block| frontend.rules_within(*block)) {
            return;
        }
        let (mut left, mut lease) = (backend.lease.clone(), Vec::new());
        while let Some(block) = left.pop() {
            if !frontend.rules_within(block) {
                lease.push(block);
            } else if block.len > PIECE_LEN_MIN {
                left.extend(<[PortBlock; 2]>::from(halves(block)));
            } else {
                self.drains.insert(block, Drain { backend: id, reclaim_index: index, on_reclaim });
            }
        }
        coalesce(&mut lease);
        self.backend_mut(id).lease = lease;
    }

    /// A backend that is granted nothing leaves its frontend when nothing of it is left there; an undeclared one goes.
    fn unbind_drained(&mut self) {
        let draining: BTreeSet<(BackendId, FrontendId)> =
            self.drains.iter().map(|(block, drain)| (drain.backend, block.frontend)).collect();
        let drains = |id: BackendId| draining.range((id, FrontendId(0))..).next().is_some_and(|(of, _)| *of == id);
        let shards: BTreeSet<ShardId> = self.frontends.values().map(|f| f.shard).collect();
        for (id, backend) in &mut self.backends {
            if backend.lease.is_empty() && backend.frontend.is_some_and(|f| !draining.contains(&(*id, f))) {
                backend.frontend = None;
            }
            if backend.home.is_some_and(|home| !shards.contains(&home)) {
                backend.home = None;
            }
        }
        self.backends.retain(|id, b| b.declared == Declared::Yes || b.frontend.is_some() || drains(*id));
    }

    /// Binds a backend to a frontend of its grant: where blocks of its own drain, if they do, since `grow` takes these back; else
    /// where there is room.
    pub(crate) fn bind(&mut self, id: BackendId, grant: &Grant, tally: &mut Tally, with: &Settle<'_>) {
        let tied = self.tied_to(id, &self.backends[&id]);
        let near = |frontend: &FrontendId| tied.is_none_or(|shard| self.frontends[frontend].shard == shard);
        let candidates: Vec<FrontendId> = grant.frontends.iter().copied().filter(near).collect();
        let drains_on = |frontend: &FrontendId| self.drains_of(id, *frontend).next().is_some();
        let former = if self.places.drains(id) { candidates.iter().copied().find(drains_on) } else { None };
        let mut lease = Vec::new();
        let frontend = match former {
            Some(frontend) => {
                tally.free.entry(frontend).or_insert_with(|| self.free_on(frontend));
                frontend
            }
            None => {
                let shared = self.address_of_set(&self.backends[&id], grant, with.desired);
                let shared = shared.filter(|frontend| candidates.contains(frontend));
                let drawn = SplitMix::mix(with.draw ^ u64::from(id.0));
                let Some(frontend) = self.with_room(grant.ports, (&candidates, shared), tally, drawn) else { return };
                let pieces = tally.free.get_mut(&frontend).expect("a candidate was looked at");
                take_pieces(pieces, grant.ports, &mut lease);
                coalesce(&mut lease);
                if lease.is_empty() {
                    return;
                }
                frontend
            }
        };
        *tally.bound.entry(frontend).or_default() += 1;
        self.places.bind(id, frontend);
        let shard = self.frontends[&frontend].shard;
        let backend = self.backend_mut(id);
        backend.frontend = Some(frontend);
        backend.home = Some(shard);
        backend.lease = lease;
    }

    /// Of these frontends the one that a set shares, if it has room; else that with the fewest bound backends among those
    /// with room; a tie is drawn (D1). What is free on a frontend is looked at only where that decides.
    fn with_room(
        &self,
        ports: u16,
        (candidates, shared): (&[FrontendId], Option<FrontendId>),
        Tally { free, bound }: &mut Tally,
        drawn: u64,
    ) -> Option<FrontendId> {
        let mut by_count: BTreeMap<u32, Vec<FrontendId>> = BTreeMap::new();
        for frontend in candidates {
            by_count.entry(bound.get(frontend).copied().unwrap_or(0)).or_default().push(*frontend);
        }
        let mut has_room = |frontend: &FrontendId, whole: bool| {
            let there = free.entry(*frontend).or_insert_with(|| self.free_on(*frontend));
            if whole { there.fits(ports) } else { there.ports() >= ports.into() }
        };
        if let Some(shared) = shared.filter(|frontend| has_room(frontend, false)) {
            return Some(shared);
        }
        let mut find = |whole: bool| {
            by_count.values().find_map(|group| {
                let among = u64::try_from(group.len()).expect("a list in memory is shorter than 2^64");
                let from = usize::try_from(drawn % among).expect("below the length of a list");
                // The first with room, from the drawn one on.
                let (before, after) = group.split_at(from);
                after.iter().chain(before).copied().find(|frontend| has_room(frontend, whole))
            })
        };
        find(true).or_else(|| find(false))
    }

    /// Gives a bound backend what it lacks (S15): first its own draining blocks back, then free buddies, then any.
    pub(crate) fn grow(&mut self, id: BackendId, target: u16, tally: &mut Tally, index: ControlIndex) {
        let mut lease = std::mem::take(&mut self.backend_mut(id).lease);
        let sum = |lease: &[PortBlock]| lease.iter().map(|block| block.len).sum::<u16>();
        let frontend = self.backends[&id].frontend.expect("only bound backends grow");
        let own: Vec<PortBlock> = match self.places.drains(id) {
            true => {
                let barred = |block: &PortBlock| self.frontends[&frontend].rules_within(*block);
                self.drains_of(id, frontend).filter(|block| !barred(block)).collect()
            }
            false => Vec::new(),
        };
        for block in own.into_iter().rev() {
            let want = target - sum(&lease);
            if want == 0 {
                break;
            }
            self.take_back(block, want, &mut lease, index);
        }
        coalesce(&mut lease);
        let pieces = tally.free.get_mut(&frontend).expect("a bound backend's frontend exists");
        loop {
            let want = target - sum(&lease);
            let fits = |b: &&PortBlock| b.len <= want && b.len < tier::BLOCK_LEN_MAX;
            let buddies: Vec<PortBlock> = lease.iter().filter(fits).map(|b| buddy_of(*b)).collect();
            let Some(buddy) = buddies.into_iter().find(|buddy| pieces.take_exactly(*buddy)) else { break };
            lease.push(buddy);
            coalesce(&mut lease);
        }
        take_pieces(pieces, target - sum(&lease), &mut lease);
        coalesce(&mut lease);
        self.backend_mut(id).lease = lease;
    }

    /// Takes up to `want` ports of an own draining block back; the rest drains on, as smaller blocks under a new index,
    /// since a fence names the block that it fences.
    fn take_back(&mut self, block: PortBlock, mut want: u16, lease: &mut Vec<PortBlock>, index: ControlIndex) {
        let Some(drain) = self.drains.remove(&block) else { return };
        self.places.drained(drain.backend);
        let mut rest = vec![block];
        while let Some(piece) = rest.pop() {
            if piece.len <= want {
                want -= piece.len;
                lease.push(piece);
            } else if want >= PIECE_LEN_MIN && piece.len > PIECE_LEN_MIN {
                let (lower, upper) = halves(piece);
                rest.extend([upper, lower]);
            } else {
                let reclaim_index = if piece == block { drain.reclaim_index } else { index };
                self.drains.insert(piece, Drain { reclaim_index, ..drain });
                self.places.drain(drain.backend);
            }
        }
    }

    /// Since when the frontend is idle, if it is.
    pub(crate) fn note_if_idle(&mut self, id: FrontendId, stamped_unix_ms: u64) {
        let busy = self.in_use(id);
        let frontend = self.frontends.get_mut(&id).expect("ids are taken from the map");
        if frontend.declared == Declared::Yes || busy {
            frontend.idle_since_unix_ms = None;
        } else if frontend.idle_since_unix_ms.is_none() {
            frontend.idle_since_unix_ms = Some(stamped_unix_ms);
        }
    }

    /// Sends a backend home to the shard in which rules lead to it, once nothing of it is left elsewhere (M3).
    pub(crate) fn send_home(&mut self, id: BackendId, shores: &Shores<'_>) {
        let Some(backend) = self.backends.get(&id).filter(|backend| self.is_free(id, backend)) else { return };
        if let Some(shard) = shores.of_backend(backend) {
            self.backend_mut(id).home = Some(shard);
        }
    }

    /// Every IP configuration has a home shard, also without a frontend (M3): where rules lead to it, else the one with the
    /// fewest.
    fn assign_homes(&mut self, shores: &Shores<'_>) {
        let ids: Vec<BackendId> = self.backends.keys().copied().collect();
        ids.into_iter().for_each(|id| self.send_home(id, shores));
        let declared = self.frontends.values().filter(|f| f.declared == Declared::Yes);
        let mut homes: BTreeMap<ShardId, u32> = declared.map(|f| (f.shard, 0)).collect();
        for home in self.backends.values().filter_map(|b| b.home) {
            homes.entry(home).and_modify(|count| *count += 1);
        }
        for backend in self.backends.values_mut().filter(|b| b.home.is_none()) {
            let fewest = homes.iter().min_by_key(|(shard, count)| (**count, **shard)).map(|(shard, _)| *shard);
            if let Some(shard) = fewest {
                homes.entry(shard).and_modify(|count| *count += 1);
                backend.home = Some(shard);
            }
        }
    }
}

/// Takes `want` ports in pieces as large as they come.
fn take_pieces(free: &mut FreeBlocks, mut want: u16, lease: &mut Vec<PortBlock>) {
    let mut len = tier::BLOCK_LEN_MAX;
    while want > 0 && len >= PIECE_LEN_MIN {
        match (len <= want).then(|| free.take(len)).flatten() {
            Some(block) => {
                want -= len;
                lease.push(block);
            }
            None => len /= 2,
        }
    }
}
