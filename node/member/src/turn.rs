//! The order of a member's turns, on which rules rest (F1, L1, L2, I56), as one text for the daemon's threads and for the
//! simulator.
//!
//! A turn moves things between a machine and its *ends*: rings, frames and a clock, which whoever drives it hands in. It
//! never waits, and does no I/O of its own.

use engine::event::{Authority, Verdict, WorkerOutput};
use engine::links::Standing;
use engine::snapshot::Snapshot;
use engine::worker::{Scans, Worker};
use words::{FrameMeta, LeaseWords, Link};

use crate::flow_member::{FlowMember, FlowOut, WorkerInput};

/// How often the control half ticks.
pub const CONTROL_TICK_NS: u64 = 5_000_000;
/// Most frames that are looked ahead for at once.
pub const BATCH: usize = 64;

/// What a worker says to the flow half.
#[derive(Debug)]
pub enum FromWorker {
    /// For the flow groups.
    Output(WorkerOutput),
    /// What the data links do for each shard.
    Links(Box<Standing>),
}

impl FromWorker {
    /// Whether the flow half has to be woken for it: how far a table is, it may as well hear with its next tick.
    #[must_use]
    pub const fn wakes(&self) -> bool {
        !matches!(self, Self::Output(WorkerOutput::Applied { .. }))
    }
}

/// Between what a worker's turn moves.
pub trait WorkerEnds {
    /// The lease words, as another thread writes them.
    type Words: LeaseWords;

    /// CLOCK_BOOTTIME; read again after the frames of a turn, which may take long.
    fn now_ns(&mut self) -> u64;
    /// The lease words.
    fn words(&self) -> &Self::Words;
    /// What the flow half said next.
    fn input(&mut self) -> Option<WorkerInput>;
    /// This configuration is loaded next; the worker is told which networks its interfaces carry by it.
    fn will_load(&mut self, snapshot: &Snapshot, worker: &mut Worker);
    /// Looks at the data links, and tells the worker what is new.
    fn look_at_links(&mut self, now_ns: u64, worker: &mut Worker);
    /// What the data links do for each shard has changed; for the flow half.
    fn links(&mut self, standing: Standing);
    /// Gives the frames that came in to a judge of [`BATCH`]es at most.
    fn receive(&mut self, now_ns: u64, worker: &mut Worker);
    /// Whether chunks of scans find a place where they go.
    fn scans(&self) -> Scans;
    /// Whether another output finds a place; the worker is not asked for more than that.
    fn has_room(&mut self) -> bool;
    /// For the flow half.
    fn output(&mut self, output: WorkerOutput);
    /// All that finds a place was said.
    fn outputs_end(&mut self, worker: &mut Worker);
    /// Whether another frame finds a buffer; the worker is not asked for more than that.
    fn has_buffer(&mut self) -> bool;
    /// Sends a frame of the worker's own, or one that waited. Returns whether the device took it.
    fn send(&mut self, worker: &mut Worker, out: (Link, FrameMeta, Authority), frame: &[u8]);
}

/// One turn of a worker: what it is told, what waited, what comes in, time, what it says, what may leave now.
///
/// `buffer` holds one frame at a time; it is the caller's so that it is allocated once.
pub fn worker_turn(worker: &mut Worker, buffer: &mut Vec<u8>, ends: &mut impl WorkerEnds) {
    let now_ns = ends.now_ns();
    while let Some(input) = ends.input() {
        match input {
            WorkerInput::Event(event) => worker.handle_event(now_ns, ends.words(), event),
            WorkerInput::Snapshot(snapshot) => {
                ends.will_load(&snapshot, worker);
                worker.load_snapshot(now_ns, snapshot);
            }
        }
    }
    ends.look_at_links(now_ns, worker);
    // Before the loads of this turn are told: whoever hears of a load knows what that needs.
    if let Some(standing) = worker.poll_standing() {
        ends.links(standing);
    }
    worker.handle_fast(now_ns, ends.words());
    // What waited leaves before what comes in now (I56).
    release(now_ns, worker, buffer, ends);
    ends.receive(now_ns, worker);
    let now_ns = ends.now_ns();
    worker.set_scans(ends.scans());
    if now_ns >= worker.next_timer_ns() {
        worker.handle_timers(now_ns, ends.words());
    }
    while ends.has_room()
        && let Some(output) = worker.poll_output(now_ns, ends.words())
    {
        ends.output(output);
    }
    ends.outputs_end(worker);
    release(now_ns, worker, buffer, ends);
}

/// Hands frames that the engine releases or makes to whoever sends them, as many as there are buffers for; the others wait.
fn release(now_ns: u64, worker: &mut Worker, buffer: &mut Vec<u8>, ends: &mut impl WorkerEnds) {
    while ends.has_buffer()
        && let Some(out) = worker.poll_frame(now_ns, ends.words(), buffer)
    {
        ends.send(worker, out, buffer);
    }
}

/// What an engine makes of frames that came in: all of a batch are looked at, then fetched for, then judged.
#[derive(Debug)]
pub struct Arrivals<'a, W> {
    /// The engine.
    pub worker: &'a mut Worker,
    /// The lease words.
    pub words: &'a W,
    /// When the turn began.
    pub now_ns: u64,
}

impl<W: LeaseWords> Arrivals<'_, W> {
    /// A frame that will be judged soon.
    pub fn look_ahead(&mut self, link: Link, frame: &[u8]) {
        self.worker.look_ahead(link, frame);
    }

    /// A whole batch was looked at.
    pub fn fetch(&mut self) {
        self.worker.fetch();
    }

    /// A frame, which is rewritten in place if it is to be sent.
    pub fn judge(&mut self, link: Link, meta: &FrameMeta, frame: &mut [u8]) -> Verdict {
        self.worker.handle_frame(self.now_ns, self.words, link, meta, frame)
    }
}

/// Between what a turn of the flow half moves.
pub trait FlowEnds {
    /// CLOCK_BOOTTIME.
    fn now_ns(&mut self) -> u64;
    /// When the worker's loop passed last (L1).
    fn worker_turned_ns(&mut self) -> u64;
    /// What the worker said next.
    fn said(&mut self) -> Option<FromWorker>;
    /// Does what has to be done; in this order (L2).
    fn perform(&mut self, out: FlowOut);
}

/// What the flow half does after each thing that it is told, and after each tick: the worker's last turn bounds its leases
/// (L1), then it hears the worker, then everything that follows is performed in order. Returns whether there was anything.
pub fn flow_turn(member: &mut FlowMember, ends: &mut impl FlowEnds) -> bool {
    let mut busy = false;
    member.worker_turned(ends.now_ns(), ends.worker_turned_ns());
    while let Some(said) = ends.said() {
        busy = true;
        match said {
            FromWorker::Output(output) => {
                if let Some(duty) = member.handle_worker(ends.now_ns(), output) {
                    ends.perform(FlowOut::Control(duty));
                }
            }
            FromWorker::Links(standing) => member.set_links(ends.now_ns(), &standing),
        }
    }
    while let Some(out) = member.poll(ends.now_ns()) {
        busy = true;
        ends.perform(out);
    }
    busy
}

#[cfg(test)]
#[path = "turn_tests.rs"]
mod tests;
