//! Which of a member's shards a worker has. Several workers share a member's shards as several members share a cluster's:
//! each shard has one of them, which alone judges its packets and writes its table.

use crate::ShardId;

/// Most workers that a member may have.
pub const WORKERS_MAX: u16 = 16;

/// One worker's share: shard `s` is with the worker of number `s mod workers`, whoever owns it and as long as it lives. Ids of
/// shards are the lowest free ones, so the shares are even.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    worker: u16,
    workers: u16,
}

impl Share {
    /// Everything: that of a member's only worker.
    pub const WHOLE: Self = Self { worker: 0, workers: 1 };

    /// The shares of so many workers, in the order of their numbers.
    ///
    /// # Panics
    /// If there are none, or more than [`WORKERS_MAX`].
    pub fn all(workers: u16) -> impl Iterator<Item = Self> {
        assert!((1..=WORKERS_MAX).contains(&workers), "a member has 1 to {WORKERS_MAX} workers");
        (0..workers).map(move |worker| Self { worker, workers })
    }

    /// The worker's number, from 0.
    #[inline]
    #[must_use]
    pub const fn worker(self) -> u16 {
        self.worker
    }

    /// How many there are.
    #[inline]
    #[must_use]
    pub const fn workers(self) -> u16 {
        self.workers
    }

    /// The number of the worker that has a shard.
    #[inline]
    #[must_use]
    pub const fn worker_of(self, shard: ShardId) -> u16 {
        shard.0 % self.workers
    }

    /// Whether a shard is in it.
    #[inline]
    #[must_use]
    pub const fn has(self, shard: ShardId) -> bool {
        self.worker_of(shard) == self.worker
    }

    /// Whether it is the first worker's, which does what is to be done once for the member.
    #[inline]
    #[must_use]
    pub const fn is_first(self) -> bool {
        self.worker == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_is_in_exactly_one_share_and_the_only_worker_has_all() {
        for workers in 1..=WORKERS_MAX {
            for shard in [0, 1, 2, 63, 1000, u16::MAX].map(ShardId) {
                let with: Vec<Share> = Share::all(workers).filter(|share| share.has(shard)).collect();
                let [one] = with[..] else { panic!("{shard:?} of {workers} is with {with:?}") };
                assert_eq!(one.worker(), one.worker_of(shard));
            }
        }
        assert!((0..=u16::MAX).map(ShardId).all(|shard| Share::WHOLE.has(shard)));
        assert_eq!(Share::all(1).collect::<Vec<_>>(), [Share::WHOLE]);
    }

    #[test]
    fn shards_that_follow_each_other_are_spread_evenly() {
        let counts: Vec<usize> =
            Share::all(3).map(|share| (0..64).map(ShardId).filter(|shard| share.has(*shard)).count()).collect();
        assert_eq!(counts, [22, 21, 21]);
    }
}
