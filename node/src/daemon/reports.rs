//! What the threads of a member say of themselves, for `status`, metrics and concerns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use actix::prelude::*;
use control::state::State;
use control::view;
use engine::claims::Claim;
use engine::counters::Counters;
use engine::fast::FastCounts;
use engine::ids::{Incarnation, NodeId};
use engine::shortages::Shortage;
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
    /// By how much the flow thread's turns came later than they were due.
    pub late: engine::histogram::Histogram,
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

/// Where each worker of a member posts what it has counted; clones are ends of the same.
#[derive(Clone, Debug)]
pub struct Posts(Vec<Arc<Mutex<WorkerStats>>>);

impl Posts {
    /// For so many workers.
    #[must_use]
    pub fn new(workers: u16) -> Self {
        Self((0..workers).map(|_| Arc::default()).collect())
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> u16 {
        u16::try_from(self.0.len()).expect("few workers")
    }

    /// A worker's newest.
    ///
    /// # Panics
    /// If there is no worker of that number.
    pub fn put(&self, worker: u16, stats: WorkerStats) {
        // A reader that panicked has left whole numbers behind.
        *self.0[usize::from(worker)].lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    /// All of them as one.
    #[must_use]
    pub fn read(&self) -> WorkerStats {
        let read = |one: &Arc<Mutex<WorkerStats>>| one.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all = self.0.iter().map(read);
        let first = all.next().unwrap_or_default();
        all.fold(first, WorkerStats::with)
    }
}

/// What a worker has counted, published a few times a second.
#[derive(Clone, Debug, Default)]
pub struct WorkerStats {
    /// The engine's counters.
    pub engine: Counters,
    /// The books of its part of the fast path; all zero without one.
    pub fast: FastCounts,
    /// Events of mappings that the log had no room for.
    pub sessions_lost: u64,
    /// The data links, outside first; empty before the first look.
    pub links: Vec<LinkLife>,
    /// The virtual networks of the configuration in use.
    pub networks: Arc<Networks>,
    /// Who else claimed addresses of the cluster lately.
    pub claims: Vec<Claim>,
    /// Who found no port free towards whom lately.
    pub shortages: Vec<Shortage>,
    /// The next hop, as an owner knows it.
    pub next_hop: Option<NextHop>,
    /// When this was told (CLOCK_BOOTTIME).
    pub at_ns: u64,
}

impl WorkerStats {
    /// Together with what another worker of the same member has counted. What the first one says of links, networks and claims
    /// stands; what each has seen of an interface is counted.
    fn with(mut self, other: Self) -> Self {
        self.engine.add(&other.engine);
        self.fast = self.fast.with(&other.fast);
        self.sessions_lost += other.sessions_lost;
        self.shortages.extend(other.shortages);
        for (life, more) in self.links.iter_mut().zip(&other.links) {
            life.heard.heard_ns = life.heard.heard_ns.max(more.heard.heard_ns);
            life.refused_macs += more.refused_macs;
            life.counts = life.counts.with(&more.counts);
        }
        let silent = |hop: &NextHop| hop.silent_since_ns.is_some();
        // Whose packets have waited for it in vain knows best.
        if self.next_hop.is_none() || other.next_hop.as_ref().is_some_and(silent) {
            self.next_hop = other.next_hop.or(self.next_hop);
        }
        // As old as the oldest: who does not post does not turn.
        self.at_ns = self.at_ns.min(other.at_ns);
        self
    }
}

#[cfg(test)]
mod tests {
    use engine::event::DropReason;

    use super::*;

    fn stats(at_ns: u64, received: u64, heard_ns: u64) -> WorkerStats {
        let mut link = LinkLife::unheard("outside", Link::Outside, LinkState::Up);
        link.heard.heard_ns = heard_ns;
        link.counts = PortStats { received, no_buffer: 1, ..PortStats::default() };
        let mut engine = Counters::default();
        (engine.received, engine.absorbed) = (received, received);
        WorkerStats { engine, links: vec![link], at_ns, sessions_lost: 1, ..WorkerStats::default() }
    }

    #[test]
    fn what_workers_count_is_summed_and_the_first_speaks_for_the_links() {
        let posts = Posts::new(2);
        assert!(posts.read().links.is_empty(), "before the first look");
        posts.put(0, stats(9, 5, 30));
        posts.put(1, stats(7, 6, 40));
        let all = posts.read();
        assert_eq!((all.engine.received, all.sessions_lost, all.at_ns), (11, 2, 7));
        assert!(all.engine.is_balanced() && all.engine.dropped(DropReason::NoLink) == 0);
        let [link] = &all.links[..] else { panic!("{:?}", all.links) };
        assert_eq!((link.counts.received, link.counts.no_buffer, link.heard.heard_ns), (11, 2, 40));
    }

    #[test]
    fn a_next_hop_is_silent_if_any_worker_has_waited_for_it_in_vain() {
        let hop = |silent_since_ns| {
            let ip = std::net::Ipv4Addr::new(203, 0, 113, 1);
            WorkerStats { next_hop: Some(NextHop { ip, heard_ns: 1, silent_since_ns }), ..WorkerStats::default() }
        };
        let silent = |all: WorkerStats| all.next_hop.and_then(|hop| hop.silent_since_ns);
        assert_eq!(silent(hop(None).with(hop(Some(4)))), Some(4));
        assert_eq!(silent(hop(Some(4)).with(hop(None))), Some(4));
        assert_eq!(silent(WorkerStats::default().with(hop(Some(4)))), Some(4));
        assert_eq!(silent(hop(None).with(WorkerStats::default())), None);
    }
}
