//! What is under way between simulated machines.

use bytes::Bytes;
use engine::event::Authority;
use engine::ids::{Link, NodeId};

/// What arrives at a node.
pub(super) enum Arrival {
    Peer {
        from: NodeId,
        channel: u32,
        bytes: Bytes,
    },
    Frame {
        link: Link,
        frame: Vec<u8>,
    },
    /// A frame that the worker has judged and that waits in front of the wire.
    Leaving(Leaving),
}

/// A judged frame.
pub(super) struct Leaving {
    pub(super) link: Link,
    pub(super) authority: Authority,
    pub(super) frame: Vec<u8>,
    /// It waited: its mapping was looked up when it was judged. What the network delivers late, it delivers late.
    pub(super) judged: Judged,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Judged {
    Now,
    Before,
}
