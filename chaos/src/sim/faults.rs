//! What goes wrong in a simulated world, and when it is over.

use std::collections::{BTreeMap, BTreeSet};

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
    stopping: BTreeMap<NodeId, Stop>,
    rolling: BTreeSet<NodeId>,
    next_ns: u64,
    majority_died: bool,
}

/// What of a connection is cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Lane {
    All,
    Control,
}

impl Healing {
    pub(super) fn has_stopped(&mut self, id: NodeId) {
        if let Some(stop) = self.stopping.get_mut(&id) {
            *stop = Stop::Done;
        }
    }
}

impl World {
    pub(super) fn is_cut(&self, from: NodeId, to: NodeId, channel: u32) -> bool {
        let cut = |lane| self.healing.cuts.get(&(from, to, lane)).is_some_and(|until| self.now_ns < *until);
        cut(Lane::All) || matches!(channel, CHANNEL_CONTROL | CHANNEL_JOIN) && cut(Lane::Control)
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
        let over = h.dead.is_empty() && h.stopping.is_empty() && h.rolling.is_empty() && h.links_down.is_empty();
        let over = over && h.slow.values().all(|(until, _)| self.now_ns >= *until);
        over && self.now_ns >= h.held_up_until_ns && h.cuts.values().all(|until| self.now_ns >= *until)
    }

    /// Whether more may be wrong than one fault, so that service is not promised (I53).
    pub(super) fn is_excused(&self) -> bool {
        self.params.faults == Faults::Overlapping || self.healing.majority_died
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
        match self.chance.random_range(0..18) {
            // A minority only: who is lost has to be replaced before the next one may be.
            0..=3 if whole => self.crash(id),
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
            12 => {
                self.count("data links down");
                self.slow_down(id, until);
                self.healing.links_down.insert(id, until);
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.links_up = false;
                }
                Ok(())
            }
            13 => {
                self.count("control cut");
                self.cut(id, until + 500 * MS, Lane::Control);
                Ok(())
            }
            14 => {
                self.count("slow link");
                self.slow_down(id, until + 1_500 * MS);
                Ok(())
            }
            _ => {
                self.count("cut");
                self.cut(id, until, Lane::All);
                Ok(())
            }
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
        self.count("crash");
        let Some(node) = self.nodes.remove(&id) else { return Ok(()) };
        let store = self.disk_of(node)?;
        // A process that is started again at once meets a cluster that has not noticed.
        let down = if self.chance.random_bool(0.4) { 5..60 } else { 50..1_500 };
        let until = self.now_ns + self.chance.random_range(down) * MS;
        self.healing.dead.insert(id, (until, store));
        Ok(())
    }

    fn disk_of(&mut self, node: Node) -> Result<MemoryStore, String> {
        let mut store = node.control.into_store().ok_or("a store that failed")?;
        if self.storage.random_bool(0.5) {
            let batches = self.storage.random_range(0..=store.unsynced_batches());
            store.power_loss(PowerLoss { batches, torn_rows: self.storage.random_range(0..3) });
        } else {
            store.process_ends();
        }
        if self.healing.majority_died || self.storage.random_bool(0.75) {
            return Ok(store);
        }
        self.count("disk lost");
        Ok(MemoryStore::new())
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
            let store = self.disk_of(node)?;
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
        for id in back {
            if let Some((_, store)) = self.healing.dead.remove(&id) {
                self.start(id, store)?;
            }
        }
        self.healing.cuts.retain(|_, until| now_ns < *until);
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

    fn begin_stop(&mut self, id: NodeId) {
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
                    if held || now_ns >= until_ns {
                        if let Some(node) = self.nodes.get_mut(&id) {
                            node.stop(now_ns);
                        }
                        let until_ns = now_ns + STOP_WAIT_NS;
                        self.healing.stopping.insert(id, Stop::HandsOver { until_ns });
                    } else if now_ns.is_multiple_of(500 * MS)
                        && let Some(node) = self.nodes.get_mut(&id)
                    {
                        node.submit(now_ns, CommandBody::StopTokenTake { node: id });
                    }
                }
                Stop::HandsOver { until_ns } if now_ns < until_ns => {}
                Stop::HandsOver { .. } | Stop::Done => {
                    self.healing.stopping.remove(&id);
                    if let Some(node) = self.nodes.remove(&id) {
                        let mut store = node.control.into_store().ok_or("a store that failed")?;
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
