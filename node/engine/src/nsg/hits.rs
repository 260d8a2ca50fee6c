//! How often each rule has decided: about a flow's first packet, or about the flow when it was judged again (D19). Later packets
//! ask no rule, and cost nothing here. One for each shard's replica, of what this member judged itself; nothing is decided by it.

use crate::map::Map;

use super::attachment::{Attachment, Direction};
use super::rules::Tuple;

/// Rules that a shard counts for.
const RULES_MAX: usize = 16_384;

/// What a rule's hits are found by: the same in all versions of the configuration that have a rule of this name.
#[must_use]
pub fn rule_key(group: &str, direction: Direction, rule: &str) -> u64 {
    let way = match direction {
        Direction::Inbound => b'<',
        Direction::Outbound => b'>',
    };
    // FNV-1a; no name contains an octet 0.
    let octets = group.bytes().chain([0, way]).chain(rule.bytes());
    octets.fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3))
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    of: Map<u64, u64>,
    lost: u64,
}

impl Hits {
    /// The groups of an IP configuration decide about a flow.
    pub(crate) fn note(&mut self, direction: Direction, attachment: &Attachment, tuple: &Tuple) {
        for (_, decision) in attachment.decisions(direction, tuple) {
            let Some(label) = decision.rule else { continue };
            if let Some(hits) = self.of.get_mut(&label.key) {
                *hits += 1;
            } else if self.of.len() < RULES_MAX {
                self.of.insert(label.key, 1);
            } else {
                self.lost += 1;
            }
        }
    }

    /// Hits of the rule of this key.
    pub(crate) fn of(&self, key: u64) -> u64 {
        self.of.get(&key).copied().unwrap_or(0)
    }

    /// Hits of rules that found no room.
    pub(crate) const fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::nsg::{Access, Label, List, Origin, Protocol, Rule, RuleSet, Rules};

    const RULES: u16 = 9_000;

    /// A group with a rule for each of the first ports; their keys begin at `first`.
    fn attachment(first: u64) -> Attachment {
        let rule = |n: u16| Rule {
            protocol: Protocol::Tcp,
            sources: Vec::new(),
            source_ports: Vec::new(),
            destinations: Vec::new(),
            destination_ports: vec![crate::nsg::Range::one(n.into())],
            access: Access::Deny,
        };
        let all: Vec<Rule> = (0..RULES).map(rule).collect();
        let label = |n: u16| Label { key: first + u64::from(n), name: "r".into(), priority: 100, origin: Origin::User };
        let list = List::new(Arc::new(Rules::new(&all)), 1, (0..RULES).map(label).collect(), (0..RULES).collect());
        let set = RuleSet { group: "g".into(), inbound: list.clone(), outbound: list };
        Attachment::new(Some(Arc::new(set)), None).expect("a group")
    }

    #[test]
    fn a_shard_counts_for_so_many_rules_and_says_of_how_many_hits_it_does_not_know() {
        let mut hits = Hits::default();
        for attachment in [attachment(0), attachment(9_000)] {
            for port in (0..RULES).chain(0..RULES) {
                let tuple = Tuple { protocol: 6, source: 1, source_port: 1, destination: 2, destination_port: port };
                hits.note(Direction::Outbound, &attachment, &tuple);
            }
        }
        assert_eq!((hits.of.len(), hits.of(7), hits.of(17_999)), (RULES_MAX, 2, 0));
        assert_eq!(hits.lost(), 2 * (18_000 - 16_384));
    }

    #[test]
    fn rules_of_one_name_are_told_apart_by_group_and_way() {
        use Direction::{Inbound, Outbound};
        let keys =
            [("g", Inbound, "r"), ("g", Outbound, "r"), ("h", Inbound, "r"), ("g", Inbound, "s"), ("gr", Inbound, "")];
        let keys: std::collections::BTreeSet<u64> = keys.map(|(group, way, rule)| rule_key(group, way, rule)).into();
        assert_eq!(keys.len(), 5);
    }
}
