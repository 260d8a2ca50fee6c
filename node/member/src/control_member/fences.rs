//! Reports of fenced blocks (F5): what this node's owners say is gathered, and one command for each shard carries all of it
//! while no other is under way. Said again by the owner until the blocks drain no longer, so nothing is kept for certain.

use std::collections::{BTreeMap, BTreeSet};

use control::command::{CommandBody, Key};
use control::limits::RECLAIMS_MAX;
use engine::ids::{ControlIndex, PortBlock, ShardId};

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

    /// The reports that may go now; what is no news is left out.
    pub(super) fn due(
        &mut self,
        is_under_way: impl Fn(&Key) -> bool,
        is_news: impl Fn(&(PortBlock, ControlIndex)) -> bool,
    ) -> Vec<(ShardId, CommandBody)> {
        self.under_way.retain(|_, key| is_under_way(key));
        let free = |shard: &&ShardId| !self.under_way.contains_key(shard);
        let shards: Vec<ShardId> = self.waiting.keys().filter(free).copied().collect();
        let mut reports = Vec::new();
        for shard in shards {
            let Some((shard_epoch, fences)) = self.waiting.remove(&shard) else { continue };
            let blocks: Vec<_> = fences.into_iter().filter(&is_news).take(RECLAIMS_MAX).collect();
            if !blocks.is_empty() {
                reports.push((shard, CommandBody::ReclaimComplete { shard, shard_epoch, blocks }));
            }
        }
        reports
    }

    /// The shard's report is on its way under this key.
    pub(super) fn reported(&mut self, shard: ShardId, key: Key) {
        self.under_way.insert(shard, key);
    }
}
