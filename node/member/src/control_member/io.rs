//! What goes into the control half of a member and what comes out of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use control::outcome::Outcome;
use control::port_log::PortBatch;
use control::registry::KeyHash;
use engine::ids::{Incarnation, Mac, NodeId};
use words::time::MS;

use super::job::Job;
use crate::view::View;

/// How often members say that they are there.
pub(super) const ALIVE_NS: u64 = 200 * MS;
/// A member not heard for so long is not counted on.
pub(super) const LIVE_NS: u64 = 2_000 * MS;

/// Time as the member sees it.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// CLOCK_BOOTTIME.
    pub ns: u64,
    /// Wall clock, only stamped into commands.
    pub unix_ms: u64,
}

/// Who this member is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its number, as in its certificate.
    pub node: NodeId,
    /// Where it listens for peers.
    pub peer_addr: SocketAddr,
    /// Where its API listens.
    pub api_addr: SocketAddr,
    /// Its inside interfaces.
    pub inside: Vec<words::InsideInterface>,
    /// MAC of its outside interface.
    pub outside_mac: Mac,
    /// The newest level of the formats that it reads and writes (C2).
    pub level: u16,
    /// The key of its certificate.
    pub key: KeyHash,
    /// The other members that its configuration names.
    pub peers: Vec<NodeId>,
}

/// What the driver has to do.
#[derive(Clone, Debug)]
pub enum ControlOut {
    /// Send on the control channel.
    Send { to: NodeId, frame: Bytes },
    /// Ask this member on the channel for joining.
    Ask { to: NodeId, frame: Bytes },
    /// Answer, on that channel, the node that asked.
    Answer { to: NodeId, frame: Bytes },
    /// A newer version of the state is applied.
    View(Arc<View>),
    /// This node's life is registered.
    Registered(Incarnation),
    /// What became of a submission.
    Done { ticket: u64, result: Result<Outcome, NotDone> },
    /// An entry did something to ports, or the state came whole (R24).
    Ports(PortBatch),
    /// Where the members are, as one of them said to this node that joins: its own configuration may name only some.
    Members(BTreeMap<NodeId, SocketAddr>),
    /// The cluster does not take this node, and why; it goes on asking.
    NotTaken { why: String },
    /// This incarnation is not wanted any more, and never will be again: it was removed, or has a successor.
    Over { why: String },
    /// The disk failed: end this life (C4).
    StoreFailed { reason: String },
    /// Do this, on another thread or here, and bring it to [`super::ControlMember::finish`]: until then nothing is applied.
    Job(Box<Job>),
}

/// Why a submission got no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotDone {
    /// No majority of the control group answered in time.
    #[error("the control group did not answer within 10 s: no majority, or no leader; see `qnat status`")]
    Timeout,
    /// The command cannot be encoded within its size limit.
    #[error("the command is longer than any that the limits allow")]
    TooLarge,
}
