//! `qnat-bench hold`: what strict commit costs a first packet. A bounded stream of new flows at a low rate; the hold from the
//! owner's histogram, and round trips of first and second packets from the client's own clock.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use qnat_lab::Host;
use qnat_lab::topology::INET_ADDRESSES;
use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::load::{self, TripTimes};
use crate::machine::Machine;
use crate::numbers::Percentile;
use crate::printing::Printing;

const BACKENDS: u32 = 4;
/// Neighbours, caches and branch predictors are not what is measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// Arguments of `qnat-bench hold`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The executable under test.
    #[arg(long, default_value = "target/release/qnat")]
    binary: PathBuf,
    /// How long.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=120))]
    seconds: u64,
    /// New flows a second; more than a lease carries before flows idle out is lost.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=200))]
    rate: u32,
    /// What becomes of the result.
    #[command(flatten)]
    pub printing: Printing,
}

/// What `hold` measured.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldResult {
    /// Where and when.
    pub machine: Machine,
    /// New flows a second that were asked for.
    pub rate: u32,
    /// Flows in the histogram.
    pub flows: u64,
    /// Flows without an answer.
    pub lost: u64,
    /// Hold of first packets by the owner's histogram.
    pub hold_p50: Percentile,
    /// As above.
    pub hold_p99: Percentile,
    /// Exact mean of the hold.
    pub hold_mean_us: f64,
    /// Proposal to commit by the owner's histogram.
    pub commit_p50: Percentile,
    /// As above.
    pub commit_p99: Percentile,
    /// Round trips of first packets.
    pub first: TripTimes,
    /// Round trips of second packets.
    pub later: TripTimes,
    /// Elections during the run; must be 0.
    pub elections: u64,
}

/// Measures.
///
/// # Errors
/// If the lab does not come up or answer.
pub fn run(args: &Args) -> Result<HoldResult> {
    let lab = Lab::up(&args.binary, BACKENDS, &[])?;
    let [remote, _] = INET_ADDRESSES;
    let stop = AtomicBool::new(false);
    let (before, trips, after) = std::thread::scope(|scope| -> Result<_> {
        let echo = scope.spawn(|| lab.within(Host::Inet, || load::echo(remote, &stop)));
        let measure = || -> Result<_> {
            let stream = |lasting| lab.within(Host::Backend(1), || load::stream(remote, args.rate, lasting, &stop))?;
            stream(WARM_UP)?;
            let before = lab.settled()?;
            let trips = stream(Duration::from_secs(args.seconds))?;
            Ok((before, trips, lab.settled()?))
        };
        let measured = measure();
        stop.store(true, Ordering::Relaxed);
        echo.join().map_err(|_| anyhow::anyhow!("the echo service panicked"))???;
        measured
    })?;
    let during = after.since(&before);
    let time = |p: Option<Percentile>| p.context("no flow was committed");
    let result = HoldResult {
        machine: Machine::here()?,
        rate: args.rate,
        flows: during.hold.count(),
        lost: trips.lost,
        hold_p50: time(during.hold.percentile(50.0))?,
        hold_p99: time(during.hold.percentile(99.0))?,
        hold_mean_us: during.hold.sum_ns as f64 / during.hold.count() as f64 / 1e3,
        commit_p50: time(during.commit.percentile(50.0))?,
        commit_p99: time(during.commit.percentile(99.0))?,
        first: TripTimes::of(&trips.first),
        later: TripTimes::of(&trips.later),
        elections: during.elections,
    };
    Ok(result)
}
