//! A cluster of control groups in one thread: seeded delays, losses, partitions, crashes with power loss, failing disks.
//!
//! The judge in it knows every commit and checks agreement, I23, I24, I32, I33, I36 and I37 at every effect.

use crate::wire::KIND_CONTROL_MESSAGE;
use std::collections::BTreeSet;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use words::time::MS;

use super::*;
use crate::control::storage::memory::{Fault, MemoryStore, PowerLoss};
use crate::control::storage::{ClusterId, LogPosition};

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

fn chaos(seed: u64) -> Sim {
    let mut sim = Sim::founded(seed, &[1, 2, 3]);
    sim.run(1_000);
    for _ in 0..150 {
        let pause = sim.rng.random_range(1..200);
        sim.run(pause);
        sim.disturb();
    }
    sim.heal_and_converge();
    sim
}

#[test]
fn three_replicas_elect_one_leader_and_commit() {
    let mut sim = Sim::founded(1, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    for _ in 0..50 {
        sim.propose(leader);
    }
    sim.run(300);
    assert_eq!(sim.judge.acknowledged.len(), 50);
    assert_eq!(sim.judge.leaders.len(), 1, "one election while healthy");
    sim.heal_and_converge();
}

#[test]
fn acknowledged_commands_survive_any_faults_of_disk_net_and_power() {
    let mut failures = 0;
    let mut acknowledged = 0;
    for seed in 0..40 {
        let sim = chaos(seed);
        failures += sim.failures;
        acknowledged += sim.judge.acknowledged.len();
    }
    assert!(failures > 40, "the disks did fail: {failures}");
    assert!(acknowledged > 4_000, "and the group worked in between: {acknowledged}");
}

#[test]
fn a_run_is_repeated_exactly_by_its_seed() {
    assert_eq!(chaos(77).trace, chaos(77).trace);
    assert_ne!(chaos(77).trace, chaos(78).trace);
}

#[test]
fn acknowledged_commands_survive_power_loss_of_all() {
    let mut sim = Sim::founded(5, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    for _ in 0..20 {
        sim.propose(leader);
        sim.run(30);
    }
    assert_eq!(sim.judge.acknowledged.len(), 20);
    for id in [1, 2, 3] {
        sim.crash(id, Some(PowerLoss::default()));
    }
    sim.heal_and_converge();
    assert_eq!(sim.replicas[&1].state.iter().filter(|(_, _, c)| !c.is_empty()).count(), 21);
}

#[test]
fn a_founder_alone_leads_at_once_and_grows_by_joiners_with_empty_disks() {
    let mut sim = Sim::founded(6, &[1]);
    sim.run(1);
    assert_eq!(sim.leader(), Some(1));
    for _ in 0..30 {
        sim.propose(1);
    }
    sim.run(10);
    sim.compact(1);
    sim.join(2);
    sim.join(3);
    sim.want(&[1, 2, 3]);
    sim.run(2_000);
    assert_eq!(sim.replicas[&2].members, [1, 2, 3]);
    assert_eq!(sim.replicas[&3].members, [1, 2, 3]);
    sim.heal_and_converge();
}

#[test]
fn a_lost_disk_is_swapped_for_a_joiner_by_one_joint_change() {
    let mut sim = Sim::founded(8, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    for _ in 0..40 {
        sim.propose(leader);
    }
    sim.run(200);
    let lost = [1, 2, 3].into_iter().find(|id| *id != leader).expect("three of them");
    sim.crash(lost, None);
    sim.replicas.remove(&lost);
    sim.join(4);
    let mut wanted: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != lost).collect();
    wanted.push(4);
    let before = sim.judge.committed.len();
    sim.want(&wanted);
    sim.run(2_000);
    assert_eq!(sim.replicas[&4].members, wanted);
    // Learner, joint change, leave: three entries, no more.
    assert_eq!(sim.judge.committed.len(), before + 3);
    sim.heal_and_converge();
}

#[test]
fn a_leader_that_is_not_wanted_transfers_before_it_is_removed() {
    let mut sim = Sim::founded(9, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    sim.join(4);
    let mut wanted: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    wanted.push(4);
    sim.want(&wanted);
    sim.run(3_000);
    let now = sim.leader().expect("a leader");
    assert_ne!(now, leader);
    assert_eq!(sim.replicas[&now].members, wanted);
    sim.crash(leader, None);
    sim.replicas.remove(&leader);
    sim.heal_and_converge();
}

#[test]
fn swaps_go_on_through_crashes_and_losses() {
    for seed in 100..115 {
        let mut sim = Sim::founded(seed, &[1, 2, 3]);
        sim.run(1_500);
        let mut members = vec![1, 2, 3];
        for new in 4..8 {
            let at = sim.rng.random_range(0..members.len());
            let old = members[at];
            members[at] = new;
            members.sort_unstable();
            sim.join(new);
            sim.loss_percent = 5;
            sim.want(&members);
            for _ in 0..8 {
                let pause = sim.rng.random_range(1..150);
                sim.run(pause);
                if let Some(leader) = sim.leader() {
                    sim.propose(leader);
                }
                let victim = members[sim.rng.random_range(0..members.len())];
                sim.crash(victim, Some(PowerLoss::default()));
                let pause = sim.rng.random_range(1..300);
                sim.run(pause);
                sim.start(victim);
                sim.give(victim, ControlInput::Members { voters: members.clone() });
            }
            sim.heal_and_converge();
            let leader = sim.leader().expect("a leader");
            assert_eq!(sim.replicas[&leader].members, members, "seed {seed}");
            sim.crash(old, None);
            sim.replicas.remove(&old);
        }
    }
}

#[test]
fn a_stopping_leader_hands_over_without_an_election_timeout() {
    let mut sim = Sim::founded(10, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    sim.give(leader, ControlInput::Stop);
    sim.run(50);
    let next = sim.leader().expect("a successor at once");
    assert_ne!(next, leader);
    sim.propose(leader);
    assert!(sim.replicas[&leader].pending.is_empty(), "it takes nothing any more");
}

#[test]
fn late_ticks_are_skipped_and_never_queued() {
    let mut disk = MemoryStore::new();
    disk.found(CLUSTER, 1, &[1, 2], &Bytes::new()).expect("an empty disk");
    let mut group = ControlGroup::open(disk, ControlTiming::default(), 1, 0).expect("a founder");
    let tick = group.timing.tick_ns;
    assert_eq!(group.next_due_ns(), tick);
    group.tick(tick + 5);
    assert_eq!(group.next_due_ns(), 2 * tick, "from the due time, not from now");
    group.tick(1_000 * tick + 5);
    assert_eq!(group.next_due_ns(), 1_001 * tick);
    assert_eq!(group.node.raft.election_elapsed, 2, "998 of them were skipped");
}

#[test]
fn a_lost_snapshot_is_sent_again() {
    let mut sim = Sim::founded(11, &[1]);
    sim.run(1);
    for _ in 0..30 {
        sim.propose(1);
    }
    sim.run(10);
    sim.compact(1);
    sim.join(2);
    sim.snapshots_to_lose = 2;
    sim.want(&[1, 2]);
    sim.run(3_000);
    assert_eq!(sim.replicas[&2].applied, 0, "both were lost, the second one two seconds after the first");
    assert_eq!(sim.snapshots_to_lose, 0);
    sim.run(4_000);
    assert_eq!(sim.replicas[&2].members, [1, 2]);
}

#[test]
fn oversized_and_misplaced_proposals_are_refused() {
    let mut sim = Sim::founded(12, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    let refused = |sim: &mut Sim, id: u64, command: Bytes| {
        let group = sim.replicas.get_mut(&id).and_then(|r| r.group.as_mut()).expect("it runs");
        group.handle(sim.now, ControlInput::Propose { ticket: 1, command });
        match group.poll(sim.now) {
            Some(ControlEffect::Proposed { ticket: 1, result }) => result.expect_err("a refusal"),
            other => panic!("expected a refusal, got {other:?}"),
        }
    };
    assert_eq!(refused(&mut sim, leader, vec![0; MAX_COMMAND_BYTES + 1].into()), leader);
    assert_eq!(refused(&mut sim, leader, Bytes::new()), leader, "empty is raft's own");
    let follower = [1, 2, 3].into_iter().find(|id| *id != leader).expect("three of them");
    assert_eq!(refused(&mut sim, follower, Bytes::from_static(b"x")), leader, "the leader's id comes back");
}

#[test]
fn hostile_frames_change_nothing_and_never_panic() {
    let mut sim = Sim::founded(13, &[1, 2, 3]);
    sim.run(1_500);
    let leader = sim.leader().expect("a leader");
    sim.propose(leader);
    sim.run(100);
    let kinds = [
        MessageType::MsgHeartbeat,
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgHeartbeatResponse,
    ];
    for round in 0..20_000 {
        let mut m = Message::default();
        m.msg_type = kinds[sim.rng.random_range(0..kinds.len())];
        let to = sim.rng.random_range(1..=3);
        (m.to, m.from) = (to, sim.rng.random_range(1..=5));
        let mut small = || sim.rng.random_range(0..8);
        (m.term, m.index, m.log_term, m.commit) = (small().min(1), small(), small(), small());
        (m.reject, m.reject_hint, m.commit_term, m.request_snapshot) = (small() > 4, small(), small(), small() / 7);
        let (from, mut body) = (m.from, Vec::new());
        wire::encode_message(&m, &mut body);
        if round % 3 == 0 {
            let at = sim.rng.random_range(0..body.len());
            body[at] = sim.rng.random();
        }
        let frame = wire::seal(KIND_CONTROL_MESSAGE, &body).into();
        sim.give(to, ControlInput::Peer { from, frame });
        if round % 100 == 0 {
            sim.run(5);
        }
    }
    sim.heal_and_converge();
}

#[test]
fn a_group_that_continues_a_lost_one_goes_on_behind_it() {
    let mut disk = MemoryStore::new();
    let at = LogPosition { term: 7, index: 1_000 };
    disk.found_at(CLUSTER, 1, &[1], at, &Bytes::from_static(b"what was left")).expect("an empty disk");
    let mut group = ControlGroup::open(disk, ControlTiming::default(), 1, 0).expect("a founder");
    group.handle(0, ControlInput::Propose { ticket: 1, command: Bytes::from_static(b"next") });
    let mut seen = Vec::new();
    while let Some(effect) = group.poll(0) {
        match effect {
            ControlEffect::Restore { index, state } => seen.push((index, state)),
            ControlEffect::Committed { index, command, .. } => seen.push((index, command)),
            ControlEffect::Proposed { .. }
            | ControlEffect::Send { .. }
            | ControlEffect::Role { .. }
            | ControlEffect::Configured { .. }
            | ControlEffect::StoreFailed { .. } => {}
        }
    }
    assert_eq!(seen[0], (1_000, Bytes::from_static(b"what was left")));
    assert!(seen[1..].iter().all(|(index, _)| *index > 1_000) && seen.len() > 1, "{seen:?}");
}
