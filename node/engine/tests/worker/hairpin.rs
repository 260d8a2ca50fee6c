//! From one backend to another by public addresses: through both translations, and through both filters.

use std::net::Ipv4Addr;

use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::*;
use qnat_engine::snapshot::{Filtering, Sharing};

/// A packet between two ends.
fn packet(proto: u8, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Raw {
    if proto == TCP { tcp_raw(src, dst, SYN, b"") } else { udp_raw(src, dst, b"hello") }
}

/// Sends it, and returns all that left.
fn send(lab: &mut Lab, packet: &Raw) -> Vec<(Link, Vec<u8>)> {
    lab.sent.clear();
    lab.out(0, packet.frame(packet.src, SHARD));
    lab.sent.retain(|s| !s.is_arp());
    lab.sent.iter().map(|s| (s.link, s.frame.clone())).collect()
}

fn public_port(lab: &Lab, ip: Ipv4Addr, remote: Ipv4Addr) -> u16 {
    let flows = lab.nodes[0].worker.view().dump_flows(lab.now, Some(SHARD), 100);
    let of = |a: Ipv4Addr, b: Ipv4Addr| qnat_engine::record::Addr::from(a) == qnat_engine::record::Addr::from(b);
    let flow = flows.iter().find(|f| {
        f.inside.endpoint.addr.ipv4().is_some_and(|i| of(i, ip)) && f.remote.addr.ipv4().is_some_and(|r| of(r, remote))
    });
    flow.expect("a mapping").public.2
}

/// A and B talk by the public address. Returns their public ports.
fn talk(lab: &mut Lab, proto: u8) -> (u16, u16) {
    // Flows to distinct remotes share a port, so B will be seen under the same one.
    let b = lab.pass(0, INSIDE, packet(proto, (B, 6000), (REMOTE, 80)).frame(B, SHARD)).src_port;
    let before = lab.dropped(0, DropReason::NoMapping);
    assert!(send(lab, &packet(proto, (A, 5000), (PUBLIC, b))).is_empty(), "R6: B has not begun");
    assert_eq!(lab.dropped(0, DropReason::NoMapping) - before, 1);
    let a = public_port(lab, A, PUBLIC);
    let wanted = |src, dst| Raw { ttl: 63, ..packet(proto, (PUBLIC, src), dst) };
    for (from, to, seen, receiver) in [((B, 6000), a, b, (A, 5000)), ((A, 5000), b, a, (B, 6000))] {
        let left = send(lab, &packet(proto, from, (PUBLIC, to)));
        assert_eq!(left.len(), 1);
        let (link, frame) = &left[0];
        let wanted = Raw { id: word(frame, L3 + 4), ..wanted(seen, receiver) };
        assert_eq!((*link, &frame[L3..]), (INSIDE, &wanted.bytes()[..]), "R7");
        assert_eq!((&frame[..6], &frame[6..12]), (&mac_of(receiver.0).0[..], &Mac::of_shard(SHARD).0[..]));
    }
    (a, b)
}

#[test]
fn backends_that_both_began_reach_each_other_by_their_public_ends() {
    for proto in [UDP, TCP] {
        let mut lab = Lab::new(1);
        let (_, b) = talk(&mut lab, proto);
        // Another end of A is another public end: B's mapping is not towards that.
        assert!(send(&mut lab, &packet(proto, (A, 5001), (PUBLIC, b))).is_empty(), "R6");
    }
}

#[test]
fn a_receiver_that_filters_nobody_is_reached_at_once() {
    let mut lab = Lab::new(1);
    lab.load(11, |s| {
        for backend in s.backends.values_mut() {
            (backend.sharing, backend.filtering) = (Sharing::Endpoint, Filtering::Open);
        }
    });
    let b = lab.pass(0, INSIDE, packet(UDP, (B, 6000), (REMOTE, 80)).frame(B, SHARD)).src_port;
    let left = send(&mut lab, &packet(UDP, (A, 5000), (PUBLIC, b)));
    assert_eq!((left[0].0, &left[0].1[30..34]), (INSIDE, &B.octets()[..]));
}

#[test]
fn an_error_about_a_hairpinned_packet_finds_its_sender() {
    let mut lab = Lab::new(1);
    let (a, b) = talk(&mut lab, UDP);
    let seen = udp_raw((PUBLIC, b), (A, 5000), b"hello");
    let left = send(&mut lab, &icmp_raw(A, PUBLIC, [3, 3], [0; 4], &seen.bytes()));
    let was = udp_raw((B, 6000), (PUBLIC, a), b"hello");
    let wanted = Raw { ttl: 63, ..icmp_raw(PUBLIC, B, [3, 3], [0; 4], &was.bytes()) };
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].0, &left[0].1[L3..]), (INSIDE, &wanted.bytes()[..]), "R17");
    assert!(
        send(&mut lab, &icmp_raw(A, PUBLIC, [3, 3], [0; 4], &udp_raw((PUBLIC, b ^ 1), (A, 5000), b"").bytes()))
            .is_empty()
    );
}

#[test]
fn fragments_are_turned_back_too() {
    let mut lab = Lab::new(1);
    let (_, b) = talk(&mut lab, UDP);
    let whole = udp_raw((A, 5000), (PUBLIC, b), &[8; 1000]);
    for (fragment, part) in [(MORE_FRAGMENTS, &whole.payload[..504]), (63, &whole.payload[504..])] {
        let left = send(&mut lab, &Raw { fragment, payload: part.to_vec(), ..whole.clone() });
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].0, &left[0].1[26..34]), (INSIDE, &[PUBLIC.octets(), B.octets()].concat()[..]));
        assert_eq!(checksum(&left[0].1[L3..L3 + 20]), 0);
    }
}

#[test]
fn nobody_reaches_himself_and_public_addresses_answer_no_ping() {
    let mut lab = Lab::new(1);
    let own = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    assert!(send(&mut lab, &packet(UDP, (A, 5000), (PUBLIC, own))).is_empty());
    assert_eq!(public_port(&lab, A, PUBLIC), own, "its own mapping would have let it in");
    let ping = echo(A, PUBLIC, 8, 5, b"ping").frame(A, SHARD);
    assert_eq!(lab.out(0, ping), Verdict::Drop(DropReason::NoMapping));
    assert_eq!(lab.status(0).live, 2);
}

#[test]
fn a_public_address_of_another_owner_is_reached_by_its_virtual_mac() {
    let mut lab = Lab::new(1);
    let left = send(&mut lab, &packet(UDP, (A, 5000), (PUBLIC_2, 2050)));
    assert_eq!((left.len(), left[0].0), (1, OUTSIDE));
    assert_eq!((&left[0].1[..6], &left[0].1[6..12]), (&Mac::of_shard(OTHER).0[..], &Mac::of_shard(SHARD).0[..]));
    let port = word(&left[0].1, L3 + 20);
    let back = udp_raw((PUBLIC_2, 2050), (PUBLIC, port), b"back").bytes();
    let from = |mac: Mac| ethernet(mac, Mac::of_shard(SHARD), &back);
    assert_eq!(lab.pass(0, OUTSIDE, from(Mac::of_shard(OTHER))).dst, A);
    for stranger in [mac_of(UPSTREAM), Mac::of_shard(SHARD)] {
        let verdict = lab.frame(0, OUTSIDE, from(stranger));
        assert_eq!(verdict, Verdict::Drop(DropReason::SpoofedSource));
    }
}

#[test]
fn an_error_about_a_packet_between_two_owners_is_passed_on_by_each_of_them() {
    let mut lab = Lab::new(1);
    let there = (PUBLIC_2, 2050);
    let port = lab.pass(0, INSIDE, udp_raw((A, 5000), there, b"hello").frame(A, SHARD)).src_port;
    let from_other = |packet: &Raw| ethernet(Mac::of_shard(OTHER), Mac::of_shard(SHARD), &packet.bytes());
    let out = udp_raw((PUBLIC, port), there, b"hello");
    let back = udp_raw(there, (PUBLIC, port), b"back");
    lab.pass(0, OUTSIDE, from_other(&back));
    // The receiver's half: A complains, and the sender's owner gets it as the sender's public end knows it.
    let heard = udp_raw(there, (A, 5000), b"back");
    let left = send(&mut lab, &icmp_raw(A, PUBLIC_2, [3, 3], [0; 4], &heard.bytes()));
    let wanted = Raw { ttl: 63, ..icmp_raw(PUBLIC, PUBLIC_2, [3, 3], [0; 4], &back.bytes()) };
    assert_eq!((left.len(), left[0].0), (1, OUTSIDE));
    assert_eq!(left[0].1, ethernet(Mac::of_shard(SHARD), Mac::of_shard(OTHER), &wanted.bytes()), "R17");
    // The sender's half: the mirror image of that comes in, and A hears of its own packet.
    for head in [[3, 3], [3, 4], [11, 0]] {
        let error = icmp_raw(PUBLIC_2, PUBLIC, head, [0, 0, 5, 0], &out.bytes());
        lab.sent.clear();
        lab.frame(0, OUTSIDE, from_other(&error));
        let was = udp_raw((A, 5000), there, b"hello");
        let wanted = Raw { ttl: 63, ..icmp_raw(PUBLIC_2, A, head, [0, 0, 5, 0], &was.bytes()) };
        assert_eq!((lab.sent.len(), lab.sent[0].link), (1, INSIDE));
        assert_eq!(lab.sent[0].frame[L3..], wanted.bytes(), "R17");
        // In nobody else's name.
        let stranger = ethernet(mac_of(UPSTREAM), Mac::of_shard(SHARD), &error.bytes());
        assert_eq!(lab.frame(0, OUTSIDE, stranger), Verdict::Drop(DropReason::SpoofedSource));
    }
}

#[test]
fn what_dies_at_the_second_owner_is_told_to_the_first() {
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, udp_raw((A, 5000), (PUBLIC_2, 2050), b"hello").frame(A, SHARD)).src_port;
    let last_hop = Raw { ttl: 1, ..udp_raw((PUBLIC_2, 2050), (PUBLIC, port), b"back") };
    lab.sent.clear();
    lab.frame(0, OUTSIDE, ethernet(Mac::of_shard(OTHER), Mac::of_shard(SHARD), &last_hop.bytes()));
    assert_eq!((lab.sent.len(), lab.sent[0].link), (1, OUTSIDE));
    let frame = &lab.sent[0].frame;
    assert_eq!((&frame[..6], &frame[6..12]), (&Mac::of_shard(OTHER).0[..], &Mac::of_shard(SHARD).0[..]));
    assert_eq!(frame[L3 + 12..L3 + 22], [&PUBLIC.octets()[..], &PUBLIC_2.octets()[..], &[11, 0]].concat());
    assert_eq!(frame[L3 + 28..], last_hop.bytes());
}
