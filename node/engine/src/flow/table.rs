//! The slab of mappings with their two indexes, and the use of ports that follows from them. Hot path: `find_*`.
//!
//! It keeps I47 (allocated = live + held + free) by construction. It never decides what may be written: `apply` does.

use std::collections::BTreeSet;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use super::index::Index;
use super::record::{FlowKey, Mark, Record, Seen, Slot, State};
use super::translation::Translation;
use crate::ids::{BackendId, FrontendId, LogIndex, PortBlock, Side};
use crate::ports::{Claims, PortUsage};
use crate::record::{Addr, HoldClass, Open, PublicKey};
use crate::snapshot::{Map, Sharing};

const PAGE_BITS: u32 = 10;
const PAGE: usize = 1 << PAGE_BITS;
const PAGE_MASK: u32 = (1 << PAGE_BITS) - 1;

/// What a slot has: side by side, so that a packet finds both in two neighbouring lines of one page of memory.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct Kept {
    record: Record,
    translation: Translation,
}

const _: () = assert!(size_of::<Kept>() == 96, "with its index cells a flow takes 128 octets (I46)");

/// The mappings of one shard.
#[derive(Debug)]
pub struct Table {
    /// Pages, so that growth copies nothing.
    pages: Vec<Box<[Kept]>>,
    /// Slots used so far; those below that are free are in `free`.
    len: u32,
    free: Vec<u32>,
    by_public: Index,
    by_inside: Index,
    /// While a scan is replayed there is no in2out index (F10).
    inside_built: bool,
    hasher: FixedState,
    usage: PortUsage,
    live: u32,
    held: u32,
    per_backend: Map<BackendId, u32>,
    claims: Claims,
    /// Sum of all records' digests.
    digest: u64,
}

const fn split(slot: u32) -> (usize, usize) {
    ((slot >> PAGE_BITS) as usize, (slot & PAGE_MASK) as usize)
}

impl Table {
    /// An empty table; `seed` keys its hashing.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            pages: Vec::new(),
            len: 0,
            free: Vec::new(),
            by_public: Index::default(),
            by_inside: Index::default(),
            inside_built: true,
            hasher: FixedState::with_seed(seed),
            usage: PortUsage::default(),
            live: 0,
            held: 0,
            per_backend: Map::default(),
            claims: Claims::default(),
            digest: 0,
        }
    }

    /// A digest of all replicated values, in whatever slots they stand: kept with each change, so that asking costs nothing.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// Live mappings.
    #[must_use]
    pub const fn live(&self) -> u32 {
        self.live
    }

    /// Held mappings.
    #[must_use]
    pub const fn held(&self) -> u32 {
        self.held
    }

    /// Mappings of one backend, live and held.
    #[must_use]
    pub fn flows_of(&self, backend: BackendId) -> u32 {
        self.per_backend.get(&backend).copied().unwrap_or(0)
    }

    /// Slots of the slab, free ones included: a hand walks over `0..slots()`.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.len
    }

    /// Free slots below `slots()`.
    #[must_use]
    pub fn free_slots(&self) -> u32 {
        u32::try_from(self.free.len()).expect("free slots are a part of u32 slots")
    }

    /// Ports in use.
    #[must_use]
    pub const fn usage(&self) -> &PortUsage {
        &self.usage
    }

    /// Watches exactly these blocks for becoming empty.
    pub(crate) fn watch(&mut self, blocks: impl Iterator<Item = PortBlock>) {
        self.usage.watch(blocks);
    }

    /// Frees what was kept for a frontend that is gone. `false`: it has mappings left.
    pub(crate) fn forget_frontend(&mut self, frontend: FrontendId) -> bool {
        self.usage.forget(frontend)
    }

    /// Watched blocks that have become empty since this was asked last, by frontend and first port.
    pub(crate) fn take_emptied(&mut self) -> BTreeSet<(FrontendId, u16)> {
        self.usage.take_emptied()
    }

    /// Octets that the mappings and their indexes take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let slab = self.pages.len() * PAGE * size_of::<Kept>();
        slab + self.free.capacity() * size_of::<u32>() + self.by_public.bytes() + self.by_inside.bytes()
    }

    /// What mappings take besides their tuples.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The mapping claims by this rule from now on.
    pub fn claim(&mut self, slot: Slot, sharing: Sharing) {
        let record = *self.record(slot);
        if record.claim() == sharing {
            return;
        }
        self.unclaim(&record);
        let claimed = self.claims.add(sharing, &record.public(), record.inside_key());
        if claimed && !record.is_live() {
            self.claims.close(sharing, &record.public());
        }
        let record = self.record_mut(slot);
        record.terms = record.terms.claiming(if claimed { sharing } else { Sharing::Tuple });
    }

    fn unclaim(&mut self, record: &Record) {
        let public = record.public();
        if !record.is_live() {
            self.claims.reopen(record.claim(), &public);
        }
        self.claims.remove(record.claim(), &public);
    }

    /// The record in `slot`.
    #[must_use]
    pub fn record(&self, slot: Slot) -> &Record {
        let (page, at) = split(slot.0);
        &self.pages[page][at].record
    }

    /// The record in `slot`, to change its local part.
    #[must_use]
    pub fn record_mut(&mut self, slot: Slot) -> &mut Record {
        let (page, at) = split(slot.0);
        &mut self.pages[page][at].record
    }

    /// What is done to the packets of a mapping, if that was decided.
    #[inline]
    pub(crate) fn translation(&self, slot: Slot) -> Option<&Translation> {
        let (page, at) = split(slot.0);
        Some(&self.pages[page][at].translation).filter(|translation| translation.made > 0)
    }

    /// The same, to change what is local of it.
    #[inline]
    pub(crate) fn translation_mut(&mut self, slot: Slot) -> &mut Translation {
        let (page, at) = split(slot.0);
        &mut self.pages[page][at].translation
    }

    /// It was decided.
    pub(crate) fn translate(&mut self, slot: Slot, translation: Translation) {
        let (page, at) = split(slot.0);
        self.pages[page][at].translation = translation;
    }

    /// The slot at a hand's position, if it is not free.
    #[must_use]
    pub fn occupied(&self, position: u32) -> Option<Slot> {
        (position < self.len && self.record(Slot(position)).state != State::Free).then_some(Slot(position))
    }

    /// Finds by out2in key, live or held.
    #[must_use]
    pub fn find_public(&self, key: &PublicKey) -> Option<Slot> {
        self.by_public.find(self.public_tag(key), |s| self.record(Slot(s)).public() == *key).map(Slot)
    }

    /// Finds by in2out key, live or held; the newest mapping of the key. Nothing while the index is not built.
    #[must_use]
    pub fn find_inside(&self, key: &FlowKey) -> Option<Slot> {
        self.by_inside.find(self.inside_tag(key), |s| self.record(Slot(s)).flow() == *key).map(Slot)
    }

    /// Something of where the record of a key with this tag is looked up.
    pub(crate) fn begin(&self, side: Side, tag: u32) -> u32 {
        self.index(side).begin(tag)
    }

    /// Where the record of a key with this tag probably is; reads the index only.
    pub(crate) fn guess(&self, side: Side, tag: u32) -> Option<Slot> {
        self.index(side).guess(tag).map(Slot)
    }

    /// By which packets that come in on a side are looked up.
    const fn index(&self, side: Side) -> &Index {
        match side {
            Side::Inside => &self.by_inside,
            Side::Outside => &self.by_public,
        }
    }

    /// A hash of a remote end and protocol, keyed like the indexes.
    #[must_use]
    pub fn remote_tag(&self, key: &PublicKey) -> u64 {
        self.hash(key.remote.addr, Addr::NONE, u64::from(key.remote.port) << 8 | key.proto as u64, 0)
    }

    /// Writes a new live mapping.
    ///
    /// # Panics
    /// If the public key is occupied: the caller has looked.
    pub fn insert(&mut self, open: Open, at: LogIndex, now_ns: u64) -> Slot {
        self.insert_record(Record::of(open, at, Seen::at(now_ns)))
    }

    /// Writes a record as a scan brought it, live or held.
    ///
    /// # Panics
    /// If the public key is occupied or the record is free.
    pub fn insert_record(&mut self, record: Record) -> Slot {
        let key = record.public();
        assert!(self.find_public(&key).is_none(), "a public key has one record (S7)");
        let slot = self.allocate();
        let (page, at) = split(slot);
        self.pages[page][at] = Kept { record, translation: Translation::NONE };
        self.digest = self.digest.wrapping_add(record.digest());
        match record.state {
            State::Live => {
                self.live += 1;
                self.usage.open(key.frontend, key.port);
            }
            State::Held(_) => {
                self.held += 1;
                self.usage.hold_new(key.frontend, key.port);
            }
            State::Free => panic!("a free record is not inserted"),
        }
        *self.per_backend.entry(record.backend).or_default() += 1;
        self.by_public.set(self.public_tag(&key), slot, |_| false);
        if self.inside_built {
            self.point_inside(Slot(slot));
        }
        Slot(slot)
    }

    /// Live becomes held, from now on.
    pub fn close(&mut self, slot: Slot, class: HoldClass, at: LogIndex, now_ns: u64) {
        let record = self.record_mut(slot);
        assert!(record.is_live(), "only a live mapping closes");
        let before = record.digest();
        record.state = State::Held(class);
        record.written_at = at;
        record.last_seen = Seen::at(now_ns);
        record.mark = Mark::None;
        let (claim, public, after) = (record.claim(), record.public(), record.digest());
        self.digest = self.digest.wrapping_sub(before).wrapping_add(after);
        self.live -= 1;
        self.held += 1;
        self.usage.close(public.frontend, public.port);
        self.claims.close(claim, &public);
    }

    /// Held becomes live again, for the same inside (F3).
    pub fn reopen(&mut self, slot: Slot, at: LogIndex, now_ns: u64) {
        let record = self.record_mut(slot);
        assert!(matches!(record.state, State::Held(_)), "only a held mapping reopens");
        let before = record.digest();
        record.state = State::Live;
        record.written_at = at;
        record.last_seen = Seen::at(now_ns);
        record.mark = Mark::None;
        record.tcp = crate::nat::tcp::Track::NEW;
        let (claim, public, after) = (record.claim(), record.public(), record.digest());
        self.digest = self.digest.wrapping_sub(before).wrapping_add(after);
        self.held -= 1;
        self.live += 1;
        self.usage.reopen(public.frontend, public.port);
        self.claims.reopen(claim, &public);
        if self.inside_built {
            self.point_inside(slot);
        }
    }

    /// The slot becomes free.
    pub fn release(&mut self, slot: Slot) {
        let record = *self.record(slot);
        self.digest = self.digest.wrapping_sub(record.digest());
        self.unclaim(&record);
        match record.state {
            State::Live => {
                self.live -= 1;
                self.usage.close(record.frontend, record.public_port);
            }
            State::Held(_) => self.held -= 1,
            State::Free => panic!("a slot is released once"),
        }
        self.usage.release(record.frontend, record.public_port);
        let flows = self.per_backend.get_mut(&record.backend).expect("counted when it was inserted");
        *flows -= 1;
        if *flows == 0 {
            self.per_backend.remove(&record.backend);
        }
        self.by_public.remove(self.public_tag(&record.public()), slot.0);
        if self.inside_built {
            self.by_inside.remove(self.inside_tag(&record.flow()), slot.0);
        }
        *self.record_mut(slot) = Record::EMPTY;
        self.free.push(slot.0);
    }

    /// Drops the in2out index until `build_inside`.
    pub fn drop_inside(&mut self) {
        self.by_inside.clear();
        self.inside_built = false;
    }

    /// Builds the in2out index: of several records of one key a live one, then the one written last.
    pub fn build_inside(&mut self) {
        self.by_inside.clear();
        self.inside_built = true;
        for position in 0..self.len {
            let Some(slot) = self.occupied(position) else { continue };
            let record = self.record(slot);
            let rank = (record.is_live(), record.written_at);
            let better = self.find_inside(&record.flow()).is_none_or(|other| {
                let other = self.record(other);
                (other.is_live(), other.written_at) < rank
            });
            if better {
                self.point_inside(slot);
            }
        }
    }

    /// All slots in the order of their public keys.
    #[must_use]
    pub fn sorted(&self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = (0..self.len).filter_map(|p| self.occupied(p)).collect();
        slots.sort_unstable_by_key(|s| self.record(*s).public());
        slots
    }

    fn allocate(&mut self) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        let slot = self.len;
        self.len = slot.checked_add(1).expect("Params bounds the flows of a shard below 2^32");
        if split(slot).0 == self.pages.len() {
            self.pages
                .push(vec![Kept { record: Record::EMPTY, translation: Translation::NONE }; PAGE].into_boxed_slice());
        }
        slot
    }

    fn point_inside(&mut self, slot: Slot) {
        let key = self.record(slot).flow();
        let tag = self.inside_tag(&key);
        let pages = &self.pages;
        self.by_inside.set(tag, slot.0, |s| {
            let (page, at) = split(s);
            pages[page][at].record.flow() == key
        });
    }

    pub(crate) fn public_tag(&self, key: &PublicKey) -> u32 {
        let ports = u64::from(key.port) << 32 | u64::from(key.remote.port) << 8 | key.proto as u64;
        fold(self.hash(key.remote.addr, Addr::NONE, ports, key.frontend.0))
    }

    pub(crate) fn inside_tag(&self, key: &FlowKey) -> u32 {
        let ports = u64::from(key.inside.endpoint.port) << 32 | u64::from(key.remote.port) << 8 | key.proto as u64;
        fold(self.hash(key.inside.endpoint.addr, key.remote.addr, ports, key.inside.vnet.0))
    }

    fn hash(&self, a: Addr, b: Addr, word: u64, small: u32) -> u64 {
        self.hasher.hash_one((u64::from(a.bits()) << 32 | u64::from(b.bits()), word, small))
    }
}

fn fold(hash: u64) -> u32 {
    u32::try_from(hash >> 32).expect("32 bits remain")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VnetId;
    use crate::record::{Endpoint, InsideKey, Proto, Scenario};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    fn public(port: u16, remote: u16) -> PublicKey {
        let remote = Endpoint { addr: Addr::from(Ipv4Addr::new(198, 51, 100, 1)), port: remote };
        PublicKey { proto: Proto::Udp, frontend: FrontendId(1), port, remote }
    }

    fn inside(port: u16) -> InsideKey {
        InsideKey { vnet: VnetId(0), endpoint: Endpoint { addr: Addr::from(Ipv4Addr::new(10, 0, 0, 1)), port } }
    }

    fn open(public: PublicKey, inside: InsideKey) -> Open {
        Open { public, inside, backend: BackendId(1), scenario: Scenario::Pool }
    }

    #[test]
    fn a_held_record_does_not_take_the_inside_key_from_a_newer_mapping() {
        let mut t = Table::new(1);
        let old = t.insert(open(public(2000, 53), inside(9)), LogIndex(1), 0);
        t.close(old, HoldClass::IdleStream, LogIndex(2), 0);
        let new = t.insert(open(public(2001, 53), inside(9)), LogIndex(3), 0);
        let flow = t.record(new).flow();
        assert_eq!(t.find_inside(&flow), Some(new));
        t.release(old);
        assert_eq!(t.find_inside(&flow), Some(new), "freeing the old one keeps the newer key");
        t.drop_inside();
        assert_eq!(t.find_inside(&flow), None);
        t.build_inside();
        assert_eq!(t.find_inside(&flow), Some(new));
    }

    #[test]
    fn a_mapping_that_comes_back_alone_does_not_empty_its_block() {
        let mut t = Table::new(1);
        let block = PortBlock { frontend: FrontendId(1), start: 2048, len: 16 };
        t.watch(std::iter::once(block));
        t.take_emptied();
        let only = t.insert(open(public(2050, 53), inside(9)), LogIndex(1), 0);
        t.close(only, HoldClass::Fin, LogIndex(2), 0);
        t.reopen(only, LogIndex(3), 0);
        assert!(!t.usage.emptied(&block), "a mapping is there");
        t.release(only);
        assert!(t.usage.emptied(&block));
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_map(ops in proptest::collection::vec((0u8..4, 0u16..40, 0u16..3), 0..400)) {
            let mut t = Table::new(7);
            let mut model: BTreeMap<PublicKey, bool> = BTreeMap::new();
            let watched = [(2048, 16), (2080, 8)].map(|(start, len)| PortBlock { frontend: FrontendId(1), start, len });
            t.watch(watched.into_iter());
            prop_assert_eq!(t.take_emptied().len(), watched.len(), "they are empty now");
            let mut used = [0; 2];
            for (i, (op, port, remote)) in ops.into_iter().enumerate() {
                let at = LogIndex(u64::try_from(i).unwrap());
                let key = public(2048 + port, 53 + remote);
                let found = t.find_public(&key);
                prop_assert_eq!(found.is_some(), model.contains_key(&key));
                match (op, found, model.get(&key).copied()) {
                    (0, None, _) => { t.insert(open(key, inside(port * 3 + remote)), at, 0); model.insert(key, true); }
                    (1, Some(s), Some(true)) => { t.close(s, HoldClass::Fin, at, 0); model.insert(key, false); }
                    (2, Some(s), Some(false)) => { t.reopen(s, at, 0); model.insert(key, true); }
                    (3, Some(s), _) => { t.release(s); model.remove(&key); }
                    _ => {}
                }
                for (block, used) in watched.iter().zip(&mut used) {
                    let now = model.keys().filter(|key| block.contains(key.port)).count();
                    prop_assert_eq!(t.usage().flows(block), u64::try_from(now).unwrap(), "counted as they came");
                    let emptied = std::mem::replace(used, now) > 0 && now == 0;
                    prop_assert_eq!(t.usage.emptied(block), emptied);
                }
                t.take_emptied();
            }
            let live = u32::try_from(model.values().filter(|l| **l).count()).unwrap();
            let held = u32::try_from(model.len()).unwrap() - live;
            prop_assert_eq!((t.live(), t.held()), (live, held));
            prop_assert_eq!(t.slots(), live + held + t.free_slots(), "I47");
            let keys: Vec<PublicKey> = t.sorted().into_iter().map(|s| t.record(s).public()).collect();
            prop_assert_eq!(keys, model.keys().copied().collect::<Vec<_>>());
            let block = PortBlock { frontend: FrontendId(1), start: 2048, len: 64 };
            prop_assert_eq!(t.usage().flows(&block), u64::from(live + held));
            for s in t.sorted() {
                prop_assert_eq!(t.find_inside(&t.record(s).flow()), Some(s));
            }
        }
    }
}
