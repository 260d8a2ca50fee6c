//! GRE, ESP and SCTP at addresses that are instances' own, over real packets: begun by either side, turned back, in fragments, kept
//! when the owner dies, refused behind a shared address and below their level. Needs root.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use qnat_ends::IpSocket;
use qnat_lab::{DEFAULT_DIR, Host};
use qnat_tests::lab::{INET, Lab, json, ok, rows, run, try_json, wait_until};
use qnat_tests::resources::{Changes, file_of};

const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Of b1, into which nobody is let, and of b2, which has no group.
const OWN: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 50), Ipv4Addr::new(203, 0, 113, 51)];
const SHARED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Longer than a takeover.
const PATIENCE: Duration = Duration::from_secs(5);
/// What does not pass is not waited for any longer.
const SILENCE: Duration = Duration::from_millis(500);
/// More than a link takes at once.
const LONG: usize = 3000;

/// Name and number.
const PROTOCOLS: [(&str, u8); 3] = [("gre", 47), ("esp", 50), ("sctp", 132)];

/// The lab's resources; b1 and b2 in no pool, each with an address of its own.
fn resources() -> String {
    let mut more = String::from(
        "[[nic]]\nname = \"nic1\"\nsubnet = \"vnet1/default\"\nsecurity_group = \"card\"\n\
         [[security_group]]\nname = \"card\"\n",
    );
    for (n, own) in OWN.iter().enumerate() {
        more += &format!("[[public_ip]]\nname = \"own{}\"\naddress = \"{own}\"\n", n + 1);
    }
    let text = Changes { more: &more, ..Changes::default() }.text();
    [(1, "nic = \"nic1\"\n"), (2, "")].into_iter().fold(text, |text, (n, nic)| {
        let head = format!("private_ip = \"10.0.1.{n}\"\n");
        let before = format!("{head}subnet = \"vnet1/default\"\npool = \"lb1/pool1\"\n");
        assert!(text.contains(&before), "{text}");
        let subnet = if nic.is_empty() { "subnet = \"vnet1/default\"\n" } else { "" };
        text.replace(&before, &format!("{head}{subnet}{nic}public_ip = \"own{n}\"\n"))
    })
}

fn up(options: &[&str]) -> Lab {
    let file = file_of(&resources());
    let lab = Lab::up_as(3, &[&["--file", file.path().to_str().expect("a plain path")], options].concat());
    wait_until("addresses of their own", Duration::from_secs(30), || {
        let all = json(&["get", "backends", "-o", "json"]);
        let has = |n: usize| {
            rows(&all)
                .any(|row| row["name"] == format!("b{}/ipconfig1", n + 1) && row["public_ip"] == OWN[n].to_string())
        };
        has(0) && has(1)
    });
    lab
}

fn told(source: &str, destination: Ipv4Addr, (name, number): (&str, u8)) -> String {
    let port = if number == 132 { ":2905" } else { "" };
    let output = run(&["explain", source, &format!("{destination}{port}"), name]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A socket of each protocol on a host.
fn sockets(host: Host) -> [IpSocket; 3] {
    let open = || PROTOCOLS.map(|(_, number)| IpSocket::open(number).expect("a raw socket"));
    qnat_lab::in_host(Path::new(DEFAULT_DIR), host, open).expect("a host of the lab")
}

/// What stands behind the IP header: a header, the same for both ways, and `len` octets that say `what`.
fn payload((_, number): (&str, u8), what: u8, len: usize) -> Vec<u8> {
    let mut all = match number {
        47 => vec![0x20, 0, 8, 0, 0, 0, 0, 7],
        50 => vec![0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 1],
        // From and to one port, and a checksum that only receivers judge.
        _ => vec![0x0b, 0x59, 0x0b, 0x59, 1, 2, 3, 4, 5, 6, 7, 8],
    };
    all.resize(all.len() + len, what);
    all
}

/// What `from` sends to `to` arrives at `at`, unchanged, from `seen`.
fn passes((from, to): (&IpSocket, Ipv4Addr), (at, seen): (&IpSocket, Ipv4Addr), what: &[u8], within: Duration) -> bool {
    from.send(to, what).expect("sent");
    at.hears(seen, what, within).expect("a socket")
}

fn wait_until_served(protocol: (&str, u8)) {
    wait_until("its owner to know what it would do", Duration::from_secs(30), || {
        told(INET, OWN[1], protocol).contains("10.0.1.2")
    });
}

/// Live mappings of a protocol, by right and inside address.
fn mappings(name: &str) -> Vec<(String, String)> {
    let flows = json(&["flows", "--limit", "10000", "-o", "json"]);
    let of = rows(&flows["flows"]).filter(|row| row["proto"] == name && row["state"] == "live");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let mut all: Vec<_> = of.map(|row| (text(&row["scenario"]), text(&row["inside"]))).collect();
    all.sort();
    all
}

fn dropped(reason: &str) -> u64 {
    (1..=3).map(|node| dropped_by(node, reason)).sum()
}

fn dropped_by(node: u32, reason: &str) -> u64 {
    let counters = try_json(&["counters", "-o", "json", "--node", &format!("n{node}")]);
    let drops = counters.map(|counters| counters["drops"].clone()).unwrap_or_default();
    drops[reason].as_u64().unwrap_or(0)
}

#[test]
fn protocols_without_ports_pass_at_own_addresses_and_outlive_the_owner() {
    let lab = up(&[]);
    let [inet, b1, b2, b3] = [Host::Inet, Host::Backend(1), Host::Backend(2), Host::Backend(3)].map(sockets);
    for (n, protocol) in PROTOCOLS.into_iter().enumerate() {
        wait_until_served(protocol);
        let (inet, b1, b2, b3) = (&inet[n], &b1[n], &b2[n], &b3[n]);
        let say = |what: u8| payload(protocol, what, 40);
        let name = protocol.0;
        assert!(!passes((inet, OWN[0]), (b1, REMOTE), &say(0), SILENCE), "{name}: its group lets nobody in");
        assert!(passes((b1, REMOTE), (inet, OWN[0]), &say(1), PATIENCE), "{name}: S2");
        assert!(passes((inet, OWN[0]), (b1, REMOTE), &say(2), PATIENCE), "{name}: an answer needs no rule");
        assert!(passes((inet, OWN[1]), (b2, REMOTE), &say(3), PATIENCE), "{name}: S23, and nobody is hidden");
        assert!(passes((b2, REMOTE), (inet, OWN[1]), &say(4), PATIENCE), "{name}");
        assert!(passes((b1, OWN[1]), (b2, OWN[0]), &say(5), PATIENCE), "{name}: R7");
        assert!(passes((b2, OWN[0]), (b1, OWN[1]), &say(6), PATIENCE), "{name}: and back");
        let long = payload(protocol, 7, LONG);
        assert!(passes((b1, REMOTE), (inet, OWN[0]), &long, PATIENCE), "{name}: R10");
        assert!(passes((inet, OWN[0]), (b1, REMOTE), &long, PATIENCE), "{name}: R10");
        refused_behind_a_shared_address(protocol, inet, b3);
    }
    let before = PROTOCOLS.map(|(name, _)| mappings(name));
    for (all, (name, _)) in before.iter().zip(PROTOCOLS) {
        let rights: Vec<&str> = all.iter().map(|(right, _)| right.as_str()).collect();
        // To the remote and to b2; from the remote and from b1.
        let wanted = ["own address", "own address", "own address, inbound", "own address, inbound"];
        assert_eq!(rights, wanted, "{name}: one for each remote, {all:?}");
    }

    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    for (n, protocol) in PROTOCOLS.into_iter().enumerate() {
        let (inet, b1, b2) = (&inet[n], &b1[n], &b2[n]);
        let say = |what: u8| payload(protocol, what, 50);
        // No rule lets these in: only mappings do.
        assert!(passes((inet, OWN[0]), (b1, REMOTE), &say(8), PATIENCE), "{}: I6", protocol.0);
        assert!(passes((b2, OWN[0]), (b1, OWN[1]), &say(9), PATIENCE), "{}", protocol.0);
        assert!(passes((b2, REMOTE), (inet, OWN[1]), &say(10), PATIENCE), "{}", protocol.0);
    }
    assert_eq!(PROTOCOLS.map(|(name, _)| mappings(name)), before, "the same, and no other");
    lab.restart_the_dead();
}

fn refused_behind_a_shared_address(protocol: (&str, u8), inet: &IpSocket, b3: &IpSocket) {
    let name = protocol.0;
    let before = dropped("no_own_address");
    assert!(!passes((b3, REMOTE), (inet, SHARED), &payload(protocol, 11, 40), SILENCE), "{name}");
    assert!(!passes((inet, SHARED), (b3, REMOTE), &payload(protocol, 12, 40), SILENCE), "{name}");
    assert_eq!(dropped("no_own_address"), before + 2, "{name}: counted");
    for said in [told("10.0.1.3", REMOTE, protocol), told(INET, SHARED, protocol)] {
        assert!(said.contains("no_own_address"), "{name}: {said}");
    }
    let said = told("10.0.1.1", REMOTE, protocol);
    assert!(said.contains(&OWN[0].to_string()), "{name}: {said}");
}

/// C2: a member of an older build could not read their mappings.
#[test]
fn below_its_level_a_cluster_drops_them_and_with_the_raise_they_pass() {
    let lab = up(&["--level", "2"]);
    let [inet, b1] = [Host::Inet, Host::Backend(1)].map(sockets);
    for (n, protocol) in PROTOCOLS.into_iter().enumerate() {
        let before = dropped("cluster_level");
        let what = payload(protocol, 1, 40);
        assert!(!passes((&b1[n], REMOTE), (&inet[n], OWN[0]), &what, SILENCE), "{}", protocol.0);
        assert!(dropped("cluster_level") > before, "{}: counted", protocol.0);
        let said = told("10.0.1.1", REMOTE, protocol);
        assert!(said.contains("cluster_level"), "{said}");
    }
    for node in 1..=3 {
        lab.start_as(node, None);
        lab.wait_until_whole(Duration::from_secs(60));
    }
    ok(&["cluster", "level", "3"]);
    for (n, protocol) in PROTOCOLS.into_iter().enumerate() {
        wait_until("the raise to be loaded", Duration::from_secs(10), || {
            told("10.0.1.1", REMOTE, protocol).contains(&OWN[0].to_string())
        });
        let (what, back) = (payload(protocol, 2, 40), payload(protocol, 3, 40));
        assert!(passes((&b1[n], REMOTE), (&inet[n], OWN[0]), &what, PATIENCE), "{}", protocol.0);
        assert!(passes((&inet[n], OWN[0]), (&b1[n], REMOTE), &back, PATIENCE), "{}", protocol.0);
    }
}
