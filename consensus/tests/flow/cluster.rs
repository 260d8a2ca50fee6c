//! A whole cluster in memory and in virtual time: nodes, a network with faults, a toy worker and a toy control log; and the
//! judge that watches every effect.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use bytes::Bytes;
use qnat_consensus::event::{FlowEffect, FlowInput, GroupHealth, GroupSpec, Origin, Report, Sealing, Timing};
use qnat_consensus::flow::frame::Frame;
use qnat_consensus::flow::{FlowGroups, GroupStatus, Role};
use raft::eraftpb::MessageType;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use words::{Epoch, GroupEvent, Incarnation, LogIndex, ShardId, Term};

pub(crate) use words::time::MS;
const CHUNK_KEYS: usize = 40;

/// The toy table: like a flow table, each record carries the index that wrote it last.
pub(crate) type Table = BTreeMap<u32, (u64, u64)>;

#[derive(Debug)]
struct Scan {
    transfer: u64,
    base: u64,
    from_key: u32,
}

/// What a real worker does with the events, without packets.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    pub(crate) table: Table,
    pub(crate) applied: u64,
    pub(crate) epoch: Epoch,
    loading: bool,
    control: u64,
    pub(crate) leading: Option<u64>,
    served: bool,
    stream: u32,
    sequence: u64,
    scans: VecDeque<Scan>,
}

/// One machine.
pub(crate) struct Node {
    pub(crate) id: u32,
    pub(crate) incarnation: Incarnation,
    pub(crate) groups: FlowGroups,
    pub(crate) alive: bool,
    pub(crate) paused_until: u64,
    inbox: VecDeque<FlowInput>,
    pub(crate) workers: BTreeMap<ShardId, Worker>,
    pub(crate) report: Report,
    pub(crate) may_load: u64,
    pub(crate) owners: BTreeMap<ShardId, Option<Incarnation>>,
    pub(crate) serves: bool,
    /// Until when the worker makes no turn.
    pub(crate) worker_hangs_until: u64,
    pub(crate) stopped: Option<u32>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    at: u64,
    number: u64,
    from: Incarnation,
    to: Incarnation,
    frame: Bytes,
}

/// Faults of the network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) delay_ns: (u64, u64),
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
}

impl Weather {
    pub(crate) const CALM: Self = Self { delay_ns: (100_000, MS), loss: 0.0, duplicate: 0.0 };
}

/// A lease word, with the node that holds it: words outlive their process (the kernel keeps them).
type Words = BTreeMap<(ShardId, u32), (u64, u64, u64)>;

/// Everything that must agree.
#[derive(Default)]
pub(crate) struct Judge {
    leaders: BTreeMap<(ShardId, u64), Incarnation>,
    /// The committed sequence per group and epoch.
    pub(crate) committed: BTreeMap<(ShardId, Epoch), BTreeMap<u64, (u64, Bytes)>>,
    pub(crate) words: Words,
    pub(crate) removed: BTreeSet<(ShardId, Epoch, Incarnation)>,
    pub(crate) sealed: BTreeMap<(ShardId, Epoch, Incarnation), (u64, u64)>,
    pub(crate) health: BTreeMap<ShardId, (u64, GroupHealth)>,
    pub(crate) loads: u64,
    pub(crate) leadings: Vec<(u64, ShardId, u64, Incarnation)>,
    pub(crate) commits_at: BTreeMap<(ShardId, u64), u64>,
}

pub(crate) struct Cluster {
    pub(crate) rng: ChaCha8Rng,
    pub(crate) now: u64,
    pub(crate) timing: Timing,
    pub(crate) nodes: Vec<Node>,
    flights: BinaryHeap<Reverse<Flight>>,
    flown: u64,
    pub(crate) weather: Weather,
    /// Directed cuts between nodes.
    pub(crate) cuts: BTreeSet<(u32, u32)>,
    /// The same for entries of the log alone; all else passes.
    pub(crate) entries_cut: BTreeSet<(u32, u32)>,
    pub(crate) control_index: u64,
    pub(crate) specs: BTreeMap<ShardId, GroupSpec>,
    spec_news: BTreeMap<u32, u64>,
    next_incarnation: u64,
    pub(crate) judge: Judge,
    /// Proposals per step and group, as a probability.
    pub(crate) load: f64,
    pub(crate) keys: u32,
    /// Entries that replicas keep for followers that lag.
    pub(crate) retained: Option<u64>,
    /// Resolution of time.
    pub(crate) step_ns: u64,
    seed: u64,
}

impl Cluster {
    /// `nodes` machines and `groups` groups founded on the first `replicas` of them in rotating order.
    pub(crate) fn new(seed: u64, nodes: u32, groups: u16, replicas: u32) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let mut cluster = Self {
            rng,
            now: 10_000 * MS,
            timing: Timing::default(),
            nodes: Vec::new(),
            flights: BinaryHeap::new(),
            flown: 0,
            weather: Weather::CALM,
            cuts: BTreeSet::new(),
            entries_cut: BTreeSet::new(),
            control_index: 1,
            specs: BTreeMap::new(),
            spec_news: BTreeMap::new(),
            next_incarnation: 1,
            judge: Judge::default(),
            load: 0.3,
            keys: 200,
            retained: None,
            step_ns: MS,
            seed,
        };
        for id in 0..nodes {
            let node = cluster.boot(id);
            cluster.nodes.push(node);
        }
        for g in 0..groups {
            let members: Vec<Incarnation> =
                (0..replicas).map(|r| cluster.nodes[((u32::from(g) + r) % nodes) as usize].incarnation).collect();
            let spec = GroupSpec {
                group: ShardId(g),
                epoch: Epoch(0),
                members: members.clone(),
                leaving: vec![],
                origin: Origin::Founded { voters: members },
                sealing: Sealing::No,
            };
            cluster.specs.insert(ShardId(g), spec);
        }
        cluster.publish();
        cluster
    }

    fn boot(&mut self, id: u32) -> Node {
        let incarnation = Incarnation(self.next_incarnation);
        self.next_incarnation += 1;
        // Machines do not tick in step.
        let phase = self.rng.random_range(0..5 * MS);
        let mut groups = FlowGroups::new(incarnation, self.timing, self.rng.random(), self.now + phase);
        if let Some(entries) = self.retained {
            groups.set_retained_entries(entries);
        }
        Node {
            id,
            incarnation,
            groups,
            alive: true,
            paused_until: 0,
            inbox: VecDeque::new(),
            workers: BTreeMap::new(),
            report: Report { links_up: true, ..Report::default() },
            may_load: 0,
            owners: BTreeMap::new(),
            serves: true,
            worker_hangs_until: 0,
            stopped: None,
        }
    }

    /// The control state changed; every node hears of it a little later.
    pub(crate) fn publish(&mut self) {
        self.control_index += 1;
        for node in &self.nodes {
            let delay = self.rng.random_range(0..20 * MS);
            self.spec_news.entry(node.id).or_insert(self.now + delay);
        }
    }

    /// Replicas that begin from now on keep so many entries only.
    pub(crate) fn retain(&mut self, entries: u64) {
        self.retained = Some(entries);
        self.nodes.iter_mut().for_each(|node| node.groups.set_retained_entries(entries));
    }

    /// A machine dies. Its words stay.
    pub(crate) fn crash(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize];
        node.alive = false;
        node.inbox.clear();
    }

    /// It comes back as a new incarnation, which zeroes its words before it registers; the control log then lists it in
    /// place of the old one.
    pub(crate) fn restart(&mut self, id: u32) {
        let old = self.nodes[id as usize].incarnation;
        self.judge.words.retain(|(_, node), _| *node != id);
        let node = self.boot(id);
        let new = node.incarnation;
        self.nodes[id as usize] = node;
        for spec in self.specs.values_mut() {
            for member in spec.members.iter_mut().filter(|m| **m == old) {
                *member = new;
                spec.leaving.push(old);
            }
        }
        self.publish();
    }

    pub(crate) fn node(&self, incarnation: Incarnation) -> Option<&Node> {
        self.nodes.iter().find(|n| n.incarnation == incarnation)
    }

    /// Runs for so long.
    pub(crate) fn run(&mut self, ns: u64) {
        let end = self.now + ns;
        while self.now < end {
            self.step();
        }
    }

    /// Runs until `done`, at most so long; whether it came to pass.
    pub(crate) fn run_until(&mut self, ns: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + ns;
        while self.now < end {
            if done(self) {
                return true;
            }
            self.step();
        }
        done(self)
    }

    pub(crate) fn step(&mut self) {
        self.now += self.step_ns;
        self.control();
        while self.flights.peek().is_some_and(|f| f.0.at <= self.now) {
            let Reverse(flight) = self.flights.pop().expect("peeked");
            let Some(node) = self.nodes.iter_mut().find(|n| n.incarnation == flight.to) else { continue };
            if node.alive {
                node.inbox.push_back(FlowInput::Peer { from: flight.from, frame: flight.frame });
            }
        }
        let first = self.rng.random_range(0..self.nodes.len());
        for i in 0..self.nodes.len() {
            let at = (first + i) % self.nodes.len();
            if self.nodes[at].alive && self.nodes[at].paused_until <= self.now {
                self.run_node(at);
            }
        }
    }

    /// The control log: reported removals end `leaving`; news reach the nodes.
    fn control(&mut self) {
        let removed = std::mem::take(&mut self.judge.removed);
        let mut changed = false;
        for (group, epoch, gone) in removed {
            let Some(spec) = self.specs.get_mut(&group).filter(|s| s.epoch == epoch) else { continue };
            let before = spec.leaving.len();
            spec.leaving.retain(|id| *id != gone);
            changed |= spec.leaving.len() != before;
        }
        if changed {
            self.publish();
        }
        let due: Vec<u32> = self.spec_news.iter().filter(|(_, at)| **at <= self.now).map(|(id, _)| *id).collect();
        for id in due {
            self.spec_news.remove(&id);
            let specs = self.specs.values().cloned().collect();
            let incarnations = self.nodes.iter().map(|n| n.incarnation).collect();
            let control_index = self.control_index;
            let node = &mut self.nodes[id as usize];
            if node.alive {
                node.inbox.push_back(FlowInput::Nodes(incarnations));
                node.inbox.push_back(FlowInput::Specs { control_index, specs });
                node.report.control_ready = control_index;
                node.inbox.push_back(FlowInput::Report(Box::new(node.report)));
            }
        }
    }

    fn run_node(&mut self, at: usize) {
        if self.nodes[at].worker_hangs_until <= self.now {
            self.nodes[at].groups.handle(self.now, FlowInput::Turned { at_ns: self.now });
        }
        // Sometimes the tick comes before what has piled up, sometimes after.
        if self.rng.random_bool(0.5) {
            self.nodes[at].groups.tick(self.now);
            self.drain(at);
        }
        while let Some(input) = self.nodes[at].inbox.pop_front() {
            self.nodes[at].groups.handle(self.now, input);
            if self.rng.random_bool(0.5) {
                self.drain(at);
            }
        }
        self.work(at);
        self.nodes[at].groups.tick(self.now);
        self.drain(at);
    }

    /// The worker proposes and continues its scans.
    fn work(&mut self, at: usize) {
        let (load, keys, now) = (self.load, self.keys, self.now);
        let node = &mut self.nodes[at];
        for (group, worker) in &mut node.workers {
            let group = *group;
            if let Some(term) = worker.leading.filter(|_| worker.served && self.rng.random_bool(load)) {
                let entry =
                    [self.rng.random_range(0..keys).to_le_bytes().as_slice(), &self.flown.to_le_bytes()].concat();
                let (stream, sequence) = (worker.stream, worker.sequence);
                worker.sequence += 1;
                self.flown += 1;
                node.groups.handle(now, FlowInput::Propose { group, term, stream, sequence, entry: entry.into() });
            }
            if let Some(scan) = worker.scans.front_mut() {
                let part: Vec<_> = worker.table.range(scan.from_key..).take(CHUNK_KEYS).collect();
                let last = part.len() < CHUNK_KEYS;
                let chunk: Vec<u8> = part
                    .iter()
                    .flat_map(|(k, (v, i))| [k.to_le_bytes().as_slice(), &v.to_le_bytes(), &i.to_le_bytes()].concat())
                    .collect();
                scan.from_key = part.last().map_or(0, |(k, _)| **k + 1);
                let (transfer, base, until) = (scan.transfer, scan.base, worker.applied);
                if last {
                    worker.scans.pop_front();
                }
                let chunk = chunk.into();
                node.groups.handle(now, FlowInput::Chunk { group, transfer, base, until, last, chunk });
            }
        }
    }

    fn drain(&mut self, at: usize) {
        let mut feedback = Vec::new();
        while let Some(effect) = self.nodes[at].groups.poll(self.now) {
            self.perform(at, effect, &mut feedback);
        }
        for input in feedback {
            self.nodes[at].groups.handle(self.now, input);
        }
        while let Some(effect) = self.nodes[at].groups.poll(self.now) {
            self.perform(at, effect, &mut Vec::new());
        }
    }

    fn perform(&mut self, at: usize, effect: FlowEffect, feedback: &mut Vec<FlowInput>) {
        let now = self.now;
        let (me, id) = (self.nodes[at].incarnation, self.nodes[at].id);
        match effect {
            FlowEffect::Send { to, frame, .. } | FlowEffect::SendBulk { to, frame, .. } => self.fly(at, to, frame),
            FlowEffect::Word { group, word } => {
                self.judge.word(now, (group, id), (word.term.0, word.lease_until_ns, word.grace_until_ns));
            }
            FlowEffect::Owner { group, owner, .. } => {
                self.nodes[at].owners.insert(group, owner);
            }
            FlowEffect::MayLoad { control_index } => {
                assert!(control_index > self.nodes[at].may_load, "a load barrier grows");
                self.nodes[at].may_load = control_index;
            }
            FlowEffect::Removed { group, epoch, gone } => {
                self.judge.removed.extend(gone.into_iter().map(|id| (group, epoch, id)));
            }
            FlowEffect::Sealed { group, epoch, last_term, last_index } => {
                let before = self.judge.sealed.insert((group, epoch, me), (last_term, last_index));
                assert!(before.is_none_or(|b| b == (last_term, last_index)), "a sealed log does not move");
            }
            FlowEffect::Health(health) => {
                self.judge.health.insert(health.group, (now, health));
            }
            FlowEffect::Stopped { kept } => self.nodes[at].stopped = Some(kept),
            FlowEffect::Worker(event) => self.tell_worker(at, event, feedback),
            FlowEffect::Reopened { group, epoch } => {
                let worker = self.nodes[at].workers.get_mut(&group).expect("reopened from a table");
                worker.epoch = epoch;
                worker.leading = None;
            }
        }
    }

    fn tell_worker(&mut self, at: usize, event: GroupEvent, feedback: &mut Vec<FlowInput>) {
        let (me, now) = (self.nodes[at].incarnation, self.now);
        let control_index = self.nodes[at].report.control_ready;
        match event {
            GroupEvent::Leading { shard: group, term: Term(term) } => {
                let before = self.judge.leaders.insert((group, term), me);
                assert!(before.is_none_or(|b| b == me), "two leaders of {group:?} in term {term}");
                self.judge.leadings.push((now, group, term, me));
                let worker = self.nodes[at].workers.get_mut(&group).expect("a leader has a table");
                assert!(!worker.loading, "a leader's table is complete");
                worker.leading = Some(term);
                worker.served = false;
                (worker.stream, worker.sequence) = (0, 0);
            }
            GroupEvent::Following { shard: group } => {
                if let Some(worker) = self.nodes[at].workers.get_mut(&group) {
                    worker.leading = None;
                    worker.served = false;
                }
            }
            GroupEvent::Refused { shard: group, stream, .. } => {
                if let Some(worker) = self.nodes[at].workers.get_mut(&group) {
                    assert_eq!(stream, worker.stream, "a stream is refused once");
                    worker.stream += 1;
                    worker.sequence = 0;
                }
            }
            GroupEvent::Committed { shard: group, index: LogIndex(index), term: Term(term), entry } => {
                let serves = self.nodes[at].serves;
                let worker = self.nodes[at].workers.get_mut(&group).expect("entries follow a table");
                self.judge.commit(now, (group, worker.epoch), index, term, &entry);
                worker.commit(index, &entry);
                let epoch = worker.epoch;
                feedback.push(FlowInput::Applied { group, epoch, index, control_index });
                if worker.leading == Some(term) && !worker.served {
                    worker.served = serves;
                    let state = if serves { Ok(()) } else { Err(1) };
                    feedback.push(FlowInput::Serving { group, term, state });
                }
            }
            GroupEvent::Reopened { .. } | GroupEvent::Owner { .. } => unreachable!("the member tells of these"),
            GroupEvent::Opened { .. }
            | GroupEvent::Dropped { .. }
            | GroupEvent::Scan { .. }
            | GroupEvent::ScanOver { .. }
            | GroupEvent::Load { .. }
            | GroupEvent::Loaded { .. } => self.move_table(at, event),
        }
    }

    /// The events that make, move and end tables.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the caller has listed the others")]
    fn move_table(&mut self, at: usize, event: GroupEvent) {
        let workers = &mut self.nodes[at].workers;
        match event {
            GroupEvent::Opened { shard: group, epoch, index: LogIndex(index), loads } => {
                let worker = Worker { applied: index, epoch: Epoch(epoch), loading: loads, ..Worker::default() };
                workers.insert(group, worker);
            }
            GroupEvent::Dropped { shard: group } => {
                workers.remove(&group);
            }
            GroupEvent::Scan { shard: group, transfer } => {
                let worker = workers.get_mut(&group).expect("a scan is of a table");
                worker.scans = VecDeque::from([Scan { transfer, base: worker.applied, from_key: 0 }]);
            }
            GroupEvent::ScanOver { shard: group, transfer } => {
                let worker = workers.get_mut(&group).expect("a scan is of a table");
                worker.scans.retain(|scan| scan.transfer != transfer);
            }
            GroupEvent::Load { shard: group, epoch, chunk } => {
                let worker = workers.get_mut(&group).expect("opened before");
                assert!(worker.epoch == Epoch(epoch) && worker.loading, "chunks come into an opened table");
                worker.load(&chunk);
            }
            GroupEvent::Loaded { shard: group, base: LogIndex(base), until: LogIndex(until) } => {
                assert!(base <= until, "the scan ends after its base");
                let worker = workers.get_mut(&group).expect("opened before");
                worker.loading = false;
                worker.applied = base;
                self.judge.loads += 1;
            }
            _ => unreachable!("only events about tables come here"),
        }
    }

    fn fly(&mut self, at: usize, to: Incarnation, frame: Bytes) {
        let (id, from) = (self.nodes[at].id, self.nodes[at].incarnation);
        let Some(target) = self.node(to).map(|n| n.id) else { return };
        if self.cuts.contains(&(id, target)) || self.rng.random_bool(self.weather.loss) {
            return;
        }
        if self.entries_cut.contains(&(id, target)) && carries_entries(&frame) {
            return;
        }
        let copies = if self.rng.random_bool(self.weather.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let (least, most) = self.weather.delay_ns;
            let delay = self.rng.random_range(least..=most);
            self.flown += 1;
            let flight = Flight { at: self.now + delay, number: self.flown, from, to, frame: frame.clone() };
            self.flights.push(Reverse(flight));
        }
    }

    // ---- questions ----

    pub(crate) fn status(&self, id: u32, group: ShardId) -> Option<GroupStatus> {
        self.nodes[id as usize].groups.status(self.now).into_iter().find(|s| s.group == group)
    }

    /// The node that leads in the highest term, if it lives.
    pub(crate) fn leader(&self, group: ShardId) -> Option<u32> {
        let leads = |n: &&Node| n.alive && n.paused_until <= self.now;
        let status = |n: &Node| self.status(n.id, group).filter(|s| s.role == Role::Leader).map(|s| (s.term, n.id));
        self.nodes.iter().filter(leads).filter_map(status).max().map(|(_, id)| id)
    }

    /// Everything is as wanted: members are voters and nobody else, tables agree, owners serve.
    pub(crate) fn is_redundant(&self, group: ShardId) -> bool {
        let spec = &self.specs[&group];
        let Some(leader) = self.leader(group) else { return false };
        let Some(status) = self.status(leader, group) else { return false };
        let mut members = spec.members.clone();
        members.sort_unstable();
        let in_place = status.voters == members && status.outgoing.is_empty() && status.learners.is_empty();
        let follow = spec.members.iter().all(|m| {
            let node = self.node(*m).filter(|n| n.alive);
            let status = node.and_then(|n| self.status(n.id, group));
            status.is_some_and(|s| s.term == status_term(&s, leader, self, group) && s.waiting.is_none())
        });
        in_place && follow && spec.leaving.is_empty()
    }

    pub(crate) fn all_redundant(&self) -> bool {
        self.specs.keys().all(|g| self.is_redundant(*g))
    }

    /// Stops the load, lets everything arrive, and compares all tables with the committed sequence.
    pub(crate) fn assert_tables_agree(&mut self) {
        self.load = 0.0;
        self.run(500 * MS);
        for (group, spec) in &self.specs {
            let tables: Vec<_> = spec
                .members
                .iter()
                .filter_map(|m| self.node(*m))
                .filter(|n| n.alive)
                .map(|n| (n.incarnation, n.workers.get(group)))
                .collect();
            let (_, first) = tables.first().expect("a member lives");
            let first = first.expect("it has a table");
            for (incarnation, worker) in &tables {
                let worker = worker.unwrap_or_else(|| panic!("{incarnation:?} has no table of {group:?}"));
                assert_eq!(worker.applied, first.applied, "{group:?} at {incarnation:?}, seed {}", self.seed);
                assert_eq!(worker.table, first.table, "{group:?} at {incarnation:?}, seed {}", self.seed);
            }
        }
    }

    /// In an epoch without loss, the table is exactly what all committed entries make.
    pub(crate) fn assert_nothing_lost(&self) {
        for (group, spec) in &self.specs {
            let mut whole = Worker { applied: 1, ..Worker::default() };
            for (index, (_, entry)) in &self.judge.committed[&(*group, spec.epoch)] {
                whole.commit(*index, entry);
            }
            let leader = self.leader(*group).expect("it is led");
            let worker = &self.nodes[leader as usize].workers[group];
            assert_eq!(worker.table, whole.table, "{group:?}, seed {}", self.seed);
        }
    }
}

fn carries_entries(frame: &Bytes) -> bool {
    let frame = Frame::decode(frame);
    matches!(frame, Ok(Frame::Raft { message, .. }) if message.get_msg_type() == MessageType::MsgAppend)
}

fn status_term(own: &GroupStatus, leader: u32, cluster: &Cluster, group: ShardId) -> u64 {
    cluster.status(leader, group).map_or(own.term + 1, |s| s.term)
}

impl Worker {
    fn commit(&mut self, index: u64, entry: &Bytes) {
        assert!(!self.loading, "nothing is applied to half a table");
        assert_eq!(index, self.applied + 1, "entries come without gaps");
        self.applied = index;
        if let Some((key, value)) = entry.split_first_chunk::<4>() {
            let value = u64::from_le_bytes(value.try_into().expect("8 bytes"));
            let record = self.table.entry(u32::from_le_bytes(*key)).or_insert((value, index));
            // Replay leaves a record alone that was written later (F10).
            if record.1 <= index {
                *record = (value, index);
            }
        }
        self.control += 1;
    }

    fn load(&mut self, chunk: &Bytes) {
        for record in chunk.chunks(20) {
            let number = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().expect("8 bytes"));
            let key = u32::from_le_bytes(record[..4].try_into().expect("4 bytes"));
            self.table.insert(key, (number(4), number(12)));
        }
    }
}

impl Judge {
    fn commit(&mut self, now: u64, group: (ShardId, Epoch), index: u64, term: u64, entry: &Bytes) {
        self.commits_at.entry((group.0, term)).or_insert(now);
        let log = self.committed.entry(group).or_default();
        let before = log.entry(index).or_insert_with(|| (term, entry.clone()));
        assert_eq!((before.0, &before.1), (term, entry), "{group:?}: two entries at {index}");
    }

    /// I8, L1: at no time do two nodes hold the lease of one group.
    fn word(&mut self, now: u64, (group, id): (ShardId, u32), word: (u64, u64, u64)) {
        if word.1 > now {
            for ((_, other), (term, lease, _)) in self.words.range((group, 0)..=(group, u32::MAX)) {
                let both = *other != id && *lease > now;
                assert!(!both, "leases of {group:?} overlap: node {other} in {term}, node {id} in {} at {now}", word.0);
            }
        }
        self.words.insert((group, id), word);
    }
}
