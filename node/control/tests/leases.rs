//! Leases: tiers, growth, shrinkage, reclaim, binding.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use engine::ids::{ControlIndex, PortBlock};
use engine::snapshot::OnReclaim;
use qnat_control::command::CommandBody;
use qnat_control::loads::PortLoad;
use qnat_control::validate::issues;
use qnat_control::{compile, plan, resource, view};
use support::{Cluster, add_instance, configure, desired, public};

fn ports(lease: &[PortBlock]) -> u32 {
    lease.iter().map(|block| u32::from(block.len)).sum()
}

#[test]
fn every_backend_gets_what_its_tier_grants() {
    for (count, grant) in [(1, 1024), (50, 1024), (51, 512), (101, 256), (201, 128), (401, 64), (801, 32), (1000, 32)] {
        let mut cluster = Cluster::running(3);
        assert!(cluster.configure(&desired(1, count)).is_applied());
        let backends = &cluster.state.allocation().backends;
        assert_eq!(backends.len(), usize::try_from(count).expect("small"));
        assert!(backends.values().all(|b| b.lease.len() == 1 && ports(&b.lease) == grant), "{count} backends");
    }
}

#[test]
fn backends_spread_over_frontends_whatever_is_drawn() {
    let mut firsts = BTreeSet::new();
    for seed in 0..40 {
        let mut cluster = Cluster::running(3);
        cluster.draw = seed;
        cluster.configure(&desired(3, 4));
        let mut counts: BTreeMap<_, u32> = BTreeMap::new();
        for backend in cluster.state.allocation().backends.values() {
            *counts.entry(backend.frontend.expect("bound")).or_default() += 1;
        }
        assert_eq!(counts.len(), 3, "each frontend has one");
        firsts.insert(cluster.state.allocation().backends.values().next().expect("four").frontend);
    }
    assert_eq!(firsts.len(), 3, "the first backend's frontend is drawn");
}

#[test]
fn growth_drains_the_upper_half_and_newcomers_get_ports_at_once() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 50));
    let before = cluster.lease_of("b7")[0];
    cluster.configure(&desired(1, 51));
    let index = ControlIndex(cluster.index);
    assert_eq!(cluster.lease_of("b7"), [PortBlock { len: 512, ..before }]);
    assert_eq!(ports(&cluster.lease_of("b51")), 512);
    let upper = PortBlock { start: before.start + 512, len: 512, ..before };
    assert_eq!(cluster.state.allocation().drains[&upper].reclaim_index, index);
    assert_eq!(cluster.state.allocation().drains.len(), 50);

    let snapshot = compile::snapshot(&cluster.state, engine::ids::NodeId(1));
    let shard = &snapshot.shards[&cluster.only_shard()];
    assert_eq!(shard.draining.len(), 50);
    assert!(shard.draining.iter().all(|d| d.on_reclaim == OnReclaim::Expire && d.reclaim_index == index));
    cluster.drain_all();
    assert!(cluster.state.allocation().drains.is_empty());
    assert_eq!(cluster.lease_of("b7"), [PortBlock { len: 512, ..before }], "kept ports are untouched");
}

#[test]
fn the_half_with_fewer_flows_drains() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 50));
    let (a, b) = (cluster.lease_of("b1")[0], cluster.lease_of("b2")[0]);
    let piece = |block: PortBlock, offset: u16, flows| PortLoad {
        block: PortBlock { start: block.start + offset, len: 32, ..block },
        flows,
    };
    let hints = vec![piece(a, 0, 3), piece(a, 512, 2), piece(a, 992, 2), piece(b, 0, 9), piece(b, 600, 8)];
    cluster.applied(configure(&desired(1, 51), hints));
    assert_eq!(cluster.lease_of("b1"), [PortBlock { start: a.start + 512, len: 512, ..a }]);
    assert_eq!(cluster.lease_of("b2"), [PortBlock { len: 512, ..b }]);
}

#[test]
fn a_plan_names_the_pieces_whose_flows_decide_and_the_flows_on_what_goes() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 50));
    let a = cluster.lease_of("b1")[0];
    let (lower, upper) = (PortBlock { len: 512, ..a }, PortBlock { start: a.start + 512, len: 512, ..a });
    let plan = plan::diff(&cluster.state, &desired(1, 51));
    let pieces: Vec<PortBlock> = plan.pieces.values().flatten().copied().collect();
    assert_eq!((pieces.len(), plan.flows_taken), (100, 0));
    assert!(pieces.contains(&lower) && pieces.contains(&upper) && plan.uncounted.is_empty());
    let flows = |block| {
        if block == lower {
            3
        } else if block == upper {
            5
        } else {
            1
        }
    };
    let hints: Vec<PortLoad> = pieces.iter().map(|block| PortLoad { block: *block, flows: flows(*block) }).collect();
    let counted = plan::diff_with(&cluster.state, &desired(1, 51), &hints);
    assert_eq!((counted.flows_taken, counted.hash), (3 + 49, plan.hash));
    cluster.applied(configure(&desired(1, 51), hints));
    assert_eq!(cluster.lease_of("b1"), [upper]);
    // Several tiers at once: pieces as short as what stays. A backend that goes: all that it has.
    let tiers = plan::diff(&cluster.state, &desired(1, 900)).pieces;
    assert!(tiers.values().flatten().all(|piece| piece.len == 32));
    assert_eq!(
        tiers.values().flatten().filter(|piece| (upper.start..=upper.start + 511).contains(&piece.start)).count(),
        16
    );
    let mut without = desired(1, 51);
    without.instances.remove("b1");
    let gone = plan::diff(&cluster.state, &without).pieces;
    assert_eq!(gone.into_values().flatten().collect::<Vec<_>>(), [upper]);
}

#[test]
fn several_tiers_at_once_leave_the_right_number_of_ports() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 10));
    let before = cluster.lease_of("b1")[0];
    cluster.configure(&desired(1, 900));
    assert_eq!(cluster.lease_of("b1"), [PortBlock { len: 32, ..before }]);
    assert_eq!(ports(&cluster.lease_of("b900")), 32);
    cluster.drain_all();
    cluster.configure(&desired(1, 10));
    assert_eq!(ports(&cluster.lease_of("b1")), 1024, "its draining pieces came back");
    cluster.drain_all();
    assert_eq!(ports(&cluster.lease_of("b1")), 1024);
}

#[test]
fn shrinkage_gives_draining_ports_back_and_late_reports_free_nothing() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 50));
    let before = cluster.lease_of("b1");
    cluster.configure(&desired(1, 51));
    let (block, drain) = cluster.state.allocation().drains.iter().map(|(b, d)| (*b, *d)).next().expect("draining");
    let shard = cluster.only_shard();
    cluster.configure(&desired(1, 50));
    assert_eq!(cluster.lease_of("b1"), before, "the draining half came back");
    let late = CommandBody::ReclaimComplete { shard, shard_epoch: 1, blocks: vec![(block, drain.reclaim_index)] };
    assert!(cluster.refused(late.clone()).contains("does not drain"));
    // It drains again, under another index: the old report still frees nothing.
    cluster.configure(&desired(1, 51));
    assert!(cluster.state.allocation().drains.contains_key(&block));
    assert!(cluster.refused(late).contains("drains under index"));
    let index = cluster.state.allocation().drains[&block].reclaim_index;
    let other_epoch = CommandBody::ReclaimComplete { shard, shard_epoch: 2, blocks: vec![(block, index)] };
    assert!(cluster.refused(other_epoch).contains("epoch"));
}

#[test]
fn a_leaving_backend_returns_its_ports_only_when_they_are_fenced() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 2));
    let lease = cluster.lease_of("b2");
    cluster.configure(&desired(1, 1));
    assert!(cluster.state.allocation().drains.contains_key(&lease[0]));
    let mut with_new = desired(1, 1);
    add_instance(&mut with_new, 9, true);
    cluster.configure(&with_new);
    assert_ne!(cluster.lease_of("b9"), lease, "draining ports are nobody's");
    cluster.drain_all();
    assert_eq!(cluster.state.allocation().backends.len(), 2, "the removed backend is forgotten");
}

#[test]
fn a_backend_moves_to_another_shard_only_after_it_has_drained() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(2, 1));
    let backend = || -> qnat_control::allocation::Backend {
        cluster.state.allocation().backends.values().next().expect("one").clone()
    };
    let old = backend();
    let gone = cluster.state.allocation().frontends[&old.frontend.expect("bound")].ip;
    let mut fewer = desired(2, 1);
    fewer.public_ips.retain(|_, p| p.address != gone);
    let left = fewer.public_ips.keys().next().expect("one").clone();
    fewer.load_balancers.get_mut("lb1").expect("declared").frontends = vec![left];
    let mut cluster = { cluster };
    cluster.configure(&fewer);
    let waiting = cluster.state.allocation().backends.values().next().expect("one").clone();
    assert_eq!(waiting.home, old.home, "it stays at home until drained");
    assert!(waiting.lease.is_empty());
    assert!(view::backends(&cluster.state)[0].why.contains("must drain"));
    cluster.drain_all();
    let moved = cluster.state.allocation().backends.values().next().expect("one").clone();
    assert_ne!(moved.home, old.home);
    assert_eq!(ports(&moved.lease), 1024);
}

#[test]
fn a_backend_that_loses_its_frontend_has_ports_on_another_of_its_shard_at_once() {
    for on_reclaim in [resource::OnReclaim::Expire, resource::OnReclaim::Drain, resource::OnReclaim::Reset] {
        let mut cluster = Cluster::running(3);
        let mut declared = desired(2, 40);
        declared.settings.shards_max = 1;
        let balancer = declared.load_balancers.get_mut("lb1").expect("declared");
        balancer.outbound_rules.values_mut().for_each(|rule| rule.on_reclaim = on_reclaim);
        assert!(cluster.configure(&declared).is_applied());
        let gone = public(1);
        declared.public_ips.retain(|_, p| p.address != gone);
        let left = declared.public_ips.keys().next().expect("one").clone();
        declared.load_balancers.get_mut("lb1").expect("declared").frontends = vec![left];
        assert!(cluster.configure(&declared).is_applied());
        let (gone, _) = cluster.frontend_at(gone);
        let allocation = cluster.state.allocation();
        let drained = allocation.drains.iter().filter(|(block, _)| block.frontend == gone).count();
        assert_eq!(drained, 20, "half of them had it");
        for backend in allocation.backends.values() {
            assert!(ports(&backend.lease) == 1024 && backend.frontend != Some(gone), "{on_reclaim:?}: {backend:?}");
        }
        cluster.drain_all();
        assert!(cluster.state.allocation().backends.values().all(|backend| ports(&backend.lease) == 1024));
    }
}

#[test]
fn an_undeclared_frontend_keeps_its_shard_until_it_retires_and_returns_to_it_before() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let (shard, frontend) = (cluster.only_shard(), *cluster.state.allocation().frontends.keys().next().expect("one"));
    cluster.configure(&desired(0, 1));
    let retire = || CommandBody::RetireFrontends { frontends: vec![frontend] };
    assert!(cluster.refused(retire()).contains("draining"));
    cluster.drain_all();
    cluster.configure(&desired(1, 1));
    assert_eq!(cluster.state.allocation().frontends[&frontend].shard, shard, "same address, same shard, same holds");
    assert!(cluster.refused(retire()).contains("declared"));
    cluster.configure(&desired(0, 1));
    cluster.drain_all();
    cluster.applied(retire());
    assert!(cluster.state.shards().is_empty());
    cluster.configure(&desired(1, 1));
    let again = cluster.only_shard();
    assert_eq!((again, cluster.state.shards()[&again].epoch), (shard, 2), "the lowest free id, in an epoch of its own");
    assert_ne!(*cluster.state.allocation().frontends.keys().next().expect("one"), frontend);
}

#[test]
fn reserved_ports_are_never_leased_and_leased_ports_never_reserved() {
    let mut cluster = Cluster::running(3);
    let mut config = desired(1, 1);
    config.public_ips.get_mut("pip1").expect("declared").reserved_ports = [1500].into();
    cluster.configure(&config);
    let lease = cluster.lease_of("b1");
    assert_eq!(lease[0].start, 2048, "the first 1024 have a hole");
    config.public_ips.get_mut("pip1").expect("declared").reserved_ports = [1500, 2050].into();
    assert!(cluster.refused(configure(&config, vec![])).contains("port 2050"));
}

#[test]
fn too_many_backends_for_the_frontends_are_refused_before_anything_changes() {
    let mut cluster = Cluster::running(3);
    let mut config = desired(1, 40);
    for instance in config.instances.values_mut() {
        let mut second = instance.ip_configurations[0].clone();
        second.name = "ipconfig2".into();
        second.private_ip = std::net::Ipv4Addr::from_bits(second.private_ip.to_bits() + 0x1000);
        instance.ip_configurations.push(second);
    }
    assert!(cluster.refused(configure(&config, vec![])).contains("breaks a rule"));
    let problem = &issues(&config)[0].problem;
    assert!(problem.contains("needs 81920 ports, the frontends of its outbound rule have 64512"), "{problem}");
}

#[test]
fn a_plan_says_what_apply_does_and_goes_stale() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 50));
    let wanted = desired(1, 51);
    let plan = plan::diff(&cluster.state, &wanted);
    let lines: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
    assert!(lines.contains(&"+ instance.b51".to_owned()), "{lines:?}");
    assert!(lines.contains(&"~ pool.lb1/web: 50 → 51 instances: 1024 → 512 ports for each backend".to_owned()));
    let start = cluster.lease_of("b1")[0].start;
    let drain =
        format!("~ lease.b1/ipconfig1: 1024 → 512 ports; drains {}:{}-{}", public(1), start + 512, start + 1023);
    assert!(lines.contains(&drain), "{drain} in {lines:?}");
    let with_hash = |hash| {
        let CommandBody::Configure(mut c) = configure(&wanted, vec![]) else { unreachable!("made above") };
        c.base_hash = Some(hash);
        CommandBody::Configure(c)
    };
    let mut wrong = plan.hash;
    wrong[0] ^= 1;
    assert!(cluster.refused(with_hash(wrong)).contains("since the plan was made"));
    cluster.applied(with_hash(plan.hash));
    assert!(cluster.refused(with_hash(plan.hash)).contains("since the plan was made"));
    assert!(plan::diff(&cluster.state, &wanted).changes.is_empty(), "what is applied is no change");
}

#[test]
fn every_ip_configuration_has_a_home_also_without_a_pool() {
    let mut cluster = Cluster::running(3);
    let mut config = desired(3, 3);
    for n in 10..16 {
        add_instance(&mut config, n, false);
    }
    cluster.configure(&config);
    let snapshot = compile::snapshot(&cluster.state, engine::ids::NodeId(2));
    assert_eq!(snapshot.backends.len(), 9);
    let mut homes: BTreeMap<_, u32> = BTreeMap::new();
    for backend in snapshot.backends.values() {
        *homes.entry(backend.home).or_default() += 1;
    }
    assert_eq!(homes.into_values().collect::<Vec<_>>(), [3, 3, 3]);
    assert_eq!(snapshot.me.map(|m| m.node.0), Some(2));
    assert_eq!(snapshot.peers.len(), 2);
}
