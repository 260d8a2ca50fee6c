//! What is handed over to the kernel's fast path, and when it is taken back: lazily, in bounded steps, off the packets' way.
//! An entry is a mapping's translation with incarnation, term and revision; what the kernel looks at for each packet is what
//! `established` looks at. Called by `worker` once a turn.

use crate::cache::{CALLS_PER_TURN, Use};
use crate::fast::{FastEntry, FastMode, FastSide};
use crate::flow::{Answers, Slot};
use crate::ids::{Link, Mac, ShardId};
use crate::judge::Judge;
use crate::lease::LeaseWords;
use crate::record::{InsideKey, Proto};

impl<W: LeaseWords> Judge<'_, W> {
    /// Hands over some of those mappings that are worth it.
    pub(crate) fn install_wanted(&mut self) {
        for _ in 0..CALLS_PER_TURN {
            let Some((shard, slot)) = self.cache.next_wanted() else { return };
            let Some(entry) = self.entry_of(shard, slot) else { continue };
            if let Some(served) = self.shards.replica_mut(shard) {
                self.cache.install(&mut served.replica.table, slot, &entry);
            }
        }
    }

    /// What the kernel has to know of a mapping; `None`: its packets are to be looked at one by one.
    fn entry_of(&mut self, shard: ShardId, slot: Slot) -> Option<FastEntry> {
        let (s, now_ns) = (self.cx.snapshot, self.cx.now_ns);
        let served = self.shards.replica(shard)?;
        let term = served.serves(now_ns, self.shards.me, self.cx.words.word(shard))?;
        // In grace the kernel goes by the word, which may allow more than the committed header (F6).
        if served.replica.meta.orphan_grace_ms < s.params.orphan_grace_ms {
            return None;
        }
        let table = &served.replica.table;
        let (record, translation) = (*table.record(slot), *table.translation(slot)?);
        let stands = record.is_live() && record.closing().is_none() && translation.fast == 0;
        if !stands || !self.revisions.holds(record.backend, translation.made) {
            return None;
        }
        let tcp = match record.proto {
            Proto::Tcp => record.tcp.known_in(term).settled()?,
            Proto::Udp if translation.answers == Answers::Nothing => (0, 0),
            // The kernel's program reads the ports of these two alone.
            Proto::Udp | Proto::Icmp | Proto::Gre | Proto::Esp | Proto::Sctp => return None,
        };
        let InsideKey { vnet, endpoint } = record.inside_key();
        let (inside, remote) = (endpoint.addr.ipv4()?, record.remote.addr.ipv4()?);
        let (backend, hop) = (Link::Inside(vnet), translation.hop);
        let macs: (Mac, Mac) = (
            self.egress.neighbours.fresh(now_ns, translation.inside, backend, inside)?,
            self.egress.neighbours.fresh(now_ns, translation.outside, Link::Outside, hop)?,
        );
        let links = &self.egress.links;
        let to = |link, mac| Some(FastSide { link, mac, mtu: links.mtu(link)? });
        Some(FastEntry {
            shard,
            incarnation: self.shards.me,
            term,
            made: self.revisions.now(),
            backend: record.backend,
            proto: record.proto,
            inside: (inside, endpoint.port),
            public: (translation.public, record.public_port),
            remote: (remote, record.remote.port),
            to_backend: to(backend, macs.0)?,
            to_hop: to(Link::Outside, macs.1)?,
            tcp,
        })
    }

    /// Looks through a part of what the kernel carries: brings what passed into the records, keeps the neighbours of what is in
    /// use under watch, and takes back what no longer stands, or is cold where room is short.
    pub(crate) fn look_through(&mut self) {
        for number in self.cache.due(self.cx.now_ns) {
            let Some(carried) = self.cache.carried(number) else { continue };
            let (shard, slot) = (carried.shard, carried.slot);
            let stays = self.cache.stands(&carried) && self.stands(number, shard, slot);
            let Some(served) = self.shards.replica_mut(shard) else {
                self.cache.forget(number);
                continue;
            };
            let table = &mut served.replica.table;
            if table.translation_mut(slot).fast != number + 1 {
                self.cache.forget(number);
            } else if stays {
                self.cache.absorb(table, slot);
            } else {
                self.cache.end(table, slot);
            }
        }
    }

    fn stands(&mut self, number: u32, shard: ShardId, slot: Slot) -> bool {
        let usage = self.cache.usage(number);
        if usage == Use::Cold || self.cache.mode() == FastMode::Off {
            return false;
        }
        let now_ns = self.cx.now_ns;
        let Some(served) = self.shards.replica(shard) else { return false };
        if served.serves(now_ns, self.shards.me, self.cx.words.word(shard)).is_none() {
            return false;
        }
        let table = &served.replica.table;
        let Some(translation) = table.translation(slot).copied() else { return false };
        let record = table.record(slot);
        if !record.is_live() || !self.revisions.holds(record.backend, translation.made) {
            return false;
        }
        let InsideKey { vnet, endpoint } = record.inside_key();
        let Some(inside) = endpoint.addr.ipv4() else { return false };
        // No worker sees the packets that would have them asked in time.
        let neighbours = &mut self.egress.neighbours;
        let hop = (Link::Outside, translation.hop);
        neighbours.is_kept(now_ns, translation.inside, (Link::Inside(vnet), inside), usage == Use::Used)
            && neighbours.is_kept(now_ns, translation.outside, hop, usage == Use::Used)
    }
}
