//! Hot path. IP identifications of datagrams that may be fragmented on their way (R20, RFC 6864): many backends share one
//! public address, and two datagrams of one identification would be put together wrongly at their receiver.

use std::hash::BuildHasher;
use std::net::Ipv4Addr;

use foldhash::fast::FixedState;

/// Counters; pairs of addresses share them. A power of two.
const COUNTERS: usize = 1024;

/// Running numbers by source, destination and protocol, so that nobody learns how much is sent to others.
#[derive(Debug)]
pub(crate) struct Identifications {
    next: Vec<u16>,
    hasher: FixedState,
}

impl Identifications {
    pub(crate) fn new(seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed);
        let start = |place: usize| u16::try_from(hasher.hash_one(place) >> 48).expect("16 bits remain");
        Self { next: (0..COUNTERS).map(start).collect(), hasher }
    }

    /// The first of `count` numbers in a row: a super-packet needs one for each of its segments.
    pub(crate) fn take(&mut self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, count: u16) -> u16 {
        let hash = self.hasher.hash_one((u32::from(src), u32::from(dst), protocol));
        let place = usize::try_from(hash % COUNTERS as u64).expect("small");
        let first = self.next[place];
        self.next[place] = first.wrapping_add(count);
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_pair_do_not_repeat_within_65536() {
        let (a, b) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(198, 51, 100, 1));
        let mut ids = Identifications::new(5);
        let mut seen = std::collections::BTreeSet::new();
        assert!((0..=u16::MAX).all(|_| seen.insert(ids.take(a, b, 17, 1))));
        let first = ids.take(a, b, 17, 44);
        assert_eq!(ids.take(a, b, 17, 1), first.wrapping_add(44), "a super-packet's segments have theirs");
        assert_ne!(Identifications::new(6).take(a, b, 17, 1), first, "not the same start in every life");
    }
}
