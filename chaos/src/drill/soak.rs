//! A soak: canary traffic upon a healthy cluster, and nothing else. Nobody may take over unless the machine stood still, and
//! nothing may be lost.
//! Called by the command.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::calm::{self, Explained};
use super::canary::{self, Download, Idle};
use super::cluster::Cluster;
use super::flows::{self, ANSWER_TIMEOUT, in_backend, joined};
use super::losses::{self, Losses};
use super::{Output, interrupt};
use crate::stalls::Stalls;

/// Between two new flows of a backend to each remote. A mapping lives for 4 min of silence, which a takeover begins anew, and
/// is held for 65 s more: a backend keeps about 510 of its 1,024 ports busy, and 910 after a takeover.
const NEW_EVERY: Duration = Duration::from_millis(600);
/// Between two rounds of exchanges over the idle connections.
const EXCHANGE_EVERY: Duration = Duration::from_secs(5);
const DOWNLOAD_BYTES: u64 = 24 << 20;
/// A minute is healthy if no processor stood still for longer in it or in the one before: half of the vote timeout. What a
/// longer one brought about is over by the end of the next minute.
const STALL_MS_MAX: f64 = 25.0;
const MINUTE: Duration = Duration::from_secs(60);
/// No silence of a stream may be longer: a takeover would be.
const SILENCE_MS_MAX: f64 = 50.0;
/// Datagrams that a busy machine may lose, one in so many.
const LOST_ONE_IN: u64 = 100_000;

/// Arguments of `soak`.
#[derive(Clone, Debug, clap::Args)]
pub struct SoakArgs {
    /// How long the traffic flows.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
    pub minutes: u64,
    /// Backends of the lab, each of which opens new flows.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(3..=200))]
    pub backends: u32,
    /// Idle TCP connections, spread over the backends.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=4000))]
    pub connections: u16,
    /// The `qnat` executable; beside this one unless given.
    #[arg(long)]
    pub binary: Option<std::path::PathBuf>,
    /// How to write the verdict.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// What a soak found.
#[derive(Clone, Debug, Serialize)]
struct Findings {
    seconds: u64,
    /// Processor time that the machine's host gave to others, of all processors: pauses that no timer can tell from a
    /// fault.
    stolen_ms: u64,
    /// The longest that a processor stood still, whatever the reason.
    longest_stall_ms: f64,
    /// Elections that any member counted.
    elections: u64,
    /// Minutes in which the machine ran, and the elections of these.
    healthy_minutes: usize,
    elections_while_healthy: u64,
    /// Elections by their causes; one that nothing explains fails the soak.
    #[serde(flatten)]
    explained: Explained,
    /// Shards that changed their owner.
    owners_changed: usize,
    datagrams: u64,
    datagrams_lost: u64,
    /// By the sockets of both ends, since nobody read them in time: these never got lost on the way.
    dropped_at_ends: u64,
    /// Longest time for which a stream had no answer to what it asked, and for which a sender asked nothing since it stood
    /// still itself.
    longest_silence_ms: f64,
    /// When the longest was over, in seconds since 1970.
    longest_silence_over: Option<f64>,
    longest_sender_pause_ms: f64,
    new_flows: u64,
    new_flows_lost: u64,
    /// First round trip of a new flow, in ms: 99th percentile and maximum.
    new_flow_p99_ms: f64,
    new_flow_max_ms: f64,
    exchanges: usize,
    exchanges_failed: usize,
    downloads: usize,
    downloads_right: usize,
    /// What members and the kernel dropped.
    losses: Losses,
    pass: bool,
    reasons: Vec<String>,
}

/// One minute of it.
#[derive(Clone, Copy, Debug)]
struct Minute {
    stall_ms: f64,
    elections: u64,
}

/// Healthy minutes and their elections.
fn healthy(minutes: &[Minute]) -> (usize, u64) {
    let is_calm = |minute: &Minute| minute.stall_ms <= STALL_MS_MAX;
    let before = std::iter::once(true).chain(minutes.iter().map(is_calm));
    let all = minutes.iter().zip(before).filter(|(minute, before)| *before && is_calm(minute));
    all.fold((0, 0), |(count, elections), (minute, _)| (count + 1, elections + minute.elections))
}

/// Runs a soak. The exit code is 0 if all is well and 1 if not.
///
/// # Errors
/// If the traffic could not be started.
pub fn run(args: &SoakArgs) -> Result<ExitCode> {
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("qnat"),
    };
    ensure!(args.output != Output::Junit, "a soak is one case: -o table or json");
    ensure!(binary.exists(), "{} is not there: build it, or name it with --binary", binary.display());
    interrupt::watch(super::run::files(), || {
        writeln!(std::io::stderr(), "interrupted: nothing is proved").context("standard error")
    })?;
    let cluster = Cluster::up(&binary, args.backends)?;
    calm::wait_at_rest(&cluster);
    let findings = soak(&cluster, args)?;
    drop(cluster);
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&findings)?,
        Output::Table | Output::Junit => table(&findings)?,
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(if findings.pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn soak(cluster: &Cluster, args: &SoakArgs) -> Result<Findings> {
    let all: Vec<u32> = (1..=args.backends).collect();
    let mut first: BTreeMap<u64, u32> = BTreeMap::new();
    for backend in cluster.backends()? {
        first.entry(backend.shard).or_insert(backend.number);
    }
    let mut idle = canary::open_idle(cluster.dir(), &all, args.connections.into())?;
    let (owners, elections) = (cluster.owners(), cluster.elections());
    let (stolen, lost) = (stolen_ms()?, losses::all(cluster, args.backends)?);
    let (begun, lasts) = (Instant::now(), Duration::from_secs(args.minutes * 60));
    let mut minutes = Vec::new();
    let stalls = Stalls::default();
    let counted = || losses::grown(&elections, cluster.elections()).values().sum();
    let over = AtomicBool::new(false);
    let (dir, cpus) = (cluster.dir(), netio::thread::allowed_cpus()?);
    let (streams, flows, downloads, exchanges, moves) = std::thread::scope(|scope| {
        let over = &over;
        let streams: Vec<_> =
            first.values().map(|&b| scope.spawn(move || in_backend(dir, b, || flows::stream(over)))).collect();
        let open = |b| move || in_backend(dir, b, || flows::new_flows(over, NEW_EVERY));
        let flows: Vec<_> = all.iter().map(|&b| scope.spawn(open(b))).collect();
        let moves = scope.spawn(move || calm::watch(cluster, over));
        let stalls = &stalls;
        let watches = cpus.into_iter().map(|cpu| scope.spawn(move || stalls.watch(cpu, over))).collect();
        let downloads: Vec<_> = first.values().map(|&b| scope.spawn(move || download(dir, b, over))).collect();
        let exchanges = exchange(&mut idle, lasts, &mut minutes, || (stalls.take().longest_ms, counted()));
        over.store(true, Ordering::Relaxed);
        joined(watches)?;
        let moves = joined(vec![moves])?.concat();
        Ok::<_, anyhow::Error>((joined(streams)?, joined(flows)?, joined(downloads)?, exchanges?, moves))
    })?;
    let lost = losses::grown(&lost, losses::all(cluster, args.backends)?);
    let (healthy_minutes, elections_while_healthy) = healthy(&minutes);
    let now = cluster.owners();
    let (new_flow_p99_ms, new_flow_max_ms) = flows::trips(&flows);
    let longest_ms = |of: fn(&flows::StreamCount) -> Duration| {
        streams.iter().map(|one| of(one).as_secs_f64() * 1e3).fold(0.0, f64::max)
    };
    let findings = Findings {
        seconds: begun.elapsed().as_secs(),
        stolen_ms: stolen_ms()? - stolen,
        longest_stall_ms: minutes.iter().map(|minute| minute.stall_ms).fold(0.0, f64::max),
        elections: counted(),
        healthy_minutes,
        elections_while_healthy,
        explained: Explained::of(&moves, &stalls.noted()),
        owners_changed: owners.iter().filter(|(shard, owner)| now.get(shard) != Some(owner)).count(),
        datagrams: streams.iter().map(|one| one.sent).sum(),
        datagrams_lost: streams.iter().map(|one| one.sent - one.answered).sum(),
        dropped_at_ends: losses::at_ends(&lost),
        longest_silence_ms: longest_ms(|one| one.silence),
        longest_silence_over: streams.iter().max_by_key(|one| one.silence).and_then(|one| {
            let since = one.silence_over?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            Some(since.as_secs_f64())
        }),
        longest_sender_pause_ms: longest_ms(|one| one.pause),
        new_flows: flows.iter().map(|one| one.opened).sum(),
        new_flows_lost: flows.iter().map(|one| one.lost).sum(),
        new_flow_p99_ms,
        new_flow_max_ms,
        exchanges: exchanges.0,
        exchanges_failed: exchanges.1,
        downloads: downloads.iter().map(|one| one.0).sum(),
        downloads_right: downloads.iter().map(|one| one.1).sum(),
        losses: lost,
        pass: false,
        reasons: Vec::new(),
    };
    Ok(judged(findings))
}

/// Exchanges a nonce over all idle connections again and again for so long, and looks at the machine and the elections once
/// a minute. Returns how many exchanges there were, and how many failed.
fn exchange(
    idle: &mut [Idle],
    lasts: Duration,
    minutes: &mut Vec<Minute>,
    look: impl Fn() -> (f64, u64),
) -> Result<(usize, usize)> {
    let begun = Instant::now();
    let mut exchanges = (0, 0);
    while begun.elapsed() < lasts {
        let (kept, why) = canary::exchange_all(idle, u64::try_from(exchanges.0).unwrap_or(0) << 20);
        if let Some(why) = why {
            eprintln!("soak, after {} s: {why}", begun.elapsed().as_secs());
        }
        exchanges = (exchanges.0 + idle.len(), exchanges.1 + idle.len() - kept);
        std::thread::sleep(EXCHANGE_EVERY.min(lasts.saturating_sub(begun.elapsed())));
        if begun.elapsed() >= MINUTE * u32::try_from(minutes.len() + 1)? {
            let before: u64 = minutes.iter().map(|minute: &Minute| minute.elections).sum();
            let (stall_ms, elections) = look();
            minutes.push(Minute { stall_ms, elections: elections - before });
        }
    }
    Ok(exchanges)
}

/// Milliseconds stolen since the machine started (`steal` of /proc/stat, in hundredths of a second).
fn stolen_ms() -> Result<u64> {
    let stat = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let ticks = stat.lines().next().and_then(|all| all.split_whitespace().nth(8)).context("steal in /proc/stat")?;
    Ok(ticks.parse::<u64>()? * 10)
}

fn judged(mut findings: Findings) -> Findings {
    let reasons = [
        (findings.explained.elections_unexplained > 0, "elections that nothing explains"),
        (
            findings.owners_changed > 0 && findings.explained.moves.is_empty(),
            "shards changed their owner without an election",
        ),
        (
            findings.datagrams_lost.saturating_sub(findings.dropped_at_ends) > findings.datagrams / LOST_ONE_IN,
            "datagrams lost on the way",
        ),
        (findings.longest_silence_ms > SILENCE_MS_MAX, "a stream was silent for too long"),
        (findings.new_flows_lost > findings.new_flows / LOST_ONE_IN, "new flows without an answer"),
        (findings.exchanges_failed > 0, "idle connections failed"),
        (findings.downloads_right < findings.downloads || findings.downloads == 0, "downloads failed"),
    ];
    findings.reasons = reasons.iter().filter(|(wrong, _)| *wrong).map(|(_, what)| (*what).to_owned()).collect();
    findings.pass = findings.reasons.is_empty();
    findings
}

fn table(findings: &Findings) -> Result<String> {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    let serde_json::Value::Object(fields) = serde_json::to_value(findings)? else { return Ok(String::new()) };
    for (name, value) in fields {
        table.add_row([name.replace('_', " "), value.to_string()]);
    }
    Ok(table.to_string())
}

/// One download after the other: how many, and how many had the right digest.
fn download(dir: &Path, backend: u32, over: &AtomicBool) -> Result<(usize, usize)> {
    let mut count = (0, 0);
    while !over.load(Ordering::Relaxed) {
        let right = match Download::start(dir, backend, DOWNLOAD_BYTES).finish() {
            Ok(right) => right,
            Err(error) => {
                eprintln!("soak: download of b{backend}: {error:#}");
                std::thread::sleep(ANSWER_TIMEOUT);
                false
            }
        };
        count = (count.0 + 1, count.1 + usize::from(right));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Findings {
        Findings {
            seconds: 60,
            stolen_ms: 0,
            longest_stall_ms: 1.0,
            elections: 0,
            healthy_minutes: 1,
            elections_while_healthy: 0,
            explained: Explained::default(),
            owners_changed: 0,
            datagrams: 180_000,
            datagrams_lost: 0,
            dropped_at_ends: 0,
            longest_silence_ms: 5.0,
            longest_silence_over: None,
            longest_sender_pause_ms: 9.0,
            new_flows: 6_000,
            new_flows_lost: 0,
            new_flow_p99_ms: 1.0,
            new_flow_max_ms: 2.0,
            exchanges: 12_000,
            exchanges_failed: 0,
            downloads: 50,
            downloads_right: 50,
            losses: Losses::new(),
            pass: false,
            reasons: Vec::new(),
        }
    }

    #[test]
    fn a_minute_is_healthy_if_nothing_stood_still_in_it_or_before() {
        let minute = |stall_ms, elections| Minute { stall_ms, elections };
        assert_eq!(healthy(&[]), (0, 0));
        assert_eq!(healthy(&[minute(3.0, 0), minute(90.0, 2), minute(4.0, 1), minute(5.0, 1), minute(2.0, 0)]), (3, 1));
    }

    #[test]
    fn an_election_that_nothing_explains_or_one_failed_connection_fails_a_soak() {
        assert!(judged(well()).pass);
        let by_stalls = Explained { elections_by_stalls: 1, ..Explained::default() };
        assert!(judged(Findings { elections: 1, explained: by_stalls, ..well() }).pass, "the machine stood still");
        let unexplained = Explained { elections_unexplained: 1, ..Explained::default() };
        assert_eq!(
            judged(Findings { elections: 1, explained: unexplained, ..well() }).reasons,
            ["elections that nothing explains"]
        );
        assert!(!judged(Findings { owners_changed: 1, ..well() }).pass);
        assert!(!judged(Findings { exchanges_failed: 1, ..well() }).pass);
        assert!(!judged(Findings { longest_silence_ms: 51.0, ..well() }).pass);
        let lost = Findings { datagrams_lost: 400, ..well() };
        assert!(!judged(lost).pass);
        assert!(
            judged(Findings { datagrams_lost: 400, dropped_at_ends: 399, ..well() }).pass,
            "one got lost on the way"
        );
        assert!(!judged(Findings { downloads: 0, downloads_right: 0, ..well() }).pass);
    }
}
