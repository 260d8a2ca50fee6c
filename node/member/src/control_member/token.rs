//! The stop token (N3): the leader of the control group gives it on measured redundancy alone, since only it hears every
//! node; and a node that stopped gracefully returns it when its new life is a voter everywhere that it should be.
//!
//! Who is in step in a shard is measured by the shard's owner, and told to all members beside the sign of life.

use std::collections::BTreeSet;

use bytes::Bytes;
use consensus::control::storage::LogStore;
use control::command::{Command, CommandBody, InStep};
use control::refusal::{Nodes, Refusal};
use control::shards::Origin;
use engine::ids::{Incarnation, NodeId};

use super::ControlMember;
use super::io::{LIVE_NS, Now};
use super::measured::TOLD_NS;

impl<S: LogStore> ControlMember<S> {
    /// The command as it may be proposed by this leader: a wish to stop carries what this leader sees, or is refused.
    pub(super) fn judged(&self, now: Now, bytes: Bytes) -> Result<Bytes, Refusal> {
        let Ok(command) = Command::decode(&bytes) else { return Ok(bytes) };
        let CommandBody::StopTokenTake { node, .. } = command.body else { return Ok(bytes) };
        let seen = self.redundancy(now)?;
        let stamped = Command { body: CommandBody::StopTokenTake { node, seen }, ..command };
        Ok(stamped.encode().map_or(bytes, Bytes::from))
    }

    /// Who is in step in every shard, if nothing is missing anywhere.
    fn redundancy(&self, now: Now) -> Result<Vec<InStep>, Refusal> {
        let quiet = |node: &NodeId| {
            let heard = self.heard_ns.get(node).is_some_and(|at| now.ns.saturating_sub(*at) < TOLD_NS);
            *node != self.me.node && !heard
        };
        let registry = self.state.registry();
        if let Some((node, _)) = registry.members().find(|(node, _)| quiet(node)) {
            return Err(Refusal::NodeSilent { node });
        }
        let (voters, learners) = &self.configured;
        if !learners.is_empty() || *voters != self.state.control_voters() {
            return Err(Refusal::ControlNotInStep {});
        }
        let nodes =
            |lives: &[Incarnation]| -> Nodes { lives.iter().filter_map(|life| registry.node_of(*life)).collect() };
        let mut seen = Vec::new();
        for (id, shard) in self.state.shards().iter().filter(|(_, shard)| shard.origin != Origin::Unplaced) {
            let Some(in_step) = self.measured.of(now.ns, *id, shard.epoch) else {
                return Err(Refusal::ShardUnmeasured { shard: *id });
            };
            let there: BTreeSet<_> = in_step.lives.iter().collect();
            if there != shard.members.iter().collect() {
                let (have, want) = (nodes(&in_step.lives), nodes(&shard.members));
                return Err(Refusal::ShardNotInStep { shard: *id, have, want });
            }
            seen.push(in_step.clone());
        }
        Ok(seen)
    }

    /// A node that stopped gracefully returns the stop token when its new life is a voter everywhere that it should be. So
    /// does a life that got what only a former one had asked for: that order was on its way, and took effect in this life.
    pub(super) fn return_token(&mut self, now: Now) {
        let Some(token) = self.state.stop_token().filter(|token| token.holder == self.me.node) else { return };
        let former = |life: &Incarnation| *life != token.incarnation || !self.asked_to_stop;
        let Some(life) = self.incarnation.filter(former) else { return };
        let whole =
            self.state.shards().values().all(|shard| {
                shard.leaving.is_empty() && (!shard.members.contains(&life) || shard.voters.contains(&life))
            });
        if whole && now.ns >= self.next_return_ns {
            self.next_return_ns = now.ns + LIVE_NS;
            self.enqueue(now, None, CommandBody::StopTokenReturn { node: self.me.node });
        }
    }
}
