//! Hot path. A frame becomes a verdict: who may translate it, by which mapping, and where it goes.
//!
//! No allocation on a table hit. What cannot be translated is dropped with a reason; nothing leaves untranslated (R28)
//! except what is forwarded whole to the owner, from this node's own MAC (M1).

use std::net::Ipv4Addr;

use crate::arp::on_link;
use crate::event::{Authority, DropReason, Verdict};
use crate::flow::{FlowKey, Record, Seen, Slot, State};
use crate::held::{Origin, Outgoing, Parked};
use crate::ids::{BackendId, FrontendId, Mac, NodeId, ShardId, Side, Term};
use crate::nat::tcp::{Direction, Progress};
use crate::nat::timeouts::note_answer;
use crate::neigh::Lookup;
use crate::record::{Addr, CloseReason, Endpoint, FlowRecord, HoldClass, InsideKey, Proto, PublicKey};
use crate::shard::{LeaseWords, Shard, in_lease};
use crate::snapshot::{Backend, NodeLinks, Snapshot};
use crate::wire::{
    FrameMeta, IcmpKind, IpPacket, Parsed, TcpFlags, clamp_mss, decrement_ttl, identify, parse, rewrite_destination,
    rewrite_source, set_ethernet,
};
use crate::worker::Worker;

const MS: u64 = 1_000_000;

/// What a frame is judged by.
#[derive(Debug)]
pub(crate) struct Cx<'a, W> {
    pub(crate) now_ns: u64,
    pub(crate) words: &'a W,
    pub(crate) snapshot: &'a Snapshot,
}

/// What this node may do for a shard now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    /// Everything, in this term.
    Lease(Term),
    /// Repeat committed mappings from the own MAC (L4).
    Grace,
    /// Another node owns it.
    Forward(NodeId),
    /// Nothing.
    Nothing(DropReason),
}

/// What to do with a packet whose mapping was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// Translate by it.
    Translate,
    /// The flow goes on: open the same mapping again (F3, D6).
    Reopen,
    /// A new flow on the same tuple: choose a port anew.
    Fresh,
    /// Neither.
    Refuse(DropReason),
}

impl Worker {
    pub(crate) fn judge_frame<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        side: Side,
        meta: &FrameMeta,
        frame: &mut [u8],
    ) -> Verdict {
        let result = match parse(frame, meta) {
            Ok(Parsed::Arp(p)) => return self.handle_arp(cx, side, &p),
            Ok(Parsed::Ip(p)) => self.judge_packet(cx, side, meta, &p, frame),
            Err(reason) => Err(reason),
        };
        match result {
            Ok(verdict) => {
                match verdict {
                    Verdict::Transmit { .. } => self.counters.transmitted += 1,
                    Verdict::Consumed => self.counters.parked += 1,
                    Verdict::Drop(reason) => self.counters.drop(reason),
                }
                verdict
            }
            Err(reason) => self.refuse(reason),
        }
    }

    fn judge_packet<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        side: Side,
        meta: &FrameMeta,
        p: &IpPacket,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        self.accept(cx, side, p)?;
        if p.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        match side {
            Side::Inside => self.outbound(cx, meta, p, frame),
            Side::Outside => self.inbound(cx, meta, p, frame),
        }
    }

    /// Whether the frame was sent to this node, and not flooded by a switch (M1).
    fn accept<W: LeaseWords>(&self, cx: &Cx<'_, W>, side: Side, p: &IpPacket) -> Result<(), DropReason> {
        let own = cx.snapshot.me.map(|me| mac_on(&me, side));
        let for_us = match p.eth_dst.shard() {
            Some(shard) => self.is_or_was_owner(cx.now_ns, cx.words, shard),
            None => own == Some(p.eth_dst),
        };
        if for_us && own != Some(p.eth_src) { Ok(()) } else { Err(DropReason::NotForUs) }
    }

    fn access<W: LeaseWords>(&self, cx: &Cx<'_, W>, shard: ShardId) -> Access {
        let Some(entry) = self.shards.get(&shard) else { return Access::Nothing(DropReason::NoForward) };
        let word = cx.words.word(shard);
        if let Some(term) = entry.replica.as_ref().and_then(|r| r.serves(cx.now_ns, self.me, word)) {
            return Access::Lease(term);
        }
        let led = entry.replica.as_ref().and_then(|r| r.leadership.as_ref()).map(|l| l.term);
        match entry.owner {
            Some((term, Some(node))) if node != self.node && led.is_none_or(|led| led < term) => {
                return Access::Forward(node);
            }
            Some((_, Some(_) | None)) | None => {}
        }
        let Some(replica) = &entry.replica else { return Access::Nothing(DropReason::NoForward) };
        // The grace of the last committed header counts, not the configured one (F6).
        let grace_end = replica.lease_end_ns.saturating_add(u64::from(replica.replica.meta.orphan_grace_ms) * MS);
        let orphan = entry.last_owned_ns.is_some() && word.incarnation == self.me;
        if orphan && cx.now_ns < word.grace_until_ns.min(grace_end) {
            return Access::Grace;
        }
        Access::Nothing(if led.is_some() { DropReason::NotOwner } else { DropReason::NoForward })
    }

    fn forward<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        side: Side,
        node: NodeId,
        p: &IpPacket,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let s = cx.snapshot;
        if s.peers.iter().any(|peer| mac_on(peer, side) == p.eth_src) {
            return Err(DropReason::NoForward);
        }
        let (Some(me), Some(peer)) = (s.me, s.peers.iter().find(|peer| peer.node == node)) else {
            return Err(DropReason::NoForward);
        };
        set_ethernet(frame, mac_on(&me, side), mac_on(peer, side));
        self.counters.forwarded += 1;
        Ok(Verdict::Transmit { side, authority: Authority::Forward })
    }

    fn outbound<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        meta: &FrameMeta,
        p: &IpPacket,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let s = cx.snapshot;
        let id = *s.backend_by_ip.get(&(self.vnet, p.src)).ok_or(DropReason::SpoofedSource)?;
        let backend = s.backends.get(&id).ok_or(DropReason::SpoofedSource)?;
        check_destination(s, p.dst)?;
        let authority = match self.access(cx, backend.home) {
            Access::Lease(term) => Authority::Lease { shard: backend.home, term },
            Access::Grace => Authority::Grace { shard: backend.home },
            Access::Forward(node) => return self.forward(cx, Side::Inside, node, p, frame),
            Access::Nothing(reason) => return Err(reason),
        };
        let flow = FlowKey {
            proto: p.proto,
            inside: InsideKey { vnet: self.vnet, endpoint: endpoint(p.src, p.src_port) },
            remote: endpoint(p.dst, p.dst_port),
        };
        let shard = self.replica_mut(backend.home).ok_or(DropReason::NoForward)?;
        let found = shard.replica.table.find_inside(&flow);
        let verdict = found.map(|slot| (slot, outbound_use(shard.replica.table.record(slot), p, id, backend)));
        match (verdict, authority) {
            (Some((slot, Use::Translate)), _) => {
                let (public, own) = (note_outbound(shard, slot, p, cx.now_ns), authority);
                if let (Progress::Finished, Authority::Lease { .. }) = (public.2, own) {
                    shard.close_finished(s, slot);
                }
                self.send_out(cx.snapshot, cx.now_ns, own, (public.0, public.1), p, meta, frame)
            }
            (Some((_, Use::Refuse(reason))), _) => {
                if shard.overlay.is_opening(&flow) {
                    self.park(cx, backend.home, &flow, p, meta, frame)
                } else {
                    Err(reason)
                }
            }
            (_, Authority::Grace { .. } | Authority::Forward) => Err(DropReason::NotOwner),
            (_, Authority::Lease { .. }) if shard.overlay.is_opening(&flow) => {
                self.park(cx, backend.home, &flow, p, meta, frame)
            }
            (Some((slot, Use::Reopen)), Authority::Lease { .. }) => {
                let public = shard.replica.table.record(slot).public();
                let opened = self.open(cx, (id, backend), &flow, Some(public), p, meta, frame);
                self.counters.attempted(flow.proto, &opened);
                opened
            }
            (None | Some((_, Use::Fresh)), Authority::Lease { .. }) => {
                if !opens(p) && !answers_to(shard, p, flow.inside) {
                    return Err(DropReason::NotFirstPacket);
                }
                let opened = self.open(cx, (id, backend), &flow, None, p, meta, frame);
                self.counters.attempted(flow.proto, &opened);
                opened
            }
        }
    }

    /// Another packet of a mapping that is on its way waits with the first one.
    fn park<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        home: ShardId,
        flow: &FlowKey,
        p: &IpPacket,
        meta: &FrameMeta,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let shard = self.shards.get_mut(&home).and_then(|e| e.replica.as_mut()).ok_or(DropReason::NotOwner)?;
        let backend = shard.overlay.backend(flow).ok_or(DropReason::NotOwner)?;
        let frame = self.held.park(&cx.snapshot.params, backend, frame).ok_or(DropReason::HoldLimit)?;
        shard.overlay.park(flow, Parked { frame, meta: *meta, packet: *p, arrived_ns: cx.now_ns });
        Ok(Verdict::Consumed)
    }

    /// Proposes a mapping, `again` the same or with a new port, and parks its first packet.
    #[expect(
        clippy::too_many_arguments,
        reason = "the packet and all that was found out about it, once, off the hit path"
    )]
    fn open<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        (id, backend): (BackendId, &Backend),
        flow: &FlowKey,
        again: Option<PublicKey>,
        p: &IpPacket,
        meta: &FrameMeta,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let s = cx.snapshot;
        let shard = self.shards.get_mut(&backend.home).and_then(|e| e.replica.as_mut()).ok_or(DropReason::NotOwner)?;
        if backend.lease.is_empty() {
            return Err(DropReason::NoOutboundPath);
        }
        if !shard.stream.is_open() {
            return Err(DropReason::Backpressure);
        }
        let public = match again {
            Some(public) => public,
            None => {
                shard.admits(cx.now_ns, &s.params, id)?;
                let key = PublicKey { proto: flow.proto, frontend: FrontendId(0), port: 0, remote: flow.remote };
                let picked = shard.pick_port(&s.params, (id, backend), flow.inside, key);
                let (frontend, port) = picked.ok_or(DropReason::PortsExhausted)?;
                // A shard is closed (M3); a lease elsewhere would never see its return traffic.
                if s.frontends.get(&frontend).is_none_or(|f| f.shard != backend.home) {
                    return Err(DropReason::NoOutboundPath);
                }
                PublicKey { frontend, port, ..key }
            }
        };
        let copy = self.held.park(&s.params, id, frame).ok_or(DropReason::HoldLimit)?;
        shard.charge(cx.now_ns, &s.params, id);
        shard.overlay.open(*flow, public, (id, backend.sharing), cx.now_ns);
        shard.overlay.park(flow, Parked { frame: copy, meta: *meta, packet: *p, arrived_ns: cx.now_ns });
        shard.stream.push(s.control_index, FlowRecord::Open { public, inside: flow.inside, backend: id });
        Ok(Verdict::Consumed)
    }

    /// The mapping of a parked packet is committed: it leaves by the queue that `poll_frame` empties.
    pub(crate) fn release_parked(&mut self, now_ns: u64, home: ShardId, term: Term, slot: Slot, parked: Parked) {
        let Some(snapshot) = self.snapshot.take() else {
            self.held.recycle(parked.frame);
            self.counters.drop_parked(DropReason::TermLost);
            return;
        };
        let Parked { mut frame, meta, packet, .. } = parked;
        let authority = Authority::Lease { shard: home, term };
        let result = match self.replica_mut(home) {
            Some(shard) => {
                let (frontend, port, progress) = note_outbound(shard, slot, &packet, now_ns);
                if progress == Progress::Finished {
                    shard.close_finished(&snapshot, slot);
                }
                self.rewrite_out(&snapshot, now_ns, authority, (frontend, port), &packet, &meta, &mut frame)
            }
            None => Err(DropReason::TermLost),
        };
        let outgoing = |frame| Outgoing {
            frame,
            meta,
            side: Side::Outside,
            authority,
            origin: Origin::Received,
            since_ns: now_ns,
        };
        match result {
            Ok(Hop::Ready) => self.held.push(outgoing(frame)),
            Ok(Hop::Wait(ip)) => {
                if let Err(reason) = self.wait_for((Side::Outside, ip), outgoing(frame)) {
                    self.counters.drop_parked(reason);
                }
            }
            Err(reason) => {
                self.held.recycle(frame);
                self.counters.drop_parked(reason);
            }
        }
        self.snapshot = Some(snapshot);
    }

    #[expect(clippy::too_many_arguments, reason = "hot path: passing a struct by reference would only hide them")]
    fn send_out(
        &mut self,
        s: &Snapshot,
        now_ns: u64,
        authority: Authority,
        public: (FrontendId, u16),
        p: &IpPacket,
        meta: &FrameMeta,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let hop = self.rewrite_out(s, now_ns, authority, public, p, meta, frame)?;
        self.conclude(s, now_ns, Side::Outside, authority, hop, meta, frame)
    }

    #[expect(clippy::too_many_arguments, reason = "hot path: passing a struct by reference would only hide them")]
    fn rewrite_out(
        &mut self,
        s: &Snapshot,
        now_ns: u64,
        authority: Authority,
        (frontend, port): (FrontendId, u16),
        p: &IpPacket,
        meta: &FrameMeta,
        frame: &mut [u8],
    ) -> Result<Hop, DropReason> {
        let public = s.frontends.get(&frontend).ok_or(DropReason::NoOutboundPath)?;
        let hop = next_hop(s, p.dst)?;
        rewrite_source(frame, meta, p, public.ip, port);
        identify(frame, p, || self.identifications.next(public.ip, meta, p));
        clamp(s, frame, meta, p);
        decrement_ttl(frame, p);
        self.address(s, now_ns, Side::Outside, authority, hop, frame)
    }

    /// Puts the Ethernet addresses on, as far as they are known.
    pub(crate) fn address(
        &mut self,
        s: &Snapshot,
        now_ns: u64,
        side: Side,
        authority: Authority,
        hop: Ipv4Addr,
        frame: &mut [u8],
    ) -> Result<Hop, DropReason> {
        let src = match authority {
            Authority::Lease { shard, .. } => Mac::of_shard(shard),
            Authority::Grace { .. } | Authority::Forward => mac_on(&s.me.ok_or(DropReason::NoForward)?, side),
        };
        match self.neighbours.lookup(now_ns, side, hop) {
            Lookup::Known(mac) => {
                set_ethernet(frame, src, mac);
                Ok(Hop::Ready)
            }
            Lookup::Unreachable => Err(DropReason::NoNeighbour),
            found @ (Lookup::Ask | Lookup::Wait) => {
                // In grace nobody may be asked (M1): what is not known already stays unknown.
                let Authority::Lease { .. } = authority else { return Err(DropReason::NoNeighbour) };
                set_ethernet(frame, src, Mac::default());
                if found == Lookup::Ask {
                    self.ask(now_ns, s, side, authority, hop, Mac::BROADCAST);
                }
                Ok(Hop::Wait(hop))
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "hot path: passing a struct by reference would only hide them")]
    fn conclude(
        &mut self,
        s: &Snapshot,
        now_ns: u64,
        side: Side,
        authority: Authority,
        hop: Hop,
        meta: &FrameMeta,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        match hop {
            Hop::Ready => Ok(Verdict::Transmit { side, authority }),
            Hop::Wait(ip) => {
                let frame = self.held.copy(&s.params, frame).ok_or(DropReason::HoldLimit)?;
                let meta = *meta;
                let outgoing = Outgoing { frame, meta, side, authority, origin: Origin::Received, since_ns: now_ns };
                self.wait_for((side, ip), outgoing).map(|()| Verdict::Consumed)
            }
        }
    }

    fn inbound<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        meta: &FrameMeta,
        p: &IpPacket,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let s = cx.snapshot;
        let id = *s.frontend_by_ip.get(&p.dst).ok_or(DropReason::NotForUs)?;
        if s.frontend_by_ip.contains_key(&p.src) || inside_subnet(s, p.src) {
            return Err(DropReason::SpoofedSource);
        }
        let home = s.frontends.get(&id).ok_or(DropReason::NotForUs)?.shard;
        let authority = match self.access(cx, home) {
            Access::Lease(term) => Authority::Lease { shard: home, term },
            Access::Grace => Authority::Grace { shard: home },
            Access::Forward(node) => return self.forward(cx, Side::Outside, node, p, frame),
            Access::Nothing(reason) => return Err(reason),
        };
        let key = PublicKey { proto: p.proto, frontend: id, port: p.dst_port, remote: endpoint(p.src, p.src_port) };
        let shard = self.replica_mut(home).ok_or(DropReason::NoForward)?;
        let Some(slot) = shard.replica.table.find_public(&key) else {
            let inside = shard.endpoint_of(s, &key).ok_or(DropReason::NoMapping)?.endpoint;
            let ip = inside.addr.ipv4().ok_or(DropReason::NoMapping)?;
            return self.send_in(cx, authority, (ip, inside.port), meta, p, frame);
        };
        let record = shard.replica.table.record_mut(slot);
        let backend = s.backends.get(&record.backend).ok_or(DropReason::NoMapping)?;
        let to = inbound_use(record, backend)?;
        if let Some(tcp) = &p.tcp {
            let progress = record.tcp.observe(Direction::In, tcp);
            if progress != Progress::Ignored {
                record.last_seen = Seen::at(cx.now_ns);
            }
            if let (Progress::Finished, Authority::Lease { .. }) = (progress, authority) {
                shard.close_finished(s, slot);
            }
        } else {
            note_answer(record, backend, &s.params, cx.now_ns);
        }
        self.send_in(cx, authority, to, meta, p, frame)
    }

    fn send_in<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        authority: Authority,
        to: (Ipv4Addr, u16),
        meta: &FrameMeta,
        p: &IpPacket,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        rewrite_destination(frame, meta, p, to.0, to.1);
        clamp(cx.snapshot, frame, meta, p);
        decrement_ttl(frame, p);
        let hop = self.address(cx.snapshot, cx.now_ns, Side::Inside, authority, to.0, frame)?;
        self.conclude(cx.snapshot, cx.now_ns, Side::Inside, authority, hop, meta, frame)
    }
}

impl Shard {
    /// Both FINs were seen: the mapping closes and is held (D6); late packets still pass.
    fn close_finished(&mut self, snapshot: &Snapshot, slot: Slot) {
        let record = self.replica.table.record(slot);
        if record.is_live() && record.closing().is_none() {
            // A stream that takes nothing now sees the next packet's FIN bits again, or the idle sweep.
            self.close(snapshot.control_index, slot, CloseReason::Fin);
        }
    }
}

/// Where a rewritten frame stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hop {
    /// Addressed.
    Ready,
    /// Its neighbour has to answer first.
    Wait(Ipv4Addr),
}

/// Who takes a packet for `dst` outside.
pub(crate) fn next_hop(s: &Snapshot, dst: Ipv4Addr) -> Result<Ipv4Addr, DropReason> {
    if on_link(s.outside.network, s.outside.prefix_len, dst) {
        return Ok(dst);
    }
    s.outside.next_hop.ok_or(DropReason::NoNeighbour)
}

/// Takes note of an outbound packet. Returns the public end and the connection's progress.
fn note_outbound(shard: &mut Shard, slot: Slot, p: &IpPacket, now_ns: u64) -> (FrontendId, u16, Progress) {
    let record = shard.replica.table.record_mut(slot);
    record.tcp.ask();
    let progress = p.tcp.as_ref().map_or(Progress::Open, |tcp| record.tcp.observe(Direction::Out, tcp));
    if progress != Progress::Ignored {
        record.last_seen = Seen::at(now_ns);
    }
    (record.frontend, record.public_port, progress)
}

/// Whether the packet may open a flow: a SYN, a datagram, an echo request.
fn opens(p: &IpPacket) -> bool {
    match (&p.tcp, p.icmp) {
        (Some(tcp), _) => tcp.flags.contains(TcpFlags::SYN) && !tcp.flags.contains(TcpFlags::ACK),
        (None, Some(kind)) => kind == IcmpKind::EchoRequest,
        (None, None) => p.proto == Proto::Udp,
    }
}

/// Lowers the segment size that a SYN offers, if the configuration says so (R26).
fn clamp(s: &Snapshot, frame: &mut [u8], meta: &FrameMeta, p: &IpPacket) {
    if s.params.mss_max > 0 && p.tcp.is_some_and(|tcp| tcp.flags.contains(TcpFlags::SYN)) {
        clamp_mss(frame, meta, p, s.params.mss_max);
    }
}

/// Whether the packet answers a SYN that may have come in by its endpoint's mapping alone (R6).
fn answers_to(shard: &Shard, p: &IpPacket, inside: InsideKey) -> bool {
    let answers = p.tcp.as_ref().is_some_and(|tcp| tcp.flags.contains(TcpFlags::SYN | TcpFlags::ACK));
    answers && shard.replica.table.claims().port_of(p.proto, inside).is_some()
}

/// The class that a mapping is held in, or will be once its proposed close commits; `None`: it lives.
fn ending(record: &Record) -> Option<HoldClass> {
    match record.state {
        State::Held(class) => Some(class),
        State::Live | State::Free => record.closing().map(|reason| HoldClass::of(reason, record.proto)),
    }
}

fn outbound_use(record: &Record, p: &IpPacket, id: BackendId, backend: &Backend) -> Use {
    let Some(class) = ending(record) else {
        // An address that went to another backend: the old one's flows are about to close.
        return if record.backend == id { Use::Translate } else { Use::Refuse(DropReason::NotFirstPacket) };
    };
    let leased = record.backend == id && in_lease(&backend.lease, record.frontend, record.public_port);
    let ended_itself = matches!(class, HoldClass::Fin | HoldClass::Rst);
    if opens(p) {
        return if leased { Use::Reopen } else { Use::Fresh };
    }
    if ended_itself && record.backend == id {
        return Use::Translate;
    }
    let leaving = p.tcp.as_ref().is_some_and(|t| t.flags.intersects(TcpFlags(TcpFlags::FIN.0 | TcpFlags::RST.0)));
    match (leased, leaving) {
        (true, true) => Use::Translate,
        (true, false) => Use::Reopen,
        (false, _) => Use::Refuse(DropReason::NotFirstPacket),
    }
}

/// The inside end of an inbound packet's mapping, if it may pass. A mapping that was taken back passes nothing (D5); one
/// that ended by itself, late packets (D6).
fn inbound_use(record: &Record, backend: &Backend) -> Result<(Ipv4Addr, u16), DropReason> {
    let passes = match ending(record) {
        None | Some(HoldClass::Fin | HoldClass::Rst) => true,
        Some(HoldClass::IdleDatagram | HoldClass::IdleStream) => {
            in_lease(&backend.lease, record.frontend, record.public_port)
        }
    };
    let ip = record.inside.addr.ipv4().filter(|ip| *ip == backend.ip).ok_or(DropReason::NoMapping)?;
    if passes { Ok((ip, record.inside.port)) } else { Err(DropReason::NoMapping) }
}

fn check_destination(s: &Snapshot, dst: Ipv4Addr) -> Result<(), DropReason> {
    let martian = matches!(dst.octets()[0], 0 | 127 | 224..)
        || dst.is_link_local()
        || s.frontend_by_ip.contains_key(&dst)
        || inside_subnet(s, dst)
        || is_broadcast_of(s.outside.network, s.outside.prefix_len, dst);
    if martian { Err(DropReason::MartianDestination) } else { Ok(()) }
}

fn inside_subnet(s: &Snapshot, ip: Ipv4Addr) -> bool {
    s.subnets.iter().any(|n| on_link(n.network, n.prefix_len, ip))
}

/// First and last address of a network that has more than two.
fn is_broadcast_of(network: Ipv4Addr, prefix_len: u8, ip: Ipv4Addr) -> bool {
    let hosts = u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
    prefix_len < 31 && on_link(network, prefix_len, ip) && [0, hosts].contains(&(u32::from(ip) & hosts))
}

fn endpoint(ip: Ipv4Addr, port: u16) -> Endpoint {
    Endpoint { addr: Addr::from(ip), port }
}

fn mac_on(links: &NodeLinks, side: Side) -> Mac {
    match side {
        Side::Inside => links.inside,
        Side::Outside => links.outside,
    }
}
