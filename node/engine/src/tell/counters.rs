//! The worker's own counters. Plain numbers, one set per worker; the daemon reads and sums them.

use crate::event::DropReason;
use crate::record::Proto;
use crate::tell::histogram::Histogram;

/// Mappings of one protocol that this worker, as owner, was asked for. Those still on their way are
/// `pending - successful - failed_later`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnatCounts {
    /// A port was found and the mapping proposed.
    pub pending: u64,
    /// Committed.
    pub successful: u64,
    /// Refused at once: no port, no room to hold the packet, table full.
    pub failed: u64,
    /// Proposed, and then refused or lost with the term.
    pub failed_later: u64,
    /// Closes committed.
    pub closed: u64,
}

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
    /// Frames that ended here by purpose (ARP, answers to probes).
    pub absorbed: u64,
    /// Frames that wait now: for a commit, for a neighbour, or to be polled or taken.
    pub parked: u64,
    /// Received frames that were forwarded to another node; part of `transmitted`.
    pub forwarded: u64,
    /// ARP messages of strangers in the name of an address of ours; part of `absorbed`.
    pub claims: u64,
    /// How often it was decided what is done to the packets of a mapping: at first, and when the configuration of its ends
    /// changed.
    pub decided: u64,
    /// First packets by the time that they were held for their commit.
    pub hold: Histogram,
    /// Batches of this owner by the time from the proposal to the commit, both as the worker sees them.
    pub commit: Histogram,
    snat: [SnatCounts; Proto::ALL.len()],
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
            claims: 0,
            decided: 0,
            hold: Histogram::default(),
            commit: Histogram::default(),
            snat: [SnatCounts::default(); Proto::ALL.len()],
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

    /// Counts what another worker of the same member has counted.
    pub fn add(&mut self, other: &Self) {
        let Self { received, originated, transmitted, absorbed, parked, forwarded, claims, decided, .. } = other;
        self.received += received;
        self.originated += originated;
        self.transmitted += transmitted;
        self.absorbed += absorbed;
        self.parked += parked;
        self.forwarded += forwarded;
        self.claims += claims;
        self.decided += decided;
        self.hold.add(&other.hold);
        self.commit.add(&other.commit);
        for (counts, more) in self.snat.iter_mut().zip(&other.snat) {
            counts.pending += more.pending;
            counts.successful += more.successful;
            counts.failed += more.failed;
            counts.failed_later += more.failed_later;
            counts.closed += more.closed;
        }
        for (count, more) in self.drops.iter_mut().zip(&other.drops) {
            *count += more;
        }
    }

    /// Mappings of one protocol.
    #[must_use]
    pub const fn snat(&self, proto: Proto) -> &SnatCounts {
        &self.snat[proto.index()]
    }

    pub(crate) const fn snat_mut(&mut self, proto: Proto) -> &mut SnatCounts {
        &mut self.snat[proto.index()]
    }

    /// A packet asked for a mapping.
    pub(crate) const fn attempted<T>(&mut self, proto: Proto, opened: &Result<T, DropReason>) {
        let counts = self.snat_mut(proto);
        match opened {
            Ok(_) => counts.pending += 1,
            Err(_) => counts.failed += 1,
        }
    }
}
