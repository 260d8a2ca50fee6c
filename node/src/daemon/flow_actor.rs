//! The flow actor: drives the flow half of the member on a thread of its own with raised priority. It owns the peers'
//! events, the lease words and the workers' rings. It does no disk I/O and never waits for anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use engine::event::{GroupEvent, WorkerOutput};
use engine::histogram::Histogram;
use engine::ids::NodeId;
use engine::links::Standing;
use futures_util::stream::unfold;
use netio::bell::Doorbell;
use netio::boottime::now_ns;
use netio::lease_table::WordsWriter;
use netio::quic::{Event, Events, Transport};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::ask;
use super::lines::Lines;
use super::messages::{AskFlows, AskWorker, Begin, Duty, JoinFrame, NewView, PeerFrame, StopFlows, ToControl};
use super::reports::FlowReport;
use super::room::Room;
use super::watch::Pulses;
use member::flow_member::{ControlDuty, FlowMember, FlowOut, WorkerInput};
use member::frame::{CHANNEL_ASK, CHANNEL_CONTROL};
use member::turn::{self, FlowEnds, FromWorker};
use member::view::View;

/// Octets of peers' frames that the control actor may leave unread: some of the largest, so that one always finds room.
const CONTROL_BYTES_MAX: usize = 64 << 20;
/// Reports that it may leave unread before those that come again are left out.
const DUTIES_MAX: usize = 4096;
/// Chunks of scans that wait for one peer's stream; the worker makes none while this many wait for all together.
const BULK_QUEUE: usize = 128;

/// Events of peers that are heard before what follows from them is done.
const EVENTS_MAX: usize = 64;

/// Starts the workers' threads for a life.
pub type WorkerSpawner = Box<dyn FnOnce(engine::ids::Incarnation) + Send>;

/// See the module.
pub struct FlowActor {
    spawn: Option<WorkerSpawner>,
    transport: Transport,
    events: Option<Events>,
    asleep: Arc<AsyncFd<Doorbell>>,
    words: WordsWriter,
    control: ToControl,
    member: Option<FlowMember>,
    view: Option<Arc<View>>,
    workers: Lines,
    bulk_waiting: Arc<AtomicUsize>,
    bulk: BTreeMap<NodeId, mpsc::Sender<(u32, Bytes)>>,
    asked: mpsc::Sender<(u32, Bytes)>,
    seed: u64,
    stopped: Option<oneshot::Sender<u32>>,
    pulses: Pulses,
    /// When its next turn is due (CLOCK_BOOTTIME), and by how much turns came late.
    due_ns: u64,
    late: Histogram,
    control_room: Room,
    duty_room: Room,
}

impl std::fmt::Debug for FlowActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowActor").field("member", &self.member).finish_non_exhaustive()
    }
}

/// What the actor starts with.
pub struct FlowParts {
    /// Sends to peers.
    pub transport: Transport,
    /// What peers send.
    pub events: Events,
    /// Rung by workers.
    pub bell: Doorbell,
    /// The lease words' only writer.
    pub words: WordsWriter,
    /// The control actor.
    pub control: ToControl,
    /// To the workers.
    pub workers: Lines,
    /// Chunks of scans that wait for their streams: the workers make no more while there are many.
    pub bulk_waiting: Arc<AtomicUsize>,
    /// Starts them.
    pub spawn: WorkerSpawner,
    /// Questions of other members, and their answers.
    pub asked: mpsc::Sender<(u32, Bytes)>,
    /// Drawn at start.
    pub seed: u64,
    /// Its own sign of life, and the worker's.
    pub pulses: Pulses,
}

impl std::fmt::Debug for FlowParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowParts").field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl FlowActor {
    /// Must be called on the actor's own arbiter.
    ///
    /// # Errors
    /// If the doorbell cannot be watched.
    pub fn new(parts: FlowParts) -> std::io::Result<Self> {
        let FlowParts { transport, events, bell, words, control, workers, bulk_waiting, .. } = parts;
        let FlowParts { spawn, asked, seed, pulses, .. } = parts;
        Ok(Self {
            spawn: Some(spawn),
            transport,
            events: Some(events),
            asleep: Arc::new(bell.watch()?),
            words,
            control,
            member: None,
            view: None,
            workers,
            bulk_waiting,
            bulk: BTreeMap::new(),
            asked,
            seed,
            stopped: None,
            pulses,
            due_ns: now_ns(),
            late: Histogram::default(),
            control_room: Room::of(CONTROL_BYTES_MAX),
            duty_room: Room::of(DUTIES_MAX),
        })
    }

    /// Does everything that is to be done now, in order, then goes to sleep in a way that loses no ring.
    fn settle(&mut self) {
        loop {
            if let Some(mut member) = self.member.take() {
                turn::flow_turn(&mut member, self);
                self.member = Some(member);
            }
            self.workers.feed();
            self.asleep.get_ref().prepare_sleep();
            if self.workers.are_silent() {
                return;
            }
            self.asleep.get_ref().awake();
        }
    }

    fn duty(&mut self, duty: ControlDuty) {
        if let ControlDuty::Stopped { kept } = duty
            && let Some(waiting) = self.stopped.take()
        {
            // Who waited for it may have given up.
            let _ = waiting.send(kept);
        }
        self.tell_control(duty);
    }

    /// What comes again by itself is left out while the control thread has not read what was said before.
    fn tell_control(&mut self, duty: ControlDuty) {
        let repeats = duty.comes_again();
        let room = self.duty_room.take(1);
        if room.is_some() || !repeats {
            self.control.duties.do_send(Duty { duty, _room: room });
        }
    }

    fn send_bulk(&mut self, to: NodeId, channel: u32, frame: Bytes) {
        let (transport, waiting) = (self.transport.clone(), Arc::clone(&self.bulk_waiting));
        let queue = self.bulk.entry(to).or_insert_with(|| {
            let (sender, mut receiver) = mpsc::channel::<(u32, Bytes)>(BULK_QUEUE);
            actix::spawn(async move {
                while let Some((channel, frame)) = receiver.recv().await {
                    // A link that is down loses the transfer; the groups notice and begin it anew.
                    let sent = transport.send_bulk(to.0, channel, frame).await;
                    let mut gone = 1;
                    while sent.is_err() && receiver.try_recv().is_ok() {
                        gone += 1;
                    }
                    waiting.fetch_sub(gone, Ordering::Relaxed);
                }
            });
            sender
        });
        self.bulk_waiting.fetch_add(1, Ordering::Relaxed);
        // A chunk without room loses its transfer, which is begun anew.
        if queue.try_send((channel, frame)).is_err() {
            self.bulk_waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn take_view(&mut self, view: Arc<View>) {
        let peers = view.addresses.iter().filter(|(node, _)| node.0 != self.transport.own_id());
        self.transport.set_peers(&peers.map(|(node, address)| (node.0, *address)).collect());
        self.transport.set_keys(&view.keys.iter().map(|(node, key)| (node.0, *key)).collect());
        if let Some(member) = &mut self.member {
            member.handle_view(now_ns(), Arc::clone(&view));
        }
        self.view = Some(view);
    }

    fn schedule(&mut self, ctx: &mut Context<Self>) {
        let now = now_ns();
        self.late.record(now.saturating_sub(self.due_ns));
        self.pulses.flow.beat(now);
        let turned_ns = self.pulses.workers_turned_ns();
        if let Some(member) = &mut self.member {
            member.worker_turned(now, turned_ns);
            member.tick(now);
        }
        self.settle();
        let due = self.member.as_ref().map_or(now + 5_000_000, |member| member.groups().next_due_ns());
        let now = now_ns();
        let wait = Duration::from_nanos(due.saturating_sub(now)).max(Duration::from_micros(200));
        self.due_ns = now + u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        ctx.run_later(wait, Self::schedule);
    }
}

impl FlowEnds for FlowActor {
    fn now_ns(&mut self) -> u64 {
        now_ns()
    }

    fn worker_turned_ns(&mut self) -> u64 {
        self.pulses.workers_turned_ns()
    }

    fn said(&mut self) -> Option<FromWorker> {
        let said = self.workers.said()?;
        if let FromWorker::Output(output) = &said {
            log_output(output);
        }
        Some(said)
    }

    fn perform(&mut self, out: FlowOut) {
        match out {
            FlowOut::Send { to, channel, frame } => {
                self.transport.send(to.0, channel, frame);
            }
            FlowOut::SendBulk { to, channel, frame } => self.send_bulk(to, channel, frame),
            FlowOut::Word { shard, word } => self.words.set(shard, word),
            FlowOut::Worker(input) => {
                log_input(&input);
                self.workers.hand(input);
            }
            FlowOut::Control(duty) => self.duty(duty),
        }
    }
}

impl Actor for FlowActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let events = self.events.take().expect("an actor starts once");
        ctx.add_stream(unfold(events, async |mut events: Events| {
            let mut came = vec![events.recv().await?];
            while came.len() < EVENTS_MAX
                && let Some(event) = events.try_recv()
            {
                came.push(event);
            }
            Some((Came(came), events))
        }));
        let rung = unfold(Arc::clone(&self.asleep), async |bell: Arc<AsyncFd<Doorbell>>| {
            let mut ready = bell.readable().await.ok()?;
            bell.get_ref().clear();
            ready.clear_ready();
            drop(ready);
            Some((Rung, bell))
        });
        ctx.add_stream(rung);
        self.schedule(ctx);
    }
}

/// A worker has said something.
struct Rung;

impl StreamHandler<Rung> for FlowActor {
    fn handle(&mut self, _: Rung, _: &mut Self::Context) {
        self.asleep.get_ref().awake();
        self.settle();
    }
}

/// Peers have sent something, or come or gone; in order.
struct Came(Vec<Event>);

impl StreamHandler<Came> for FlowActor {
    fn handle(&mut self, Came(events): Came, _: &mut Self::Context) {
        events.into_iter().for_each(|event| self.hear(event));
        self.settle();
    }
}

impl FlowActor {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Frame { from, channel: CHANNEL_CONTROL, bytes } => {
                // Refused while the control thread waits for its disk for long: raft sends again what is lost.
                if let Some(room) = self.control_room.take(bytes.len()) {
                    self.control.peers.do_send(PeerFrame { from: NodeId(from), bytes, room });
                }
            }
            Event::Frame { from, channel: CHANNEL_ASK, bytes } | Event::Bulk { from, channel: CHANNEL_ASK, bytes } => {
                // Too many or too long: whoever asked takes it for silence.
                if bytes.len() <= ask::FRAME_BYTES_MAX {
                    let _ = self.asked.try_send((from, bytes));
                }
            }
            Event::Frame { from, bytes, .. } | Event::Bulk { from, bytes, .. } => {
                if let Some(member) = &mut self.member {
                    member.handle_peer(now_ns(), NodeId(from), &bytes);
                }
            }
            Event::Join { from, bytes } => {
                if let Some(room) = self.control_room.take(bytes.len()) {
                    self.control.joiners.do_send(JoinFrame { from: NodeId(from), bytes, room });
                }
            }
            Event::Up(node) => tracing::info!(node, "peer is up"),
            Event::Down(node) => tracing::info!(node, "peer is down"),
        }
    }
}

impl Handler<NewView> for FlowActor {
    type Result = ();

    fn handle(&mut self, NewView(view): NewView, _: &mut Self::Context) {
        self.take_view(view);
        self.settle();
    }
}

impl Handler<Begin> for FlowActor {
    type Result = ();

    fn handle(&mut self, Begin { me, view }: Begin, _: &mut Self::Context) {
        tracing::info!(incarnation = me.0, "registered");
        if let Some(spawn) = self.spawn.take() {
            spawn(me);
        }
        let mut member = FlowMember::new(me, Arc::clone(&view), self.seed, now_ns());
        // Down until the worker has looked.
        member.set_links(now_ns(), &Standing::default());
        self.member = Some(member);
        self.take_view(view);
        self.settle();
    }
}

impl Handler<StopFlows> for FlowActor {
    type Result = ();

    fn handle(&mut self, StopFlows(reply): StopFlows, _: &mut Self::Context) {
        let Some(member) = &mut self.member else {
            let _ = reply.send(0);
            return;
        };
        member.stop(now_ns());
        self.stopped = Some(reply);
        self.settle();
    }
}

impl Handler<AskWorker> for FlowActor {
    type Result = ();

    fn handle(&mut self, AskWorker { worker, query }: AskWorker, _: &mut Self::Context) {
        self.workers.ask(worker, query);
        self.workers.feed();
    }
}

impl Handler<AskFlows> for FlowActor {
    type Result = FlowReport;

    fn handle(&mut self, _: AskFlows, _: &mut Self::Context) -> FlowReport {
        let now = now_ns();
        let linked = self.view.iter().flat_map(|view| view.addresses.keys()).filter(|n| self.transport.is_up(n.0));
        let linked = linked.copied().collect();
        let transport = self.transport.stats();
        let Some(member) = &self.member else {
            return FlowReport { linked, transport, late: self.late, now_ns: now, ..FlowReport::default() };
        };
        FlowReport {
            running: true,
            groups: member.status(now),
            health: member.health().to_vec(),
            report: member.report(),
            node_of: member.view().node_of.clone(),
            failovers: *member.failovers(),
            late: self.late,
            leader_changes: member.leader_changes(),
            frame_drops: member.groups().drops().iter().map(|(why, count)| (why.label().to_owned(), *count)).collect(),
            transport,
            linked,
            now_ns: now,
        }
    }
}

/// What an operator looks for after a takeover: who led and owned what, and when.
fn log_input(input: &WorkerInput) {
    match input {
        WorkerInput::Event(GroupEvent::Leading { shard, term }) => {
            tracing::info!(shard = shard.0, term = term.0, "leads");
        }
        WorkerInput::Event(GroupEvent::Following { shard }) => tracing::info!(shard = shard.0, "leads no more"),
        WorkerInput::Event(GroupEvent::Owner { shard, term, node }) => {
            tracing::info!(shard = shard.0, term = term.0, owner = node.map(|node| node.0), "owner");
        }
        WorkerInput::Event(_) | WorkerInput::Snapshot(_) => {}
    }
}

/// The same of who serves.
fn log_output(output: &WorkerOutput) {
    if let WorkerOutput::Serving { shard, term, state } = output {
        match state {
            Ok(()) => tracing::info!(shard = shard.0, term = term.0, "serves"),
            Err(why) => tracing::info!(shard = shard.0, term = term.0, why = why.label(), "does not serve"),
        }
    }
}
