//! Frames that came in while the lease of their shard was lapsed, as they came. `judge::lapsed` says which, and what becomes of
//! them. Bounded, and their bytes count with all that is held (R21).

use std::collections::{BTreeMap, VecDeque};

use words::time::MS;

use crate::ids::{Link, ShardId};
use crate::wire::FrameMeta;

/// How long one waits: longer than a lapse that ends without an election, and than most that end with one.
const LAPSE_MAX_NS: u64 = 100 * MS;
/// Between two looks at the lease, when nothing comes in.
const LOOK_NS: u64 = 2 * MS;
/// Those of a worker.
const LAPSED_MAX: usize = 256;

/// One of them.
#[derive(Debug)]
pub(crate) struct Lapsed {
    pub(crate) link: Link,
    pub(crate) meta: FrameMeta,
    pub(crate) frame: Vec<u8>,
    pub(crate) since_ns: u64,
}

/// Those of a worker: by shard, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct LapsedFrames {
    of: BTreeMap<ShardId, VecDeque<Lapsed>>,
    count: usize,
}

impl LapsedFrames {
    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) const fn has_room(&self) -> bool {
        self.count < LAPSED_MAX
    }

    /// When to look again after a look at that time.
    pub(crate) fn next_ns(&self, looked_at_ns: u64) -> Option<u64> {
        (!self.is_empty()).then_some(looked_at_ns.saturating_add(LOOK_NS))
    }

    /// The first shard that is as `wanted`.
    pub(crate) fn first_shard(&self, wanted: impl Fn(ShardId) -> bool) -> Option<ShardId> {
        self.of.keys().copied().find(|shard| wanted(*shard))
    }

    pub(crate) fn put(&mut self, shard: ShardId, frame: Lapsed) {
        self.of.entry(shard).or_default().push_back(frame);
        self.count += 1;
    }

    pub(crate) fn take(&mut self, shard: ShardId) -> VecDeque<Lapsed> {
        let taken = self.of.remove(&shard).unwrap_or_default();
        self.count -= taken.len();
        taken
    }

    /// One that has waited for too long.
    pub(crate) fn expired(&mut self, now_ns: u64) -> Option<Lapsed> {
        let is_over = |waits: &mut Lapsed| waits.since_ns.saturating_add(LAPSE_MAX_NS) <= now_ns;
        let expired = self.of.values_mut().find_map(|waits| waits.pop_front_if(is_over))?;
        self.of.retain(|_, waits| !waits.is_empty());
        self.count -= 1;
        Some(expired)
    }
}
