//! The worker's own counters. Plain numbers, one set per worker; the daemon reads and sums them.

use crate::event::DropReason;

/// Buckets of the hold histogram: bucket `i` counts times in `[2^i, 2^(i+1))` nanoseconds, the last one all above.
pub const HOLD_BUCKETS: usize = 32;

/// What became of all frames. At any moment
/// `received + originated == transmitted + absorbed + parked + Σ drops` (I51).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Frames handed in.
    pub received: u64,
    /// Frames that the worker made itself (ARP) and handed out or had to drop.
    pub originated: u64,
    /// Frames handed out for transmission, minus those that the caller reported as not sent.
    pub transmitted: u64,
    /// Frames that ended here by purpose (ARP).
    pub absorbed: u64,
    /// Frames that wait now: for a commit, for a neighbour, or to be polled.
    pub parked: u64,
    /// Received frames that were forwarded to another node; part of `transmitted`.
    pub forwarded: u64,
    /// First packets by the time that their commit took.
    pub hold_ns_log2: [u64; HOLD_BUCKETS],
    drops: [u64; DropReason::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            received: 0,
            originated: 0,
            transmitted: 0,
            absorbed: 0,
            parked: 0,
            forwarded: 0,
            hold_ns_log2: [0; HOLD_BUCKETS],
            drops: [0; DropReason::ALL.len()],
        }
    }
}

impl Counters {
    /// Frames dropped for `reason`.
    #[must_use]
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// All drops.
    #[must_use]
    pub fn dropped_in_all(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Whether every frame is accounted for (I51).
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.received + self.originated == self.transmitted + self.absorbed + self.parked + self.dropped_in_all()
    }

    pub(crate) const fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    pub(crate) const fn drop_parked(&mut self, reason: DropReason) {
        self.parked -= 1;
        self.drop(reason);
    }

    pub(crate) fn held_for(&mut self, ns: u64) {
        let bucket = usize::try_from(ns.max(1).ilog2()).expect("below 64").min(HOLD_BUCKETS - 1);
        self.hold_ns_log2[bucket] += 1;
    }
}
