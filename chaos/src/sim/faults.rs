//! What goes wrong in a simulated world, and when it is over.

use std::collections::{BTreeMap, BTreeSet};

use consensus::event::Incarnation;
use consensus::flow_groups::{GroupStatus, Role};
use consensus::storage::memory::{MemoryStore, PowerLoss};
use control::command::CommandBody;
use engine::ids::{NodeId, ShardId};
use qnat::member::frame::{CHANNEL_CONTROL, CHANNEL_JOIN};
use rand::Rng;

use super::node::{Node, Thread};
use super::params::Faults;
use super::world::{FAULTS_FROM_NS, FAULTS_UNTIL_NS, MS, World};

/// How long a node waits for the stop token, and then for its leaderships to be taken.
const TOKEN_WAIT_NS: u64 = 3_000 * MS;
const STOP_WAIT_NS: u64 = 2_500 * MS;

/// A node on its way through a graceful stop (N3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    AsksForToken { until_ns: u64 },
    HandsOver { until_ns: u64 },
    Done,
}

/// What is wrong now, and until when.
#[derive(Debug, Default)]
pub(super) struct Healing {
    dead: BTreeMap<NodeId, (u64, MemoryStore)>,
    held_up_until_ns: u64,
    cuts: BTreeMap<(NodeId, NodeId, Lane), u64>,
    /// Until when, and by how much, what one sends to the other takes longer.
    slow: BTreeMap<(NodeId, NodeId), (u64, u64)>,
    links_down: BTreeMap<NodeId, u64>,
    swallowed: BTreeMap<NodeId, u64>,
    stopping: BTreeMap<NodeId, Stop>,
    rolling: BTreeSet<NodeId>,
    next_ns: u64,
    majority_died: bool,
    /// Nodes that an operator has powered off and removes; they come back with an empty disk once that is applied.
    removing: BTreeMap<NodeId, Incarnation>,
    pub(super) next_operation_ns: u64,
}

/// What of a connection is cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Lane {
    All,
    Control,
    Flow,
}

impl Healing {
    /// An operator powers a dead node off for good and means to have it back with an empty disk.
    pub(super) fn removes(&mut self, id: NodeId, life: Incarnation) {
        self.removing.insert(id, life);
        if let Some((_, store)) = self.dead.get_mut(&id) {
            *store = MemoryStore::new();
        }
    }

    pub(super) fn is_removing(&self) -> bool {
        !self.removing.is_empty()
    }

    pub(super) fn removing(&self) -> Option<(NodeId, Incarnation)> {
        self.removing.first_key_value().map(|(id, life)| (*id, *life))
    }

    pub(super) fn removed(&mut self, id: NodeId) {
        self.removing.remove(&id);
    }

    /// The only node that is down, if there is one and nobody is stopping.
    pub(super) fn only_dead(&self) -> Option<NodeId> {
        let mut dead = self.dead.keys();
        let only = dead.next().copied().filter(|_| self.stopping.is_empty() && self.rolling.is_empty());
        only.filter(|_| dead.next().is_none())
    }

    pub(super) fn rolls(&mut self, ids: BTreeSet<NodeId>) {
        self.rolling = ids;
    }

    pub(super) fn has_stopped(&mut self, id: NodeId) {
        if let Some(stop) = self.stopping.get_mut(&id) {
            *stop = Stop::Done;
        }
    }
}

impl World {
    pub(super) fn is_cut(&self, from: NodeId, to: NodeId, channel: u32) -> bool {
        let cut = |lane| self.healing.cuts.get(&(from, to, lane)).is_some_and(|until| self.now_ns < *until);
        let control = matches!(channel, CHANNEL_CONTROL | CHANNEL_JOIN);
        cut(Lane::All) || cut(if control { Lane::Control } else { Lane::Flow })
    }

    pub(super) fn slowed_ns(&self, from: NodeId, to: NodeId) -> u64 {
        let slow = self.healing.slow.get(&(from, to)).filter(|(until, _)| self.now_ns < *until);
        slow.map_or(0, |(_, by)| *by)
    }

    /// What the others send to `id` takes long, for a while; its own frames do not.
    fn slow_down(&mut self, id: NodeId, until_ns: u64) {
        let by = self.chance.random_range(5..35) * MS;
        for other in self.ids().filter(|other| *other != id) {
            if self.chance.random_bool(0.6) {
                self.healing.slow.insert((other, id), (until_ns, by));
            }
        }
    }

    /// Whether nothing is wrong any more.
    pub(super) fn faults_are_over(&self) -> bool {
        let h = &self.healing;
        let over = h.dead.is_empty()
            && h.stopping.is_empty()
            && h.rolling.is_empty()
            && h.links_down.is_empty()
            && h.swallowed.is_empty();
        let over = over && h.slow.values().all(|(until, _)| self.now_ns >= *until);
        over && self.now_ns >= h.held_up_until_ns && h.cuts.values().all(|until| self.now_ns >= *until)
    }

    /// Whether more may be wrong than one fault, so that service is not promised (I53).
    pub(super) fn is_excused(&self) -> bool {
        let rare = &self.params.rare;
        let several = self.params.faults == Faults::Overlapping || rare.deadly || rare.operated || rare.failing_disks;
        several || self.healing.majority_died
    }

    /// Ends what is over and begins what is due.
    pub(super) fn fault(&mut self) -> Result<(), String> {
        self.heal()?;
        self.stop_on()?;
        if self.now_ns < self.healing.next_ns.max(FAULTS_FROM_NS) || self.now_ns > FAULTS_UNTIL_NS {
            return Ok(());
        }
        if self.params.majority_dies && self.now_ns > FAULTS_UNTIL_NS - 1_000 * MS && !self.healing.majority_died {
            if self.faults_are_over() && self.unwell().is_none() {
                self.healing.majority_died = true;
                return self.majority_dies();
            }
            return Ok(());
        }
        match self.params.faults {
            Faults::OneAtATime => {
                self.healing.next_ns = self.now_ns + 50 * MS;
                if self.faults_are_over() && self.unwell().is_none() {
                    self.healing.next_ns = self.now_ns + self.chance.random_range(200..1_500) * MS;
                    self.begin()?;
                }
            }
            Faults::Overlapping => {
                self.healing.next_ns = self.now_ns + self.chance.random_range(20..900) * MS;
                self.begin()?;
            }
        }
        Ok(())
    }

    /// A duration of some tens of milliseconds as often as one of a second.
    fn while_ns(&mut self) -> u64 {
        let most = [60, 120, 400, 2_000][self.chance.random_range(0..4)];
        self.chance.random_range(20..most) * MS
    }

    /// Some threads do not only wait for a moment: they hang.
    fn hung_ns(&mut self) -> u64 {
        if self.chance.random_bool(0.4) { self.chance.random_range(1_000..5_000) * MS } else { 0 }
    }

    fn begin(&mut self) -> Result<(), String> {
        let id = NodeId(self.chance.random_range(1..=self.params.nodes));
        let whole = self.healing.dead.is_empty() && self.healing.stopping.is_empty() && self.unwell().is_none();
        let until = self.now_ns + self.while_ns();
        let may_die = whole || self.params.rare.deadly && self.nodes.len() > 1;
        match self.chance.random_range(0..19_u32) {
            // A minority only, as a rule: who is lost has to be replaced before the next one may be.
            0..=3 if may_die => self.crash(id),
            4 if whole => {
                self.count("graceful stop");
                self.begin_stop(id);
                self.slow_down(id, self.now_ns + 1_000 * MS);
                Ok(())
            }
            5 if whole && self.chance.random_bool(0.3) => {
                self.count("rolling restart");
                self.healing.rolling = self.ids().collect();
                Ok(())
            }
            6 | 7 => {
                self.count("pause");
                self.hold_up(id, &[Thread::Control, Thread::Flow, Thread::Worker], until);
                Ok(())
            }
            8 => {
                self.count("worker held up");
                let until = until + self.hung_ns();
                self.hold_up(id, &[Thread::Worker], until);
                Ok(())
            }
            9 => {
                self.count("batch held up");
                self.hold_up_a_batch(id, until);
                Ok(())
            }
            10 => {
                self.count("flow thread held up");
                let until = until + self.hung_ns();
                self.hold_up(id, &[Thread::Flow], until);
                Ok(())
            }
            11 => {
                self.count("disk hung");
                self.hold_up(id, &[Thread::Control], until + 1_500 * MS);
                Ok(())
            }
            kind => {
                self.trouble(kind, id, until, whole);
                Ok(())
            }
        }
    }

    /// What goes wrong around a machine rather than in it.
    fn trouble(&mut self, kind: u32, id: NodeId, until_ns: u64, whole: bool) {
        match kind {
            12 => {
                self.unplug(id, until_ns);
            }
            18 => {
                self.swallow(id, until_ns);
            }
            13 => {
                let lane = if self.chance.random_bool(0.5) { Lane::Control } else { Lane::Flow };
                self.count(if lane == Lane::Flow { "flow cut" } else { "control cut" });
                self.cut(id, until_ns + 500 * MS, lane);
            }
            14 if self.params.rare.failing_disks && whole => {
                self.count("disk failed");
                if let Some(node) = self.nodes.get(&id) {
                    node.disk.fail();
                }
            }
            14 => {
                self.count("slow link");
                self.slow_down(id, until_ns + 1_500 * MS);
            }
            _ => {
                self.count("cut");
                self.cut(id, until_ns, Lane::All);
            }
        }
    }

    fn unplug(&mut self, id: NodeId, until_ns: u64) {
        self.count("data links down");
        self.slow_down(id, until_ns);
        self.healing.links_down.insert(id, until_ns);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.links_up = false;
        }
    }

    /// The data networks swallow what one node sends and gets; its links stay up.
    fn swallow(&mut self, id: NodeId, until_ns: u64) {
        self.count("data network silent");
        let until_ns = until_ns + self.hung_ns();
        self.healing.swallowed.insert(id, until_ns);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.swallowed = true;
        }
    }

    /// What one node's flow groups have proposed waits, and the node's links flap meanwhile: it leads, loses it, and leads
    /// again.
    fn hold_up_a_batch(&mut self, id: NodeId, until_ns: u64) {
        let until_ns = until_ns + if self.chance.random_bool(0.3) { 2_500 * MS } else { 200 * MS };
        self.healing.held_up_until_ns = self.healing.held_up_until_ns.max(until_ns);
        // Who owns most loses most.
        let busiest = self.nodes.values().max_by_key(|node| node.leaderships()).map(|node| node.id);
        let id = if self.chance.random_bool(0.7) { busiest.unwrap_or(id) } else { id };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.hold_up_batch(until_ns);
        }
        let flap = self.now_ns + self.chance.random_range(40..90) * MS;
        self.cut(id, flap, Lane::All);
    }

    fn hold_up(&mut self, id: NodeId, threads: &[Thread], until_ns: u64) {
        self.healing.held_up_until_ns = self.healing.held_up_until_ns.max(until_ns);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        for thread in threads {
            node.hold_up(*thread, until_ns);
        }
    }

    /// From the others, from one other, or one way.
    fn cut(&mut self, id: NodeId, until_ns: u64, lane: Lane) {
        let (out, back) = match self.chance.random_range(0..10) {
            0 | 1 => (true, false),
            2 => (false, true),
            _ => (true, true),
        };
        let others: Vec<NodeId> = self.ids().filter(|other| *other != id).collect();
        let only = self.chance.random_bool(0.25).then(|| others[self.chance.random_range(0..others.len())]);
        for other in others.into_iter().filter(|other| only.is_none_or(|only| only == *other)) {
            for (cut, pair) in [(out, (id, other, lane)), (back, (other, id, lane))] {
                if cut {
                    self.healing.cuts.insert(pair, until_ns);
                }
            }
        }
    }

    fn crash(&mut self, id: NodeId) -> Result<(), String> {
        if !self.nodes.contains_key(&id) {
            return Ok(());
        }
        self.count("crash");
        let alone = self.nodes.len() < self.ids().count() || self.unwell().is_some();
        self.note_losses(&[id]);
        let Some(node) = self.nodes.remove(&id) else { return Ok(()) };
        self.healing.stopping.remove(&id);
        let store = self.disk_of(&node, alone);
        // A process that is started again at once meets a cluster that has not noticed.
        let down = if self.chance.random_bool(0.4) { 5..60 } else { 50..1_500 };
        let until = self.now_ns + self.chance.random_range(down) * MS;
        self.healing.dead.insert(id, (until, store));
        Ok(())
    }

    /// What the next life finds. Not everybody's disk may be lost: the control group would be.
    fn disk_of(&mut self, node: &Node, must_last: bool) -> MemoryStore {
        let mut store = node.disk.copy();
        if self.storage.random_bool(0.5) {
            let batches = self.storage.random_range(0..=store.unsynced_batches());
            store.power_loss(PowerLoss { batches, torn_rows: self.storage.random_range(0..3) });
        } else {
            store.process_ends();
        }
        if must_last || self.healing.majority_died || self.storage.random_bool(0.75) {
            return store;
        }
        self.count("disk lost");
        MemoryStore::new()
    }

    /// The disk of `id` refused to sync: its life is over.
    pub(super) fn disk_failed(&mut self, id: NodeId) {
        self.note_losses(&[id]);
        let Some(node) = self.nodes.remove(&id) else { return };
        self.count("ended by its disk");
        self.healing.stopping.remove(&id);
        let mut store = node.disk.copy();
        store.process_ends();
        let until = self.now_ns + self.chance.random_range(50..1_000) * MS;
        self.healing.dead.insert(id, (until, store));
    }

    /// These are about to die. Where that leaves no majority of a group's configuration, what only the dead hold is excused.
    pub(super) fn note_losses(&mut self, dying: &[NodeId]) {
        let mut newest: BTreeMap<u32, GroupStatus> = BTreeMap::new();
        let mut living: BTreeSet<(u32, Incarnation)> = BTreeSet::new();
        let at = |s: &GroupStatus| (s.epoch, s.term, s.commit);
        for (id, node) in &self.nodes {
            let Some(flow) = &node.flow else { continue };
            let life = Incarnation(flow.incarnation().0);
            for status in flow.status(node.local(self.now_ns).ns).into_iter().filter(|s| s.role != Role::Joining) {
                if !dying.contains(id) {
                    living.insert((status.group.0, life));
                }
                let known = newest.entry(status.group.0).or_insert_with(|| status.clone());
                if at(&status) > at(known) {
                    *known = status;
                }
            }
        }
        for (group, GroupStatus { voters, outgoing, .. }) in newest {
            let half = |voters: &[Incarnation]| {
                let left = voters.iter().filter(|life| living.contains(&(group, **life))).count();
                left * 2 > voters.len() || voters.is_empty()
            };
            if !half(&voters) || !half(&outgoing) {
                *self.outcome.faults.entry("majority lost").or_insert(0) += 1;
                self.judge.majority_lost(ShardId(u16::try_from(group).expect("few shards")));
            }
        }
    }

    /// N4: two of three replicas of a shard at once, or all of them.
    fn majority_dies(&mut self) -> Result<(), String> {
        self.count("majority lost");
        let spared = usize::from(self.chance.random_bool(0.8));
        let state = self.newest();
        let Some(shard) = state.shards().values().next() else { return Ok(()) };
        let mut victims: Vec<NodeId> =
            shard.members.iter().filter_map(|life| state.registry().node_of(*life)).collect();
        let spare = self.chance.random_range(0..victims.len());
        victims.swap(0, spare);
        let lives: BTreeSet<_> =
            victims[spared..].iter().filter_map(|id| self.newest().registry().newest(*id)).collect();
        let lost: Vec<ShardId> = self
            .newest()
            .shards()
            .iter()
            .filter(|(_, shard)| {
                shard.members.iter().filter(|life| lives.contains(life)).count() * 2 > shard.members.len()
            })
            .map(|(id, _)| *id)
            .collect();
        for shard in lost {
            self.judge.majority_lost(shard);
        }
        for id in victims.split_off(spared) {
            let Some(node) = self.nodes.remove(&id) else { continue };
            let store = self.disk_of(&node, true);
            let until = self.now_ns + self.chance.random_range(20..1_000) * MS;
            self.healing.dead.insert(id, (until, store));
        }
        if self.nodes.is_empty() {
            // Somebody has to be there to be asked.
            let first = self.healing.dead.keys().next().copied();
            if let Some((id, (_, store))) = first.and_then(|id| Some((id, self.healing.dead.remove(&id)?))) {
                self.start(id, store)?;
            }
        }
        Ok(())
    }

    fn heal(&mut self) -> Result<(), String> {
        let now_ns = self.now_ns;
        let back: Vec<NodeId> =
            self.healing.dead.iter().filter(|(_, (at, _))| now_ns >= *at).map(|(id, _)| *id).collect();
        let back: Vec<NodeId> = back.into_iter().filter(|id| self.may_return(*id)).collect();
        for id in back {
            if let Some((_, store)) = self.healing.dead.remove(&id) {
                self.start(id, store)?;
            }
        }
        self.healing.cuts.retain(|_, until| now_ns < *until);
        let heard: Vec<NodeId> =
            self.healing.swallowed.iter().filter(|(_, at)| now_ns >= **at).map(|(id, _)| *id).collect();
        for id in heard {
            self.healing.swallowed.remove(&id);
            if let Some(node) = self.nodes.get_mut(&id) {
                node.swallowed = false;
            }
        }
        let up: Vec<NodeId> =
            self.healing.links_down.iter().filter(|(_, at)| now_ns >= **at).map(|(id, _)| *id).collect();
        for id in up {
            self.healing.links_down.remove(&id);
            if let Some(node) = self.nodes.get_mut(&id) {
                node.links_up = true;
            }
        }
        Ok(())
    }

    // ---- graceful stops ----

    pub(super) fn begin_stop(&mut self, id: NodeId) {
        if self.healing.stopping.contains_key(&id) || !self.nodes.contains_key(&id) {
            return;
        }
        self.healing.stopping.insert(id, Stop::AsksForToken { until_ns: self.now_ns + TOKEN_WAIT_NS });
    }

    /// Takes every stop a step further, and begins the next one of a rolling restart.
    fn stop_on(&mut self) -> Result<(), String> {
        let now_ns = self.now_ns;
        if let Some(id) = self.healing.rolling.first().copied()
            && self.healing.stopping.is_empty()
            && now_ns.is_multiple_of(20 * MS)
            && self.unwell().is_none()
            && self.newest().stop_token().is_none()
        {
            self.healing.rolling.remove(&id);
            self.begin_stop(id);
        }
        for (id, stop) in self.healing.stopping.clone() {
            match stop {
                Stop::AsksForToken { until_ns } => {
                    let held = self.newest().stop_token().is_some_and(|token| token.holder == id);
                    if !held && now_ns >= until_ns && self.params.rare.operated {
                        // Whoever asks at a bad moment hears no, and lets it be.
                        self.healing.stopping.remove(&id);
                    } else if held || now_ns >= until_ns {
                        if let Some(node) = self.nodes.get_mut(&id) {
                            node.stop(now_ns);
                        }
                        let until_ns = now_ns + STOP_WAIT_NS;
                        self.healing.stopping.insert(id, Stop::HandsOver { until_ns });
                    } else if now_ns.is_multiple_of(500 * MS)
                        && let Some(node) = self.nodes.get_mut(&id)
                    {
                        node.submit(now_ns, CommandBody::StopTokenTake { node: id, seen: Vec::new() });
                    }
                }
                Stop::HandsOver { until_ns } if now_ns < until_ns => {}
                Stop::HandsOver { .. } | Stop::Done => {
                    self.healing.stopping.remove(&id);
                    let held = self.newest().stop_token().is_some_and(|token| token.holder == id);
                    if !held {
                        // It was taken back meanwhile, or there was never an answer.
                        self.note_losses(&[id]);
                    }
                    if self.nodes.len() == 1 {
                        continue;
                    }
                    if let Some(node) = self.nodes.remove(&id) {
                        self.outcome.stops += 1;
                        let mut store = node.disk.copy();
                        store.process_ends();
                        let until = now_ns + self.chance.random_range(20..600) * MS;
                        self.healing.dead.insert(id, (until, store));
                    }
                }
            }
        }
        Ok(())
    }
}
