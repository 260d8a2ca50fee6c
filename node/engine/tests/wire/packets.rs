//! Packets to test with, built by etherparse, and a checksum straight from its definition.

use std::net::Ipv4Addr;

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options, PacketBuilder, TcpHeader,
};
use proptest::prelude::*;
use qnat_engine::ids::Mac;
use qnat_engine::wire::{ChecksumState, FrameMeta, Gso};

/// Where things stand in the frames of these tests.
pub(crate) const L3: usize = 14;

/// Transport part of a packet to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Flags as they stand in the header.
    Tcp {
        flags: u8,
        seq: u32,
        ack: u32,
    },
    Udp,
    /// Sent with checksum 0.
    UdpWithoutChecksum,
    EchoRequest,
    EchoReply,
}

/// A packet to build.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) kind: Kind,
    pub(crate) eth: (Mac, Mac),
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    /// For ICMP as `IpPacket` tells them: the identifier at its end, 0 at the other.
    pub(crate) ports: (u16, u16),
    pub(crate) ttl: u8,
    /// A whole number of 32-bit words.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// Zero octets behind the packet.
    pub(crate) padding: usize,
}

impl Packet {
    /// A packet that nothing is wrong with.
    pub(crate) fn of(kind: Kind) -> Self {
        let ports = match kind {
            Kind::EchoRequest => (4711, 0),
            Kind::EchoReply => (0, 4711),
            Kind::Tcp { .. } | Kind::Udp | Kind::UdpWithoutChecksum => (40_000, 443),
        };
        Self {
            kind,
            eth: (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])),
            src: Ipv4Addr::new(10, 0, 0, 4),
            dst: Ipv4Addr::new(192, 0, 2, 7),
            ports,
            ttl: 64,
            options: Vec::new(),
            payload: b"payload".to_vec(),
            padding: 0,
        }
    }

    pub(crate) fn syn() -> Self {
        Self::of(Kind::Tcp { flags: 0x02, seq: 1, ack: 0 })
    }

    /// Where the transport header stands in the frame.
    pub(crate) fn l4(&self) -> usize {
        L3 + 20 + self.options.len()
    }

    /// Where the transport checksum stands behind the transport header's start.
    pub(crate) fn checksum_offset(&self) -> usize {
        match self.kind {
            Kind::Tcp { .. } => 16,
            Kind::Udp | Kind::UdpWithoutChecksum => 6,
            Kind::EchoRequest | Kind::EchoReply => 2,
        }
    }

    /// The frame, as a host without offloads sends it.
    pub(crate) fn build(&self) -> Vec<u8> {
        let ip = Ipv4Header {
            identification: 0x1234,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: IpFragOffset::ZERO,
            time_to_live: self.ttl,
            protocol: IpNumber::TCP,
            source: self.src.octets(),
            destination: self.dst.octets(),
            options: Ipv4Options::try_from(&self.options[..]).expect("words of options"),
            ..Default::default()
        };
        let builder =
            PacketBuilder::ethernet2(self.eth.0.0, self.eth.1.0).ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()));
        let mut frame = Vec::new();
        let (src_port, dst_port) = self.ports;
        match self.kind {
            Kind::Tcp { flags, seq, ack } => {
                let mut tcp = TcpHeader::new(src_port, dst_port, seq, 1000);
                tcp.acknowledgment_number = ack;
                let bit = |n: u8| flags >> n & 1 == 1;
                (tcp.fin, tcp.syn, tcp.rst, tcp.psh) = (bit(0), bit(1), bit(2), bit(3));
                (tcp.ack, tcp.urg, tcp.ece, tcp.cwr) = (bit(4), bit(5), bit(6), bit(7));
                builder.tcp_header(tcp).write(&mut frame, &self.payload)
            }
            Kind::Udp | Kind::UdpWithoutChecksum => builder.udp(src_port, dst_port).write(&mut frame, &self.payload),
            Kind::EchoRequest => builder.icmpv4_echo_request(src_port, 3).write(&mut frame, &self.payload),
            Kind::EchoReply => builder.icmpv4_echo_reply(dst_port, 3).write(&mut frame, &self.payload),
        }
        .expect("written to memory");
        if self.kind == Kind::UdpWithoutChecksum {
            put(&mut frame, self.l4() + 6, 0);
        }
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    /// The frame as a host sends it that leaves the transport checksum to the device.
    pub(crate) fn build_partial(&self) -> (Vec<u8>, FrameMeta) {
        let (mut frame, l4) = (self.build(), self.l4());
        let field = match self.kind {
            Kind::EchoRequest | Kind::EchoReply => 0,
            Kind::Tcp { .. } | Kind::Udp | Kind::UdpWithoutChecksum => {
                let mut pseudo = frame[L3 + 12..L3 + 20].to_vec();
                let len = u16::try_from(frame.len() - self.padding - l4).expect("fits a packet");
                pseudo.extend([0, frame[L3 + 9]]);
                pseudo.extend(len.to_be_bytes());
                naive_sum(&pseudo)
            }
        };
        put(&mut frame, l4 + self.checksum_offset(), field);
        let at = |n: usize| u16::try_from(n).expect("within the headers");
        let checksum = ChecksumState::Partial { start: at(l4), offset: at(self.checksum_offset()) };
        (frame, FrameMeta { checksum, gso: Gso::None, header_len: 0, ..FrameMeta::default() })
    }
}

/// Completes a partial checksum as the kernel does (`skb_checksum_help`): the sum from `start` to the end of the frame,
/// complemented, 0xffff instead of 0, stored at `start + offset`.
pub(crate) fn complete(frame: &mut [u8], meta: &FrameMeta) {
    let ChecksumState::Partial { start, offset } = meta.checksum else { return };
    let (start, offset) = (usize::from(start), usize::from(offset));
    let checksum = !naive_sum(&frame[start..]);
    put(frame, start + offset, if checksum == 0 { 0xffff } else { checksum });
}

/// RFC 1071 by its definition.
pub(crate) fn naive_sum(bytes: &[u8]) -> u16 {
    let total: u64 =
        bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    // Congruent modulo 0xffff; only an all-zero text sums to plain zero.
    let rest = u16::try_from(total % 0xffff).expect("below 0xffff");
    if rest == 0 && total > 0 { 0xffff } else { rest }
}

/// Stores a 16-bit word.
pub(crate) fn put(frame: &mut [u8], at: usize, word: u16) {
    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

/// Reads a 16-bit word.
pub(crate) fn word(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Makes the IPv4 header's checksum right again after a header was tampered with.
pub(crate) fn mend_ip(frame: &mut [u8]) {
    let end = (L3 + usize::from(frame[L3] & 0x0f) * 4).min(frame.len());
    put(frame, L3 + 10, 0);
    let checksum = !naive_sum(&frame[L3..end]);
    put(frame, L3 + 10, checksum);
}

/// Unicast addresses that may be a source.
pub(crate) fn address() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>()
        .prop_map(Ipv4Addr::from)
        .prop_filter("may be a source", |ip| !matches!(ip.octets()[0], 0 | 127 | 224..))
}

pub(crate) fn mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_map(|[first, rest @ ..]| {
        let [b, c, d, e, f] = rest;
        Mac([first & 0xfe, b, c, d, e, f])
    })
}

/// Ports, with the ends of their range often.
pub(crate) fn port() -> impl Strategy<Value = u16> {
    prop_oneof![8 => any::<u16>(), 1 => Just(0), 1 => Just(u16::MAX)]
}

fn kind() -> impl Strategy<Value = Kind> {
    let flags = prop::sample::select(vec![0x02_u8, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0xc2, 0x39]);
    prop_oneof![
        3 => (flags, any::<u32>(), any::<u32>()).prop_map(|(flags, seq, ack)| Kind::Tcp { flags, seq, ack }),
        2 => Just(Kind::Udp),
        1 => Just(Kind::UdpWithoutChecksum),
        1 => Just(Kind::EchoRequest),
        1 => Just(Kind::EchoReply),
    ]
}

/// Any packet that is to be accepted.
pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let options =
        prop::sample::select(vec![vec![], vec![1, 1, 1, 0], vec![148, 4, 0, 0], vec![1, 148, 4, 0, 0, 0, 0, 0]]);
    let payload = prop_oneof![prop::collection::vec(any::<u8>(), 0..300), prop::collection::vec(0xfe_u8.., 0..40)];
    (kind(), (mac(), mac()), (address(), address()), (port(), port()), any::<u8>(), options, payload, 0_usize..20)
        .prop_filter("not land", |(_, _, (src, dst), ..)| src != dst)
        .prop_map(|(kind, eth, (src, dst), (sport, dport), ttl, options, payload, padding)| {
            let ports = match kind {
                Kind::EchoRequest => (sport, 0),
                Kind::EchoReply => (0, dport),
                Kind::Tcp { .. } | Kind::Udp | Kind::UdpWithoutChecksum => (sport, dport),
            };
            Packet { kind, eth, src, dst, ports, ttl, options, payload, padding }
        })
}
