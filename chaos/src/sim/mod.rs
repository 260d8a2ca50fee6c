//! The seeded simulator: whole clusters in virtual time, running the very code of `engine`, `control`, `consensus` and of
//! the member that joins them. One seed draws every parameter; a failing seed prints itself and replays exactly.

mod addresses;
mod ambush;
mod clients;
mod deaths;
mod declared;
mod disk;
mod entering;
mod faults;
mod flight;
mod healing;
mod inward;
mod isolation;
mod judge;
mod load;
mod moving;
mod network;
mod node;
mod operator;
mod params;
mod peers;
mod ring;
mod stops;
mod traffic;
mod ways;
mod world;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Result;

pub use params::Kind;
pub use world::{Outcome, run_seed};

/// Arguments of `sim`.
#[derive(Clone, Debug, clap::Args)]
pub struct SimArgs {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    pub seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// Run each seed twice and compare the traces.
    #[arg(long)]
    pub twice: bool,
    /// Only wild runs: members die while others are missing, and an operator acts at any moment.
    #[arg(long)]
    pub wild: bool,
    /// End with the first violation.
    #[arg(long)]
    pub first: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    pub threads: u64,
}

thread_local! {
    static RUNNING: Cell<u64> = const { Cell::new(0) };
}

fn said(seed: u64, violation: &str) {
    // A verdict that nobody can read is no verdict, and the exit code still tells.
    let _ = writeln!(std::io::stdout(), "seed {seed}: {violation}");
}

/// An assertion of the product ends the process; the seed has to be known all the same.
fn name_seed_in_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        said(RUNNING.get(), &format!("panic: {info}").replace('\n', " "));
        before(info);
    }));
}

/// Runs the seeds; exit code 1 if any failed.
///
/// # Errors
/// If the verdict cannot be written.
pub fn run(args: &SimArgs) -> Result<ExitCode> {
    name_seed_in_panics();
    let kind = if args.wild { Kind::Wild } else { Kind::Mixed };
    let next = AtomicU64::new(args.from);
    let end = args.from + args.seeds;
    let found = AtomicBool::new(false);
    let outcomes: Vec<Vec<Outcome>> = std::thread::scope(|scope| {
        let work = || {
            let mut mine = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return mine;
                }
                if args.first && found.load(Ordering::Relaxed) {
                    return mine;
                }
                RUNNING.set(seed);
                let mut outcome = run_seed(seed, kind);
                if args.twice && run_seed(seed, kind).trace != outcome.trace {
                    outcome.violation.get_or_insert_with(|| "the second run of the seed went another way".to_owned());
                }
                if let Some(violation) = &outcome.violation {
                    // At once: a later seed may end the process.
                    said(seed, violation);
                    found.store(true, Ordering::Relaxed);
                }
                mine.push(outcome);
            }
        };
        let threads: Vec<_> = (0..args.threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a simulation does not panic")).collect()
    });
    let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
    let mut out = std::io::stdout();
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.violation.is_some()).collect();
    let sum = |f: fn(&Outcome) -> u64| outcomes.iter().map(f).sum::<u64>();
    let faults = tally(outcomes.iter().map(|outcome| &outcome.faults));
    writeln!(out, "faults: {}: {faults:?}", faults.values().sum::<u64>())?;
    writeln!(out, "queues that were full: {:?}", tally(outcomes.iter().map(|outcome| &outcome.full)))?;
    writeln!(out, "mappings by right: {:?}", tally(outcomes.iter().map(|outcome| &outcome.ways)))?;
    writeln!(
        out,
        "{} joins, {} reloads, {} stops, {} moves and removals of replicas, {} disk errors, {} demanded resets",
        sum(|o| o.joins),
        sum(|o| o.reloads),
        sum(|o| o.stops),
        sum(|o| o.moved),
        faults.iter().filter(|(fault, _)| fault.starts_with("disk fails")).map(|(_, count)| count).sum::<u64>(),
        sum(|o| o.resets_owed),
    )?;
    writeln!(
        out,
        "{} seeds: {} elections, {} epochs anew, {} packets outside, {} resets, {} mappings, {} violations",
        outcomes.len(),
        sum(|o| o.elections),
        sum(|o| o.recreations),
        sum(|o| o.emitted),
        sum(|o| o.resets),
        sum(|o| o.mappings),
        failed.len()
    )?;
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Counts of all runs together.
fn tally<'a>(runs: impl Iterator<Item = &'a BTreeMap<&'static str, u64>>) -> BTreeMap<&'static str, u64> {
    let mut all = BTreeMap::new();
    for (what, count) in runs.flatten() {
        *all.entry(*what).or_insert(0) += count;
    }
    all
}

#[cfg(test)]
mod tests {
    use engine::record::Scenario;

    use super::judge::{
        BEFORE_COMMIT, BY_ADDRESS_IN, FLOATED, KEPT, KEPT_ENDED, KEPT_PACKETS, WENT_ON, WITHOUT_PORTS_IN,
    };
    use super::{Kind, run_seed};

    #[test]
    fn fixed_seeds_hold_every_invariant_and_replay_exactly() {
        for seed in 0..6 {
            let outcome = run_seed(seed, Kind::Mixed);
            assert_eq!(outcome.violation, None, "seed {seed}");
            assert!(outcome.emitted > 500, "seed {seed}: traffic flowed, {} frames", outcome.emitted);
            assert_eq!(run_seed(seed, Kind::Mixed).trace, outcome.trace, "seed {seed} replays");
        }
    }

    #[test]
    fn clusters_that_take_ports_back_in_calm_reset_what_stands_on_them_and_who_leaves_by_another_right_keeps_flows() {
        let outcomes: Vec<_> = (20..36).map(|seed| run_seed(seed, Kind::Mixed)).collect();
        for outcome in &outcomes {
            assert_eq!(outcome.violation, None, "seed {}", outcome.seed);
        }
        let demanded = outcomes.iter().map(|outcome| outcome.resets_owed).sum::<u64>();
        assert!(demanded > 20, "{demanded} resets were demanded, and left");
        let ways = super::tally(outcomes.iter().map(|outcome| &outcome.ways));
        let count = |what| ways.get(what).copied().unwrap_or(0);
        assert!(count(BEFORE_COMMIT) > 100, "by own addresses: {ways:?}");
        assert!(count(Scenario::Default.label()) > 100, "by system addresses: {ways:?}");
        assert!(count(FLOATED) > 500, "by rules that float: {ways:?}");
        assert!(count(BY_ADDRESS_IN) > 100, "SCTP to own addresses: {ways:?}");
        assert!(count(WITHOUT_PORTS_IN) > 100, "GRE to own addresses: {ways:?}");
        let kept = [KEPT, KEPT_PACKETS, KEPT_ENDED, WENT_ON].map(count);
        assert!(
            kept.iter().all(|count| *count > 50),
            "flows that backends keep when they leave by another right: {ways:?}"
        );
    }
}
