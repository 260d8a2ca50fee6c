//! `qnat-bench flows`: new flows per second through commit, over rising rates, in rounds that alternate with the kernel's
//! masquerade; and what a second backend of the same shard notices of it.
//!
//! A lease bounds the flows that one backend has open towards one remote. So the flood has few source ports and many remote
//! ports: public ports are used again towards other remotes, and the lease never runs out.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use netio::netns;
use qnat::answers::FastPath;
use qnat::daemon::data_config::Cache;
use qnat::daemon::request::Request;
use qnat_lab::Host;
use qnat_lab::topology::INET_ADDRESSES;
use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::load::{self, Flood, TripTimes};
use crate::machine::{self, Machine};
use crate::nftables::{self, Masquerade};
use crate::printing::Printing;
use crate::steps::{KernelStep, Row, Step, summary};

/// The default shards of three frontends have two of them each.
const BACKENDS: u32 = 6;
/// New flows a second of the backend beside the flood.
const BESIDE_RATE: u32 = 100;

/// Arguments of `qnat-bench flows`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The executable under test.
    #[arg(long, default_value = "target/release/qnat")]
    binary: PathBuf,
    /// Offered new flows a second, one after the other.
    #[arg(long = "rate", value_delimiter = ',', default_values_t = [5_000, 10_000, 20_000, 40_000, 80_000], value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rates: Vec<u32>,
    /// How long each.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=10))]
    seconds: u64,
    /// How often all of it.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Datagrams of each flow.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    packets: u32,
    /// Also without the kernel's fast path, in the same rounds.
    #[arg(long)]
    without_cache: bool,
    /// What becomes of the result.
    #[command(flatten)]
    pub printing: Printing,
}

/// What `flows` measured.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowsResult {
    /// Where and when.
    pub machine: Machine,
    /// Seconds of a step.
    pub seconds: u64,
    /// Datagrams of a flow.
    #[serde(default = "one")]
    pub packets: u32,
    /// Medians and spreads by rate.
    pub summary: Vec<Row>,
    /// Each round, by rate.
    pub qnat: Vec<Vec<Step>>,
    /// As above.
    pub kernel: Vec<Vec<KernelStep>>,
    /// Without the kernel's fast path: the same as `summary`; empty: not measured.
    #[serde(default)]
    pub summary_without_cache: Vec<Row>,
    /// And as `qnat`.
    #[serde(default)]
    pub without_cache: Vec<Vec<Step>>,
}

/// Of results that do not say.
const fn one() -> u32 {
    1
}

/// Through what.
#[derive(Clone, Copy)]
enum Through {
    Qnat(Cache),
    Kernel,
}

/// Measures.
///
/// # Errors
/// If the lab or the namespaces do not come up.
pub fn run(args: &Args) -> Result<FlowsResult> {
    let (mut qnat, mut without_cache, mut kernel) = (Vec::new(), Vec::new(), Vec::new());
    let mut through = vec![Through::Qnat(Cache::On), Through::Kernel];
    through.extend(args.without_cache.then_some(Through::Qnat(Cache::Off)));
    for round in 0..args.rounds {
        for which in &through {
            match which {
                Through::Qnat(Cache::Off) => without_cache.push(through_qnat(args, round, Cache::Off)?),
                Through::Qnat(cache) => qnat.push(through_qnat(args, round, *cache)?),
                Through::Kernel => kernel.push(through_the_kernel(args, round)?),
            }
        }
        through.rotate_left(1);
    }
    Ok(FlowsResult {
        machine: Machine::here()?,
        seconds: args.seconds,
        packets: args.packets,
        summary: summary(&qnat, &kernel),
        qnat,
        summary_without_cache: summary(&without_cache, &kernel),
        without_cache,
        kernel,
    })
}

/// A round in a lab of its own: what flows of an earlier round still cost falls on none of the two, and no backend comes near
/// the number of flows that it may have.
fn through_qnat(args: &Args, round: u32, cache: Cache) -> Result<Vec<Step>> {
    let [remote, _] = INET_ADDRESSES;
    let lab = Lab::up(&args.binary, BACKENDS, &[])?;
    for node in lab.nodes() {
        let _stands: FastPath = lab.ask(node, &Request::Cache { turn: Some(cache) })?;
    }
    lab.within(Host::Inet, nftables::sink)??;
    let pair = lab.neighbours()?;
    let lasting = Duration::from_secs(args.seconds);
    let (stop, mut next) = (AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| lab.within(Host::Inet, || load::echo(remote, &stop)));
        let step = |rate: &u32| {
            let (step, after) = step(&lab, remote, pair, (next, (*rate, args.packets), lasting))?;
            next = after;
            eprintln!("round {round}, {rate}/s, cache {cache:?}: committed {:.0}/s", step.committed);
            Ok(step)
        };
        let measured: Result<Vec<Step>> = args.rates.iter().map(step).collect();
        stop.store(true, Ordering::Relaxed);
        echo.join().map_err(|_| anyhow!("the echo service panicked"))???;
        measured
    })
}

fn through_the_kernel(args: &Args, round: u32) -> Result<Vec<KernelStep>> {
    let _up = Masquerade::up()?;
    let mut next = 0;
    let step = |rate: &u32| {
        let (step, after) = kernel_step(next, (*rate, args.packets), Duration::from_secs(args.seconds))?;
        next = after;
        eprintln!("round {round}, {rate}/s: masqueraded {:.0}/s", step.delivered);
        Ok(step)
    };
    args.rates.iter().map(step).collect()
}

fn step(
    lab: &Lab,
    remote: Ipv4Addr,
    (flooder, beside): (u32, u32),
    (first, rate, lasting): (u64, (u32, u32), Duration),
) -> Result<(Step, u64)> {
    let before = lab.counted()?;
    let sink = || lab.within(Host::Inet, nftables::delivered)?;
    let (delivered, used, busy) = (sink()?, lab.used()?, machine::cpu_busy()?);
    let stop = AtomicBool::new(false);
    let (flood, trips, (ran, used_then)) = std::thread::scope(|scope| -> Result<(Flood, load::Trips, _)> {
        let bound = lasting * 4;
        let stop = &stop;
        let stream = move || lab.within(Host::Backend(beside), || load::stream(remote, BESIDE_RATE, bound, stop))?;
        let stream = scope.spawn(stream);
        let flood = lab.within(Host::Backend(flooder), || load::flood(remote, first, rate, lasting));
        stop.store(true, Ordering::Relaxed);
        let ran = (machine::cpu_busy()? - busy, lab.used()?);
        let trips = stream.join().map_err(|_| anyhow!("the stream panicked"))??;
        Ok((flood??, trips, ran))
    })?;
    let during = lab.settled()?.since(&before);
    let seconds = flood.took.as_secs_f64();
    let result = Step {
        rate: rate.0,
        offered: flood.sent as f64 / seconds,
        // The stream beside it is committed, too.
        committed: during.committed.saturating_sub(trips.first.len()) as f64 / seconds,
        delivered: (sink()? - delivered) as f64 / f64::from(rate.1) / seconds,
        drops: during.drops,
        entries: during.commit.count() as f64 / seconds,
        hold_p50: during.hold.percentile(50.0),
        hold_p99: during.hold.percentile(99.0),
        members: (used_then.cpu_s - used.cpu_s) / seconds,
        wakes: (used_then.wakes - used.wakes) as f64 / seconds,
        datagrams: (used_then.datagrams - used.datagrams) as f64 / seconds,
        busy: ran / seconds,
        elections: during.elections,
        beside: TripTimes::of(&trips.first),
        beside_lost: trips.lost,
    };
    Ok((result, flood.next))
}

fn kernel_step(first: u64, rate: (u32, u32), lasting: Duration) -> Result<(KernelStep, u64)> {
    let sink = || netns::run_in(nftables::SERVER, nftables::delivered)?;
    let (before, busy) = (sink()?, machine::cpu_busy()?);
    let flood = netns::run_in(nftables::CLIENT, || load::flood(nftables::SERVER_ADDRESS, first, rate, lasting))??;
    let seconds = flood.took.as_secs_f64();
    let busy = (machine::cpu_busy()? - busy) / seconds;
    // The last datagrams may still be on their way.
    std::thread::sleep(Duration::from_millis(100));
    let delivered = (sink()? - before) as f64 / f64::from(rate.1) / seconds;
    Ok((KernelStep { rate: rate.0, offered: flood.sent as f64 / seconds, delivered, busy }, flood.next))
}
