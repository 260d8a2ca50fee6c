//! The log of a flow replica: in memory, with a retention that the replica decides.
//!
//! Never hands out a snapshot: state moves out of band (F10), so `snapshot` always says "temporarily unavailable". Lives
//! inside a replica's raft node; a restart loses it, which is why a restart is a new incarnation (N1).

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

/// Entries after a base, plus the hard state.
#[derive(Debug)]
pub struct MemoryLog {
    base_index: u64,
    base_term: u64,
    conf: ConfState,
    hard: HardState,
    entries: VecDeque<Entry>,
    bytes: usize,
}

/// What an entry costs in the retention bound: its payload and a flat amount for the rest.
fn cost(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + 64
}

impl MemoryLog {
    /// A log that begins after a stored snapshot at (`index`, `snapshot_term`) with this configuration (N5).
    ///
    /// # Panics
    /// If the index is 0: every group and epoch begins with a snapshot at index 1 or later.
    #[must_use]
    pub fn new(index: u64, snapshot_term: u64, conf: ConfState, term: u64) -> Self {
        assert!(index >= 1, "a group begins with a snapshot at index >= 1 (N5)");
        assert!(term >= snapshot_term, "a replica's term is at least that of its log");
        let hard = HardState { term, commit: index, ..HardState::default() };
        Self { base_index: index, base_term: snapshot_term, conf, hard, entries: VecDeque::new(), bytes: 0 }
    }

    /// Index that the retained entries follow.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base_index
    }

    /// What the retained entries cost, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn last(&self) -> u64 {
        self.base_index + u64::try_from(self.entries.len()).expect("a usize fits in u64")
    }

    fn offset(&self, index: u64) -> usize {
        usize::try_from(index - self.base_index - 1).expect("a retained entry's offset fits in memory")
    }

    /// Stores entries; one that is there already under another term replaces it and all that follow.
    ///
    /// # Panics
    /// On a gap, or on entries at or below the base.
    pub fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.base_index && first.index <= self.last() + 1, "raft appends without gaps");
        let keep = self.offset(first.index);
        for entry in self.entries.drain(keep..) {
            self.bytes -= cost(&entry);
        }
        for entry in entries {
            self.bytes += cost(&entry);
            self.entries.push_back(entry);
        }
    }

    /// Stores term, vote and commit index.
    pub fn set_hard_state(&mut self, hard: HardState) {
        self.hard = hard;
    }

    /// Stores a newer commit index.
    pub fn set_commit(&mut self, commit: u64) {
        self.hard.commit = commit;
    }

    /// Begins anew after another replica's table at (`index`, `term`); term and vote stay.
    pub fn install(&mut self, index: u64, term: u64, conf: ConfState) {
        self.base_index = index;
        self.base_term = term;
        self.conf = conf;
        self.entries.clear();
        self.bytes = 0;
        self.hard.commit = self.hard.commit.max(index);
    }

    /// Forgets entries up to and including `index`; less than the base does nothing.
    ///
    /// # Panics
    /// If `index` is beyond the last entry.
    pub fn compact_to(&mut self, index: u64) {
        assert!(index <= self.last(), "only what was applied is compacted");
        while self.base_index < index {
            let entry = self.entries.pop_front().expect("base and length agree");
            self.bytes -= cost(&entry);
            self.base_index = entry.index;
            self.base_term = entry.term;
        }
    }

    /// Clones of the entries after `index`, in order.
    #[must_use]
    pub fn after(&self, index: u64) -> Vec<Entry> {
        self.entries.iter().filter(|e| e.index > index).cloned().collect()
    }
}

impl Storage for MemoryLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base_index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let (from, to) = (self.offset(low), self.offset(high));
        let budget = max_size.into().map_or(usize::MAX, |size| usize::try_from(size).unwrap_or(usize::MAX));
        let mut taken = Vec::new();
        let mut size = 0_usize;
        for entry in self.entries.range(from..to) {
            size = size.saturating_add(cost(entry));
            // The first one always goes, whatever its size: progress before bounds.
            if !taken.is_empty() && size > budget {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base_index {
            return Ok(self.base_term);
        }
        if index < self.base_index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last() {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        Ok(self.entries[self.offset(index)].term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, len: usize) -> Entry {
        Entry { index, term, data: vec![7; len].into(), ..Entry::default() }
    }

    fn log() -> MemoryLog {
        let mut log = MemoryLog::new(10, 3, ConfState::default(), 3);
        log.append((11..=20).map(|i| entry(i, 3, 100)).collect());
        log
    }

    #[test]
    fn a_conflicting_suffix_is_replaced_and_its_bytes_are_given_back() {
        let mut log = log();
        log.append(vec![entry(15, 4, 10)]);
        assert_eq!(log.last_index().unwrap(), 15);
        assert_eq!(log.term(15).unwrap(), 4);
        assert_eq!(log.bytes(), 4 * 164 + 74);
    }

    #[test]
    fn compaction_keeps_the_term_of_its_base() {
        let mut log = log();
        log.append(vec![entry(15, 4, 10), entry(16, 4, 10)]);
        log.compact_to(15);
        assert_eq!((log.base(), log.term(15).unwrap(), log.first_index().unwrap()), (15, 4, 16));
        assert!(matches!(log.term(14), Err(raft::Error::Store(StorageError::Compacted))));
        log.compact_to(16);
        assert_eq!((log.bytes(), log.last_index().unwrap()), (0, 16));
    }

    #[test]
    fn reads_are_bounded_by_size_but_never_empty() {
        let log = log();
        let some = log.entries(11, 21, Some(400), GetEntriesContext::empty(false)).unwrap();
        assert_eq!(some.iter().map(|e| e.index).collect::<Vec<_>>(), [11, 12]);
        let one = log.entries(13, 21, Some(0), GetEntriesContext::empty(false)).unwrap();
        assert_eq!(one.len(), 1);
    }

    #[test]
    fn installing_a_table_keeps_term_and_vote() {
        let mut log = log();
        log.set_hard_state(HardState { term: 9, vote: 5, commit: 12, ..HardState::default() });
        log.install(40, 8, ConfState::default());
        let state = log.initial_state().unwrap();
        assert_eq!((state.hard_state.term, state.hard_state.vote, state.hard_state.commit), (9, 5, 40));
        assert_eq!((log.last_index().unwrap(), log.term(40).unwrap()), (40, 8));
    }
}
