//! What operators see of the groups.

use words::{Incarnation, ShardId};

use super::{FlowGroups, GroupStatus, Role, Waiting};
use crate::event::{GroupSpec, Report};

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
        let group = spec.group;
        let owner = self.owners.owner(group).map(|(_, owner)| owner);
        let none = GroupStatus {
            group,
            epoch: spec.epoch,
            role: Role::Joining,
            term: 0,
            commit: 0,
            applied: 0,
            lease_until_ns: 0,
            voters: Vec::new(),
            outgoing: Vec::new(),
            learners: Vec::new(),
            waiting: Some(Waiting::Table),
            elections: 0,
            owner,
        };
        if self.mismatched.contains(&group) {
            return Some(GroupStatus { waiting: Some(Waiting::BaseMismatch), ..none });
        }
        let Some(replica) = self.replicas.get(&group) else {
            return self.joining.contains_key(&group).then_some(none);
        };
        let raft = &replica.node.raft;
        let role = match raft.state {
            _ if replica.is_sealed() => Role::Sealed,
            raft::StateRole::Leader => Role::Leader,
            raft::StateRole::Follower => Role::Follower,
            raft::StateRole::Candidate | raft::StateRole::PreCandidate => Role::Candidate,
        };
        let unserved = replica.leading.as_ref().is_some_and(|l| l.unserved_since_ns.is_some());
        let waiting = match role {
            Role::Leader if now_ns < replica.wait_until_ns => Some(Waiting::Predecessor),
            Role::Leader if unserved => Some(Waiting::Worker),
            Role::Follower | Role::Candidate if owner.is_none() => Some(Waiting::NoLeader),
            Role::Leader | Role::Follower | Role::Candidate | Role::Joining | Role::Sealed => None,
        };
        let ids = |ids: &[u64]| {
            let mut ids: Vec<Incarnation> = ids.iter().copied().map(Incarnation).collect();
            ids.sort_unstable();
            ids
        };
        Some(GroupStatus {
            epoch: replica.spec.epoch,
            role,
            term: raft.term,
            commit: raft.raft_log.committed,
            applied: replica.worker_index,
            lease_until_ns: replica.lease_until_ns(),
            voters: ids(&replica.conf.voters),
            outgoing: ids(&replica.conf.voters_outgoing),
            learners: ids(&replica.conf.learners),
            waiting,
            elections: replica.elections(),
            ..none
        })
    }
}
