//! The invariants of one run, fed with everything that happens in it. What members are at a moment is judged in `members`.

mod members;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use control::allocation::Purpose;
use control::shards::Origin;
use control::state::State;
use engine::LeaseWords;
use engine::event::{Authority, GroupEvent};
use engine::ids::{ControlIndex, Incarnation, Link, NodeId, PortBlock, ShardId, Term, VnetId};
use engine::record::{Addr, Endpoint, InsideKey, Manner, Open, Proto, PublicKey, Scenario};
use engine::snapshot::OnReclaim;
use engine::wire::{IpPacket, TcpFlags};

use super::addresses::Host;
use super::clients::Client;
use super::node::Node;
use super::traffic::{Sender, Tag};
use crate::invariants::committed::{Committed, Fresh};
use crate::invariants::rights::{Known, Rights};
use crate::invariants::w3_inwards::End;
use crate::invariants::{
    Check, d05_resets, d12_kept_flows, i03_within_lease, i06_i10_i11_covered, i08_promised, i08_vmac,
    i13_i14_clean_frames, i22_equal_tables, i23_one_leader, i31_redundancy, i38_new_life, i39_right_backend,
    i53_available, w2_behind_first, w3_inwards, w4_private,
};

/// V of the default settings, which no run changes.
const VOTE_MS: u64 = 50;
/// And the lease that goes with it (L1).
const LEASE_NS: u64 = VOTE_MS * 1_000_000 / 5 * 4;
/// An answer that was under way for longer may find its port in other hands: no hold is shorter than V and 1 s.
const ANSWER_AGE_MAX_NS: u64 = 1_000_000_000;

/// How packets are counted that leave by an own address before their mapping is committed (W2).
pub(super) const BEFORE_COMMIT: &str = "first packets before their commit";
/// And what D12 is about: flows whose backend leaves by another right from now on, their packets since, and their own ends.
pub(super) const KEPT: &str = "flows kept by backends that leave by another right";
pub(super) const KEPT_PACKETS: &str = "packets of kept flows";
pub(super) const KEPT_ENDED: &str = "kept flows that ended by themselves";
/// And packets that reached an instance under a frontend's address (D17), and what came in by addresses alone (S23).
pub(super) const FLOATED: &str = "packets to instances under a frontend's address";
pub(super) const BY_ADDRESS_IN: &str = "own address, inbound, by addresses alone";
pub(super) const WITHOUT_PORTS_IN: &str = "own address, inbound, without ports";
/// And flows that had to go on when all backends moved in calm, and did.
pub(super) const WENT_ON: &str = "flows that went on through a move in calm";

/// See the module.
#[derive(Debug)]
pub(super) struct Judge {
    committed: Committed,
    vmac: i08_vmac::VmacTerms,
    pub(super) promises: i08_promised::Promises,
    pub(super) resets: d05_resets::Resets,
    pub(super) rights: Rights,
    firsts: w2_behind_first::Firsts,
    pub(super) inwards: w3_inwards::Inwards,
    pub(super) peers: w4_private::Peers,
    leaders: i23_one_leader::Leaders,
    hashes: i22_equal_tables::Hashes,
    redundancy: i31_redundancy::Redundancy,
    lives: i38_new_life::Lives,
    available: i53_available::Availability,
    /// Epoch and index of each node's replica, as its events say.
    at: BTreeMap<(NodeId, ShardId), (u32, u64)>,
    /// Mappings by their right, what left before its commit, changes of rights, and what becomes of flows then.
    pub(super) ways: BTreeMap<&'static str, u64>,
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
            rights: Rights::default(),
            firsts: w2_behind_first::Firsts::default(),
            inwards: w3_inwards::Inwards::default(),
            peers: w4_private::Peers::default(),
            leaders: i23_one_leader::Leaders::default(),
            hashes: i22_equal_tables::Hashes::default(),
            redundancy: i31_redundancy::Redundancy::default(),
            lives: i38_new_life::Lives::default(),
            available: i53_available::Availability::default(),
            at: BTreeMap::new(),
            ways: BTreeMap::new(),
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
                self.committed.applied(now_ns, (*shard, at.0), index.0, *term, entry)?;
                self.changed(*shard, newest)
            }
            GroupEvent::Refused { shard, .. } => {
                self.firsts.again(node, *shard);
                self.peers.again(node, *shard);
                Ok(())
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
            | GroupEvent::Scan { .. }
            | GroupEvent::ScanOver { .. }
            | GroupEvent::Load { .. } => Ok(()),
        }
    }

    /// What the last entry changed is looked at, by the state under which it was judged.
    fn changed(&mut self, shard: ShardId, newest: &State) -> Check {
        for (judged, fresh) in self.committed.take_fresh() {
            match fresh {
                Fresh::Opened { open, again } => {
                    self.count(open.scenario.label(), 1);
                    let proto = open.public.proto;
                    if open.scenario == Scenario::OwnIn && proto.is_by_address() {
                        self.count(if proto.has_ports() { BY_ADDRESS_IN } else { WITHOUT_PORTS_IN }, 1);
                    }
                    self.firsts.decided(shard, &open.public);
                    self.may_open(newest, judged, &open, again)?;
                }
                Fresh::Closed { public, mapping, reason } => {
                    let rights = &self.rights;
                    match mapping.scenario {
                        Scenario::Rule => w3_inwards::closed(rights, judged, &mapping, &public, reason)?,
                        Scenario::Private => {
                            w4_private::closed(rights, judged, &public, (mapping.backend, mapping.inside), reason)?;
                        }
                        Scenario::Pool | Scenario::Default | Scenario::OwnOut | Scenario::OwnIn => {
                            let whose = (mapping.backend, mapping.scenario);
                            d12_kept_flows::closed(rights, judged, whose, &public, reason)?;
                        }
                    }
                    let kept = |known: &Known| known.waits_for(mapping.backend, &public);
                    if self.rights.around(judged).all(kept) {
                        self.count(KEPT_ENDED, 1);
                    }
                }
            }
        }
        Ok(())
    }

    /// I3, W3, W4: by the state under which an entry was judged that opens a mapping.
    fn may_open(&self, newest: &State, judged: ControlIndex, open: &Open, again: bool) -> Check {
        match open.scenario {
            Scenario::Rule => {
                w3_inwards::led(&self.rights, judged, open)?;
                self.asked(newest, open)
            }
            Scenario::Private => w4_private::opened(&self.rights, judged, open.inside, open.public.remote),
            Scenario::Pool | Scenario::Default | Scenario::OwnOut => {
                i03_within_lease::opened(&self.rights, judged, open, again)
            }
            Scenario::OwnIn => {
                i03_within_lease::opened(&self.rights, judged, open, again)?;
                self.asked(newest, open)
            }
        }
    }

    /// W3: that somebody asked for what an entry opens.
    fn asked(&self, newest: &State, open: &Open) -> Check {
        let frontend = newest.allocation().frontends.get(&open.public.frontend);
        frontend.map_or(Ok(()), |frontend| self.inwards.opened(frontend.ip, open))
    }

    /// By which public end a flow leaves, and under which right.
    pub(super) fn end_of(
        &self,
        proto: Proto,
        inside: InsideKey,
        remote: Endpoint,
    ) -> Option<(ShardId, PublicKey, Scenario)> {
        self.committed.end_of(proto, inside, remote)
    }

    /// A flow was kept in calm, and answered.
    pub(super) fn went_on(&mut self) {
        self.count(WENT_ON, 1);
    }

    fn count(&mut self, what: &'static str, by: u64) {
        *self.ways.entry(what).or_insert(0) += by;
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

    /// Some node has applied this control state.
    pub(super) fn applied(&mut self, state: &State) -> Check {
        let Some((before, known)) = self.rights.note(state) else { return Ok(()) };
        let begun = known.drains.iter().filter(|(_, drain)| drain.reclaim_index == state.index());
        // A piece of what drained before goes on as that did.
        let rest = |block: &PortBlock| before.is_some_and(|b| b.draining(block.frontend, block.start).is_some());
        let mut kept = 0;
        for (block, drain) in begun.filter(|(block, _)| !rest(block)) {
            d12_kept_flows::begun(known, block, drain)?;
            if drain.on_reclaim == OnReclaim::Keep
                && let Some(frontend) = state.allocation().frontends.get(&block.frontend)
            {
                kept += self.committed.live_on(frontend.shard, block);
            }
        }
        for (id, holding) in known.backends.iter().filter(|(_, holding)| holding.declared) {
            let earlier = before.and_then(|before| before.backends.get(id)).filter(|earlier| earlier.declared);
            if let Some(what) = earlier.and_then(|earlier| earlier.moved(holding)) {
                *self.ways.entry(what).or_insert(0) += 1;
            }
        }
        *self.ways.entry(KEPT).or_insert(0) += u64::try_from(kept).unwrap_or(u64::MAX);
        Ok(())
    }

    /// A translated packet leaves.
    pub(super) fn translated(
        &mut self,
        (node, now_ns): (&Node, u64),
        newest: &State,
        (link, authority): (Link, Authority),
        packet: &IpPacket,
        tag: &Tag,
    ) -> Check {
        if let Authority::Grace { shard } = authority {
            i08_vmac::orphan(shard, node.id, node.words.word(shard), now_ns)?;
        }
        let world_ns = now_ns.saturating_sub(node.local(0).ns);
        let late = world_ns.saturating_sub(tag.sent_ns) > ANSWER_AGE_MAX_NS;
        match (link, tag.sender) {
            (Link::Outside, Sender::Backend) => self.outside((node.id, authority), newest, packet, tag),
            (Link::Outside, Sender::Server(number) | Sender::Client(number)) => {
                i13_i14_clean_frames::outside(packet)?;
                let ends = ((packet.src, packet.src_port), (packet.dst, packet.dst_port));
                // A datagram whose question the owner does not know begins a flow of the backend's own.
                let asked = self.inwards.ends(number).map(|(_, public)| public);
                let is_datagram = packet.proto.manner() == Manner::Datagram;
                if is_datagram && asked != Some(ends.0) {
                    return self.outside((node.id, authority), newest, packet, tag);
                }
                let Some((shard, public)) = public_key(newest, packet.proto, ends) else { return Ok(()) };
                if self.is_taken_for_own(newest, (shard, &public), number, packet, tag) {
                    return Ok(());
                }
                if is_datagram && self.is_outward(newest, shard, &public) {
                    return self.outside((node.id, authority), newest, packet, tag);
                }
                let card = (tag.host.network, tag.host.ip);
                self.inwards.leaves((&self.committed, &self.rights), (shard, &public), number, (card, tag.port), packet)
            }
            (_, Sender::Caller(number) | Sender::Callee(number)) => {
                let owner = match authority {
                    Authority::Lease { shard, term } => Some((node.id, shard, term)),
                    Authority::Grace { .. } | Authority::Forward => None,
                };
                let back = matches!(tag.sender, Sender::Callee(_));
                self.peers.passes(&self.committed, (number, back), (link, owner), packet, tag.sent_ns)
            }
            (Link::Inside(_), _) if late => Ok(()),
            (Link::Inside(vnet), Sender::Client(number)) => self.came(newest, vnet, number, packet),
            (Link::Inside(vnet), Sender::Backend | Sender::Server(_)) => {
                let (asked, got) = ((tag.host.ip, tag.port), (packet.dst, packet.dst_port));
                i39_right_backend::check((tag.host.link(), asked), (link, got))?;
                let inside = InsideKey { vnet, endpoint: end(packet.dst, packet.dst_port) };
                let flow = (packet.proto, inside, end(packet.src, packet.src_port));
                // To an owner that does not know the question an answer at an own address is one that anybody sends (S23).
                let has_own = |known: &Known| known.at((vnet, packet.dst)).is_some_and(|holding| holding.own.is_some());
                if packet.proto.manner() == Manner::Datagram && self.rights.around(newest.index()).any(has_own) {
                    return Ok(());
                }
                i06_i10_i11_covered::inwards(&self.committed, flow)
            }
        }
    }

    /// A client's packet reaches an instance.
    fn came(&mut self, newest: &State, vnet: VnetId, number: u32, packet: &IpPacket) -> Check {
        let inside = InsideKey { vnet, endpoint: end(packet.dst, packet.dst_port) };
        let Some((client, asked)) = self.inwards.ends(number) else { return Ok(()) };
        let Some((shard, public)) = public_key(newest, packet.proto, (asked, client)) else { return Ok(()) };
        let Host { network, ip } = Host::of(packet.eth_dst);
        if packet.dst != ip {
            self.count(FLOATED, 1);
        }
        self.inwards.comes((&self.committed, &self.rights), (shard, &public), number, ((network, ip), inside), packet)
    }

    /// Whether a server repeats its SYN-ACK by an address of its own, although its client came by a rule: that leads to it no more, so that
    /// to an owner that has taken over since it answers what came to the own address (W3). Nothing is committed by it, and its client
    /// leaves it alone.
    fn is_taken_for_own(
        &self,
        newest: &State,
        (shard, public): (ShardId, &PublicKey),
        number: u32,
        packet: &IpPacket,
        tag: &Tag,
    ) -> bool {
        let Some((client, asked)) = self.inwards.ends(number) else { return false };
        let place = (tag.host.network, tag.host.ip);
        let inside = InsideKey { vnet: place.0, endpoint: end(place.1, tag.port) };
        let by_rule = public_key(newest, packet.proto, (asked, client)).map(|(_, public)| public);
        let is_led = |known: &Known, id| by_rule.is_some_and(|public| known.leads(&public, (id, inside)));
        let may_be_own = |known: &Known| {
            let owner = known.owner_of(public.frontend).filter(|(_, holding)| holding.place == place);
            owner.is_some_and(|(id, _)| !is_led(known, id))
        };
        let is_greeting = packet.tcp.is_some_and(|tcp| tcp.flags.contains(TcpFlags::SYN | TcpFlags::ACK));
        is_greeting
            && asked.0 != packet.src
            && packet.src_port == tag.port
            && self.committed.standing(shard, public).is_none()
            && self.rights.around(newest.index()).any(may_be_own)
    }

    /// Whether a datagram by this end, which is somebody's own, belongs to a flow that its backend began.
    fn is_outward(&self, newest: &State, shard: ShardId, public: &PublicKey) -> bool {
        let own = matches!(newest.allocation().frontends[&public.frontend].purpose, Purpose::Own(_));
        own && self.committed.standing(shard, public).is_none_or(|m| m.scenario == Scenario::OwnOut)
    }

    /// Whether nothing has closed an open connection of a client since its backend got something of it, and nothing of its shard
    /// was lost.
    pub(super) fn still_stands(&self, shard: ShardId, public: &PublicKey, number: u32) -> bool {
        let before = self.inwards.closes_before(number);
        before == Some(self.committed.closes(shard, public)) && !self.committed.lost(shard)
    }

    /// Whether a private connection has a live mapping.
    pub(super) fn lives(&self, peer: &Client) -> bool {
        self.peers.lives(&self.committed, peer.number)
    }

    fn outside(
        &mut self,
        (node, authority): (NodeId, Authority),
        newest: &State,
        packet: &IpPacket,
        tag: &Tag,
    ) -> Check {
        i13_i14_clean_frames::outside(packet)?;
        let from = (tag.host.network, tag.host.ip, tag.port);
        i03_within_lease::check(newest, from, (packet.src, packet.src_port))?;
        let ends = ((packet.src, packet.src_port), (packet.dst, packet.dst_port));
        // I3 has found it.
        let Some((shard, public)) = public_key(newest, packet.proto, ends) else { return Ok(()) };
        let purpose = newest.allocation().frontends[&public.frontend].purpose;
        let inside = InsideKey { vnet: tag.host.network, endpoint: end(tag.host.ip, tag.port) };
        if keeps(newest, &public) {
            self.count(KEPT_PACKETS, 1);
        }
        let covered = i06_i10_i11_covered::check(&self.committed, shard, &public, inside);
        match (purpose, authority) {
            (Purpose::Own(_), Authority::Lease { term, .. })
                if covered.is_err() && self.committed.standing(shard, &public).is_none() =>
            {
                self.count(BEFORE_COMMIT, 1);
                self.firsts.left((node, shard, term), (public, inside), packet, tag.sent_ns)
            }
            _ => covered,
        }
    }
}

/// Whether a public end is on its way back, and waits for its flows until they close.
fn keeps(newest: &State, public: &PublicKey) -> bool {
    let drains = newest.allocation().drains.iter();
    let mut there = drains.filter(|(block, _)| block.frontend == public.frontend && block.contains(public.port));
    there.any(|(_, drain)| drain.on_reclaim == OnReclaim::Keep)
}

/// The public key of an address of ours and a remote, and the shard that has it.
fn public_key(newest: &State, proto: Proto, ends: (End, End)) -> Option<(ShardId, PublicKey)> {
    let ((ip, port), (remote, service)) = ends;
    let (id, frontend) = newest.allocation().frontends.iter().find(|(_, frontend)| frontend.ip == ip)?;
    Some((frontend.shard, PublicKey { proto, frontend: *id, port, remote: end(remote, service) }))
}

fn end(ip: Ipv4Addr, port: u16) -> Endpoint {
    Endpoint { addr: Addr::from(ip), port }
}
