//! One simulated member: the control half, the flow half and the worker, driven as the daemon drives them.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use consensus::control_group::ControlTiming;
use consensus::storage::memory::MemoryStore;
use engine::LeaseWords;
use engine::event::{Authority, GroupEvent, Verdict};
use engine::ids::{LeaseWord, Mac, NodeId, ShardId, Side, VnetId};
use engine::wire::FrameMeta;
use engine::worker::Worker;
use qnat::member::control_member::{ControlMember, ControlOut, Identity, Now};
use qnat::member::flow_member::{FlowMember, FlowOut, WorkerInput};
use qnat::member::frame::CHANNEL_CONTROL;
use qnat::member::view::View;

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
    Send { to: NodeId, channel: u32, bytes: Bytes },
    Frame { side: Side, authority: Authority, frame: Vec<u8> },
    Leads { shard: ShardId, term: u64 },
}

/// One life of a member.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) control: ControlMember<MemoryStore>,
    pub(super) flow: Option<FlowMember>,
    pub(super) worker: Option<Worker>,
    pub(super) words: Words,
    view: Option<Arc<View>>,
    seed: u64,
    queue: VecDeque<WorkerInput>,
    deeds: Vec<Deed>,
}

pub(super) fn macs(id: NodeId) -> (Mac, Mac) {
    let n = u8::try_from(id.0).expect("few nodes");
    (Mac([2, 9, 0, 0, 1, n]), Mac([2, 9, 0, 0, 2, n]))
}

pub(super) fn address(id: NodeId) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(198, 18, 0, u8::try_from(id.0).expect("few nodes")), 7800))
}

impl Node {
    pub(super) fn start(id: NodeId, nodes: u32, store: MemoryStore, seed: u64, now: Now) -> Result<Self, String> {
        let (inside_mac, outside_mac) = macs(id);
        let me = Identity {
            node: id,
            peer_addr: address(id),
            api_addr: SocketAddr::from(([127, 0, 0, 1], 7880)),
            inside_mac,
            outside_mac,
            peers: (1..=nodes).map(NodeId).collect(),
        };
        let control = ControlMember::new(me, store, ControlTiming::default(), seed, now).map_err(|e| e.to_string())?;
        let (words, queue, deeds) = (Words::default(), VecDeque::new(), Vec::new());
        Ok(Self { id, control, flow: None, worker: None, words, view: None, seed, queue, deeds })
    }

    pub(super) fn peer(&mut self, now: Now, from: NodeId, channel: u32, bytes: &Bytes) {
        if channel == CHANNEL_CONTROL {
            self.control.handle_peer(now, from, bytes);
        } else if let Some(flow) = &mut self.flow {
            flow.handle_peer(now.ns, from, bytes);
        }
    }

    pub(super) fn frame(&mut self, now_ns: u64, side: Side, mut frame: Vec<u8>) {
        let Some(worker) = &mut self.worker else { return };
        let verdict = worker.handle_frame(now_ns, &self.words, side, &FrameMeta::default(), &mut frame);
        if let Verdict::Transmit { side, authority } = verdict {
            self.deeds.push(Deed::Frame { side, authority, frame });
        }
    }

    pub(super) fn tick(&mut self, now: Now) {
        self.control.tick(now);
        if let Some(flow) = &mut self.flow {
            flow.tick(now.ns);
        }
        if let Some(worker) = &mut self.worker
            && now.ns >= worker.next_timer_ns()
        {
            worker.handle_timers(now.ns, &self.words);
        }
    }

    /// Performs everything that is to be done now; what concerns the world comes back.
    pub(super) fn settle(&mut self, now: Now) -> Result<Vec<Deed>, String> {
        loop {
            let before = self.deeds.len();
            let busy = self.settle_control(now)? | self.settle_flow(now) | self.settle_worker(now);
            if !busy && before == self.deeds.len() {
                return Ok(std::mem::take(&mut self.deeds));
            }
        }
    }

    fn settle_control(&mut self, now: Now) -> Result<bool, String> {
        let mut busy = false;
        while let Some(out) = self.control.poll(now) {
            busy = true;
            match out {
                ControlOut::Send { to, frame } => {
                    self.deeds.push(Deed::Send { to, channel: CHANNEL_CONTROL, bytes: frame });
                }
                ControlOut::View(view) => self.view = Some(view),
                ControlOut::Registered(_) | ControlOut::Done { .. } => {}
                ControlOut::StoreFailed { reason } => return Err(format!("store of node {}: {reason}", self.id)),
            }
        }
        let Some(view) = self.view.take() else { return Ok(busy) };
        match (&mut self.flow, self.control.incarnation()) {
            (Some(flow), _) => flow.handle_view(now.ns, view),
            (None, Some(me)) if view.node_of.contains_key(&me) => {
                self.flow = Some(FlowMember::new(me, view, self.seed, now.ns));
                let mut worker = Worker::new(me, self.id, VnetId(1), self.seed);
                worker.set_links(now.ns, true);
                self.worker = Some(worker);
            }
            (None, _) => self.view = Some(view).filter(|_| false),
        }
        Ok(true)
    }

    fn settle_flow(&mut self, now: Now) -> bool {
        let Some(flow) = &mut self.flow else { return false };
        let mut busy = false;
        while let Some(out) = flow.poll(now.ns) {
            busy = true;
            match out {
                FlowOut::Send { to, channel, frame } => {
                    self.deeds.push(Deed::Send { to, channel, bytes: frame });
                }
                // Its own channel space: the highest bit.
                FlowOut::SendBulk { to, channel, frame } => {
                    self.deeds.push(Deed::Send { to, channel: channel | 1 << 30, bytes: frame });
                }
                FlowOut::Word { shard, word } => {
                    self.words.0.insert(shard, word);
                }
                FlowOut::Worker(input) => self.queue.push_back(input),
                FlowOut::Control(duty) => self.control.handle_duty(now, duty),
            }
        }
        busy
    }

    fn settle_worker(&mut self, now: Now) -> bool {
        let (Some(worker), Some(flow)) = (&mut self.worker, &mut self.flow) else { return false };
        let mut busy = false;
        while let Some(input) = self.queue.pop_front() {
            busy = true;
            match input {
                WorkerInput::Event(event) => {
                    if let GroupEvent::Leading { shard, term } = event {
                        self.deeds.push(Deed::Leads { shard, term: term.0 });
                    }
                    worker.handle_event(now.ns, &self.words, event);
                }
                WorkerInput::Snapshot(snapshot) => {
                    worker.load_snapshot(now.ns, snapshot);
                    worker.handle_timers(now.ns, &self.words);
                }
            }
            let mut buffer = Vec::new();
            while let Some((side, _, authority)) = worker.poll_frame(now.ns, &self.words, &mut buffer) {
                self.deeds.push(Deed::Frame { side, authority, frame: buffer.clone() });
            }
        }
        while let Some(output) = worker.poll_output(now.ns, &self.words) {
            busy = true;
            if let Some(duty) = flow.handle_worker(now.ns, output) {
                self.control.handle_duty(now, duty);
            }
        }
        let mut buffer = Vec::new();
        while let Some((side, _, authority)) = worker.poll_frame(now.ns, &self.words, &mut buffer) {
            self.deeds.push(Deed::Frame { side, authority, frame: buffer.clone() });
        }
        busy
    }
}
