//! A replica's table under its log: what a committed entry does. Deterministic, and never asks the control state (F3).
//!
//! Called by the worker for every committed entry, on the owner and on every other replica alike. What it returns as
//! effects is for the owner's overlay and for counters; what it writes must be the same everywhere (I22).

use std::collections::BTreeSet;

use words::time::MS;

use crate::codec::{self, ChunkHeader, Format};
use crate::flow::{HoldEntry, HoldQueues, Mark, Record, Seen, Slot, State, Table};
use crate::ids::{BackendId, ControlIndex, LogIndex, PortBlock};
use crate::meta::Meta;
use crate::record::{CloseReason, EntryHeader, FlowRecord, HoldClass, Open, PublicKey, ScanRecord};
use crate::shard::cuts::Cuts;
use crate::shard::scan::ScanJob;

/// Added to grace and V before anything that a predecessor might still use is given away (F6).
pub(crate) const SAFETY_MS: u64 = 1_000;

/// Whether the table is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Both indexes stand.
    Whole,
    /// Chunks arrive; the next one expected.
    Receiving { sequence: u32 },
    /// A chunk was refused: this is no replica until another scan begins.
    Torn,
    /// Chunks are in; the log is replayed up to `until`.
    Replaying { until: LogIndex },
}

/// What an entry did, for the owner's overlay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    Opened { slot: Slot, public: PublicKey },
    OpenRefused { public: PublicKey },
    Closed { slot: Slot, reason: CloseReason },
    Freed { public: PublicKey, backend: BackendId },
    Fenced { block: PortBlock, reclaim_index: ControlIndex },
}

/// What was refused, and how often; never zero by design only in tests and after faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ApplyCounts {
    /// Entries whose bytes do not decode.
    pub undecodable: u64,
    /// Entries whose control index is below an earlier one's (F2).
    pub control_behind: u64,
    /// `Open`s on an occupied key (F3).
    pub opens_refused: u64,
    /// `Close`s of what is not live.
    pub closes_stray: u64,
    /// Entries at or below the applied index.
    pub repeated: u64,
    /// Chunks that were out of order or did not decode.
    pub chunks_refused: u64,
}

/// One replica of a shard's flow state.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) meta: Meta,
    pub(crate) table: Table,
    pub(crate) holds: HoldQueues,
    pub(crate) phase: Phase,
    pub(crate) counts: ApplyCounts,
    /// Local: mappings that a change ended (D19).
    pub(crate) cuts: Cuts,
    /// The newest format of entries and chunks that this member reads (C2).
    pub(crate) newest: Format,
    /// Local: no hold ends before (F6, a lowered value).
    pub(crate) frees_after_ns: u64,
    /// Fences seen, so that an owner does not repeat them.
    pub(crate) fenced: BTreeSet<(PortBlock, ControlIndex)>,
    /// The scan for a joiner, if one is under way: a leader serves one at a time.
    pub(crate) scan: Option<ScanJob>,
    /// After a re-creation the log may continue at a higher index.
    gap_allowed: bool,
    seed: u64,
    records: Vec<FlowRecord>,
    chunk: Vec<ScanRecord>,
}

impl Replica {
    /// An empty table at `index`, whole unless it `loads`.
    pub(crate) fn new(seed: u64, index: LogIndex, loads: bool) -> Self {
        Self {
            meta: Meta { applied: index, ..Meta::default() },
            table: Table::new(seed),
            holds: HoldQueues::default(),
            phase: if loads { Phase::Receiving { sequence: 0 } } else { Phase::Whole },
            counts: ApplyCounts::default(),
            cuts: Cuts::default(),
            newest: Format::NEWEST,
            frees_after_ns: 0,
            fenced: BTreeSet::new(),
            scan: None,
            gap_allowed: false,
            seed,
            records: Vec::new(),
            chunk: Vec::new(),
        }
    }

    /// N4: the table continues in a new epoch that was decided at `control_index`.
    pub(crate) fn reopened(&mut self, control_index: ControlIndex) {
        self.meta.control_index = self.meta.control_index.max(control_index);
        self.gap_allowed = true;
        self.scan = None;
    }

    /// Applies one committed entry. `vote_ms` is V. Returns the header if the entry was one of a worker's and was taken.
    pub(crate) fn apply(
        &mut self,
        now_ns: u64,
        index: LogIndex,
        entry: &[u8],
        vote_ms: u32,
        effects: &mut Vec<Effect>,
    ) -> Option<EntryHeader> {
        if index <= self.meta.applied {
            self.counts.repeated += 1;
            return None;
        }
        assert!(
            index.0 == self.meta.applied.0 + 1 || std::mem::take(&mut self.gap_allowed),
            "committed entries come without gaps"
        );
        self.gap_allowed = false;
        self.meta.applied = index;
        let header = if entry.is_empty() { None } else { self.apply_entry(now_ns, index, entry, vote_ms, effects) };
        if let Phase::Replaying { until } = self.phase
            && index >= until
        {
            self.complete(now_ns);
        }
        header
    }

    fn apply_entry(
        &mut self,
        now_ns: u64,
        index: LogIndex,
        entry: &[u8],
        vote_ms: u32,
        effects: &mut Vec<Effect>,
    ) -> Option<EntryHeader> {
        let mut records = std::mem::take(&mut self.records);
        let header = match codec::decode_entry(self.newest, entry, &mut records) {
            Ok(header) if header.control_index < self.meta.control_index => {
                self.counts.control_behind += 1;
                None
            }
            Ok(header) => {
                self.apply_header(now_ns, index, &header, vote_ms, effects);
                for record in &records {
                    self.apply_record(now_ns, index, record, effects);
                }
                Some(header)
            }
            Err(_) => {
                self.counts.undecodable += 1;
                None
            }
        };
        self.records = records;
        header
    }

    fn apply_header(
        &mut self,
        now_ns: u64,
        index: LogIndex,
        header: &EntryHeader,
        vote_ms: u32,
        effects: &mut Vec<Effect>,
    ) {
        let lowered = header.orphan_grace_ms < self.meta.orphan_grace_ms
            || header.hold_ms.iter().zip(&self.meta.hold_ms).any(|(new, old)| new < old);
        if lowered {
            let wait = u64::from(self.meta.orphan_grace_ms) + u64::from(vote_ms) + SAFETY_MS;
            self.frees_after_ns = self.frees_after_ns.max(now_ns.saturating_add(wait * MS));
        }
        self.meta.control_index = header.control_index;
        self.meta.orphan_grace_ms = header.orphan_grace_ms;
        self.meta.grace_peak_ms = self.meta.grace_peak_ms.max(header.orphan_grace_ms);
        self.meta.hold_ms = header.hold_ms;
        for class in HoldClass::ALL {
            // An entry cannot end what it closes itself.
            let ended = &mut self.meta.holds_ended[class.index()];
            *ended = header.holds_ended[class.index()].min(LogIndex(index.0 - 1)).max(*ended);
            let ended = *ended;
            if self.phase == Phase::Whole {
                while let Some(hold) = self.holds.pop(class, ended) {
                    let record = self.table.record(hold.slot);
                    if record.state == State::Held(class) && record.written_at == hold.index {
                        self.free(hold.slot, effects);
                    }
                }
            }
        }
    }

    fn apply_record(&mut self, now_ns: u64, index: LogIndex, record: &FlowRecord, effects: &mut Vec<Effect>) {
        match *record {
            FlowRecord::Open(open) => self.open(now_ns, index, open, effects),
            FlowRecord::Close { public, reason } => self.close(now_ns, index, public, reason, effects),
            FlowRecord::Fence { block, reclaim_index } => {
                self.fenced.insert((block, reclaim_index));
                effects.push(Effect::Fenced { block, reclaim_index });
            }
        }
    }

    fn open(&mut self, now_ns: u64, index: LogIndex, open: Open, effects: &mut Vec<Effect>) {
        let public = open.public;
        let Some(slot) = self.find(&public, effects) else {
            let slot = self.table.insert(open, index, now_ns);
            effects.push(Effect::Opened { slot, public });
            return;
        };
        let found = *self.table.record(slot);
        if found.from_scan() && found.written_at >= index {
            return;
        }
        if found.opened() == open && !found.is_live() {
            self.table.reopen(slot, index, now_ns);
            effects.push(Effect::Opened { slot, public });
        } else {
            self.counts.opens_refused += 1;
            effects.push(Effect::OpenRefused { public });
        }
    }

    fn close(
        &mut self,
        now_ns: u64,
        index: LogIndex,
        public: PublicKey,
        reason: CloseReason,
        effects: &mut Vec<Effect>,
    ) {
        let Some(slot) = self.find(&public, effects) else {
            self.counts.closes_stray += 1;
            return;
        };
        let found = *self.table.record(slot);
        if found.from_scan() && found.written_at >= index {
            return;
        }
        if !found.is_live() {
            self.counts.closes_stray += 1;
            return;
        }
        let class = found.scenario().hold_class(reason, public.proto);
        self.table.close(slot, class, index, now_ns);
        if reason == CloseReason::Policy {
            self.cuts.add(self.meta.control_index);
        }
        if self.phase == Phase::Whole {
            self.holds.push(class, HoldEntry { index, since_ns: now_ns, slot });
        }
        effects.push(Effect::Closed { slot, reason });
    }

    /// The record of a public key. While the log is replayed, holds are ended here, one by one: their queues are built
    /// from the table only when it is whole.
    fn find(&mut self, public: &PublicKey, effects: &mut Vec<Effect>) -> Option<Slot> {
        let slot = self.table.find_public(public)?;
        if self.phase != Phase::Whole && self.has_ended(self.table.record(slot)) {
            self.free(slot, effects);
            return None;
        }
        Some(slot)
    }

    fn has_ended(&self, record: &Record) -> bool {
        matches!(record.state, State::Held(class) if record.written_at <= self.meta.holds_ended[class.index()])
    }

    fn free(&mut self, slot: Slot, effects: &mut Vec<Effect>) {
        let record = *self.table.record(slot);
        if let Some(scan) = &mut self.scan {
            scan.before_free(slot, &record);
        }
        effects.push(Effect::Freed { public: record.public(), backend: record.backend });
        self.table.release(slot);
    }

    /// Takes a chunk of another replica's scan. The first one empties the table.
    pub(crate) fn load(&mut self, bytes: &[u8]) {
        let mut records = std::mem::take(&mut self.chunk);
        match codec::decode_chunk(self.newest, bytes, &mut records) {
            Ok(header) if header.sequence == 0 || self.phase == (Phase::Receiving { sequence: header.sequence }) => {
                if header.sequence == 0 {
                    self.begin_load(&header);
                }
                for record in &records {
                    self.load_record(record);
                }
                self.phase = Phase::Receiving { sequence: header.sequence + 1 };
            }
            Ok(_) | Err(_) => {
                self.counts.chunks_refused += 1;
                if matches!(self.phase, Phase::Receiving { .. }) {
                    self.phase = Phase::Torn;
                }
            }
        }
        self.chunk = records;
    }

    fn begin_load(&mut self, header: &ChunkHeader) {
        self.table = Table::new(self.seed);
        self.table.drop_inside();
        self.holds = HoldQueues::default();
        self.fenced.clear();
        self.scan = None;
        self.meta = Meta {
            applied: header.base,
            control_index: header.control_index,
            holds_ended: header.holds_ended,
            orphan_grace_ms: header.orphan_grace_ms,
            grace_peak_ms: header.grace_peak_ms,
            hold_ms: header.hold_ms,
        };
    }

    fn load_record(&mut self, scanned: &ScanRecord) {
        let state = scanned.held.map_or(State::Live, State::Held);
        // A key may come twice: freed and opened again elsewhere in the slab while the scan went on. The later stamp wins.
        if let Some(slot) = self.table.find_public(&scanned.open.public) {
            if self.table.record(slot).written_at >= scanned.written_at {
                return;
            }
            self.table.release(slot);
        }
        self.table.insert_record(Record::scanned(scanned, state));
    }

    /// All chunks are in; the replay starts behind `base`.
    pub(crate) fn loaded(&mut self, now_ns: u64, base: LogIndex, until: LogIndex) {
        if self.phase == Phase::Torn {
            return;
        }
        if matches!(self.phase, Phase::Receiving { .. }) {
            assert!(base == self.meta.applied, "the replay starts where the scan was captured");
        }
        self.meta.applied = base;
        self.refuse_later_than(until);
        self.phase = Phase::Replaying { until };
        if until <= base {
            self.complete(now_ns);
        }
    }

    /// No record of a scan was written behind its end. One that says so is not taken: its hold would end after younger ones.
    fn refuse_later_than(&mut self, until: LogIndex) {
        for position in 0..self.table.slots() {
            let Some(slot) = self.table.occupied(position) else { continue };
            if self.table.record(slot).written_at > until {
                self.counts.chunks_refused += 1;
                self.table.release(slot);
            }
        }
    }

    /// The replay has reached the scan's end: what ended is freed, hold queues and inside index are built (F10).
    fn complete(&mut self, now_ns: u64) {
        let mut effects = Vec::new();
        let mut held: Vec<(LogIndex, HoldClass, Slot)> = Vec::new();
        for position in 0..self.table.slots() {
            let Some(slot) = self.table.occupied(position) else { continue };
            if self.has_ended(self.table.record(slot)) {
                self.free(slot, &mut effects);
                continue;
            }
            let record = self.table.record_mut(slot);
            record.mark = Mark::None;
            record.last_seen = Seen::at(now_ns);
            if let State::Held(class) = record.state {
                held.push((record.written_at, class, slot));
            }
        }
        held.sort_unstable_by_key(|(index, _, slot)| (*index, *slot));
        self.holds = HoldQueues::default();
        for (index, class, slot) in held {
            self.holds.push(class, HoldEntry { index, since_ns: now_ns, slot });
        }
        self.table.build_inside();
        self.phase = Phase::Whole;
    }

    /// Hash of all replicated values of a whole table: equal on replicas at the same index (I22). Costs the same for every
    /// table.
    pub(crate) fn state_hash(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        let m = &self.meta;
        for word in [m.applied.0, m.control_index.0, u64::from(m.orphan_grace_ms), u64::from(m.grace_peak_ms)] {
            hasher.update(&word.to_le_bytes());
        }
        for class in HoldClass::ALL {
            hasher.update(&m.holds_ended[class.index()].0.to_le_bytes());
            hasher.update(&m.hold_ms[class.index()].to_le_bytes());
        }
        hasher.update(&self.table.live().to_le_bytes());
        hasher.update(&self.table.held().to_le_bytes());
        hasher.update(&self.table.digest().to_le_bytes());
        let (first, _) =
            hasher.finalize().as_bytes().split_first_chunk::<8>().map(|(a, b)| (*a, b.len())).expect("32 bytes");
        u64::from_le_bytes(first)
    }

    /// When the grace that predecessors may still use ends, counted from `since_ns` (L4).
    pub(crate) fn grace_wait_ns(&self, since_ns: u64, vote_ms: u32, extra_ms: u64) -> u64 {
        since_ns.saturating_add((u64::from(self.meta.grace_peak_ms) + u64::from(vote_ms) + extra_ms) * MS)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.phase == Phase::Whole
    }
}
