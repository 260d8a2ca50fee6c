//! Hot path. Outside to inside: only by a mapping, and only from its remote (R6). Opens nothing and keeps no UDP mapping
//! alive (R5, I19). Called by `pipeline`.

use crate::addresses::{InsideEnd, endpoint, is_spoofed};
use crate::event::{Authority, DropReason, Verdict};
use crate::fragments::{Fate, Key, Way};
use crate::ids::Link;
use crate::judge::{Access, Cx};
use crate::lease::LeaseWords;
use crate::policy::inbound_use;
use crate::record::PublicKey;
use crate::translation::finish;
use crate::wire::{FrameMeta, IpPacket, rewrite_destination};
use crate::worker::Worker;

impl Worker {
    pub(crate) fn inbound<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        meta: &FrameMeta,
        p: &IpPacket,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let s = cx.snapshot;
        let id = *s.frontend_by_ip.get(&p.dst).ok_or(DropReason::NotForUs)?;
        if is_spoofed(s, p.src, p.eth_src) {
            return Err(DropReason::SpoofedSource);
        }
        let home = s.frontends.get(&id).ok_or(DropReason::NotForUs)?.shard;
        let authority = match self.access(cx, home) {
            Access::Here(authority) => authority,
            Access::Forward(node) => return self.forward(cx, Link::Outside, node, p.eth_src, frame),
            Access::Nothing(reason) => return Err(reason),
        };
        self.note_first(cx.now_ns, Link::Outside, p)?;
        let key = PublicKey { proto: p.proto, frontend: id, port: p.dst_port, remote: endpoint(p.src, p.src_port) };
        let shard = self.replica_mut(home).ok_or(DropReason::NoForward)?;
        let Some(slot) = shard.replica.table.find_public(&key) else {
            let to = shard.endpoint_of(s, &key).and_then(InsideEnd::of).ok_or(DropReason::NoMapping)?;
            let mtu = self.links.mtu(to.link()).ok_or(DropReason::NoLink)?;
            self.may_go_on(cx, (Link::Outside, mtu), authority, (p, meta), frame)?;
            return self.send_in(cx, authority, to, meta, p, frame);
        };
        let record = shard.replica.table.record(slot);
        let backend = s.backends.get(&record.backend).ok_or(DropReason::NoMapping)?;
        let to = inbound_use(record, backend)?;
        let mtu = self.links.mtu(to.link()).ok_or(DropReason::NoLink)?;
        self.may_go_on(cx, (Link::Outside, mtu), authority, (p, meta), frame)?;
        let shard = self.replica_mut(home).ok_or(DropReason::NoForward)?;
        shard.note_in(s, cx.now_ns, authority, slot, p);
        let sent = self.send_in(cx, authority, to, meta, p, frame);
        self.decide(s, authority, slot);
        sent
    }

    fn send_in<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        authority: Authority,
        to: InsideEnd,
        meta: &FrameMeta,
        p: &IpPacket,
        frame: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        rewrite_destination(frame, meta, p, to.ip, to.port);
        finish(cx.snapshot, (frame, meta), p);
        if let Some(key) = Key::of_first(Link::Outside, p) {
            let (destination, link) = (Some(to.ip), to.link());
            let way = Way { source: None, destination, id: None, link, hop: to.ip, authority };
            self.fragments.decide(&key, Fate::Known(way));
        }
        let hop = self.address(cx.snapshot, cx.now_ns, to.link(), authority, to.ip, frame)?;
        self.conclude(cx.snapshot, cx.now_ns, to.link(), authority, hop, meta, frame)
    }
}
