//! One version of the control state, compiled for everything on this node that does not hold the state itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use consensus::event::{GroupSpec, Origin, Sealing, Timing};
use control::registry::KeyHash;
use control::shards::{Origin as ShardOrigin, Shard};
use control::state::State;
use engine::snapshot::Snapshot;
use words::time::MS;
use words::{ControlIndex, Epoch, Incarnation, NodeId, ShardId};

/// What a version of the control state means for the flow groups, the workers and the transport.
#[derive(Clone, Debug)]
pub struct View {
    /// The version.
    pub control_index: ControlIndex,
    /// The flow groups that it wants.
    pub specs: Vec<GroupSpec>,
    /// What the workers judge by.
    pub snapshot: Arc<Snapshot>,
    /// Newest life of each registered node.
    pub newest: BTreeMap<NodeId, Incarnation>,
    /// Whose life an incarnation is, old ones included as long as a shard names them.
    pub node_of: BTreeMap<Incarnation, NodeId>,
    /// Where members listen for peers.
    pub addresses: BTreeMap<NodeId, SocketAddr>,
    /// The keys that they prove themselves with.
    pub keys: BTreeMap<NodeId, KeyHash>,
    /// Epoch of each placed shard.
    pub epochs: BTreeMap<ShardId, u32>,
    /// Timing of the flow groups; the same on every node (E1).
    pub timing: Timing,
}

impl View {
    /// Of `state`, of which `snapshot` was compiled.
    #[must_use]
    pub fn of(state: &State, snapshot: Arc<Snapshot>) -> Self {
        let registry = state.registry();
        let settings = state.settings();
        let placed = state.shards().iter().filter_map(|(id, shard)| Some((*id, shard, spec(*id, shard)?)));
        let placed: Vec<_> = placed.collect();
        let lives = placed.iter().flat_map(|(_, shard, _)| shard.possible());
        let newest: BTreeMap<NodeId, Incarnation> = registry.registered().collect();
        let node_of = lives.chain(newest.values().copied()).filter_map(|life| Some((life, registry.node_of(life)?)));
        Self {
            control_index: state.index(),
            node_of: node_of.collect(),
            newest,
            snapshot,
            addresses: registry.members().map(|(id, node)| (id, node.peer_addr)).collect(),
            keys: registry.members().map(|(id, node)| (id, node.key)).collect(),
            epochs: placed.iter().map(|(id, shard, _)| (*id, shard.epoch)).collect(),
            specs: placed.into_iter().map(|(_, _, spec)| spec).collect(),
            timing: Timing {
                tick_ns: u64::from(settings.tick_ms) * MS,
                heartbeat_ticks: settings.heartbeat_ticks,
                vote_ticks: settings.vote_ticks,
                orphan_grace_ns: u64::from(settings.orphan_grace_ms) * MS,
            },
        }
    }
}

/// The group that a shard wants; `None` until it is placed.
fn spec(id: ShardId, shard: &Shard) -> Option<GroupSpec> {
    let origin = match &shard.origin {
        ShardOrigin::Unplaced => return None,
        ShardOrigin::Founded { voters } => Origin::Founded { voters: voters.clone() },
        ShardOrigin::Recreated { base, last_term, last_index, wait_ms } => {
            Origin::Recreated { base: *base, last_term: *last_term, last_index: *last_index, wait_ns: wait_ms * MS }
        }
        ShardOrigin::Lost { holder, wait_ms } => Origin::Lost { holder: *holder, wait_ns: wait_ms * MS },
    };
    Some(GroupSpec {
        group: id,
        epoch: Epoch(shard.epoch),
        members: shard.members.clone(),
        leaving: shard.leaving.clone(),
        origin,
        sealing: if shard.sealing.is_some() { Sealing::Yes } else { Sealing::No },
    })
}
