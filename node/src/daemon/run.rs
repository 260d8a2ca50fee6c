//! Starts a member: opens what it needs, wires actors and threads, runs until it is told to stop.
//!
//! Order matters at the start: the guard is attached and every lease word is zero before this life registers (K3).

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Arbiter, AsyncContext as _, System};
use anyhow::{Context, Result, anyhow, ensure};
use consensus::control::ControlTiming;
use control::concern::{Concern, Subject, What};
use engine::ids::{Mac, NodeId};
use engine::worker::Worker;
use metrics_exporter_prometheus::PrometheusBuilder;
use netio::bell::Doorbell;
use netio::guard::Guard;
use netio::lease_table::{WordsReader, WordsWriter};
use netio::link::Link;
use netio::packet::PacketLoop;
use netio::port::{LoopLimits, PortConfig, Reception};
use netio::pulse::Pulse;
use netio::quic::{Identity as TlsIdentity, Transport, TransportConfig};
use netio::socket::BufferLimits;
use netio::superpacket;
use netio::sync::spsc::ring;
use netio::thread::{prefer_current, raise_current};
use tokio::sync::{mpsc, oneshot};

use super::answer::Answerer;
use super::ask::Peers;
use super::bindings::Bindings;
use super::clerk::Clerk;
use super::clock::now;
use super::concerns::{Alarms, Losses, Memory};
use super::config::NodeConfig;
use super::control_actor::ControlActor;
use super::data_config::Guard as GuardMode;
use super::flow_actor::{FlowActor, FlowParts, WorkerEnds, WorkerSpawner};
use super::guard_keeper::{GuardDesk, GuardKeeper};
use super::life::{ENDING, Ending, end_life};
use super::machine;
use super::member_lock::MemberLock;
use super::messages::{Meet, StopOrder, ToControl};
use super::metrics::{MetricsPage, publish_metrics};
use super::questions::Questions;
use super::reports::WorkerStats;
use super::room::Unread;
use super::stopping::{first_order, stop_gracefully};
use super::tape::Tape;
use super::watch::Pulses;
use super::worker_thread::{Ends, LinkWatch, SLEEP_MAX, ToWorker, Turn, WorkerThread};
use crate::nat_log::{Journal, JournalParts, SessionRing};
use member::control_member::{ControlMember, Identity};

/// Events between a worker and the flow actor.
const RING: usize = 1 << 16;
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
    let links = Interfaces::named(config)?;
    links.limit_merging();
    let (keeper, writer) = keep_guard(config, &links)?;
    let metrics = MetricsPage::new(PrometheusBuilder::new().install_recorder().context("metrics recorder")?);
    System::new().block_on(async move {
        let (shutdown, mut stop) = mpsc::channel(1);
        let (asked, frames) = mpsc::channel(ASKED_MAX);
        let stats = Arc::new(Mutex::new(WorkerStats::default()));
        let flow_arbiter = Arbiter::with_tokio_rt(flow_runtime);
        let (transport, events) = start_transport(config, &flow_arbiter).await?;
        let (journal, sessions) = start_journal(config)?;
        let pulses = Pulses::default();
        let clerk = Clerk::start(pulses.clerk.clone()).context("a thread for walks over the control state")?;
        let halves = ((pulses.control.clone(), keeper.desk()), clerk);
        let control = start_control(config, &links, &transport, journal.clone(), halves)?;
        let bell = Doorbell::new()?;
        let (worker, spawn) =
            wire_worker(config, (links, writer.reader()), &bell, (Arc::clone(&stats), sessions), &pulses)?;
        let parts = FlowParts {
            transport: transport.clone(),
            events,
            bell,
            words: writer,
            control: to_control(&control),
            worker,
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

/// The data interfaces, found.
struct Interfaces {
    outside: Link,
    /// In the order of `node.toml`.
    inside: Vec<Link>,
}

impl Interfaces {
    fn named(config: &NodeConfig) -> Result<Self> {
        let link = |name: &str| {
            Link::named(name)
                .with_context(|| format!("data interface {name}: set [data] inside and outside to existing interfaces"))
        };
        let inside = config.data.inside.iter().map(|one| link(&one.interface)).collect::<Result<_>>()?;
        Ok(Self { outside: link(&config.data.outside)?, inside })
    }

    /// They merge no more than a buffer of the packet loop holds.
    fn limit_merging(&self) {
        std::iter::once(&self.outside).chain(&self.inside).for_each(limit_merging);
    }
}

fn limit_merging(link: &Link) {
    {
        match superpacket::limit(link) {
            Ok(None) => {}
            Ok(Some(was)) => {
                let (interface, now) = (&link.name, superpacket::LIMIT);
                tracing::warn!(interface, was, now, "gro_ipv4_max_size lowered: longer packets could not be received");
            }
            Err(error) => {
                let interface = &link.name;
                tracing::warn!(interface, %error, "gro_ipv4_max_size could not be looked at; it must not exceed 65536");
            }
        }
    }
}

fn keep_guard(config: &NodeConfig, links: &Interfaces) -> Result<(GuardKeeper, WordsWriter)> {
    let (guard, standing, mut writer) = guard(config, links)?;
    writer.zero_all();
    let keeper = GuardKeeper::start(guard, standing, Bindings::new(&config.data.inside));
    Ok((keeper.context("a thread for the egress guard")?, writer))
}

fn guard(config: &NodeConfig, links: &Interfaces) -> Result<(Option<Guard>, String, WordsWriter)> {
    let attached = match config.data.guard {
        GuardMode::Off => Err(anyhow!("switched off in the configuration")),
        GuardMode::Auto | GuardMode::Required => {
            Guard::attach(&links.outside, &links.inside).map_err(anyhow::Error::from)
        }
    };
    match attached {
        Ok((guard, words)) => Ok((Some(guard), "attached".to_owned(), words)),
        Err(error) if config.data.guard == GuardMode::Required => Err(error.context("the egress guard is required")),
        Err(error) => {
            tracing::warn!(%error, "no egress guard in the kernel: the worker's own check remains");
            let (words, _) = netio::lease_table::anonymous()?;
            Ok((None, format!("absent: {error}"), words))
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
    (watched, clerk): ((Pulse, GuardDesk), Clerk),
) -> Result<actix::Addr<ControlActor>> {
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
        key: super::config::own_key(config)?,
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
    Ok(ControlActor::start_in_arbiter(&arbiter.handle(), move |context| {
        let me = context.address().recipient();
        ControlActor::new(member, transport, journal, watched, (clerk, me))
    }))
}

/// The address-translation log, and the worker's end of it if mappings are wanted.
fn start_journal(config: &NodeConfig) -> Result<(Journal, Option<SessionRing>)> {
    let path = config.nat_log_path();
    let (to_log, sessions) = config.nat_log.sessions.then(|| ring(SESSION_RING)).unzip();
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

/// 64 bits from the operating system.
fn seed() -> Result<u64> {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(u64::from_ne_bytes(bytes))
}

/// The rings and bells between worker and flow actor: the actor's ends, and what starts the worker at the others.
fn wire_worker(
    config: &NodeConfig,
    (links, reader): (Interfaces, WordsReader),
    bell: &Doorbell,
    (stats, sessions): (Arc<Mutex<WorkerStats>>, Option<SessionRing>),
    pulses: &Pulses,
) -> Result<(WorkerEnds, WorkerSpawner)> {
    let worker_bell = Doorbell::new()?;
    let (inputs, from_flows) = ring(RING);
    let (to_flows, outputs) = ring(RING);
    let unread = Unread::default();
    let ringer = worker_bell.ringer();
    let ends = WorkerEnds { inputs, unread: unread.clone(), ringer, outputs, bulk_waiting: Arc::default() };
    let parts = WorkerParts {
        config: config.clone(),
        links,
        reader,
        inputs: from_flows,
        unread,
        outputs: to_flows,
        ringer: bell.ringer(),
        bulk_waiting: Arc::clone(&ends.bulk_waiting),
        bell: worker_bell,
        stats,
        sessions,
        pulse: pulses.worker.clone(),
    };
    Ok((ends, parts.spawner()))
}

struct WorkerParts {
    config: NodeConfig,
    links: Interfaces,
    reader: WordsReader,
    inputs: netio::sync::spsc::Consumer<ToWorker>,
    unread: Unread,
    outputs: netio::sync::spsc::Producer<member::turn::FromWorker>,
    ringer: netio::bell::Ringer,
    bulk_waiting: Arc<AtomicUsize>,
    bell: Doorbell,
    stats: Arc<Mutex<WorkerStats>>,
    sessions: Option<SessionRing>,
    pulse: Pulse,
}

impl WorkerParts {
    /// The worker starts when this life has its number.
    fn spawner(self) -> WorkerSpawner {
        Box::new(move |me| {
            let Self { config, links, reader, inputs, unread, outputs, .. } = self;
            let Self { ringer, bulk_waiting, bell, stats, sessions, pulse, .. } = self;
            let port = |link| PortConfig { link, limits: BufferLimits::default(), reception: Reception::Filtered };
            let body = move || -> Result<()> {
                if config.timing.raise_priority {
                    tracing::info!(priority = ?prefer_current(), "worker");
                }
                let inside: Vec<PortConfig> = links.inside.into_iter().map(port).collect();
                let packets = PacketLoop::new((&port(links.outside), &inside), LoopLimits::default(), bell, Share::WHOLE)?;
                let mut worker = Worker::new(me, NodeId(config.node_id), seed()?);
                worker.set_level(config.level);
                worker.sound();
                if sessions.is_some() {
                    worker.log_sessions();
                }
                let sessions_lost = 0;
                let ends = Ends {
                    packets,
                    words: reader,
                    inputs,
                    unread,
                    outputs,
                    ringer,
                    bulk_waiting,
                    sessions,
                    sessions_lost,
                    questions: Questions::default(),
                    stats,
                    pulse,
                    sleep_max: SLEEP_MAX,
                    watch: LinkWatch::new(inside.len() + 1),
                    bindings: Bindings::new(&config.data.inside),
                    turn: Turn::default(),
                };
                WorkerThread { worker, ends }.run()?;
                Ok(())
            };
            let thread = std::thread::Builder::new().name("worker-0".to_owned());
            let spawned = thread.spawn(move || {
                if let Err(error) = body() {
                    end_life(&format!("the worker ended: {error:#}"));
                }
            });
            if let Err(error) = spawned {
                end_life(&format!("no thread for the worker: {error}"));
            }
        })
    }
}
