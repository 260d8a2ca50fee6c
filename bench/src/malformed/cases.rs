//! The set: packets that a strict translator must not pass, and a few sound ones that show the way is open. Each carries
//! its own number as data where there is room. Pure.

use std::net::Ipv4Addr;

use qnat_reference::packet::{ETH, ICMP, TCP, UDP, icmp, ipv4, mend, tcp, udp};

/// From where a packet is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum From {
    /// The private network, towards the server.
    Inside,
    /// The server, towards the public address.
    Outside,
}

/// What must become of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Want {
    /// It is sound: translated, and sent on.
    Passed,
    /// Dropped.
    Dropped,
}

/// Addresses and the one mapping that is open when the set is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    /// The client's Ethernet address and the gateway's on its side.
    pub(super) inside: ([u8; 6], [u8; 6]),
    /// The server's and the gateway's on its side.
    pub(super) outside: ([u8; 6], [u8; 6]),
    /// The private host.
    pub(super) client: Ipv4Addr,
    /// Its public address.
    pub(super) public: Ipv4Addr,
    /// The server.
    pub(super) server: Ipv4Addr,
    /// Client and public port of an open UDP flow to port 7 of the server.
    pub(super) open: (u16, u16),
}

/// One packet.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// What is wrong with it.
    pub(super) name: &'static str,
    pub(super) from: From,
    pub(super) want: Want,
    pub(super) frame: Vec<u8>,
}

const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Makes the packets.
struct Maker {
    scene: Scene,
    cases: Vec<Case>,
    /// Source port of the next packet: each is a flow of its own.
    port: u16,
}

impl Maker {
    fn out(&mut self, name: &'static str, want: Want, make: impl FnOnce(&Scene, u16) -> Vec<u8>) {
        self.port += 1;
        let frame = make(&self.scene, self.port);
        self.cases.push(Case { name, from: From::Inside, want, frame });
    }

    fn back(&mut self, name: &'static str, want: Want, make: impl FnOnce(&Scene) -> Vec<u8>) {
        let frame = make(&self.scene);
        self.cases.push(Case { name, from: From::Outside, want, frame });
    }
}

fn to_server(s: &Scene, proto: u8, payload: &[u8]) -> Vec<u8> {
    ipv4(s.inside, s.client, s.server, proto, payload)
}

fn to_public(s: &Scene, proto: u8, payload: &[u8]) -> Vec<u8> {
    ipv4(s.outside, s.server, s.public, proto, payload)
}

fn segment(s: &Scene, port: u16, flags: u8) -> Vec<u8> {
    to_server(s, TCP, &tcp((port, 9), (1000, 2000), flags, &[], b""))
}

fn datagram(s: &Scene, port: u16) -> Vec<u8> {
    to_server(s, UDP, &udp(port, 7, b"malformed set"))
}

/// Changes the IP packet behind the Ethernet header; the header's checksum is made right again.
fn with_header(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut frame[ETH..]);
    let header = usize::from(frame[ETH] & 15).max(5) * 4;
    frame[ETH + 10..ETH + 12].fill(0);
    let end = (ETH + header).min(frame.len());
    let sum = qnat_reference::packet::checksum(qnat_reference::packet::sum(&frame[ETH..end], 0));
    frame[ETH + 10..ETH + 12].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn flipped(mut frame: Vec<u8>, at: usize) -> Vec<u8> {
    frame[ETH + at] ^= 0x55;
    frame
}

/// An ICMP error about a packet that the receiver could have sent.
fn error_about(kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    icmp(kind, code, [0; 4], &quoted[ETH..(ETH + 28).min(quoted.len())])
}

/// The whole set.
pub(super) fn all(scene: Scene) -> Vec<Case> {
    let mut make = Maker { scene, cases: Vec::new(), port: 30_000 };
    sound(&mut make);
    checksums_and_lengths(&mut make);
    meaning(&mut make);
    addresses(&mut make);
    fragments(&mut make);
    from_outside(&mut make);
    make.cases
}

fn sound(make: &mut Maker) {
    make.out("sound UDP", Want::Passed, datagram);
    make.out("sound SYN", Want::Passed, |s, port| segment(s, port, SYN));
    make.out("sound echo request", Want::Passed, |s, port| {
        let [a, b] = port.to_be_bytes();
        to_server(s, ICMP, &icmp(8, 0, [a, b, 0, 1], b"ping"))
    });
    make.out("UDP without source port (RFC 768)", Want::Passed, |s, _| to_server(s, UDP, &udp(0, 7, b"data")));
    make.out("UDP without checksum (RFC 768)", Want::Passed, |s, port| {
        let mut frame = datagram(s, port);
        frame[ETH + 26..ETH + 28].fill(0);
        frame
    });
}

fn checksums_and_lengths(make: &mut Maker) {
    make.out("IP header checksum wrong", Want::Dropped, |s, port| flipped(datagram(s, port), 10));
    make.out("UDP checksum wrong", Want::Dropped, |s, port| flipped(datagram(s, port), 26));
    make.out("TCP checksum wrong", Want::Dropped, |s, port| flipped(segment(s, port, SYN), 36));
    make.out("ICMP checksum wrong", Want::Dropped, |s, port| {
        let [a, b] = port.to_be_bytes();
        flipped(to_server(s, ICMP, &icmp(8, 0, [a, b, 0, 1], b"ping")), 22)
    });
    make.out("IP version 5", Want::Dropped, |s, port| with_header(datagram(s, port), |ip| ip[0] = 0x55));
    make.out("IP header of 16 bytes", Want::Dropped, |s, port| with_header(datagram(s, port), |ip| ip[0] = 0x44));
    make.out("IP length beyond the frame", Want::Dropped, |s, port| {
        with_header(datagram(s, port), |ip| ip[2..4].copy_from_slice(&900_u16.to_be_bytes()))
    });
    make.out("IP length below its header", Want::Dropped, |s, port| {
        with_header(datagram(s, port), |ip| ip[2..4].copy_from_slice(&19_u16.to_be_bytes()))
    });
    make.out("UDP length beyond the packet", Want::Dropped, |s, port| {
        let mut frame = datagram(s, port);
        frame[ETH + 24..ETH + 26].copy_from_slice(&200_u16.to_be_bytes());
        frame
    });
    make.out("UDP length of 4", Want::Dropped, |s, port| {
        let mut frame = datagram(s, port);
        frame[ETH + 24..ETH + 26].copy_from_slice(&4_u16.to_be_bytes());
        frame
    });
    make.out("UDP header cut off", Want::Dropped, |s, port| to_server(s, UDP, &udp(port, 7, b"")[..6]));
    make.out("TCP header cut off", Want::Dropped, |s, port| {
        to_server(s, TCP, &tcp((port, 9), (1, 0), SYN, &[], b"")[..12])
    });
    make.out("TCP data offset of 16 bytes", Want::Dropped, |s, port| changed_tcp(s, port, |t| t[12] = 0x40));
    make.out("TCP data offset beyond the packet", Want::Dropped, |s, port| changed_tcp(s, port, |t| t[12] = 0xf0));
}

/// A SYN whose TCP header is changed, checksum right.
fn changed_tcp(s: &Scene, port: u16, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = segment(s, port, SYN);
    change(&mut frame[ETH + 20..]);
    mend(&mut frame);
    frame
}

fn meaning(make: &mut Maker) {
    for (name, flags) in [
        ("TCP without flags", 0),
        ("TCP SYN and FIN", SYN | FIN),
        ("TCP SYN and RST", SYN | RST),
        ("TCP with all flags", 0x3f),
        ("TCP ACK without a connection", ACK),
        ("TCP FIN without a connection", FIN | ACK),
        ("TCP RST without a connection", RST),
        ("TCP RST and ACK without a connection", RST | ACK),
        ("TCP SYN and ACK without a connection", SYN | ACK),
    ] {
        make.out(name, Want::Dropped, move |s, port| segment(s, port, flags));
    }
    make.out("echo reply that nobody asked for", Want::Dropped, |s, port| {
        let [a, b] = port.to_be_bytes();
        to_server(s, ICMP, &icmp(0, 0, [a, b, 0, 1], b"pong"))
    });
    make.out("ICMP error about nothing", Want::Dropped, |s, _| to_server(s, ICMP, &icmp(3, 1, [0; 4], b"")));
    make.out("ICMP error about an unknown flow", Want::Dropped, |s, port| {
        let quoted = ipv4(s.inside, s.server, s.client, UDP, &udp(7, port, b"data"));
        to_server(s, ICMP, &error_about(3, 3, &quoted))
    });
    make.out("ICMP redirect", Want::Dropped, |s, port| {
        let quoted = ipv4(s.inside, s.server, s.client, UDP, &udp(7, port, b"data"));
        to_server(s, ICMP, &error_about(5, 1, &quoted))
    });
    make.out("ICMP of an unknown type", Want::Dropped, |s, _| to_server(s, ICMP, &icmp(200, 0, [0; 4], b"data")));
    make.out("ICMP timestamp reply", Want::Dropped, |s, _| to_server(s, ICMP, &icmp(14, 0, [0; 4], &[0; 12])));
    make.out("loose source route", Want::Dropped, |s, port| {
        let hop = s.public.octets();
        let options = [131, 7, 4, hop[0], hop[1], hop[2], hop[3], 0];
        let plain = datagram(s, port);
        let mut frame = plain[..ETH + 20].to_vec();
        frame.extend(options);
        frame.extend(&plain[ETH + 20..]);
        let total = u16::try_from(frame.len() - ETH).expect("short");
        frame[ETH] = 0x47;
        frame[ETH + 2..ETH + 4].copy_from_slice(&total.to_be_bytes());
        mend(&mut frame);
        frame
    });
    make.out("TTL 0", Want::Dropped, |s, port| with_header(datagram(s, port), |ip| ip[8] = 0));
    make.out("TTL 1", Want::Dropped, |s, port| with_header(datagram(s, port), |ip| ip[8] = 1));
}

fn addresses(make: &mut Maker) {
    let udp_from = |s: &Scene, source: Ipv4Addr, to: Ipv4Addr, port: u16| {
        ipv4(s.inside, source, to, UDP, &udp(port, 7, b"malformed set"))
    };
    for (name, source) in [
        ("source of a foreign network", Ipv4Addr::new(172, 16, 0, 1)),
        ("source 127.0.0.1", Ipv4Addr::LOCALHOST),
        ("source 0.0.0.0", Ipv4Addr::UNSPECIFIED),
        ("source is a multicast group", Ipv4Addr::new(224, 0, 0, 5)),
        ("source 255.255.255.255", Ipv4Addr::BROADCAST),
    ] {
        make.out(name, Want::Dropped, move |s, port| udp_from(s, source, s.server, port));
    }
    make.out("source is the public address", Want::Dropped, move |s, port| udp_from(s, s.public, s.server, port));
    make.out("source is the destination (land)", Want::Dropped, move |s, port| udp_from(s, s.server, s.server, port));
    make.out("destination 127.0.0.1", Want::Dropped, move |s, port| udp_from(s, s.client, Ipv4Addr::LOCALHOST, port));
    make.out("destination is a multicast group", Want::Dropped, move |s, port| {
        udp_from(s, s.client, Ipv4Addr::new(224, 0, 0, 5), port)
    });
    make.out("destination is the outside broadcast", Want::Dropped, move |s, port| {
        let [a, b, c, _] = s.server.octets();
        udp_from(s, s.client, Ipv4Addr::new(a, b, c, 255), port)
    });
}

fn fragments(make: &mut Maker) {
    let cut = |frame: Vec<u8>, from: usize, until: usize, more: bool| {
        let mut part = frame[..ETH + 20].to_vec();
        part.extend(&frame[ETH + 20 + from..(ETH + 20 + until).min(frame.len())]);
        let total = u16::try_from(part.len() - ETH).expect("short");
        part[ETH + 2..ETH + 4].copy_from_slice(&total.to_be_bytes());
        let field = u16::try_from(from / 8).expect("short") | if more { 0x2000 } else { 0 };
        part[ETH + 6..ETH + 8].copy_from_slice(&field.to_be_bytes());
        with_header(part, |_| ())
    };
    make.out("first fragment of 8 bytes of TCP", Want::Dropped, move |s, port| cut(segment(s, port, SYN), 0, 8, true));
    make.out("later fragment without its first", Want::Dropped, move |s, port| {
        cut(to_server(s, UDP, &udp(port, 7, &[7; 64])), 32, 72, false)
    });
    make.out("TCP fragment at offset 8", Want::Dropped, move |s, port| {
        cut(to_server(s, TCP, &tcp((port, 9), (1, 0), SYN, &[], &[7; 32])), 8, 52, false)
    });
    make.out("fragment that ends beyond 65,535", Want::Dropped, |s, port| {
        with_header(datagram(s, port), |ip| ip[6..8].copy_from_slice(&0x1fff_u16.to_be_bytes()))
    });
}

fn from_outside(make: &mut Maker) {
    make.back("sound reply to the open flow", Want::Passed, |s| to_public(s, UDP, &udp(7, s.open.1, b"reply")));
    make.back("reply with a wrong UDP checksum", Want::Dropped, |s| {
        flipped(to_public(s, UDP, &udp(7, s.open.1, b"reply")), 26)
    });
    make.back("reply from another port of the server", Want::Dropped, |s| {
        to_public(s, UDP, &udp(4242, s.open.1, b"reply"))
    });
    make.back("datagram to an unused public port", Want::Dropped, |s| {
        to_public(s, UDP, &udp(7, s.open.1 ^ 0x7ff, b"hello"))
    });
    make.back("SYN that nobody asked for", Want::Dropped, |s| {
        to_public(s, TCP, &tcp((5000, s.open.1), (1, 0), SYN, &[], b""))
    });
    make.back("RST that belongs to nothing", Want::Dropped, |s| {
        to_public(s, TCP, &tcp((9, s.open.1), (1, 0), RST, &[], b""))
    });
    make.back("ICMP error about an unknown flow", Want::Dropped, |s| {
        let quoted = ipv4(s.outside, s.public, s.server, UDP, &udp(s.open.1 ^ 0x7ff, 7, b"data"));
        to_public(s, ICMP, &error_about(3, 3, &quoted))
    });
    make.back("inside source from outside", Want::Dropped, |s| {
        ipv4(s.outside, s.client, s.public, UDP, &udp(7, s.open.1, b"hello"))
    });
    make.back("inside destination from outside", Want::Dropped, |s| {
        ipv4(s.outside, s.server, s.client, UDP, &udp(7, s.open.0, b"hello"))
    });
}
