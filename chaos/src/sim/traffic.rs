//! Frames of backends and of the remote: UDP, TCP, ICMP echo and SCTP over IPv4, and ARP. Every packet says in its payload which
//! backend and port it belongs to.

use std::net::Ipv4Addr;

use engine::ids::{Mac, VnetId};
use engine::wire::checksum;
use engine::wire::{ArpOp, ArpPacket, IcmpKind, IpPacket, Proto, TcpFlags, build_arp};

use super::addresses::Host;

/// The remote that answers everything.
pub(super) const REMOTE: (Ipv4Addr, Mac) = (Ipv4Addr::new(203, 0, 113, 10), Mac([2, 0, 0, 0, 0, 9]));
/// Hops that packets have before them.
pub(super) const TTL: u8 = 64;
/// And the port at which it does.
pub(super) const REMOTE_PORT: u16 = 7;
const PAYLOAD: usize = 20;

/// Who began what a packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Sender {
    /// A backend; its answers say the same.
    Backend,
    /// A client, with this number of its connection, who sends it.
    Client(u32),
    /// The same, and its server sends it.
    Server(u32),
    /// An instance that talks to another one, with this number of its connection, and sends it.
    Caller(u32),
    /// The same, and the other one sends it.
    Callee(u32),
}

impl Sender {
    /// The number of a connection that somebody begins by this packet or goes on with, and what its answers say.
    pub(super) const fn answer(self) -> Option<(u32, Self)> {
        match self {
            Self::Client(number) => Some((number, Self::Server(number))),
            Self::Caller(number) => Some((number, Self::Callee(number))),
            Self::Backend | Self::Server(_) | Self::Callee(_) => None,
        }
    }
}

/// What a packet says of itself: of the backend that began its flow, or of its sender.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Tag {
    pub(super) sender: Sender,
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) sent_ns: u64,
}

impl Tag {
    pub(super) fn encode(&self) -> [u8; PAYLOAD] {
        let mut out = [0; PAYLOAD];
        out[..4].copy_from_slice(&self.host.ip.octets());
        out[6] = self.host.network.0.to_le_bytes()[0];
        out[4..6].copy_from_slice(&self.port.to_be_bytes());
        let (kind, number) = match self.sender {
            Sender::Backend => (0, 0),
            Sender::Client(number) => (1, number),
            Sender::Server(number) => (2, number),
            Sender::Caller(number) => (3, number),
            Sender::Callee(number) => (4, number),
        };
        out[7] = kind;
        out[8..16].copy_from_slice(&self.sent_ns.to_be_bytes());
        out[16..].copy_from_slice(&number.to_be_bytes());
        out
    }

    /// The last bytes of a packet of ours.
    pub(super) fn of(frame: &[u8], packet: &IpPacket) -> Option<Self> {
        let tag = data(frame, packet)?;
        let number = u32::from_be_bytes(tag[16..].try_into().ok()?);
        Some(Self {
            sender: match tag[7] {
                0 => Sender::Backend,
                1 => Sender::Client(number),
                2 => Sender::Server(number),
                3 => Sender::Caller(number),
                _ => Sender::Callee(number),
            },
            host: Host { network: VnetId(tag[6].into()), ip: Ipv4Addr::new(tag[0], tag[1], tag[2], tag[3]) },
            port: u16::from_be_bytes([tag[4], tag[5]]),
            sent_ns: u64::from_be_bytes(tag[8..16].try_into().ok()?),
        })
    }
}

/// The data of a packet of ours.
pub(super) fn data<'a>(frame: &'a [u8], packet: &IpPacket) -> Option<&'a [u8]> {
    let end = usize::from(packet.l3) + usize::from(packet.total_len);
    frame.get(end.checked_sub(PAYLOAD)?..end)
}

/// The transport header of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transport {
    Udp {
        sport: u16,
        dport: u16,
    },
    Tcp {
        sport: u16,
        dport: u16,
        flags: TcpFlags,
        seq: u32,
        ack: u32,
    },
    Echo {
        kind: u8,
        id: u16,
    },
    /// Of a protocol that is translated by address alone.
    Bare {
        proto: Proto,
        sport: u16,
        dport: u16,
    },
}

impl Transport {
    /// That of a datagram.
    pub(super) const fn datagram(proto: Proto, sport: u16, dport: u16) -> Self {
        if proto.is_by_address() { Self::Bare { proto, sport, dport } } else { Self::Udp { sport, dport } }
    }
}

/// A frame from `eth.0` and `ip.0` to `eth.1` and `ip.1`.
pub(super) fn frame(eth: (Mac, Mac), ip: (Ipv4Addr, Ipv4Addr), transport: Transport, tag: &Tag) -> Vec<u8> {
    let mut l4 = Vec::with_capacity(20 + PAYLOAD);
    let (number, sum_at) = match transport {
        Transport::Udp { sport, dport } => {
            let len = u16::try_from(8 + PAYLOAD).expect("short");
            for word in [sport, dport, len, 0] {
                l4.extend_from_slice(&word.to_be_bytes());
            }
            (17, Some(6))
        }
        Transport::Tcp { sport, dport, flags, seq, ack } => {
            l4.extend_from_slice(&sport.to_be_bytes());
            l4.extend_from_slice(&dport.to_be_bytes());
            l4.extend_from_slice(&seq.to_be_bytes());
            l4.extend_from_slice(&ack.to_be_bytes());
            l4.extend_from_slice(&[0x50, flags.0, 0x20, 0, 0, 0, 0, 0]);
            (6, Some(16))
        }
        Transport::Echo { kind, id } => {
            l4.extend_from_slice(&[kind, 0, 0, 0]);
            l4.extend_from_slice(&id.to_be_bytes());
            l4.extend_from_slice(&[0, 1]);
            (1, Some(2))
        }
        Transport::Bare { proto, sport, dport } => {
            l4.extend_from_slice(&sport.to_be_bytes());
            l4.extend_from_slice(&dport.to_be_bytes());
            l4.extend_from_slice(&[0; 8]);
            (proto as u8, None)
        }
    };
    l4.extend_from_slice(&tag.encode());
    let len = u16::try_from(l4.len()).expect("short");
    let mut sum = checksum::sum(&l4);
    if number != 1 {
        sum = checksum::add(sum, checksum::pseudo_header(ip.0, ip.1, number, len));
    }
    if let Some(at) = sum_at {
        l4[at..at + 2].copy_from_slice(&(!sum).to_be_bytes());
    }
    let mut head = [0; 20];
    head[0] = 0x45;
    head[2..4].copy_from_slice(&(20 + len).to_be_bytes());
    head[8] = TTL;
    head[9] = number;
    head[12..16].copy_from_slice(&ip.0.octets());
    head[16..20].copy_from_slice(&ip.1.octets());
    let sum = !checksum::sum(&head);
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut out = Vec::with_capacity(14 + 20 + l4.len());
    out.extend_from_slice(&eth.1.0);
    out.extend_from_slice(&eth.0.0);
    out.extend_from_slice(&[8, 0]);
    out.extend_from_slice(&head);
    out.extend_from_slice(&l4);
    out
}

/// The remote's answer to a packet, if it has one.
pub(super) fn answer(packet: &IpPacket, tag: &Tag, to: Mac) -> Option<Vec<u8>> {
    let (sport, dport) = (packet.dst_port, packet.src_port);
    let transport = match (packet.proto, &packet.tcp, packet.icmp) {
        (Proto::Udp, _, _) => Transport::Udp { sport, dport },
        (Proto::Icmp, _, Some(IcmpKind::EchoRequest)) => Transport::Echo { kind: 0, id: packet.src_port },
        (Proto::Tcp, Some(tcp), _) if !tcp.flags.contains(TcpFlags::RST) => {
            let syn = tcp.flags.contains(TcpFlags::SYN);
            let fin = tcp.flags.contains(TcpFlags::FIN);
            let flags = TcpFlags(
                TcpFlags::ACK.0 | if syn { TcpFlags::SYN.0 } else { 0 } | if fin { TcpFlags::FIN.0 } else { 0 },
            );
            let ack = tcp.seq.wrapping_add(tcp.payload_len).wrapping_add(u32::from(syn) + u32::from(fin));
            Transport::Tcp { sport, dport, flags, seq: if syn { 1 } else { tcp.ack }, ack }
        }
        (Proto::Tcp | Proto::Icmp, _, _) => return None,
        (proto @ (Proto::Gre | Proto::Esp | Proto::Sctp), _, _) => Transport::Bare { proto, sport, dport },
    };
    Some(frame((REMOTE.1, to), (packet.dst, packet.src), transport, tag))
}

/// A connection or a stream of datagrams of one backend.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) proto: Proto,
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) answered: bool,
    pub(super) over: bool,
    left: u32,
    resets: bool,
    seq: u32,
    ack: u32,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Opening,
    Open,
    Closing,
}

impl Flow {
    pub(super) fn new(proto: Proto, host: Host, port: u16, packets: u32, resets: bool) -> Self {
        let seq = u32::from(port) << 8;
        let phase = Phase::Opening;
        Self { proto, host, port, answered: false, over: false, left: packets, resets, seq, ack: 0, phase }
    }

    /// The next packet, to the gateway, and what it says of itself.
    pub(super) fn next(&mut self, now_ns: u64, gateway: Mac) -> (Tag, Vec<u8>) {
        let tag = Tag { sender: Sender::Backend, host: self.host, port: self.port, sent_ns: now_ns };
        let (sport, dport) = (self.port, REMOTE_PORT);
        let transport = match self.proto {
            Proto::Udp => Transport::Udp { sport, dport },
            Proto::Icmp => Transport::Echo { kind: 8, id: sport },
            proto @ (Proto::Gre | Proto::Esp | Proto::Sctp) => Transport::Bare { proto, sport, dport },
            Proto::Tcp => {
                let flags = match self.phase {
                    Phase::Opening => TcpFlags::SYN,
                    Phase::Open if self.left == 0 && self.resets => TcpFlags(TcpFlags::RST.0 | TcpFlags::ACK.0),
                    Phase::Open if self.left == 0 => TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0),
                    Phase::Open => TcpFlags::ACK,
                    Phase::Closing => TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0),
                };
                if flags.contains(TcpFlags::FIN) {
                    self.phase = Phase::Closing;
                }
                if flags.contains(TcpFlags::RST) {
                    self.over = true;
                }
                Transport::Tcp { sport, dport, flags, seq: self.seq, ack: self.ack }
            }
        };
        self.left = self.left.saturating_sub(1);
        if self.proto != Proto::Tcp && self.left == 0 {
            self.over = true;
        }
        (tag, frame((self.host.mac(), gateway), (self.host.ip, REMOTE.0), transport, &tag))
    }

    /// An answer arrived.
    pub(super) fn heard(&mut self, packet: &IpPacket) {
        self.answered = true;
        let Some(tcp) = &packet.tcp else { return };
        let (syn, fin) = (tcp.flags.contains(TcpFlags::SYN), tcp.flags.contains(TcpFlags::FIN));
        let end = tcp.seq.wrapping_add(tcp.payload_len).wrapping_add(u32::from(syn) + u32::from(fin));
        self.seq = self.seq.max(tcp.ack);
        self.ack = self.ack.max(end);
        match self.phase {
            Phase::Opening if syn => self.phase = Phase::Open,
            Phase::Closing if fin => self.over = true,
            Phase::Opening | Phase::Open | Phase::Closing => {}
        }
    }
}

/// The answer of the host that has `ip` to a request for it.
pub(super) fn arp_answer(request: &ArpPacket, ip: Ipv4Addr, mac: Mac) -> Option<Vec<u8>> {
    if request.op != ArpOp::Request || request.target_ip != ip {
        return None;
    }
    let mut out = [0; 60];
    build_arp(&mut out, ArpOp::Reply, mac, request.sender_mac, mac, ip, request.sender_mac, request.sender_ip);
    Some(out.to_vec())
}
