//! `qnat-bench syn-flood`: SYNs of clients that do not exist, towards one frontend's rule, and what genuine clients of that frontend
//! and of another one in the same shard notice. Quiet stretches stand between the floods. Generator, clients, servers and all
//! members share the processors.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use comfy_table::{Table, presets};
use hdrhistogram::Histogram;
use netio::netns;
use qnat_ends::End;
use qnat_lab::Host;
use qnat_lab::topology::{INET, INSIDE_GATEWAY, INSIDE_NETWORK, INSIDE_PREFIX, backend_address};
use qnat_reference::packet::{TCP, ipv4, tcp};

use crate::lab::Lab;
use crate::load::TripTimes;
use crate::machine;
use crate::nftables;
use crate::numbers::Spread;

/// The frontend that is flooded and the one beside it; each leads to a backend of its own.
const FRONTENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];
const PORT: u16 = 80;
/// Clients that do not exist: who is asked for them answers ARP, and drops what comes.
const STRANGERS: (Ipv4Addr, u32) = (Ipv4Addr::new(203, 0, 113, 128), 64);
/// Ports of each of them.
const STRANGER_PORTS: std::ops::Range<u16> = 1_024..61_024;
const SYN: u8 = 0x02;
/// Between two connections of a genuine client.
const INTERVAL: Duration = Duration::from_millis(5);
/// A client whose first SYN is lost sends another one after a second: such a connection counts as failed.
const PATIENCE: Duration = Duration::from_millis(900);
/// Before each stretch.
const REST: Duration = Duration::from_secs(1);

/// Arguments of `qnat-bench syn-flood`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The executable under test.
    #[arg(long, default_value = "target/release/qnat")]
    binary: PathBuf,
    /// SYNs a second, one rate after the other.
    #[arg(long = "rate", value_delimiter = ',', default_values_t = [10_000, 50_000, 200_000])]
    rates: Vec<u32>,
    /// How long each flood, and each quiet stretch.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// How often all of it.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
}

/// What genuine clients of a frontend saw: handshake, one octet there and back.
struct Seen {
    times: TripTimes,
    failed: u64,
}

/// One flood, or none.
struct Stretch {
    offered: f64,
    /// Of the flooded frontend, and of the one beside it.
    seen: [Seen; 2],
    busy: f64,
    drops: Vec<(String, u64)>,
    elections: u64,
}

/// Measures it and prints it.
///
/// # Errors
/// If the lab does not come up, or refuses the rules.
pub fn run(args: &Args) -> Result<()> {
    // A second address joins the only shard there may be: one worker judges what comes to either.
    let lab = Lab::up(&args.binary, 2, &["--frontends", "1"])?;
    lab.apply(&resources())?;
    netns::run_in(INET, || nftables::strangers(STRANGERS.0, 26))??;
    let stop = AtomicBool::new(false);
    let rates: Vec<u32> = std::iter::once(0).chain(args.rates.iter().copied()).collect();
    let rounds = std::thread::scope(|scope| -> Result<_> {
        let (lab, stop) = (&lab, &stop);
        let servers = [1, 2].map(|backend| scope.spawn(move || lab.within(Host::Backend(backend), || serve(stop))));
        let mut rounds = Vec::new();
        let mut measured = Ok(());
        for round in 0..args.rounds {
            let stretches: Result<Vec<Stretch>> = rates.iter().map(|rate| stretch(lab, *rate, args.seconds)).collect();
            match stretches {
                Ok(stretches) => rounds.push(stretches),
                Err(error) => measured = Err(error),
            }
            eprintln!("round {} of {}", round + 1, args.rounds);
        }
        stop.store(true, Ordering::Relaxed);
        for server in servers {
            server.join().map_err(|_| anyhow!("a server panicked"))???;
        }
        measured.map(|()| rounds)
    })?;
    print(&rates, &rounds)
}

fn print(rates: &[u32], rounds: &[Vec<Stretch>]) -> Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "SYN/s",
        "offered/s",
        "flooded: failed",
        "p50, ms",
        "p99, ms",
        "beside: failed",
        "p50, ms",
        "p99, ms",
        "cores busy",
        "drops",
        "elections",
    ]);
    for (at, rate) in rates.iter().enumerate() {
        let column: Vec<&Stretch> = rounds.iter().map(|round| &round[at]).collect();
        let spread = |of: &dyn Fn(&Stretch) -> f64, digits: usize| {
            let Spread { median, min, max } = Spread::of(column.iter().map(|one| of(one))).expect("at least one round");
            format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
        };
        let mut row = vec![rate.to_string(), spread(&|one| one.offered, 0)];
        for which in 0..2 {
            let failed: u64 = column.iter().map(|one| one.seen[which].failed).sum();
            let all: u64 = column.iter().map(|one| one.seen[which].times.count).sum::<u64>() + failed;
            row.push(format!("{failed} of {all}"));
            row.push(spread(&|one| one.seen[which].times.p50_us / 1e3, 2));
            row.push(spread(&|one| one.seen[which].times.p99_us / 1e3, 2));
        }
        row.push(spread(&|one| one.busy, 2));
        let mut drops = std::collections::BTreeMap::<&str, u64>::new();
        column.iter().flat_map(|one| &one.drops).for_each(|(reason, n)| *drops.entry(reason).or_default() += n);
        row.push(drops.iter().map(|(reason, n)| format!("{reason} {n}")).collect::<Vec<_>>().join(", "));
        row.push(column.iter().map(|one| one.elections).sum::<u64>().to_string());
        table.add_row(row);
    }
    let place = machine::Machine::here()?.place();
    writeln!(std::io::stdout(), "{table}\n\n{} rounds. {place}.", rounds.len()).context("standard output")
}

fn stretch(lab: &Lab, rate: u32, seconds: u64) -> Result<Stretch> {
    std::thread::sleep(REST);
    let (lasting, before, busy) = (Duration::from_secs(seconds), lab.counted()?, machine::cpu_busy()?);
    let stop = AtomicBool::new(false);
    let (sent, seen, ran) = std::thread::scope(|scope| -> Result<_> {
        let stop = &stop;
        let clients = FRONTENDS.map(|frontend| scope.spawn(move || lab.within(Host::Inet, || client(frontend, stop))));
        let began = Instant::now();
        let sent = flood(rate, lasting);
        let ran = (machine::cpu_busy()? - busy) / began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let seen = clients.map(|client| client.join().map_err(|_| anyhow!("a client panicked"))?);
        let [flooded, beside] = seen;
        Ok((sent?, [flooded??, beside??], ran))
    })?;
    let during = lab.settled()?.since(&before);
    Ok(Stretch {
        offered: sent as f64 / lasting.as_secs_f64(),
        seen,
        busy: ran,
        drops: during.drops,
        elections: during.elections,
    })
}

/// Sends `rate` SYNs a second, each of a client that was not there before; how many.
fn flood(rate: u32, lasting: Duration) -> Result<u64> {
    let end = End::open(INET, "eth0")?;
    let macs = (end.mac, end.neighbour(FRONTENDS[0])?);
    let (began, mut sent) = (Instant::now(), 0_u64);
    while began.elapsed() < lasting {
        let due = began.elapsed().as_secs_f64() * f64::from(rate);
        while (sent as f64) < due && began.elapsed() < lasting {
            let (from, port) = stranger(sent);
            let segment = tcp((port, PORT), (u32::try_from(sent & 0xffff_ffff)?, 0), SYN, &[], &[]);
            end.send(&ipv4(macs, from, FRONTENDS[0], TCP, &segment))?;
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(sent)
}

fn stranger(number: u64) -> (Ipv4Addr, u16) {
    let (first, count) = STRANGERS;
    let ports = u64::from(STRANGER_PORTS.end - STRANGER_PORTS.start);
    let host = u32::try_from(number % u64::from(count)).expect("few hosts");
    let port = u16::try_from(number / u64::from(count) % ports).expect("below the number of ports");
    (Ipv4Addr::from(u32::from(first) + host), STRANGER_PORTS.start + port)
}

/// Opens connection after connection, each for one octet there and back.
fn client(frontend: Ipv4Addr, stop: &AtomicBool) -> Result<Seen> {
    let mut trips = Histogram::<u64>::new_with_bounds(1, 10_000_000_000, 3).context("histogram")?;
    let mut failed = 0;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        match ask(frontend) {
            Ok(()) => trips.saturating_record(u64::try_from(began.elapsed().as_nanos())?),
            Err(_) => failed += 1,
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(Seen { times: TripTimes::of(&trips), failed })
}

fn ask(frontend: Ipv4Addr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((frontend, PORT)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

/// Answers each connection's octet.
fn serve(stop: &AtomicBool) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    listener.set_nonblocking(true)?;
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut octet = [0];
        // Who went away counts it as failed.
        let _gone = stream.read_exact(&mut octet).and_then(|()| stream.write_all(&octet));
    }
    Ok(())
}

/// Two frontends of one shard, each with a rule, a pool and a backend.
fn resources() -> String {
    let mut text = format!(
        "[settings]\nshards_max = 1\n[outside]\nnetwork = \"203.0.113.0/24\"\n[[virtual_network]]\nname = \"vnet1\"\n\
         [[virtual_network.subnet]]\nname = \"default\"\nprefix = \"{INSIDE_NETWORK}/{INSIDE_PREFIX}\"\ngateway = \"{INSIDE_GATEWAY}\"\n"
    );
    for (at, frontend) in (1..).zip(FRONTENDS) {
        text += &format!(
            "[[public_ip]]\nname = \"pip{at}\"\naddress = \"{frontend}\"\n[[load_balancer]]\nname = \"lb{at}\"\n\
             frontends = [\"pip{at}\"]\n[[load_balancer.pool]]\nname = \"pool\"\n[[load_balancer.load_balancing_rule]]\n\
             name = \"web\"\nfrontend = \"pip{at}\"\nprotocol = \"tcp\"\nfrontend_port = {PORT}\npool = \"pool\"\n\
             backend_port = {PORT}\n[[instance]]\nname = \"b{at}\"\n[[instance.ip_configuration]]\nname = \"ipconfig1\"\n\
             private_ip = \"{}\"\nsubnet = \"vnet1/default\"\npool = \"lb{at}/pool\"\n",
            backend_address(at)
        );
    }
    text
}
