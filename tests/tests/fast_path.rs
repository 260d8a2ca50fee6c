//! The kernel's fast path as its users see it: connections pass without a worker, the switch is turned while they go on, and a
//! member that is stopped or killed carries them within lease and grace, and is silent after that. Needs root.

use std::time::{Duration, Instant};

use qnat_tests::conversation::Conversation;
use qnat_tests::lab::{Lab, json, ok, rows, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const B1: &str = "10.0.1.1";

fn cache(turn: &[&str]) -> Value {
    json(&[&["cache"], turn, &["--node", "n1", "-o", "json"]].concat())
}

/// The same, with all that the kernel has counted until now: a member reads that twice a second.
fn settled() -> Value {
    std::thread::sleep(Duration::from_millis(1_200));
    cache(&[])
}

fn count(cache: &Value, what: &str) -> u64 {
    cache[what].as_u64().unwrap_or_else(|| panic!("{what} of {cache}"))
}

/// What the member publishes under a name.
fn metric(name: &str) -> u64 {
    let page = ok(&["lab", "exec", "n1", "--", "curl", "-s", "http://127.0.0.1:7880/metrics"]);
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("{name}: {page}"))
}

/// Whether the only connection of b1 is carried.
fn is_carried() -> bool {
    let flows = json(&["flows", "-o", "json"]);
    let of_b1 = |row: &&Value| row["inside"].as_str().is_some_and(|inside| inside.starts_with(&format!("{B1}:")));
    let mine: Vec<&Value> = rows(&flows["flows"]).filter(of_b1).filter(|row| row["state"] == "live").collect();
    let [row] = mine[..] else { panic!("{flows}") };
    row["carried"] == true
}

fn all_go_on(talk: &mut Conversation, lines: usize) {
    assert!((0..lines).all(|_| talk.goes_on()), "each line comes back");
}

/// A connection of b1 that the kernel of the only member carries.
fn carried(lab: &Lab) -> Conversation {
    let mut talk = Conversation::begin(lab, "b1");
    all_go_on(&mut talk, 8);
    wait_until("the kernel to carry it", PATIENCE, || talk.goes_on() && is_carried());
    talk
}

/// How long lines go on to come back.
fn goes_on_for(talk: &mut Conversation) -> Duration {
    let begin = Instant::now();
    let mut last = Duration::ZERO;
    while talk.goes_on() {
        last = begin.elapsed();
        assert!(last < PATIENCE, "it never ends");
    }
    last
}

/// What was counted when 20 lines had gone by the kernel. A lease that lapses for a moment, since the machine stands still, has what
/// was handed over taken back; then it is tried again.
fn lines_by_kernel(talk: &mut Conversation) -> Value {
    let revised = |cache: &Value| cache["left"]["revised"].as_u64().unwrap_or(0);
    for _ in 0..5 {
        let before = settled();
        all_go_on(talk, 20);
        let after = settled();
        if count(&after, "ended") == count(&before, "ended") && revised(&after) == revised(&before) {
            // The question and the answer of each line, at least.
            assert!(count(&after, "sent") >= count(&before, "sent") + 40, "by the kernel: {before} {after}");
            return after;
        }
        eprintln!("what the kernel carried was taken back: {before} {after}");
        wait_until("the kernel to carry it again", PATIENCE, || talk.goes_on() && is_carried());
    }
    panic!("what the kernel carries is taken back all the time");
}

fn the_switch_is_turned_while_it_goes_on(talk: &mut Conversation) {
    let after = lines_by_kernel(talk);
    assert!(ok(&["flows"]).lines().any(|line| line.contains(B1) && line.contains("kernel")));
    assert!(ok(&["status"]).contains(" by kernel"));
    let by_direction = ["out", "incoming"].map(|way| count(&after[way], "packets"));
    assert!(by_direction.iter().all(|packets| *packets >= 20), "{after}");
    assert_eq!(by_direction.iter().sum::<u64>(), count(&after, "sent"), "{after}");
    wait_until("the metrics to say so", PATIENCE, || {
        let packets = ["out", "in"].map(|way| metric(&format!("qnat_fast_path_packets_total{{direction=\"{way}\"}}")));
        let octets = ["out", "in"].map(|way| metric(&format!("qnat_fast_path_octets_total{{direction=\"{way}\"}}")));
        // Headers of IP and TCP at least.
        let plausible = packets.iter().zip(octets).all(|(packets, octets)| octets >= packets * 40);
        plausible && packets.iter().sum::<u64>() >= count(&after, "sent") && metric("qnat_fast_path_entries") >= 1
    });
    assert!(metric("qnat_fast_path_misses_total{reason=\"odd\"}") > 0, "its SYN");
    let drops = json(&["counters", "--node", "n1", "-o", "json"]);
    assert!(drops["balanced"] == true && count(&drops["fast"], "sent") >= count(&after, "sent"), "I51: {drops}");

    assert_eq!(cache(&["off"])["mode"], "off");
    wait_until("nothing to be carried", PATIENCE, || count(&cache(&[]), "entries") == 0);
    let before = count(&settled(), "sent");
    all_go_on(talk, 10);
    assert_eq!(count(&settled(), "sent"), before, "each frame passes the worker");
    assert!(!is_carried());
    assert!(ok(&["status"]).contains("switched off"));

    cache(&["on"]);
    all_go_on(talk, 10);
    wait_until("the kernel to carry it again", PATIENCE, || talk.goes_on() && is_carried());
}

/// Lease and grace together last for 3.04 s; a line is waited for up to a second.
fn it_goes_on_within_grace_and_ends(talk: &mut Conversation, what: &str) {
    let lasted = goes_on_for(talk);
    let (least, most) = (Duration::from_millis(2_000), Duration::from_millis(3_400));
    assert!((least..most).contains(&lasted), "{what}: lines came back for {lasted:?}");
    let frames =
        || ok(&["lab", "exec", "inet", "--", "cat", "/proc/net/dev"]).lines().map(str::to_owned).collect::<Vec<_>>();
    let received = |lines: &[String]| -> u64 {
        let counts = lines.iter().filter_map(|line| line.trim().strip_prefix("eth0:"));
        counts.filter_map(|counts| counts.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
    };
    let before = received(&frames());
    assert!(!talk.goes_on(), "silent");
    // Somebody may ask by ARP; the line and what is sent again of it would be more.
    assert!(received(&frames()) <= before + 1, "{what}: nothing arrives outside");
}

#[test]
fn connections_pass_by_the_kernel_and_no_longer_than_lease_and_grace() {
    let lab = Lab::up_as(1, &["--cache", "eager"]);
    let mut talk = carried(&lab);
    the_switch_is_turned_while_it_goes_on(&mut talk);

    ok(&["lab", "pause", "n1"]);
    it_goes_on_within_grace_and_ends(&mut talk, "stopped");
    ok(&["lab", "resume", "n1"]);
    wait_until("it to go on", PATIENCE, || talk.goes_on());
    wait_until("the kernel to carry it", PATIENCE, || talk.goes_on() && is_carried());
    assert!(count(&settled(), "sent_in_grace") > 0);

    ok(&["lab", "kill", "n1"]);
    it_goes_on_within_grace_and_ends(&mut talk, "killed");
    drop(talk);
    ok(&["lab", "restart", "n1"]);
    wait_until("it to answer", PATIENCE, || {
        qnat_tests::lab::try_json(&["cache", "--node", "n1", "-o", "json"]).is_some()
    });
    let fresh = cache(&[]);
    assert_eq!((count(&fresh, "sent"), count(&fresh, "installed")), (0, 0), "the next life starts without entries");
}
