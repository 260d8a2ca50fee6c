//! The reference: every flow entry that any member ever applied, and the table that they make, by a second and simpler
//! reading of the rules than `engine`'s. Never looks at a clock; the caller says when an entry was first applied.
//!
//! What it checks as entries come in: I9, I10 (no flow opens a second mapping), I11 (no hold ends early), I12 and I32.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use engine::codec::{Format, decode_entry};
use engine::ids::{BackendId, ControlIndex, LogIndex, PortBlock, ShardId, Term};
use engine::record::{
    CloseReason, Endpoint, EntryHeader, FlowRecord, HOLD_CLASSES, HoldClass, InsideKey, Open, Proto, PublicKey,
    Scenario,
};
use words::time::MS;

use super::{Check, ensure, i09_own_term, i12_fence, i32_commit_survives};

/// Margin of F6 on top of grace and V.
const MARGIN_MS: u64 = 1_000;
/// A clock is fast by less than one part in so many.
const FAST: u64 = 900;

/// A committed mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The inside end.
    pub inside: InsideKey,
    /// Whose lease the port comes from.
    pub backend: BackendId,
    /// Under which right it stands.
    pub scenario: Scenario,
    /// Set once it is closed.
    pub hold: Option<Hold>,
}

/// The hold of a closed mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    class: HoldClass,
    index: u64,
    /// When the close was first applied anywhere.
    since_ns: u64,
    /// The grace that was in force then.
    grace_ms: u32,
}

#[derive(Clone, Debug)]
struct Entry {
    term: u64,
    bytes: Bytes,
    first_ns: u64,
}

type Flow = (Proto, InsideKey, Endpoint);

/// What an entry changed in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fresh {
    /// A mapping is there; `again`: its flow had it before, and nobody else since.
    Opened {
        /// The record.
        open: Open,
        /// See above.
        again: bool,
    },
    /// A live mapping is there no longer.
    Closed {
        /// Its public end.
        public: PublicKey,
        /// What it was.
        mapping: Mapping,
        /// Why.
        reason: CloseReason,
    },
}

/// What the entries so far make.
#[derive(Debug, Default)]
struct Table {
    control_index: ControlIndex,
    ended: [LogIndex; HOLD_CLASSES],
    mappings: BTreeMap<PublicKey, Mapping>,
    /// The last mapping of a key that nobody has taken since.
    freed: BTreeMap<PublicKey, Mapping>,
    /// By which public end each flow was opened last.
    last: BTreeMap<Flow, PublicKey>,
    live: BTreeMap<Flow, PublicKey>,
    /// How often the mapping of each public key was closed.
    closes: BTreeMap<PublicKey, u32>,
    holds: [VecDeque<(u64, PublicKey)>; HOLD_CLASSES],
}

#[derive(Debug, Default)]
struct Shard {
    epoch: u32,
    entries: BTreeMap<u64, Entry>,
    /// Where epochs continued, and the control index that this brought with it.
    reopened: BTreeMap<u64, ControlIndex>,
    table: Table,
}

/// Everything that was ever committed.
#[derive(Debug)]
pub struct Committed {
    vote_ms: u64,
    shards: BTreeMap<ShardId, Shard>,
    /// Epochs that lost a majority of their replicas: their tail may be lost with it (N4).
    lost: BTreeSet<(ShardId, u32)>,
    opened: u64,
    /// What entries changed since somebody asked last, and the control index of each.
    fresh: Vec<(ControlIndex, Fresh)>,
}

impl Committed {
    /// Nothing yet. `vote_ms` is V.
    #[must_use]
    pub fn new(vote_ms: u64) -> Self {
        Self { vote_ms, shards: BTreeMap::new(), lost: BTreeSet::new(), opened: 0, fresh: Vec::new() }
    }

    /// Mappings that were ever opened.
    #[must_use]
    pub const fn opened(&self) -> u64 {
        self.opened
    }

    /// A majority of the replicas of the shard's present epoch is lost.
    pub fn majority_lost(&mut self, shard: ShardId) {
        let epoch = self.shards.get(&shard).map_or(0, |s| s.epoch);
        self.lost.insert((shard, epoch));
    }

    /// The committed mapping of a public key; one whose hold has ended counts until somebody else takes the key, because
    /// the owner, who alone could give it away, may be about to apply that end.
    #[must_use]
    pub fn mapping(&self, shard: ShardId, public: &PublicKey) -> Option<&Mapping> {
        let table = &self.shards.get(&shard)?.table;
        table.mappings.get(public).or_else(|| table.freed.get(public))
    }

    /// The mapping that has a public key now, live or held.
    #[must_use]
    pub fn standing(&self, shard: ShardId, public: &PublicKey) -> Option<&Mapping> {
        self.shards.get(&shard)?.table.mappings.get(public)
    }

    /// Whether a flow has a live mapping in some shard.
    #[must_use]
    pub fn lives(&self, proto: Proto, inside: InsideKey, remote: Endpoint) -> bool {
        self.shards.values().any(|shard| shard.table.live.contains_key(&(proto, inside, remote)))
    }

    /// How often the mapping of a public key was closed.
    #[must_use]
    pub fn closes(&self, shard: ShardId, public: &PublicKey) -> u32 {
        self.shards.get(&shard).and_then(|s| s.table.closes.get(public)).copied().unwrap_or(0)
    }

    /// Whether a majority of a shard's replicas was ever lost, and commits with it.
    #[must_use]
    pub fn lost(&self, shard: ShardId) -> bool {
        self.lost.range((shard, 0)..=(shard, u32::MAX)).next().is_some()
    }

    /// Whether a flow has a mapping in some shard, as `mapping` has it: what comes in for it may pass.
    #[must_use]
    pub fn is_mapped(&self, proto: Proto, inside: InsideKey, remote: Endpoint) -> bool {
        self.shards.iter().any(|(id, shard)| {
            let public = shard.table.last.get(&(proto, inside, remote));
            public.and_then(|public| self.mapping(*id, public)).is_some_and(|mapping| mapping.inside == inside)
        })
    }

    /// The live mapping of a flow, in whichever shard: by which public end, and under which right.
    #[must_use]
    pub fn end_of(&self, proto: Proto, inside: InsideKey, remote: Endpoint) -> Option<(ShardId, PublicKey, Scenario)> {
        self.shards.iter().find_map(|(id, shard)| {
            let public = shard.table.live.get(&(proto, inside, remote))?;
            Some((*id, *public, shard.table.mappings.get(public)?.scenario))
        })
    }

    /// What entries have changed since this was asked last, and the control index that each entry names.
    pub fn take_fresh(&mut self) -> Vec<(ControlIndex, Fresh)> {
        std::mem::take(&mut self.fresh)
    }

    /// How many live mappings are on a block.
    #[must_use]
    pub fn live_on(&self, shard: ShardId, block: &PortBlock) -> usize {
        let Some(shard) = self.shards.get(&shard) else { return 0 };
        let on = |public: &&PublicKey| public.frontend == block.frontend && block.contains(public.port);
        shard.table.live.values().filter(on).count()
    }

    /// Any mapping on the block.
    #[must_use]
    pub fn on_block(&self, shard: ShardId, block: &PortBlock) -> Option<(PublicKey, Mapping)> {
        let mappings = &self.shards.get(&shard)?.table.mappings;
        let on = |key: &&PublicKey| key.frontend == block.frontend && block.contains(key.port);
        mappings.keys().find(on).map(|key| (*key, mappings[key]))
    }

    /// The control log founded a shard in this epoch. A later one than is known: the shard that had the id is gone with its
    /// frontends, and nothing of it is left to be continued.
    pub fn founded(&mut self, shard: ShardId, epoch: u32) {
        if let Some(s) = self.shards.get_mut(&shard).filter(|s| s.epoch < epoch) {
            *s = Shard { epoch, ..Shard::default() };
        }
    }

    /// A replica began empty.
    ///
    /// # Errors
    /// I32 if that is how a new epoch begins although a majority of the last one's replicas is left.
    pub fn began(&mut self, shard: ShardId, epoch: u32) -> Check {
        let s = self.shards.entry(shard).or_insert_with(|| Shard { epoch, ..Shard::default() });
        if epoch <= s.epoch {
            return Ok(());
        }
        let acknowledged = s.entries.keys().next_back().copied().unwrap_or(0);
        if !self.lost.contains(&(shard, s.epoch)) {
            i32_commit_survives::continued(shard, epoch, acknowledged, 0)?;
        }
        *s = Shard { epoch, ..Shard::default() };
        Ok(())
    }

    /// A new epoch continues from a table that stands at `base`.
    ///
    /// # Errors
    /// I32 if acknowledged entries are behind it.
    pub fn continued(&mut self, shard: ShardId, epoch: u32, base: u64, control_index: ControlIndex) -> Check {
        let s = self.shards.entry(shard).or_default();
        if epoch <= s.epoch {
            return Ok(());
        }
        let acknowledged = s.entries.keys().next_back().copied().unwrap_or(0);
        if !self.lost.contains(&(shard, s.epoch)) {
            i32_commit_survives::continued(shard, epoch, acknowledged, base)?;
        }
        s.epoch = epoch;
        s.reopened.insert(base, control_index);
        s.entries.split_off(&(base + 1));
        self.replay(shard, None)
    }

    /// A member applied an entry, at `now_ns` by the observer's clock.
    ///
    /// # Errors
    /// The property that it breaks.
    pub fn applied(
        &mut self,
        now_ns: u64,
        (shard, epoch): (ShardId, u32),
        index: u64,
        term: Term,
        bytes: &Bytes,
    ) -> Check {
        let s = self.shards.entry(shard).or_insert_with(|| Shard { epoch, ..Shard::default() });
        let known = s.entries.get(&index);
        if known.is_some_and(|known| known.term == term.0 && known.bytes == *bytes) {
            return Ok(());
        }
        let excused = self.lost.contains(&(shard, epoch));
        if known.is_some() || epoch < s.epoch {
            let known = known.map(|known| (known.term, &known.bytes[..]));
            if !excused {
                return i32_commit_survives::same(shard, (epoch, index), known, (term.0, bytes));
            }
            if epoch < s.epoch {
                return Ok(());
            }
            s.entries.split_off(&index);
        }
        s.entries.insert(index, Entry { term: term.0, bytes: bytes.clone(), first_ns: now_ns });
        if excused { self.replay(shard, Some(index)) } else { self.read(shard, index) }
    }

    /// Makes the table anew; `news`: the entry that was not read before, if there is one.
    fn replay(&mut self, shard: ShardId, news: Option<u64>) -> Check {
        let Some(s) = self.shards.get_mut(&shard) else { return Ok(()) };
        s.table = Table::default();
        let indexes: Vec<u64> = s.entries.keys().copied().collect();
        for index in indexes {
            let (opened, fresh) = (self.opened, self.fresh.len());
            self.read(shard, index)?;
            if Some(index) != news {
                // What is read again was counted, and told.
                self.opened = opened;
                self.fresh.truncate(fresh);
            }
        }
        if let Some(s) = self.shards.get_mut(&shard)
            && let Some(control_index) = s.reopened.values().next_back()
        {
            s.table.control_index = s.table.control_index.max(*control_index);
        }
        Ok(())
    }

    fn read(&mut self, shard: ShardId, index: u64) -> Check {
        let Some(s) = self.shards.get_mut(&shard) else { return Ok(()) };
        let entry = s.entries[&index].clone();
        if let Some((_, control_index)) = s.reopened.range(..index).next_back() {
            s.table.control_index = s.table.control_index.max(*control_index);
        }
        let mut records = Vec::new();
        let Ok(header) = decode_entry(Format::NEWEST, &entry.bytes, &mut records) else { return Ok(()) };
        i09_own_term::check(shard, Term(entry.term), &header)?;
        // F2: judged under a control state older than an earlier entry's: of no effect.
        if header.control_index < s.table.control_index {
            return Ok(());
        }
        s.table.control_index = header.control_index;
        s.table.end_holds((shard, index), entry.first_ns, &header, self.vote_ms)?;
        for record in &records {
            match record {
                FlowRecord::Open(open) => {
                    let Some(s) = self.shards.get_mut(&shard) else { return Ok(()) };
                    if let Some(again) = s.table.open(shard, *open)? {
                        self.opened += 1;
                        self.fresh.push((header.control_index, Fresh::Opened { open: *open, again }));
                    }
                }
                FlowRecord::Close { public, reason } => {
                    let at = (index, entry.first_ns, header.orphan_grace_ms);
                    let Some(s) = self.shards.get_mut(&shard) else { return Ok(()) };
                    if let Some(mapping) = s.table.close(public, *reason, at) {
                        let closed = Fresh::Closed { public: *public, mapping, reason: *reason };
                        self.fresh.push((header.control_index, closed));
                    }
                }
                FlowRecord::Fence { block, .. } => {
                    i12_fence::check(self.on_block(shard, block).as_ref(), shard, block)?
                }
            }
        }
        Ok(())
    }
}

impl Table {
    /// I11, I29: frees what the header says has ended, none of it before grace + V + 1 s.
    fn end_holds(&mut self, at: (ShardId, u64), now_ns: u64, header: &EntryHeader, vote_ms: u64) -> Check {
        for class in HoldClass::ALL {
            let ended = &mut self.ended[class.index()];
            *ended = header.holds_ended[class.index()].min(LogIndex(at.1 - 1)).max(*ended);
            while let Some((index, public)) = self.holds[class.index()].front().copied() {
                if index > ended.0 {
                    break;
                }
                self.holds[class.index()].pop_front();
                let Some(hold) = self.mappings.get(&public).and_then(|mapping| mapping.hold) else { continue };
                if hold.index != index || hold.class != class {
                    continue;
                }
                let held_ms = now_ns.saturating_sub(hold.since_ns) / MS;
                let least_ms = u64::from(hold.grace_ms) + vote_ms + MARGIN_MS;
                // By the owner's clock, which may run fast by so much, in whole milliseconds.
                let least_ms = least_ms - least_ms / FAST - 1;
                ensure(held_ms >= least_ms, "I11", || {
                    format!("shard {}: {public:?} was held for {held_ms} ms, at least {least_ms} are due", at.0)
                })?;
                self.freed.extend(self.mappings.remove(&public).map(|mapping| (public, mapping)));
            }
        }
        Ok(())
    }

    /// F3: on a taken key nothing happens, unless its own flow comes back. Returns whether it did, if a mapping opened.
    fn open(
        &mut self,
        shard: ShardId,
        Open { public, inside, backend, scenario }: Open,
    ) -> Result<Option<bool>, super::Violation> {
        let its_own = |m: &Mapping| (m.inside, m.backend, m.scenario) == (inside, backend, scenario);
        if self.mappings.get(&public).is_some_and(|taken| taken.hold.is_none() || !its_own(taken)) {
            return Ok(None);
        }
        let again = self.mappings.get(&public).or_else(|| self.freed.get(&public)).is_some_and(its_own);
        let other = self.live.insert((public.proto, inside, public.remote), public);
        ensure(other.is_none(), "I10", || {
            format!("shard {shard}: {inside:?} opens {public:?} and has {other:?} already")
        })?;
        self.freed.remove(&public);
        self.last.insert((public.proto, inside, public.remote), public);
        self.mappings.insert(public, Mapping { inside, backend, scenario, hold: None });
        Ok(Some(again))
    }

    /// At this index, at this moment, under this grace. Returns the mapping, if it lived.
    fn close(
        &mut self,
        public: &PublicKey,
        reason: CloseReason,
        (index, since_ns, grace_ms): (u64, u64, u32),
    ) -> Option<Mapping> {
        let mapping = self.mappings.get_mut(public).filter(|mapping| mapping.hold.is_none())?;
        let lived = *mapping;
        let class = mapping.scenario.hold_class(reason, public.proto);
        mapping.hold = Some(Hold { class, index, since_ns, grace_ms });
        self.live.remove(&(public.proto, mapping.inside, public.remote));
        *self.closes.entry(*public).or_insert(0) += 1;
        self.holds[class.index()].push_back((index, *public));
        Some(lived)
    }
}
