//! Security groups, network interfaces and application security groups, as they are declared (S25–S33). Plain data in normal
//! form: what a rule does not restrict is `Any` or an empty list, and references are spelled as what they name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bincode::{Decode, Encode};
use serde::{Serialize, Serializer};
use words::Prefix;

pub use super::deployment::Model;
use super::tag::Tag;

/// A security group: a list of rules (S25). Each has six default rules besides (`defaults.rs`).
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct SecurityGroup {
    /// Its deployment model.
    pub model: Model,
    /// Its rules by name; no two names differ in case only.
    pub rules: BTreeMap<String, Rule>,
}

/// A rule (S27–S29).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct Rule {
    /// 100 to 4096, 65000 and above for default rules; lower first, unique by direction.
    pub priority: u16,
    /// Whose first packets it judges.
    pub direction: Direction,
    /// What it does.
    pub access: Access,
    /// Protocol.
    pub protocol: Protocol,
    /// Who sends.
    pub source: Addresses,
    /// From which ports; none: any.
    pub source_ports: Vec<Ports>,
    /// Whom it is for.
    pub destination: Addresses,
    /// For which ports; none: any.
    pub destination_ports: Vec<Ports>,
}

/// The way of a flow's first packet, as the interface sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode, Serialize, serde::Deserialize)]
pub enum Direction {
    /// To the interface.
    Inbound,
    /// From it.
    Outbound,
}

/// What a rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub enum Access {
    /// The flow may be.
    Allow,
    /// It may not.
    Deny,
}

/// The protocols that a rule takes (S29).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// All, ICMP too.
    #[default]
    #[serde(rename = "*")]
    Any,
}

/// Source or destination of a rule (S28): addresses, or one tag, or one application security group.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub enum Addresses {
    /// All.
    #[default]
    Any,
    /// These; never none.
    Prefixes(Vec<Prefix>),
    /// Those of a service tag.
    Tag(Tag),
    /// Those of the members of an application security group.
    Members(String),
}

/// Ports from the first to the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

/// A network interface: what groups attach to, and what is a member of application security groups.
///
/// An IP configuration belongs to the interface that it names. One that names none has an interface of its own, called as the
/// IP configuration is, `instance/ip_configuration`, without a group: only that of its subnet judges it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct Nic {
    /// Its virtual network.
    pub virtual_network: String,
    /// Its subnet there.
    pub subnet: String,
    /// Its security group.
    pub security_group: Option<String>,
    /// The application security groups that it is a member of.
    pub application_security_groups: BTreeSet<String>,
}

impl Ports {
    /// All that there are.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// Whether all of `other` is among them.
    #[must_use]
    pub const fn cover(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Addresses {
    /// In words, one for each value, as the model spells them.
    #[must_use]
    pub fn words(&self, model: Model) -> Vec<String> {
        match self {
            Self::Any => vec!["*".into()],
            Self::Prefixes(prefixes) => prefixes.iter().map(ToString::to_string).collect(),
            Self::Tag(tag) => vec![tag.spelled(model)],
            Self::Members(group) => vec![group.clone()],
        }
    }
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.words(Model::ResourceManager))
    }
}

/// Ports in words, as [`Addresses::words`].
#[must_use]
pub fn port_words(ports: &[Ports]) -> Vec<String> {
    match ports {
        [] => vec!["*".into()],
        some => some.iter().map(ToString::to_string).collect(),
    }
}
