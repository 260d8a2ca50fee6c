//! Messages of `node.toml`: each names file, field, value and remedy.

use super::*;
use crate::daemon::data_config::{Cache, Guard, InsideConfig};

const GOOD: &str = r#"
cluster = "prod"
node_id = 1
data_dir = "data"
[peers]
listen = "198.18.0.1:7800"
[[peer]]
id = 1
address = "198.18.0.1:7800"
[[peer]]
id = 2
address = "198.18.0.2:7800"
[tls]
ca = "tls/ca.pem"
cert = "tls/node.pem"
key = "/etc/keys/node.key"
[data]
guard = "required"
"#;

fn parse(text: &str) -> Result<NodeConfig, ConfigError> {
    NodeConfig::parse(Path::new("/etc/qnat/node.toml"), text)
}

/// The message about the good file with one piece replaced.
fn message(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the piece {from:?} is in the file");
    parse(&GOOD.replacen(from, to, 1)).expect_err("refused").to_string()
}

#[test]
fn a_good_file_is_read_with_its_defaults_and_paths() {
    let config = parse(GOOD).expect("good");
    assert_eq!((config.name.as_str(), config.node_id), ("n1", 1));
    assert_eq!(config.data_dir, Path::new("/etc/qnat/data"));
    assert_eq!(config.tls.ca, Path::new("/etc/qnat/tls/ca.pem"));
    assert_eq!(config.tls.key, Path::new("/etc/keys/node.key"));
    assert_eq!(config.api.listen.to_string(), API_DEFAULT);
    assert_eq!((config.data.guard, config.data.outside.as_str()), (Guard::Required, "outside"));
    assert_eq!(config.data.inside, [InsideConfig { interface: "inside".into(), virtual_network: None }]);
    assert!(config.timing.raise_priority);
    let peers: Vec<u32> = config.peer.iter().map(|peer| peer.id).collect();
    assert_eq!(peers, [2], "the node itself is no peer");
}

#[test]
fn what_is_written_reads_as_the_same() {
    let config = parse(GOOD).expect("good");
    assert_eq!(parse(&config.to_toml()).expect("own text"), config);
}

const TWO: &str = "guard = \"required\"\n[[data.inside]]\ninterface = \"eth1\"\nvirtual_network = \"red\"\n\
                   [[data.inside]]\ninterface = \"eth2\"\nvirtual_network = \"blue\"\n";

#[test]
fn each_virtual_network_has_an_inside_interface_and_the_only_one_may_be_written_short() {
    let one = |interface: &str, network: Option<&str>| InsideConfig {
        interface: interface.into(),
        virtual_network: network.map(str::to_owned),
    };
    for (text, inside) in [
        (TWO, vec![one("eth1", Some("red")), one("eth2", Some("blue"))]),
        ("inside = \"eth1\"\nvirtual_network = \"red\"", vec![one("eth1", Some("red"))]),
        ("[[data.inside]]\ninterface = \"eth1\"", vec![one("eth1", None)]),
    ] {
        let config = parse(&GOOD.replacen("guard = \"required\"", text, 1)).expect(text);
        assert_eq!(config.data.inside, inside, "{text}");
        assert_eq!(parse(&config.to_toml()).expect("own text"), config, "{}", config.to_toml());
    }
}

#[test]
fn the_fast_path_is_on_unless_it_is_not_wanted_and_its_room_has_a_bound() {
    let data = |text: &str| parse(&GOOD.replacen("guard = \"required\"", text, 1)).map(|config| config.data);
    let usual = data("guard = \"auto\"").expect("good");
    assert_eq!((usual.cache, usual.cache_flows), (Cache::On, 65_536));
    let wanted = data("cache = \"off\"\ncache_flows = 1048576").expect("good");
    assert_eq!((wanted.cache, wanted.cache_flows), (Cache::Off, 1 << 20));
    assert_eq!(data("cache_flows = 0").expect("good").cache_flows, 0, "none");
    let too_many = message("guard = \"required\"", "cache_flows = 1048577");
    assert!(
        too_many.contains("data.cache_flows = 1048577: is too many; use 0 (no fast path) to 1048576"),
        "{too_many}"
    );
    assert!(message("guard = \"required\"", "cache = \"maybe\"").contains("maybe"));
}

#[test]
fn inside_interfaces_that_contradict_each_other_are_refused() {
    let with = |from: &str, to: &str| message("guard = \"required\"", &TWO.replacen(from, to, 1));
    for (text, expected) in [
        (with("eth2", "eth1"), "data.inside[1].interface = eth1: is listed twice; each virtual network has"),
        (with("blue", "red"), "data.inside[1].virtual_network = red: is listed twice; a virtual network has one"),
        (with("eth2", "outside"), "data.outside = outside: is the inside interface too"),
        (with("eth2", "a/b"), "data.inside[1].interface = \"a/b\": is no interface name"),
        (with("virtual_network = \"red\"", ""), "data.inside[0].virtual_network: is missing; with several"),
        (with("blue", ""), "data.inside[1].virtual_network = \"\": is empty"),
        (with("guard", "virtual_network = \"red\"\nguard"), "data.virtual_network = red: does not say of which"),
        (with("virtual_network = \"red\"", "vnet = \"red\""), "unknown field `vnet`"),
        (message("guard = \"required\"", "inside = []"), "data.inside = 0: is no number of inside interfaces"),
        (message("guard = \"required\"", "inside = 7"), "the name of an interface, or tables [[data.inside]]"),
        (message("[peers]", "[peers]\ninterface = \"inside\""), "peers.interface = inside: is a data interface"),
    ] {
        assert!(text.starts_with("/etc/qnat/node.toml: ") && text.contains(expected), "{text}\nexpected: {expected}");
    }
}

#[test]
fn workers_are_as_many_as_the_file_says_or_one_for_each_processor_within_bounds() {
    let with = |text: &str| parse(&GOOD.replacen("node_id = 1", &format!("node_id = 1\n{text}"), 1));
    assert_eq!(with("").expect("good").workers, WorkersConfig::default());
    for text in ["workers = 1", "workers = 16", "workers = 2\nworker_cpus = [1, 0]"] {
        let config = with(text).expect(text);
        assert_eq!(parse(&config.to_toml()).expect("own text"), config, "{text}");
    }
    assert_eq!(
        with("workers = 3\nworker_cpus = [7]").expect("good").workers,
        WorkersConfig { count: 3, cpus: vec![7] }
    );
    for (text, expected) in [
        ("workers = 0", "workers = 0: is no number of workers; use 1 to 16"),
        ("workers = 17", "workers = 17: is no number of workers"),
        ("workers = 2\nworker_cpus = [0, 1024]", "worker_cpus = 1024: is no processor"),
    ] {
        let said = with(text).expect_err(text).to_string();
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn unknown_fields_are_refused_with_their_line() {
    let text = message("[peers]", "colour = \"blue\"\n[peers]");
    assert!(text.starts_with("/etc/qnat/node.toml: line 5: colour = \"blue\": unknown field"), "{text}");
    assert!(text.ends_with("remove it, or correct its spelling"), "{text}");
    assert!(message("guard =", "gaurd =").contains("gaurd"));
}

#[test]
fn a_missing_field_is_named() {
    let text = message("node_id = 1\n", "");
    assert!(text.starts_with("/etc/qnat/node.toml: node_id: missing field"), "{text}");
    assert!(text.contains("cluster init"), "{text}");
}

#[test]
fn wrong_values_name_field_value_and_remedy() {
    for (from, to, expected) in [
        ("node_id = 1", "node_id = 0", "node_id = 0: is not a node; count nodes from 1"),
        ("\"prod\"", "\"Prod!\"", "cluster = \"Prod!\": is no cluster name; use 1 to 40"),
        ("198.18.0.1:7800", "198.18.0.1", "peers.listen = \"198.18.0.1\": is no address with a port; write address"),
        ("198.18.0.1:7800", "198.18.0.1:0", "peers.listen = 198.18.0.1:0: has port 0"),
        ("198.18.0.2:7800", "0.0.0.0:7800", "peer[1].address = 0.0.0.0:7800: names no machine"),
        ("198.18.0.2:7800", "198.18.0.1:7800", "is the address of another member too"),
        ("id = 2", "id = 1", "peer[1].id = 1: is listed twice"),
        ("[data]", "[api]\nlisten = \"0.0.0.0:7880\"\n[data]", "api.listen = 0.0.0.0:7880: is not a loopback address"),
        ("[data]", "[data]\ninside = \"a/b\"", "data.inside = \"a/b\": is no interface name"),
        ("[data]", "[data]\ninside = \"outside\"", "data.outside = outside: is the inside interface too"),
        ("\"required\"", "\"maybe\"", "line 18: guard = \"maybe\""),
        ("node_id = 1", "node_id = \"one\"", "line 3: node_id = \"one\""),
    ] {
        let text = message(from, to);
        assert!(text.starts_with("/etc/qnat/node.toml: ") && text.contains(expected), "{text}\nexpected: {expected}");
    }
}

#[test]
fn a_file_that_is_not_there_says_which_one_is_meant() {
    let error = NodeConfig::load(Path::new("/nonexistent/node.toml")).expect_err("not there");
    assert!(error.to_string().starts_with("/nonexistent/node.toml: file: cannot be read"), "{error}");
}
