//! `qnat-bench workers`: what a second worker is worth to the engines alone, without sockets, rings and peers: two shards with
//! frames made in memory, judged by one thread in turn or by two at once, each with a processor of its own. Rounds alternate.
//!
//! What counts is the time inside the engine: writing the frames is left out. A thread that was kept from running is slower by
//! that, and `ran_percent` shows it.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use comfy_table::{Table, presets};
use engine::record::Proto;
use netio::thread::{allowed_cpus, pin_current};
use serde::{Deserialize, Serialize};

use crate::engine::bed::{Bed, Tuple};
use crate::engine::frames::{Batch, Size, Way};
use crate::engine::rounds::{BATCH, Draw, look_ahead, translate};
use crate::machine::{self, Machine, cpu_ns};
use crate::numbers::Spread;
use crate::printing::Printing;

/// Shards, and the most threads that judge them.
const SHARDS: usize = 2;
/// Batches of known flows of a round, for each shard.
const KNOWN_BATCHES: usize = 6_000;
/// Batches of new flows.
const NEW_BATCHES: usize = 400;

/// Arguments of `qnat-bench workers`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Flows in each shard's table.
    #[arg(long, default_value_t = 100_000)]
    flows: u32,
    /// How often each is measured.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(5..=15))]
    rounds: u32,
    /// What becomes of the result.
    #[command(flatten)]
    pub printing: Printing,
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Packets of known flows, drawn at random, both ways.
    Known,
    /// First packets, from packet to packet.
    New,
}

/// One kind of work by one number of threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkersRow {
    /// Which.
    pub work: Work,
    /// Threads.
    pub workers: usize,
    /// Packets per second, of all threads together.
    pub per_second: Spread,
    /// Share of its time in the engine that a thread ran, in percent.
    pub ran_percent: Spread,
}

/// What `workers` measured.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkersResult {
    /// Where and when.
    pub machine: Machine,
    /// Kind of the processors.
    pub processor: String,
    /// Share of the time that the host machine took from this one meanwhile, in percent.
    pub stolen_percent: f64,
    /// Flows in each shard's table.
    pub flows: u32,
    /// Rounds.
    pub rounds: u32,
    /// By work and number of threads.
    pub rows: Vec<WorkersRow>,
    /// Two threads by one in the same round: known flows, new ones.
    pub gain: [Spread; 2],
}

/// A shard with its engine and frames.
struct Hand {
    bed: Bed,
    batch: Batch,
    draw: Draw,
    /// Flows that were there at first: of later ones the engine has chosen the ports.
    known: u32,
    next: u32,
}

/// What a thread did.
#[derive(Clone, Copy, Default)]
struct Done {
    packets: usize,
    took: Duration,
    ran: Duration,
}

/// Measures.
///
/// # Errors
/// If there are fewer than two processors, a packet does not pass, or `/proc` cannot be read.
pub fn run(args: &Args) -> Result<WorkersResult> {
    let cpus = allowed_cpus()?;
    ensure!(cpus.len() >= SHARDS, "{} processors: two threads need one each", cpus.len());
    let before = machine::stolen()?;
    let mut hands: Vec<Hand> = (0..SHARDS).map(|_| Hand::new(args.flows)).collect();
    let kinds = [Work::Known, Work::New].map(|work| [1, 2].map(|workers| (work, workers)));
    let mut values: [[Vec<(f64, f64)>; 2]; 2] = Default::default();
    for round in 0..args.rounds {
        for (kinds, values) in kinds.iter().zip(&mut values) {
            // Who begins changes, so that what the machine does meanwhile falls on both.
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for at in order {
                let (work, workers) = kinds[at];
                values[at].push(measure(&mut hands, &cpus, work, workers)?);
            }
        }
    }
    let after = machine::stolen()?;
    let spread = |all: &[f64]| Spread::of(all.iter().copied()).context("at least five rounds");
    let mut rows = Vec::new();
    for (kinds, values) in kinds.iter().zip(&values) {
        for ((work, workers), values) in kinds.iter().zip(values) {
            let (per_second, ran): (Vec<f64>, Vec<f64>) = values.iter().copied().unzip();
            let (per_second, ran_percent) = (spread(&per_second)?, spread(&ran)?);
            rows.push(WorkersRow { work: *work, workers: *workers, per_second, ran_percent });
        }
    }
    let gain = |[one, two]: &[Vec<(f64, f64)>; 2]| {
        let gains: Vec<f64> = one.iter().zip(two).map(|(one, two)| two.0 / one.0).collect();
        spread(&gains)
    };
    Ok(WorkersResult {
        machine: Machine::here()?,
        processor: machine::processor()?,
        stolen_percent: (after.0 - before.0) / (after.1 - before.1) * 100.0,
        flows: args.flows,
        rounds: args.rounds,
        rows,
        gain: [gain(&values[0])?, gain(&values[1])?],
    })
}

/// Packets per second of all threads together, and the share of the time in the engine that they ran.
fn measure(hands: &mut [Hand], cpus: &[usize], work: Work, workers: usize) -> Result<(f64, f64)> {
    let begin = Barrier::new(workers);
    let each = hands.len() / workers;
    let done = std::thread::scope(|scope| {
        let threads: Vec<_> = hands
            .chunks_mut(each)
            .zip(cpus)
            .map(|(hands, cpu)| {
                let begin = &begin;
                scope.spawn(move || {
                    let pinned = pin_current(*cpu);
                    begin.wait();
                    pinned?;
                    perform(hands, work)
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        joined.collect::<Result<Vec<Done>>>()
    })?;
    let per_second = done.iter().map(|done| done.packets as f64 / done.took.as_secs_f64()).sum();
    let (took, ran) =
        done.iter().fold((0.0, 0.0), |sum, done| (sum.0 + done.took.as_secs_f64(), sum.1 + done.ran.as_secs_f64()));
    Ok((per_second, ran / took * 100.0))
}

/// A batch of each of a thread's shards in turn.
fn perform(hands: &mut [Hand], work: Work) -> Result<Done> {
    let mut done = Done::default();
    for _ in 0..if work == Work::Known { KNOWN_BATCHES } else { NEW_BATCHES } {
        for hand in &mut *hands {
            hand.fill(work)?;
            let (begun, cpu) = (Instant::now(), cpu_ns());
            let left = hand.judge(work)?;
            done.ran += Duration::from_nanos(cpu_ns() - cpu);
            done.took += begun.elapsed();
            done.packets += left;
            ensure!(left == BATCH, "{left} of {BATCH} packets passed ({work:?})");
        }
    }
    Ok(done)
}

impl Hand {
    fn new(flows: u32) -> Self {
        let batch = Batch::new(BATCH, Proto::Udp, Size::Small, Way::Mixed);
        Self { bed: Bed::new(flows, Proto::Udp), batch, draw: Draw::new(1), known: flows, next: flows }
    }

    fn fill(&mut self, work: Work) -> Result<()> {
        match work {
            Work::Known => {
                self.batch = Batch::new(BATCH, Proto::Udp, Size::Small, Way::Mixed);
                let (draw, known) = (&mut self.draw, self.known);
                self.batch.fill(Proto::Udp, (0..BATCH).map(|_| Tuple::of(draw.below(known))));
            }
            Work::New => {
                self.batch = Batch::new(BATCH, Proto::Udp, Size::Small, Way::Out);
                let next = self.next;
                self.batch.fill(Proto::Udp, (0..).map(|n| Tuple::of(next + n)));
                self.next += u32::try_from(BATCH).context("small")?;
            }
        }
        Ok(())
    }

    /// How many packets left.
    fn judge(&mut self, work: Work) -> Result<usize> {
        look_ahead(&mut self.bed, &self.batch);
        let passed = translate(&mut self.bed, &mut self.batch);
        Ok(if work == Work::Known { passed } else { usize::try_from(self.bed.drain())? })
    }
}

/// As Markdown.
#[must_use]
pub fn table(result: &WorkersResult) -> String {
    let mut table = Table::new();
    let header = ["engines alone, million a second", "one thread", "two threads", "two by one", "ran, one / two"];
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
    for (work, gain) in [Work::Known, Work::New].into_iter().zip(&result.gain) {
        let row = |workers| result.rows.iter().find(|row| (row.work, row.workers) == (work, workers));
        let (Some(one), Some(two)) = (row(1), row(2)) else { continue };
        let name = if work == Work::Known { "packets of known flows" } else { "new flows" };
        table.add_row([
            name.to_owned(),
            spread(&one.per_second, 1e6),
            spread(&two.per_second, 1e6),
            spread(gain, 1.0),
            format!("{:.0} % / {:.0} %", one.ran_percent.median, two.ran_percent.median),
        ]);
    }
    let machine = &result.machine;
    format!(
        "{table}\n\n{} rounds, medians (least–greatest); two shards of {} UDP flows. {}, {} cores, kernel {}, {:.2} % of the time \
         stolen by the host, at {} s since 1970, commit {}.",
        result.rounds,
        result.flows,
        result.processor,
        machine.cores,
        machine.kernel,
        result.stolen_percent,
        machine.unix_seconds,
        machine.commit
    )
}

fn spread(s: &Spread, unit: f64) -> String {
    format!("{:.2} ({:.2}–{:.2})", s.median / unit, s.min / unit, s.max / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_threads_do_all_of_their_work() {
        let cpus = allowed_cpus().expect("this process has processors");
        let mut hands: Vec<Hand> = (0..SHARDS).map(|_| Hand::new(1_000)).collect();
        for work in [Work::Known, Work::New] {
            let done = perform(&mut hands[..1], work).expect("all packets pass");
            // Of flows that others have opened meanwhile nothing is asked.
            let batches = if work == Work::Known { KNOWN_BATCHES } else { NEW_BATCHES };
            assert_eq!(done.packets, batches * BATCH);
        }
        if cpus.len() >= SHARDS {
            let (per_second, ran) = measure(&mut hands, &cpus, Work::Known, 2).expect("all packets pass");
            assert!(per_second > 0.0 && ran > 0.0);
        }
    }
}
