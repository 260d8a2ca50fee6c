//! What a shard's flow group replicates: packed entries of a header and records. The byte layout is part of the
//! protocol.

pub use words::{Addr, Endpoint};

use crate::ids::{BackendId, ControlIndex, FrontendId, LogIndex, PortBlock, Term, VnetId};

/// Number of hold classes.
pub const HOLD_CLASSES: usize = 6;
/// The first so many have a length that is configured; the others last as long as they must (F6).
pub const HOLDS_CONFIGURED: usize = 5;

/// Why a mapping holds its port towards one remote after it closed (D6); the first ones index `Params::hold_ms`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum HoldClass {
    /// TCP closed by FIN in both directions.
    Fin = 0,
    /// TCP closed by a reset.
    Rst = 1,
    /// UDP or ICMP gone idle.
    IdleDatagram = 2,
    /// TCP gone idle, and everything closed by reclaim or policy.
    IdleStream = 3,
    /// UDP gone idle, profile `rfc`.
    IdleDatagramRfc = 4,
    /// A query to a well-known datagram service is over: no longer than a hold must be (D26).
    Service = 5,
}

/// Why a mapping was closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, bincode::Encode, bincode::Decode)]
pub enum CloseReason {
    /// Both sides sent FIN.
    Fin,
    /// A believed reset.
    Rst,
    /// No packet within the idle timeout.
    Idle,
    /// The same of a datagram flow whose backend has the profile `rfc`: it is held longer (D6).
    IdleRfc,
    /// Its port block is taken back.
    Reclaim,
    /// A rule or resource that allowed it is gone.
    Policy,
    /// A flow to a well-known datagram service is over: answered, or never (D26).
    Service,
}

impl HoldClass {
    /// All classes, in the order of their discriminants.
    pub const ALL: [Self; HOLD_CLASSES] =
        [Self::Fin, Self::Rst, Self::IdleDatagram, Self::IdleStream, Self::IdleDatagramRfc, Self::Service];

    /// The class that a mapping of `proto` falls into when it closes for `reason` (D6).
    #[must_use]
    pub const fn of(reason: CloseReason, proto: Proto) -> Self {
        match (reason, proto) {
            (CloseReason::Fin, _) => Self::Fin,
            (CloseReason::Rst, _) => Self::Rst,
            (CloseReason::Service, _) => Self::Service,
            (CloseReason::Idle, Proto::Icmp | Proto::Udp) | (CloseReason::IdleRfc, Proto::Icmp) => Self::IdleDatagram,
            (CloseReason::IdleRfc, Proto::Udp) => Self::IdleDatagramRfc,
            (CloseReason::Idle | CloseReason::IdleRfc, Proto::Tcp)
            | (CloseReason::Reclaim | CloseReason::Policy, _) => Self::IdleStream,
        }
    }

    /// Its name in answers.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Rst => "rst",
            Self::IdleDatagram => "idledatagram",
            Self::IdleStream => "idlestream",
            Self::IdleDatagramRfc => "idledatagramrfc",
            Self::Service => "service",
        }
    }

    /// Position in per-class arrays.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Fin => 0,
            Self::Rst => 1,
            Self::IdleDatagram => 2,
            Self::IdleStream => 3,
            Self::IdleDatagramRfc => 4,
            Self::Service => 5,
        }
    }
}

/// First bytes of every flow entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, bincode::Encode, bincode::Decode)]
pub struct EntryHeader {
    /// The term in which the worker judged the records (F1).
    pub term: Term,
    /// Which of the worker's streams the entry belongs to; grows with every restart (F1). Tells the worker when all
    /// that it had in flight before a restart is behind it.
    pub stream: u32,
    /// Running number of the entry in its stream (F1).
    pub sequence: u64,
    /// The control state under which it judged them (F2).
    pub control_index: ControlIndex,
    /// Per hold class: holds of `Close` records at or below this index have ended (F6).
    pub holds_ended: [LogIndex; HOLD_CLASSES],
    /// The orphan grace in force (F6).
    pub orphan_grace_ms: u32,
    /// The hold lengths in force (F6).
    pub hold_ms: [u32; HOLD_CLASSES],
    /// How many records follow.
    pub records: u32,
}

/// Transport protocol of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, bincode::Encode, bincode::Decode)]
#[repr(u8)]
pub enum Proto {
    /// ICMP query (echo).
    Icmp = 1,
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
}

impl Proto {
    /// All protocols that are translated.
    pub const ALL: [Self; 3] = [Self::Icmp, Self::Tcp, Self::Udp];

    /// Its name in metrics, answers and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The public side of a mapping: unique among live and held ones (S7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, bincode::Encode, bincode::Decode)]
pub struct PublicKey {
    /// Protocol.
    pub proto: Proto,
    /// The frontend; its address is in the snapshot.
    pub frontend: FrontendId,
    /// The public port or ICMP identifier.
    pub port: u16,
    /// The remote end.
    pub remote: Endpoint,
}

/// The inside of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, bincode::Encode, bincode::Decode)]
pub struct InsideKey {
    /// Virtual network.
    pub vnet: VnetId,
    /// The backend's address and port.
    pub endpoint: Endpoint,
}

/// One replicated change of a shard's mappings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, bincode::Encode, bincode::Decode)]
pub enum FlowRecord {
    /// A mapping comes to life. On an occupied public key it is a no-op (F3).
    Open {
        /// The public side.
        public: PublicKey,
        /// The inside.
        inside: InsideKey,
        /// Whose lease the port comes from.
        backend: BackendId,
    },
    /// A mapping ends and its port is held (F6).
    Close {
        /// The public side.
        public: PublicKey,
        /// Why; decides the hold class together with the protocol.
        reason: CloseReason,
    },
    /// Nothing is or will be opened on the block under this reclaim (F4).
    Fence {
        /// The drained block.
        block: PortBlock,
        /// Which reclaim of it.
        reclaim_index: ControlIndex,
    },
}
