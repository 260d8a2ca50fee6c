//! What the threads of a member say of themselves, for `status`, metrics and concerns.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::prelude::*;
use control::state::State;
use control::view;
use engine::claims::Claim;
use engine::counters::Counters;
use engine::ids::{Incarnation, NodeId};
use engine::snapshot::Networks;
use engine::soundings::{Heard, NextHop};
use netio::link::LinkState;
use netio::port::PortStats;
use words::{Link, Side};

/// What the guard's state says while it is in place.
pub(super) const GUARD_ATTACHED: &str = "attached";
/// And if the configuration asks for none.
pub(super) const GUARD_OFF: &str = "switched off in the configuration";

/// The answer: what a report is made of, which takes as long as the cluster is large. To be done at once, on a thread that may
/// take its time: entries wait for the state.
#[derive(Debug)]
pub struct ControlSeen {
    pub(super) state: Arc<State>,
    pub(super) leader: Option<NodeId>,
    pub(super) term: u64,
    pub(super) voters: Vec<u64>,
    pub(super) live: Vec<NodeId>,
    pub(super) incarnation: Option<Incarnation>,
}

impl ControlSeen {
    /// The report.
    #[must_use]
    pub fn report(self) -> ControlReport {
        let Self { state, leader, term, voters, live, incarnation } = self;
        let settings = &state.desired().settings;
        ControlReport {
            status: view::status(&state),
            nodes: view::nodes(&state),
            shards: view::shards(&state),
            leader,
            term,
            voters,
            live,
            incarnation,
            flows_per_shard_max: settings.flows_per_shard_max,
            flows_per_backend_max: settings.flows_per_backend_max,
        }
    }
}

/// See [`ControlSeen`].
#[derive(Clone, Debug)]
pub struct ControlReport {
    /// What the replicated state says.
    pub status: view::StatusView,
    /// Its nodes.
    pub nodes: Vec<view::NodeView>,
    /// Its shards.
    pub shards: Vec<view::ShardView>,
    /// Who leads the control group.
    pub leader: Option<NodeId>,
    /// In which term.
    pub term: u64,
    /// Raft ids of its voters, by the configuration that is applied here.
    pub voters: Vec<u64>,
    /// Members that were heard of lately, this one among them.
    pub live: Vec<NodeId>,
    /// This node's life, once it is registered.
    pub incarnation: Option<Incarnation>,
    /// Most flows of a shard, as configured.
    pub flows_per_shard_max: u32,
    /// Most flows of a backend.
    pub flows_per_backend_max: u32,
}

/// What the flow actor knows.
#[derive(Debug, Clone, Default, MessageResponse)]
pub struct FlowReport {
    /// Whether the flow groups run.
    pub running: bool,
    /// Groups of this node.
    pub groups: Vec<consensus::flow::GroupStatus>,
    /// Health of groups that this node leads.
    pub health: Vec<consensus::event::GroupHealth>,
    /// What this node reports.
    pub report: consensus::event::Report,
    /// Whose life each incarnation is.
    pub node_of: BTreeMap<engine::ids::Incarnation, NodeId>,
    /// Takeovers of this node by the silence before them.
    pub failovers: engine::histogram::Histogram,
    /// How often the owner of each shard changed, as this node was told.
    pub leader_changes: BTreeMap<engine::ids::ShardId, u64>,
    /// Frames of peers that were dropped, by reason.
    pub frame_drops: Vec<(String, u64)>,
    /// What the transport counts.
    pub transport: netio::quic::TransportStats,
    /// The peers that have a link.
    pub linked: Vec<NodeId>,
    /// When this was told.
    pub now_ns: u64,
}

/// A data link as its worker knows it.
#[derive(Clone, Debug)]
pub struct LinkLife {
    /// The interface's name.
    pub name: String,
    /// The link that it is; `None`: the network that it leads to is not there.
    pub link: Option<Link>,
    /// The virtual network that `node.toml` names for it, and the one that it leads to.
    pub network: Option<String>,
    /// Outside, or inside.
    pub side: Side,
    /// What the kernel says of it.
    pub state: LinkState,
    /// What its network carries, when something was heard, and who answers.
    pub heard: Heard,
    /// Since when both are what they are (CLOCK_BOOTTIME).
    pub since_ns: u64,
    /// Addresses of shards that the device did not take.
    pub refused_macs: u64,
    /// The interface's counters.
    pub counts: PortStats,
}

impl LinkLife {
    /// One of which only this is known.
    #[cfg(test)]
    #[must_use]
    pub fn unheard(name: &str, link: Link, state: LinkState) -> Self {
        let (heard, counts, side) = (Heard::default(), PortStats::default(), link.side());
        let name = name.to_owned();
        Self { name, link: Some(link), network: None, side, state, heard, since_ns: 0, refused_macs: 0, counts }
    }
}

/// What a worker has counted, published a few times a second.
#[derive(Clone, Debug, Default)]
pub struct WorkerStats {
    /// The engine's counters.
    pub engine: Counters,
    /// Events of mappings that the log had no room for.
    pub sessions_lost: u64,
    /// The data links, outside first; empty before the first look.
    pub links: Vec<LinkLife>,
    /// The virtual networks of the configuration in use.
    pub networks: Arc<Networks>,
    /// Who else claimed addresses of the cluster lately.
    pub claims: Vec<Claim>,
    /// The next hop, as an owner knows it.
    pub next_hop: Option<NextHop>,
    /// When this was told (CLOCK_BOOTTIME).
    pub at_ns: u64,
}
