//! The memory of the kernel's fast path (the program: `bpf/fast.c`): a worker's part of its records, keys and revisions. Whoever
//! has it says what the kernel does to the packets of a mapping, reads what passed, and takes it back; it never decides.
//!
//! A record is installed dead, then its keys, the answers' first, then it lives, by one store. It is killed by one store
//! without a call into the kernel; its keys are taken away later, by `remove`, and the caller uses its number again only when
//! no packet can be on its way by it any more. Called by the worker's thread, a bounded number of times in a turn.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
pub use words::{FastBoth, FastSeen};
use words::{Incarnation, ShardId, Term};

use crate::port::Interface;

/// Places of revisions that each worker has.
pub const FAST_PLACES: u32 = 1 << 16;
/// Words of `struct fast_record`.
const RECORD: usize = 24;
/// The same in octets.
pub(crate) const RECORD_LEN: u32 = 192;
const _: () = assert!(RECORD * size_of::<u64>() == RECORD_LEN as usize);
/// Words of one end's counters, and where they begin.
const SEEN: [usize; 2] = [8, 16];

/// How much room the fast path has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FastSize {
    /// Parts, one for each worker.
    pub workers: u16,
    /// Flows of each.
    pub flows: u32,
}

/// TCP or UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum FastProto {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
}

/// One side of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FastSide {
    /// By which interface packets come from there and go there.
    pub interface: Interface,
    /// Who takes what goes there; inside also who alone may send from there.
    pub mac: [u8; 6],
    /// The longest IP packet that goes there.
    pub mtu: u16,
}

/// What is done to the packets of a mapping, or of all that passes between two instances, both ways, and what that stands by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FastEntry {
    /// Whose virtual MAC they are sent to, and whose lease they need.
    pub shard: ShardId,
    /// The life that decided it.
    pub incarnation: Incarnation,
    /// The term in which.
    pub term: Term,
    /// The revision at which.
    pub made: u64,
    /// The place of the backend's revision, below [`FAST_PLACES`].
    pub place: u32,
    /// Private: the place of the other instance's revision. Nothing but a hop is changed then.
    pub far_place: Option<u32>,
    /// Its protocol; `None`: each that the program reads, and both ports are 0. Private alone.
    pub proto: Option<FastProto>,
    /// The backend's end.
    pub inside: (Ipv4Addr, u16),
    /// The public end; private: the backend's.
    pub public: (Ipv4Addr, u16),
    /// The remote end; private: the other instance's.
    pub remote: (Ipv4Addr, u16),
    /// Towards the backend.
    pub backend: FastSide,
    /// Towards the next hop outside; private: towards the other instance.
    pub hop: FastSide,
    /// TCP, of the backend and of the remote: behind the last octet of it that is known, and the newest that it acknowledged.
    pub tcp: [(u32, u32); 2],
}

/// What became of the frames to a virtual MAC that the fast path looked at, since it was attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FastFates {
    /// Sent under a lease.
    pub sent: u64,
    /// Sent in grace, from the own MAC.
    pub grace: u64,
    /// To the worker: of no entry.
    pub unknown: u64,
    /// To the worker: a fragment, with options, a SYN, FIN or RST, on its last hop, no echo of ICMP, or of another protocol.
    pub odd: u64,
    /// To the worker: the entry was taken back.
    pub dead: u64,
    /// To the worker: what concerns the entry has changed since.
    pub revised: u64,
    /// To the worker: from another MAC than the instance's, or to another shard's.
    pub stranger: u64,
    /// To the worker: too long for the next link.
    pub long: u64,
    /// To the worker: neither lease nor grace, or those of another term.
    pub lease: u64,
    /// Dropped: the entry, or its right, ended while it was being rewritten.
    pub dropped: u64,
}

/// What was sent in one direction, since it was attached, in grace too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FastCarried {
    /// Frames; merged ones count once.
    pub packets: u64,
    /// Octets of IP.
    pub octets: u64,
}

/// `struct fast_count` by `enum fast_fate`, for each processor.
pub(crate) type Fates = PerCpuArray<MapData, [u64; 2]>;

/// Sums of one fate over the processors.
fn fate(map: &Fates, at: u32) -> Result<FastCarried, MapError> {
    let of_each = map.get(&at, 0)?;
    let sum = |which: usize| of_each.iter().map(|counts| counts[which]).sum();
    Ok(FastCarried { packets: sum(0), octets: sum(1) })
}

/// Everything that became of frames.
pub(crate) fn fates(map: &Fates) -> Result<FastFates, MapError> {
    let of = |at| Ok::<u64, MapError>(fate(map, at)?.packets);
    Ok(FastFates {
        sent: of(0)? + of(1)?,
        grace: of(2)? + of(3)?,
        unknown: of(4)?,
        odd: of(5)?,
        dead: of(6)?,
        revised: of(7)?,
        stranger: of(8)?,
        long: of(9)?,
        lease: of(10)?,
        dropped: of(11)?,
    })
}

/// What was sent out, and in.
pub(crate) fn carried(map: &Fates) -> Result<[FastCarried; 2], MapError> {
    let both = |first: u32| -> Result<FastCarried, MapError> {
        let (leased, grace) = (fate(map, first)?, fate(map, first + 2)?);
        Ok(FastCarried { packets: leased.packets + grace.packets, octets: leased.octets + grace.octets })
    };
    Ok([both(0)?, both(1)?])
}

/// A map of the kernel's in this process's memory, as words; unmapped with its last user.
struct Words {
    first: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the memory is valid until `drop`, from any thread, and consists of atomics only.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps an array map of `len` words in all.
    fn over(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ.union(ProtFlags::WRITE);
        // SAFETY: a new mapping of the map's pages; the kernel checks length and permission, and all access is atomic.
        let first =
            unsafe { mmap(std::ptr::null_mut(), len * size_of::<u64>(), protection, MapFlags::SHARED, map, 0) }?;
        Ok(Self { first: NonNull::new(first.cast()).expect("a mapping is never at address 0"), len })
    }

    fn get(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.len, "within the map");
        // SAFETY: `first` points to `len` words, page-aligned and mapped until `drop`; the kernel's access to them is by
        // whole loads, stores and atomic additions.
        unsafe { self.first.add(at).as_ref() }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: mapped with this length in `over`; no reference outlives the last `Arc`.
        let unmapped = unsafe { munmap(self.first.as_ptr().cast(), self.len * size_of::<u64>()) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping");
    }
}

/// What the parts share.
struct Shared {
    records: Words,
    revisions: Words,
    all: Words,
    /// Numbers of the interfaces, by their places.
    ifindexes: Vec<u32>,
}

/// `struct fast_key`.
type Key = [u32; 5];

/// What userspace alone knows of a record.
#[derive(Clone, Copy, Default)]
struct Slot {
    generation: u32,
    /// Keys that may be in the kernel's table.
    keys: Option<[Key; 2]>,
}

/// A worker's part of the fast path.
pub struct FastTable {
    shared: Arc<Shared>,
    keys: HashMap<MapData, Key, [u32; 2]>,
    worker: u16,
    /// The number of its first record.
    first: u32,
    slots: Vec<Slot>,
}

impl std::fmt::Debug for FastTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FastTable")
            .field("worker", &self.worker)
            .field("flows", &self.slots.len())
            .finish_non_exhaustive()
    }
}

/// The maps of a loaded object.
pub(crate) struct Maps<'a> {
    pub(crate) keys: &'a MapData,
    pub(crate) records: &'a MapData,
    pub(crate) revisions: &'a MapData,
    pub(crate) all: &'a MapData,
}

/// The parts of the workers. Everything in the maps is zero: they were just made (K3).
pub(crate) fn parts(maps: &Maps<'_>, size: FastSize, ifindexes: Vec<u32>) -> Result<Vec<FastTable>, MapError> {
    let io = |error: io::Error| MapError::IoError(error);
    let (workers, flows) = (usize::from(size.workers), size.flows as usize);
    let shared = Arc::new(Shared {
        records: Words::over(maps.records.fd().as_fd(), workers * flows * RECORD).map_err(io)?,
        revisions: Words::over(maps.revisions.fd().as_fd(), workers * FAST_PLACES as usize).map_err(io)?,
        all: Words::over(maps.all.fd().as_fd(), workers).map_err(io)?,
        ifindexes,
    });
    (0..size.workers)
        .map(|worker| {
            let fd = maps.keys.fd().as_fd().try_clone_to_owned().map_err(io)?;
            Ok(FastTable {
                shared: Arc::clone(&shared),
                keys: HashMap::try_from(aya::maps::Map::HashMap(MapData::from_fd(fd)?))?,
                worker,
                first: u32::from(worker) * size.flows,
                slots: vec![Slot::default(); flows],
            })
        })
        .collect()
}

/// `struct fast_device`; `peer`: what leaves by it may be handed to the other end of its pair.
pub(crate) fn device(ifindex: u32, mac: [u8; 6], peer: bool) -> [u8; 12] {
    let ([a, b, c, d], [m0, m1, m2, m3, m4, m5]) = (ifindex.to_ne_bytes(), mac);
    [a, b, c, d, m0, m1, m2, m3, m4, m5, peer.into(), 0]
}

impl FastTable {
    /// Flows that it has room for: their numbers are below.
    #[must_use]
    pub fn flows(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("as many as the map has")
    }

    /// From now on the kernel carries the packets of a mapping. `slot` was removed, or never installed.
    ///
    /// # Errors
    /// If the kernel refuses a key; nothing is carried then.
    ///
    /// # Panics
    /// If `slot` is in use.
    pub fn install(&mut self, slot: u32, entry: &FastEntry) -> Result<(), MapError> {
        let number = self.first + slot;
        let own = &mut self.slots[slot as usize];
        assert!(own.keys.is_none(), "a record is removed before it is installed again");
        own.generation = own.generation.wrapping_add(1).max(1);
        let generation = own.generation;
        let keys = keys(&self.shared.ifindexes, entry);
        own.keys = Some(keys);
        let words = words_of(entry, generation, self.worker);
        for (at, word) in words.into_iter().enumerate().skip(1) {
            self.shared.records.get(number as usize * RECORD + at).store(word, Ordering::Relaxed);
        }
        // The answers' key first: whoever is heard outside can be answered.
        let [out, incoming] = keys;
        let installed = self
            .keys
            .insert(incoming, [(number << 1) | 1, generation], 0)
            .and_then(|()| self.keys.insert(out, [number << 1, generation], 0));
        if let Err(error) = installed {
            self.remove(slot);
            return Err(error);
        }
        // Release: who sees it live sees all of it.
        self.word(slot, 0).store(words[0], Ordering::Release);
        Ok(())
    }

    /// From now on no packet passes by it.
    pub fn kill(&mut self, slot: u32) {
        self.word(slot, 0).store(0, Ordering::SeqCst);
    }

    /// Takes the keys of a killed record away.
    ///
    /// # Panics
    /// If it lives.
    pub fn remove(&mut self, slot: u32) {
        assert!(self.word(slot, 0).load(Ordering::Relaxed) == 0, "a record is killed before its keys go");
        for key in self.slots[slot as usize].keys.take().into_iter().flatten() {
            // A key that is not there is as good as removed.
            let _absent = self.keys.remove(&key);
        }
    }

    /// What has passed by a record since it was installed.
    #[must_use]
    pub fn seen(&self, slot: u32) -> FastBoth {
        let of = |from: usize| {
            let word = |at| self.word(slot, from + at).load(Ordering::Relaxed);
            let [a, b, c, d, e, f, g, h] = word(3).to_ne_bytes();
            let tcp = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
            FastSeen { packets: word(0), octets: word(1), last_ns: word(2), tcp }
        };
        let [out, incoming] = SEEN.map(of);
        FastBoth { out, incoming }
    }

    /// What was decided before `made` about packets of the backend of this place no longer stands.
    pub fn raise(&mut self, place: u32, made: u64) {
        let at = usize::from(self.worker) * FAST_PLACES as usize + (place % FAST_PLACES) as usize;
        self.shared.revisions.get(at).store(made, Ordering::SeqCst);
    }

    /// What this worker decided before `made` no longer stands.
    pub fn raise_all(&mut self, made: u64) {
        self.shared.all.get(self.worker.into()).store(made, Ordering::SeqCst);
    }

    fn word(&self, slot: u32, at: usize) -> &AtomicU64 {
        assert!((slot as usize) < self.slots.len(), "a record of this part");
        self.shared.records.get((self.first + slot) as usize * RECORD + at)
    }
}

/// The keys of what goes out and of what comes in.
fn keys(ifindexes: &[u32], entry: &FastEntry) -> [Key; 2] {
    let key = |side: &FastSide, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)| {
        let ports = pair(from.1.to_be_bytes(), to.1.to_be_bytes());
        [ifindexes[side.interface.index()], ip(from.0), ip(to.0), ports, entry.proto.map_or(0, |proto| proto as u32)]
    };
    [key(&entry.backend, entry.inside, entry.remote), key(&entry.hop, entry.remote, entry.public)]
}

/// `struct fast_record`.
fn words_of(entry: &FastEntry, generation: u32, worker: u16) -> [u64; RECORD] {
    let place = |place: u32| (u32::from(worker) << 16) | (place % FAST_PLACES);
    let number = |side: &FastSide| u8::try_from(side.interface.index()).expect("few");
    let ([g0, g1, g2, g3], [s0, s1]) = (generation.to_ne_bytes(), entry.shard.0.to_ne_bytes());
    let end = |side: &FastSide| {
        let ([a, b, c, d, e, f], [g, h]) = (side.mac, side.mtu.to_ne_bytes());
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    };
    let two = |first: u32, second: u32| {
        let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    };
    let mut words = [0; RECORD];
    words[0] = u64::from_ne_bytes([g0, g1, g2, g3, s0, s1, number(&entry.hop), number(&entry.backend)]);
    words[1] = entry.incarnation.0;
    words[2] = entry.term.0;
    words[3] = entry.made;
    words[4] = two(place(entry.place), entry.far_place.map_or_else(|| ip(entry.public.0), place));
    words[5] = two(ip(entry.inside.0), pair(entry.public.1.to_be_bytes(), entry.inside.1.to_be_bytes()));
    words[6] = end(&entry.hop);
    words[7] = end(&entry.backend);
    for (line, (next, acked)) in SEEN.into_iter().zip(entry.tcp) {
        words[line + 3] = two(next, acked);
    }
    words
}

/// As it stands in the packet.
fn ip(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn pair([a, b]: [u8; 2], [c, d]: [u8; 2]) -> u32 {
    u32::from_ne_bytes([a, b, c, d])
}
