//! Announcing a takeover (M2): once serving begins, frames from the shard's vMAC on both sides make the switches relearn
//! its port; neighbour caches need no change. Outside a gratuitous ARP per frontend; inside a frame that no host reads (IEEE
//! 802, local experimental EtherType): a gratuitous ARP for the gateway address would capture other shards' backends, and a
//! probe would claim the address that it asks for (RFC 5227). Until a reply has come to the vMAC, a neighbour on each side is
//! asked for one.

use std::net::Ipv4Addr;

use crate::event::Authority;
use crate::ids::{Mac, ShardId, Side, Term};
use crate::snapshot::Snapshot;
use crate::wire::{ArpOp, set_ethernet};
use crate::worker::Worker;

/// Pause between announcements at first, and later.
const FAST_NS: u64 = 100_000_000;
const SLOW_NS: u64 = 1_000_000_000;
/// Announcing fast lasts this much longer than the grace of a predecessor.
const FAST_EXTRA_MS: u64 = 2_000;
const MS: u64 = 1_000_000;
/// Local experimental EtherType 1 (IEEE 802-2014, table 7).
const ANNOUNCEMENT_ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
/// Says to who looks at a capture whose frame it is.
const ANNOUNCEMENT: &[u8; 16] = b"qnat: I am here.";

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
        self.queue_own(now_ns, Side::Inside, authority, &announcement(vmac));
        let lead = self.replica(shard).and_then(|s| s.leadership.as_ref());
        if lead.and_then(|l| l.announcement).is_some_and(|a| a.confirmed == Confirmed::Yes) {
            return;
        }
        let backend = self.first_backend.get(&shard).map(|ip| (Side::Inside, *ip));
        for (side, ip) in backend.into_iter().chain(snapshot.outside.next_hop.map(|ip| (Side::Outside, ip))) {
            if let Some(mac) = self.neighbours.last_known(side, ip) {
                self.ask(now_ns, snapshot, side, authority, ip, mac);
            }
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

fn announcement(vmac: Mac) -> [u8; 60] {
    let mut frame = [0; 60];
    set_ethernet(&mut frame, vmac, Mac::BROADCAST);
    frame[12..14].copy_from_slice(&ANNOUNCEMENT_ETHER_TYPE);
    frame[14..30].copy_from_slice(ANNOUNCEMENT);
    frame
}
