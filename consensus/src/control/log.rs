//! The log as raft reads it: everything that the store holds, in memory.
//!
//! The control log is short (it is compacted behind the snapshot), so reading never touches the disk and cannot fail.
//! Changed by the control group only after the store took the same change.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::control::storage::{Recovered, StoredSnapshot};

/// What raft-rs calls a storage.
#[derive(Debug)]
pub(super) struct Log {
    state: RaftState,
    snapshot: Option<StoredSnapshot>,
    truncated: (u64, u64),
    entries: VecDeque<Entry>,
}

impl Log {
    pub(super) fn new(recovered: Recovered) -> Self {
        let Recovered { hard_state, conf_state, snapshot, truncated, entries, applied: _ } = recovered;
        Self { state: RaftState { hard_state, conf_state }, snapshot, truncated, entries: entries.into() }
    }

    pub(super) const fn snapshot(&self) -> Option<&StoredSnapshot> {
        self.snapshot.as_ref()
    }

    /// Entries from `low` up to and including `high`, as far as they are here.
    pub(super) fn range(&self, low: u64, high: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().skip_while(move |e| e.index < low).take_while(move |e| e.index <= high)
    }

    pub(super) fn append(&mut self, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            self.entries.truncate(self.position(first.index));
            self.entries.extend(entries.iter().cloned());
        }
    }

    /// A peer's snapshot replaces the log.
    pub(super) fn restore(&mut self, snapshot: StoredSnapshot) {
        self.entries.clear();
        self.truncated = (snapshot.index, snapshot.term);
        self.snapshot = Some(snapshot);
    }

    pub(super) fn compact(&mut self, snapshot: StoredSnapshot, until: (u64, u64)) {
        if until.0 > self.truncated.0 {
            self.entries.drain(..self.position(until.0 + 1));
            self.truncated = until;
        }
        self.snapshot = Some(snapshot);
    }

    /// Up to where the log may be cut when the state of `index` is stored: the newest `entries` entries before it are kept
    /// for followers that lag, as long as they have at most `bytes` bytes.
    pub(super) fn cut(&self, index: u64, entries: u64, bytes: u64) -> (u64, u64) {
        let mut kept = (0_u64, 0_u64);
        let before = self.entries.iter().rev().skip_while(|e| e.index > index);
        for entry in before {
            kept.0 += 1;
            kept.1 = kept.1.saturating_add(u64::try_from(entry.data.len()).unwrap_or(u64::MAX));
            if kept.0 > entries || kept.1 > bytes {
                return (entry.index, entry.term);
            }
        }
        self.truncated
    }

    fn position(&self, index: u64) -> usize {
        let at = index.saturating_sub(self.truncated.0 + 1);
        usize::try_from(at).map_or(self.entries.len(), |at| at.min(self.entries.len()))
    }

    fn last(&self) -> u64 {
        self.entries.back().map_or(self.truncated.0, |e| e.index)
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.state.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let range = self.position(low)..self.position(high);
        let mut entries: Vec<Entry> = self.entries.range(range).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        if index < self.truncated.0 {
            return Err(StorageError::Compacted.into());
        }
        self.entries.get(self.position(index)).map(|e| e.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The stored snapshot, for the replica `to`. raft-rs refuses a snapshot whose configuration does not hold its receiver.
    /// A joiner was added after the stored one, so it is put in as a learner: that changes no quorum, and adding it again
    /// when it reads the entry that really did is no change.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let stored = match &self.snapshot {
            Some(stored) if stored.index >= request_index => stored,
            Some(_) | None => return Err(StorageError::SnapshotTemporarilyUnavailable.into()),
        };
        let mut conf_state = stored.conf_state.clone();
        if !holds(&conf_state, to) {
            conf_state.learners.push(to);
            conf_state.learners.sort_unstable();
        }
        let mut snapshot = Snapshot::default();
        snapshot.data = stored.state.clone();
        let metadata = snapshot.mut_metadata();
        metadata.index = stored.index;
        metadata.term = stored.term;
        metadata.conf_state = Some(conf_state).into();
        Ok(snapshot)
    }
}

/// Whether a replica is in a configuration, in whatever part.
pub(super) fn holds(conf: &ConfState, id: u64) -> bool {
    conf.voters.contains(&id) || conf.voters_outgoing.contains(&id) || conf.learners.contains(&id)
}

/// Equal configurations look equal: raft lists members in the order of a hash table.
pub(super) fn sorted(mut conf: ConfState) -> ConfState {
    for ids in [&mut conf.voters, &mut conf.learners, &mut conf.voters_outgoing, &mut conf.learners_next] {
        ids.sort_unstable();
    }
    conf
}

/// raft's snapshot in the form of the store.
pub(super) fn stored_snapshot(snapshot: &Snapshot) -> StoredSnapshot {
    let metadata = snapshot.get_metadata();
    StoredSnapshot {
        index: metadata.index,
        term: metadata.term,
        conf_state: sorted(metadata.get_conf_state().clone()),
        state: snapshot.data.clone(),
    }
}
