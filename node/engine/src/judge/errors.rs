//! ICMP errors in both directions (RFC 5508 4.2): found by the packet that they quote, which is turned back into the one
//! that the receiver knows. They never open, refresh or end a mapping (R9), and nothing is ever answered to them.

use std::net::Ipv4Addr;

use crate::addresses::{check_destination, endpoint, hop_to, is_spoofed, own_address};
use crate::consent::groups_allow;
use crate::context::{Access, Exit, Frame};
use crate::event::{Authority, DropReason, Verdict};
use crate::flow::FlowKey;
use crate::ids::{BackendId, Link, VnetId};
use crate::judge::Judge;
use crate::judge::policy::{half_of, inbound_use, mapping_of};
use crate::lease::LeaseWords;
use crate::private::pair_of;
use crate::record::{InsideKey, PublicKey};
use crate::snapshot::Backend;
use crate::wire::{IcmpError, IcmpKind, decrement_ttl, may_fragment, rewrite_error_destination, rewrite_error_source};

impl<W: LeaseWords> Judge<'_, W> {
    pub(crate) fn judge_error(
        &mut self,
        link: Link,
        e: &IcmpError,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        self.accept(link, (e.eth_src, e.eth_dst), e.src)?;
        match link {
            Link::Inside(vnet) => self.error_out(vnet, e, frame),
            Link::Outside => self.error_in(e, frame),
        }
    }

    /// A backend complains about an answer to it.
    fn error_out(&mut self, vnet: VnetId, e: &IcmpError, frame: &mut Frame<'_>) -> Result<Verdict, DropReason> {
        let s = self.cx.snapshot;
        let Some(id) = s.backend_by_ip.get(&(vnet, e.src)).copied() else {
            return self.floating_error(vnet, e, frame);
        };
        let backend = s.backends.get(&id).ok_or(DropReason::SpoofedSource)?;
        let pair = pair_of(s, (vnet, e.src), e.dst);
        if pair.is_none() {
            check_destination(s, vnet, e.dst)?;
        }
        // Nobody complains about packets to somebody else: they would end a neighbour's connections.
        if e.quote.dst != e.src || (pair.is_none() && e.quote.icmp == Some(IcmpKind::EchoRequest)) {
            return Err(DropReason::IcmpQuote);
        }
        if let Some(pair) = pair {
            may_error_go_on(self.egress.mtu(pair.to.link())?, e, frame)?;
            return self.private_error(&pair, e, frame);
        }
        let authority = match self.shards.access(&self.cx, backend.home) {
            Access::Here(authority) => authority,
            Access::Forward(node) => return self.egress.forward(s, Link::Inside(vnet), node, e.eth_src, frame),
            Access::Nothing(reason) => return Err(reason),
        };
        self.complain(authority, (id, backend), e, frame)
    }

    /// The complaint goes on as the public end to which the packet came that it quotes.
    pub(crate) fn complain(
        &mut self,
        authority: Authority,
        (id, backend): (BackendId, &Backend),
        e: &IcmpError,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let (s, at) = (self.cx.snapshot, self.cx.at());
        may_error_go_on(self.mtu_to(authority, e.dst)?, e, frame)?;
        let flow = FlowKey {
            proto: e.quote.proto,
            inside: InsideKey { vnet: backend.vnet, endpoint: endpoint(e.quote.dst, e.quote.dst_port) },
            remote: endpoint(e.quote.src, e.quote.src_port),
        };
        let from = self.public_end((id, backend), &flow)?;
        rewrite_error_source(frame.bytes, frame.meta, e, from.0, from.1);
        decrement_ttl(frame.bytes, e.l3);
        // R17: about a packet that was turned back inside.
        if let Some(to) = own_address(s, e.dst)
            && let Some(authority) = self.shards.right_for(authority, to.1)
        {
            let to = self.turn_error(to, from, e)?;
            rewrite_error_destination(frame.bytes, frame.meta, e, to.ip, to.port);
            return self.egress.send(at, Exit { link: to.link(), authority }, to.at, frame);
        }
        self.egress.send(at, Exit { link: Link::Outside, authority }, hop_to(s, e.dst)?, frame)
    }

    /// The public end that the remote of `flow` knows.
    fn public_end(&self, (id, backend): (BackendId, &Backend), flow: &FlowKey) -> Result<(Ipv4Addr, u16), DropReason> {
        let s = self.cx.snapshot;
        let shard = self.shards.replica(backend.home).ok_or(DropReason::NoForward)?;
        let (frontend, port) = if let Some(slot) = shard.replica.table.find_inside(flow) {
            let record = shard.replica.table.record(slot);
            if record.backend != id {
                return Err(DropReason::NoMapping);
            }
            inbound_use(s, record, backend)?;
            (record.frontend, record.public_port)
        } else if let Some(open) = half_of(self.cx.at(), shard, id, flow) {
            // What it answers to a datagram that nobody waits for; a connection says so itself.
            (open.public.frontend, open.public.port)
        } else {
            // RFC 5508, REQ-5: an endpoint's mapping is there for everybody whom its filter lets in, and the groups.
            if !groups_allow(s, id, flow) {
                return Err(DropReason::SecurityRule);
            }
            shard.public_of(s, flow).ok_or(DropReason::NoMapping)?
        };
        let public = s.frontends.get(&frontend).ok_or(DropReason::NoMapping)?;
        Ok((public.ip, port))
    }

    /// Somebody outside, often a router on the way, complains about a packet of a backend.
    fn error_in(&mut self, e: &IcmpError, frame: &mut Frame<'_>) -> Result<Verdict, DropReason> {
        let s = self.cx.snapshot;
        let frontend = *s.frontend_by_ip.get(&e.dst).ok_or(DropReason::NotForUs)?;
        if is_spoofed(s, e.src, e.eth_src) {
            return Err(DropReason::SpoofedSource);
        }
        if e.quote.icmp == Some(IcmpKind::EchoReply) {
            return Err(DropReason::IcmpQuote);
        }
        let home = s.frontends.get(&frontend).ok_or(DropReason::NotForUs)?.shard;
        let authority = match self.shards.access(&self.cx, home) {
            Access::Here(authority) => authority,
            Access::Forward(node) => return self.egress.forward(s, Link::Outside, node, e.eth_src, frame),
            Access::Nothing(reason) => return Err(reason),
        };
        let remote = endpoint(e.quote.dst, e.quote.dst_port);
        let key = PublicKey { proto: e.quote.proto, frontend, port: e.quote.src_port, remote };
        let shard = self.shards.replica(home).ok_or(DropReason::NoForward)?;
        let record = shard.replica.table.record(mapping_of(shard, &key).ok_or(DropReason::NoMapping)?);
        let backend = s.backends.get(&record.backend).ok_or(DropReason::NoMapping)?;
        let to = inbound_use(s, record, backend)?;
        may_error_go_on(self.egress.mtu(to.link())?, e, frame)?;
        rewrite_error_destination(frame.bytes, frame.meta, e, to.ip, to.port);
        decrement_ttl(frame.bytes, e.l3);
        self.egress.send(self.cx.at(), Exit { link: to.link(), authority }, to.at, frame)
    }
}

/// As for other packets, but nobody is told.
fn may_error_go_on(mtu: u16, e: &IcmpError, frame: &mut Frame<'_>) -> Result<(), DropReason> {
    match e.ttl {
        0 | 1 => Err(DropReason::TtlExpired),
        _ if e.total_len > mtu && !may_fragment(frame.bytes, e.l3) => Err(DropReason::TooBig),
        _ => Ok(()),
    }
}
