//! Loader of the kernel's egress guard (rule L5; the program: `bpf/guard.c`): it lets a frame from a shard's vMAC leave a
//! data interface only within the lease, one from the node's own MAC only as a `Forward` or within the grace.
//!
//! The program hangs on the interface itself (`hooks`) and not by a link descriptor, so it outlives a killed process and goes on
//! judging what that process queued by the words it left: within the grace repetitions pass, after it nothing does. Dropping a `Guard`
//! in an orderly exit detaches it. A new process first removes what its predecessor left, then starts with words that are
//! all zero (K3). Nothing may leave the data interfaces by XDP: this check would be bypassed. Called at start by the node;
//! its sets are updated whenever the control state names other addresses or peers, and it looks again and again whether it
//! still stands: anybody with privilege can take a filter away. All of it costs calls into the kernel, so it belongs on no
//! thread that others wait for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use words::SHARDS_MAX;

use crate::far_end;
use crate::fast::{self, FastCarried, FastFates, FastSize, FastTable};
pub use crate::guard_counters::GuardCounters;
pub use crate::guard_error::GuardError;
use crate::hooks::{self, Attachments, By, Hooks};
use crate::lease_table::{WordsWriter, over_map};
use crate::link::Link;
use crate::port::Interface;

#[cfg(qnat_bpf)]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/qnat.o"));
#[cfg(not(qnat_bpf))]
static OBJECT: &[u8] = &[];

/// Bytes of `struct word`, as `sync::word` has it too.
const WORD_LEN: u32 = 32;

/// Whether this build contains the guard (clang was there).
#[must_use]
pub const fn available() -> bool {
    cfg!(qnat_bpf)
}

/// An interface that the guard stands on.
struct Place {
    interface: Interface,
    link: Link,
    /// What leaves by it may be handed to its far end.
    far_end: bool,
    attachments: Attachments,
}

/// What a look at the guard found.
#[derive(Debug, Default)]
pub struct Standing {
    /// The interfaces where it was missing, and is back.
    pub put_back: Vec<String>,
    /// Where it is missing, and why it cannot be put back.
    pub missing: Vec<GuardError>,
}

/// The attached guard. Dropping it detaches it.
pub struct Guard {
    // Holds the program and its attachments.
    ebpf: Ebpf,
    hooks: Hooks,
    fates: fast::Fates,
    fast_devices: Array<MapData, [u8; 12]>,
    places: Vec<Place>,
    devices: HashMap<MapData, u32, [u8; 12]>,
    counters: PerCpuArray<MapData, u64>,
    addr_shard: HashMap<MapData, [u32; 2], u32>,
    peer_macs: HashMap<MapData, [u8; 8], u32>,
    addresses: BTreeMap<(Interface, Ipv4Addr), u16>,
    peers: BTreeSet<[u8; 6]>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.places.iter().for_each(|place| self.hooks.take_away(place.link.ifindex));
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("addresses", &self.addresses.len())
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl Guard {
    /// Loads the guard and attaches it to all data interfaces of the calling thread's network namespace, in place of one
    /// that a predecessor left there. All words are zero: nothing passes but Forwards, once peers are set.
    ///
    /// Between the removal of the old filter and the attachment of the new one, frames leave unchecked; nobody sends in
    /// that moment, since the predecessor is gone and the caller has opened no port yet. Keep that order.
    ///
    /// # Errors
    /// See `GuardError`; the interfaces are then as they were, perhaps with an empty clsact qdisc more.
    pub fn attach(outside: &Link, inside: &[Link]) -> Result<(Self, WordsWriter), GuardError> {
        let (guard, words, _) = Self::attach_with(outside, inside, None)?;
        Ok((guard, words))
    }

    /// The same with a fast path that has so much room, and its parts, one for each worker: empty as it begins (K3). Without
    /// `room` there is none, also none that a predecessor left.
    ///
    /// # Errors
    /// As `attach`.
    pub fn attach_with(
        outside: &Link,
        inside: &[Link],
        room: Option<FastSize>,
    ) -> Result<(Self, WordsWriter, Vec<FastTable>), GuardError> {
        let asked = By::best(outside);
        let by = asked.map_err(|source| GuardError::Io {
            op: "asking what hangs",
            interface: outside.name.clone(),
            source,
        })?;
        Self::attach_by(outside, inside, room, by)
    }

    /// The same by one of the kernel's places.
    ///
    /// # Errors
    /// As `attach`, and if the kernel does not have it.
    pub fn attach_by(
        outside: &Link,
        inside: &[Link],
        room: Option<FastSize>,
        by: By,
    ) -> Result<(Self, WordsWriter, Vec<FastTable>), GuardError> {
        let links = || std::iter::once(outside).chain(inside);
        if !available() {
            links().try_for_each(hooks::remove_leftover)?;
            return Err(GuardError::NotBuilt);
        }
        let mut known = BTreeSet::new();
        if let Some(twice) = links().find(|link| !known.insert(link.ifindex)) {
            return Err(GuardError::SameInterface(twice.name.clone()));
        }
        let mut ebpf = load(room)?;
        let words = lease_words(&ebpf, outside)?;

        let mut devices: HashMap<_, u32, [u8; 12]> = HashMap::try_from(take(&mut ebpf, "devices")?)?;
        for (interface, link) in Interface::all(inside.len()).zip(links()) {
            devices.insert(link.ifindex, device(interface, link.mac), 0)?;
        }
        let counters = PerCpuArray::try_from(take(&mut ebpf, "counters")?)?;
        let addr_shard = HashMap::try_from(take(&mut ebpf, "addr_shard")?)?;
        let peer_macs = HashMap::try_from(take(&mut ebpf, "peer_macs")?)?;

        let parts = match room {
            Some(room) => fast_parts(&ebpf, room, links().map(|link| link.ifindex).collect())?,
            None => Vec::new(),
        };
        let fates = PerCpuArray::try_from(take(&mut ebpf, "fast_fates")?)?;
        let fast_devices = Array::try_from(take(&mut ebpf, "fast_devices")?)?;

        let hooks = Hooks::load(&mut ebpf, by, room.is_some())?;
        let places = Interface::all(inside.len()).zip(links());
        let place = |(interface, link): (Interface, &Link)| Place {
            interface,
            link: link.clone(),
            far_end: false,
            attachments: Attachments::new(),
        };
        let places = places.map(place).collect();
        let (addresses, peers) = (BTreeMap::new(), BTreeSet::new());
        let mut guard = Self {
            ebpf,
            hooks,
            fates,
            fast_devices,
            places,
            devices,
            counters,
            addr_shard,
            peer_macs,
            addresses,
            peers,
        };
        for place in 0..guard.places.len() {
            guard.put(place)?;
            guard.look_beyond(place);
            guard.tell_device(place)?;
        }
        Ok((guard, words, parts))
    }

    /// Attaches the filters to one of their places, in place of what is left of earlier ones.
    fn put(&mut self, place: usize) -> Result<(), GuardError> {
        let Self { ebpf, places, hooks, .. } = self;
        let place = &mut places[place];
        hooks.put(ebpf, &place.link, &mut place.attachments)
    }

    /// Looks whether the filters still stand on all interfaces, also on one that was made anew under its name, and puts them
    /// back where they do not. Until then frames leave by the worker's check alone.
    pub fn look_again(&mut self) -> Standing {
        let mut standing = Standing::default();
        for at in 0..self.places.len() {
            match self.look_at(at) {
                Ok(true) => {}
                Ok(false) => standing.put_back.push(self.places[at].link.name.clone()),
                Err(error) => standing.missing.push(error),
            }
        }
        standing
    }

    /// Whether the filters stood there; they do now.
    fn look_at(&mut self, at: usize) -> Result<bool, GuardError> {
        let place = &mut self.places[at];
        let interface = place.link.name.clone();
        let io = |op, source| GuardError::Io { op, interface: interface.clone(), source };
        let link = Link::named(&interface).map_err(|error| io("looking at it", error))?;
        if link != place.link {
            self.devices.insert(link.ifindex, device(place.interface, link.mac), 0)?;
            place.link = link;
            place.far_end = false;
            self.tell_device(at)?;
        }
        let stood = self.hooks.stand(self.places[at].link.ifindex);
        let stood = stood.map_err(|error| io("listing the filters", error))?;
        if !stood {
            self.put(at)?;
        }
        if self.look_beyond(at) {
            self.tell_device(at)?;
        }
        Ok(stood)
    }

    /// Looks whether what leaves by an interface may be handed to its far end; whether that has changed.
    fn look_beyond(&mut self, at: usize) -> bool {
        let place = &mut self.places[at];
        // Who does not know takes the longer way.
        let may = far_end::is_reachable(place.link.ifindex, self.hooks.guard()).unwrap_or(false);
        std::mem::replace(&mut place.far_end, may) != may
    }

    /// Tells the fast path what it has to know of an interface.
    fn tell_device(&mut self, at: usize) -> Result<(), GuardError> {
        let Place { interface, link, far_end, .. } = &self.places[at];
        Ok(self.fast_devices.set(network(*interface), fast::device(link.ifindex, link.mac, *far_end), 0)?)
    }

    /// The number by which the kernel knows the program of the fast path, if there is one.
    #[must_use]
    pub fn fast_program(&self) -> Option<u32> {
        self.hooks.fast_path()
    }

    /// The interfaces by which the fast path hands frames straight to the far end of a pair, past the guard.
    #[must_use]
    pub fn far_ends(&self) -> Vec<String> {
        self.places.iter().filter(|place| place.far_end).map(|place| place.link.name.clone()).collect()
    }

    /// Replaces the set of addresses whose repetition the grace may allow: outside the frontends, inside the backends,
    /// each with its shard. Of the last call's set only the differences are written.
    ///
    /// # Errors
    /// When the kernel's table is full (262,144 addresses); those not written are dropped in grace.
    pub fn set_addresses(
        &mut self,
        addresses: impl IntoIterator<Item = (Interface, Ipv4Addr, u16)>,
    ) -> Result<(), GuardError> {
        let wanted: BTreeMap<_, _> =
            addresses.into_iter().map(|(interface, ip, shard)| ((interface, ip), shard)).collect();
        // First all that somebody loses, then all that somebody gets: an address never has two shards, nor a former one while
        // others have their new ones.
        let gone = self.addresses.iter().filter(|(key, shard)| wanted.get(key) != Some(shard));
        let gone: Vec<_> = gone.map(|(key, _)| *key).collect();
        for key in gone {
            absent(self.addr_shard.remove(&address(key)))?;
            self.addresses.remove(&key);
        }
        for (key, shard) in wanted {
            if self.addresses.get(&key) != Some(&shard) {
                self.addr_shard.insert(address(key), u32::from(shard), 0)?;
                self.addresses.insert(key, shard);
            }
        }
        Ok(())
    }

    /// Replaces the set of peers' data MACs, to which a Forward may go.
    ///
    /// # Errors
    /// When the kernel's table is full (1024 addresses).
    pub fn set_peers(&mut self, macs: impl IntoIterator<Item = [u8; 6]>) -> Result<(), GuardError> {
        let wanted: BTreeSet<_> = macs.into_iter().collect();
        for gone in self.peers.difference(&wanted) {
            absent(self.peer_macs.remove(&padded(*gone)))?;
        }
        self.peers.retain(|mac| wanted.contains(mac));
        for mac in wanted {
            if !self.peers.contains(&mac) {
                self.peer_macs.insert(padded(mac), 1, 0)?;
                self.peers.insert(mac);
            }
        }
        Ok(())
    }

    /// The guard's counters, summed over the CPUs.
    ///
    /// # Errors
    /// When the kernel refuses the look-up.
    pub fn counters(&self) -> Result<GuardCounters, GuardError> {
        Ok(GuardCounters::of(sums(&self.counters)?))
    }

    /// What became of the frames that the fast path looked at, summed over the CPUs.
    ///
    /// # Errors
    /// When the kernel refuses the look-up.
    pub fn fates(&self) -> Result<FastFates, GuardError> {
        Ok(fast::fates(&self.fates)?)
    }

    /// What the fast path sent out, and in.
    ///
    /// # Errors
    /// When the kernel refuses the look-up.
    pub fn carried(&self) -> Result<[FastCarried; 2], GuardError> {
        Ok(fast::carried(&self.fates)?)
    }
}

/// The object, with as much room for flows as is wanted.
fn load(room: Option<FastSize>) -> Result<Ebpf, GuardError> {
    let mut loader = EbpfLoader::new();
    if let Some(FastSize { workers, flows }) = room {
        let all = u32::from(workers) * flows;
        // A key for each direction.
        loader.set_max_entries("fast_keys", 2 * all);
        loader.set_max_entries("fast_records", all);
        loader.set_max_entries("fast_revisions", u32::from(workers) * fast::FAST_PLACES);
    }
    Ok(loader.load(OBJECT)?)
}

/// The lease words in this process's memory, all zero.
fn lease_words(ebpf: &Ebpf, outside: &Link) -> Result<WordsWriter, GuardError> {
    let Some(Map::Array(map)) = ebpf.map("words") else { return Err(GuardError::Missing("map words")) };
    // The program and this crate must mean the same table.
    let info = map.info()?;
    if info.max_entries() != u32::from(SHARDS_MAX) || info.value_size() != WORD_LEN {
        return Err(GuardError::Missing("map words of the expected layout"));
    }
    let (words, _) = over_map(map.fd().as_fd()).map_err(|source| GuardError::Io {
        op: "mapping the lease words",
        interface: outside.name.clone(),
        source,
    })?;
    Ok(words)
}

fn fast_parts(ebpf: &Ebpf, room: FastSize, ifindexes: Vec<u32>) -> Result<Vec<FastTable>, GuardError> {
    let map = |name: &'static str| match ebpf.map(name) {
        Some(Map::Array(map) | Map::HashMap(map)) => Ok(map),
        _ => Err(GuardError::Missing(name)),
    };
    let maps = fast::Maps {
        keys: map("fast_keys")?,
        records: map("fast_records")?,
        revisions: map("fast_revisions")?,
        all: map("fast_all")?,
    };
    if maps.records.info()?.value_size() != fast::RECORD_LEN {
        return Err(GuardError::Missing("map fast_records of the expected layout"));
    }
    Ok(fast::parts(&maps, room, ifindexes)?)
}

/// The words of a map that each CPU has for itself.
fn sums(map: &PerCpuArray<MapData, u64>) -> Result<Vec<u64>, GuardError> {
    (0..map.len()).map(|index| Ok(map.get(&index, 0)?.iter().sum())).collect()
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, GuardError> {
    ebpf.take_map(name).ok_or(GuardError::Missing(name))
}

/// An entry that is gone already is as good as removed.
fn absent(result: Result<(), MapError>) -> Result<(), GuardError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(MapError::KeyNotFound) => Ok(()),
        other => Ok(other?),
    }
}

/// `struct device` of the program.
fn device(interface: Interface, mac: [u8; 6]) -> [u8; 12] {
    let [a, b, c, d] = network(interface).to_ne_bytes();
    let [m0, m1, m2, m3, m4, m5] = mac;
    [a, b, c, d, m0, m1, m2, m3, m4, m5, 0, 0]
}

/// `struct address` of the program: the address as it stands in the packet.
fn address((interface, ip): (Interface, Ipv4Addr)) -> [u32; 2] {
    [network(interface), u32::from_ne_bytes(ip.octets())]
}

/// `struct mac` of the program.
fn padded(mac: [u8; 6]) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac;
    [a, b, c, d, e, f, 0, 0]
}

fn network(interface: Interface) -> u32 {
    u32::try_from(interface.index()).expect("few")
}
