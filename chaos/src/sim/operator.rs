//! An operator who does what he should not, or at a bad moment: moves replicas under faults, removes nodes, asks for stops while
//! redundancy is missing, takes the stop token back. What he asks is either refused or safe.

use std::collections::BTreeMap;

use consensus::control::storage::LogStore;
use control::allocation::{Declared, Frontend};
use control::command::CommandBody;
use control::registry::Standing;
use engine::ids::{FrontendId, NodeId, ShardId};
use rand::Rng;
use rand::seq::SliceRandom;
use words::level;

use super::node::Node;
use super::params::MS;
use super::world::{FAULTS_FROM_NS, FAULTS_UNTIL_NS, World};

/// A frontend that is no longer declared retires after the longest hold that a run has, in all runs: the leader's own margin is
/// too long for one.
const RETIRE_MS: u64 = 3_500;
/// Between two looks whether one is due.
const RETIRE_EVERY_MS: u64 = 250;

impl World {
    /// Begins what is due.
    pub(super) fn intervene(&mut self) {
        self.remove_on();
        if self.now_ns >= FAULTS_FROM_NS && self.now_ns.is_multiple_of(RETIRE_EVERY_MS * MS) {
            self.retires();
        }
        let during = (FAULTS_FROM_NS..FAULTS_UNTIL_NS).contains(&self.now_ns);
        if !self.params.rare.operated || !during || self.now_ns < self.healing.next_operation_ns {
            return;
        }
        self.healing.next_operation_ns = self.now_ns + self.operator.random_range(100..1_200) * MS;
        let id = NodeId(self.operator.random_range(1..=self.params.nodes));
        match self.operator.random_range(0..10) {
            0..=3 => self.moves(),
            4 | 5 => {
                self.count("stop asked for");
                self.begin_stop(id);
            }
            _ if self.operator.random_bool(0.1) => {
                self.count("rolling restart asked for");
                let all = self.ids().collect();
                self.healing.rolls(all);
            }
            6 => {
                self.count("token taken back");
                self.orders(CommandBody::StopTokenRevoke);
            }
            7 => {
                self.count(if self.newest().level() < level::NEWEST {
                    "level to be raised"
                } else {
                    "level set again"
                });
                self.orders(CommandBody::SetLevel { level: level::NEWEST });
            }
            _ if self.params.rare.removes => self.removes(),
            _ => self.moves(),
        }
    }

    /// Any member takes an order.
    pub(super) fn orders(&mut self, body: CommandBody) {
        let now_ns = self.now_ns;
        let at = self.operator.random_range(0..self.nodes.len());
        if let Some(node) = self.nodes.values_mut().nth(at) {
            node.submit(now_ns, body);
        }
    }

    /// A shard's members in another order, or other ones.
    fn moves(&mut self) {
        let state = self.newest();
        let shards: Vec<ShardId> = state.shards().keys().copied().collect();
        let wanted = usize::try_from(state.settings().replicas).unwrap_or(usize::MAX);
        let mut members: Vec<NodeId> = state.registry().registered().map(|(node, _)| node).collect();
        if shards.is_empty() {
            return;
        }
        self.count("move");
        let shard = shards[self.operator.random_range(0..shards.len())];
        members.shuffle(&mut self.operator);
        members.truncate(wanted);
        self.orders(CommandBody::SetMembers { shard, members, unchanged_since: None });
    }

    fn retires(&mut self) {
        let now_ms = self.now_ns / MS;
        let state = self.newest();
        let over = |since: u64| now_ms.saturating_sub(since) > RETIRE_MS;
        let due = |f: &Frontend| f.declared == Declared::No && f.idle_since_unix_ms.is_some_and(over);
        let due = state.allocation().frontends.iter().filter(|(_, frontend)| due(frontend));
        let shards: BTreeMap<FrontendId, ShardId> = due.map(|(id, frontend)| (*id, frontend.shard)).collect();
        if !shards.is_empty() {
            let leaves =
                |shard: &ShardId| state.allocation().frontends.values().filter(|f| f.shard == *shard).count() > 1;
            let lives_on = shards.values().any(leaves);
            self.count(if lives_on { "frontend retired from a shard that lives on" } else { "frontend retired" });
            self.orders(CommandBody::RetireFrontends { frontends: shards.into_keys().collect() });
        }
    }

    /// A node that is down is declared gone, and will come back with an empty disk.
    fn removes(&mut self) {
        let Some(id) = self.healing.only_dead().filter(|_| !self.healing.is_removing()) else { return };
        if !self.others_vote_on_the_control_log() {
            return;
        }
        let Some(life) = self.newest().registry().newest(id) else { return };
        self.count("node removed");
        self.healing.removes(id, life);
        self.orders(CommandBody::RemoveNode { node: id, incarnation: life });
    }

    /// Whether everybody who lives has a vote in the control group. Else the disk that goes with a removed node may be one too
    /// many, as that of a node which lost its own and is not back in that group: what is lost for good then is N6's.
    fn others_vote_on_the_control_log(&self) -> bool {
        let Some(leader) = self.nodes.values().find(|node| node.control.leading()) else { return false };
        let (voters, learners) = leader.control.configured();
        let votes = |node: &Node| node.disk.identity().is_some_and(|own| voters.contains(&own.raft_id));
        learners.is_empty() && self.nodes.values().all(votes)
    }

    /// The order is repeated until the log has it: a node that came back before it would be declared gone alive.
    fn remove_on(&mut self) {
        let Some((id, life)) = self.healing.removing() else { return };
        let registry = self.newest().registry();
        let removed = registry.nodes().get(&id).is_none_or(|node| node.standing == Standing::Removed);
        if removed && registry.gone(life) {
            self.healing.removed(id);
        } else if self.now_ns.is_multiple_of(2_000 * MS) {
            self.orders(CommandBody::RemoveNode { node: id, incarnation: life });
        }
    }

    /// Whether a dead node may start again.
    pub(super) fn may_return(&self, id: NodeId) -> bool {
        self.healing.removing().is_none_or(|(removing, _)| removing != id)
    }
}
