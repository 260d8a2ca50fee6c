//! Clients that open connections, from outside by inbound rules or from instance to instance, the servers that they reach, and
//! their packets. What is sent and when is said in `entering.rs` and `peers.rs`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine::ids::Mac;
use engine::record::Proto;
use engine::wire::{IpPacket, TcpFields, TcpFlags};
use words::SplitMix;

use super::addresses::Host;
use super::params::MS;
use super::traffic::{Sender, Tag, Transport, frame};

/// The first of their addresses.
const FIRST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 100);
/// A client that hears nothing for so many packets gives up.
const PATIENCE: u32 = 30;
/// When a server repeats what nobody has acknowledged, and how often.
const REPEAT_NS: u64 = 200 * MS;
const REPEATS: u8 = 2;

/// An address and a port.
pub(super) type End = (Ipv4Addr, u16);

/// The address of a client; those from 28 on answer nobody.
pub(super) fn client(n: u8) -> Ipv4Addr {
    let [a, b, c, d] = FIRST.octets();
    Ipv4Addr::new(a, b, c, d + n)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Opening,
    Open,
    Closing,
}

/// A connection of a client, or a stream of its datagrams.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) number: u32,
    pub(super) proto: Proto,
    /// Where it is, outside or inside, and its port.
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) to: End,
    /// It stays open as long as the run lasts.
    pub(super) stays: bool,
    /// Its server has answered more than that it may begin, at any time and since it was asked last.
    pub(super) open: bool,
    pub(super) answered: bool,
    pub(super) over: bool,
    left: u32,
    unheard: u32,
    seq: u32,
    ack: u32,
    phase: Phase,
}

impl Client {
    pub(super) fn new(number: u32, host: Host, (proto, port, to): (Proto, u16, End), packets: u32) -> Self {
        let seq = number << 12;
        let stays = packets == u32::MAX;
        let (open, answered, over) = (false, false, false);
        Self {
            number,
            proto,
            host,
            port,
            to,
            stays,
            open,
            answered,
            over,
            left: packets,
            unheard: 0,
            seq,
            ack: 0,
            phase: Phase::Opening,
        }
    }

    /// Whether its next packet is only a wish to begin.
    pub(super) fn begins(&self) -> bool {
        self.proto == Proto::Tcp && self.phase == Phase::Opening
    }

    /// The next packet, to the gateway, and what it says of itself.
    pub(super) fn next(&mut self, now_ns: u64, gateway: Mac) -> (Tag, Vec<u8>) {
        let sender = if self.host.is_outside() { Sender::Client(self.number) } else { Sender::Caller(self.number) };
        let tag = Tag { sender, host: self.host, port: self.port, sent_ns: now_ns };
        let (sport, dport) = (self.port, self.to.1);
        let transport = match self.proto {
            Proto::Tcp => {
                if self.phase == Phase::Open && self.left == 0 {
                    self.phase = Phase::Closing;
                }
                let flags = match self.phase {
                    Phase::Opening => TcpFlags::SYN,
                    Phase::Open => TcpFlags::ACK,
                    Phase::Closing => TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0),
                };
                Transport::Tcp { sport, dport, flags, seq: self.seq, ack: self.ack }
            }
            proto @ (Proto::Udp | Proto::Icmp | Proto::Gre | Proto::Esp | Proto::Sctp) => {
                Transport::datagram(proto, sport, dport)
            }
        };
        if !self.stays {
            self.left = self.left.saturating_sub(1);
            self.unheard += 1;
            self.over |= self.unheard > PATIENCE || (self.proto != Proto::Tcp && self.left == 0);
        }
        (tag, frame((self.host.mac(), gateway), (self.host.ip, self.to.0), transport, &tag))
    }

    /// An answer arrived.
    pub(super) fn heard(&mut self, packet: &IpPacket) {
        self.unheard = 0;
        let Some(tcp) = &packet.tcp else {
            (self.open, self.answered) = (true, true);
            return;
        };
        let has = |flag| tcp.flags.contains(flag);
        if has(TcpFlags::RST) {
            self.over = true;
            return;
        }
        self.seq = self.seq.max(tcp.ack);
        self.ack = self.ack.max(end_of(tcp));
        match self.phase {
            Phase::Opening if has(TcpFlags::SYN) => self.phase = Phase::Open,
            Phase::Closing if has(TcpFlags::FIN) => self.over = true,
            Phase::Open if !has(TcpFlags::SYN) => (self.open, self.answered) = (true, true),
            Phase::Opening | Phase::Open | Phase::Closing => {}
        }
    }
}

/// All clients outside, and the servers that they reach.
#[derive(Debug, Default)]
pub(super) struct Entering {
    pub(super) clients: Vec<Client>,
    pub(super) calm: Vec<Client>,
    pub(super) servers: Servers,
    /// The number of the last connection, of those between instances too.
    pub(super) next: u32,
    /// That when the last turn of the end began.
    pub(super) last_before_turn: u32,
}

/// All connections between instances.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) all: Vec<Client>,
    pub(super) calm: Vec<Client>,
}

/// The number after a segment.
fn end_of(tcp: &TcpFields) -> u32 {
    let marks = u32::from(tcp.flags.contains(TcpFlags::SYN)) + u32::from(tcp.flags.contains(TcpFlags::FIN));
    tcp.seq.wrapping_add(tcp.payload_len).wrapping_add(marks)
}

/// What a server knows of a connection.
#[derive(Clone, Copy, Debug)]
struct Conn {
    ends: (End, End),
    sender: Sender,
    seq: u32,
    ack: u32,
    open: bool,
    /// When it says again that it may begin, and how often it still does.
    again: (u64, u8),
}

/// The servers on all hosts.
#[derive(Debug, Default)]
pub(super) struct Servers(BTreeMap<(u32, Host), Conn>);

impl Servers {
    /// What the server on `host` answers to a client's packet. A segment of no connection is reset (RFC 9293 3.5.2).
    pub(super) fn heard(
        &mut self,
        now_ns: u64,
        (host, gateway): (Host, Mac),
        packet: &IpPacket,
        asked: Sender,
    ) -> Option<(Tag, Vec<u8>)> {
        let (number, sender) = asked.answer()?;
        let ends = ((packet.dst, packet.dst_port), (packet.src, packet.src_port));
        let say = |transport| Some(said(now_ns, (host, gateway), ends, sender, transport));
        let (sport, dport) = (packet.dst_port, packet.src_port);
        let Some(tcp) = &packet.tcp else { return say(Transport::datagram(packet.proto, sport, dport)) };
        let has = |flag| tcp.flags.contains(flag);
        if has(TcpFlags::RST) {
            self.0.remove(&(number, host));
            return None;
        }
        if has(TcpFlags::SYN) {
            let seq = u32::try_from(SplitMix::mix(u64::from(number) << 32 ^ u64::from(u32::from(host.ip))) >> 33)
                .expect("31 bits");
            let again = (now_ns + REPEAT_NS, REPEATS);
            let conn = Conn { ends, sender, seq, ack: end_of(tcp), open: false, again };
            let conn = *self.0.entry((number, host)).or_insert(conn);
            return say(conn.greeting());
        }
        let Some(conn) = self.0.get_mut(&(number, host)) else {
            let flags = TcpFlags(TcpFlags::RST.0 | TcpFlags::ACK.0);
            return say(Transport::Tcp { sport, dport, flags, seq: tcp.ack, ack: end_of(tcp) });
        };
        conn.open = true;
        conn.ack = conn.ack.max(end_of(tcp));
        let fin = if has(TcpFlags::FIN) { TcpFlags::FIN.0 } else { 0 };
        let flags = TcpFlags(TcpFlags::ACK.0 | fin);
        say(Transport::Tcp { sport, dport, flags, seq: tcp.ack, ack: conn.ack })
    }

    /// What is repeated now, and from which host.
    pub(super) fn repeat(
        &mut self,
        now_ns: u64,
        gateway: impl Fn(&Host) -> Option<Mac>,
    ) -> Vec<(Host, Mac, (Tag, Vec<u8>))> {
        let mut all = Vec::new();
        for ((_, host), conn) in &mut self.0 {
            let Some(gateway) = gateway(host).filter(|_| !conn.open && conn.again.1 > 0 && conn.again.0 <= now_ns)
            else {
                continue;
            };
            conn.again = (now_ns + REPEAT_NS, conn.again.1 - 1);
            all.push((*host, gateway, said(now_ns, (*host, gateway), conn.ends, conn.sender, conn.greeting())));
        }
        all
    }
}

impl Conn {
    /// The answer to a SYN.
    const fn greeting(&self) -> Transport {
        let flags = TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0);
        Transport::Tcp { sport: self.ends.0.1, dport: self.ends.1.1, flags, seq: self.seq, ack: self.ack }
    }
}

/// A packet of a server to a client, from the address that this one asked: another than the host's own, where a rule floats.
fn said(
    now_ns: u64,
    (host, gateway): (Host, Mac),
    (own, client): (End, End),
    sender: Sender,
    transport: Transport,
) -> (Tag, Vec<u8>) {
    let tag = Tag { sender, host, port: own.1, sent_ns: now_ns };
    (tag, frame((host.mac(), gateway), (own.0, client.0), transport, &tag))
}
