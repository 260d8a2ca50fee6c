//! The worker's boundary: what the flow groups tell it, and what it answers. Order matters in both directions.

use bytes::Bytes;
pub use words::GroupEvent;

use crate::ids::{ControlIndex, Link, LogIndex, PortBlock, ShardId, Term};

/// From the worker to the flow groups and the control side.
#[derive(Clone, Debug)]
pub enum WorkerOutput {
    /// An entry to replicate, judged in `term`; `stream` numbers the worker's restarts, `sequence` the batches in it (F1).
    Propose { shard: ShardId, term: Term, stream: u32, sequence: u64, entry: Bytes },
    /// The table of the replica of `epoch` is whole, stands at `index` and has seen `control_index` as the greatest of its
    /// entries' headers.
    Applied { shard: ShardId, epoch: u32, index: LogIndex, control_index: ControlIndex },
    /// Serving in this term has begun, or cannot (F7).
    Serving { shard: ShardId, term: Term, state: Result<(), NotServing> },
    /// The snapshot that packets are judged by now.
    SnapshotLoaded { control_index: ControlIndex },
    /// A fence committed in `epoch`: the block may be reported as reclaimed (F5).
    Fenced { shard: ShardId, epoch: u32, block: PortBlock, reclaim_index: ControlIndex },
    /// Answer to `Scan`. The first chunk's `base` is the index that the scan is made exact from; with the last one
    /// `until` is the index up to which records in the chunks may have been written.
    Chunk { shard: ShardId, transfer: u64, base: LogIndex, until: LogIndex, last: Last, chunk: Bytes },
}

/// Whether more chunks follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// More follow.
    No,
    /// This was all.
    Yes,
}

/// Why a leader does not serve yet (F7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotServing {
    /// Its first own entry is not applied.
    OwnTermNotApplied,
    /// Its loaded snapshot is older than its flow log (F2).
    ControlBehind,
    /// The lease does not run.
    NoLease,
    /// The outside interface is down, or all that lead to the shard's backends.
    LinkDown,
    /// A predecessor may still serve (N4 wait).
    Waiting,
}

impl NotServing {
    /// The reason in answers and log lines.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::OwnTermNotApplied => "own term not applied",
            Self::ControlBehind => "configuration behind the flow log",
            Self::NoLease => "no lease",
            Self::LinkDown => "data link down",
            Self::Waiting => "waiting for a predecessor",
        }
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the frame, rewritten in place, by `link`, if `authority` still holds at that moment.
    Transmit { link: Link, authority: Authority },
    /// The engine kept a copy (a first packet waiting for its commit, or for a neighbour) or answered it itself.
    Consumed,
    /// Drop it; already counted.
    Drop(DropReason),
}

/// By what right a frame leaves (rules L4, L5, M1); the last check before the wire repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// From the shard's vMAC, within the lease of this term.
    Lease { shard: ShardId, term: Term },
    /// From the node's own MAC, within the orphan grace.
    Grace { shard: ShardId },
    /// Untranslated to the owner, from the node's own MAC; or, if it is addressed to a shard's virtual MAC, to the worker of
    /// this member that has the shard, and never by a link.
    Forward,
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal),* $(,)?) => {
        /// Why a frame was dropped. Every drop has one; the label is the metric's `reason`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name),* }

        impl DropReason {
            /// All reasons, in the order of their discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The label used in metrics and in `-o json`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its headers claim.
    Truncated = "truncated",
    /// Version, IHL, data offset or lengths that contradict each other.
    Malformed = "malformed",
    /// IPv4 header, TCP, UDP or ICMP checksum wrong.
    BadChecksum = "bad_checksum",
    /// Neither IPv4 nor ARP.
    UnknownEtherType = "unknown_ethertype",
    /// IPv6: keys are wide enough, the parser is not built.
    Ipv6 = "ipv6",
    /// A protocol, or a kind of ICMP message, that cannot be translated.
    UnknownProtocol = "unknown_protocol",
    /// An ICMP error about something that this gateway cannot have translated, or to somebody else than its sender.
    IcmpQuote = "icmp_quote",
    /// A first fragment without its whole transport header, or one that would lie over it (RFC 1858, RFC 3128).
    FragmentTiny = "fragment_tiny",
    /// A fragment that lies over others of its datagram, or belongs to such a datagram.
    FragmentOverlap = "fragment_overlap",
    /// Too many fragments, or too many octets of them, wait.
    FragmentLimit = "fragment_limit",
    /// The first fragment did not come.
    FragmentTimeout = "fragment_timeout",
    /// Segments that were merged to more than an IPv4 packet may have (`gso_ipv4_max_size` or `gro_ipv4_max_size` of the
    /// interface that sent them is above 65536), or within a tunnel, where nothing says how to cut them again.
    SuperPacket = "super_packet",
    /// Larger than the link it would leave by, and not to be fragmented.
    TooBig = "too_big",
    /// TTL would reach 0.
    TtlExpired = "ttl_expired",
    /// Source is not a backend of this network, or an address that must not be a source.
    SpoofedSource = "spoofed_source",
    /// Destination is no unicast public address.
    MartianDestination = "martian_destination",
    /// Destination is private: of the backend's own network, or of private space that nothing routes (S1).
    PrivateDestination = "private_destination",
    /// To the platform's address, and not the answer to a probe (S35).
    PlatformAddress = "platform_address",
    /// A security group denies the flow (S26).
    SecurityRule = "security_rule",
    /// IP source-route and similar options.
    IpOptions = "ip_options",
    /// TCP flags that no stack sends.
    BadFlags = "bad_flags",
    /// A return packet without a mapping.
    NoMapping = "no_mapping",
    /// A protocol that is translated by address alone, at an address that is not one backend's own (S2): nothing would tell whose an
    /// answer is.
    NoOwnAddress = "no_own_address",
    /// A protocol whose mappings the log cannot hold at the cluster's level (C2).
    ClusterLevel = "cluster_level",
    /// The backend has no outbound path.
    NoOutboundPath = "no_outbound_path",
    /// The backend has no outbound path but the system's addresses, which its subnet does not have (D11).
    DefaultOutboundOff = "default_outbound_off",
    /// A rule leads to nobody: its pool is empty, or all of it is down (S22).
    NoBackend = "no_backend",
    /// All ports of the lease are in use towards this remote (S12).
    PortsExhausted = "ports_exhausted",
    /// Held-packet limit of the backend or of the worker.
    HoldLimit = "hold_limit",
    /// Flow table full.
    TableFull = "table_full",
    /// The backend has as many flows as it may have.
    FlowLimit = "flow_limit",
    /// The backend opens flows faster than it may.
    RateLimit = "rate_limit",
    /// A mapping must be opened and this node may not: not serving, or without a lease for as long as a packet may wait for it.
    NotOwner = "not_owner",
    /// Owner unknown, or the frame was forwarded once already (M1).
    NoForward = "no_forward",
    /// Flooded by a switch; not meant for this node.
    NotForUs = "not_for_us",
    /// The lease ended between verdict and transmission.
    LeaseLapsed = "lease_lapsed",
    /// Leadership was lost while the packet waited for its commit (F8).
    TermLost = "term_lost",
    /// The commit refused the mapping (F3), or waiting for it took too long.
    OpenRefused = "open_refused",
    /// No neighbour answered.
    NoNeighbour = "no_neighbour",
    /// This member has no interface to the packet's virtual network.
    NoLink = "no_link",
    /// Not on the outside network, and there is no next hop.
    NoRoute = "no_route",
    /// A packet that does not open a flow arrived without one (TCP without SYN).
    NotFirstPacket = "not_first_packet",
    /// The ring to the flow groups is full.
    Backpressure = "backpressure",
    /// A client's first packet, by a rule or to an own address: the worker is behind, and all half-open flows that this address may
    /// have are taken (W3).
    Flooded = "flooded",
    /// The transmit queue, or the lane to another worker, is full, or the device refused the frame.
    TransmitFailed = "transmit_failed",
}
