//! What happens in a run, drawn at random: few hosts, ports and numbers, so that packets meet.

use std::net::Ipv4Addr;

use engine::ids::Side;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use qnat_reference::bed::{BACKENDS, lease_of};
use qnat_reference::connection::{ACK, FIN, RST, SYN, Segment};
use qnat_reference::guard::{Door, Guard};
use qnat_reference::packet::{ICMP, TCP, UDP};
use qnat_reference::sent::{Complaint, Packet};
use qnat_reference::world::{OWN, OWNER, Rule, World};

const REMOTES: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(198, 51, 100, 8)];
/// Ports of the backend that has an address of its own.
const OWN_PORTS: [u16; 3] = [22, 80, 5000];
/// The last is well known, and its flows may end sooner (D26).
const SERVICES: [u16; 3] = [80, 8443, 53];

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A backend sends.
    Out(Packet),
    /// Somebody outside does, to a public port.
    In(Packet),
    /// Between the ends of one of the flows that there are: from this side.
    Of(Side, Index, Packet),
    /// To the public port of one of them, from another service of its remote, or from this packet's remote.
    Aside(Index, Packet, bool),
    /// Between the ends of what a remote has begun at an own address: from this side.
    OfHalf(Side, Index, Packet),
    /// To the public end of one of them, from a backend.
    Turn(Index, Packet),
    /// A backend's packet, or one of a flow, comes by the other network.
    Astray(Option<Index>, Packet),
    /// An error about a packet that anybody may have sent, or about one of a flow.
    Complaint(Side, Complaint),
    ComplaintOf(Side, Index, Complaint),
    /// A backend complains about what a remote has begun.
    ComplaintOfHalf(Index, Complaint),
    /// A datagram comes in fragments of so many octets: they are on their way from now on.
    Split(Side, Option<Index>, Packet, u16),
    /// One of those on their way arrives: as it is or so many octets further on, and perhaps again later.
    Piece(Index, u16, bool),
    Wait(u64),
    /// The other member becomes the owner.
    Takeover,
}

pub(crate) fn public_ports() -> std::ops::Range<u16> {
    lease_of(0).start..lease_of(BACKENDS.len() - 1).end
}

/// One of several worlds; the plain one first, since that is where shrinking goes.
pub(crate) fn world() -> impl Strategy<Value = World> {
    let rule = || select(&Rule::ALL[..]);
    let rules = prop_oneof![rule().prop_map(|rule| [rule; 4]), [rule(), rule(), rule(), rule()],];
    let mtu = || prop_oneof![4 => Just(1500_u16), 1 => 576_u16..1500];
    let mss = prop_oneof![Just(0_u16), 536_u16..1460];
    let quotas = prop_oneof![6 => Just((1 << 20, 100_000)), 1 => (10_u32..60, Just(100_000_u32)), 1 => (Just(1 << 20), select(&[4_u32, 10, 25][..]))];
    let own = prop_oneof![Just(None), guard().prop_map(Some)];
    (rules, own, [mtu(), mtu()], mss, quotas).prop_map(|(mut rules, own, mtu, mss_max, (flows_max, rate_max))| {
        if own.is_some() {
            // An outbound rule speaks of its pool's ports only.
            rules[OWNER] = Rule::default();
        }
        World { rules, own, mtu, mss_max, flows_max, rate_max }
    })
}

fn guard() -> impl Strategy<Value = Guard> {
    let proto = prop_oneof![Just(None), select(&[TCP, UDP][..]).prop_map(Some)];
    let from = prop_oneof![Just(None), select(&REMOTES[..]).prop_map(Some)];
    let port = prop_oneof![2 => Just(None), 1 => select(&OWN_PORTS[..]).prop_map(Some)];
    let door = (any::<bool>(), proto, from, port);
    let door = door.prop_map(|(open, proto, from, port)| Door { open, proto, from, port });
    let doors = [prop::option::of(door.clone()), prop::option::of(door)];
    prop_oneof![
        1 => Just(Guard::OPEN),
        1 => (doors, prop::bool::weighted(0.7)).prop_map(|(doors, others)| Guard { doors, others })
    ]
}

pub(crate) fn packet(near: impl Strategy<Value = u16>) -> impl Strategy<Value = Packet> {
    let proto = prop_oneof![4 => Just(UDP), 1 => Just(ICMP)];
    let ends = (0..BACKENDS.len(), near, select(&REMOTES[..]), select(&SERVICES[..]));
    let len = prop_oneof![15 => 0_u16..24, 1 => 500_u16..1480];
    let ttl = prop_oneof![30 => Just(64_u8), 2 => any::<u8>(), 1 => 0_u8..3];
    (proto, ends, any::<u8>(), len, ttl, (prop::bool::weighted(0.3), prop::bool::weighted(0.1)), any::<u16>()).prop_map(
        |(proto, (backend, near, remote, service), mark, len, ttl, (whole, unsummed), id)| Packet {
            proto,
            backend,
            near,
            remote,
            // Echo has no port: to the model it is one service.
            service: if proto == ICMP { 0 } else { service },
            mark,
            len,
            ttl,
            whole,
            unsummed,
            id,
            ..Packet::default()
        },
    )
}

/// Few numbers, so that segments follow each other, overlap and hit what is expected.
fn segment(seq: std::ops::Range<u32>, ack: std::ops::Range<u32>) -> impl Strategy<Value = Segment> {
    let flags = prop_oneof![
        3 => Just(SYN),
        3 => Just(SYN | ACK),
        8 => Just(ACK),
        3 => Just(FIN | ACK),
        1 => Just(RST),
        1 => Just(RST | ACK),
    ];
    let parts = (flags, seq, ack, 0..3_u32);
    parts.prop_map(|(flags, seq, ack, len)| Segment { flags, seq, ack, len: if flags & RST == 0 { len } else { 0 } })
}

fn with_segment(
    near: impl Strategy<Value = u16>,
    segment: impl Strategy<Value = Segment>,
) -> impl Strategy<Value = Packet> {
    let mss = (0_u8..5, 400_u16..1500);
    (packet(near), segment, mss).prop_map(|(packet, segment, mss)| Packet {
        proto: TCP,
        service: if packet.service == 53 { 443 } else { 80 },
        mss: (segment.flags & SYN != 0 && packet.mark > 30).then_some(mss),
        segment,
        ..packet
    })
}

pub(crate) fn from_backend() -> impl Strategy<Value = Packet> {
    with_segment(5000..5003_u16, segment(100..106, 500..506))
}

pub(crate) fn from_remote() -> impl Strategy<Value = Packet> {
    with_segment(public_ports(), segment(500..506, 100..106))
}

/// What a remote sends to the own address.
fn to_own() -> impl Strategy<Value = Packet> {
    let near = || select(&OWN_PORTS[..]);
    let packet =
        prop_oneof![2 => packet(near()).boxed(), 1 => with_segment(near(), segment(500..506, 100..106)).boxed()];
    (packet, 1_u16..4).prop_map(|(packet, identifier)| {
        let ping = packet.proto == ICMP;
        Packet {
            public: OWN,
            near: if ping { 0 } else { packet.near },
            service: if ping { identifier } else { packet.service },
            asker: if ping { Side::Outside } else { Side::Inside },
            ..packet
        }
    })
}

/// What goes on with something that a remote has begun there, from this side; backends answer more often than not.
fn of_half() -> impl Strategy<Value = Step> {
    let answers = |mut packet: Packet| {
        if packet.mark < 160 {
            packet.segment.flags = SYN | ACK;
        }
        packet
    };
    let inside = prop_oneof![1 => packet(Just(0)).boxed(), 2 => from_backend().prop_map(answers).boxed()];
    prop_oneof![
        1 => (any::<Index>(), inside).prop_map(|(nth, p)| Step::OfHalf(Side::Inside, nth, p)),
        1 => (any::<Index>(), from_remote()).prop_map(|(nth, p)| Step::OfHalf(Side::Outside, nth, p)),
    ]
}

fn inside() -> impl Strategy<Value = Packet> {
    prop_oneof![3 => packet(5000..5040_u16), 1 => from_backend()]
}

fn outside() -> impl Strategy<Value = Packet> {
    prop_oneof![3 => packet(public_ports()), 1 => from_remote()]
}

fn complaint(about: impl Strategy<Value = Packet>) -> impl Strategy<Value = Complaint> {
    let head = select(vec![(3, 1), (3, 3), (3, 4), (11, 0), (12, 0)]);
    // Nobody can keep half a checksum of TCP right.
    let keep = (8_usize..40).prop_map(|keep| if keep == 17 { 18 } else { keep });
    (about, head, keep).prop_map(|(about, head, keep)| Complaint { about: plain(about), head, keep })
}

/// What is complained about has come whole.
fn plain(about: Packet) -> Packet {
    Packet { len: about.len.min(24), ..about }
}

/// A datagram that comes in pieces. Of a segment in pieces only what the first one carries is seen; where its FIN stands
/// is then nobody's guess, so that it has none.
fn long(packet: impl Strategy<Value = Packet>) -> impl Strategy<Value = Packet> {
    (packet, 60_u16..1600, 0_u16..3).prop_map(|(packet, len, id)| Packet {
        len,
        segment: Segment {
            len: u32::from(len),
            flags: packet.segment.flags & !(FIN | RST) | if packet.segment.flags & SYN == 0 { ACK } else { 0 },
            ..packet.segment
        },
        whole: false,
        unsummed: false,
        mss: None,
        id,
        ..packet
    })
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Inside), Just(Side::Outside)]
}

fn split() -> impl Strategy<Value = Step> {
    let nth = || prop_oneof![1 => Just(None), 2 => any::<Index>().prop_map(Some)];
    let step = || prop_oneof![1 => Just(1_u16), 3 => 2_u16..20, 6 => 20_u16..120];
    prop_oneof![
        (nth(), long(inside()), step()).prop_map(|(nth, p, step)| Step::Split(Side::Inside, nth, p, step * 8)),
        (nth(), long(outside()), step()).prop_map(|(nth, p, step)| Step::Split(Side::Outside, nth, p, step * 8)),
        (long(to_own()), step()).prop_map(|(p, step)| Step::Split(Side::Outside, None, p, step * 8)),
    ]
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let wait = prop_oneof![
        8 => 0..200_u64, 4 => 0..3_000_u64, 6 => 0..20_000_u64, 2 => 9_000..20_000_u64, 2 => 60_000..70_000_u64,
        2 => 235_000..310_000_u64, 1 => prop_oneof![9 => Just(500_u64), 1 => 7_430_000..7_600_000_u64]
    ];
    let piece = (any::<Index>(), prop_oneof![30 => Just(0_u16), 1 => Just(8_u16)], prop::bool::weighted(0.05));
    prop_oneof![
        220 => inside().prop_map(Step::Out),
        60 => outside().prop_map(Step::In),
        60 => to_own().prop_map(Step::In),
        90 => of_half(),
        160 => (side(), any::<Index>(), prop_oneof![2 => packet(Just(0)).boxed(), 1 => from_backend().boxed()]).prop_map(|(side, nth, p)| Step::Of(side, nth, p)),
        90 => (any::<Index>(), from_remote()).prop_map(|(nth, p)| Step::Of(Side::Outside, nth, p)),
        40 => (any::<Index>(), outside(), any::<bool>()).prop_map(|(nth, p, far)| Step::Aside(nth, p, far)),
        60 => (any::<Index>(), inside()).prop_map(|(nth, p)| Step::Turn(nth, p)),
        20 => (prop_oneof![1 => Just(None), 2 => any::<Index>().prop_map(Some)], inside())
            .prop_map(|(nth, p)| Step::Astray(nth, p)),
        20 => complaint(inside()).prop_map(|c| Step::Complaint(Side::Inside, c)),
        20 => complaint(outside()).prop_map(|c| Step::Complaint(Side::Outside, c)),
        40 => (side(), any::<Index>(), complaint(prop_oneof![packet(Just(0)), from_backend()]))
            .prop_map(|(side, nth, c)| Step::ComplaintOf(side, nth, c)),
        8 => (any::<Index>(), complaint(packet(Just(0)))).prop_map(|(nth, c)| Step::ComplaintOfHalf(nth, c)),
        20 => split(),
        200 => piece.prop_map(|(nth, shift, again)| Step::Piece(nth, shift, again)),
        12 => wait.prop_map(Step::Wait),
        1 => Just(Step::Takeover),
    ]
}
