//! The live drills as their user runs them: each fault once upon a fresh lab, and a drill that is interrupted. What is
//! asserted is what must hold on a machine of any speed; gaps are judged by longer runs. Needs root, and `qnat` built.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Where a lab lives while it runs.
const LAB: &str = "/run/qnat-lab";

static ONE_LAB: Mutex<()> = Mutex::new(());

/// One lab fits on a machine; one that somebody uses is left alone.
fn turn() -> MutexGuard<'static, ()> {
    let alone = ONE_LAB.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(!Path::new(LAB).exists(), "a lab is up: run `qnat lab down` first");
    alone
}

fn chaos() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qnat-chaos"));
    command.arg("drill").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

#[test]
fn a_drill_leaves_a_lab_that_somebody_uses_alone() {
    let _alone = turn();
    let lab = |arguments: &[&str]| {
        let qnat = Path::new(env!("CARGO_BIN_EXE_qnat-chaos")).with_file_name("qnat");
        Command::new(qnat).arg("lab").args(arguments).output().expect("qnat runs").status.success()
    };
    assert!(lab(&["up", "--detach", "--nodes", "1", "--backends", "3"]), "a lab");
    let output = chaos().args(["kill-owner", "--runs", "20"]).output().expect("the drill ends");
    assert!(lab(&["down"]), "it was there to be taken down");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
    assert_eq!(said.matches("a lab is up").count(), 1, "{said}");
    assert!(said.contains("a drill makes its own lab") && said.contains("`qnat lab down`"), "{said}");
}

/// Runs a drill once and checks everything but the speed.
fn holds(drill: &str) {
    let _alone = turn();
    let arguments = [drill, "--runs", "1", "--backends", "9", "--connections", "180", "--seconds", "4", "-o", "json"];
    let output = chaos().args(arguments).output().expect("the drill runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let verdicts: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let verdict = &verdicts[0];
    assert_eq!(number(&verdict["runs"]), 1, "{verdict:#} {said}");
    assert_eq!((number(&verdict["connections_kept"]), number(&verdict["connections"])), (180, 180), "{verdict:#}");
    for none in ["mappings_changed", "duplicates"] {
        assert_eq!(number(&verdict[none]), 0, "{none}: {verdict:#}");
    }
    assert_eq!(number(&verdict["downloads_right"]), 1, "{verdict:#}");
    assert!(number(&verdict["statuses"]) > 5, "status was not asked: {verdict:#}");
    assert_eq!(wrong(verdict, "gap of "), [""; 0]);
}

/// Reasons other than those about the machine's speed, which begin with `speed`.
fn wrong<'a>(verdict: &'a Value, speed: &str) -> Vec<&'a str> {
    let reasons = verdict["reasons"].as_array().expect("a list").iter().filter_map(Value::as_str);
    reasons.filter(|reason| !reason.starts_with(speed)).collect()
}

#[test]
fn a_killed_owner_costs_no_connection() {
    holds("kill-owner");
}

#[test]
fn a_paused_owner_costs_no_connection_and_sends_nothing_wrong_when_it_wakes() {
    holds("pause-owner");
}

#[test]
fn an_owner_that_is_cut_off_costs_no_connection_and_sends_nothing_wrong() {
    holds("partition-owner");
}

#[test]
fn an_owner_that_stops_hands_over_first() {
    holds("stop-owner");
}

/// Changes the members once, with connections open.
fn members_change(drill: &str, steps: usize) {
    let _alone = turn();
    let arguments = [drill, "--backends", "9", "--connections", "180", "-o", "json"];
    let output = chaos().args(arguments).output().expect("the drill runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let verdicts: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let verdict = &verdicts[0];
    assert_eq!(wrong(verdict, "gap of "), [""; 0], "{verdict:#} {said}");
    for gap in ["gap_old_ms", "gap_new_ms"] {
        assert!(verdict[gap]["max"].as_f64().is_some_and(|max| max > 0.0), "{gap} was not measured: {verdict:#}");
    }
    assert_eq!((number(&verdict["connections_kept"]), number(&verdict["connections"])), (180, 180), "{verdict:#}");
    assert_eq!(verdict["steps_ms"].as_array().map(Vec::len), Some(steps), "{verdict:#}");
    assert_eq!(number(&verdict["downloads_right"]), u64::try_from(steps).expect("few"), "{verdict:#}");
    assert_eq!(verdict["pass"] == true, output.status.success(), "{verdict:#}");
}

#[test]
fn a_machine_joins_under_traffic() {
    members_change("join", 1);
}

#[test]
fn a_lost_machine_is_replaced_under_traffic() {
    members_change("replace", 1);
}

#[test]
fn a_cluster_grows_and_shrinks_under_traffic_until_nobody_of_the_first_two_is_left() {
    members_change("grow-shrink", 4);
}

#[test]
fn an_owner_whose_worker_hangs_costs_no_connection_and_begins_anew() {
    holds("hang-worker");
}

#[test]
fn an_owner_whose_network_swallows_everything_costs_no_connection() {
    holds("silent-network");
}

#[test]
fn an_owner_whose_interface_is_made_anew_costs_no_connection_and_begins_anew() {
    holds("remake-interface");
}

#[test]
fn strangers_at_the_peer_port_move_no_shard_and_from_the_data_networks_do_not_reach_it() {
    let _alone = turn();
    let arguments = ["peer-flood", "--backends", "9", "--connections", "180", "--seconds", "10", "-o", "json"];
    let output = chaos().args(arguments).output().expect("the drill runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let verdicts: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let verdict = &verdicts[0];
    assert_eq!(wrong(verdict, "hold p99 of "), [""; 0], "{verdict:#} {said}");
    let phases = verdict["phases"].as_array().expect("a list");
    let floods: Vec<&str> = phases.iter().filter_map(|phase| phase["flood"].as_str()).collect();
    assert_eq!(floods, ["none", "peers", "inside", "outside"], "{verdict:#}");
    assert!(
        phases.iter().all(|phase| number(&phase["new_flows"]) > 0 && number(&phase["datagrams"]) > 0),
        "{verdict:#}"
    );
    assert_eq!(verdict["pass"] == true, output.status.success(), "{verdict:#}");
}

#[test]
fn an_interrupted_drill_leaves_nothing_behind_and_says_so() {
    let _alone = turn();
    let drill = chaos().args(["kill-owner", "--backends", "3", "-o", "json"]).spawn().expect("the drill starts");
    let begun = Instant::now();
    while !Path::new(LAB).exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "no lab");
        std::thread::sleep(Duration::from_millis(20));
    }
    let id = i32::try_from(drill.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it runs");
    let output = drill.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let verdicts: Value = serde_json::from_slice(&output.stdout).expect("a verdict all the same");
    assert_eq!(verdicts[0]["pass"], false, "{verdicts:#}");
    assert!(!Path::new(LAB).exists(), "the lab's directory is left");
    let names = Command::new("ip").args(["netns", "list"]).output().expect("ip runs");
    assert!(!String::from_utf8_lossy(&names.stdout).contains("qnat-"), "a namespace is left");
}
