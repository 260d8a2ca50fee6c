//! What nodes report of themselves, and the load barrier that follows from it (F2).
//!
//! A worker may load a snapshot once, for every group that this node leads, a majority of the voters (itself included)
//! reported it ready; at the latest `LOAD_WAIT_NS` after this node had it ready. Pure; used by `FlowGroups`.

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::ConfState;
use words::{Incarnation, ShardSet};

use crate::event::{Passage, Report};

/// A report older than this says nothing.
pub(super) const REPORT_AGE_MAX_NS: u64 = 1_000_000_000;
/// The longest that a ready snapshot waits for other nodes.
pub(super) const LOAD_WAIT_NS: u64 = 1_000_000_000;
/// A changed report goes out this soon after the one before.
const REPORT_CHANGED_NS: u64 = 20_000_000;
/// An unchanged report is repeated this often.
const REPORT_REPEAT_NS: u64 = 100_000_000;
/// Ready indexes whose second is still running.
const READY_MAX: usize = 64;

/// The reports of all nodes, this one included.
#[derive(Debug)]
pub(super) struct Reports {
    me: Incarnation,
    own: Report,
    peers: BTreeMap<Incarnation, (Report, u64)>,
    sent: Option<(Report, u64)>,
}

impl Reports {
    /// Nothing known yet.
    #[must_use]
    pub(super) const fn new(me: Incarnation) -> Self {
        let own = Report {
            control_ready: 0,
            control_loaded: 0,
            links_up: false,
            passage: Passage::Unproved,
            lacking: ShardSet::EMPTY,
            silent: ShardSet::EMPTY,
            unproved: ShardSet::EMPTY,
            turns: false,
            stopping: false,
        };
        Self { me, own, peers: BTreeMap::new(), sent: None }
    }

    /// This node's own report.
    #[must_use]
    pub(super) const fn own(&self) -> Report {
        self.own
    }

    /// Replaces the own report.
    pub(super) fn set_own(&mut self, report: Report) {
        self.own = report;
    }

    /// A peer's report arrived.
    pub(super) fn heard(&mut self, from: Incarnation, report: Report, now_ns: u64) {
        self.peers.insert(from, (report, now_ns));
    }

    /// Forgets nodes that are not known any more.
    pub(super) fn retain(&mut self, known: impl Fn(Incarnation) -> bool) {
        self.peers.retain(|id, _| known(*id));
    }

    /// A node's report, if it is fresh; the own one always is.
    #[must_use]
    pub(super) fn fresh(&self, of: Incarnation, now_ns: u64) -> Option<Report> {
        if of == self.me {
            return Some(self.own);
        }
        let (report, at) = self.peers.get(&of)?;
        (now_ns.saturating_sub(*at) <= REPORT_AGE_MAX_NS).then_some(*report)
    }

    /// The report to send now, if one is due.
    pub(super) fn due(&mut self, now_ns: u64) -> Option<Report> {
        let due = match self.sent {
            None => true,
            Some((sent, at)) => {
                let wait = if sent == self.own { REPORT_REPEAT_NS } else { REPORT_CHANGED_NS };
                now_ns.saturating_sub(at) >= wait
            }
        };
        if !due {
            return None;
        }
        self.sent = Some((self.own, now_ns));
        Some(self.own)
    }
}

/// Decides which control index the workers may load.
#[derive(Debug, Default)]
pub(super) struct LoadBarrier {
    /// Own ready indexes and since when, ascending.
    ready: VecDeque<(u64, u64)>,
    allowed: u64,
}

impl LoadBarrier {
    /// This node has the snapshot of `control_index` ready since now.
    pub(super) fn ready(&mut self, control_index: u64, now_ns: u64) {
        if self.ready.back().is_some_and(|(index, _)| *index >= control_index) {
            return;
        }
        if self.ready.len() == READY_MAX {
            // The oldest joins its successor, which has waited a little less: later, never earlier.
            self.ready.pop_front();
        }
        self.ready.push_back((control_index, now_ns));
    }

    /// The index that workers may load, if it grew. `led` are the configurations of the groups that this node leads.
    pub(super) fn poll<'a>(
        &mut self,
        led: impl Iterator<Item = &'a ConfState>,
        reports: &Reports,
        now_ns: u64,
    ) -> Option<u64> {
        let newest = self.ready.back()?.0;
        let reported = |id: u64| reports.fresh(Incarnation(id), now_ns).map_or(0, |r| r.control_ready);
        let common = led.map(|conf| majority_has(conf, &reported)).min().unwrap_or(newest).min(newest);
        let waited = self.ready.iter().rev().find(|(_, since)| now_ns.saturating_sub(*since) >= LOAD_WAIT_NS);
        // An index between two own ones means that the lower of them is ready here and at a majority.
        let agreed = self.ready.iter().rev().find(|(index, _)| *index <= common);
        let allowed = agreed.max(waited).map_or(0, |(index, _)| *index);
        if allowed <= self.allowed {
            return None;
        }
        self.allowed = allowed;
        self.ready.retain(|(index, _)| *index >= allowed);
        Some(allowed)
    }
}

/// The greatest index that a majority has; in a joint configuration of both halves.
fn majority_has(conf: &ConfState, reported: &impl Fn(u64) -> u64) -> u64 {
    let half = |voters: &[u64]| {
        let mut indexes: Vec<u64> = voters.iter().map(|id| reported(*id)).collect();
        indexes.sort_unstable_by(|a, b| b.cmp(a));
        indexes.get(voters.len() / 2).copied().unwrap_or(u64::MAX)
    };
    half(&conf.voters).min(half(&conf.voters_outgoing))
}

#[cfg(test)]
mod tests {
    use super::*;

    use words::time::MS;

    fn conf(voters: &[u64]) -> ConfState {
        ConfState { voters: voters.to_vec(), ..ConfState::default() }
    }

    fn report(control_ready: u64) -> Report {
        Report { control_ready, links_up: true, ..Report::default() }
    }

    #[test]
    fn an_owner_loads_when_a_majority_is_ready() {
        let (mut barrier, mut reports) = (LoadBarrier::default(), Reports::new(Incarnation(1)));
        let group = conf(&[1, 2, 3]);
        reports.set_own(report(7));
        barrier.ready(7, 0);
        assert_eq!(barrier.poll([&group].into_iter(), &reports, MS), None);
        reports.heard(Incarnation(3), report(7), MS);
        assert_eq!(barrier.poll([&group].into_iter(), &reports, MS), Some(7));
        assert_eq!(barrier.poll([&group].into_iter(), &reports, MS), None);
    }

    #[test]
    fn a_group_without_majority_delays_all_by_a_second_at_most() {
        let (mut barrier, mut reports) = (LoadBarrier::default(), Reports::new(Incarnation(1)));
        reports.set_own(report(7));
        barrier.ready(7, 0);
        reports.heard(Incarnation(2), report(7), 0);
        let groups = [conf(&[1, 2, 3]), conf(&[1, 4, 5])];
        assert_eq!(barrier.poll(groups.iter(), &reports, 999 * MS), None);
        assert_eq!(barrier.poll(groups.iter(), &reports, 1_000 * MS), Some(7));
    }

    #[test]
    fn who_leads_nothing_loads_at_once() {
        let (mut barrier, reports) = (LoadBarrier::default(), Reports::new(Incarnation(1)));
        barrier.ready(3, 0);
        assert_eq!(barrier.poll([].into_iter(), &reports, 0), Some(3));
    }

    #[test]
    fn stale_reports_do_not_count() {
        let (mut barrier, mut reports) = (LoadBarrier::default(), Reports::new(Incarnation(1)));
        reports.heard(Incarnation(2), report(9), 0);
        reports.set_own(report(9));
        barrier.ready(9, 1_500 * MS);
        let group = conf(&[1, 2, 3]);
        assert_eq!(barrier.poll([&group].into_iter(), &reports, 1_500 * MS), None);
    }

    #[test]
    fn a_changed_report_goes_out_sooner_than_a_repeated_one() {
        let mut reports = Reports::new(Incarnation(1));
        assert!(reports.due(0).is_some());
        assert!(reports.due(99 * MS).is_none());
        assert!(reports.due(100 * MS).is_some());
        reports.set_own(report(4));
        assert!(reports.due(119 * MS).is_none());
        assert_eq!(reports.due(120 * MS), Some(report(4)));
    }
}
