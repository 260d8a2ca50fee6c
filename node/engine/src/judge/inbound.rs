//! Hot path. Outside to inside: only by a mapping, and only from its remote (R6). Opens nothing and keeps no UDP mapping
//! alive (R5, I19). Called by `frame`.

use crate::addresses::{InsideEnd, endpoint, is_spoofed};
use crate::context::{Access, Back, Exit, Frame, Hop};
use crate::event::{Authority, DropReason, Verdict};
use crate::flow::Slot;
use crate::ids::{Link, ShardId};
use crate::judge::Judge;
use crate::judge::fragments::{Fate, Key, Way};
use crate::judge::opening::First;
use crate::judge::policy::{begins_anew, inbound_use, mapping_of};
use crate::lease::LeaseWords;
use crate::record::PublicKey;
use crate::shard::overlay::Parked;
use crate::translation::finish;
use crate::wire::{IpPacket, rewrite_destination};

impl<W: LeaseWords> Judge<'_, W> {
    pub(crate) fn inbound(&mut self, p: &IpPacket, frame: &mut Frame<'_>) -> Result<Verdict, DropReason> {
        let s = self.cx.snapshot;
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
        self.datagrams.note_first(self.cx.now_ns, Link::Outside, p)?;
        let key = PublicKey { proto: p.proto, frontend: id, port: p.dst_port, remote: endpoint(p.src, p.src_port) };
        match self.arrive(authority, (home, &key), p, frame) {
            Err(DropReason::NotOwner) => self.await_lease(home, Link::Outside, p, frame),
            other => other,
        }
    }

    /// A packet for a public end of a shard that is judged here: from outside, or turned back by `hairpin`.
    pub(crate) fn arrive(
        &mut self,
        authority: Authority,
        (home, key): (ShardId, &PublicKey),
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, DropReason> {
        let (s, at) = (self.cx.snapshot, self.cx.at());
        let from = Back { exit: Exit { link: Link::Outside, authority }, sender: p.src };
        let shard = self.shards.replica_mut(home).ok_or(DropReason::NoForward)?;
        let Some(slot) = mapping_of(shard, key).filter(|slot| !begins_anew(at, shard, *slot, key, p)) else {
            if let Some(flow) = shard.overlay.answered(key) {
                let mtu = self.egress.mtu(Link::Inside(flow.inside.vnet))?;
                self.egress.may_go_on(at, from, mtu, p, frame)?;
                return self.opening().park(home, &flow, &First { packet: p, frame, from: Link::Outside });
            }
            return self.enter(authority, (home, key), p, frame);
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
        let (exit, hop) = self.rewrite_in(authority, to, p, frame)?;
        self.egress.conclude(self.cx.at(), exit, hop, frame)
    }

    /// The mapping that a packet from outside has waited for is committed (W2, W3): it goes in by the queue that `poll_frame` empties.
    pub(crate) fn release_inward(&mut self, home: ShardId, authority: Authority, slot: Slot, parked: Parked) {
        let Parked { frame: mut bytes, meta, packet: p, .. } = parked;
        let at = self.cx.at();
        let s = at.snapshot;
        let Some(shard) = self.shards.replica_mut(home) else {
            return self.egress.drop_waiting(bytes, DropReason::TermLost);
        };
        let record = shard.replica.table.record(slot);
        let backend = s.backends.get(&record.backend).ok_or(DropReason::NoMapping);
        let to = backend.and_then(|backend| inbound_use(s, record, backend));
        if to.is_ok() {
            shard.note_in(self.cache, at, authority, slot, &p);
        }
        let sent = to.and_then(|to| self.rewrite_in(authority, to, &p, &mut Frame { meta: &meta, bytes: &mut bytes }));
        if sent.is_ok() {
            // What may not pass decides nothing for the next ones.
            self.decide(authority, slot);
        }
        let key = Key::of_first(Link::Outside, &p);
        match sent {
            Ok((exit, hop)) => self.egress.send_later(at.now_ns, exit, hop, meta, bytes),
            Err(reason) => {
                self.egress.drop_waiting(bytes, reason);
                if let Some(key) = key {
                    self.datagrams.decide(&key, Fate::Refused(reason));
                }
            }
        }
        self.settle_fragments(key);
    }

    /// Returns where it goes, by what right, and who takes it.
    fn rewrite_in(
        &mut self,
        authority: Authority,
        to: InsideEnd,
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Result<(Exit, Hop), DropReason> {
        let (at, exit) = (self.cx.at(), Exit { link: to.link(), authority });
        rewrite_destination(frame.bytes, frame.meta, p, to.ip, to.port);
        finish(at.snapshot, frame, p);
        if let Some(key) = Key::of_first(Link::Outside, p) {
            let way = Way { source: None, destination: Some(to.ip), id: None, hop: to.at, exit };
            self.datagrams.decide(&key, Fate::Known(way));
        }
        self.egress.address(at, exit, to.at, frame.bytes).map(|hop| (exit, hop))
    }
}
