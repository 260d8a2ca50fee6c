//! Hot path. Inside to outside: translation by a mapping, or a new mapping and a packet that waits for its commit.
//!
//! Never sends a first packet itself: `release_parked` does, when the log has the mapping (I6). Called by `frame`.

use std::net::Ipv4Addr;

use crate::addresses::{InsideEnd, check_destination, flow_of, next_hop, own_address};
use crate::consent::note_hits;
use crate::context::{Access, Back, Exit, Frame, Hop};
use crate::event::{Authority, DropReason, Verdict};
use crate::flow::{FlowKey, Record, Slot};
use crate::ids::{BackendId, FrontendId, Link, ShardId, Term, VnetId};
use crate::judge::Judge;
use crate::judge::fragments::{Fate, Key, Way};
use crate::judge::opening::{First, Opened, Opening};
use crate::judge::policy::{self, Plan, Proposal, Role};
use crate::lease::LeaseWords;
use crate::private::pair_of;
use crate::record::{PublicKey, Scenario};
use crate::shard::Shard;
use crate::shard::overlay::Parked;
use crate::shard::standing::groups_let;
use crate::snapshot::Backend;
use crate::translation::{finish, put_source};
use crate::wire::{IpPacket, Notice, rewrite_destination};

/// Where a translated packet comes from: its network, its backend's address there, and the public end of its mapping.
#[derive(Clone, Copy)]
struct Source {
    vnet: VnetId,
    at: Ipv4Addr,
    frontend: FrontendId,
    port: u16,
}

impl Source {
    const fn of(record: &Record, backend: &Backend) -> Self {
        Self { vnet: record.vnet, at: backend.ip, frontend: record.frontend, port: record.public_port }
    }

    const fn at(backend: &Backend, public: &PublicKey) -> Self {
        Self { vnet: backend.vnet, at: backend.ip, frontend: public.frontend, port: public.port }
    }

    const fn end(self) -> (FrontendId, u16) {
        (self.frontend, self.port)
    }
}

impl<W: LeaseWords> Judge<'_, W> {
    pub(crate) fn outbound(
        &mut self,
        vnet: VnetId,
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let (s, link) = (self.cx.snapshot, Link::Inside(vnet));
        let Some(id) = s.backend_by_ip.get(&(vnet, p.src)).copied() else { return self.floating(vnet, p, frame) };
        let backend = s.backends.get(&id).ok_or(DropReason::SpoofedSource)?;
        if let Some(pair) = pair_of(s, (vnet, p.src), p.dst) {
            return self.private(&pair, p, frame);
        }
        let authority = match self.shards.access(&self.cx, backend.home) {
            Access::Here(authority) => authority,
            Access::Forward(node) => return self.egress.forward(s, link, node, p.eth_src, frame),
            Access::Nothing(reason) => return Err(reason),
        };
        self.leave(authority, (id, backend), p, frame)
    }

    /// A packet of a backend, whatever its source, that is judged here.
    pub(crate) fn leave(
        &mut self,
        authority: Authority,
        (id, backend): (BackendId, &Backend),
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let (s, at, vnet) = (self.cx.snapshot, self.cx.at(), backend.vnet);
        let link = Link::Inside(vnet);
        let back = Back { exit: Exit { link, authority }, sender: backend.ip };
        check_destination(s, vnet, p.dst).map_err(|reason| self.egress.refuse_flow(at, back, reason, p, frame))?;
        if policy::is_vain(s, p.dst, p.icmp) {
            return Err(DropReason::NoMapping);
        }
        self.datagrams.note_first(at.now_ns, link, p)?;
        let mtu = self.mtu_to(authority, p.dst)?;
        self.egress.may_go_on(at, back, mtu, p, frame)?;
        if let Err(reason) = next_hop(s, p.dst)
            && !s.frontend_by_ip.contains_key(&p.dst)
        {
            self.egress.notify(at, back, Notice::NetUnreachable, p, frame.bytes);
            return Err(reason);
        }
        let flow = flow_of(vnet, p);
        let shard = self.shards.replica_mut(backend.home).ok_or(DropReason::NoForward)?;
        let plan = policy::plan(at, shard, authority, (id, backend), &flow, Role::of(p));
        if matches!(&plan, Plan::Open(proposal) if proposal.is_begun_here())
            || matches!(plan, Plan::Refuse(DropReason::SecurityRule))
        {
            note_hits(&mut shard.hits, s, id, &flow);
        }
        match plan {
            Plan::Translate(slot) => {
                shard.note_out(self.cache, at, authority, slot, p);
                let source = Source::of(shard.replica.table.record(slot), backend);
                let sent = self.send_out(authority, source, p, frame);
                self.decide(authority, slot);
                sent
            }
            Plan::Answer(open) => {
                shard.half_open.answered(at.now_ns, open, p.tcp.as_ref());
                let source = Source::at(backend, &open.public);
                self.send_out(authority, source, p, frame)
            }
            Plan::Park => self.opening().park(backend.home, &flow, &First { packet: p, frame, from: link }),
            Plan::Open(proposal) => self.open(&proposal, back, &flow, p, frame),
            Plan::Stray => Err(self.egress.refuse_stray(at, authority, backend, p)),
            Plan::Refuse(DropReason::NotOwner) => self.await_lease(backend.home, link, p, frame),
            Plan::Refuse(reason) => {
                use DropReason as R;
                if matches!(reason, R::NoOutboundPath | R::DefaultOutboundOff | R::NoOwnAddress) {
                    self.egress.counters.snat_mut(flow.proto).failed += 1;
                }
                Err(self.egress.refuse_flow(at, back, reason, p, frame))
            }
        }
    }

    /// Opens a mapping, or counts the failure and tells the backend of it.
    fn open(
        &mut self,
        proposal: &Proposal<'_>,
        back: Back,
        flow: &FlowKey,
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let opened = self.opening().propose(proposal, flow, &First { packet: p, frame, from: back.exit.link });
        self.egress.counters.attempted(flow.proto, &opened);
        match opened {
            Ok(Opened::Parked) => Ok(Verdict::Consumed),
            Ok(Opened::Leaves(public)) => {
                let source = Source::at(proposal.backend.1, &public);
                self.send_out(back.exit.authority, source, p, frame)
            }
            Err(reason) => Err(self.egress.refuse_flow(self.cx.at(), back, reason, p, frame)),
        }
    }

    pub(crate) fn opening(&mut self) -> Opening<'_> {
        Opening { at: self.cx.at(), shards: self.shards, held: &mut self.egress.held }
    }

    /// The mapping of a parked packet is committed: it leaves by the queue that `poll_frame` empties.
    pub(crate) fn release_parked(&mut self, home: ShardId, term: Term, slot: Slot, parked: Parked) {
        let (at, authority) = (self.cx.at(), Authority::Lease { shard: home, term });
        if parked.from == Link::Outside {
            return self.release_inward(home, authority, slot, parked);
        }
        let opened = |shard: &Shard| shard.replica.table.record(slot).scenario();
        if self.shards.replica(home).map(opened) == Some(Scenario::Private) {
            return self.release_private(authority, home, slot, parked);
        }
        let Parked { frame: mut bytes, meta, packet: p, .. } = parked;
        let Some(shard) = self.shards.replica_mut(home) else {
            return self.egress.drop_waiting(bytes, DropReason::TermLost);
        };
        let record = shard.replica.table.record(slot);
        if !groups_let(at.snapshot, record) {
            // Denied while it waited; `duties` ends the mapping.
            return self.egress.drop_waiting(bytes, DropReason::SecurityRule);
        }
        shard.note_out(self.cache, at, authority, slot, &p);
        let record = shard.replica.table.record(slot);
        let Some(backend) = at.snapshot.backends.get(&record.backend) else {
            return self.egress.drop_waiting(bytes, DropReason::NoMapping);
        };
        let source = Source::of(record, backend);
        if let Some(back) = self.led_back(authority, source.end(), &p) {
            let mut frame = Frame { meta: &meta, bytes: &mut bytes };
            let turned = self.turn_to_rule(&back, source.end(), &p, &mut frame);
            return self.egress.settle_turned(at.now_ns, turned, meta, bytes);
        }
        let key = Key::of_first(Link::Inside(source.vnet), &p);
        let result = self.rewrite_out(authority, source, &p, &mut Frame { meta: &meta, bytes: &mut bytes });
        self.decide(authority, slot);
        match result {
            Ok((exit, hop)) => self.egress.send_later(at.now_ns, exit, hop, meta, bytes),
            Err(reason) => {
                self.tell_ended(authority, source, reason, &p, &bytes);
                self.egress.drop_waiting(bytes, reason);
                if let Some(key) = key {
                    self.datagrams.decide(&key, Fate::Refused(reason));
                }
            }
        }
        self.settle_fragments(key);
    }

    fn send_out(
        &mut self,
        authority: Authority,
        source: Source,
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        if let Some(back) = self.led_back(authority, source.end(), p) {
            return self.turn_to_rule(&back, source.end(), p, frame);
        }
        match self.rewrite_out(authority, source, p, frame) {
            Ok((exit, hop)) => self.egress.conclude(self.cx.at(), exit, hop, frame),
            Err(reason) => {
                self.tell_ended(authority, source, reason, p, frame.bytes);
                Err(reason)
            }
        }
    }

    /// Tells a backend that nobody answers for the next hop of its packet, which `rewrite_out` has not changed (RFC 1812
    /// 4.3.3.1).
    fn tell_ended(&mut self, authority: Authority, source: Source, reason: DropReason, p: &IpPacket, frame: &[u8]) {
        if reason == DropReason::NoNeighbour {
            let back = Back { exit: Exit { link: Link::Inside(source.vnet), authority }, sender: source.at };
            self.egress.notify(self.cx.at(), back, Notice::HostUnreachable, p, frame);
        }
    }

    /// Returns where it goes, by what right, and who takes it: outside, or back inside if it is for an address of ours. What
    /// cannot go is not changed.
    fn rewrite_out(
        &mut self,
        authority: Authority,
        Source { vnet, at: sender, frontend, port }: Source,
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<(Exit, Hop), DropReason> {
        let (s, at) = (self.cx.snapshot, self.cx.at());
        let public = s.frontends.get(&frontend).ok_or(DropReason::NoOutboundPath)?;
        let own = own_address(s, p.dst);
        let right = own.and_then(|to| self.shards.right_for(authority, to.1));
        let outside = Exit { link: Link::Outside, authority };
        let (exit, hop, receiver): (Exit, Ipv4Addr, Option<InsideEnd>) = match (own, right) {
            (None, _) => (outside, next_hop(s, p.dst)?, None),
            (Some(_), None) => (outside, p.dst, None),
            (Some(to), Some(right)) => {
                let sender = InsideEnd { vnet, ip: p.src, port: p.src_port, at: sender };
                let receiver = self.turn(right, to, (sender, (public.ip, port)), p)?;
                (Exit { link: receiver.link(), authority: right }, receiver.at, Some(receiver))
            }
        };
        let way = self.egress.find_hop(at, exit, hop)?;
        let id = put_source(&mut self.egress.identifications, frame, p, (public.ip, port));
        if let Some(key) = Key::of_first(Link::Inside(vnet), p) {
            let way = Way { source: Some(public.ip), destination: receiver.map(|to| to.ip), id, hop, exit };
            self.datagrams.decide(&key, Fate::Known(way));
        }
        if let Some(to) = receiver {
            rewrite_destination(frame.bytes, frame.meta, p, to.ip, to.port);
        }
        finish(s, frame, p);
        Ok((exit, way.put(frame.bytes)))
    }
}
