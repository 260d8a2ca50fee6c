//! Who may touch what of a running member, seen from outside: its guard, its lock, its ports. Needs root.

use std::time::Duration;

use netio::bpf::{self, Program, TcAttachType};
use netio::link::Link;
use netio::netns;
use qnat_lab::Host;
use qnat_tests::lab::{Lab, json, rows, run, wait_until};
use serde_json::Value;

/// Does something with the outside interface of a member, where it is.
fn at_outside<T: Send + 'static>(node: u32, work: impl FnOnce(&Link) -> std::io::Result<T> + Send + 'static) -> T {
    let work = move || work(&Link::named("outside")?);
    netns::run_in(&Host::Node(node).namespace(), work).expect("a namespace").expect("the kernel answers")
}

/// The numbers of the programs at its egress.
fn programs(node: u32) -> Vec<u32> {
    at_outside(node, programs_at_egress)
}

fn programs_at_egress(link: &Link) -> std::io::Result<Vec<u32>> {
    bpf::programs_at(link.ifindex, TcAttachType::Egress)
}

/// What a member's own API answers.
fn asked(lab: &Lab, node: &str, what: &str) -> Value {
    let text = lab.exec(node, &["curl", "-sS", "--max-time", "5", &format!("http://127.0.0.1:7880/v1/{what}")]);
    serde_json::from_str(&text).expect("an answer is JSON")
}

/// What it says of itself, and how often its guard was put back.
fn me(lab: &Lab, node: &str) -> (Value, Value) {
    (asked(lab, node, "status")["me"].clone(), asked(lab, node, "counters")["guard_put_back"].clone())
}

#[test]
fn a_second_process_of_a_running_member_changes_nothing_and_says_whose_the_member_is() {
    let lab = Lab::up();
    let status = json(&["lab", "status", "-o", "json"]);
    let config =
        rows(&status["nodes"]).find(|row| row["node"]["name"] == "n1").expect("a row")["node"]["config_path"].clone();
    let config = config.as_str().expect("a path");
    let (programs_before, me_before) = (programs(1), me(&lab, "n1"));
    let addresses = |lab: &Lab| lab.exec("n1", &["ip", "-d", "address", "show"]);
    let qdiscs = |lab: &Lab| lab.exec("n1", &["tc", "qdisc", "show"]);
    let before = (addresses(&lab), qdiscs(&lab));
    assert_eq!(programs_before.len(), 1, "its guard");
    assert_eq!(me_before.0["guard"], "attached");

    let binary = qnat_tests::lab::binary();
    let binary = binary.to_str().expect("a path of text");
    let second = run(&["lab", "exec", "n1", "--", binary, "node", "--config", config]);
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success(), "a second process of the member runs");
    assert!(said.contains("runs this member") && said.contains("nothing was changed"), "{said}");

    assert_eq!(programs(1), programs_before, "the guard is another one");
    assert_eq!((addresses(&lab), qdiscs(&lab)), before);
    let me_after = me(&lab, "n1");
    assert_eq!((&me_after.0["guard"], &me_after.1), (&me_before.0["guard"], &me_before.1));
    assert_eq!(me_after.0["incarnation"], me_before.0["incarnation"]);
}

#[test]
fn a_guard_that_somebody_takes_away_is_back_within_two_seconds_and_counted() {
    let lab = Lab::up();
    let before = programs(2);
    assert_eq!(before.len(), 1, "its guard");
    for times in 1..=2 {
        at_outside(2, |link| {
            let guard = programs_at_egress(link)?[0];
            Program::of(guard)?.take_away(link.ifindex, TcAttachType::Egress)
        });
        wait_until("the guard to be back", Duration::from_secs(2), || programs(2) == before);
        wait_until("the status to say so", Duration::from_secs(2), || {
            let (me, put_back) = me(&lab, "n2");
            me["guard"] == "attached" && put_back == times
        });
    }
}

#[test]
fn the_peer_port_belongs_to_the_peers_interface_and_the_api_to_loopback() {
    let lab = Lab::up();
    let udp = lab.exec("n1", &["ss", "-Huln"]);
    let ports: Vec<&str> = udp.lines().filter(|line| line.contains(":7800")).collect();
    assert!(!ports.is_empty(), "{udp}");
    assert!(ports.iter().all(|line| line.contains("%peers:7800")), "{udp}");
    let tcp = lab.exec("n1", &["ss", "-Htln"]);
    assert!(!tcp.trim().is_empty() && tcp.lines().all(|line| line.contains("127.0.0.1")), "{tcp}");
}
