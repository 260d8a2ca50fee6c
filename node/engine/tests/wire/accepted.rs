//! What is accepted, and what is read from it.

use std::net::Ipv4Addr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use qnat_engine::event::DropReason;
use qnat_engine::ids::Mac;
use qnat_engine::wire::{
    ArpOp, ArpPacket, ChecksumState, FrameMeta, Gso, IcmpKind, IpPacket, Parsed, Proto, TcpFlags, build_arp, parse,
};

use crate::packets::{Kind, L3, Packet, address, mac, packet, put};

pub(crate) fn parse_ip(frame: &[u8], meta: &FrameMeta) -> IpPacket {
    match parse(frame, meta) {
        Ok(Parsed::Ip(packet)) => packet,
        other => panic!("not accepted: {other:?}"),
    }
}

proptest! {
    #[test]
    fn fields_are_those_that_were_built_in(packet in packet()) {
        let frame = packet.build();
        let p = parse_ip(&frame, &FrameMeta::default());
        prop_assert_eq!((p.eth_src, p.eth_dst), packet.eth);
        prop_assert_eq!((p.src, p.dst, p.ttl), (packet.src, packet.dst, packet.ttl));
        prop_assert_eq!((p.src_port, p.dst_port), packet.ports);
        prop_assert_eq!((usize::from(p.l3), usize::from(p.l4)), (14, packet.l4()));
        prop_assert_eq!(usize::from(p.total_len) + 14 + packet.padding, frame.len());
        let (proto, icmp) = match packet.kind {
            Kind::Tcp { .. } => (Proto::Tcp, None),
            Kind::Udp | Kind::UdpWithoutChecksum => (Proto::Udp, None),
            Kind::EchoRequest => (Proto::Icmp, Some(IcmpKind::EchoRequest)),
            Kind::EchoReply => (Proto::Icmp, Some(IcmpKind::EchoReply)),
        };
        prop_assert_eq!((p.proto, p.icmp, p.tcp.is_some()), (proto, icmp, proto == Proto::Tcp));
        if let (Kind::Tcp { flags, seq, ack }, Some(tcp)) = (packet.kind, p.tcp) {
            prop_assert_eq!((tcp.flags, tcp.seq, tcp.ack), (TcpFlags(flags), seq, ack));
            prop_assert_eq!(usize::try_from(tcp.payload_len).expect("small"), packet.payload.len());
        }
    }

    #[test]
    fn partial_and_verified_frames_read_the_same(packet in packet()) {
        let plain = parse_ip(&packet.build(), &FrameMeta::default());
        let (frame, meta) = packet.build_partial();
        prop_assert_eq!(parse_ip(&frame, &meta), plain);
        let valid = FrameMeta { checksum: ChecksumState::Valid, ..FrameMeta::default() };
        prop_assert_eq!(parse_ip(&packet.build(), &valid), plain);
    }

    #[test]
    fn every_shorter_prefix_is_truncated(packet in packet()) {
        let frame = packet.build();
        for len in 0..frame.len() - packet.padding {
            prop_assert_eq!(parse(&frame[..len], &FrameMeta::default()), Err(DropReason::Truncated), "{} octets", len);
        }
    }

    /// Random octets seldom get past the first checks, so tampered packets with a mended header follow below.
    #[test]
    fn arbitrary_octets_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), kind in 0..3, partial in any::<(u16, u16)>()) {
        let mut frame = bytes;
        if kind > 0 && frame.len() >= 14 {
            put(&mut frame, 12, if kind == 1 { 0x0800 } else { 0x0806 });
        }
        for meta in metas(partial) {
            let _ = parse(&frame, &meta);
        }
    }

    #[test]
    fn what_is_accepted_of_tampered_packets_is_what_etherparse_reads(
        packet in packet(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        protocol in prop::option::weighted(0.2, prop::sample::select(&Proto::ALL[..])),
        cut in any::<prop::sample::Index>(),
        partial in any::<(u16, u16)>(),
    ) {
        let mut frame = packet.build();
        if let Some(protocol) = protocol {
            frame[L3 + 9] = protocol as u8;
        }
        // Mostly in the headers, where it matters.
        for (at, octet) in changes {
            let end = frame.len().min(packet.l4() + 20);
            frame[12 + at.index(end - 12)] = octet;
        }
        crate::packets::mend_ip(&mut frame);
        if cut.index(4) == 0 {
            frame.truncate(cut.index(frame.len()));
        }
        for meta in metas(partial) {
            if let Ok(Parsed::Ip(p)) = parse(&frame, &meta) {
                let sliced = SlicedPacket::from_ethernet(&frame).expect("accepted here, so well-formed there");
                let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4 there") };
                prop_assert_eq!((ip.header().source_addr(), ip.header().destination_addr()), (p.src, p.dst));
                prop_assert_eq!(ip.is_payload_fragmented(), p.fragment.is_some());
                if p.fragment.is_some() {
                    continue;
                }
                let ports = match sliced.transport {
                    Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
                    Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
                    Some(TransportSlice::Icmpv4(_)) => (p.src_port, p.dst_port),
                    // What is translated by its addresses alone it does not read: whole headers that say ports for SCTP only.
                    None if p.proto.is_by_address() => {
                        let carried = ip.payload().payload;
                        prop_assert_eq!(ip.header().protocol(), etherparse::IpNumber(p.proto as u8));
                        if p.proto.has_ports() {
                            prop_assert!(carried.len() >= 12);
                            (u16::from_be_bytes([carried[0], carried[1]]), u16::from_be_bytes([carried[2], carried[3]]))
                        } else {
                            (0, 0)
                        }
                    }
                    other => panic!("no transport there: {other:?}"),
                };
                prop_assert_eq!(ports, (p.src_port, p.dst_port));
            }
        }
    }

    #[test]
    fn built_arp_is_read_back(request in any::<bool>(), macs in (mac(), mac(), mac(), mac()), ips in (address(), address())) {
        let op = if request { ArpOp::Request } else { ArpOp::Reply };
        let mut frame = [0xaa; 60];
        build_arp(&mut frame, op, macs.0, macs.1, macs.2, ips.0, macs.3, ips.1);
        let expected = ArpPacket {
            op,
            sender_mac: macs.2,
            sender_ip: ips.0,
            target_mac: macs.3,
            target_ip: ips.1,
            eth_src: macs.0,
            eth_dst: macs.1,
        };
        prop_assert_eq!(parse(&frame, &FrameMeta::default()), Ok(Parsed::Arp(expected)));
        prop_assert_eq!(parse(&frame[..42], &FrameMeta::default()), Ok(Parsed::Arp(expected)), "padding is optional");
        prop_assert!(frame[42..].iter().all(|octet| *octet == 0));
        for len in 0..42 {
            prop_assert_eq!(parse(&frame[..len], &FrameMeta::default()), Err(DropReason::Truncated));
        }
        let sliced = SlicedPacket::from_ethernet(&frame).expect("etherparse reads it too");
        prop_assert!(matches!(sliced.net, Some(NetSlice::Arp(_))));
    }
}

fn metas((start, offset): (u16, u16)) -> [FrameMeta; 4] {
    let of = |checksum| FrameMeta { checksum, gso: Gso::None, header_len: 0, ..FrameMeta::default() };
    [
        of(ChecksumState::Unverified),
        of(ChecksumState::Valid),
        of(ChecksumState::Partial { start, offset }),
        of(ChecksumState::Partial { start: 34, offset: 16 }),
    ]
}

#[test]
fn arp_probe_with_unspecified_sender_is_accepted() {
    let mut frame = [0; 60];
    let (me, target) = (Mac([2, 0, 0, 0, 0, 9]), Ipv4Addr::new(10, 0, 0, 1));
    build_arp(&mut frame, ArpOp::Request, me, Mac::BROADCAST, me, Ipv4Addr::UNSPECIFIED, Mac::default(), target);
    let Ok(Parsed::Arp(arp)) = parse(&frame, &FrameMeta::default()) else { panic!("refused") };
    assert_eq!((arp.sender_ip, arp.target_ip), (Ipv4Addr::UNSPECIFIED, target));
}

#[test]
fn super_packet_of_64_kb_is_accepted() {
    let mut packet = Packet::of(Kind::Tcp { flags: 0x10, seq: 7, ack: 9 });
    packet.payload = vec![0x5a; 65_535 - 40];
    let (frame, meta) = packet.build_partial();
    let p = parse_ip(&frame, &FrameMeta { gso: Gso::Tcp4 { size: 1448 }, ..meta });
    assert_eq!((p.total_len, p.tcp.map(|tcp| tcp.payload_len)), (65_535, Some(65_495)));
    // Also when the checksum is to be verified.
    assert_eq!(parse_ip(&packet.build(), &FrameMeta::default()), p);
}

#[test]
fn udp_shorter_than_its_ip_payload_is_accepted_and_its_checksum_covers_only_itself() {
    let mut frame = Packet::of(Kind::Udp).build();
    let total = crate::packets::word(&frame, 16);
    frame.extend([0xde, 0xad]);
    put(&mut frame, 16, total + 2);
    crate::packets::mend_ip(&mut frame);
    assert_eq!(parse_ip(&frame, &FrameMeta::default()).total_len, total + 2);
}

#[test]
fn time_to_live_is_told_and_not_judged() {
    for ttl in [0, 1] {
        let packet = Packet { ttl, ..Packet::syn() };
        assert_eq!(parse_ip(&packet.build(), &FrameMeta::default()).ttl, ttl);
    }
}
