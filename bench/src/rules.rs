//! `qnat-bench rules`: round trips of a stream that stands while members take, compile and apply as many security rules as a cluster
//! has, again and again others, beside quiet times of the same length. Clients, server, switches and all members share the
//! processors.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use hdrhistogram::Histogram;
use qnat::answers::ConfigFile;
use qnat::daemon::request::{Request, ResourceKind};
use qnat_lab::Host;
use qnat_lab::topology::INET_ADDRESSES;

use crate::lab::Lab;
use crate::load::{self, ECHO_PORTS, TripTimes};
use crate::numbers::Spread;

/// As many as a cluster has: 65,536 in all, 1,000 in a group.
const GROUPS: u32 = 65;
const RULES: u32 = 1_000;
/// Between two datagrams.
const INTERVAL: Duration = Duration::from_millis(1);
/// Answers that come later are lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// Without another rule, before each time that counts.
const REST: Duration = Duration::from_secs(1);

/// Arguments of `qnat-bench rules`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The executable under test.
    #[arg(long, default_value = "target/release/qnat")]
    binary: PathBuf,
    /// How often other rules are applied.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
}

/// A stream over some time.
struct Stretch {
    times: TripTimes,
    lost: u64,
    lasted: Duration,
}

/// Measures it and prints it.
///
/// # Errors
/// If the lab does not come up, or refuses the rules.
pub fn run(args: &Args) -> Result<()> {
    let lab = Lab::up(&args.binary, 4, &[])?;
    let before = lab.counted()?;
    let told: ConfigFile = lab.ask(1, &Request::Get { kind: ResourceKind::Config })?;
    let stop = AtomicBool::new(false);
    let [remote, _] = INET_ADDRESSES;
    let (quiet, busy) = std::thread::scope(|scope| -> Result<_> {
        let echo = scope.spawn(|| lab.within(Host::Inet, || load::echo(remote, &stop)));
        let measured = rounds(&lab, args.rounds, &told.file, remote);
        stop.store(true, Ordering::Relaxed);
        echo.join().map_err(|_| anyhow::anyhow!("the echo service panicked"))???;
        measured
    })?;
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["", "s", "datagrams", "lost", "p50, µs", "p99, µs", "longest, ms"]);
    for (name, all) in [("nothing changes", &quiet), ("rules are applied", &busy)] {
        let spread = |of: fn(&Stretch) -> f64, digits: usize| {
            let Spread { median, min, max } = Spread::of(all.iter().map(of)).expect("at least one round");
            format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
        };
        table.add_row([
            name.to_owned(),
            spread(|one| one.lasted.as_secs_f64(), 1),
            all.iter().map(|one| one.times.count).sum::<u64>().to_string(),
            all.iter().map(|one| one.lost).sum::<u64>().to_string(),
            spread(|one| one.times.p50_us, 0),
            spread(|one| one.times.p99_us, 0),
            spread(|one| one.times.max_us / 1e3, 1),
        ]);
    }
    let (groups, rules, rounds, elections) =
        (GROUPS, GROUPS * RULES, args.rounds, lab.counted()?.since(&before).elections);
    let out = &mut std::io::stdout();
    writeln!(out, "{table}\n\n{rounds} rounds; {groups} groups with {rules} rules in all. {elections} elections.")
        .context("standard output")
}

/// In turns: a quiet stretch as long as the one before it, and one while other rules are applied.
fn rounds(lab: &Lab, rounds: u32, file: &str, remote: Ipv4Addr) -> Result<(Vec<Stretch>, Vec<Stretch>)> {
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    // The first rules come where there were none.
    apply(lab, file, 0)?;
    for round in 1..=rounds {
        std::thread::sleep(REST);
        busy.push(stretch(lab, remote, || apply(lab, file, round))?);
        let lasted = busy.last().map_or(REST, |one| one.lasted);
        std::thread::sleep(REST);
        quiet.push(stretch(lab, remote, || {
            std::thread::sleep(lasted);
            Ok(())
        })?);
    }
    Ok((quiet, busy))
}

/// Has a stream of a flow that stands run beside `work`.
fn stretch(lab: &Lab, remote: Ipv4Addr, work: impl FnOnce() -> Result<()>) -> Result<Stretch> {
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let (trips, sent) = std::thread::scope(|scope| -> Result<_> {
        let stream = scope.spawn(|| lab.within(Host::Backend(1), || stream(remote, &stop)));
        let worked = work();
        stop.store(true, Ordering::Relaxed);
        let trips = stream.join().map_err(|_| anyhow::anyhow!("the stream panicked"))???;
        worked.map(|()| trips)
    })?;
    let times = TripTimes::of(&trips);
    Ok(Stretch { lost: sent - times.count, times, lasted: began.elapsed() })
}

/// Sends a datagram each millisecond, whether those before were answered or not; each says when it was sent.
fn stream(remote: Ipv4Addr, stop: &AtomicBool) -> Result<(Histogram<u64>, u64)> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((remote, ECHO_PORTS.start))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut trips = Histogram::new_with_bounds(1, 10_000_000_000, 3).context("histogram")?;
    let began = Instant::now();
    let now = || u64::try_from(began.elapsed().as_nanos()).expect("less than centuries");
    std::thread::scope(|scope| -> Result<_> {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                // What does not fit into the queue of the interface was not sent.
                sent += u64::from(socket.send(&now().to_be_bytes()).is_ok());
                let next = INTERVAL * u32::try_from(sent).unwrap_or(u32::MAX);
                std::thread::sleep(next.saturating_sub(began.elapsed()));
            }
            sent
        });
        let mut back = [0; 8];
        loop {
            match socket.recv(&mut back) {
                Ok(_) => trips.saturating_record(now().saturating_sub(u64::from_be_bytes(back))),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    // Nothing for a second: the last answer is there.
                    if sender.is_finished() {
                        break;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        let sent = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
        Ok((trips, sent))
    })
}

/// Makes the rules of another round those of the cluster.
fn apply(lab: &Lab, file: &str, round: u32) -> Result<()> {
    lab.apply(&with_rules(file, round)?)
}

/// The lab's own configuration, and instances that nobody runs, each behind a group of its own.
fn with_rules(file: &str, round: u32) -> Result<String> {
    let mut text = file.to_owned();
    for group in 0..GROUPS {
        writeln!(
            text,
            "[[nic]]\nname = \"bench{group}\"\nsubnet = \"vnet1/default\"\nsecurity_group = \"bench{group}\"\n\
             [[instance]]\nname = \"bench{group}\"\n[[instance.ip_configuration]]\nname = \"a\"\n\
             private_ip = \"10.0.200.{}\"\nnic = \"bench{group}\"\n[[security_group]]\nname = \"bench{group}\"",
            group + 1
        )?;
        for rule in 0..RULES {
            let (port, net) = ((rule * 61 + round) % 60_000 + 1, rule % 250);
            writeln!(
                text,
                "[[security_group.rule]]\nname = \"r{rule}\"\npriority = {}\ndirection = \"inbound\"\naccess = \"deny\"\n\
                 protocol = \"tcp\"\nsource = \"198.{}.{net}.0/24\"\ndestination_ports = \"{port}-{}\"",
                rule + 100,
                group + 18,
                port + 300
            )?;
        }
    }
    Ok(text)
}
