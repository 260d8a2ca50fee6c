//! The configuration as a file: what is printed is read back as it was, whatever is declared, and applied it changes nothing.

mod support;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use engine::ids::Mac;
use proptest::prelude::*;
use qnat_control::config::parse;
use qnat_control::inbound::model::{Distribution, InboundRule, RuleProtocol, Target};
use qnat_control::nsg::model::{Access, Addresses, Direction, Model, Nic, Ports, Protocol, Rule, SecurityGroup};
use qnat_control::nsg::tag::Tag;
use qnat_control::plan;
use qnat_control::printing::print;
use qnat_control::probing::model::{Probe, ProbeProtocol};
use qnat_control::resource::Role;
use qnat_control::resource::{
    AdminState, DefaultOutbound, Desired, Filtering, Instance, IpConfiguration, LoadBalancer, OnReclaim, OutboundRule,
    Outside, PoolRef, Prefix, Profile, PublicIp, Settings, Sharing, Subnet, VirtualNetwork,
};
use qnat_control::validate::issues;
use support::Cluster;

/// Numbers to draw from; what is drawn beyond their end is 0, so that a shorter list means less of everything.
struct Tape(std::vec::IntoIter<u32>);

impl Tape {
    fn below(&mut self, bound: u32) -> u32 {
        self.0.next().unwrap_or(0) % bound
    }

    fn octet(&mut self, bound: u8) -> u8 {
        u8::try_from(self.below(bound.into())).expect("below an octet")
    }

    fn port(&mut self) -> u16 {
        1_024 + u16::try_from(self.below(64_000)).expect("a port")
    }

    fn is(&mut self) -> bool {
        self.below(2) == 1
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(u32::try_from(of.len()).expect("few")) as usize]
    }

    /// One of these, or none.
    fn some(&mut self, of: &[String]) -> Option<String> {
        (!of.is_empty() && self.is()).then(|| self.one(of).clone())
    }

    /// Some of these, each once, in any order.
    fn several(&mut self, of: &[String]) -> Vec<String> {
        let mut all: Vec<String> = of.iter().filter(|_| self.is()).cloned().collect();
        if self.is() {
            all.reverse();
        }
        all
    }
}

/// A configuration as it grows: what would make it invalid is left out.
struct Growing {
    tape: Tape,
    desired: Desired,
}

fn name(kind: &str, n: u32) -> String {
    format!("{kind}_{n}-X")
}

fn names<T>(of: &std::collections::BTreeMap<String, T>) -> Vec<String> {
    of.keys().cloned().collect()
}

fn prefix(octets: [u8; 4], len: u8) -> Prefix {
    Prefix { network: Ipv4Addr::from(octets), len }
}

impl Growing {
    fn try_to(&mut self, change: impl FnOnce(&mut Tape, &mut Desired)) {
        let mut next = self.desired.clone();
        change(&mut self.tape, &mut next);
        if issues(&next).is_empty() {
            self.desired = next;
        }
    }

    fn times(&mut self, most: u32, change: impl Fn(&mut Tape, &mut Desired, u32)) {
        for n in 0..self.tape.below(most + 1) {
            self.try_to(|tape, desired| change(tape, desired, n));
        }
    }
}

fn network(tape: &mut Tape, desired: &mut Desired, n: u32) {
    let place = u8::try_from(n).expect("few");
    let mut network = VirtualNetwork::default();
    if tape.is() {
        network.address_space = vec![prefix([10, 100 + place, 0, 0], 16), prefix([10, place, 0, 0], 16)];
    }
    if tape.is() {
        network.on_premises = vec![prefix([192, 168, place, 0], 24), prefix([172, 16, place, 64], 26)];
    }
    for subnet in 0..=tape.octet(3) {
        let gateway = Ipv4Addr::from([10, place, subnet, *tape.one(&[1, 254])]);
        let (prefix, isolated, default_outbound_access) = (prefix([10, place, subnet, 0], 24), tape.is(), tape.is());
        let subnet_of = Subnet { prefix, gateway, security_group: None, isolated, default_outbound_access };
        network.subnets.insert(name("subnet", subnet.into()), subnet_of);
    }
    network.peerings = tape.several(&names(&desired.virtual_networks)).into_iter().collect();
    desired.virtual_networks.insert(name("vnet", n), network);
}

fn public_ip(tape: &mut Tape, desired: &mut Desired, n: u32) {
    let reserved_ports = (0..tape.below(4)).map(|_| tape.port()).collect();
    let address = Ipv4Addr::from([203, 0, 113, u8::try_from(n + 1).expect("few")]);
    desired.public_ips.insert(name("pip", n), PublicIp { address, reserved_ports });
}

fn balancer(tape: &mut Tape, desired: &mut Desired, n: u32) {
    let taken: BTreeSet<&String> = desired.load_balancers.values().flat_map(|balancer| &balancer.frontends).collect();
    let free: Vec<String> = desired.public_ips.keys().filter(|name| !taken.contains(name)).cloned().collect();
    let mut frontends = tape.several(&free);
    frontends.extend(free.first().filter(|_| frontends.is_empty()).cloned());
    let pools = (0..tape.below(4)).map(|n| name("pool", n)).collect();
    desired.load_balancers.insert(name("lb", n), LoadBalancer { frontends, pools, ..LoadBalancer::default() });
}

/// A load balancer of these, by drawing.
fn some_balancer<'a>(tape: &mut Tape, desired: &'a mut Desired) -> Option<&'a mut LoadBalancer> {
    let all = names(&desired.load_balancers);
    if all.is_empty() { None } else { desired.load_balancers.get_mut(tape.one(&all)) }
}

fn outbound_rule(tape: &mut Tape, desired: &mut Desired, n: u32) {
    let Some(balancer) = some_balancer(tape, desired) else { return };
    let pools: Vec<String> = balancer.pools.iter().cloned().collect();
    if pools.is_empty() {
        return;
    }
    let rule = OutboundRule {
        pool: tape.one(&pools).clone(),
        frontends: tape.several(&balancer.frontends),
        idle_timeout_minutes: 4 + tape.octet(97),
        enable_tcp_reset: tape.is(),
        profile: *tape.one(&[Profile::Azure, Profile::Rfc]),
        sharing: *tape.one(&[Sharing::Tuple, Sharing::Address]),
        filtering: *tape.one(&[Filtering::AddressDependent, Filtering::EndpointIndependent]),
        on_reclaim: *tape.one(&[OnReclaim::Expire, OnReclaim::Drain, OnReclaim::Reset]),
    };
    balancer.outbound_rules.insert(name("out", n), rule);
}

fn probe(tape: &mut Tape, desired: &mut Desired, n: u32) {
    let Some(balancer) = some_balancer(tape, desired) else { return };
    balancer.probes.insert(name("probe", n), some_probe(tape));
}

fn some_probe(tape: &mut Tape) -> Probe {
    let protocol = *tape.one(&[ProbeProtocol::Tcp, ProbeProtocol::Http, ProbeProtocol::Https]);
    let paths: &[&str] = if protocol == ProbeProtocol::Tcp { &[""] } else { &["/", "/a%20b/~c;d=e?f='g'&h=(*)"] };
    Probe {
        protocol,
        port: tape.port(),
        request_path: (*tape.one(paths)).to_owned(),
        interval_seconds: 1 + u16::from(tape.octet(200)),
        number_of_probes: 1 + tape.octet(20),
    }
}

fn inbound_rule(tape: &mut Tape, desired: &mut Desired, n: u32) {
    let instances = desired.instances.iter();
    let ends: Vec<(String, String)> = instances
        .flat_map(|(instance, of)| of.ip_configurations.iter().map(|ip| (instance.clone(), ip.name.clone())))
        .collect();
    let Some(balancer) = some_balancer(tape, desired) else { return };
    let pools: Vec<String> = balancer.pools.iter().cloned().collect();
    let to_one = tape.is();
    if (to_one && ends.is_empty()) || (!to_one && pools.is_empty()) {
        return;
    }
    let protocol = *tape.one(&[RuleProtocol::Tcp, RuleProtocol::Udp, RuleProtocol::All]);
    let port = |tape: &mut Tape| if protocol == RuleProtocol::All { 0 } else { tape.port() };
    let distributions = [Distribution::Connection, Distribution::SourceAndProtocol, Distribution::Source];
    let rule = InboundRule {
        frontend: tape.one(&balancer.frontends).clone(),
        protocol,
        frontend_port: port(tape),
        target: if to_one {
            let (instance, ip_configuration) = tape.one(&ends).clone();
            Target::IpConfiguration { instance, ip_configuration }
        } else {
            Target::Pool(tape.one(&pools).clone())
        },
        backend_port: port(tape),
        probe: if to_one { None } else { tape.some(&names(&balancer.probes)) },
        distribution: if to_one { Distribution::default() } else { *tape.one(&distributions) },
        idle_timeout_minutes: 4 + tape.octet(97),
        enable_tcp_reset: tape.is(),
        floating_ip: tape.is(),
    };
    let table = if to_one { &mut balancer.inbound_nat_rules } else { &mut balancer.load_balancing_rules };
    table.insert(name("in", n), rule);
}

fn nic(tape: &mut Tape, desired: &mut Desired, n: u32) {
    let Some((virtual_network, subnet)) = some_subnet(tape, desired) else { return };
    let security_group = tape.some(&names(&desired.security_groups));
    let groups: Vec<String> = desired.application_security_groups.iter().cloned().collect();
    let application_security_groups = tape.several(&groups).into_iter().collect();
    let nic = Nic { virtual_network, subnet, security_group, application_security_groups };
    desired.nics.insert(name("nic", n), nic);
}

fn some_subnet(tape: &mut Tape, desired: &Desired) -> Option<(String, String)> {
    let networks = desired.virtual_networks.iter();
    let all: Vec<(String, String)> = networks
        .flat_map(|(network, of)| of.subnets.keys().map(move |subnet| (network.clone(), subnet.clone())))
        .collect();
    (!all.is_empty()).then(|| tape.one(&all).clone())
}

fn instance(tape: &mut Tape, desired: &mut Desired, n: u32) {
    let sets: Vec<String> = desired.availability_sets.iter().cloned().collect();
    let (security_group, availability_set) = (tape.some(&names(&desired.security_groups)), tape.some(&sets));
    let probe = tape.is().then(|| some_probe(tape));
    let mut instance = Instance { security_group, availability_set, probe, ..Instance::default() };
    for number in 0..=tape.octet(3) {
        let nic = tape.some(&names(&desired.nics));
        let place =
            nic.as_ref().map(|nic| &desired.nics[nic]).map(|nic| (nic.virtual_network.clone(), nic.subnet.clone()));
        let Some((virtual_network, subnet)) = place.or_else(|| some_subnet(tape, desired)) else { return };
        let [a, b, c, _] = desired.virtual_networks[&virtual_network].subnets[&subnet].prefix.network.octets();
        let balancers = desired.load_balancers.iter();
        let pools: Vec<PoolRef> = balancers
            .flat_map(|(name, of)| {
                of.pools.iter().map(|pool| PoolRef { load_balancer: name.clone(), pool: pool.clone() })
            })
            .collect();
        let pool = (!pools.is_empty() && tape.is()).then(|| tape.one(&pools).clone());
        let states: &[AdminState] = match pool {
            Some(_) => &[AdminState::None, AdminState::Up, AdminState::Down],
            None => &[AdminState::None],
        };
        instance.ip_configurations.push(IpConfiguration {
            name: name("ip", number.into()),
            virtual_network,
            subnet,
            private_ip: Ipv4Addr::from([a, b, c, 2 + tape.octet(250)]),
            mac: tape.is().then(|| Mac([0x52, 0x54, 0, 1, tape.octet(255), number])),
            pool,
            admin_state: *tape.one(states),
            public_ip: if tape.below(3) == 1 { tape.some(&names(&desired.public_ips)) } else { None },
            nic,
        });
    }
    if instance.ip_configurations.iter().all(|ip| ip.public_ip.is_none()) {
        instance.role = *tape.one(&[None, Some(Role::Web), Some(Role::Worker)]);
    }
    desired.instances.insert(name("i", n), instance);
}

fn security_group(tape: &mut Tape, desired: &mut Desired, n: u32) {
    let model = *tape.one(&[Model::ResourceManager, Model::Classic]);
    desired.security_groups.insert(name("nsg", n), SecurityGroup { model, ..SecurityGroup::default() });
}

fn security_rule(tape: &mut Tape, desired: &mut Desired, n: u32) {
    let (groups, members) =
        (names(&desired.security_groups), desired.application_security_groups.iter().cloned().collect::<Vec<_>>());
    if groups.is_empty() {
        return;
    }
    let rule = Rule {
        priority: 100 + u16::try_from(tape.below(3_997)).expect("a priority"),
        direction: *tape.one(&[Direction::Inbound, Direction::Outbound]),
        access: *tape.one(&[Access::Allow, Access::Deny]),
        protocol: *tape.one(&[Protocol::Tcp, Protocol::Udp, Protocol::Any]),
        source: addresses(tape, &members),
        source_ports: ports(tape),
        destination: addresses(tape, &members),
        destination_ports: ports(tape),
    };
    let group = desired.security_groups.get_mut(tape.one(&groups)).expect("drawn");
    group.rules.insert(name("rule", n), rule);
}

fn addresses(tape: &mut Tape, members: &[String]) -> Addresses {
    match tape.below(4) {
        0 => Addresses::Any,
        1 => Addresses::Tag(*tape.one(&Tag::all().collect::<Vec<_>>())),
        2 if !members.is_empty() => Addresses::Members(tape.one(members).clone()),
        _ => {
            let one = |tape: &mut Tape| {
                let len = *tape.one(&[32, 24, 8]);
                prefix([10, tape.octet(255), tape.octet(255), tape.octet(255)], len).normal()
            };
            Addresses::Prefixes((0..=tape.below(3)).map(|_| one(tape)).collect())
        }
    }
}

fn ports(tape: &mut Tape) -> Vec<Ports> {
    let one = |tape: &mut Tape| {
        let first = tape.port();
        Ports { first, last: first + if tape.is() { 7 } else { 0 } }
    };
    (0..tape.below(3)).map(|_| one(tape)).collect()
}

/// Groups attached to what is there already.
fn attach(tape: &mut Tape, desired: &mut Desired, _: u32) {
    let groups = names(&desired.security_groups);
    let Some((network, subnet)) = some_subnet(tape, desired) else { return };
    let group = tape.some(&groups);
    let network = desired.virtual_networks.get_mut(&network).expect("drawn");
    network.subnets.get_mut(&subnet).expect("drawn").security_group = group;
}

/// System addresses: one, or a network and one.
fn default_outbound(tape: &mut Tape, desired: &mut Desired) {
    let (network, single) = (prefix([203, 0, 113, 240], 29), prefix([203, 0, 113, 100 + tape.octet(9)], 32));
    let addresses = tape.one(&[vec![], vec![single], vec![network, single]]).clone();
    desired.default_outbound = DefaultOutbound { addresses };
}

fn settings(tape: &mut Tape) -> Settings {
    let d = Settings::default();
    let mut near = |value: u32| value + tape.below(3);
    Settings {
        tick_ms: near(d.tick_ms),
        heartbeat_ticks: near(d.heartbeat_ticks),
        vote_ticks: near(d.vote_ticks),
        orphan_grace_ms: near(d.orphan_grace_ms),
        recreate_quarantine_ms: near(d.recreate_quarantine_ms),
        hold_ms: d.hold_ms.map(&mut near),
        replicas: near(d.replicas),
        shards_max: near(1),
        held_packets_per_backend_max: near(d.held_packets_per_backend_max),
        held_bytes_max: near(d.held_bytes_max),
        flows_per_shard_max: near(d.flows_per_shard_max),
        flows_per_backend_max: near(d.flows_per_backend_max),
        new_flows_per_second_max: near(d.new_flows_per_second_max),
        short_idle_ports: (0..tape.below(4)).map(|_| tape.port()).collect(),
        mss_max: *tape.one(&[0, 536, 1_360]),
        icmp_on_refusal: tape.is(),
    }
}

/// A valid configuration out of these numbers.
fn grown(numbers: Vec<u32>) -> Desired {
    let network_of_all = prefix([203, 0, 113, 0], 24);
    let outside = Outside { network: network_of_all, next_hop: None };
    let mut growing = Growing { tape: Tape(numbers.into_iter()), desired: Desired { outside, ..Desired::default() } };
    growing.times(3, network);
    growing.times(8, public_ip);
    growing.times(2, balancer);
    growing.times(4, |tape, desired, n| {
        let _is_new = desired.application_security_groups.insert(name("asg", tape.below(2) + 2 * n));
    });
    growing.times(3, |_, desired, n| {
        let _is_new = desired.availability_sets.insert(name("as", n));
    });
    growing.times(3, security_group);
    growing.times(8, security_rule);
    growing.times(4, nic);
    growing.times(6, instance);
    growing.times(4, outbound_rule);
    growing.times(4, probe);
    growing.times(5, inbound_rule);
    growing.times(4, attach);
    growing.try_to(default_outbound);
    growing.try_to(|tape, desired| {
        desired.outside.next_hop = tape.is().then(|| Ipv4Addr::from([203, 0, 113, 254]));
    });
    growing.try_to(|tape, desired| desired.settings = settings(tape));
    growing.desired
}

fn read_back(text: &str) -> Desired {
    parse("printed.toml", text).unwrap_or_else(|errors| panic!("{}\n{text}", errors[0]))
}

proptest! {
    #[test]
    fn what_is_printed_of_any_configuration_is_read_as_it_was_and_changes_nothing(
        numbers in prop::collection::vec(any::<u32>(), 0..700),
    ) {
        let desired = grown(numbers);
        let mut cluster = Cluster::running(3);
        if cluster.configure(&desired).is_applied() {
            let text = print(cluster.state.desired());
            let again = read_back(&text);
            prop_assert_eq!(&again, &desired, "{}", text);
            prop_assert_eq!(plan::diff(&cluster.state, &again).changes, vec![]);
            prop_assert_eq!(print(&again), text);
        } else {
            // Whatever the state of a cluster refuses is a configuration all the same.
            prop_assert_eq!(read_back(&print(&desired)), desired);
        }
    }
}

#[test]
fn a_cluster_without_resources_has_its_settings() {
    assert_eq!(read_back(&print(&Desired::default())), Desired::default());
}

/// Tables that there are once.
const ALONE: [&str; 4] = ["instance.probe", "default_outbound", "outside", "settings"];

/// All fields of a table of the file, or of the file itself, as its reader names them.
fn known_fields(table: &str) -> BTreeSet<String> {
    let path: Vec<&str> = table.split('.').filter(|part| !part.is_empty()).collect();
    let heads = (1..=path.len()).map(|len| path[..len].join(".")).map(|head| match ALONE.contains(&head.as_str()) {
        true => format!("[{head}]\n"),
        false => format!("[[{head}]]\nname = \"n\"\n"),
    });
    let text = heads.collect::<String>() + "nobody-has-such-a-field = 1\n";
    let errors = parse("f.toml", &text).expect_err("an unknown field");
    let error = errors.iter().find(|error| error.path.ends_with("nobody-has-such-a-field")).expect("it is told");
    let fields = error.remedy.strip_prefix("known fields: ").unwrap_or_else(|| panic!("{error}"));
    // The tables below it are lists of their own.
    let below = |field: &str| TABLES.contains(&format!("{table}.{field}").as_str());
    fields.split(", ").filter(|field| !below(field)).map(ToOwned::to_owned).collect()
}

const TABLES: [&str; 20] = [
    "virtual_network",
    "virtual_network.subnet",
    "public_ip",
    "load_balancer",
    "load_balancer.pool",
    "load_balancer.outbound_rule",
    "load_balancer.probe",
    "load_balancer.load_balancing_rule",
    "load_balancer.inbound_nat_rule",
    "availability_set",
    "instance",
    "instance.probe",
    "instance.ip_configuration",
    "nic",
    "application_security_group",
    "security_group",
    "security_group.rule",
    "default_outbound",
    "outside",
    "settings",
];

/// The fields that a printed file has, each with its table.
fn fields_of(text: &str) -> BTreeSet<(String, String)> {
    let mut table = String::new();
    let mut fields = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with('[') {
            table = line.trim_matches(['[', ']']).to_owned();
        } else if let Some((field, _)) = line.split_once(" = ") {
            fields.insert((table.clone(), field.to_owned()));
        }
    }
    fields
}

/// What reads a file knows no field that is never printed; and the configurations above have them all.
#[test]
fn every_field_of_the_file_is_printed() {
    let mut printed = BTreeSet::new();
    let mut numbers = 1u32;
    for _ in 0..60 {
        let tape = (0..700).map(|_| {
            numbers = numbers.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            numbers >> 8
        });
        printed.extend(fields_of(&print(&grown(tape.collect()))));
    }
    for table in known_fields("") {
        assert!(TABLES.contains(&table.as_str()), "{table} is not looked at");
    }
    for table in TABLES {
        for field in known_fields(table) {
            assert!(printed.contains(&(table.to_owned(), field.clone())), "{table}.{field} is in none of them");
        }
    }
}
