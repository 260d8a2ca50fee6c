//! One round of packets: of known flows, and of new ones.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use engine::event::Verdict;
use engine::record::Proto;
use words::SplitMix;

use super::bed::{Always, Bed, Tuple};
use super::frames::Batch;
use crate::numbers::Spread;

/// Frames that a worker handles at once, about.
pub const BATCH: usize = 64;
/// Batches of one round.
const BATCHES: usize = 2_000;
/// New flows of one round, in batches.
const NEW_BATCHES: usize = 100;

/// A packet of each flow, which is judged at length: later ones are what is measured. In a table that is large against what a
/// round draws, most packets would be first ones otherwise.
pub(super) fn decide_all(bed: &mut Bed, batch: &mut Batch, (flows, proto): (u32, Proto)) -> Result<()> {
    for first in (0..flows).step_by(BATCH) {
        batch.fill(proto, (first..).map(|n| Tuple::of(n % flows)));
        look_ahead(bed, batch);
        anyhow::ensure!(translate(bed, batch) == BATCH, "a known flow's packet did not pass");
    }
    Ok(())
}

/// One round of packets of known flows drawn at random: nanoseconds per packet, and of these what it takes to look ahead.
pub(super) fn known(
    bed: &mut Bed,
    batch: &mut Batch,
    (flows, proto): (u32, Proto),
    draw: &mut Draw,
) -> Result<(f64, f64)> {
    let (mut times, mut ahead) = (Vec::with_capacity(BATCHES), Vec::with_capacity(BATCHES));
    for _ in 0..BATCHES {
        batch.fill(proto, (0..BATCH).map(|_| Tuple::of(draw.below(flows))));
        let begun = Instant::now();
        look_ahead(bed, batch);
        ahead.push(begun.elapsed());
        let sent = translate(bed, batch);
        times.push(begun.elapsed());
        anyhow::ensure!(sent == BATCH, "a known flow's packet did not pass");
    }
    Ok((per_frame(times)?, per_frame(ahead)?))
}

/// One round of new flows, from the `next`th on: nanoseconds per flow.
pub(super) fn new_flows(bed: &mut Bed, batch: &mut Batch, next: &mut u32) -> Result<f64> {
    let mut times = Vec::with_capacity(NEW_BATCHES);
    for _ in 0..NEW_BATCHES {
        batch.fill(Proto::Udp, (0..).map(|n| Tuple::of(*next + n)));
        *next += u32::try_from(BATCH).context("small")?;
        let begun = Instant::now();
        look_ahead(bed, batch);
        let passed = translate(bed, batch);
        let left = bed.drain();
        times.push(begun.elapsed());
        anyhow::ensure!((passed, left) == (0, u32::try_from(BATCH)?), "a new flow's packet waits for its commit");
    }
    per_frame(times)
}

/// Lets the engine look at a batch, as the worker's thread does before it hands it over.
pub fn look_ahead(bed: &mut Bed, batch: &Batch) {
    for (link, frame) in &batch.frames {
        bed.worker.look_ahead(*link, frame);
    }
    bed.worker.fetch();
}

/// Hands a batch to the engine. Returns how many frames are to be sent.
pub fn translate(bed: &mut Bed, batch: &mut Batch) -> usize {
    let Batch { frames, meta } = batch;
    let mut sent = 0;
    for (link, frame) in frames {
        let verdict = bed.worker.handle_frame(bed.now_ns, &Always, *link, meta, frame);
        sent += usize::from(matches!(verdict, Verdict::Transmit { .. }));
    }
    sent
}

/// Nanoseconds per frame of the middle one of a round's batches: whatever else runs on the machine interrupts a few of them.
fn per_frame(times: Vec<Duration>) -> Result<f64> {
    let batch = Spread::of(times.into_iter().map(|time| time.as_secs_f64())).context("at least one batch")?;
    Ok(batch.median * 1e9 / BATCH as f64)
}

/// Numbers at random, the same in every run.
#[derive(Debug)]
pub struct Draw(SplitMix);

impl Draw {
    /// Those of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(SplitMix::new(seed))
    }

    /// A number below `end`.
    ///
    /// # Panics
    /// Never.
    pub fn below(&mut self, end: u32) -> u32 {
        u32::try_from(((self.0.draw() >> 32) * u64::from(end)) >> 32).expect("below a u32")
    }
}

/// A median with its spread, in whole numbers.
pub(super) fn whole(s: &Spread) -> String {
    format!("{:.0} ({:.0}–{:.0})", s.median, s.min, s.max)
}
