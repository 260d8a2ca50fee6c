//! Of which shards an owner is heard, by any member: the leader of the control group must not seal a healthy epoch because
//! it alone cannot hear its owner (N4).
//!
//! A statement counts from when it came, and only of the shard's present epoch. The own flow half's is passed on only while
//! it is fresh, so that a thread that hangs vouches for nobody. Part of `ControlMember`.

use std::collections::BTreeMap;

use control::state::State;
use engine::ids::ShardId;

use words::time::MS;

/// The own flow half tells its part every 100 ms; after this it is not passed on.
const OWN_FRESH_NS: u64 = 500 * MS;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// What the own flow half said last, and when.
    pub(super) own: BTreeMap<ShardId, u32>,
    pub(super) own_ns: u64,
    /// When anybody last heard an owner of the shard, in this epoch.
    seen: BTreeMap<ShardId, (u32, u64)>,
}

impl Owners {
    /// Somebody hears the owners of these shards.
    pub(super) fn hear(&mut self, state: &State, heard: impl Iterator<Item = (ShardId, u32)>, now_ns: u64) {
        for (shard, epoch) in heard {
            if state.shards().get(&shard).is_some_and(|entry| entry.epoch == epoch) {
                self.seen.insert(shard, (epoch, now_ns));
            }
        }
    }

    /// What this member tells the others.
    pub(super) fn told(&self, now_ns: u64) -> Vec<(ShardId, u32)> {
        let fresh = now_ns.saturating_sub(self.own_ns) < OWN_FRESH_NS;
        self.own.iter().filter(|_| fresh).map(|(shard, epoch)| (*shard, *epoch)).collect()
    }

    /// When an owner of each shard's present epoch was last heard, in milliseconds.
    pub(super) fn seen_ms(&mut self, state: &State) -> BTreeMap<ShardId, u64> {
        self.seen.retain(|shard, (epoch, _)| state.shards().get(shard).is_some_and(|entry| entry.epoch == *epoch));
        self.seen.iter().map(|(shard, (_, at_ns))| (*shard, at_ns / MS)).collect()
    }
}
