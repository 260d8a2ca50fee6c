//! ICMP errors in both directions (RFC 5508 4.2): found by the packet that they quote, which is turned back into the one
//! that the receiver knows. They never open, refresh or end a mapping (R9), and nothing is ever answered to them.

use std::net::Ipv4Addr;

use crate::addresses::{check_destination, endpoint, hop_to, is_spoofed, own_address};
use crate::event::{DropReason, Verdict};
use crate::flow::FlowKey;
use crate::ids::{BackendId, Link, VnetId};
use crate::judge::{Access, Cx};
use crate::lease::LeaseWords;
use crate::policy::inbound_use;
use crate::record::{InsideKey, PublicKey};
use crate::snapshot::{Backend, Snapshot};
use crate::wire::{
    FrameMeta, IcmpError, IcmpKind, decrement_ttl, may_fragment, rewrite_error_destination, rewrite_error_source,
};
use crate::worker::Worker;

impl Worker {
    pub(crate) fn judge_error<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        link: Link,
        meta: &FrameMeta,
        e: &IcmpError,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        self.accept(cx, link, (e.eth_src, e.eth_dst), e.src)?;
        match link {
            Link::Inside(vnet) => self.error_out(cx, vnet, meta, e, frame),
            Link::Outside => self.error_in(cx, meta, e, frame),
        }
    }

    /// A backend complains about an answer to it.
    fn error_out<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        vnet: VnetId,
        meta: &FrameMeta,
        e: &IcmpError,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let s = cx.snapshot;
        let id = *s.backend_by_ip.get(&(vnet, e.src)).ok_or(DropReason::SpoofedSource)?;
        let backend = s.backends.get(&id).ok_or(DropReason::SpoofedSource)?;
        check_destination(s, vnet, e.dst)?;
        // Nobody complains about packets to somebody else: they would end a neighbour's connections.
        if e.quote.dst != e.src || e.quote.icmp == Some(IcmpKind::EchoRequest) {
            return Err(DropReason::IcmpQuote);
        }
        let authority = match self.access(cx, backend.home) {
            Access::Here(authority) => authority,
            Access::Forward(node) => return self.forward(cx, Link::Inside(vnet), node, e.eth_src, frame),
            Access::Nothing(reason) => return Err(reason),
        };
        Self::may_error_go_on(self.mtu_to(s, authority, e.dst)?, e, frame)?;
        let flow = FlowKey {
            proto: e.quote.proto,
            inside: InsideKey { vnet, endpoint: endpoint(e.quote.dst, e.quote.dst_port) },
            remote: endpoint(e.quote.src, e.quote.src_port),
        };
        let from = self.public_end(s, (id, backend), &flow)?;
        rewrite_error_source(frame, meta, e, from.0, from.1);
        decrement_ttl(frame, e.l3);
        // R17: about a packet that was turned back inside.
        if let Some(to) = own_address(s, e.dst)
            && let Some(authority) = self.right_for(authority, to.1)
        {
            let to = self.turn_error(s, to, from, e)?;
            rewrite_error_destination(frame, meta, e, to.ip, to.port);
            let hop = self.address(s, cx.now_ns, to.link(), authority, to.ip, frame)?;
            return self.conclude(s, cx.now_ns, to.link(), authority, hop, meta, frame);
        }
        let hop = self.address(s, cx.now_ns, Link::Outside, authority, hop_to(s, e.dst)?, frame)?;
        self.conclude(s, cx.now_ns, Link::Outside, authority, hop, meta, frame)
    }

    /// The public end that the remote of `flow` knows.
    fn public_end(
        &self,
        s: &Snapshot,
        (id, backend): (BackendId, &Backend),
        flow: &FlowKey,
    ) -> Result<(Ipv4Addr, u16), DropReason> {
        let shard = self.replica(backend.home).ok_or(DropReason::NoForward)?;
        let (frontend, port) = if let Some(slot) = shard.replica.table.find_inside(flow) {
            let record = shard.replica.table.record(slot);
            if record.backend != id {
                return Err(DropReason::NoMapping);
            }
            inbound_use(record, backend)?;
            (record.frontend, record.public_port)
        } else {
            // RFC 5508, REQ-5: an endpoint's mapping is there for everybody whom its filter lets in.
            shard.public_of(s, flow).ok_or(DropReason::NoMapping)?
        };
        let public = s.frontends.get(&frontend).ok_or(DropReason::NoMapping)?;
        Ok((public.ip, port))
    }

    /// Somebody outside, often a router on the way, complains about a packet of a backend.
    fn error_in<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        meta: &FrameMeta,
        e: &IcmpError,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let s = cx.snapshot;
        let frontend = *s.frontend_by_ip.get(&e.dst).ok_or(DropReason::NotForUs)?;
        if is_spoofed(s, e.src, e.eth_src) {
            return Err(DropReason::SpoofedSource);
        }
        if e.quote.icmp == Some(IcmpKind::EchoReply) {
            return Err(DropReason::IcmpQuote);
        }
        let home = s.frontends.get(&frontend).ok_or(DropReason::NotForUs)?.shard;
        let authority = match self.access(cx, home) {
            Access::Here(authority) => authority,
            Access::Forward(node) => return self.forward(cx, Link::Outside, node, e.eth_src, frame),
            Access::Nothing(reason) => return Err(reason),
        };
        let remote = endpoint(e.quote.dst, e.quote.dst_port);
        let key = PublicKey { proto: e.quote.proto, frontend, port: e.quote.src_port, remote };
        let table = &self.replica(home).ok_or(DropReason::NoForward)?.replica.table;
        let record = table.record(table.find_public(&key).ok_or(DropReason::NoMapping)?);
        let backend = s.backends.get(&record.backend).ok_or(DropReason::NoMapping)?;
        let to = inbound_use(record, backend)?;
        Self::may_error_go_on(self.links.mtu(to.link()).ok_or(DropReason::NoLink)?, e, frame)?;
        rewrite_error_destination(frame, meta, e, to.ip, to.port);
        decrement_ttl(frame, e.l3);
        let hop = self.address(s, cx.now_ns, to.link(), authority, to.ip, frame)?;
        self.conclude(s, cx.now_ns, to.link(), authority, hop, meta, frame)
    }

    /// As for other packets, but nobody is told.
    fn may_error_go_on(mtu: u16, e: &IcmpError, frame: &mut [u8]) -> Result<(), DropReason> {
        match e.ttl {
            0 | 1 => Err(DropReason::TtlExpired),
            _ if e.total_len > mtu && !may_fragment(frame, e.l3) => Err(DropReason::TooBig),
            _ => Ok(()),
        }
    }
}
