//! Two virtual networks with the same private addresses (D14), over real packets. Needs root.

use std::time::Duration;

use qnat_tests::conversation::Conversation;
use qnat_tests::lab::{INET, Lab, json, ok, rows, run, wait_until};
use serde_json::Value;

/// Of four backends in each network, b5 has the address of b1.
const TWINS: [&str; 2] = ["b1", "b5"];
const ADDRESS: &str = "10.0.1.1";

fn lab() -> Lab {
    let lab = Lab::up_as(3, &["--virtual-networks", "2"]);
    for host in TWINS {
        let said = lab.exec(host, &["ip", "-4", "-o", "address", "show", "dev", "eth0"]);
        assert!(said.contains(&format!("{ADDRESS}/16")), "{host}: {said}");
    }
    lab
}

/// The public end under which the internet sees a host.
fn seen(lab: &Lab, host: &str) -> String {
    let text = lab.exec(host, &["curl", "-sS", "--max-time", "10", &format!("http://{INET}/")]);
    let seen: Value = serde_json::from_str(&text).expect("the server answers JSON");
    let ports = lab.ports_of(host);
    assert_eq!(ports["frontend"], seen["address"], "{host}");
    let port = seen["port"].as_u64();
    let leased = rows(&ports["lease"]).any(|range| range["first"].as_u64() <= port && port <= range["last"].as_u64());
    assert!(leased, "{host} uses port {port:?} outside {}", ports["lease"]);
    format!("{}:{}", seen["address"], seen["port"])
}

fn set_link(lab: &Lab, node: u64, state: &str) {
    let _set = lab.exec(&format!("n{node}"), &["ip", "link", "set", "inside2", state]);
}

#[test]
fn two_hosts_of_one_address_reach_one_remote_at_once_and_both_connections_survive_their_owners() {
    let lab = lab();
    let mut talks = TWINS.map(|host| Conversation::begin(&lab, host));
    for _ in 0..3 {
        assert!(talks.iter_mut().all(Conversation::goes_on), "each hears its own answers");
    }
    assert_ne!(seen(&lab, "b1"), seen(&lab, "b5"));
    for host in TWINS {
        let said = lab.exec(host, &["ping", "-c", "2", "-i", "0.2", "-W", "3", INET]);
        assert!(said.contains(" 0% packet loss"), "{host}: {said}");
    }
    let public = lab.live_mappings(ADDRESS, 7);
    assert_eq!(public.len(), 2, "{public:?}");
    for (host, network) in [("b1", "vnet1"), ("b5", "vnet2")] {
        let flows = json(&["flows", "--vnet", network, "-o", "json"]);
        let of_host = rows(&flows["flows"]).filter(|row| row["state"] == "live" && row["proto"] == "tcp").count();
        assert_eq!(of_host, 1, "{network}: {flows:#}");
        assert!(rows(&flows["flows"]).all(|row| row["network"] == network), "{flows:#}");
        assert_eq!(
            (lab.ports_of(host)["network"].as_str(), lab.ports_of(host)["ip"].as_str()),
            (Some(network), Some(ADDRESS))
        );
    }
    let unknown = run(&["flows", "--vnet", "red"]);
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(!unknown.status.success() && said.contains("there are: vnet1, vnet2"), "{said}");
    for host in TWINS {
        let killed = lab.kill_owner_of(host);
        lab.wait_for_successor(host, killed);
        wait_until("both connections to go on", Duration::from_secs(20), || {
            talks.iter_mut().all(Conversation::goes_on)
        });
        assert_eq!(lab.live_mappings(ADDRESS, 7), public, "under the mappings that they had");
        lab.restart_the_dead();
        lab.wait_until_whole(Duration::from_secs(60));
    }
}

#[test]
fn a_member_that_loses_one_network_gives_its_shards_away_and_where_all_lose_it_the_other_goes_on() {
    let lab = lab();
    let mut talks = TWINS.map(|host| Conversation::begin(&lab, host));
    assert!(talks.iter_mut().all(Conversation::goes_on));
    let owner = lab.owner_of("b5");
    set_link(&lab, owner, "down");
    lab.wait_for_successor("b5", owner);
    wait_until("both connections to go on", Duration::from_secs(20), || talks.iter_mut().all(Conversation::goes_on));
    wait_until("the concern", Duration::from_secs(10), || {
        let status = lab.status();
        let is =
            |row: &Value| row["what"] == "link_down" && row["why"].as_str().is_some_and(|why| why.contains("inside2"));
        rows(&status["concerns"]).any(is)
    });
    // Nobody has the second network any more: the first one goes on, with old connections and new ones.
    for node in (1..=3).filter(|node| *node != owner) {
        set_link(&lab, node, "down");
    }
    wait_until("the second network to be cut off", Duration::from_secs(10), || !talks[1].goes_on());
    wait_until("the first network to go on", Duration::from_secs(10), || talks[0].goes_on());
    for _ in 0..5 {
        assert!(talks[0].goes_on());
        let _public = seen(&lab, "b1");
    }
    for node in 1..=3 {
        set_link(&lab, node, "up");
    }
    wait_until("both connections to go on", Duration::from_secs(20), || talks.iter_mut().all(Conversation::goes_on));
    assert_ne!(seen(&lab, "b1"), seen(&lab, "b5"));
}

#[test]
fn a_network_without_an_interface_and_an_interface_without_a_network_are_in_the_status() {
    let lab = Lab::up();
    let nodes = json(&["get", "nodes", "-o", "json"]);
    let inside: Vec<&Value> = rows(&nodes).map(|row| &row["inside"][0]).collect();
    assert!(inside.iter().all(|of| of["virtual_network"] == "vnet1" && of["declared"] == true), "{inside:?}");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("two.toml");
    let two = "[outside]\nnetwork = \"203.0.113.0/24\"\n[[virtual_network]]\nname = \"red\"\n\
               [[virtual_network]]\nname = \"blue\"\n[[public_ip]]\nname = \"pip1\"\naddress = \"203.0.113.1\"\n";
    std::fs::write(&file, two).expect("written");
    ok(&["apply", "--yes", "-f", file.to_str().expect("a plain path")]);
    wait_until("the concerns", Duration::from_secs(10), || {
        let status = lab.status();
        let said = |what: &str| rows(&status["concerns"]).filter(|row| row["what"] == what).count();
        said("no_interface") == 3 && said("no_network") == 3
    });
}
