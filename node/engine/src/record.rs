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
    /// Anything but TCP gone idle.
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

impl CloseReason {
    const ALL: [Self; 7] =
        [Self::Fin, Self::Rst, Self::Idle, Self::IdleRfc, Self::Reclaim, Self::Policy, Self::Service];

    /// As it is written.
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    /// The reason that is written so.
    pub(crate) fn of_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl HoldClass {
    /// All classes, in the order of their discriminants.
    pub const ALL: [Self; HOLD_CLASSES] =
        [Self::Fin, Self::Rst, Self::IdleDatagram, Self::IdleStream, Self::IdleDatagramRfc, Self::Service];

    /// The class that a mapping of `proto` falls into when it closes for `reason` (D6).
    #[must_use]
    pub const fn of(reason: CloseReason, proto: Proto) -> Self {
        match (reason, proto.manner()) {
            (CloseReason::Fin, _) => Self::Fin,
            (CloseReason::Rst, _) => Self::Rst,
            (CloseReason::Service, _) => Self::Service,
            (CloseReason::Idle, Manner::Query | Manner::Datagram) | (CloseReason::IdleRfc, Manner::Query) => {
                Self::IdleDatagram
            }
            (CloseReason::IdleRfc, Manner::Datagram) => Self::IdleDatagramRfc,
            (CloseReason::Idle | CloseReason::IdleRfc, Manner::Stream)
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

/// What a mapping is for: under which right it stands, so who may end it, and what had to be committed before its packets
/// pass ([`Scenario::class`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Scenario {
    /// A port of the backend's grant on a frontend of its pool (S3).
    Pool = 0,
    /// A port of its grant on an address that the system chose (S4).
    Default = 1,
    /// The instance's own public address, begun by the instance (S2).
    OwnOut = 2,
    /// The same, begun by the remote (S23).
    OwnIn = 3,
    /// A load-balancing or NAT rule at the public end (S21, D17).
    Rule = 4,
    /// Between two private ends: nothing is translated (S41).
    Private = 5,
}

/// What is committed when.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CommitClass {
    /// The mapping before its first packet leaves (W1, I6).
    BeforeFirst,
    /// The mapping behind its first packet, before any other: the control log implies it (W2).
    BehindFirst,
    /// The mapping before the packet that completes the handshake goes in (W3).
    BeforeAnswered,
    /// Nothing where no group judges, else as `BehindFirst` (W4).
    Private,
}

impl Scenario {
    /// All, in the order of their discriminants.
    pub const ALL: [Self; 6] = [Self::Pool, Self::Default, Self::OwnOut, Self::OwnIn, Self::Rule, Self::Private];

    /// When its mappings are committed.
    #[must_use]
    pub const fn class(self) -> CommitClass {
        match self {
            Self::Pool | Self::Default => CommitClass::BeforeFirst,
            Self::OwnOut => CommitClass::BehindFirst,
            Self::OwnIn | Self::Rule => CommitClass::BeforeAnswered,
            Self::Private => CommitClass::Private,
        }
    }

    /// Whether its flows are begun by remotes.
    #[must_use]
    pub const fn comes_in(self) -> bool {
        matches!(self, Self::OwnIn | Self::Rule)
    }

    /// The class that a mapping falls into when it closes (D6). What a remote begins keeps its tuple no longer than it must: no
    /// other port waits for it, and the same client may come back by it (W3).
    #[must_use]
    pub const fn hold_class(self, reason: CloseReason, proto: Proto) -> HoldClass {
        match self.class() {
            CommitClass::BeforeAnswered => HoldClass::Service,
            CommitClass::BeforeFirst | CommitClass::BehindFirst | CommitClass::Private => HoldClass::of(reason, proto),
        }
    }

    /// Its name in answers.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Default => "default",
            Self::OwnOut => "own address",
            Self::OwnIn => "own address, inbound",
            Self::Rule => "rule",
            Self::Private => "private",
        }
    }
}

/// Transport protocol of a mapping, by IANA's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, bincode::Encode, bincode::Decode)]
#[repr(u8)]
pub enum Proto {
    /// ICMP query (echo).
    Icmp = 1,
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// GRE (RFC 2784): no ports.
    Gre = 47,
    /// ESP (RFC 4303): no ports.
    Esp = 50,
    /// SCTP (RFC 9260).
    Sctp = 132,
}

/// How the flows of a protocol begin and end, as a translator sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// Requests and replies are told apart.
    Query,
    /// Segments say where the connection begins and ends.
    Stream,
    /// Any packet may be the first, and none is the last: only silence ends the flow.
    Datagram,
}

impl Proto {
    /// All protocols that are translated. A new one goes to the end.
    pub const ALL: [Self; 6] = [Self::Icmp, Self::Tcp, Self::Udp, Self::Gre, Self::Esp, Self::Sctp];

    /// The protocol of this number, if it is translated.
    #[must_use]
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|proto| *proto as u8 == number)
    }

    /// Position in `ALL`.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Icmp => 0,
            Self::Tcp => 1,
            Self::Udp => 2,
            Self::Gre => 3,
            Self::Esp => 4,
            Self::Sctp => 5,
        }
    }

    /// How its flows begin and end. An association of SCTP is a flow of datagrams here: how it ends is not watched.
    #[must_use]
    pub const fn manner(self) -> Manner {
        match self {
            Self::Icmp => Manner::Query,
            Self::Tcp => Manner::Stream,
            Self::Udp | Self::Gre | Self::Esp | Self::Sctp => Manner::Datagram,
        }
    }

    /// Whether nothing but addresses is changed in its packets (S2): they have no port, or one that no public end may change. Behind an address that
    /// several share nothing would tell whose an answer is.
    #[must_use]
    pub const fn is_by_address(self) -> bool {
        matches!(self, Self::Gre | Self::Esp | Self::Sctp)
    }

    /// Whether its packets say from which port to which they go. Both ends of a flow of any other have port 0 (an echo's has its
    /// identifier).
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sctp)
    }

    /// Its name in metrics, answers and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Gre => "gre",
            Self::Esp => "esp",
            Self::Sctp => "sctp",
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

const UNTRANSLATED: u32 = 1 << 31;

/// What stands for a frontend in the public key of a mapping whose backend keeps its own address (S41); no public address has such a
/// number.
#[must_use]
pub const fn untranslated(BackendId(id): BackendId) -> FrontendId {
    FrontendId(id | UNTRANSLATED)
}

/// Whether a mapping's public end is its inside end.
#[must_use]
pub const fn is_untranslated(frontend: FrontendId) -> bool {
    frontend.0 & UNTRANSLATED != 0
}

/// The inside of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, bincode::Encode, bincode::Decode)]
pub struct InsideKey {
    /// Virtual network.
    pub vnet: VnetId,
    /// The backend's address and port.
    pub endpoint: Endpoint,
}

/// A mapping that comes to life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Open {
    /// The public side.
    pub public: PublicKey,
    /// The inside.
    pub inside: InsideKey,
    /// Whose it is; the port comes from its lease, if the scenario has any.
    pub backend: BackendId,
    /// Under which right it stands.
    pub scenario: Scenario,
}

/// One replicated change of a shard's mappings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowRecord {
    /// A mapping comes to life. On an occupied public key it is a no-op (F3).
    Open(Open),
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

impl FlowRecord {
    /// That of its mapping; a fence is for all.
    #[must_use]
    pub const fn proto(&self) -> Option<Proto> {
        match self {
            Self::Open(Open { public, .. }) | Self::Close { public, .. } => Some(public.proto),
            Self::Fence { .. } => None,
        }
    }
}

/// One record of a scan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanRecord {
    /// The mapping.
    pub open: Open,
    /// Its hold; `None`: it lives.
    pub held: Option<HoldClass>,
    /// The entry that wrote it last.
    pub written_at: LogIndex,
}

impl ScanRecord {
    /// How its hold is written: 0 without, else 1 + class.
    pub(crate) fn state(&self) -> u8 {
        self.held.map_or(0, |class| 1 + class as u8)
    }

    /// What is written so; `None`: nothing is.
    pub(crate) fn of(open: Open, state: u8, written_at: LogIndex) -> Option<Self> {
        let held = match usize::from(state).checked_sub(1) {
            None => None,
            Some(class) => Some(*HoldClass::ALL.get(class)?),
        };
        Some(Self { open, held, written_at })
    }
}
