//! What judging and sending share: by what a frame is judged, what this node may do about it, and where it goes. Data only.

use std::net::Ipv4Addr;

use crate::event::{Authority, DropReason};
use crate::ids::{Link, Mac, NodeId, ShardId};
use crate::snapshot::Snapshot;
use crate::wire::{FrameMeta, set_ethernet};

/// No packet waits longer for anything (I28).
pub(crate) const HELD_MAX_NS: u64 = 1_000_000_000;
/// What everything is judged by.
#[derive(Debug)]
pub(crate) struct Cx<'a, W> {
    pub(crate) now_ns: u64,
    pub(crate) words: &'a W,
    pub(crate) snapshot: &'a Snapshot,
}

impl<W> Clone for Cx<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Cx<'_, W> {}

impl<'a, W> Cx<'a, W> {
    /// The same for those who ask for no lease.
    pub(crate) const fn at(&self) -> At<'a> {
        At { now_ns: self.now_ns, snapshot: self.snapshot }
    }
}

/// A moment and the snapshot in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) now_ns: u64,
    pub(crate) snapshot: &'a Snapshot,
}

/// A frame, Ethernet header included, and what its receive path said about it.
pub(crate) struct Frame<'a> {
    pub(crate) meta: &'a FrameMeta,
    pub(crate) bytes: &'a mut [u8],
}

/// What this node may do for a shard now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Everything under the lease, or, in grace, repeat committed mappings from the own MAC (L4).
    Here(Authority),
    /// Somebody else owns it.
    Forward(Owner),
    /// Nothing.
    Nothing(DropReason),
}

/// Who judges the packets of a shard instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// Another member.
    Member(NodeId),
    /// Another worker of this one: that of the shard.
    WorkerOf(ShardId),
}

/// By which interface a frame leaves, and by what right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Exit {
    pub(crate) link: Link,
    pub(crate) authority: Authority,
}

/// Where whoever sent a packet is told about it, and by what right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Back {
    pub(crate) exit: Exit,
    /// The sender's address on its link. Inside a packet may have another one (D17).
    pub(crate) sender: Ipv4Addr,
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

/// Whether something has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum News {
    No,
    Yes,
}
