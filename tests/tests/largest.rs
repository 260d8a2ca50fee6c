//! A configuration near the longest that the limits allow, and as many addresses and shards, on a whole cluster. Only in the longer profile: a debug build takes
//! a minute or two to read and print 32,768 backends again and again. Needs root.

use std::process::ExitCode;
use std::time::Duration;

use qnat_tests::conversation::Conversation;
use qnat_tests::lab::{Lab, json, ok, rows, try_json, wait_until};
use qnat_tests::resources::Changes;
use qnat_tests::shared::{self, Check};
use tempfile::NamedTempFile;

/// What a cluster takes.
const IP_CONFIGURATIONS_MAX: usize = 32_768;
const NAME_LEN_MAX: usize = 63;
const PATIENCE: Duration = Duration::from_secs(120);
/// Those of the lab.
const SMALL: usize = 4;
/// A pool takes no more.
const POOL: usize = 1_000;

fn main() -> ExitCode {
    shared::run(vec![
        Check::long("the_largest_configuration_reaches_members_that_restart_and_that_are_wiped", largest),
        Check::long("all_addresses_of_the_lab_in_all_shards_are_served_and_outlive_an_owner", all_addresses),
    ])
}

/// Public addresses beside the internet's two, and the shards that they are in: as many as a cluster has.
const ADDRESSES: usize = 252;
const SHARDS: usize = 64;

/// A name of the greatest length.
fn name(kind: &str, n: usize) -> String {
    let number = n.to_string();
    format!("{kind}{}{number}", "x".repeat(NAME_LEN_MAX - kind.len() - number.len()))
}

/// As many instances as there may be beside those of the lab, with the longest names, in pools without a rule.
fn many() -> String {
    let (network, subnet, count) = (name("v", 1), name("s", 1), IP_CONFIGURATIONS_MAX - SMALL);
    let mut text = format!(
        "[[virtual_network]]\nname = \"{network}\"\n[[virtual_network.subnet]]\nname = \"{subnet}\"\n\
         prefix = \"10.64.0.0/16\"\ngateway = \"10.64.0.1\"\n"
    );
    for n in 0..count {
        let (place, pool) = (n + 300, name("pool", n / POOL));
        text += &format!(
            "[[instance]]\nname = \"{}\"\n[[instance.ip_configuration]]\nname = \"{}\"\n\
             private_ip = \"10.64.{}.{}\"\nmac = \"52:54:ff:ff:{:02x}:{:02x}\"\n\
             subnet = \"{network}/{subnet}\"\npool = \"lb1/{pool}\"\n",
            name("i", n),
            name("ip", n),
            place / 256,
            place % 256,
            n / 256,
            n % 256,
        );
    }
    text
}

fn wait_for(node: &str, backends: usize) {
    wait_until(&format!("{node} to have {backends} backends"), PATIENCE, || {
        let all = try_json(&["get", "backends", "--node", node, "-o", "json"]).unwrap_or_default();
        rows(&all).count() == backends
    });
}

fn largest(lab: &Lab) {
    let file = NamedTempFile::new().expect("a file");
    let pool = |n: usize| format!("[[load_balancer.pool]]\nname = \"{}\"\n", name("pool", n));
    let pools: String = (0..IP_CONFIGURATIONS_MAX.div_ceil(POOL)).map(pool).collect();
    let text = Changes { rule: &pools, more: &many(), ..Changes::default() }.text();
    std::fs::write(file.path(), &text).expect("written");
    let path = file.path().to_str().expect("a plain path");
    let terms = || ["b1", "b2", "b3", "b4"].map(|backend| lab.term_of(backend));
    let before = terms();
    let applied = json(&["apply", "--yes", "-f", path, "-o", "json"]);
    assert_eq!(applied["programmed"]["on"], 3, "{}", applied["programmed"]);
    for node in ["n1", "n2", "n3"] {
        wait_for(node, IP_CONFIGURATIONS_MAX);
    }
    assert_eq!(terms(), before, "an owner stood still for longer than a lease lasts");
    let again = json(&["apply", "-f", path, "--dry-run", "-o", "json"]);
    assert_eq!(rows(&again["changes"]).count(), 0);
    for more in [&[][..], &["--wipe"]] {
        ok(&["lab", "kill", "n3"]);
        ok(&[&["lab", "restart", "n3"], more].concat());
        wait_for("n3", IP_CONFIGURATIONS_MAX);
    }
    Changes::default().apply();
    for node in ["n1", "n2", "n3"] {
        wait_for(node, SMALL);
    }
}

/// Every address that the outside network has room for.
fn all_addresses(lab: &Lab) {
    let free: Vec<u32> = (4..=254).filter(|n| !matches!(n, 10 | 11)).collect();
    let more: String =
        free.iter().map(|n| format!("[[public_ip]]\nname = \"pip{n}\"\naddress = \"203.0.113.{n}\"\n")).collect();
    let names: Vec<String> = (1..=3).chain(free).map(|n| format!("\"pip{n}\"")).collect();
    assert_eq!(names.len(), ADDRESSES);
    let text = Changes { more: &more, ..Changes::default() }.text();
    let few = "frontends = [\"pip1\", \"pip2\", \"pip3\"]";
    assert!(text.contains(few), "{text}");
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text.replace(few, &format!("frontends = [{}]", names.join(", ")))).expect("written");
    ok(&["apply", "--yes", "-f", file.path().to_str().expect("a plain path")]);
    let all_served = || {
        let status = lab.status();
        let served = rows(&status["shards"]).filter(|row| row["serving"] == "yes" && !row["owner"].is_null());
        served.count() == SHARDS
    };
    wait_until("all shards to be served", PATIENCE, all_served);
    let addresses: usize = rows(&lab.status()["shards"]).map(|row| rows(&row["frontends"]).count()).sum();
    assert_eq!(addresses, ADDRESSES);
    let mut talk = Conversation::begin(lab, "b1");
    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    assert!(talk.goes_on(), "the connection outlives its owner");
    wait_until("all shards to be served again", PATIENCE, all_served);
    lab.restart_the_dead();
    wait_until("all shards to have all replicas", PATIENCE, || {
        let status = lab.status();
        rows(&status["shards"]).filter(|row| row["redundancy"]["have"] == 3).count() == SHARDS
    });
    Changes::default().apply();
}
