//! Reports of fenced blocks (F5): what this node's owners say is gathered, and one command for each shard carries all of it
//! while no other is under way. Said again by the owner until the blocks drain no longer, so nothing is kept for certain.

use std::collections::{BTreeMap, BTreeSet};

use consensus::control::storage::LogStore;
use control::command::{CommandBody, Key};
use control::limits::RECLAIMS_MAX;
use engine::ids::{ControlIndex, PortBlock, ShardId};

use super::{ControlMember, Now};

/// Fences that wait to be reported, by shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Fences {
    waiting: BTreeMap<ShardId, (u32, BTreeSet<(PortBlock, ControlIndex)>)>,
    under_way: BTreeMap<ShardId, Key>,
}

impl Fences {
    pub(super) fn note(&mut self, shard: ShardId, epoch: u32, fence: (PortBlock, ControlIndex)) {
        let (of, fences) = self.waiting.entry(shard).or_default();
        if *of != epoch {
            // What was fenced in an epoch counts in that epoch only.
            (*of, *fences) = (epoch, BTreeSet::new());
        }
        fences.insert(fence);
    }
}

impl<S: LogStore> ControlMember<S> {
    /// Reports what has gathered; what the state knows already, or another life of the shard, is left out.
    pub(super) fn report_fences(&mut self, now: Now) {
        let pending = &self.pending;
        self.fences.under_way.retain(|_, key| pending.contains_key(key));
        let free = |shard: &&ShardId| !self.fences.under_way.contains_key(shard);
        let shards: Vec<ShardId> = self.fences.waiting.keys().filter(free).copied().collect();
        for shard in shards {
            let Some((shard_epoch, fences)) = self.fences.waiting.remove(&shard) else { continue };
            let drains = &self.state.allocation().drains;
            let news = |(block, index): &(PortBlock, ControlIndex)| {
                drains.get(block).is_some_and(|drain| drain.reclaim_index == *index)
            };
            let blocks: Vec<_> = fences.into_iter().filter(news).take(RECLAIMS_MAX).collect();
            if blocks.is_empty() {
                continue;
            }
            if let Some(key) = self.enqueue(now, None, CommandBody::ReclaimComplete { shard, shard_epoch, blocks }) {
                self.fences.under_way.insert(shard, key);
            }
        }
    }
}
