//! The kernel's fast path as the workers of this member have it: the engine's table over `netio`'s memory, and the switch that
//! an operator turns. It only translates words: links into interfaces, backends into places.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use engine::fast::{FastBoth, FastCounts, FastEntry, FastMode, FastSide, FastTable};
use engine::ids::BackendId;
use engine::record::Proto;
use netio::fast::{self, FastCarried, FastFates};

use super::bindings::Bindings;
use super::guard_keeper::GuardState;
use super::reports::{GUARD_ATTACHED, WorkerStats};
use crate::answers::{Carried, FastPath};

/// Which mappings are handed over to the kernel; turned by `qnat cache`, read by each worker once a turn.
#[derive(Clone, Debug)]
pub struct FastSwitch(Arc<AtomicU8>);

const MODES: [FastMode; 3] = [FastMode::Off, FastMode::On, FastMode::Eager];

impl FastSwitch {
    /// As configured.
    #[must_use]
    pub fn new(mode: FastMode) -> Self {
        let switch = Self(Arc::default());
        switch.set(mode);
        switch
    }

    /// How it stands.
    #[must_use]
    pub fn get(&self) -> FastMode {
        MODES[usize::from(self.0.load(Ordering::Relaxed))]
    }

    /// From the next turn of each worker on.
    pub fn set(&self, mode: FastMode) {
        let number = match mode {
            FastMode::Off => 0,
            FastMode::On => 1,
            FastMode::Eager => 2,
        };
        self.0.store(number, Ordering::Relaxed);
    }
}

/// What a worker's thread has of the fast path.
#[derive(Debug)]
pub struct FastEnd {
    switch: FastSwitch,
    told: FastMode,
    /// Shared with its part: which interface each link is.
    bindings: Arc<Mutex<Bindings>>,
}

impl FastEnd {
    /// Of a worker, and its part as the engine wants it.
    #[must_use]
    pub fn new(switch: FastSwitch, bindings: Bindings, part: fast::FastTable) -> (Self, Box<dyn FastTable>) {
        let bindings = Arc::new(Mutex::new(bindings));
        let table = Part { table: part, bindings: Arc::clone(&bindings), refused: false };
        let told = switch.get();
        (Self { switch, told, bindings }, Box::new(table))
    }

    /// Which mode the worker is in.
    #[must_use]
    pub const fn mode(&self) -> FastMode {
        self.told
    }

    /// These are the links from now on.
    pub fn bind(&self, bindings: &Bindings) {
        *self.bindings.lock().unwrap_or_else(PoisonError::into_inner) = bindings.clone();
    }

    /// The mode, if it was changed since this was asked.
    pub fn turned(&mut self) -> Option<FastMode> {
        let mode = self.switch.get();
        (std::mem::replace(&mut self.told, mode) != mode).then_some(mode)
    }
}

/// A worker's part.
#[derive(Debug)]
struct Part {
    table: fast::FastTable,
    bindings: Arc<Mutex<Bindings>>,
    /// The kernel did not take an entry; said once.
    refused: bool,
}

impl Part {
    fn entry(&self, entry: &FastEntry) -> Option<fast::FastEntry> {
        let bindings = self.bindings.lock().unwrap_or_else(PoisonError::into_inner);
        let side = |side: &FastSide| {
            Some(fast::FastSide { interface: bindings.interface(side.link)?, mac: side.mac.0, mtu: side.mtu })
        };
        Some(fast::FastEntry {
            shard: entry.shard,
            incarnation: entry.incarnation,
            term: entry.term,
            made: entry.made,
            place: entry.backend.0,
            far_place: entry.far.map(|far| far.0),
            proto: match entry.proto {
                None => None,
                Some(Proto::Tcp) => Some(fast::FastProto::Tcp),
                Some(Proto::Udp) => Some(fast::FastProto::Udp),
                Some(Proto::Icmp | Proto::Gre | Proto::Esp | Proto::Sctp) => return None,
            },
            inside: entry.inside,
            public: entry.public,
            remote: entry.remote,
            backend: side(&entry.to_backend)?,
            hop: side(&entry.to_hop)?,
            tcp: entry.tcp,
        })
    }
}

impl FastTable for Part {
    fn flows(&self) -> u32 {
        self.table.flows()
    }

    fn install(&mut self, number: u32, entry: &FastEntry) -> bool {
        let Some(entry) = self.entry(entry) else { return false };
        match self.table.install(number, &entry) {
            Ok(()) => true,
            Err(error) => {
                if !std::mem::replace(&mut self.refused, true) {
                    tracing::warn!(%error, "the kernel's fast path does not take a mapping: its packets go by the worker");
                }
                false
            }
        }
    }

    fn kill(&mut self, number: u32) {
        self.table.kill(number);
    }

    fn remove(&mut self, number: u32) {
        self.table.remove(number);
    }

    fn seen(&self, number: u32) -> FastBoth {
        self.table.seen(number)
    }

    fn raise(&mut self, backend: BackendId, made: u64) {
        self.table.raise(backend.0, made);
    }

    fn raise_all(&mut self, made: u64) {
        self.table.raise_all(made);
    }
}

/// Of an interface where it stands and is on.
const KERNEL: &str = "kernel";

/// How the fast path stands, for answers.
pub(super) fn fast_path(mode: FastMode, worker: &WorkerStats, guard: &GuardState) -> FastPath {
    let FastCounts { entries, room, installed, ended, cold, refused } = worker.fast;
    let fates = guard.fates.unwrap_or_default();
    let path = if guard.standing != GUARD_ATTACHED {
        format!("worker: the kernel's programs are {}", guard.standing)
    } else if room == 0 {
        "worker: data.cache_flows of node.toml is 0".to_owned()
    } else if mode == FastMode::Off {
        "worker: switched off, see `qnat cache on`".to_owned()
    } else {
        KERNEL.to_owned()
    };
    let interface = |name: &String| {
        let beyond = path == KERNEL && guard.far_ends.contains(name);
        if beyond { format!("{path}, far end") } else { path.clone() }
    };
    let [out, incoming] = guard.carried.map(|FastCarried { packets, octets }| Carried { packets, octets });
    FastPath {
        mode: label(mode).to_owned(),
        interfaces: worker.links.iter().map(|link| (link.name.clone(), interface(&link.name))).collect(),
        entries,
        room,
        installed,
        ended,
        cold,
        not_taken: refused,
        sent: fates.sent + fates.grace,
        out,
        incoming,
        sent_in_grace: fates.grace,
        dropped: fates.dropped,
        left: left(&fates)
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(why, count)| (why.to_owned(), count))
            .collect(),
    }
}

/// Frames that it left to the workers, by reason.
const fn left(fates: &FastFates) -> [(&'static str, u64); 7] {
    [
        ("unknown", fates.unknown),
        ("odd", fates.odd),
        ("dead", fates.dead),
        ("revised", fates.revised),
        ("stranger", fates.stranger),
        ("long", fates.long),
        ("lease", fates.lease),
    ]
}

/// Says what its metrics mean.
pub(super) fn describe() {
    metrics::describe_gauge!("qnat_fast_path_entries", "Mappings that the kernel carries.");
    metrics::describe_gauge!("qnat_fast_path_room", "As many as it has room for.");
    metrics::describe_counter!("qnat_fast_path_installed_total", "Mappings handed over to the kernel.");
    metrics::describe_counter!("qnat_fast_path_refused_total", "Mappings that it did not take, or had no room for.");
    metrics::describe_counter!(
        "qnat_fast_path_ended_total",
        "Mappings taken back from it. cold: nobody had used them lately, and others wanted room; other: all else."
    );
    metrics::describe_counter!(
        "qnat_fast_path_packets_total",
        "Frames that the kernel translated and sent, which no worker saw. Merged ones count once."
    );
    metrics::describe_counter!("qnat_fast_path_octets_total", "Octets of IP of those.");
    metrics::describe_counter!(
        "qnat_fast_path_grace_packets_total",
        "Part of those: after a lost lease, from the own MAC."
    );
    metrics::describe_counter!(
        "qnat_fast_path_misses_total",
        "Frames to a virtual MAC that the kernel left to a worker, by reason."
    );
    metrics::describe_counter!(
        "qnat_fast_path_drops_total",
        "Frames whose mapping or lease ended while the kernel translated them."
    );
}

/// Publishes them.
pub(super) fn publish(counts: &FastCounts, guard: &GuardState) {
    let FastCounts { entries, room, installed, ended, cold, refused } = *counts;
    metrics::gauge!("qnat_fast_path_entries").set(entries as f64);
    metrics::gauge!("qnat_fast_path_room").set(room as f64);
    metrics::counter!("qnat_fast_path_installed_total").absolute(installed);
    metrics::counter!("qnat_fast_path_refused_total").absolute(refused);
    for (why, count) in [("cold", cold), ("other", ended.saturating_sub(cold))] {
        metrics::counter!("qnat_fast_path_ended_total", "reason" => why).absolute(count);
    }
    let Some(fates) = &guard.fates else { return };
    for (direction, carried) in ["out", "in"].into_iter().zip(guard.carried) {
        metrics::counter!("qnat_fast_path_packets_total", "direction" => direction).absolute(carried.packets);
        metrics::counter!("qnat_fast_path_octets_total", "direction" => direction).absolute(carried.octets);
    }
    metrics::counter!("qnat_fast_path_grace_packets_total").absolute(fates.grace);
    metrics::counter!("qnat_fast_path_drops_total").absolute(fates.dropped);
    for (reason, count) in left(fates) {
        metrics::counter!("qnat_fast_path_misses_total", "reason" => reason).absolute(count);
    }
}

const fn label(mode: FastMode) -> &'static str {
    match mode {
        FastMode::Off => "off",
        FastMode::On => "on",
        FastMode::Eager => "eager",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_hears_once_that_the_switch_was_turned() {
        let switch = FastSwitch::new(FastMode::Eager);
        assert_eq!(switch.get(), FastMode::Eager);
        let mut end = FastEnd { switch: switch.clone(), told: FastMode::Eager, bindings: Arc::default() };
        assert_eq!(end.turned(), None);
        for mode in MODES {
            switch.set(mode);
            assert_eq!((end.turned(), end.turned(), end.mode()), (Some(mode), None, mode));
        }
    }
}
