//! What operators see of the groups.

use words::ShardId;

use super::FlowGroups;
use crate::event::{GroupSpec, Report};
use crate::flow::group::status::{GroupStatus, Waiting};

impl FlowGroups {
    /// When this replica last heard a leader other than itself.
    #[must_use]
    pub fn leader_heard_ns(&self, group: ShardId) -> Option<u64> {
        self.replicas.get(&group)?.leader_heard_ns()
    }

    /// What this node reports of itself, its worker's turns included.
    #[must_use]
    pub const fn report(&self) -> Report {
        self.reports.own()
    }

    pub(super) fn status_of(&self, spec: &GroupSpec, now_ns: u64) -> Option<GroupStatus> {
        let owner = self.owners.owner(spec.group).map(|(_, owner)| owner);
        let without = |waiting| Some(GroupStatus::without_replica(spec, owner, waiting));
        match self.replicas.get(&spec.group) {
            _ if self.mismatched.contains(&spec.group) => without(Waiting::BaseMismatch),
            Some(replica) => Some(replica.status(now_ns, owner)),
            None if self.joining.contains_key(&spec.group) => without(Waiting::Table),
            None => None,
        }
    }
}
