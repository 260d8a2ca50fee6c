//! What members answer: one set of types for the daemon that fills them in, the command line and whatever else reads them.
//!
//! Each serialises to the JSON of the admin API. Reading is lenient, for a member may be older or newer than who asks it:
//! a field that is missing has its default, one that is not known is passed over. Nothing here decides anything.

mod counters;
mod flows;
mod status;

use std::net::Ipv4Addr;

use control::plan::Change;
use serde::{Deserialize, Serialize};

pub use counters::{Counted, GuardCounts, HistogramCounts, LinkCounts, LogCounts, PeerCounts, SnatCounts};
pub use flows::{BackendPorts, FlowRow, Flows, HashRow, Hashes, Ports};
pub use status::{ClusterRow, MeRow, NodeRow, Redundancy, ShardRow, Status};

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
}

/// Why something is refused, and what helps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
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
}

/// The answer to an order to stop.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stopping {
    /// It is on its way.
    pub stopping: bool,
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

/// Who had a public port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Who {
    /// The member whose log says so.
    #[serde(default)]
    pub node: u32,
    /// The public address.
    pub ip: Ipv4Addr,
    /// The port.
    pub port: u16,
    /// The time in question; none: now.
    #[serde(default)]
    pub at: Option<String>,
    /// The oldest time that the log tells of.
    #[serde(default)]
    pub reaches_back: Option<String>,
    /// Who had it.
    #[serde(default)]
    pub holder: Option<Holder>,
    /// Mappings on it then, if the log has mappings.
    #[serde(default)]
    pub sessions: Vec<Session>,
}

/// A backend that had a port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// Its name.
    pub backend: String,
    /// Its address.
    pub inside: Ipv4Addr,
    /// Its virtual network.
    pub network: String,
    /// The block, `first-last`.
    pub ports: String,
    /// The control index of the grant.
    pub control_index: u64,
    /// Since when.
    pub since: String,
    /// Since when the block is on its way back.
    pub draining_since: Option<String>,
    /// Until when.
    pub until: Option<String>,
}

/// A mapping on a port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// `tcp`, `udp` or `icmp`.
    pub proto: String,
    /// The backend's end.
    pub inside: String,
    /// The remote end, if the log has it.
    pub remote: Option<String>,
    /// When it opened.
    pub opened: String,
    /// When it closed.
    pub closed: Option<String>,
}
