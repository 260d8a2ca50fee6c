//! Hot path. A histogram of times with fixed buckets, four to an octave from 33 µs to 1.07 s: recording is an index and three
//! additions. It never allocates. Used by the worker for holds and commits, and by the flow half for failovers.

/// Buckets in an octave: the width of a bucket is at most a quarter of its lower end.
const PER_OCTAVE: u32 = 4;
/// The first bucket ends at 2^15 ns.
const FIRST_OCTAVE: u32 = 15;
/// The last bucket that ends, ends at 2^30 ns.
const END_OCTAVE: u32 = 30;
/// All buckets, with the first one (from 0) and the last one (without end).
pub const BUCKETS: usize = ((END_OCTAVE - FIRST_OCTAVE) * PER_OCTAVE) as usize + 2;

/// Times, counted by bucket. A bucket holds what is above its lower end and not above its upper end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], sum_ns: 0 }
    }
}

impl Histogram {
    /// Counts one time.
    pub fn record(&mut self, ns: u64) {
        self.counts[bucket_of(ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Counts what another one has counted.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// How many times were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum, exact.
    #[must_use]
    pub const fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// Upper end in nanoseconds (`None`: without end) and count of each bucket, in rising order.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        self.counts.iter().enumerate().map(|(bucket, count)| (end_ns(bucket), *count))
    }
}

fn bucket_of(ns: u64) -> usize {
    // An end belongs to the bucket below it, as Prometheus has it.
    let ns = ns.saturating_sub(1);
    let octave = ns.max(1).ilog2();
    if octave < FIRST_OCTAVE {
        return 0;
    }
    if octave >= END_OCTAVE {
        return BUCKETS - 1;
    }
    let part = usize::try_from((ns >> (octave - PER_OCTAVE.ilog2())) % u64::from(PER_OCTAVE)).expect("below 4");
    let octaves = usize::try_from((octave - FIRST_OCTAVE) * PER_OCTAVE).expect("small");
    1 + octaves + part
}

fn end_ns(bucket: usize) -> Option<u64> {
    let before = u32::try_from(bucket).expect("few buckets");
    if bucket == BUCKETS - 1 {
        return None;
    }
    let Some(place) = before.checked_sub(1) else { return Some(1 << FIRST_OCTAVE) };
    let (octave, part) = (FIRST_OCTAVE + place / PER_OCTAVE, place % PER_OCTAVE);
    Some((1 << octave) + (u64::from(part) + 1) * (1 << (octave - PER_OCTAVE.ilog2())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_falls_into_the_bucket_whose_ends_enclose_it() {
        let ends: Vec<Option<u64>> = (0..BUCKETS).map(end_ns).collect();
        assert!(ends.windows(2).all(|pair| pair[1].is_none_or(|end| Some(end) > pair[0])), "{ends:?}");
        let around = ends.iter().flatten().flat_map(|end| [end - 1, *end, end + 1]);
        for ns in around.chain([0, 1, 1 << 14, 1 << 31, u64::MAX]) {
            let bucket = bucket_of(ns);
            assert!(ends[bucket].is_none_or(|end| ns <= end), "{ns} is above bucket {bucket}");
            assert!(bucket == 0 || ends[bucket - 1].is_some_and(|end| ns > end), "{ns} is below bucket {bucket}");
        }
    }

    #[test]
    fn sum_and_count_are_exact() {
        let mut h = Histogram::default();
        for ns in [10, 40_000, 40_000, 3_000_000_000] {
            h.record(ns);
        }
        assert_eq!((h.count(), h.sum_ns()), (4, 3_000_080_010));
        assert_eq!(h.buckets().filter(|(_, n)| *n > 0).map(|(_, n)| n).collect::<Vec<_>>(), [1, 2, 1]);
    }
}
