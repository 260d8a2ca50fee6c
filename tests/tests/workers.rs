//! Members with two workers each, as their users see them: shards of both are served, turned packets cross from one to the
//! other, and a member with a worker that hangs begins anew as a whole. Needs root.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use qnat_tests::conversation::Conversation;
use qnat_tests::lab::{INET, Lab, json, rows, run, try_json, wait_until};
use qnat_tests::resources::{Changes, file_of};
use serde_json::Value;

const BACKENDS: [&str; 4] = ["b1", "b2", "b3", "b4"];
const PATIENCE: Duration = Duration::from_secs(30);
const WORKERS: u64 = 2;

fn inside(backend: &str) -> String {
    backend.replace('b', "10.0.1.")
}

/// The worker that has a backend's shard, on every member.
fn worker_of(lab: &Lab, backend: &str) -> u64 {
    lab.ports_of(backend)["shard"].as_u64().expect("a shard") % WORKERS
}

/// Public ends of a backend's connections to the echo server.
fn ends(lab: &Lab, backend: &str) -> Vec<String> {
    lab.live_mappings(&inside(backend), 7)
}

/// Three members with four shards, two of which are n1's, one with each of its workers; and a connection of each backend.
fn talking() -> (Lab, BTreeMap<&'static str, Conversation>, BTreeMap<&'static str, Vec<String>>) {
    let lab = Lab::up_as(3, &["--workers", "2", "--frontends", "4"]);
    let of_first: Vec<u64> =
        BACKENDS.iter().filter(|b| lab.owner_of(b) == 1).map(|backend| worker_of(&lab, backend)).collect();
    assert!(of_first.contains(&0) && of_first.contains(&1), "n1 has work for both: {of_first:?}");
    let mut talks: BTreeMap<&str, Conversation> = BACKENDS.map(|b| (b, Conversation::begin(&lab, b))).into();
    assert!(talks.values_mut().all(Conversation::goes_on));
    let public: BTreeMap<&str, Vec<String>> = BACKENDS.map(|b| (b, ends(&lab, b))).into();
    assert!(public.values().all(|ends| ends.len() == 1), "{public:?}");
    (lab, talks, public)
}

fn all_go_on(
    lab: &Lab,
    talks: &mut BTreeMap<&'static str, Conversation>,
    public: &BTreeMap<&'static str, Vec<String>>,
    after: &str,
) {
    for (backend, talk) in talks {
        wait_until(&format!("{backend} to go on {after}"), PATIENCE, || talk.goes_on());
        assert_eq!(&ends(lab, backend), &public[backend], "under the same public end");
    }
}

/// What is told of the four connections, whoever is asked.
fn answers_agree(lab: &Lab) {
    let listed = |arguments: &[&str]| {
        let flows = json(&[&["flows", "-o", "json"], arguments].concat());
        rows(&flows["flows"]).filter(|row| row["state"].as_str().is_some_and(|s| !s.starts_with("held"))).count()
    };
    assert_eq!(listed(&[]), 4);
    assert_eq!((1..=4).map(|shard| listed(&["--shard", &shard.to_string()])).collect::<Vec<_>>(), [1; 4]);
    assert_eq!(listed(&["--limit", "3"]), 3, "the limit is for all workers together");
    let status = lab.status();
    assert_eq!(rows(&status["shards"]).map(|row| row["live"].as_u64().unwrap_or(0)).sum::<u64>(), 4);
    for backend in BACKENDS {
        let ports = lab.ports_of(backend);
        assert_eq!((ports["used"].as_u64(), ports["flows"].as_u64()), (Some(1), Some(1)), "{ports}");
    }
    for node in ["n1", "n2", "n3"] {
        let counters = json(&["counters", "--node", node, "-o", "json"]);
        assert_eq!(counters["balanced"], true, "I51: {counters}");
        assert_eq!(counters["drops"]["transmit_failed"].as_u64().unwrap_or(0), 0, "{counters}");
    }
}

#[test]
fn shards_of_both_workers_are_served_and_counted_and_survive_their_owner() {
    let (lab, mut talks, public) = talking();
    answers_agree(&lab);
    let owner = lab.kill_owner_of("b1");
    all_go_on(&lab, &mut talks, &public, &format!("without n{owner}"));
    lab.restart_the_dead();
    lab.wait_until_whole(PATIENCE * 2);
    all_go_on(&lab, &mut talks, &public, "with it");
    answers_agree(&lab);
}

#[test]
fn a_member_with_one_worker_that_hangs_gives_all_its_shards_away_and_begins_anew() {
    let (lab, mut talks, public) = talking();
    let life =
        |status: &Value| rows(&status["nodes"]).find(|row| row["node"] == 1).map(|row| row["incarnation"].clone());
    let before = life(&lab.status()).expect("n1 is listed");
    let dir = Path::new(qnat_lab::DEFAULT_DIR);
    qnat_lab::hang(dir, 1, "worker-1").expect("the second worker of n1 stands still");
    for (backend, talk) in &mut talks {
        // Whom `qnat` asks may be the one that hangs, and ends.
        wait_until(&format!("{backend} to go on while n1's second worker hangs"), PATIENCE, || talk.goes_on());
    }
    wait_until("another life of n1", PATIENCE, || {
        try_json(&["status", "-o", "json"]).is_some_and(|status| life(&status).is_some_and(|now| now != before))
    });
    qnat_lab::release(dir, 1).expect("released");
    lab.wait_until_whole(PATIENCE * 2);
    all_go_on(&lab, &mut talks, &public, "under the new life");
}

#[test]
fn a_packet_for_a_neighbour_of_the_members_other_worker_arrives_and_so_does_its_refusal() {
    let rule = "profile = \"rfc\"\nfiltering = \"endpoint_independent\"";
    let file = file_of(&Changes { rule, ..Changes::default() }.text());
    let lab = Lab::up_as(1, &["--workers", "2", "--file", file.path().to_str().expect("a plain path")]);
    let of = |worker| *BACKENDS.iter().find(|backend| worker_of(&lab, backend) == worker).expect("three shards");
    for (from, to) in [(of(0), of(1)), (of(1), of(0))] {
        // A public end of its own, at which everybody may reach it, and nobody listens behind it any more.
        let _sent = lab.exec(to, &["bash", "-c", &format!("echo hello > /dev/udp/{INET}/9999")]);
        let frontend = lab.ports_of(to)["frontend"].clone();
        let (address, port) = (frontend.as_str().expect("an address"), lab.udp_ports(&inside(to), INET)[0]);
        let script =
            format!("exec 3<>/dev/udp/{address}/{port}; for i in 1 2 3 4 5; do echo x >&3 || exit 7; sleep 0.2; done");
        let output = run(&["lab", "exec", from, "--", "bash", "-c", &script]);
        let heard = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(7) && heard.contains("refused"),
            "{from} to {to}: {:?} {heard}",
            output.status
        );
    }
    let counters = json(&["counters", "-o", "json"]);
    assert_eq!(counters["balanced"], true, "I51: {counters}");
}
