//! What is handed over to the kernel's fast path, and when it is taken back: lazily, in bounded steps, off the packets' way.
//! An entry is a mapping's translation with incarnation, term and revision; what the kernel looks at for each packet is what
//! `established` looks at, and `private` for what instances say to each other. Called by `worker` once a turn.

use std::net::Ipv4Addr;

use crate::cache::{CALLS_PER_TURN, Carried, Use, Whose};
use crate::fast::{FastEntry, FastMode, FastSide};
use crate::flow::{Answers, Record, Slot, Translation};
use crate::ids::{BackendId, Link, ShardId, Term};
use crate::judge::Judge;
use crate::lease::LeaseWords;
use crate::neigh::Place;
use crate::private::{Instance, Pair, pair_of};
use crate::record::{Proto, Scenario};

/// Who takes what goes to one side.
#[derive(Clone, Copy)]
struct Neighbour {
    link: Link,
    ip: Ipv4Addr,
    place: Place,
}

/// Both sides of what is carried: the backend's, and the next hop's or the other instance's, which has a revision too.
struct Sides {
    near: Neighbour,
    far: Neighbour,
    instance: Option<BackendId>,
}

impl<W: LeaseWords> Judge<'_, W> {
    /// Hands over some of what is worth it.
    pub(crate) fn install_wanted(&mut self) {
        for _ in 0..CALLS_PER_TURN {
            let Some((shard, whose)) = self.cache.next_wanted() else { return };
            let entry = match whose {
                Whose::Mapping(slot) => self.entry_of(shard, slot),
                Whose::Pair(a, b) => self.entry_of_pair(shard, (a, b)),
            };
            if let (Some(entry), Some(served)) = (entry, self.shards.replica_mut(shard)) {
                self.cache.install(&mut served.replica.table, whose, &entry);
            }
        }
    }

    /// The term that a shard is served in, if the kernel may go by its word.
    fn term_of(&self, shard: ShardId) -> Option<Term> {
        let served = self.shards.replica(shard)?;
        let term = served.serves(self.cx.now_ns, self.shards.me, self.cx.words.word(shard))?;
        // In grace the kernel goes by the word, which may allow more than the committed header (F6).
        (served.replica.meta.orphan_grace_ms >= self.cx.snapshot.params.orphan_grace_ms).then_some(term)
    }

    /// What the kernel has to know of a mapping; `None`: its packets are to be looked at one by one.
    fn entry_of(&mut self, shard: ShardId, slot: Slot) -> Option<FastEntry> {
        let term = self.term_of(shard)?;
        let table = &self.shards.replica(shard)?.replica.table;
        let (record, translation) = (*table.record(slot), *table.translation(slot)?);
        let stands = record.is_live() && record.closing().is_none() && translation.fast == 0;
        if !stands || !self.revisions.holds(record.backend, translation.made) {
            return None;
        }
        let tcp = match record.proto {
            Proto::Tcp => record.tcp.known_in(term).settled()?,
            Proto::Udp if translation.answers == Answers::Nothing => [(0, 0); 2],
            // The kernel's program reads the ports of these two alone.
            Proto::Udp | Proto::Icmp | Proto::Gre | Proto::Esp | Proto::Sctp => return None,
        };
        let sides = self.sides_of(shard, &record, &translation)?;
        let remote = record.remote.addr.ipv4()?;
        let public = if sides.instance.is_some() { sides.near.ip } else { translation.public };
        let ports = (record.inside.port, record.public_port, record.remote.port);
        let ends = [(sides.near.ip, ports.0), (public, ports.1), (remote, ports.2)];
        let entry = self.entry((shard, term), record.backend, &sides, ends)?;
        Some(FastEntry { proto: Some(record.proto), tcp, ..entry })
    }

    /// The same of two instances.
    fn entry_of_pair(&mut self, shard: ShardId, (a, b): (BackendId, BackendId)) -> Option<FastEntry> {
        let sides = self.sides_of_pair(shard, a, b).filter(|_| !self.cache.carries_pair(a, b))?;
        let Some(term) = self.term_of(shard) else {
            let lead = self.shards.replica_mut(shard)?.leadership.as_mut()?;
            lead.wants_forces = true;
            return None;
        };
        let (near, far) = ((sides.near.ip, 0), (sides.far.ip, 0));
        self.entry((shard, term), a, &sides, [near, near, far])
    }

    /// One without a protocol.
    fn entry(
        &mut self,
        (shard, term): (ShardId, Term),
        backend: BackendId,
        sides: &Sides,
        [inside, public, remote]: [(Ipv4Addr, u16); 3],
    ) -> Option<FastEntry> {
        let (now_ns, egress) = (self.cx.now_ns, &mut *self.egress);
        let mut towards = |to: &Neighbour| {
            let Some(mac) = egress.neighbours.fresh(now_ns, to.place, to.link, to.ip) else {
                // Whoever only sends is never looked up by a worker.
                egress.neighbours.is_kept(now_ns, to.place, (to.link, to.ip), true);
                return None;
            };
            Some(FastSide { link: to.link, mac, mtu: egress.links.mtu(to.link)? })
        };
        Some(FastEntry {
            shard,
            incarnation: self.shards.me,
            term,
            made: self.revisions.now(),
            backend,
            far: sides.instance,
            proto: None,
            inside,
            public,
            remote,
            to_backend: towards(&sides.near)?,
            to_hop: towards(&sides.far)?,
            tcp: [(0, 0); 2],
        })
    }

    /// Between whom the packets of a mapping pass here.
    fn sides_of(&self, shard: ShardId, record: &Record, translation: &Translation) -> Option<Sides> {
        let inside = record.inside.addr.ipv4()?;
        if record.scenario() == Scenario::Private {
            let pair = pair_of(self.cx.snapshot, (record.vnet, inside), record.remote.addr.ipv4()?)?;
            let is_its = pair.home == shard && pair.from.id == record.backend;
            let holds = self.revisions.holds(pair.to.id, translation.made);
            return (is_its && holds).then(|| self.sides_between(&pair));
        }
        let near = Neighbour { link: Link::Inside(record.vnet), ip: inside, place: translation.inside };
        let far = Neighbour { link: Link::Outside, ip: translation.hop, place: translation.outside };
        Some(Sides { near, far, instance: None })
    }

    /// The same of two instances, if no group judges them.
    fn sides_of_pair(&self, shard: ShardId, a: BackendId, b: BackendId) -> Option<Sides> {
        let s = self.cx.snapshot;
        let (near, far) = (s.backends.get(&a)?, s.backends.get(&b)?);
        let pair = pair_of(s, (near.vnet, near.ip), far.ip)?;
        let is_its = pair.home == shard && (pair.from.id, pair.to.id) == (a, b);
        (is_its && !pair.is_judged(s)).then(|| self.sides_between(&pair))
    }

    fn sides_between(&self, pair: &Pair<'_>) -> Sides {
        let side = |of: &Instance<'_>| {
            let (link, ip) = (of.link(), of.backend.ip);
            Neighbour { link, ip, place: self.egress.neighbours.place(link, ip) }
        };
        Sides { near: side(&pair.from), far: side(&pair.to), instance: Some(pair.to.id) }
    }

    /// Looks through a part of what the kernel carries: brings what passed into the records, keeps the neighbours of what is in
    /// use under watch, and takes back what no longer stands, or is cold where room is short.
    pub(crate) fn look_through(&mut self) {
        for number in self.cache.due(self.cx.now_ns) {
            let Some(carried) = self.cache.carried(number) else { continue };
            let stays = self.cache.stands(&carried) && self.stands(number, &carried);
            let Some(served) = self.shards.replica_mut(carried.shard) else {
                self.cache.forget(number);
                continue;
            };
            let table = &mut served.replica.table;
            match carried.whose {
                whose if !self.cache.is_known(table, number, whose) => self.cache.forget(number),
                Whose::Mapping(slot) if stays => self.cache.absorb(table, slot),
                Whose::Mapping(slot) => self.cache.end(table, slot),
                Whose::Pair(..) if stays => {}
                Whose::Pair(..) => self.cache.forget(number),
            }
        }
    }

    fn stands(&mut self, number: u32, carried: &Carried) -> bool {
        let usage = self.cache.usage(number);
        if usage == Use::Cold || self.cache.mode() == FastMode::Off {
            return false;
        }
        let Carried { shard, whose, made, .. } = *carried;
        let now_ns = self.cx.now_ns;
        let Some(served) = self.shards.replica(shard) else { return false };
        if served.serves(now_ns, self.shards.me, self.cx.words.word(shard)).is_none() {
            return false;
        }
        let sides = match whose {
            Whose::Mapping(slot) => {
                let table = &served.replica.table;
                let Some(translation) = table.translation(slot) else { return false };
                let record = table.record(slot);
                let holds = record.is_live() && self.revisions.holds(record.backend, translation.made);
                holds.then(|| self.sides_of(shard, record, translation)).flatten()
            }
            Whose::Pair(a, b) => {
                let holds = self.revisions.holds(a, made) && self.revisions.holds(b, made);
                holds.then(|| self.sides_of_pair(shard, a, b)).flatten()
            }
        };
        let Some(Sides { near, far, instance }) = sides else { return false };
        // No worker sees the packets that would have them asked in time. Between two instances the kernel compares the cards of
        // both, so what passed both ways says that they are there.
        let neighbours = &mut self.egress.neighbours;
        let mut is_kept = |of: Neighbour| {
            let key = (of.link, of.ip);
            if let (true, Some(mac)) = (instance.is_some() && usage == Use::Both, neighbours.last_known(of.link, of.ip))
            {
                neighbours.heard(now_ns, of.place, key, mac);
            }
            neighbours.is_kept(now_ns, of.place, key, matches!(usage, Use::Used | Use::Both))
        };
        is_kept(near) && is_kept(far)
    }
}
