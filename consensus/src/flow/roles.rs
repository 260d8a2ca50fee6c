//! Who owns what, and what every node tells the others about itself: owners, reports, and the barrier before a new snapshot.

use super::{FlowGroups, standing_of};
use crate::event::{FlowEffect, Report};
use crate::flow::frame::{Frame, NODE_GROUP, Owned};
use crate::flow::group::FlowGroup;

/// How often owners are announced to all nodes, besides at each change (M1).
const ANNOUNCE_NS: u64 = 200_000_000;
/// An owner that was silent for this long is not known any more.
const OWNER_SILENT_NS: u64 = 500_000_000;

impl FlowGroups {
    /// Brings the known owners up to date with the own replicas, tells the news, and announces what is led here.
    pub(super) fn follow_roles(&mut self, now_ns: u64) {
        let mut owned = Vec::new();
        for (group, replica) in &mut self.replicas {
            let (group, epoch) = (*group, replica.epoch());
            if let Some(term) = replica.leads() {
                self.owners.heard(group, epoch, term, self.me, now_ns);
                owned.push(Owned { group, epoch, term });
                continue;
            }
            self.owners.lost(group, self.me);
            if let Some((term, leader, at)) = replica.follows()
                && now_ns.saturating_sub(at) < OWNER_SILENT_NS
            {
                self.owners.heard(group, epoch, term, leader, at);
            }
        }
        for group in self.owners.groups() {
            self.owners.silent_since(group, now_ns.saturating_sub(OWNER_SILENT_NS));
            if let Some((term, owner)) = self.owners.owner(group)
                && owner != self.me
                && let Some(replica) = self.replicas.get_mut(&group)
            {
                replica.successor_known(term, &mut self.out);
            }
        }
        self.out.extend(self.owners.news());
        let (told, at) = &self.announced;
        let due = !owned.is_empty() && now_ns.saturating_sub(*at) >= ANNOUNCE_NS;
        if due || *told != owned {
            self.send_to_nodes(&Frame::Owners { from: self.me, owned: owned.clone() });
            self.announced = (owned, now_ns);
        }
    }

    pub(super) fn send_to_nodes(&mut self, frame: &Frame) {
        let frame = frame.encode();
        for to in &self.nodes {
            self.out.push_back(FlowEffect::Send { to: *to, group: NODE_GROUP, frame: frame.clone() });
        }
    }

    pub(super) fn set_report(&mut self, report: Report, now_ns: u64) {
        let stopping = report.stopping || self.stopping_since_ns.is_some();
        let report = Report { stopping, turns: self.turns.pass(&self.timing), ..report };
        self.reports.set_own(report);
        for replica in self.replicas.values_mut() {
            replica.set_standing(standing_of(&report.of(replica.group())));
        }
        self.barrier.ready(report.control_ready, now_ns);
        self.send_report(now_ns);
        self.poll_barrier(now_ns);
    }

    /// The worker began to turn, or has stopped: that is news for everybody.
    pub(super) fn follow_turns(&mut self, now_ns: u64) {
        let own = self.reports.own();
        if own.turns != self.turns.pass(&self.timing) {
            self.set_report(own, now_ns);
        }
    }

    pub(super) fn send_report(&mut self, now_ns: u64) {
        if let Some(report) = self.reports.due(now_ns) {
            self.send_to_nodes(&Frame::Report { from: self.me, report: Box::new(report) });
        }
    }

    pub(super) fn poll_barrier(&mut self, now_ns: u64) {
        let led = self.replicas.values().filter(|r| r.leads().is_some()).map(FlowGroup::conf);
        if let Some(control_index) = self.barrier.poll(led, &self.reports, now_ns) {
            self.out.push_back(FlowEffect::MayLoad { control_index });
        }
    }
}
