//! Flows that float (D17), at their edges: errors, pieces, packets that are too long, resets, instances that ask a frontend, what a
//! former owner does, and questions in a frontend's name.

use std::net::Ipv4Addr;

use crate::floating::*;
use crate::fragments::{pieces, together};
use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{DropReason, GroupEvent, Verdict};
use qnat_engine::ids::*;
use qnat_engine::record::Proto;
use qnat_engine::rules::Rule;
use qnat_engine::snapshot::TcpReset;
use qnat_engine::wire::{ArpOp, FrameMeta, Parsed, parse};

#[test]
fn errors_reach_both_ends_of_a_flow_that_floats_and_pass_from_no_other_card() {
    let router = Ipv4Addr::new(192, 0, 2, 33);
    let mut lab = lab(1, &[1]);
    connect(&mut lab, 7001, PUBLIC);
    let only = |lab: &mut Lab, link, frame| {
        lab.sent.clear();
        let verdict = lab.frame(0, link, frame);
        lab.sent.retain(|s| !s.is_arp());
        assert_eq!(lab.sent.len(), 1, "{verdict:?}");
        (lab.sent[0].link, card_of_last(lab), lab.sent[0].frame[L3..].to_vec())
    };
    // A router complains about what the instance sent.
    let sent = tcp_raw((PUBLIC, 80), (CLIENT, 7001), ACK, b"data");
    let complaint = icmp_raw(router, PUBLIC, [3, 4], [0, 0, 5, 0], &sent.bytes());
    let got = only(&mut lab, OUTSIDE, complaint.frame(UPSTREAM, SHARD));
    assert_eq!(got, (INSIDE, mac_of(A), Raw { ttl: 63, ..complaint }.bytes()));
    // The instance complains about what it got, as whom it was sent to.
    let came = tcp_raw((CLIENT, 7001), (PUBLIC, 80), ACK, b"data");
    let complaint = icmp_raw(PUBLIC, CLIENT, [3, 3], [0; 4], &came.bytes());
    let frame = || complaint.frame(A, SHARD);
    let got = only(&mut lab, INSIDE, frame());
    assert_eq!(got, (OUTSIDE, mac_of(UPSTREAM), Raw { ttl: 63, ..complaint.clone() }.bytes()));
    for thief in [mac_of(B), OTHER_CARD] {
        assert_eq!(lab.out(0, by(thief, frame())), SPOOFED);
    }
    let own = icmp_raw(A, CLIENT, [3, 3], [0; 4], &came.bytes()).frame(A, SHARD);
    assert_eq!(lab.out(0, own), Verdict::Drop(DropReason::IcmpQuote), "not as whom it was sent to");
    let unknown = tcp_raw((CLIENT, 7009), (PUBLIC, 80), ACK, b"data");
    let about = icmp_raw(PUBLIC, CLIENT, [3, 3], [0; 4], &unknown.bytes()).frame(A, SHARD);
    assert_eq!(lab.out(0, about), SPOOFED, "nobody has that flow");
    let other = icmp_raw(SECOND, CLIENT, [3, 3], [0; 4], &came.bytes()).frame(A, SHARD);
    assert_eq!(lab.out(0, other), SPOOFED);
    data_passes(&mut lab, mac_of(A), 7001, PUBLIC);
}

#[test]
fn pieces_pass_in_both_directions_and_no_other_card_gets_one_in() {
    let mut lab = lab(1, &[1, 2]);
    let asked = Raw { id: 9, ..udp_raw((CLIENT, 4000), (PUBLIC, 53), &[1; 64]) };
    let asked = lab.pass(0, OUTSIDE, asked.frame(UPSTREAM, SHARD));
    let card = card_of_last(&lab);
    let other = if card == mac_of(A) { mac_of(B) } else { mac_of(A) };
    lab.pass(0, INSIDE, by(card, udp(PUBLIC, 53, asked.src, asked.src_port)));
    // From outside in whatever order.
    for (id, order) in (100..).zip([[0, 1, 2], [2, 1, 0]]) {
        let question = Raw { id, ..udp_raw((CLIENT, 4000), (PUBLIC, 53), &[7; 3_000]) };
        lab.sent.clear();
        for place in order {
            lab.frame(0, OUTSIDE, pieces(&question, 1480)[place].frame(UPSTREAM, SHARD));
        }
        assert_eq!(together(&mut lab).bytes(), Raw { ttl: 63, ..question }.bytes());
        assert!(lab.sent.iter().all(|sent| sent.frame[..6] == card.0 && sent.link == INSIDE));
    }
    // From the instance in order; a piece alone says nothing of whose it is.
    let answer = Raw { id: 200, ..udp_raw((PUBLIC, 53), (CLIENT, 4000), &[8; 3_000]) };
    let all: Vec<Vec<u8>> = pieces(&answer, 1480).iter().map(|piece| by(card, piece.frame(A, SHARD))).collect();
    assert_eq!(lab.out(0, all[1].clone()), SPOOFED, "before the first one");
    lab.sent.clear();
    assert_eq!(lab.out(0, by(other, all[0].clone())), SPOOFED);
    lab.out(0, all[0].clone());
    for thief in [other, OTHER_CARD] {
        assert_eq!(lab.out(0, by(thief, all[1].clone())), SPOOFED, "{thief}");
        assert_eq!(lab.out(0, by(thief, all[2].clone())), SPOOFED, "{thief}");
    }
    lab.out(0, all[1].clone());
    lab.out(0, all[2].clone());
    let left = together(&mut lab);
    assert_eq!(left.bytes(), Raw { ttl: 63, id: left.id, ..answer }.bytes());
    // The first one of a flow waits for its commit, and the others with it.
    let first = lab.pass(0, OUTSIDE, udp_in(CLIENT, 4001, PUBLIC, 53));
    let card = card_of_last(&lab);
    let answer = Raw { id: 201, ..udp_raw((first.dst, 53), (CLIENT, 4001), &[9; 3_000]) };
    lab.hold = Hold::Yes;
    for piece in pieces(&answer, 1480) {
        assert_eq!(lab.out(0, by(card, piece.frame(A, SHARD))), Verdict::Consumed);
    }
    lab.sent.clear();
    lab.commit_waiting();
    let left = together(&mut lab);
    assert_eq!(left.bytes(), Raw { ttl: 63, id: left.id, ..answer }.bytes());
}

#[test]
fn an_instance_hears_by_its_own_address_and_as_the_frontend_that_its_answer_is_too_long_or_has_no_hops() {
    let mut lab = lab(1, &[1]);
    connect(&mut lab, 7001, PUBLIC);
    lab.nodes[0].worker.set_mtu(OUTSIDE, 1300);
    let long = tcp_raw((PUBLIC, 80), (CLIENT, 7001), ACK, &[3; 1_400]);
    let notice = |lab: &mut Lab, packet: &Raw, reason| {
        lab.sent.clear();
        assert_eq!(lab.out(0, packet.frame(A, SHARD)), Verdict::Drop(reason));
        lab.sent.retain(|s| !s.is_arp());
        assert_eq!((lab.sent.len(), lab.sent[0].link, card_of_last(lab)), (1, INSIDE, mac_of(A)));
        let ip = &lab.sent[0].frame[L3..];
        let at = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        assert_eq!((at(12), at(16)), (GATEWAY, PUBLIC), "to whom it was sent by");
        assert!(packet.bytes().starts_with(&ip[28..]), "it quotes what was sent");
        ([ip[20], ip[21]], word(ip, 26))
    };
    let whole = Raw { fragment: DONT_FRAGMENT, ..long.clone() };
    assert_eq!(notice(&mut lab, &whole, DropReason::TooBig), ([3, 4], 1300));
    lab.run(2_000);
    assert_eq!(notice(&mut lab, &Raw { ttl: 1, ..long }, DropReason::TtlExpired).0, [11, 0]);
    // And the client of what is too long for inside.
    lab.nodes[0].worker.set_mtu(INSIDE, 1200);
    let data = Raw { fragment: DONT_FRAGMENT, ..tcp_raw((CLIENT, 7001), (PUBLIC, 80), ACK, &[3; 1_250]) };
    lab.sent.clear();
    assert_eq!(lab.frame(0, OUTSIDE, data.frame(UPSTREAM, SHARD)), Verdict::Drop(DropReason::TooBig));
    lab.sent.retain(|s| !s.is_arp());
    let ip = &lab.sent[0].frame[L3..];
    assert_eq!((&ip[12..16], &ip[20..22], word(ip, 26)), (&PUBLIC.octets()[..], &[3, 4][..], 1200));
}

#[test]
fn a_connection_that_goes_idle_is_reset_at_both_ends_as_each_of_them_knows_it() {
    let mut lab = Lab::new(1);
    let on = Rule { tcp_reset_on_idle: TcpReset::On, ..floating(FRONTEND, Proto::Tcp, 80, &[1]) };
    load(&mut lab, &[on]);
    connect(&mut lab, 7001, PUBLIC);
    data_passes(&mut lab, mac_of(A), 7001, PUBLIC);
    lab.sent.clear();
    lab.run(304_000);
    let resets: Vec<_> = lab.sent.iter().filter(|sent| !sent.is_arp()).collect();
    let ends: Vec<_> = resets
        .iter()
        .map(|sent| {
            let p = sent.packet();
            assert!(p.tcp.is_some_and(|tcp| tcp.flags.0 & RST != 0));
            (sent.link, sent.frame[..6].to_vec(), (p.src, p.src_port), (p.dst, p.dst_port))
        })
        .collect();
    let inside = (INSIDE, mac_of(A).0.to_vec(), (CLIENT, 7001), (PUBLIC, 80));
    let outside = (OUTSIDE, mac_of(UPSTREAM).0.to_vec(), (PUBLIC, 80), (CLIENT, 7001));
    assert!(ends.len() == 2 && ends.contains(&inside) && ends.contains(&outside), "{ends:?}");
}

#[test]
fn an_instance_of_the_network_asks_a_frontend_that_floats_to_another_one() {
    let mut lab = Lab::new(3);
    // B leaves by the first frontend and asks the second.
    load(&mut lab, &[floating(SECOND_ID, Proto::Tcp, 80, &[1]), floating(SECOND_ID, Proto::Udp, 53, &[1])]);
    let syn = lab.pass(0, INSIDE, tcp(B, 9, SECOND, 80, SYN, 100, 0));
    assert_eq!((syn.src, syn.dst, syn.dst_port, card_of_last(&lab)), (PUBLIC, SECOND, 80, mac_of(A)));
    let back = |flags, seq, ack| by(mac_of(A), tcp(SECOND, 80, PUBLIC, syn.src_port, flags, seq, ack));
    assert_eq!(lab.out(0, by(mac_of(C), tcp(SECOND, 80, PUBLIC, syn.src_port, SYN | ACK, 500, 101))), SPOOFED);
    let answer = lab.pass(0, INSIDE, back(SYN | ACK, 500, 101));
    assert_eq!((answer.src, answer.src_port, answer.dst, answer.dst_port), (SECOND, 80, B, 9));
    assert_eq!(card_of_last(&lab), mac_of(B));
    let ack = lab.pass(0, INSIDE, tcp(B, 9, SECOND, 80, ACK, 101, 501));
    assert_eq!((ack.dst, card_of_last(&lab)), (SECOND, mac_of(A)));
    assert_eq!(flows(&lab).len(), 2);
    assert_eq!(lab.pass(0, INSIDE, back(ACK, 501, 101)).dst, B);
    // Datagrams, and an error about one that was turned.
    let asked = lab.pass(0, INSIDE, udp(B, 77, SECOND, 53));
    assert_eq!((asked.dst, card_of_last(&lab)), (SECOND, mac_of(A)));
    let came = udp_raw((PUBLIC, asked.src_port), (SECOND, 53), b"payload");
    let complaint = icmp_raw(SECOND, PUBLIC, [3, 3], [0; 4], &came.bytes());
    lab.sent.clear();
    lab.out(0, complaint.frame(A, SHARD));
    lab.sent.retain(|s| !s.is_arp());
    assert_eq!((lab.sent.len(), lab.sent[0].link, card_of_last(&lab)), (1, INSIDE, mac_of(B)));
    let quoted = udp_raw((B, 77), (SECOND, 53), b"payload");
    let wanted = Raw { ttl: 63, ..icmp_raw(SECOND, B, [3, 3], [0; 4], &quoted.bytes()) };
    assert_eq!(lab.sent[0].frame[L3..], wanted.bytes());
    lab.elect(1);
    lab.run(20);
    assert_eq!(lab.pass(1, INSIDE, tcp(B, 9, SECOND, 80, ACK, 101, 501)).dst, SECOND);
    assert_eq!(lab.pass(1, INSIDE, back(ACK, 501, 101)).dst, B);
    lab.assert_in_step();
}

#[test]
fn who_owns_the_shard_no_more_passes_on_what_its_log_has_and_repeats_it_in_grace() {
    let mut lab = lab(2, &[1]);
    connect(&mut lab, 7001, PUBLIC);
    lab.event(1, GroupEvent::Owner { shard: SHARD, term: Term(1), node: Some(NodeId(0)) });
    let own = links(1).mac_on(INSIDE).expect("it has one");
    let to_member = |mut frame: Vec<u8>| {
        frame[..6].copy_from_slice(&own.0);
        frame
    };
    assert_eq!(lab.out(1, to_member(said(mac_of(B), PUBLIC, 7001, ACK))), SPOOFED, "not passed on");
    assert_eq!(lab.out(1, to_member(said(mac_of(A), PUBLIC, 7002, ACK))), SPOOFED);
    lab.pass(1, INSIDE, to_member(said(mac_of(A), PUBLIC, 7001, ACK)));
    let passed_on = lab.sent[0].frame.clone();
    assert_eq!(passed_on[6..12], own.0, "by its own card");
    let left = lab.pass(0, INSIDE, passed_on);
    assert_eq!((left.src, left.src_port), (PUBLIC, 80));
    lab.cut_off_leader(1);
    let asked = lab.pass(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, ACK, 101, 501));
    assert_eq!((asked.dst, card_of_last(&lab)), (PUBLIC, mac_of(A)));
    assert_eq!(lab.pass(0, INSIDE, said(mac_of(A), PUBLIC, 7001, ACK)).src, PUBLIC);
    assert_eq!(lab.out(0, said(mac_of(B), PUBLIC, 7001, ACK)), SPOOFED);
}

#[test]
fn an_instance_may_ask_for_its_gateway_in_the_name_of_a_frontend_that_floats_and_of_no_other() {
    let mut lab = lab(1, &[1]);
    let mut asks = |ip: Ipv4Addr| {
        lab.sent.clear();
        lab.frame(0, INSIDE, arp(ArpOp::Request, mac_of(A), ip, Mac::BROADCAST, GATEWAY));
        let claims = lab.nodes[0].worker.claims().count();
        let replies = lab.sent.iter().filter_map(|sent| match parse(&sent.frame, &FrameMeta::default()) {
            Ok(Parsed::Arp(p)) if p.op == ArpOp::Reply => Some((p.sender_mac, p.eth_dst)),
            _ => None,
        });
        (claims, replies.collect::<Vec<_>>())
    };
    let (claims, replies) = asks(PUBLIC);
    assert_eq!((claims, replies.len()), (0, 1), "{replies:?}");
    let (claims, replies) = asks(PUBLIC_2);
    assert_eq!((claims, replies.len()), (1, 0), "a rogue");
}
