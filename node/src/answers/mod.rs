//! What members answer: one set of types for the daemon that fills them in, the command line and whatever else reads them.
//!
//! Each serialises to the JSON of the admin API. Reading is lenient, for a member may be older or newer than who asks it:
//! a field that is missing has its default, one that is not known is passed over. Nothing here decides anything.

mod counters;
mod cuts;
mod dump;
mod events;
mod explain;
mod fast;
mod flows;
mod health;
mod merge;
mod remedies;
mod status;
mod who;

use control::plan::Change;
use serde::{Deserialize, Serialize};

pub use counters::{
    Counted, CountedTogether, GuardCounts, HistogramCounts, LinkCounts, LogCounts, MemberCounts, PeerCounts, SnatCounts,
};
pub use cuts::{Cuts, FlowsCut, LiveFlow, LiveFlows, RuleHits, ShardCut};
pub use dump::{DUMP_FORMAT, Dump, DumpedShard, KeptFlow, Mappings};
pub use events::{Alert, EventKind, EventRow, Events, merge_events};
pub use explain::{EvaluatedGroup, Explained, GroupResult, MatchedRule, PassedOver};
pub use fast::{Carried, FastPath};
pub use flows::{BackendPorts, FlowRow, Flows, HashRow, Hashes, PortLoads, Ports};
pub use health::Health;
pub use merge::{clock_apart, merge, torn};
pub use remedies::{Remedy, against_exhaustion};
pub(crate) use status::control_group;
pub use status::{ClusterRow, MeRow, NodeRow, Redundancy, ShardRow, Status, failures_tolerated};
pub use who::{Holder, Session, Who, merge_who};

/// The answer to an apply, or to a dry run of one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Applied {
    /// What changes, or would.
    pub changes: Vec<Change>,
    /// Why it would be refused.
    pub refused: Option<Refusal>,
    /// The control index under which it is committed; none for a dry run.
    pub committed: Option<u64>,
    /// Who judges packets by it.
    pub programmed: Option<Programmed>,
    /// Live flows on the ports that it takes back, as far as they were counted; none if it takes none.
    pub flows_taken: Option<u64>,
    /// Live flows that lose their right by it, foretold for a dry run, else as their owners' logs have it (D19); none if it
    /// can take nobody's.
    pub flows_cut: Option<FlowsCut>,
    /// Why it wants a yes, one line each, by what is known before it; none: it wants none.
    pub asks: Vec<String>,
    /// What security groups do that may not be meant, and what helps, one line each.
    pub warnings: Vec<String>,
    /// Shards whose flows were not counted: nobody who knows them answered in time, or there were too many blocks. Of their
    /// blocks the upper halves go.
    pub uncounted_shards: Vec<u16>,
}

/// Why something is refused, and what helps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// Its name, for programs.
    pub code: String,
    /// Why.
    pub why: String,
    /// What helps.
    pub remedy: String,
}

/// Members that judge packets by a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Programmed {
    /// How many do.
    pub on: usize,
    /// Members in all.
    pub of: usize,
    /// Those that do not, or did not say.
    pub missing: Vec<u32>,
}

/// The answer to an order that is one command.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Done {
    /// The control index under which it is committed.
    pub committed: Option<u64>,
    /// Flows that it ended, of an order that may end some.
    pub flows_cut: Option<FlowsCut>,
}

/// By which configuration a member judges packets.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Loaded {
    /// The control index that its worker has loaded.
    pub control_loaded: u64,
}

/// The answer to an order to stop.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stopping {
    /// It is on its way.
    pub stopping: bool,
}

/// The running configuration as a file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigFile {
    /// The member that gave it.
    pub node: u32,
    /// As of this control index.
    pub control_index: u64,
    /// What `qnat apply` takes (TOML).
    pub file: String,
}

/// The replicated control state, for a backup (N6).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StateBytes {
    /// The cluster's name.
    pub cluster: String,
    /// The member that gave it.
    pub node: u32,
    /// Its octets, in base64.
    pub state: String,
}
