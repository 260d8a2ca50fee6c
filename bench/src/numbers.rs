//! Arithmetic of the measurements: percentiles within buckets, medians with their spread. Pure.

use qnat::answers::HistogramCounts;
use serde::{Deserialize, Serialize};

/// A histogram as `Counters` of the admin API tells it: upper end in nanoseconds (`None`: without end) and count of each
/// bucket that is not empty, in rising order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// Upper ends and counts.
    pub buckets: Vec<(Option<u64>, u64)>,
    /// Sum of all times.
    pub sum_ns: u64,
}

/// A percentile from buckets: interpolated, and between which ends it lies for certain.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentile {
    /// Interpolated evenly within its bucket, microseconds.
    pub us: f64,
    /// Lower end of the bucket.
    pub above_us: f64,
    /// Upper end of the bucket; `None` in the last one.
    pub below_us: Option<f64>,
}

impl From<HistogramCounts> for Buckets {
    fn from(told: HistogramCounts) -> Self {
        Self { buckets: told.buckets_ns, sum_ns: told.sum_ns }
    }
}

impl Buckets {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |end| earlier.buckets.iter().find(|(e, _)| *e == end).map_or(0, |(_, n)| *n);
        let counted = self.buckets.iter().map(|(end, n)| (*end, n.saturating_sub(before(*end))));
        Self { buckets: counted.filter(|(_, n)| *n > 0).collect(), sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns) }
    }

    /// All counted times of several histograms.
    #[must_use]
    pub fn merged(all: &[Self]) -> Self {
        let mut sum = Self::default();
        for one in all {
            sum.sum_ns += one.sum_ns;
            for (end, n) in &one.buckets {
                match sum.buckets.iter_mut().find(|(e, _)| e == end) {
                    Some((_, known)) => *known += n,
                    None => sum.buckets.push((*end, *n)),
                }
            }
        }
        sum.buckets.sort_by_key(|(end, _)| end.unwrap_or(u64::MAX));
        sum
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, n)| n).sum()
    }

    /// The percentile `p` (0 to 100); `None` without times.
    #[must_use]
    pub fn percentile(&self, p: f64) -> Option<Percentile> {
        let wanted = (self.count() as f64 * p / 100.0).max(1.0);
        let mut below = 0_u64;
        for (end, n) in &self.buckets {
            if below as f64 + *n as f64 >= wanted {
                let above = lower_end(*end);
                let part = (wanted - below as f64) / *n as f64;
                let width = end.map_or(0, |end| end - above) as f64;
                return Some(Percentile {
                    us: (above as f64 + width * part) / 1e3,
                    above_us: above as f64 / 1e3,
                    below_us: end.map(|end| end as f64 / 1e3),
                });
            }
            below += n;
        }
        None
    }
}

/// Lower end of the member's bucket that ends at `end`: its buckets are the quarters of each octave from 2^15 to 2^30 ns,
/// with one before and one after them.
fn lower_end(end: Option<u64>) -> u64 {
    match end {
        None => 1 << 30,
        Some(end) if end <= 1 << 15 => 0,
        Some(end) => end - (1 << ((end - 1).ilog2() - 2)),
    }
}

/// Median, least and greatest of a few values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
}

impl Spread {
    /// Of `values`, without those that are no numbers; `None` if none is left.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, min, max })
    }
}

/// The greatest value of the curve's points `(offered, delivered)` of which less than `loss` of the offered was lost.
#[must_use]
pub fn loss_free(curve: &[(f64, f64)], loss: f64) -> f64 {
    let whole = curve.iter().filter(|(offered, delivered)| *offered > 0.0 && *delivered >= offered * (1.0 - loss));
    whole.map(|(_, delivered)| *delivered).fold(0.0, f64::max)
}

/// With a comma before each three digits.
#[must_use]
pub fn grouped(count: u32) -> String {
    let digits = count.to_string();
    let comma = |at: usize| if at > 0 && (digits.len() - at).is_multiple_of(3) { "," } else { "" };
    digits.char_indices().map(|(at, digit)| format!("{}{digit}", comma(at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(pairs: &[(u64, u64)]) -> Buckets {
        Buckets { buckets: pairs.iter().map(|(end, n)| (Some(*end), *n)).collect(), sum_ns: 0 }
    }

    #[test]
    fn a_percentile_is_interpolated_within_its_bucket() {
        // 32768 to 40960 ns, and 65536 to 81920 ns.
        let h = buckets(&[(40_960, 50), (81_920, 50)]);
        let p25 = h.percentile(25.0).expect("times");
        assert_eq!((p25.us, p25.above_us, p25.below_us), (36.864, 32.768, Some(40.96)));
        assert_eq!(h.percentile(50.0).expect("times").us, 40.96);
        assert_eq!(h.percentile(100.0).expect("times").us, 81.92);
        assert_eq!(Buckets::default().percentile(50.0), None);
        let endless = Buckets { buckets: vec![(None, 1)], sum_ns: 0 };
        assert_eq!(endless.percentile(99.0).expect("times").below_us, None);
    }

    #[test]
    fn lower_ends_are_the_upper_ends_of_the_bucket_before() {
        let mut histogram = vec![32_768_u64];
        for octave in 15..30_u32 {
            histogram.extend((1..=4).map(|part| (1_u64 << octave) + part * (1 << (octave - 2))));
        }
        for pair in histogram.windows(2) {
            assert_eq!(lower_end(Some(pair[1])), pair[0]);
        }
        assert_eq!((lower_end(Some(32_768)), lower_end(None)), (0, 1 << 30));
    }

    #[test]
    fn differences_and_sums_keep_the_buckets_apart() {
        let (earlier, later) = (buckets(&[(40_960, 3)]), buckets(&[(32_768, 1), (40_960, 5), (49_152, 2)]));
        assert_eq!(later.since(&earlier), buckets(&[(32_768, 1), (40_960, 2), (49_152, 2)]));
        assert_eq!(Buckets::merged(&[earlier, later]).count(), 11);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied()).expect("values");
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(spread(&[4.0, 1.0, f64::NAN, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_curve_past_its_peak_does_not_count_as_loss_free() {
        let curve = [(10.0, 10.0), (20.0, 19.95), (40.0, 30.0), (80.0, 12.0)];
        assert_eq!(loss_free(&curve, 0.005), 19.95);
        assert_eq!(loss_free(&[(5.0, 1.0)], 0.005), 0.0);
    }

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!([1, 999, 1_000, 10_000_000].map(grouped), ["1", "999", "1,000", "10,000,000"]);
    }
}
