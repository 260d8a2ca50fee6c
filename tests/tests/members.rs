//! Members come, go and return, as an operator does it: everything through the `qnat` binary and the hosts of a lab. Needs
//! root.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Child;
use std::time::Duration;

use qnat_tests::lab::{self, INET, Lab, ok, rows, run, try_json, wait_until};
use serde_json::Value;

const DIR: &str = "/run/qnat-lab";
/// How long one change of members may take on a machine that does other things too.
const BOUND: Duration = Duration::from_secs(60);

/// One TCP connection from a backend to the internet's echo server, kept over all that happens.
struct Kept {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
    said: u32,
}

impl Kept {
    fn open(lab: &Lab, host: &str) -> Self {
        let client = r#"exec 3<>/dev/tcp/203.0.113.10/7 || exit 1
            while read -r line; do
                echo "$line" >&3; answer=lost
                while read -r -t 5 back <&3; do [ "$back" = "$line" ] && answer=kept && break; done
                echo "$answer"
            done"#;
        let mut child = lab.spawn(host, &["bash", "-c", client]);
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut kept = Self { child, answers, said: 0 };
        kept.goes_on("it was opened");
        kept
    }

    fn goes_on(&mut self, when: &str) {
        self.said += 1;
        let mut line = String::new();
        writeln!(self.child.stdin.as_mut().expect("piped"), "line {}", self.said).expect("the client runs");
        self.answers.read_line(&mut line).expect("the client answers");
        assert_eq!(line.trim(), "kept", "the connection was lost: {when}");
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_gone = self.child.wait();
    }
}

fn status() -> Value {
    try_json(&["status", "-o", "json"]).unwrap_or_default()
}

/// Waits until exactly these are members, alive and voting, and all shards are served with so many replicas.
fn settled(members: &[u64], replicas: u64) {
    let whole = || {
        let status = status();
        let listed: Vec<&Value> = rows(&status["nodes"]).filter(|row| row["standing"] != "removed").collect();
        let counts = |row: &&Value| row["standing"] == "member" && row["alive"] == true && row["control_voter"] == true;
        let counted: Vec<u64> = listed.iter().copied().filter(counts).filter_map(|row| row["node"].as_u64()).collect();
        let served = |row: &Value| row["serving"] == "yes" && row["redundancy"]["have"] == replicas;
        counted == members && listed.len() == members.len() && rows(&status["shards"]).all(served)
    };
    wait_until(&format!("members {members:?} with {replicas} replicas; now {}", status()), BOUND, whole);
}

/// What a command must name to mean this node as it is.
fn named(node: u64) -> String {
    let nodes = lab::json(&["get", "nodes", "-o", "json"]);
    let row = rows(&nodes).find(|row| row["node"] == node).expect("the node is known");
    row["named"].as_u64().expect("a number").to_string()
}

/// Removes a node that was powered off; for two seconds it still counts as alive.
fn remove(node: u64, named: &str) {
    let (id, other) = (node.to_string(), if node == 1 { "n2" } else { "n1" });
    wait_until("the node to be silent", Duration::from_secs(20), || {
        let output = run(&["node-remove", &id, "--incarnation", named, "--node", other]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || said.contains("is alive"), "{said}");
        output.status.success()
    });
}

fn log_of(node: u64) -> String {
    std::fs::read_to_string(format!("{DIR}/n{node}/log")).expect("the member has a log")
}

fn seen(lab: &Lab, host: &str) -> String {
    let text = lab.exec(host, &["curl", "-sS", "--max-time", "10", &format!("http://{INET}/")]);
    let seen: Value = serde_json::from_str(&text).expect("the server answers JSON");
    seen["address"].as_str().expect("an address").to_owned()
}

#[test]
fn a_cluster_of_one_serves_and_is_three_when_two_have_joined() {
    let lab = Lab::up_with(1);
    settled(&[1], 1);
    assert_eq!(seen(&lab, "b1"), "203.0.113.1");
    let mut kept = Kept::open(&lab, "b2");
    ok(&["lab", "add", "n2"]);
    settled(&[1, 2], 2);
    kept.goes_on("n2 joined");
    ok(&["lab", "add", "n3"]);
    settled(&[1, 2, 3], 3);
    kept.goes_on("n3 joined");
    // The founder is one of three now, and can be done without.
    ok(&["lab", "kill", "n1"]);
    wait_until("the others to serve", BOUND, || rows(&status()["shards"]).all(|row| row["serving"] == "yes"));
    kept.goes_on("the founder died");
    assert_eq!(seen(&lab, "b1"), "203.0.113.1");
}

#[test]
fn a_machine_with_another_key_has_a_number_only_after_its_holder_was_removed() {
    let lab = Lab::up_with(3);
    settled(&[1, 2, 3], 3);
    let mut kept = Kept::open(&lab, "b1");
    let refused = run(&["node-remove", "n3", "--incarnation", &named(3)]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("node 3 is alive") && said.contains("qnat node-drain 3"),
        "{said}"
    );
    ok(&["lab", "remove", "n3"]);
    ok(&["lab", "add", "n3"]);
    wait_until("the second holder to be told", BOUND, || log_of(3).contains("its key is another one"));
    let named = named(3);
    assert!(log_of(3).contains(&format!("qnat node-remove 3 --incarnation {named}")), "{}", log_of(3));
    remove(3, &named);
    settled(&[1, 2, 3], 3);
    kept.goes_on("n3 was replaced");
    let late = run(&["node-remove", "n3", "--incarnation", &named]);
    let said = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(!late.status.success() && (said.contains("is alive") || said.contains("now, not")), "{said}");
}

#[test]
fn a_removed_node_hears_of_it_and_comes_back_with_an_empty_data_directory() {
    let lab = Lab::up_with(3);
    settled(&[1, 2, 3], 3);
    let mut kept = Kept::open(&lab, "b3");
    let named = named(2);
    ok(&["lab", "kill", "n2"]);
    remove(2, &named);
    settled(&[1, 3], 2);
    ok(&["lab", "restart", "n2"]);
    let remedy = "node 2 was removed; empty its data directory and let it join again";
    wait_until("the removed node to be told", BOUND, || log_of(2).contains(remedy));
    let dead = || {
        let status = lab::json(&["lab", "status", "-o", "json"]);
        rows(&status["nodes"]).any(|row| row["node"]["name"] == "n2" && row["state"] == "dead")
    };
    wait_until("the removed node to end", Duration::from_secs(10), dead);
    ok(&["lab", "restart", "n2", "--wipe"]);
    settled(&[1, 2, 3], 3);
    kept.goes_on("n2 came back");
}

#[test]
fn a_drained_node_has_nothing_left_when_it_is_removed() {
    let lab = Lab::up_with(4);
    settled(&[1, 2, 3, 4], 3);
    let mut kept = Kept::open(&lab, "b1");
    let node = lab.owner_of("b1");
    let named = named(node);
    ok(&["node-drain", &node.to_string(), "--incarnation", &named]);
    let concern = |words: &str| {
        rows(&status()["concerns"]).any(|concern| {
            [&concern["why"], &concern["remedy"]].iter().any(|text| text.as_str().is_some_and(|t| t.contains(words)))
        })
    };
    let command = format!("qnat node-remove {node} --incarnation {named}");
    wait_until("the status to say that it is drained", BOUND, || concern(&command));
    kept.goes_on("its shard moved");
    // It is up still, and may be removed: nothing depends on it.
    remove(node, &named);
    ok(&["lab", "remove", &format!("n{node}")]);
    let left: Vec<u64> = (1..=4).filter(|left| *left != node).collect();
    settled(&left, 3);
    kept.goes_on("it is gone");
}

#[test]
fn a_member_that_comes_back_with_other_addresses_is_found_by_all() {
    let lab = Lab::up_with(3);
    settled(&[1, 2, 3], 3);
    let mut kept = Kept::open(&lab, "b2");
    // The one with the highest number is dialed by the others, and knocks; the one with the lowest dials.
    for (node, address) in [(3, "198.18.0.33"), (1, "198.18.0.31")] {
        let host = format!("n{node}");
        ok(&["lab", "kill", &host]);
        let move_it = format!(
            "ip addr flush dev peers && ip addr add {address}/24 dev peers && \
             ip link set inside address 0a:00:00:0a:00:3{node} && ip link set outside address 0a:00:00:0b:00:3{node}"
        );
        let _moved = lab.exec(&host, &["sh", "-c", &move_it]);
        let file = format!("{DIR}/n{node}/node.toml");
        let config = std::fs::read_to_string(&file).expect("its configuration");
        let moved =
            config.replace(&format!("listen = \"198.18.0.{node}:7800\""), &format!("listen = \"{address}:7800\""));
        assert_ne!(config, moved, "{config}");
        std::fs::write(&file, moved).expect("written");
        ok(&["lab", "restart", &host]);
        settled(&[1, 2, 3], 3);
        let nodes = lab::json(&["get", "nodes", "-o", "json"]);
        let row = rows(&nodes).find(|row| row["node"] == node).expect("known");
        assert_eq!(row["peer_addr"], format!("{address}:7800"));
        assert_eq!(row["inside"][0]["mac"], format!("0a:00:00:0a:00:3{node}"));
        kept.goes_on(&format!("n{node} moved"));
        assert!(seen(&lab, "b2").starts_with("203.0.113."));
    }
}

/// C2: an upgrade, member by member, and then of the cluster. Connections of all times go on through all of it.
#[test]
fn members_of_two_levels_serve_together_and_the_level_rises_when_all_speak_it() {
    let refused = |level: &str| {
        let output = run(&["cluster", "level", level]);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let lab = Lab::up_as(3, &["--level", "1"]);
    settled(&[1, 2, 3], 3);
    let mut kept: Vec<Kept> = ["b1", "b2", "b3", "b4"].iter().map(|host| Kept::open(&lab, host)).collect();
    let mut all_go_on = |lab: &Lab, when: &str| {
        kept.iter_mut().for_each(|kept| kept.goes_on(when));
        for host in ["b1", "b2", "b3", "b4"] {
            assert!(seen(lab, host).starts_with("203.0.113."), "new flows: {when}");
        }
        kept.push(Kept::open(lab, "b1"));
    };
    for node in [1, 2] {
        lab.start_as(node, None);
        settled(&[1, 2, 3], 3);
        all_go_on(&lab, "one member more is new");
    }
    assert_eq!(ok(&["cluster", "level"]), "level 1; members speak: n1 3, n2 3, n3 1\n");
    let said = refused("2");
    assert!(said.contains("node 3 supports level 1 only"), "{said}");
    // Each of the two kinds takes over from the other.
    for node in [3, 1] {
        ok(&["lab", "kill", &format!("n{node}")]);
        wait_until("the others to serve", BOUND, || rows(&status()["shards"]).all(|row| row["serving"] == "yes"));
        all_go_on(&lab, "a member of a mixed cluster died");
        ok(&["lab", "restart", &format!("n{node}")]);
        settled(&[1, 2, 3], 3);
    }
    lab.start_as(3, None);
    settled(&[1, 2, 3], 3);
    let below = rows(&status()["concerns"]).any(|row| row["what"] == "level_below");
    assert!(below, "the status says that the level can be raised: {}", status()["concerns"]);
    ok(&["cluster", "level", "3"]);
    assert_eq!(ok(&["cluster", "level"]), "level 3; members speak: n1 3, n2 3, n3 3\n");
    all_go_on(&lab, "the level was raised");
    ok(&["lab", "kill", "n2"]);
    wait_until("the others to serve", BOUND, || rows(&status()["shards"]).all(|row| row["serving"] == "yes"));
    all_go_on(&lab, "an owner died after the raise");
    // Who does not speak it cannot come back, and says why; the cluster cannot be taken back.
    lab.start_as(2, Some(1));
    wait_until("n2 to be refused", BOUND, || {
        log_of(2).contains("node 2 supports cluster level 1, the cluster is at 3")
    });
    let said = refused("1");
    assert!(said.contains("the cluster is at level 3 already") && said.contains("never lowered"), "{said}");
    lab.start_as(2, None);
    settled(&[1, 2, 3], 3);
    all_go_on(&lab, "n2 came back with the newer build");
}
