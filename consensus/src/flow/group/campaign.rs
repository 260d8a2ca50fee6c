//! When a replica asks for votes, and when a leader gives up (E1, E2, E4): raft's own timeouts with ranks instead of chance.

use raft::StateRole;

use super::{FlowGroup, Standing};
use crate::flow::election;

impl FlowGroup {
    /// E4 and the end of an unsuccessful transfer (L2). The lapse is counted in ticks, of which late ones are skipped (E3):
    /// a leader that stood still together with its peers first hears their answers.
    pub(super) fn maybe_step_down(&mut self, now_ns: u64) {
        let alone = self.is_alone();
        let Some(leadership) = &mut self.leading else { return };
        let transferring = leadership.timeout_sent_ns;
        let transfer_failed = transferring.is_some_and(|at| now_ns.saturating_sub(at) >= self.timing.vote_ns());
        let held_until = self.lease.until_ns().max(leadership.since_ns + self.timing.lease_ns());
        let lapsed = transferring.is_none() && !alone && now_ns > held_until;
        leadership.lapsed_ticks = if lapsed { leadership.lapsed_ticks + 1 } else { 0 };
        if transfer_failed || leadership.lapsed_ticks > self.timing.heartbeat_ticks {
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, raft::INVALID_ID);
            self.set_campaign_time();
        }
    }

    /// What raft's own timeout does not do: a group of one leads at once, a pre-candidate asks each tick (E2), a candidate
    /// whose votes got lost asks again.
    pub(super) fn maybe_campaign(&mut self, before: StateRole, now_ns: u64) {
        let state = self.node.raft.state;
        if state == StateRole::Leader || !self.node.raft.promotable() || self.leader_alive(now_ns) {
            return;
        }
        let waited = self.node.raft.election_elapsed;
        let retry = election::retry_ticks(self.rank());
        let again = match before {
            StateRole::PreCandidate => state == StateRole::PreCandidate,
            StateRole::Candidate => state == StateRole::Candidate && waited >= retry,
            StateRole::Follower | StateRole::Leader => false,
        };
        if self.is_alone() || again {
            self.campaign();
        }
    }

    pub(super) fn campaign(&mut self) {
        // It fails only for a message that may not be stepped, and this is raft's own.
        self.node.campaign().expect("raft takes its own campaign");
        self.set_campaign_time();
    }

    /// E1: raft draws a random timeout at each change of state; ours depends on the rank alone.
    pub(super) fn set_campaign_time(&mut self) {
        let ticks = election::campaign_ticks(&self.timing, self.rank());
        self.node.raft.set_randomized_election_timeout(ticks);
    }

    pub(super) fn rank(&self) -> u32 {
        if self.stopping {
            return election::RANK_LAST;
        }
        let place = election::rank(&self.spec, self.me, self.last_leader);
        match self.standing {
            Standing::InTurn => place,
            Standing::Behind => election::behind(&self.spec, place),
        }
    }
}
