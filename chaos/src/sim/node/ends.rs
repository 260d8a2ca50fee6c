//! Between what the turns of a simulated worker and flow half move: the daemon's own turns, over rings that delay and a
//! clock that is not the world's.

use std::sync::Arc;

use engine::event::{Authority, Verdict, WorkerOutput};
use engine::links::Standing;
use engine::snapshot::Snapshot;
use engine::worker::{Scans, Worker};
use member::flow_member::{ControlDuty, FlowMember, FlowOut, WorkerInput};
use member::turn::{self, BATCH, FlowEnds, FromWorker, WorkerEnds};
use words::{FrameMeta, Link};

use super::{Deed, MS, Node, Thread, ToFlow, Words};
use crate::sim::addresses::{LINKS, NETWORKS};
use crate::sim::network::BULK;

/// How often the daemon's flow actor ticks.
const FLOW_TICK_NS: u64 = MS;

/// A worker's turn at a moment.
struct WorkerTurn<'a> {
    node: &'a mut Node,
    /// The world's clock.
    now_ns: u64,
    /// When the flow half hears what is said now.
    ready_ns: u64,
    /// Inputs, and frames, that it still takes in this turn.
    inputs: usize,
    frames: usize,
    busy: bool,
    /// The machine's scheduler took the processor away amid the turn.
    descheduled: bool,
}

impl WorkerEnds for WorkerTurn<'_> {
    type Words = Words;

    fn now_ns(&mut self) -> u64 {
        self.node.local(self.now_ns).ns
    }

    fn words(&self) -> &Words {
        &self.node.words
    }

    fn input(&mut self) -> Option<WorkerInput> {
        self.inputs = self.inputs.checked_sub(1)?;
        let input = self.node.inputs.pop(self.now_ns)?;
        self.busy = true;
        Some(input)
    }

    fn will_load(&mut self, snapshot: &Snapshot, worker: &mut Worker) {
        self.node.networks =
            NETWORKS.into_iter().filter_map(|(name, _)| snapshot.networks.carried(Some(name))).collect();
        worker.set_networks(&self.node.networks);
    }

    fn look_at_links(&mut self, now_ns: u64, worker: &mut Worker) {
        for link in LINKS.into_iter().filter(|link| self.node.leads(*link)) {
            worker.set_link(now_ns, link, self.node.links_up);
        }
    }

    fn links(&mut self, standing: Standing) {
        self.node.outputs.push(self.now_ns, FromWorker::Links(Box::new(standing)));
    }

    fn receive(&mut self, now_ns: u64, worker: &mut Worker) {
        loop {
            let many = self.frames.min(BATCH);
            let (node, at_ns) = (&mut *self.node, self.now_ns);
            let mut batch: Vec<_> = std::iter::from_fn(|| node.frames.pop(at_ns)).take(many).collect();
            if batch.is_empty() {
                return;
            }
            self.frames -= batch.len();
            self.busy = true;
            let mut arrivals = turn::Arrivals { worker, words: &node.words, now_ns };
            for (link, frame) in &batch {
                if node.leads(*link) {
                    arrivals.look_ahead(*link, frame);
                }
            }
            arrivals.fetch();
            for (link, mut frame) in batch.drain(..) {
                if !node.leads(link) {
                    continue;
                }
                let verdict = arrivals.judge(link, &FrameMeta::default(), &mut frame);
                if let Verdict::Transmit { link, authority } = verdict {
                    node.deeds.push(Deed::Frame { link, authority, frame });
                }
            }
        }
    }

    fn scans(&self) -> Scans {
        // Half of the room is for what is not a chunk.
        if self.node.outputs.len() > self.node.rare.limits.outputs / 2 { Scans::Wait } else { Scans::Go }
    }

    fn has_room(&mut self) -> bool {
        if self.descheduled {
            return false;
        }
        let room = self.node.outputs.len() < self.node.rare.limits.outputs;
        if !room {
            self.node.deeds.push(Deed::Full("outputs of the worker"));
        }
        room
    }

    fn output(&mut self, output: WorkerOutput) {
        self.busy = true;
        let mut ready_ns = self.ready_ns;
        if let Some(until_ns) = self.node.ambush.holds_up(self.now_ns, &output) {
            self.node.held_up.insert(Thread::Worker, until_ns);
            self.descheduled = true;
            ready_ns = until_ns;
        }
        self.node.outputs.push(ready_ns, FromWorker::Output(output));
    }

    fn outputs_end(&mut self, _: &mut Worker) {}

    fn has_buffer(&mut self) -> bool {
        if self.descheduled {
            return false;
        }
        if self.node.released.0 != self.now_ns {
            self.node.released = (self.now_ns, 0);
        }
        let room = self.node.released.1 < self.node.rare.limits.released;
        if !room {
            self.node.deeds.push(Deed::Full("frames that leave at once"));
        }
        room
    }

    fn send(&mut self, _: &mut Worker, (link, _, authority): (Link, FrameMeta, Authority), frame: &[u8]) {
        self.node.released.1 += 1;
        self.node.deeds.push(Deed::Frame { link, authority, frame: frame.to_vec() });
    }
}

/// What the flow half does at a moment.
struct FlowTurn<'a> {
    node: &'a mut Node,
    /// The world's clock.
    now_ns: u64,
    /// How much of what the worker said is heard.
    few: usize,
}

impl FlowEnds for FlowTurn<'_> {
    fn now_ns(&mut self) -> u64 {
        self.node.local(self.now_ns).ns
    }

    fn worker_turned_ns(&mut self) -> u64 {
        self.node.turned_ns
    }

    fn said(&mut self) -> Option<FromWorker> {
        self.few = self.few.checked_sub(1)?;
        self.node.outputs.pop(self.now_ns)
    }

    fn perform(&mut self, out: FlowOut) {
        let now_ns = self.now_ns;
        match out {
            FlowOut::Send { to, channel, frame } => self.node.deeds.push(Deed::Send { to, channel, bytes: frame }),
            FlowOut::SendBulk { to, channel, frame } => {
                self.node.deeds.push(Deed::Send { to, channel: channel | BULK, bytes: frame });
            }
            FlowOut::Word { shard, word } => {
                self.node.words.0.insert(shard, word);
            }
            FlowOut::Worker(input) => {
                if let WorkerInput::Event(event) = &input {
                    self.node.deeds.push(Deed::Event(event.clone()));
                }
                let ready_ns = self.node.ready(now_ns);
                self.node.inputs.push(ready_ns, input);
            }
            FlowOut::Control(ControlDuty::Stopped { .. }) => self.node.deeds.push(Deed::Stopped),
            FlowOut::Control(duty) => self.node.duty(now_ns, duty),
        }
    }
}

impl Node {
    /// One turn of the worker's loop.
    pub(super) fn worker_turn(&mut self, now_ns: u64, few: usize) -> bool {
        let ready_ns = self.ready(now_ns);
        let Some(mut worker) = self.worker.take() else { return false };
        self.turned_ns = self.local(now_ns).ns;
        let (busy, descheduled) = (false, false);
        let mut ends = WorkerTurn { node: self, now_ns, ready_ns, inputs: few, frames: few, busy, descheduled };
        turn::worker_turn(&mut worker, &mut Vec::new(), &mut ends);
        let busy = ends.busy;
        self.worker = Some(worker);
        busy
    }

    /// What the flow thread does now: each thing that it is told, with all that follows, and its ticks.
    pub(super) fn flow_turn(&mut self, now_ns: u64, few: usize) -> bool {
        let now = self.local(now_ns);
        let mut busy = false;
        for _ in 0..few {
            let Some(input) = self.flow_in.pop(now_ns) else { break };
            busy = true;
            match (input, &mut self.flow) {
                (ToFlow::Peer { from, bytes }, Some(flow)) => flow.handle_peer(now.ns, from, &bytes),
                (ToFlow::View(view, _), Some(flow)) => flow.handle_view(now.ns, view),
                (ToFlow::View(view, me), None) => {
                    let mut flow = FlowMember::new(me, Arc::clone(&view), self.seed, now.ns);
                    flow.set_retained_entries(self.rare.retained);
                    self.flow = Some(flow);
                    let mut worker = Worker::new(me, self.id, self.seed);
                    worker.set_level(self.level);
                    worker.set_chunk_records(self.rare.chunk_records);
                    worker.sound();
                    self.worker = Some(worker);
                }
                (ToFlow::Stop, Some(flow)) => flow.stop(now.ns),
                (ToFlow::Stop, None) => self.deeds.push(Deed::Stopped),
                (ToFlow::Peer { .. }, None) => {}
            }
            self.settle_flow(now_ns, few);
        }
        if now_ns >= self.next_flow_ns {
            self.next_flow_ns = now_ns + FLOW_TICK_NS;
            let turned_ns = self.turned_ns;
            if let Some(flow) = &mut self.flow {
                flow.worker_turned(now.ns, turned_ns);
                flow.tick(now.ns);
            }
        }
        busy | self.settle_flow(now_ns, few)
    }

    fn settle_flow(&mut self, now_ns: u64, few: usize) -> bool {
        let Some(mut flow) = self.flow.take() else { return false };
        let busy = turn::flow_turn(&mut flow, &mut FlowTurn { node: self, now_ns, few });
        self.flow = Some(flow);
        busy
    }

    /// What comes again by itself is left out while the control thread has not read what was said before.
    fn duty(&mut self, now_ns: u64, duty: ControlDuty) {
        if duty.comes_again() && self.duties.len() >= self.rare.limits.duties {
            self.deeds.push(Deed::Full("duties for the control thread"));
        } else {
            self.duties.push(now_ns, duty);
        }
    }
}
