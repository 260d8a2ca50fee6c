//! One simulated member: the control half, the flow half and the worker, each a thread of its own as in the daemon, with
//! rings between them. A thread can be held up for itself, so that a batch or a verdict waits between two of them.

mod ends;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use consensus::control::ControlTiming;
use consensus::control::storage::memory::MemoryStore;
use control::command::CommandBody;
use engine::LeaseWords;
use engine::event::{Authority, GroupEvent};
use engine::ids::{Incarnation, LeaseWord, Link, NodeId, ShardId, VnetId};
use engine::worker::Worker;
use member::control_member::{ControlMember, ControlOut, Identity, Job, Now};
use member::flow_member::{ControlDuty, FlowMember, WorkerInput};
use member::frame::{CHANNEL_CONTROL, CHANNEL_JOIN};
use member::turn::{CONTROL_TICK_NS, FromWorker};
use member::view::View;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use words::InsideInterface;

use super::addresses::{NETWORKS, address, mac_on};
use super::ambush::Ambush;
use super::disk::Disk;
use super::params::{Clock, MS, Rare};
use super::ring::Ring;

/// How long the daemon's watch looks on.
const STANDS_STILL_NS: u64 = 1_000 * MS;

/// Lease words of one process.
#[derive(Debug, Default)]
pub(super) struct Words(BTreeMap<ShardId, LeaseWord>);

impl LeaseWords for Words {
    fn word(&self, shard: ShardId) -> LeaseWord {
        self.0.get(&shard).copied().unwrap_or_default()
    }
}

/// What a member does to the world.
#[derive(Debug)]
pub(super) enum Deed {
    Send {
        to: NodeId,
        channel: u32,
        bytes: Bytes,
    },
    Frame {
        link: Link,
        authority: Authority,
        frame: Vec<u8>,
    },
    Event(GroupEvent),
    /// The control state as the flow half is told it.
    Map(Arc<View>),
    Stopped,
    /// A queue was full.
    Full(&'static str),
    /// The disk failed: this life is over (C4).
    Died,
}

/// The threads of a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Thread {
    Control,
    Flow,
    Worker,
}

#[derive(Debug)]
enum ToFlow {
    Peer { from: NodeId, bytes: Bytes },
    View(Arc<View>, Incarnation),
    Stop,
}

/// One life of a member.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) control: ControlMember<Disk>,
    pub(super) flow: Option<FlowMember>,
    pub(super) worker: Option<Worker>,
    pub(super) words: Words,
    pub(super) links_up: bool,
    /// The data networks swallow what this machine sends and gets, though its links are up.
    pub(super) swallowed: bool,
    /// The virtual networks that its inside interfaces lead to, by the configuration in use.
    networks: Vec<VnetId>,
    /// When the worker's loop passed last, by this machine's clock.
    turned_ns: u64,
    clock: Clock,
    pub(super) disk: Disk,
    rare: Rare,
    level: u16,
    held_up: BTreeMap<Thread, u64>,
    /// When each thread last made a turn.
    turns: BTreeMap<Thread, u64>,
    /// What the engine has released in this step of time.
    released: (u64, usize),
    ambush: Ambush,
    control_in: Ring<(NodeId, u32, Bytes)>,
    duties: Ring<ControlDuty>,
    /// Walks over the control state, on a thread of their own.
    jobs: Ring<Box<Job>>,
    flow_in: Ring<ToFlow>,
    inputs: Ring<WorkerInput>,
    outputs: Ring<FromWorker>,
    frames: Ring<(Link, Vec<u8>)>,
    next_control_ns: u64,
    next_flow_ns: u64,
    seed: u64,
    schedule: ChaCha8Rng,
    deeds: Vec<Deed>,
}

/// What a life starts from.
pub(super) struct Start {
    pub(super) id: NodeId,
    pub(super) nodes: u32,
    pub(super) store: MemoryStore,
    pub(super) seed: u64,
    pub(super) clock: Clock,
    pub(super) rare: Rare,
    /// The newest level of the formats that its build knows (C2).
    pub(super) level: u16,
    pub(super) schedule: ChaCha8Rng,
}

impl Node {
    pub(super) fn start(start: Start, now_ns: u64) -> Result<Self, String> {
        let Start { id, nodes, store, seed, clock, rare, level, schedule } = start;
        let disk = Disk::new(store);
        let inside = |(name, network): (&str, VnetId)| InsideInterface {
            network: Some(name.to_owned()),
            mac: mac_on(Link::Inside(network), id),
        };
        let me = Identity {
            node: id,
            peer_addr: address(id),
            api_addr: SocketAddr::from(([127, 0, 0, 1], 7880)),
            inside: NETWORKS.map(inside).to_vec(),
            outside_mac: mac_on(Link::Outside, id),
            level,
            key: [1; 32],
            peers: (1..=nodes).map(NodeId).collect(),
        };
        let now = Now { ns: clock.at(now_ns), unix_ms: now_ns / MS };
        let mut control =
            ControlMember::new(me, disk.clone(), ControlTiming::default(), seed, now).map_err(|e| e.to_string())?;
        control.set_compact_every(rare.compact_every);
        Ok(Self {
            id,
            control,
            flow: None,
            worker: None,
            words: Words::default(),
            links_up: true,
            swallowed: false,
            networks: Vec::new(),
            turned_ns: 0,
            clock,
            disk,
            rare,
            level,
            held_up: BTreeMap::new(),
            turns: BTreeMap::new(),
            released: (0, 0),
            ambush: Ambush::default(),
            control_in: Ring::new(),
            duties: Ring::new(),
            jobs: Ring::new(),
            flow_in: Ring::new(),
            inputs: Ring::new(),
            outputs: Ring::new(),
            frames: Ring::new(),
            next_control_ns: now_ns,
            next_flow_ns: now_ns,
            seed,
            schedule,
            deeds: Vec::new(),
        })
    }

    pub(super) fn local(&self, now_ns: u64) -> Now {
        Now { ns: self.clock.at(now_ns), unix_ms: now_ns / MS }
    }

    pub(super) fn hold_up(&mut self, thread: Thread, until_ns: u64) {
        let until = self.held_up.entry(thread).or_insert(0);
        *until = (*until).max(until_ns);
    }

    /// The worker will be descheduled until then as soon as it has composed a batch, before it hands it over; `after` others
    /// leave before.
    pub(super) const fn hold_up_batch(&mut self, until_ns: u64, after: u32) {
        self.ambush = Ambush::new(until_ns, after);
    }

    /// Whether this thread is not held up.
    pub(super) fn runs(&self, thread: Thread, now_ns: u64) -> bool {
        self.held_up.get(&thread).is_none_or(|until| now_ns >= *until)
    }

    /// Whether a thread that holds leases has stood still for so long that the watch ends this life.
    pub(super) fn hangs(&self, now_ns: u64) -> bool {
        let stands =
            |thread| self.turns.get(&thread).is_some_and(|turn| now_ns.saturating_sub(*turn) > STANDS_STILL_NS);
        self.rare.watched
            && self.turns.values().any(|turn| *turn == now_ns)
            && [Thread::Flow, Thread::Worker].into_iter().any(stands)
    }

    /// Whether packets could pass here, as far as this machine is concerned.
    pub(super) fn carries(&self, now_ns: u64) -> bool {
        self.links_up && !self.swallowed && self.runs(Thread::Worker, now_ns)
    }

    /// A thread takes a moment to wake up, now and then.
    fn ready(&mut self, now_ns: u64) -> u64 {
        if self.schedule.random_bool(0.01) { now_ns + self.schedule.random_range(0..3 * MS) } else { now_ns }
    }

    pub(super) fn peer(&mut self, now_ns: u64, from: NodeId, channel: u32, bytes: Bytes) {
        let ready = self.ready(now_ns);
        if matches!(channel, CHANNEL_CONTROL | CHANNEL_JOIN) {
            if self.control_in.len() >= self.rare.limits.control {
                self.deeds.push(Deed::Full("frames for the control thread"));
            } else {
                self.control_in.push(ready, (from, channel, bytes));
            }
        } else {
            self.flow_in.push(ready, ToFlow::Peer { from, bytes });
        }
    }

    /// Whether the link leads anywhere: inside ones do not before there is a configuration.
    fn leads(&self, link: Link) -> bool {
        match link {
            Link::Inside(network) => self.networks.contains(&network),
            Link::Outside => true,
        }
    }

    pub(super) fn frame(&mut self, now_ns: u64, link: Link, frame: Vec<u8>) {
        if !self.links_up || self.swallowed {
            return;
        }
        if self.frames.len() < self.rare.limits.frames {
            self.frames.push(now_ns, (link, frame));
        } else {
            self.deeds.push(Deed::Full("frames for the worker"));
        }
    }

    pub(super) fn submit(&mut self, now_ns: u64, body: CommandBody) {
        let now = self.local(now_ns);
        self.control.submit(now, 1, body);
    }

    /// Shards that this node's worker leads, as far as it knows.
    pub(super) fn leaderships(&self) -> usize {
        let shards = self.worker.as_ref().map(|worker| worker.view().shard_status()).unwrap_or_default();
        shards.iter().filter(|status| status.leading.is_some()).count()
    }

    /// The graceful stop's second half: the token is held, leaderships go (N3).
    pub(super) fn stop(&mut self, now_ns: u64) {
        let now = self.local(now_ns);
        self.control.stop(now);
        self.flow_in.push(now_ns, ToFlow::Stop);
    }

    /// Everything that is to be done now; what concerns the world comes back.
    pub(super) fn run(&mut self, now_ns: u64) -> Vec<Deed> {
        let mut order = [Thread::Control, Thread::Flow, Thread::Worker];
        loop {
            let mut few = usize::MAX;
            if self.rare.shuffled {
                order.shuffle(&mut self.schedule);
                few = self.schedule.random_range(1..20);
            }
            let mut busy = false;
            for thread in order {
                if !self.runs(thread, now_ns) {
                    continue;
                }
                self.turns.insert(thread, now_ns);
                busy |= match thread {
                    Thread::Control => self.control_turn(now_ns, few),
                    Thread::Flow => self.flow_turn(now_ns, few),
                    Thread::Worker => self.worker_turn(now_ns, few),
                };
            }
            if !busy {
                return std::mem::take(&mut self.deeds);
            }
        }
    }

    fn control_turn(&mut self, now_ns: u64, few: usize) -> bool {
        let now = self.local(now_ns);
        let mut busy = false;
        for _ in 0..few {
            let Some((from, channel, bytes)) = self.control_in.pop(now_ns) else { break };
            match channel {
                CHANNEL_JOIN => self.control.handle_join(now, from, &bytes),
                _ => self.control.handle_peer(now, from, &bytes),
            }
            busy = true;
        }
        for _ in 0..few {
            let Some(duty) = self.duties.pop(now_ns) else { break };
            self.control.handle_duty(now, duty);
            busy = true;
        }
        if let Some(job) = self.jobs.pop(now_ns) {
            self.control.finish(now, job.run());
            busy = true;
        }
        if now_ns >= self.next_control_ns {
            self.next_control_ns = now_ns + CONTROL_TICK_NS;
            self.control.tick(now);
        }
        while let Some(out) = self.control.poll(now) {
            busy = true;
            match out {
                ControlOut::Send { to, frame } => {
                    self.deeds.push(Deed::Send { to, channel: CHANNEL_CONTROL, bytes: frame });
                }
                ControlOut::Ask { to, frame } | ControlOut::Answer { to, frame } => {
                    self.deeds.push(Deed::Send { to, channel: CHANNEL_JOIN, bytes: frame });
                }
                ControlOut::View(view) => {
                    self.deeds.push(Deed::Map(Arc::clone(&view)));
                    if let Some(me) = self.control.incarnation().filter(|me| view.node_of.contains_key(me)) {
                        let ready = self.ready(now_ns);
                        self.flow_in.push(ready, ToFlow::View(view, me));
                    }
                }
                ControlOut::Job(job) => {
                    // A moment, or as long as in the largest clusters.
                    let longest = if self.schedule.random_bool(0.2) { 500 * MS } else { 5 * MS };
                    self.jobs.push(now_ns + self.schedule.random_range(0..longest), job);
                }
                ControlOut::Registered(_)
                | ControlOut::Done { .. }
                | ControlOut::Ports(_)
                | ControlOut::Members(_)
                | ControlOut::NotTaken { .. }
                | ControlOut::Over { .. } => {}
                ControlOut::StoreFailed { .. } => self.deeds.push(Deed::Died),
            }
        }
        busy
    }
}
