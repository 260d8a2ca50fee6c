//! The state that a cluster begins with which continues a lost one (N6): from a survivor's log, or from a backup.
//!
//! Configuration, grants, drains and the shard map stay; everything that lived is over: no life of the old cluster goes on,
//! so every shard begins its next epoch without a survivor (N4), and its new flows wait for the quarantine. It must never
//! reuse a control index, a raft id or a life of the old cluster. Called by the commands that recover and restore.

use std::collections::BTreeMap;

use engine::ids::ControlIndex;

use crate::registry::{FOUNDER_RAFT_ID, Founder};
use crate::shards::Origin;
use crate::state::State;

/// How far behind the base's last entry the new log begins: entries that only the lost majority had, lives that they
/// registered and flow entries judged under them all lie below.
pub const INDEX_GAP: u64 = 1 << 20;
/// How many epochs of each shard are left out: the lost majority may have begun some.
const EPOCH_GAP: u32 = 64;
/// Raft ids of a recovered cluster's founders carry its generation above the node's number.
const GENERATION_SHIFT: u32 = 32;

/// Names the founders of a recovered cluster apart from those of every cluster before it: 15 bits, never 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Generation(u16);

impl Generation {
    /// Of a new cluster's random id.
    #[must_use]
    pub fn of(cluster_id: [u8; 16]) -> Self {
        let [low, high, ..] = cluster_id;
        Self((u16::from_le_bytes([low, high]) & 0x7fff).max(1))
    }

    /// The raft id of a founder in the control group.
    #[must_use]
    pub fn raft_id(self, node: u32) -> u64 {
        FOUNDER_RAFT_ID | u64::from(self.0) << GENERATION_SHIFT | u64::from(node)
    }
}

impl State {
    /// What cluster `cluster_id` of these founders begins with, at control index `index() + INDEX_GAP`.
    #[must_use]
    pub fn recovered(mut self, cluster_id: [u8; 16], founders: &[Founder]) -> Self {
        let generation = Generation::of(cluster_id);
        let index = ControlIndex(self.index.0 + INDEX_GAP);
        self.cluster_id = cluster_id;
        self.index = index;
        let named: BTreeMap<_, _> = founders.iter().map(|f| (f.node, (*f, generation.raft_id(f.node.0)))).collect();
        self.registry.recover(&named);
        self.control_applied = self.control_voters();
        self.stop_token = None;
        for shard in self.shards.values_mut().filter(|shard| shard.origin != Origin::Unplaced) {
            shard.sealing = Some(index);
            shard.seals.clear();
            shard.epoch = shard.epoch.saturating_add(EPOCH_GAP);
            shard.changed = index;
        }
        self
    }

    /// When the last entry that changed anything was proposed, by its proposer's clock; 0: none.
    #[must_use]
    pub fn stamped_unix_ms(&self) -> u64 {
        self.stamped_unix_ms
    }
}
