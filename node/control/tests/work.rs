//! What an entry costs: counted in backends and parts, not in time, in clusters near the largest.

mod support;

use std::collections::BTreeMap;

use engine::ids::{ControlIndex, NodeId, PortBlock, ShardId};
use qnat_control::command::CommandBody;
use qnat_control::compile::{self, Compiler};
use qnat_control::resource::{Desired, LoadBalancer, PoolRef, PublicIp};
use support::{Cluster, configure, desired, public};

/// `pools` pools of `members` instances each, every one with `frontends` public addresses of its own.
fn of_pools(pools: u32, members: u32, frontends: u32) -> Desired {
    let mut all = desired(0, pools * members);
    let rule = desired(1, 0).load_balancers["lb1"].outbound_rules["out"].clone();
    for pool in 0..pools {
        let names: Vec<String> = (1..=frontends).map(|n| format!("pip{}", pool * frontends + n)).collect();
        for (name, n) in names.iter().zip(1..) {
            let address = public(pool * frontends + n);
            all.public_ips.insert(name.clone(), PublicIp { address, reserved_ports: [].into() });
        }
        let balancer = LoadBalancer {
            frontends: names,
            pools: ["web".to_owned()].into(),
            outbound_rules: [("out".to_owned(), rule.clone())].into(),
            ..LoadBalancer::default()
        };
        all.load_balancers.insert(format!("lb{pool}"), balancer);
    }
    for (instance, n) in all.instances.values_mut().zip(0..) {
        let load_balancer = format!("lb{}", n / members);
        instance.ip_configurations[0].pool = Some(PoolRef { load_balancer, pool: "web".into() });
    }
    all
}

/// The same without the members of pool 0.
fn without_the_first(mut desired: Desired) -> Desired {
    let first = |pool: &PoolRef| pool.load_balancer == "lb0";
    desired.instances.retain(|_, i| !i.ip_configurations[0].pool.as_ref().is_some_and(first));
    desired
}

/// Reports of fences as owners make them: at most `most` blocks in one, by shard.
fn reports(cluster: &Cluster, most: usize) -> Vec<CommandBody> {
    let allocation = cluster.state.allocation();
    let mut of: BTreeMap<ShardId, Vec<(PortBlock, ControlIndex)>> = BTreeMap::new();
    for (block, drain) in &allocation.drains {
        of.entry(allocation.frontends[&block.frontend].shard).or_default().push((*block, drain.reclaim_index));
    }
    let report = |(shard, blocks): (ShardId, Vec<(PortBlock, ControlIndex)>)| {
        let shard_epoch = cluster.state.shards()[&shard].epoch;
        let of = move |blocks: &[_]| CommandBody::ReclaimComplete { shard, shard_epoch, blocks: blocks.to_vec() };
        blocks.chunks(most).map(of).collect::<Vec<_>>()
    };
    of.into_iter().flat_map(report).collect()
}

#[test]
fn an_entry_compiles_the_backends_of_what_it_touched_and_shares_all_others() {
    const POOLS: u32 = 8;
    const MEMBERS: u32 = 200;
    let mut cluster = Cluster::running(3);
    let all = of_pools(POOLS, MEMBERS, 2);
    assert!(cluster.propose(configure(&all, vec![])).is_applied());
    let mut compiler = Compiler::new(NodeId(1));
    let mut last = compiler.snapshot(&cluster.state);
    assert_eq!(u64::from(POOLS * MEMBERS), compiler.work().backends, "the first version is compiled whole");

    let mut step = |cluster: &Cluster| {
        let before = compiler.work();
        let next = compiler.snapshot(&cluster.state);
        assert_eq!(*next, compile::snapshot(&cluster.state, NodeId(1)));
        let (now, apart) = (compiler.work(), next.backends.parts_apart_from(&last.backends));
        last = next;
        (now.whole - before.whole, now.backends - before.backends, now.changed - before.changed, apart)
    };
    // What says nothing about ports.
    cluster.propose(CommandBody::Noop);
    assert_eq!(step(&cluster), (0, 0, 0, 0));
    cluster.start(2);
    assert_eq!(step(&cluster), (0, 0, 0, 0));

    // A configuration is compiled whole; the reports after it look at backends of their own frontend alone.
    assert!(cluster.propose(configure(&without_the_first(all), vec![])).is_applied());
    let (whole, backends, ..) = step(&cluster);
    assert_eq!((whole, backends), (1, u64::from((POOLS - 1) * MEMBERS)));
    let reports = reports(&cluster, 10);
    assert!(reports.len() >= 20, "{}", reports.len());
    for report in reports {
        assert!(cluster.propose(report).is_applied());
        let (whole, backends, changed, apart) = step(&cluster);
        assert_eq!((whole, changed, apart), (0, 0, 0), "nobody else's ports have changed");
        assert!(backends <= u64::from(MEMBERS), "{backends}");
    }
    assert!(cluster.state.allocation().drains.is_empty());
}

#[test]
fn who_gets_what_has_become_free_is_compiled_anew_and_nobody_else() {
    // 50 backends of 1,024 ports, and 50 others in their place: a dozen of them finds room, and the others wait for drains.
    let mut cluster = Cluster::running(3);
    let first = of_pools(1, 50, 1);
    let mut second = of_pools(1, 100, 1);
    second.instances.retain(|name, _| !first.instances.contains_key(name));
    assert!(cluster.propose(configure(&first, vec![])).is_applied());
    assert!(cluster.propose(configure(&second, vec![])).is_applied());
    let mut compiler = Compiler::new(NodeId(1));
    let before = compiler.snapshot(&cluster.state);
    let waits = before.backends.values().filter(|backend| backend.lease.is_empty()).count();
    assert!(waits > 30, "{waits}");
    let work = compiler.work();
    let report = reports(&cluster, 5).into_iter().next().expect("blocks drain");
    assert!(cluster.propose(report).is_applied());
    let after = compiler.snapshot(&cluster.state);
    assert_eq!(*after, compile::snapshot(&cluster.state, NodeId(1)));
    let served = after.backends.iter().filter(|(id, b)| before.backends.get(id) != Some(b)).count();
    assert_eq!(served, 5, "one for each block");
    assert_eq!(compiler.work().changed - work.changed, u64::try_from(served).expect("few"));
    assert!(after.backends.parts_apart_from(&before.backends) <= served);
}
