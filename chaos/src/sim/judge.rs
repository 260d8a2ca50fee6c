//! What must hold, checked on everything that leaves a simulated member and on its tables.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine::ids::{NodeId, ShardId};

use super::node::Node;
use super::traffic::Seen;

/// All that the invariants remember.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// Public address and port towards the one remote, and the flow that first left under it.
    public: BTreeMap<(Ipv4Addr, u16), u32>,
    flows: BTreeMap<u32, (Ipv4Addr, u16)>,
    leaders: BTreeMap<(ShardId, u64), NodeId>,
    vmac_term: BTreeMap<ShardId, u64>,
    hashes: BTreeMap<(ShardId, u32, u64), u64>,
    incarnations: BTreeMap<NodeId, u64>,
}

impl Judge {
    pub(super) fn mappings(&self) -> u64 {
        self.flows.len() as u64
    }

    /// I1, I6, I10, I11, I13: in a run shorter than any idle timeout and hold, a flow that ever left under a public port
    /// keeps it, and nobody else ever gets that port towards the same remote. A mapping that left uncommitted would be
    /// forgotten by a failover and break this.
    pub(super) fn outside(&mut self, seen: &Seen) -> Result<(), String> {
        let key = (seen.src, seen.sport);
        if seen.src.octets()[0] == 10 {
            return Err(format!("I13: inside address {} outside", seen.src));
        }
        if let Some(other) = self.public.insert(key, seen.tag).filter(|other| *other != seen.tag) {
            return Err(format!("I1: flows {other:#x} and {:#x} both left as {}:{}", seen.tag, seen.src, seen.sport));
        }
        if let Some(was) = self.flows.insert(seen.tag, key).filter(|was| *was != key) {
            return Err(format!("I10: flow {:#x} left as {}:{}, then as {}:{}", seen.tag, was.0, was.1, key.0, key.1));
        }
        Ok(())
    }

    /// I3: the port lies in the lease of the backend that the tag names.
    pub(super) fn leased(node: &Node, seen: &Seen, backend: Ipv4Addr) -> Result<(), String> {
        let Some(view) = node.flow.as_ref().map(qnat::member::flow_member::FlowMember::view) else { return Ok(()) };
        let snapshot = &view.snapshot;
        let entry = snapshot.backends.values().find(|b| b.ip == backend);
        let fits = entry.is_some_and(|b| {
            b.lease.iter().any(|block| {
                block.contains(seen.sport) && snapshot.frontends.get(&block.frontend).is_some_and(|f| f.ip == seen.src)
            })
        });
        if fits { Ok(()) } else { Err(format!("I3: {backend} left as {}:{}", seen.src, seen.sport)) }
    }

    /// I8, M1: nobody sends from a shard's vMAC in an older term than somebody did before.
    pub(super) fn vmac(&mut self, shard: ShardId, term: u64, node: NodeId) -> Result<(), String> {
        let newest = self.vmac_term.entry(shard).or_insert(term);
        if term < *newest {
            return Err(format!("I8: node {node} sent from shard {shard}'s vMAC in term {term} after {newest}"));
        }
        *newest = term;
        Ok(())
    }

    /// I23.
    pub(super) fn leads(&mut self, shard: ShardId, term: u64, node: NodeId) -> Result<(), String> {
        match self.leaders.insert((shard, term), node).filter(|other| *other != node) {
            Some(other) => Err(format!("I23: nodes {other} and {node} lead shard {shard} in term {term}")),
            None => Ok(()),
        }
    }

    /// I4, I22, I38 on a member's state.
    pub(super) fn state(&mut self, node: &Node) -> Result<(), String> {
        node.control.state().check().map_err(|broken| format!("I4: control state of node {}: {broken:?}", node.id))?;
        if let Some(life) = node.control.incarnation() {
            let before = self.incarnations.insert(node.id, life.0).unwrap_or(0);
            if life.0 < before {
                return Err(format!("I38: node {} came back as {life}, before it was {before}", node.id));
            }
        }
        let Some(worker) = &node.worker else { return Ok(()) };
        for status in worker.shard_status() {
            let Some(hash) = worker.state_hash(status.shard) else { continue };
            let at = (status.shard, status.epoch, status.applied.0);
            if self.hashes.insert(at, hash).is_some_and(|other| other != hash) {
                return Err(format!("I22: shard {} epoch {} index {}: tables differ", at.0, at.1, at.2));
            }
        }
        Ok(())
    }
}
