//! Datagrams in fragments: one translation for all of them, in any order, within bounds.

use std::net::Ipv4Addr;

use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{Authority, DropReason, Verdict};

/// Fragments of at most `step` octets of payload, in order.
pub(crate) fn pieces(packet: &Raw, step: usize) -> Vec<Raw> {
    let count = packet.payload.len().div_ceil(step);
    let piece = |(place, part): (usize, &[u8])| {
        let more = if place + 1 < count { MORE_FRAGMENTS } else { 0 };
        let fragment = more + u16::try_from(place * step / 8).expect("small");
        Raw { fragment, payload: part.to_vec(), ..packet.clone() }
    };
    packet.payload.chunks(step).enumerate().map(piece).collect()
}

fn question(id: u16) -> Raw {
    let data: Vec<u8> = (0..3000_u32).map(|n| n.to_le_bytes()[0]).collect();
    Raw { id, ..udp_raw((A, 5000), (REMOTE, 53), &data) }
}

fn answer(port: u16, id: u16) -> Raw {
    Raw { id, ..udp_raw((REMOTE, 53), (PUBLIC, port), &[5; 2500]) }
}

fn outside(piece: &Raw) -> Vec<u8> {
    piece.frame(UPSTREAM, SHARD)
}

/// What left, put together; in whatever order it came, every octet once and all of one translation.
pub(crate) fn together(lab: &mut Lab) -> Raw {
    lab.sent.retain(|s| !s.is_arp());
    let mut parts = Vec::new();
    let mut whole: Option<Raw> = None;
    for sent in &lab.sent {
        let ip = &sent.frame[L3..];
        assert_eq!(checksum(&ip[..20]), 0, "I14");
        let at = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let piece = Raw { ttl: ip[8], id: word(ip, 4), ..Raw::new(at(12), at(16), ip[9], Vec::new()) };
        let first = whole.get_or_insert(piece.clone());
        assert_eq!(first.bytes(), piece.bytes(), "I21: one translation, one identification");
        parts.push((usize::from(word(ip, 6) & 0x1fff) * 8, ip[20..].to_vec()));
    }
    parts.sort();
    let mut whole = whole.expect("something left");
    for (start, data) in parts {
        assert_eq!(start, whole.payload.len());
        whole.payload.extend(data);
    }
    whole
}

fn opened(lab: &mut Lab) -> u16 {
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port
}

#[test]
fn fragments_leave_under_one_translation_in_whatever_order_they_come() {
    let mut lab = Lab::new(1);
    let port = opened(&mut lab);
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (id, order) in (100..).zip(orders) {
        lab.sent.clear();
        let all = pieces(&question(id), 1480);
        for place in order {
            lab.out(0, all[place].frame(A, SHARD));
        }
        let got = together(&mut lab);
        let data = question(id).payload.split_off(8);
        let wanted = Raw { ttl: 63, id: got.id, ..udp_raw((PUBLIC, port), (REMOTE, 53), &data) };
        assert_eq!(got.bytes(), wanted.bytes(), "{order:?}");
        lab.sent.clear();
        let all = pieces(&answer(port, id), 1000);
        for place in order {
            lab.frame(0, OUTSIDE, outside(&all[place]));
        }
        let wanted = Raw { ttl: 63, id, ..udp_raw((REMOTE, 53), (A, 5000), &[5; 2500]) };
        assert_eq!(together(&mut lab).bytes(), wanted.bytes(), "{order:?}");
        assert_eq!(lab.nodes[0].worker.held_bytes(), (0, false));
    }
    lab.run(2_100);
    assert_eq!(lab.dropped(0, DropReason::FragmentTimeout), 0, "whole datagrams are forgotten");
}

#[test]
fn pings_and_segments_come_in_fragments_too() {
    let mut lab = Lab::new(1);
    let ping = echo(A, REMOTE, 8, 700, &[3; 2000]);
    let segment = tcp_raw((A, 9), (REMOTE, 80), SYN, &[4; 2000]);
    for packet in [ping, segment] {
        lab.sent.clear();
        for piece in pieces(&packet, 800) {
            lab.out(0, piece.frame(A, SHARD));
        }
        let got = together(&mut lab);
        let wanted = match packet.proto {
            ICMP => echo(PUBLIC, REMOTE, 8, word(&got.payload, 4), &[3; 2000]),
            _ => tcp_raw((PUBLIC, word(&got.payload, 0)), (REMOTE, 80), SYN, &[4; 2000]),
        };
        assert_eq!(got.payload, wanted.payload);
    }
}

#[test]
fn a_first_datagram_in_fragments_waits_for_its_commit_whole_and_leaves_in_order() {
    let mut lab = Lab::new(1);
    lab.hold = Hold::Yes;
    for piece in pieces(&question(7), 1480) {
        assert_eq!(lab.out(0, piece.frame(A, SHARD)), Verdict::Consumed);
    }
    assert!(lab.sent.is_empty(), "I6");
    lab.commit_waiting();
    let places: Vec<u16> = lab.sent.iter().map(|s| word(&s.frame, L3 + 6) & 0x1fff).collect();
    assert_eq!(places, [0, 185, 370]);
    together(&mut lab);
    assert_eq!(lab.status(0).live, 1);
}

#[test]
fn fragments_without_their_first_wait_two_seconds_and_are_dropped() {
    let mut lab = Lab::new(1);
    let port = opened(&mut lab);
    lab.sent.clear();
    for piece in &pieces(&answer(port, 9), 1000)[1..] {
        assert_eq!(lab.frame(0, OUTSIDE, outside(piece)), Verdict::Consumed);
    }
    lab.run(1_900);
    assert_eq!(lab.dropped(0, DropReason::FragmentTimeout), 0);
    lab.run(200);
    assert_eq!(lab.dropped(0, DropReason::FragmentTimeout), 2);
    let verdict = lab.frame(0, OUTSIDE, outside(&pieces(&answer(port, 9), 1000)[0]));
    assert!(matches!(verdict, Verdict::Transmit { .. }));
    lab.sent.retain(|s| !s.is_arp());
    assert_eq!(lab.sent.len(), 1, "what was dropped is not sent");
    assert_eq!(lab.nodes[0].worker.held_bytes(), (0, false));
}

#[test]
fn overlapping_fragments_end_their_datagram_and_a_copy_does_not() {
    let mut lab = Lab::new(1);
    let port = opened(&mut lab);
    let all = pieces(&answer(port, 9), 1000);
    let overlap = Raw { fragment: MORE_FRAGMENTS + 124, payload: vec![6; 16], ..all[0].clone() };
    lab.sent.clear();
    for (piece, copies) in [(&all[2], 1), (&all[0], 2), (&all[1], 1)] {
        for copy in 0..copies {
            let verdict = lab.frame(0, OUTSIDE, outside(piece));
            assert_eq!(verdict == Verdict::Drop(DropReason::FragmentOverlap), copy == 1);
        }
    }
    assert_eq!(together(&mut lab).payload.len(), 2508, "whole in spite of the copies");
    // Over the first fragment, over one that waits, behind the end, and a second end.
    let mut id = 10;
    for bad in [
        overlap.clone(),
        Raw { fragment: 250, payload: vec![6; 600], ..overlap.clone() },
        Raw { fragment: MORE_FRAGMENTS + 400, payload: vec![6; 8], ..overlap.clone() },
        Raw { fragment: 130, payload: vec![6; 8], ..overlap.clone() },
    ] {
        id += 1;
        let again = |piece: &Raw| Raw { id, ..piece.clone() };
        lab.frame(0, OUTSIDE, outside(&again(&all[2])));
        lab.frame(0, OUTSIDE, outside(&again(&all[0])));
        let verdict = lab.frame(0, OUTSIDE, outside(&again(&bad)));
        assert_eq!(verdict, Verdict::Drop(DropReason::FragmentOverlap), "{id}");
        let verdict = lab.frame(0, OUTSIDE, outside(&again(&all[1])));
        assert_eq!(verdict, Verdict::Drop(DropReason::FragmentOverlap), "the rest goes too: {id}");
    }
    // What waits goes as well.
    lab.sent.clear();
    let before = lab.dropped(0, DropReason::FragmentOverlap);
    for piece in [&all[1], &overlap, &all[0]] {
        lab.frame(0, OUTSIDE, outside(&Raw { id: 99, ..piece.clone() }));
    }
    assert_eq!(lab.dropped(0, DropReason::FragmentOverlap) - before, 3);
    assert!(lab.sent.is_empty());
}

#[test]
fn what_becomes_of_the_first_becomes_of_all() {
    let mut lab = Lab::new(1);
    let all = pieces(&answer(3000, 9), 1000);
    assert_eq!(lab.frame(0, OUTSIDE, outside(&all[1])), Verdict::Consumed);
    assert_eq!(lab.frame(0, OUTSIDE, outside(&all[0])), Verdict::Drop(DropReason::NoMapping));
    assert_eq!(lab.frame(0, OUTSIDE, outside(&all[2])), Verdict::Drop(DropReason::NoMapping));
    assert_eq!(lab.dropped(0, DropReason::NoMapping), 3);
    assert_eq!(lab.nodes[0].worker.held_bytes(), (0, false));
}

#[test]
fn fragments_that_wait_are_bounded_by_sender_and_in_all() {
    let mut lab = Lab::new(1);
    let later = |src: Ipv4Addr, id: u16, len: usize| {
        let packet = Raw { id, fragment: 100, ..Raw::new(src, PUBLIC, UDP, vec![0; len]) };
        packet.frame(UPSTREAM, SHARD)
    };
    let flood = |lab: &mut Lab, src, len| {
        let takes = |verdict| verdict == Verdict::Consumed;
        (0..2000).filter(|id| takes(lab.frame(0, OUTSIDE, later(src, *id, len)))).count()
    };
    assert_eq!(flood(&mut lab, REMOTE, 16), 128, "datagrams of one sender");
    let other = |n: u32| Ipv4Addr::from(u32::from(REMOTE) + n);
    assert_eq!(flood(&mut lab, other(1), 8000), (256 << 10) / 8034, "octets of one sender");
    let octets: usize = (2..20).map(|n| flood(&mut lab, other(n), 8000) * 8034).sum();
    assert!(octets < 1 << 20, "I49: octets in all, {octets}");
    assert!(lab.nodes[0].worker.held_bytes().0 <= 1 << 20);
    lab.run(2_100);
    let datagrams: usize = (20..40).map(|n| flood(&mut lab, other(n), 16)).sum();
    assert_eq!(datagrams, 1024, "I49: datagrams in all");
    // The other side has its own room, and what is in order needs none.
    let mut from_a = 0;
    for piece in pieces(&question(7), 1480).into_iter().rev() {
        from_a += u32::from(lab.out(0, piece.frame(A, SHARD)) == Verdict::Consumed);
    }
    assert_eq!(from_a, 3);
    assert!(lab.dropped(0, DropReason::FragmentLimit) > 0);
    lab.run(2_100);
    assert_eq!(lab.nodes[0].worker.held_bytes(), (0, false), "I28");
}

#[test]
fn fragments_reach_the_owner_through_another_member() {
    let mut lab = Lab::new(2);
    lab.sent.clear();
    for piece in pieces(&question(7), 1480) {
        let mut frame = piece.frame(A, SHARD);
        frame[..6].copy_from_slice(&links(1).mac_on(INSIDE).expect("it has one").0);
        let verdict = lab.out(1, frame);
        assert_eq!(verdict, Verdict::Transmit { link: INSIDE, authority: Authority::Forward });
    }
    let forwarded: Vec<Vec<u8>> = lab.sent.drain(..).map(|s| s.frame).collect();
    for frame in forwarded {
        lab.out(0, frame);
    }
    assert_eq!(together(&mut lab).payload.len(), 3008);
}

#[test]
fn a_fragment_too_long_for_the_next_link_is_cut_again() {
    let mut lab = Lab::new(1);
    lab.nodes[0].worker.set_mtu(OUTSIDE, 1000);
    for piece in pieces(&question(7), 1480) {
        lab.out(0, piece.frame(A, SHARD));
    }
    lab.sent.retain(|s| !s.is_arp());
    assert!(lab.sent.iter().all(|s| s.frame.len() <= L3 + 1000));
    let got = together(&mut lab);
    let data = question(7).payload.split_off(8);
    assert_eq!(got.payload, udp_raw((PUBLIC, word(&got.payload, 0)), (REMOTE, 53), &data).payload);
    // One that must not be cut is told of if it is the first, since that one alone names the flow.
    for (place, notices) in [(0, 1), (1, 0)] {
        let piece = pieces(&question(8), 1480).remove(place);
        lab.sent.clear();
        let verdict = lab.out(0, Raw { fragment: piece.fragment | DONT_FRAGMENT, ..piece }.frame(A, SHARD));
        assert_eq!((verdict, lab.sent.len()), (Verdict::Drop(DropReason::TooBig), notices));
    }
}
