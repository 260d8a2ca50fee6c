//! Health probes: what is committed of whom they ask, who may change it, what workers are told, and what is refused.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::ids::{BackendId, NodeId, ShardId, Term};
use engine::probes::{Ask, Failing, Health, HealthSource, ProbeId};
use engine::snapshot::Snapshot;
use qnat_control::CommandBody;
use qnat_control::compile::{self, Compiler};
use qnat_control::concern::{Severity, What};
use qnat_control::config::parse;
use qnat_control::inbound::model::{Distribution, InboundRule, RuleProtocol, Target};
use qnat_control::plan;
use qnat_control::probing::bounds::CHANGES_MAX;
use qnat_control::probing::health::HealthChange;
use qnat_control::probing::model::{Probe, ProbeProtocol, ProbeRef};
use qnat_control::probing::rows::{HealthView, ProbeView, probes};
use qnat_control::resource::{Desired, LoadBalancer};
use qnat_control::state::State;
use qnat_control::validate::{Issue, issues};
use qnat_control::view;
use support::{Cluster, desired};

const DOWN: Health = Health::Down(Failing::Status(503));

fn balancer(desired: &mut Desired) -> &mut LoadBalancer {
    desired.load_balancers.get_mut("lb1").expect("declared")
}

/// `backends` instances in the pool `web`, asked by `alive`.
fn wanted(backends: u32) -> Desired {
    let mut wanted = desired(1, backends);
    let lb = balancer(&mut wanted);
    let probe = Probe {
        protocol: ProbeProtocol::Http,
        port: 8080,
        request_path: "/healthz".into(),
        interval_seconds: 5,
        number_of_probes: 2,
    };
    lb.probes.insert("alive".into(), probe);
    let rule = InboundRule {
        frontend: "pip1".into(),
        protocol: RuleProtocol::Tcp,
        frontend_port: 80,
        target: Target::Pool("web".into()),
        backend_port: 8080,
        probe: Some("alive".into()),
        distribution: Distribution::Connection,
        idle_timeout_minutes: 4,
        enable_tcp_reset: false,
        floating_ip: false,
    };
    lb.load_balancing_rules.insert("web".into(), rule);
    wanted
}

fn probe(name: &str) -> ProbeRef {
    ProbeRef::LoadBalancer { load_balancer: "lb1".into(), probe: name.into() }
}

fn alive() -> ProbeRef {
    probe("alive")
}

fn change(backend: u32, health: Health, term: u64) -> HealthChange {
    HealthChange { probe: alive(), backend: BackendId(backend), health, shard: ShardId(1), term: Term(term) }
}

fn report(cluster: &mut Cluster, changes: &[HealthChange]) {
    assert!(cluster.propose(CommandBody::HealthChanged(changes.to_vec())).is_applied());
}

fn health(state: &State, backend: u32) -> Option<Health> {
    state.healths().of(&alive(), BackendId(backend)).map(|committed| committed.health)
}

fn up(snapshot: &Snapshot) -> Vec<u32> {
    let up = snapshot.backends.keys().filter(|id| snapshot.probes.is_up(HealthSource::Rule(ProbeId(0)), *id));
    let mut up: Vec<u32> = up.map(|id| id.0).collect();
    up.sort_unstable();
    up
}

#[test]
fn workers_choose_by_what_is_committed_and_a_change_costs_what_it_changes() {
    let mut cluster = Cluster::running(3);
    assert!(cluster.configure(&wanted(4)).is_applied());
    let mut compiler = Compiler::new(NodeId(1));
    let first = compiler.snapshot(&cluster.state);
    assert_eq!(up(&first), [0_u32; 0], "nobody has passed yet");
    let probe = first.probes.get(ProbeId(0)).expect("declared");
    assert_eq!((&*probe.name, &probe.ask, probe.port), ("lb1/alive", &Ask::Http("/healthz".into()), 8080));
    assert_eq!((probe.interval_ms, probe.threshold, probe.members.len()), (5_000, 2, 4));

    report(&mut cluster, &[change(1, Health::Up, 7), change(2, Health::Up, 7), change(3, DOWN, 7)]);
    let second = compiler.snapshot(&cluster.state);
    assert_eq!(up(&second), [1, 2]);
    let work = compiler.work();
    assert_eq!(work.whole, 1, "no walk over the rest: {work:?}");
    assert!(Arc::ptr_eq(&second.rules, &first.rules) && Arc::ptr_eq(&second.frontends, &first.frontends));
    assert_eq!(*second, compile::snapshot(&cluster.state, NodeId(1)), "as if compiled anew");

    report(&mut cluster, &[]);
    let third = compiler.snapshot(&cluster.state);
    assert!(Arc::ptr_eq(&third.probes, &second.probes), "nothing changed");
    report(&mut cluster, &[change(3, Health::Up, 7), change(1, DOWN, 7)]);
    assert_eq!(up(&compiler.snapshot(&cluster.state)), [2, 3]);
}

#[test]
fn what_a_former_owner_says_late_changes_nothing() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&wanted(2));
    report(&mut cluster, &[change(1, Health::Up, 7)]);
    report(&mut cluster, &[change(1, DOWN, 8)]);
    report(&mut cluster, &[change(1, Health::Up, 7)]);
    assert_eq!(health(&cluster.state, 1), Some(DOWN), "its successor has said otherwise");
    report(&mut cluster, &[change(1, Health::Up, 8)]);
    assert_eq!(health(&cluster.state, 1), Some(Health::Up));
    // Terms of another shard, in which the backend lives now, are no later or earlier.
    report(&mut cluster, &[HealthChange { shard: ShardId(2), ..change(1, DOWN, 1) }]);
    assert_eq!(health(&cluster.state, 1), Some(DOWN));
}

#[test]
fn health_is_kept_of_whom_probes_ask_and_of_nobody_else() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&wanted(3));
    let all: Vec<_> = (1..=3).map(|id| change(id, Health::Up, 1)).collect();
    report(&mut cluster, &all);
    let nobody = probe("other");
    report(&mut cluster, &[change(9, DOWN, 1), HealthChange { probe: nobody.clone(), ..change(1, DOWN, 1) }]);
    assert_eq!(health(&cluster.state, 9), None);
    assert!(cluster.state.healths().of(&nobody, BackendId(1)).is_none());

    // What is declared anew without a change stays as it is; who left is forgotten, and begins anew.
    assert!(cluster.configure(&wanted(3)).is_applied());
    assert_eq!(health(&cluster.state, 3), Some(Health::Up));
    cluster.configure(&wanted(2));
    assert_eq!((health(&cluster.state, 2), health(&cluster.state, 3)), (Some(Health::Up), None));
    let bytes = cluster.state.encode().expect("small");
    assert_eq!(State::decode(&bytes).expect("its own").healths(), cluster.state.healths(), "a restart knows it");
    let mut without = wanted(2);
    balancer(&mut without).load_balancing_rules.get_mut("web").expect("declared").probe = None;
    cluster.configure(&without);
    assert!(cluster.state.healths().probes.is_empty(), "no rule has it ask anybody");
    let snapshot = compile::snapshot(&cluster.state, NodeId(1));
    assert_eq!(snapshot.probes.get(ProbeId(0)).map(|probe| probe.members.len()), Some(0));

    let many = vec![change(1, DOWN, 1); CHANGES_MAX + 1];
    let why = cluster.refused(CommandBody::HealthChanged(many));
    assert_eq!(why, format!("{} changes of health are too many", CHANGES_MAX + 1));
}

#[test]
fn a_pool_with_members_down_is_told_of_and_one_without_any_up_gravely() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&wanted(3));
    let said = |cluster: &Cluster| -> Vec<(Severity, What, String)> {
        let all = view::status(&cluster.state).concerns.into_iter();
        let of_pool = all.filter(|c| [What::NoHealthyBackends, What::BackendsDown].contains(&c.what));
        of_pool.map(|c| (c.severity, c.what, format!("{}: {}", c.subject, c.why))).collect()
    };
    assert_eq!(said(&cluster), [], "nobody has failed yet");
    let all: Vec<_> = (1..=3).map(|id| change(id, Health::Up, 1)).collect();
    report(&mut cluster, &all);
    assert_eq!(said(&cluster), []);
    report(&mut cluster, &[change(2, DOWN, 1)]);
    let why =
        "pool lb1/web: 1 of 3 members fail probe lb1/alive and get no new flows: b2/ipconfig1 (it answers HTTP 503)";
    assert_eq!(said(&cluster), [(Severity::Warning, What::BackendsDown, why.to_owned())]);
    report(&mut cluster, &[change(1, DOWN, 1), change(3, Health::Down(Failing::Silent), 1)]);
    let found = said(&cluster);
    assert_eq!((found.len(), found[0].0, found[0].1), (1, Severity::Critical, What::NoHealthyBackends));

    let rows: BTreeMap<Option<String>, ProbeView> =
        probes(&cluster.state).into_iter().map(|row| (row.backend.clone(), row)).collect();
    let third = &rows[&Some("b3/ipconfig1".to_owned())];
    assert_eq!((third.health, third.why.as_str()), (HealthView::Down, "no answer in time"));
    assert_eq!((third.probe.as_str(), third.pool.as_deref()), ("lb1/alive", Some("lb1/web")));
    assert!(third.since_unix_ms.is_some() && rows.len() == 3);
}

const FILE: &str = r#"
[[virtual_network]]
name = "vnet1"
[[virtual_network.subnet]]
name = "default"
prefix = "10.0.0.0/16"
gateway = "10.0.0.1"
[[public_ip]]
name = "pip1"
address = "203.0.113.1"
[outside]
network = "203.0.113.0/24"
[[load_balancer]]
name = "lb1"
frontends = ["pip1"]
[[load_balancer.pool]]
name = "web"
[[load_balancer.probe]]
name = "alive"
protocol = "http"
port = 8080
request_path = "/healthz"
interval_seconds = 5
number_of_probes = 3
[[load_balancer.load_balancing_rule]]
name = "http"
frontend = "pip1"
frontend_port = 80
pool = "web"
probe = "alive"
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

#[test]
fn probes_are_read_whole_and_refused_by_field_value_and_remedy() {
    let good = parse("net.toml", FILE).expect("good");
    let lb = &good.load_balancers["lb1"];
    let probe = Probe {
        protocol: ProbeProtocol::Http,
        port: 8080,
        request_path: "/healthz".into(),
        interval_seconds: 5,
        number_of_probes: 3,
    };
    assert_eq!((&lb.probes["alive"], lb.load_balancing_rules["http"].probe.as_deref()), (&probe, Some("alive")));
    let short = FILE.replace(
        "protocol = \"http\"\nport = 8080\nrequest_path = \"/healthz\"\ninterval_seconds = 5\nnumber_of_probes = 3",
        "port = 80",
    );
    let by_default = parse("net.toml", &short).expect("good").load_balancers["lb1"].probes["alive"].clone();
    let tcp = Probe {
        protocol: ProbeProtocol::Tcp,
        port: 80,
        request_path: String::new(),
        interval_seconds: 15,
        number_of_probes: 2,
    };
    assert_eq!(by_default, tcp);
    let cases = [
        ("port = 8080\nrequest", "request", "load_balancer.lb1.probe.alive.port = 0: is no port; use 1 to 65535"),
        ("\"http\"\nport", "\"tcp\"\nport", "request_path = /healthz: is of no use with tcp; leave it out"),
        ("\"/healthz\"", "\"healthz\"", "is no path; begin it with /, as \"/healthz?full=1\""),
        ("\"/healthz\"", "'/a\"b'", "is no path"),
        ("\"/healthz\"", "'/a\\b'", "is no path"),
        ("\"/healthz\"", "\"/a b\"", "is no path"),
        ("\"/healthz\"", "\"/a\\r\\nHost: x\"", "is no path"),
        ("interval_seconds = 5", "interval_seconds = 0", "is out of range; use 1 to 3600 seconds"),
        ("number_of_probes = 3", "number_of_probes = 21", "is out of range; use 1 to 20"),
        (
            "probe = \"alive\"",
            "probe = \"dead\"",
            "is no probe of this load balancer; declare it, or use one of: alive",
        ),
        ("backend_port = 22", "backend_port = 22\nprobe = \"alive\"", "inbound_nat_rule.ssh.probe"),
        ("port = 8080\nrequest", "port = 65536\nrequest", "load_balancer.lb1.probe.alive.port = 65536: "),
        ("number_of_probes = 3", "number_of_probes = 0", "number_of_probes = 0: is out of range; use 1 to 20"),
        (
            "[[load_balancer.load_balancing_rule]]",
            "[[load_balancer.probe]]\nname = \"alive\"\nport = 81\n[[load_balancer.load_balancing_rule]]",
            "load_balancer.lb1.probe.alive",
        ),
        ("protocol = \"http\"", "protocol = \"icmp\"", "write \"tcp\" or \"http\" or \"https\""),
    ];
    for (from, to, said) in cases {
        assert!(FILE.contains(from), "{from}");
        let errors = parse("net.toml", &FILE.replacen(from, to, 1)).expect_err(to);
        assert!(errors.iter().any(|error| error.to_string().contains(said)), "{to}: {errors:?}");
    }
}

#[test]
fn an_inbound_nat_rule_has_no_probe() {
    let mut bad = wanted(1);
    let lb = balancer(&mut bad);
    let target = Target::IpConfiguration { instance: "b1".into(), ip_configuration: "ipconfig1".into() };
    let rule = InboundRule { target, frontend_port: 2201, backend_port: 22, ..lb.load_balancing_rules["web"].clone() };
    lb.inbound_nat_rules.insert("ssh".into(), rule);
    let issues = issues(&bad);
    assert_eq!(issues.len(), 1, "{issues:?}");
    let Issue { path, value, problem, remedy } = &issues[0];
    assert_eq!((path.as_str(), value.as_str()), ("load_balancer.lb1.inbound_nat_rule.ssh.probe", "alive"));
    assert_eq!(problem, "is for load-balancing rules");
    assert_eq!(remedy, "leave it out: one instance has nobody to stand in for it");
}

#[test]
fn a_plan_names_the_probe_that_changes() {
    let mut cluster = Cluster::running(3);
    cluster.configure(&wanted(2));
    let mut other = wanted(2);
    balancer(&mut other).probes.get_mut("alive").expect("declared").interval_seconds = 30;
    let changes = plan::diff(&cluster.state, &other).changes;
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0].resource, "load_balancer.lb1.probe.alive");
}

/// The tables of the README, those that are about security groups included, with its optional fields of probes.
fn readme() -> String {
    let text = include_str!("../../../README.md");
    let blocks = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut file: String = blocks
        .filter(|block| block.starts_with("[[virtual_network") || block.starts_with("[[security_group"))
        .collect();
    for field in ["probe", "request_path", "interval_seconds", "number_of_probes"] {
        let (optional, given) = (format!("\n# {field} = "), format!("\n{field} = "));
        assert_eq!(file.matches(&optional).count(), 1, "{field}");
        file = file.replace(&optional, &given);
    }
    file
}

#[test]
fn the_readme_shows_a_configuration_that_can_be_applied() {
    let wanted = parse("README.md", &readme()).expect("good");
    let lb = &wanted.load_balancers["lb1"];
    assert_eq!(lb.load_balancing_rules["http"].probe.as_deref(), Some("alive"));
    assert_eq!(
        lb.probes["alive"],
        Probe {
            protocol: ProbeProtocol::Http,
            port: 80,
            request_path: "/".into(),
            interval_seconds: 15,
            number_of_probes: 2
        }
    );
    let mut cluster = Cluster::running(3);
    assert!(cluster.configure(&wanted).is_applied());
    assert_eq!(probes(&cluster.state).len(), 1, "b1 is to be asked");
}
