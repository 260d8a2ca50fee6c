//! Moving a shard's table to a joiner, out of band (F10): the sender's and the receiver's bookkeeping.
//!
//! The worker scans, the chunks travel as they are, in order, and the joiner replays the log from the scan's base. Neither
//! side looks into a chunk. Used by the leader's and the joiner's replica.

use bytes::Bytes;
use raft::eraftpb::ConfState;
use words::{Epoch, Incarnation};

use crate::flow::frame::{ChunkEnd, ChunkHead, Have};

/// A transfer that stands still this long while its joiner asks again is started anew.
const STALL_NS: u64 = 2_000_000_000;
/// A transfer without any progress is given up after this.
const ABANDON_NS: u64 = 30_000_000_000;
/// Bytes of log that are retained for a transfer; beyond, it is given up (the joiner asks again).
pub(super) const RETAINED_BYTES_MAX: usize = 64 << 20;
/// A voter that reloads keeps its old table until the new one is complete; no more than this is buffered.
const RELOAD_BYTES_MAX: usize = 512 << 20;

/// The sender's side.
#[derive(Debug)]
pub(super) struct Outgoing {
    id: u64,
    to: Incarnation,
    /// Applied index when the scan was ordered: the scan's base is not below it.
    floor: u64,
    base: Option<Base>,
    next_number: u64,
    until: Option<u64>,
    progress_ns: u64,
    have: Option<Have>,
    matched: u64,
}

#[derive(Clone, Debug)]
struct Base {
    index: u64,
    term: u64,
    conf: ConfState,
}

/// What the joiner's request means for a running transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    /// It runs.
    Wait,
    /// It stands still, it lost a chunk, or it was for somebody who went silent: begin anew.
    Restart,
}

impl Outgoing {
    /// A scan is ordered now, at the applied index `floor`.
    #[must_use]
    pub(super) const fn new(id: u64, to: Incarnation, floor: u64, now_ns: u64) -> Self {
        Self { id, to, floor, base: None, next_number: 0, until: None, progress_ns: now_ns, have: None, matched: 0 }
    }

    /// Its number.
    #[must_use]
    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// Who is served.
    #[must_use]
    pub(super) const fn to(&self) -> Incarnation {
        self.to
    }

    /// Whether the worker has handed out the last chunk.
    #[must_use]
    pub(super) const fn is_scanned(&self) -> bool {
        self.until.is_some()
    }

    /// The log is retained from this index on.
    #[must_use]
    pub(super) fn retain_from(&self) -> u64 {
        self.base.as_ref().map_or(self.floor, |base| base.index)
    }

    /// `from` asks for a table, having got `have` so far.
    pub(super) fn asked(&mut self, from: Incarnation, have: Option<Have>, now_ns: u64) -> Asked {
        if let Some(of_this) = have.filter(|h| from == self.to && h.transfer == self.id)
            && have != self.have
        {
            if of_this.broken {
                return Asked::Restart;
            }
            self.have = have;
            self.progress_ns = now_ns;
        }
        if now_ns.saturating_sub(self.progress_ns) >= STALL_NS { Asked::Restart } else { Asked::Wait }
    }

    /// A chunk of the own worker. `state_at(base)` gives term and configuration at the base. Returns the head and, with
    /// the last chunk, the end (whose wait the caller fills in); `None` if the scan is of no use.
    pub(super) fn chunk(
        &mut self,
        (base, until, last): (u64, u64, bool),
        term: u64,
        now_ns: u64,
        state_at: impl Fn(u64) -> Option<(u64, ConfState)>,
    ) -> Option<(ChunkHead, Option<ChunkEnd>)> {
        if self.base.is_none() {
            let (term, conf) = if base < self.floor { None } else { state_at(base) }?;
            self.base = Some(Base { index: base, term, conf });
        }
        let known = self.base.as_ref()?;
        if known.index != base || self.until.is_some() || (last && until < base) {
            return None;
        }
        let head = ChunkHead { transfer: self.id, number: self.next_number, term, base };
        self.next_number += 1;
        self.progress_ns = now_ns;
        let end = last.then(|| ChunkEnd { base_term: known.term, until, conf: known.conf.clone(), wait_left_ns: 0 });
        self.until = last.then_some(until);
        Some((head, end))
    }

    /// The joiner's raft node has matched up to `matched`. Returns whether the log need not be retained any longer.
    pub(super) fn is_over(&mut self, matched: u64, now_ns: u64) -> bool {
        if matched > self.matched {
            self.matched = matched;
            self.progress_ns = now_ns;
        }
        self.until.is_some_and(|until| matched >= until) || now_ns.saturating_sub(self.progress_ns) >= ABANDON_NS
    }
}

/// The receiver's place in a transfer.
#[derive(Clone, Copy, Debug)]
struct Place {
    from: Incarnation,
    head: ChunkHead,
    next: u64,
    broken: bool,
}

/// The receiver's side: accepts the chunks of one transfer in order.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    place: Option<Place>,
}

/// What to do with a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Accept {
    /// The first of a transfer: whatever came before is void.
    First,
    /// The next one.
    Next,
    /// Late, repeated, or after a gap.
    Ignore,
}

impl Incoming {
    /// What the sender should know.
    #[must_use]
    pub(super) fn have(&self) -> Option<Have> {
        self.place.map(|p| Have { transfer: p.head.transfer, next: p.next, broken: p.broken })
    }

    /// Judges a chunk by its head.
    pub(super) fn accept(&mut self, from: Incarnation, head: ChunkHead) -> Accept {
        if let Some(place) = self.place.as_mut().filter(|p| p.from == from && p.head.transfer == head.transfer) {
            if !place.broken && head.number == place.next && head.base == place.head.base {
                place.next += 1;
                return Accept::Next;
            }
            // Anything but a repetition is a gap, and this transfer can never be completed.
            place.broken |= head.number >= place.next;
            return Accept::Ignore;
        }
        // The same sender numbers its transfers upwards; another one must not lead an older term.
        let newer = self.place.is_none_or(|place| match place.from == from {
            true => head.transfer > place.head.transfer,
            false => head.term >= place.head.term,
        });
        if !newer {
            return Accept::Ignore;
        }
        if head.number != 0 {
            // The sender has given an earlier transfer up, and of this one the beginning is lost.
            self.place = Some(Place { from, head, next: 0, broken: true });
            return Accept::Ignore;
        }
        self.place = Some(Place { from, head, next: 1, broken: false });
        Accept::First
    }
}

/// A member without a replica, on its way in.
#[derive(Debug)]
pub(super) struct Joining {
    /// The group's epoch.
    pub epoch: Epoch,
    /// What has come so far.
    pub incoming: Incoming,
    /// When it asked last.
    pub asked_ns: Option<u64>,
}

impl Joining {
    /// Nothing has come yet.
    #[must_use]
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { epoch, incoming: Incoming::default(), asked_ns: None }
    }
}

/// A replica that fell behind the retained log loads the table anew, keeping the old one until the new is complete.
#[derive(Debug, Default)]
pub(super) struct Reload {
    incoming: Incoming,
    chunks: Vec<Bytes>,
    bytes: usize,
}

impl Reload {
    /// What the sender should know.
    #[must_use]
    pub(super) fn have(&self) -> Option<Have> {
        self.incoming.have()
    }

    /// Takes a chunk; all of them, in order, once the last one is in.
    pub(super) fn take(&mut self, from: Incarnation, head: ChunkHead, chunk: Bytes, last: bool) -> Option<Vec<Bytes>> {
        match self.incoming.accept(from, head) {
            Accept::Ignore => return None,
            Accept::First => {
                self.chunks.clear();
                self.bytes = 0;
            }
            Accept::Next => {}
        }
        self.bytes += chunk.len();
        if self.bytes > RELOAD_BYTES_MAX {
            *self = Self::default();
            return None;
        }
        self.chunks.push(chunk);
        last.then(|| std::mem::take(self).chunks)
    }
}

/// What a worker's chunk says besides its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanned {
    /// The transfer that it belongs to.
    pub transfer: u64,
    /// As in `FlowInput::Chunk`.
    pub base: u64,
    /// As in `FlowInput::Chunk`.
    pub until: u64,
    /// As in `FlowInput::Chunk`.
    pub last: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Incarnation = Incarnation(1);
    const B: Incarnation = Incarnation(2);

    fn head(transfer: u64, number: u64, term: u64) -> ChunkHead {
        ChunkHead { transfer, number, term, base: 10 }
    }

    fn conf() -> ConfState {
        ConfState { voters: vec![1], ..ConfState::default() }
    }

    #[test]
    fn chunks_are_taken_in_order_and_a_gap_voids_the_transfer() {
        let mut incoming = Incoming::default();
        assert_eq!(incoming.accept(A, head(4, 0, 7)), Accept::First);
        assert_eq!(incoming.accept(A, head(4, 0, 7)), Accept::Ignore);
        assert_eq!(incoming.accept(A, head(4, 1, 7)), Accept::Next);
        assert_eq!(incoming.have(), Some(Have { transfer: 4, next: 2, broken: false }));
        assert_eq!(incoming.accept(A, head(4, 3, 7)), Accept::Ignore);
        assert_eq!(incoming.have(), Some(Have { transfer: 4, next: 2, broken: true }));
        assert_eq!(incoming.accept(A, head(4, 2, 7)), Accept::Ignore);
        assert_eq!(incoming.accept(A, head(5, 0, 7)), Accept::First);
        assert_eq!(incoming.have(), Some(Have { transfer: 5, next: 1, broken: false }));
    }

    #[test]
    fn a_transfer_whose_first_chunk_is_lost_is_told_to_be_broken() {
        let mut incoming = Incoming::default();
        assert_eq!(incoming.accept(A, head(4, 1, 7)), Accept::Ignore);
        assert_eq!(incoming.have(), Some(Have { transfer: 4, next: 0, broken: true }));
        assert_eq!(incoming.accept(A, head(4, 0, 7)), Accept::Ignore, "its sender begins anew");
        assert_eq!(incoming.accept(A, head(5, 0, 7)), Accept::First);
        assert_eq!(incoming.accept(A, head(6, 2, 7)), Accept::Ignore);
        assert_eq!(incoming.have(), Some(Have { transfer: 6, next: 0, broken: true }), "the sender has given 5 up");
        assert_eq!(incoming.accept(A, head(5, 1, 7)), Accept::Ignore);
    }

    #[test]
    fn a_broken_transfer_restarts_at_once_and_an_older_ones_gap_restarts_nothing() {
        let mut out = Outgoing::new(7, B, 20, 0);
        assert_eq!(out.asked(B, Some(Have { transfer: 6, next: 3, broken: true }), 1), Asked::Wait);
        assert_eq!(out.asked(A, Some(Have { transfer: 7, next: 3, broken: true }), 1), Asked::Wait);
        assert_eq!(out.asked(B, Some(Have { transfer: 7, next: 3, broken: true }), 1), Asked::Restart);
    }

    #[test]
    fn an_older_leader_cannot_void_a_newer_ones_transfer() {
        let mut incoming = Incoming::default();
        assert_eq!(incoming.accept(B, head(1, 0, 8)), Accept::First);
        assert_eq!(incoming.accept(A, head(9, 0, 7)), Accept::Ignore);
        assert_eq!(incoming.accept(B, head(1, 1, 8)), Accept::Next);
    }

    #[test]
    fn a_scan_below_the_ordered_index_is_refused() {
        let mut out = Outgoing::new(1, B, 20, 0);
        assert!(out.chunk((19, 19, true), 7, 0, |_| Some((7, conf()))).is_none());
        let (_, end) = out.chunk((20, 25, true), 7, 0, |_| Some((6, conf()))).expect("fits");
        assert_eq!(end.map(|e| (e.base_term, e.until)), Some((6, 25)));
        assert!(out.chunk((20, 25, true), 7, 0, |_| Some((6, conf()))).is_none(), "nothing after the last chunk");
    }

    #[test]
    fn a_silent_transfer_restarts_on_request_and_ends_by_itself() {
        let mut out = Outgoing::new(1, B, 20, 0);
        assert_eq!(out.asked(B, None, STALL_NS - 1), Asked::Wait);
        assert_eq!(out.asked(B, Some(Have { transfer: 1, next: 3, broken: false }), STALL_NS), Asked::Wait);
        assert_eq!(out.asked(B, Some(Have { transfer: 1, next: 3, broken: false }), 2 * STALL_NS), Asked::Restart);
        assert!(!out.is_over(0, ABANDON_NS));
        assert!(out.is_over(0, ABANDON_NS + STALL_NS));
    }

    #[test]
    fn a_reload_hands_out_everything_or_nothing() {
        let mut reload = Reload::default();
        assert!(reload.take(A, head(1, 0, 7), Bytes::from_static(b"a"), false).is_none());
        assert!(reload.take(A, head(2, 0, 7), Bytes::from_static(b"b"), false).is_none());
        assert!(reload.take(A, head(1, 1, 7), Bytes::from_static(b"x"), true).is_none());
        let all = reload.take(A, head(2, 1, 7), Bytes::from_static(b"c"), true).expect("complete");
        assert_eq!(all, [Bytes::from_static(b"b"), Bytes::from_static(b"c")]);
    }
}
