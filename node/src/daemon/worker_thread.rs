//! Hot path. A worker's thread: it moves frames between the packet loop and the engine, and events between the engine and
//! the flow actor. It never touches Raft, tokio or a file, and it blocks when there is nothing to do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use engine::claims::Claim;
use engine::event::{Authority, DropReason, GroupEvent, Verdict, WorkerOutput};
use engine::links::Standing;
use engine::snapshot::{Networks, Snapshot};
use engine::soundings::Passing;
use engine::worker::{Scans, Worker};
use netio::bell::Ringer;
use netio::boottime::now_ns;
use netio::lease_table::WordsReader;
use netio::link::LinkState;
use netio::packet::{FrameHandler, PacketLoop};
use netio::port::{Disposition, Interface, IoError};
use netio::pulse::Pulse;
use netio::sync::spsc::{Consumer, Producer, PushError};
use words::{FrameMeta, LeaseWords, Link, Mac, ShardId, Share, Side};

use super::backlog::Backlog;
use super::bindings::Bindings;
use super::fast_path::FastEnd;
use super::lanes::{Handed, Lanes, Way};
use super::link_watch::LinkWatch;
use super::probe_ends::WorkerEnd;
use super::questions::{Query, Questions};
use super::reports::{LinkLife, Posts, WorkerStats};
use super::room::Unread;
use crate::nat_log::SessionRing;
use member::flow_member::WorkerInput;
use member::turn::{self, FromWorker, WorkerEnds};

/// Frames of other workers that one turn takes.
const HANDED_PER_TURN: usize = 256;
/// Chunks of scans that may wait for a slow joiner.
const BULK_WAITING_MAX: usize = 64;
/// Longest sleep, a third of V by default: each turn is a sign of life, and without one for V this node serves nothing.
pub const SLEEP_MAX: Duration = Duration::from_millis(16);
/// Longest time without an ear for frames, while new flows wait for others: each that arrived would wake the worker, to wait too.
const REST_MAX: Duration = Duration::from_micros(200);
const STATS_EVERY_NS: u64 = 200_000_000;

/// Into the worker's thread.
#[derive(Debug)]
pub enum ToWorker {
    /// An event or a configuration.
    Input(WorkerInput),
    /// A question; the answer goes to whoever asked.
    Query(Query),
}

impl ToWorker {
    /// About how much memory it holds, in octets; the same on both threads.
    #[must_use]
    pub fn octets(&self) -> usize {
        let beside = match self {
            Self::Input(WorkerInput::Event(GroupEvent::Committed { entry, .. })) => entry.len(),
            Self::Input(WorkerInput::Event(GroupEvent::Load { chunk, .. })) => chunk.len(),
            Self::Input(WorkerInput::Event(_) | WorkerInput::Snapshot(_)) | Self::Query(_) => 0,
        };
        size_of::<Self>() + beside
    }
}

/// A worker and what it is driven with.
#[derive(Debug)]
pub struct WorkerThread {
    /// The engine.
    pub worker: Worker,
    /// Everything else that its thread owns.
    pub ends: Ends,
}

/// Between what the turns of a worker's thread move.
#[derive(Debug)]
pub struct Ends {
    /// Which of the member's shards are this worker's.
    pub share: Share,
    /// Frames.
    pub packets: PacketLoop,
    /// Frames from and to the member's other workers.
    pub lanes: Lanes,
    /// Packets of probes, and their answers.
    pub probes: WorkerEnd,
    /// Lease words.
    pub words: WordsReader,
    /// From the flow actor.
    pub inputs: Consumer<ToWorker>,
    /// Octets on their way from there.
    pub unread: Unread,
    /// To the flow actor.
    pub outputs: Producer<FromWorker>,
    /// Wakes the flow actor.
    pub ringer: Ringer,
    /// Chunks of scans that wait there for their streams.
    pub bulk_waiting: Arc<AtomicUsize>,
    /// To the address-translation log, if it wants mappings.
    pub sessions: Option<SessionRing>,
    /// Events that found no room there.
    pub sessions_lost: u64,
    /// What it is asked.
    pub questions: Questions,
    /// Where statistics go.
    pub stats: Posts,
    /// Stamped at each turn: what it is stamped with bounds the leases (L1).
    pub pulse: Pulse,
    /// Longest sleep under the loaded configuration.
    pub sleep_max: Duration,
    /// The data links as they were told last.
    pub watch: LinkWatch,
    /// Whether the worker is behind.
    pub backlog: Backlog,
    /// Which link each interface is.
    pub bindings: Bindings,
    /// Its part of the kernel's fast path, if there is one.
    pub fast: Option<FastEnd>,
    /// What goes from turn to turn.
    pub turn: Turn,
}

/// What a turn leaves for the next.
#[derive(Debug, Default)]
pub struct Turn {
    /// Said, but the ring had no room.
    backlog: VecDeque<FromWorker>,
    /// Something was put into the ring that cannot wait.
    said: bool,
    /// The moment that the worker was told last.
    asked_ns: u64,
    /// Under what the frames of a flush leave, by their tags.
    authorities: Vec<Authority>,
    /// Shards whose addresses the devices were told.
    known_macs: Vec<ShardId>,
    /// The virtual networks of the configuration in use.
    networks: Arc<Networks>,
}

impl WorkerThread {
    /// Runs until the flow actor is gone.
    ///
    /// # Errors
    /// If io_uring itself fails.
    pub fn run(self) -> Result<(), IoError> {
        let Self { mut worker, mut ends } = self;
        let mut buffer = Vec::new();
        let mut stats_at_ns = 0;
        while !ends.inputs.is_finished() {
            let now = now_ns();
            ends.pulse.beat(now);
            worker.set_behind(ends.backlog.is_long(now, &ends.packets));
            turn::worker_turn(&mut worker, &mut buffer, &mut ends);
            ends.flush(&mut worker)?;
            let now = now_ns();
            ends.questions.step(now, &worker);
            if now >= stats_at_ns {
                stats_at_ns = now + STATS_EVERY_NS;
                ends.publish(&worker, now);
            }
            ends.wait(&worker)?;
        }
        Ok(())
    }
}

impl WorkerEnds for Ends {
    type Words = WordsReader;

    fn now_ns(&mut self) -> u64 {
        self.turn.asked_ns = now_ns();
        self.turn.asked_ns
    }

    fn words(&self) -> &WordsReader {
        &self.words
    }

    fn input(&mut self) -> Option<WorkerInput> {
        while let Some(input) = self.inputs.pop() {
            self.unread.read(input.octets());
            match input {
                ToWorker::Input(input) => return Some(input),
                ToWorker::Query(query) => self.questions.ask(query),
            }
        }
        None
    }

    fn will_load(&mut self, snapshot: &Snapshot, worker: &mut Worker) {
        worker.set_networks(&self.bindings.load(&snapshot.networks));
        if let Some(fast) = &self.fast {
            fast.bind(&self.bindings);
        }
        self.turn.networks = Arc::clone(&snapshot.networks);
        for shard in snapshot.shards.keys().copied().filter(|shard| self.share.has(*shard)) {
            if self.turn.known_macs.contains(&shard) {
                continue;
            }
            for interface in self.packets.interfaces() {
                if let Err(error) = self.packets.add_mac(interface, Mac::of_shard(shard).0) {
                    tracing::warn!(%shard, %error, "the device does not take the shard's address");
                    self.watch.of[interface.index()].refused_macs += 1;
                }
            }
            self.turn.known_macs.push(shard);
        }
        self.sleep_max = SLEEP_MAX.min(Duration::from_millis(snapshot.params.vote_timeout_ms.into()) / 3);
    }

    fn look_at_links(&mut self, now: u64, worker: &mut Worker) {
        self.packets.look_at_links(now);
        if let Some(mode) = self.fast.as_mut().and_then(FastEnd::turned) {
            worker.set_fast_mode(mode);
        }
        for interface in self.packets.interfaces() {
            let (state, link) = (self.packets.link_state(interface), self.bindings.link(interface));
            if state == LinkState::Anew {
                let name = &self.packets.link(interface).name;
                super::life::start_again(format!(
                    "interface {name} was made anew, or has another MAC: what was open on it is dead"
                ));
            }
            if let Some(link) = link {
                worker.set_link(now, link, state == LinkState::Up);
                if let Some(mtu) = self.packets.mtu(interface) {
                    worker.set_mtu(link, mtu);
                }
            }
            let passing = link.map_or(Passing::Unproved, |link| worker.passing(link));
            if self.watch.changed(now, interface, (state, passing)) && self.share.is_first() {
                let name = &self.packets.link(interface).name;
                tracing::info!(link = name, state = state.label(), passing = passing.label(), "data link");
            }
        }
    }

    fn links(&mut self, standing: Standing) {
        self.turn.backlog.push_back(FromWorker::Links(Box::new(standing)));
    }

    fn receive(&mut self, now_ns: u64, worker: &mut Worker) {
        let arrivals = turn::Arrivals { worker, words: &self.words, now_ns };
        let (authorities, bindings, lanes) = (&mut self.turn.authorities, &self.bindings, &mut self.lanes);
        self.packets.receive_batches(&mut Arrivals { arrivals, authorities, bindings, lanes });
        self.receive_handed(now_ns, worker);
        self.probes.receive(worker, &self.words);
    }

    fn scans(&self) -> Scans {
        if self.bulk_waiting.load(Ordering::Relaxed) >= BULK_WAITING_MAX { Scans::Wait } else { Scans::Go }
    }

    fn has_room(&mut self) -> bool {
        while let Some(next) = self.turn.backlog.pop_front() {
            let wakes = next.wakes();
            match self.outputs.push(next) {
                Ok(()) => self.turn.said |= wakes,
                Err(PushError::Full(back)) => {
                    self.turn.backlog.push_front(back);
                    self.turn.said = true;
                    return false;
                }
                Err(PushError::Closed(_)) => return false,
            }
        }
        true
    }

    fn output(&mut self, output: WorkerOutput) {
        self.turn.backlog.push_back(FromWorker::Output(output));
    }

    fn outputs_end(&mut self, worker: &mut Worker) {
        if std::mem::take(&mut self.turn.said) {
            self.ringer.ring();
        }
        self.probes.deliver(worker);
        let Some(ring) = &mut self.sessions else { return };
        while let Some(session) = worker.poll_session() {
            if ring.push(session).is_err() {
                self.sessions_lost += 1;
            }
        }
    }

    fn has_buffer(&mut self) -> bool {
        self.packets.transmit_room() > 0
    }

    fn send(&mut self, worker: &mut Worker, (link, meta, authority): (Link, FrameMeta, Authority), frame: &[u8]) {
        let Some(interface) = self.bindings.interface(link) else { return worker.not_transmitted(DropReason::NoLink) };
        let now_ns = now_ns();
        if let Way::Worker(other) = self.lanes.way(&self.words, now_ns, authority, frame) {
            let taken = self.lanes.hand(now_ns, other, (interface, meta), frame);
            return note_refused(worker, taken);
        }
        let tag = tag(&mut self.turn.authorities, authority);
        let taken = self.packets.transmit(interface, meta, tag, frame);
        note_refused(worker, taken);
    }
}

impl Ends {
    /// Frames of other workers, as far as there are buffers to send them by; the others wait.
    fn receive_handed(&mut self, now_ns: u64, worker: &mut Worker) {
        for _ in 0..HANDED_PER_TURN {
            if self.packets.transmit_room() == 0 {
                return;
            }
            let Some((place, Handed { interface, meta, mut frame, .. })) = self.lanes.take(now_ns) else { return };
            if let Some(link) = self.bindings.link(interface) {
                let verdict = turn::Arrivals { worker, words: &self.words, now_ns }.judge(link, &meta, &mut frame);
                match verdict {
                    // Its configuration is another one than the sender's; nothing is given up twice.
                    Verdict::Transmit { authority: Authority::Forward, .. } if is_for_a_shard(&frame) => {
                        worker.not_transmitted(DropReason::NoForward);
                    }
                    Verdict::Transmit { link, authority } => self.send(worker, (link, meta, authority), &frame),
                    Verdict::Consumed | Verdict::Drop(_) => {}
                }
            }
            self.lanes.give_back(place, frame);
        }
    }

    fn wait(&mut self, worker: &Worker) -> Result<(), IoError> {
        let entry = waits_for_time(worker.view().next_entry_ns(), self.turn.asked_ns);
        let due = entry.map_or(worker.next_timer_ns(), |due| due.min(worker.next_timer_ns()));
        let due = Duration::from_nanos(due.saturating_sub(now_ns()));
        let soon = Duration::from_millis(1);
        let timeout = if self.turn.backlog.is_empty() { due.min(self.sleep_max) } else { soon };
        // Frames that found no buffer yet find one as soon as a send has ended.
        let timeout = if worker.held_bytes().1 { soon.min(timeout) } else { timeout };
        let timeout = if self.questions.is_idle() { timeout } else { Duration::ZERO };
        let gathers = waits_for_time(worker.view().gathers_until_ns(), self.turn.asked_ns).is_some();
        let (inputs, lanes, probes) = (&mut self.inputs, &mut self.lanes, &mut self.probes);
        let pending = || !inputs.is_empty() || !lanes.is_empty() || !probes.is_idle();
        match gathers {
            true => self.packets.rest(timeout.min(REST_MAX), pending),
            false => self.packets.wait(timeout, pending),
        }
    }

    /// The last check before the wire repeats the authority (L4); the kernel's guard repeats it once more (L5).
    fn flush(&mut self, worker: &mut Worker) -> Result<(), IoError> {
        let (words, authorities) = (&self.words, &mut self.turn.authorities);
        self.packets.flush(&mut |tag| may_leave(worker, words, now_ns(), authorities, tag))?;
        authorities.clear();
        self.lanes.ring();
        Ok(())
    }

    fn link_life(&self, worker: &Worker, interface: Interface) -> LinkLife {
        let (link, watched) = (self.bindings.link(interface), &self.watch.of[interface.index()]);
        let carried = match link {
            Some(Link::Inside(vnet)) => self.turn.networks.name(vnet),
            Some(Link::Outside) | None => None,
        };
        LinkLife {
            name: self.packets.link(interface).name.clone(),
            link,
            network: carried.or(self.bindings.named(interface)).map(str::to_owned),
            side: if interface == Interface::OUTSIDE { Side::Outside } else { Side::Inside },
            state: self.packets.link_state(interface),
            heard: link.and_then(|link| worker.heard(link)).cloned().unwrap_or_default(),
            since_ns: watched.since_ns,
            refused_macs: watched.refused_macs,
            counts: self.packets.stats(interface),
        }
    }

    fn publish(&mut self, worker: &Worker, now: u64) {
        let claims: Vec<Claim> = worker.claims().collect();
        for claim in &claims {
            if self.watch.is_new_claim(claim) {
                let Claim { link, ip, mac, .. } = claim;
                tracing::warn!(?link, %ip, mac = ?mac, "somebody else claims an address of the cluster by ARP");
            }
        }
        let links = self.packets.interfaces().map(|interface| self.link_life(worker, interface)).collect();
        let stats = WorkerStats {
            engine: *worker.counters(),
            fast: worker.fast_counts(),
            sessions_lost: self.sessions_lost + worker.sessions_lost(),
            links,
            networks: Arc::clone(&self.turn.networks),
            claims,
            shortages: worker.shortages().collect(),
            next_hop: worker.next_hop(),
            at_ns: now,
        };
        self.stats.put(self.share.worker(), stats);
    }
}

/// Hands frames that arrived to the engine.
struct Arrivals<'a> {
    arrivals: turn::Arrivals<'a, WordsReader>,
    authorities: &'a mut Vec<Authority>,
    bindings: &'a Bindings,
    lanes: &'a mut Lanes,
}

impl FrameHandler for Arrivals<'_> {
    fn look_ahead(&mut self, interface: Interface, frame: &[u8]) {
        if let Some(link) = self.bindings.link(interface) {
            self.arrivals.look_ahead(link, frame);
        }
    }

    fn fetch(&mut self) {
        self.arrivals.fetch();
    }

    fn handle(&mut self, interface: Interface, meta: &FrameMeta, frame: &mut [u8]) -> Disposition {
        // An interface whose network is not there leads nowhere.
        let Some(link) = self.bindings.link(interface) else { return Disposition::Done };
        match self.arrivals.judge(link, meta, frame) {
            Verdict::Transmit { link, authority } => match self.bindings.interface(link) {
                Some(interface) => match self.lanes.way(self.arrivals.words, self.arrivals.now_ns, authority, frame) {
                    Way::Wire => Disposition::Transmit { interface, tag: tag(self.authorities, authority) },
                    Way::Worker(other) => {
                        let taken = self.lanes.hand(self.arrivals.now_ns, other, (interface, *meta), frame);
                        note_refused(self.arrivals.worker, taken);
                        Disposition::Done
                    }
                },
                None => {
                    self.arrivals.worker.not_transmitted(DropReason::NoLink);
                    Disposition::Done
                }
            },
            Verdict::Consumed | Verdict::Drop(_) => Disposition::Done,
        }
    }
}

fn is_for_a_shard(frame: &[u8]) -> bool {
    frame.first_chunk().is_some_and(|to| Mac(*to).shard().is_some())
}

/// A frame that the device, or another worker's lane, did not take is counted, and not as sent (I51).
fn note_refused(worker: &mut Worker, taken: bool) {
    if !taken {
        worker.not_transmitted(DropReason::TransmitFailed);
    }
}

/// Whether the frame of a batch with this tag may still leave; one that may not is counted, and not as sent.
fn may_leave(worker: &mut Worker, words: &impl LeaseWords, now: u64, authorities: &[Authority], tag: u64) -> bool {
    let authority = usize::try_from(tag).ok().and_then(|tag| authorities.get(tag));
    let may = authority.is_some_and(|authority| Worker::may_transmit(words, now, *authority));
    if !may {
        worker.not_transmitted(DropReason::LeaseLapsed);
    }
    may
}

/// When the worker has an entry that waits for nothing but others to join it. One that was due when the worker was asked for what it
/// has waits for the lease or for room, and no time brings it.
fn waits_for_time(due_ns: Option<u64>, asked_ns: u64) -> Option<u64> {
    due_ns.filter(|due| *due > asked_ns)
}

fn tag(authorities: &mut Vec<Authority>, authority: Authority) -> u64 {
    authorities.push(authority);
    authorities.len() as u64 - 1
}

#[cfg(test)]
#[path = "worker_thread_tests.rs"]
mod tests;
