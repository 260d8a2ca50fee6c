//! The rounds of `flows`, step by step, and their medians by rate.

use serde::{Deserialize, Serialize};

use crate::load::TripTimes;
use crate::numbers::{Percentile, Spread};

/// One rate in one round, through qnat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Asked for.
    pub rate: u32,
    /// Begun, per second.
    pub offered: f64,
    /// Committed, per second.
    pub committed: f64,
    /// Datagrams at the sink, per second, divided by how many a flow has.
    pub delivered: f64,
    /// Drops of all members by reason, in all.
    pub drops: Vec<(String, u64)>,
    /// Entries committed, per second.
    pub entries: f64,
    /// Hold of first packets.
    pub hold_p50: Option<Percentile>,
    /// As above.
    pub hold_p99: Option<Percentile>,
    /// Processor use of all members' processes, in cores.
    pub members: f64,
    /// Threads of all members that went to sleep, so that something had to wake them, per second.
    pub wakes: f64,
    /// UDP datagrams that all members sent each other, per second.
    pub datagrams: f64,
    /// Processors busy, generator and sink included.
    pub busy: f64,
    /// Elections; must be 0.
    pub elections: u64,
    /// First round trips of the backend beside the flood.
    pub beside: TripTimes,
    /// Its flows without an answer.
    pub beside_lost: u64,
}

/// One rate in one round, through the kernel's masquerade.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelStep {
    /// Asked for.
    pub rate: u32,
    /// Sent, per second.
    pub offered: f64,
    /// Seen at the sink, per second.
    pub delivered: f64,
    /// Processors busy, generator and sink included.
    pub busy: f64,
}

/// One rate over all rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Asked for.
    pub rate: u32,
    /// Sent per second.
    pub offered: Spread,
    /// Committed per second.
    pub committed: Spread,
    /// Seen at the sink per second.
    pub delivered: Spread,
    /// Median of the hold, microseconds.
    pub hold_p50_us: Option<Spread>,
    /// 99th percentile of the hold, microseconds.
    pub hold_p99_us: Option<Spread>,
    /// Processor use of all members' processes together, in cores.
    pub members: Spread,
    /// New flows in an entry of the log.
    pub flows_per_entry: Option<Spread>,
    /// UDP datagrams of all members for an entry, those in rest included.
    pub datagrams_per_entry: Option<Spread>,
    /// Wake-ups of threads of all members for an entry, those in rest included.
    pub wakes_per_entry: Option<Spread>,
    /// 99th percentile of the first round trips beside the flood, microseconds.
    pub beside_p99_us: Option<Spread>,
    /// Flows lost beside the flood, of all rounds, and how many there were.
    pub beside_lost: (u64, u64),
    /// Elections of all rounds.
    pub elections: u64,
    /// Drops of all rounds by reason.
    pub drops: Vec<(String, u64)>,
    /// Seen behind the kernel's masquerade per second.
    pub kernel: Option<Spread>,
    /// Sent towards the kernel's masquerade per second: the generator shares the processors, and is slower the more of
    /// the kernel's work is done on its own call.
    pub kernel_offered: Option<Spread>,
    /// Processors busy with all of it, generator and sink included.
    pub busy: Spread,
    /// The same for the kernel's masquerade.
    pub kernel_busy: Option<Spread>,
}

/// Medians by rate.
#[must_use]
pub fn summary(qnat: &[Vec<Step>], kernel: &[Vec<KernelStep>]) -> Vec<Row> {
    let rates = qnat.first().map_or(0, Vec::len);
    (0..rates).filter_map(|at| row(&column(qnat, at), &column(kernel, at))).collect()
}

pub(crate) fn column<T>(rounds: &[Vec<T>], at: usize) -> Vec<&T> {
    rounds.iter().filter_map(|round| round.get(at)).collect()
}

fn row(ours: &[&Step], theirs: &[&KernelStep]) -> Option<Row> {
    let spread = |value: &dyn Fn(&Step) -> f64| Spread::of(ours.iter().map(|step| value(step)));
    let mut drops: Vec<(String, u64)> = Vec::new();
    for (reason, n) in ours.iter().flat_map(|step| &step.drops) {
        match drops.iter_mut().find(|(known, _)| known == reason) {
            Some((_, known)) => *known += n,
            None => drops.push((reason.clone(), *n)),
        }
    }
    let lost = ours.iter().map(|step| step.beside_lost).sum::<u64>();
    Some(Row {
        rate: ours.first()?.rate,
        offered: spread(&|step| step.offered)?,
        committed: spread(&|step| step.committed)?,
        delivered: spread(&|step| step.delivered)?,
        hold_p50_us: spread(&|step| step.hold_p50.map_or(f64::NAN, |p| p.us)),
        hold_p99_us: spread(&|step| step.hold_p99.map_or(f64::NAN, |p| p.us)),
        members: spread(&|step| step.members)?,
        flows_per_entry: spread(&|step| step.committed / step.entries),
        datagrams_per_entry: spread(&|step| step.datagrams / step.entries),
        wakes_per_entry: spread(&|step| step.wakes / step.entries),
        beside_p99_us: spread(&|step| step.beside.p99_us),
        beside_lost: (lost, lost + ours.iter().map(|step| step.beside.count).sum::<u64>()),
        elections: ours.iter().map(|step| step.elections).sum(),
        drops,
        kernel: Spread::of(theirs.iter().map(|step| step.delivered)),
        kernel_offered: Spread::of(theirs.iter().map(|step| step.offered)),
        busy: spread(&|step| step.busy)?,
        kernel_busy: Spread::of(theirs.iter().map(|step| step.busy)),
    })
}
