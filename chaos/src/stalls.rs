//! `qnat-chaos stalls`: how long the machine itself stands still. Whoever shares a host with others is kept from running now
//! and then, and no timer of a cluster can tell that from a fault: whether a machine can keep a lease is seen here, and a soak
//! and the project's own tests have to say how it was meanwhile.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use netio::thread;
use serde::Serialize;

use crate::command;

/// Between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Above all that the members run.
const PRIORITY: i32 = 99;
/// From which length on a stall is counted, in ms: the lease with the default timers, and twice as long.
const LONG_MS: [u64; 2] = [40, 80];
/// From which length on a stall is noted with its time, in ms: what is left of a lease, at worst, when the next heartbeat is due.
const NOTED_MS: u64 = 25;
/// How many of these are noted with their times; the rest are only counted.
const NOTED_MAX: usize = 1_000;

/// Arguments of `stalls`.
#[derive(Clone, Debug, clap::Args)]
pub struct StallsArgs {
    /// Where to write what was seen as JSON; otherwise to standard error.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// A command to run meanwhile; its exit code is this one's.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// What was seen of one or more processors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Seen {
    /// The longest stall, in ms.
    pub longest_ms: f64,
    /// Stalls of at least 40 ms: an owner that is hit loses its lease.
    pub at_least_40_ms: u64,
    /// Stalls of at least 80 ms: whoever owns a shard there is succeeded.
    pub at_least_80_ms: u64,
}

/// One stall of at least 25 ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stall {
    /// When it ended, in ms since 1970.
    pub ended_unix_ms: u64,
    /// How long it was.
    pub ms: u64,
    /// Which processor stood still.
    pub cpu: usize,
}

/// What `stalls` writes: counts, and the first of the stalls with their times.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    seen: Seen,
    began_unix_ms: u64,
    ended_unix_ms: u64,
    stalls: Vec<Stall>,
}

/// A watch over all processors.
#[derive(Debug, Default)]
pub struct Stalls {
    longest_ns: AtomicU64,
    long: [AtomicU64; 2],
    noted: Mutex<Vec<Stall>>,
}

impl Stalls {
    /// Watches one processor until all is over: its own thread, which nothing on this machine keeps from running.
    ///
    /// # Errors
    /// If there is no such processor.
    pub fn watch(&self, cpu: usize, over: &AtomicBool) -> Result<()> {
        thread::pin_current(cpu)?;
        // Refused, it also counts what other processes take.
        let _raised = thread::raise_current(PRIORITY);
        let mut last = Instant::now();
        while !over.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK_EVERY);
            let now = Instant::now();
            let late = now.duration_since(last).saturating_sub(LOOK_EVERY);
            self.longest_ns.fetch_max(u64::try_from(late.as_nanos())?, Ordering::Relaxed);
            for (count, least_ms) in self.long.iter().zip(LONG_MS) {
                if late >= Duration::from_millis(least_ms) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            if late >= Duration::from_millis(NOTED_MS) {
                self.note(cpu, late)?;
            }
            last = now;
        }
        Ok(())
    }

    fn note(&self, cpu: usize, late: Duration) -> Result<()> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() < NOTED_MAX {
            noted.push(Stall { ended_unix_ms: unix_ms()?, ms: u64::try_from(late.as_millis())?, cpu });
        }
        Ok(())
    }

    /// The first of the long stalls so far, with their times.
    pub(crate) fn noted(&self) -> Vec<Stall> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was seen since the last call.
    pub fn take(&self) -> Seen {
        let [at_least_40_ms, at_least_80_ms] = self.long.each_ref().map(|count| count.swap(0, Ordering::Relaxed));
        let longest_ms = self.longest_ns.swap(0, Ordering::Relaxed) as f64 / 1e6;
        Seen { longest_ms, at_least_40_ms, at_least_80_ms }
    }
}

/// Now, in ms since 1970.
pub(crate) fn unix_ms() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// Watches all processors while a command runs. The exit code is the command's.
///
/// # Errors
/// If it cannot be started, or the result cannot be written.
pub fn run(args: &StallsArgs) -> Result<ExitCode> {
    let (stalls, over, began_unix_ms) = (Stalls::default(), AtomicBool::new(false), unix_ms()?);
    let code = std::thread::scope(|scope| {
        let (stalls, over) = (&stalls, &over);
        for cpu in thread::allowed_cpus()? {
            scope.spawn(move || stalls.watch(cpu, over));
        }
        let code = command::run(&args.command);
        over.store(true, Ordering::Relaxed);
        code
    })?;
    let seen = stalls.take();
    let noted = stalls.noted();
    let report = serde_json::to_string(&Report { seen, began_unix_ms, ended_unix_ms: unix_ms()?, stalls: noted })?;
    match &args.out {
        Some(path) => std::fs::write(path, report + "\n").with_context(|| path.display().to_string())?,
        None => writeln!(std::io::stderr(), "{report}")?,
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_sees_no_more_than_there_was_and_ends() {
        let (stalls, over) = (Stalls::default(), AtomicBool::new(false));
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| stalls.watch(0, &over).expect("there is a first processor"));
            std::thread::sleep(Duration::from_millis(30));
            over.store(true, Ordering::Relaxed);
        });
        let all_ms = begun.elapsed().as_secs_f64() * 1e3;
        let seen = stalls.take();
        assert!(0.0 < seen.longest_ms && seen.longest_ms < all_ms, "{seen:?} in {all_ms} ms");
        assert!(seen.at_least_80_ms <= seen.at_least_40_ms);
        assert_eq!(stalls.take(), Seen { longest_ms: 0.0, at_least_40_ms: 0, at_least_80_ms: 0 }, "taken");
    }

    #[test]
    fn the_command_runs_meanwhile_and_its_exit_code_counts() {
        let out = std::env::temp_dir().join(format!("qnat-stalls-{}", std::process::id()));
        let command = ["sh", "-c", "sleep 0.02; exit 3"].map(str::to_owned).to_vec();
        let code = run(&StallsArgs { out: Some(out.clone()), command }).expect("there is a shell");
        let text = std::fs::read_to_string(&out).expect("written");
        std::fs::remove_file(out).expect("just read");
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(3)));
        assert!(text.contains("\"at_least_40_ms\":"), "{text}");
        let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let time = |name: &str| report[name].as_u64().expect("a time");
        assert!(time("began_unix_ms") + 20 <= time("ended_unix_ms"), "{text}");
        assert_eq!(report["stalls"].as_array().expect("a list").len() as u64, time("at_least_40_ms"), "{text}");
    }

    #[test]
    fn stalls_are_noted_with_their_times_and_no_more_than_a_bounded_number() {
        let stalls = Stalls::default();
        let before = unix_ms().expect("a clock");
        for ms in 0..NOTED_MAX as u64 + 1 {
            stalls.note(1, Duration::from_millis(ms)).expect("noted");
        }
        let noted = stalls.noted.lock().expect("whole");
        assert_eq!(noted.len(), NOTED_MAX);
        assert_eq!((noted[7].ms, noted[7].cpu), (7, 1));
        assert!(noted.iter().all(|stall| stall.ended_unix_ms >= before));
    }
}
