//! Who votes and is in step in each shard: what this node's owners measured, and what other nodes told beside their signs of
//! life. Forgotten when it is old.

use std::collections::BTreeMap;

use control::command::InStep;
use engine::ids::ShardId;
use words::time::MS;

use super::io::ALIVE_NS;

/// What an owner has measured is told for so long; it measures anew at each change, and once a second.
const MEASURED_NS: u64 = 1_500 * MS;
/// What others told, and that they live, counts for so long here.
pub(super) const TOLD_NS: u64 = 3 * ALIVE_NS;

/// What is known of who is in step, by shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// By this node's own groups.
    own: BTreeMap<ShardId, (u64, InStep)>,
    /// By other nodes.
    told: BTreeMap<ShardId, (u64, InStep)>,
}

impl Measured {
    pub(super) fn measure(&mut self, now_ns: u64, in_step: InStep) {
        self.own.insert(in_step.shard, (now_ns, in_step));
    }

    pub(super) fn hear(&mut self, now_ns: u64, told: Vec<InStep>) {
        self.told.extend(told.into_iter().map(|in_step| (in_step.shard, (now_ns, in_step))));
    }

    /// What this node's groups have measured lately; forgets the rest.
    pub(super) fn tell(&mut self, now_ns: u64) -> Vec<InStep> {
        self.own.retain(|_, (at, _)| now_ns.saturating_sub(*at) < MEASURED_NS);
        self.told.retain(|_, (at, _)| now_ns.saturating_sub(*at) < TOLD_NS);
        self.own.values().map(|(_, in_step)| in_step.clone()).collect()
    }

    /// Who is in step in that epoch of the shard, as its owner measured it lately.
    pub(super) fn of(&self, now_ns: u64, shard: ShardId, epoch: u32) -> Option<&InStep> {
        let fresh =
            |(at, in_step): &&(u64, InStep), bound: u64| now_ns.saturating_sub(*at) < bound && in_step.epoch == epoch;
        let own = self.own.get(&shard).filter(|known| fresh(known, MEASURED_NS));
        own.or_else(|| self.told.get(&shard).filter(|known| fresh(known, TOLD_NS))).map(|(_, in_step)| in_step)
    }
}
