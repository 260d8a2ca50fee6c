//! The queue of one channel to one peer, between `send` and the stream's writer. Bounded in frames and bytes. It belongs
//! to one connection and is closed with it: what is old when a link comes back is worth nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// What became of a frame given to `send`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendOutcome {
    /// It waits for the wire.
    Queued,
    /// It waits for the wire; so many older frames of the channel were dropped for it.
    QueuedAfterDropping(u32),
    /// No link to the peer is up (or it has no channel left); the frame is dropped.
    Down,
    /// The number is no peer's; the frame is dropped.
    UnknownPeer,
    /// Longer than `FRAME_BYTES_MAX`; the frame is dropped.
    TooLong,
}

/// Why a bulk frame was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BulkError {
    /// No link is up, or it ended while the frame waited for room.
    #[error("no link to the peer")]
    Down,
    /// The number is no peer's.
    #[error("no such peer")]
    UnknownPeer,
    /// Longer than `FRAME_BYTES_MAX`.
    #[error("frame longer than the limit")]
    TooLong,
}

#[derive(Debug, Default)]
struct Queued {
    frames: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
}

/// A bounded queue with one writer behind it.
#[derive(Debug)]
pub(super) struct Outbound {
    queued: Mutex<Queued>,
    frames_max: usize,
    bytes_max: usize,
    filled: Notify,
    drained: Notify,
}

impl Outbound {
    pub(super) fn new(frames_max: usize, bytes_max: usize) -> Self {
        let (filled, drained) = (Notify::new(), Notify::new());
        Self { queued: Mutex::default(), frames_max: frames_max.max(1), bytes_max, filled, drained }
    }

    fn lock(&self) -> MutexGuard<'_, Queued> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends; makes room by dropping the oldest. A single frame always fits.
    pub(super) fn push(&self, frame: Bytes) -> SendOutcome {
        let mut queued = self.lock();
        if queued.closed {
            return SendOutcome::Down;
        }
        let mut dropped = 0;
        while !self.has_room(&queued, frame.len()) {
            let Some(oldest) = queued.frames.pop_front() else { break };
            queued.bytes -= oldest.len();
            dropped += 1;
        }
        self.append(queued, frame);
        if dropped == 0 { SendOutcome::Queued } else { SendOutcome::QueuedAfterDropping(dropped) }
    }

    /// Appends once there is room.
    pub(super) async fn push_when_room(&self, frame: Bytes) -> Result<(), BulkError> {
        loop {
            // Registered before the look, so that room made in between is not missed.
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            {
                let queued = self.lock();
                if queued.closed {
                    return Err(BulkError::Down);
                }
                if self.has_room(&queued, frame.len()) || queued.frames.is_empty() {
                    self.append(queued, frame);
                    return Ok(());
                }
            }
            drained.await;
        }
    }

    fn has_room(&self, queued: &Queued, len: usize) -> bool {
        queued.frames.len() < self.frames_max && queued.bytes + len <= self.bytes_max
    }

    fn append(&self, mut queued: MutexGuard<'_, Queued>, frame: Bytes) {
        queued.bytes += frame.len();
        queued.frames.push_back(frame);
        drop(queued);
        self.filled.notify_one();
    }

    /// Takes frames of at most `bytes_max` together (but at least one), waiting for the first; `None` when closed.
    pub(super) async fn take(&self, bytes_max: usize, into: &mut Vec<Bytes>) -> Option<()> {
        loop {
            {
                let mut queued = self.lock();
                if queued.closed {
                    return None;
                }
                let mut taken = 0;
                while let Some(frame) = queued.frames.front() {
                    if !into.is_empty() && taken + frame.len() > bytes_max {
                        break;
                    }
                    taken += frame.len();
                    into.extend(queued.frames.pop_front());
                }
                queued.bytes -= taken;
            }
            if !into.is_empty() {
                self.drained.notify_waiters();
                return Some(());
            }
            self.filled.notified().await;
        }
    }

    /// Drops what is queued and refuses more; the writer and all who wait for room leave.
    pub(super) fn close(&self) {
        let mut queued = self.lock();
        *queued = Queued { closed: true, ..Queued::default() };
        drop(queued);
        self.filled.notify_one();
        self.drained.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: u8, len: usize) -> Bytes {
        Bytes::from(vec![tag; len])
    }

    #[tokio::test]
    async fn a_full_queue_drops_its_oldest_frames_and_says_how_many() {
        let queue = Outbound::new(3, 100);
        for tag in 0..3 {
            assert_eq!(queue.push(frame(tag, 10)), SendOutcome::Queued);
        }
        assert_eq!(queue.push(frame(3, 10)), SendOutcome::QueuedAfterDropping(1));
        assert_eq!(queue.push(frame(4, 90)), SendOutcome::QueuedAfterDropping(2));
        assert_eq!(queue.push(frame(5, 1000)), SendOutcome::QueuedAfterDropping(2));
        let mut taken = Vec::new();
        queue.take(usize::MAX, &mut taken).await;
        assert_eq!(taken, [frame(5, 1000)]);
    }

    #[tokio::test]
    async fn take_respects_its_byte_bound_but_always_moves_on() {
        let queue = Outbound::new(10, 1000);
        for tag in 0..3 {
            queue.push(frame(tag, 100));
        }
        for expected in 0..3 {
            let mut taken = Vec::new();
            queue.take(50, &mut taken).await;
            assert_eq!(taken, [frame(expected, 100)]);
        }
    }

    #[tokio::test]
    async fn bulk_waits_for_room_and_leaves_when_the_link_ends() {
        let queue = Outbound::new(1, 100);
        queue.push_when_room(frame(0, 10)).await.expect("empty");
        let (second, taken) = tokio::join!(queue.push_when_room(frame(1, 10)), async {
            tokio::task::yield_now().await;
            let mut taken = Vec::new();
            queue.take(usize::MAX, &mut taken).await;
            taken
        });
        second.expect("room was made");
        assert_eq!(taken, [frame(0, 10)]);
        let (third, ()) = tokio::join!(queue.push_when_room(frame(2, 10)), async {
            tokio::task::yield_now().await;
            queue.close();
        });
        assert_eq!(third, Err(BulkError::Down));
        assert_eq!(queue.push(frame(3, 1)), SendOutcome::Down);
        assert_eq!(queue.take(1, &mut Vec::new()).await, None);
    }
}
