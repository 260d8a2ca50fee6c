//! The way out of who has nothing else (S4): who is given which system address, and what becomes of it when a scenario changes.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine::ids::{FrontendId, NodeId, PortBlock};
use engine::record::Scenario;
use engine::snapshot::{OnReclaim, Without};
use qnat_control::allocation::{Backend, Declared, Purpose};
use qnat_control::compile::snapshot;
use qnat_control::config::parse;
use qnat_control::default_outbound::model::DefaultOutbound;
use qnat_control::default_outbound::rows::default_outbound;
use qnat_control::default_outbound::ways::Granting;
use qnat_control::inbound::model::{Distribution, InboundRule, RuleProtocol, Target};
use qnat_control::resource::{Desired, Prefix, PublicIp};
use qnat_control::view;
use support::{Cluster, add_instance, configure, desired, public};

const SYSTEM: u32 = 240;

/// `count` system addresses from .240 on.
fn with_system(mut desired: Desired, count: u32) -> Desired {
    let addresses = (0..count).map(|n| Prefix { network: public(SYSTEM + n), len: 32 }).collect();
    desired.default_outbound = DefaultOutbound { addresses };
    desired
}

fn leave_pool(desired: &mut Desired, of: u32) {
    first_ip(desired, of).pool = None;
}

fn first_ip(desired: &mut Desired, of: u32) -> &mut qnat_control::resource::IpConfiguration {
    let instance = desired.instances.get_mut(&format!("b{of}")).expect("an instance");
    &mut instance.ip_configurations[0]
}

fn put_into(desired: &mut Desired, of: u32, set: &str) {
    desired.availability_sets.insert(set.into());
    desired.instances.get_mut(&format!("b{of}")).expect("an instance").availability_set = Some(set.into());
}

fn backend(cluster: &Cluster, of: u32) -> Backend {
    let ip = Ipv4Addr::from_bits(0x0a00_0100 + of);
    let mut all = cluster.state.allocation().backends.values();
    all.find(|backend| backend.ip == ip).expect("a backend").clone()
}

/// The address on which it has ports.
fn address(cluster: &Cluster, of: u32) -> Option<Ipv4Addr> {
    let backend = backend(cluster, of);
    let frontend = backend.frontend.filter(|_| !backend.lease.is_empty())?;
    Some(cluster.state.allocation().frontends[&frontend].ip)
}

fn is_system(ip: Option<Ipv4Addr>) -> bool {
    ip.is_some_and(|ip| ip >= public(SYSTEM))
}

/// What drains of it: on which address, how many ports, and what becomes of their flows.
fn drains(cluster: &Cluster, of: u32) -> Vec<(Ipv4Addr, u32, OnReclaim)> {
    let ip = Ipv4Addr::from_bits(0x0a00_0100 + of);
    let allocation = cluster.state.allocation();
    let id = *allocation.backends.iter().find(|(_, b)| b.ip == ip).expect("a backend").0;
    let of_it = allocation.drains.iter().filter(|(_, drain)| drain.backend == id);
    let mut all: BTreeMap<(Ipv4Addr, String), (u32, OnReclaim)> = BTreeMap::new();
    for (block, drain) in of_it {
        let at = (allocation.frontends[&block.frontend].ip, format!("{:?}", drain.on_reclaim));
        all.entry(at).or_insert((0, drain.on_reclaim)).0 += u32::from(block.len);
    }
    all.into_iter().map(|((ip, _), (ports, how))| (ip, ports, how)).collect()
}

fn right(cluster: &Cluster, of: u32) -> Option<Scenario> {
    let snapshot = snapshot(&cluster.state, NodeId(1));
    let ip = backend(cluster, of).ip;
    let compiled = snapshot.backends.values().find(|b| b.ip == ip).expect("compiled").clone();
    match compiled.ways.own {
        Some(_) => Some(Scenario::OwnOut),
        None => (!compiled.lease.is_empty()).then_some(compiled.ways.granted),
    }
}

#[test]
fn an_availability_set_shares_one_system_address_with_the_ports_of_its_size() {
    let mut cluster = Cluster::running(3);
    let mut desired = with_system(desired(3, 0), 3);
    for n in 1..=60 {
        add_instance(&mut desired, n, false);
        put_into(&mut desired, n, "as1");
    }
    for n in 61..=63 {
        add_instance(&mut desired, n, false);
    }
    assert!(cluster.configure(&desired).is_applied());
    let addresses: BTreeSet<Option<Ipv4Addr>> = (1..=60).map(|n| address(&cluster, n)).collect();
    assert_eq!(addresses.len(), 1, "S4");
    assert!(addresses.into_iter().all(is_system));
    assert!((1..=60).all(|n| backend(&cluster, n).ports() == 512), "D2: a set of 60");
    assert!((61..=63).all(|n| backend(&cluster, n).ports() == 1024), "D2: each a set of its own");
    assert!((61..=63).all(|n| address(&cluster, n) != address(&cluster, 1)), "the least promised");
    assert!((1..=63).all(|n| right(&cluster, n) == Some(Scenario::Default)));
    let rows = default_outbound(&cluster.state);
    assert_eq!(rows.len(), 4);
    assert_eq!((rows[0].availability_set.as_deref(), rows[0].backends.len()), (Some("as1"), 60));
    assert!(rows.iter().all(|row| row.note.contains("neither chosen nor relied on")));
    let concerns = view::status(&cluster.state).concerns;
    assert_eq!(concerns.len(), 1, "{concerns:?}");
    assert!(concerns[0].why.contains("63 IP configurations") && concerns[0].why.contains("neither chosen nor relied"));
    assert_eq!(cluster.state.desired().public_ips.len(), 3, "D28: no public address more");
}

#[test]
fn own_is_before_pool_and_pool_before_default_and_a_pool_without_a_rule_is_none() {
    let mut cluster = Cluster::running(3);
    let mut desired = with_system(desired(1, 5), 2);
    let balancer = desired.load_balancers.get_mut("lb1").expect("the only one");
    balancer.pools.insert("unlinked".into());
    first_ip(&mut desired, 2).pool.as_mut().expect("in a pool").pool = "unlinked".into();
    leave_pool(&mut desired, 3);
    leave_pool(&mut desired, 4);
    for n in [4, 5] {
        desired.public_ips.insert(format!("own{n}"), PublicIp { address: public(100 + n), reserved_ports: [].into() });
        first_ip(&mut desired, n).public_ip = Some(format!("own{n}"));
    }
    assert!(cluster.configure(&desired).is_applied());
    let rights: Vec<_> = (1..=5).map(|n| right(&cluster, n)).collect();
    let [pool, default, own] = [Scenario::Pool, Scenario::Default, Scenario::OwnOut].map(Some);
    assert_eq!(rights, [pool, default, default, own, own], "S3, S5");
    assert_eq!(backend(&cluster, 2).granting, Granting::Default, "S3: never to nothing");
    assert_eq!((backend(&cluster, 4).ports(), backend(&cluster, 5).ports()), (0, 1024));
    let ways: Vec<_> = view::backends(&cluster.state).into_iter().map(|row| row.way_out).collect();
    let label = |scenario: Scenario| Some(scenario.label().to_owned());
    assert_eq!(ways[..4], [Scenario::Pool, Scenario::Default, Scenario::Default, Scenario::OwnOut].map(label));
    let kinds: Vec<_> =
        view::frontends(&cluster.state).into_iter().map(|row| (row.name.is_none(), row.purpose)).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == (true, view::PurposeView::System)).count(), 2, "{kinds:?}");
}

#[test]
fn a_change_of_scenario_is_at_once_and_keeps_what_flows_stand_on() {
    let mut cluster = Cluster::running(3);
    let inside = desired(3, 3);
    let mut alone = with_system(inside.clone(), 3);
    leave_pool(&mut alone, 3);
    let pooled = with_system(inside, 3);
    assert!(cluster.configure(&alone).is_applied());
    let (first, home) = (address(&cluster, 3), backend(&cluster, 3).home);
    assert!(is_system(first));
    for turn in 0..3 {
        assert!(cluster.configure(&pooled).is_applied());
        let frontend = address(&cluster, 3).expect("at once");
        assert!(!is_system(Some(frontend)), "S5");
        let kept: Vec<_> = drains(&cluster, 3).into_iter().filter(|(ip, ..)| Some(*ip) == first).collect();
        assert_eq!(kept, [(first.expect("some"), 1024, OnReclaim::Keep)], "D12");
        assert!(cluster.configure(&alone).is_applied());
        assert_eq!(address(&cluster, 3), first, "the same again, by its own ports");
        assert_eq!(drains(&cluster, 3), [(frontend, 1024, OnReclaim::Keep)], "D12, turn {turn}");
        assert_eq!(backend(&cluster, 3).home, home, "M3");
        assert_eq!(right(&cluster, 3), Some(Scenario::Default));
    }
    cluster.drain_all();
    assert_eq!((address(&cluster, 3), backend(&cluster, 3).ports()), (first, 1024));
}

#[test]
fn an_own_address_comes_before_and_the_system_s_is_back_when_it_goes() {
    let mut cluster = Cluster::running(3);
    let mut without = with_system(desired(1, 2), 1);
    leave_pool(&mut without, 2);
    let mut with = without.clone();
    with.public_ips.insert("own".into(), PublicIp { address: public(100), reserved_ports: [].into() });
    first_ip(&mut with, 2).public_ip = Some("own".into());
    assert!(cluster.configure(&without).is_applied());
    let lease = cluster.lease_of("b2");
    assert!(cluster.configure(&with).is_applied());
    assert_eq!(right(&cluster, 2), Some(Scenario::OwnOut));
    assert_eq!(drains(&cluster, 2), [(public(SYSTEM), 1024, OnReclaim::Keep)], "D12");
    assert_eq!(default_outbound(&cluster.state), [], "who is in it now");
    assert!(cluster.configure(&without).is_applied());
    assert_eq!((right(&cluster, 2), cluster.lease_of("b2")), (Some(Scenario::Default), lease));
    let own: u32 = drains(&cluster, 2).iter().map(|(_, ports, _)| ports).sum();
    assert_eq!(own, 1 << 16, "its own address drains");
}

#[test]
fn who_leaves_its_pool_for_an_address_of_its_own_keeps_what_flows_stand_on() {
    let mut cluster = Cluster::running(3);
    let pooled = with_system(desired(1, 2), 1);
    let mut own = pooled.clone();
    leave_pool(&mut own, 2);
    own.public_ips.insert("own".into(), PublicIp { address: public(100), reserved_ports: [].into() });
    first_ip(&mut own, 2).public_ip = Some("own".into());
    assert!(cluster.configure(&pooled).is_applied());
    let (frontend, lease) = (address(&cluster, 2).expect("of the pool"), cluster.lease_of("b2"));
    let plan = qnat_control::plan::diff(&cluster.state, &own);
    assert!(plan.pieces.is_empty() && plan.flows_taken == 0, "D12: the plan takes none");
    assert!(cluster.configure(&own).is_applied());
    assert_eq!(right(&cluster, 2), Some(Scenario::OwnOut), "at once");
    assert_eq!(drains(&cluster, 2), [(frontend, 1024, OnReclaim::Keep)], "D12");
    assert!(cluster.configure(&pooled).is_applied());
    assert_eq!((right(&cluster, 2), cluster.lease_of("b2")), (Some(Scenario::Pool), lease), "the same again");
    cluster.drain_all();
    assert_eq!(backend(&cluster, 2).ports(), 1024);
}

#[test]
fn a_subnet_may_have_no_default_way_out_and_what_is_there_goes_on() {
    let mut cluster = Cluster::running(3);
    let mut open = with_system(desired(1, 2), 1);
    leave_pool(&mut open, 2);
    let mut barred = open.clone();
    let subnet = barred.virtual_networks.get_mut("vnet1").expect("one").subnets.get_mut("default").expect("one");
    subnet.default_outbound_access = false;
    assert!(cluster.configure(&barred).is_applied());
    assert_eq!(right(&cluster, 2), None, "D11");
    let without = |cluster: &Cluster| {
        let all = snapshot(&cluster.state, NodeId(1));
        let ip = backend(cluster, 2).ip;
        all.backends.values().find(|b| b.ip == ip).expect("compiled").ways.without
    };
    assert_eq!(without(&cluster), Without::Barred);
    assert_eq!(right(&cluster, 1), Some(Scenario::Pool), "pools are no default way out");
    let why = view::backends(&cluster.state)[1].why.clone();
    assert!(why.contains("default_outbound_access = false"), "{why}");
    assert!(cluster.configure(&open).is_applied());
    assert_eq!((right(&cluster, 2), without(&cluster)), (Some(Scenario::Default), Without::NoPath));
    assert!(cluster.configure(&barred).is_applied());
    assert_eq!(right(&cluster, 2), None);
    assert_eq!(drains(&cluster, 2), [(public(SYSTEM), 1024, OnReclaim::Keep)], "first packets only");
}

#[test]
fn without_system_addresses_nobody_has_a_default_way_out_and_it_is_said() {
    let mut cluster = Cluster::running(3);
    let mut none = desired(1, 2);
    leave_pool(&mut none, 2);
    assert!(cluster.configure(&none).is_applied());
    assert_eq!((backend(&cluster, 2).grant, right(&cluster, 2)), (0, None));
    let row = view::backends(&cluster.state).swap_remove(1);
    assert!(row.why.contains("no system addresses"), "{}", row.why);
    assert!(row.remedy.contains("[default_outbound]"), "{}", row.remedy);
    assert_eq!(default_outbound(&cluster.state), []);
    assert!(cluster.configure(&with_system(none, 1)).is_applied());
    assert_eq!(right(&cluster, 2), Some(Scenario::Default));
}

#[test]
fn each_shard_has_both_kinds_of_frontends_whichever_come_first() {
    let spread = |cluster: &Cluster| -> Vec<(usize, usize)> {
        let mut by_shard: BTreeMap<_, (usize, usize)> = BTreeMap::new();
        for frontend in cluster.state.allocation().frontends.values() {
            let (shared, system) = by_shard.entry(frontend.shard).or_default();
            match frontend.purpose {
                Purpose::System => *system += 1,
                Purpose::Shared | Purpose::Own(_) => *shared += 1,
            }
        }
        by_shard.into_values().collect()
    };
    let mut cluster = Cluster::running(3);
    assert!(cluster.configure(&desired(3, 4)).is_applied());
    assert!(cluster.configure(&with_system(desired(3, 4), 4)).is_applied());
    assert_eq!(spread(&cluster), [(1, 2), (1, 1), (1, 1)]);
    let mut cluster = Cluster::running(3);
    let mut alone = with_system(desired(0, 4), 2);
    assert!(cluster.configure(&alone).is_applied());
    assert_eq!(spread(&cluster), [(0, 1), (0, 1)], "they begin shards where there are none");
    alone = with_system(desired(3, 4), 2);
    assert!(cluster.configure(&alone).is_applied());
    assert_eq!(spread(&cluster), [(1, 1), (1, 1), (1, 0)]);
}

#[test]
fn who_has_no_address_of_the_new_kind_in_its_shard_waits_no_longer_than_a_drain() {
    let mut cluster = Cluster::running(3);
    let pooled = with_system(desired(3, 3), 1);
    assert!(cluster.configure(&pooled).is_applied());
    let only = cluster.frontend_at(public(SYSTEM)).1.shard;
    let far = (1..=3).find(|n| backend(&cluster, *n).home != Some(only)).expect("there are three shards");
    let mut alone = pooled.clone();
    leave_pool(&mut alone, far);
    let frontend = address(&cluster, far).expect("bound");
    assert!(cluster.configure(&alone).is_applied());
    assert_eq!(drains(&cluster, far), [(frontend, 1024, OnReclaim::Drain)], "M3: it cannot have two homes");
    let rows = view::backends(&cluster.state);
    let row = rows.iter().find(|row| row.name == format!("b{far}/ipconfig1")).expect("a row");
    assert!(row.way_out.is_none() && row.why.contains("drain"), "{row:?}");
    cluster.drain_all();
    assert_eq!((address(&cluster, far), backend(&cluster, far).home), (Some(public(SYSTEM)), Some(only)));
}

#[test]
fn an_address_that_is_not_the_system_s_any_more_drains_and_retires() {
    let mut cluster = Cluster::running(3);
    let mut two = with_system(desired(1, 2), 2);
    [1, 2].into_iter().for_each(|n| leave_pool(&mut two, n));
    assert!(cluster.configure(&two).is_applied());
    assert_eq!((address(&cluster, 1), address(&cluster, 2)), (Some(public(SYSTEM)), Some(public(SYSTEM + 1))));
    let one = with_system(two.clone(), 1);
    assert!(cluster.configure(&one).is_applied());
    assert_eq!(drains(&cluster, 2), [(public(SYSTEM + 1), 1024, OnReclaim::Drain)]);
    assert_eq!(address(&cluster, 2), Some(public(SYSTEM)), "new flows wait for nothing");
    cluster.drain_all();
    assert_eq!(address(&cluster, 2), Some(public(SYSTEM)));
    assert_eq!(cluster.frontend_at(public(SYSTEM + 1)).1.declared, Declared::No);
    cluster.retire_all();
    assert_eq!(cluster.state.allocation().frontends.len(), 2);
    let none = Desired { default_outbound: DefaultOutbound::default(), ..two };
    assert!(cluster.configure(&none).is_applied());
    assert_eq!((right(&cluster, 1), drains(&cluster, 1)[0].2), (None, OnReclaim::Drain));
}

#[test]
fn a_set_that_grows_past_its_tier_gives_half_of_each_grant_back() {
    let mut cluster = Cluster::running(3);
    let set = |count: u32| {
        let mut desired = with_system(desired(1, 0), 1);
        for n in 1..=count {
            add_instance(&mut desired, n, false);
            put_into(&mut desired, n, "as1");
        }
        desired
    };
    assert!(cluster.configure(&set(50)).is_applied());
    assert_eq!(backend(&cluster, 7).ports(), 1024);
    let plan = qnat_control::plan::diff(&cluster.state, &set(51));
    let told: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|line| line.contains("availability_set.as1: 50 → 51 instances: 1024 → 512")), "{told:?}");
    assert!(cluster.configure(&set(51)).is_applied());
    assert_eq!((backend(&cluster, 7).ports(), backend(&cluster, 51).ports()), (512, 512), "S14");
    assert_eq!(drains(&cluster, 7), [(public(SYSTEM), 512, OnReclaim::Expire)]);
    cluster.drain_all();
    assert!(cluster.configure(&set(50)).is_applied());
    assert_eq!(backend(&cluster, 7).ports(), 1024, "S15");
}

#[test]
fn a_plan_says_by_what_new_flows_leave_and_takes_no_flows_of_who_keeps_them() {
    let mut cluster = Cluster::running(3);
    let mut alone = with_system(desired(3, 2), 3);
    leave_pool(&mut alone, 2);
    let pooled = with_system(desired(3, 2), 3);
    assert!(cluster.configure(&alone).is_applied());
    let plan = qnat_control::plan::diff(&cluster.state, &pooled);
    let told: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
    let lease = told.iter().find(|line| line.contains("lease.b2/ipconfig1")).expect("a line");
    assert!(lease.contains("new flows by its pool instead of a system address"), "{lease}");
    assert!(lease.contains("whose flows stay"), "{lease}");
    assert!(plan.pieces.is_empty() && plan.flows_taken == 0, "D12: none is taken");
    let fresh = qnat_control::plan::diff(&Cluster::running(3).state, &alone);
    let told: Vec<String> = fresh.changes.iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|line| line == "+ lease.b2/ipconfig1: gets 1024 ports of a system address"), "{told:?}");
}

#[test]
fn there_are_no_system_addresses_below_their_level() {
    let mut cluster = Cluster::running(1);
    cluster.state = cluster.state.clone().at_level(1);
    cluster.twin = cluster.state.clone();
    let why = cluster.refused(configure(&with_system(desired(1, 1), 1), Vec::new()));
    assert!(why.contains("level 2"), "{why}");
}

fn rule(frontend_port: u16, target: Target) -> InboundRule {
    InboundRule {
        frontend: "pip2".into(),
        protocol: RuleProtocol::Tcp,
        frontend_port,
        target,
        backend_port: 22,
        probe: None,
        distribution: Distribution::Connection,
        idle_timeout_minutes: 4,
        enable_tcp_reset: false,
        floating_ip: false,
    }
}

#[test]
fn a_rule_does_not_wait_for_ever_for_a_port_that_is_kept() {
    let mut cluster = Cluster::running(3);
    let pooled = with_system(desired(3, 3), 3);
    assert!(cluster.configure(&pooled).is_applied());
    let of = (1..=3).find(|n| address(&cluster, *n) == Some(public(2))).expect("one on each");
    let port = cluster.lease_of(&format!("b{of}"))[0].start + 100;
    let mut alone = pooled;
    leave_pool(&mut alone, of);
    assert!(cluster.configure(&alone).is_applied());
    assert_eq!(drains(&cluster, of), [(public(2), 1024, OnReclaim::Keep)]);
    let other = if of == 1 { 2 } else { 1 };
    let instance = format!("b{other}");
    leave_pool(&mut alone, other);
    let target = Target::IpConfiguration { instance, ip_configuration: "ipconfig1".into() };
    let balancer = alone.load_balancers.get_mut("lb1").expect("the only one");
    balancer.inbound_nat_rules.insert("ssh".into(), rule(port, target));
    assert!(cluster.configure(&alone).is_applied());
    assert_eq!(drains(&cluster, of), [(public(2), 1024, OnReclaim::Drain)], "W3");
    // Who is reached by a rule lives where the rule's frontend is, and leaves by a system address there.
    cluster.drain_all();
    let home = cluster.frontend_at(public(2)).1.shard;
    let own = address(&cluster, other).expect("it has one");
    assert!(is_system(Some(own)));
    assert_eq!((backend(&cluster, other).home, cluster.frontend_at(own).1.shard), (Some(home), home), "M3");
}

const FILE: &str = "\
[[virtual_network]]
name = \"v\"
[[virtual_network.subnet]]
name = \"s\"
prefix = \"10.0.0.0/16\"
gateway = \"10.0.0.1\"
[[availability_set]]
name = \"as1\"
[[instance]]
name = \"b1\"
availability_set = \"as1\"
[[instance.ip_configuration]]
name = \"ip\"
private_ip = \"10.0.1.1\"
subnet = \"v/s\"
[outside]
network = \"203.0.113.0/24\"
next_hop = \"203.0.113.254\"
[default_outbound]
addresses = [\"203.0.113.240/29\", \"203.0.113.9\"]
";

#[test]
fn a_file_declares_system_addresses_and_availability_sets() {
    let read = parse("f", FILE).expect("valid");
    assert_eq!(read.default_outbound.all().count(), 9);
    assert_eq!(read.instances["b1"].availability_set.as_deref(), Some("as1"));
    assert!(read.virtual_networks["v"].subnets["s"].default_outbound_access, "unless it says no");
    let off = FILE.replace("gateway =", "default_outbound_access = false\ngateway =");
    assert!(!parse("f", &off).expect("valid").virtual_networks["v"].subnets["s"].default_outbound_access);
    let one = FILE.replace("addresses = [\"203.0.113.240/29\", \"203.0.113.9\"]", "addresses = \"203.0.113.9\"");
    assert_eq!(parse("f", &one).expect("valid").default_outbound.all().count(), 1);
}

#[test]
fn what_makes_no_sense_of_system_addresses_is_refused_with_field_value_and_remedy() {
    let own = "[[public_ip]]\nname = \"own\"\naddress = \"203.0.113.241\"\n";
    let ip = "subnet = \"v/s\"\n";
    let chosen = FILE.replace(ip, "subnet = \"v/s\"\npublic_ip = \"own\"\n") + own;
    let range = |text: &str| FILE.replace("203.0.113.240/29", text);
    let many = (1..=64).map(|n| {
        format!(
            "[[instance]]\nname = \"c{n}\"\n[[instance.ip_configuration]]\nname = \"ip\"\n\
             private_ip = \"10.0.2.{n}\"\nsubnet = \"v/s\"\n"
        )
    });
    let crowd = range("203.0.113.240/32").replace(", \"203.0.113.9\"", "") + &many.collect::<String>();
    let cases = [
        (chosen, "public_ip.own.address", "203.0.113.241", "nobody can choose one", "use another address"),
        (
            FILE.replace("availability_set = \"as1\"", "availability_set = \"as2\""),
            "instance.b1.availability_set",
            "as2",
            "is no availability_set",
            "as1",
        ),
        (
            range("203.0.113.241/29"),
            "default_outbound.addresses",
            "203.0.113.241/29",
            "host bits",
            "write 203.0.113.240/29",
        ),
        (range("203.0.113.248/29"), "default_outbound.addresses", "203.0.113.248/29", "broadcast", "beside it"),
        (
            range("203.0.113.254"),
            "default_outbound.addresses",
            "203.0.113.254/32",
            "has outside.next_hop",
            "no other machine",
        ),
        (range("203.0.112.0/23"), "default_outbound.addresses", "203.0.112.0/23", "out of range", "/24"),
        (
            range("10.0.7.0/30"),
            "default_outbound.addresses",
            "10.0.7.0/30",
            "private range 10.0.0.0/16",
            "outside every subnet",
        ),
        (range("203.0.113.8/30"), "default_outbound.addresses", "203.0.113.9/32", "overlaps", "once"),
        (range("127.0.0.1"), "default_outbound.addresses", "127.0.0.1/32", "no unicast", "routes to this cluster"),
        (range("pip1"), "default_outbound.addresses", "pip1", "is no address or network", "203.0.113.240/29"),
        (range("198.51.100.0/24"), "default_outbound.addresses", "198.51.100.0/24", "too many", "256"),
        (crowd, "default_outbound.addresses", "1", "need 66560", "add addresses"),
        (
            FILE.replace("addresses = [\"203.0.113.240/29\", \"203.0.113.9\"]", ""),
            "default_outbound.addresses",
            "",
            "",
            "leave [default_outbound] out",
        ),
    ];
    assert!(parse("f", &range("203.0.113.252/31")).is_ok(), "beside the next hop");
    for (text, path, value, problem, remedy) in cases {
        let errors = parse("f", &text).expect_err(path);
        let found = errors.iter().any(|error| {
            let said = error.to_string();
            [path, value, problem, remedy].iter().all(|part| said.contains(part)) && error.line.is_some()
        });
        assert!(found, "{path} {value} {problem} {remedy}: {errors:#?}");
    }
}

#[test]
fn a_set_that_is_too_large_is_refused() {
    let mut desired = with_system(desired(1, 0), 4);
    for n in 1..=1001 {
        add_instance(&mut desired, n, false);
        put_into(&mut desired, n, "as1");
    }
    let issues = qnat_control::validate::issues(&desired);
    assert!(issues.iter().any(|issue| issue.path == "availability_set.as1" && issue.problem.contains("1001")));
    let instance = desired.instances.remove("b1001").expect("there");
    assert_eq!(qnat_control::validate::issues(&desired), [], "D2: a thousand are a pool");
    drop(instance);
    // As many addresses in each instance as one system address cannot carry.
    let mut desired = with_system(support::desired(1, 0), 4);
    add_instance(&mut desired, 1, false);
    for n in 2..=64 {
        let mut ip = first_ip(&mut desired, 1).clone();
        (ip.name, ip.private_ip) = (format!("ip{n}"), Ipv4Addr::from_bits(0x0a00_0200 + n));
        desired.instances.get_mut("b1").expect("there").ip_configurations.push(ip);
    }
    let issues = qnat_control::validate::issues(&desired);
    assert!(issues.iter().any(|i| i.path == "instance.b1" && i.problem.contains("needs 65536 ports")), "{issues:?}");
}

/// Small numbers, the same ones in each run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// One change of a configuration of eight instances.
fn change(desired: &mut Desired, draw: &mut Draw) {
    let of = u32::try_from(draw.below(8) + 1).expect("small");
    match draw.below(7) {
        0 => leave_pool(desired, of),
        1 => {
            let rule = desired.load_balancers["lb1"].outbound_rules.values().next().cloned();
            if let Some(rule) = rule {
                first_ip(desired, of).pool =
                    Some(qnat_control::resource::PoolRef { load_balancer: "lb1".into(), pool: rule.pool });
            }
        }
        2 => {
            let set = ["as1", "as2"][usize::try_from(draw.below(2)).expect("small")];
            put_into(desired, of, set);
        }
        3 => desired.instances.get_mut(&format!("b{of}")).expect("one").availability_set = None,
        4 => {
            let has = first_ip(desired, of).public_ip.is_some();
            first_ip(desired, of).public_ip = (!has).then(|| format!("own{of}"));
        }
        5 => {
            let subnet = desired.virtual_networks.get_mut("vnet1").expect("one").subnets.get_mut("default");
            let access = &mut subnet.expect("one").default_outbound_access;
            *access = !*access || draw.below(3) > 0;
        }
        _ => {
            let count = u32::try_from(draw.below(4)).expect("small");
            *desired = with_system(desired.clone(), count);
        }
    }
}

#[test]
fn whatever_changes_everyone_has_the_ports_of_its_right_or_waits_for_a_drain() {
    for seed in 0..40 {
        let (mut cluster, mut draw) = (Cluster::running(3), Draw(seed));
        let mut desired = with_system(desired(3, 8), 2);
        for n in 1..=8 {
            let own = PublicIp { address: public(100 + n), reserved_ports: [].into() };
            desired.public_ips.insert(format!("own{n}"), own);
        }
        for _ in 0..60 {
            change(&mut desired, &mut draw);
            // What the state alone can show is checked after each entry.
            assert!(cluster.configure(&desired).is_applied());
            for (block, drain) in cluster.state.allocation().drains.clone() {
                if draw.below(3) == 0 {
                    let shard = cluster.state.allocation().frontends[&block.frontend].shard;
                    let shard_epoch = cluster.state.shards()[&shard].epoch;
                    let blocks = vec![(block, drain.reclaim_index)];
                    cluster.propose(qnat_control::CommandBody::ReclaimComplete { shard, shard_epoch, blocks });
                }
            }
            has_its_right(&cluster);
        }
        cluster.drain_all();
        has_its_right(&cluster);
        let waits = cluster.state.allocation().backends.values().find(|b| b.ports() < b.grant);
        assert_eq!(waits, None, "seed {seed}: nothing drains and it has not all");
    }
}

/// Each has ports of its own right only, and who lacks some has a drain that ends.
fn has_its_right(cluster: &Cluster) {
    let allocation = cluster.state.allocation();
    let purpose = |id: FrontendId| allocation.frontends[&id].purpose;
    for (id, backend) in allocation.backends.iter().filter(|(_, b)| b.declared == Declared::Yes) {
        let on: BTreeSet<FrontendId> = backend.lease.iter().map(|block: &PortBlock| block.frontend).collect();
        match backend.granting {
            Granting::Pool => assert!(on.iter().all(|f| purpose(*f) == Purpose::Shared), "{backend:?}"),
            Granting::Default => assert!(on.iter().all(|f| purpose(*f) == Purpose::System), "{backend:?}"),
            Granting::Barred | Granting::Nothing => assert!(on.is_empty(), "{backend:?}"),
        }
        let mut own = allocation.drains.values().filter(|drain| drain.backend == *id);
        if backend.ports() < backend.grant && backend.own.is_none() && backend.frontend.is_none() {
            assert!(own.all(|drain| drain.on_reclaim != OnReclaim::Keep), "{backend:?} waits for ever");
        }
    }
}
