//! Hot path. The packets of established mappings: what was decided about them is applied, and nothing is searched for but the
//! mapping. Whatever is odd is left to `outbound` and `inbound`, which judge at length and decide for the next ones.

use crate::addresses::{InsideEnd, endpoint, flow_of};
use crate::event::{Authority, DropReason, Verdict};
use crate::flow::{Answers, Slot, Translation};
use crate::ids::{Link, Mac, ShardId, Term};
use crate::judge::{Cx, Hop};
use crate::lease::LeaseWords;
use crate::record::PublicKey;
use crate::snapshot::Snapshot;
use crate::translation::{finish, put_source, translation_of};
use crate::wire::{FrameMeta, IpPacket, rewrite_destination, set_ethernet};
use crate::worker::Worker;

/// A packet's mapping, found, with what was decided about it.
struct Hit {
    slot: Slot,
    term: Term,
    translation: Translation,
    inside: InsideEnd,
}

impl Worker {
    /// Translates a packet by what was decided about its mapping. `None`: it has to be judged, and nothing is changed yet.
    pub(crate) fn established<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        link: Link,
        (p, meta): (&IpPacket, &FrameMeta),
        frame: &mut [u8],
    ) -> Option<Result<Verdict, DropReason>> {
        let shard = p.eth_dst.shard()?;
        if p.fragment.is_some() || p.ttl <= 1 || cx.snapshot.me.as_ref()?.mac_on(link)? == p.eth_src {
            return None;
        }
        let hit = self.hit(cx, shard, link, p)?;
        let (to, place, hop) = match link {
            Link::Inside(_) => (Link::Outside, hit.translation.outside, hit.translation.hop),
            Link::Outside => (hit.inside.link(), hit.translation.inside, hit.inside.ip),
        };
        if p.wire_len(meta) > self.links.mtu(to)? {
            return None;
        }
        let neighbour = self.neighbours.fresh(cx.now_ns, place, to, hop)?;
        self.apply(cx, (shard, link), &hit, (p, meta), frame)?;
        set_ethernet(frame, Mac::of_shard(shard), neighbour);
        let authority = Authority::Lease { shard, term: hit.term };
        Some(self.conclude(cx.snapshot, cx.now_ns, to, authority, Hop::Ready, meta, frame))
    }

    /// The mapping of a packet that was sent to a shard which is served here.
    fn hit<W: LeaseWords>(&self, cx: &Cx<'_, W>, shard: ShardId, link: Link, p: &IpPacket) -> Option<Hit> {
        let entry = self.shards.get(shard)?;
        let served = entry.replica.as_deref()?;
        let term = served.serves(cx.now_ns, self.me, cx.words.word(shard))?;
        let table = &served.replica.table;
        let slot = match link {
            Link::Inside(vnet) => table.find_inside(&flow_of(vnet, p))?,
            Link::Outside => {
                let frontend = entry.frontend_at(p.dst)?;
                let remote = endpoint(p.src, p.src_port);
                table.find_public(&PublicKey { proto: p.proto, frontend, port: p.dst_port, remote })?
            }
        };
        let (record, translation) = (table.record(slot), *table.translation(slot)?);
        let lives = record.is_live() && record.closing().is_none();
        if !lives || !self.revisions.holds(record.backend, translation.made) {
            return None;
        }
        let known = match link {
            Link::Inside(_) => self.neighbours.is_at(translation.inside, link, p.src, p.eth_src),
            // The first answer decides how long the mapping lives on.
            Link::Outside => translation.answers == Answers::Nothing || record.tcp.is_answered(),
        };
        let inside = InsideEnd::of(record.inside_key())?;
        known.then_some(Hit { slot, term, translation, inside })
    }

    fn apply<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        (shard, link): (ShardId, Link),
        hit: &Hit,
        (p, meta): (&IpPacket, &FrameMeta),
        frame: &mut [u8],
    ) -> Option<()> {
        let served = self.shards.replica_mut(shard)?;
        let authority = Authority::Lease { shard, term: hit.term };
        match link {
            Link::Inside(_) => served.note_out(cx.snapshot, cx.now_ns, authority, hit.slot, p),
            Link::Outside => served.note_in(cx.snapshot, cx.now_ns, authority, hit.slot, p),
        }
        let port = served.replica.table.record(hit.slot).public_port;
        match link {
            Link::Inside(_) => {
                let public = (hit.translation.public, port);
                put_source(&mut self.identifications, (frame, meta), p, public);
            }
            Link::Outside => rewrite_destination(frame, meta, p, hit.inside.ip, hit.inside.port),
        }
        finish(cx.snapshot, (frame, meta), p);
        Some(())
    }

    /// Decides for the next packets of a mapping, one of which was just judged at length, under the lease.
    pub(crate) fn decide(&mut self, s: &Snapshot, authority: Authority, slot: Slot) {
        let Authority::Lease { shard, .. } = authority else { return };
        let Some(served) = self.shards.replica_mut(shard) else { return };
        let table = &mut served.replica.table;
        let (record, before) = (table.record(slot), table.translation(slot));
        if !record.is_live() || record.closing().is_some() {
            return;
        }
        let Some(next) = translation_of(self.revisions.now(), record, s, &self.neighbours) else { return };
        let stands = before.filter(|before| self.revisions.holds(record.backend, before.made));
        if stands.is_some_and(|before| Translation { made: next.made, ..*before } == next) {
            return;
        }
        table.translate(slot, next);
        self.counters.decided += 1;
    }
}
