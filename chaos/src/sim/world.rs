//! The world of one seed: members, peers' network, data networks, faults and time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::Ipv4Addr;

use bytes::Bytes;
use consensus::storage::memory::{MemoryStore, PowerLoss};
use consensus::storage::{ClusterId, LogStore};
use control::command::{CommandBody, Configure};
use control::registry::{FOUNDER_RAFT_ID, Founder};
use control::state::State;
use engine::event::Authority;
use engine::ids::{Mac, NodeId, ShardId, Side};
use engine::wire::{FrameMeta, Parsed, parse};
use engine::worker::Worker;
use qnat::member::control_member::Now;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::judge::Judge;
use super::node::{Deed, Node, address};
use super::traffic::{REMOTE, arp_answer, backend_mac, echo, outbound, read};

const MS: u64 = 1_000_000;
const STEP_NS: u64 = MS / 2;
const BACKENDS: u8 = 6;
/// Faults happen until then; after it everything must heal.
const FAULTS_UNTIL_NS: u64 = 12_000 * MS;
const END_NS: u64 = 24_000 * MS;

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first invariant that broke, if any.
    pub violation: Option<String>,
    /// Hash of everything that left: equal for equal runs.
    pub trace: u64,
    /// UDP frames that left outside.
    pub emitted: u64,
    /// Flows that ever left.
    pub mappings: u64,
    /// Faults and elections.
    pub crashes: u64,
    /// As above.
    pub pauses: u64,
    /// As above.
    pub cuts: u64,
    /// As above.
    pub elections: u64,
}

enum Arrival {
    Peer {
        from: NodeId,
        channel: u32,
        bytes: Bytes,
    },
    Frame {
        side: Side,
        frame: Vec<u8>,
    },
    /// A frame that the worker has judged and that waits in front of the wire.
    Leaving {
        side: Side,
        authority: Authority,
        frame: Vec<u8>,
    },
}

struct World {
    now_ns: u64,
    nodes: BTreeMap<NodeId, Node>,
    disks: BTreeMap<NodeId, MemoryStore>,
    dead_until: BTreeMap<NodeId, u64>,
    paused_until: BTreeMap<NodeId, u64>,
    cut_until: BTreeMap<(NodeId, NodeId), u64>,
    queue: BinaryHeap<Reverse<(u64, u64, NodeId, u32)>>,
    bodies: BTreeMap<u64, (u64, Arrival)>,
    lives: BTreeMap<NodeId, u64>,
    streams: BTreeMap<(NodeId, NodeId, u32), u64>,
    sequence: u64,
    switch: BTreeMap<(Side, Mac), NodeId>,
    homes: BTreeMap<Ipv4Addr, Mac>,
    network: ChaCha8Rng,
    faults: ChaCha8Rng,
    load: ChaCha8Rng,
    judge: Judge,
    outcome: Outcome,
    answered: BTreeSet<u32>,
    loss: f64,
    next_fault_ns: u64,
}

/// Runs one seed to its end or to the first violation.
#[must_use]
pub fn run_seed(seed: u64) -> Outcome {
    let mut world = World::new(seed);
    let result = world.run();
    world.outcome.mappings = world.judge.mappings();
    world.outcome.violation = result.err().map(|why| format!("at {} ms: {why}", world.now_ns / MS));
    world.outcome
}

impl World {
    fn new(seed: u64) -> Self {
        let stream = |n| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(n);
            rng
        };
        let mut faults = stream(2);
        let loss = if faults.random_bool(0.3) { 0.02 } else { 0.0 };
        let outcome = Outcome {
            seed,
            violation: None,
            trace: seed,
            emitted: 0,
            mappings: 0,
            crashes: 0,
            pauses: 0,
            cuts: 0,
            elections: 0,
        };
        Self {
            now_ns: 1_000 * MS,
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            dead_until: BTreeMap::new(),
            paused_until: BTreeMap::new(),
            cut_until: BTreeMap::new(),
            queue: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            lives: BTreeMap::new(),
            streams: BTreeMap::new(),
            sequence: 0,
            switch: BTreeMap::new(),
            homes: BTreeMap::new(),
            network: stream(1),
            faults,
            load: stream(3),
            judge: Judge::default(),
            outcome,
            answered: BTreeSet::new(),
            loss,
            next_fault_ns: 4_000 * MS,
        }
    }

    const fn now(&self) -> Now {
        Now { ns: self.now_ns, unix_ms: self.now_ns / MS }
    }

    fn run(&mut self) -> Result<(), String> {
        self.found()?;
        let mut configured = false;
        while self.now_ns < END_NS {
            self.now_ns += STEP_NS;
            self.deliver()?;
            let now = self.now();
            let ids: Vec<NodeId> = self.nodes.keys().copied().filter(|id| !self.paused(*id)).collect();
            for id in &ids {
                if let Some(node) = self.nodes.get_mut(id) {
                    node.tick(now);
                }
                self.settle(*id)?;
            }
            if !configured && self.now_ns > 2_000 * MS {
                configured = self.configure();
            }
            if self.now_ns > 3_500 * MS {
                self.traffic();
            }
            self.fault()?;
            if self.now_ns % (100 * MS) < STEP_NS {
                for node in self.nodes.values() {
                    self.judge.state(node)?;
                }
            }
        }
        self.healed()
    }

    fn found(&mut self) -> Result<(), String> {
        let ids: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let founder = |id: &NodeId| Founder { node: *id, peer_addr: address(*id), api_addr: address(*id) };
        let founders: Vec<Founder> = ids.iter().map(founder).collect();
        let state = State::found([7; 16], &founders, [1, 2]).encode().map_err(|e| e.to_string())?;
        let voters: Vec<u64> = ids.iter().map(|id| FOUNDER_RAFT_ID | u64::from(id.0)).collect();
        for id in ids {
            let mut store = MemoryStore::new();
            let raft_id = FOUNDER_RAFT_ID | u64::from(id.0);
            store
                .found(ClusterId([7; 16]), raft_id, &voters, &Bytes::from(state.clone()))
                .map_err(|e| e.to_string())?;
            self.start(id, store)?;
        }
        Ok(())
    }

    fn start(&mut self, id: NodeId, store: MemoryStore) -> Result<(), String> {
        let seed = self.faults.random();
        *self.lives.entry(id).or_insert(0) += 1;
        let node = Node::start(id, 3, store, seed, self.now())?;
        self.nodes.insert(id, node);
        Ok(())
    }

    fn configure(&mut self) -> bool {
        let mut text = String::from(
            "[outside]\nnetwork = \"203.0.113.0/24\"\n[[virtual_network]]\nname = \"v\"\n[[virtual_network.subnet]]\n\
             name = \"d\"\nprefix = \"10.0.0.0/16\"\ngateway = \"10.0.0.1\"\n",
        );
        for n in 1..=3 {
            text += &format!("[[public_ip]]\nname = \"p{n}\"\naddress = \"203.0.113.{n}\"\n");
        }
        text += "[[load_balancer]]\nname = \"lb\"\nfrontends = [\"p1\", \"p2\", \"p3\"]\n[[load_balancer.pool]]\n\
                 name = \"w\"\n[[load_balancer.outbound_rule]]\nname = \"o\"\npool = \"w\"\n";
        for n in 1..=BACKENDS {
            text += &format!(
                "[[instance]]\nname = \"b{n}\"\n[[instance.ip_configuration]]\nname = \"i\"\nprivate_ip = \"10.0.1.{n}\"\n\
                 subnet = \"v/d\"\npool = \"lb/w\"\n"
            );
        }
        let desired = control::config::parse("sim", &text).expect("a correct configuration");
        let now = self.now();
        let Some(leader) = self.nodes.values_mut().find(|node| node.control.leading()) else { return false };
        let body = Configure { desired, base_hash: None, hints: Vec::new() };
        leader.control.submit(now, 1, CommandBody::Configure(Box::new(body)));
        true
    }

    fn paused(&self, id: NodeId) -> bool {
        self.paused_until.get(&id).is_some_and(|until| self.now_ns < *until)
    }

    fn cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut_until.get(&(from, to)).is_some_and(|until| self.now_ns < *until)
    }

    fn post(&mut self, to: NodeId, at_ns: u64, arrival: Arrival) {
        self.sequence += 1;
        self.queue.push(Reverse((at_ns, self.sequence, to, 0)));
        let life = self.lives.get(&to).copied().unwrap_or(0);
        self.bodies.insert(self.sequence, (life, arrival));
    }

    fn deliver(&mut self) -> Result<(), String> {
        let mut kept = Vec::new();
        while let Some(Reverse((at, sequence, to, _))) = self.queue.peek().copied() {
            if at > self.now_ns {
                break;
            }
            self.queue.pop();
            if self.paused(to) {
                kept.push(Reverse((self.now_ns + STEP_NS, sequence, to, 0)));
                continue;
            }
            let Some((life, arrival)) = self.bodies.remove(&sequence) else { continue };
            let now = self.now();
            let cut = matches!(&arrival, Arrival::Peer { from, .. } if self.cut(*from, to));
            let alive = self.lives.get(&to) == Some(&life);
            let Some(node) = self.nodes.get_mut(&to).filter(|_| alive && !cut) else { continue };
            match arrival {
                Arrival::Peer { from, channel, bytes } => node.peer(now, from, channel, &bytes),
                Arrival::Frame { side, frame } => node.frame(now.ns, side, frame),
                Arrival::Leaving { side, authority, frame } => self.leave(to, side, authority, frame)?,
            }
            self.settle(to)?;
        }
        self.queue.extend(kept);
        Ok(())
    }

    fn settle(&mut self, id: NodeId) -> Result<(), String> {
        let now = self.now();
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        for deed in node.settle(now)? {
            match deed {
                Deed::Send { to, channel, bytes } => self.send(id, to, channel, bytes),
                Deed::Frame { side, authority, frame } => {
                    // Some frames are judged now and handed to the wire later, perhaps after a pause (L5).
                    let late = if self.network.random_bool(0.02) { self.network.random_range(0..20 * MS) } else { 0 };
                    self.post(id, self.now_ns + late, Arrival::Leaving { side, authority, frame });
                }
                Deed::Leads { shard, term } => {
                    self.outcome.elections += 1;
                    self.judge.leads(shard, term, id)?;
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, from: NodeId, to: NodeId, channel: u32, bytes: Bytes) {
        if self.cut(from, to) {
            return;
        }
        let mut delay = self.network.random_range(50_000..400_000);
        // A lost datagram costs its stream a retransmission.
        if self.loss > 0.0 && self.network.random_bool(self.loss) {
            delay += 8 * MS;
        }
        let at = self.streams.entry((from, to, channel)).or_insert(0);
        *at = (*at).max(self.now_ns + delay);
        let at = *at;
        self.post(to, at, Arrival::Peer { from, channel, bytes });
    }

    /// A frame passes the last check (L5), the switch and its receiver.
    fn leave(&mut self, id: NodeId, side: Side, authority: Authority, frame: Vec<u8>) -> Result<(), String> {
        let node = &self.nodes[&id];
        if !Worker::may_transmit(&node.words, self.now_ns, authority) {
            return Ok(());
        }
        let src = Mac(frame[6..12].try_into().expect("an Ethernet header"));
        let dst = Mac(frame[..6].try_into().expect("an Ethernet header"));
        self.switch.insert((side, src), id);
        if let (Authority::Lease { term, .. }, Some(shard)) = (authority, src.shard()) {
            self.judge.vmac(shard, term.0, id)?;
        }
        if let Ok(Parsed::Arp(arp)) = parse(&frame, &FrameMeta::default()) {
            let answer = match side {
                Side::Outside => arp_answer(&arp, REMOTE.0, REMOTE.1),
                Side::Inside => arp_answer(&arp, arp.target_ip, backend_mac(arp.target_ip)),
            };
            if let Some(answer) = answer {
                self.switched(side, arp.sender_mac, answer);
            }
            return Ok(());
        }
        if matches!(authority, Authority::Forward) {
            self.switched(side, dst, frame);
            return Ok(());
        }
        let Some(seen) = read(&frame) else { return Ok(()) };
        self.outcome.trace = (self.outcome.trace ^ u64::from(seen.tag) ^ self.now_ns).wrapping_mul(0x0100_0000_01b3);
        match side {
            Side::Outside => {
                self.outcome.emitted += 1;
                self.judge.outside(&seen)?;
                let backend = Ipv4Addr::new(10, 0, 1, (seen.tag >> 16).to_le_bytes()[0]);
                Judge::leased(&self.nodes[&id], &seen, backend)?;
                let back = self.switch.keys().find(|(s, mac)| *s == Side::Outside && *mac == seen.eth_src).copied();
                if let Some((_, mac)) = back {
                    let frame = echo(&seen, mac);
                    self.switched(Side::Outside, mac, frame);
                }
            }
            Side::Inside => {
                let backend = Ipv4Addr::new(10, 0, 1, (seen.tag >> 16).to_le_bytes()[0]);
                let port = seen.tag.to_le_bytes();
                if seen.dst != backend || seen.dport != u16::from_le_bytes([port[0], port[1]]) {
                    return Err(format!("I39: the answer to {:#x} went to {}:{}", seen.tag, seen.dst, seen.dport));
                }
                self.answered.insert(seen.tag);
            }
        }
        Ok(())
    }

    /// The switch: to the learned port, else to everybody.
    fn switched(&mut self, side: Side, mac: Mac, frame: Vec<u8>) {
        let at = self.now_ns + self.network.random_range(20_000..100_000);
        let known = self.switch.get(&(side, mac)).copied();
        let own = self.nodes.keys().copied().find(|id| {
            let (inside, outside) = super::node::macs(*id);
            mac == if side == Side::Inside { inside } else { outside }
        });
        match own.or(known) {
            Some(id) => self.post(id, at, Arrival::Frame { side, frame }),
            None => {
                for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                    self.post(id, at, Arrival::Frame { side, frame: frame.clone() });
                }
            }
        }
    }

    /// Backends open flows and repeat old ones.
    fn traffic(&mut self) {
        if self.homes.len() < usize::from(BACKENDS) {
            let views = self.nodes.values().filter_map(|node| Some(node.flow.as_ref()?.view().clone()));
            for view in views.collect::<Vec<_>>() {
                let homes = view.snapshot.backends.values().map(|b| (b.ip, Mac::of_shard(b.home)));
                self.homes.extend(homes);
            }
        }
        if !self.load.random_bool(0.25) {
            return;
        }
        let backend = self.load.random_range(1..=BACKENDS);
        let ip = Ipv4Addr::new(10, 0, 1, backend);
        let Some(gateway) = self.homes.get(&ip).copied() else { return };
        let port: u16 = 20_000 + self.load.random_range(0..120);
        let tag = u32::from(backend) << 16 | u32::from(port);
        let frame = outbound(gateway, ip, port, tag);
        self.switched(Side::Inside, gateway, frame);
    }

    /// One fault at a time, so that every single one meets full redundancy or heals before the next (N3).
    fn fault(&mut self) -> Result<(), String> {
        let due: Vec<NodeId> =
            self.dead_until.iter().filter(|(_, at)| self.now_ns >= **at).map(|(id, _)| *id).collect();
        for id in due {
            self.dead_until.remove(&id);
            let mut store: MemoryStore = self.disks.remove(&id).expect("a dead node left its disk");
            if self.faults.random_bool(0.3) {
                store = MemoryStore::new();
            }
            self.start(id, store)?;
        }
        if self.now_ns < self.next_fault_ns || self.now_ns > FAULTS_UNTIL_NS {
            return Ok(());
        }
        self.next_fault_ns = self.now_ns + self.faults.random_range(2_500..4_500) * MS;
        if !self.dead_until.is_empty() || !self.whole() {
            return Ok(());
        }
        let id = NodeId(self.faults.random_range(1..=3));
        match self.faults.random_range(0..4) {
            0 | 1 => {
                self.outcome.crashes += 1;
                let node = self.nodes.remove(&id).expect("it lives");
                let mut store = node.control.into_store().ok_or("a store that failed")?;
                if self.faults.random_bool(0.5) {
                    store.power_loss(PowerLoss::default());
                } else {
                    store.process_ends();
                }
                self.disks.insert(id, store);
                self.dead_until.insert(id, self.now_ns + self.faults.random_range(50..1_500) * MS);
            }
            2 => {
                self.outcome.pauses += 1;
                self.paused_until.insert(id, self.now_ns + self.faults.random_range(20..2_000) * MS);
            }
            _ => {
                self.outcome.cuts += 1;
                let until = self.now_ns + self.faults.random_range(50..2_000) * MS;
                let both = self.faults.random_bool(0.7);
                for other in (1..=3).map(NodeId).filter(|other| *other != id) {
                    self.cut_until.insert((id, other), until);
                    if both {
                        self.cut_until.insert((other, id), until);
                    }
                }
            }
        }
        Ok(())
    }

    /// Every shard has three voters, all of the newest lives, and an owner that serves.
    fn whole(&self) -> bool {
        self.shards_unwell().is_none()
    }

    fn shards_unwell(&self) -> Option<String> {
        let serving = self.nodes.values().filter_map(|node| node.worker.as_ref()).flat_map(Worker::shard_status);
        let serving: BTreeSet<ShardId> = serving.filter(|s| s.serving == Some(Ok(()))).map(|s| s.shard).collect();
        for node in self.nodes.values() {
            let Some(flow) = &node.flow else { return Some(format!("node {} has not registered", node.id)) };
            let newest: BTreeSet<u64> = flow.view().newest.values().map(|life| life.0).collect();
            let statuses = flow.status(self.now_ns);
            if statuses.len() != 3 {
                return Some(format!("node {} has {} groups", node.id, statuses.len()));
            }
            for status in statuses {
                let voters: BTreeSet<u64> = status.voters.iter().map(|life| life.0).collect();
                if voters != newest || !status.outgoing.is_empty() {
                    return Some(format!(
                        "group {} on node {}: voters {voters:?}, lives {newest:?}",
                        status.group.0, node.id
                    ));
                }
            }
        }
        (serving.len() != 3 || self.nodes.len() != 3).then(|| {
            let all = self.nodes.values().filter_map(|node| node.worker.as_ref()).map(Worker::shard_status);
            format!("serving: {serving:?} of {:?}", all.collect::<Vec<_>>())
        })
    }

    /// Liveness: when the faults are over, everything is as it was, and new flows pass.
    fn healed(&self) -> Result<(), String> {
        if let Some(why) = self.shards_unwell() {
            return Err(format!("I27: not whole 10 s after the last fault: {why}"));
        }
        if self.answered.len() < 100 {
            return Err(format!("I25: only {} flows were ever answered", self.answered.len()));
        }
        Ok(())
    }
}
