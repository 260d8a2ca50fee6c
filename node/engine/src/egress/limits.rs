//! How much the gateway itself may say: in all, and to one receiver (RFC 1812 4.3.2.8).

use std::hash::BuildHasher;
use std::net::Ipv4Addr;

use foldhash::fast::FixedState;
use words::time::SECOND_NS;

use crate::ids::Link;

/// In all, and to one receiver: per second, and at once.
const ALL: (u64, u64) = (1_000, 200);
const EACH: (u64, u64) = (50, 20);
/// The same of corrections of a backend's gateway.
const ALL_CORRECTIONS: (u64, u64) = (1_000, 200);
const EACH_CORRECTION: (u64, u64) = (1, 2);
/// Receivers are told apart by so many buckets.
const BUCKETS: usize = 256;

/// A token bucket, as the time at which it will be full again.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_ns: u64,
}

impl Bucket {
    /// When it will be full once a token is taken now; `None`: it is empty.
    fn after(self, now_ns: u64, (per_second, at_once): (u64, u64)) -> Option<u64> {
        let interval = SECOND_NS / per_second;
        let full = self.full_ns.max(now_ns) + interval;
        (full - now_ns <= interval * at_once).then_some(full)
    }
}

/// How much may be said.
#[derive(Debug)]
pub(crate) struct Limits {
    all: Bucket,
    each: Vec<Bucket>,
    rates: [(u64, u64); 2],
    hasher: FixedState,
}

impl Limits {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with_rates(seed, [ALL, EACH])
    }

    /// For what backends are told about their gateway.
    pub(crate) fn corrections(seed: u64) -> Self {
        Self::with_rates(seed, [ALL_CORRECTIONS, EACH_CORRECTION])
    }

    fn with_rates(seed: u64, rates: [(u64, u64); 2]) -> Self {
        let each = vec![Bucket::default(); BUCKETS];
        Self { all: Bucket::default(), each, rates, hasher: FixedState::with_seed(seed) }
    }

    pub(crate) fn take(&mut self, now_ns: u64, (link, to): (Link, Ipv4Addr)) -> bool {
        let place = usize::try_from(self.hasher.hash_one((link, to)) % BUCKETS as u64).expect("small");
        let (all, each) = (self.all.after(now_ns, self.rates[0]), self.each[place].after(now_ns, self.rates[1]));
        let (Some(all), Some(each)) = (all, each) else { return false };
        self.all.full_ns = all;
        self.each[place].full_ns = each;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

    #[test]
    fn one_receiver_s_flood_leaves_something_to_say_to_others() {
        let mut limits = Limits::new(3);
        assert_eq!((0..1000).filter(|_| limits.take(0, (Link::Outside, A))).count(), 20);
        assert_eq!((0..1000).filter(|_| limits.take(0, (Link::Outside, B))).count(), 20);
        let said = (1..=10_000).filter(|ms| limits.take(ms * 1_000_000, (Link::Outside, A))).count();
        assert_eq!(said, 500, "fifty a second, the first ones are gone");
    }

    #[test]
    fn in_all_no_more_is_said_than_a_thousand_a_second() {
        let mut limits = Limits::new(3);
        let all = (0..2000_u32).filter(|n| limits.take(0, (Link::Outside, Ipv4Addr::from(0x0a00_0000 + n)))).count();
        assert_eq!(all, 200);
    }
}
