//! ICMP errors: turned back into what the receiver sent, or dropped; they touch no mapping.

use std::net::Ipv4Addr;

use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::*;
use qnat_engine::status::FlowState;

/// A router on the way.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 33);

fn error(from: Ipv4Addr, to: Ipv4Addr, head: [u8; 2], rest: [u8; 4], quote: &[u8]) -> Raw {
    icmp_raw(from, to, head, rest, quote)
}

/// From a router outside, about `quoted`, of which `keep` octets of payload are left.
fn error_in(quoted: &Raw, keep: usize) -> Vec<u8> {
    let mut quote = quoted.bytes();
    quote.truncate(20 + quoted.options.len() + keep);
    error(ROUTER, quoted.src, [11, 0], [0; 4], &quote).frame(UPSTREAM, SHARD)
}

/// A quote with `keep` octets of payload. The first half of a checksum cannot be mended without the second: it is the one
/// of `before`.
fn cut(packet: &Raw, before: &Raw, keep: usize) -> Vec<u8> {
    let mut quote = packet.bytes();
    quote.truncate(20 + packet.options.len() + keep);
    if packet.proto == TCP && keep == 17 {
        *quote.last_mut().expect("at least a header") = before.payload[16];
    }
    quote
}

fn only_frame(lab: &mut Lab, link: Link, frame: Vec<u8>) -> (Link, Vec<u8>) {
    lab.sent.clear();
    let verdict = lab.frame(0, link, frame);
    lab.sent.retain(|s| !s.is_arp());
    assert_eq!(lab.sent.len(), 1, "one packet leaves, verdict {verdict:?}");
    (lab.sent[0].link, lab.sent[0].frame.clone())
}

/// The packet that leaves, all of it: what was sent, with other addresses and one hop less.
fn expect(lab: &mut Lab, link: Link, sent: Vec<u8>, wanted: &Raw) {
    let (left, frame) = only_frame(lab, link, sent);
    assert_ne!(left, link);
    assert_eq!(frame[L3..], wanted.bytes(), "{:02x?}", frame);
}

fn state(lab: &Lab) -> Vec<FlowState> {
    lab.nodes[0].worker.view().dump_flows(lab.now, Some(SHARD), 10).into_iter().map(|f| f.state).collect()
}

/// A flow of each protocol: what A sends, and what of it is seen outside.
fn flows(lab: &mut Lab) -> Vec<(Raw, Raw)> {
    let mut all = Vec::new();
    for proto in [UDP, TCP, ICMP] {
        let of = |src, port| match proto {
            UDP => udp_raw((src, port), (REMOTE, 53), b"odd"),
            TCP => tcp_raw((src, port), (REMOTE, 80), SYN, b""),
            _ => echo(src, REMOTE, 8, port, b"ping"),
        };
        let frame = of(A, 5000).frame(A, SHARD);
        let left = lab.pass(0, INSIDE, frame);
        assert_eq!(left.src, PUBLIC);
        all.push((of(A, 5000), of(PUBLIC, left.src_port)));
    }
    all
}

#[test]
fn errors_from_outside_are_about_what_the_backend_sent_however_much_they_quote() {
    let mut lab = Lab::new(1);
    for (inner, outer) in flows(&mut lab) {
        for options in [vec![], vec![1, 1, 1, 0], vec![148, 4, 0, 0]] {
            let [inner, mut outer] = [&inner, &outer].map(|p| Raw { options: options.clone(), ..p.clone() });
            // A router quotes what it has made of it.
            outer.ttl = 1;
            let inner = Raw { ttl: 1, ..inner };
            for keep in 8..=outer.payload.len() {
                let quote = cut(&inner, &outer, keep);
                let wanted = Raw { ttl: 63, ..error(ROUTER, A, [11, 0], [0; 4], &quote) };
                expect(&mut lab, OUTSIDE, error_in(&outer, keep), &wanted);
            }
            for keep in 0..8 {
                assert_eq!(lab.frame(0, OUTSIDE, error_in(&outer, keep)), Verdict::Drop(DropReason::Truncated));
            }
        }
    }
}

#[test]
fn every_kind_of_error_passes_and_keeps_its_code_and_its_mtu() {
    let mut lab = Lab::new(1);
    let (inner, outer) = flows(&mut lab).remove(0);
    for head in [[3, 0], [3, 1], [3, 3], [3, 4], [3, 13], [11, 0], [11, 1], [12, 0]] {
        let rest = [0, 0, 5, 0];
        let wanted = Raw { ttl: 63, ..error(ROUTER, A, head, rest, &inner.bytes()) };
        let sent = error(ROUTER, PUBLIC, head, rest, &outer.bytes()).frame(UPSTREAM, SHARD);
        expect(&mut lab, OUTSIDE, sent, &wanted);
    }
    for (head, reason) in [
        ([4, 0], DropReason::UnknownProtocol),
        ([5, 1], DropReason::UnknownProtocol),
        ([3, 16], DropReason::Malformed),
        ([11, 2], DropReason::Malformed),
    ] {
        let sent = error(ROUTER, PUBLIC, head, [0; 4], &outer.bytes()).frame(UPSTREAM, SHARD);
        assert_eq!(lab.frame(0, OUTSIDE, sent), Verdict::Drop(reason), "{head:?}");
    }
}

#[test]
fn extensions_behind_a_quote_stay_as_they_are() {
    let mut lab = Lab::new(1);
    let (inner, outer) = flows(&mut lab).remove(0);
    // RFC 4884: 32 words of quote, padded, then an extension that names an address of its own.
    let extended = |packet: &Raw| {
        let mut quote = packet.bytes();
        quote.resize(128, 0);
        quote.extend([0x20, 0, 0xde, 0xad, 0, 8, 1, 1, 0, 0x12, 0x31, 0x40]);
        quote
    };
    let rest = [0, 32, 0, 0];
    let sent = error(ROUTER, PUBLIC, [11, 0], rest, &extended(&outer)).frame(UPSTREAM, SHARD);
    let wanted = Raw { ttl: 63, ..error(ROUTER, A, [11, 0], rest, &extended(&inner)) };
    expect(&mut lab, OUTSIDE, sent, &wanted);
    // A quote that ends before its transport header, or behind the message.
    for (words, reason) in [(6, DropReason::Truncated), (255, DropReason::Malformed)] {
        let sent = error(ROUTER, PUBLIC, [11, 0], [0, words, 0, 0], &extended(&outer)).frame(UPSTREAM, SHARD);
        assert_eq!(lab.frame(0, OUTSIDE, sent), Verdict::Drop(reason));
    }
}

#[test]
fn errors_from_inside_leave_under_the_public_address_and_name_it_alone() {
    let mut lab = Lab::new(1);
    for (inner, outer) in flows(&mut lab) {
        // The answer that A complains about, as A saw it and as the remote sent it.
        let answer = |to: Ipv4Addr, out: &Raw| match out.proto {
            UDP => udp_raw((REMOTE, 53), (to, word(&out.payload, 0)), b"answer"),
            TCP => tcp_raw((REMOTE, 80), (to, word(&out.payload, 0)), SYN | ACK, b""),
            _ => echo(REMOTE, to, 0, word(&out.payload, 4), b"ping"),
        };
        let (inner, outer) = (answer(A, &inner), answer(PUBLIC, &outer));
        for keep in 8..=inner.payload.len() {
            let sent = error(A, REMOTE, [3, 3], [0; 4], &cut(&inner, &inner, keep)).frame(A, SHARD);
            let wanted = Raw { ttl: 63, ..error(PUBLIC, REMOTE, [3, 3], [0; 4], &cut(&outer, &inner, keep)) };
            expect(&mut lab, INSIDE, sent, &wanted);
        }
    }
}

#[test]
fn errors_that_match_nothing_are_dropped() {
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    lab.pass(0, INSIDE, udp(B, 5000, REMOTE, 53));
    let stranger = Ipv4Addr::new(198, 51, 100, 99);
    let about = |src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)| udp_raw(src, dst, b"x");
    let inwards = |to: Ipv4Addr, quote: Raw| error(ROUTER, to, [3, 1], [0; 4], &quote.bytes()).frame(UPSTREAM, SHARD);
    let later = Raw { fragment: 1, ..about((PUBLIC, port), (REMOTE, 53)) };
    let nested = error(PUBLIC, REMOTE, [3, 3], [0; 4], &about((REMOTE, 53), (PUBLIC, port)).bytes());
    let mut wrong = about((PUBLIC, port), (REMOTE, 53)).bytes();
    wrong[8] ^= 1;
    let cases = [
        (inwards(PUBLIC, about((PUBLIC, port), (REMOTE, 54))), DropReason::NoMapping),
        (inwards(PUBLIC, about((PUBLIC, port ^ 1), (stranger, 53))), DropReason::NoMapping),
        (inwards(PUBLIC, about((stranger, port), (REMOTE, 53))), DropReason::IcmpQuote),
        (inwards(PUBLIC, later), DropReason::IcmpQuote),
        (inwards(PUBLIC, nested), DropReason::IcmpQuote),
        (inwards(PUBLIC, echo(PUBLIC, REMOTE, 0, port, b"")), DropReason::IcmpQuote),
        (inwards(PUBLIC, Raw::new(PUBLIC, REMOTE, 51, vec![0; 20])), DropReason::IcmpQuote),
        (inwards(PUBLIC, Raw::new(PUBLIC, REMOTE, 47, vec![0; 20])), DropReason::NoMapping),
        (error(ROUTER, PUBLIC, [3, 1], [0; 4], &wrong).frame(UPSTREAM, SHARD), DropReason::BadChecksum),
        (
            inwards(PUBLIC, Raw { options: vec![7, 4, 4, 0], ..about((PUBLIC, port), (REMOTE, 53)) }),
            DropReason::IpOptions,
        ),
        (
            Raw { ttl: 1, ..error(ROUTER, PUBLIC, [3, 1], [0; 4], &about((PUBLIC, port), (REMOTE, 53)).bytes()) }
                .frame(UPSTREAM, SHARD),
            DropReason::TtlExpired,
        ),
    ];
    for (i, (frame, reason)) in cases.into_iter().enumerate() {
        assert_eq!(lab.frame(0, OUTSIDE, frame), Verdict::Drop(reason), "inwards, case {i}");
    }
    let outwards =
        |from: Ipv4Addr, to: Ipv4Addr, quote: Raw| error(from, to, [3, 3], [0; 4], &quote.bytes()).frame(from, SHARD);
    let cases = [
        (outwards(A, REMOTE, about((REMOTE, 53), (A, 5001))), DropReason::NoMapping),
        // B must not end A's connections, nor the other way round.
        (outwards(B, REMOTE, about((REMOTE, 53), (A, 5000))), DropReason::IcmpQuote),
        (outwards(A, stranger, about((REMOTE, 53), (A, 5000))), DropReason::IcmpQuote),
        (outwards(A, REMOTE, echo(REMOTE, A, 8, 5000, b"")), DropReason::IcmpQuote),
        (outwards(A, B, about((B, 53), (A, 5000))), DropReason::PrivateDestination),
        (
            outwards(Ipv4Addr::new(10, 0, 0, 99), REMOTE, about((REMOTE, 53), (Ipv4Addr::new(10, 0, 0, 99), 5000))),
            DropReason::SpoofedSource,
        ),
    ];
    for (i, (frame, reason)) in cases.into_iter().enumerate() {
        assert_eq!(lab.frame(0, INSIDE, frame), Verdict::Drop(reason), "outwards, case {i}");
    }
}

#[test]
fn errors_neither_end_nor_refresh_a_mapping() {
    let mut lab = Lab::new(1);
    let all = flows(&mut lab);
    lab.run(120_000);
    for (_, outer) in &all {
        only_frame(&mut lab, OUTSIDE, error_in(outer, 8));
    }
    assert_eq!(state(&lab), [FlowState::Live; 3], "R9: not ended");
    lab.run(123_000);
    assert!(state(&lab).iter().all(|state| matches!(state, FlowState::Held(_))), "R9: not refreshed");
}

#[test]
fn an_error_reaches_the_owner_through_another_member_and_an_orphan_still_passes_it() {
    let mut lab = Lab::new(2);
    let left = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    let quoted = udp_raw((PUBLIC, left.src_port), (REMOTE, 53), b"payload");
    let mut frame = error_in(&quoted, 8);
    frame[..6].copy_from_slice(&links(1).outside.0);
    lab.sent.clear();
    lab.frame(1, OUTSIDE, frame);
    assert_eq!(lab.sent[0].authority, qnat_engine::event::Authority::Forward);
    let forwarded = lab.sent[0].frame.clone();
    let (link, frame) = only_frame(&mut lab, OUTSIDE, forwarded);
    assert_eq!((link, &frame[30..34]), (INSIDE, &A.octets()[..]));
    lab.cut_off_leader(1);
    let (link, frame) = only_frame(&mut lab, OUTSIDE, error_in(&quoted, 8));
    assert_eq!(
        (link, &frame[6..12]),
        (INSIDE, &links(0).mac_on(INSIDE).expect("it has one").0[..]),
        "L4, M1: from its own MAC"
    );
}
