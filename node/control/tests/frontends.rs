//! Frontends and the shards that they share: which one a new frontend joins, and how one leaves a shard that lives on (M3).

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine::ids::{FrontendId, NodeId, ShardId};
use engine::snapshot::Snapshot;
use qnat_control::command::CommandBody;
use qnat_control::reconcile::{self, Observed};
use qnat_control::resource::{Desired, LoadBalancer};
use qnat_control::validate::{CLUSTER_SHARDS_MAX, FRONTENDS_MAX, RULE_FRONTENDS_MAX, issues};
use qnat_control::{compile, view};
use support::{Cluster, configure, desired, public};

/// `desired`, with so many shards at most.
fn sharing(shards_max: u32, frontends: u32, backends: u32) -> Desired {
    let mut desired = desired(frontends, backends);
    desired.settings.shards_max = shards_max;
    desired
}

fn without(mut desired: Desired, n: u32) -> Desired {
    let name = format!("pip{n}");
    desired.public_ips.remove(&name);
    let balancer = desired.load_balancers.get_mut("lb1").expect("declared");
    balancer.frontends.retain(|other| *other != name);
    balancer.outbound_rules.get_mut("out").expect("declared").frontends.retain(|other| *other != name);
    desired
}

/// The rule uses these frontends alone.
fn name_in_rule(desired: &mut Desired, names: &[&str]) {
    let balancer = desired.load_balancers.get_mut("lb1").expect("declared");
    let rule = balancer.outbound_rules.get_mut("out").expect("declared");
    rule.frontends = names.iter().map(ToString::to_string).collect();
}

fn shard_at(cluster: &Cluster, n: u32) -> ShardId {
    cluster.frontend_at(public(n)).1.shard
}

fn compiled(cluster: &Cluster) -> Snapshot {
    compile::snapshot(&cluster.state, NodeId(1))
}

/// How many frontends each shard has.
fn crowds(cluster: &Cluster) -> Vec<usize> {
    let mut crowds: BTreeMap<ShardId, usize> = BTreeMap::new();
    for frontend in cluster.state.allocation().frontends.values() {
        *crowds.entry(frontend.shard).or_default() += 1;
    }
    assert!(crowds.keys().eq(cluster.state.shards().keys()), "no shard without a frontend");
    crowds.into_values().collect()
}

#[test]
fn a_new_frontend_begins_a_shard_while_there_may_be_more_and_then_joins_the_least_crowded() {
    let mut cluster = Cluster::running(3);
    cluster.applied(configure(&sharing(3, 7, 0), vec![]));
    assert_eq!(crowds(&cluster), [3, 2, 2]);
    let of = |cluster: &Cluster| (1..=7).map(|n| shard_at(cluster, n)).collect::<Vec<_>>();
    let before = of(&cluster);
    // More may be, or fewer: those that are there stay where they are.
    cluster.applied(configure(&sharing(1, 7, 0), vec![]));
    assert_eq!(of(&cluster), before);
    cluster.applied(configure(&sharing(1, 8, 0), vec![]));
    assert_eq!(of(&cluster), before);
    assert_eq!(crowds(&cluster), [3, 3, 2], "the fewest frontends, of these the lowest id");
    cluster.applied(configure(&sharing(5, 10, 0), vec![]));
    assert_eq!(crowds(&cluster), [3, 3, 2, 1, 1], "shards of their own again");
}

#[test]
fn of_shards_with_as_many_frontends_the_one_with_the_fewest_backends_is_joined() {
    let mut cluster = Cluster::running(3);
    let mut all = sharing(2, 2, 3);
    name_in_rule(&mut all, &["pip1"]);
    cluster.applied(configure(&all, vec![]));
    let (one, two) = (shard_at(&cluster, 1), shard_at(&cluster, 2));
    assert!(one < two && cluster.state.allocation().backends.values().all(|backend| backend.home == Some(one)));
    let mut more = sharing(2, 3, 3);
    name_in_rule(&mut more, &["pip1"]);
    cluster.applied(configure(&more, vec![]));
    assert_eq!(shard_at(&cluster, 3), two);
}

#[test]
fn a_frontend_leaves_a_shard_that_lives_on_by_draining_and_the_others_notice_nothing() {
    let mut cluster = Cluster::running(3);
    let all = sharing(1, 3, 30);
    cluster.applied(configure(&all, vec![]));
    let (shard, (leaving, _)) = (cluster.only_shard(), cluster.frontend_at(public(2)));
    let before = compiled(&cluster);
    let on_it = |s: &Snapshot, id| s.backends[&id].lease.iter().any(|block| block.frontend == leaving);
    let theirs: BTreeSet<_> = before.backends.iter().map(|(id, _)| id).filter(|id| on_it(&before, *id)).collect();
    assert_eq!(theirs.len(), 10);
    let retire = || CommandBody::RetireFrontends { frontends: vec![leaving] };

    cluster.applied(configure(&without(all.clone(), 2), vec![]));
    let after = compiled(&cluster);
    assert_eq!(after.frontend_by_ip[&public(2)], leaving, "it is answered for while its blocks drain");
    assert_eq!(after.shards[&shard].draining.len(), 10);
    assert!(
        after.shards[&shard].draining.iter().all(|draining| draining.block.frontend == leaving),
        "and no other block"
    );
    for (id, backend) in before.backends.iter() {
        assert_eq!(after.backends[&id].home, shard);
        assert_eq!(
            after.backends[&id].lease == backend.lease,
            !theirs.contains(&id),
            "who is on another frontend keeps all"
        );
    }
    assert!(cluster.refused(retire()).contains("draining"));
    cluster.drain_all();
    let moved = compiled(&cluster);
    assert!(moved.backends.values().all(|backend| backend.lease.iter().all(|block| block.frontend != leaving)));
    assert!(moved.backends.values().all(|backend| backend.home == shard && !backend.lease.is_empty()));
    assert!(moved.frontend_by_ip.contains_key(&public(2)), "until the longest hold has ended");

    let epoch = cluster.state.shards()[&shard].clone();
    cluster.applied(retire());
    assert_eq!(cluster.state.shards()[&shard], epoch, "the shard goes on as it was");
    let gone = compiled(&cluster);
    let addresses: Vec<Ipv4Addr> = gone.shards[&shard].addresses.iter().map(|(ip, _)| *ip).collect();
    assert_eq!(addresses, [public(1), public(3)]);
    assert!(!gone.frontend_by_ip.contains_key(&public(2)) && !gone.frontends.contains_key(&leaving));
    assert!(cluster.refused(retire()).contains("does not exist"));
    // The same address again is another frontend: nothing said about the old one fits it.
    cluster.applied(configure(&all, vec![]));
    assert!(cluster.frontend_at(public(2)).0 > leaving);
}

/// `desired` with one frontend in the place of another.
fn replaced(all: &Desired, old: u32, new: u32) -> Desired {
    let mut desired = without(all.clone(), old);
    let name = format!("pip{new}");
    let address = qnat_control::resource::PublicIp { address: public(new), reserved_ports: [].into() };
    desired.public_ips.insert(name.clone(), address);
    desired.load_balancers.get_mut("lb1").expect("declared").frontends.push(name);
    desired
}

#[test]
fn an_address_in_the_place_of_another_comes_to_the_shard_of_those_who_lost_that_one() {
    let mut cluster = Cluster::running(3);
    let all = sharing(8, 2, 6);
    cluster.applied(configure(&all, vec![]));
    let (left, right) = (shard_at(&cluster, 1), shard_at(&cluster, 2));
    let homes = |cluster: &Cluster| -> Vec<_> {
        cluster.state.allocation().backends.values().map(|backend| (backend.home, backend.ports())).collect()
    };
    let before = homes(&cluster);
    assert!(before.iter().any(|(home, _)| *home == Some(left)) && before.iter().any(|(home, _)| *home == Some(right)));
    cluster.applied(configure(&replaced(&all, 2, 9), vec![]));
    assert_eq!(shard_at(&cluster, 9), right);
    assert_eq!(homes(&cluster), before, "everybody has as many ports as before, at once");
    // Nobody is stranded now: one more begins a shard.
    cluster.applied(configure(&replaced(&sharing(8, 3, 6), 2, 9), vec![]));
    assert!(![left, right].contains(&shard_at(&cluster, 3)));
}

#[test]
fn all_frontends_that_may_go_retire_by_one_entry_and_shards_go_with_their_last_one() {
    let mut cluster = Cluster::running(3);
    let mut all = sharing(2, 5, 2);
    name_in_rule(&mut all, &["pip1", "pip2"]);
    cluster.applied(configure(&all, vec![]));
    assert_eq!(crowds(&cluster), [3, 2]);
    let other = shard_at(&cluster, 2);
    assert_eq!(shard_at(&cluster, 4), other);
    // Both of the second shard go, and one of the first; the second one has a backend.
    let gone = [2, 3, 4].map(|n| cluster.frontend_at(public(n)).0);
    let declared = cluster.frontend_at(public(1)).0;
    let retire = |frontends: &[FrontendId]| CommandBody::RetireFrontends { frontends: frontends.to_vec() };
    cluster.unix_ms = 50_000;
    cluster.applied(configure(&[2, 3, 4].into_iter().fold(all, without), vec![]));
    assert!(cluster.refused(retire(&[])).contains("no frontend is named"));
    assert!(cluster.refused(retire(&[declared, gone[0]])).contains("is declared"));
    cluster.applied(retire(&[declared, gone[0], gone[1], gone[2]]));
    assert_eq!(crowds(&cluster), [2, 1], "who is declared stays, and whose blocks drain");
    assert_eq!(shard_at(&cluster, 2), other);
    cluster.drain_all();
    let observed = Observed { unix_ms: 10_000_000, ..Observed::default() };
    let proposals = reconcile::next(&cluster.state, &observed);
    assert!(proposals.contains(&retire(&gone[..1])), "{proposals:?}");
    cluster.applied(retire(&gone[..1]));
    assert_eq!(crowds(&cluster), [2], "the second shard went with its last one");
}

#[test]
fn one_entry_retires_all_that_are_due() {
    let mut cluster = Cluster::running(3);
    cluster.applied(configure(&sharing(2, 40, 0), vec![]));
    let ids: Vec<FrontendId> = cluster.state.allocation().frontends.keys().copied().collect();
    cluster.applied(configure(&desired(0, 1), vec![]));
    let observed = Observed { unix_ms: 10_000_000, ..Observed::default() };
    let retires = |body: &CommandBody| matches!(body, CommandBody::RetireFrontends { .. });
    let proposals = reconcile::next(&cluster.state, &observed);
    let retire: Vec<&CommandBody> = proposals.iter().filter(|body| retires(body)).collect();
    assert_eq!(retire, [&CommandBody::RetireFrontends { frontends: ids }]);
}

#[test]
fn a_thousand_frontends_fill_all_shards_alike_and_no_more_fit_until_others_have_gone() {
    let mut cluster = Cluster::running(3);
    let most = u32::try_from(FRONTENDS_MAX).expect("small");
    let all = desired(most, 1);
    cluster.applied(configure(&all, vec![]));
    let each = FRONTENDS_MAX / usize::try_from(CLUSTER_SHARDS_MAX).expect("small");
    assert_eq!(crowds(&cluster), vec![each; usize::try_from(CLUSTER_SHARDS_MAX).expect("small")]);
    let shown = view::shards(&cluster.state);
    assert!(shown.iter().all(|shard| shard.frontends.len() == each));
    assert_eq!(view::frontends(&cluster.state)[0].name.as_deref(), Some("pip1"));
    let more = desired(most + 1, 1);
    assert!(cluster.refused(configure(&more, vec![])).contains("breaks a rule"));
    assert!(issues(&more)[0].problem.contains("too many frontends"), "{:?}", issues(&more));
    // Others in the place of some: those on their way out count until they have retired.
    let others = |all: &Desired| {
        let mut others = (1..=24).fold(all.clone(), without);
        let names: Vec<String> = (1..=24).map(|n| format!("pip{}", most + n)).collect();
        for (name, n) in names.iter().zip(1..) {
            let public = qnat_control::resource::PublicIp { address: public(most + n), reserved_ports: [].into() };
            others.public_ips.insert(name.clone(), public);
        }
        others.load_balancers.get_mut("lb1").expect("declared").frontends.extend(names);
        others
    };
    let why = cluster.refused(configure(&others(&all), vec![]));
    assert!(why.contains("1024 frontends and 24 that are on their way out are too many"), "{why}");
    cluster.applied(configure(&(1..=24).fold(all.clone(), without), vec![]));
    cluster.drain_all();
    assert!(cluster.refused(configure(&others(&all), vec![])).contains("24 that are on their way out"));
    cluster.retire_all();
    cluster.applied(configure(&others(&all), vec![]));
    assert!(crowds(&cluster).iter().all(|count| *count == each), "they join those that others have left");
}

#[test]
fn what_rules_name_in_all_is_bounded_and_refused_by_name() {
    let mut all = desired(130, 0);
    let balancer: &mut LoadBalancer = all.load_balancers.get_mut("lb1").expect("declared");
    let rule = balancer.outbound_rules["out"].clone();
    balancer.outbound_rules.clear();
    balancer.pools.clear();
    let names: Vec<String> = balancer.frontends.iter().take(128).cloned().collect();
    for n in 0..RULE_FRONTENDS_MAX / 128 {
        balancer.pools.insert(format!("pool{n}"));
        let rule =
            qnat_control::resource::OutboundRule { pool: format!("pool{n}"), frontends: names.clone(), ..rule.clone() };
        balancer.outbound_rules.insert(format!("rule{n}"), rule);
    }
    assert_eq!(issues(&all), []);
    let balancer = all.load_balancers.get_mut("lb1").expect("declared");
    let last = balancer.frontends[129].clone();
    balancer.outbound_rules.get_mut("rule0").expect("there").frontends.push(last);
    let issues = issues(&all);
    assert_eq!(issues[0].path, "load_balancer.outbound_rule.frontends");
    assert!(issues[0].remedy.contains("16384"), "{issues:?}");
}
