//! Security groups, from what is declared to a verdict, against a judge that reads the declaration itself, rule by rule.
//!
//! `QNAT_PAIRS` sets how many pairs of groups and packets are drawn (10 million if `QNAT_LONG` is set, else 200,000), `QNAT_SEED`
//! which.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine::ids::NodeId;
use engine::nsg::{self, Tuple};
use qnat_control::command::{Command, CommandBody};
use qnat_control::compile;
use qnat_control::nsg::defaults;
use qnat_control::nsg::model::{Access, Addresses, Direction, Model, Nic, Ports, Protocol, Rule, SecurityGroup};
use qnat_control::nsg::service_tags::ServiceTags;
use qnat_control::nsg::tag::{Region, Tag};
use qnat_control::resource::{Desired, Instance, IpConfiguration, Outside, Prefix, Subnet, VirtualNetwork};
use qnat_control::state::State;
use support::{Cluster, configure};
use words::SplitMix;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Draws of one world.
struct Draw(SplitMix);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.0.draw() % u64::try_from(n).expect("small")).expect("small")
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

/// Addresses at the edges of what rules can mean.
fn addresses() -> Vec<Ipv4Addr> {
    let texts = [
        "0.0.0.0",
        "9.255.255.255",
        "10.0.0.0",
        "10.0.0.4",
        "10.0.0.5",
        "10.0.0.6",
        "10.0.1.4",
        "10.0.255.255",
        "10.1.0.4",
        "10.1.0.5",
        "10.1.255.255",
        "10.2.0.0",
        "100.64.0.1",
        "127.0.0.1",
        "168.63.129.15",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.0.1",
        "192.168.255.255",
        "192.169.0.0",
        "198.51.100.0",
        "198.51.100.255",
        "198.51.101.0",
        "203.0.113.7",
        "20.0.0.1",
        "223.255.255.255",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "192.0.2.128",
    ];
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

const NETWORKS: [&str; 3] = ["blue", "green", "twin"];

/// Three networks, two of which may be peered and one of which has another's addresses, with instances, groups and rules.
fn world(draw: &mut Draw) -> (Desired, ServiceTags) {
    let outside = Outside { network: draw.one(&[prefix("203.0.113.0/24"), prefix("192.168.0.0/24")]), next_hop: None };
    let mut all = Desired { outside, ..Desired::default() };
    for (name, space) in NETWORKS.iter().zip(["10.0.0.0/16", "10.1.0.0/16", "10.0.0.0/16"]) {
        let base = prefix(space).network.to_bits();
        let subnet = |at: u32| Subnet {
            prefix: Prefix { network: Ipv4Addr::from_bits(base + (at << 8)), len: 24 },
            gateway: Ipv4Addr::from_bits(base + (at << 8) + 1),
            security_group: None,
            isolated: false,
            default_outbound_access: true,
        };
        let network = VirtualNetwork {
            address_space: if draw.chance(2) { vec![prefix(space)] } else { Vec::new() },
            subnets: [("a".to_owned(), subnet(0)), ("b".to_owned(), subnet(1))].into(),
            peerings: BTreeSet::new(),
            on_premises: if draw.chance(3) { vec![prefix("172.16.0.0/12")] } else { Vec::new() },
        };
        all.virtual_networks.insert((*name).into(), network);
    }
    for (one, other) in [("blue", "green"), ("green", "blue")] {
        if !draw.chance(3) {
            all.virtual_networks.get_mut(one).expect("declared").peerings.insert(other.into());
        }
    }
    for name in ["asg0", "asg1", "asg2", "asg3"] {
        all.application_security_groups.insert(name.into());
    }
    add_instances(draw, &mut all);
    for n in 0..=draw.below(4) {
        let group = group(draw, &all);
        all.security_groups.insert(format!("g{n}"), group);
    }
    attach(draw, &mut all);
    (all, tags(draw))
}

fn tags(draw: &mut Draw) -> ServiceTags {
    let mut tags = ServiceTags { version: 1, ..ServiceTags::default() };
    for tag in [Tag::Storage, Tag::StorageIn(Region::EastUs), Tag::SqlIn(Region::WestUs)] {
        if !draw.chance(3) {
            let networks =
                [prefix("198.51.100.0/24"), prefix("192.0.2.0/25"), prefix("20.0.0.1/32"), prefix("10.0.0.4/32")];
            tags.prefixes.insert(tag, vec![draw.one(&networks)]);
        }
    }
    tags
}

/// Two in each network, with interfaces or without; members of a group are of one network.
fn add_instances(draw: &mut Draw, all: &mut Desired) {
    for (n, network) in NETWORKS.iter().enumerate() {
        let base = if *network == "green" { "10.1.0.0" } else { "10.0.0.0" };
        let base = base.parse::<Ipv4Addr>().expect("an address").to_bits();
        for at in 0..3_u32 {
            let (subnet, offset) = if at == 2 { ("b", 256 + 4) } else { ("a", 4 + at) };
            let nic = format!("{network}{at}");
            let declared = !draw.chance(4);
            if declared {
                let groups: &[&str] = [&["asg0", "asg3"][..], &["asg1"], &["asg2"]][n];
                let groups = groups.iter().filter(|_| draw.chance(2)).map(|group| (*group).to_owned()).collect();
                let nic_of = Nic {
                    virtual_network: (*network).into(),
                    subnet: subnet.into(),
                    security_group: None,
                    application_security_groups: groups,
                };
                all.nics.insert(nic.clone(), nic_of);
            }
            let ip = IpConfiguration {
                name: "c".into(),
                virtual_network: (*network).into(),
                subnet: subnet.into(),
                private_ip: Ipv4Addr::from_bits(base + offset),
                mac: None,
                pool: None,
                admin_state: Default::default(),
                public_ip: None,
                nic: declared.then_some(nic.clone()),
            };
            all.instances.insert(nic, Instance { ip_configurations: vec![ip], ..Instance::default() });
        }
    }
}

fn attach(draw: &mut Draw, all: &mut Desired) {
    let groups: Vec<(String, Model)> = all.security_groups.iter().map(|(name, g)| (name.clone(), g.model)).collect();
    for subnet in all.virtual_networks.values_mut().flat_map(|network| network.subnets.values_mut()) {
        subnet.security_group = draw.chance(2).then(|| draw.one(&groups).0);
    }
    for instance in all.instances.values_mut() {
        let (group, model) = draw.one(&groups);
        let nic = instance.ip_configurations[0].nic.as_ref().and_then(|nic| all.nics.get_mut(nic));
        match (model, nic) {
            (_, _) if draw.chance(3) => {}
            (Model::Classic, _) => instance.security_group = Some(group),
            (Model::ResourceManager, Some(nic)) => nic.security_group = Some(group),
            (Model::ResourceManager, None) => {}
        }
    }
}

fn group(draw: &mut Draw, all: &Desired) -> SecurityGroup {
    let model = if draw.chance(4) { Model::Classic } else { Model::ResourceManager };
    let mut rules = BTreeMap::new();
    let mut free: Vec<u16> = (100..140).collect();
    for n in 0..draw.below(9) {
        let priority = free.swap_remove(draw.below(free.len()));
        rules.insert(format!("r{n}"), rule(draw, all, (model, priority)));
    }
    SecurityGroup { model, rules }
}

fn rule(draw: &mut Draw, all: &Desired, (model, priority): (Model, u16)) -> Rule {
    let mut rule = Rule {
        priority,
        direction: draw.one(&[Direction::Inbound, Direction::Outbound]),
        access: draw.one(&[Access::Allow, Access::Deny]),
        protocol: draw.one(&[Protocol::Tcp, Protocol::Udp, Protocol::Any]),
        source: end(draw, model),
        source_ports: ports(draw, model),
        destination: end(draw, model),
        destination_ports: ports(draw, model),
    };
    // Both groups of a rule are of one network.
    let network = |group: &str| {
        all.nics.values().find(|nic| nic.application_security_groups.contains(group)).map(|nic| &nic.virtual_network)
    };
    if let (Addresses::Members(from), Addresses::Members(to)) = (&rule.source, &rule.destination)
        && let (Some(one), Some(other)) = (network(from), network(to))
        && one != other
    {
        rule.destination = Addresses::Any;
    }
    rule
}

fn end(draw: &mut Draw, model: Model) -> Addresses {
    let plain = [Tag::VirtualNetwork, Tag::Internet, Tag::AzureLoadBalancer];
    let services = [Tag::Storage, Tag::StorageIn(Region::EastUs), Tag::SqlIn(Region::WestUs), Tag::AzureTrafficManager];
    let classic = model == Model::Classic;
    match draw.below(if classic { 3 } else { 5 }) {
        0 => Addresses::Any,
        1 => {
            let lengths = [8, 16, 24, 25, 31, 32];
            let one = |draw: &mut Draw| Prefix { network: draw.one(&addresses()), len: draw.one(&lengths) }.normal();
            let count = if classic { 1 } else { 1 + draw.below(3) };
            Addresses::Prefixes((0..count).map(|_| one(draw)).collect())
        }
        2 => Addresses::Tag(draw.one(&plain)),
        3 => Addresses::Tag(draw.one(&services)),
        _ => Addresses::Members(draw.one(&["asg0", "asg1", "asg2", "asg3"]).into()),
    }
}

fn ports(draw: &mut Draw, model: Model) -> Vec<Ports> {
    let count = if model == Model::Classic { draw.below(2) } else { draw.below(4).saturating_sub(1) };
    let one = |draw: &mut Draw| {
        let (a, b) = (draw.one(&EDGES), draw.one(&EDGES));
        Ports { first: a.min(b), last: a.max(b) }
    };
    (0..count).map(|_| one(draw)).collect()
}

const EDGES: [u16; 8] = [0, 1, 79, 80, 81, 443, 65_534, 65_535];

/// A packet to or from an address.
fn packet(draw: &mut Draw, own: Ipv4Addr, direction: Direction) -> Tuple {
    let protocol = draw.one(&[1, 6, 6, 6, 17, 17, 47]);
    let mut port = || if matches!(protocol, 6 | 17) { draw.one(&EDGES) } else { 0 };
    let (source_port, destination_port) = (port(), port());
    let other = draw.one(&addresses());
    let (source, destination) = match direction {
        Direction::Inbound => (other, own),
        Direction::Outbound => (own, other),
    };
    Tuple { protocol, source: source.to_bits(), source_port, destination: destination.to_bits(), destination_port }
}

/// The judge that reads what is declared.
struct Naive<'a> {
    desired: &'a Desired,
    tags: &'a ServiceTags,
    network: &'a str,
}

/// The group, and its rule.
type Decided = (String, String);

impl Naive<'_> {
    fn verdict(
        &self,
        (instance, ip): (&Instance, &IpConfiguration),
        direction: Direction,
        packet: &Tuple,
    ) -> (bool, Option<Decided>) {
        let of_subnet = self.desired.virtual_networks[self.network].subnets[&ip.subnet].security_group.as_ref();
        let of_nic = ip.nic.as_ref().and_then(|nic| self.desired.nics[nic].security_group.as_ref());
        let of_card = instance.security_group.as_ref().or(of_nic);
        let order = match direction {
            Direction::Inbound => [of_subnet, of_card],
            Direction::Outbound => [of_card, of_subnet],
        };
        let mut last = None;
        for group in order.into_iter().flatten() {
            let (access, rule) = self.judge(&self.desired.security_groups[group], direction, packet);
            last = Some((group.clone(), rule));
            if access == Access::Deny {
                return (false, last);
            }
        }
        (true, last)
    }

    fn judge(&self, group: &SecurityGroup, direction: Direction, packet: &Tuple) -> (Access, String) {
        let mut rules: Vec<(String, Rule)> = group.rules.iter().map(|(n, r)| (n.clone(), r.clone())).collect();
        rules.extend(defaults::all().into_iter().map(|default| (default.name.to_owned(), default.rule)));
        rules.retain(|(_, rule)| rule.direction == direction);
        rules.sort_by_key(|(_, rule)| rule.priority);
        let (name, rule) = rules.into_iter().find(|(_, rule)| self.takes(rule, packet)).expect("the last takes all");
        (rule.access, name)
    }

    fn takes(&self, rule: &Rule, packet: &Tuple) -> bool {
        let protocol = match rule.protocol {
            Protocol::Tcp => packet.protocol == 6,
            Protocol::Udp => packet.protocol == 17,
            Protocol::Any => true,
        };
        let has_ports = matches!(packet.protocol, 6 | 17);
        let ports = |ranges: &[Ports], port: u16| {
            ranges.is_empty() || (has_ports && ranges.iter().any(|range| (range.first..=range.last).contains(&port)))
        };
        protocol
            && ports(&rule.source_ports, packet.source_port)
            && ports(&rule.destination_ports, packet.destination_port)
            && self.names(&rule.source, Ipv4Addr::from_bits(packet.source), false)
            && self.names(&rule.destination, Ipv4Addr::from_bits(packet.destination), true)
    }

    fn names(&self, addresses: &Addresses, ip: Ipv4Addr, as_destination: bool) -> bool {
        match addresses {
            Addresses::Any => true,
            Addresses::Prefixes(prefixes) => prefixes.iter().any(|prefix| prefix.contains(ip)),
            Addresses::Tag(Tag::VirtualNetwork) => self.in_network(ip) || (as_destination && is_platform(ip)),
            Addresses::Tag(Tag::Internet) => {
                let reached = is_public(ip) || self.desired.outside.network.contains(ip);
                reached && !self.in_network(ip) && !is_platform(ip)
            }
            Addresses::Tag(tag) => self.tags.of(*tag).iter().any(|prefix| prefix.contains(ip)),
            Addresses::Members(group) => {
                let ips = self.desired.instances.values().flat_map(|instance| &instance.ip_configurations);
                let mut members = ips.filter(|ip| {
                    let nic = ip.nic.as_ref().map(|nic| &self.desired.nics[nic]);
                    nic.is_some_and(|nic| nic.application_security_groups.contains(group))
                });
                members.any(|member| member.private_ip == ip && self.reaches(&member.virtual_network))
            }
        }
    }

    /// The network itself, and those that it is peered with from both sides.
    fn reaches(&self, other: &str) -> bool {
        let names = |one: &str, other: &str| self.desired.virtual_networks[one].peerings.contains(other);
        other == self.network || (names(self.network, other) && names(other, self.network))
    }

    fn in_network(&self, ip: Ipv4Addr) -> bool {
        let holds = |network: &VirtualNetwork| match network.address_space.is_empty() {
            true => network.subnets.values().any(|subnet| subnet.prefix.contains(ip)),
            false => network.address_space.iter().any(|space| space.contains(ip)),
        };
        let mut networks = self.desired.virtual_networks.iter();
        let on_premises = &self.desired.virtual_networks[self.network].on_premises;
        networks.any(|(name, network)| self.reaches(name) && holds(network))
            || on_premises.iter().any(|prefix| prefix.contains(ip))
    }
}

fn is_platform(ip: Ipv4Addr) -> bool {
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(169, 254, 169, 254)].contains(&ip)
}

fn is_public(ip: Ipv4Addr) -> bool {
    let carrier = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
    let first = ip.octets()[0];
    !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || carrier || first == 0 || first >= 224)
}

/// A state in which this is declared.
fn state_of(desired: &Desired, tags: &ServiceTags) -> State {
    let mut state = Cluster::founded(1).state;
    for (n, body) in
        [CommandBody::SetServiceTags(Box::new(tags.clone())), configure(desired, vec![])].into_iter().enumerate()
    {
        let n = u64::try_from(n).expect("small");
        let command = Command { key: u128::from(n).to_le_bytes(), stamped_unix_ms: 1, draw: 0, body };
        let outcome = state.apply(state.index().0 + 1, &command);
        assert!(outcome.is_applied(), "{outcome}\n{desired:#?}");
    }
    state
}

#[test]
fn a_verdict_and_its_rule_are_those_that_the_declared_rules_give_one_by_one() {
    let long = std::env::var_os("QNAT_LONG").is_some();
    let pairs = number("QNAT_PAIRS").unwrap_or(if long { 10_000_000 } else { 200_000 });
    let seed = number("QNAT_SEED").unwrap_or(1);
    let (mut judged, mut denied, mut worlds) = (0, 0, 0);
    let mut decided: BTreeMap<String, u64> = BTreeMap::new();
    while judged < pairs {
        let mut draw = Draw(SplitMix::new(seed.wrapping_add(worlds)));
        worlds += 1;
        let (desired, tags) = world(&mut draw);
        let state = state_of(&desired, &tags);
        let snapshot = compile::snapshot(&state, NodeId(1));
        for (id, backend) in &state.allocation().backends {
            let instance = &desired.instances[&backend.instance];
            let ip = &instance.ip_configurations[0];
            let naive = Naive { desired: &desired, tags: &tags, network: &ip.virtual_network };
            for _ in 0..50 {
                let direction = draw.one(&[Direction::Inbound, Direction::Outbound]);
                let packet = packet(&mut draw, ip.private_ip, direction);
                let way = match direction {
                    Direction::Inbound => nsg::Direction::Inbound,
                    Direction::Outbound => nsg::Direction::Outbound,
                };
                let verdict = nsg::verdict(way, snapshot.security.of(*id), &packet);
                let said = verdict.decision.map(|d| (d.group.to_owned(), d.rule.expect("a rule").name.to_string()));
                let allowed = verdict.access == nsg::Access::Allow;
                let wanted = naive.verdict((instance, ip), direction, &packet);
                assert_eq!(
                    (allowed, said.clone()),
                    wanted,
                    "seed {seed}, world {worlds}: {direction:?} {packet:?} of {ip:?}\n{desired:#?}"
                );
                judged += 1;
                denied += u64::from(!allowed);
                *decided.entry(said.map_or_else(|| "no group".to_owned(), |(_, rule)| rule)).or_default() += 1;
            }
        }
    }
    println!("{judged} pairs in {worlds} worlds, {denied} denied; decided by {decided:?}");
    assert!(denied * 5 > judged && denied * 5 < judged * 4, "both verdicts are common: {denied} of {judged} denied");
    let rare: Vec<_> =
        defaults::NAMES.iter().filter(|name| decided.get(**name).is_none_or(|n| *n < judged / 2_000)).collect();
    assert!(rare.is_empty(), "default rules that hardly ever decide: {rare:?}");
}
