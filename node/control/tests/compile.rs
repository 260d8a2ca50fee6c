//! From the file that an operator writes to what workers judge packets by, field by field: every setting away from its
//! default, two networks, two pools on one frontend, rules with frontends of their own, and a pool that no rule lets out.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use words::{InsideInterface, Prefix, level};

use engine::codec::Format;
use engine::ids::{BackendId, FrontendId, Mac, NodeId, PortBlock, VnetId};
use engine::snapshot::{
    Backend, Filtering, NodeLinks, OnReclaim, Outside, Params, Profile, Refusals, ShardConfig, Sharing, Snapshot,
    Subnet, TcpReset, Ways,
};
use qnat_control::allocation::Allocation;
use qnat_control::command::CommandBody;
use qnat_control::registry::Registration;
use qnat_control::resource::{self, Desired, Instance, IpConfiguration, PoolRef};
use qnat_control::{compile, config};
use support::{Cluster, configure, desired, public, registration};

/// Nothing in it has its default value.
const FILE: &str = r#"
[[virtual_network]]
name = "vnet1"
[[virtual_network.subnet]]
name = "front"
prefix = "10.7.0.0/20"
gateway = "10.7.0.9"
[[virtual_network]]
name = "vnet2"
[[virtual_network.subnet]]
name = "back"
prefix = "10.9.8.0/24"
gateway = "10.9.8.254"

[[public_ip]]
name = "pip1"
address = "203.0.113.1"
[[public_ip]]
name = "pip2"
address = "203.0.113.2"
[[public_ip]]
name = "pip3"
address = "203.0.113.3"

[[load_balancer]]
name = "lb1"
frontends = ["pip1", "pip2", "pip3"]
[[load_balancer.pool]]
name = "web"
[[load_balancer.pool]]
name = "api"
[[load_balancer.pool]]
name = "old"
[[load_balancer.pool]]
name = "dark"
[[load_balancer.outbound_rule]]
name = "web"
pool = "web"
frontends = ["pip2"]
idle_timeout_minutes = 17
enable_tcp_reset = true
sharing = "2017"
on_reclaim = "reset"
[[load_balancer.outbound_rule]]
name = "api"
pool = "api"
frontends = ["pip2"]
idle_timeout_minutes = 100
profile = "rfc"
filtering = "endpoint_independent"
on_reclaim = "drain"
[[load_balancer.outbound_rule]]
name = "old"
pool = "old"
frontends = ["pip3"]
idle_timeout_minutes = 4
profile = "rfc"

[[instance]]
name = "w1"
[[instance.ip_configuration]]
name = "ip1"
private_ip = "10.7.0.21"
mac = "52:54:00:12:34:5f"
subnet = "vnet1/front"
pool = "lb1/web"
[[instance]]
name = "w2"
[[instance.ip_configuration]]
name = "ip1"
private_ip = "10.9.8.22"
subnet = "vnet2/back"
pool = "lb1/api"
[[instance]]
name = "w3"
[[instance.ip_configuration]]
name = "ip1"
private_ip = "10.7.0.23"
subnet = "vnet1/front"
pool = "lb1/old"
[[instance]]
name = "w4"
[[instance.ip_configuration]]
name = "ip1"
private_ip = "10.7.0.24"
subnet = "vnet1/front"
pool = "lb1/dark"

[outside]
network = "203.0.113.0/25"
next_hop = "203.0.113.99"

[settings]
tick_ms = 7
heartbeat_ticks = 4
vote_ticks = 12
orphan_grace_ms = 2345
recreate_quarantine_ms = 54321
hold_ms = [41001, 42002, 43003, 44004, 45005]
replicas = 2
shards_max = 3
held_packets_per_backend_max = 77
held_bytes_max = 1234567
flows_per_shard_max = 345678
flows_per_backend_max = 4567
new_flows_per_second_max = 890
short_idle_ports = [853, 5353]
mss_max = 1380
icmp_on_refusal = true
"#;

fn read() -> Desired {
    config::parse("net.toml", FILE).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn compiled(cluster: &Cluster) -> Snapshot {
    compile::snapshot(&cluster.state, NodeId(2))
}

fn backend_at(snapshot: &Snapshot, vnet: u32, ip: [u8; 4]) -> &Backend {
    let id = snapshot.backend_by_ip[&(VnetId(vnet), Ipv4Addr::from(ip))];
    &snapshot.backends[&id]
}

fn ports(lease: &[PortBlock]) -> u32 {
    lease.iter().map(|block| u32::from(block.len)).sum()
}

fn frontend_of(snapshot: &Snapshot, n: u32) -> FrontendId {
    snapshot.frontend_by_ip[&public(n)]
}

/// Adds an address to a pool of `lb1`.
fn join(desired: &mut Desired, instance: &str, n: u32, pool: &str) {
    let ip = IpConfiguration {
        name: "ipconfig1".into(),
        virtual_network: "vnet1".into(),
        subnet: "default".into(),
        private_ip: Ipv4Addr::from_bits(0x0a00_0200 + n),
        mac: None,
        pool: Some(PoolRef { load_balancer: "lb1".into(), pool: pool.into() }),
        admin_state: Default::default(),
        public_ip: None,
        nic: None,
    };
    desired.instances.insert(instance.into(), Instance { ip_configurations: vec![ip], ..Instance::default() });
}

#[test]
fn the_settings_of_this_file_are_all_away_from_their_defaults() {
    // A struct pattern without `..`: who adds a setting has to give it a value in the file, and look for it below.
    let resource::Settings {
        tick_ms,
        heartbeat_ticks,
        vote_ticks,
        orphan_grace_ms,
        recreate_quarantine_ms,
        hold_ms,
        replicas,
        shards_max,
        held_packets_per_backend_max,
        held_bytes_max,
        flows_per_shard_max,
        flows_per_backend_max,
        new_flows_per_second_max,
        short_idle_ports,
        mss_max,
        icmp_on_refusal,
    } = read().settings;
    let d = resource::Settings::default();
    assert_ne!((tick_ms, heartbeat_ticks, vote_ticks), (d.tick_ms, d.heartbeat_ticks, d.vote_ticks));
    assert_eq!((tick_ms, heartbeat_ticks, vote_ticks), (7, 4, 12));
    assert!(orphan_grace_ms != d.orphan_grace_ms && recreate_quarantine_ms != d.recreate_quarantine_ms);
    assert!(hold_ms.iter().zip(d.hold_ms).all(|(here, there)| *here != there));
    assert!(replicas != d.replicas && shards_max != d.shards_max);
    assert!(held_packets_per_backend_max != d.held_packets_per_backend_max && held_bytes_max != d.held_bytes_max);
    assert!(flows_per_shard_max != d.flows_per_shard_max);
    assert!(flows_per_backend_max != d.flows_per_backend_max && new_flows_per_second_max != d.new_flows_per_second_max);
    assert!(short_idle_ports.is_disjoint(&d.short_idle_ports) && mss_max != d.mss_max);
    assert_ne!(icmp_on_refusal, d.icmp_on_refusal);
}

#[test]
fn every_setting_of_the_file_reaches_the_workers() {
    let mut cluster = Cluster::running(3);
    assert!(cluster.configure(&read()).is_applied());
    let params = compiled(&cluster).params;
    assert_eq!(
        params,
        Params {
            orphan_grace_ms: 2_345,
            vote_timeout_ms: 7 * 12,
            hold_ms: [41_001, 42_002, 43_003, 44_004, 45_005],
            held_packets_per_backend_max: 77,
            held_bytes_max: 1_234_567,
            flows_per_shard_max: 345_678,
            flows_per_backend_max: 4_567,
            new_flows_per_second_max: 890,
            mss_max: 1_380,
            short_idle_ports: [853, 5_353, 0, 0, 0, 0, 0, 0],
            refusals: Refusals::Told,
            format: Format::NEWEST,
            key: [1, 2],
        }
    );
}

/// C2. The raise settles no lease: a compiler goes on from the version before.
#[test]
fn the_level_reaches_the_workers_with_the_entry_that_raises_it() {
    let mut cluster = Cluster::running(3);
    cluster.state = cluster.state.clone().at_level(level::FIRST);
    cluster.twin = cluster.state.clone();
    assert!(cluster.configure(&read()).is_applied());
    let mut compiler = compile::Compiler::new(NodeId(1));
    assert_eq!(compiler.snapshot(&cluster.state).params.format, Format::First);
    for (level, format) in [(2, Format::Second), (level::NEWEST, Format::Third)] {
        cluster.applied(CommandBody::SetLevel { level });
        assert_eq!(compiler.snapshot(&cluster.state).params.format, format);
    }
    assert_eq!(compiler.work().whole, 1);
}

fn inside_mac(node: u32, place: u8) -> Mac {
    Mac([2, 0, 0, 1, place, u8::try_from(node).expect("small")])
}

/// A start of a node with inside interfaces to these networks.
fn led_to(node: u32, networks: &[Option<&str>]) -> Registration {
    let one = |(network, place): (&Option<&str>, u8)| InsideInterface {
        network: network.map(str::to_owned),
        mac: inside_mac(node, place),
    };
    Registration { inside: networks.iter().zip(0..).map(one).collect(), ..registration(node, 0, 99) }
}

#[test]
fn an_interface_without_a_name_leads_to_the_only_network() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 1));
    let snapshot = compiled(&cluster);
    let mac = registration(2, 0, 0).inside[0].mac;
    assert_eq!(snapshot.me.map(|me| me.inside), Some(vec![(VnetId(1), mac)]));
}

#[test]
fn every_resource_of_the_file_reaches_the_workers() {
    let mut cluster = Cluster::running(3);
    assert!(cluster.configure(&read()).is_applied());
    // One interface for each network, one for the only network that there would be, and one to a network that is gone.
    for (node, networks) in
        [(1, &[None][..]), (2, &[Some("vnet2"), Some("vnet1")]), (3, &[Some("gone"), Some("vnet2")])]
    {
        cluster.applied(CommandBody::RegisterIncarnation(led_to(node, networks)));
    }
    let index = cluster.index;
    let Snapshot {
        control_index,
        params: _,
        me,
        peers,
        shards,
        frontends,
        frontend_by_ip,
        backends,
        backend_by_ip,
        first_backends,
        security,
        rules,
        probes,
        networks,
        subnets,
        private,
        outside,
    } = compiled(&cluster);
    assert!(rules.is_empty() && probes.all.is_empty());
    assert_eq!(control_index.0, index);
    assert_eq!(
        ["vnet1", "vnet2", "gone"].map(|name| networks.carried(Some(name))),
        [Some(VnetId(1)), Some(VnetId(2)), None]
    );
    assert_eq!((networks.carried(None), networks.name(VnetId(2))), (None, Some("vnet2")));
    let links = |node: u32, inside: &[(u32, u8)]| {
        let inside = inside.iter().map(|(vnet, place)| (VnetId(*vnet), inside_mac(node, *place))).collect();
        NodeLinks { node: NodeId(node), inside, outside: registration(node, 0, 0).outside_mac }
    };
    assert_eq!(me, Some(links(2, &[(2, 0), (1, 1)])));
    assert_eq!(peers, [links(1, &[]), links(3, &[(2, 1)])]);

    let addresses: BTreeSet<Ipv4Addr> = frontends.values().map(|f| f.ip).collect();
    assert_eq!(addresses, (1..=3).map(public).collect());
    assert_eq!((frontends.len(), frontend_by_ip.len(), shards.len()), (3, 3, 3));
    for (id, frontend) in frontends.iter() {
        assert_eq!(frontend_by_ip[&frontend.ip], *id);
        assert_eq!(
            shards[&frontend.shard],
            ShardConfig { addresses: [(frontend.ip, *id)].into(), draining: [].into() }
        );
    }

    assert!(private.connected.is_empty() && private.isolated.is_empty());
    assert!(security.is_empty(), "nobody has a group here");
    let vnet = |name: &str| if name == "vnet1" { VnetId(1) } else { VnetId(2) };
    let subnet = |name, network: [u8; 4], len, gateway: [u8; 4]| Subnet {
        vnet: vnet(name),
        prefix: Prefix { network: Ipv4Addr::from(network), len },
        gateway: Ipv4Addr::from(gateway),
    };
    let expected =
        [subnet("vnet1", [10, 7, 0, 0], 20, [10, 7, 0, 9]), subnet("vnet2", [10, 9, 8, 0], 24, [10, 9, 8, 254])];
    assert_eq!(subnets, expected);
    let next_hop = Some(Ipv4Addr::new(203, 0, 113, 99));
    assert_eq!(outside, Outside { prefix: Prefix { network: Ipv4Addr::new(203, 0, 113, 0), len: 25 }, next_hop });
    assert_eq!((backends.len(), backend_by_ip.len()), (4, 4));
    assert!(backend_by_ip.iter().all(|((vnet, ip), id)| (backends[id].vnet, backends[id].ip) == (*vnet, *ip)));
    let mut first: BTreeMap<_, _> = BTreeMap::new();
    for id in backends.keys().collect::<BTreeSet<_>>() {
        first.entry((backends[&id].vnet, backends[&id].home)).or_insert((id, backends[&id].ip));
    }
    assert_eq!(*first_backends, first);
}

#[test]
fn every_field_of_a_rule_reaches_the_backends_of_its_pool() {
    let mut cluster = Cluster::running(3);
    assert!(cluster.configure(&read()).is_applied());
    let snapshot = compiled(&cluster);
    let (two, three) = (frontend_of(&snapshot, 2), frontend_of(&snapshot, 3));
    // The grants are compared apart; the rest is written out, so that a new field has to be looked at.
    let without_grant = |vnet, ip| Backend { lease: vec![], ..backend_at(&snapshot, vnet, ip).clone() };
    let web = Backend {
        vnet: VnetId(1),
        ip: Ipv4Addr::new(10, 7, 0, 21),
        mac: Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x5f])),
        home: snapshot.frontends[&two].shard,
        lease: vec![],
        ways: Ways::default(),
        idle_timeout_ms: 17 * 60_000,
        tcp_reset_on_idle: TcpReset::On,
        profile: Profile::Azure,
        sharing: Sharing::Address,
        filtering: Filtering::Tuple,
    };
    assert_eq!(without_grant(1, [10, 7, 0, 21]), web);
    let api = Backend {
        vnet: VnetId(2),
        ip: Ipv4Addr::new(10, 9, 8, 22),
        mac: None,
        idle_timeout_ms: 100 * 60_000,
        tcp_reset_on_idle: TcpReset::Off,
        profile: Profile::Rfc,
        sharing: Sharing::Endpoint,
        filtering: Filtering::Open,
        ..web
    };
    assert_eq!(without_grant(2, [10, 9, 8, 22]), api);
    let old = Backend {
        vnet: VnetId(1),
        ip: Ipv4Addr::new(10, 7, 0, 23),
        home: snapshot.frontends[&three].shard,
        idle_timeout_ms: 4 * 60_000,
        filtering: Filtering::Address,
        ..api
    };
    assert_eq!(without_grant(1, [10, 7, 0, 23]), old);
}

#[test]
fn the_members_of_a_pool_without_a_rule_may_open_nothing() {
    let mut cluster = Cluster::running(3);
    assert!(cluster.configure(&read()).is_applied());
    let snapshot = compiled(&cluster);
    let dark = backend_at(&snapshot, 1, [10, 7, 0, 24]);
    assert_eq!(dark.lease, []);
    assert!(snapshot.shards.contains_key(&dark.home), "it has a home all the same: somebody answers its ARP");
}

#[test]
fn a_rule_with_frontends_of_its_own_uses_no_other() {
    for draw in 0..20 {
        let mut cluster = Cluster::running(3);
        cluster.draw = draw;
        assert!(cluster.configure(&read()).is_applied());
        let snapshot = compiled(&cluster);
        for (ip, vnet, n) in [([10, 7, 0, 21], 1, 2), ([10, 9, 8, 22], 2, 2), ([10, 7, 0, 23], 1, 3)] {
            let backend = backend_at(&snapshot, vnet, ip);
            assert_eq!(ports(&backend.lease), 1024);
            assert!(backend.lease.iter().all(|block| block.frontend == frontend_of(&snapshot, n)), "{ip:?} of {draw}");
        }
    }
}

#[test]
fn two_pools_on_one_frontend_have_ports_of_their_own() {
    let mut cluster = Cluster::running(3);
    let mut config = desired(1, 30);
    let balancer = config.load_balancers.get_mut("lb1").expect("declared");
    balancer.pools.insert("api".into());
    let rule = resource::OutboundRule { pool: "api".into(), ..balancer.outbound_rules["out"].clone() };
    balancer.outbound_rules.insert("api".into(), rule);
    // 30 members of 1024 ports, and 60 of 512: 60 of the frontend's 63 blocks.
    (1..=60).for_each(|n| join(&mut config, &format!("a{n}"), n, "api"));
    assert!(cluster.configure(&config).is_applied());
    let backends = &cluster.state.allocation().backends;
    let grants = |pool: &str, len: u16| {
        backends.values().filter(|b| b.pool.as_ref().is_some_and(|p| p.pool == pool) && b.ports() == len).count()
    };
    assert_eq!((grants("web", 1024), grants("api", 512)), (30, 60), "each pool has its own tier");
    let mut taken = BTreeSet::new();
    for port in backends.values().flat_map(|b| &b.lease).flat_map(|b| b.start..=b.start + (b.len - 1)) {
        assert!(taken.insert(port), "port {port} has two owners");
    }
    assert_eq!(taken.len(), 30 * 1024 + 60 * 512);
}

#[test]
fn a_removed_backend_is_gone_from_the_workers_while_its_ports_drain() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 2));
    let gone = cluster.lease_of("b2");
    let before = compiled(&cluster);
    let id: BackendId = before.backend_by_ip[&(VnetId(1), Ipv4Addr::new(10, 0, 1, 2))];
    cluster.configure(&desired(1, 1));
    let after = compiled(&cluster);
    assert!(!after.backends.contains_key(&id) && after.backends.len() == 1 && after.backend_by_ip.len() == 1);
    let draining: Vec<PortBlock> = after.shards[&cluster.only_shard()].draining.iter().map(|d| d.block).collect();
    assert_eq!(draining, gone);
}

#[test]
fn what_becomes_of_flows_on_a_draining_block_is_what_the_rule_says() {
    let fates = [
        (resource::OnReclaim::Expire, OnReclaim::Expire),
        (resource::OnReclaim::Drain, OnReclaim::Drain),
        (resource::OnReclaim::Reset, OnReclaim::Reset),
    ];
    for (written, meant) in fates {
        let mut cluster = Cluster::running(3);
        let config = |members| {
            let mut config = desired(1, members);
            let balancer = config.load_balancers.get_mut("lb1").expect("declared");
            balancer.outbound_rules.get_mut("out").expect("declared").on_reclaim = written;
            config
        };
        cluster.configure(&config(50));
        cluster.configure(&config(51));
        let snapshot = compiled(&cluster);
        let draining = &snapshot.shards[&cluster.only_shard()].draining;
        assert_eq!(draining.len(), 50);
        assert!(draining.iter().all(|d| d.on_reclaim == meant), "{written:?}");
    }
}

#[test]
fn a_backend_lands_on_a_frontend_that_has_room_whatever_is_drawn() {
    for draw in 0..20 {
        let mut cluster = Cluster::running(3);
        cluster.draw = draw;
        let mut config = desired(2, 1);
        // No 1024 ports in a row are left on the first.
        let holes = (1..64).map(|n| n * 1024 + 7).collect();
        config.public_ips.get_mut("pip1").expect("declared").reserved_ports = holes;
        assert!(cluster.configure(&config).is_applied());
        let snapshot = compiled(&cluster);
        assert_eq!(cluster.lease_of("b1")[0].frontend, frontend_of(&snapshot, 2), "draw {draw}");
        assert_eq!(ports(&cluster.lease_of("b1")), 1024);
    }
}

#[test]
fn a_pool_that_shrinks_gets_its_own_halves_back_and_whole_blocks_with_them() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 50));
    let before: Vec<_> = (2..=50).map(|n| cluster.lease_of(&format!("b{n}"))).collect();
    cluster.configure(&desired(1, 51));
    cluster.drain_all();
    // The first member leaves, so that half of a block lies free before everybody else's own half.
    let mut fewer = desired(1, 51);
    fewer.instances.remove("b1");
    cluster.configure(&fewer);
    let after: Vec<_> = (2..=50).map(|n| cluster.lease_of(&format!("b{n}"))).collect();
    assert_eq!(after, before);
    assert!(after.iter().all(|lease| lease.len() == 1));
}

#[test]
fn a_report_of_another_shard_frees_no_block() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(2, 50));
    cluster.configure(&desired(2, 51));
    let allocation: &Allocation = cluster.state.allocation();
    let (block, drain) = allocation.drains.iter().map(|(b, d)| (*b, *d)).next().expect("draining");
    let own = allocation.frontends[&block.frontend].shard;
    let other = *cluster.state.shards().keys().find(|shard| **shard != own).expect("two shards");
    let shard_epoch = cluster.state.shards()[&other].epoch;
    let blocks = vec![(block, drain.reclaim_index)];
    let report = |shard| CommandBody::ReclaimComplete { shard, shard_epoch, blocks: blocks.clone() };
    assert_eq!(cluster.refused(report(other)), format!("the block is not of shard {other}"));
    cluster.applied(report(own));
    assert!(!cluster.state.allocation().drains.contains_key(&block));
}

#[test]
fn a_configuration_is_applied_whole_or_not_at_all() {
    let mut cluster = Cluster::running(3);
    assert!(cluster.configure(&read()).is_applied());
    let before = format!("{:?}", compiled(&cluster).params);
    let mut bad = read();
    bad.settings.mss_max = 1_200;
    bad.load_balancers.get_mut("lb1").expect("declared").frontends.clear();
    cluster.refused(configure(&bad, vec![]));
    assert_eq!(format!("{:?}", compiled(&cluster).params), before);
    let mut more = read();
    more.settings.mss_max = 1_200;
    assert!(cluster.configure(&more).is_applied());
    assert_eq!(compiled(&cluster).params.mss_max, 1_200);
}

#[test]
fn what_a_configuration_leaves_alone_is_the_very_same_in_the_next_version() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&desired(1, 50));
    let mut compiler = compile::Compiler::new(NodeId(1));
    let before = compiler.snapshot(&cluster.state);
    let mut config = desired(1, 50);
    config.outside.next_hop = Some(Ipv4Addr::new(203, 0, 113, 77));
    assert!(cluster.configure(&config).is_applied());
    let after = compiler.snapshot(&cluster.state);
    assert!(after.control_index > before.control_index && after.outside != before.outside);
    assert_eq!(after.backends.parts_apart_from(&before.backends), 0);
    assert!(std::sync::Arc::ptr_eq(&after.backend_by_ip, &before.backend_by_ip));
}
