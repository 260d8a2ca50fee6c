//! The six rules that every group has and nobody can take away (S31). Rules of users come before them.

use super::model::{Access, Addresses, Direction, Protocol, Rule};
use super::tag::Tag;

/// The lowest priority of a user's rule, and the highest.
pub const PRIORITIES: std::ops::RangeInclusive<u16> = 100..=4_096;

/// A default rule.
#[derive(Clone, Debug)]
pub struct DefaultRule {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub rule: Rule,
}

/// Their names, in the order of [`all`].
pub const NAMES: [&str; 6] = [
    "AllowVNetInBound",
    "AllowAzureLoadBalancerInBound",
    "DenyAllInbound",
    "AllowVnetOutBound",
    "AllowInternetOutBound",
    "DenyAllOutBound",
];

/// All, inbound ones first, each direction in the order of priorities.
#[must_use]
pub fn all() -> [DefaultRule; 6] {
    use Addresses::Any;
    use Direction::{Inbound, Outbound};
    let tag = Addresses::Tag;
    let rule = |at: usize, direction, (priority, access), source, destination| DefaultRule {
        name: NAMES[at],
        rule: Rule {
            priority,
            direction,
            access,
            protocol: Protocol::Any,
            source,
            source_ports: Vec::new(),
            destination,
            destination_ports: Vec::new(),
        },
    };
    [
        rule(0, Inbound, (65_000, Access::Allow), tag(Tag::VirtualNetwork), tag(Tag::VirtualNetwork)),
        rule(1, Inbound, (65_001, Access::Allow), tag(Tag::AzureLoadBalancer), Any),
        rule(2, Inbound, (65_500, Access::Deny), Any, Any),
        rule(3, Outbound, (65_000, Access::Allow), tag(Tag::VirtualNetwork), tag(Tag::VirtualNetwork)),
        rule(4, Outbound, (65_001, Access::Allow), Any, tag(Tag::Internet)),
        rule(5, Outbound, (65_500, Access::Deny), Any, Any),
    ]
}
