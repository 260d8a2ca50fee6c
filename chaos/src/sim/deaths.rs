//! How members die in a simulated world, what of their disks is left, and what may be lost with them.

use std::collections::{BTreeMap, BTreeSet};

use consensus::control::storage::LogStore;
use consensus::control::storage::memory::{Fault, MemoryStore, PowerLoss};
use consensus::flow::{GroupStatus, Role};
use engine::ids::{NodeId, ShardId};
use rand::Rng;
use words::Incarnation;

use super::node::Node;
use super::params::MS;
use super::world::World;

impl World {
    pub(super) fn crash(&mut self, id: NodeId) -> Result<(), String> {
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

    /// The life of `id` is over because it says so itself: it is started again.
    pub(super) fn ended(&mut self, id: NodeId, by: &'static str) {
        self.note_losses(&[id]);
        let Some(node) = self.nodes.remove(&id) else { return };
        self.count(by);
        self.healing.stopping.remove(&id);
        let mut store = node.disk.copy();
        store.process_ends();
        let until = self.now_ns + self.chance.random_range(50..1_000) * MS;
        self.healing.dead.insert(id, (until, store));
    }

    /// The machine of a dead member starts it again. Some disks cannot be read at first: there nobody may begin.
    pub(super) fn restart(&mut self, id: NodeId, store: MemoryStore) -> Result<(), String> {
        let unreadable = self.params.rare.failing_disks && store.identity().is_some() && self.storage.random_bool(0.2);
        if !unreadable {
            return self.start(id, store);
        }
        self.count("disk fails to read");
        let mut failing = store.clone();
        failing.inject(Fault::ReadFails);
        match self.start(id, failing) {
            Ok(()) => Err(format!("node {id} began although its disk cannot be read")),
            Err(_) => {
                let until = self.now_ns + self.chance.random_range(50..600) * MS;
                self.healing.dead.insert(id, (until, store));
                Ok(())
            }
        }
    }

    /// These are about to die. Where that leaves no majority of a group's configuration, what only the dead hold is excused.
    pub(super) fn note_losses(&mut self, dying: &[NodeId]) {
        let mut newest: BTreeMap<ShardId, GroupStatus> = BTreeMap::new();
        let mut living: BTreeSet<(ShardId, Incarnation)> = BTreeSet::new();
        let at = |s: &GroupStatus| (s.epoch, s.term, s.commit);
        for (id, node) in &self.nodes {
            let Some(flow) = &node.flow else { continue };
            let life = flow.incarnation();
            for status in flow.status(node.local(self.now_ns).ns).into_iter().filter(|s| s.role != Role::Joining) {
                if !dying.contains(id) {
                    living.insert((status.group, life));
                }
                let known = newest.entry(status.group).or_insert_with(|| status.clone());
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
                self.judge.majority_lost(group);
            }
        }
    }

    /// N4: two of three replicas of a shard at once, or all of them.
    pub(super) fn majority_dies(&mut self) -> Result<(), String> {
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
}
