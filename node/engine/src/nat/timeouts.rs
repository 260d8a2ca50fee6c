//! How long a mapping may be silent (S13, D7, D26, R4, R14, R15, R18), and what its end is called then. Pure.

use super::tcp::Phase;
use crate::flow::Record;
use crate::record::{CloseReason, Proto};
use crate::snapshot::{Backend, Params, Profile};

const SEC: u64 = 1_000_000_000;
/// Silence after a believed reset, profile `azure` (R18).
const RESET_AZURE_NS: u64 = 16 * SEC;
/// Half open, closing or reset (RFC 5382 REQ-5, RFC 7857 section 2).
const TRANSITORY_NS: u64 = 240 * SEC;
/// Established TCP, profile `rfc`: 2 h 4 min (RFC 5382 REQ-5).
const ESTABLISHED_RFC_NS: u64 = 7_440 * SEC;
/// UDP, profile `rfc` (RFC 4787 REQ-5 recommends five minutes).
const UDP_RFC_NS: u64 = 300 * SEC;
/// ICMP queries, profile `rfc` (RFC 5508 REQ-2).
const QUERY_RFC_NS: u64 = 60 * SEC;
/// After the reply of a well-known datagram service (D26).
pub(crate) const ANSWERED_NS: u64 = 10 * SEC;
/// No mapping ends after less silence.
pub(crate) const SHORTEST_NS: u64 = ANSWERED_NS;

/// The silence that ends the mapping, and the reason that is then given.
pub(crate) fn silence(record: &Record, backend: &Backend, params: &Params) -> (u64, CloseReason) {
    let idle_ns = u64::from(backend.idle_timeout_ms) * 1_000_000;
    match record.proto {
        Proto::Tcp => tcp(record.tcp.phase(), backend.profile, idle_ns),
        Proto::Udp if is_short(record, params) && record.tcp.is_answered() => (ANSWERED_NS, CloseReason::Answered),
        Proto::Udp => match backend.profile {
            Profile::Azure => (idle_ns, CloseReason::Idle),
            Profile::Rfc => (UDP_RFC_NS, CloseReason::Idle),
        },
        Proto::Icmp => match backend.profile {
            Profile::Azure => (idle_ns, CloseReason::Idle),
            Profile::Rfc => (QUERY_RFC_NS, CloseReason::Idle),
        },
    }
}

fn tcp(phase: Phase, profile: Profile, idle_ns: u64) -> (u64, CloseReason) {
    match (phase, profile) {
        (Phase::Reset, Profile::Azure) => (RESET_AZURE_NS, CloseReason::Rst),
        (Phase::Reset, Profile::Rfc) => (TRANSITORY_NS, CloseReason::Rst),
        (Phase::HalfOpen, Profile::Azure) => (idle_ns.min(TRANSITORY_NS), CloseReason::Idle),
        (Phase::HalfOpen | Phase::Closing, Profile::Rfc) => (TRANSITORY_NS, CloseReason::Idle),
        (Phase::Closing | Phase::Established, Profile::Azure) => (idle_ns, CloseReason::Idle),
        (Phase::Established, Profile::Rfc) => (ESTABLISHED_RFC_NS, CloseReason::Idle),
    }
}

/// Whether the remote is a datagram service whose mappings end soon after its reply (D26, RFC 4787 REQ-5c).
pub(crate) fn is_short(record: &Record, params: &Params) -> bool {
    record.proto == Proto::Udp && record.remote.port != 0 && params.short_idle_ports.contains(&record.remote.port)
}
