//! A configuration that is too long for one entry: it comes in parts and takes effect by one entry.

mod support;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use engine::ids::{ControlIndex, Mac};
use qnat_control::command::{Command, CommandBody, Configure};
use qnat_control::config;
use qnat_control::limits::{
    BACKENDS_MAX, COMMAND_LEN_MAX, CONFIGURATION_LEN_MAX, FILE_LEN_MAX, HINTS_MAX, PART_LEN_MAX, PARTS_MAX,
    STATE_LEN_MAX,
};
use qnat_control::loads::PortLoad;
use qnat_control::nsg::bounds::{
    APPLICATION_GROUPS_MAX, GROUPS_PER_NIC_MAX, MEMBERS_PER_GROUP_MAX, MEMBERSHIPS_MAX, NICS_MAX, ON_PREMISES_MAX,
    PEERINGS_MAX, RULE_PORTS_MAX, RULE_PREFIXES_MAX, RULE_VALUES_MAX, RULES_MAX, RULES_PER_GROUP_MAX,
    SECURITY_GROUPS_MAX,
};
use qnat_control::nsg::model::{Access, Addresses, Direction, Nic, Ports, Protocol, Rule, SecurityGroup};
use qnat_control::outcome::Outcome;
use qnat_control::parts::{Cut, ENTRIES_MAX};
use qnat_control::resource::{
    AdminState, Desired, Instance, IpConfiguration, LoadBalancer, OutboundRule, PoolRef, Prefix, PublicIp, Subnet,
    VirtualNetwork,
};
use qnat_control::validate::{
    ADDRESS_SPACE_MAX, CLUSTER_SHARDS_MAX, FRONTENDS_MAX, IP_CONFIGURATIONS_MAX, NAME_LEN_MAX, POOLS_MAX,
    PUBLIC_IPS_MAX, RESERVED_PORTS_MAX, SUBNETS_MAX, VIRTUAL_NETWORKS_MAX, issues,
};
use support::{Cluster, add_instance, configure, desired};
use words::envelope::ENVELOPE_LEN;

/// A name of the greatest length.
fn name(kind: &str, n: usize) -> String {
    let number = n.to_string();
    format!("{kind}{}{number}", "x".repeat(NAME_LEN_MAX - kind.len() - number.len()))
}

/// The longest configuration that the limits allow, or nearly: some fields are longest only where others are not. Inside
/// addresses begin with the octet `first`.
fn largest(first: u8) -> Desired {
    let inside = u32::from(first) << 24;
    let mut all = desired(1, 0);
    let rule = all.load_balancers["lb1"].outbound_rules["out"].clone();
    all.load_balancers.clear();
    all.public_ips.clear();
    all.virtual_networks.clear();
    // Subnets of /22, four in each network.
    let subnet =
        |n: usize| Prefix { network: Ipv4Addr::from_bits(inside + (u32::try_from(n).expect("few") << 10)), len: 22 };
    for n in 0..VIRTUAL_NETWORKS_MAX {
        let each = SUBNETS_MAX / VIRTUAL_NETWORKS_MAX;
        let subnets = (n * each..(n + 1) * each).map(|at| {
            let prefix = subnet(at);
            let gateway = Ipv4Addr::from_bits(prefix.network.to_bits() + 1);
            let security_group = Some(name("g", at % SECURITY_GROUPS_MAX));
            let subnet = Subnet { prefix, gateway, security_group, isolated: false, default_outbound_access: true };
            (name("s", at), subnet)
        });
        let whole = Prefix { network: Ipv4Addr::from_bits(inside), len: 8 };
        let network = VirtualNetwork {
            address_space: vec![whole; ADDRESS_SPACE_MAX],
            subnets: subnets.collect(),
            ..VirtualNetwork::default()
        };
        all.virtual_networks.insert(name("v", n), network);
    }
    for n in 0..PUBLIC_IPS_MAX {
        let reserved = 60_000..60_000 + u16::try_from(RESERVED_PORTS_MAX).expect("few");
        let address = Ipv4Addr::from_bits(0xcb00_7000 + u32::try_from(n).expect("few") + 1);
        all.public_ips.insert(name("p", n), PublicIp { address, reserved_ports: reserved.collect() });
    }
    all.outside.network = Prefix { network: Ipv4Addr::new(203, 0, 112, 0), len: 20 };
    all.outside.next_hop = Some(Ipv4Addr::new(203, 0, 127, 254));
    for n in 0..FRONTENDS_MAX {
        let each = POOLS_MAX / FRONTENDS_MAX;
        let frontends = vec![name("p", n)];
        let pools: BTreeSet<String> = (0..each).map(|at| name("pool", at)).collect();
        let rules = pools.iter().enumerate().map(|(at, pool)| {
            (name("r", at), OutboundRule { pool: pool.clone(), frontends: frontends.clone(), ..rule.clone() })
        });
        let outbound_rules = rules.collect();
        all.load_balancers
            .insert(name("lb", n), LoadBalancer { frontends, pools, outbound_rules, ..LoadBalancer::default() });
    }
    // 32 in one pool of each load balancer: 1,024 ports for each.
    for n in 0..IP_CONFIGURATIONS_MAX {
        let (in_subnet, place) = (n % SUBNETS_MAX, n / SUBNETS_MAX);
        let network = in_subnet / (SUBNETS_MAX / VIRTUAL_NETWORKS_MAX);
        let base = subnet(in_subnet).network.to_bits();
        let ip = IpConfiguration {
            name: name("ip", n),
            virtual_network: name("v", network),
            subnet: name("s", in_subnet),
            private_ip: Ipv4Addr::from_bits(base + 2 + u32::try_from(place).expect("few")),
            mac: Some(Mac([0x52, 0x54, 0xff, 0xff, 0xff, 0xff])),
            pool: Some(PoolRef { load_balancer: name("lb", n % FRONTENDS_MAX), pool: name("pool", 0) }),
            admin_state: AdminState::Down,
            public_ip: None,
            nic: Some(name("n", n)),
        };
        let nic = Nic {
            virtual_network: ip.virtual_network.clone(),
            subnet: ip.subnet.clone(),
            security_group: Some(name("g", n % SECURITY_GROUPS_MAX)),
            application_security_groups: (0..MEMBERSHIPS_MAX / NICS_MAX).map(|at| application(network, at)).collect(),
        };
        all.nics.insert(name("n", n), nic);
        all.instances.insert(name("i", n), Instance { ip_configurations: vec![ip], ..Instance::default() });
    }
    add_groups(&mut all);
    all
}

/// An application security group of a network: each has its own.
fn application(network: usize, at: usize) -> String {
    name("a", APPLICATION_GROUPS_MAX / VIRTUAL_NETWORKS_MAX * network + at)
}

/// All the security groups that there may be, and as many rules and values in them.
fn add_groups(all: &mut Desired) {
    all.application_security_groups = (0..APPLICATION_GROUPS_MAX).map(|n| name("a", n)).collect();
    all.security_groups = (0..SECURITY_GROUPS_MAX).map(|n| (name("g", n), SecurityGroup::default())).collect();
    for n in 0..RULES_MAX {
        let (group, at) = (n % SECURITY_GROUPS_MAX, n / SECURITY_GROUPS_MAX);
        let network = group % VIRTUAL_NETWORKS_MAX;
        let ports = vec![Ports { first: 60_000, last: 65_000 }; RULE_VALUES_MAX / RULES_MAX / 2];
        let rule = Rule {
            priority: 1_000 + u16::try_from(at).expect("few"),
            direction: Direction::Outbound,
            access: Access::Allow,
            protocol: Protocol::Any,
            source: Addresses::Members(application(network, 0)),
            source_ports: ports.clone(),
            destination: Addresses::Members(application(network, 1)),
            destination_ports: ports,
        };
        all.security_groups.get_mut(&name("g", group)).expect("declared").rules.insert(name("rule", n), rule);
    }
}

/// What a file says of groups.
fn groups_of(all: &Desired) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let mut say = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("into memory");
    let listed = |values: Vec<String>| format!("[\"{}\"]", values.join("\", \""));
    for (name, nic) in &all.nics {
        let (network, subnet) = (&nic.virtual_network, &nic.subnet);
        let groups = listed(nic.application_security_groups.iter().cloned().collect());
        say(format_args!("[[nic]]\nname = \"{name}\"\nsubnet = \"{network}/{subnet}\""));
        say(format_args!("security_group = \"{}\"", nic.security_group.as_ref().expect("each has one")));
        say(format_args!("application_security_groups = {groups}"));
    }
    for name in &all.application_security_groups {
        say(format_args!("[[application_security_group]]\nname = \"{name}\""));
    }
    for (name, group) in &all.security_groups {
        say(format_args!("[[security_group]]\nname = \"{name}\"\nmodel = \"{}\"", group.model));
        for (name, rule) in &group.rules {
            let words = |field: &Addresses| listed(field.words(group.model));
            let ports = |ports: &[Ports]| listed(ports.iter().map(ToString::to_string).collect());
            say(format_args!("[[security_group.rule]]\nname = \"{name}\"\npriority = {}", rule.priority));
            say(format_args!("direction = \"outbound\"\naccess = \"allow\"\nprotocol = \"any\""));
            say(format_args!("source = {}\nsource_ports = {}", words(&rule.source), ports(&rule.source_ports)));
            let to = words(&rule.destination);
            say(format_args!("destination = {to}\ndestination_ports = {}", ports(&rule.destination_ports)));
        }
    }
    text
}

/// The file that says it.
fn file(all: &Desired) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let mut say = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("into memory");
    for (name, network) in &all.virtual_networks {
        let spaces: Vec<String> = network.address_space.iter().map(|space| format!("\"{space}\"")).collect();
        say(format_args!("[[virtual_network]]\nname = \"{name}\"\naddress_space = [{}]", spaces.join(", ")));
        for (name, Subnet { prefix, gateway, security_group, isolated: _, default_outbound_access: _ }) in
            &network.subnets
        {
            say(format_args!(
                "[[virtual_network.subnet]]\nname = \"{name}\"\nprefix = \"{prefix}\"\ngateway = \"{gateway}\""
            ));
            say(format_args!("security_group = \"{}\"", security_group.as_ref().expect("each has one")));
        }
    }
    for (name, PublicIp { address, reserved_ports }) in &all.public_ips {
        let ports: Vec<String> = reserved_ports.iter().map(ToString::to_string).collect();
        let ports = ports.join(", ");
        say(format_args!("[[public_ip]]\nname = \"{name}\"\naddress = \"{address}\"\nreserved_ports = [{ports}]"));
    }
    for (name, balancer) in &all.load_balancers {
        say(format_args!(
            "[[load_balancer]]\nname = \"{name}\"\nfrontends = [\"{}\"]",
            balancer.frontends.join("\", \"")
        ));
        for pool in &balancer.pools {
            say(format_args!("[[load_balancer.pool]]\nname = \"{pool}\""));
        }
        for (name, OutboundRule { pool, frontends, .. }) in &balancer.outbound_rules {
            let frontends = frontends.join("\", \"");
            say(format_args!(
                "[[load_balancer.outbound_rule]]\nname = \"{name}\"\npool = \"{pool}\"\nfrontends = [\"{frontends}\"]"
            ));
        }
    }
    for (name, instance) in &all.instances {
        say(format_args!("[[instance]]\nname = \"{name}\""));
        for ip in &instance.ip_configurations {
            let (mac, pool) = (ip.mac.expect("each has one"), ip.pool.as_ref().expect("each has one"));
            say(format_args!(
                "[[instance.ip_configuration]]\nname = \"{}\"\nprivate_ip = \"{}\"",
                ip.name, ip.private_ip
            ));
            say(format_args!("mac = \"{mac}\"\nsubnet = \"{}/{}\"\npool = \"{pool}\"", ip.virtual_network, ip.subnet));
            say(format_args!(
                "admin_state = \"{}\"\nnic = \"{}\"",
                ip.admin_state.label(),
                ip.nic.as_ref().expect("each has one")
            ));
        }
    }
    let next_hop = all.outside.next_hop.expect("there is one");
    say(format_args!("{}", groups_of(all)));
    say(format_args!("[outside]\nnetwork = \"{}\"\nnext_hop = \"{next_hop}\"", all.outside.network));
    text
}

fn in_parts(desired: Desired, hints: Vec<PortLoad>) -> (Vec<Vec<u8>>, [u8; 32]) {
    match Cut::of(Box::new(Configure { desired, base_hash: None, hints })).expect("within the limits") {
        Cut::Parts(parts, hash) => (parts, hash),
        Cut::Whole(body) => panic!("{} fits into one entry", body.name()),
    }
}

/// One that needs a few parts, and is quick to apply.
fn long() -> Desired {
    let mut all = desired(0, 0);
    for n in 1..=6_500 {
        add_instance(&mut all, n, false);
    }
    let renamed = std::mem::take(&mut all.instances).into_values().enumerate();
    all.instances = renamed.map(|(n, instance)| (name("i", n), instance)).collect();
    all
}

fn begin(cluster: &mut Cluster) -> ControlIndex {
    match cluster.propose(CommandBody::ConfigureBegin) {
        Outcome::Applied { index, .. } => index,
        refused @ Outcome::Refused(_) => panic!("{refused}"),
    }
}

fn part(attempt: ControlIndex, number: usize, bytes: &[u8]) -> CommandBody {
    CommandBody::ConfigurePart { attempt, number: u32::try_from(number).expect("few"), bytes: bytes.to_vec() }
}

fn commit(attempt: ControlIndex, parts: &[Vec<u8>], hash: [u8; 32]) -> CommandBody {
    CommandBody::ConfigureCommit { attempt, parts: u32::try_from(parts.len()).expect("few"), hash }
}

fn why(outcome: &Outcome) -> String {
    outcome.refusal().expect("it is refused").why()
}

#[test]
fn the_largest_configuration_is_read_cut_and_applied() {
    let all = largest(10);
    assert!(issues(&all).is_empty(), "{:?}", issues(&all).first());
    let text = file(&all);
    assert!(text.len() <= FILE_LEN_MAX / 2, "{} octets, of which as many again may be comments", text.len());
    assert_eq!(config::parse("net.toml", &text).expect("a good file"), all);

    let block = |n: usize| {
        let (frontend, start) = (u32::MAX, u16::MAX - u16::try_from(n % 1_000).expect("below"));
        engine::ids::PortBlock { frontend: engine::ids::FrontendId(frontend), start, len: 8 }
    };
    let hints = (0..HINTS_MAX).map(|n| PortLoad { block: block(n), flows: u32::MAX }).collect();
    let (parts, hash) = in_parts(all.clone(), hints);
    let len: usize = parts.iter().map(Vec::len).sum();
    assert!(parts.len() <= PARTS_MAX && len <= CONFIGURATION_LEN_MAX + ENVELOPE_LEN, "{len}");
    println!("{len} of {CONFIGURATION_LEN_MAX} octets in {} parts", parts.len());
    // What remains are lists of frontends in rules, which hold more names where load balancers have several frontends.
    assert!(len > CONFIGURATION_LEN_MAX * 7 / 10, "the limit is not what the limits allow: {len}");

    let mut state = Cluster::running(3).state;
    let (mut index, mut longest) = (state.index().0, 0);
    let mut apply = |state: &mut qnat_control::State, body| {
        index += 1;
        let command = Command { key: u128::from(index).to_le_bytes(), stamped_unix_ms: 1, draw: 7, body };
        let bytes = command.encode().expect("an entry");
        longest = longest.max(bytes.len());
        let outcome = state.apply_bytes(index, &bytes);
        assert!(outcome.is_applied(), "{outcome}");
        index
    };
    let attempt = ControlIndex(apply(&mut state, CommandBody::ConfigureBegin));
    for (number, bytes) in parts.iter().enumerate() {
        apply(&mut state, part(attempt, number, bytes));
    }
    assert!(state.desired().instances.is_empty(), "parts change nothing");
    let stored = state.encode().expect("with all parts in it");
    assert!(stored.len() > len && stored.len() <= STATE_LEN_MAX);
    let mut state = qnat_control::State::decode(&stored).expect("own bytes");
    apply(&mut state, commit(attempt, &parts, hash));
    assert!(longest <= COMMAND_LEN_MAX + ENVELOPE_LEN && longest > PART_LEN_MAX);
    assert_eq!(state.desired(), &all);
    assert_eq!(
        (state.allocation().frontends.len(), state.shards().len()),
        (FRONTENDS_MAX, CLUSTER_SHARDS_MAX as usize)
    );
    assert!(state.allocation().backends.values().all(|backend| backend.ports() == 1_024));
    // Others in the place of all: as many on their way out as there may be; with any others they would be too many.
    let mut replace = |state: &mut qnat_control::State, first: u8| {
        index += 1;
        let body = configure(&largest(first), vec![]);
        state.apply(index, &Command { key: u128::from(index).to_le_bytes(), stamped_unix_ms: 1, draw: 7, body })
    };
    assert!(replace(&mut state, 11).is_applied());
    assert_eq!(state.allocation().backends.len(), BACKENDS_MAX);
    let stored = state.encode().expect("below the limit");
    println!("state of {} of {STATE_LEN_MAX} octets", stored.len());
    assert!(stored.len() <= STATE_LEN_MAX);
    assert!(why(&replace(&mut state, 12)).contains("on their way out are too many"));
}

#[test]
fn parts_come_in_any_order_and_more_than_once() {
    let (parts, hash) = in_parts(long(), vec![]);
    assert!(parts.len() >= 3);
    let mut cluster = Cluster::running(3);
    let attempt = begin(&mut cluster);
    for (number, bytes) in parts.iter().enumerate().rev() {
        assert!(cluster.propose(part(attempt, number, bytes)).is_applied());
        // A second one of the same number does not replace the first.
        assert!(cluster.propose(part(attempt, number, b"other")).is_applied());
    }
    assert!(cluster.propose(commit(attempt, &parts, hash)).is_applied());
    assert_eq!(cluster.state.desired(), &long());
    assert!(why(&cluster.propose(commit(attempt, &parts, hash))).contains("is over"), "it takes effect once");
}

#[test]
fn without_a_part_nothing_takes_effect_and_the_answer_names_it() {
    let (parts, hash) = in_parts(long(), vec![]);
    let mut cluster = Cluster::running(3);
    let attempt = begin(&mut cluster);
    for (number, bytes) in parts.iter().enumerate().filter(|(number, _)| *number != 1) {
        assert!(cluster.propose(part(attempt, number, bytes)).is_applied());
    }
    let before = cluster.state.desired().clone();
    assert!(why(&cluster.propose(commit(attempt, &parts, hash))).contains("part 1 of"));
    assert_eq!(cluster.state.desired(), &before);
    // With another one in its place it is not what was sent.
    assert!(cluster.propose(part(attempt, 1, &parts[0])).is_applied());
    assert!(why(&cluster.propose(commit(attempt, &parts, hash))).contains("not those that were sent"));
    let fewer = CommandBody::ConfigureCommit { attempt, parts: 1, hash: *blake3::hash(&parts[0]).as_bytes() };
    assert!(why(&cluster.propose(fewer)).contains("not those that were sent"), "more have come than it names");
    assert_eq!(cluster.state.desired(), &before);
}

#[test]
fn a_newer_attempt_replaces_one_that_has_not_ended() {
    let (parts, hash) = in_parts(long(), vec![]);
    let mut cluster = Cluster::running(3);
    let first = begin(&mut cluster);
    assert!(cluster.propose(part(first, 0, &parts[0])).is_applied());
    let second = begin(&mut cluster);
    for (number, bytes) in parts.iter().enumerate() {
        assert!(why(&cluster.propose(part(first, number, bytes))).contains(&format!("replaced by attempt {second}")));
        assert!(cluster.propose(part(second, number, bytes)).is_applied());
    }
    assert!(why(&cluster.propose(commit(first, &parts, hash))).contains("replaced"));
    assert!(cluster.propose(commit(second, &parts, hash)).is_applied());
    assert_eq!(cluster.state.desired(), &long());
}

#[test]
fn an_attempt_ends_with_another_configuration_or_by_itself_and_leaves_nothing() {
    let (parts, _) = in_parts(long(), vec![]);
    let mut cluster = Cluster::running(3);
    let attempt = begin(&mut cluster);
    assert!(cluster.propose(part(attempt, 0, &parts[0])).is_applied());
    assert!(cluster.propose(configure(&desired(1, 2), vec![])).is_applied());
    assert!(why(&cluster.propose(part(attempt, 1, &parts[1]))).contains("another configuration has taken effect"));
    assert!(cluster.state.encode().expect("small").len() < PART_LEN_MAX);

    let attempt = begin(&mut cluster);
    assert!(cluster.propose(part(attempt, 0, &parts[0])).is_applied());
    let mut state = cluster.state.clone();
    let noop = |index: u64| Command {
        key: u128::from(index).to_le_bytes(),
        stamped_unix_ms: 1,
        draw: 0,
        body: CommandBody::Noop,
    };
    state.apply(attempt.0 + ENTRIES_MAX, &noop(1 << 40));
    assert!(state.encode().expect("small").len() > PART_LEN_MAX, "it is still collected");
    state.apply(attempt.0 + ENTRIES_MAX + 1, &noop(1 << 41));
    assert!(state.encode().expect("small").len() < PART_LEN_MAX, "it is given up");
}

#[test]
fn what_is_no_part_is_refused() {
    let mut cluster = Cluster::running(3);
    let attempt = begin(&mut cluster);
    let all = u32::try_from(PARTS_MAX).expect("few");
    let put = |number, bytes| CommandBody::ConfigurePart { attempt, number, bytes };
    assert!(cluster.propose(put(all - 1, vec![1; PART_LEN_MAX])).is_applied(), "the last and longest one");
    for body in [put(all, vec![1]), put(0, vec![]), put(u32::MAX, vec![1])] {
        assert!(why(&cluster.propose(body)).contains("is none"));
    }
    let long = Command { key: [9; 16], stamped_unix_ms: 1, draw: 0, body: put(0, vec![1; PART_LEN_MAX + 1]) };
    let mut state = cluster.state.clone();
    assert!(why(&state.apply(state.index().0 + 1, &long)).contains("is none"));
}

fn over(change: &dyn Fn(&mut Desired), path: &str, most: usize) {
    let mut all = desired(1, 1);
    change(&mut all);
    let issues = issues(&all);
    let found = issues.iter().find(|issue| issue.path == path && issue.remedy.contains(&format!("at most {most}")));
    assert!(found.is_some_and(|issue| issue.problem.contains("too many")), "{path}: {issues:?}");
}

fn nic(groups: impl IntoIterator<Item = String>) -> Nic {
    Nic {
        virtual_network: "vnet1".into(),
        subnet: "default".into(),
        security_group: None,
        application_security_groups: groups.into_iter().collect(),
    }
}

/// A rule for addresses and ports, so many of each.
fn rule(n: usize, prefixes: usize, ports: usize) -> Rule {
    let prefix = Prefix { network: Ipv4Addr::new(192, 0, 2, 1), len: 32 };
    Rule {
        priority: u16::try_from(100 + n % 3_900).expect("small"),
        direction: Direction::Inbound,
        access: Access::Deny,
        protocol: Protocol::Tcp,
        source: if prefixes == 0 { Addresses::Any } else { Addresses::Prefixes(vec![prefix; prefixes]) },
        source_ports: Vec::new(),
        destination: Addresses::Any,
        destination_ports: vec![Ports { first: 1, last: 2 }; ports],
    }
}

/// So many rules, as many in each group as there may be.
fn groups(rules: usize, prefixes: usize) -> impl Iterator<Item = (String, SecurityGroup)> {
    (0..rules.div_ceil(RULES_PER_GROUP_MAX)).map(move |n| {
        let of = n * RULES_PER_GROUP_MAX..rules.min((n + 1) * RULES_PER_GROUP_MAX);
        let rules = of.map(|n| (name("r", n), rule(n, prefixes, 0))).collect();
        (name("g", n), SecurityGroup { rules, ..SecurityGroup::default() })
    })
}

#[test]
fn one_group_rule_member_or_value_more_than_a_limit_is_refused_by_its_name() {
    over(&|all| all.nics.extend((0..=NICS_MAX).map(|n| (name("n", n), nic([])))), "nic", NICS_MAX);
    let memberships = |all: &mut Desired| {
        let each = 16;
        let nics = (0..=MEMBERSHIPS_MAX / each).map(|n| (name("n", n), nic((0..each).map(|at| name("a", at)))));
        all.nics.extend(nics);
    };
    over(&memberships, "nic.application_security_groups", MEMBERSHIPS_MAX);
    let one = |all: &mut Desired| {
        all.nics.insert("n".into(), nic((0..=GROUPS_PER_NIC_MAX).map(|n| name("a", n))));
    };
    over(&one, "nic.n.application_security_groups", GROUPS_PER_NIC_MAX);
    let members = |all: &mut Desired| {
        all.nics.extend((0..=MEMBERS_PER_GROUP_MAX).map(|n| (name("n", n), nic(["asg".into()]))));
    };
    over(&members, "application_security_group.asg", MEMBERS_PER_GROUP_MAX);
    let applications = |all: &mut Desired| {
        all.application_security_groups = (0..=APPLICATION_GROUPS_MAX).map(|n| name("a", n)).collect()
    };
    over(&applications, "application_security_group", APPLICATION_GROUPS_MAX);
    let many = |all: &mut Desired| {
        all.security_groups = (0..=SECURITY_GROUPS_MAX).map(|n| (name("g", n), SecurityGroup::default())).collect();
    };
    over(&many, "security_group", SECURITY_GROUPS_MAX);
    over(&|all| all.security_groups.extend(groups(RULES_MAX + 1, 0)), "security_group.rule", RULES_MAX);
    let each = 250;
    let values = |all: &mut Desired| all.security_groups.extend(groups(RULE_VALUES_MAX / each + 1, each));
    over(&values, "security_group.rule", RULE_VALUES_MAX);
    let of_group = |rules: Vec<Rule>| SecurityGroup {
        rules: rules.into_iter().enumerate().map(|(n, rule)| (name("r", n), rule)).collect(),
        ..SecurityGroup::default()
    };
    let put = |rules: Vec<Rule>| {
        move |all: &mut Desired| drop(all.security_groups.insert("g".into(), of_group(rules.clone())))
    };
    let rules = (0..=RULES_PER_GROUP_MAX).map(|n| rule(n, 0, 0)).collect();
    over(&put(rules), "security_group.g.rule", RULES_PER_GROUP_MAX);
    let source = format!("security_group.g.rule.{}.source", name("r", 0));
    over(&put(vec![rule(0, RULE_PREFIXES_MAX + 1, 0)]), &source, RULE_PREFIXES_MAX);
    let ports = format!("security_group.g.rule.{}.destination_ports", name("r", 0));
    over(&put(vec![rule(0, 0, RULE_PORTS_MAX + 1)]), &ports, RULE_PORTS_MAX);
    let network = |change: fn(&mut VirtualNetwork)| {
        move |all: &mut Desired| change(all.virtual_networks.get_mut("vnet1").expect("it is there"))
    };
    let peerings = network(|network| network.peerings = (0..=PEERINGS_MAX).map(|n| name("v", n)).collect());
    over(&peerings, "virtual_network.vnet1.peerings", PEERINGS_MAX);
    let spaces = network(|network| network.on_premises = vec![network.subnets["default"].prefix; ON_PREMISES_MAX + 1]);
    over(&spaces, "virtual_network.vnet1.on_premises", ON_PREMISES_MAX);
}

/// What the lengths of files and entries are derived from.
#[test]
fn one_more_than_a_limit_is_refused_by_its_name() {
    over(
        &|all| {
            let network = all.virtual_networks.get_mut("vnet1").expect("it is there");
            let subnet = network.subnets["default"].clone();
            network.subnets.extend((0..SUBNETS_MAX).map(|n| (name("s", n), subnet.clone())));
        },
        "subnet",
        SUBNETS_MAX,
    );
    over(
        &|all| {
            let network = all.virtual_networks.get_mut("vnet1").expect("it is there");
            network.address_space = vec![network.subnets["default"].prefix; ADDRESS_SPACE_MAX + 1];
        },
        "virtual_network.vnet1.address_space",
        ADDRESS_SPACE_MAX,
    );
    over(
        &|all| {
            let public = all.public_ips["pip1"].clone();
            all.public_ips.extend((0..PUBLIC_IPS_MAX).map(|n| (name("p", n), public.clone())));
        },
        "public_ip",
        PUBLIC_IPS_MAX,
    );
    over(
        &|all| {
            let ports = 2_000..2_001 + u16::try_from(RESERVED_PORTS_MAX).expect("few");
            all.public_ips.get_mut("pip1").expect("it is there").reserved_ports = ports.collect();
        },
        "public_ip.pip1.reserved_ports",
        RESERVED_PORTS_MAX,
    );
    over(
        &|all| {
            let balancer = all.load_balancers.get_mut("lb1").expect("it is there");
            balancer.pools.extend((0..POOLS_MAX).map(|n| name("pool", n)));
        },
        "load_balancer.pool",
        POOLS_MAX,
    );
    over(
        &|all| {
            let ip = all.instances["b1"].ip_configurations[0].clone();
            all.instances.get_mut("b1").expect("it is there").ip_configurations = vec![ip; IP_CONFIGURATIONS_MAX + 1];
        },
        "instance",
        IP_CONFIGURATIONS_MAX,
    );
}

#[test]
fn whatever_fits_into_one_entry_is_read_from_it() {
    // In memory each of these takes many times its octets.
    let spare = |all: &mut Desired, n: usize| add_instance(all, u32::try_from(n).expect("few"), false);
    let address = |all: &mut Desired, n: usize| {
        let address = Ipv4Addr::from_bits(u32::try_from(n).expect("few"));
        all.public_ips.insert(format!("{n:x}"), PublicIp { address, reserved_ports: BTreeSet::new() });
    };
    let group = |all: &mut Desired, n: usize| {
        all.security_groups.insert(format!("{n:x}"), SecurityGroup::default());
    };
    let elements: [fn(&mut Desired, usize); 3] = [spare, address, group];
    for add in elements {
        let (mut all, mut read) = (desired(1, 0), 0);
        for n in 0.. {
            add(&mut all, n);
            if n % 256 != 0 {
                continue;
            }
            let body = configure(&all, vec![]);
            let CommandBody::Configure(whole) = &body else { panic!("a configuration") };
            if matches!(Cut::of(whole.clone()), Ok(Cut::Parts(..))) {
                break;
            }
            let command = Command { key: [1; 16], stamped_unix_ms: 1, draw: 7, body };
            let bytes = command.encode().expect("an entry");
            assert_eq!(Command::decode(&bytes).expect("what was encoded"), command, "{n} elements");
            read = bytes.len();
        }
        assert!(read > PART_LEN_MAX * 8 / 10, "{read}");
    }
}
