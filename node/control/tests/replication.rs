//! The log and the state: bytes, idempotency, and random histories.

mod support;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine::ids::{BackendId, ControlIndex, FrontendId, Incarnation, Mac, NodeId, PortBlock, ShardId, Term};
use engine::probes::{Failing, Health};
use proptest::prelude::*;
use qnat_control::command::{Command, CommandBody};
use qnat_control::inbound::model::{Distribution, InboundRule, RuleProtocol, Target};
use qnat_control::limits::KEYS_MAX;
use qnat_control::loads::PortLoad;
use qnat_control::nsg::model::{Access, Addresses, Direction, Model, Nic, Ports, Protocol, Rule, SecurityGroup};
use qnat_control::nsg::service_tags::ServiceTags;
use qnat_control::nsg::tag::{Region, Tag};
use qnat_control::outcome::{Outcome, Yield};
use qnat_control::probing::health::HealthChange;
use qnat_control::probing::model::{Probe, ProbeProtocol, ProbeRef};
use qnat_control::reconcile::{self, Observed};
use qnat_control::resource::{Desired, Prefix, VirtualNetwork};
use qnat_control::state::State;
use qnat_control::{compile, view};
use support::{Cluster, configure, desired, registration};

/// One of each thing that security groups know.
fn add_groups(declared: &mut Desired) {
    let network = declared.virtual_networks.get_mut("vnet1").expect("declared");
    network.peerings.insert("vnet2".into());
    network.on_premises.push(Prefix { network: Ipv4Addr::new(192, 168, 0, 0), len: 16 });
    network.subnets.get_mut("default").expect("declared").security_group = Some("nsg1".into());
    declared.virtual_networks.insert("vnet2".into(), VirtualNetwork::default());
    declared.instances.get_mut("b1").expect("declared").security_group = Some("old".into());
    declared.instances.get_mut("b1").expect("declared").ip_configurations[0].nic = Some("nic1".into());
    let nic = Nic {
        virtual_network: "vnet1".into(),
        subnet: "default".into(),
        security_group: None,
        application_security_groups: ["web".to_owned()].into(),
    };
    declared.nics.insert("nic1".into(), nic);
    declared.application_security_groups.insert("web".into());
    let rule = Rule {
        priority: 300,
        direction: Direction::Inbound,
        access: Access::Deny,
        protocol: Protocol::Udp,
        source: Addresses::Tag(Tag::SqlIn(Region::WestUs2)),
        source_ports: vec![Ports { first: 80, last: 443 }],
        destination: Addresses::Members("web".into()),
        destination_ports: Vec::new(),
    };
    let prefixes = vec![Prefix { network: Ipv4Addr::new(192, 0, 2, 0), len: 24 }];
    let other =
        Rule { source: Addresses::Prefixes(prefixes), destination: Addresses::Any, priority: 301, ..rule.clone() };
    let rules = [("a".to_owned(), rule), ("b".to_owned(), other)].into();
    declared.security_groups.insert("nsg1".into(), SecurityGroup { model: Model::ResourceManager, rules });
    declared.security_groups.insert("old".into(), SecurityGroup { model: Model::Classic, rules: [].into() });
}

fn add_rules(declared: &mut Desired) {
    let balancer = declared.load_balancers.get_mut("lb1").expect("declared");
    let rule = InboundRule {
        frontend: "pip1".into(),
        protocol: RuleProtocol::Udp,
        frontend_port: 5_000,
        target: Target::Pool("web".into()),
        backend_port: 53,
        probe: Some("alive".into()),
        distribution: Distribution::Source,
        idle_timeout_minutes: 15,
        enable_tcp_reset: true,
        floating_ip: false,
    };
    let target = Target::IpConfiguration { instance: "b1".into(), ip_configuration: "ipconfig1".into() };
    let nat = InboundRule {
        protocol: RuleProtocol::All,
        distribution: Distribution::Connection,
        target,
        floating_ip: true,
        ..rule.clone()
    };
    balancer.load_balancing_rules.insert("dns".into(), rule);
    let probe = Probe {
        protocol: ProbeProtocol::Https,
        port: 8443,
        request_path: "/healthz".into(),
        interval_seconds: 15,
        number_of_probes: 2,
    };
    balancer.probes.insert("alive".into(), probe.clone());
    balancer.inbound_nat_rules.insert("nat".into(), nat);
    let machine = declared.instances.get_mut("b1").expect("declared");
    machine.probe = Some(Probe { protocol: ProbeProtocol::Tcp, port: 22, request_path: String::new(), ..probe });
}

/// Bytes of version 16. If this test fails, the layout changed: that needs a new version, not new bytes here.
#[test]
fn the_layout_of_version_17_is_frozen() {
    let hex = |command: &Command| -> String {
        command.encode().expect("small").iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let command = |body| Command { key: [0xaa; 16], stamped_unix_ms: 1_700_000_000_000, draw: 5, body };
    let block = PortBlock { frontend: FrontendId(3), start: 2048, len: 512 };
    let reclaim =
        CommandBody::ReclaimComplete { shard: ShardId(2), shard_epoch: 1, blocks: vec![(block, ControlIndex(300))] };
    assert_eq!(hex(&command(CommandBody::Noop)), include_str!("golden/noop.hex").trim());
    assert_eq!(hex(&command(reclaim)), include_str!("golden/reclaim_complete.hex").trim());
    let mut r = registration(7, 0, 9);
    r.level = 1;
    r.inside[0] = words::InsideInterface { network: Some("vnet1".into()), mac: Mac([1, 2, 3, 4, 5, 6]) };
    assert_eq!(hex(&command(CommandBody::RegisterIncarnation(r))), include_str!("golden/register.hex").trim());
    let hints = vec![PortLoad { block, flows: 4 }];
    let mut declared = desired(1, 1);
    add_groups(&mut declared);
    add_rules(&mut declared);
    declared.availability_sets.insert("as1".into());
    declared.instances.get_mut("b1").expect("declared").availability_set = Some("as1".into());
    declared.default_outbound.addresses = vec![Prefix { network: Ipv4Addr::new(203, 0, 113, 240), len: 29 }];
    assert_eq!(hex(&command(configure(&declared, hints))), include_str!("golden/configure.hex").trim());
    let prefixes = vec![Prefix { network: Ipv4Addr::new(198, 51, 100, 0), len: 24 }];
    let tags = ServiceTags { version: 3, prefixes: BTreeMap::from([(Tag::StorageIn(Region::EastUs), prefixes)]) };
    let tags = CommandBody::SetServiceTags(Box::new(tags));
    assert_eq!(hex(&command(tags)), include_str!("golden/set_service_tags.hex").trim());
    let probe = ProbeRef::LoadBalancer { load_balancer: "lb1".into(), probe: "alive".into() };
    let health = Health::Down(Failing::Status(503));
    let change = HealthChange { probe, backend: BackendId(7), health, shard: ShardId(2), term: Term(3 << 32) };
    let own = HealthChange { probe: ProbeRef::Instance("b1".into()), health: Health::Up, ..change.clone() };
    let changes = CommandBody::HealthChanged(vec![change, own]);
    assert_eq!(hex(&command(changes)), include_str!("golden/health_changed.hex").trim());
}

#[test]
fn a_repeated_key_applies_once_and_hears_the_first_answer() {
    let mut cluster = Cluster::running(3);
    let body = support::joining(9, 1);
    let first = cluster.propose_as([9; 16], body.clone());
    let Outcome::Applied { result: Yield::RaftId(id), .. } = first else { panic!("{first}") };
    assert_eq!(cluster.propose_as([9; 16], body), first);
    let other = cluster.removal(9);
    assert_eq!(cluster.propose_as([9; 16], other), first, "the key decides");
    assert_eq!(cluster.state.registry().nodes()[&NodeId(9)].raft_id, id);
}

#[test]
fn the_memory_of_keys_is_bounded() {
    let mut state = Cluster::running(1).state;
    let mut index = state.index().0;
    for n in 0..u64::try_from(KEYS_MAX).expect("small") + 10 {
        index += 1;
        let mut key = [1; 16];
        key[..8].copy_from_slice(&n.to_le_bytes());
        let body = CommandBody::RemoveNode { node: NodeId(77), incarnation: Incarnation(0) };
        state.apply(index, &Command { key, stamped_unix_ms: 0, draw: 0, body });
    }
    let full = state.encode().expect("within the limit").len();
    assert!(full < KEYS_MAX * 200, "{full} bytes");
    assert_eq!(State::decode(&state.encode().expect("fits")), Ok(state));
}

#[test]
fn unreadable_and_old_entries_change_nothing() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let before = cluster.state.clone();
    assert!(!cluster.state.apply_bytes(cluster.index, &[1, 2, 3]).is_applied());
    assert_eq!(cluster.state, before, "an index that is applied");
    assert!(!cluster.state.apply_bytes(cluster.index + 1, b"no envelope").is_applied());
    assert_eq!(cluster.state.allocation(), before.allocation());
    assert_eq!(cluster.state.index().0, cluster.index + 1);
    assert!(cluster.state.apply_bytes(cluster.index + 2, &[]).is_applied(), "raft's own entry");
}

#[derive(Clone, Debug)]
enum Step {
    Configure { frontends: u32, backends: u32, outside_pool: u32, replicas: u32, shards: u32, hints: Vec<(u16, u32)> },
    Start { node: u32 },
    Join { node: u32 },
    Remove { node: u32 },
    Drain { node: u32 },
    Resume { node: u32 },
    Reclaim { pick: usize, stale: bool },
    Seal { pick: usize },
    Sealed { pick: usize, who: usize, last: u64 },
    Recreate { pick: usize, node: u32 },
    Gone { pick: usize },
    Members { pick: usize, nodes: Vec<u32> },
    Retire { pick: usize },
    Token { node: u32, take: bool },
    Reconcile { live: u32, later: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let backends = prop_oneof![0u32..6, 45u32..55, 95u32..110, Just(205), Just(402)];
    let hints = prop::collection::vec((0u16..63, 0u32..9), 0..4);
    prop_oneof![
        5 => (0u32..6, backends, 0u32..3, 1u32..5, 1u32..4, hints).prop_map(
            |(frontends, backends, outside_pool, replicas, shards, hints)| Step::Configure {
                frontends, backends, outside_pool, replicas, shards, hints
            }
        ),
        3 => (1u32..6).prop_map(|node| Step::Start { node }),
        1 => (1u32..6).prop_map(|node| Step::Join { node }),
        1 => (1u32..6).prop_map(|node| Step::Remove { node }),
        1 => (1u32..6).prop_map(|node| Step::Drain { node }),
        1 => (1u32..6).prop_map(|node| Step::Resume { node }),
        8 => (any::<usize>(), prop::bool::weighted(0.3)).prop_map(|(pick, stale)| Step::Reclaim { pick, stale }),
        1 => any::<usize>().prop_map(|pick| Step::Seal { pick }),
        3 => (any::<usize>(), any::<usize>(), 0u64..4).prop_map(|(pick, who, last)| Step::Sealed { pick, who, last }),
        2 => (any::<usize>(), 1u32..6).prop_map(|(pick, node)| Step::Recreate { pick, node }),
        2 => any::<usize>().prop_map(|pick| Step::Gone { pick }),
        2 => (any::<usize>(), prop::collection::vec(1u32..6, 0..4)).prop_map(|(pick, nodes)| Step::Members { pick, nodes }),
        1 => any::<usize>().prop_map(|pick| Step::Retire { pick }),
        1 => (1u32..6, any::<bool>()).prop_map(|(node, take)| Step::Token { node, take }),
        4 => (0u32..64, any::<bool>()).prop_map(|(live, later)| Step::Reconcile { live, later }),
    ]
}

fn run(cluster: &mut Cluster, step: &Step) {
    let shards: Vec<ShardId> = cluster.state.shards().keys().copied().collect();
    let pick = |n: usize| -> Option<(ShardId, u32)> {
        let id = *shards.get(n.checked_rem(shards.len())?)?;
        Some((id, cluster.state.shards()[&id].epoch))
    };
    let body = match step {
        Step::Configure { frontends, backends, outside_pool, replicas, shards, hints } => {
            let mut config = desired(*frontends, *backends);
            for n in 0..*outside_pool {
                support::add_instance(&mut config, 500 + n, false);
            }
            config.settings.replicas = *replicas;
            config.settings.shards_max = *shards;
            let load = |(block, flows): &(u16, u32)| PortLoad {
                block: PortBlock { frontend: FrontendId(1), start: 1024 + block * 1024, len: 32 },
                flows: *flows,
            };
            configure(&config, hints.iter().map(load).collect())
        }
        Step::Start { node } => {
            let raft_id = cluster.state.registry().nodes().get(&NodeId(*node)).map_or(0, |n| n.raft_id);
            CommandBody::RegisterIncarnation(registration(*node, raft_id, cluster.index))
        }
        Step::Join { node } => support::joining(*node, cluster.index),
        Step::Remove { node } => cluster.removal(*node),
        Step::Drain { node } => CommandBody::DrainNode { node: NodeId(*node), incarnation: named(cluster, *node) },
        Step::Resume { node } => CommandBody::ResumeNode { node: NodeId(*node) },
        Step::Reclaim { pick, stale } => return reclaim(cluster, *pick, *stale),
        Step::Seal { pick: n }
        | Step::Sealed { pick: n, .. }
        | Step::Recreate { pick: n, .. }
        | Step::Gone { pick: n }
        | Step::Members { pick: n, .. } => match pick(*n) {
            Some((shard, epoch)) => on_shard(cluster, step, shard, epoch),
            None => CommandBody::Noop,
        },
        Step::Retire { pick } => {
            let all: Vec<FrontendId> = cluster.state.allocation().frontends.keys().copied().collect();
            let one = pick.checked_rem(all.len()).map(|at| all[at]);
            // Alone, or with all others: those that cannot go stay.
            let frontends = if pick % 2 == 0 { all } else { one.into_iter().collect() };
            CommandBody::RetireFrontends { frontends }
        }
        Step::Token { node, take: true } => cluster.stop(*node),
        Step::Token { node, take: false } => CommandBody::StopTokenReturn { node: NodeId(*node) },
        Step::Reconcile { live, later } => {
            let observed = Observed {
                now_ms: if *later { 5_000 } else { 500 },
                live: (1..6).filter(|n| live >> n & 1 == 1).map(NodeId).collect(),
                unix_ms: if *later { 10_000_000 } else { 0 },
                ..Observed::default()
            };
            for body in reconcile::next(&cluster.state, &observed) {
                cluster.propose(body);
            }
            return;
        }
    };
    cluster.propose(body);
}

fn named(cluster: &Cluster, node: u32) -> Incarnation {
    cluster.state.registry().nodes().get(&NodeId(node)).map_or(Incarnation(0), |known| known.named())
}

fn on_shard(cluster: &Cluster, step: &Step, shard: ShardId, epoch: u32) -> CommandBody {
    let replicas = &cluster.state.shards()[&shard];
    match step {
        Step::Seal { .. } => CommandBody::SealEpoch { shard, epoch },
        Step::Sealed { who, last, .. } => {
            let lives: Vec<Incarnation> = replicas.possible().into_iter().collect();
            let incarnation = who.checked_rem(lives.len()).map_or(Incarnation(0), |at| lives[at]);
            CommandBody::Sealed { shard, epoch, incarnation, last_term: *last, last_index: *last }
        }
        Step::Recreate { node, .. } => {
            let holder_if_lost = cluster.state.registry().newest(NodeId(*node)).unwrap_or_default();
            CommandBody::Recreate { shard, epoch, holder_if_lost }
        }
        Step::Gone { .. } => CommandBody::ReplicaGone { shard, epoch, gone: replicas.leaving.clone() },
        Step::Members { nodes, .. } => {
            let members = nodes.iter().map(|node| NodeId(*node)).collect();
            CommandBody::SetMembers { shard, members, unchanged_since: None }
        }
        Step::Configure { .. }
        | Step::Start { .. }
        | Step::Join { .. }
        | Step::Remove { .. }
        | Step::Drain { .. }
        | Step::Resume { .. }
        | Step::Reclaim { .. }
        | Step::Retire { .. }
        | Step::Token { .. }
        | Step::Reconcile { .. } => unreachable!("only steps on shards come here"),
    }
}

fn reclaim(cluster: &mut Cluster, pick: usize, stale: bool) {
    let drains: Vec<_> = cluster.state.allocation().drains.iter().map(|(b, d)| (*b, *d)).collect();
    let Some(at) = pick.checked_rem(drains.len()) else { return };
    let (block, drain) = drains[at];
    let shard = cluster.state.allocation().frontends[&block.frontend].shard;
    let shard_epoch = cluster.state.shards()[&shard].epoch;
    let index = drain.reclaim_index.0;
    let reclaim_index = ControlIndex(if stale { index - 1 } else { index });
    let before = cluster.state.allocation().clone();
    let mut blocks = vec![(block, reclaim_index)];
    if !stale {
        // Some more of the same shard, and late ones between them, which change nothing.
        let more = drains[at + 1..].iter().filter(|(b, _)| b.frontend == block.frontend).take(pick % 4);
        blocks.extend(more.flat_map(|(b, d)| [(*b, ControlIndex(d.reclaim_index.0 - 1)), (*b, d.reclaim_index)]));
    }
    let outcome = cluster.propose(CommandBody::ReclaimComplete { shard, shard_epoch, blocks });
    assert_eq!(outcome.is_applied(), !stale);
    if stale {
        assert_eq!(cluster.state.allocation(), &before, "a stale report frees nothing");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 400, ..ProptestConfig::default() })]

    /// `propose` checks after each command: invariants, equal outcomes and digests of two replicas.
    #[test]
    fn random_histories_keep_every_invariant(steps in prop::collection::vec(step(), 1..40)) {
        let mut cluster = Cluster::running(3);
        let mut compiler = compile::Compiler::new(NodeId(1));
        let mut shards: BTreeMap<FrontendId, ShardId> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            run(&mut cluster, step);
            let state = &cluster.state;
            for (id, frontend) in &state.allocation().frontends {
                prop_assert_eq!(*shards.entry(*id).or_insert(frontend.shard), frontend.shard, "M3: it stays in its shard");
            }
            let bytes = state.encode().expect("within the limit");
            prop_assert_eq!(&State::decode(&bytes).expect("own bytes"), state);
            let snapshot = compile::snapshot(state, NodeId(1));
            // Not of every version: those between are passed over, as when entries come in a row.
            if at % 3 != 1 {
                prop_assert_eq!(&*compiler.snapshot(state), &snapshot, "what is shared is as it would be made anew");
            }
            for backend in snapshot.backends.values() {
                let shard = &snapshot.shards[&backend.home];
                for block in &backend.lease {
                    prop_assert!(shard.addresses.iter().any(|(_, id)| *id == block.frontend), "M3: leases lie in the home shard");
                    prop_assert!(shard.draining.iter().all(|d| d.block != *block));
                }
            }
            let status = view::status(state);
            prop_assert!(status.concerns.iter().all(|c| !c.why.is_empty() && !c.remedy.is_empty()));
        }
    }

    /// Whatever was done before, reclaiming and reconciling come to rest, and then every backend has its grant.
    #[test]
    fn histories_come_to_rest_with_full_leases(
        steps in prop::collection::vec(step(), 1..25), frontends in 1u32..5, backends in 1u32..120
    ) {
        let mut cluster = Cluster::running(5);
        for step in &steps {
            run(&mut cluster, step);
        }
        let config = desired(frontends, backends);
        prop_assert!(cluster.configure(&config).is_applied());
        cluster.drain_all();
        for backend in cluster.state.allocation().backends.values() {
            prop_assert_eq!(backend.ports(), backend.grant, "{:?}", backend);
            prop_assert!(backend.grant >= 256);
        }
    }

    /// No bytes make apply panic or change anything but the index.
    #[test]
    fn arbitrary_bytes_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 1..200), flip in any::<usize>()) {
        let mut cluster = Cluster::running(3);
        let before = cluster.state.clone();
        prop_assert!(!cluster.state.apply_bytes(cluster.index + 1, &bytes).is_applied());
        let command = Command { key: [3; 16], stamped_unix_ms: 0, draw: 0, body: configure(&desired(2, 2), vec![]) };
        bytes = command.encode().expect("small");
        let at = flip % bytes.len();
        bytes[at] ^= 1;
        prop_assert!(!cluster.state.apply_bytes(cluster.index + 2, &bytes).is_applied());
        prop_assert_eq!(cluster.state.desired(), before.desired());
        prop_assert_eq!(cluster.state.registry(), before.registry());
    }
}
