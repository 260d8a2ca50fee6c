//! Hot path. The packets of established mappings: what was decided about them is applied, and nothing is searched for but the
//! mapping. Whatever is odd is left to `outbound` and `inbound`, which judge at length and decide for the next ones.

use std::net::Ipv4Addr;

use crate::addresses::{endpoint, flow_of};
use crate::context::{Exit, Frame, Hop};
use crate::event::{Authority, DropReason, Verdict};
use crate::flow::{Answers, Slot, Translation};
use crate::ids::{Link, Mac, ShardId, Side, Term};
use crate::judge::Judge;
use crate::lease::LeaseWords;
use crate::neigh::Place;
use crate::record::{PublicKey, Scenario};
use crate::translation::{finish, put_source, translation_of};
use crate::wire::{IpPacket, may_fragment, rewrite_destination, set_ethernet};

/// A packet's mapping, found, with what is to be done to the packet. No more than that: it lies in registers.
struct Hit {
    slot: Slot,
    term: Term,
    /// The end that the packet is given: its source going out, its destination coming in.
    end: (Ipv4Addr, u16),
    /// Where it leaves, and whose neighbour entry that takes.
    to: Link,
    hop: Ipv4Addr,
    place: Place,
}

impl<W: LeaseWords> Judge<'_, W> {
    /// Translates a packet by what was decided about its mapping. `None`: it has to be judged, and nothing is changed yet.
    pub(crate) fn established(
        &mut self,
        link: Link,
        p: &IpPacket,
        frame: &mut Frame<'_>,
    ) -> Option<Result<Verdict, DropReason>> {
        let shard = p.eth_dst.shard()?;
        if p.fragment.is_some() || p.ttl <= 1 || self.cx.snapshot.me.as_ref()?.mac_on(link)? == p.eth_src {
            return None;
        }
        let hit = self.hit(shard, link, p)?;
        if p.wire_len(frame.meta) > self.egress.links.mtu(hit.to)? {
            return None;
        }
        let neighbour = self.egress.neighbours.fresh(self.cx.now_ns, hit.place, hit.to, hit.hop)?;
        self.apply(shard, link, &hit, p, frame)?;
        set_ethernet(frame.bytes, Mac::of_shard(shard), neighbour);
        let authority = Authority::Lease { shard, term: hit.term };
        Some(self.egress.conclude(self.cx.at(), Exit { link: hit.to, authority }, Hop::Ready, frame))
    }

    /// The mapping of a packet that was sent to a shard which is served here.
    #[inline]
    fn hit(&self, shard: ShardId, link: Link, p: &IpPacket) -> Option<Hit> {
        let entry = self.shards.get(shard)?;
        let served = entry.replica.as_deref()?;
        let term = served.serves(self.cx.now_ns, self.shards.me, self.cx.words.word(shard))?;
        let table = &served.replica.table;
        let slot = match link {
            Link::Inside(vnet) => table.find_inside(&flow_of(vnet, p))?,
            Link::Outside => {
                let frontend = entry.frontend_at(p.dst)?;
                let remote = endpoint(p.src, p.src_port);
                table.find_public(&PublicKey { proto: p.proto, frontend, port: p.dst_port, remote })?
            }
        };
        let (record, translation) = (table.record(slot), table.translation(slot)?);
        let lives = record.is_live() && record.closing().is_none() && record.scenario() != Scenario::Private;
        if !lives || !self.revisions.holds(record.backend, translation.made) {
            return None;
        }
        match link {
            Link::Inside(_) => {
                if !self.egress.neighbours.is_at(translation.inside, link, p.src, p.eth_src) {
                    return None;
                }
                let end = (translation.public, record.public_port);
                Some(Hit { slot, term, end, to: Link::Outside, hop: translation.hop, place: translation.outside })
            }
            Link::Outside => {
                // The first answer decides how long the mapping lives on.
                if translation.answers != Answers::Nothing && !record.tcp.is_answered() {
                    return None;
                }
                let ip = record.inside.addr.ipv4()?;
                let (end, to) = ((ip, record.inside.port), Link::Inside(record.vnet));
                Some(Hit { slot, term, end, to, hop: ip, place: translation.inside })
            }
        }
    }

    fn apply(&mut self, shard: ShardId, link: Link, hit: &Hit, p: &IpPacket, frame: &mut Frame<'_>) -> Option<()> {
        let (s, at) = (self.cx.snapshot, self.cx.at());
        let served = self.shards.replica_mut(shard)?;
        let authority = Authority::Lease { shard, term: hit.term };
        match link {
            Link::Inside(_) => {
                served.note_out(self.cache, at, authority, hit.slot, p);
                // What may be cut is given its identification here (R20).
                if !may_fragment(frame.bytes, p.l3) {
                    let translation = served.replica.table.translation_mut(hit.slot);
                    self.cache.note(shard, hit.slot, translation, Side::Inside);
                }
                put_source(&mut self.egress.identifications, frame, p, hit.end);
            }
            Link::Outside => {
                served.note_in(self.cache, at, authority, hit.slot, p);
                let translation = served.replica.table.translation_mut(hit.slot);
                self.cache.note(shard, hit.slot, translation, Side::Outside);
                rewrite_destination(frame.bytes, frame.meta, p, hit.end.0, hit.end.1);
            }
        }
        finish(s, frame, p);
        Some(())
    }

    /// Decides for the next packets of a mapping, one of which was just judged at length, under the lease.
    pub(crate) fn decide(&mut self, authority: Authority, slot: Slot) {
        let Authority::Lease { shard, .. } = authority else { return };
        let Some(served) = self.shards.replica_mut(shard) else { return };
        let table = &mut served.replica.table;
        let (record, before) = (table.record(slot), table.translation(slot));
        if !record.is_live() || record.closing().is_some() {
            return;
        }
        let (made, s) = (self.revisions.now(), self.cx.snapshot);
        let Some(next) = translation_of(made, record, s, &self.egress.neighbours) else { return };
        let stands = before.filter(|before| self.revisions.holds(record.backend, before.made));
        let same = |before: &Translation| Translation { made: next.made, passed: [0; 2], fast: 0, ..*before } == next;
        if stands.is_some_and(same) {
            return;
        }
        self.cache.end(table, slot);
        table.translate(slot, next);
        self.cache.note(shard, slot, table.translation_mut(slot), Side::Inside);
        self.egress.counters.decided += 1;
    }
}
