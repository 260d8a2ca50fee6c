//! What the admin API asks of the running node. One message per request; the answer is JSON, so that tables and
//! programs see the same data.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::data_config::Cache;
use control::Refusal;
use control::nsg::answers::FlowQuestion;
use engine::record::Proto;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// A question or an order to the node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// The cluster as this node sees it: members, shards, owners, redundancy, what is wrong and what would help.
    Status,
    /// Live and held mappings of the shards that this node replicates.
    Flows {
        /// Only this shard.
        shard: Option<u16>,
        /// Only backends of this virtual network, by name.
        #[serde(default)]
        vnet: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// Leases and their use, by backend.
    Ports,
    /// Live flows on pieces of port space, in their order.
    PortLoads {
        /// The shard of their frontends.
        shard: u16,
        /// Frontend, first port and length of each.
        pieces: Vec<(u32, u16, u16)>,
    },
    /// A page of live flows, of some backends or of all, for whoever judges them by another configuration (D19).
    LiveOf {
        /// The shard.
        shard: u16,
        /// Numbers of the backends; none: all.
        backends: Vec<u32>,
        /// Where the page begins.
        from: u32,
    },
    /// A page of a shard's mappings, held ones too, for a dump.
    Mappings {
        /// The shard.
        shard: u16,
        /// Numbers of the backends; none: all.
        backends: Vec<u32>,
        /// Where the page begins.
        from: u32,
    },
    /// What is needed to explain packets elsewhere, or later, as they would be judged now.
    Dump {
        /// Only the mappings of these, by instance or instance/ip_configuration; none: all.
        backends: Vec<String>,
    },
    /// How often rules have decided, as this member has counted.
    Hits {
        /// Their keys.
        keys: Vec<u64>,
    },
    /// How many flows changes have ended, in the shards that this member owns (D19).
    Cuts {
        /// Changes from this control index on.
        since: u64,
    },
    /// What becomes of a packet, or of those of a flow that is there, and why.
    Explain {
        /// The packet.
        of: PacketQuestion,
    },
    /// Resources by kind.
    Get {
        /// Which.
        kind: ResourceKind,
    },
    /// Make the configuration what this file says.
    Apply {
        /// Name of the file, for messages.
        file: String,
        /// Its text (TOML).
        text: String,
        /// Only say what would change.
        dry_run: DryRun,
        /// Also if it ends live flows, removes more resources than it adds, or declares none at all.
        #[serde(default, alias = "allow_empty")]
        yes: bool,
        /// Only if it would still do what somebody was shown: the plan that a failure named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<String>,
    },
    /// What security groups say of the first packet of a flow (S34).
    IpFlow {
        /// The flow.
        of: FlowQuestion,
    },
    /// The rules that judge a network interface (S34).
    EffectiveRules {
        /// Its name.
        nic: String,
    },
    /// The platform's prefixes of service tags from now on (D20).
    SetServiceTags {
        /// Name of the file, for messages.
        file: String,
        /// Its text (TOML).
        text: String,
    },
    /// An operator powered this node off for good: it counts as gone (N4).
    RemoveNode {
        /// The node.
        node: u32,
        /// What `get nodes` names as its incarnation; refused for any other.
        incarnation: u64,
    },
    /// The node shall leave: its shards move to others first, then its vote ends.
    DrainNode {
        /// The node.
        node: u32,
        /// What `get nodes` names as its incarnation; refused for any other.
        incarnation: u64,
    },
    /// Take a drain back.
    ResumeNode {
        /// The node.
        node: u32,
    },
    /// Raise the level of the replicated formats (C2).
    SetLevel {
        /// To this one.
        level: u16,
    },
    /// Take the stop token back from whoever holds it (N3).
    RevokeStopToken,
    /// Stop this node gracefully: hand over, then end. It waits for the stop token (N3); a second order ends that wait.
    Shutdown {
        /// Without the stop token.
        #[serde(default)]
        now: bool,
    },
    /// Counters of the dataplane and of the flow groups, for diagnosis and for drills.
    Counters,
    /// Applied index and state hash of each shard's table (I22).
    Hashes,
    /// The control state, encoded, for a backup (N6).
    State,
    /// What has happened lately, as this member noted it.
    Events {
        /// At most so many, the newest.
        limit: usize,
    },
    /// How the kernel's fast path of this member stands; turned on or off first, if that is wanted, until it restarts.
    Cache {
        /// Which way.
        turn: Option<Cache>,
    },
    /// By which configuration this member judges packets.
    Loaded,
    /// Whether this member lives, and does its part.
    Health,
    /// The answer of all members to a question: this one asks the others.
    Together {
        /// What they are asked.
        of: Box<Request>,
    },
    /// Who had a public port, by this member's address-translation log (R24).
    Who {
        /// The public address.
        ip: Ipv4Addr,
        /// The port.
        port: u16,
        /// When; now if it is left out.
        at_unix_ms: Option<u64>,
    },
}

impl Request {
    /// The same asked of all members.
    #[must_use]
    pub fn together(self) -> Self {
        Self::Together { of: Box::new(self) }
    }

    /// Its name as it is written in a call.
    #[must_use]
    pub fn name(&self) -> String {
        let written = serde_json::to_value(self).unwrap_or_default();
        written["request"].as_str().unwrap_or("what has no name").to_owned()
    }

    /// Whether it changes nothing, and is answered by a member for itself: what members may ask each other.
    #[must_use]
    pub const fn is_question(&self) -> bool {
        matches!(
            self,
            Self::Status
                | Self::Flows { .. }
                | Self::Ports
                | Self::Explain { .. }
                | Self::PortLoads { .. }
                | Self::LiveOf { .. }
                | Self::Mappings { .. }
                | Self::Cuts { .. }
                | Self::Hits { .. }
                | Self::Counters
                | Self::Hashes
                | Self::Loaded
                | Self::Who { .. }
                | Self::Events { .. }
        )
    }
}

/// A packet that somebody asks about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PacketQuestion {
    /// Its protocol.
    pub protocol: ExplainProtocol,
    /// Its source; of a ping the port is the identifier.
    pub source: SocketAddrV4,
    /// Its destination.
    pub destination: SocketAddrV4,
    /// The virtual network of its source, by name.
    #[serde(default)]
    pub vnet: Option<String>,
}

/// Protocols of packets that can be asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ExplainProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// An echo request.
    Icmp,
    /// GRE.
    Gre,
    /// ESP.
    Esp,
    /// SCTP.
    Sctp,
}

impl ExplainProtocol {
    pub(crate) const fn proto(self) -> Proto {
        match self {
            Self::Tcp => Proto::Tcp,
            Self::Udp => Proto::Udp,
            Self::Icmp => Proto::Icmp,
            Self::Gre => Proto::Gre,
            Self::Esp => Proto::Esp,
            Self::Sctp => Proto::Sctp,
        }
    }
}

/// Kinds of resources.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    /// Cluster members.
    Nodes,
    /// The shard map.
    Shards,
    /// IP configurations and their leases.
    Backends,
    /// Public addresses.
    Frontends,
    /// Backend pools.
    Pools,
    /// Who goes out by system addresses.
    DefaultOutbound,
    /// Health probes, with what they have found of whom.
    Probes,
    /// Security groups with their rules.
    SecurityGroups,
    /// Network interfaces, and the groups that judge them.
    Nics,
    /// Application security groups and their members.
    ApplicationSecurityGroups,
    /// Service tags and their prefixes.
    ServiceTags,
    /// The whole running configuration, as a file that `qnat apply` takes back unchanged.
    Config,
}

/// Whether a change is only shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DryRun {
    /// Show only.
    Yes,
    /// Commit.
    No,
}

/// Why a request failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// HTTP status that fits.
    pub status: u16,
    /// Why the log or its leader refused a command, as a name for programs ([`control::Refusal::name`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
    /// Of an order that wants a yes: what it would do, as a name for the order that says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

/// What a failure is called whose order would be carried out with a yes.
pub const NEEDS_YES: &str = "needs_yes";

impl Failure {
    /// A failure with one line.
    pub fn new(status: u16, problem: impl Into<String>) -> Self {
        Self::all(status, vec![problem.into()])
    }

    /// A failure with several lines.
    #[must_use]
    pub const fn all(status: u16, problems: Vec<String>) -> Self {
        Self { status, code: None, problems, plan: None }
    }

    /// An order that is carried out if somebody says yes to it.
    #[must_use]
    pub fn needs_yes(status: u16, problems: Vec<String>, plan: Option<String>) -> Self {
        Self { status, code: Some(NEEDS_YES.to_owned()), problems, plan }
    }

    /// What the log or its leader says to a command.
    pub fn refused(status: u16, refusal: &Refusal) -> Self {
        let problems = vec![refusal.why(), refusal.remedy()];
        Self { status, code: Some(refusal.name().to_owned()), problems, plan: None }
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<serde_json::Value, Failure>>,
}
