//! Who is asked, answered and believed on the data networks: ARP, the announcements of an owner, and sources (I43, M2).

use std::net::Ipv4Addr;

use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::*;
use qnat_engine::snapshot::Snapshot;
use qnat_engine::status::Confirmed;
use qnat_engine::wire::{ArpOp, ArpPacket, FrameMeta, Parsed, parse};

/// Somebody's network card.
const OTHER_CARD: Mac = Mac([0x52, 7, 7, 7, 7, 7]);

fn questions(lab: &Lab, target: Ipv4Addr) -> Vec<ArpPacket> {
    let arps = lab.sent.iter().filter_map(|s| match parse(&s.frame, &FrameMeta::default()) {
        Ok(Parsed::Arp(p)) => Some(p),
        _ => None,
    });
    arps.filter(|p| p.op == ArpOp::Request && p.target_ip == target && p.sender_ip != target).collect()
}

fn from_card(mac: Mac, mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mac.0);
    frame
}

fn reply(mac: Mac, ip: Ipv4Addr) -> Vec<u8> {
    arp(ArpOp::Reply, mac, ip, Mac::of_shard(SHARD), GATEWAY)
}

#[test]
fn a_packet_from_a_foreign_card_is_dropped_and_makes_no_mapping() {
    let mut lab = Lab::new(1);
    let spoofed = [
        from_card(mac_of(B), udp(A, 5000, REMOTE, 53)),
        from_card(mac_of(B), tcp(A, 9, REMOTE, 80, SYN, 1, 0)),
        from_card(mac_of(B), Raw { fragment: 9, ..udp_raw((A, 5000), (REMOTE, 53), &[0; 64]) }.frame(A, SHARD)),
        from_card(
            mac_of(B),
            icmp_raw(A, REMOTE, [3, 3], [0; 4], &udp_raw((REMOTE, 53), (A, 5000), b"").bytes()).frame(A, SHARD),
        ),
    ];
    for frame in spoofed {
        assert_eq!(lab.out(0, frame), Verdict::Drop(DropReason::SpoofedSource), "I43");
    }
    assert_eq!((lab.status(0).live, lab.log.len()), (0, 2), "nothing was proposed");
    // Nor does it get into a flow of A's.
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    lab.sent.clear();
    let injected = from_card(mac_of(B), udp(A, 5000, REMOTE, 53));
    assert_eq!(lab.out(0, injected), Verdict::Drop(DropReason::SpoofedSource));
    assert!(lab.sent.iter().all(Sent::is_arp));
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
}

#[test]
fn what_another_member_passes_on_was_looked_at_there() {
    let mut lab = Lab::new(2);
    lab.event(1, qnat_engine::event::GroupEvent::Owner { shard: SHARD, term: Term(1), node: Some(NodeId(0)) });
    let to_member = |mut frame: Vec<u8>| {
        frame[..6].copy_from_slice(&links(1).mac_on(INSIDE).expect("it has one").0);
        frame
    };
    let spoofed = to_member(from_card(mac_of(B), udp(A, 5000, REMOTE, 53)));
    assert_eq!(lab.out(1, spoofed), Verdict::Drop(DropReason::SpoofedSource), "not passed on");
    lab.pass(1, INSIDE, to_member(udp(A, 5000, REMOTE, 53)));
    let passed_on = lab.sent[0].frame.clone();
    lab.sent.clear();
    assert_eq!(lab.out(0, passed_on), Verdict::Consumed);
    // A sends by another way than its own: it is told where its gateway is, and nobody else.
    let corrections: Vec<_> = lab.sent.iter().filter(|s| s.link == INSIDE && s.is_arp()).collect();
    assert_eq!(corrections.len(), 1);
    let Ok(Parsed::Arp(p)) = parse(&corrections[0].frame, &FrameMeta::default()) else { panic!("no ARP") };
    assert_eq!((p.op, p.eth_dst), (ArpOp::Reply, mac_of(A)));
    assert_eq!((p.sender_ip, p.sender_mac), (GATEWAY, Mac::of_shard(SHARD)));
}

#[test]
fn an_address_moves_to_a_new_card_when_the_old_one_answers_no_more() {
    let mut lab = Lab::new(1);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    let packet = || from_card(OTHER_CARD, udp(A, 5001, REMOTE, 53));
    // A answers each question, and keeps its address.
    for _ in 0..20 {
        assert_eq!(lab.frame(0, INSIDE, reply(OTHER_CARD, A)), Verdict::Consumed);
        assert_eq!(lab.out(0, packet()), Verdict::Drop(DropReason::SpoofedSource));
        lab.run(100);
    }
    // The machine is gone, and its successor begins as it does.
    lab.answers = false;
    lab.sent.clear();
    let begun = lab.now;
    lab.frame(0, INSIDE, arp(ArpOp::Request, OTHER_CARD, A, Mac::BROADCAST, GATEWAY));
    while lab.out(0, packet()) == Verdict::Drop(DropReason::SpoofedSource) {
        lab.run(10);
        assert!(lab.now - begun < 2 * SEC, "it takes over soon");
    }
    let asked = questions(&lab, A);
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|p| p.eth_dst == mac_of(A) && (p.sender_ip, p.sender_mac) == (GATEWAY, p.eth_src)));
    assert_eq!(lab.status(0).live, 2);
    let late = udp(A, 5000, REMOTE, 53);
    assert_eq!(lab.out(0, late), Verdict::Drop(DropReason::SpoofedSource), "the old card is foreign now");
}

#[test]
fn a_declared_card_is_the_only_one_and_needs_no_question() {
    let mut lab = Lab::new(1);
    lab.answers = false;
    lab.load(11, |s| s.backends.get_mut(&BackendId(1)).expect("A").mac = Some(OTHER_CARD));
    assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 53)), Verdict::Drop(DropReason::SpoofedSource));
    let port = lab.pass(0, INSIDE, from_card(OTHER_CARD, udp(A, 5000, REMOTE, 53))).src_port;
    for _ in 0..40 {
        lab.frame(0, INSIDE, reply(mac_of(A), A));
        lab.run(100);
        assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 53)), Verdict::Drop(DropReason::SpoofedSource));
    }
    lab.run(200_000);
    assert_eq!(lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port)).eth_dst, OTHER_CARD);
}

#[test]
fn a_card_that_is_declared_for_a_known_address_is_sent_to_and_heard_at_once() {
    let declare = |mac| move |s: &mut Snapshot| s.backends.get_mut(&BackendId(1)).expect("A").mac = mac;
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    lab.answers = false;
    lab.sent.clear();
    lab.load(11, declare(Some(OTHER_CARD)));
    assert_eq!(lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port)).eth_dst, OTHER_CARD, "a packet for it");
    lab.load(12, declare(Some(mac_of(A))));
    lab.frame(0, INSIDE, reply(mac_of(A), A));
    assert_eq!(lab.out(0, from_card(OTHER_CARD, udp(A, 5000, REMOTE, 53))), Verdict::Drop(DropReason::SpoofedSource));
    assert_eq!(lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port)).eth_dst, mac_of(A), "its own word");
    // What was declared holds until somebody else answers.
    lab.load(13, declare(None));
    assert_eq!(lab.out(0, from_card(OTHER_CARD, udp(A, 5000, REMOTE, 53))), Verdict::Drop(DropReason::SpoofedSource));
    assert_eq!(lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port)).eth_dst, mac_of(A));
    assert_eq!(questions(&lab, A).iter().filter(|p| p.eth_dst == Mac::BROADCAST).count(), 0);
}

#[test]
fn packets_that_wait_for_an_address_leave_soon_after_its_card_is_declared() {
    let mut lab = Lab::new(1);
    lab.answers = false;
    let lease = vec![block(2112, 32)];
    lab.load(11, |s| s.backends.get_mut(&BackendId(4)).expect("NO_LEASE").lease.clone_from(&lease));
    lab.sent.clear();
    assert_eq!(lab.out(0, udp(NO_LEASE, 5000, REMOTE, 53)), Verdict::Consumed);
    lab.run(10);
    let port = lab.sent.iter().find(|sent| !sent.is_arp()).expect("it left").packet().src_port;
    lab.sent.clear();
    assert_eq!(lab.frame(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port)), Verdict::Consumed, "nobody knows the card");
    lab.load(12, |s| {
        let backend = s.backends.get_mut(&BackendId(4)).expect("NO_LEASE");
        (backend.lease, backend.mac) = (lease.clone(), Some(OTHER_CARD));
    });
    lab.run(60);
    let answers = lab.sent.iter().filter(|sent| sent.link == INSIDE && !sent.is_arp());
    assert_eq!(answers.map(|sent| sent.frame[..6].to_vec()).collect::<Vec<_>>(), [OTHER_CARD.0.to_vec()]);
}

#[test]
fn an_address_of_which_nobody_knows_the_card_is_asked_for_with_its_first_packet() {
    let mut lab = Lab::new(1);
    lab.load(11, |s| {
        let lease = vec![block(2112, 32)];
        s.backends.get_mut(&BackendId(4)).expect("the one without a lease").lease = lease;
    });
    lab.sent.clear();
    assert_eq!(lab.out(0, udp(NO_LEASE, 5000, REMOTE, 53)), Verdict::Consumed);
    let asked = questions(&lab, NO_LEASE);
    assert_eq!(asked.iter().map(|p| p.eth_dst).collect::<Vec<_>>(), [Mac::BROADCAST]);
    lab.frame(0, INSIDE, reply(OTHER_CARD, NO_LEASE));
    assert_eq!(lab.out(0, udp(NO_LEASE, 5000, REMOTE, 53)), Verdict::Drop(DropReason::SpoofedSource));
}

#[test]
fn the_gateway_answers_who_looks_whether_its_address_is_taken_by_one_member() {
    let mut lab = Lab::new(2);
    let card = Mac([0x52, 6, 6, 6, 6, 6]);
    let stranger = Ipv4Addr::new(10, 0, 0, 99);
    for (node, answered) in [(0, true), (1, false)] {
        for asker in [Ipv4Addr::UNSPECIFIED, stranger] {
            lab.sent.clear();
            lab.frame(node, INSIDE, arp(ArpOp::Request, card, asker, Mac::BROADCAST, GATEWAY));
            assert_eq!(lab.sent.len(), usize::from(answered), "RFC 5227: once, {asker}");
            for sent in &lab.sent {
                let Ok(Parsed::Arp(p)) = parse(&sent.frame, &FrameMeta::default()) else { panic!("no ARP") };
                assert_eq!((p.op, p.eth_dst, p.sender_ip), (ArpOp::Reply, card, GATEWAY));
            }
        }
    }
    // A claim of it, and somebody from elsewhere, hear nothing.
    for asker in [GATEWAY, Ipv4Addr::new(192, 0, 2, 9)] {
        lab.sent.clear();
        lab.frame(0, INSIDE, arp(ArpOp::Request, card, asker, Mac::BROADCAST, GATEWAY));
        assert!(lab.sent.is_empty(), "{asker}");
    }
}

#[test]
fn a_neighbour_whose_card_changes_without_a_word_is_found_again_within_a_minute() {
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500)).src_port;
    lab.answers = false;
    lab.sent.clear();
    let (begun, mut polls) = (lab.now, 0);
    let healed = loop {
        lab.run(500);
        lab.out(0, udp(A, 5000, REMOTE, 4500));
        let asked = questions(&lab, UPSTREAM);
        polls += asked.iter().filter(|p| p.eth_dst == mac_of(UPSTREAM)).count();
        if asked.iter().any(|p| p.eth_dst == Mac::BROADCAST) {
            lab.frame(0, OUTSIDE, arp(ArpOp::Reply, OTHER_CARD, UPSTREAM, Mac::of_shard(SHARD), PUBLIC));
        }
        if lab.sent.iter().any(|s| !s.is_arp() && s.packet().eth_dst == OTHER_CARD) {
            break lab.now - begun;
        }
        lab.sent.clear();
        assert!(lab.now - begun < 120 * SEC);
    };
    assert!(healed <= 40 * SEC, "{} s", healed / SEC);
    assert_eq!(polls, 3, "RFC 1122 2.3.2.1");
    assert_eq!(lab.pass(0, OUTSIDE, udp_in(REMOTE, 4500, PUBLIC, port)).dst, A);
}

#[test]
fn what_no_host_can_honestly_say_is_not_learned() {
    let mut lab = Lab::new(1);
    // Somebody claims a public address of ours: what goes there goes to its shard all the same.
    lab.frame(0, OUTSIDE, arp(ArpOp::Reply, OTHER_CARD, PUBLIC_2, Mac::of_shard(SHARD), PUBLIC));
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5000, PUBLIC_2, 2050)).eth_dst, Mac::of_shard(OTHER));
    // The frame comes from another card than its message says.
    let near = Ipv4Addr::new(203, 0, 113, 77);
    assert_eq!(lab.out(0, udp(A, 5000, near, 53)), Verdict::Consumed);
    lab.sent.clear();
    let two_cards = from_card(mac_of(B), arp(ArpOp::Reply, OTHER_CARD, near, Mac::of_shard(SHARD), PUBLIC));
    lab.frame(0, OUTSIDE, two_cards);
    assert!(lab.sent.iter().all(Sent::is_arp), "the packet still waits");
    lab.frame(0, OUTSIDE, arp(ArpOp::Reply, mac_of(near), near, Mac::of_shard(SHARD), PUBLIC));
    assert_eq!(lab.sent.iter().filter(|s| !s.is_arp()).count(), 1);
}

#[test]
fn a_new_owner_announces_both_sides_fast_and_then_slowly() {
    let mut lab = Lab::new(2);
    lab.pass(0, INSIDE, udp(A, 1, REMOTE, 53));
    lab.sent.clear();
    lab.answers = false;
    lab.elect(1);
    lab.run(10);
    let first: Vec<_> = lab.sent.iter().map(|s| (s.node, s.link)).collect();
    assert_eq!(first[..2], [(1, OUTSIDE), (1, INSIDE)], "M2: at once");
    assert_eq!(lab.sent[0].frame[28..32], PUBLIC.octets());
    assert_eq!(lab.sent[0].frame[38..42], PUBLIC.octets(), "gratuitous");
    assert_eq!(lab.sent[1].frame[..6], [0xff; 6]);
    assert_eq!(lab.sent[1].frame[12..14], [0x88, 0xb5], "inside a frame that no host reads");
    let asked: Vec<_> = lab.sent[2..].iter().map(|s| (s.link, &s.frame[..6], &s.frame[28..32])).collect();
    let (a, upstream) = (mac_of(A), mac_of(UPSTREAM));
    let (gateway, public) = (GATEWAY.octets(), PUBLIC.octets());
    let wanted = [(INSIDE, &a.0[..], &gateway[..]), (OUTSIDE, &upstream.0[..], &public[..])];
    assert_eq!(asked, wanted, "and somebody on each link, for a sign that traffic comes");
    assert!(lab.sent.iter().all(|s| s.frame[6..12] == Mac::of_shard(SHARD).0));
    lab.sent.clear();
    lab.run(4_990);
    assert!((45..=51).contains(&(lab.sent.len() / 4)), "every 100 ms for grace + 2 s: {}", lab.sent.len() / 4);
    lab.sent.clear();
    lab.run(10_000);
    assert!((9..=11).contains(&(lab.sent.len() / 4)), "then every second: {}", lab.sent.len() / 4);
    assert_eq!(lab.status(1).announced, Confirmed::No);
    lab.frame(1, INSIDE, arp(ArpOp::Reply, mac_of(A), A, Mac::of_shard(SHARD), std::net::Ipv4Addr::UNSPECIFIED));
    assert_eq!(lab.status(1).announced, Confirmed::Yes);
    lab.sent.clear();
    lab.run(10_000);
    assert!((9..=11).contains(&(lab.sent.len() / 2)), "nobody is asked any more: {}", lab.sent.len());
}

#[test]
fn a_next_hop_that_packets_wait_for_in_vain_is_silent_until_it_speaks_and_is_asked_meanwhile() {
    let mut lab = Lab::new(1);
    lab.nodes[0].worker.sound();
    let silent = |lab: &Lab| lab.nodes[0].worker.next_hop().expect("configured, and owned").silent_since_ns;
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    lab.run(1_000);
    assert_eq!(silent(&lab), None);
    lab.answers = false;
    let begun = lab.now;
    while silent(&lab).is_none() {
        lab.run(300);
        lab.out(0, udp(A, 5000, REMOTE, 4500));
        assert!(lab.now - begun < 60 * SEC, "nobody notices");
    }
    // No packet wants it any more, and it is not forgotten.
    lab.run(5_000);
    lab.sent.clear();
    lab.run(5_000);
    assert!(silent(&lab).is_some_and(|since| since > begun));
    let asked = questions(&lab, UPSTREAM);
    assert!((4..=6).contains(&asked.len()) && asked.iter().all(|p| p.eth_dst == Mac::BROADCAST), "{}", asked.len());
    lab.answers = true;
    lab.run(1_200);
    let next_hop = lab.nodes[0].worker.next_hop().expect("configured, and owned");
    assert_eq!((next_hop.ip, next_hop.silent_since_ns), (UPSTREAM, None));
    assert!(next_hop.heard_ns > begun);
    lab.lapse();
    lab.run(400);
    assert_eq!(lab.nodes[0].worker.next_hop(), None, "who owns nothing may not ask, and knows nothing");
}
