//! Public addresses that are one IP configuration's own: who gets one, where, and how it comes back.

mod support;

use std::net::Ipv4Addr;

use engine::ids::{FrontendId, NodeId, PortBlock};
use engine::snapshot::OnReclaim;
use qnat_control::allocation::{Backend, Declared};
use qnat_control::compile::snapshot;
use qnat_control::resource::{Desired, PublicIp};
use support::{Cluster, desired, public};

const OWN: u32 = 100;

fn declare(desired: &mut Desired, n: u32) {
    let address = PublicIp { address: public(n), reserved_ports: Default::default() };
    desired.public_ips.insert(format!("own{n}"), address);
}

/// Instance `b{of}` has address `n` as its own.
fn give(desired: &mut Desired, of: u32, n: u32) {
    declare(desired, n);
    let instance = desired.instances.get_mut(&format!("b{of}")).expect("an instance");
    instance.ip_configurations[0].public_ip = Some(format!("own{n}"));
}

fn take(desired: &mut Desired, of: u32) {
    let instance = desired.instances.get_mut(&format!("b{of}")).expect("an instance");
    instance.ip_configurations[0].public_ip = None;
}

fn leave_pool(desired: &mut Desired, of: u32) {
    let instance = desired.instances.get_mut(&format!("b{of}")).expect("an instance");
    instance.ip_configurations[0].pool = None;
}

fn backend(cluster: &Cluster, of: u32) -> Backend {
    let ip = Ipv4Addr::from_bits(0x0a00_0100 + of);
    let mut all = cluster.state.allocation().backends.values();
    all.find(|backend| backend.ip == ip).expect("a backend").clone()
}

fn id_of(cluster: &Cluster, n: u32) -> FrontendId {
    cluster.frontend_at(public(n)).0
}

fn on(cluster: &Cluster, n: u32) -> Vec<(PortBlock, OnReclaim)> {
    let id = id_of(cluster, n);
    let drains = cluster.state.allocation().drains.iter();
    drains.filter(|(block, _)| block.frontend == id).map(|(block, drain)| (*block, drain.on_reclaim)).collect()
}

#[test]
fn an_own_address_lies_in_its_backends_home_shard_also_without_a_pool() {
    let mut cluster = Cluster::running(3);
    let mut desired = desired(3, 6);
    leave_pool(&mut desired, 6);
    for n in 1..=6 {
        give(&mut desired, n, OWN + n);
    }
    assert!(cluster.configure(&desired).is_applied());
    let snapshot = snapshot(&cluster.state, NodeId(1));
    for n in 1..=6 {
        let backend = backend(&cluster, n);
        assert_eq!(backend.own, Some(id_of(&cluster, OWN + n)));
        assert_eq!(backend.home, Some(cluster.frontend_at(public(OWN + n)).1.shard), "M3");
        let ways = snapshot.backends.values().find(|b| b.ip == backend.ip).expect("compiled").ways;
        assert_eq!(ways.own, backend.own);
    }
    assert_eq!(backend(&cluster, 1).ports(), 1024, "S11: a pool's member has its ports all the same");
    assert_eq!(backend(&cluster, 6).ports(), 0);
    assert_eq!(cluster.state.shards().len(), 3, "own addresses begin no shard where there are some");
}

#[test]
fn without_any_load_balancer_own_addresses_have_shards() {
    let mut cluster = Cluster::running(3);
    let mut desired = desired(0, 2);
    desired.settings.shards_max = 1;
    (1..=2).for_each(|n| give(&mut desired, n, OWN + n));
    assert!(cluster.configure(&desired).is_applied());
    let shard = cluster.only_shard();
    assert!(!cluster.state.shards()[&shard].members.is_empty(), "it is placed");
    assert!((1..=2).all(|n| backend(&cluster, n).own.is_some() && backend(&cluster, n).home == Some(shard)));
}

#[test]
fn an_address_that_is_taken_away_drains_as_long_as_its_flows_live_and_comes_back_to_its_backend() {
    let mut cluster = Cluster::running(3);
    let mut desired = desired(1, 2);
    give(&mut desired, 1, OWN);
    assert!(cluster.configure(&desired).is_applied());
    let own = backend(&cluster, 1).own.expect("given");
    take(&mut desired, 1);
    assert!(cluster.configure(&desired).is_applied());
    assert_eq!(backend(&cluster, 1).own, None);
    let blocks = PortBlock::whole(own);
    assert_eq!(on(&cluster, OWN), blocks.map(|block| (block, OnReclaim::Keep)), "D12");
    give(&mut desired, 1, OWN);
    assert!(cluster.configure(&desired).is_applied());
    assert_eq!((backend(&cluster, 1).own, on(&cluster, OWN)), (Some(own), vec![]), "its flows are its own");
    assert_eq!(cluster.frontend_at(public(OWN)).1.declared, Declared::Yes);
}

#[test]
fn an_address_that_another_backend_is_to_have_waits_no_longer_than_a_drain_and_then_for_its_fences() {
    let mut cluster = Cluster::running(3);
    let mut desired = desired(1, 2);
    give(&mut desired, 1, OWN);
    assert!(cluster.configure(&desired).is_applied());
    take(&mut desired, 1);
    assert!(cluster.configure(&desired).is_applied());
    give(&mut desired, 2, OWN);
    assert!(cluster.configure(&desired).is_applied());
    assert!(on(&cluster, OWN).iter().all(|(_, how)| *how == OnReclaim::Drain), "D5");
    assert_eq!(backend(&cluster, 2).own, None, "F5: not before it is reclaimed");
    let concerns = qnat_control::view::status(&cluster.state).concerns;
    assert!(concerns.iter().any(|concern| concern.why.contains("not free yet")), "{concerns:?}");
    cluster.drain_all();
    assert_eq!(backend(&cluster, 2).own, Some(id_of(&cluster, OWN)), "at once");
    assert_eq!(qnat_control::view::status(&cluster.state).concerns.len(), 0);
}

#[test]
fn an_address_changes_shard_only_when_nothing_is_left_of_it() {
    let mut cluster = Cluster::running(3);
    let mut desired = desired(2, 2);
    give(&mut desired, 1, OWN);
    assert!(cluster.configure(&desired).is_applied());
    let [one, two] = [1, 2].map(|n| backend(&cluster, n).home.expect("a home"));
    assert_ne!(one, two, "D1: a frontend each");
    take(&mut desired, 1);
    give(&mut desired, 2, OWN);
    assert!(cluster.configure(&desired).is_applied());
    cluster.drain_all();
    assert_eq!(backend(&cluster, 2).own, None, "M3: it lies in the other shard");
    assert_eq!(cluster.frontend_at(public(OWN)).1.declared, Declared::No, "so it retires");
    cluster.retire_all();
    assert_eq!(backend(&cluster, 2).own, Some(id_of(&cluster, OWN)));
    assert_eq!(cluster.frontend_at(public(OWN)).1.shard, two);
}

#[test]
fn a_pool_in_another_shard_than_the_own_address_is_refused_with_the_remedy() {
    let mut cluster = Cluster::running(3);
    let mut desired = desired(2, 2);
    let mut alone = desired.clone();
    let balancer = desired.load_balancers.get_mut("lb1").expect("the only one");
    balancer.outbound_rules.get_mut("out").expect("a rule").frontends = vec!["pip1".into()];
    give(&mut desired, 1, OWN);
    assert!(cluster.configure(&desired).is_applied());
    let balancer = desired.load_balancers.get_mut("lb1").expect("the only one");
    balancer.outbound_rules.get_mut("out").expect("a rule").frontends = vec!["pip2".into()];
    let why = cluster.refused(support::configure(&desired, Vec::new()));
    assert!(why.contains("other shards"), "{why}");
    give(&mut alone, 1, OWN);
    assert!(cluster.configure(&alone).is_applied(), "with a frontend in its shard");
}

#[test]
fn a_backend_that_nothing_ties_comes_to_its_address() {
    let mut cluster = Cluster::running(3);
    let mut desired = desired(2, 3);
    leave_pool(&mut desired, 3);
    give(&mut desired, 1, OWN);
    give(&mut desired, 2, OWN + 1);
    assert!(cluster.configure(&desired).is_applied());
    for (from, n) in [(1, OWN), (2, OWN + 1)] {
        take(&mut desired, from);
        give(&mut desired, 3, n);
        assert!(cluster.configure(&desired).is_applied());
        cluster.drain_all();
        assert_eq!(backend(&cluster, 3).own, Some(id_of(&cluster, n)));
        take(&mut desired, 3);
        assert!(cluster.configure(&desired).is_applied());
        cluster.drain_all();
    }
}

#[test]
fn a_removed_backend_gives_its_address_back() {
    let mut cluster = Cluster::running(3);
    let mut desired = desired(1, 2);
    give(&mut desired, 2, OWN);
    leave_pool(&mut desired, 2);
    assert!(cluster.configure(&desired).is_applied());
    desired.instances.remove("b2");
    assert!(cluster.configure(&desired).is_applied());
    assert_eq!(cluster.state.allocation().backends.len(), 2, "its flows are not over");
    cluster.drain_all();
    assert_eq!(cluster.state.allocation().backends.len(), 1);
    cluster.retire_all();
    assert_eq!(cluster.state.allocation().frontends.len(), 1);
}

#[test]
fn an_address_is_no_own_one_below_its_level() {
    let mut cluster = Cluster::running(1);
    cluster.state = cluster.state.clone().at_level(1);
    cluster.twin = cluster.state.clone();
    let mut desired = desired(1, 1);
    give(&mut desired, 1, OWN);
    let why = cluster.refused(support::configure(&desired, Vec::new()));
    assert!(why.contains("level 2"), "{why}");
}

#[test]
fn a_plan_names_the_fields_that_change_as_a_file_has_them() {
    let mut cluster = Cluster::running(3);
    let mut desired = desired(1, 2);
    declare(&mut desired, OWN);
    assert!(cluster.configure(&desired).is_applied());
    let details = |cluster: &Cluster, desired: &Desired| -> Vec<String> {
        let changes = qnat_control::plan::diff(&cluster.state, desired).changes;
        changes.into_iter().filter(|one| one.resource.starts_with("instance.")).map(|one| one.detail).collect()
    };
    let own = format!("ip_configurations.public_ip = \"own{OWN}\"");
    give(&mut desired, 2, OWN);
    assert_eq!(details(&cluster, &desired), [format!("now also {own}")]);
    assert!(cluster.configure(&desired).is_applied());
    take(&mut desired, 2);
    assert_eq!(details(&cluster, &desired), [format!("no longer {own}")]);
}
