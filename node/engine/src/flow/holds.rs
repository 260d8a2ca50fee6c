//! Holds in the order of their `Close` entries, one queue per class, so that all replicas free in step (F6).
//!
//! A queue entry whose record was opened again, or closed again later, is stale: `written_at` tells.

use std::collections::VecDeque;

use super::record::Slot;
use crate::ids::LogIndex;
use crate::record::{HOLD_CLASSES, HoldClass};

/// One hold.
#[derive(Clone, Copy, Debug)]
pub struct HoldEntry {
    /// Index of the entry that closed the mapping.
    pub index: LogIndex,
    /// Local time at which that was applied here.
    pub since_ns: u64,
    /// The record.
    pub slot: Slot,
}

/// The holds of one shard.
#[derive(Debug, Default)]
pub struct HoldQueues {
    queues: [VecDeque<HoldEntry>; HOLD_CLASSES],
}

impl HoldQueues {
    /// Appends a hold; indexes never fall.
    pub fn push(&mut self, class: HoldClass, entry: HoldEntry) {
        let queue = &mut self.queues[class.index()];
        assert!(queue.back().is_none_or(|last| last.index <= entry.index), "entries are applied in log order");
        queue.push_back(entry);
    }

    /// Takes the oldest hold of `class` if it was closed at or below `ended`.
    pub fn pop(&mut self, class: HoldClass, ended: LogIndex) -> Option<HoldEntry> {
        let queue = &mut self.queues[class.index()];
        if queue.front()?.index <= ended { queue.pop_front() } else { None }
    }

    /// The greatest close index above `from` such that it and all before began at or before `since_max_ns`.
    #[must_use]
    pub fn ended(&self, class: HoldClass, from: LogIndex, since_max_ns: u64) -> Option<LogIndex> {
        let queue = &self.queues[class.index()];
        // Both index and local time grow along the queue.
        let end = queue.partition_point(|e| e.since_ns <= since_max_ns);
        let last = queue.get(end.checked_sub(1)?)?.index;
        // Holds of one entry end together: the next one may share the index and still run.
        let shared = queue.get(end).is_some_and(|next| next.index == last);
        (last > from && !shared).then_some(last)
    }

    /// Whether no hold waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }
}
