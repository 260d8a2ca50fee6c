//! Counters of one member.

use std::collections::BTreeMap;

use super::FastPath;
use serde::{Deserialize, Serialize};

/// What a member has counted in this life.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counted {
    /// Frames that the engine was given.
    pub received: u64,
    /// Frames that it had sent on.
    pub transmitted: u64,
    /// Frames that it made itself.
    pub originated: u64,
    /// Frames that ended here by right: ARP and the like.
    pub absorbed: u64,
    /// Frames that wait for a commit or a neighbour.
    pub parked: u64,
    /// Frames handed to the owner of their shard.
    pub forwarded: u64,
    /// Received is the sum of the others (I51).
    pub balanced: bool,
    /// Dropped frames by reason; reasons without a drop are left out.
    pub drops: BTreeMap<String, u64>,
    /// How long first packets were parked.
    pub hold: HistogramCounts,
    /// From the proposal of a batch to its commit.
    pub commit: HistogramCounts,
    /// From the last word of a former leader to serving here.
    pub failover: HistogramCounts,
    /// Changes of each shard's owner that this member was told of.
    pub leader_changes: BTreeMap<String, u64>,
    /// Mappings by protocol.
    pub snat: Vec<SnatCounts>,
    /// The inside interfaces, by name.
    pub inside: BTreeMap<String, LinkCounts>,
    /// The outside interface.
    pub outside: LinkCounts,
    /// Elections won by this member, in all.
    pub elections: u64,
    /// And by shard.
    pub elections_by_shard: BTreeMap<String, u64>,
    /// Frames of peers that were dropped, by reason.
    pub frame_drops: BTreeMap<String, u64>,
    /// Frames that the kernel's egress guard judged; none without a guard.
    pub guard: Option<GuardCounts>,
    /// How often that guard was missing and was put back.
    pub guard_put_back: u64,
    /// The kernel's fast path.
    pub fast: FastPath,
    /// Who else came to the peer port.
    pub peers: PeerCounts,
    /// All data links that shards need are up.
    pub links_up: bool,
    /// The address-translation log.
    pub nat_log: LogCounts,
}

/// The same of all members.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CountedTogether {
    /// One for each that answered, by its number.
    pub members: Vec<MemberCounts>,
    /// Those that did not.
    pub silent: Vec<u32>,
}

/// What one member counted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberCounts {
    /// The member.
    pub node: u32,
    /// Its counters.
    pub counted: Counted,
}

/// A histogram of durations.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HistogramCounts {
    /// How many.
    pub count: u64,
    /// Their sum, in nanoseconds.
    pub sum_ns: u64,
    /// Buckets that are not empty: upper end in nanoseconds (none: without end) and count.
    pub buckets_ns: Vec<(Option<u64>, u64)>,
}

/// Mappings of one protocol that were asked of this member as owner.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SnatCounts {
    /// `tcp`, `udp` or `icmp`.
    pub proto: String,
    /// Proposed.
    pub pending: u64,
    /// Committed.
    pub successful: u64,
    /// Refused or lost.
    pub failed: u64,
    /// Closed.
    pub closed: u64,
}

/// One data interface. See `netio::port::PortStats`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkCounts {
    /// Frames given to the worker.
    pub received: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Frames too short for an Ethernet header.
    pub received_short: u64,
    /// Frames that the kernel dropped because its receive buffer was full.
    pub kernel_drops: u64,
    /// Times that receiving ended because every buffer was in use.
    pub out_of_buffers: u64,
    /// Times that receiving ended with another error.
    pub receive_errors: u64,
    /// Frames that the kernel took.
    pub transmitted: u64,
    /// Frames that the last check of the lease refused.
    pub refused_by_check: u64,
    /// Frames that the kernel refused: the guard, or a full queue.
    pub refused_by_kernel: u64,
    /// Frames refused because the link was down.
    pub link_down: u64,
    /// Frames refused for another reason.
    pub transmit_errors: u64,
    /// Frames that found no free buffer.
    pub no_buffer: u64,
}

/// Callers at the peer port that got no link. See `netio::quic::TransportStats`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PeerCounts {
    /// Connections refused: foreign or expired certificate, or a node that is no member.
    pub refused: u64,
    /// Handshakes that were not begun, being too many.
    pub turned_away: u64,
    /// Handshakes that were asked to prove their address first, members' too.
    pub retried: u64,
    /// Handshake packets dropped unread, being too many.
    pub sieved: u64,
}

/// What the egress guard passed and dropped, in frames. See `netio::guard::GuardCounters`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GuardCounts {
    /// Passed: from a vMAC within the lease.
    pub pass_lease: u64,
    /// Passed: to a peer's MAC.
    pub pass_forward: u64,
    /// Passed: from the own MAC within the grace.
    pub pass_grace: u64,
    /// Dropped: from a vMAC outside of the lease.
    pub drop_lease: u64,
    /// Dropped: from the own MAC after the grace.
    pub drop_grace: u64,
    /// Dropped: an address of no shard.
    pub drop_address: u64,
    /// Dropped: ARP of the node's own stack.
    pub drop_arp: u64,
    /// Dropped: neither ARP nor plain IPv4.
    pub drop_protocol: u64,
    /// Dropped: a foreign source MAC.
    pub drop_source: u64,
    /// Dropped: too short.
    pub drop_short: u64,
}

/// The address-translation log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogCounts {
    /// Lines written.
    pub written: u64,
    /// Lines that could not be written.
    pub failed: u64,
    /// Lines about ports that found no room on their way to it.
    pub dropped: u64,
    /// Mappings that found no room on their way to it.
    pub sessions_lost: u64,
}
