//! What all ways of judging a packet share: by what it is judged, what this node may do, where it goes next.

use std::net::Ipv4Addr;

use crate::event::{Authority, DropReason};
use crate::ids::{Mac, NodeId};
use crate::snapshot::Snapshot;
use crate::wire::{FrameMeta, IpPacket, TcpFlags, clamp_mss, set_ethernet};

/// What a frame is judged by.
#[derive(Debug)]
pub(crate) struct Cx<'a, W> {
    pub(crate) now_ns: u64,
    pub(crate) words: &'a W,
    pub(crate) snapshot: &'a Snapshot,
}

/// What this node may do for a shard now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Everything under the lease, or, in grace, repeat committed mappings from the own MAC (L4).
    Here(Authority),
    /// Another node owns it.
    Forward(NodeId),
    /// Nothing.
    Nothing(DropReason),
}

/// The Ethernet addresses of a frame that goes to a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NextHop {
    pub(crate) src: Mac,
    pub(crate) dst: Mac,
    pub(crate) hop: Hop,
}

impl NextHop {
    pub(crate) fn put(self, frame: &mut [u8]) -> Hop {
        set_ethernet(frame, self.src, self.dst);
        self.hop
    }
}

/// Where a rewritten frame stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hop {
    /// Addressed.
    Ready,
    /// Its neighbour has to answer first.
    Wait(Ipv4Addr),
}

/// Lowers the segment size that a SYN offers, if the configuration says so (R26).
pub(crate) fn clamp(s: &Snapshot, frame: &mut [u8], meta: &FrameMeta, p: &IpPacket) {
    if s.params.mss_max > 0 && p.tcp.is_some_and(|tcp| tcp.flags.contains(TcpFlags::SYN)) {
        clamp_mss(frame, meta, p, s.params.mss_max);
    }
}
