//! Packets that end here: too long for the next link, or out of hops. What their senders are told, and what is cut.

use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::*;
use qnat_engine::wire::{ChecksumState, FrameMeta, Gso};
use std::net::Ipv4Addr;

fn long(len: usize) -> Raw {
    let data: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0]).collect();
    udp_raw((A, 5000), (REMOTE, 53), &data)
}

fn mtu(lab: &mut Lab, link: Link, mtu: u16) {
    for node in &mut lab.nodes {
        node.worker.set_mtu(link, mtu);
    }
}

fn send(lab: &mut Lab, link: Link, mut frame: Vec<u8>, meta: FrameMeta) -> Verdict {
    lab.sent.clear();
    let n = &mut lab.nodes[0];
    let verdict = n.worker.handle_frame(lab.now, &n.words, link, &meta, &mut frame);
    if let Verdict::Transmit { link, authority } = verdict {
        lab.sent.push(Sent { node: 0, link, frame, authority });
    }
    lab.pump();
    lab.sent.retain(|s| !s.is_arp());
    verdict
}

/// The notice that left on `side`: type, code, MTU, sender, receiver, and what it quotes.
fn notice(lab: &Lab, link: Link) -> ([u8; 2], u16, Ipv4Addr, Ipv4Addr, Vec<u8>) {
    assert_eq!(lab.sent.len(), 1, "one notice");
    assert_eq!((lab.sent[0].link, &lab.sent[0].frame[6..12]), (link, &Mac::of_shard(SHARD).0[..]));
    let ip = &lab.sent[0].frame[L3..];
    assert_eq!((checksum(&ip[..20]), checksum(&ip[20..])), (0, 0), "I14");
    assert!(ip.len() <= 576 && usize::from(word(ip, 2)) == ip.len());
    let at = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
    ([ip[20], ip[21]], word(ip, 26), at(12), at(16), ip[28..].to_vec())
}

#[test]
fn a_backend_hears_from_its_gateway_that_its_hops_ran_out_and_no_mapping_opens() {
    let mut lab = Lab::new(1);
    for ttl in [0, 1] {
        let packet = Raw { ttl, ..long(4) };
        let verdict = send(&mut lab, INSIDE, packet.frame(A, SHARD), FrameMeta::default());
        assert_eq!(verdict, Verdict::Drop(DropReason::TtlExpired));
        assert_eq!(notice(&lab, INSIDE), ([11, 0], 0, GATEWAY, A, packet.bytes()), "R25");
        assert_eq!(lab.sent[0].frame[..6], mac_of(A).0);
    }
    assert_eq!(lab.status(0).live, 0);
}

#[test]
fn the_internet_hears_of_hops_that_ran_out_only_if_it_is_talked_to() {
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    let answer = |port| Raw { ttl: 1, ..udp_raw((REMOTE, 53), (PUBLIC, port), b"answer") };
    let verdict = send(&mut lab, OUTSIDE, answer(port).frame(UPSTREAM, SHARD), FrameMeta::default());
    assert_eq!(verdict, Verdict::Drop(DropReason::TtlExpired));
    assert_eq!(notice(&lab, OUTSIDE), ([11, 0], 0, PUBLIC, REMOTE, answer(port).bytes()), "I13");
    let verdict = send(&mut lab, OUTSIDE, answer(port ^ 1).frame(UPSTREAM, SHARD), FrameMeta::default());
    assert_eq!(verdict, Verdict::Drop(DropReason::NoMapping));
    assert!(lab.sent.is_empty());
}

#[test]
fn a_packet_that_must_not_be_fragmented_is_answered_with_the_size_that_fits() {
    let mut lab = Lab::new(1);
    mtu(&mut lab, OUTSIDE, 1400);
    let packet = Raw { fragment: DONT_FRAGMENT, ..long(1400 - 28 + 1) };
    let verdict = send(&mut lab, INSIDE, packet.frame(A, SHARD), FrameMeta::default());
    assert_eq!(verdict, Verdict::Drop(DropReason::TooBig));
    assert_eq!(notice(&lab, INSIDE), ([3, 4], 1400, GATEWAY, A, packet.bytes()[..548].to_vec()), "R11");
    assert_eq!(lab.status(0).live, 0);
    let fits = Raw { fragment: DONT_FRAGMENT, ..long(1400 - 28) };
    let port = lab.pass(0, INSIDE, fits.frame(A, SHARD)).src_port;
    // The other way the public address answers, about what it was sent.
    mtu(&mut lab, INSIDE, 1300);
    let answer = udp_raw((REMOTE, 53), (PUBLIC, port), &[9; 1300]);
    let answer = Raw { fragment: DONT_FRAGMENT, ..answer };
    let verdict = send(&mut lab, OUTSIDE, answer.frame(UPSTREAM, SHARD), FrameMeta::default());
    assert_eq!(verdict, Verdict::Drop(DropReason::TooBig));
    assert_eq!(notice(&lab, OUTSIDE), ([3, 4], 1300, PUBLIC, REMOTE, answer.bytes()[..548].to_vec()));
}

#[test]
fn a_packet_that_must_not_be_fragmented_is_not_cut_because_it_waited_while_the_link_shrank() {
    let mut lab = Lab::new(1);
    let near = Ipv4Addr::new(203, 0, 113, 77);
    let numbered = |number| Raw { fragment: DONT_FRAGMENT, ..udp_raw((A, 5000), (near, 53), &[number; 1400]) };
    lab.out(0, numbered(1).frame(A, SHARD));
    mtu(&mut lab, OUTSIDE, 1280);
    lab.sent.clear();
    lab.learn(0, OUTSIDE, near);
    lab.pump();
    lab.sent.retain(|s| !s.is_arp());
    assert_eq!(lab.sent.len(), 0, "R11");
    assert_eq!(lab.nodes[0].worker.counters().dropped(DropReason::TooBig), 1);
    let verdict = send(&mut lab, INSIDE, numbered(2).frame(A, SHARD), FrameMeta::default());
    assert_eq!(verdict, Verdict::Drop(DropReason::TooBig));
    assert_eq!(notice(&lab, INSIDE).1, 1280, "its sender hears of the link by the next");
}

#[test]
fn a_super_packet_is_as_long_as_its_segments() {
    let mut lab = Lab::new(1);
    lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, SYN, 8, 0));
    mtu(&mut lab, OUTSIDE, 1400);
    let packet = Raw { fragment: DONT_FRAGMENT, ..tcp_raw((A, 9), (REMOTE, 80), ACK, &[1; 9000]) };
    for (size, passes) in [(1360, true), (1361, false)] {
        let meta = FrameMeta { gso: Gso::Tcp4 { size }, ..FrameMeta::default() };
        let verdict = send(&mut lab, INSIDE, packet.frame(A, SHARD), meta);
        assert_eq!(matches!(verdict, Verdict::Transmit { .. }), passes, "{size}: {verdict:?}");
    }
    assert_eq!(notice(&lab, INSIDE).1, 1400);
}

/// Puts pieces together that must be in order, and returns the packet.
fn together(lab: &Lab, link: Link, mtu: u16) -> Raw {
    let mut whole: Option<Raw> = None;
    for (place, sent) in lab.sent.iter().enumerate() {
        let ip = &sent.frame[L3..];
        assert_eq!((sent.link, checksum(&ip[..20])), (link, 0));
        assert!(word(ip, 2) <= mtu && usize::from(word(ip, 2)) == ip.len(), "R11");
        let last = place + 1 == lab.sent.len();
        assert_eq!(word(ip, 6) & MORE_FRAGMENTS == 0, last);
        let at = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let piece = Raw { ttl: ip[8], id: word(ip, 4), ..Raw::new(at(12), at(16), ip[9], ip[20..].to_vec()) };
        let whole = whole.get_or_insert(Raw { payload: Vec::new(), ..piece.clone() });
        assert_eq!((piece.src, piece.dst, piece.ttl, piece.id), (whole.src, whole.dst, whole.ttl, whole.id), "I21");
        assert_eq!(usize::from(word(ip, 6) & 0x1fff) * 8, whole.payload.len(), "in order");
        whole.payload.extend(piece.payload);
    }
    whole.expect("something left")
}

#[test]
fn a_packet_that_may_be_fragmented_leaves_in_pieces_in_order() {
    let mut lab = Lab::new(1);
    mtu(&mut lab, OUTSIDE, 1400);
    for opening in [true, false] {
        let verdict = send(&mut lab, INSIDE, long(4000).frame(A, SHARD), FrameMeta::default());
        assert_eq!((verdict, lab.sent.len()), (Verdict::Consumed, 3), "opening: {opening}");
        let got = together(&lab, OUTSIDE, 1400);
        let port = word(&got.payload, 0);
        let data = long(4000).payload.split_off(8);
        assert_eq!(got.bytes(), Raw { ttl: 63, id: got.id, ..udp_raw((PUBLIC, port), (REMOTE, 53), &data) }.bytes());
    }
    let port = word(&together(&lab, OUTSIDE, 1400).payload, 0);
    mtu(&mut lab, INSIDE, 600);
    let answer = udp_raw((REMOTE, 53), (PUBLIC, port), &[7; 1200]);
    send(&mut lab, OUTSIDE, answer.frame(UPSTREAM, SHARD), FrameMeta::default());
    let wanted = Raw { ttl: 63, ..udp_raw((REMOTE, 53), (A, 5000), &[7; 1200]) };
    assert_eq!(together(&lab, INSIDE, 600).bytes(), wanted.bytes());
    assert_eq!(lab.nodes[0].worker.held_bytes(), (0, false));
}

#[test]
fn a_checksum_left_to_the_device_is_completed_before_the_cut() {
    let mut lab = Lab::new(1);
    mtu(&mut lab, OUTSIDE, 1400);
    let mut packet = long(3001);
    let mut pseudo = [A.octets(), REMOTE.octets()].concat();
    pseudo.extend([0, UDP]);
    pseudo.extend(word(&packet.payload, 4).to_be_bytes());
    put(&mut packet.payload, 6, !checksum(&pseudo));
    let meta = FrameMeta { checksum: ChecksumState::Partial { start: 34, offset: 6 }, ..FrameMeta::default() };
    for _ in 0..2 {
        send(&mut lab, INSIDE, packet.frame(A, SHARD), meta);
        let got = together(&lab, OUTSIDE, 1400);
        let data = packet.payload[8..].to_vec();
        let wanted = udp_raw((PUBLIC, word(&got.payload, 0)), (REMOTE, 53), &data);
        assert_eq!(got.payload, wanted.payload);
    }
}

#[test]
fn notices_are_few_and_none_is_sent_without_the_lease() {
    let mut lab = Lab::new(1);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    let mut said = 0;
    for _ in 0..1000 {
        send(&mut lab, INSIDE, Raw { ttl: 1, ..long(4) }.frame(A, SHARD), FrameMeta::default());
        said += lab.sent.len();
    }
    assert_eq!(said, 20);
    lab.run(1_000);
    lab.lapse();
    lab.event(0, qnat_engine::event::GroupEvent::Owner { shard: SHARD, term: Term(1), node: None });
    let verdict = send(&mut lab, INSIDE, Raw { ttl: 1, ..long(4) }.frame(A, SHARD), FrameMeta::default());
    assert_eq!((verdict, lab.sent.len()), (Verdict::Drop(DropReason::TtlExpired), 0), "an orphan repeats, no more");
}

#[test]
fn identifications_behind_one_public_address_differ_unless_the_datagram_is_atomic() {
    let mut lab = Lab::new(1);
    let mut ids = std::collections::BTreeSet::new();
    for backend in [A, B] {
        for port in 0..20 {
            let packet = udp_raw((backend, port), (REMOTE, 53), b"");
            lab.pass(0, INSIDE, packet.frame(backend, SHARD));
            assert!(ids.insert(word(&lab.sent[0].frame, L3 + 4)), "R20");
            let atomic = Raw { fragment: DONT_FRAGMENT, ..packet };
            lab.pass(0, INSIDE, atomic.frame(backend, SHARD));
            assert_eq!(word(&lab.sent[0].frame, L3 + 4), 77);
        }
    }
}
