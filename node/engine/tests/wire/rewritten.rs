//! Rewriting: a translated frame equals, octet by octet, the frame built anew with the new addresses, whoever completes
//! the checksum.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use qnat_engine::ids::Mac;
use qnat_engine::wire::{FrameMeta, decrement_ttl, rewrite_destination, rewrite_source, set_ethernet};

use crate::accepted::parse_ip;
use crate::packets::{Kind, Packet, address, complete, mac, naive_sum, packet, port, put, word};

/// Changes to make; `None` leaves that end alone.
#[derive(Clone, Debug)]
struct Change {
    source: Option<(Ipv4Addr, u16)>,
    destination: Option<(Ipv4Addr, u16)>,
    eth: (Mac, Mac),
}

impl Change {
    fn on_frame(&self, frame: &mut [u8], meta: &FrameMeta) {
        let p = parse_ip(frame, meta);
        if let Some((ip, port)) = self.source {
            rewrite_source(frame, meta, &p, ip, port);
        }
        if let Some((ip, port)) = self.destination {
            rewrite_destination(frame, meta, &p, ip, port);
        }
        decrement_ttl(frame, p.l3);
        set_ethernet(frame, self.eth.0, self.eth.1);
    }

    fn on_packet(&self, packet: &mut Packet) {
        if let Some((ip, port)) = self.source {
            packet.src = ip;
            if packet.kind != Kind::EchoReply {
                packet.ports.0 = port;
            }
        }
        if let Some((ip, port)) = self.destination {
            packet.dst = ip;
            if packet.kind != Kind::EchoRequest {
                packet.ports.1 = port;
            }
        }
        packet.ttl = packet.ttl.saturating_sub(1);
        packet.eth = self.eth;
    }
}

fn change() -> impl Strategy<Value = Change> {
    let end = || prop::option::weighted(0.7, (address(), port()));
    (end(), end(), (mac(), mac())).prop_map(|(source, destination, eth)| Change { source, destination, eth })
}

/// Two frames are the same but for the two forms of zero in a transport checksum.
fn assert_same(got: &[u8], packet: &Packet) {
    let mut expected = packet.build();
    let field = packet.l4() + packet.checksum_offset();
    let zeros = [0x0000, 0xffff];
    if packet.kind != Kind::UdpWithoutChecksum
        && zeros.contains(&word(got, field))
        && zeros.contains(&word(&expected, field))
    {
        put(&mut expected, field, word(got, field));
    }
    assert_eq!(got, expected, "{packet:?}");
    if packet.kind == Kind::Udp {
        assert_ne!(word(got, field), 0, "0 would say that there is no checksum");
    }
    // And by the definition, so that both forms of zero are really right: the covered text sums to all ones.
    assert_eq!(naive_sum(&got[14..packet.l4()]), 0xffff);
    let end = got.len() - packet.padding;
    let mut text = got[packet.l4()..end].to_vec();
    match packet.kind {
        Kind::UdpWithoutChecksum => return,
        Kind::EchoRequest | Kind::EchoReply => {}
        Kind::Tcp { .. } | Kind::Udp => {
            let len = u16::try_from(text.len()).expect("fits a packet");
            // An odd last octet is padded before the pseudo header follows.
            text.resize(text.len().next_multiple_of(2), 0);
            text.extend(&got[26..34]);
            text.extend([0, got[23]]);
            text.extend(len.to_be_bytes());
        }
    }
    assert_eq!(naive_sum(&text), 0xffff);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn rewritten_frame_equals_the_one_built_anew(mut packet in packet(), change in change()) {
        let mut frame = packet.build();
        change.on_frame(&mut frame, &FrameMeta::default());
        change.on_packet(&mut packet);
        assert_same(&frame, &packet);
    }

    #[test]
    fn partial_checksum_completed_after_rewriting_is_right(mut packet in packet(), change in change()) {
        // A host that leaves the checksum to the device does not send it without one.
        if packet.kind == Kind::UdpWithoutChecksum {
            packet.kind = Kind::Udp;
        }
        let (mut frame, meta) = packet.build_partial();
        change.on_frame(&mut frame, &meta);
        complete(&mut frame, &meta);
        change.on_packet(&mut packet);
        assert_same(&frame, &packet);
    }

    #[test]
    fn translating_there_and_back_restores_the_frame(packet in packet(), ip in address(), port in port()) {
        let mut frame = packet.build();
        let meta = FrameMeta::default();
        let p = parse_ip(&frame, &meta);
        rewrite_source(&mut frame, &meta, &p, ip, port);
        rewrite_source(&mut frame, &meta, &p, packet.src, packet.ports.0);
        assert_same(&frame, &packet);
    }

    /// Identifiers chosen so that the checksum passes through zero.
    #[test]
    fn checksums_of_zero_stay_right(kind in prop::sample::select(vec![Kind::Udp, Kind::EchoRequest, Kind::EchoReply, Kind::Tcp { flags: 0x10, seq: 0, ack: 0 }]), payload in prop::collection::vec(any::<u8>(), 0..20)) {
        let mut packet = Packet { payload, ..Packet::of(kind) };
        let mut frame = packet.build();
        let meta = FrameMeta::default();
        let p = parse_ip(&frame, &meta);
        // Adding the checksum's value to the port makes the other octets sum to all ones.
        let field = word(&frame, packet.l4() + packet.checksum_offset());
        let to_zero = |port: u16| {
            let total = u32::from(port) + u32::from(field);
            u16::try_from(total % 0xffff).expect("below 0xffff")
        };
        if kind == Kind::EchoReply {
            packet.ports.1 = to_zero(packet.ports.1);
            rewrite_destination(&mut frame, &meta, &p, packet.dst, packet.ports.1);
        } else {
            packet.ports.0 = to_zero(packet.ports.0);
            rewrite_source(&mut frame, &meta, &p, packet.src, packet.ports.0);
        }
        prop_assert!([0, 0xffff].contains(&word(&frame, packet.l4() + packet.checksum_offset())));
        assert_same(&frame, &packet);
    }
}

#[test]
fn udp_without_checksum_stays_without() {
    let packet = Packet::of(Kind::UdpWithoutChecksum);
    let mut frame = packet.build();
    let p = parse_ip(&frame, &FrameMeta::default());
    rewrite_source(&mut frame, &FrameMeta::default(), &p, Ipv4Addr::new(203, 0, 113, 5), 1024);
    assert_eq!(word(&frame, packet.l4() + 6), 0);
}

#[test]
fn all_zero_echo_reply_gets_a_checksum_that_verifies() {
    // Identifier, sequence number and data zero: the one text whose sum is plain zero, so its checksum is 0xffff.
    let packet = Packet { payload: vec![0; 8], ..Packet::of(Kind::EchoReply) };
    let mut frame = packet.build();
    let l4 = packet.l4();
    put(&mut frame, l4 + 6, 0);
    put(&mut frame, l4 + 2, 0);
    let checksum = !naive_sum(&frame[l4..]);
    put(&mut frame, l4 + 2, checksum);
    let p = parse_ip(&frame, &FrameMeta::default());
    rewrite_destination(&mut frame, &FrameMeta::default(), &p, packet.dst, 0);
    assert_eq!(word(&frame, l4 + 2), 0xffff);
    assert_eq!(parse_ip(&frame, &FrameMeta::default()).dst_port, 0);
}

#[test]
fn super_packet_keeps_its_payload_and_a_right_checksum() {
    let mut packet = Packet::of(Kind::Tcp { flags: 0x18, seq: 7, ack: 9 });
    packet.payload = (0..65_495_u32).map(|n| n.to_be_bytes()[3]).collect();
    let (mut frame, meta) = packet.build_partial();
    let p = parse_ip(&frame, &meta);
    packet.src = Ipv4Addr::new(203, 0, 113, 5);
    packet.ports.0 = 65_535;
    rewrite_source(&mut frame, &meta, &p, packet.src, packet.ports.0);
    complete(&mut frame, &meta);
    assert_same(&frame, &packet);
}

#[test]
fn time_to_live_of_zero_does_not_wrap() {
    let packet = Packet { ttl: 0, ..Packet::syn() };
    let mut frame = packet.build();
    let p = parse_ip(&frame, &FrameMeta::default());
    decrement_ttl(&mut frame, p.l3);
    assert_eq!(frame, packet.build());
}
