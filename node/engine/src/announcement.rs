//! What a takeover announces, and when (M2).

use std::net::Ipv4Addr;

use words::time::MS;

use crate::ids::Mac;
use crate::wire::{ArpOp, set_ethernet};

/// Pause between announcements at first, and later.
const FAST_NS: u64 = 100_000_000;
const SLOW_NS: u64 = 1_000_000_000;
/// Announcing fast lasts this much longer than the grace of a predecessor.
const FAST_EXTRA_MS: u64 = 2_000;
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

/// The variable part of an ARP frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArpFrame {
    pub(crate) op: ArpOp,
    pub(crate) eth_dst: Mac,
    pub(crate) sender: (Mac, Ipv4Addr),
    pub(crate) target: (Mac, Ipv4Addr),
}

/// The frame that no host reads.
pub(crate) fn announcement(vmac: Mac) -> [u8; 60] {
    let mut frame = [0; 60];
    set_ethernet(&mut frame, vmac, Mac::BROADCAST);
    frame[12..14].copy_from_slice(&ANNOUNCEMENT_ETHER_TYPE);
    frame[14..30].copy_from_slice(ANNOUNCEMENT);
    frame
}
