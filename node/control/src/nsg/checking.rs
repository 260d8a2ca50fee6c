//! Whether declared security groups, interfaces and what they need of networks make sense (S25–S33, S44). Looks at nothing but
//! the [`Desired`]. Called by `validate`.

use std::collections::{BTreeMap, BTreeSet};

use super::bounds::{
    APPLICATION_GROUPS_MAX, GROUPS_PER_NIC_MAX, MEMBERS_PER_GROUP_MAX, MEMBERSHIPS_MAX, NICS_MAX, ON_PREMISES_MAX,
    PEERINGS_MAX, RULE_PORTS_MAX, RULE_PREFIXES_MAX, RULE_VALUES_MAX, RULES_MAX, RULES_PER_GROUP_MAX,
    SECURITY_GROUPS_MAX,
};
use super::defaults::{self, PRIORITIES};
use super::model::{Addresses, Direction, Model, Nic, Ports, Rule, SecurityGroup};
use super::tag::{NoTag, Tag};
use crate::issues::{Judge, names};
use crate::resource::{Desired, Instance, VirtualNetwork};

pub(crate) fn check(judge: &mut Judge, desired: &Desired) {
    if are_too_many(judge, desired) {
        return;
    }
    for (name, network) in &desired.virtual_networks {
        check_network(judge, desired, name, network);
    }
    let networks = networks_of_members(judge, desired);
    check_names(judge, "nic", desired.nics.keys());
    for (name, nic) in &desired.nics {
        check_nic(judge, desired, name, nic);
    }
    check_instances(judge, desired);
    check_names(judge, "application_security_group", desired.application_security_groups.iter());
    for name in &desired.application_security_groups {
        if Tag::named(name) != Err(NoTag::Unknown) || name.eq_ignore_ascii_case("any") {
            let path = format!("application_security_group.{name}.name");
            judge.say(&path, name, "is what rules call something else: a service tag, or any", "choose another name");
        }
    }
    check_names(judge, "security_group", desired.security_groups.keys());
    for (name, group) in &desired.security_groups {
        GroupJudge { judge, path: format!("security_group.{name}"), model: group.model, desired, networks: &networks }
            .check(group);
    }
}

/// Sums first: what is far too much is not looked at one by one.
fn are_too_many(judge: &mut Judge, desired: &Desired) -> bool {
    let groups = || desired.security_groups.values();
    let rules = groups().map(|group| group.rules.len()).sum();
    let values = |rule: &Rule| {
        let addresses = |field: &Addresses| if let Addresses::Prefixes(all) = field { all.len() } else { 0 };
        let ports = rule.source_ports.len() + rule.destination_ports.len();
        addresses(&rule.source) + addresses(&rule.destination) + ports
    };
    let values = groups().flat_map(|group| group.rules.values()).map(values).sum();
    let memberships = desired.nics.values().map(|nic| nic.application_security_groups.len()).sum();
    let application_groups = desired.application_security_groups.len();
    let counts = [
        ("nic", "network interfaces", desired.nics.len(), NICS_MAX),
        ("nic.application_security_groups", "memberships in all", memberships, MEMBERSHIPS_MAX),
        ("security_group", "security groups", desired.security_groups.len(), SECURITY_GROUPS_MAX),
        ("security_group.rule", "rules of all security groups", rules, RULES_MAX),
        ("security_group.rule", "addresses and ports in all rules together", values, RULE_VALUES_MAX),
        ("application_security_group", "application security groups", application_groups, APPLICATION_GROUPS_MAX),
    ];
    counts.into_iter().fold(false, |over, (path, what, count, most)| judge.too_many(path, what, count, most) || over)
}

/// Legal, and no two that differ in case alone.
fn check_names<'a>(judge: &mut Judge, kind: &str, declared: impl Iterator<Item = &'a String>) {
    let mut seen: BTreeMap<String, &String> = BTreeMap::new();
    for name in declared {
        let path = format!("{kind}.{name}.name");
        judge.name(&path, name);
        if let Some(other) = seen.insert(name.to_ascii_lowercase(), name) {
            let problem = format!("differs from {other} in case alone, and names compare without case");
            judge.say(&path, name, problem, "choose another name");
        }
    }
}

fn check_network(judge: &mut Judge, desired: &Desired, name: &str, network: &VirtualNetwork) {
    let path = format!("virtual_network.{name}");
    let field = format!("{path}.peerings");
    if judge.too_many(&field, "peerings", network.peerings.len(), PEERINGS_MAX) {
        return;
    }
    for peer in &network.peerings {
        match desired.virtual_networks.get(peer) {
            None => {
                let known = names(desired.virtual_networks.keys());
                judge.say(&field, peer, "is no virtual_network", format!("declare it, or use one of: {known}"));
            }
            Some(_) if peer == name => {
                judge.say(&field, peer, "is this network itself", "name other networks");
            }
            Some(other) => {
                let shared = network.space().find(|space| other.space().any(|theirs| theirs.overlaps(*space)));
                if let Some(space) = shared {
                    let problem = format!("has addresses in {space} too: they would be ambiguous");
                    judge.say(&field, peer, problem, "peer networks whose address spaces are disjoint");
                }
            }
        }
    }
    let field = format!("{path}.on_premises");
    if judge.too_many(&field, "on-premises prefixes", network.on_premises.len(), ON_PREMISES_MAX) {
        return;
    }
    for prefix in &network.on_premises {
        if judge.prefix(&field, *prefix, 1..=32)
            && let Some(space) = network.space().find(|space| space.overlaps(*prefix))
        {
            let problem = format!("overlaps {space} of the network itself");
            judge.say(&field, prefix, problem, "name space that lies outside of the network");
        }
    }
    for (subnet, group) in network.subnets.iter().filter_map(|(name, s)| Some((name, s.security_group.as_ref()?))) {
        if !desired.security_groups.contains_key(group) {
            say_no_group(judge, desired, &format!("{path}.subnet.{subnet}.security_group"), group);
        }
    }
}

fn say_no_group(judge: &mut Judge, desired: &Desired, field: &str, group: &str) {
    let known = names(desired.security_groups.keys());
    judge.say(field, group, "is no security_group", format!("declare it, or use one of: {known}"));
}

fn check_nic(judge: &mut Judge, desired: &Desired, name: &str, nic: &Nic) {
    let path = format!("nic.{name}");
    let network = desired.virtual_networks.get(&nic.virtual_network);
    if !network.is_some_and(|network| network.subnets.contains_key(&nic.subnet)) {
        let written = format!("{}/{}", nic.virtual_network, nic.subnet);
        let known = network.map_or_else(|| names(desired.virtual_networks.keys()), |n| names(n.subnets.keys()));
        judge.say(&format!("{path}.subnet"), written, "does not exist", format!("use one of: {known}"));
    }
    if let Some(group) = &nic.security_group {
        let field = format!("{path}.security_group");
        match desired.security_groups.get(group).map(|group| group.model) {
            None => say_no_group(judge, desired, &field, group),
            Some(Model::ResourceManager) => {}
            Some(Model::Classic) => {
                let problem = "is of the classic model, which attaches to subnets and instances";
                judge.say(&field, group, problem, "name it at the instance, or make it one of resource_manager");
            }
        }
    }
    let groups = &nic.application_security_groups;
    let field = format!("{path}.application_security_groups");
    if judge.too_many(&field, "memberships", groups.len(), GROUPS_PER_NIC_MAX) {
        return;
    }
    for group in groups.iter().filter(|group| !desired.application_security_groups.contains(*group)) {
        let known = names(desired.application_security_groups.iter());
        let remedy = format!("declare it, or use one of: {known}");
        judge.say(&field, group, "is no application_security_group", remedy);
    }
}

/// The network of each application security group's members: it is one, the first one's (S33).
fn networks_of_members<'a>(judge: &mut Judge, desired: &'a Desired) -> BTreeMap<&'a str, &'a str> {
    let mut networks: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    let mut members: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, nic) in &desired.nics {
        for group in &nic.application_security_groups {
            *members.entry(group).or_default() += 1;
            let (network, first) = *networks.entry(group).or_insert((&nic.virtual_network, name));
            if network != nic.virtual_network {
                let problem = format!(
                    "has its members in {network}, as nic.{first}, and this interface is in {}",
                    nic.virtual_network
                );
                let field = format!("nic.{name}.application_security_groups");
                judge.say(&field, group, problem, "use a group for each virtual network");
            }
        }
    }
    for (group, count) in members {
        judge.too_many(&format!("application_security_group.{group}"), "members", count, MEMBERS_PER_GROUP_MAX);
    }
    networks.into_iter().map(|(group, (network, _))| (group, network)).collect()
}

fn check_instances(judge: &mut Judge, desired: &Desired) {
    let mut users: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, instance) in &desired.instances {
        let path = format!("instance.{name}");
        for ip in &instance.ip_configurations {
            let Some(card) = &ip.nic else { continue };
            let field = format!("{path}.ip_configuration.{}.nic", ip.name);
            let Some(nic) = desired.nics.get(card) else {
                let known = names(desired.nics.keys());
                judge.say(&field, card, "is no nic", format!("declare it, or use one of: {known}"));
                continue;
            };
            if (&nic.virtual_network, &nic.subnet) != (&ip.virtual_network, &ip.subnet) {
                let problem = format!("is in {}/{}", nic.virtual_network, nic.subnet);
                judge.say(&field, card, problem, "leave subnet out here: an address is where its interface is");
            }
            let other = *users.entry(card).or_insert(name);
            if other != name {
                let problem = format!("is already an interface of instance.{other}");
                judge.say(&field, card, problem, "give each instance interfaces of its own");
            }
        }
        check_classic(judge, desired, &path, instance);
    }
}

/// A group of the classic model at an instance, which is in the place of those of its interfaces.
fn check_classic(judge: &mut Judge, desired: &Desired, path: &str, instance: &Instance) {
    let Some(group) = &instance.security_group else { return };
    let field = format!("{path}.security_group");
    match desired.security_groups.get(group).map(|group| group.model) {
        None => say_no_group(judge, desired, &field, group),
        Some(Model::Classic) => {}
        Some(Model::ResourceManager) => {
            let problem = "is of the model resource_manager, which attaches to subnets and network interfaces";
            judge.say(&field, group, problem, "name it at a nic of the instance, or make it one of classic");
        }
    }
    let cards = instance.ip_configurations.iter().filter_map(|ip| ip.nic.as_ref());
    let judged = |card: &&String| desired.nics.get(*card).is_some_and(|nic| nic.security_group.is_some());
    if let Some(card) = cards.into_iter().find(judged) {
        let problem = format!("stands in the place of the security_group that nic.{card} has");
        judge.say(&field, group, problem, "keep one of the two");
    }
}

/// Judges one security group.
struct GroupJudge<'a> {
    judge: &'a mut Judge,
    path: String,
    model: Model,
    desired: &'a Desired,
    /// Of the members of application security groups.
    networks: &'a BTreeMap<&'a str, &'a str>,
}

impl GroupJudge<'_> {
    fn check(mut self, group: &SecurityGroup) {
        let field = format!("{}.rule", self.path);
        if self.judge.too_many(&field, "rules", group.rules.len(), RULES_PER_GROUP_MAX) {
            return;
        }
        check_names(self.judge, &field, group.rules.keys());
        let mut taken: BTreeMap<(Direction, u16), &str> = BTreeMap::new();
        for (name, rule) in &group.rules {
            let path = format!("{field}.{name}");
            if let Some(default) = defaults::NAMES.iter().find(|default| default.eq_ignore_ascii_case(name)) {
                let problem = format!("is the name of the default rule {default}, which nobody changes or takes away");
                let remedy = "write a rule of another name: any that users write comes before the default ones";
                self.judge.say(&format!("{path}.name"), name, problem, remedy);
            }
            let (low, high) = (PRIORITIES.start(), PRIORITIES.end());
            let field = format!("{path}.priority");
            if !PRIORITIES.contains(&rule.priority) {
                self.judge.say(&field, rule.priority, "is out of range", format!("use {low} to {high}"));
            }
            if let Some(other) = taken.insert((rule.direction, rule.priority), name) {
                let problem = format!("is already the priority of rule {other} in this direction");
                self.judge.say(&field, rule.priority, problem, format!("use a free one from {low} to {high}"));
            }
            self.check_rule(&path, rule);
        }
    }

    fn check_rule(&mut self, path: &str, rule: &Rule) {
        self.addresses(&format!("{path}.source"), &rule.source);
        self.addresses(&format!("{path}.destination"), &rule.destination);
        self.ports(&format!("{path}.source_ports"), &rule.source_ports);
        self.ports(&format!("{path}.destination_ports"), &rule.destination_ports);
        let (Addresses::Members(from), Addresses::Members(to)) = (&rule.source, &rule.destination) else { return };
        if let (Some(here), Some(there)) = (self.networks.get(from.as_str()), self.networks.get(to.as_str()))
            && here != there
        {
            let problem = format!("has its members in {there}, those of the source {from} are in {here}");
            self.judge.say(&format!("{path}.destination"), to, problem, "use groups of one virtual network");
        }
    }

    fn addresses(&mut self, field: &str, addresses: &Addresses) {
        let classic = self.model == Model::Classic;
        match addresses {
            Addresses::Any => {}
            Addresses::Prefixes(all) => {
                if self.judge.too_many(field, "addresses and networks", all.len(), RULE_PREFIXES_MAX) {
                    return;
                }
                if all.is_empty() {
                    self.judge.say(field, "[]", "names nobody", "list addresses, or leave it out for any");
                }
                if classic && all.len() > 1 {
                    self.one_only(field, all.len());
                }
                for prefix in all {
                    self.judge.prefix(field, *prefix, 1..=32);
                }
            }
            Addresses::Tag(tag) if classic && !tag.is_classic() => {
                let problem = "is a tag of the model resource_manager only";
                let remedy =
                    "use VIRTUAL_NETWORK, AZURE_LOADBALANCER or INTERNET, or make the group one of resource_manager";
                self.judge.say(field, tag, problem, remedy);
            }
            Addresses::Tag(_) => {}
            Addresses::Members(group) if !self.desired.application_security_groups.contains(group) => {
                let tags: BTreeSet<String> = Tag::all().map(|tag| tag.to_string()).collect();
                let tags: Vec<String> = tags.into_iter().collect();
                let known = names(self.desired.application_security_groups.iter());
                let problem =
                    "is no address, network, service tag or application_security_group, and users make no tags";
                let remedy = format!("declare the group, use one of: {known}; or a tag: {}", tags.join(", "));
                self.judge.say(field, group, problem, remedy);
            }
            Addresses::Members(group) if classic => {
                let problem = "is an application security group, which the classic model does not know";
                self.judge.say(field, group, problem, "name addresses, or make the group one of resource_manager");
            }
            Addresses::Members(_) => {}
        }
    }

    fn ports(&mut self, field: &str, ports: &[Ports]) {
        if self.judge.too_many(field, "ports and ranges", ports.len(), RULE_PORTS_MAX) {
            return;
        }
        if self.model == Model::Classic && ports.len() > 1 {
            self.one_only(field, ports.len());
        }
        for range in ports.iter().filter(|range| range.first > range.last) {
            self.judge.say(field, range, "ends before it begins", "write the lower port first");
        }
    }

    fn one_only(&mut self, field: &str, count: usize) {
        let problem = "has several values, and a group of the classic model takes one in each field";
        self.judge.say(
            field,
            format!("[{count} items]"),
            problem,
            "write a rule for each, or make it one of resource_manager",
        );
    }
}
