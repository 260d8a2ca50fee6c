//! Which live mappings a change would end, and how many one has ended (D19), for `qnat apply`; how often rules have decided. Built
//! on demand, in bounded steps; never on the packet path.

use std::collections::BTreeSet;

use crate::flow::FlowKey;
use crate::ids::{BackendId, ControlIndex, ShardId};
use crate::record::Scenario;
use crate::shard::standing;
use crate::snapshot::Snapshot;
use crate::tell::status::{FlowView, View};

/// What a change has ended in a shard so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Mappings that ended.
    pub flows: u64,
    /// Whether that is all: the owner has judged every mapping by it, and the log has each end.
    pub over: bool,
}

/// Whether a mapping of `backend` keeps its right under `snapshot`, as the packet path judges it; its ports apart.
#[must_use]
pub fn keeps_right(snapshot: &Snapshot, backend: BackendId, flow: &FlowKey, scenario: Scenario) -> bool {
    standing::keeps_right(snapshot, backend, flow, scenario)
}

/// Which mappings are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// Those that live and are not closing.
    Live,
    /// All that the log knows, held ones too.
    Committed,
}

impl View<'_> {
    /// What changes from the configuration `since` on have ended in a shard; `None` if this worker does not own it.
    #[must_use]
    pub fn cut(&self, shard: ShardId, since: ControlIndex) -> Option<Cut> {
        let replica = self.shards.replica(shard)?;
        let lead = replica.leadership.as_ref().filter(|lead| lead.serving == Some(Ok(())))?;
        let loaded = self.snapshot.is_some_and(|s| s.control_index >= since);
        let over = loaded && lead.judge.is_none() && replica.overlay.cuts() == 0;
        Some(Cut { flows: replica.replica.cuts.since(since), over })
    }

    /// One step of a listing of the mappings of some backends in a shard, of all if none is named: visits at most `slots`
    /// slots from `from` on and adds to `into` until `limit` are there. Returns where to go on; `None` when the listing is
    /// over. Its cost grows with `slots` alone.
    #[must_use]
    pub fn list_of(
        &self,
        now_ns: u64,
        (shard, backends, which): (ShardId, &BTreeSet<BackendId>, Which),
        from: u32,
        (slots, limit): (u32, usize),
        into: &mut Vec<FlowView>,
    ) -> Option<u32> {
        let table = &self.shards.replica(shard)?.replica.table;
        let end = table.slots().min(from.saturating_add(slots));
        for position in from..end {
            if into.len() >= limit {
                return Some(position);
            }
            let Some(slot) = table.occupied(position) else { continue };
            let record = table.record(slot);
            let asked = backends.is_empty() || backends.contains(&record.backend);
            let wanted = which == Which::Committed || (record.is_live() && record.closing().is_none());
            if asked && wanted {
                into.push(self.view(now_ns, shard, record));
            }
        }
        (end < table.slots()).then_some(end)
    }
}

impl View<'_> {
    /// Adds to `into` how often the rules of these keys ([`crate::nsg::rule_key`]) have decided in a shard, in their order.
    /// Returns how many hits found no room there.
    pub fn add_hits(&self, shard: ShardId, keys: &[u64], into: &mut [u64]) -> u64 {
        let Some(replica) = self.shards.replica(shard) else { return 0 };
        for (key, sum) in keys.iter().zip(into) {
            *sum += replica.hits.of(*key);
        }
        replica.hits.lost()
    }
}

/// The mapping that a view shows.
#[must_use]
pub const fn flow_of(view: &FlowView) -> FlowKey {
    FlowKey { proto: view.proto, inside: view.inside, remote: view.remote }
}
