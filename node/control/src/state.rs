//! The replicated control state: everything that the control log has decided so far.
//!
//! Pure data with two invariants of its own: equal logs give byte-equal states (I22), and nothing is changed but by
//! `State::apply` (in `apply`). It must never hold a clock, an address of memory or an unordered map. Owned by the control
//! group's actor of `node`, and by the simulator.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bincode::{Decode, Encode};
use engine::ids::{ControlIndex, FrontendId, Incarnation, NodeId, PortBlock, SHARDS_MAX, ShardId, VnetId};

use crate::allocation::{Allocation, Backend, Declared, Settle};
use crate::codec::{self, CodecError, Kind};
use crate::command::Key;
use crate::limits::KEYS_MAX;
use crate::nsg::service_tags::ServiceTags;
use crate::outcome::Outcome;
use crate::parts::Parts;
use crate::probing::health::Healths;
use crate::registry::{Founder, Registry};
use crate::resource::{Desired, Settings};
use crate::shards::{Origin, Shard};
use crate::tier;

/// The control index of the founding snapshot (N5).
pub const FOUNDING_INDEX: ControlIndex = ControlIndex(1);

/// The control state.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct State {
    pub(crate) cluster_id: [u8; 16],
    pub(crate) key: [u64; 2],
    pub(crate) index: ControlIndex,
    pub(crate) level: u16,
    pub(crate) stamped_unix_ms: u64,
    pub(crate) desired: Desired,
    pub(crate) tags: ServiceTags,
    pub(crate) vnets: BTreeMap<String, VnetId>,
    pub(crate) last_vnet: VnetId,
    pub(crate) allocation: Allocation,
    pub(crate) healths: Healths,
    pub(crate) shards: BTreeMap<ShardId, Shard>,
    /// Ids that were used and are free, with the last epoch that each had: the next shard of that id goes on from it.
    pub(crate) free_shards: BTreeMap<ShardId, u32>,
    pub(crate) registry: Registry,
    pub(crate) control_applied: Vec<u64>,
    pub(crate) stop_token: Option<StopToken>,
    pub(crate) keys: Keys,
    /// A configuration that comes in parts.
    pub(crate) parts: Option<Parts>,
}

/// The cluster's one stop token (N3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct StopToken {
    /// Who holds it.
    pub holder: NodeId,
    /// The life of the holder that took it.
    pub incarnation: Incarnation,
    /// When it was taken.
    pub taken: ControlIndex,
}

/// The last commands by key, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub(crate) struct Keys {
    order: VecDeque<Key>,
    outcomes: BTreeMap<Key, Outcome>,
}

impl Keys {
    pub(crate) fn outcome(&self, key: &Key) -> Option<&Outcome> {
        self.outcomes.get(key)
    }

    pub(crate) fn remember(&mut self, key: Key, outcome: Outcome) {
        if self.outcomes.insert(key, outcome).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.outcomes.remove(&oldest);
        }
    }
}

/// An invariant that does not hold, for tests and the simulator.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{invariant}: {detail}")]
pub struct Broken {
    /// Its id in the reliability table, or a rule id.
    pub invariant: &'static str,
    /// What was found.
    pub detail: String,
}

impl State {
    /// The state that `cluster init` stores at [`FOUNDING_INDEX`] (N5). `key` seeds port order and hashing (D9).
    #[must_use]
    pub fn found(cluster_id: [u8; 16], founders: &[Founder], key: [u64; 2]) -> Self {
        let registry = Registry::found(founders);
        Self {
            cluster_id,
            key,
            index: FOUNDING_INDEX,
            level: words::level::NEWEST,
            stamped_unix_ms: 0,
            desired: Desired::default(),
            tags: ServiceTags::default(),
            vnets: BTreeMap::new(),
            last_vnet: VnetId(0),
            allocation: Allocation::default(),
            healths: Healths::default(),
            shards: BTreeMap::new(),
            free_shards: BTreeMap::new(),
            control_applied: registry.members().map(|(_, node)| node.raft_id).collect(),
            registry,
            stop_token: None,
            keys: Keys::default(),
            parts: None,
        }
    }

    /// The same at another level of the formats, for builds that know no newer one (C2).
    #[must_use]
    pub fn at_level(self, level: u16) -> Self {
        Self { level, ..self }
    }

    /// The bytes of a snapshot.
    ///
    /// # Errors
    /// [`CodecError::Encode`] if it exceeds `limits::STATE_LEN_MAX`.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(Kind::State, self)
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    /// See [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(Kind::State, bytes)
    }

    /// Without what is nobody else's business: the key by which ports are ordered and clients distributed, hashes of members' keys,
    /// and what is remembered of commands. Packets are judged by it as by the whole, but for what the key decides.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let mut open = self.clone();
        open.key = [0; 2];
        open.registry.forget_keys();
        (open.keys, open.parts) = (Keys::default(), None);
        open
    }

    /// A hash over the whole state: equal on all replicas at the same index (I22).
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let body = bincode::encode_to_vec(self, bincode::config::standard());
        hasher.update(&body.expect("encoding plain data into memory does not fail"));
        *hasher.finalize().as_bytes()
    }

    /// The cluster's id.
    #[must_use]
    pub fn cluster_id(&self) -> [u8; 16] {
        self.cluster_id
    }

    /// The last entry that was applied.
    #[must_use]
    pub fn index(&self) -> ControlIndex {
        self.index
    }

    /// The cluster level (C2).
    #[must_use]
    pub fn level(&self) -> u16 {
        self.level
    }

    /// The declared configuration.
    #[must_use]
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// What the platform's service tags mean.
    #[must_use]
    pub fn service_tags(&self) -> &ServiceTags {
        &self.tags
    }

    /// Cluster-wide parameters.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.desired.settings
    }

    /// Frontends, backends, leases.
    #[must_use]
    pub fn allocation(&self) -> &Allocation {
        &self.allocation
    }

    /// What probes have found.
    #[must_use]
    pub fn healths(&self) -> &Healths {
        &self.healths
    }

    /// The shard map.
    #[must_use]
    pub fn shards(&self) -> &BTreeMap<ShardId, Shard> {
        &self.shards
    }

    /// Nodes and their lives.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The voters (raft ids) that the control group should have: input of its reconciliation (N2).
    /// A node that is on its way out keeps its vote, and so hears what is decided, until no shard needs it.
    #[must_use]
    pub fn control_voters(&self) -> Vec<u64> {
        let stays = |id: &NodeId| !self.registry.is_draining(*id) || self.holds_a_replica(*id);
        let voters = self.registry.members().filter(|(id, _)| stays(id)).map(|(_, node)| node.raft_id);
        let mut voters: Vec<u64> = voters.collect();
        voters.sort_unstable();
        voters
    }

    /// Whether some incarnation of the node may be a replica of a shard.
    #[must_use]
    pub fn holds_a_replica(&self, node: NodeId) -> bool {
        let of_node = |shard: &Shard| shard.possible().iter().any(|life| self.registry.node_of(*life) == Some(node));
        self.shards.values().any(of_node)
    }

    /// Whether a node that is on its way out has nothing left: no replica of a shard and no part in the control group.
    #[must_use]
    pub fn is_drained(&self, node: NodeId) -> bool {
        let raft_id = self.registry.nodes().get(&node).map(|known| known.raft_id);
        let votes = raft_id.is_some_and(|raft_id| self.control_applied.contains(&raft_id));
        self.registry.is_draining(node) && !votes && !self.holds_a_replica(node)
    }

    /// The voters that the control group last reported.
    #[must_use]
    pub fn control_applied(&self) -> &[u64] {
        &self.control_applied
    }

    /// The stop token, if held.
    #[must_use]
    pub fn stop_token(&self) -> Option<StopToken> {
        self.stop_token
    }

    /// How many members each shard should have now.
    #[must_use]
    pub fn replicas_wanted(&self) -> usize {
        let wanted = usize::try_from(self.settings().replicas).unwrap_or(usize::MAX);
        wanted.min(self.registry.eligible().count())
    }

    /// Checks every invariant that the state alone can show (I3, I4, I5, M3, N1).
    ///
    /// # Errors
    /// The first one that does not hold.
    pub fn check(&self) -> Result<(), Broken> {
        self.check_blocks()?;
        self.check_bindings()?;
        self.check_shards()?;
        self.check_settled()
    }

    /// What was settled in steps is what settling everything would have come to.
    fn check_settled(&self) -> Result<(), Broken> {
        if !self.allocation.places.agrees_with(&self.allocation.places_anew(self.index)) {
            return broken("D4", "the places of backends and blocks are not where they are");
        }
        let mut again = self.allocation.clone();
        let (stamped_unix_ms, desired) = (self.stamped_unix_ms, &self.desired);
        again.settle(&Settle { index: self.index, stamped_unix_ms, draw: 0, desired, hints: &[] });
        let differs = again.backends.iter().find(|(id, backend)| self.allocation.backends.get(id) != Some(backend));
        match differs {
            Some((id, backend)) => broken("D4", format!("backend {id} is not settled: it would be {backend:?}")),
            None if again.drains != self.allocation.drains || again.frontends != self.allocation.frontends => {
                broken("D4", "drains or frontends are not settled")
            }
            None => Ok(()),
        }
    }

    fn check_blocks(&self) -> Result<(), Broken> {
        let whole = |b: &Backend| b.own.into_iter().flat_map(PortBlock::whole);
        let backends = self.allocation.backends.iter();
        let leased =
            backends.flat_map(|(id, b)| b.lease.iter().copied().chain(whole(b)).map(move |block| (block, *id)));
        let draining = self.allocation.drains.iter().map(|(block, drain)| (*block, drain.backend));
        let mut blocks: Vec<_> = leased.chain(draining).collect();
        blocks.sort_unstable();
        let mut last: Option<(FrontendId, u32)> = None;
        for (block, backend) in blocks {
            let (start, end) = (u32::from(block.start), u32::from(block.start) + u32::from(block.len));
            let broken = |invariant, what: &str| broken(invariant, format!("{block:?} of backend {backend} {what}"));
            let own = PortBlock::whole(block.frontend).contains(&block);
            if !block.len.is_power_of_two() || block.start % block.len != 0 {
                return broken("D3", "is no aligned power of two");
            }
            if !own && (start < tier::PORT_MIN.into() || end > 1 << 16 || block.len > tier::BLOCK_LEN_MAX) {
                return broken("I5", "leaves 1024..=65535, or is too long");
            }
            let Some(frontend) = self.allocation.frontends.get(&block.frontend) else {
                return broken("I3", "is on a frontend that does not exist");
            };
            if !own && frontend.reserved.iter().any(|port| block.contains(*port)) {
                return broken("I5", "holds a reserved port");
            }
            if last.is_some_and(|(f, until)| f == block.frontend && until > start) {
                return broken("I4", "overlaps another");
            }
            last = Some((block.frontend, end));
        }
        Ok(())
    }

    fn check_bindings(&self) -> Result<(), Broken> {
        for (id, backend) in &self.allocation.backends {
            let broken = |invariant, what: &str| broken(invariant, format!("backend {id} {what}"));
            if backend.lease.iter().any(|block| Some(block.frontend) != backend.frontend) {
                return broken("I3", "leases ports of a frontend that it is not bound to");
            }
            if backend.ports() > backend.grant {
                return broken("S12", "leases more than its grant");
            }
            for frontend in backend.frontend.into_iter().chain(backend.own) {
                let shard = self.allocation.frontends.get(&frontend).map(|f| f.shard);
                if shard.is_none() || shard != backend.home {
                    return broken("M3", "has ports outside its home shard");
                }
            }
            if backend.declared == Declared::No && self.allocation.is_free(*id, backend) {
                return broken("M3", "has nothing left and still exists");
            }
            if backend.home.is_some_and(|home| !self.shards.contains_key(&home)) {
                return broken("M3", "has a home that does not exist");
            }
        }
        for (block, drain) in &self.allocation.drains {
            let owner = self.allocation.backends.get(&drain.backend);
            let home = self.allocation.frontends.get(&block.frontend).map(|f| f.shard);
            if owner.is_none_or(|b| b.home != home) || drain.reclaim_index > self.index {
                return broken("F5", format!("{block:?} drains for nobody, or from the future"));
            }
        }
        Ok(())
    }

    fn check_shards(&self) -> Result<(), Broken> {
        let mut owned = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for (id, frontend) in &self.allocation.frontends {
            if !self.shards.contains_key(&frontend.shard) {
                return broken("M3", format!("frontend {id} has no shard"));
            }
            owned.insert(frontend.shard);
            if !addresses.insert(frontend.ip) {
                return broken("I4", format!("two frontends have the address {}", frontend.ip));
            }
        }
        for (id, shard) in &self.shards {
            let broken = |invariant, what: &str| broken(invariant, format!("shard {id} {what}"));
            if !owned.contains(id) {
                return broken("M3", "has no frontend");
            }
            if id.0 >= SHARDS_MAX || self.free_shards.contains_key(id) {
                return broken("N1", "has an id that no table holds, or one that is free");
            }
            if (shard.origin == Origin::Unplaced) != shard.members.is_empty() {
                return broken("N5", "has members without a founding, or none after it");
            }
            let nodes: BTreeSet<_> = shard.members.iter().map(|life| self.registry.node_of(*life)).collect();
            if nodes.len() != shard.members.len() || nodes.contains(&None) {
                return broken("N1", "has two members on one node, or one of no node");
            }
            if shard.members.iter().any(|life| self.registry.gone(*life)) && self.registry.registered().count() > 1 {
                let alone = shard.members.len() == 1 || shard.sealing.is_some();
                if !alone {
                    return broken("N1", "has a member that is gone");
                }
            }
            if shard.members.iter().any(|life| shard.leaving.contains(life)) {
                return broken("N1", "has a member that is leaving");
            }
            if shard.sealing.is_none() && !shard.seals.is_empty() {
                return broken("N4", "has seals of an epoch that is not being sealed");
            }
        }
        Ok(())
    }
}

fn broken<T>(invariant: &'static str, detail: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { invariant, detail: detail.into() })
}
