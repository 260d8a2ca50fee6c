//! By which way an instance's flows leave, over real packets: an address of its own, its pool. Needs root.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use qnat_ends::{End, across};
use qnat_reference::packet::{ETH, TCP, UDP, addresses, be16, examine, ipv4, tcp, udp};
use qnat_tests::conversation::Conversation;
use qnat_tests::lab::{Lab, json, rows, try_json, wait_until};
use qnat_tests::resources::{self, Changes};
use qnat_tests::{checks, shared};

const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PATIENCE: Duration = Duration::from_secs(30);
const SYN: u8 = 2;

fn main() -> ExitCode {
    // Of another member than the asked one no more than 2,000 flows are listed: those that have more come last.
    shared::run(checks![
        an_instance_in_no_pool_goes_out_by_its_own_address,
        an_own_address_that_the_upstream_routes_to_another_one_works_both_ways_and_outlives_the_owner,
        connections_keep_their_address_when_an_own_one_is_given_and_taken_with_the_owner_killed_between,
        two_thousand_flows_leave_by_the_own_address_with_the_ports_they_chose_and_a_killed_owner_loses_none,
        two_thousand_flows_each_to_another_remote_share_one_port,
    ])
}

/// The lab's resources with an address of its own for an instance.
fn with_own(backend: &str, address: Ipv4Addr) -> String {
    let more = format!("[[public_ip]]\nname = \"own\"\naddress = \"{address}\"\n");
    let text = Changes { more: &more, ..Changes::default() }.text();
    let of = format!("private_ip = \"10.0.1.{}\"\n", &backend[1..]);
    assert!(text.contains(&of), "{text}");
    text.replace(&of, &format!("{of}public_ip = \"own\"\n"))
}

fn out_of_the_pool(text: &str, backend: &str) -> String {
    let at = text.find(&format!("name = \"{backend}\"")).expect("the instance");
    let (before, after) = text.split_at(at);
    format!("{before}{}", after.replacen("pool = \"lb1/pool1\"\n", "", 1))
}

/// Waits until a backend has an address of its own.
fn wait_for_own(backend: &str, address: Ipv4Addr) {
    let name = format!("{backend}/ipconfig1");
    wait_until("its own address", PATIENCE, || {
        let all = json(&["get", "backends", "-o", "json"]);
        rows(&all).any(|row| row["name"] == name.as_str() && row["public_ip"] == address.to_string().as_str())
    });
    // The control log gives it; a moment later the owner of its shard judges packets by that.
    let inside = backend.replace('b', "10.0.1.");
    wait_until("its owner to know", PATIENCE, || {
        let told = try_json(&["explain", &inside, "203.0.113.10:9", "-o", "json"]);
        told.is_some_and(|told| told.to_string().contains(&address.to_string()))
    });
}

/// An end of a backend's, and its gateway's Ethernet address.
fn end_of(backend: &str) -> (End, [u8; 6]) {
    let end = End::open(&format!("qnat-{backend}"), "eth0").expect("a raw socket inside");
    end.hello(REMOTE).expect("a way out");
    let gateway = end.neighbour(GATEWAY).expect("the gateway answers");
    (end, gateway)
}

/// A frame's ports, source first.
fn ports(frame: &[u8]) -> (u16, u16) {
    (be16(frame, ETH + 20), be16(frame, ETH + 22))
}

fn two_thousand_flows_leave_by_the_own_address_with_the_ports_they_chose_and_a_killed_owner_loses_none(lab: &Lab) {
    const FIRST: u16 = 20_000;
    let flows: u16 = if std::env::var_os("QNAT_LONG").is_some() { 20_000 } else { 2_000 };
    let inside = Ipv4Addr::new(10, 0, 1, 1);
    resources::apply(&with_own("b1", OWN));
    wait_for_own("b1", OWN);
    let (b1, gateway) = end_of("b1");
    let inet = End::open("qnat-inet", "eth0").expect("a raw socket outside");
    let _silent = (b1.silence().expect("nft"), inet.silence().expect("nft"));
    let port_of = |frame: &[u8]| ports(frame).0;
    let is = |proto: u8, frame: &[u8]| frame.len() > ETH + 24 && frame[ETH + 9] == proto;
    for (proto, remote_port) in [(UDP, 4500), (TCP, 443)] {
        let frames: Vec<Vec<u8>> = (FIRST..FIRST + flows)
            .map(|port| {
                let payload = match proto {
                    UDP => udp(port, remote_port, b"out"),
                    _ => tcp((port, remote_port), (1, 0), SYN, &[], &[]),
                };
                ipv4((b1.mac, gateway), inside, REMOTE, proto, &payload)
            })
            .collect();
        let out = |frame: &[u8]| {
            let ours = is(proto, frame) && addresses(frame).1 == REMOTE && ports(frame).1 == remote_port;
            ours.then(|| examine(frame).expect("checksums"));
            ours.then(|| (addresses(frame).0, port_of(frame)))
        };
        let seen = across((&b1, &inet), &frames, out, |frame| (OWN, port_of(frame))).expect("sockets");
        let all: Vec<(Ipv4Addr, u16)> = (FIRST..FIRST + flows).map(|port| (OWN, port)).collect();
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), all, "S2: exactly those, none under a frontend");
        if proto == TCP {
            continue;
        }
        // Answers reach it, before and after a takeover.
        let shard: [u8; 6] = seen.values().next().expect("some")[6..12].try_into().expect("six octets");
        let answers: Vec<Vec<u8>> = (FIRST..FIRST + flows)
            .map(|port| ipv4((inet.mac, shard), REMOTE, OWN, UDP, &udp(remote_port, port, b"back")))
            .collect();
        let back = |frame: &[u8]| (is(UDP, frame) && addresses(frame) == (REMOTE, inside)).then(|| ports(frame).1);
        let answered = |frame: &[u8]| ports(frame).1;
        let came = || across((&inet, &b1), &answers, back, answered).expect("sockets").len();
        assert_eq!(came(), usize::from(flows));
        let killed = lab.kill_owner_of("b1");
        lab.wait_for_successor("b1", killed);
        assert_eq!(came(), usize::from(flows), "I25: none is lost");
        let seen = across((&b1, &inet), &frames, out, |frame| (OWN, port_of(frame))).expect("sockets");
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), all, "S2: also by a successor");
        lab.restart_the_dead();
    }
}

fn two_thousand_flows_each_to_another_remote_share_one_port(lab: &Lab) {
    const PORTS: std::ops::Range<u16> = 6_000..6_500;
    let inside = Ipv4Addr::new(10, 0, 1, 4);
    let (b4, gateway) = end_of("b4");
    let inet = End::open("qnat-inet", "eth0").expect("a raw socket outside");
    let _silent = (b4.silence().expect("nft"), inet.silence().expect("nft"));
    // UDP and TCP to the same addresses and ports.
    let remotes = [Ipv4Addr::new(203, 0, 113, 10), REMOTE].into_iter().flat_map(|ip| PORTS.map(move |port| (ip, port)));
    let both = remotes.flat_map(|remote| [(UDP, remote), (TCP, remote)]);
    let frames: Vec<Vec<u8>> = (10_000..)
        .zip(both)
        .map(|(from, (proto, (ip, port)))| {
            let payload = match proto {
                UDP => udp(from, port, b"out"),
                _ => tcp((from, port), (1, 0), SYN, &[], &[]),
            };
            ipv4((b4.mac, gateway), inside, ip, proto, &payload)
        })
        .collect();
    assert_eq!(frames.len(), 2_000);
    let remote_of = |frame: &[u8]| (frame[ETH + 9], addresses(frame).1, ports(frame).1);
    let ours = |frame: &[u8]| {
        let is = frame.len() > ETH + 24 && [UDP, TCP].contains(&frame[ETH + 9]) && PORTS.contains(&ports(frame).1);
        is.then(|| examine(frame).expect("checksums"));
        is.then(|| remote_of(frame))
    };
    let seen = across((&b4, &inet), &frames, ours, remote_of).expect("sockets");
    assert_eq!(seen.len(), 2_000, "all pass");
    let publics: BTreeSet<(Ipv4Addr, u16)> = seen.values().map(|frame| (addresses(frame).0, ports(frame).0)).collect();
    assert_eq!(publics.len(), 1, "S8: {publics:?}");
    wait_until("one port to be used", PATIENCE, || lab.ports_of("b4")["used"] == 1);
}

/// Public ends of a backend's connections to the echo server.
fn ends(lab: &Lab, backend: &str) -> Vec<String> {
    lab.live_mappings(&backend.replace('b', "10.0.1."), 7)
}

fn is_under(ends: &[String], address: Ipv4Addr) -> usize {
    ends.iter().filter(|end| end.starts_with(&format!("{address}:"))).count()
}

fn connections_keep_their_address_when_an_own_one_is_given_and_taken_with_the_owner_killed_between(lab: &Lab) {
    let own = Ipv4Addr::new(203, 0, 113, 51);
    let mut pooled = Conversation::begin(lab, "b2");
    assert!(pooled.goes_on());
    let before = ends(lab, "b2");
    assert_eq!(before.len(), 1);
    resources::apply(&with_own("b2", own));
    wait_for_own("b2", own);
    assert!(pooled.goes_on());
    assert_eq!(ends(lab, "b2"), before, "D12");
    let mut by_own = Conversation::begin(lab, "b2");
    assert!(by_own.goes_on());
    assert_eq!(is_under(&ends(lab, "b2"), own), 1, "S5: a new one leaves by its own address, at once");
    let killed = lab.kill_owner_of("b2");
    for talk in [&mut pooled, &mut by_own] {
        wait_until(&format!("both to go on without n{killed}"), PATIENCE, || talk.goes_on());
    }
    lab.restart_the_dead();
    resources::apply(&Changes::default().text());
    assert!(by_own.goes_on() && pooled.goes_on(), "D12");
    let mut again = Conversation::begin(lab, "b2");
    assert!(again.goes_on());
    let now = ends(lab, "b2");
    assert_eq!((now.len(), is_under(&now, own)), (3, 1), "new ones leave by the pool again: {now:?}");
    let frontends = json(&["get", "frontends", "-o", "json"]);
    let row = rows(&frontends).find(|row| row["address"] == own.to_string().as_str()).expect("it retires");
    assert_eq!((row["retiring"].as_bool(), row["ports_draining"].as_u64()), (Some(true), Some(1 << 16)), "{row}");
}

fn an_instance_in_no_pool_goes_out_by_its_own_address(lab: &Lab) {
    let own = Ipv4Addr::new(203, 0, 113, 52);
    resources::apply(&out_of_the_pool(&with_own("b4", own), "b4"));
    wait_for_own("b4", own);
    let mut talk = Conversation::begin(lab, "b4");
    assert!(talk.goes_on());
    // A shard that goes home to its preferred owner is nobody's to list for a moment.
    wait_until("its mapping to be listed", PATIENCE, || {
        let public = ends(lab, "b4");
        (public.len(), is_under(&public, own)) == (1, 1)
    });
    let told = json(&["explain", "10.0.1.4", "203.0.113.10:7", "-o", "json"]);
    assert!(told.to_string().contains(&own.to_string()), "{told}");
    let pings = lab.exec("b4", &["ping", "-c", "3", "-i", "0.2", "-W", "2", "203.0.113.10"]);
    assert!(pings.contains(" 0% packet loss"), "{pings}");
}

fn an_own_address_that_the_upstream_routes_to_another_one_works_both_ways_and_outlives_the_owner(lab: &Lab) {
    let own = Ipv4Addr::new(192, 0, 2, 50);
    resources::apply(&with_own("b3", own));
    wait_for_own("b3", own);
    // To an address of whichever shard: whose own this one is, finds out who gets the packet.
    for via in 1..=3 {
        let route = format!("ip route replace {own}/32 via 203.0.113.{via}");
        let _set = lab.exec("inet", &["sh", "-c", &route]);
        let pings = |host: &str, to: &str| {
            let said = lab.exec(host, &["sh", "-c", &format!("ping -c 2 -i 0.2 -W 2 {to} || true")]);
            said.contains(" 0% packet loss")
        };
        wait_until(&format!("both ways by pip{via}"), PATIENCE, || {
            pings("inet", &own.to_string()) && pings("b3", "203.0.113.10")
        });
    }
    let mut talk = Conversation::begin(lab, "b3");
    assert!(talk.goes_on());
    assert_eq!(is_under(&ends(lab, "b3"), own), 1);
    let killed = lab.kill_owner_of("b3");
    lab.wait_for_successor("b3", killed);
    wait_until(&format!("it to go on without n{killed}"), PATIENCE, || talk.goes_on());
    let _unset = lab.exec("inet", &["ip", "route", "del", &format!("{own}/32")]);
    lab.restart_the_dead();
}
