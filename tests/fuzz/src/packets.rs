//! Frames from the data networks. What the engine lets pass is judged by `qnat_reference`, which shares no code with it.

use std::net::Ipv4Addr;

use engine::event::DropReason;
use engine::ids::{Link, Mac, Side};
use engine::wire::{
    ChecksumState, FrameMeta, Gso, Parsed, clamp_mss, decrement_ttl, parse, rewrite_destination,
    rewrite_error_destination, rewrite_error_source, rewrite_source,
};
use qnat_reference::bed::{BACKENDS, Bed, Left, PUBLIC, SHARD, UPSTREAM, lease_of, link_of, mac_of};
use qnat_reference::judge::check;
use qnat_reference::packet::{
    ETH, ICMP, Reassembly, TCP, UDP, checksum, examine, icmp, ipv4, mend, shape, sum, tcp, udp,
};
use words::time::MS;

use crate::{Choices, bounded};

const NEW: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// No sequence of the pipeline is longer.
const STEPS_MAX: usize = 200;

/// The parser: what it accepts has a sound shape, and stays right through every rewrite. The first byte says what the
/// device told, the second whether lengths and checksums are made right first.
pub fn frame(data: &[u8]) {
    let mut choices = Choices(data);
    let (told, mended) = (choices.byte(), choices.byte());
    let mut frame = choices.0.to_vec();
    if mended & 1 == 1 {
        mend(&mut frame);
    }
    let checksum = match told & 3 {
        0 => ChecksumState::Valid,
        1 => ChecksumState::Partial { start: 34, offset: if told & 4 == 0 { 16 } else { 6 } },
        _ => ChecksumState::Unverified,
    };
    let gso = match told >> 3 & 3 {
        1 => Gso::Tcp4 { size: u16::from(told) },
        2 => Gso::Udp { size: u16::from(told) },
        _ => Gso::None,
    };
    accepted(&mut frame, &FrameMeta { checksum, gso, header_len: 0, ..FrameMeta::default() });
}

/// Parsed without an allocation; rewritten as the pipeline does it, if it was accepted.
fn accepted(frame: &mut [u8], meta: &FrameMeta) {
    let mut parsed = Err(DropReason::Malformed);
    let used = allocation_counter::measure(|| parsed = parse(frame, meta));
    assert_eq!(used.count_total, 0, "parsing allocates nothing");
    match parsed {
        Ok(Parsed::Ip(p)) => {
            let shape = shape(frame).expect("what is accepted has a sound shape");
            assert_eq!(usize::from(p.total_len), shape.ip_total);
            rewrite_source(frame, meta, &p, NEW, 1234);
            rewrite_destination(frame, meta, &p, BACKENDS[0], 4321);
            if p.tcp.is_some() {
                clamp_mss(frame, meta, &p, 1200);
            }
            decrement_ttl(frame, p.l3);
        }
        Ok(Parsed::Error(e)) => {
            rewrite_error_source(frame, meta, &e, NEW, 1234);
            rewrite_error_destination(frame, meta, &e, BACKENDS[0], 4321);
            decrement_ttl(frame, e.l3);
        }
        Ok(Parsed::Fragment(f)) => decrement_ttl(frame, f.l3),
        Ok(Parsed::Arp(_) | Parsed::Sounding(_)) | Err(_) => return,
    }
    // What nobody verified before, or somebody completes later, says nothing now.
    if meta.checksum == ChecksumState::Unverified {
        examine(frame).unwrap_or_else(|why| panic!("{why} after rewriting: {frame:02x?}"));
    }
}

/// An ICMP message of any kind with any quote, its own checksum right.
pub fn quote(data: &[u8]) {
    let mut choices = Choices(data);
    let (kind, code) = (choices.byte(), choices.byte());
    let rest = [choices.byte(), choices.byte(), choices.byte(), choices.byte()];
    let mut body = choices.0.get(..choices.0.len().min(1400)).unwrap_or_default().to_vec();
    // Otherwise the sum of the quoted header stops nearly everything.
    let header = usize::from(body.first().map_or(0, |first| first & 15)) * 4;
    if code & 0x80 == 0 && header >= 20 && header <= body.len() {
        body[10..12].fill(0);
        let right = checksum(sum(&body[..header], 0));
        body[10..12].copy_from_slice(&right.to_be_bytes());
    }
    let macs = (mac_of(Link::Outside, UPSTREAM), Mac::of_shard(SHARD).0);
    let message = icmp(kind, code & 0x7f, rest, &body);
    accepted(&mut ipv4(macs, REMOTE, PUBLIC, ICMP, &message), &FrameMeta::default());
    let mut bed = Bed::default();
    send(&mut bed, link_of(0), &ping_and_datagram(0));
    send(&mut bed, link_of(0), &ping_and_datagram(1));
    for (side, host, source, destination) in
        [(Side::Outside, UPSTREAM, REMOTE, PUBLIC), (Side::Inside, BACKENDS[0], BACKENDS[0], REMOTE)]
    {
        let frame = ipv4((mac_of(link(side), host), Mac::of_shard(SHARD).0), source, destination, ICMP, &message);
        judge(&send(&mut bed, link(side), &frame));
    }
}

/// Something for a quote to be about.
fn ping_and_datagram(which: u8) -> Vec<u8> {
    let payload = if which == 0 { icmp(8, 0, [0x13, 0x88, 0, 1], &[]) } else { udp(5000, 53, &[1; 8]) };
    let macs = (mac_of(link_of(0), BACKENDS[0]), Mac::of_shard(SHARD).0);
    ipv4(macs, BACKENDS[0], REMOTE, if which == 0 { ICMP } else { UDP }, &payload)
}

/// Fragments of any size, place and order, of a few datagrams. Those that leave never overlap.
pub fn fragments(data: &[u8]) {
    let (mut choices, mut bed) = (Choices(data), Bed::default());
    let mut receivers = [Reassembly::default(), Reassembly::default()];
    for _ in 0..STEPS_MAX {
        if choices.is_empty() {
            break;
        }
        let (head, place, length) = (choices.byte(), choices.word(), choices.byte());
        let (side, host, source, destination) = if head & 1 == 0 {
            (Side::Inside, BACKENDS[0], BACKENDS[0], REMOTE)
        } else {
            (Side::Outside, UPSTREAM, REMOTE, PUBLIC)
        };
        let proto = [UDP, TCP, ICMP, head][usize::from(head >> 1 & 3)];
        let mut payload = udp(5000, 53, &[]);
        payload.resize(usize::from(length) + 8, length);
        let mut frame = ipv4((mac_of(link(side), host), Mac::of_shard(SHARD).0), source, destination, proto, &payload);
        frame[ETH + 4..ETH + 6].copy_from_slice(&[0x77, head >> 4]);
        frame[ETH + 6..ETH + 8].copy_from_slice(&(place & 0x3fff).to_be_bytes());
        mend(&mut frame);
        let left = send(&mut bed, link(side), &frame);
        judge(&left);
        for one in left.iter().filter(|one| !one.is_arp()) {
            let taken = receivers[usize::from(one.link.is_inside())].take(&one.frame);
            taken.unwrap_or_else(|why| panic!("{why}: {one:02x?}"));
        }
        if place & 0x4000 != 0 {
            // Whoever receives them forgets what did not become whole, too.
            receivers = [Reassembly::default(), Reassembly::default()];
            judge(&bed.pass_time(u64::from(length) * 100 * MS));
        }
    }
}

/// A SYN with any options, through the parser, the clamp and the pipeline.
pub fn tcp_options(data: &[u8]) {
    let mut choices = Choices(data);
    let flags = choices.byte();
    let mut options = choices.take(40).to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    let segment = tcp((5000, 443), (1, 0), flags, &options, choices.take(64));
    let frame = ipv4((mac_of(link_of(0), BACKENDS[0]), Mac::of_shard(SHARD).0), BACKENDS[0], REMOTE, TCP, &segment);
    accepted(&mut frame.clone(), &FrameMeta::default());
    judge(&send(&mut Bed::default(), link_of(0), &frame));
}

/// Frames and steps of time through an engine with mappings: sound ones with a few bytes changed, mended or not, and raw ones.
pub fn pipeline(data: &[u8]) {
    let (mut choices, mut bed) = (Choices(data), Bed::default());
    for backend in 0..2 {
        for kind in 0..3 {
            let (link, frame) = host_frame(Side::Inside, backend, kind, 5000, 0x02);
            judge(&send(&mut bed, link, &frame));
        }
    }
    for _ in 0..STEPS_MAX {
        if choices.is_empty() {
            return;
        }
        match choices.byte() {
            step @ 0..32 => {
                let ns = u64::from(choices.word()) * MS * if step < 16 { 1 } else { 100 };
                let left = bounded(data, 1 << 10, || bed.pass_time(ns));
                judge(&left);
            }
            step @ 32..48 => {
                let side = if step & 1 == 0 { Side::Inside } else { Side::Outside };
                let length = usize::from(choices.byte());
                judge(&send(&mut bed, link(side), choices.take(length)));
            }
            step => {
                let side = if step & 1 == 0 { Side::Inside } else { Side::Outside };
                let near = choices.byte();
                let near = match side {
                    Side::Inside => 5000 + u16::from(near % 8),
                    Side::Outside => lease_of(0).start + u16::from(near % 96),
                };
                let (link, mut frame) = host_frame(side, step >> 1 & 3, step >> 3 & 3, near, choices.byte());
                for _ in 0..step >> 6 {
                    let at = usize::from(choices.byte()) % frame.len();
                    frame[at] = choices.byte();
                }
                if choices.byte() & 1 == 1 {
                    mend(&mut frame);
                }
                judge(&send(&mut bed, link, &frame));
            }
        }
    }
}

/// A frame of a host, and the link that it arrives by: a datagram, a segment with these flags, an echo, or an error.
fn host_frame(side: Side, place: u8, kind: u8, near: u16, flags: u8) -> (Link, Vec<u8>) {
    let place = usize::from(place) % BACKENDS.len();
    let (link, host, source, destination, ports) = match side {
        Side::Inside => (link_of(place), BACKENDS[place], BACKENDS[place], REMOTE, (near, 443)),
        Side::Outside => (Link::Outside, UPSTREAM, REMOTE, PUBLIC, (443, near)),
    };
    let [high, low] = near.to_be_bytes();
    let (proto, payload) = match kind % 4 {
        0 => (UDP, udp(ports.0, ports.1, &[flags; 9])),
        1 => (TCP, tcp(ports, (100, 100), flags, &[], &[])),
        2 => (ICMP, icmp(if side == Side::Inside { 8 } else { 0 }, 0, [high, low, 0, 1], &[flags])),
        _ => {
            let quoted = ipv4(([0; 6], [0; 6]), destination, source, UDP, &udp(ports.1, ports.0, &[7; 4]));
            (ICMP, icmp(3, 4, [0, 0, 5, 0], &quoted[ETH..]))
        }
    };
    (link, ipv4((mac_of(link, host), Mac::of_shard(SHARD).0), source, destination, proto, &payload))
}

/// The link of the first network, or the outside one.
const fn link(side: Side) -> Link {
    match side {
        Side::Inside => link_of(0),
        Side::Outside => Link::Outside,
    }
}

/// A frame goes in; what it may make the engine remember is bounded.
fn send(bed: &mut Bed, link: Link, frame: &[u8]) -> Vec<Left> {
    let left = bounded(frame, 16, || bed.inject(link, frame));
    assert!(bed.worker().counters().is_balanced(), "every frame is accounted for");
    left
}

fn judge(left: &[Left]) {
    for one in left {
        check(one).unwrap_or_else(|why| panic!("{why}: {one:02x?}"));
    }
}
