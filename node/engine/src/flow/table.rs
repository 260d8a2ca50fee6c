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
#[path = "table_tests.rs"]
mod tests;
