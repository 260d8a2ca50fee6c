//! The invariants of one run, fed with everything that happens in it.

use std::collections::BTreeMap;

use control::shards::Origin;
use control::state::State;
use engine::LeaseWords;
use engine::event::{Authority, GroupEvent};
use engine::ids::{Incarnation, Link, NodeId, ShardId, Term};
use engine::record::{Addr, Endpoint, InsideKey, PublicKey};
use engine::status::FlowView;
use engine::wire::IpPacket;
use engine::worker::Worker;
use member::view::View;

use super::node::Node;
use super::traffic::Tag;
use crate::invariants::committed::Committed;
use crate::invariants::{
    Check, d05_resets, i01_unique_mappings, i03_within_lease, i04_leases_disjoint, i06_i10_i11_covered, i08_promised,
    i08_vmac, i13_i14_clean_frames, i22_equal_tables, i23_one_leader, i31_redundancy, i38_new_life, i39_right_backend,
    i53_available,
};

/// V of the default settings, which no run changes.
const VOTE_MS: u64 = 50;
/// And the lease that goes with it (L1).
const LEASE_NS: u64 = VOTE_MS * 1_000_000 / 5 * 4;
/// An answer that was under way for longer may find its port in other hands: no hold is shorter than V and 1 s.
const ANSWER_AGE_MAX_NS: u64 = 1_000_000_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Judge {
    committed: Committed,
    vmac: i08_vmac::VmacTerms,
    pub(super) promises: i08_promised::Promises,
    pub(super) resets: d05_resets::Resets,
    leaders: i23_one_leader::Leaders,
    hashes: i22_equal_tables::Hashes,
    redundancy: i31_redundancy::Redundancy,
    lives: i38_new_life::Lives,
    available: i53_available::Availability,
    /// Epoch and index of each node's replica, as its events say.
    at: BTreeMap<(NodeId, ShardId), (u32, u64)>,
    pub(super) elections: u64,
    pub(super) recreations: u64,
    /// Joins, reloads, and replicas that were given up.
    pub(super) transfers: (u64, u64, u64),
    /// Replicas whose table is being loaded, and whether they had one.
    loading: BTreeMap<(NodeId, ShardId), bool>,
    /// The life and epoch in which each node's replica began.
    began: BTreeMap<(NodeId, ShardId), (Incarnation, u32)>,
}

impl Judge {
    pub(super) fn new() -> Self {
        Self {
            committed: Committed::new(VOTE_MS),
            vmac: i08_vmac::VmacTerms::default(),
            promises: i08_promised::Promises::of(LEASE_NS),
            resets: d05_resets::Resets::default(),
            leaders: i23_one_leader::Leaders::default(),
            hashes: i22_equal_tables::Hashes::default(),
            redundancy: i31_redundancy::Redundancy::default(),
            lives: i38_new_life::Lives::default(),
            available: i53_available::Availability::default(),
            at: BTreeMap::new(),
            elections: 0,
            recreations: 0,
            transfers: (0, 0, 0),
            loading: BTreeMap::new(),
            began: BTreeMap::new(),
        }
    }

    pub(super) const fn mappings(&self) -> u64 {
        self.committed.opened()
    }

    /// A majority of the shard's replicas died: what only they held may be gone (N4).
    pub(super) fn majority_lost(&mut self, shard: ShardId) {
        self.committed.majority_lost(shard);
        self.hashes.forget(shard);
    }

    /// What the flow half of a node tells its worker.
    pub(super) fn event(
        &mut self,
        now_ns: u64,
        (node, life): (NodeId, Incarnation),
        newest: &State,
        event: &GroupEvent,
    ) -> Check {
        match event {
            GroupEvent::Opened { shard, epoch, index, loads } => {
                let before = self.began.insert((node, *shard), (life, *epoch));
                let had_one = before == Some((life, *epoch)) && self.at.contains_key(&(node, *shard));
                self.loading.remove(&(node, *shard));
                if *loads {
                    self.loading.insert((node, *shard), had_one);
                }
                self.at.insert((node, *shard), (*epoch, index.0));
                for (id, founded) in newest.shards() {
                    if matches!(founded.origin, Origin::Founded { .. }) {
                        self.committed.founded(*id, founded.epoch);
                    }
                }
                self.committed.began(*shard, *epoch)
            }
            GroupEvent::Loaded { shard, base, .. } => {
                match self.loading.remove(&(node, *shard)) {
                    Some(true) => self.transfers.1 += 1,
                    Some(false) | None => self.transfers.0 += 1,
                }
                self.at.entry((node, *shard)).or_default().1 = base.0;
                Ok(())
            }
            GroupEvent::Reopened { shard, epoch, control_index } => {
                self.recreations += 1;
                // Somebody who is neither gone nor sealed may hold more: that is declared, and waited for (N4).
                let origin = newest.shards().get(shard).map(|entry| &entry.origin);
                if matches!(origin, Some(Origin::Recreated { wait_ms, .. }) if *wait_ms > 0) {
                    self.majority_lost(*shard);
                }
                let at = self.at.entry((node, *shard)).or_default();
                at.0 = *epoch;
                self.committed.continued(*shard, *epoch, at.1, *control_index)
            }
            GroupEvent::Committed { shard, index, term, entry } => {
                let at = self.at.entry((node, *shard)).or_default();
                at.1 = index.0;
                self.committed.applied(now_ns, (*shard, at.0), index.0, *term, entry)
            }
            GroupEvent::Leading { shard, term } => {
                self.elections += 1;
                self.leaders.check(*shard, *term, life)
            }
            GroupEvent::Dropped { shard } => {
                self.transfers.2 += 1;
                self.at.remove(&(node, *shard));
                Ok(())
            }
            GroupEvent::Following { .. }
            | GroupEvent::Owner { .. }
            | GroupEvent::Refused { .. }
            | GroupEvent::Scan { .. }
            | GroupEvent::ScanOver { .. }
            | GroupEvent::Load { .. } => Ok(()),
        }
    }

    /// A frame from a virtual MAC leaves `node`.
    pub(super) fn vmac(&mut self, shard: ShardId, node: &Node, now_ns: u64) -> Check {
        self.vmac.check(shard, node.id, node.words.word(shard), now_ns)
    }

    /// The same, against who promised what.
    pub(super) fn promised(&mut self, shard: ShardId, node: &Node, authority: Authority, now_ns: u64) -> Check {
        let term = match authority {
            Authority::Lease { term, .. } => term,
            Authority::Grace { .. } | Authority::Forward => Term(0),
        };
        let Some(flow) = &node.flow else { return Ok(()) };
        let leader = flow.incarnation();
        self.promises.check(shard, leader, term.0, now_ns)
    }

    /// The configurations that a node's replicas have applied.
    pub(super) fn configurations(&mut self, node: &Node, now_ns: u64) {
        let Some(flow) = &node.flow else { return };
        let leader = flow.incarnation();
        for status in flow.status(node.local(now_ns).ns) {
            self.promises.applied(status.group, leader, (status.voters, status.outgoing), now_ns);
        }
    }

    /// A translated packet leaves.
    pub(super) fn translated(
        &self,
        (node, now_ns): (&Node, u64),
        newest: &State,
        (link, authority): (Link, Authority),
        packet: &IpPacket,
        tag: &Tag,
    ) -> Check {
        if let Authority::Grace { shard } = authority {
            i08_vmac::orphan(shard, node.id, node.words.word(shard), now_ns)?;
        }
        match link {
            Link::Outside => self.outside(newest, packet, tag),
            Link::Inside(_) => {
                let world_ns = now_ns.saturating_sub(node.local(0).ns);
                if world_ns.saturating_sub(tag.sent_ns) > ANSWER_AGE_MAX_NS {
                    return Ok(());
                }
                let (asked, got) = ((tag.host.ip, tag.port), (packet.dst, packet.dst_port));
                i39_right_backend::check((tag.host.link(), asked), (link, got))
            }
        }
    }

    fn outside(&self, newest: &State, packet: &IpPacket, tag: &Tag) -> Check {
        i13_i14_clean_frames::outside(packet)?;
        i03_within_lease::check(newest, (tag.host.network, tag.host.ip), (packet.src, packet.src_port))?;
        let frontends = &newest.allocation().frontends;
        let frontend = frontends.iter().find(|(_, frontend)| frontend.ip == packet.src);
        // I3 has found it.
        let Some((id, frontend)) = frontend else { return Ok(()) };
        let end = |ip, port| Endpoint { addr: Addr::from(ip), port };
        let public = PublicKey {
            proto: packet.proto,
            frontend: *id,
            port: packet.src_port,
            remote: end(packet.dst, packet.dst_port),
        };
        let inside = InsideKey { vnet: tag.host.network, endpoint: end(tag.host.ip, tag.port) };
        i06_i10_i11_covered::check(&self.committed, frontend.shard, &public, inside)
    }

    /// A map that some member acts upon, for I31.
    pub(super) fn map(&mut self, view: &View) {
        for spec in &view.specs {
            self.redundancy.wanted(spec.group, spec.epoch, spec.members.len());
        }
    }

    /// I31, I38 on a member.
    pub(super) fn membership(&mut self, node: &Node, start: u64, now_ns: u64) -> Check {
        let Some(life) = node.control.incarnation() else { return Ok(()) };
        self.lives.check(node.id, start, life)?;
        let Some(flow) = &node.flow else { return Ok(()) };
        for status in flow.status(node.local(now_ns).ns) {
            self.redundancy.check(life, &status)?;
        }
        Ok(())
    }

    /// I4, I22 on a member's state.
    pub(super) fn state(&mut self, node: &Node) -> Check {
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
    pub(super) fn available(&mut self, nodes: &BTreeMap<NodeId, Node>, newest: &State, now_ns: u64) -> Check {
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
    pub(super) fn owners<'a>(&self, nodes: impl Iterator<Item = &'a Node>, newest: &State, now_ns: u64) -> Check {
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
            if let (engine::status::FlowState::Live, Some(public), Some(inside)) =
                (flow.state, flow.public.1, flow.inside.endpoint.addr.ipv4())
            {
                i03_within_lease::check(newest, (flow.inside.vnet, inside), (public, flow.public.2))?;
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
