//! Makes of security groups what the packet path judges by (`engine::nsg`): for each group and each network in which it is
//! attached two lists of ranges, its tags and members resolved, the first rule first.
//!
//! A walk over all groups and IP configurations, at each configuration: done where that is compiled, off the control thread and off the
//! packet path. What comes to the same as before is the very same again, and is not compiled anew. Called by `compile`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use engine::ids::{BackendId, VnetId};
use engine::nsg::{self, Attachment, Attachments, Label, List, Origin, Range, RuleSet, Rules};

use super::defaults;
use super::model::{Access, Direction, Ports, Protocol, Rule, SecurityGroup};
use super::scope::{End, Members, Scope};
use super::service_tags::ServiceTags;
use crate::allocation::Declared;
use crate::resource::{Desired, IpConfiguration};
use crate::state::State;

/// What tells a compiled group from others: its name and the stamps of its lists.
type SetKey = (String, u64, u64);

/// The groups of a subnet and of an interface, by name, and the network.
type Judges<'a> = (Option<&'a str>, Option<&'a str>, &'a str);

/// What the version before has, to be had again.
#[derive(Debug, Default)]
struct Known {
    rules: BTreeMap<u64, Arc<Rules>>,
    sets: BTreeMap<SetKey, Arc<RuleSet>>,
    attachments: BTreeMap<(Option<SetKey>, Option<SetKey>), Arc<Attachment>>,
}

fn key_of(set: &RuleSet) -> SetKey {
    (set.group.to_string(), set.inbound.stamp(), set.outbound.stamp())
}

impl Known {
    fn of(last: &Attachments) -> Self {
        let mut known = Self::default();
        // Many have the same: each is looked into once.
        let distinct: BTreeMap<*const Attachment, &Arc<Attachment>> =
            last.iter().map(|(_, attachment)| (Arc::as_ptr(attachment), attachment)).collect();
        for attachment in distinct.into_values() {
            let (mut subnet, mut card) = (None, None);
            for (place, set) in attachment.sets(nsg::Direction::Inbound) {
                match place {
                    nsg::Place::Subnet => subnet = Some(key_of(set)),
                    nsg::Place::Card => card = Some(key_of(set)),
                }
                for list in [&set.inbound, &set.outbound] {
                    known.rules.insert(list.stamp(), Arc::clone(list.rules()));
                }
                known.sets.insert(key_of(set), Arc::clone(set));
            }
            known.attachments.insert((subnet, card), Arc::clone(attachment));
        }
        known
    }
}

/// The attachments of all IP configurations that are declared. `last`: those of the version before.
#[must_use]
pub(crate) fn attachments(state: &State, last: &Attachments) -> Attachments {
    let desired = state.desired();
    if desired.security_groups.is_empty() {
        return Attachments::default();
    }
    let declared = state.allocation().backends.iter().filter(|(_, backend)| backend.declared == Declared::Yes);
    let ids: BTreeMap<(VnetId, Ipv4Addr), BackendId> =
        declared.map(|(id, backend)| ((backend.vnet, backend.ip), *id)).collect();
    let members = Members::of(desired);
    let mut compiler = GroupCompiler::new(desired, state.service_tags(), &members, Known::of(last));
    let mut all = Vec::new();
    for (instance, ip) in desired.instances.values().flat_map(|i| i.ip_configurations.iter().map(move |ip| (i, ip))) {
        let vnet = state.vnets.get(&ip.virtual_network);
        let Some(id) = vnet.and_then(|vnet| ids.get(&(*vnet, ip.private_ip))) else { continue };
        all.extend(compiler.attachment(instance.security_group.as_deref(), ip).map(|attachment| (*id, attachment)));
    }
    all.into_iter().collect()
}

/// What judges one IP configuration, without a look at any other.
#[must_use]
pub(crate) fn attachment_of(state: &State, of_instance: Option<&str>, ip: &IpConfiguration) -> Option<Arc<Attachment>> {
    let members = Members::of(state.desired());
    GroupCompiler::new(state.desired(), state.service_tags(), &members, Known::default()).attachment(of_instance, ip)
}

/// Groups that judge an IP configuration, by name: of its subnet, and of its interface or, in the classic model, its instance.
#[must_use]
pub(crate) fn groups_of<'a>(
    desired: &'a Desired,
    of_instance: Option<&'a str>,
    ip: &IpConfiguration,
) -> (Option<&'a str>, Option<&'a str>) {
    let network = desired.virtual_networks.get(&ip.virtual_network);
    let subnet = network.and_then(|network| network.subnets.get(&ip.subnet));
    let nic = ip.nic.as_ref().and_then(|nic| desired.nics.get(nic));
    let of_nic = nic.and_then(|nic| nic.security_group.as_deref());
    (subnet.and_then(|subnet| subnet.security_group.as_deref()), of_instance.or(of_nic))
}

/// Compiles groups for the networks in which they are attached, each once.
struct GroupCompiler<'a> {
    desired: &'a Desired,
    tags: &'a ServiceTags,
    members: &'a Members<'a>,
    known: Known,
    scopes: BTreeMap<&'a str, Scope<'a>>,
    sets: BTreeMap<(&'a str, &'a str), Arc<RuleSet>>,
    attachments: BTreeMap<Judges<'a>, Option<Arc<Attachment>>>,
}

impl<'a> GroupCompiler<'a> {
    fn new(desired: &'a Desired, tags: &'a ServiceTags, members: &'a Members<'a>, known: Known) -> Self {
        let (scopes, sets, attachments) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { desired, tags, members, known, scopes, sets, attachments }
    }

    fn attachment(&mut self, of_instance: Option<&'a str>, ip: &'a IpConfiguration) -> Option<Arc<Attachment>> {
        let network = ip.virtual_network.as_str();
        let (subnet, card) = groups_of(self.desired, of_instance, ip);
        if let Some(made) = self.attachments.get(&(subnet, card, network)) {
            return made.clone();
        }
        let mut set = |group: Option<&'a str>| group.and_then(|group| self.set(group, network));
        let (of_subnet, of_card) = (set(subnet), set(card));
        let key = (of_subnet.as_deref().map(key_of), of_card.as_deref().map(key_of));
        let made = Attachment::new(of_subnet, of_card).map(|new| {
            let known = self.known.attachments.get(&key).filter(|known| ***known == new);
            known.map_or_else(|| Arc::new(new), Arc::clone)
        });
        self.attachments.insert((subnet, card, network), made.clone());
        made
    }

    fn set(&mut self, group: &'a str, network: &'a str) -> Option<Arc<RuleSet>> {
        if let Some(set) = self.sets.get(&(group, network)) {
            return Some(Arc::clone(set));
        }
        let declared = self.desired.security_groups.get(group)?;
        let (desired, tags, members) = (self.desired, self.tags, self.members);
        let scope = self.scopes.entry(network).or_insert_with(|| Scope::of(desired, network, tags, members));
        let list = |known: &mut Known, direction| compiled(scope, (group, declared), direction, &mut known.rules);
        let inbound = list(&mut self.known, Direction::Inbound);
        let outbound = list(&mut self.known, Direction::Outbound);
        let new = RuleSet { group: group.into(), inbound, outbound };
        let known = self.known.sets.get(&key_of(&new)).filter(|known| ***known == new);
        let set = known.map_or_else(|| Arc::new(new), Arc::clone);
        self.sets.insert((group, network), Arc::clone(&set));
        Some(set)
    }
}

/// The rules of a group in one direction, in the order in which they are judged, default ones last.
pub(crate) fn ordered(group: &SecurityGroup, direction: Direction) -> Vec<(String, Rule, Origin)> {
    let mut rules: Vec<(&String, &Rule)> = group.rules.iter().filter(|(_, rule)| rule.direction == direction).collect();
    rules.sort_by_key(|(_, rule)| rule.priority);
    let users = rules.into_iter().map(|(name, rule)| (name.clone(), rule.clone(), Origin::User));
    let defaults = defaults::all().into_iter().filter(|default| default.rule.direction == direction);
    users.chain(defaults.map(|default| (default.name.to_owned(), default.rule, Origin::Default))).collect()
}

pub(crate) const fn way(direction: Direction) -> nsg::Direction {
    match direction {
        Direction::Inbound => nsg::Direction::Inbound,
        Direction::Outbound => nsg::Direction::Outbound,
    }
}

fn compiled(
    scope: &Scope<'_>,
    (name_of_group, group): (&str, &SecurityGroup),
    direction: Direction,
    known: &mut BTreeMap<u64, Arc<Rules>>,
) -> List {
    let ordered = ordered(group, direction);
    let label = |(name, rule, origin): &(String, Rule, Origin)| Label {
        key: nsg::rule_key(name_of_group, way(direction), name),
        name: name.as_str().into(),
        priority: rule.priority,
        origin: *origin,
    };
    let labels = ordered.iter().map(label).collect();
    let (mut rules, mut label_of) = (Vec::with_capacity(ordered.len()), Vec::with_capacity(ordered.len()));
    for (at, (_, rule, _)) in ordered.iter().enumerate() {
        if let Some(rule) = resolved(scope, rule) {
            rules.push(rule);
            label_of.push(u16::try_from(at).expect("bounded by RULES_PER_GROUP_MAX"));
        }
    }
    let stamp = stamp(&rules);
    let compiled = known.entry(stamp).or_insert_with(|| Arc::new(Rules::new(&rules)));
    List::new(Arc::clone(compiled), stamp, labels, label_of.into())
}

/// In ranges; `None` if it can take nothing, as one whose tag has no prefix or whose group has no member.
fn resolved(scope: &Scope<'_>, rule: &Rule) -> Option<nsg::Rule> {
    let ports = |ports: &[Ports]| -> Vec<Range> {
        ports.iter().map(|ports| Range { first: ports.first.into(), last: ports.last.into() }).collect()
    };
    let addresses = |resolved: Option<Vec<Range>>| match resolved {
        None => Some(Vec::new()),
        Some(some) => Some(some).filter(|some| !some.is_empty()),
    };
    Some(nsg::Rule {
        protocol: match rule.protocol {
            Protocol::Tcp => nsg::Protocol::Tcp,
            Protocol::Udp => nsg::Protocol::Udp,
            Protocol::Any => nsg::Protocol::Any,
        },
        sources: addresses(scope.resolve(&rule.source, End::Source))?,
        source_ports: ports(&rule.source_ports),
        destinations: addresses(scope.resolve(&rule.destination, End::Destination))?,
        destination_ports: ports(&rule.destination_ports),
        access: match rule.access {
            Access::Allow => nsg::Access::Allow,
            Access::Deny => nsg::Access::Deny,
        },
    })
}

/// A hash of rules: another one whenever another packet may be taken by another one.
fn stamp(rules: &[nsg::Rule]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for rule in rules {
        hasher.update(&[rule.protocol as u8, rule.access as u8]);
        for ranges in [&rule.sources, &rule.source_ports, &rule.destinations, &rule.destination_ports] {
            hasher.update(&u64::try_from(ranges.len()).unwrap_or(u64::MAX).to_le_bytes());
            for range in ranges {
                hasher.update(&range.first.to_le_bytes());
                hasher.update(&range.last.to_le_bytes());
            }
        }
    }
    let hash = *hasher.finalize().as_bytes();
    u64::from_le_bytes(*hash.first_chunk().expect("a hash is longer"))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use words::Prefix;

    use super::super::model::Addresses;
    use super::super::tag::Tag;
    use super::*;
    use crate::resource::{Subnet, VirtualNetwork};

    /// So many groups, each at a subnet of its own, of so many rules with 10 values each.
    fn declared(groups: usize, rules: usize) -> Desired {
        let mut all = Desired::default();
        let mut network = VirtualNetwork::default();
        for n in 0..groups {
            let base = 0x0a00_0000 + (u32::try_from(n).expect("few") << 8);
            let subnet = Subnet {
                prefix: Prefix { network: Ipv4Addr::from_bits(base), len: 24 },
                gateway: Ipv4Addr::from_bits(base + 1),
                security_group: Some(format!("g{n}")),
                isolated: false,
                default_outbound_access: true,
            };
            network.subnets.insert(format!("s{n}"), subnet);
            let rule = |at: usize| {
                let seed = u32::try_from(n * rules + at).expect("few");
                let prefix = |k: u32| Prefix { network: Ipv4Addr::from_bits(0x1400_0000 + seed * 8 + 2 * k), len: 32 };
                let port = u16::try_from(at % 60_000).expect("small");
                Rule {
                    priority: u16::try_from(100 + at).expect("few"),
                    direction: if at.is_multiple_of(2) { Direction::Inbound } else { Direction::Outbound },
                    access: if at.is_multiple_of(3) { Access::Deny } else { Access::Allow },
                    protocol: Protocol::Tcp,
                    source: if at.is_multiple_of(5) {
                        Addresses::Tag(Tag::Internet)
                    } else {
                        Addresses::Prefixes((0..4).map(prefix).collect())
                    },
                    source_ports: Vec::new(),
                    destination: Addresses::Prefixes((0..4).map(prefix).collect()),
                    destination_ports: vec![
                        Ports { first: port, last: port },
                        Ports { first: port + 10, last: port + 20 },
                    ],
                }
            };
            let rules = (0..rules).map(|at| (format!("r{at}"), rule(at))).collect();
            all.security_groups.insert(format!("g{n}"), SecurityGroup { rules, ..SecurityGroup::default() });
        }
        all.virtual_networks.insert("v".into(), network);
        all
    }

    fn compile(all: &Desired, last: &Attachments) -> Attachments {
        let (tags, members) = (ServiceTags::default(), Members::of(all));
        let mut compiler = GroupCompiler::new(all, &tags, &members, Known::of(last));
        let ip = |subnet: &String| IpConfiguration {
            name: "c".into(),
            virtual_network: "v".into(),
            subnet: subnet.clone(),
            private_ip: Ipv4Addr::UNSPECIFIED,
            mac: None,
            pool: None,
            admin_state: Default::default(),
            public_ip: None,
            nic: None,
        };
        let ips: Vec<IpConfiguration> = all.virtual_networks["v"].subnets.keys().map(ip).collect();
        let mut made = Vec::new();
        for (n, ip) in (1..).zip(&ips) {
            made.push((BackendId(n), compiler.attachment(None, ip).expect("a group")));
        }
        made.into_iter().collect()
    }

    fn bytes(all: &Attachments) -> usize {
        let sets = all.iter().flat_map(|(_, attachment)| attachment.sets(nsg::Direction::Inbound));
        sets.map(|(_, set)| set.inbound.rules().bytes() + set.outbound.rules().bytes()).sum()
    }

    /// 1,000 groups of 1,000 rules if `QNAT_LONG` is set.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "it says how long it took, and nothing depends on that")]
    fn what_a_change_leaves_alone_is_the_very_same_and_keeps_its_revision() {
        let (groups, rules) = if std::env::var_os("QNAT_LONG").is_some() { (1_000, 1_000) } else { (20, 300) };
        let mut all = declared(groups, rules);
        let begun = Instant::now();
        let first = compile(&all, &Attachments::default());
        let anew = begun.elapsed();
        let begun = Instant::now();
        let again = compile(&all, &first);
        let same = begun.elapsed();
        println!(
            "{groups} groups of {rules} rules: {anew:?}, {} octets; again without a change: {same:?}",
            bytes(&first)
        );
        assert_eq!(again.len(), groups);
        let is_same = |now: &Attachments, id: BackendId| {
            let find =
                |all: &Attachments| all.iter().find(|(of, _)| *of == id).map(|(_, a)| Arc::clone(a)).expect("there");
            Arc::ptr_eq(&find(now), &find(&first))
        };
        assert!(again.iter().all(|(id, _)| is_same(&again, id)) && again == first);
        assert_eq!(again.changed_since(&first).count(), 0);
        // A rule of one group changes: its backends alone are others.
        let change = all.security_groups.get_mut("g1").and_then(|group| group.rules.get_mut("r0")).expect("declared");
        change.access = if change.access == Access::Allow { Access::Deny } else { Access::Allow };
        let changed = compile(&all, &first);
        let concerned: Vec<BackendId> = changed.changed_since(&first).collect();
        assert_eq!(concerned.len(), 1, "{concerned:?}");
        assert!(changed.iter().all(|(id, _)| is_same(&changed, id) != concerned.contains(&id)));
        // Another name is told, and no verdict is another.
        let group = all.security_groups.get_mut("g2").expect("declared");
        let renamed = group.rules.remove("r0").expect("declared");
        group.rules.insert("other".into(), renamed);
        let named = compile(&all, &changed);
        assert_eq!(named.changed_since(&changed).count(), 0, "nobody decides anew");
        assert!(named != changed, "the name is another");
    }
}
