//! `qnat-bench offered`, `direct` and `million`: small datagrams that the kernel makes, by one processor, and counts and drops where they arrive. All that is
//! between, gateways and switches, has another processor to itself, so what arrives is what a gateway carries by one.

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use netio::thread::allowed_cpus;
use qnat_ends::End;
use qnat_lab::Host;
use qnat_lab::topology::{FABRIC, INET, Network, backend_address, fabric_port};

use super::sample::{Figure, Unit};
use crate::beside;
use crate::lab::Lab;
use crate::nftables::{FLOOD, Room};
use crate::offer::{Flows, Generator, RATE_MIN, Sink};

/// The gateway of the lab's network.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Flows to each of the remote's ports: fewer than a lease has ports.
const PORTS: u16 = 1_000;
/// The first of their inside ports.
const FIRST: u16 = 20_000;
/// Ports of the remote that known flows go to.
const KNOWN: u16 = 300;
/// And a measurement of new ones: no flow is sent by twice, however much is lost at once. By a switch less can be sent.
pub(super) const NEW: u16 = 1_000;
pub(super) const NEW_WITHOUT_SWITCH: u16 = 4_000;
/// New flows a second while they are opened, of fewer than so many.
const OPENED: u32 = 20_000;
const MANY: u64 = 500_000;
const OPENED_WITHIN: Duration = Duration::from_secs(120);
/// What may be missing of a load that counts as carried, one in so many.
const LOST_ONE_IN: u64 = 200;
/// How often the greatest load that is carried is bounded by a half.
const STEPS: usize = 6;
/// Loads above what was taken of as much as can be sent, in tenths of it.
const OVERLOADS: [u32; 3] = [20, 15, 12];
/// The last datagrams may still be on their way.
pub(super) const ARRIVES_WITHIN: Duration = Duration::from_millis(50);

/// Figures, and what was offered and what arrived of it, thousands a second, load by load.
pub(super) type Carried = (Vec<Figure>, Vec<(f64, f64)>);

/// A client's way: interfaces by their namespaces.
#[derive(Debug)]
pub(super) struct Wire {
    /// Where its frames are made.
    pub(super) client: (String, String),
    /// Its address.
    pub(super) source: Ipv4Addr,
    /// Where they come in first, which is the other end of that.
    pub(super) first: (String, String),
    /// Where they are counted.
    pub(super) server: (String, String),
}

impl Wire {
    /// As a backend of a lab hangs on its switch.
    pub(super) fn of(backend: u32) -> Self {
        let (host, eth0) = (Host::Backend(backend), |namespace: String| (namespace, "eth0".to_owned()));
        let first = (FABRIC.to_owned(), fabric_port(host, Network::Inside));
        let (client, server) = (eth0(host.namespace()), eth0(INET.to_owned()));
        Self { client, source: backend_address(backend), first, server }
    }

    fn generator(&self) -> Result<Generator> {
        let (client, first) = (&self.client, &self.first);
        Generator::new((&client.0, &client.1), (&first.0, &first.1))
    }

    fn flows(&self, remote: Ipv4Addr, count: u32, to: u16) -> Result<Flows> {
        let end = End::open(&self.client.0, &self.client.1)?;
        let gateway = if remote == beside::BY_CLUSTER { GATEWAY } else { beside::INSIDE };
        end.hello(remote)?;
        let macs = (end.mac, end.neighbour(gateway)?);
        Ok(Flows { macs, source: self.source, remote, count, inside: (FIRST, PORTS), to })
    }
}

/// Both ends.
#[derive(Debug)]
pub(super) struct Offered {
    wires: Vec<Wire>,
    /// One for each of them, with its processor.
    generators: RefCell<Vec<(Generator, usize)>>,
    sink: Sink,
    /// Ports of the remote for a measurement of new flows.
    new: u16,
    /// Measurements of new flows so far.
    turns: Cell<usize>,
    /// For the peer's.
    _room: Option<Room>,
}

impl Offered {
    /// One client in a lab that is up, and a processor for each side. The kernel tracks connections if it has a masquerade beside it.
    ///
    /// # Errors
    /// Without two processors, or if a step fails.
    pub(super) fn of_one(lab: &Lab, wire: Wire, new: u16, tracks: bool) -> Result<Self> {
        let cpus = allowed_cpus()?;
        let [cpu, gateway, ..] = cpus[..] else { bail!("needs two processors") };
        let this = Self::of(vec![(wire, cpu)], new, tracks)?;
        // What a frame causes on its way happens where its first receiver runs: in a thread of its own, on the other processor.
        let (namespace, port) = &this.wires[0].first;
        let threaded = format!("echo 1 > /sys/class/net/{port}/threaded");
        let set = Command::new("ip").args(["netns", "exec", namespace, "sh", "-c", &threaded]).status()?;
        ensure!(set.success(), "{port} has no thread for what it receives");
        pin(receiver_of(port)?, gateway)?;
        lab.pids()?.into_iter().try_for_each(|pid| pin(pid, gateway))?;
        Ok(this)
    }

    /// Clients in a lab that is up, each by a processor that its frames' way has besides, as far as it goes in the kernel; workers and
    /// all else run where they may.
    ///
    /// # Errors
    /// If a step fails.
    pub(super) fn of_all(wires: impl IntoIterator<Item = Wire>) -> Result<Self> {
        Self::of(wires.into_iter().zip(allowed_cpus()?.into_iter().cycle()).collect(), NEW, false)
    }

    fn of(wires: Vec<(Wire, usize)>, new: u16, tracks: bool) -> Result<Self> {
        let generators = wires.iter().map(|(wire, cpu)| Ok((wire.generator()?, *cpu))).collect::<Result<Vec<_>>>()?;
        let wires: Vec<Wire> = wires.into_iter().map(|(wire, _)| wire).collect();
        let (namespace, interface) = &wires.first().context("a client")?.server;
        let sink = Sink::new(namespace, interface)?;
        let room = tracks.then(Room::raised).transpose()?;
        Ok(Self { generators: RefCell::new(generators), sink, new, turns: Cell::new(0), _room: room, wires })
    }

    /// `count` flows from each client by one of the gateways.
    ///
    /// # Errors
    /// If the gateway's address is not answered for.
    pub(super) fn flows(&self, remote: Ipv4Addr, count: u32) -> Result<Vec<Flows>> {
        self.wires.iter().map(|wire| wire.flows(remote, count, FLOOD.start)).collect()
    }

    /// As many new ones as a measurement takes.
    ///
    /// # Errors
    /// As `flows`.
    pub(super) fn new_flows(&self, remote: Ipv4Addr) -> Result<Vec<Flows>> {
        let turn = self.turns.get();
        self.turns.set(turn + 1);
        let to = FLOOD.skip(usize::from(KNOWN)).step_by(self.new.into()).cycle().nth(turn).context("a port")?;
        let count = u32::from(self.new) * u32::from(PORTS);
        self.wires.iter().map(|wire| wire.flows(remote, count, to)).collect()
    }

    /// Sends by each flow until all of them pass and `carried` says that they are where they are to be.
    ///
    /// # Errors
    /// If that takes too long.
    pub(super) fn open(&self, flows: &[Flows], carried: impl Fn() -> Result<bool>) -> Result<()> {
        let (began, count) = (Instant::now(), flows.iter().map(|flows| u64::from(flows.count)).sum::<u64>());
        let rate = if count < MANY { OPENED } else { 3 * OPENED };
        loop {
            let (sent, arrived, _) = self.send(flows, Some(rate), Duration::from_secs(count / u64::from(rate) + 1))?;
            if is_whole(sent, arrived) && carried()? {
                return Ok(());
            }
            ensure!(began.elapsed() < OPENED_WITHIN, "of {sent} datagrams of {count} flows {arrived} arrive");
        }
    }

    /// What was sent, by all of them together, what arrived, and how long they sent.
    ///
    /// # Errors
    /// If a generator fails.
    pub(super) fn send(&self, flows: &[Flows], rate: Option<u32>, lasting: Duration) -> Result<(u64, u64, Duration)> {
        let before = self.sink.arrived()?;
        let mut generators = self.generators.borrow_mut();
        let each = rate.map(|rate| rate / u32::try_from(generators.len()).unwrap_or(1));
        let sent = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for ((generator, cpu), flows) in generators.iter_mut().zip(flows) {
                threads.push(scope.spawn(|| generator.send(flows, each, *cpu, lasting)));
            }
            let sent = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a generator panicked"))?);
            sent.collect::<Result<Vec<(u64, Duration)>>>()
        })?;
        std::thread::sleep(ARRIVES_WITHIN);
        let took = sent.iter().map(|(_, took)| *took).max().unwrap_or_default();
        Ok((sent.iter().map(|(sent, _)| sent).sum(), self.sink.arrived()? - before, took))
    }

    /// What `work` measures of new flows, if each that arrived has a mapping of its own since then.
    ///
    /// # Errors
    /// As `work`, or if flows were not new.
    pub(super) fn all_new(&self, lab: &Lab, work: impl FnOnce() -> Result<Carried>) -> Result<Carried> {
        let (counted, before) = (lab.settled()?, self.sink.arrived()?);
        let carried = work()?;
        let arrived = self.sink.arrived()? - before;
        let opened = lab.settled()?.since(&counted).committed;
        ensure!(opened >= arrived, "{arrived} datagrams arrived by {opened} new flows");
        Ok(carried)
    }

    /// The most that arrives, and the greatest load of which all but one in [`LOST_ONE_IN`] arrive, of loads from as much as can be
    /// sent downwards: what cannot be taken costs as well, so that most arrives at some load between. `measured` surrounds the first.
    ///
    /// # Errors
    /// If the generator fails.
    pub(super) fn carried(
        &self,
        flows: &[Flows],
        measured: &mut dyn FnMut(&mut dyn FnMut()) -> Result<()>,
        lasting: Duration,
    ) -> Result<Carried> {
        let mut flood = Ok((0, 0, lasting));
        measured(&mut || flood = self.send(flows, None, lasting))?;
        let (sent, arrived, took) = flood?;
        let kilo = |count: u64, took: Duration| count as f64 / took.as_secs_f64() / 1e3;
        let (mut curve, mut whole) = (vec![(kilo(sent, took), kilo(arrived, took))], 0.0);
        let taken = u32::try_from(u128::from(arrived) * 1_000_000 / took.as_micros())?;
        let (mut least, mut most) = (0, taken.saturating_mul(2));
        let above = OVERLOADS.map(|tenths| taken / 10 * tenths);
        for step in 0..above.len() + STEPS {
            let rate = above.get(step).copied().unwrap_or_else(|| u32::midpoint(least, most)).max(2 * RATE_MIN);
            let (sent, arrived, took) = self.send(flows, Some(rate), lasting / 2)?;
            curve.push((kilo(sent, took), kilo(arrived, took)));
            if is_whole(sent, arrived) {
                least = least.max(rate);
                whole = f64::max(whole, kilo(sent, took));
            } else {
                most = most.min(rate);
            }
        }
        let (offered, arrived) = curve.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
        let figures = [(Unit::Kpps, arrived), (Unit::KppsOffered, offered), (Unit::KppsWhole, whole)]
            .map(|(unit, value)| Figure { unit, value });
        Ok((figures.to_vec(), curve))
    }
}

const fn is_whole(sent: u64, arrived: u64) -> bool {
    sent.saturating_sub(arrived) <= sent / LOST_ONE_IN
}

/// The kernel's thread for what an interface receives.
fn receiver_of(interface: &str) -> Result<u32> {
    let name = format!("napi/{interface}-");
    for process in std::fs::read_dir("/proc")? {
        let path = process?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        // One that has ended meanwhile has no name.
        if std::fs::read_to_string(Path::new(&path).join("comm")).is_ok_and(|comm| comm.starts_with(&name)) {
            return Ok(pid);
        }
    }
    bail!(
        "no thread is called {name}…: run it where the kernel's threads are seen, not in a namespace of processes of its own"
    )
}

/// Lets a process, with all its threads, run on one processor alone.
fn pin(pid: u32, cpu: usize) -> Result<()> {
    let (cpu, pid) = (cpu.to_string(), pid.to_string());
    let output = Command::new("taskset").args(["-a", "-p", "-c", &cpu, &pid]).output().context("taskset")?;
    ensure!(output.status.success(), "taskset of {pid}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
