//! Inbound rules: what they take from grants, in which shard their pools live, and what is refused.

mod support;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use engine::ids::{BackendId, FrontendId, NodeId};
use engine::record::{Addr, Endpoint, Proto, PublicKey};
use engine::snapshot::Snapshot;
use qnat_control::CommandBody;
use qnat_control::compile::{self, Compiler};
use qnat_control::config::parse;
use qnat_control::inbound::model::{Distribution, InboundRule, RuleProtocol, Target};
use qnat_control::plan;
use qnat_control::resource::{Desired, LoadBalancer};
use qnat_control::validate::issues;
use support::{Cluster, add_instance, desired, public};
use words::level;

fn rule(frontend: u32, port: u16) -> InboundRule {
    InboundRule {
        frontend: format!("pip{frontend}"),
        protocol: RuleProtocol::Tcp,
        frontend_port: port,
        target: Target::Pool("web".into()),
        backend_port: port,
        probe: None,
        distribution: Distribution::Connection,
        idle_timeout_minutes: 4,
        enable_tcp_reset: false,
        floating_ip: false,
    }
}

fn balancer(desired: &mut Desired) -> &mut LoadBalancer {
    desired.load_balancers.get_mut("lb1").expect("declared")
}

fn put(desired: &mut Desired, name: &str, rule: InboundRule) {
    balancer(desired).load_balancing_rules.insert(name.into(), rule);
}

fn key(frontend: FrontendId, port: u16) -> PublicKey {
    let remote = Endpoint { addr: Addr::from(Ipv4Addr::new(198, 51, 100, 1)), port: 9 };
    PublicKey { proto: Proto::Tcp, frontend, port, remote }
}

fn members(snapshot: &Snapshot, frontend: FrontendId, port: u16) -> Option<Vec<BackendId>> {
    snapshot.rules.of(&key(frontend, port)).map(|rule| rule.members.to_vec())
}

#[test]
fn a_rules_port_is_withdrawn_from_its_grant_before_anything_comes_in_by_it() {
    let mut cluster = Cluster::running(3);
    let mut wanted = desired(1, 2);
    cluster.configure(&wanted);
    let mut compiler = Compiler::new(NodeId(1));
    compiler.snapshot(&cluster.state);
    let (frontend, _) = cluster.frontend_at(public(1));
    let port = cluster.lease_of("b1")[0].start + 100;
    put(&mut wanted, "web", rule(1, port));
    assert!(cluster.configure(&wanted).is_applied());
    let lease = cluster.lease_of("b1");
    assert!(!lease.iter().any(|block| block.contains(port)), "no longer granted");
    assert_eq!(lease.iter().map(|block| block.len).sum::<u16>(), 1024, "made up for elsewhere");
    let drains: Vec<_> = cluster.state.allocation().drains.keys().copied().collect();
    assert_eq!(drains.iter().map(|block| (block.len, block.contains(port))).collect::<Vec<_>>(), [(32, true)]);
    assert_eq!(members(&compiler.snapshot(&cluster.state), frontend, port), None, "somebody may still send by it");
    cluster.drain_all();
    let after = compiler.snapshot(&cluster.state);
    assert_eq!(members(&after, frontend, port).map(|all| all.len()), Some(2));
    assert_eq!(*after, compile::snapshot(&cluster.state, NodeId(1)), "as if compiled anew");

    // Whatever is granted later, that port is not: not back to b1 either, when its tier shrinks and grows.
    for count in [60, 2, 40] {
        let mut more = desired(1, count);
        put(&mut more, "web", rule(1, port));
        assert!(cluster.configure(&more).is_applied());
        cluster.drain_all();
        let held =
            cluster.state.allocation().backends.values().any(|b| b.lease.iter().any(|block| block.contains(port)));
        assert!(!held, "{count}");
    }
    put(&mut wanted, "web", rule(1, 80));
    assert!(cluster.configure(&wanted).is_applied());
    assert!(members(&compile::snapshot(&cluster.state, NodeId(1)), frontend, 80).is_some(), "never granted: at once");
}

/// C2. Below it the log could not say what came in by a rule, so none leads anywhere; no configuration has to come after the raise.
#[test]
fn rules_that_were_declared_below_their_level_lead_somewhere_with_the_entry_that_raises_it() {
    let mut cluster = Cluster::running(3);
    cluster.state = cluster.state.clone().at_level(level::FIRST);
    cluster.twin = cluster.state.clone();
    let mut wanted = desired(1, 2);
    put(&mut wanted, "web", rule(1, 80));
    assert!(cluster.configure(&wanted).is_applied());
    let (frontend, _) = cluster.frontend_at(public(1));
    let mut compiler = Compiler::new(NodeId(1));
    assert_eq!(members(&compiler.snapshot(&cluster.state), frontend, 80), None);
    cluster.applied(CommandBody::SetLevel { level: level::NEWEST });
    let after = compiler.snapshot(&cluster.state);
    assert_eq!(members(&after, frontend, 80).map(|all| all.len()), Some(2));
    assert_eq!(*after, compile::snapshot(&cluster.state, NodeId(1)), "as if compiled anew");
    assert_eq!(compiler.work().whole, 1, "a raise settles no lease");
}

#[test]
fn a_load_balancing_rule_is_enough_to_let_its_pool_out() {
    let mut cluster = Cluster::running(3);
    let mut wanted = desired(2, 2);
    balancer(&mut wanted).outbound_rules.clear();
    cluster.configure(&wanted);
    assert!(cluster.lease_of("b1").is_empty(), "no rule links its pool to a frontend");
    put(&mut wanted, "web", rule(2, 80));
    assert!(cluster.configure(&wanted).is_applied());
    let (second, _) = cluster.frontend_at(public(2));
    for name in ["b1", "b2"] {
        assert_eq!(cluster.lease_of(name).iter().map(|b| (b.frontend, b.len)).collect::<Vec<_>>(), [(second, 1024)]);
    }
    let view = qnat_control::view::pools(&cluster.state).remove(0);
    assert_eq!((view.ports_per_backend, view.outbound_rule, view.frontends), (1024, None, vec!["pip2".into()]));
}

#[test]
fn the_members_of_a_pool_with_a_rule_move_into_its_shard_and_get_flows_when_they_are_there() {
    let mut cluster = Cluster::running(3);
    let mut wanted = desired(3, 6);
    cluster.configure(&wanted);
    let mut compiler = Compiler::new(NodeId(1));
    compiler.snapshot(&cluster.state);
    let (frontend, of) = cluster.frontend_at(public(2));
    put(&mut wanted, "web", rule(2, 80));
    assert!(cluster.configure(&wanted).is_applied());
    let first = members(&compiler.snapshot(&cluster.state), frontend, 80).expect("there");
    assert_eq!(first.len(), 2, "who lived there before");
    cluster.drain_all();
    let after = compiler.snapshot(&cluster.state);
    assert_eq!(members(&after, frontend, 80).expect("there").len(), 6);
    assert_eq!(*after, compile::snapshot(&cluster.state, NodeId(1)));
    let backends = || cluster.state.allocation().backends.values();
    assert!(backends().all(|b| b.home == Some(of.shard) && b.frontend == Some(frontend)));
    let leases: BTreeSet<_> = backends().flat_map(|b| b.lease.clone()).collect();
    assert_eq!(leases.len(), 6);
}

#[test]
fn frontends_of_one_pools_rules_begin_in_one_shard_and_such_of_two_are_refused() {
    let mut cluster = Cluster::running(3);
    let mut wanted = desired(3, 2);
    put(&mut wanted, "one", rule(1, 80));
    put(&mut wanted, "two", InboundRule { backend_port: 81, ..rule(3, 80) });
    assert!(cluster.configure(&wanted).is_applied());
    let shard = |n| cluster.frontend_at(public(n)).1.shard;
    assert_eq!(shard(1), shard(3));
    assert_ne!(shard(1), shard(2));
    put(&mut wanted, "three", InboundRule { backend_port: 82, ..rule(2, 80) });
    let why = cluster.refused(support::configure(&wanted, Vec::new()));
    assert!(why.contains("in different shards") && why.contains("203.0.113.2"), "{why}");
}

#[test]
fn a_rule_for_all_ports_is_refused_where_ports_are_granted_and_takes_the_whole_frontend_elsewhere() {
    let mut cluster = Cluster::running(3);
    let mut wanted = desired(2, 2);
    let refined = balancer(&mut wanted).outbound_rules.get_mut("out").expect("declared");
    refined.frontends = vec!["pip1".into()];
    cluster.configure(&wanted);
    let all = |n| InboundRule { protocol: RuleProtocol::All, frontend_port: 0, backend_port: 0, ..rule(n, 0) };
    let mut alone = wanted.clone();
    balancer(&mut alone).outbound_rules.clear();
    put(&mut alone, "all", all(1));
    let why = cluster.refused(support::configure(&alone, Vec::new()));
    assert!(why.contains("cannot have 203.0.113.1"), "{why}");
    balancer(&mut alone).load_balancing_rules.clear();
    assert!(cluster.configure(&alone).is_applied());
    cluster.drain_all();
    put(&mut alone, "all", all(1));
    assert!(cluster.configure(&alone).is_applied());
    assert!(cluster.lease_of("b1").is_empty(), "it lets nobody out");
    let (frontend, _) = cluster.frontend_at(public(1));
    let snapshot = compile::snapshot(&cluster.state, NodeId(1));
    for proto in [Proto::Tcp, Proto::Udp] {
        let rule = snapshot.rules.of(&PublicKey { proto, ..key(frontend, 5555) }).expect("any port");
        assert_eq!((rule.inside_port(5555), rule.members.len()), (5555, 2));
    }
}

#[test]
fn a_nat_rule_leads_to_its_instance_which_lives_in_the_rules_shard() {
    let mut cluster = Cluster::running(3);
    let mut wanted = desired(3, 3);
    add_instance(&mut wanted, 9, false);
    cluster.configure(&wanted);
    let target =
        |instance: &str| Target::IpConfiguration { instance: instance.into(), ip_configuration: "ipconfig1".into() };
    let nat = InboundRule { target: target("b9"), backend_port: 22, ..rule(3, 2209) };
    balancer(&mut wanted).inbound_nat_rules.insert("ssh-b9".into(), nat);
    assert!(cluster.configure(&wanted).is_applied());
    cluster.drain_all();
    let snapshot = compile::snapshot(&cluster.state, NodeId(1));
    let (frontend, of) = cluster.frontend_at(public(3));
    let rule = snapshot.rules.of(&key(frontend, 2209)).expect("a rule");
    let mut backends = cluster.state.allocation().backends.iter();
    let (id, b9) = backends.find(|(_, b)| b.instance == "b9").expect("declared");
    assert_eq!((rule.members.to_vec(), rule.inside_port(2209), b9.home), (vec![*id], 22, Some(of.shard)));
    assert!(b9.lease.is_empty(), "it leads in, and lets nobody out");
}

#[test]
fn a_member_of_a_pool_drains_by_its_admin_state_which_is_refused_outside_of_one() {
    let file = FILE.replacen("private_ip", "admin_state = \"down\"\nprivate_ip", 1);
    let wanted = parse("net.toml", &file).expect("good");
    let mut cluster = Cluster::running(3);
    assert!(cluster.configure(&wanted).is_applied());
    let snapshot = compile::snapshot(&cluster.state, NodeId(1));
    let (frontend, _) = cluster.frontend_at(public(1));
    let admin = |snapshot: &Snapshot, port| snapshot.rules.of(&key(frontend, port)).expect("a rule").admin.to_vec();
    let rule = snapshot.rules.of(&key(frontend, 80)).expect("a rule");
    assert_eq!(rule.members.len(), 1, "it keeps what it has");
    assert_eq!(admin(&snapshot, 80), [(rule.members[0], engine::rules::AdminState::Down)]);
    assert_eq!(admin(&snapshot, 2201), [], "an inbound NAT rule leads to it all the same");
    let up = parse("net.toml", &file.replacen("\"down\"", "\"up\"", 1)).expect("good");
    let none = parse("net.toml", FILE).expect("good");
    for (wanted, expected) in [(up, vec![(rule.members[0], engine::rules::AdminState::Up)]), (none, vec![])] {
        assert!(cluster.configure(&wanted).is_applied());
        assert_eq!(admin(&compile::snapshot(&cluster.state, NodeId(1)), 80), expected);
    }
    let refused = |file: &str| parse("net.toml", file).expect_err("refused").iter().map(ToString::to_string).collect();
    let said: Vec<String> = refused(&file.replacen("pool = \"lb1/web\"", "", 1));
    let expected = "instance.b1.ip_configuration.ipconfig1.admin_state = down: says which new flows of a pool it gets, and it \
                    is in none; name its pool, or leave it out";
    assert!(said.iter().any(|line| line.contains(expected)), "{said:#?}");
    let said: Vec<String> = refused(&file.replacen("\"down\"", "\"off\"", 1));
    assert!(said.iter().any(|line| line.contains("write \"none\" or \"up\" or \"down\"")), "{said:#?}");
}

const FILE: &str = r#"
[outside]
network = "203.0.113.0/24"
[[virtual_network]]
name = "vnet1"
[[virtual_network.subnet]]
name = "default"
prefix = "10.0.0.0/16"
gateway = "10.0.0.1"
[[public_ip]]
name = "pip1"
address = "203.0.113.1"
[[public_ip]]
name = "pip2"
address = "203.0.113.2"
[[load_balancer]]
name = "lb1"
frontends = ["pip1", "pip2"]
[[load_balancer.pool]]
name = "web"
[[load_balancer.load_balancing_rule]]
name = "http"
frontend = "pip1"
protocol = "tcp"
frontend_port = 80
pool = "web"
backend_port = 8080
distribution = "source-ip"
idle_timeout_minutes = 15
enable_tcp_reset = true
[[load_balancer.inbound_nat_rule]]
name = "ssh"
frontend = "pip1"
frontend_port = 2201
ip_configuration = "b1/ipconfig1"
backend_port = 22
[[instance]]
name = "b1"
[[instance.ip_configuration]]
name = "ipconfig1"
private_ip = "10.0.1.1"
subnet = "vnet1/default"
pool = "lb1/web"
"#;

/// D17. Which ends are told apart, and which are not.
#[test]
fn several_frontends_float_to_one_port_of_a_backend_and_what_nobody_could_tell_apart_is_refused() {
    let mut cluster = Cluster::running(3);
    let mut wanted = desired(3, 2);
    let floating = |frontend, port| InboundRule { floating_ip: true, ..rule(frontend, port) };
    put(&mut wanted, "one", floating(1, 80));
    put(&mut wanted, "two", floating(2, 80));
    // Its answers come from the backend's own address, those of the others do not.
    put(&mut wanted, "plain", InboundRule { backend_port: 80, ..rule(3, 8080) });
    assert!(cluster.configure(&wanted).is_applied());
    cluster.drain_all();
    let snapshot = compile::snapshot(&cluster.state, NodeId(1));
    for (number, port, floats) in [(1, 80, true), (2, 80, true), (3, 8080, false)] {
        let (frontend, _) = cluster.frontend_at(public(number));
        let rule = snapshot.rules.of(&key(frontend, port)).expect("a rule");
        assert_eq!((rule.floats, rule.inside_port(port), rule.members.len()), (floats, 80, 2));
        assert_eq!(snapshot.rules.floats(frontend), floats);
    }
    let refused = |name: &str, rule: InboundRule| {
        let mut wanted = wanted.clone();
        put(&mut wanted, name, rule);
        let all = issues(&wanted);
        let said = all.iter().map(|i| format!("{} = {}: {}; {}", i.path, i.value, i.problem, i.remedy));
        said.collect::<Vec<_>>().join("\n")
    };
    let said = refused("more", InboundRule { backend_port: 80, ..rule(3, 81) });
    assert!(said.contains(
        "plain.backend_port = 80: of the same backend is that of load_balancer.lb1.load_balancing_rule.more already"
    ));
    let said = refused("more", floating(1, 80));
    assert!(said.contains("of pip1 leads by load_balancer.lb1.load_balancing_rule"), "{said}");
    let said = refused("more", rule(1, 80));
    assert!(said.contains("of pip1 leads by load_balancer.lb1.load_balancing_rule"), "{said}");
    let said = refused("more", InboundRule { backend_port: 81, ..floating(1, 82) });
    assert!(
        said.contains(
            "backend_port = 81: is another one than the frontend's, 82: floating_ip leads to it unchanged; leave it out"
        ),
        "{said}"
    );
    // A rule for all ports floats too.
    let all = InboundRule { protocol: RuleProtocol::All, frontend_port: 0, backend_port: 0, ..floating(2, 0) };
    let mut whole = wanted.clone();
    put(&mut whole, "two", all);
    balancer(&mut whole).outbound_rules.get_mut("out").expect("declared").frontends = vec!["pip1".into()];
    assert!(issues(&whole).is_empty(), "{:?}", issues(&whole));
}

/// D19: what a dry run has to ask the owners about.
#[test]
fn a_change_of_what_floats_concerns_the_flows_of_its_members() {
    let mut cluster = Cluster::running(3);
    let mut wanted = desired(1, 2);
    put(&mut wanted, "web", rule(1, 80));
    put(&mut wanted, "other", rule(1, 81));
    cluster.configure(&wanted);
    cluster.drain_all();
    let concerned = |cluster: &Cluster, wanted: &Desired| {
        plan::diff(&cluster.state, wanted)
            .cutting
            .map_or(0, |cutting| cutting.backends.values().map(BTreeSet::len).sum())
    };
    let mut floats = wanted.clone();
    put(&mut floats, "web", InboundRule { floating_ip: true, ..rule(1, 80) });
    assert_eq!(concerned(&cluster, &floats), 2);
    assert_eq!(concerned(&cluster, &wanted), 0);
    cluster.configure(&floats);
    cluster.drain_all();
    assert_eq!(concerned(&cluster, &wanted), 2, "and back");
    put(&mut floats, "other", rule(1, 82));
    assert_eq!(concerned(&cluster, &floats), 0, "what stays as it is");
    balancer(&mut floats).load_balancing_rules.remove("web");
    assert_eq!(concerned(&cluster, &floats), 2, "or goes");
}

#[test]
fn rules_are_read_whole_and_refused_by_field_value_and_remedy() {
    let good = parse("net.toml", FILE).expect("good");
    let rules = &good.load_balancers["lb1"];
    let http = InboundRule {
        backend_port: 8080,
        distribution: Distribution::Source,
        idle_timeout_minutes: 15,
        enable_tcp_reset: true,
        ..rule(1, 80)
    };
    assert_eq!(rules.load_balancing_rules["http"], http);
    assert_eq!(rules.inbound_nat_rules["ssh"].backend_port, 22);
    let another = |lines: &str| {
        format!("name = \"more\"\npool = \"web\"\n{lines}\n[[load_balancer.load_balancing_rule]]\nname = \"http\"")
    };
    let cases = [
        (
            "frontend = \"pip1\"\nprotocol",
            "frontend = \"pip9\"\nprotocol",
            "is no frontend of this load balancer; use one of: pip1, pip2",
        ),
        ("frontend_port = 80\n", "", "frontend_port = 0: is no port; use 1 to 65535"),
        ("protocol = \"tcp\"", "protocol = \"icmp\"", "is not a known choice; write \"tcp\" or \"udp\" or \"all\""),
        ("protocol = \"tcp\"", "protocol = \"all\"", "is of no use: the protocol all means every port"),
        ("pool = \"web\"\nbackend_port", "pool = \"db\"\nbackend_port", "is no pool of this load balancer; declare it"),
        ("b1/ipconfig1", "b7/ipconfig1", "ip_configuration = b7/ipconfig1: does not exist"),
        ("idle_timeout_minutes = 15", "idle_timeout_minutes = 3", "is out of range; use 4 to 100 minutes"),
        (
            "backend_port = 22\n",
            "backend_port = 8080\n",
            "backend_port = 8080: of the same backend is that of load_balancer.lb1.load_balancing_rule.http already",
        ),
        (
            "frontend_port = 2201",
            "frontend_port = 80",
            "of pip1 leads by load_balancer.lb1.load_balancing_rule.http already",
        ),
        ("name = \"http\"", &another("frontend = \"pip1\"\nprotocol = \"all\""), "one of them is for all ports"),
        (
            "name = \"http\"",
            &another("frontend = \"pip2\"\nfrontend_port = 81\nbackend_port = 8080"),
            "of the same backend is that of",
        ),
        (
            "[[load_balancer.pool]]",
            "[[load_balancer.outbound_rule]]\nname = \"out\"\npool = \"web\"\nfrontends = [\"pip2\"]\n[[load_balancer.pool]]",
            "are others than those by which the pool is reached",
        ),
    ];
    for (from, to, expected) in cases {
        assert!(FILE.contains(from), "{from}");
        let refused = parse("net.toml", &FILE.replacen(from, to, 1)).expect_err(expected);
        let said: Vec<String> = refused.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|line| line.contains(expected)), "{expected}: {said:#?}");
    }
    let whole = FILE.replacen("protocol = \"tcp\"\nfrontend_port = 80", "protocol = \"all\"", 1).replacen(
        "backend_port = 8080\n",
        "",
        1,
    );
    let whole = whole.replacen(
        "[[load_balancer.pool]]",
        "[[load_balancer.outbound_rule]]\nname = \"out\"\npool = \"web\"\n[[load_balancer.pool]]",
        1,
    );
    let said = parse("net.toml", &whole).expect_err("grants").iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(
        said.iter().any(|line| line.contains("has no port to grant: a rule for all ports leads in by it")),
        "{said:#?}"
    );
}

#[test]
fn a_rule_that_floats_is_read_as_one_and_leads_to_no_other_port() {
    let read = |floats: &str, port: &str| {
        let line = format!("enable_tcp_reset = true\nfloating_ip = {floats}\n");
        let text = FILE.replacen("enable_tcp_reset = true\n", &line, 1).replacen("backend_port = 8080\n", port, 1);
        parse("net.toml", &text).map_err(|all| all.iter().map(ToString::to_string).collect::<String>())
    };
    let floats = |desired: &Desired| desired.load_balancers["lb1"].load_balancing_rules["http"].floating_ip;
    for port in ["", "backend_port = 80\n"] {
        assert!(floats(&read("true", port).expect("good")));
    }
    assert!(!floats(&read("false", "backend_port = 8080\n").expect("good")));
    let said = read("true", "backend_port = 8080\n").expect_err("two ports");
    let expected = "load_balancer.lb1.load_balancing_rule.http.backend_port = 8080: is another one than the frontend's, 80: \
                    floating_ip leads to it unchanged; leave it out, or write floating_ip = false";
    assert!(said.contains(expected), "{said}");
    assert!(read("\"yes\"", "").is_err_and(|said| said.contains("true or false")));
}
