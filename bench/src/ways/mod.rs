//! `qnat-bench bulk`, `rtt`, `pps`: packets of flows that stand, through the cluster with the kernel's fast path, without it,
//! and through a masquerade of the kernel's that hangs on the same bridges; one after the other in each round, in turning order.
//! `offered`: what one processor carries of datagrams that the kernel makes; `direct`: the same without switches and other members.
//! `million`: `direct` with a million flows. `crew`: what a second worker is worth. `between`: those of two instances whose ports are isolated, beside a plain bridge with rules.
//!
//! All but `direct` and `million` show only what the lab shows: both ends, the switches and the gateways share the processors.

pub mod concurrent;
pub mod crew;
pub(crate) mod curves;
mod direct;
mod grouped;
mod loads;
mod offered;
mod sample;
pub mod tables;
mod tools;
mod traffic;

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use netio::netns;
use qnat::answers::{Counted, FastPath};
use qnat::daemon::data_config::Cache;
use qnat::daemon::request::Request;
use qnat_lab::Host;
use qnat_lab::topology::{INET, backend_address};
use serde::{Deserialize, Serialize};

use crate::beside::{BY_BRIDGE, BY_CLUSTER, BY_MASQUERADE, Beside};
use crate::lab::{Lab, NODES};
use crate::load::TripTimes;
use crate::machine::{self, Machine};
use crate::nftables;
use crate::printing::Printing;
use direct::Exit;
use grouped::Configurations;
use loads::Load;
pub use loads::Work;
use offered::{NEW, NEW_WITHOUT_SWITCH, Offered, Wire};
use sample::summary;
pub use sample::{Figure, Row, Sample, Unit, Way};
use traffic::Ends;

/// The client.
const BACKEND: u32 = 1;
const CLIENT: Host = Host::Backend(BACKEND);
/// How long the members may take to do what the switch says.
const TURNED_WITHIN: Duration = Duration::from_secs(30);

/// Arguments of `qnat-bench bulk`, `rtt`, `pps`, `offered`, `direct`, `million` and `between`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The executable under test.
    #[arg(long, default_value = "target/release/qnat")]
    binary: PathBuf,
    /// How long each way is measured in a round, under each load.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// How often all of it.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// What the cluster is held against.
    #[arg(long, value_enum, default_value = "nftables")]
    peer: Peer,
    /// Also with the client's subnet behind a security group of as many rules; not for `between`.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    rules: u32,
    /// Members of the cluster; not for `between`, and `direct` and `million` have one.
    #[arg(long, default_value_t = NODES, value_parser = clap::value_parser!(u32).range(1..=7))]
    nodes: u32,
    /// What becomes of the result.
    #[command(flatten)]
    pub printing: Printing,
}

/// What the cluster is held against.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// The kernel's masquerade, on the same bridges; between instances a bridge with rules.
    Nftables,
    /// Nothing: with the fast path against without it.
    None,
}

/// What was measured.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct WaysResult {
    /// Where and when.
    pub machine: Machine,
    /// What.
    pub work: Work,
    /// Seconds of a sample.
    pub seconds: u64,
    /// Of the group that the client's subnet was behind in one of the ways; 0: in none.
    #[serde(default)]
    pub rules: u32,
    /// Members of the cluster.
    #[serde(default = "three")]
    pub nodes: u32,
    /// How many tasks ran or wanted to in the minute before, at the beginning and at the end: who else used the machine.
    pub load_average: (f64, f64),
    /// Changes of owners meanwhile; each takes flows out of the kernel.
    pub elections: u64,
    /// Medians and spreads by load and unit.
    pub summary: Vec<Row>,
    /// Each round.
    pub rounds: Vec<Vec<Sample>>,
}

/// Of results that do not say.
const fn three() -> u32 {
    NODES
}

/// Measures.
///
/// # Errors
/// If the lab, the masquerade beside it or a flow does not come up.
pub fn run(work: Work, args: &Args) -> Result<WaysResult> {
    ensure!(work != Work::Between || args.rules == 0, "between measures without --rules");
    ensure!(work != Work::Between || args.nodes == NODES, "between measures three members");
    let is_direct = work.is_direct();
    let is_plain = args.rules == 0 && args.nodes == NODES;
    ensure!(!is_direct || is_plain, "{} has one member: without --rules and --nodes", work.name());
    let mut ways = vec![Way::Cache];
    ways.extend((work == Work::Direct).then_some(Way::ByDevice));
    ways.push(Way::Worker);
    ways.extend((args.peer == Peer::Nftables).then_some(Way::Nftables));
    ways.extend((args.rules > 0).then_some(Way::Grouped));
    let bench = Bench::up(work, args)?;
    let began = machine::load_average()?;
    let before = bench.lab.counted()?;
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        let mut samples = Vec::new();
        for (name, load) in work.loads() {
            for at in 0..ways.len() {
                let way = ways[(at + round as usize) % ways.len()];
                // By which way frames leave matters to a flow that is new no more, and changes to what the kernel carries.
                let is_new = matches!(load, Load::OfferedNew);
                if is_new && way == Way::ByDevice || matches!(load, Load::OfferedAmid(_)) && way == Way::Worker {
                    continue;
                }
                let sample = bench.sample(way, &name, load)?;
                eprintln!("round {} of {}: {sample}", round + 1, args.rounds);
                samples.push(sample);
            }
        }
        rounds.push(samples);
    }
    Ok(WaysResult {
        machine: Machine::here()?,
        work,
        seconds: args.seconds,
        rules: args.rules,
        nodes: if is_direct { 1 } else { args.nodes },
        load_average: (began, machine::load_average()?),
        elections: bench.lab.counted()?.since(&before).elections,
        summary: summary(&rounds),
        rounds,
    })
}

fn trip_figures(times: &TripTimes) -> Vec<Figure> {
    vec![Figure { unit: Unit::MicrosP50, value: times.p50_us }, Figure { unit: Unit::MicrosP99, value: times.p99_us }]
}

struct Bench {
    lab: Lab,
    /// The lab's own configuration, and the same with a security group.
    configurations: Option<Configurations>,
    lasting: Duration,
    /// The client's namespace and the server's.
    ends: (String, String),
    /// The server's address behind the cluster, and behind what it is held against.
    remotes: (Ipv4Addr, Ipv4Addr),
    /// Floods so far.
    turns: Cell<usize>,
    /// The ends of datagrams that the kernel makes.
    offered: Option<Offered>,
    /// The same of what it is held against, if that has a wire of its own.
    offered_beside: Option<Offered>,
    /// Flows that the kernel of a member without a switch has room for.
    room: u32,
    /// Of a member without a switch.
    exit: Option<Exit>,
    /// What it is held against.
    _beside: Option<Beside>,
}

/// What surrounds the time that counts.
#[derive(Default)]
struct Meter {
    cores: Vec<f64>,
    stolen: f64,
    carried: Option<f64>,
    seconds: f64,
}

impl Meter {
    fn of(work: &mut dyn FnMut()) -> Result<Self> {
        let (cores, began) = (machine::cores()?, Instant::now());
        work();
        let seconds = began.elapsed().as_secs_f64();
        let now = machine::cores()?;
        let used = || now.iter().zip(&cores);
        Ok(Self {
            cores: used().map(|(now, then)| (now.busy - then.busy) / seconds).collect(),
            stolen: used().map(|(now, then)| now.stolen - then.stolen).sum::<f64>() / seconds / now.len() as f64,
            carried: None,
            seconds,
        })
    }
}

impl Bench {
    fn up(work: Work, args: &Args) -> Result<Self> {
        let lasting = Duration::from_secs(args.seconds);
        let beside = |up: &dyn Fn() -> Result<Beside>| (args.peer == Peer::Nftables).then(up).transpose();
        if work == Work::Between {
            let lab = Lab::up(&args.binary, 4, &["--isolated"])?;
            let (client, server) = lab.strangers()?;
            let remotes = (backend_address(server), BY_BRIDGE);
            let (client, server) = (Host::Backend(client), Host::Backend(server));
            let ends = (client.namespace(), server.namespace());
            let beside = beside(&|| Beside::bridge(client, server))?;
            return Ok(Self {
                lab,
                configurations: None,
                lasting,
                ends,
                remotes,
                turns: Cell::new(0),
                offered: None,
                offered_beside: None,
                room: 0,
                exit: None,
                _beside: beside,
            });
        }
        let is_direct = work.is_direct();
        let room = work.room();
        let lab = if is_direct {
            Lab::up_of(1, &args.binary, 1, &["--direct", "--cache-flows", &room.to_string()])?
        } else {
            Lab::up_of(args.nodes, &args.binary, 2, &[])?
        };
        let (mut offered, mut offered_beside) = (None, None);
        let beside = if is_direct {
            beside(&|| Beside::masquerade_that(direct::hang_masquerade))?
        } else {
            beside(&|| Beside::masquerade(CLIENT))?
        };
        if is_direct {
            let [wire, wire_beside] = direct::wires();
            offered = Some(Offered::of_one(&lab, wire, NEW_WITHOUT_SWITCH, false)?);
            offered_beside =
                beside.as_ref().map(|_| Offered::of_one(&lab, wire_beside, NEW_WITHOUT_SWITCH, true)).transpose()?;
        } else if work == Work::Offered {
            offered = Some(Offered::of_one(&lab, Wire::of(BACKEND), NEW, beside.is_some())?);
        } else {
            netns::run_in(INET, nftables::small_sink)??;
        }
        let ends = (CLIENT.namespace(), INET.to_owned());
        let configurations = (args.rules > 0).then(|| Configurations::of(&lab, args.rules)).transpose()?;
        let remotes = (BY_CLUSTER, BY_MASQUERADE);
        let (turns, exit) = (Cell::new(0), (work == Work::Direct).then(Exit::default));
        Ok(Self {
            lab,
            configurations,
            lasting,
            ends,
            remotes,
            turns,
            offered,
            offered_beside,
            room,
            exit,
            _beside: beside,
        })
    }

    /// The ends of datagrams that the kernel makes for a way.
    fn offered(&self, way: Way) -> Result<&Offered> {
        let beside = self.offered_beside.as_ref().filter(|_| way == Way::Nftables);
        beside.or(self.offered.as_ref()).context("no generator")
    }

    fn sample(&self, way: Way, name: &str, load: Load) -> Result<Sample> {
        match way {
            // Datagrams that nobody answers would pass a worker for good.
            Way::Grouped | Way::Cache | Way::ByDevice => {
                let is_eager = self.offered.is_some() && !matches!(load, Load::OfferedNew);
                self.turn(if is_eager { Cache::Eager } else { Cache::On })?;
            }
            Way::Worker => self.turn(Cache::Off)?,
            Way::TwoWorkers | Way::OneWorker | Way::Nftables => {}
        }
        if let Some(exit) = self.exit.as_ref().filter(|_| matches!(way, Way::Cache | Way::ByDevice)) {
            exit.choose(&self.lab, way == Way::ByDevice)?;
        }
        if let Some(configurations) = &self.configurations {
            configurations.choose(&self.lab, way)?;
        }
        let remote = if way == Way::Nftables { self.remotes.1 } else { self.remotes.0 };
        let ends = Ends { client: &self.ends.0, server: &self.ends.1, remote };
        let mut meter = Meter::default();
        let mut measured = |work: &mut dyn FnMut()| {
            meter = self.metered(way, work)?;
            Ok(())
        };
        let mut curve = Vec::new();
        let figures = match load {
            Load::Streams(count, direction) => {
                let value = ends.streams(count, direction, &mut measured, self.lasting)?;
                vec![Figure { unit: Unit::Gbit, value }]
            }
            Load::Iperf(count) => {
                let value = tools::iperf(&ends, count, &mut measured, self.lasting)?;
                vec![Figure { unit: Unit::Gbit, value }]
            }
            Load::Trips => trip_figures(&ends.trips(&mut measured, self.lasting)?),
            Load::Pings => trip_figures(&tools::pings(&ends, &mut measured, self.lasting)?),
            Load::Datagrams(count) => self.datagrams(way, &ends, count, &mut meter)?,
            Load::Offered(count) | Load::OfferedAmid(count) => {
                let is_amid = matches!(load, Load::OfferedAmid(_));
                let offered = self.offered(way)?;
                let flows = offered.flows(remote, count)?;
                let is_cached = matches!(way, Way::Grouped | Way::Cache | Way::ByDevice);
                // Of more than there is room for, nobody says how many.
                let waits = is_cached && count <= self.room;
                offered.open(&flows, || Ok(!waits || self.entries()? >= count.into()))?;
                let mut carried = || offered.carried(&flows, &mut measured, self.lasting);
                let (mut figures, changes);
                ((figures, curve), changes) = if is_amid {
                    let (carried, changes) = direct::amid_changes(&self.lab, carried)?;
                    (carried, Some(changes))
                } else {
                    (carried()?, None)
                };
                figures.extend(changes);
                figures
            }
            Load::OfferedNew => {
                let offered = self.offered(way)?;
                let flows = offered.new_flows(remote)?;
                let mut measure = || offered.carried(&flows, &mut measured, self.lasting / 4);
                let figures;
                (figures, curve) =
                    if way == Way::Nftables { measure()? } else { offered.all_new(&self.lab, measure)? };
                figures
            }
        };
        let Meter { cores, stolen, carried, .. } = meter;
        Ok(Sample { way, load: name.to_owned(), figures, cores, stolen, carried, curve })
    }

    fn datagrams(&self, way: Way, ends: &Ends<'_>, count: usize, meter: &mut Meter) -> Result<Vec<Figure>> {
        let turn = self.turns.get();
        self.turns.set(turn + 1);
        let flows = ends.flows(count, turn)?;
        if matches!(way, Way::Grouped | Way::Cache) {
            let began = Instant::now();
            while self.entries()? < count as u64 {
                if began.elapsed() > TURNED_WITHIN {
                    bail!("the kernel does not carry the {count} flows");
                }
                flows.greet()?;
            }
        }
        let delivered = || netns::run_in(INET, nftables::delivered)?;
        let before = delivered()?;
        let mut sent = Ok(0);
        *meter = self.metered(way, &mut || {
            sent = flows.flood(self.lasting);
            // The last datagrams may still be on their way.
            std::thread::sleep(Duration::from_millis(20));
        })?;
        let thousands = |count: u64| count as f64 / meter.seconds / 1e3;
        Ok(vec![
            Figure { unit: Unit::Kpps, value: thousands(delivered()? - before) },
            Figure { unit: Unit::KppsOffered, value: thousands(sent?) },
        ])
    }

    /// Flows in the kernel.
    fn entries(&self) -> Result<u64> {
        Ok(self.fast()?.iter().map(|fast| fast.entries).sum())
    }

    fn metered(&self, way: Way, work: &mut dyn FnMut()) -> Result<Meter> {
        let frames = self.frames()?;
        let meter = Meter::of(work)?;
        let (carried, all) = self.frames_since(frames)?;
        Ok(Meter { carried: (way != Way::Nftables).then(|| carried as f64 / all.max(1) as f64), ..meter })
    }

    /// Frames that the kernel carried, and that it or workers got.
    fn frames(&self) -> Result<(u64, u64)> {
        let mut sums = (0, 0);
        for node in self.lab.nodes() {
            let counted: Counted = self.lab.ask(node, &Request::Counters)?;
            sums.0 += counted.fast.sent;
            sums.1 += counted.fast.sent + counted.received;
        }
        Ok(sums)
    }

    /// The same since then; members read the kernel's counters twice a second.
    fn frames_since(&self, then: (u64, u64)) -> Result<(u64, u64)> {
        std::thread::sleep(Duration::from_millis(600));
        let now = self.frames()?;
        Ok((now.0 - then.0, now.1 - then.1))
    }

    fn fast(&self) -> Result<Vec<FastPath>> {
        self.lab.nodes().map(|node| self.lab.ask(node, &Request::Cache { turn: None })).collect()
    }

    /// Turns the fast path of all members, and waits until nothing is in the kernel that should not be.
    fn turn(&self, to: Cache) -> Result<()> {
        for node in self.lab.nodes() {
            let _stands: FastPath = self.lab.ask(node, &Request::Cache { turn: Some(to) })?;
        }
        let began = Instant::now();
        while to == Cache::Off && self.fast()?.iter().any(|fast| fast.entries > 0) {
            if began.elapsed() > TURNED_WITHIN {
                bail!("members go on to have flows in the kernel");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let wrong = self
            .fast()?
            .into_iter()
            .flat_map(|fast| fast.interfaces)
            .find(|(_, path)| to != Cache::Off && !path.starts_with("kernel"));
        wrong.map_or(Ok(()), |(interface, path)| Err(anyhow::anyhow!("{interface}: {path}"))).context("no fast path")
    }
}
