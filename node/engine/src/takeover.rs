//! Announcing a takeover (M2): once serving begins, frames from the shard's vMAC on both sides make the switches relearn
//! its port; neighbour caches need no change. Outside a gratuitous ARP per frontend; inside an ARP probe, which updates no
//! cache, since a gratuitous ARP for the gateway address would capture other shards' backends.

use std::net::Ipv4Addr;

use crate::event::Authority;
use crate::ids::{Mac, ShardId, Side, Term};
use crate::snapshot::Snapshot;
use crate::wire::ArpOp;
use crate::worker::Worker;

/// Pause between announcements at first, and later.
const FAST_NS: u64 = 100_000_000;
const SLOW_NS: u64 = 1_000_000_000;
/// Announcing fast lasts this much longer than the grace of a predecessor.
const FAST_EXTRA_MS: u64 = 2_000;
const MS: u64 = 1_000_000;

/// When to announce next, and whether anybody answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Announcement {
    next_ns: u64,
    fast_until_ns: u64,
    /// A reply to the vMAC was seen since: traffic comes here.
    pub(crate) confirmed: Confirmed,
}

/// Whether a reply has shown that frames to the vMAC arrive here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Confirmed {
    /// Not yet.
    #[default]
    No,
    /// Seen.
    Yes,
}

impl Announcement {
    pub(crate) fn begin(now_ns: u64, grace_ms: u32) -> Self {
        let fast = (u64::from(grace_ms) + FAST_EXTRA_MS) * MS;
        Self { next_ns: now_ns, fast_until_ns: now_ns.saturating_add(fast), confirmed: Confirmed::No }
    }

    pub(crate) const fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Whether to announce now; schedules the next time. What was missed is skipped.
    pub(crate) fn due(&mut self, now_ns: u64) -> bool {
        if now_ns < self.next_ns {
            return false;
        }
        self.next_ns = now_ns + if now_ns < self.fast_until_ns { FAST_NS } else { SLOW_NS };
        true
    }
}

impl Worker {
    /// Queues one round of announcements of a shard that serves in `term`.
    pub(crate) fn announce(&mut self, now_ns: u64, snapshot: &Snapshot, shard: ShardId, term: Term) {
        let vmac = Mac::of_shard(shard);
        let authority = Authority::Lease { shard, term };
        let Some(config) = snapshot.shards.get(&shard) else { return };
        for frontend in &config.frontends {
            if let Some(frontend) = snapshot.frontends.get(frontend) {
                let frame = ArpFrame {
                    op: ArpOp::Request,
                    eth_dst: Mac::BROADCAST,
                    sender: (vmac, frontend.ip),
                    target: (Mac::default(), frontend.ip),
                };
                self.queue_arp(now_ns, Side::Outside, authority, vmac, frame);
            }
        }
        if let Some(backend) = self.first_backend.get(&shard).copied() {
            self.queue_arp(now_ns, Side::Inside, authority, vmac, ArpFrame::probe(vmac, Mac::BROADCAST, backend));
        }
    }
}

/// The variable part of an ARP frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArpFrame {
    pub(crate) op: ArpOp,
    pub(crate) eth_dst: Mac,
    pub(crate) sender: (Mac, Ipv4Addr),
    pub(crate) target: (Mac, Ipv4Addr),
}

impl ArpFrame {
    /// A probe (RFC 5227): a question that no cache learns from.
    pub(crate) const fn probe(vmac: Mac, eth_dst: Mac, target: Ipv4Addr) -> Self {
        Self { op: ArpOp::Request, eth_dst, sender: (vmac, Ipv4Addr::UNSPECIFIED), target: (Mac([0; 6]), target) }
    }
}
