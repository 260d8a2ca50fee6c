//! All flows of a table go idle at once: the longest piece of processor time that a packet may have to wait for.

use anyhow::Result;
use engine::event::WorkerOutput;
use serde::{Deserialize, Serialize};
use words::time::SECOND_NS;

use super::bed::{Always, Bed};
use crate::machine::cpu_ns;

/// A driver lets timers run at least this often.
const STEP_NS: u64 = 10_000_000;
/// Nothing lives longer than its timeout, the tenth by which ends are spread, and the way of the sweep's hand.
const PATIENCE_S: u64 = 3_600;

/// Nanoseconds of processor time of each step.
#[derive(Debug, Default)]
pub struct Steps {
    /// Silence until all were closed, seconds.
    closed_after_s: u64,
    /// Octets that all take then.
    held_bytes: usize,
    /// Calls of the timers.
    timers: Vec<u64>,
    /// Entries, from the stream through the log into the table.
    entries: Vec<u64>,
}

impl Steps {
    /// Both runs did the same: of what one run alone took long for, the machine was the cause.
    #[must_use]
    pub fn common(self, other: &Self, flows: u32) -> Idle {
        Idle {
            closed_after_s: self.closed_after_s,
            held_octets: self.held_bytes as f64 / f64::from(flows),
            longest_timers_us: longest(&self.timers, &other.timers) as f64 / 1e3,
            longest_entry_us: longest(&self.entries, &other.entries) as f64 / 1e3,
        }
    }
}

/// The longest step of two runs that did the same, each taken from the run in which it was shorter.
#[must_use]
pub fn longest(one: &[u64], other: &[u64]) -> u64 {
    one.iter().zip(other).map(|(a, b)| *a.min(b)).max().unwrap_or(0)
}

/// What was seen until the last flow was closed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    /// Silence until all were closed, seconds.
    pub closed_after_s: u64,
    /// Octets per flow then, when all are held.
    pub held_octets: f64,
    /// The longest call of the timers, microseconds of processor time.
    pub longest_timers_us: f64,
    /// The longest that an entry took from the stream through the log into the table, microseconds of processor time.
    pub longest_entry_us: f64,
}

/// Lets time pass until no flow lives.
///
/// # Errors
/// If flows never end.
pub fn measure(mut bed: Bed) -> Result<Steps> {
    let (begun_ns, mut steps) = (bed.now_ns, Steps::default());
    while bed.worker.view().shard_status()[0].live > 0 {
        anyhow::ensure!(bed.now_ns < begun_ns + PATIENCE_S * SECOND_NS, "idle flows that never close");
        bed.now_ns = bed.worker.next_timer_ns().clamp(bed.now_ns + 1_000_000, bed.now_ns + STEP_NS);
        let before = cpu_ns();
        bed.worker.handle_timers(bed.now_ns, &Always);
        steps.timers.push(cpu_ns() - before);
        loop {
            let before = cpu_ns();
            let Some(output) = bed.worker.poll_output(bed.now_ns, &Always) else { break };
            if let WorkerOutput::Propose { entry, .. } = output {
                bed.commit(entry);
            }
            steps.entries.push(cpu_ns() - before);
        }
        let mut frame = Vec::new();
        while bed.worker.poll_frame(bed.now_ns, &Always, &mut frame).is_some() {}
    }
    steps.held_bytes = bed.worker.view().shard_status()[0].table_bytes;
    steps.closed_after_s = (bed.now_ns - begun_ns) / SECOND_NS;
    Ok(steps)
}
