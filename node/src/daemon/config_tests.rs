//! Messages of `node.toml`: each names file, field, value and remedy.

use super::*;

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
    assert_eq!((config.data.guard, config.data.inside.as_str()), (Guard::Required, "inside"));
    assert_eq!(config.data.virtual_network, "vnet1");
    assert!(config.timing.raise_priority);
    let peers: Vec<u32> = config.peer.iter().map(|peer| peer.id).collect();
    assert_eq!(peers, [2], "the node itself is no peer");
}

#[test]
fn what_is_written_reads_as_the_same() {
    let config = parse(GOOD).expect("good");
    assert_eq!(parse(&config.to_toml()).expect("own text"), config);
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
