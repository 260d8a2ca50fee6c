//! A cluster after its disks are lost: a backup restored on empty machines, and one survivor that goes on (N6). Needs root.

use std::path::{Path, PathBuf};
use std::time::Duration;

use qnat_tests::lab::{self, INET, Lab, ok, rows, run, try_json, wait_until};
use qnat_tests::resources::Changes;
use serde_json::Value;

const DIR: &str = "/run/qnat-lab";
/// Short, so that the test need not wait for a minute.
const SETTINGS: &str = "[settings]\nrecreate_quarantine_ms = 1000\n";
const PATIENCE: Duration = Duration::from_secs(60);

fn node_dir(node: u32) -> PathBuf {
    Path::new(DIR).join(format!("n{node}"))
}

fn config(node: u32) -> String {
    node_dir(node).join("node.toml").display().to_string()
}

fn kill_all() {
    for node in ["n1", "n2", "n3"] {
        ok(&["lab", "kill", node]);
    }
}

fn restart(node: u32, more: &[&str]) {
    ok(&[&["lab", "restart", &format!("n{node}")], more].concat());
}

fn leases() -> Vec<(String, Value)> {
    let all = lab::json(&["get", "backends", "-o", "json"]);
    rows(&all).map(|row| (row["backend"].to_string(), row["lease"].clone())).collect()
}

fn backends() -> Option<usize> {
    let all = try_json(&["get", "backends", "-o", "json"])?;
    Some(rows(&all).count())
}

fn wait_until_served() {
    wait_until("every shard to be served", PATIENCE, || {
        let status = try_json(&["status", "-o", "json"]).unwrap_or_default();
        rows(&status["shards"]).count() == 3 && rows(&status["shards"]).all(|row| row["serving"] == "yes")
    });
}

/// A public port of a backend, as the internet sees it; `None` while nothing leaves.
fn seen(lab: &Lab, host: &str) -> Option<(String, u64)> {
    let url = format!("http://{INET}/");
    let output = run(&["lab", "exec", host, "--", "curl", "-sS", "--max-time", "5", &url]);
    let seen: Value = serde_json::from_slice(&output.stdout).ok()?;
    let _running = lab;
    Some((seen["address"].as_str()?.to_owned(), seen["port"].as_u64()?))
}

fn holder(node: u32, ip: &str, port: u64, at: &str) -> Value {
    let (node, port) = (format!("n{node}"), port.to_string());
    lab::json(&["who", "--ip", ip, "--port", &port, "--at", at, "-o", "json", "--node", &node])["holder"].clone()
}

#[test]
fn a_backup_restored_on_empty_machines_brings_configuration_grants_and_who_back() {
    let lab = Lab::up();
    Changes { more: SETTINGS, ..Changes::default() }.apply();
    let (ip, port) = seen(&lab, "b2").expect("traffic flows");
    let then = lab.exec("inet", &["date", "-u", "+%Y-%m-%dT%H:%M:%S.%3NZ"]).trim().to_owned();
    wait_until("the grant to be in the log", Duration::from_secs(10), || {
        holder(1, &ip, port, &then)["backend"] == "b2/ipconfig1"
    });
    let before = leases();
    let scratch = tempfile::tempdir().expect("scratch");
    let file = scratch.path().join("backup").display().to_string();
    let qnat = lab::binary().display().to_string();
    let said = lab.exec("n1", &[&qnat, "cluster", "backup", "--config", &config(1), "--to", &file]);
    assert!(said.contains("control index") && said.contains("sound"), "{said}");
    let again = run(&["lab", "exec", "n1", "--", &qnat, "cluster", "backup", "--config", &config(1), "--to", &file]);
    assert_eq!(again.status.code(), Some(1), "a backup was written over another");

    kill_all();
    let out = scratch.path().join("new");
    let mut restore = vec!["cluster".to_owned(), "restore".to_owned()];
    restore.extend(["--from".to_owned(), file, "--out".to_owned(), out.display().to_string()]);
    for node in 1..=3 {
        let text = std::fs::read_to_string(config(node)).expect("a member has a file");
        let listen = text.lines().find_map(|line| line.strip_prefix("listen = ")).expect("an address");
        restore.extend(["--node".to_owned(), format!("{node}={}", listen.trim_matches('"'))]);
    }
    let said = ok(&restore.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.contains("may be missing"), "{said}");
    for node in 1..=3 {
        let (from, to) = (out.join(format!("n{node}")), node_dir(node));
        for part in ["data", "tls"] {
            std::fs::remove_dir_all(to.join(part)).expect("the old machine's");
            std::fs::rename(from.join(part), to.join(part))
                .or_else(|_| copy(&from.join(part), &to.join(part)))
                .expect("carried");
        }
        restart(node, &[]);
    }
    wait_until_served();
    assert_eq!(leases(), before, "grants differ");
    wait_until("a new connection to pass", PATIENCE, || seen(&lab, "b2").is_some());
    for node in 1..=3 {
        assert_eq!(holder(node, &ip, port, &then)["backend"], "b2/ipconfig1", "node {node} forgot who had it");
    }
    // The index goes on far behind the old one: nothing of the old cluster can be taken for newer.
    let status = lab.status();
    assert!(status["cluster"]["control_index"].as_u64() > Some(1 << 20), "{}", status["cluster"]);
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    done.success().then_some(()).ok_or_else(|| std::io::Error::other("cp"))
}

#[test]
fn one_survivor_goes_on_says_what_may_be_missing_and_the_others_join_again() {
    let lab = Lab::up();
    Changes { more: SETTINGS, ..Changes::default() }.apply();
    wait_until("n3 to have it", Duration::from_secs(10), || backends() == Some(4));
    // A change that only n1 and n2 ever have: what the lost majority decided alone.
    ok(&["lab", "kill", "n3"]);
    let text = Changes { more: SETTINGS, ..Changes::default() }.text();
    let b4 = text.find("[[instance]]\nname = \"b4\"").expect("b4 is declared");
    let fewer = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(fewer.path(), format!("{}{SETTINGS}", &text[..b4])).expect("written");
    let file = fewer.path().to_str().expect("a plain path");
    let applied = lab::json(&["apply", "--yes", "-o", "json", "-f", file]);
    let committed = applied["committed"].as_u64().expect("an index");
    kill_all_but_n3();

    let told = ok(&["cluster", "recover", "--config", &config(3)]);
    let command = told.lines().find(|line| line.trim_start().starts_with("qnat cluster recover")).expect("a command");
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    let end = words.iter().position(|word| *word == "--end").map(|at| words[at + 1]).expect("where it ends");
    let index: u64 = end.split_once(',').expect("TERM,INDEX").1.parse().expect("a number");
    assert!(index < committed, "n3's disk ends at {index}, the change was {committed}");
    assert!(told.contains(&format!("after control index {index}")), "{told}");
    let nobody = run(&["cluster", "recover", "--config", &config(3), "--end", end]);
    assert_eq!(nobody.status.code(), Some(1), "recovered although nobody said that the others are off");
    ok(&words);
    let twice = run(&words);
    assert_eq!(twice.status.code(), Some(1), "recovered twice by the same words");

    restart(3, &[]);
    wait_until_served();
    assert_eq!(backends(), Some(4), "what n3 never had is missing, as it was told: b4 is still there");
    wait_until("a new connection to pass", PATIENCE, || seen(&lab, "b1").is_some());
    restart(1, &["--wipe"]);
    restart(2, &["--wipe"]);
    lab.wait_until_whole(PATIENCE);
}

fn kill_all_but_n3() {
    for node in ["n1", "n2"] {
        ok(&["lab", "kill", node]);
    }
}
