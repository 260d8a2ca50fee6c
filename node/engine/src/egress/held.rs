//! Copies of frames that wait: for the commit of their mapping, for a neighbour, or to be polled. All bounded by
//! `Params` (R21, I49); full means drop, never send (I6). A flow's later frames do not overtake those that wait to be polled.

use std::collections::VecDeque;

use crate::event::Authority;
use crate::ids::{BackendId, Link};
use crate::snapshot::{Map, Params};
use crate::wire::FrameMeta;

/// A backend may hold as many bytes as its packets have if each is a full Ethernet frame: a few GSO frames, but not the
/// bytes of all backends (I40).
const BYTES_PER_PACKET: u64 = 2048;
/// Buffers kept for reuse.
const SPARE_MAX: usize = 256;
/// A larger buffer is given back to the allocator: GSO frames are rare among first packets.
const SPARE_CAPACITY_MAX: usize = 4096;
/// Frames of the worker's own that may wait to be polled; more are dropped, they repeat.
const OWN_MAX: usize = 1024;

/// A frame, rewritten, waiting for a neighbour or for `poll_frame`.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) frame: Vec<u8>,
    pub(crate) meta: FrameMeta,
    pub(crate) link: Link,
    pub(crate) authority: Authority,
    pub(crate) origin: Origin,
    pub(crate) since_ns: u64,
}

/// Whose frame it is, for the counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// It came in and was parked; its bytes count against the limit.
    Received,
    /// The worker made it.
    Own,
}

/// Packets that wait for one neighbour; the shard asks.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) authority: Authority,
    pub(crate) frames: VecDeque<Outgoing>,
    pub(crate) retry_ns: u64,
}

/// Byte and packet limits, spare buffers, and the queue of frames that may leave.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: u64,
    /// Other workers of this member: the limit of bytes is for all together, each has an even part.
    others: u16,
    per_backend: Map<BackendId, Share>,
    spare: Vec<Vec<u8>>,
    ready: VecDeque<Outgoing>,
    /// A bit for each flow that may have a received frame in `ready`.
    flows_ready: u64,
    own: usize,
}

/// What one backend's first packets hold now.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    packets: u32,
    bytes: u64,
}

impl Share {
    /// Whether one more frame fits. A single frame always does: the worker's own limit bounds it.
    fn takes(self, params: &Params, frame: &[u8]) -> bool {
        let bytes_max = u64::from(params.held_packets_per_backend_max) * BYTES_PER_PACKET;
        self.packets == 0
            || (self.packets < params.held_packets_per_backend_max && self.bytes + bytes_of(frame) <= bytes_max)
    }
}

impl Held {
    /// Copies a frame within the byte limit; `None`: over it.
    pub(crate) fn copy(&mut self, params: &Params, frame: &[u8]) -> Option<Vec<u8>> {
        let bytes = self.bytes + bytes_of(frame);
        if bytes > u64::from(params.held_bytes_max) / (1 + u64::from(self.others)) {
            return None;
        }
        self.bytes = bytes;
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame);
        Some(copy)
    }

    /// Counts one more first packet of a backend and copies it; `None`: over a limit.
    pub(crate) fn park(&mut self, params: &Params, backend: BackendId, frame: &[u8]) -> Option<Vec<u8>> {
        if self.per_backend.get(&backend).is_some_and(|share| !share.takes(params, frame)) {
            return None;
        }
        let copy = self.copy(params, frame)?;
        let share = self.per_backend.entry(backend).or_default();
        share.packets += 1;
        share.bytes += bytes_of(frame);
        Some(copy)
    }

    /// A first packet stops waiting for its commit.
    pub(crate) fn unpark(&mut self, backend: BackendId, frame: &[u8]) {
        if let hashbrown::hash_map::Entry::Occupied(mut entry) = self.per_backend.entry(backend) {
            let share = entry.get_mut();
            share.packets -= 1;
            share.bytes -= bytes_of(frame);
            if share.packets == 0 {
                entry.remove();
            }
        }
    }

    /// The copy is gone: its bytes no longer count, its buffer is kept.
    pub(crate) fn recycle(&mut self, frame: Vec<u8>) {
        self.bytes -= bytes_of(&frame);
        self.keep(frame);
    }

    /// The member has so many other workers.
    pub(crate) const fn share_with(&mut self, others: u16) {
        self.others = others;
    }

    /// Puts a frame into the queue that `poll_frame` empties.
    pub(crate) fn push(&mut self, outgoing: Outgoing) {
        if outgoing.origin == Origin::Received {
            self.flows_ready |= flow_bit(&outgoing.frame);
        }
        self.ready.push_back(outgoing);
    }

    /// Whether a rewritten frame has to queue up, since an earlier one of its flow may still stand in the queue (I56).
    pub(crate) fn has_earlier(&self, frame: &[u8]) -> bool {
        self.flows_ready != 0 && self.flows_ready & flow_bit(frame) != 0
    }

    /// An empty buffer for a frame of the worker's own, unless too many wait already.
    pub(crate) fn own_buffer(&mut self) -> Option<Vec<u8>> {
        if self.own >= OWN_MAX {
            return None;
        }
        self.own += 1;
        Some(self.spare())
    }

    /// Frames of the worker's own that wait to be polled.
    pub(crate) const fn own_waiting(&self) -> usize {
        self.own
    }

    /// Puts a frame of the worker's own before all that wait. Not limited: it is a piece of one that was counted.
    pub(crate) fn push_own_first(&mut self, outgoing: Outgoing) {
        self.own += 1;
        self.flows_ready |= flow_bit(&outgoing.frame);
        self.ready.push_front(outgoing);
    }

    /// A buffer, empty, whose bytes are not counted.
    pub(crate) fn spare(&mut self) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    /// Takes the next frame; its bytes no longer count.
    pub(crate) fn pop(&mut self) -> Option<Outgoing> {
        let next = self.ready.pop_front()?;
        if self.ready.is_empty() {
            self.flows_ready = 0;
        }
        match next.origin {
            Origin::Received => self.bytes -= bytes_of(&next.frame),
            Origin::Own => self.own -= 1,
        }
        Some(next)
    }

    /// Keeps a buffer whose bytes are not counted (any more).
    pub(crate) fn keep(&mut self, frame: Vec<u8>) {
        if self.spare.len() < SPARE_MAX && frame.capacity() <= SPARE_CAPACITY_MAX {
            self.spare.push(frame);
        }
    }

    /// Bytes of all received frames that wait.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a frame waits to be polled.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }
}

/// One of 64 bits, by the addresses of an IP packet; none for other frames.
fn flow_bit(frame: &[u8]) -> u64 {
    let addresses = frame.get(26..34).and_then(|octets| octets.first_chunk());
    let (Some([8, 0]), Some(addresses)) = (frame.get(12..14), addresses) else { return 0 };
    1 << (u64::from_be_bytes(*addresses).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
}

fn bytes_of(frame: &[u8]) -> u64 {
    u64::try_from(frame.len()).expect("a frame is shorter than 2^64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_backend_s_large_frames_leave_the_bytes_of_the_others() {
        let params = Params { held_packets_per_backend_max: 64, held_bytes_max: 256 << 10, ..Params::default() };
        let (large, mut held, mut taken) = (vec![0; 60_000], Held::default(), Vec::new());
        while let Some(copy) = held.park(&params, BackendId(1), &large) {
            taken.push(copy);
        }
        assert_eq!(taken.len(), 2, "64 packets of 2 KiB are 128 KiB");
        assert!(held.park(&params, BackendId(2), &large).is_some(), "I40: another backend has its own bytes");
        for copy in taken {
            held.unpark(BackendId(1), &copy);
            held.recycle(copy);
        }
        assert!(held.park(&params, BackendId(1), &large).is_some(), "what left makes room again");
    }

    #[test]
    fn a_frame_larger_than_the_share_is_held_when_it_is_alone() {
        let params = Params { held_packets_per_backend_max: 1, ..Params::default() };
        let mut held = Held::default();
        assert!(held.park(&params, BackendId(1), &[0; 60_000]).is_some());
        assert!(held.park(&params, BackendId(1), &[0; 60]).is_none());
    }
}
