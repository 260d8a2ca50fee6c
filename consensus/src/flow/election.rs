//! When a flow replica campaigns (E1–E3), and the raft configuration that makes it so.
//!
//! raft-rs refuses votes for `election_tick` after a leader's message whatever the voter's own timeout: V is one value for
//! all, and ranks spread the candidates behind it. Pure; used by `FlowGroup` and `FlowGroups`.

use words::Incarnation;

use crate::event::{GroupSpec, Timing};

/// Ranks from here on campaign together: replicas that are leaving or that stop.
pub(super) const RANK_LAST: u32 = 15;
/// Largest append message, and largest entry.
pub(super) const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Entries in flight to one follower.
const INFLIGHT_MAX: usize = 256;
/// Entries of a leader that are not yet committed; more are refused (F1).
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Committed bytes handed out in one round of the ready loop.
const COMMITTED_BYTES_PER_READY: u64 = 4 << 20;

fn ticks(n: u32) -> usize {
    usize::try_from(n).expect("u32 fits in usize")
}

/// Successor rank of `me`: its place among the members other than the last leader, whose silence is why there is an
/// election. That one comes after them, replicas on their way out last.
#[must_use]
pub(super) fn rank(spec: &GroupSpec, me: Incarnation, last_leader: Option<Incarnation>) -> u32 {
    if !spec.members.contains(&me) {
        return RANK_LAST;
    }
    let successors = spec.members.iter().filter(|m| Some(**m) != last_leader);
    let before = successors.take_while(|m| **m != me).count();
    u32::try_from(before).map_or(RANK_LAST, |place| place.min(RANK_LAST))
}

/// The place of a replica whose node cannot serve at present: behind every member that can, and still before or after others
/// of its kind, so that they do not campaign together.
#[must_use]
pub(super) fn behind(spec: &GroupSpec, place: u32) -> u32 {
    let members = u32::try_from(spec.members.len()).unwrap_or(RANK_LAST);
    place.saturating_add(members).min(RANK_LAST)
}

/// Ticks after the last leader's message at which this rank campaigns: V + 2 + 4r (E1).
#[must_use]
pub(super) fn campaign_ticks(timing: &Timing, rank: u32) -> usize {
    ticks(timing.vote_ticks + 2 + 4 * rank.min(RANK_LAST))
}

/// Ticks after which a candidate whose votes got lost asks again.
#[must_use]
pub(super) fn retry_ticks(rank: u32) -> usize {
    ticks(4 + rank.min(RANK_LAST))
}

/// raft's configuration of a replica whose log begins after `applied`.
#[must_use]
pub(super) fn config(me: Incarnation, timing: &Timing, applied: u64) -> raft::Config {
    raft::Config {
        id: me.0,
        election_tick: ticks(timing.vote_ticks),
        heartbeat_tick: ticks(timing.heartbeat_ticks),
        applied,
        max_size_per_msg: MESSAGE_BYTES_MAX,
        max_inflight_msgs: INFLIGHT_MAX,
        check_quorum: true,
        pre_vote: true,
        min_election_tick: ticks(timing.vote_ticks),
        // Above the last rank, or `set_randomized_election_timeout` asserts.
        max_election_tick: campaign_ticks(timing, RANK_LAST) + 1,
        read_only_option: raft::ReadOnlyOption::Safe,
        skip_bcast_commit: true,
        batch_append: true,
        priority: 0,
        max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
        max_committed_size_per_ready: COMMITTED_BYTES_PER_READY,
    }
}

/// Due times of ticks: one period after the last *due* time; missed ones are skipped, never queued (E3).
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticker {
    period_ns: u64,
    due_ns: u64,
}

impl Ticker {
    /// The first tick is one period from now.
    ///
    /// # Panics
    /// If the period is 0.
    #[must_use]
    pub(super) fn new(period_ns: u64, now_ns: u64) -> Self {
        assert!(period_ns > 0, "a tick has a length");
        Self { period_ns, due_ns: now_ns + period_ns }
    }

    /// When the next tick is due.
    #[must_use]
    pub(super) const fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Whether a tick is due now; if so the next one is in the future.
    pub(super) fn take(&mut self, now_ns: u64) -> bool {
        if now_ns < self.due_ns {
            return false;
        }
        let missed = (now_ns - self.due_ns) / self.period_ns;
        self.due_ns += (missed + 1) * self.period_ns;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Origin, Sealing};
    use words::{Epoch, ShardId};

    #[test]
    fn a_late_tick_does_not_shift_the_next_one() {
        let mut ticker = Ticker::new(5, 0);
        assert!(!ticker.take(4));
        assert!(ticker.take(8));
        assert_eq!(ticker.due_ns(), 10);
    }

    #[test]
    fn ticks_missed_in_a_pause_are_skipped() {
        let mut ticker = Ticker::new(5, 0);
        assert!(ticker.take(1_003));
        assert_eq!(ticker.due_ns(), 1_005);
        assert!(!ticker.take(1_004));
        assert!(ticker.take(1_005));
    }

    #[test]
    fn every_rank_is_a_timeout_that_raft_accepts() {
        let timing = Timing::default();
        let config = config(Incarnation(1), &timing, 1);
        config.validate().expect("a valid configuration");
        for rank in [0, 1, 2, RANK_LAST, 40] {
            let t = campaign_ticks(&timing, rank);
            assert!(config.min_election_tick() <= t && t < config.max_election_tick());
        }
    }

    #[test]
    fn ranks_follow_the_specification_and_leaving_replicas_come_last() {
        let spec = GroupSpec {
            group: ShardId(1),
            epoch: Epoch(1),
            members: vec![Incarnation(8), Incarnation(3)],
            leaving: vec![Incarnation(1)],
            origin: Origin::Founded { voters: vec![] },
            sealing: Sealing::No,
        };
        assert_eq!([8, 3, 1].map(|i| rank(&spec, Incarnation(i), None)), [0, 1, RANK_LAST]);
        let after_8 = |i| rank(&spec, Incarnation(i), Some(Incarnation(8)));
        assert_eq!([8, 3, 1].map(after_8), [1, 0, RANK_LAST]);
    }
}
