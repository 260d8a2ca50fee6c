//! One shard of several public addresses: who owns it owns all of them, through takeovers, and one may go while the others stay.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::*;
use qnat_engine::snapshot::{Draining, Frontend, OnReclaim, Snapshot};
use qnat_engine::wire::ArpOp;

/// Addresses of `SHARD` beside `PUBLIC`.
const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
const THIRD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const SECOND_ID: FrontendId = FrontendId(7);
const THIRD_ID: FrontendId = FrontendId(8);

/// A is behind `PUBLIC`, B behind `SECOND`; nobody is behind `THIRD` yet.
fn three(s: &mut Snapshot) {
    s.put_frontends([
        (SECOND_ID, Frontend { ip: SECOND, shard: SHARD }),
        (THIRD_ID, Frontend { ip: THIRD, shard: SHARD }),
    ]);
    s.backends.get_mut(&BackendId(2)).expect("B").lease = vec![PortBlock { frontend: SECOND_ID, start: 2048, len: 32 }];
}

/// `SECOND` is no longer declared: its only block drains.
fn second_drains(s: &mut Snapshot) {
    three(s);
    s.backends.get_mut(&BackendId(2)).expect("B").lease = Vec::new();
    let block = PortBlock { frontend: SECOND_ID, start: 2048, len: 32 };
    drains(s, Draining { block, reclaim_index: ControlIndex(12), on_reclaim: OnReclaim::Expire });
}

/// It is gone; B is behind `THIRD`.
fn second_gone(s: &mut Snapshot) {
    three(s);
    s.take_frontend(SECOND_ID);
    s.backends.get_mut(&BackendId(2)).expect("B").lease = vec![PortBlock { frontend: THIRD_ID, start: 2048, len: 32 }];
}

/// Nodes, with `three` loaded on all of them.
fn lab(nodes: u32) -> Lab {
    let mut lab = Lab::new(nodes);
    lab.load(11, three);
    lab.run(20);
    lab.sent.clear();
    lab
}

/// Outside announcements that a node has sent, by address.
fn announced(lab: &Lab, node: usize) -> BTreeMap<Ipv4Addr, usize> {
    let mut all = BTreeMap::new();
    for sent in lab.sent.iter().filter(|s| s.node == node && s.link == OUTSIDE && s.is_arp()) {
        if sent.frame[28..32] == sent.frame[38..42] {
            let octets: [u8; 4] = sent.frame[28..32].try_into().expect("four");
            *all.entry(Ipv4Addr::from(octets)).or_default() += 1;
        }
    }
    all
}

#[test]
fn flows_under_every_address_of_a_shard_go_on_through_a_takeover() {
    let mut lab = lab(3);
    let a = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    let b = lab.pass(0, INSIDE, udp(B, 5000, REMOTE, 53));
    assert_eq!((a.src, b.src), (PUBLIC, SECOND));
    assert_eq!(a.eth_src, b.eth_src, "one shard, one virtual MAC");
    lab.run(50);
    lab.assert_in_step();
    lab.sent.clear();
    lab.elect(1);
    lab.run(10);
    assert_eq!(announced(&lab, 1), [(PUBLIC, 1), (SECOND, 1), (THIRD, 1)].into(), "M2: all of them, at once");
    for (public, port, inside) in [(PUBLIC, a.src_port, A), (SECOND, b.src_port, B)] {
        let back = lab.pass(1, OUTSIDE, udp_in(REMOTE, 53, public, port));
        assert_eq!((back.dst, back.dst_port), (inside, 5000));
        let again = lab.pass(1, INSIDE, udp(inside, 5000, REMOTE, 53));
        assert_eq!((again.src, again.src_port), (public, port));
    }
    // A port of one address is no port of another one.
    assert_eq!(lab.frame(1, OUTSIDE, udp_in(REMOTE, 53, THIRD, a.src_port)), Verdict::Drop(DropReason::NoMapping));
}

#[test]
fn every_address_of_a_shard_is_answered_for_by_its_owner_alone() {
    let mut lab = lab(2);
    for ip in [PUBLIC, SECOND, THIRD] {
        for node in [0, 1] {
            lab.sent.clear();
            lab.frame(node, OUTSIDE, arp(ArpOp::Request, mac_of(UPSTREAM), UPSTREAM, Mac::BROADCAST, ip));
            let answers = lab.sent.iter().filter(|s| s.frame[28..32] == ip.octets() && s.frame[21] == 2).count();
            assert_eq!(answers, usize::from(node == 0), "{ip}");
        }
    }
}

#[test]
fn an_address_leaves_a_shard_that_lives_on_after_its_fence_and_the_others_go_on() {
    let mut lab = lab(2);
    let a = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    let b = lab.pass(0, INSIDE, udp(B, 5000, REMOTE, 53)).src_port;
    lab.load(12, second_drains);
    lab.run(200);
    assert!(lab.fenced().is_empty(), "its closed mapping is held: F4");
    lab.sent.clear();
    lab.frame(0, OUTSIDE, arp(ArpOp::Request, mac_of(UPSTREAM), UPSTREAM, Mac::BROADCAST, SECOND));
    assert!(lab.sent.iter().any(|s| s.frame[28..32] == SECOND.octets()), "it is answered for until it is gone");
    // The owner dies meanwhile: its successor fences.
    lab.elect(1);
    lab.run(70_000);
    assert_eq!(lab.fenced(), [PortBlock { frontend: SECOND_ID, start: 2048, len: 32 }]);
    assert_eq!(lab.pass(1, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, a)).dst, A, "untouched");

    lab.load(13, second_gone);
    lab.run(1_000);
    let refused = lab.frame(1, OUTSIDE, udp_in(REMOTE, 53, SECOND, b));
    assert_eq!(refused, Verdict::Drop(DropReason::NotForUs));
    lab.sent.clear();
    lab.frame(1, OUTSIDE, arp(ArpOp::Request, mac_of(UPSTREAM), UPSTREAM, Mac::BROADCAST, SECOND));
    lab.run(3_000);
    assert!(lab.sent.iter().all(|s| s.frame[28..32] != SECOND.octets()), "nobody answers for it, nobody announces it");
    assert_eq!(lab.pass(1, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, a)).dst, A);
    let moved = lab.pass(1, INSIDE, udp(B, 5000, REMOTE, 53));
    assert_eq!(moved.src, THIRD);
    assert_eq!(lab.pass(1, OUTSIDE, udp_in(REMOTE, 53, THIRD, moved.src_port)).dst, B);
    lab.assert_in_step();
}

#[test]
fn an_address_that_joins_a_shard_which_serves_is_announced_fast_and_alone_so() {
    let mut lab = Lab::new(1);
    lab.run(20_000);
    lab.load(11, |s| s.put_frontends([(SECOND_ID, Frontend { ip: SECOND, shard: SHARD })]));
    lab.sent.clear();
    lab.run(4_000);
    let seen = announced(&lab, 0);
    // No predecessor had a grace: 2 s.
    assert!((21..=25).contains(&seen[&SECOND]), "every 100 ms, and then every second: {seen:?}");
    assert!((3..=5).contains(&seen[&PUBLIC]), "every second, as before: {seen:?}");
    // A load that changes nothing of it announces nothing more.
    lab.run(5_000);
    lab.load(12, |s| s.put_frontends([(SECOND_ID, Frontend { ip: SECOND, shard: SHARD })]));
    lab.sent.clear();
    lab.run(4_000);
    assert!((3..=5).contains(&announced(&lab, 0)[&SECOND]));
}

#[test]
fn backends_behind_two_addresses_of_one_shard_reach_each_other() {
    let mut lab = lab(1);
    let packet = |src, dst| udp_raw(src, dst, b"hello");
    let send = |lab: &mut Lab, from: Ipv4Addr, port, to| {
        lab.sent.clear();
        lab.out(0, packet((from, port), to).frame(from, SHARD));
        lab.sent.retain(|s| !s.is_arp());
        lab.sent.iter().map(|s| (s.link, s.packet())).collect::<Vec<_>>()
    };
    let b = lab.pass(0, INSIDE, packet((B, 6000), (REMOTE, 80)).frame(B, SHARD)).src_port;
    assert!(send(&mut lab, A, 5000, (SECOND, b)).is_empty(), "R6: B has not begun");
    let flows = lab.nodes[0].worker.view().dump_flows(lab.now, Some(SHARD), 100);
    let a = flows.iter().find(|flow| flow.inside.endpoint.port == 5000).expect("A has").public;
    assert_eq!(a.1, Some(PUBLIC));
    let [(link, to_a)] = &send(&mut lab, B, 6000, (PUBLIC, a.2))[..] else { panic!("one packet") };
    assert_eq!((*link, to_a.src, to_a.src_port, to_a.dst, to_a.dst_port), (INSIDE, SECOND, b, A, 5000));
    let [(link, to_b)] = &send(&mut lab, A, 5000, (SECOND, b))[..] else { panic!("one packet") };
    assert_eq!((*link, to_b.src, to_b.src_port, to_b.dst, to_b.dst_port), (INSIDE, PUBLIC, a.2, B, 6000));
}

#[test]
fn an_echo_to_an_address_of_the_shard_finds_its_mapping_under_that_address_alone() {
    let mut lab = lab(1);
    let id = lab.pass(0, INSIDE, ping(B, REMOTE, 77)).src_port;
    assert_eq!(lab.pass(0, OUTSIDE, pong(SECOND, id)).dst, B);
    for other in [PUBLIC, THIRD] {
        assert_eq!(lab.frame(0, OUTSIDE, pong(other, id)), Verdict::Drop(DropReason::NoMapping), "{other}");
    }
}

/// A thousand addresses in one shard.
fn thousand(s: &mut Snapshot) {
    s.outside.prefix.len = 16;
    s.outside.prefix.network = Ipv4Addr::new(203, 0, 0, 0);
    let ip = |n: u32| Ipv4Addr::from_bits(0xcb00_8000 + n);
    s.put_frontends((0..999).map(|n| (FrontendId(1_000 + n), Frontend { ip: ip(n), shard: SHARD })));
}

#[test]
fn a_takeover_of_a_thousand_addresses_serves_at_once_and_announces_them_in_time_and_in_short_steps() {
    let mut lab = Lab::new(2);
    lab.load(11, thousand);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    lab.run(6_000);
    lab.sent.clear();
    lab.elect(1);
    let before_timers = lab.sent.len();
    assert_eq!(before_timers, 0);
    lab.advance(1);
    let first: Vec<_> = lab.sent.iter().map(|s| s.link).collect();
    assert_eq!(first.iter().filter(|link| **link == OUTSIDE).count(), 64, "a part of them, and a question");
    assert!(first.contains(&INSIDE));
    assert_eq!(lab.pass(1, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port)).dst, A, "nothing waits for the others");
    lab.sent.clear();
    for _ in 0..500 {
        let before = lab.sent.len();
        lab.advance(10);
        assert!(lab.sent.len() - before <= 130, "no turn sends much more than its part: {}", lab.sent.len() - before);
    }
    let seen = announced(&lab, 1);
    assert_eq!(seen.len(), 1_000);
    assert!(seen.values().all(|times| (44..=51).contains(times)), "each every 100 ms: {:?}", seen.values().min());
}
