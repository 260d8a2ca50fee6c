//! Wires the workers: their rings and bells, their shares of the shards, their ends of everything else; and starts their threads
//! once this life has its number. Called by `run`; judges nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::{Context as _, Result};
use engine::ids::{Incarnation, NodeId};
use engine::worker::Worker;
use netio::bell::{Doorbell, Ringer};
use netio::fast::FastTable;
use netio::lease_table::WordsReader;
use netio::packet::PacketLoop;
use netio::port::{LoopLimits, PortConfig, Reception};
use netio::pulse::Pulse;
use netio::socket::BufferLimits;
use netio::sync::spsc::{Consumer, Producer, ring};
use netio::thread::{pin_current, prefer_current};
use words::Share;

use super::backlog::Backlog;
use super::bindings::Bindings;
use super::chance::seed;
use super::config::NodeConfig;
use super::fast_path::{FastEnd, FastSwitch};
use super::flow_actor::WorkerSpawner;
use super::interfaces::Interfaces;
use super::lanes::Lanes;
use super::life::end_life;
use super::lines::{Lines, WorkerEnds};
use super::link_watch::LinkWatch;
use super::probe_ends::{self, WorkerEnd};
use super::prober::ProberParts;
use super::questions::Questions;
use super::reports::Posts;
use super::room::Unread;
use super::watch::Pulses;
use super::worker_thread::{Ends, SLEEP_MAX, ToWorker, Turn, WorkerThread};
use crate::nat_log::SessionRing;
use member::turn::FromWorker;

/// Events between a worker and the flow actor.
const RING: usize = 1 << 16;
/// Fewest buffers for received frames that a worker has: of several each needs fewer.
const RECEIVE_BUFFERS_MIN: u16 = 256;

/// What all workers of a member share.
#[derive(Clone)]
struct Common {
    config: NodeConfig,
    links: Interfaces,
    words: WordsReader,
    /// Wakes the flow actor.
    ringer: Ringer,
    bulk_waiting: Arc<AtomicUsize>,
    stats: Posts,
    switch: FastSwitch,
}

/// The kernel's fast path: a part for each worker, or none, and what turns it on and off.
pub(super) type Fast = (Vec<FastTable>, FastSwitch);

/// What each has for itself.
struct Parts {
    share: Share,
    inputs: Consumer<ToWorker>,
    unread: Unread,
    outputs: Producer<FromWorker>,
    bell: Doorbell,
    sessions: Option<SessionRing>,
    pulse: Pulse,
    fast: Option<FastTable>,
    probes: WorkerEnd,
}

/// The rings and bells between workers and flow actor: the actor's ends, the count of chunks that wait there, and what starts the
/// workers at the others.
pub(super) fn wire(
    config: &NodeConfig,
    (links, words): (Interfaces, WordsReader),
    bell: &Doorbell,
    (stats, sessions): (Posts, Vec<SessionRing>),
    prober: ProberParts,
    (parts, switch): Fast,
    pulses: &Pulses,
) -> Result<(Lines, Arc<AtomicUsize>, WorkerSpawner)> {
    let bulk_waiting = Arc::<AtomicUsize>::default();
    let common = Common {
        config: config.clone(),
        links,
        words,
        ringer: bell.ringer(),
        bulk_waiting: Arc::clone(&bulk_waiting),
        stats,
        switch,
    };
    let (mut ends, mut all, mut probers) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sessions, mut parts) = (sessions.into_iter(), parts.into_iter());
    for (share, pulse) in Share::all(config.workers.count).zip(&pulses.workers) {
        let bell = Doorbell::new()?;
        let (inputs, from_flows) = ring(RING);
        let (to_flows, outputs) = ring(RING);
        let unread = Unread::default();
        ends.push(WorkerEnds { inputs, unread: unread.clone(), ringer: bell.ringer(), outputs });
        let (inputs, outputs) = (from_flows, to_flows);
        let (prober_end, probes) = probe_ends::ends(bell.ringer(), prober.desk.ringer());
        probers.push(prober_end);
        all.push(Parts {
            share,
            inputs,
            unread,
            outputs,
            bell,
            sessions: sessions.next(),
            pulse: pulse.clone(),
            fast: parts.next(),
            probes,
        });
    }
    let begin = move |me| {
        if let Err(error) = super::prober::start(prober, me, common.words.clone(), probers) {
            end_life(&format!("no thread for the prober: {error}"));
        }
        spawn(&common, me, all);
    };
    Ok((Lines::new(ends), bulk_waiting, Box::new(begin)))
}

/// Each on a thread of its own, in the order of their numbers.
fn spawn(common: &Common, me: Incarnation, all: Vec<Parts>) {
    let bells: Vec<Ringer> = all.iter().map(|parts| parts.bell.ringer()).collect();
    for (parts, lanes) in all.into_iter().zip(Lanes::mesh(me, &bells)) {
        let (common, name) = (common.clone(), format!("worker-{}", parts.share.worker()));
        let thread = std::thread::Builder::new().name(name.clone());
        let spawned = thread.spawn(move || {
            if let Err(error) = common.run(me, parts, lanes) {
                end_life(&format!("{name} ended: {error:#}"));
            }
        });
        if let Err(error) = spawned {
            end_life(&format!("no thread for a worker: {error}"));
        }
    }
}

impl Common {
    /// On the worker's thread, until the flow actor is gone.
    fn run(self, me: Incarnation, parts: Parts, lanes: Lanes) -> Result<()> {
        let Self { config, links, words, ringer, bulk_waiting, stats, switch } = self;
        let Parts { share, inputs, unread, outputs, bell, sessions, pulse, fast, probes } = parts;
        if let Some(cpu) = config.workers.cpu(share.worker()) {
            pin_current(cpu).with_context(|| format!("worker_cpus: processor {cpu}"))?;
        }
        if config.timing.raise_priority {
            tracing::info!(number = share.worker(), of = share.workers(), priority = ?prefer_current(), "worker");
        }
        let port = |link| PortConfig { link, limits: BufferLimits::default(), reception: Reception::Filtered };
        let inside: Vec<PortConfig> = links.inside.into_iter().map(port).collect();
        let packets = PacketLoop::new((&port(links.outside), &inside), limits(share), bell, share)?;
        let mut worker = Worker::new(me, NodeId(config.node_id), seed()?);
        worker.set_share(share);
        worker.set_level(config.level);
        worker.sound();
        if sessions.is_some() {
            worker.log_sessions();
        }
        let bindings = Bindings::new(&config.data.inside);
        let fast = fast.map(|part| {
            let (end, table) = FastEnd::new(switch, bindings.clone(), part);
            worker.set_fast(table, end.mode());
            end
        });
        let ends = Ends {
            share,
            packets,
            lanes,
            probes,
            words,
            inputs,
            unread,
            outputs,
            ringer,
            bulk_waiting,
            sessions,
            sessions_lost: 0,
            questions: Questions::default(),
            stats,
            pulse,
            sleep_max: SLEEP_MAX,
            watch: LinkWatch::new(inside.len() + 1),
            backlog: Backlog::default(),
            bindings,
            fast,
            turn: Turn::default(),
        };
        WorkerThread { worker, ends }.run()?;
        Ok(())
    }
}

/// Buffers of a worker: together about as many as one alone has.
fn limits(share: Share) -> LoopLimits {
    let whole = LoopLimits::default();
    let receive_buffers = (whole.receive_buffers / share.workers().next_power_of_two()).max(RECEIVE_BUFFERS_MIN);
    LoopLimits { receive_buffers, ..whole }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_shared_down_to_a_bound_and_their_number_stays_a_power_of_two() {
        let of = |workers| limits(Share::all(workers).next().expect("one")).receive_buffers;
        assert_eq!([1, 2, 3, 4, 5, 16].map(of), [1024, 512, 256, 256, 256, 256]);
    }
}
