//! Something that is not as it should be, in a form that people and programs read: how bad, about what, which kind, why,
//! and what helps.
//!
//! Made by `view` from the replicated state and by every member from what it measures; merged and shown by whoever asks.
//! A remedy is something that can be done: a command that exists, or a place to look at. Never empty.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing: meant to be so, or on its way without anybody's help.
    Notice,
    /// It works, but one failure more, or more load, will hurt.
    Warning,
    /// Something does not work now.
    Critical,
}

/// What it is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Subject {
    /// The cluster as a whole.
    Cluster,
    /// The control group.
    Control,
    /// A member, by its number.
    Member {
        /// The node.
        node: u32,
    },
    /// A data interface of a member.
    Link {
        /// The node.
        node: u32,
        /// `inside` or `outside`.
        side: String,
    },
    /// A shard.
    Shard {
        /// Its number.
        shard: u16,
    },
    /// An IP configuration, `instance/ip_configuration`.
    Backend {
        /// Its name.
        name: String,
    },
    /// An instance.
    Instance {
        /// Its name.
        name: String,
    },
    /// A public address.
    Frontend {
        /// The address.
        address: Ipv4Addr,
    },
    /// A pool, `load_balancer/pool`.
    Pool {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Control => f.write_str("control group"),
            Self::Member { node } => write!(f, "n{node}"),
            Self::Link { node, side } => write!(f, "n{node} {side}"),
            Self::Shard { shard } => write!(f, "shard {shard}"),
            Self::Backend { name } => write!(f, "backend {name}"),
            Self::Instance { name } => write!(f, "instance {name}"),
            Self::Frontend { address } => write!(f, "frontend {address}"),
            Self::Pool { name } => write!(f, "pool {name}"),
        }
    }
}

/// The kind of a concern: a name that alerts and scripts may rely on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A shard has no owner: new flows are refused.
    NoOwner,
    /// A shard has an owner that does not serve.
    NotServing,
    /// One failure more stops new connections.
    FailureTolerance,
    /// A shard or the control group has fewer voters in step than it should.
    BelowRedundancy,
    /// Replicas are on their way: placed, replaced, re-created.
    Moving,
    /// A member is not heard.
    MemberSilent,
    /// A member is not registered: it has no life in the cluster yet.
    NotRegistered,
    /// A member was asked and did not answer.
    NoAnswer,
    /// A thread of a member does not turn.
    ThreadStalled,
    /// The control group has no leader: nothing can be changed.
    NoControlLeader,
    /// The carrier of a data interface is gone, or the interface is.
    LinkDown,
    /// A data interface has carrier, and nothing is heard on it.
    LinkDeaf,
    /// A member has no interface to a virtual network: none of its backends is served by it.
    NoInterface,
    /// An inside interface leads to no virtual network that there is.
    NoNetwork,
    /// The kernel's egress guard is not in place.
    GuardMissing,
    /// Memory can be paged out, and a lease lapse meanwhile.
    MemoryNotLocked,
    /// A member's clocks are not as others'.
    ClockApart,
    /// Somebody else claims an address of ours by ARP.
    AddressClaimed,
    /// A next hop does not answer.
    NextHopSilent,
    /// Space on a disk ends.
    DiskSpace,
    /// The control store waits long for its disk.
    StoreSlow,
    /// A disk does not take what is written to it.
    DiskFails,
    /// The address-translation log has lost lines.
    LogIncomplete,
    /// The address-translation log waits for its disk.
    LogStuck,
    /// A certificate ends soon, or has ended.
    CertificateEnds,
    /// Backends that no packet can leave for: no outside network, no pool, no rule, no frontend.
    NoPath,
    /// IP configurations go out by addresses that the system chose.
    DefaultOutbound,
    /// No member of a pool passes a probe: new flows by its rules are refused.
    NoHealthyBackends,
    /// Some members of a pool do not pass a probe: they get no new flows.
    BackendsDown,
    /// An instance does not pass its own probe: it gets no new flows by rules without a probe.
    InstanceDown,
    /// A backend has no ports, or fewer than its grant.
    PortsMissing,
    /// A backend finds no port free towards a remote: new flows are refused (S16).
    PortsExhausted,
    /// A backend has used up its ports, or nearly.
    PortUseHigh,
    /// Ports or addresses on their way back.
    Draining,
    /// A limit of the cluster is near.
    LimitNear,
    /// Members run different builds or levels.
    VersionsDiffer,
    /// All members speak a newer level of the formats than the cluster uses.
    LevelBelow,
    /// A member does not judge by the newest configuration.
    NotProgrammed,
    /// A security group does not do what it seems to, or takes away what instances need of the platform.
    SecurityGroup,
    /// The stop token is held by a life that has ended, or for long.
    StopTokenHeld,
    /// Not one of these.
    Other,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Concern {
    /// How bad.
    pub severity: Severity,
    /// About what.
    pub subject: Subject,
    /// Which kind.
    pub what: What,
    /// Why, in a sentence.
    pub why: String,
    /// Since when, in milliseconds of the Unix epoch, as far as whoever says so has seen it.
    #[serde(default)]
    pub since_unix_ms: Option<u64>,
    /// The control index of the replicated state that says so: a member further in the log knows better. Absent for what
    /// a member measures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_index: Option<u64>,
    /// What helps.
    pub remedy: String,
    /// Of ports that ran out: under which address, and towards whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exhausted: Option<Exhausted>,
}

/// Whose ports ran out, for programs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Exhausted {
    /// The public address that the backend is bound to.
    pub frontend: Option<Ipv4Addr>,
    /// Towards whom, those with the most dropped packets first.
    pub destinations: Vec<Destination>,
}

/// A remote towards which no port is free.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Destination {
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// Address and port.
    pub address: String,
    /// Packets of new flows that were dropped.
    pub packets: u64,
    /// When the first port that is held towards it comes back, in milliseconds of the Unix epoch, as far as known (S12).
    pub back_unix_ms: Option<u64>,
}

impl Concern {
    /// One without a beginning.
    #[must_use]
    pub fn new(severity: Severity, subject: Subject, what: What, why: impl Into<String>, remedy: &str) -> Self {
        let (why, remedy) = (why.into(), remedy.to_owned());
        let concern =
            Self { severity, subject, what, why, since_unix_ms: None, control_index: None, remedy, exhausted: None };
        assert!(
            !concern.why.is_empty() && !concern.remedy.is_empty(),
            "a concern says why, and what helps: {concern:?}"
        );
        concern
    }

    /// [`Severity::Notice`].
    #[must_use]
    pub fn notice(subject: Subject, what: What, why: impl Into<String>, remedy: &str) -> Self {
        Self::new(Severity::Notice, subject, what, why, remedy)
    }

    /// [`Severity::Warning`].
    #[must_use]
    pub fn warning(subject: Subject, what: What, why: impl Into<String>, remedy: &str) -> Self {
        Self::new(Severity::Warning, subject, what, why, remedy)
    }

    /// [`Severity::Critical`].
    #[must_use]
    pub fn critical(subject: Subject, what: What, why: impl Into<String>, remedy: &str) -> Self {
        Self::new(Severity::Critical, subject, what, why, remedy)
    }

    /// Two concerns with one key are the same, said twice.
    #[must_use]
    pub fn key(&self) -> (What, Subject) {
        (self.what, self.subject.clone())
    }
}

/// Whether anything is wrong: a notice alone is not.
#[must_use]
pub fn is_wrong(concerns: &[Concern]) -> bool {
    concerns.iter().any(|concern| concern.severity > Severity::Notice)
}

/// One of each key, the gravest; the gravest first, and of those in the order of their subjects.
#[must_use]
pub fn sorted(mut concerns: Vec<Concern>) -> Vec<Concern> {
    concerns.sort_by(|a, b| {
        let by = |c: &Concern| (std::cmp::Reverse(c.severity), c.subject.clone(), c.what);
        by(a).cmp(&by(b))
    });
    let mut seen = std::collections::BTreeSet::new();
    concerns.retain(|concern| seen.insert(concern.key()));
    concerns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_comes_first_and_nothing_is_said_twice() {
        let shard = || Subject::Shard { shard: 1 };
        let concerns = vec![
            Concern::notice(shard(), What::Moving, "a replica moves", "wait"),
            Concern::warning(shard(), What::BelowRedundancy, "2 of 3", "start n3"),
            Concern::critical(Subject::Cluster, What::NoControlLeader, "no leader", "start n3"),
            Concern::warning(shard(), What::BelowRedundancy, "2 of 3, says another", "start n3"),
        ];
        assert!(is_wrong(&concerns) && !is_wrong(&concerns[..1]) && !is_wrong(&[]));
        let whats: Vec<What> = sorted(concerns).iter().map(|c| c.what).collect();
        assert_eq!(whats, [What::NoControlLeader, What::BelowRedundancy, What::Moving]);
    }

    #[test]
    fn programs_read_a_concern_by_stable_names() {
        let concern = Concern::warning(
            Subject::Link { node: 2, side: "outside".into() },
            What::LinkDown,
            "no carrier",
            "look at the cable",
        );
        let json = serde_json::to_value(&concern).expect("plain data");
        assert_eq!(json["severity"], "warning");
        assert_eq!(json["subject"], serde_json::json!({"kind": "link", "node": 2, "side": "outside"}));
        assert_eq!(json["what"], "link_down");
        assert_eq!(serde_json::from_value::<Concern>(json).expect("reads back"), concern);
    }
}
