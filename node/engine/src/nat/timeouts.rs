//! How long a mapping may be silent (S13, D7, D26, R4, R14, R15, R18), and what its end is called then. Pure.

use words::time::MS;
use words::time::SECOND_NS;

use super::tcp::{Phase, Track};
use crate::flow::{Record, Seen};
use crate::record::{CloseReason, Manner, Proto, Scenario};
use crate::rules::Rules;
use crate::snapshot::{Backend, Params, Profile};

/// Silence after a believed reset, profile `azure` (R18).
const RESET_AZURE_NS: u64 = 16 * SECOND_NS;
/// Half open, closing or reset (RFC 5382 REQ-5, RFC 7857 section 2).
const TRANSITORY_NS: u64 = 240 * SECOND_NS;
/// Established TCP, profile `rfc`: 2 h 4 min (RFC 5382 REQ-5).
const ESTABLISHED_RFC_NS: u64 = 7_440 * SECOND_NS;
/// Datagrams, profile `rfc` (RFC 4787 REQ-5 recommends five minutes).
const UDP_RFC_NS: u64 = 300 * SECOND_NS;
/// ICMP queries, profile `rfc` (RFC 5508 REQ-2).
const QUERY_RFC_NS: u64 = 60 * SECOND_NS;
/// After the reply of a well-known datagram service (D26).
const ANSWERED_NS: u64 = 10 * SECOND_NS;
/// After both FINs, if the close could not be proposed at once.
const FINISHED_NS: u64 = 2 * SECOND_NS;

/// No mapping ends after less silence, since no rule's timeout is below 4 min (S13); so an idle sweep can pass over most at a
/// glance.
pub(crate) const SHORTEST_NS: u64 = FINISHED_NS;

/// Where no rule says another one (S2).
const IDLE_TIMEOUT_MS: u32 = 240_000;

/// What a rule says about the life of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Terms {
    profile: Profile,
    idle_timeout_ms: u32,
}

impl Terms {
    /// Of a mapping of `backend`: by the rule that it came in by, else as the backend's flows live.
    pub(crate) fn of(record: &Record, backend: &Backend, rules: &Rules) -> Self {
        let rule = rules.of(&record.public()).filter(|_| record.scenario() == Scenario::Rule);
        match (rule, record.scenario()) {
            (Some(rule), _) => Self { profile: Profile::Azure, idle_timeout_ms: rule.idle_timeout_ms },
            // An outbound rule speaks of its pool's ports only.
            (None, Scenario::OwnOut | Scenario::OwnIn) => {
                Self { profile: Profile::Azure, idle_timeout_ms: IDLE_TIMEOUT_MS }
            }
            (None, Scenario::Pool | Scenario::Default | Scenario::Rule | Scenario::Private) => {
                Self { profile: backend.profile, idle_timeout_ms: backend.idle_timeout_ms }
            }
        }
    }
}

/// The silence that ends the mapping, and the reason that is then given, by what is `known` of it in this term.
pub(crate) fn silence(record: &Record, known: Track, terms: Terms, params: &Params) -> (u64, CloseReason) {
    let Terms { profile, idle_timeout_ms } = terms;
    let idle_ns = u64::from(idle_timeout_ms) * MS;
    match record.proto.manner() {
        Manner::Stream => tcp(known.phase(), profile, idle_ns),
        Manner::Datagram => {
            let (idle_ns, ended) = match profile {
                Profile::Azure => (idle_ns, CloseReason::Idle),
                Profile::Rfc => (UDP_RFC_NS, CloseReason::IdleRfc),
            };
            match (is_short(record, params), known.is_answered()) {
                (true, true) => (ANSWERED_NS, CloseReason::Service),
                (true, false) => (idle_ns, CloseReason::Service),
                (false, _) => (idle_ns, ended),
            }
        }
        Manner::Query => match profile {
            Profile::Azure => (idle_ns, CloseReason::Idle),
            Profile::Rfc => (QUERY_RFC_NS, CloseReason::Idle),
        },
    }
}

fn tcp(phase: Phase, profile: Profile, idle_ns: u64) -> (u64, CloseReason) {
    match (phase, profile) {
        // The close could not be proposed when it was due.
        (Phase::Finished, _) => (FINISHED_NS, CloseReason::Fin),
        (Phase::Reset, Profile::Azure) => (RESET_AZURE_NS, CloseReason::Rst),
        (Phase::Reset, Profile::Rfc) => (TRANSITORY_NS, CloseReason::Rst),
        (Phase::HalfOpen, Profile::Azure) => (idle_ns.min(TRANSITORY_NS), CloseReason::Idle),
        (Phase::HalfOpen | Phase::Closing, Profile::Rfc) => (TRANSITORY_NS, CloseReason::Idle),
        (Phase::Closing | Phase::Established, Profile::Azure) => (idle_ns, CloseReason::Idle),
        (Phase::Established, Profile::Rfc) => (ESTABLISHED_RFC_NS, CloseReason::Idle),
    }
}

/// A datagram came from the remote of a mapping that awaits it. It never makes a mapping live longer (R5); the first answer of
/// a well-known service makes it live shorter (D26, RFC 4787 REQ-5c).
pub(crate) fn note_answer(record: &mut Record, terms: Terms, params: &Params, now_ns: u64) {
    let end = record.last_seen.ns().saturating_add(silence(record, record.tcp, terms, params).0);
    if now_ns.saturating_add(ANSWERED_NS) < end {
        record.tcp.answer();
        record.last_seen = Seen::at(now_ns);
    }
}

/// Whether the next datagram from its remote is the one that shortens its life.
pub(crate) fn awaits_answer(record: &Record, params: &Params) -> bool {
    is_short(record, params) && !record.tcp.is_answered()
}

/// Whether its remote end is a service whose mappings end soon after the reply (D26).
pub(crate) fn is_short(record: &Record, params: &Params) -> bool {
    let asked = record.proto == Proto::Udp && !record.scenario().comes_in();
    asked && record.remote.port != 0 && params.short_idle_ports.contains(&record.remote.port)
}
