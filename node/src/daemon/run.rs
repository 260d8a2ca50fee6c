//! Starts a member: opens what it needs, wires actors and threads, runs until it is told to stop.
//!
//! Order matters at the start: the guard is attached and every lease word is zero before this life registers (K3).

use std::time::Duration;

use actix::{Actor, Arbiter, AsyncContext as _, System};
use anyhow::{Context, Result, anyhow, ensure};
use consensus::control::ControlTiming;
use control::concern::{Concern, Subject, What};
use engine::ids::{Mac, NodeId};
use metrics_exporter_prometheus::PrometheusBuilder;
use netio::bell::Doorbell;
use netio::fast::{FastSize, FastTable};
use netio::guard::Guard;
use netio::lease_table::WordsWriter;
use netio::pulse::Pulse;
use netio::quic::{Identity as TlsIdentity, Transport, TransportConfig};
use netio::sync::spsc::ring;
use netio::thread::{prefer_current, raise_current};
use tokio::sync::{mpsc, oneshot};

use super::answer::Answerer;
use super::ask::Peers;
use super::awake::keep_awake;
use super::bindings::Bindings;
use super::chance::seed;
use super::clerk::Clerk;
use super::clock::now;
use super::concerns::{Alarms, Losses, Memory};
use super::config::NodeConfig;
use super::control_actor::ControlActor;
use super::data_config::Guard as GuardMode;
use super::fast_path::FastSwitch;
use super::flow_actor::{FlowActor, FlowParts};
use super::guard_keeper::{GuardDesk, GuardKeeper};
use super::interfaces::Interfaces;
use super::life::{ENDING, Ending};
use super::machine;
use super::member_lock::MemberLock;
use super::messages::{Meet, StopOrder, ToControl};
use super::metrics::{MetricsPage, publish_metrics};
use super::prober::{ProbeDesk, ProberParts};
use super::reports::Posts;
use super::stopping::{first_order, stop_gracefully};
use super::tape::Tape;
use super::watch::Pulses;
use super::workers::{self, Fast};
use crate::nat_log::{Journal, JournalParts, SessionRing};
use member::control_member::{ControlMember, Identity};

/// Mappings on their way to the address-translation log.
const SESSION_RING: usize = 1 << 14;
/// Frames of questions between members that wait to be looked at.
const ASKED_MAX: usize = 64;
/// Requests of the API under way.
const CALLS_MAX: usize = 64;
/// SCHED_FIFO priority of the flow actor's thread.
const PRIORITY: i32 = 20;
/// And of the control actor's: raft must not wait for traffic, and who holds a lock that the flow thread wants must not either.
const CONTROL_PRIORITY: i32 = 10;
/// Tasks that the flow thread polls between two looks at its timers and sockets.
const POLLS_PER_LOOK: u32 = 4;
/// How often the main thread says that it lives.
const BEAT_EVERY: Duration = Duration::from_millis(100);

/// Runs the member that `config` describes until SIGTERM, SIGINT or an order to stop.
///
/// # Errors
/// If something that the member needs cannot be had.
pub fn run(config: &NodeConfig, ending: Ending) -> Result<()> {
    // Once for each process; a second member in one would be no member.
    let _first_wins = ENDING.set(ending);
    share_the_kernels_clock()?;
    let _exclusive = MemberLock::take(config)?;
    let memory_unlocked = lock_memory();
    let _awake = keep_awake(config.timing.keep_awake);
    let links = Interfaces::named(config)?;
    links.limit_merging();
    let (keeper, writer, fast) = keep_guard(config, &links)?;
    let switch = fast.1.clone();
    let metrics = MetricsPage::new(PrometheusBuilder::new().install_recorder().context("metrics recorder")?);
    System::new().block_on(async move {
        let (shutdown, mut stop) = mpsc::channel(1);
        let (asked, frames) = mpsc::channel(ASKED_MAX);
        let stats = Posts::new(config.workers.count);
        let flow_arbiter = Arbiter::with_tokio_rt(flow_runtime);
        let (transport, events) = start_transport(config, &flow_arbiter).await?;
        let (journal, sessions) = start_journal(config)?;
        let pulses = Pulses::new(config.workers.count);
        let halves = (keeper.desk(), &pulses);
        let (control, prober) = start_control(config, &links, &transport, journal.clone(), halves)?;
        let (bell, probes) = (Doorbell::new()?, prober.desk.clone());
        let (workers, bulk_waiting, spawn) =
            workers::wire(config, (links, writer.reader()), &bell, (stats.clone(), sessions), prober, fast, &pulses)?;
        let parts = FlowParts {
            transport: transport.clone(),
            events,
            bell,
            words: writer,
            control: to_control(&control),
            workers,
            bulk_waiting,
            spawn,
            asked,
            seed: seed()?,
            pulses: pulses.clone(),
        };
        let flows = start_flows(parts, &flow_arbiter);
        control.do_send(Meet { begin: flows.clone().recipient(), views: flows.clone().recipient() });
        let answerer = Answerer {
            control,
            flows,
            stats,
            cluster: config.cluster.clone(),
            node: config.node_id,
            guard: keeper.desk(),
            switch,
            probes,
            journal,
            log_losses: Losses::default(),
            machine: machine::watch(config).context("no thread to look at the machine")?,
            peers: Peers::new(transport.clone()),
            memory: Memory::default(),
            tape: Tape::default(),
            alarms: raised_at_start(config, memory_unlocked),
            log_files: crate::nat_log::files(&config.nat_log_path(), config.nat_log.kept),
            shutdown,
        };
        observe(&metrics, &answerer, frames);
        actix::spawn(beat(pulses.main.clone()));
        super::watch::start(&pulses).context("thread for the watch")?;
        let order = serve_until_told(config, &answerer, metrics, &mut stop).await?;
        stop_gracefully(order, &answerer, &mut stop).await?;
        transport.shutdown().await;
        drop(keeper);
        System::current().stop();
        Ok(())
    })
}

/// The lease word in the kernel and the worker's clock would differ by the shift (L5).
fn share_the_kernels_clock() -> Result<()> {
    ensure!(
        !netio::boottime::is_shifted(),
        "this process is in a time namespace that shifts CLOCK_BOOTTIME, and the kernel's egress guard reads the \
         unshifted clock: start the member in the host's time namespace (`nsenter --time=/proc/1/ns/time`, or no \
         `unshare --time --boottime` and no such container setting)"
    );
    Ok(())
}

/// The main thread's sign of life.
async fn beat(pulse: Pulse) {
    let mut ticker = tokio::time::interval(BEAT_EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticker.tick().await;
        pulse.beat(netio::boottime::now_ns());
    }
}

/// Why memory is not locked, if it is not.
fn lock_memory() -> Option<String> {
    match netio::memory::lock_all() {
        Ok(()) => {
            tracing::info!("memory is locked");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "memory is not locked: a lease may lapse while a page is read from disk");
            Some(error.to_string())
        }
    }
}

/// What is known not to be as it should be before anything runs.
fn raised_at_start(config: &NodeConfig, memory_unlocked: Option<String>) -> Alarms {
    let alarms = Alarms::default();
    if let Some(error) = memory_unlocked {
        let why = format!("its memory is not locked ({error}): a lease may lapse while a page is read from disk");
        let remedy = "raise the limit of locked memory (`ulimit -l unlimited`, LimitMEMLOCK=infinity) and restart it";
        let me = Subject::Member { node: config.node_id };
        alarms.raise(Concern::warning(me, What::MemoryNotLocked, why, remedy));
    }
    alarms
}

/// Starts whatever watches: concerns, metrics, the machine, and other members' questions.
fn observe(metrics: &MetricsPage, answerer: &Answerer, frames: mpsc::Receiver<(u32, bytes::Bytes)>) {
    actix::spawn(super::noting::watch(answerer.clone()));
    actix::spawn(publish_metrics(metrics.clone(), answerer.clone()));
    let asked = answerer.clone();
    actix::spawn(answerer.peers.clone().run(frames, move |request| {
        let asked = asked.clone();
        async move { asked.alone(request).await }
    }));
}

/// Answers the API until a signal or an order to stop comes.
async fn serve_until_told(
    config: &NodeConfig,
    answerer: &Answerer,
    metrics: MetricsPage,
    stop: &mut mpsc::Receiver<StopOrder>,
) -> Result<StopOrder> {
    if config.timing.raise_priority {
        // It shares locks with the flow thread, to ask it.
        tracing::info!(priority = ?prefer_current(), "main thread");
        tracing::info!(priority = ?netio::session::prefer_session(), "session");
    }
    let (calls, answered) = mpsc::channel(CALLS_MAX);
    actix::spawn(answerer.clone().run(answered));
    if let Some(listen) = config.metrics {
        let serve = crate::api::serve_metrics(listen, calls.clone(), metrics.clone());
        actix::spawn(until_it_fails(answerer.alarms.clone(), answerer.node, serve));
    }
    let serve = crate::api::serve(config.api.listen, calls, metrics);
    actix::spawn(until_it_fails(answerer.alarms.clone(), answerer.node, serve));
    first_order(stop).await
}

/// Runs a listener; that it could not begin, or has ended, is a concern.
async fn until_it_fails(alarms: Alarms, node: u32, serve: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = serve.await {
        tracing::error!(%error, "a listener does not run");
        let (me, remedy) = (Subject::Member { node }, "choose another address in node.toml and restart it");
        alarms.raise(Concern::warning(me, What::Other, error.to_string(), remedy));
    }
}

fn keep_guard(config: &NodeConfig, links: &Interfaces) -> Result<(GuardKeeper, WordsWriter, Fast)> {
    let (guard, standing, mut writer, parts) = guard(config, links)?;
    writer.zero_all();
    let keeper = GuardKeeper::start(guard, standing, Bindings::new(&config.data.inside));
    let fast = (parts, FastSwitch::new(config.data.cache.mode()));
    Ok((keeper.context("a thread for the egress guard")?, writer, fast))
}

type Attached = (Option<Guard>, String, WordsWriter, Vec<FastTable>);

fn guard(config: &NodeConfig, links: &Interfaces) -> Result<Attached> {
    let room = (config.data.cache_flows > 0).then(|| {
        let workers = config.workers.count;
        FastSize { workers, flows: config.data.cache_flows.div_ceil(workers.into()) }
    });
    let attached = match config.data.guard {
        GuardMode::Off => Err(anyhow!("switched off in the configuration")),
        GuardMode::Auto | GuardMode::Required => {
            Guard::attach_with(&links.outside, &links.inside, room).map_err(anyhow::Error::from)
        }
    };
    match attached {
        Ok((guard, words, parts)) => Ok((Some(guard), "attached".to_owned(), words, parts)),
        Err(error) if config.data.guard == GuardMode::Required => Err(error.context("the egress guard is required")),
        Err(error) => {
            tracing::warn!(%error, "no egress guard and no fast path in the kernel: the worker's own check remains, and every packet passes a worker");
            let (words, _) = netio::lease_table::anonymous()?;
            Ok((None, format!("absent: {error}"), words, Vec::new()))
        }
    }
}

/// Looks at its timers and sockets after every few polls: while a long answer travels, the transport has a poll to do at any
/// time, each of some twenty datagrams. With tokio's default of 61 polls, ticks and heartbeats came a tenth of a second late.
fn flow_runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(POLLS_PER_LOOK).build();
    runtime.expect("the kernel has a descriptor for the flow thread")
}

async fn start_transport(config: &NodeConfig, arbiter: &Arbiter) -> Result<(Transport, netio::quic::Events)> {
    let read = |path: &std::path::Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
    let identity = TlsIdentity {
        ca_cert_pem: read(&config.tls.ca)?,
        cert_pem: read(&config.tls.cert)?,
        key_pem: read(&config.tls.key)?,
    };
    let interface = peer_interface(config)?;
    tracing::info!(interface = interface.as_deref().unwrap_or("any"), "peers");
    let settings = TransportConfig { listen: config.peers.listen, interface, ..TransportConfig::default() };
    let raise = config.timing.raise_priority;
    let (started, transport) = oneshot::channel();
    arbiter.spawn(async move {
        if raise {
            tracing::info!(priority = ?raise_current(PRIORITY), "flow thread");
        }
        // Nobody waits for it only if the start was given up.
        let _ = started.send(Transport::start(settings, &identity));
    });
    let (transport, events) = transport.await??;
    anyhow::ensure!(
        transport.own_id() == config.node_id,
        "node_id: {} but the certificate {} is node {}'s",
        config.node_id,
        config.tls.cert.display(),
        transport.own_id()
    );
    let peers = config.peer.iter().filter(|peer| peer.id != config.node_id);
    transport.set_peers(&peers.map(|peer| (peer.id, peer.address)).collect());
    Ok((transport, events))
}

fn to_control(control: &actix::Addr<ControlActor>) -> ToControl {
    let (peers, joiners, duties) =
        (control.clone().recipient(), control.clone().recipient(), control.clone().recipient());
    ToControl { peers, joiners, duties }
}

fn start_flows(parts: FlowParts, arbiter: &Arbiter) -> actix::Addr<FlowActor> {
    FlowActor::start_in_arbiter(&arbiter.handle(), |_| {
        FlowActor::new(parts).expect("a doorbell can be watched by a running runtime")
    })
}

/// The one interface by which peers are reached.
fn peer_interface(config: &NodeConfig) -> Result<Option<String>> {
    let ip = config.peers.listen.ip();
    let found = match &config.peers.interface {
        Some(name) => return Ok(Some(name.clone())),
        None => netio::link::carrying(ip).context("the interfaces' addresses")?,
    };
    // Peers of other machines never come in by the loopback interface.
    ensure!(
        ip.is_loopback() || found != netio::link::carrying(std::net::Ipv4Addr::LOCALHOST.into())? || found.is_none(),
        "peers.listen = {}: the address is the loopback interface's; set peers.interface to the one that leads to the peers",
        config.peers.listen
    );
    if found.is_none() {
        tracing::warn!(listen = %config.peers.listen, "peers can come in by any interface: set peers.interface");
    }
    Ok(found)
}

fn start_control(
    config: &NodeConfig,
    links: &Interfaces,
    transport: &Transport,
    journal: Journal,
    (guard, pulses): (GuardDesk, &Pulses),
) -> Result<(actix::Addr<ControlActor>, ProberParts)> {
    let clerk = Clerk::start(pulses.clerk.clone()).context("a thread for walks over the control state")?;
    let (desk, bell) = ProbeDesk::new().context("a bell for the prober")?;
    let watched = (pulses.control.clone(), guard, desk.clone());
    let store = super::control_store::open_control_store(&config.data_dir)?;
    let inside = config
        .data
        .inside
        .iter()
        .zip(&links.inside)
        .map(|(one, link)| words::InsideInterface { network: one.virtual_network.clone(), mac: Mac(link.mac) });
    let inside = inside.collect();
    let me = Identity {
        node: NodeId(config.node_id),
        peer_addr: config.peers.listen,
        api_addr: config.api.listen,
        inside,
        outside_mac: Mac(links.outside.mac),
        level: config.level,
        key: super::own_key::own_key(config)?,
        peers: config.peer.iter().map(|peer| NodeId(peer.id)).collect(),
    };
    let member = ControlMember::new(me, store, ControlTiming::default(), seed()?, now())?;
    let transport = transport.clone();
    let arbiter = Arbiter::new();
    if config.timing.raise_priority {
        arbiter.spawn(async {
            tracing::info!(priority = ?raise_current(CONTROL_PRIORITY), "control thread");
        });
    }
    let control = ControlActor::start_in_arbiter(&arbiter.handle(), move |context| {
        let me = context.address().recipient();
        ControlActor::new(member, transport, journal, watched, (clerk, me))
    });
    let (submits, pulse) = (control.clone().recipient(), pulses.prober.clone());
    Ok((control, ProberParts { desk, bell, control: submits, pulse, seed: seed()? }))
}

/// The address-translation log, and the workers' ends of it if mappings are wanted.
fn start_journal(config: &NodeConfig) -> Result<(Journal, Vec<SessionRing>)> {
    let path = config.nat_log_path();
    let wanted = if config.nat_log.sessions { config.workers.count } else { 0 };
    let (to_log, sessions) = (0..wanted).map(|_| ring(SESSION_RING)).unzip();
    let parts = JournalParts {
        path: path.clone(),
        kept: config.nat_log.kept,
        size_max: u64::from(config.nat_log.size_max_mib) << 20,
        name: config.name.clone(),
        destinations: config.nat_log.destinations,
        sessions,
    };
    let journal = Journal::start(parts).with_context(|| format!("nat_log.path: {}", path.display()))?;
    Ok((journal, to_log))
}
