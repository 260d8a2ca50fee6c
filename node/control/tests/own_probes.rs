//! Machines' own probes: how they are declared and refused, whom they ask, what rules without a probe make of it, and what is
//! told of it.

mod support;

use std::sync::Arc;

use engine::ids::{BackendId, NodeId, ShardId, Term};
use engine::probes::{Ask, Failing, Health, HealthSource, ProbeId};
use engine::rules::Rule;
use engine::snapshot::Snapshot;
use qnat_control::CommandBody;
use qnat_control::compile::{self, Compiler};
use qnat_control::concern::{Severity, What};
use qnat_control::config::parse;
use qnat_control::inbound::model::{Distribution, InboundRule, RuleProtocol, Target};
use qnat_control::plan;
use qnat_control::printing::print;
use qnat_control::probing::bounds::PROBES_MAX;
use qnat_control::probing::health::HealthChange;
use qnat_control::probing::model::{Probe, ProbeProtocol, ProbeRef};
use qnat_control::probing::rows::{HealthView, probes};
use qnat_control::resource::{Desired, IpConfiguration};
use qnat_control::state::State;
use qnat_control::validate::issues;
use qnat_control::view;
use support::{Cluster, desired};

const DOWN: Health = Health::Down(Failing::Status(503));

fn probe(port: u16) -> Probe {
    Probe {
        protocol: ProbeProtocol::Http,
        port,
        request_path: "/machine".into(),
        interval_seconds: 5,
        number_of_probes: 2,
    }
}

fn rule(frontend_port: u16, target: Target, probe: Option<&str>) -> InboundRule {
    InboundRule {
        frontend: "pip1".into(),
        protocol: RuleProtocol::Tcp,
        frontend_port,
        target,
        backend_port: frontend_port,
        probe: probe.map(ToOwned::to_owned),
        distribution: Distribution::Connection,
        idle_timeout_minutes: 4,
        enable_tcp_reset: false,
        floating_ip: false,
    }
}

/// Three instances in the pool `web`. The rule at port 80 has no probe, that at 81 has one, 2201 is `b1`'s alone. `b1` and `b2`
/// have a probe of their own; `b2` has a second address, which is in the pool in the place of its first.
fn wanted() -> Desired {
    let mut wanted = desired(1, 3);
    let balancer = wanted.load_balancers.get_mut("lb1").expect("declared");
    balancer.probes.insert("alive".into(), probe(8080));
    let pool = || Target::Pool("web".into());
    balancer.load_balancing_rules.insert("plain".into(), rule(80, pool(), None));
    balancer.load_balancing_rules.insert("probed".into(), rule(81, pool(), Some("alive")));
    let one = Target::IpConfiguration { instance: "b1".into(), ip_configuration: "ipconfig1".into() };
    balancer.inbound_nat_rules.insert("ssh".into(), rule(2201, one, None));
    for name in ["b1", "b2"] {
        wanted.instances.get_mut(name).expect("declared").probe = Some(probe(9000));
    }
    let second = wanted.instances.get_mut("b2").expect("declared");
    let first = &mut second.ip_configurations[0];
    let other = IpConfiguration { name: "ipconfig2".into(), private_ip: [10, 0, 9, 2].into(), ..first.clone() };
    first.pool = None;
    second.ip_configurations.push(other);
    wanted
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::running(3);
    assert!(cluster.configure(&wanted()).is_applied());
    cluster
}

/// The id of an IP configuration.
fn id(state: &State, name: &str) -> BackendId {
    let all = view::backends(state);
    BackendId(all.iter().find(|backend| backend.name == name).unwrap_or_else(|| panic!("no {name}")).backend)
}

fn of(instance: &str) -> ProbeRef {
    ProbeRef::Instance(instance.into())
}

fn report(cluster: &mut Cluster, instance: &str, primary: &str, health: Health) {
    let backend = id(&cluster.state, primary);
    let change = HealthChange { probe: of(instance), backend, health, shard: ShardId(1), term: Term(7) };
    assert!(cluster.propose(CommandBody::HealthChanged(vec![change])).is_applied());
}

fn health(cluster: &Cluster, instance: &str, primary: &str) -> Option<Health> {
    let committed = cluster.state.healths().of(&of(instance), id(&cluster.state, primary));
    committed.map(|committed| committed.health)
}

/// The rule at a port.
fn at(snapshot: &Snapshot, port: u16) -> Rule {
    let remote = engine::record::Endpoint { addr: std::net::Ipv4Addr::LOCALHOST.into(), port: 1 };
    let key = |frontend| engine::record::PublicKey { proto: engine::record::Proto::Tcp, frontend, port, remote };
    snapshot.frontends.keys().find_map(|frontend| snapshot.rules.of(&key(*frontend))).expect("a rule").clone()
}

/// Who may get new flows by the rule at a port.
fn up(cluster: &Cluster, snapshot: &Snapshot, port: u16) -> Vec<&'static str> {
    let all = ["b1/ipconfig1", "b2/ipconfig2", "b3/ipconfig1"];
    let rule = at(snapshot, port);
    let is_up = |name: &&str| {
        let id = id(&cluster.state, name);
        rule.has(id) && snapshot.probes.is_up(rule.health, id)
    };
    all.into_iter().filter(is_up).collect()
}

#[test]
fn a_machine_is_asked_at_its_primary_address_and_rules_without_a_probe_go_by_it() {
    let mut cluster = cluster();
    let mut compiler = Compiler::new(NodeId(1));
    let first = compiler.snapshot(&cluster.state);
    let names: Vec<&str> = first.probes.all.iter().map(|probe| &*probe.name).collect();
    assert_eq!(names, ["lb1/alive", "instance b1", "instance b2"]);
    let second = &first.probes.all[2];
    assert_eq!((&second.ask, second.port), (&Ask::Http("/machine".into()), 9000));
    assert_eq!((second.interval_ms, second.threshold), (5_000, 2));
    assert_eq!(*second.members, [(id(&cluster.state, "b2/ipconfig1"), None)], "its primary address, and no other");
    assert_eq!(at(&first, 80).health, HealthSource::Machine);
    assert_eq!(at(&first, 81).health, HealthSource::Rule(ProbeId(0)));
    assert_eq!(at(&first, 2201).health, HealthSource::Nobody);
    assert_eq!(up(&cluster, &first, 80), ["b3/ipconfig1"], "it has no probe; the others have not passed yet");
    assert_eq!(up(&cluster, &first, 2201), ["b1/ipconfig1"], "an inbound NAT rule leads to one instance");

    report(&mut cluster, "b1", "b1/ipconfig1", Health::Up);
    report(&mut cluster, "b2", "b2/ipconfig1", Health::Up);
    let next = compiler.snapshot(&cluster.state);
    assert_eq!(up(&cluster, &next, 80), ["b1/ipconfig1", "b2/ipconfig2", "b3/ipconfig1"], "for all of its addresses");
    assert_eq!(up(&cluster, &next, 81), [""; 0], "the rule with a probe goes by that alone");
    assert_eq!(compiler.work().whole, 1, "no walk over the rest");
    assert!(Arc::ptr_eq(&next.rules, &first.rules) && Arc::ptr_eq(&next.probes.machines, &first.probes.machines));
    report(&mut cluster, "b2", "b2/ipconfig1", DOWN);
    let last = compiler.snapshot(&cluster.state);
    assert_eq!(up(&cluster, &last, 80), ["b1/ipconfig1", "b3/ipconfig1"]);
    assert_eq!(*last, compile::snapshot(&cluster.state, NodeId(1)), "as if compiled anew");
}

#[test]
fn what_machines_have_said_is_kept_as_long_as_they_are_asked() {
    let mut cluster = cluster();
    report(&mut cluster, "b1", "b1/ipconfig1", DOWN);
    report(&mut cluster, "b2", "b2/ipconfig1", Health::Up);
    // Nobody asks the second address, and the third instance has no probe.
    report(&mut cluster, "b2", "b2/ipconfig2", DOWN);
    report(&mut cluster, "b3", "b3/ipconfig1", DOWN);
    report(&mut cluster, "b1", "b2/ipconfig1", DOWN);
    assert_eq!(cluster.state.healths().probes.values().map(|of| of.backends.len()).sum::<usize>(), 2);
    let bytes = cluster.state.encode().expect("small");
    assert_eq!(State::decode(&bytes).expect("its own").healths(), cluster.state.healths(), "a restart knows it");

    // Asked otherwise, it is still the same machine.
    let mut other = wanted();
    other.instances.get_mut("b1").expect("declared").probe = Some(probe(9001));
    assert!(cluster.configure(&other).is_applied());
    assert_eq!(health(&cluster, "b1", "b1/ipconfig1"), Some(DOWN));
    // Another address is the primary one: nothing is known of it.
    let ips = &mut other.instances.get_mut("b2").expect("declared").ip_configurations;
    ips.reverse();
    assert!(cluster.configure(&other).is_applied());
    assert_eq!(health(&cluster, "b2", "b2/ipconfig1"), None);
    assert_eq!(health(&cluster, "b2", "b2/ipconfig2"), None);
    other.instances.get_mut("b1").expect("declared").probe = None;
    assert!(cluster.configure(&other).is_applied());
    assert_eq!(health(&cluster, "b1", "b1/ipconfig1"), None);
    let snapshot = compile::snapshot(&cluster.state, NodeId(1));
    assert_eq!(up(&cluster, &snapshot, 80), ["b1/ipconfig1", "b3/ipconfig1"], "without a probe it gets flows");
}

#[test]
fn a_machine_is_asked_also_where_no_rule_leads_in() {
    let mut alone = wanted();
    let balancer = alone.load_balancers.get_mut("lb1").expect("declared");
    balancer.load_balancing_rules.clear();
    balancer.inbound_nat_rules.clear();
    let mut cluster = Cluster::running(3);
    assert!(cluster.configure(&alone).is_applied());
    report(&mut cluster, "b1", "b1/ipconfig1", DOWN);
    let snapshot = compile::snapshot(&cluster.state, NodeId(1));
    let asked: Vec<usize> = snapshot.probes.all.iter().map(|probe| probe.members.len()).collect();
    assert_eq!(asked, [0, 1, 1]);
    assert_eq!(snapshot.probes.all[1].members[0].1, Some(DOWN));
    assert!(snapshot.backends.get(&snapshot.probes.all[1].members[0].0).is_some(), "it has a home shard");
}

#[test]
fn a_machine_that_is_down_is_told_of_and_so_are_pools_whose_rules_have_no_probe() {
    let mut cluster = cluster();
    let said = |cluster: &Cluster| -> Vec<(Severity, What, String)> {
        let all = view::status(&cluster.state).concerns.into_iter();
        let kinds = [What::NoHealthyBackends, What::BackendsDown, What::InstanceDown];
        let of_probes = all.filter(|c| kinds.contains(&c.what));
        of_probes.map(|c| (c.severity, c.what, format!("{}: {}", c.subject, c.why))).collect()
    };
    assert_eq!(said(&cluster), [], "nobody has failed yet");
    report(&mut cluster, "b2", "b2/ipconfig1", DOWN);
    let machine = "instance b2: it fails its own probe: it answers HTTP 503; load-balancing rules without a probe give it no \
                   new flows";
    let pool = "pool lb1/web: 1 of 3 members fail [instance.probe] and get no new flows: b2/ipconfig2 (it answers \
                HTTP 503)";
    let wanted_words = [(What::InstanceDown, machine), (What::BackendsDown, pool)];
    assert_eq!(said(&cluster), wanted_words.map(|(what, why)| (Severity::Warning, what, why.to_owned())));

    // Nobody else is in the pool.
    let mut alone = wanted();
    alone.instances.remove("b3");
    assert!(cluster.configure(&alone).is_applied());
    report(&mut cluster, "b1", "b1/ipconfig1", Health::Down(Failing::Silent));
    let found = said(&cluster);
    assert_eq!(found.iter().filter(|(_, what, _)| *what == What::InstanceDown).count(), 2, "{found:?}");
    let pool = found.iter().find(|(_, what, _)| *what == What::NoHealthyBackends).expect("it is told");
    assert_eq!(pool.0, Severity::Critical);
    assert!(pool.2.contains("no member passes [instance.probe], so new flows are refused"), "{}", pool.2);

    let rows = probes(&cluster.state);
    let row = rows.iter().find(|row| row.probe == "instance b2").expect("it is listed");
    assert_eq!((row.backend.as_deref(), row.port, row.health), (Some("b2/ipconfig1"), 9000, HealthView::Down));
    assert_eq!((row.why.as_str(), row.pool.as_deref()), ("it answers HTTP 503", None));
    report(&mut cluster, "b1", "b1/ipconfig1", Health::Up);
    report(&mut cluster, "b2", "b2/ipconfig1", Health::Up);
    assert_eq!(said(&cluster), []);
}

const FILE: &str = r#"
[[virtual_network]]
name = "vnet1"
[[virtual_network.subnet]]
name = "default"
prefix = "10.0.0.0/16"
gateway = "10.0.0.1"
[[instance]]
name = "b1"
[instance.probe]
protocol = "http"
port = 9000
request_path = "/machine"
interval_seconds = 5
number_of_probes = 2
[[instance.ip_configuration]]
name = "ipconfig1"
private_ip = "10.0.1.1"
subnet = "vnet1/default"
[[instance]]
name = "b2"
[[instance.ip_configuration]]
name = "ipconfig1"
private_ip = "10.0.1.2"
subnet = "vnet1/default"
"#;

#[test]
fn a_machines_probe_is_read_printed_and_refused_by_field_value_and_remedy() {
    let good = parse("net.toml", FILE).expect("good");
    assert_eq!((good.instances["b1"].probe.as_ref(), good.instances["b2"].probe.as_ref()), (Some(&probe(9000)), None));
    assert_eq!(parse("net.toml", &print(&good)).as_ref(), Ok(&good), "what is printed is that file");
    let fields =
        "protocol = \"http\"\nport = 9000\nrequest_path = \"/machine\"\ninterval_seconds = 5\nnumber_of_probes = 2";
    let by_default = parse("net.toml", &FILE.replace(fields, "port = 22")).expect("good").instances["b1"].probe.clone();
    let tcp = Probe {
        protocol: ProbeProtocol::Tcp,
        port: 22,
        request_path: String::new(),
        interval_seconds: 15,
        number_of_probes: 2,
    };
    assert_eq!(by_default, Some(tcp), "as a load balancer's");
    for (from, to, said) in [
        ("port = 9000", "port = 0", "net.toml:12: instance.b1.probe.port = 0: is no port; use 1 to 65535"),
        ("port = 9000\n", "", "instance.b1.probe.port = 0: is no port"),
        ("\"http\"", "\"tcp\"", "instance.b1.probe.request_path = /machine: is of no use with tcp; leave it out"),
        ("\"/machine\"", "\"machine\"", "instance.b1.probe.request_path = machine: is no path; begin it with /"),
        (
            "seconds = 5",
            "seconds = 0",
            "instance.b1.probe.interval_seconds = 0: is out of range; use 1 to 3600 seconds",
        ),
        ("probes = 2", "probes = 21", "instance.b1.probe.number_of_probes = 21: is out of range; use 1 to 20"),
        ("[instance.probe]\n", "[instance.probe]\nname = \"x\"\n", "instance.b1.probe.name"),
        ("[instance.probe]", "[[instance.probe]]", "write a table: [probe]"),
    ] {
        assert!(FILE.contains(from), "{from}");
        let errors = parse("net.toml", &FILE.replacen(from, to, 1)).expect_err(to);
        assert!(errors.iter().any(|error| error.to_string().contains(said)), "{to}: {errors:?}");
    }
}

#[test]
fn machines_probes_count_among_all() {
    let mut many = desired(1, 100);
    let balancer = many.load_balancers.get_mut("lb1").expect("declared");
    balancer.probes.extend((0..PROBES_MAX - 100).map(|n| (format!("p{n}"), probe(1))));
    many.instances.values_mut().for_each(|instance| instance.probe = Some(probe(2)));
    assert_eq!(issues(&many), []);
    let balancer = many.load_balancers.get_mut("lb1").expect("declared");
    balancer.probes.insert("one_more".into(), probe(1));
    let found = issues(&many);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].path.as_str(), found[0].value.as_str()), ("load_balancer.probe", "1025"));
    assert!(found[0].problem.contains("those of instances included"), "{found:?}");
}

#[test]
fn a_plan_names_the_machine_whose_probe_changes() {
    let cluster = cluster();
    let mut other = wanted();
    other.instances.get_mut("b1").expect("declared").probe = Some(Probe { interval_seconds: 30, ..probe(9000) });
    let changes = plan::diff(&cluster.state, &other).changes;
    assert_eq!(changes.len(), 1, "{changes:?}");
    let told = changes[0].to_string();
    assert_eq!(told, "~ instance.b1: probe.interval_seconds = 5 → probe.interval_seconds = 30");
    other.instances.get_mut("b1").expect("declared").probe = None;
    let told = plan::diff(&cluster.state, &other).changes[0].to_string();
    assert!(told.contains("no longer") && told.contains("probe.port = 9000"), "{told}");
}
