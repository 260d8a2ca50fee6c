//! I22: replicas that stand at the same index of the same epoch have equal tables, once these are whole.

use std::collections::BTreeMap;

use engine::ids::ShardId;
use engine::status::ShardStatus;

use super::{Check, ensure};

/// Hashes seen so far, by shard, epoch and index.
#[derive(Debug, Default)]
pub struct Hashes(BTreeMap<(ShardId, u32, u64), u64>);

impl Hashes {
    /// A dump of one replica.
    ///
    /// # Errors
    /// If another replica had another table there.
    pub fn check(&mut self, status: &ShardStatus, hash: u64) -> Check {
        let at = (status.shard, status.epoch, status.applied.0);
        let other = self.0.insert(at, hash);
        ensure(other.is_none_or(|other| other == hash), "I22", || {
            format!("shard {} epoch {} index {}: tables differ", at.0, at.1, at.2)
        })
    }

    /// A majority of the epoch's replicas was lost: what only they had is not compared with any more.
    pub fn forget(&mut self, shard: ShardId) {
        self.0.retain(|(of, _, _), _| *of != shard);
    }
}
