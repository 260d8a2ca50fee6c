//! The status of the cluster, as one member sees it or as several do together.

use std::fmt;
use std::net::Ipv4Addr;

use super::FastPath;
use control::concern::Concern;
use control::registry::Standing;
use control::view::{OriginView, StopTokenView};
use serde::{Deserialize, Serialize};

/// `qnat status`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The cluster.
    pub cluster: ClusterRow,
    /// The answering member.
    pub me: MeRow,
    /// All members.
    pub nodes: Vec<NodeRow>,
    /// All shards.
    pub shards: Vec<ShardRow>,
    /// Who may stop now.
    pub stop_token: Option<StopTokenView>,
    /// What is not as it should be, the gravest first. Empty: all is well.
    pub concerns: Vec<Concern>,
    /// Members that did not answer when they were asked for this.
    pub silent: Vec<u32>,
}

/// The cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterRow {
    /// Its name.
    pub name: String,
    /// Its id, in hex.
    pub id: String,
    /// The level of its replicated formats (C2).
    pub level: u16,
    /// The applied control index.
    pub control_index: u64,
    /// Who leads the control group.
    pub control_leader: Option<u32>,
    /// In which term.
    pub control_term: u64,
    /// How many members may fail, whichever they are, before new connections or changes stop; none: not known, 0: none.
    pub failures_tolerated: Option<usize>,
}

/// The answering member.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MeRow {
    /// Its number.
    pub node: u32,
    /// Its life; none before it has registered.
    pub incarnation: Option<u64>,
    /// Whether the kernel's egress guard is attached, or why not.
    pub guard: String,
    /// The kernel's fast path.
    pub fast: FastPath,
    /// Both data links are up.
    pub links_up: bool,
    /// The flow groups run.
    pub running: bool,
    /// The control index that its worker judges by.
    pub control_loaded: u64,
    /// Its build.
    pub version: String,
    /// Its wall clock when it answered, in milliseconds of the Unix epoch.
    pub unix_ms: u64,
}

/// One member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its number.
    pub node: u32,
    /// How it is called.
    #[serde(default)]
    pub name: String,
    /// Its life.
    #[serde(default)]
    pub incarnation: Option<u64>,
    /// What commands that end something must name as its incarnation.
    #[serde(default)]
    pub named: u64,
    /// It is on its way out and has nothing left.
    #[serde(default)]
    pub drained: bool,
    /// Member, draining or removed.
    pub standing: Standing,
    /// Heard of lately by the answering member.
    #[serde(default)]
    pub alive: bool,
    /// It votes in the control group.
    #[serde(default)]
    pub control_voter: bool,
}

/// One shard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardRow {
    /// Its number.
    pub shard: u16,
    /// Its public addresses.
    #[serde(default)]
    pub frontends: Vec<Ipv4Addr>,
    /// Its epoch.
    #[serde(default)]
    pub epoch: u32,
    /// Who owns it.
    #[serde(default)]
    pub owner: Option<u32>,
    /// Its term over all epochs: the epoch is the upper half, raft's own term the lower.
    #[serde(default)]
    pub term: Option<u64>,
    /// Raft's own term.
    #[serde(default)]
    pub raft_term: Option<u64>,
    /// The answering member's part: `leader`, `follower`, …; none without a replica.
    #[serde(default)]
    pub role: Option<String>,
    /// `yes`, `no: WHY`, `standby` or `no replica here`, of the answering member.
    #[serde(default)]
    pub serving: String,
    /// Voters in step.
    #[serde(default)]
    pub redundancy: Redundancy,
    /// Members by rank.
    #[serde(default)]
    pub members: Vec<Option<u32>>,
    /// Voters by the applied configuration.
    #[serde(default)]
    pub voters: Option<Vec<u32>>,
    /// Applied index of the answering member's table.
    #[serde(default)]
    pub applied: Option<u64>,
    /// Live mappings in it.
    #[serde(default)]
    pub live: Option<u32>,
    /// Held mappings in it.
    #[serde(default)]
    pub held: Option<u32>,
    /// Mappings that changes ended since the answering member's table began (D19).
    #[serde(default)]
    pub cut: Option<u64>,
    /// Mappings on their way through the log.
    #[serde(default)]
    pub pending: Option<usize>,
    /// What is left of the lease of the answering member, in milliseconds; 0 without one.
    #[serde(default)]
    pub lease_ms: Option<u64>,
    /// How its epoch began.
    pub origin: OriginView,
    /// Whether the epoch is being sealed.
    #[serde(default)]
    pub sealing: bool,
    /// Why the replicated state is not as it should be; empty if it is.
    #[serde(default)]
    pub why: String,
    /// What helps.
    #[serde(default)]
    pub remedy: String,
}

/// Voters of a shard that are in step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Redundancy {
    /// How many.
    pub have: usize,
    /// Of how many that there should be.
    pub want: usize,
    /// Said by the owner, who alone measures it; else it is those that the answering member hears.
    pub exact: bool,
    /// The shard has no owner: so many of its voters the answering member reaches.
    pub reachable: bool,
}

/// Voters of the control group that answer, and all of them.
#[must_use]
pub(crate) fn control_group(nodes: &[NodeRow]) -> (usize, usize) {
    let voters = nodes.iter().filter(|node| node.control_voter);
    (voters.clone().filter(|node| node.alive).count(), voters.count())
}

/// How many members may fail, whichever they are, before a shard or the control group has no majority; `None` if there is
/// nothing to lose yet. Shards without a replica on the answering member are not its to judge.
#[must_use]
pub fn failures_tolerated(nodes: &[NodeRow], shards: &[ShardRow]) -> Option<usize> {
    let (have, want) = control_group(nodes);
    let control = (want > 0).then(|| have.saturating_sub(want / 2 + 1));
    let spare = shards.iter().filter(|row| row.role.is_some()).map(|row| {
        let voters = row.voters.as_ref().map_or(row.redundancy.want, Vec::len);
        if row.owner.is_some() { row.redundancy.spare(voters) } else { 0 }
    });
    spare.chain(control).min()
}

impl ShardRow {
    /// Whether the answering member serves it.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.serving == "yes"
    }
}

impl fmt::Display for Redundancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.have, self.want)
    }
}

impl Redundancy {
    /// Whether all voters that there should be are in step.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.have == self.want
    }

    /// How many of them may fail before there is no majority of `voters`.
    #[must_use]
    pub const fn spare(&self, voters: usize) -> usize {
        self.have.saturating_sub(voters / 2 + 1)
    }
}
