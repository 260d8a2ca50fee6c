//! Each kind of bad input is dropped by its own reason.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use qnat_engine::event::DropReason;
use qnat_engine::ids::Mac;
use qnat_engine::wire::{ArpOp, ChecksumState, FrameMeta, Gso, build_arp, parse};

use crate::packets::{Kind, L3, Packet, mend_ip, packet, put, word};

const KINDS: [Kind; 4] = [Kind::Tcp { flags: 0x10, seq: 1, ack: 2 }, Kind::Udp, Kind::EchoRequest, Kind::EchoReply];

fn reason(frame: &[u8]) -> DropReason {
    parse(frame, &FrameMeta::default()).expect_err("must be refused")
}

/// The packet's frame, tampered with, its IPv4 header mended.
fn tampered(packet: &Packet, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = packet.build();
    change(&mut frame);
    mend_ip(&mut frame);
    frame
}

proptest! {
    /// One's-complement sums find every single-bit error in a text; those in a length that says how far the text goes are
    /// found by luck alone, and are left to the tests of each length.
    #[test]
    fn any_flipped_bit_behind_the_ethernet_header_is_refused(packet in packet(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut frame = packet.build();
        let l4 = packet.l4();
        let covered = match packet.kind {
            // Without a checksum only the IP header is guarded.
            Kind::UdpWithoutChecksum => l4,
            Kind::Tcp { .. } | Kind::Udp | Kind::EchoRequest | Kind::EchoReply => frame.len() - packet.padding,
        };
        let at = L3 + at.index(covered - L3);
        let is_length = at == L3 || (packet.kind == Kind::Udp && (l4 + 4..l4 + 6).contains(&at));
        prop_assume!(!is_length);
        frame[at] ^= 1_u8 << bit;
        // UDP with its checksum turned into 0 has none: the one change that the protocol cannot notice.
        let lost_checksum = packet.kind == Kind::Udp && word(&frame, l4 + 6) == 0;
        prop_assume!(!lost_checksum);
        prop_assert!(parse(&frame, &FrameMeta::default()).is_err());
    }
}

#[test]
fn other_ether_types_are_refused_by_name() {
    let mut frame = Packet::syn().build();
    for (ether_type, expected) in [
        (0x86dd, DropReason::Ipv6),
        (0x8100, DropReason::UnknownEtherType),
        (0x88a8, DropReason::UnknownEtherType),
        (0x05dc, DropReason::UnknownEtherType),
        (0x8847, DropReason::UnknownEtherType),
    ] {
        put(&mut frame, 12, ether_type);
        assert_eq!(reason(&frame), expected, "{ether_type:#06x}");
    }
}

#[test]
fn group_address_as_ethernet_source_is_malformed() {
    let packet = Packet { eth: (Mac::BROADCAST, Mac([2, 0, 0, 0, 0, 2])), ..Packet::syn() };
    assert_eq!(reason(&packet.build()), DropReason::Malformed);
}

#[test]
fn wrong_version_or_header_length_is_malformed() {
    for first in [0x65, 0x05, 0x44, 0x40] {
        assert_eq!(reason(&tampered(&Packet::syn(), |f| f[L3] = first)), DropReason::Malformed, "{first:#04x}");
    }
}

#[test]
fn header_length_beyond_the_packet_is_malformed() {
    let short = Packet { payload: Vec::new(), ..Packet::of(Kind::Udp) };
    // 28 octets of packet, 60 of header.
    assert_eq!(reason(&tampered(&short, |f| f[L3] = 0x4f)), DropReason::Malformed);
}

#[test]
fn total_length_below_the_header_or_zero_is_malformed() {
    for total in [0, 1, 19] {
        assert_eq!(reason(&tampered(&Packet::syn(), |f| put(f, 16, total))), DropReason::Malformed, "{total}");
    }
    // Zero marks a packet above 64 KB; those are not understood, and said to be what they are if the device marks them.
    let frame = tampered(&Packet::syn(), |f| put(f, 16, 0));
    let meta = FrameMeta {
        checksum: ChecksumState::Valid,
        gso: Gso::Tcp4 { size: 1448 },
        header_len: 54,
        ..FrameMeta::default()
    };
    assert_eq!(parse(&frame, &meta), Err(DropReason::SuperPacket));
}

#[test]
fn total_length_beyond_the_frame_is_truncated() {
    let frame = tampered(&Packet::syn(), |f| {
        let total = word(f, 16);
        put(f, 16, total + 1);
    });
    assert_eq!(reason(&frame), DropReason::Truncated);
}

#[test]
fn wrong_ip_checksum_is_refused_even_from_a_trusted_device() {
    let mut frame = Packet::syn().build();
    frame[L3 + 10] ^= 0x40;
    for checksum in [ChecksumState::Unverified, ChecksumState::Valid, ChecksumState::Partial { start: 34, offset: 16 }]
    {
        assert_eq!(parse(&frame, &FrameMeta { checksum, ..FrameMeta::default() }), Err(DropReason::BadChecksum));
    }
}

#[test]
fn wrong_transport_checksum_is_refused_unless_the_device_verified_it() {
    for kind in KINDS {
        let mut frame = Packet::of(kind).build();
        *frame.last_mut().expect("not empty") ^= 1;
        assert_eq!(reason(&frame), DropReason::BadChecksum, "{kind:?}");
        let valid = FrameMeta { checksum: ChecksumState::Valid, ..FrameMeta::default() };
        assert!(parse(&frame, &valid).is_ok(), "{kind:?}");
    }
}

#[test]
fn partial_checksum_elsewhere_than_in_the_header_is_malformed() {
    for kind in KINDS {
        let (frame, meta) = Packet::of(kind).build_partial();
        let ChecksumState::Partial { start, offset } = meta.checksum else { unreachable!("built partial") };
        for wrong in [
            ChecksumState::Partial { start: start + 2, offset },
            ChecksumState::Partial { start, offset: offset + 2 },
            ChecksumState::Partial { start: u16::MAX, offset: u16::MAX },
        ] {
            assert_eq!(parse(&frame, &FrameMeta { checksum: wrong, ..meta }), Err(DropReason::Malformed), "{wrong:?}");
        }
    }
}

#[test]
fn segmentation_of_another_protocol_is_malformed() {
    for kind in KINDS {
        for gso in [Gso::Tcp4 { size: 1400 }, Gso::Udp { size: 1400 }] {
            let fits = matches!((kind, gso), (Kind::Tcp { .. }, Gso::Tcp4 { .. }) | (Kind::Udp, Gso::Udp { .. }));
            let outcome = parse(&Packet::of(kind).build(), &FrameMeta { gso, ..FrameMeta::default() });
            assert_eq!(outcome.err(), (!fits).then_some(DropReason::Malformed), "{kind:?} {gso:?}");
        }
    }
}

#[test]
fn fragments_whose_place_makes_no_sense_are_malformed() {
    // Not the last, but 27 octets long; behind the end of any datagram.
    for word in [0x2000, 0x6000, 0x2003, 0x1fff, 0x1ffd] {
        assert_eq!(reason(&tampered(&Packet::syn(), |f| put(f, L3 + 6, word))), DropReason::Malformed, "{word:#06x}");
    }
    let empty = tampered(&Packet::syn(), |f| {
        put(f, L3 + 2, 20);
        put(f, L3 + 6, 3);
    });
    assert_eq!(reason(&empty), DropReason::Malformed);
}

#[test]
fn fragments_that_hide_or_replace_a_transport_header_are_refused() {
    // RFC 1858: the flags in the second fragment. RFC 3128: a second fragment over them.
    for (kind, len, start) in [
        (Kind::Tcp { flags: 2, seq: 1, ack: 0 }, 8, 0),
        (Kind::Tcp { flags: 2, seq: 1, ack: 0 }, 16, 0),
        (Kind::Tcp { flags: 2, seq: 1, ack: 0 }, 16, 1),
        (Kind::Tcp { flags: 2, seq: 1, ack: 0 }, 16, 2),
    ] {
        let frame = tampered(&Packet::of(kind), |f| {
            put(f, L3 + 2, 20 + len);
            put(f, L3 + 6, 0x2000 + start);
        });
        assert_eq!(reason(&frame), DropReason::FragmentTiny, "{kind:?}, {len} octets at {start}");
    }
}

#[test]
fn fragments_that_a_device_is_to_finish_are_malformed() {
    let packet = Packet { payload: vec![0; 24], ..Packet::of(Kind::Udp) };
    let (mut frame, meta) = packet.build_partial();
    put(&mut frame, L3 + 6, 0x2000);
    mend_ip(&mut frame);
    assert_eq!(parse(&frame, &meta), Err(DropReason::Malformed));
    assert!(parse(&frame, &FrameMeta::default()).is_ok());
    let meta = FrameMeta { gso: Gso::Udp { size: 8 }, ..FrameMeta::default() };
    assert_eq!(parse(&frame, &meta), Err(DropReason::Malformed));
}

#[test]
fn options_that_carry_addresses_are_refused() {
    // Loose and strict source route, record route, timestamp, traceroute, stream identifier, an unknown one.
    for kind in [131, 137, 7, 68, 82, 136, 0x5e] {
        let bare = Packet { options: vec![kind, 4, 4, 0], ..Packet::syn() };
        assert_eq!(reason(&bare.build()), DropReason::IpOptions, "{kind}");
        let hidden = Packet { options: vec![1, 1, kind, 3, 4, 1, 1, 0], ..Packet::syn() };
        assert_eq!(reason(&hidden.build()), DropReason::IpOptions, "{kind} behind padding");
    }
}

#[test]
fn options_with_wrong_lengths_are_malformed() {
    for options in [vec![1, 1, 1, 7], vec![7, 0, 0, 0], vec![7, 1, 0, 0], vec![7, 5, 0, 0], vec![148, 255, 0, 0]] {
        let packet = Packet { options: options.clone(), ..Packet::syn() };
        assert_eq!(reason(&packet.build()), DropReason::Malformed, "{options:?}");
    }
}

#[test]
fn nothing_behind_the_end_of_options_is_judged() {
    let packet = Packet { options: vec![1, 0, 7, 0], ..Packet::syn() };
    assert!(parse(&packet.build(), &FrameMeta::default()).is_ok());
}

#[test]
fn addresses_that_name_no_host_are_spoofed_as_source_and_not_judged_as_destination() {
    for octets in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [239, 9, 9, 9], [240, 0, 0, 1], [255; 4]]
    {
        let ip = Ipv4Addr::from(octets);
        assert_eq!(reason(&Packet { src: ip, ..Packet::syn() }.build()), DropReason::SpoofedSource, "{ip}");
        assert!(parse(&Packet { dst: ip, ..Packet::syn() }.build(), &FrameMeta::default()).is_ok(), "{ip}");
    }
}

#[test]
fn land_packet_is_malformed() {
    for kind in KINDS {
        let packet = Packet { dst: Packet::of(kind).src, ..Packet::of(kind) };
        assert_eq!(reason(&packet.build()), DropReason::Malformed);
    }
}

#[test]
fn other_protocols_are_refused_as_such() {
    for protocol in [0, 2, 4, 33, 41, 51, 58, 136, 255] {
        assert_eq!(
            reason(&tampered(&Packet::syn(), |f| f[L3 + 9] = protocol)),
            DropReason::UnknownProtocol,
            "{protocol}"
        );
    }
}

#[test]
fn icmp_that_is_neither_echo_nor_error_is_unknown_and_an_unknown_code_malformed() {
    for (kind, code, expected) in [
        (4, 0, DropReason::UnknownProtocol),
        (5, 1, DropReason::UnknownProtocol),
        (3, 16, DropReason::Malformed),
        (11, 2, DropReason::Malformed),
        (12, 3, DropReason::Malformed),
        (13, 0, DropReason::UnknownProtocol),
        (8, 1, DropReason::Malformed),
        (0, 9, DropReason::Malformed),
    ] {
        let packet = Packet::of(Kind::EchoRequest);
        let mut frame = packet.build();
        let l4 = packet.l4();
        let (old, new) = (word(&frame, l4), u16::from_be_bytes([kind, code]));
        // The checksum of a changed word, straight from the definition of the sum.
        put(&mut frame, l4, new);
        put(&mut frame, l4 + 2, 0);
        let checksum = !crate::packets::naive_sum(&frame[l4..]);
        put(&mut frame, l4 + 2, checksum);
        assert_ne!(old, new);
        assert_eq!(reason(&frame), expected, "type {kind} code {code}");
        // A wrong checksum is found before the type is looked at.
        put(&mut frame, l4 + 2, !checksum);
        assert_eq!(reason(&frame), DropReason::BadChecksum, "type {kind} code {code}");
    }
}

#[test]
fn packets_too_short_for_their_transport_header_are_truncated() {
    for (kind, header) in KINDS.into_iter().zip([20, 8, 8, 8]) {
        for len in 0..header {
            let packet = Packet::of(kind);
            let frame = tampered(&packet, |f| {
                f.truncate(packet.l4() + usize::from(len));
                put(f, 16, 20 + len);
            });
            assert_eq!(reason(&frame), DropReason::Truncated, "{kind:?} {len}");
        }
    }
}

#[test]
fn wrong_tcp_data_offset_is_malformed() {
    let packet = Packet::syn();
    for words in [0, 4, 7, 15] {
        let frame = tampered(&packet, |f| f[packet.l4() + 12] = words << 4);
        assert_eq!(reason(&frame), DropReason::Malformed, "{words} words of 27 octets");
    }
}

#[test]
fn wrong_udp_length_is_malformed() {
    let packet = Packet::of(Kind::Udp);
    for len in [0, 7, 16, u16::MAX] {
        assert_eq!(reason(&tampered(&packet, |f| put(f, packet.l4() + 4, len))), DropReason::Malformed, "{len} of 15");
    }
    // The frame's padding does not count.
    let padded = Packet { padding: 10, ..packet.clone() };
    assert_eq!(reason(&tampered(&padded, |f| put(f, padded.l4() + 4, 16))), DropReason::Malformed);
}

#[test]
fn flags_that_no_stack_sends_are_refused_after_the_checksum() {
    // Null, Xmas, all, SYN+FIN, SYN+RST, lone FIN.
    for flags in [0x00, 0x29, 0x3f, 0x03, 0x06, 0x01] {
        let packet = Packet::of(Kind::Tcp { flags, seq: 1, ack: 1 });
        let mut frame = packet.build();
        assert_eq!(reason(&frame), DropReason::BadFlags, "{flags:#04x}");
        frame[packet.l4() + 4] ^= 1;
        assert_eq!(reason(&frame), DropReason::BadChecksum, "{flags:#04x}");
    }
}

#[test]
fn arp_for_other_media_or_of_other_kinds_is_malformed() {
    let me = Mac([2, 0, 0, 0, 0, 9]);
    let mut good = [0; 60];
    let (a, b) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1));
    build_arp(&mut good, ArpOp::Request, me, Mac::BROADCAST, me, a, Mac::default(), b);
    // Hardware type, protocol type, both lengths, operations 0 and 3, a group address as sender.
    for (at, octet) in [(15, 6), (16, 0x86), (18, 8), (19, 16), (21, 0), (21, 3), (20, 1), (22, 0x01)] {
        let mut frame = good;
        frame[at] = octet;
        assert_eq!(reason(&frame), DropReason::Malformed, "octet {at} = {octet}");
    }
}
