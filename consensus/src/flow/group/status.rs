//! What operators see of a replica.

use raft::StateRole;
use words::{Epoch, Incarnation, ShardId};

use super::FlowGroup;
use crate::event::GroupSpec;

/// Part that a replica plays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It leads.
    Leader,
    /// It follows, or waits for a leader.
    Follower,
    /// It campaigns.
    Candidate,
    /// It has no table yet.
    Joining,
    /// It waits for the next epoch (N4).
    Sealed,
}

impl Role {
    /// Its name in answers.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Joining => "joining",
            Self::Sealed => "sealed",
        }
    }
}

/// Why a group does not serve here although it might.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// No leader is known.
    NoLeader,
    /// The table is on its way.
    Table,
    /// A predecessor may still serve (N4).
    Predecessor,
    /// The control map names this node as the base of an epoch whose base it does not hold (N4).
    BaseMismatch,
    /// The worker has not begun to serve, or said that it cannot (F7).
    Worker,
}

impl Waiting {
    /// What it is that is waited for, for people.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoLeader => "no leader",
            Self::Table => "the table is on its way",
            Self::Predecessor => "waiting for a predecessor",
            Self::BaseMismatch => "the table that its epoch continues is not here",
            Self::Worker => "the worker does not serve yet",
        }
    }
}

/// One group on this node, for status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    /// The group.
    pub group: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    /// This node's part.
    pub role: Role,
    /// Present term.
    pub term: u64,
    /// Commit index.
    pub commit: u64,
    /// Index at which the worker's table stands.
    pub applied: u64,
    /// End of the lease in the word; 0 without one.
    pub lease_until_ns: u64,
    /// Voters by the applied configuration.
    pub voters: Vec<Incarnation>,
    /// Voters of the outgoing half; not empty while the configuration is joint.
    pub outgoing: Vec<Incarnation>,
    /// Learners.
    pub learners: Vec<Incarnation>,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// How often this replica was elected.
    pub elections: u64,
    /// Who owns the group, as far as this node knows.
    pub owner: Option<Incarnation>,
}

impl GroupStatus {
    /// A group that has no replica here, and why.
    pub(crate) const fn without_replica(spec: &GroupSpec, owner: Option<Incarnation>, waiting: Waiting) -> Self {
        Self {
            group: spec.group,
            epoch: spec.epoch,
            role: Role::Joining,
            term: 0,
            commit: 0,
            applied: 0,
            lease_until_ns: 0,
            voters: Vec::new(),
            outgoing: Vec::new(),
            learners: Vec::new(),
            waiting: Some(waiting),
            elections: 0,
            owner,
        }
    }
}

impl FlowGroup {
    /// As it is now; `owner` as the node knows it.
    pub(crate) fn status(&self, now_ns: u64, owner: Option<Incarnation>) -> GroupStatus {
        let raft = &self.node.raft;
        let role = match raft.state {
            _ if self.is_sealed() => Role::Sealed,
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        };
        let unserved = self.leading.as_ref().is_some_and(|l| l.unserved_since_ns.is_some());
        let waiting = match role {
            Role::Leader if now_ns < self.wait_until_ns => Some(Waiting::Predecessor),
            Role::Leader if unserved => Some(Waiting::Worker),
            Role::Follower | Role::Candidate if owner.is_none() => Some(Waiting::NoLeader),
            Role::Leader | Role::Follower | Role::Candidate | Role::Joining | Role::Sealed => None,
        };
        let ids = |ids: &[u64]| {
            let mut ids: Vec<Incarnation> = ids.iter().copied().map(Incarnation).collect();
            ids.sort_unstable();
            ids
        };
        GroupStatus {
            group: self.spec.group,
            epoch: self.spec.epoch,
            role,
            term: raft.term,
            commit: raft.raft_log.committed,
            applied: self.worker_index,
            lease_until_ns: self.word.lease_until_ns,
            voters: ids(&self.conf.voters),
            outgoing: ids(&self.conf.voters_outgoing),
            learners: ids(&self.conf.learners),
            waiting,
            elections: self.elections,
            owner,
        }
    }
}
