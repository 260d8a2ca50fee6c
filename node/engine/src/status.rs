//! What a worker tells about itself: flows, ports and shards, for `qnat flows`, `qnat ports` and `qnat status`. Built on
//! demand, bounded, in a stable order; never on the packet path.

use std::net::Ipv4Addr;

use crate::apply::ApplyCounts;
use crate::event::NotServing;
use crate::flow::{Record, State};
use crate::ids::{BackendId, ControlIndex, FrontendId, LogIndex, NodeId, PortBlock, ShardId, Term};
use crate::ports::BlockUse;
use crate::record::{Endpoint, HoldClass, InsideKey, Proto};
use crate::shard::Shard;
pub use crate::takeover::Confirmed;
use crate::worker::Worker;

/// State of a mapping as this node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowState {
    /// Proposed, not committed.
    Opening,
    /// Committed.
    Live,
    /// Committed, and a close is proposed.
    Closing,
    /// Closed, its port held towards this remote.
    Held(HoldClass),
}

/// One mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowView {
    /// The shard.
    pub shard: ShardId,
    /// Whose lease the port comes from.
    pub backend: BackendId,
    /// Protocol.
    pub proto: Proto,
    /// The backend's end.
    pub inside: InsideKey,
    /// Frontend, its address if the snapshot has it, and public port.
    pub public: (FrontendId, Option<Ipv4Addr>, u16),
    /// The remote end.
    pub remote: Endpoint,
    /// State.
    pub state: FlowState,
    /// The entry that wrote it last; 0 while opening.
    pub written_at: LogIndex,
    /// Milliseconds since the last packet that counted, as far as this node knows.
    pub idle_ms: u64,
}

/// Ports of one backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortsView {
    /// The backend.
    pub backend: BackendId,
    /// Its home shard.
    pub shard: ShardId,
    /// Its lease with the use of each block: ports used, ports only held, live and held mappings.
    pub blocks: Vec<(PortBlock, BlockUse)>,
}

impl PortsView {
    /// All ports of the lease.
    #[must_use]
    pub fn leased(&self) -> u32 {
        self.blocks.iter().map(|(b, _)| u32::from(b.len)).sum()
    }

    /// Ports with a live mapping.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.blocks.iter().map(|(_, u)| u.used).sum()
    }

    /// Ports without a live mapping, but held towards some remote.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.blocks.iter().map(|(_, u)| u.held).sum()
    }
}

/// One shard's replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardStatus {
    /// The shard.
    pub shard: ShardId,
    /// Epoch of the replica.
    pub epoch: u32,
    /// Applied index.
    pub applied: LogIndex,
    /// Greatest control index of its entries.
    pub control_index: ControlIndex,
    /// The term that this node leads in.
    pub leading: Option<Term>,
    /// Serving, or why not; `None` if it does not lead or was not judged yet.
    pub serving: Option<Result<(), NotServing>>,
    /// Who owns it, as far as known, and in which term.
    pub owner: Option<(Term, Option<NodeId>)>,
    /// Live mappings.
    pub live: u32,
    /// Held mappings.
    pub held: u32,
    /// Free slots of the slab (I47).
    pub free: u32,
    /// Octets that its mappings, their indexes and holds take (I46).
    pub table_bytes: usize,
    /// Mappings on their way through the log.
    pub pending: usize,
    /// Whether a reply proved the takeover (M2).
    pub announced: Confirmed,
    /// What apply refused.
    pub counts: ApplyCounts,
}

impl Worker {
    /// Mappings of one shard or of all, at most `limit`: committed ones by slot, then those on their way.
    #[must_use]
    pub fn dump_flows(&self, now_ns: u64, only: Option<ShardId>, limit: usize) -> Vec<FlowView> {
        let mut out = Vec::new();
        for (id, shard) in self.replicas() {
            if only.is_some_and(|o| o != id) {
                continue;
            }
            let table = &shard.replica.table;
            let committed =
                (0..table.slots()).filter_map(|p| table.occupied(p)).map(|s| self.view(now_ns, id, table.record(s)));
            out.extend(committed.take(limit - out.len()));
            let opening = shard.overlay.opening().into_iter().map(|(flow, pending)| FlowView {
                shard: id,
                backend: pending.backend,
                proto: flow.proto,
                inside: flow.inside,
                public: (pending.public.frontend, self.address_of(pending.public.frontend), pending.public.port),
                remote: flow.remote,
                state: FlowState::Opening,
                written_at: LogIndex(0),
                idle_ms: now_ns.saturating_sub(pending.since_ns) / 1_000_000,
            });
            out.extend(opening.take(limit - out.len()));
        }
        out
    }

    fn view(&self, now_ns: u64, shard: ShardId, record: &Record) -> FlowView {
        FlowView {
            shard,
            backend: record.backend,
            proto: record.proto,
            inside: record.inside_key(),
            public: (record.frontend, self.address_of(record.frontend), record.public_port),
            remote: record.remote,
            state: match record.state {
                State::Held(class) => FlowState::Held(class),
                State::Live | State::Free if record.closing().is_some() => FlowState::Closing,
                State::Live | State::Free => FlowState::Live,
            },
            written_at: record.written_at,
            idle_ms: now_ns.saturating_sub(record.last_seen.ns()) / 1_000_000,
        }
    }

    /// Use of ports of every backend whose home shard has a replica here, in the order of their ids.
    #[must_use]
    pub fn dump_ports(&self) -> Vec<PortsView> {
        let Some(snapshot) = self.snapshot() else { return Vec::new() };
        let mut out: Vec<PortsView> = snapshot
            .backends
            .iter()
            .filter_map(|(id, backend)| {
                let usage = self.replica(backend.home)?.replica.table.usage();
                let blocks = backend.lease.iter().map(|b| (*b, usage.block(b))).collect();
                Some(PortsView { backend: *id, shard: backend.home, blocks })
            })
            .collect();
        out.sort_unstable_by_key(|v| v.backend);
        out
    }

    /// All replicas of this worker, in the order of their shards.
    #[must_use]
    pub fn shard_status(&self) -> Vec<ShardStatus> {
        self.replicas().map(|(id, shard)| self.status_of(id, shard)).collect()
    }

    /// Hash of a replica's replicated state (I22); walks and sorts the whole table. Nothing while a scan is replayed: its
    /// records may stem from entries that are still to come (F10).
    #[must_use]
    pub fn state_hash(&self, shard: ShardId) -> Option<u64> {
        self.replica(shard).filter(|s| s.replica.is_whole()).map(|s| s.replica.state_hash())
    }

    fn status_of(&self, id: ShardId, shard: &Shard) -> ShardStatus {
        let table = &shard.replica.table;
        ShardStatus {
            shard: id,
            epoch: shard.epoch,
            applied: shard.replica.meta.applied,
            control_index: shard.replica.meta.control_index,
            leading: shard.leadership.as_ref().map(|l| l.term),
            serving: shard.leadership.as_ref().and_then(|l| l.serving),
            owner: self.owner_of(id),
            live: table.live(),
            held: table.held(),
            free: table.free_slots(),
            table_bytes: table.bytes() + shard.replica.holds.bytes(),
            pending: shard.overlay.len(),
            announced: shard
                .leadership
                .as_ref()
                .and_then(|l| l.announcement)
                .map_or(Confirmed::No, |announcement| announcement.confirmed),
            counts: shard.counts(),
        }
    }
}
