//! Hot path. The packets of established mappings: what was decided about them is applied, and nothing is searched for but the
//! mapping. Whatever is odd is left to `outbound` and `inbound`, which judge at length and decide for the next ones.

use crate::addresses::{endpoint, mac_on};
use crate::event::{Authority, DropReason, Verdict};
use crate::flow::{Answers, FlowKey, Slot, Translation};
use crate::ids::{Mac, ShardId, Side, Term};
use crate::judge::{Cx, Hop};
use crate::lease::LeaseWords;
use crate::record::{InsideKey, PublicKey};
use crate::snapshot::Snapshot;
use crate::translation::{finish, put_source, translation_of};
use crate::wire::{FrameMeta, IpPacket, rewrite_destination, set_ethernet};
use crate::worker::Worker;

/// A packet's mapping, found, with what was decided about it.
struct Hit {
    slot: Slot,
    term: Term,
    translation: Translation,
}

impl Worker {
    /// Translates a packet by what was decided about its mapping. `None`: it has to be judged, and nothing is changed yet.
    pub(crate) fn established<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        side: Side,
        (p, meta): (&IpPacket, &FrameMeta),
        frame: &mut [u8],
    ) -> Option<Result<Verdict, DropReason>> {
        let shard = p.eth_dst.shard()?;
        let to = side.other();
        if p.fragment.is_some()
            || p.ttl <= 1
            || p.wire_len(meta) > self.mtu(to)
            || mac_on(&cx.snapshot.me?, side) == p.eth_src
        {
            return None;
        }
        let hit = self.hit(cx, shard, side, p)?;
        let neighbour = match side {
            Side::Inside => self.neighbours.fresh(cx.now_ns, hit.translation.outside, to, hit.translation.hop)?,
            Side::Outside => {
                let inside = self.shards.replica(shard)?.replica.table.record(hit.slot).inside;
                self.neighbours.fresh(cx.now_ns, hit.translation.inside, to, inside.addr.ipv4()?)?
            }
        };
        self.apply(cx, (shard, side), &hit, (p, meta), frame)?;
        set_ethernet(frame, Mac::of_shard(shard), neighbour);
        let authority = Authority::Lease { shard, term: hit.term };
        Some(self.conclude(cx.snapshot, cx.now_ns, to, authority, Hop::Ready, meta, frame))
    }

    /// The mapping of a packet that was sent to a shard which is served here.
    fn hit<W: LeaseWords>(&self, cx: &Cx<'_, W>, shard: ShardId, side: Side, p: &IpPacket) -> Option<Hit> {
        let entry = self.shards.get(shard)?;
        let served = entry.replica.as_deref()?;
        let term = served.serves(cx.now_ns, self.me, cx.words.word(shard))?;
        let table = &served.replica.table;
        let slot = match side {
            Side::Inside => {
                let inside = InsideKey { vnet: self.vnet, endpoint: endpoint(p.src, p.src_port) };
                table.find_inside(&FlowKey { proto: p.proto, inside, remote: endpoint(p.dst, p.dst_port) })?
            }
            Side::Outside => {
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
        let known = match side {
            Side::Inside => self.neighbours.is_at(translation.inside, side, p.src, p.eth_src),
            // The first answer decides how long the mapping lives on.
            Side::Outside => translation.answers == Answers::Nothing || record.tcp.is_answered(),
        };
        known.then_some(Hit { slot, term, translation })
    }

    fn apply<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        (shard, side): (ShardId, Side),
        hit: &Hit,
        (p, meta): (&IpPacket, &FrameMeta),
        frame: &mut [u8],
    ) -> Option<()> {
        let served = self.shards.replica_mut(shard)?;
        let authority = Authority::Lease { shard, term: hit.term };
        match side {
            Side::Inside => served.note_out(cx.snapshot, cx.now_ns, authority, hit.slot, p),
            Side::Outside => served.note_in(cx.snapshot, cx.now_ns, authority, hit.slot, p),
        }
        let record = served.replica.table.record(hit.slot);
        let (inside, port) = (record.inside, record.public_port);
        match side {
            Side::Inside => {
                let public = (hit.translation.public, port);
                put_source(&mut self.identifications, (frame, meta), p, public);
            }
            Side::Outside => rewrite_destination(frame, meta, p, inside.addr.ipv4()?, inside.port),
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
