//! The world of one seed: members, time, and what is asked of the invariants when. The networks are in `network.rs`, the
//! faults in `faults.rs`, backends and operator in `load.rs`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use bytes::Bytes;
use consensus::control::storage::memory::MemoryStore;
use consensus::control::storage::{ClusterId, LogStore};
use consensus::flow::{GroupStatus, Role};
use control::registry::{FOUNDER_RAFT_ID, Founder};
use control::shards::Origin;
use control::state::State;
use engine::ids::{Link, Mac, NodeId, ShardId};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use words::level;

use super::addresses::{Host, address};
use super::clients::{Entering, Peers};
use super::declared::Declared;
use super::flight::Arrival;
use super::healing::Healing;
use super::judge::Judge;
use super::node::{Node, Start};
use super::params::{Kind, MS, Params, Stream, stream};
use super::traffic::{Flow, Tag};
use crate::invariants::{Violation, i25_new_flows, i27_heals, i29_ports_return, i30_calm};

pub(super) const STEP_NS: u64 = MS / 2;
const BEGIN_NS: u64 = 1_000 * MS;
/// When the operator declares the configuration, and when backends begin to send.
const CONFIGURE_NS: u64 = 1_700 * MS;
const TRAFFIC_NS: u64 = 2_700 * MS;
/// Faults begin and no longer begin.
pub(super) const FAULTS_FROM_NS: u64 = 3_500 * MS;
pub(super) const FAULTS_UNTIL_NS: u64 = 11_000 * MS;
/// What those that have begun may take to end: a rolling restart of five nodes waits for full redundancy before each.
const FAULTS_END_NS: u64 = 120_000 * MS;
/// What healing may take after the last fault has ended (I27), and more where an epoch has to be created anew: the
/// control group's own failover, an ownerless second, and the waits of N4.
const HEAL_NS: u64 = 5_000 * MS;
const RECREATE_NS: u64 = 6_000 * MS;
/// What the return of ports may take after that: the longest hold, begun anew by a takeover or prolonged by a lowered
/// value, and 2 s (I29).
const RETURN_NS: u64 = 8_000 * MS;
/// New flows that must pass at the end, the first of their ports, which nobody chose before, and how long they may take.
const CALM_FLOWS: usize = 24;
const CALM_PORT: u16 = 30_000;
const CALM_NS: u64 = 1_000 * MS;

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first invariant that broke, if any.
    pub violation: Option<String>,
    /// Hash of everything that left: equal for equal runs.
    pub trace: u64,
    /// Translated packets that left outside.
    pub emitted: u64,
    /// Resets that members made for connections whose ports were taken back.
    pub resets: u64,
    /// Those that were demanded: to either end of a connection.
    pub resets_owed: u64,
    /// Mappings that were opened.
    pub mappings: u64,
    /// Elections of flow groups.
    pub elections: u64,
    /// Epochs that were created anew.
    pub recreations: u64,
    /// Replicas that began with another one's table, and followers that had to load it anew.
    pub joins: u64,
    /// See `joins`.
    pub reloads: u64,
    /// Members that stopped gracefully.
    pub stops: u64,
    /// Replicas that were given up.
    pub moved: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often each queue was full.
    pub full: BTreeMap<&'static str, u64>,
    /// Mappings by their right, packets that left before their commit, and what came in or stayed inside.
    pub ways: BTreeMap<&'static str, u64>,
}

pub(super) struct World {
    pub(super) params: Params,
    pub(super) now_ns: u64,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) healing: Healing,
    pub(super) queue: BinaryHeap<Reverse<(u64, u64, NodeId)>>,
    pub(super) bodies: BTreeMap<u64, (Option<u64>, Arrival)>,
    /// Starts of each node: messages to a former life of a machine are gone with its connections.
    pub(super) lives: BTreeMap<NodeId, u64>,
    pub(super) streams: BTreeMap<(NodeId, NodeId, u32), u64>,
    pub(super) sequence: u64,
    pub(super) switch: BTreeMap<(Link, Mac), NodeId>,
    pub(super) homes: BTreeMap<Host, Mac>,
    pub(super) network: ChaCha8Rng,
    pub(super) chance: ChaCha8Rng,
    pub(super) load: ChaCha8Rng,
    pub(super) storage: ChaCha8Rng,
    pub(super) operator: ChaCha8Rng,
    pub(super) judge: Judge,
    pub(super) outcome: Outcome,
    pub(super) declared: Declared,
    pub(super) wanted: Option<Declared>,
    pub(super) next_change_ns: u64,
    /// When something was last wrong.
    calm_since_ns: u64,
    pub(super) flows: Vec<Flow>,
    pub(super) calm: Vec<Flow>,
    pub(super) entering: Entering,
    pub(super) peers: Peers,
    /// What hosts have said.
    pub(super) sent: BTreeSet<Tag>,
}

/// Runs one seed to its end or to the first violation.
#[must_use]
pub fn run_seed(seed: u64, kind: Kind) -> Outcome {
    let mut world = World::new(seed, kind);
    let result = world.run();
    world.outcome.mappings = world.judge.mappings();
    world.outcome.elections = world.judge.elections;
    world.outcome.recreations = world.judge.recreations;
    world.outcome.resets_owed = world.judge.resets.paid;
    for (what, count) in std::mem::take(&mut world.judge.ways) {
        *world.outcome.ways.entry(what).or_insert(0) += count;
    }
    (world.outcome.joins, world.outcome.reloads, world.outcome.moved) = world.judge.transfers;
    world.outcome.violation = result.err().map(|why| format!("at {} ms: {why}", world.now_ns / MS));
    world.outcome
}

impl World {
    fn new(seed: u64, kind: Kind) -> Self {
        let outcome = Outcome {
            seed,
            violation: None,
            trace: seed,
            emitted: 0,
            resets: 0,
            mappings: 0,
            elections: 0,
            recreations: 0,
            joins: 0,
            reloads: 0,
            stops: 0,
            moved: 0,
            faults: BTreeMap::new(),
            resets_owed: 0,
            full: BTreeMap::new(),
            ways: BTreeMap::new(),
        };
        let mut load = stream(seed, Stream::Load);
        let declared = Declared::draw(&mut load);
        Self {
            params: Params::draw(seed, kind),
            now_ns: BEGIN_NS,
            nodes: BTreeMap::new(),
            healing: Healing::default(),
            queue: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            lives: BTreeMap::new(),
            streams: BTreeMap::new(),
            sequence: 0,
            switch: BTreeMap::new(),
            homes: BTreeMap::new(),
            network: stream(seed, Stream::Network),
            chance: stream(seed, Stream::Faults),
            load,
            storage: stream(seed, Stream::Storage),
            operator: stream(seed, Stream::Operator),
            judge: Judge::new(),
            outcome,
            wanted: Some(declared.clone()),
            declared,
            next_change_ns: CONFIGURE_NS,
            calm_since_ns: BEGIN_NS,
            flows: Vec::new(),
            calm: Vec::new(),
            entering: Entering::default(),
            peers: Peers::default(),
            sent: BTreeSet::new(),
        }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.params.nodes).map(NodeId)
    }

    /// The newest control state that any living node has applied.
    pub(super) fn newest(&self) -> &State {
        newest(&self.nodes)
    }

    pub(super) fn count(&mut self, fault: &'static str) {
        *self.outcome.faults.entry(fault).or_insert(0) += 1;
    }

    /// Something went another way than by a pool's grant.
    pub(super) fn way(&mut self, what: &'static str) {
        *self.outcome.ways.entry(what).or_insert(0) += 1;
    }

    fn run(&mut self) -> Result<(), String> {
        self.found()?;
        while self.now_ns < FAULTS_UNTIL_NS || !self.faults_are_over() {
            self.faults_end()?;
            self.step()?;
            self.operate();
            self.intervene();
            self.fault()?;
        }
        // Nobody is started again from here on, so nobody may die.
        for node in self.nodes.values() {
            node.disk.repair();
        }
        // Where several are lost one after the other, epochs are created anew one after the other.
        let again = if self.params.rare.deadly { 2 * RECREATE_NS } else { RECREATE_NS };
        let allowed = HEAL_NS + if self.judge.recreations > 0 || self.params.rare.deadly { again } else { 0 };
        let until = self.now_ns + allowed;
        while let Some(unwell) = self.unwell().or_else(|| self.declare_again()) {
            i27_heals::check((self.now_ns >= until).then_some(&unwell), allowed / MS).map_err(said)?;
            for _ in 0..100 {
                self.step()?;
            }
        }
        let healed_ns = self.now_ns;
        while self.declared.expires() && i29_ports_return::waiting(self.newest()).next().is_some() {
            let waited_ms = (self.now_ns - healed_ns) / MS;
            i29_ports_return::check(self.newest(), waited_ms, RETURN_NS / MS).map_err(said)?;
            self.step()?;
        }
        self.change_tiers_in_calm()?;
        // Handing a shard back to the member that should own it is no false election: it comes first.
        let until = self.now_ns + HEAL_NS;
        while self.now_ns < until && !self.owners_are_preferred() {
            self.step()?;
        }
        self.begin_calm_flows(CALM_FLOWS, CALM_PORT);
        self.begin_calm_clients(0);
        self.begin_calm_peers(0);
        let at_home = self.owners_are_preferred();
        let (until, elections) = (self.now_ns + CALM_NS, self.judge.elections);
        while self.now_ns < until {
            self.step()?;
        }
        if at_home {
            i30_calm::check(elections, self.judge.elections).map_err(said)?;
        }
        let answered = self.calm.iter().filter(|flow| flow.answered).count();
        i25_new_flows::check(self.calm.len(), answered).map_err(said)?;
        self.clients_were_served().map_err(said)?;
        self.peers_were_heard(0).map_err(said)?;
        self.move_in_calm()
    }

    /// A fault that nothing ends would keep the run from ending: what is asked of the cluster meanwhile it does not do.
    fn faults_end(&self) -> Result<(), String> {
        let waited_ns = self.now_ns.saturating_sub(FAULTS_UNTIL_NS);
        match self.healing.wrong(self.now_ns).filter(|_| waited_ns > FAULTS_END_NS) {
            Some(wrong) => {
                let unwell = self.unwell().unwrap_or_else(|| "otherwise well".to_owned());
                let token = self.newest().stop_token().map(|token| (token.holder, token.incarnation));
                let unwell = format!("{unwell}; the stop token is held by {token:?}");
                Err(format!("faults do not end, {} ms after the last could begin: {wrong}; {unwell}", waited_ns / MS))
            }
            None => Ok(()),
        }
    }

    pub(super) fn step(&mut self) -> Result<(), String> {
        self.now_ns += STEP_NS;
        self.deliver()?;
        for id in self.ids() {
            self.settle(id)?;
        }
        if self.now_ns > TRAFFIC_NS {
            self.traffic();
            self.clients_send();
            self.peers_send();
        }
        if self.now_ns.is_multiple_of(10 * MS) {
            for (id, node) in &self.nodes {
                let start = self.lives.get(id).copied().unwrap_or(0);
                self.judge.membership(node, start, self.now_ns).map_err(said)?;
            }
        }
        if self.healing.wrong(self.now_ns).is_some() || self.nodes.len() < self.ids().count() {
            self.calm_since_ns = self.now_ns;
        }
        self.judge.resets.check(self.calm_since_ns, self.now_ns).map_err(said)?;
        if self.now_ns.is_multiple_of(10 * MS) && !self.is_excused() {
            self.judge.available(&self.nodes, newest(&self.nodes), self.now_ns).map_err(said)?;
        }
        if self.now_ns.is_multiple_of(100 * MS) {
            for node in self.nodes.values() {
                self.judge.state(node).map_err(said)?;
            }
            self.judge.owners(self.nodes.values(), self.newest(), self.now_ns).map_err(said)?;
        }
        Ok(())
    }

    fn found(&mut self) -> Result<(), String> {
        let ids: Vec<NodeId> = self.ids().collect();
        let founder =
            |id: &NodeId| Founder { node: *id, peer_addr: address(*id), api_addr: address(*id), key: [1; 32] };
        let founders: Vec<Founder> = ids.iter().map(founder).collect();
        let level = if self.params.rare.older { level::FIRST } else { level::NEWEST };
        let state = State::found([7; 16], &founders, [1, 2]).at_level(level).encode().map_err(|e| e.to_string())?;
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

    pub(super) fn start(&mut self, id: NodeId, store: MemoryStore) -> Result<(), String> {
        let seed = self.chance.random();
        let life = self.lives.entry(id).or_insert(0);
        *life += 1;
        let schedule = stream(self.outcome.seed ^ (u64::from(id.0) << 32) ^ (*life << 40), Stream::Schedule);
        let clock = self.params.clocks[usize::try_from(id.0).expect("few nodes")];
        let rare = self.params.rare.clone();
        let level = if rare.older && *life == 1 { level::FIRST } else { level::NEWEST };
        let start = Start { id, nodes: self.params.nodes, store, seed, clock, rare, level, schedule };
        let node = Node::start(start, self.now_ns)?;
        self.nodes.insert(id, node);
        Ok(())
    }

    /// Whether each shard is led by the member that comes first for it.
    fn owners_are_preferred(&self) -> bool {
        let state = self.newest();
        state.shards().iter().all(|(id, shard)| {
            let first = shard.members.first().and_then(|life| state.registry().node_of(*life));
            let node = first.and_then(|node| self.nodes.get(&node));
            let Some(flow) = node.and_then(|node| node.flow.as_ref()) else { return false };
            let now_ns = node.map_or(0, |node| node.local(self.now_ns).ns);
            flow.status(now_ns).iter().any(|group| group.group == *id && group.role == Role::Leader)
        })
    }

    /// Why not every shard has its members as voters, all of the newest lives, and an owner that serves.
    pub(super) fn unwell(&self) -> Option<String> {
        if self.nodes.len() < self.ids().count() {
            return Some("a node is down".to_owned());
        }
        let state = self.newest();
        let wanted = usize::try_from(state.settings().replicas).unwrap_or(usize::MAX).min(self.nodes.len());
        let statuses: BTreeMap<NodeId, Vec<GroupStatus>> = self
            .nodes
            .iter()
            .filter_map(|(id, n)| Some((*id, n.flow.as_ref()?.status(n.local(self.now_ns).ns))))
            .collect();
        if statuses.len() < self.nodes.len() {
            let seen = |node: &Node| {
                let (leader, term) = node.control.leader();
                let voters = &node.control.configured().0;
                format!("{} as {:?}: {voters:?} led by {leader:?} in {term}", node.id, node.control.incarnation())
            };
            let seen: Vec<String> = self.nodes.values().map(seen).collect();
            return Some(format!("a node has not registered; {}", seen.join("; ")));
        }
        let serving =
            self.nodes.values().filter_map(|node| node.worker.as_ref()).flat_map(|worker| worker.view().shard_status());
        let serving: BTreeSet<(ShardId, u32)> =
            serving.filter(|s| s.serving == Some(Ok(()))).map(|s| (s.shard, s.epoch)).collect();
        let seen = |id: ShardId, shard: &control::shards::Shard| {
            let of = |groups: &Vec<GroupStatus>| groups.iter().find(|group| group.group == id).cloned();
            let seen: Vec<_> = statuses.iter().map(|(node, groups)| (node, of(groups))).collect();
            format!("shard {id} is {shard:?}, and on nodes {seen:?}")
        };
        for (id, shard) in state.shards() {
            let members: BTreeSet<u64> = shard.members.iter().map(|life| life.0).collect();
            if shard.origin == Origin::Unplaced || members.len() < wanted || !shard.leaving.is_empty() {
                return Some(seen(*id, shard));
            }
            for life in &shard.members {
                let node = state.registry().node_of(*life);
                let group = node.and_then(|node| statuses.get(&node)?.iter().find(|s| s.group == *id));
                let voters: Option<BTreeSet<u64>> = group.map(|s| s.voters.iter().map(|life| life.0).collect());
                if voters.as_ref() != Some(&members)
                    || group.is_some_and(|s| !s.outgoing.is_empty() || s.epoch.0 != shard.epoch)
                {
                    return Some(seen(*id, shard));
                }
            }
            if !serving.contains(&(*id, shard.epoch)) {
                let all = self
                    .nodes
                    .values()
                    .filter_map(|node| node.worker.as_ref())
                    .flat_map(|worker| worker.view().shard_status());
                return Some(format!(
                    "shard {id} is not served: {:?}",
                    all.filter(|s| s.shard == *id).collect::<Vec<_>>()
                ));
            }
        }
        None
    }
}

pub(super) fn newest(nodes: &BTreeMap<NodeId, Node>) -> &State {
    let states = nodes.values().map(|node| node.control.state());
    states.max_by_key(|state| state.index()).expect("some node lives")
}

/// A violation as the outcome says it.
#[expect(clippy::needless_pass_by_value, reason = "it is mapped over errors")]
pub(super) fn said(violation: Violation) -> String {
    violation.to_string()
}

#[cfg(test)]
mod tests {
    use words::Incarnation;

    use super::*;

    #[test]
    fn a_seed_whose_removed_node_never_returns_ends_and_says_so() {
        let mut world = World::new(0, Kind::Mixed);
        world.params.rare.removes = true;
        // A life that the node never had: the order is refused each time.
        world.healing.removes(NodeId(2), Incarnation(u64::MAX));
        let why = world.run().expect_err("it is asked for without end");
        assert!(why.contains("node 2 waits for its removal as incarnation 18446744073709551615"), "{why}");
        assert!(world.now_ns / MS < 200_000, "at {} ms", world.now_ns / MS);
    }
}
