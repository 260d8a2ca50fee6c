//! Rules that can never match, because an earlier one takes all that they would (S27).

use std::collections::BTreeMap;

use super::model::{Addresses, Ports, Protocol, Rule, SecurityGroup};

/// For each rule that can never match, a rule before it that takes all it would. One that only several earlier ones together
/// take from is not told.
#[must_use]
pub fn shadowed(group: &SecurityGroup) -> BTreeMap<&str, &str> {
    let mut sorted: Vec<(&String, &Rule)> = group.rules.iter().collect();
    sorted.sort_by_key(|(_, rule)| (rule.direction, rule.priority));
    let mut found = BTreeMap::new();
    for (at, (name, rule)) in sorted.iter().enumerate() {
        let earlier = sorted[..at].iter().filter(|(_, earlier)| earlier.direction == rule.direction);
        if let Some((by, _)) = earlier.into_iter().find(|(_, earlier)| covers(earlier, rule)) {
            found.insert(name.as_str(), by.as_str());
        }
    }
    found
}

fn covers(earlier: &Rule, later: &Rule) -> bool {
    let protocol = earlier.protocol == Protocol::Any || earlier.protocol == later.protocol;
    protocol
        && ports_cover(&earlier.source_ports, &later.source_ports)
        && ports_cover(&earlier.destination_ports, &later.destination_ports)
        && addresses_cover(&earlier.source, &later.source)
        && addresses_cover(&earlier.destination, &later.destination)
}

fn ports_cover(earlier: &[Ports], later: &[Ports]) -> bool {
    match (earlier, later) {
        ([], _) => true,
        (_, []) => false,
        (some, all) => all.iter().all(|ports| some.iter().any(|cover| cover.cover(*ports))),
    }
}

fn addresses_cover(earlier: &Addresses, later: &Addresses) -> bool {
    match (earlier, later) {
        (Addresses::Any, _) => true,
        (Addresses::Prefixes(some), Addresses::Prefixes(all)) => {
            all.iter().all(|prefix| some.iter().any(|cover| cover.len <= prefix.len && cover.contains(prefix.network)))
        }
        (Addresses::Prefixes(_) | Addresses::Tag(_) | Addresses::Members(_), _) => earlier == later,
    }
}
