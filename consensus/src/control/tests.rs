//! A cluster of control groups in one thread: seeded delays, losses, partitions, crashes with power loss, failing disks.
//!
//! The judge in it knows every commit and checks agreement, I23, I24, I32, I33, I36 and I37 at every effect.

use std::collections::BTreeSet;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use words::time::MS;

use super::*;
use crate::control::storage::memory::{Fault, MemoryStore, PowerLoss};
use crate::control::storage::{ClusterId, LogPosition};

mod scenarios;

const CLUSTER: ClusterId = ClusterId([7; 16]);

/// The replicated state of these tests: all commands with their positions.
type State = Vec<(u64, u64, Bytes)>;

fn serialise(state: &State) -> Bytes {
    let mut out = Vec::new();
    for (index, term, command) in state {
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&term.to_le_bytes());
        out.extend_from_slice(&u32::try_from(command.len()).expect("short").to_le_bytes());
        out.extend_from_slice(command);
    }
    out.into()
}

fn deserialise(bytes: &[u8]) -> State {
    let mut r = wire::Reader::new(bytes);
    let mut state = State::new();
    while r.finish().is_err() {
        let (index, term) = (r.u64().expect("index"), r.u64().expect("term"));
        let len = u32::from_le_bytes(r.array().expect("length"));
        let command = (0..len).map(|_| r.u8().expect("byte")).collect::<Vec<u8>>();
        state.push((index, term, command.into()));
    }
    state
}

#[derive(Default)]
struct Judge {
    committed: BTreeMap<u64, (u64, Bytes)>,
    acknowledged: BTreeMap<u64, Bytes>,
    leaders: BTreeMap<u64, u64>,
    votes: BTreeMap<(u64, u64), u64>,
    terms: BTreeMap<u64, u64>,
}

impl Judge {
    fn commit(&mut self, id: u64, index: u64, term: u64, command: &Bytes) {
        let known = self.committed.entry(index).or_insert_with(|| (term, command.clone()));
        assert_eq!(*known, (term, command.clone()), "replica {id} disagrees at {index}");
    }

    /// I36: a snapshot is the log up to its index.
    fn restore(&self, id: u64, index: u64, state: &State) {
        let expected: State =
            self.committed.range(..=index).map(|(index, (term, command))| (*index, *term, command.clone())).collect();
        assert_eq!(*state, expected, "the state that replica {id} restores at {index} is not the log");
    }

    /// I23 and I37, from what a replica says to others.
    fn sent(&mut self, id: u64, frame: &Bytes) {
        let (_, body) = wire::open_bytes(frame).expect("an envelope");
        let m = wire::decode_message_bytes(&body).expect("a message");
        assert_eq!(m.from, id);
        let prevote = [MessageType::MsgRequestPreVote, MessageType::MsgRequestPreVoteResponse].contains(&m.msg_type);
        if !prevote {
            let term = self.terms.entry(id).or_default();
            assert!(m.term >= *term, "replica {id} went back from term {term} to {}", m.term);
            *term = m.term;
        }
        let asks = m.msg_type == MessageType::MsgRequestVote;
        let grants = m.msg_type == MessageType::MsgRequestVoteResponse && !m.reject;
        let vote = if asks { Some(id) } else { grants.then_some(m.to) };
        if let Some(candidate) = vote {
            let cast = *self.votes.entry((id, m.term)).or_insert(candidate);
            assert_eq!(cast, candidate, "replica {id} voted twice in term {}", m.term);
        }
    }
}

struct Replica {
    group: Option<ControlGroup<MemoryStore>>,
    disk: Option<MemoryStore>,
    state: State,
    applied: u64,
    /// Proposals taken: index to (term, command).
    pending: BTreeMap<u64, (u64, Bytes)>,
    tickets: BTreeMap<u64, Bytes>,
    leading: bool,
    members: Vec<u64>,
}

struct Sim {
    rng: ChaCha8Rng,
    now: u64,
    sequence: u64,
    replicas: BTreeMap<u64, Replica>,
    wire: BTreeMap<(u64, u64), (u64, u64, Bytes)>,
    cut: BTreeSet<(u64, u64)>,
    loss_percent: u32,
    /// Snapshots still to be lost.
    snapshots_to_lose: u32,
    delay_max_ms: u64,
    wanted: Vec<u64>,
    judge: Judge,
    trace: u64,
    failures: u64,
}

fn timing() -> ControlTiming {
    ControlTiming { trailing_entries: 8, ..ControlTiming::default() }
}

impl Sim {
    fn founded(seed: u64, voters: &[u64]) -> Self {
        let mut sim = Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            now: MS,
            sequence: 0,
            replicas: BTreeMap::new(),
            wire: BTreeMap::new(),
            cut: BTreeSet::new(),
            loss_percent: 0,
            snapshots_to_lose: 0,
            delay_max_ms: 3,
            wanted: voters.to_vec(),
            judge: Judge::default(),
            trace: 0,
            failures: 0,
        };
        for id in voters {
            let mut disk = MemoryStore::new();
            disk.found(CLUSTER, *id, voters, &Bytes::new()).expect("an empty disk");
            sim.add(*id, disk);
        }
        sim
    }

    fn join(&mut self, id: u64) {
        let mut disk = MemoryStore::new();
        disk.join(CLUSTER, id).expect("an empty disk");
        self.add(id, disk);
    }

    fn add(&mut self, id: u64, disk: MemoryStore) {
        let replica = Replica {
            group: None,
            disk: Some(disk),
            state: State::new(),
            applied: 0,
            pending: BTreeMap::new(),
            tickets: BTreeMap::new(),
            leading: false,
            members: Vec::new(),
        };
        self.replicas.insert(id, replica);
        self.start(id);
    }

    fn start(&mut self, id: u64) {
        let replica = self.replicas.get_mut(&id).expect("a replica");
        let disk = replica.disk.take().expect("it is down");
        let group = ControlGroup::open(disk, timing(), 99, self.now).expect("the disk is intact");
        let said = self.judge.terms.get(&id).copied().unwrap_or(0);
        assert!(group.term() >= said, "replica {id} forgot term {said}");
        replica.group = Some(group);
        (replica.state, replica.applied, replica.leading) = (State::new(), 0, false);
        replica.pending.clear();
        replica.tickets.clear();
        self.drain(id);
    }

    /// Ends the process; with power loss if `loss` says so.
    fn crash(&mut self, id: u64, loss: Option<PowerLoss>) {
        let replica = self.replicas.get_mut(&id).expect("a replica");
        let mut disk = replica.group.take().expect("it runs").into_store();
        match loss {
            Some(loss) => disk.power_loss(loss),
            None => disk.process_ends(),
        }
        replica.disk = Some(disk);
        replica.leading = false;
    }

    fn up(&self, id: u64) -> bool {
        self.replicas[&id].group.is_some()
    }

    fn give(&mut self, id: u64, input: ControlInput) {
        let now = self.now;
        if let Some(group) = &mut self.replicas.get_mut(&id).expect("a replica").group {
            group.handle(now, input);
            // Otherwise the input shares a round with others until the next millisecond.
            if self.rng.random_ratio(7, 10) {
                self.drain(id);
            }
        }
    }

    fn drain(&mut self, id: u64) {
        loop {
            let replica = self.replicas.get_mut(&id).expect("a replica");
            let Some(effect) = replica.group.as_mut().and_then(|g| g.poll(self.now)) else { return };
            self.trace = SplitMix::mix(self.trace ^ u64::from(crc32fast::hash(format!("{id} {effect:?}").as_bytes())));
            match effect {
                ControlEffect::Send { to, frame } => {
                    self.judge.sent(id, &frame);
                    self.transmit(id, to, frame);
                }
                ControlEffect::Committed { index, term, command } => {
                    assert_eq!(index, replica.applied + 1, "replica {id} skipped an entry");
                    replica.applied = index;
                    replica.state.push((index, term, command.clone()));
                    self.judge.commit(id, index, term, &command);
                    if let Some((proposed, mine)) = replica.pending.remove(&index)
                        && proposed == term
                    {
                        assert_eq!(mine, command);
                        self.judge.acknowledged.insert(index, command);
                    }
                }
                ControlEffect::Restore { index, state } => {
                    replica.state = deserialise(&state);
                    replica.applied = index;
                    self.judge.restore(id, index, &replica.state);
                }
                ControlEffect::Proposed { ticket, result } => {
                    let command = replica.tickets.remove(&ticket).expect("a ticket of ours");
                    if let Ok(index) = result {
                        let term = replica.group.as_ref().expect("it runs").term();
                        replica.pending.insert(index, (term, command));
                    }
                }
                ControlEffect::Role { term, leading, leader } => {
                    replica.leading = leading;
                    if leading {
                        assert_eq!(leader, id);
                        let first = *self.judge.leaders.entry(term).or_insert(id);
                        assert_eq!(first, id, "two leaders in term {term}");
                    }
                }
                ControlEffect::Configured { voters, .. } => replica.members = voters,
                ControlEffect::StoreFailed { .. } => {
                    self.failures += 1;
                    let group = replica.group.as_mut().expect("it runs");
                    assert!(group.poll(self.now).is_none(), "I24: silent after a failed write");
                    group.tick(self.now + 60_000 * MS);
                    assert!(group.poll(self.now).is_none(), "I24: silent for ever");
                    let loss =
                        PowerLoss { batches: self.rng.random_range(0..3), torn_rows: self.rng.random_range(0..3) };
                    self.crash(id, Some(loss));
                    return;
                }
            }
        }
    }

    fn transmit(&mut self, from: u64, to: u64, frame: Bytes) {
        if self.cut.contains(&(from, to)) || self.rng.random_ratio(self.loss_percent, 100) {
            return;
        }
        let (_, body) = wire::open_bytes(&frame).expect("an envelope");
        let kind = wire::decode_message_bytes(&body).expect("a message").msg_type;
        if kind == MessageType::MsgSnapshot && self.snapshots_to_lose > 0 {
            self.snapshots_to_lose -= 1;
            return;
        }
        self.sequence += 1;
        let at = self.now + self.rng.random_range(1..=self.delay_max_ms * MS);
        self.wire.insert((at, self.sequence), (from, to, frame));
    }

    /// Lets `ms` pass.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += MS;
            while let Some(first) = self.wire.first_entry()
                && first.key().0 <= self.now
            {
                let (from, to, frame) = first.remove();
                if self.replicas.contains_key(&to) {
                    self.give(to, ControlInput::Peer { from, frame });
                }
            }
            for id in self.ids() {
                let now = self.now;
                if let Some(group) = &mut self.replicas.get_mut(&id).expect("a replica").group {
                    group.tick(now);
                    self.drain(id);
                }
            }
        }
    }

    fn ids(&self) -> Vec<u64> {
        self.replicas.keys().copied().collect()
    }

    fn leader(&self) -> Option<u64> {
        let leads = |r: &&u64| self.replicas[*r].leading && self.up(**r);
        self.replicas
            .keys()
            .filter(leads)
            .max_by_key(|id| self.replicas[*id].group.as_ref().map(ControlGroup::term))
            .copied()
    }

    fn propose(&mut self, id: u64) {
        self.sequence += 1;
        let ticket = self.sequence;
        let len = if self.rng.random_ratio(1, 20) { 40_000 } else { 12 };
        let mut command = ticket.to_le_bytes().to_vec();
        command.resize(len, 0xab);
        let command = Bytes::from(command);
        self.replicas.get_mut(&id).expect("a replica").tickets.insert(ticket, command.clone());
        self.give(id, ControlInput::Propose { ticket, command });
        // At once, so that the term of a taken proposal is the present one.
        self.drain(id);
    }

    fn compact(&mut self, id: u64) {
        let replica = &self.replicas[&id];
        let (index, state) = (replica.applied, serialise(&replica.state));
        self.give(id, ControlInput::Compact { index, state });
    }

    fn want(&mut self, voters: &[u64]) {
        self.wanted = voters.to_vec();
        for id in self.ids() {
            self.give(id, ControlInput::Members { voters: voters.to_vec() });
        }
    }

    /// One random event.
    fn disturb(&mut self) {
        let ids = self.ids();
        let id = ids[self.rng.random_range(0..ids.len())];
        let loss = PowerLoss { batches: self.rng.random_range(0..4), torn_rows: self.rng.random_range(0..4) };
        match self.rng.random_range(0..100) {
            0..40 => {
                let at = self.leader().unwrap_or(id);
                for _ in 0..self.rng.random_range(1..20) {
                    self.propose(at);
                }
            }
            40..50 => self.compact(id),
            50..58 if self.up(id) => self.crash(id, None),
            58..66 if self.up(id) => self.crash(id, Some(loss)),
            50..80 if !self.up(id) => self.start(id),
            66..72 => self.inject(id, Fault::SyncFails),
            72..78 => {
                let steps = self.rng.random_range(0..5);
                self.inject(id, Fault::StopsAfter { steps });
            }
            78..84 => {
                let other = ids[self.rng.random_range(0..ids.len())];
                self.cut.insert((id, other));
                if self.rng.random() {
                    self.cut.insert((other, id));
                }
            }
            84..92 => self.cut.clear(),
            92..94 => {
                for id in ids {
                    if self.up(id) {
                        self.crash(id, Some(loss));
                    }
                }
            }
            _ => self.loss_percent = self.rng.random_range(0..30),
        }
    }

    fn inject(&mut self, id: u64, fault: Fault) {
        if let Some(group) = &mut self.replicas.get_mut(&id).expect("a replica").group {
            group.store_mut().inject(fault);
        }
    }

    /// Everything is repaired: within five seconds one leads, and what it commits reaches all.
    fn heal_and_converge(&mut self) {
        self.cut.clear();
        self.loss_percent = 0;
        for id in self.ids() {
            match &mut self.replicas.get_mut(&id).expect("a replica").group {
                Some(group) => group.store_mut().repair(),
                None => self.start(id),
            }
        }
        let wanted = self.wanted.clone();
        self.want(&wanted);
        self.run(5_000);
        let leader = self.leader().expect("a leader within five seconds");
        let before = self.judge.acknowledged.len();
        self.propose(leader);
        self.run(1_000);
        assert_eq!(self.judge.acknowledged.len(), before + 1, "the healed group commits");
        let newest = *self.judge.committed.keys().last().expect("something was committed");
        for (index, command) in &self.judge.acknowledged {
            assert_eq!(self.judge.committed[index].1, *command, "acknowledged and lost");
        }
        for id in &self.wanted {
            assert_eq!(self.replicas[id].applied, newest, "replica {id} did not catch up");
            self.judge.restore(*id, newest, &self.replicas[id].state);
        }
    }
}
