//! Live drills: a fresh lab, canary traffic, a fault upon the owner of a shard, and a verdict over captures and dumps.
//! Needs root, `tcpdump`, `nft` and the `qnat` executable. Leaves nothing behind, also after Ctrl-C. Called by the
//! command line.

mod calm;
mod canary;
mod capture;
mod cluster;
mod fault;
mod flood_verdict;
mod flows;
mod interrupt;
mod judge;
mod losses;
mod members;
mod output;
mod peer_flood;
mod probes;
mod run;
pub mod soak;
mod strangers;
mod truth;
pub mod verdict;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use cluster::Cluster;
pub use fault::Fault;
use flood_verdict::FloodVerdict;
use members::{Change, MembersVerdict};
use output::Judged;
pub use output::Output;
use verdict::Verdict;

/// The longest fault, and how long a flood lasts unless told otherwise.
const FAULT_SECONDS_MAX: u64 = 30;
const FLOOD_SECONDS: u64 = 60;

/// Runs that one lab carries: each uses up most of the ports of one backend, of which every shard has several.
const RUNS_PER_LAB: usize = 15;

/// Which drill.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Which {
    /// SIGKILL the owner of a shard.
    KillOwner,
    /// SIGSTOP it, later SIGCONT.
    PauseOwner,
    /// Cut it off from its peers.
    PartitionOwner,
    /// Stop it gracefully.
    StopOwner,
    /// Hang its worker's thread.
    HangWorker,
    /// Let its data networks swallow everything.
    SilentNetwork,
    /// Delete its outside interface and make it again.
    RemakeInterface,
    /// All of these, one after the other.
    All,
    /// A fourth machine joins.
    Join,
    /// A machine is lost, and another one takes its number.
    Replace,
    /// Two machines join, and two of the first three leave.
    GrowShrink,
    /// Strangers begin 3,000 handshakes a second at the port of a member, then from inside and outside.
    PeerFlood,
}

/// What a drill is made of.
enum Kind {
    Faults(Vec<Fault>),
    Change(Change),
    PeerFlood,
}

impl Which {
    fn kind(self) -> Kind {
        match self {
            Self::KillOwner => Kind::Faults(vec![Fault::KillOwner]),
            Self::PauseOwner => Kind::Faults(vec![Fault::PauseOwner]),
            Self::PartitionOwner => Kind::Faults(vec![Fault::PartitionOwner]),
            Self::StopOwner => Kind::Faults(vec![Fault::StopOwner]),
            Self::HangWorker => Kind::Faults(vec![Fault::HangWorker]),
            Self::SilentNetwork => Kind::Faults(vec![Fault::SilentNetwork]),
            Self::RemakeInterface => Kind::Faults(vec![Fault::RemakeInterface]),
            Self::All => Kind::Faults(Fault::ALL.to_vec()),
            Self::Join => Kind::Change(Change::Join),
            Self::Replace => Kind::Change(Change::Replace),
            Self::GrowShrink => Kind::Change(Change::GrowShrink),
            Self::PeerFlood => Kind::PeerFlood,
        }
    }
}

/// Arguments of `drill`.
#[derive(Clone, Debug, clap::Args)]
pub struct DrillArgs {
    /// The drill.
    #[arg(value_enum)]
    pub which: Which,
    /// Runs of each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// Backends of the lab.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(3..=200))]
    pub backends: u32,
    /// Idle TCP connections, spread over the backends.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=4000))]
    pub connections: u16,
    /// How long the fault lasts, in seconds, at most 30, or the flood, at most 300; each drill has its own default.
    #[arg(long, value_parser = clap::value_parser!(u64).range(3..=300))]
    pub seconds: Option<u64>,
    /// The `qnat` executable; beside this one unless given.
    #[arg(long)]
    pub binary: Option<PathBuf>,
    /// How to write the verdict.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Runs the drills. The exit code is 0 if all passed and 1 if not.
///
/// # Errors
/// If no drill could be started.
pub fn run(args: &DrillArgs) -> Result<ExitCode> {
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("qnat"),
    };
    ensure!(binary.exists(), "{} is not there: build it, or name it with --binary", binary.display());
    qnat_lab::none_is_up(Path::new(qnat_lab::DEFAULT_DIR)).context("a drill makes its own lab")?;
    let connections = usize::from(args.connections);
    match args.which.kind() {
        Kind::Faults(faults) => run_faults(args, &binary, faults),
        Kind::Change(change) => run_series(
            args,
            move |why| MembersVerdict::new(change, connections, vec![why]),
            || members::drill(&binary, change, args.backends, connections),
        ),
        Kind::PeerFlood => {
            let lasts = Duration::from_secs(args.seconds.unwrap_or(FLOOD_SECONDS));
            let scale = peer_flood::Scale { backends: args.backends, connections, lasts };
            run_series(args, FloodVerdict::broken, || peer_flood::drill(&binary, scale))
        }
    }
}

fn run_faults(args: &DrillArgs, binary: &Path, faults: Vec<Fault>) -> Result<ExitCode> {
    let longest = args.seconds.unwrap_or(0);
    ensure!(longest <= FAULT_SECONDS_MAX, "--seconds {longest}: a fault lasts at most {FAULT_SECONDS_MAX} s");
    let journal = Journal::default();
    let (seen, output) = (journal.clone(), args.output);
    interrupt::watch(run::files(), move || {
        seen.note_broken("interrupted: not all runs were carried through".to_owned());
        output::write(output, &seen.verdicts())
    })?;
    for fault in faults {
        drill(args, binary, fault, &journal);
    }
    // Here, if a signal comes now, its thread writes the verdict.
    let _gate = interrupt::gate();
    finish(args.output, &journal.verdicts())
}

/// Runs a drill that has one verdict for each run; `broken` makes that of a run that was interrupted.
fn run_series<V: Judged + Clone + Send + 'static>(
    args: &DrillArgs,
    broken: impl Fn(String) -> V + Send + 'static,
    run: impl Fn() -> V,
) -> Result<ExitCode> {
    let verdicts = Arc::new(Mutex::new(Vec::new()));
    let (seen, output) = (Arc::clone(&verdicts), args.output);
    interrupt::watch(run::files(), move || {
        let mut all = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.push(broken("interrupted: not all runs were carried through".to_owned()));
        output::write(output, &all)
    })?;
    for _ in 0..args.runs {
        let verdict = run();
        verdicts.lock().unwrap_or_else(PoisonError::into_inner).push(verdict);
    }
    let _gate = interrupt::gate();
    let verdicts = verdicts.lock().unwrap_or_else(PoisonError::into_inner);
    finish(args.output, &verdicts)
}

fn finish<V: Judged>(output: Output, verdicts: &[V]) -> Result<ExitCode> {
    output::write(output, verdicts)?;
    let pass = verdicts.iter().all(|verdict| verdict.reasons().is_empty());
    Ok(if pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What one drill measured so far.
#[derive(Debug)]
struct Series {
    fault: Fault,
    outcomes: Vec<run::Outcome>,
    /// Why runs could not be carried through.
    broken: Vec<String>,
}

/// All that was measured so far, also for the thread that a signal wakes.
#[derive(Clone, Debug, Default)]
struct Journal(Arc<Mutex<Vec<Series>>>);

impl Journal {
    fn begin(&self, fault: Fault) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Series { fault, outcomes: Vec::new(), broken: Vec::new() });
    }

    fn in_last(&self, change: impl FnOnce(&mut Series)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = all.last_mut() {
            change(series);
        }
    }

    fn note(&self, outcome: run::Outcome) {
        self.in_last(|series| series.outcomes.push(outcome));
    }

    fn note_broken(&self, why: String) {
        self.in_last(|series| series.broken.push(why));
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|series| Verdict::of(series.fault, &series.outcomes, series.broken.clone())).collect()
    }
}

/// All runs of one drill. A run that cannot be carried through is reported and followed by a fresh lab.
fn drill(args: &DrillArgs, binary: &Path, fault: Fault, journal: &Journal) {
    journal.begin(fault);
    let runs = usize::from(args.runs);
    let mut next = 0;
    while next < runs {
        let last = (next + RUNS_PER_LAB).min(runs);
        let result = in_one_lab(args, binary, fault, &mut next, last, journal);
        if let Err(error) = result {
            let why = format!("run {}: {error:#}", next + 1);
            eprintln!("{} {why}", fault.name());
            journal.note_broken(why);
            next += 1;
        }
    }
}

fn in_one_lab(
    args: &DrillArgs,
    binary: &Path,
    fault: Fault,
    next: &mut usize,
    last: usize,
    journal: &Journal,
) -> Result<()> {
    let cluster = Cluster::up(binary, args.backends)?;
    let backends: Vec<u32> = (1..=args.backends).collect();
    let lasts = args.seconds.map_or(fault.lasts(), Duration::from_secs);
    let mut idle = Vec::new();
    while *next < last {
        if idle.is_empty() {
            idle = canary::open_idle(cluster.dir(), &backends, args.connections.into())?;
        }
        let outcome = run::once(&cluster, fault, lasts, *next, &mut idle)?;
        eprintln!(
            "{} run {}: kept {}/{}, gap old {:.1} ms, new {:.1} ms, return {:.1} ms, whole after {} ms, {:?}",
            fault.name(),
            *next + 1,
            outcome.kept,
            outcome.total,
            outcome.gap_old_ms,
            outcome.gap_new_ms,
            outcome.gap_return_ms,
            outcome.whole_again_ms,
            outcome.emissions,
        );
        // A connection that was lost must not count against the next run.
        if outcome.kept < outcome.total {
            idle.clear();
        }
        journal.note(outcome);
        *next += 1;
    }
    Ok(())
}
