//! What a worker tells about itself: flows, ports and shards, for `qnat flows`, `qnat ports` and `qnat status`. Built on
//! demand, bounded, in a stable order; never on the packet path.

use std::net::Ipv4Addr;

use crate::addresses::own_end;
use crate::cache::Cache;
use crate::event::NotServing;
use crate::flow::{Record, State};
use crate::ids::{BackendId, ControlIndex, FrontendId, LogIndex, NodeId, PortBlock, ShardId, Term};
use crate::ports::BlockUse;
use crate::record::{Endpoint, HoldClass, InsideKey, Proto, PublicKey, Scenario, is_untranslated};
use crate::shard::Shard;
pub use crate::shard::announcement::Confirmed;
use crate::shard::apply::ApplyCounts;
use crate::shard::shards::Shards;
use crate::snapshot::Snapshot;

/// State of a mapping as this node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowState {
    /// Proposed, not committed.
    Opening,
    /// Committed.
    Live,
    /// Committed, and a close is proposed.
    Closing,
    /// Closed, its port held towards this remote.
    Held(HoldClass),
}

/// One mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowView {
    /// The shard.
    pub shard: ShardId,
    /// Whose lease the port comes from.
    pub backend: BackendId,
    /// Protocol.
    pub proto: Proto,
    /// The backend's end, as its packets have it.
    pub inside: InsideKey,
    /// Its own address, where they have the frontend's instead (D17).
    pub floats_to: Option<Ipv4Addr>,
    /// Frontend, its address if the snapshot has it, and public port.
    pub public: (FrontendId, Option<Ipv4Addr>, u16),
    /// The remote end.
    pub remote: Endpoint,
    /// By which right.
    pub scenario: Scenario,
    /// State.
    pub state: FlowState,
    /// The entry that wrote it last; 0 while opening.
    pub written_at: LogIndex,
    /// Milliseconds since the last packet that counted, as far as this node knows.
    pub idle_ms: u64,
    /// Whether the kernel's fast path carries it.
    pub carried: bool,
}

/// Ports of one backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortsView {
    /// The backend.
    pub backend: BackendId,
    /// Its home shard.
    pub shard: ShardId,
    /// Its lease with the use of each block: ports used, ports only held, live and held mappings.
    pub blocks: Vec<(PortBlock, BlockUse)>,
    /// Live and held mappings of the backend in this shard: what its limit counts.
    pub flows: u32,
}

impl PortsView {
    /// All ports of the lease.
    #[must_use]
    pub fn leased(&self) -> u32 {
        self.blocks.iter().map(|(b, _)| u32::from(b.len)).sum()
    }

    /// Ports with a live mapping.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.blocks.iter().map(|(_, u)| u.used).sum()
    }

    /// Ports without a live mapping, but held towards some remote.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.blocks.iter().map(|(_, u)| u.held).sum()
    }
}

/// One shard's replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardStatus {
    /// The shard.
    pub shard: ShardId,
    /// Epoch of the replica.
    pub epoch: u32,
    /// Applied index.
    pub applied: LogIndex,
    /// Greatest control index of its entries.
    pub control_index: ControlIndex,
    /// The term that this node leads in.
    pub leading: Option<Term>,
    /// Serving, or why not; `None` if it does not lead or was not judged yet.
    pub serving: Option<Result<(), NotServing>>,
    /// Who owns it, as far as known, and in which term.
    pub owner: Option<(Term, Option<NodeId>)>,
    /// Live mappings.
    pub live: u32,
    /// Held mappings.
    pub held: u32,
    /// Free slots of the slab (I47).
    pub free: u32,
    /// Octets that its mappings, their indexes and holds take (I46).
    pub table_bytes: usize,
    /// Mappings on their way through the log.
    pub pending: usize,
    /// Whether a reply proved the takeover (M2).
    pub announced: Confirmed,
    /// Mappings that a change ended (D19) since this replica began.
    pub cut: u64,
    /// What apply refused.
    pub counts: ApplyCounts,
}

/// Where a listing of mappings goes on ([`View::list_flows`]); the default is its beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowCursor {
    shard: ShardId,
    position: u32,
}

/// A listing of the use of ports, made in steps ([`View::list_ports`]).
#[derive(Debug)]
pub struct PortsListing {
    backends: std::vec::IntoIter<BackendId>,
    /// What is listed so far, in the order of backends.
    pub views: Vec<PortsView>,
}

/// A worker's shards as they are now, for those who ask.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) shards: &'a Shards,
    pub(crate) cache: &'a Cache,
    pub(crate) snapshot: Option<&'a Snapshot>,
}

impl View<'_> {
    /// When an entry is to be asked for that is not given out yet, because more may join it; `None`: nothing waits. In the past: it
    /// waits for the lease, or for room.
    #[must_use]
    pub fn next_entry_ns(&self) -> Option<u64> {
        self.shards.replicas().filter_map(|(_, shard)| shard.stream.due_ns()).min()
    }

    /// Until when new flows of a busy shard wait for others: what arrives meanwhile joins them, and may wait as well.
    #[must_use]
    pub fn gathers_until_ns(&self) -> Option<u64> {
        self.shards.replicas().filter_map(|(_, shard)| shard.stream.gathers_until_ns()).min()
    }

    /// Mappings of one shard or of all, at most `limit`: committed ones by slot, then those on their way. Its cost grows with
    /// the table: [`View::list_flows`] is for those who must not wait.
    #[must_use]
    pub fn dump_flows(&self, now_ns: u64, only: Option<ShardId>, limit: usize) -> Vec<FlowView> {
        let mut all = Vec::new();
        let mut at = Some(FlowCursor::default());
        while let Some(from) = at {
            at = self.list_flows(now_ns, only, from, u32::MAX, limit, &mut all);
        }
        all
    }

    /// One step of a listing of mappings, one shard's or all: visits at most `slots` slots from `from` on and adds to `into`
    /// until `limit` are there. Returns where to go on; `None` when the listing is over. Mappings that come and go between
    /// two steps may be in it or not.
    pub fn list_flows(
        &self,
        now_ns: u64,
        only: Option<ShardId>,
        from: FlowCursor,
        slots: u32,
        limit: usize,
        into: &mut Vec<FlowView>,
    ) -> Option<FlowCursor> {
        let mut left = slots;
        for (id, shard) in self.shards.replicas() {
            if only.is_some_and(|o| o != id) || id < from.shard {
                continue;
            }
            let table = &shard.replica.table;
            let first = if id == from.shard { from.position } else { 0 };
            for position in first..table.slots() {
                if into.len() >= limit {
                    return None;
                }
                if left == 0 {
                    return Some(FlowCursor { shard: id, position });
                }
                left -= 1;
                if let Some(slot) = table.occupied(position) {
                    let fast = table.translation(slot).map_or(0, |translation| translation.fast);
                    let carried = self.cache.is_used(fast);
                    into.push(FlowView { carried, ..self.view(now_ns, id, table.record(slot)) });
                }
            }
            let opening = shard.overlay.opening().into_iter().map(|(flow, pending)| FlowView {
                shard: id,
                backend: pending.open.backend,
                proto: flow.proto,
                inside: flow.inside,
                floats_to: self.floats_to(pending.open.backend, flow.inside.endpoint),
                public: self.public_of(&pending.open.public, flow.inside),
                remote: flow.remote,
                scenario: pending.open.scenario,
                state: FlowState::Opening,
                written_at: LogIndex(0),
                idle_ms: now_ns.saturating_sub(pending.since_ns) / 1_000_000,
                carried: false,
            });
            into.extend(opening.take(limit - into.len()));
        }
        None
    }

    fn public_of(&self, key: &PublicKey, inside: InsideKey) -> (FrontendId, Option<Ipv4Addr>, u16) {
        let ip = if is_untranslated(key.frontend) {
            inside.endpoint.addr.ipv4()
        } else {
            self.snapshot.and_then(|s| s.frontends.get(&key.frontend)).map(|f| f.ip)
        };
        (key.frontend, ip, key.port)
    }

    fn floats_to(&self, id: BackendId, inside: Endpoint) -> Option<Ipv4Addr> {
        let own = own_end(self.snapshot?, id, inside);
        if own == inside { None } else { own.addr.ipv4() }
    }

    pub(crate) fn view(&self, now_ns: u64, shard: ShardId, record: &Record) -> FlowView {
        FlowView {
            shard,
            backend: record.backend,
            proto: record.proto,
            inside: record.inside_key(),
            floats_to: self.floats_to(record.backend, record.inside),
            public: self.public_of(&record.public(), record.inside_key()),
            remote: record.remote,
            scenario: record.scenario(),
            state: match record.state {
                State::Held(class) => FlowState::Held(class),
                State::Live | State::Free if record.closing().is_some() => FlowState::Closing,
                State::Live | State::Free => FlowState::Live,
            },
            written_at: record.written_at,
            idle_ms: now_ns.saturating_sub(record.last_seen.ns()) / 1_000_000,
            carried: false,
        }
    }

    /// Use of leases by backend.
    #[must_use]
    pub fn dump_ports(&self) -> Vec<PortsView> {
        let mut listing = self.begin_ports();
        while !self.list_ports(&mut listing, u32::MAX) {}
        listing.views
    }

    /// Begins a listing of the use of leases, of all backends that there are now.
    #[must_use]
    pub fn begin_ports(&self) -> PortsListing {
        let mut backends: Vec<_> = self.snapshot.map(|s| s.backends.keys().collect()).unwrap_or_default();
        backends.sort_unstable();
        PortsListing { backends: backends.into_iter(), views: Vec::new() }
    }

    /// One step of it: looks at about `ports` ports, at least one backend's. Whether the listing is over.
    pub fn list_ports(&self, listing: &mut PortsListing, ports: u32) -> bool {
        let Some(snapshot) = self.snapshot else { return true };
        let mut left = ports;
        while left > 0 {
            let Some(id) = listing.backends.next() else { return true };
            // A backend without ports costs something too.
            left = left.saturating_sub(16);
            let Some(backend) = snapshot.backends.get(&id) else { continue };
            let Some(shard) = self.shards.replica(backend.home) else { continue };
            let usage = shard.replica.table.usage();
            let own = backend.ways.own.into_iter().flat_map(PortBlock::whole);
            let blocks = backend.lease.iter().copied().chain(own).map(|b| (b, usage.block(&b))).collect();
            let flows = shard.replica.table.flows_of(id);
            let view = PortsView { backend: id, shard: backend.home, blocks, flows };
            left = left.saturating_sub(view.leased());
            listing.views.push(view);
        }
        false
    }

    /// Counts the live mappings on each of `blocks` of a shard, in order, until about `ports` ports have been looked at, at
    /// least one block's. `None` if this worker has no whole table of the shard.
    pub fn count_flows(&self, shard: ShardId, blocks: &[PortBlock], ports: u32, counts: &mut Vec<u32>) -> Option<()> {
        let usage = self.shards.replica(shard).filter(|s| s.replica.is_whole())?.replica.table.usage();
        let mut left = ports;
        for block in blocks {
            if left == 0 {
                break;
            }
            // A short block costs something too.
            left = left.saturating_sub(u32::from(block.len).max(16));
            counts.push(u32::try_from(usage.block(block).live_flows).unwrap_or(u32::MAX));
        }
        Some(())
    }

    /// All replicas of this worker, in the order of their shards.
    #[must_use]
    pub fn shard_status(&self) -> Vec<ShardStatus> {
        self.shards.replicas().map(|(id, shard)| self.status_of(id, shard)).collect()
    }

    /// Hash of a replica's replicated state (I22); costs the same for every table. Nothing while a scan is replayed: its
    /// records may stem from entries that are still to come (F10).
    #[must_use]
    pub fn state_hash(&self, shard: ShardId) -> Option<u64> {
        self.shards.replica(shard).filter(|s| s.replica.is_whole()).map(|s| s.replica.state_hash())
    }

    fn status_of(&self, id: ShardId, shard: &Shard) -> ShardStatus {
        let table = &shard.replica.table;
        ShardStatus {
            shard: id,
            epoch: shard.epoch,
            applied: shard.replica.meta.applied,
            control_index: shard.replica.meta.control_index,
            leading: shard.leadership.as_ref().map(|l| l.term),
            serving: shard.leadership.as_ref().and_then(|l| l.serving),
            owner: self.shards.get(id).and_then(|entry| entry.owner),
            live: table.live(),
            held: table.held(),
            free: table.free_slots(),
            table_bytes: table.bytes() + shard.replica.holds.bytes(),
            pending: shard.overlay.len(),
            announced: shard
                .leadership
                .as_ref()
                .and_then(|l| l.announcement.as_ref())
                .map_or(Confirmed::No, |announcement| announcement.confirmed),
            cut: shard.replica.cuts.all(),
            counts: shard.counts(),
        }
    }
}
