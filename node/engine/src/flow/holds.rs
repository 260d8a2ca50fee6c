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

/// A hold as it waits: its record and this together take no more than a live mapping may (I46).
#[derive(Clone, Copy, Debug)]
struct Waiting {
    since_ns: u64,
    slot: Slot,
    /// Lower half of the index: a log does not write four thousand million entries while a hold waits.
    index: u32,
}

const _: () = assert!(size_of::<Waiting>() == 16, "with its record and index cells a hold takes 128 octets (I46)");

/// Holds of a piece.
const PIECE: usize = 4096;

/// A queue in pieces: one that moved millions of holds as it grows would keep packets waiting meanwhile; a piece that grows
/// moves less than 100 kB.
#[derive(Debug, Default)]
struct Queue {
    /// All but the last are full.
    pieces: VecDeque<Vec<Waiting>>,
    /// Holds of the first piece that are gone.
    gone: usize,
    /// Index of the hold that came last.
    newest: LogIndex,
}

impl Queue {
    fn len(&self) -> usize {
        self.pieces.back().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len() - self.gone)
    }

    fn get(&self, place: usize) -> Option<HoldEntry> {
        let place = place + self.gone;
        let Waiting { since_ns, slot, index } = *self.pieces.get(place / PIECE)?.get(place % PIECE)?;
        let before = lower(self.newest).wrapping_sub(index);
        Some(HoldEntry { index: LogIndex(self.newest.0 - u64::from(before)), since_ns, slot })
    }

    fn push_back(&mut self, HoldEntry { index, since_ns, slot }: HoldEntry) {
        assert!(self.newest <= index, "entries are applied in log order");
        self.newest = index;
        let waiting = Waiting { since_ns, slot, index: lower(index) };
        match self.pieces.back_mut().filter(|last| last.len() < PIECE) {
            Some(last) => last.push(waiting),
            None => self.pieces.push_back(vec![waiting]),
        }
    }

    fn pop_front(&mut self) -> Option<HoldEntry> {
        let entry = self.get(0)?;
        self.gone += 1;
        if self.gone == self.pieces[0].len() {
            // A queue of few holds keeps its piece.
            if self.pieces.len() > 1 {
                drop(self.pieces.pop_front())
            } else {
                self.pieces[0].clear()
            }
            self.gone = 0;
        }
        Some(entry)
    }

    fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.capacity() * size_of::<Waiting>()).sum()
    }

    /// How many at the front are so; none behind them is.
    fn count_first(&self, is: impl Fn(&HoldEntry) -> bool) -> usize {
        let (mut so, mut end) = (0, self.len());
        while so < end {
            let middle = usize::midpoint(so, end);
            if self.get(middle).is_some_and(|entry| is(&entry)) { so = middle + 1 } else { end = middle }
        }
        so
    }
}

fn lower(index: LogIndex) -> u32 {
    u32::try_from(index.0 & u64::from(u32::MAX)).expect("32 bits remain")
}

/// The holds of one shard.
#[derive(Debug, Default)]
pub struct HoldQueues {
    queues: [Queue; HOLD_CLASSES],
}

impl HoldQueues {
    /// Appends a hold; indexes never fall.
    pub fn push(&mut self, class: HoldClass, entry: HoldEntry) {
        self.queues[class.index()].push_back(entry);
    }

    /// Takes the oldest hold of `class` if it was closed at or below `ended`.
    pub fn pop(&mut self, class: HoldClass, ended: LogIndex) -> Option<HoldEntry> {
        let queue = &mut self.queues[class.index()];
        if queue.get(0)?.index <= ended { queue.pop_front() } else { None }
    }

    /// The greatest close index above `from` such that it and all before began at or before `since_max_ns`.
    #[must_use]
    pub fn ended(&self, class: HoldClass, from: LogIndex, since_max_ns: u64) -> Option<LogIndex> {
        let queue = &self.queues[class.index()];
        // Both index and local time grow along the queue.
        let end = queue.count_first(|e| e.since_ns <= since_max_ns);
        let last = queue.get(end.checked_sub(1)?)?.index;
        // Holds of one entry end together: the next one may share the index and still run.
        let shared = queue.get(end).is_some_and(|next| next.index == last);
        (last > from && !shared).then_some(last)
    }

    /// Octets that they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.queues.iter().map(Queue::bytes).sum()
    }

    /// Whether no hold waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.len() == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lower half of an index begins anew on the way.
    const BEGIN: u64 = u32::MAX as u64 - 10_000;

    proptest! {
        #[test]
        fn a_queue_in_pieces_is_a_queue(steps in prop::collection::vec((any::<bool>(), 1_usize..3 * PIECE), 1..40)) {
            let (mut queue, mut plain, mut next) = (Queue::default(), VecDeque::new(), BEGIN);
            for (push, count) in steps {
                for _ in 0..count {
                    if push {
                        next += 1;
                        plain.push_back(next);
                        queue.push_back(HoldEntry { index: LogIndex(next), since_ns: next / 3, slot: Slot(0) });
                    } else {
                        prop_assert_eq!(queue.pop_front().map(|entry| entry.index.0), plain.pop_front());
                    }
                }
                prop_assert_eq!(queue.len(), plain.len());
                prop_assert!((0..=plain.len()).all(|n| queue.get(n).map(|entry| entry.index.0) == plain.get(n).copied()));
                let middle = (BEGIN + next) / 6;
                let wanted = plain.partition_point(|n| n / 3 <= middle);
                prop_assert_eq!(queue.count_first(|entry| entry.since_ns <= middle), wanted);
            }
        }
    }
}
