//! When what an owner's stream has gathered is proposed: at once, or so late that more is in one entry (F9). Each entry wakes
//! a thread of every member, whatever is in it. Below [`BUSY_OPENS`] new flows nothing waits but what nobody waits for.

use crate::record::{CloseReason, FlowRecord};
use words::time::MS;

/// Mappings opened within [`WINDOW_NS`] from which on an owner is busy: 5,000 a second. Above it CPU counts for more than the
/// time that a first packet waits.
const BUSY_OPENS: u32 = 50;
const WINDOW_NS: u64 = 10 * MS;
/// Longest time for which a busy owner's first packets wait for others; twice the median commit if that is less, so that a cluster
/// of one, whose entries cost next to nothing, hardly waits.
const GATHER_MAX_NS: u64 = MS / 2;
/// So many new flows wait for no more: what an entry costs by itself is little beside them.
const GATHER_OPENS_MAX: u32 = 32;
/// Longest time for which ends of flows wait for anything else: their ports are held for seconds afterwards anyway.
const ENDS_WAIT_NS: u64 = 20 * MS;
/// Ends of flows that do not wait any longer: a peer's time to apply an entry is bounded.
const ENDS_MAX: u32 = 256;

/// What waits in a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Waiting {
    #[default]
    Nothing,
    /// Ends of flows alone, so many.
    Ends(u32),
    /// New flows as well, so many of them.
    Opens(u32),
    /// Something for which somebody waits without a packet's patience.
    Urgent,
}

/// The pace of one shard's stream.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    waiting: Waiting,
    /// When the first look at it was.
    since_ns: Option<u64>,
    window_ns: u64,
    opens: u32,
    opens_before: u32,
    /// Moves towards the median of what commits take.
    commit_ns: u64,
}

impl Pace {
    /// A record has joined what waits.
    pub(crate) const fn joined(&mut self, record: &FlowRecord) {
        self.waiting = match (record, self.waiting) {
            (FlowRecord::Open(_), before) => {
                self.opens += 1;
                match before {
                    Waiting::Urgent => Waiting::Urgent,
                    Waiting::Opens(count) => Waiting::Opens(count + 1),
                    Waiting::Nothing | Waiting::Ends(_) => Waiting::Opens(1),
                }
            }
            (_, Waiting::Urgent) => Waiting::Urgent,
            (
                FlowRecord::Close { reason: CloseReason::Reclaim | CloseReason::Policy, .. } | FlowRecord::Fence { .. },
                _,
            ) => Waiting::Urgent,
            (FlowRecord::Close { .. }, Waiting::Opens(count)) => Waiting::Opens(count),
            (FlowRecord::Close { .. }, Waiting::Ends(count)) => Waiting::Ends(count + 1),
            (FlowRecord::Close { .. }, Waiting::Nothing) => Waiting::Ends(1),
        };
    }

    /// A header that says something new waits.
    pub(crate) const fn urge(&mut self) {
        self.waiting = Waiting::Urgent;
    }

    /// Whether what waits is to be proposed now.
    pub(crate) fn lets_go(&mut self, now_ns: u64) -> bool {
        self.turn_window(now_ns);
        if self.waiting != Waiting::Nothing {
            self.since_ns.get_or_insert(now_ns);
        }
        self.due_ns().is_some_and(|due| now_ns >= due)
    }

    /// When it is to be proposed, as far as it was looked at.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        let wait = match self.waiting {
            Waiting::Nothing => return None,
            Waiting::Ends(count) if count < ENDS_MAX => ENDS_WAIT_NS,
            Waiting::Opens(_) if self.gathers() => GATHER_MAX_NS.min(self.commit_ns * 2),
            Waiting::Ends(_) | Waiting::Opens(_) | Waiting::Urgent => 0,
        };
        Some(self.since_ns?.saturating_add(wait))
    }

    /// Whether new flows wait for others.
    pub(crate) const fn gathers(&self) -> bool {
        matches!(self.waiting, Waiting::Opens(count) if count < GATHER_OPENS_MAX) && self.is_busy()
    }

    /// All that waited is on its way, or forgotten.
    pub(crate) const fn left(&mut self) {
        self.waiting = Waiting::Nothing;
        self.since_ns = None;
    }

    /// A commit has taken so long.
    pub(crate) const fn committed(&mut self, took_ns: u64) {
        let step = self.commit_ns / 16 + 1_000;
        self.commit_ns =
            if took_ns > self.commit_ns { self.commit_ns + step } else { self.commit_ns.saturating_sub(step) };
    }

    const fn is_busy(&self) -> bool {
        self.opens >= BUSY_OPENS || self.opens_before >= BUSY_OPENS
    }

    fn turn_window(&mut self, now_ns: u64) {
        let passed = now_ns.saturating_sub(self.window_ns);
        if passed >= WINDOW_NS {
            self.opens_before = if passed < 2 * WINDOW_NS { self.opens } else { 0 };
            (self.opens, self.window_ns) = (0, now_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::record::{Addr, Endpoint, InsideKey, Open, Proto, PublicKey, Scenario};
    use words::{BackendId, ControlIndex, FrontendId, PortBlock, VnetId};

    const US: u64 = 1_000;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint { addr: Addr::from(Ipv4Addr::new(198, 51, 100, 1)), port }
    }

    fn public() -> PublicKey {
        PublicKey { proto: Proto::Tcp, frontend: FrontendId(3), port: 2048, remote: endpoint(443) }
    }

    fn open() -> FlowRecord {
        let inside = InsideKey { vnet: VnetId(1), endpoint: endpoint(5000) };
        FlowRecord::Open(Open { public: public(), inside, backend: BackendId(8), scenario: Scenario::Pool })
    }

    fn close(reason: CloseReason) -> FlowRecord {
        FlowRecord::Close { public: public(), reason }
    }

    /// When what has joined leaves, if it is first looked at at that moment.
    fn leaves_ns(pace: &mut Pace, now_ns: u64) -> u64 {
        let at_once = pace.lets_go(now_ns);
        let due = pace.due_ns().expect("something waits");
        assert_eq!(at_once, due <= now_ns);
        assert!(pace.lets_go(due));
        pace.left();
        assert_eq!((pace.due_ns(), pace.lets_go(due + 1)), (None, false), "nothing waits any more");
        due
    }

    /// So many opens within a window that is half over at `now_ns`, each on its own.
    fn opened(count: u32, now_ns: u64) -> Pace {
        let mut pace = Pace::default();
        pace.lets_go(now_ns - WINDOW_NS / 2);
        for _ in 0..count {
            pace.joined(&open());
        }
        pace.left();
        pace
    }

    #[test]
    fn below_five_thousand_a_second_a_new_flow_waits_for_no_other() {
        let mut pace = opened(48, 100 * MS);
        (0..1_000).for_each(|_| pace.committed(400 * US));
        pace.joined(&open());
        assert_eq!(leaves_ns(&mut pace, 100 * MS), 100 * MS, "49 in ten milliseconds");
        pace.joined(&open());
        assert!(leaves_ns(&mut pace, 100 * MS) > 100 * MS, "50");
        pace.joined(&open());
        assert!(leaves_ns(&mut pace, 106 * MS) > 106 * MS, "and in the window after it");
        pace.joined(&open());
        assert_eq!(leaves_ns(&mut pace, 126 * MS), 126 * MS, "no longer");
    }

    #[test]
    fn a_busy_owner_gathers_for_twice_the_median_commit_and_half_a_millisecond_at_most() {
        for (took, waits) in [(0, 0..=2 * US), (100 * US, 180 * US..=220 * US), (20 * MS, MS / 2..=MS / 2)] {
            let mut pace = opened(60, 100 * MS);
            for round in 0..2_000_u64 {
                // A third of the commits take much longer; the median is not moved by how much.
                pace.committed(if round % 3 == 0 { took * 50 } else { took });
            }
            pace.joined(&open());
            let waited = leaves_ns(&mut pace, 100 * MS) - 100 * MS;
            assert!(waits.contains(&waited), "{took}: {waited}");
        }
    }

    #[test]
    fn thirty_two_new_flows_wait_for_no_more() {
        let mut pace = opened(60, 100 * MS);
        (0..1_000).for_each(|_| pace.committed(400 * US));
        (1..GATHER_OPENS_MAX).for_each(|_| pace.joined(&open()));
        pace.joined(&close(CloseReason::Fin));
        assert!(!pace.lets_go(100 * MS));
        pace.joined(&open());
        assert!(pace.lets_go(100 * MS));
    }

    #[test]
    fn a_worker_may_rest_while_new_flows_wait_for_others_and_for_nothing_else() {
        let (mut busy, mut calm) = (opened(60, 100 * MS), opened(3, 100 * MS));
        for pace in [&mut busy, &mut calm] {
            assert!(!pace.gathers());
            pace.joined(&close(CloseReason::Fin));
            assert!(!pace.gathers(), "ends of flows are no reason not to hear what comes");
            pace.joined(&open());
        }
        assert_eq!((busy.gathers(), calm.gathers()), (true, false));
        (1..GATHER_OPENS_MAX).for_each(|_| busy.joined(&open()));
        assert!(!busy.gathers(), "it goes now");
        let mut cut = opened(60, 100 * MS);
        cut.joined(&open());
        cut.joined(&close(CloseReason::Policy));
        assert!(!cut.gathers(), "an operator waits");
    }

    #[test]
    fn ends_of_flows_start_no_entry_before_20_ms_and_go_with_any_other() {
        let mut pace = Pace::default();
        pace.joined(&close(CloseReason::Fin));
        pace.joined(&close(CloseReason::Idle));
        assert!(!pace.lets_go(7 * MS) && !pace.lets_go(27 * MS - 1));
        assert_eq!(leaves_ns(&mut pace, 27 * MS), 27 * MS);
        pace.joined(&close(CloseReason::Rst));
        assert!(!pace.lets_go(30 * MS));
        pace.joined(&open());
        assert_eq!(leaves_ns(&mut pace, 31 * MS), 30 * MS, "a new flow waits for none");
        (1..ENDS_MAX).for_each(|_| pace.joined(&close(CloseReason::Service)));
        assert!(!pace.lets_go(40 * MS));
        pace.joined(&close(CloseReason::Service));
        assert!(pace.lets_go(40 * MS), "{ENDS_MAX} are enough");
    }

    #[test]
    fn what_an_operator_waits_for_leaves_at_once() {
        let block = PortBlock { frontend: FrontendId(3), start: 2048, len: 1024 };
        let fence = FlowRecord::Fence { block, reclaim_index: ControlIndex(4) };
        for urgent in [close(CloseReason::Reclaim), close(CloseReason::Policy), fence] {
            let mut pace = opened(60, 100 * MS);
            (0..1_000).for_each(|_| pace.committed(400 * US));
            pace.joined(&close(CloseReason::Fin));
            pace.joined(&urgent);
            pace.joined(&open());
            assert_eq!(leaves_ns(&mut pace, 100 * MS), 100 * MS);
        }
    }
}
