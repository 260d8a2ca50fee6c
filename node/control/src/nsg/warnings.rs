//! Groups that take away what instances need of the platform, or do not do what they seem to (S31, S35, S43): told when they are
//! applied, and as long as they are there. Refuses nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::compiling::{groups_of, ordered};
use super::model::{Access, Addresses, Direction, Protocol, SecurityGroup};
use super::service_tags::PLATFORM_ADDRESS;
use super::tag::Tag;
use crate::concern::{Concern, Subject, What};
use crate::resource::IpConfiguration;
use crate::state::State;

/// Rules that name a service without prefixes: so many are told of.
const RULES_TOLD_MAX: usize = 20;

/// All that there is to warn of.
#[must_use]
pub(crate) fn warnings(state: &State) -> Vec<Concern> {
    let mut found = probes(state);
    found.extend(empty_tags(state));
    found.extend(peerings(state));
    found
}

/// Groups that deny probes, and have members of a pool behind them, or instances with a probe of their own.
fn probes(state: &State) -> Vec<Concern> {
    let desired = state.desired();
    let denying: BTreeMap<&str, String> = desired
        .security_groups
        .iter()
        .filter_map(|(name, group)| Some((name.as_str(), denies_probes(group)?)))
        .collect();
    if denying.is_empty() {
        return Vec::new();
    }
    let mut behind: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    for (name, instance) in &desired.instances {
        let own = instance.probe.as_ref().and_then(|_| instance.primary());
        let is_asked = |ip: &&IpConfiguration| ip.pool.is_some() || own.is_some_and(|own| own.name == ip.name);
        for ip in instance.ip_configurations.iter().filter(is_asked) {
            let (subnet, card) = groups_of(desired, instance.security_group.as_deref(), ip);
            let judges: BTreeSet<&str> = subnet.into_iter().chain(card).collect();
            for group in judges.into_iter().filter(|group| denying.contains_key(group)) {
                behind.entry(group).or_insert_with(|| (0, format!("{name}/{}", ip.name))).0 += 1;
            }
        }
    }
    let say = |(group, (count, first)): (&str, (usize, String))| {
        let rule = &denying[group];
        let why = format!(
            "rule {rule} of security group {group} denies AzureLoadBalancer, where health probes come from, to {count} load-balanced \
             or probed addresses, as {first}"
        );
        let remedy = "allow source AzureLoadBalancer by a rule of a lower priority number: `qnat get security-groups`";
        Concern::warning(Subject::Cluster, What::SecurityGroup, why, remedy)
    };
    behind.into_iter().map(say).collect()
}

/// The rule that denies probes to whatever port they go, if one does.
fn denies_probes(group: &SecurityGroup) -> Option<String> {
    let takes = |addresses: &Addresses| match addresses {
        Addresses::Any | Addresses::Tag(Tag::AzureLoadBalancer) => true,
        Addresses::Prefixes(prefixes) => prefixes.iter().any(|prefix| prefix.contains(PLATFORM_ADDRESS)),
        Addresses::Tag(_) | Addresses::Members(_) => false,
    };
    // To whom: a rule that is for some addresses only may be for others.
    let all = |addresses: &Addresses| matches!(addresses, Addresses::Any | Addresses::Tag(Tag::VirtualNetwork));
    let (name, rule, _) = ordered(group, Direction::Inbound).into_iter().find(|(_, rule, _)| {
        let ports = rule.source_ports.is_empty() && rule.destination_ports.is_empty();
        rule.protocol != Protocol::Udp && ports && takes(&rule.source) && all(&rule.destination)
    })?;
    (rule.access == Access::Deny).then_some(name)
}

/// Rules that name a service of which the platform has said nothing.
fn empty_tags(state: &State) -> Vec<Concern> {
    let mut found = Vec::new();
    for (group, declared) in &state.desired().security_groups {
        for (name, rule) in &declared.rules {
            for addresses in [&rule.source, &rule.destination] {
                let Addresses::Tag(tag) = addresses else { continue };
                if found.len() == RULES_TOLD_MAX || tag.is_of_network() || !state.service_tags().of(*tag).is_empty() {
                    continue;
                }
                let why = format!(
                    "rule {name} of security group {group} names {tag}, which has no prefixes: it takes nothing"
                );
                let remedy = "say which prefixes the service has: `qnat service-tags -f FILE`";
                found.push(Concern::notice(Subject::Cluster, What::SecurityGroup, why, remedy));
            }
        }
    }
    found
}

/// Peerings that only one of two networks names.
fn peerings(state: &State) -> Vec<Concern> {
    let networks = &state.desired().virtual_networks;
    let named = networks.iter().flat_map(|(name, network)| network.peerings.iter().map(move |peer| (name, peer)));
    let alone = named.filter(|(name, peer)| networks.get(*peer).is_some_and(|peer| !peer.peerings.contains(*name)));
    let say = |(name, peer): (&String, &String)| {
        let why =
            format!("virtual network {name} is peered with {peer}, which does not name it: they are not connected");
        let remedy = format!("add peerings = [\"{name}\"] to virtual_network {peer}, or take it from {name}");
        Concern::notice(Subject::Cluster, What::SecurityGroup, why, &remedy)
    };
    alone.map(say).collect()
}
