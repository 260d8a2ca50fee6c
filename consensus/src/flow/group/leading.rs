//! What only the leader of a flow group does, each tick: membership (N2), hand-over (F7), serving joiners (F10), and telling
//! the control side.
//!
//! Never proposes while a change is pending or a transfer runs.

use bytes::Bytes;
use words::{GroupEvent, Incarnation};

use super::{Effects, FlowGroup};
use crate::event::{FlowEffect, GroupHealth};
use crate::flow::barrier::Reports;
use crate::flow::frame::{Frame, Have};
use crate::flow::handover::{Candidate, Leaving, Own};
use crate::flow::lease::is_voter;
use crate::flow::membership::{self, Step};
use crate::flow::transfer::{Asked, Outgoing, RETAINED_BYTES_MAX, Scanned};

/// How often removals are reported until the control map shows them.
const REMOVED_REPEAT_NS: u64 = 1_000_000_000;
/// How often unchanged health is repeated.
const HEALTH_REPEAT_NS: u64 = 1_000_000_000;
/// How often a follower that fell behind is told.
const BEHIND_REPEAT_NS: u64 = 100_000_000;

impl FlowGroup {
    /// The duties of a leader at a tick; nothing for others. The node may be leaving all its groups.
    pub(crate) fn lead(&mut self, reports: &Reports, leaving: Leaving, now_ns: u64, out: &mut Effects) {
        if self.leading.is_none() || self.is_sealed() {
            return;
        }
        self.end_transfer_if_over(now_ns, out);
        self.tell_behind(now_ns, out);
        self.tell_health(now_ns, out);
        if self.is_settling_down() {
            return;
        }
        // By now the configuration is the newest that any earlier leader committed.
        self.tell_removed(now_ns, out);
        if let Some(target) = self.hand_over_to(reports, leaving, now_ns) {
            self.node.transfer_leader(target.0);
        } else {
            self.reconcile(now_ns);
        }
        self.mark_commit();
        self.settle(now_ns, out);
    }

    /// A transfer runs, or the first entry of the own term is not committed yet: nothing is decided now.
    fn is_settling_down(&self) -> bool {
        let raft = &self.node.raft;
        let handing_over = self.leading.as_ref().is_none_or(|l| l.timeout_sent_ns.is_some());
        handing_over || raft.lead_transferee.is_some() || !raft.apply_to_current_term()
    }

    /// Moves the window by which learners are judged.
    fn mark_commit(&mut self) {
        let commit = self.node.raft.raft_log.committed;
        if let Some(leadership) = &mut self.leading {
            leadership.commit_marks = (leadership.commit_marks.1, commit);
        }
    }

    fn heard_within_vote(&self, id: u64, now_ns: u64) -> bool {
        let heard = self.leading.as_ref().and_then(|l| l.heard_ns.get(&id));
        id == self.me.0 || heard.is_some_and(|at| now_ns.saturating_sub(*at) <= self.timing.vote_ns())
    }

    fn matched(&self, id: u64) -> u64 {
        self.node.raft.prs().get(id).map_or(0, |p| p.matched)
    }

    /// Whether `id` answers and has what was committed two ticks ago; under load the commit index itself always runs ahead.
    fn is_caught_up(&self, id: u64, now_ns: u64) -> bool {
        let Some(leadership) = &self.leading else { return false };
        self.heard_within_vote(id, now_ns) && self.matched(id) >= leadership.commit_marks.0
    }

    fn reconcile(&mut self, now_ns: u64) {
        if self.node.raft.has_pending_conf() {
            return;
        }
        let step = membership::next_step(&self.spec, &self.conf, self.me, |id| self.is_caught_up(id, now_ns));
        if let Step::Propose(change) = step {
            // Refused only if the log is full; the next tick asks again.
            let _refused = self.node.propose_conf_change(Vec::new(), change);
        }
    }

    fn hand_over_to(&mut self, reports: &Reports, leaving: Leaving, now_ns: u64) -> Option<Incarnation> {
        let in_place = self.spec.members.contains(&self.me) && self.conf.voters.contains(&self.me.0);
        let leaving = if in_place && !self.is_stopping() { leaving } else { Leaving::Yes };
        let own = Own {
            report: reports.own().of(self.spec.group),
            leaving,
            unserved_since_ns: self.leading.as_ref().and_then(|l| l.unserved_since_ns).filter(|s| *s <= now_ns),
            control_needed: self.worker_control,
        };
        let candidates: Vec<Candidate> = self
            .spec
            .members
            .iter()
            .filter(|id| **id != self.me && self.conf.voters.contains(&id.0) && self.is_caught_up(id.0, now_ns))
            .filter_map(|id| Some(Candidate { id: *id, report: reports.fresh(*id, now_ns)?.of(self.spec.group) }))
            .collect();
        let preferred = self.spec.members.first().copied();
        self.handover.target(&own, &candidates, preferred, &self.timing, now_ns)
    }

    // ---- the control side ----

    fn tell_removed(&mut self, now_ns: u64, out: &mut Effects) {
        let Some(leadership) = &mut self.leading else { return };
        let told = leadership.removed_told_ns.is_some_and(|at| now_ns.saturating_sub(at) < REMOVED_REPEAT_NS);
        if told || self.node.raft.has_pending_conf() {
            return;
        }
        let gone = membership::removed(&self.spec, &self.conf);
        if gone.is_empty() {
            return;
        }
        leadership.removed_told_ns = Some(now_ns);
        out.push_back(FlowEffect::Removed { group: self.spec.group, epoch: self.spec.epoch, gone });
    }

    fn tell_health(&mut self, now_ns: u64, out: &mut Effects) {
        let commit = self.node.raft.raft_log.committed;
        let mut voters: Vec<u64> = self.conf.voters.iter().chain(&self.conf.voters_outgoing).copied().collect();
        voters.sort_unstable();
        voters.dedup();
        let mut learners: Vec<Incarnation> = self.conf.learners.iter().copied().map(Incarnation).collect();
        learners.sort_unstable();
        let health = GroupHealth {
            group: self.spec.group,
            epoch: self.spec.epoch,
            term: self.node.raft.term,
            voters: voters.iter().map(|id| (Incarnation(*id), self.is_caught_up(*id, now_ns))).collect(),
            learners,
            commit,
        };
        let Some(leadership) = &mut self.leading else { return };
        if let Some((at, told)) = &leadership.health_told {
            let same = told.voters == health.voters && told.learners == health.learners;
            if same && now_ns.saturating_sub(*at) < HEALTH_REPEAT_NS {
                return;
            }
        }
        leadership.health_told = Some((now_ns, health.clone()));
        out.push_back(FlowEffect::Health(health));
    }

    // ---- joiners ----

    /// Tells followers whose next entry the log holds no more; they answer by asking for the table.
    fn tell_behind(&mut self, now_ns: u64, out: &mut Effects) {
        let base = self.node.store().base();
        let (me, spec) = (self.me.0, &self.spec);
        let Some(leadership) = &mut self.leading else { return };
        if now_ns.saturating_sub(leadership.behind_told_ns) < BEHIND_REPEAT_NS {
            return;
        }
        leadership.behind_told_ns = now_ns;
        let silent_ns = self.timing.vote_ns();
        let mut behind: Vec<u64> = self
            .node
            .raft
            .prs()
            .iter()
            .filter(|(id, p)| **id != me && p.next_idx <= base)
            .map(|(id, _)| *id)
            .filter(|id| leadership.heard_ns.get(id).is_some_and(|at| now_ns.saturating_sub(*at) <= silent_ns))
            .collect();
        behind.sort_unstable();
        let group = spec.group;
        for id in behind {
            let to = Incarnation(id);
            let frame = Frame::Behind { key: self.key(to), base }.encode();
            out.push_back(FlowEffect::Send { to, group, frame });
        }
    }

    /// `from` asks for the table. Served one at a time, and only once its learner is applied, so that the scan's base is
    /// not below the change that added it.
    pub(crate) fn join_asked(
        &mut self,
        (from, have): (Incarnation, Option<Have>),
        next_id: &mut u64,
        now_ns: u64,
        out: &mut Effects,
    ) {
        // The scan begins where the worker stands when it gets there: behind everything handed out before.
        self.settle(now_ns, out);
        let known = is_voter(&self.conf, from.0) || self.conf.learners.contains(&from.0);
        let floor = self.node.raft.raft_log.applied;
        let group = self.group();
        let Some(leadership) = self.leading.as_mut().filter(|_| known && from != self.me) else { return };
        if let Some(running) = &mut leadership.transfer
            && running.asked(from, have, now_ns) == Asked::Wait
        {
            return;
        }
        *next_id += 1;
        leadership.transfer = Some(Outgoing::new(*next_id, from, floor, now_ns));
        out.push_back(FlowEffect::Worker(GroupEvent::Scan { shard: group, transfer: *next_id }));
    }

    /// A chunk of the own worker's scan goes to the joiner.
    pub(crate) fn scanned(&mut self, scanned: Scanned, chunk: Bytes, now_ns: u64, out: &mut Effects) {
        let Some(leadership) = &mut self.leading else { return };
        let Some(mut transfer) = leadership.transfer.take() else { return };
        if transfer.id() != scanned.transfer {
            leadership.transfer = Some(transfer);
            return;
        }
        let (to, term) = (transfer.to(), leadership.term);
        let state_at = |index| self.state_at(index).filter(|(_, conf)| membership::holds(conf, to.0));
        let piece = transfer.chunk((scanned.base, scanned.until, scanned.last), term, now_ns, state_at);
        let Some((head, mut end)) = piece else {
            out.push_back(FlowEffect::Worker(GroupEvent::ScanOver { shard: self.group(), transfer: scanned.transfer }));
            return;
        };
        if let Some(end) = &mut end {
            end.wait_left_ns = self.wait_until_ns.saturating_sub(now_ns);
        }
        let frame = Frame::Chunk { key: self.key(to), head, end, chunk }.encode();
        out.push_back(FlowEffect::SendBulk { to, group: self.group(), frame });
        if let Some(leadership) = &mut self.leading {
            leadership.transfer = Some(transfer);
        }
    }

    fn end_transfer_if_over(&mut self, now_ns: u64, out: &mut Effects) {
        let bytes = self.node.store().bytes();
        let Some(to) = self.leading.as_ref().and_then(|l| l.transfer.as_ref()).map(Outgoing::to) else { return };
        let (matched, held) = (self.matched(to.0), membership::holds(&self.conf, to.0));
        let Some(leadership) = &mut self.leading else { return };
        let over = leadership
            .transfer
            .take_if(|transfer| !held || bytes > RETAINED_BYTES_MAX || transfer.is_over(matched, now_ns));
        if let Some(transfer) = over.filter(|transfer| !transfer.is_scanned()) {
            out.push_back(FlowEffect::Worker(GroupEvent::ScanOver { shard: self.spec.group, transfer: transfer.id() }));
        }
    }
}
