//! What members are at a moment: the maps that they act upon, their lives, their tables, and whether somebody serves each shard.

use std::collections::BTreeMap;

use control::shards::Origin;
use control::state::State;
use engine::LeaseWords;
use engine::ids::{NodeId, ShardId};
use engine::record::Scenario;
use engine::status::{FlowState, FlowView};
use engine::worker::Worker;
use member::view::View;

use super::Judge;
use crate::invariants::{Check, i01_unique_mappings, i03_within_lease, i04_leases_disjoint};
use crate::sim::node::Node;

impl Judge {
    /// A map that some member acts upon, for I31.
    pub(in crate::sim) fn map(&mut self, view: &View) {
        for spec in &view.specs {
            self.redundancy.wanted(spec.group, spec.epoch, spec.members.len());
        }
    }

    /// I31, I38 on a member.
    pub(in crate::sim) fn membership(&mut self, node: &Node, start: u64, now_ns: u64) -> Check {
        let Some(life) = node.control.incarnation() else { return Ok(()) };
        self.lives.check(node.id, start, life)?;
        let Some(flow) = &node.flow else { return Ok(()) };
        for status in flow.status(node.local(now_ns).ns) {
            self.redundancy.check(life, &status)?;
        }
        Ok(())
    }

    /// I4, I22 on a member's state.
    pub(in crate::sim) fn state(&mut self, node: &Node) -> Check {
        i04_leases_disjoint::check(node.control.state())?;
        let Some(worker) = &node.worker else { return Ok(()) };
        for status in worker.view().shard_status() {
            if let Some(hash) = worker.view().state_hash(status.shard) {
                self.hashes.check(&status, hash)?;
            }
        }
        Ok(())
    }

    /// I53: whether somebody serves each shard.
    pub(in crate::sim) fn available(&mut self, nodes: &BTreeMap<NodeId, Node>, newest: &State, now_ns: u64) -> Check {
        for (id, shard) in newest.shards() {
            let life = (*id, shard.epoch);
            let serving = |node: &Node| node.worker.as_ref().is_some_and(|worker| serves(worker, node, now_ns, *id));
            if shard.sealing.is_some() || shard.origin == Origin::Unplaced {
                self.available.excused(life);
            } else if nodes.values().any(|node| node.carries(now_ns) && serving(node)) {
                self.available.served(life, now_ns / 1_000_000);
            } else {
                let seen = || {
                    let seen = |node: &Node| {
                        let groups = node.flow.as_ref().map(|flow| flow.status(node.local(now_ns).ns));
                        let group = groups.into_iter().flatten().find(|group| group.group == *id);
                        let report = node.flow.as_ref().map(|flow| flow.groups().report());
                        format!("{}: {group:?}, {report:?}, carries {}", node.id, node.carries(now_ns))
                    };
                    nodes.values().map(seen).collect::<Vec<_>>().join("; ")
                };
                self.available.check(life, now_ns / 1_000_000, seen)?;
            }
        }
        Ok(())
    }

    /// I1, I3, I10 on the tables of all owners.
    pub(in crate::sim) fn owners<'a>(
        &self,
        nodes: impl Iterator<Item = &'a Node>,
        newest: &State,
        now_ns: u64,
    ) -> Check {
        let mut flows: Vec<FlowView> = Vec::new();
        for node in nodes {
            let Some(worker) = &node.worker else { continue };
            for status in
                worker.view().shard_status().iter().filter(|status| serves(worker, node, now_ns, status.shard))
            {
                flows.extend(worker.view().dump_flows(node.local(now_ns).ns, Some(status.shard), usize::MAX));
            }
        }
        i01_unique_mappings::check(flows.iter())?;
        for flow in &flows {
            if let (FlowState::Live, Some(public), Some(inside)) =
                (flow.state, flow.public.1, flow.inside.endpoint.addr.ipv4())
                && !matches!(flow.scenario, Scenario::Rule | Scenario::Private)
            {
                let from = (flow.inside.vnet, inside, flow.inside.endpoint.port);
                i03_within_lease::check(newest, from, (public, flow.public.2))?;
            }
        }
        Ok(())
    }
}

/// Whether this node is the shard's owner at this moment, by its own word.
fn serves(worker: &Worker, node: &Node, now_ns: u64, shard: ShardId) -> bool {
    let word = node.words.word(shard);
    let status = worker.view().shard_status().into_iter().find(|status| status.shard == shard);
    status.is_some_and(|status| status.serving == Some(Ok(())) && status.leading == Some(word.term))
        && node.local(now_ns).ns < word.lease_until_ns
}
