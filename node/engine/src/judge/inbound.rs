//! Hot path. Outside to inside: only by a mapping, and only from its remote (R6). Opens nothing and keeps no UDP mapping
//! alive (R5, I19). Called by `frame`.

use crate::addresses::{InsideEnd, endpoint, is_spoofed};
use crate::context::{Access, Exit, Frame};
use crate::event::{Authority, DropReason, Verdict};
use crate::ids::Link;
use crate::judge::Judge;
use crate::judge::fragments::{Fate, Key, Way};
use crate::judge::policy::{begins_anew, inbound_use};
use crate::lease::LeaseWords;
use crate::record::PublicKey;
use crate::translation::finish;
use crate::wire::{IpPacket, rewrite_destination};

impl<W: LeaseWords> Judge<'_, W> {
    pub(crate) fn inbound(&mut self, p: &IpPacket, frame: &mut Frame<'_>) -> Result<Verdict, DropReason> {
        let (s, at) = (self.cx.snapshot, self.cx.at());
        let id = *s.frontend_by_ip.get(&p.dst).ok_or(DropReason::NotForUs)?;
        if is_spoofed(s, p.src, p.eth_src) {
            return Err(DropReason::SpoofedSource);
        }
        let home = s.frontends.get(&id).ok_or(DropReason::NotForUs)?.shard;
        let authority = match self.shards.access(&self.cx, home) {
            Access::Here(authority) => authority,
            Access::Forward(node) => return self.egress.forward(s, Link::Outside, node, p.eth_src, frame),
            Access::Nothing(reason) => return Err(reason),
        };
        self.datagrams.note_first(at.now_ns, Link::Outside, p)?;
        let from = Exit { link: Link::Outside, authority };
        let key = PublicKey { proto: p.proto, frontend: id, port: p.dst_port, remote: endpoint(p.src, p.src_port) };
        let shard = self.shards.replica_mut(home).ok_or(DropReason::NoForward)?;
        let found = shard.replica.table.find_public(&key);
        let Some(slot) = found.filter(|slot| !begins_anew(at, shard, *slot, &key, p)) else {
            return self.enter(authority, (home, &key), p, frame);
        };
        let record = shard.replica.table.record(slot);
        let backend = s.backends.get(&record.backend).ok_or(DropReason::NoMapping)?;
        let to = inbound_use(s, record, backend)?;
        self.egress.may_go_on(at, from, self.egress.mtu(to.link())?, p, frame)?;
        shard.note_in(self.cache, at, authority, slot, p);
        let sent = self.send_in(authority, to, p, frame);
        self.decide(authority, slot);
        sent
    }

    pub(crate) fn send_in(
        &mut self,
        authority: Authority,
        to: InsideEnd,
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let (at, exit) = (self.cx.at(), Exit { link: to.link(), authority });
        rewrite_destination(frame.bytes, frame.meta, p, to.ip, to.port);
        finish(at.snapshot, frame, p);
        if let Some(key) = Key::of_first(Link::Outside, p) {
            let way = Way { source: None, destination: Some(to.ip), id: None, hop: to.ip, exit };
            self.datagrams.decide(&key, Fate::Known(way));
        }
        self.egress.send(at, exit, to.ip, frame)
    }
}
