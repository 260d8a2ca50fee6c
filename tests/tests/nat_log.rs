//! Who had a public port, asked of members that have seen others die. Needs root.

use std::io::Write as _;
use std::time::Duration;

use qnat_tests::lab::{self, INET, Lab, ok, rows, wait_until};
use qnat_tests::resources::Changes;
use serde_json::Value;

const DIR: &str = "/run/qnat-lab";

fn who(node: u64, ip: &str, port: u64, at: Option<&str>) -> Value {
    let (node, port) = (format!("n{node}"), port.to_string());
    let mut arguments = vec!["who", "--ip", ip, "--port", &port, "-o", "json", "--node", &node];
    arguments.extend(at.into_iter().flat_map(|at| ["--at", at]));
    lab::json(&arguments)
}

fn apply(resources: &str) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(resources.as_bytes()).expect("a temporary file");
    ok(&["apply", "--yes", "-f", file.path().to_str().expect("a plain path")]);
}

/// A public port of a backend, as the internet sees it.
fn seen(lab: &Lab, host: &str) -> (String, u64) {
    let text = lab.exec(host, &["curl", "-sS", "--max-time", "10", &format!("http://{INET}/")]);
    let seen: Value = serde_json::from_str(&text).expect("the server answers JSON");
    (seen["address"].as_str().expect("an address").to_owned(), seen["port"].as_u64().expect("a port"))
}

/// The time now, as `--at` takes it.
fn now(lab: &Lab) -> String {
    lab.exec("inet", &["date", "-u", "+%Y-%m-%dT%H:%M:%S.%3NZ"]).trim().to_owned()
}

#[test]
fn every_surviving_member_knows_who_had_a_port_then() {
    // What is held is free again after three seconds, in place of 65.
    let settings = "[settings]\norphan_grace_ms = 1000\nhold_ms = [3000, 3000, 3000, 3000, 3000]\n";
    let all = Changes { outside: settings, ..Changes::default() }.text();
    let lab = Lab::up_by(&all);
    let (ip, port) = seen(&lab, "b4");
    let then = now(&lab);
    for node in 1..=3 {
        wait_until("the grant to be in the log", Duration::from_secs(10), || {
            who(node, &ip, port, Some(&then))["holder"]["backend"] == "b4/ipconfig1"
        });
        assert_eq!(who(node, &ip, 1, Some(&then))["holder"], Value::Null, "port 1 is nobody's");
    }
    let owner = lab.owner_of("b4");
    ok(&["lab", "kill", &format!("n{owner}")]);
    let b4 = all.find("[[instance]]\nname = \"b4\"").expect("b4 is declared");
    wait_until("the members to decide without the dead one", Duration::from_secs(30), || {
        lab::try_json(&["status", "-o", "json"]).is_some_and(|s| rows(&s["shards"]).all(|row| row["serving"] == "yes"))
    });
    apply(&all[..b4]);
    let survivors = (1..=3).filter(|node| *node != owner);
    for node in survivors.clone() {
        wait_until("the ports of the backend that is gone to drain", Duration::from_secs(10), || {
            who(node, &ip, port, None)["holder"]["draining_since"].is_string()
        });
    }
    // After its holds the record of the block ends on every member that lives.
    for node in survivors.clone() {
        wait_until("the release", Duration::from_secs(60), || who(node, &ip, port, None)["holder"].is_null());
        let answer = who(node, &ip, port, Some(&then));
        let holder = &answer["holder"];
        assert_eq!((&holder["backend"], &holder["inside"]), (&"b4/ipconfig1".into(), &"10.0.1.4".into()), "{answer:#}");
        assert!(holder["since"].as_str() < Some(&then) && Some(then.as_str()) < holder["until"].as_str(), "{answer:#}");
    }
    // The record is the same on all, line by line, but for the name of the member.
    let mut records = survivors.map(|node| {
        let text = std::fs::read_to_string(format!("{DIR}/n{node}/data/nat.log")).expect("the log is there");
        let lines =
            text.lines().filter(|line| line.contains(" PB")).map(|line| line.replacen(&format!(" n{node} "), " ", 1));
        lines.filter(|line| !line.contains(" PBALL ")).collect::<Vec<_>>()
    });
    let first = records.next().expect("two members live");
    assert!(first.len() >= 6, "four grants, a drain, a release: {first:#?}");
    assert_eq!(Some(first), records.next());
    // The one that was dead catches up with what it missed.
    ok(&["lab", "restart", &format!("n{owner}")]);
    wait_until("the restarted member to know too", Duration::from_secs(60), || {
        let arguments = ["who", "--ip", &ip, "--port", &port.to_string(), "-o", "json", "--node", &format!("n{owner}")];
        lab::try_json(&arguments).is_some_and(|answer| answer["holder"].is_null())
    });
    assert_eq!(who(owner, &ip, port, Some(&then))["holder"]["backend"], "b4/ipconfig1");
}

#[test]
fn mappings_are_logged_by_their_owner_if_asked_for() {
    let lab = Lab::up();
    let owner = lab.owner_of("b1");
    let name = format!("n{owner}");
    let file = format!("{DIR}/{name}/node.toml");
    let text = std::fs::read_to_string(&file).expect("the member's configuration");
    assert!(text.contains("sessions = false"), "{text}");
    std::fs::write(&file, text.replace("sessions = false", "sessions = true")).expect("written");
    ok(&["lab", "kill", &name]);
    ok(&["lab", "restart", &name]);
    lab.wait_until_whole(Duration::from_secs(60));
    assert_eq!(lab.owner_of("b1"), owner);
    let (ip, port) = seen(&lab, "b1");
    let mut answer = Value::Null;
    wait_until("the mapping to be in the log", Duration::from_secs(10), || {
        answer = who(owner, &ip, port, Some("2100-01-01T00:00:00.000Z"));
        let text = std::fs::read_to_string(format!("{DIR}/{name}/data/nat.log")).unwrap_or_default();
        text.contains(" SADD [nsess ") && text.contains(&format!("XSPORT=\"{port}\" PROTO=\"6\""))
    });
    assert_eq!(answer["holder"]["backend"], "b1/ipconfig1", "{answer:#}");
    let text = std::fs::read_to_string(format!("{DIR}/{name}/data/nat.log")).expect("the log is there");
    assert!(!text.contains("XDADDR"), "no destinations unless asked for");
    for other in (1..=3).filter(|node| *node != owner) {
        let text = std::fs::read_to_string(format!("{DIR}/n{other}/data/nat.log")).expect("the log is there");
        assert!(!text.contains(" nsess"), "n{other} logs no mappings");
    }
}
