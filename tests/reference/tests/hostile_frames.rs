//! Whatever arrives, the engine neither panics nor lets anything out that it should not (I13, I14, I51, R16, R28).
//! `QNAT_PACKETS` sets how many frames are drawn; a failure names its seed.

use std::net::Ipv4Addr;

use engine::event::{Authority, DropReason};
use engine::ids::{Mac, Side};
use qnat_reference::bed::{BACKENDS, Bed, GATEWAY, Left, PUBLIC, SHARD, lease_of};
use qnat_reference::hostile::{Hostile, WHOLE_MIN};
use qnat_reference::packet::{ETH, ICMP, Reassembly, TCP, UDP, addresses, be16, checksum, examine, sum};

/// Frames of one seed.
const FRAMES_EACH: u64 = 2_000;

fn seeds() -> u64 {
    let packets =
        std::env::var("QNAT_PACKETS").ok().map_or(1_000_000, |n| n.parse().expect("QNAT_PACKETS is a number"));
    u64::div_ceil(packets, FRAMES_EACH)
}

/// In the subnet that the bed declares; other private addresses may well lie beyond the outside router.
fn is_inside(ip: Ipv4Addr) -> bool {
    ip.octets()[..3] == GATEWAY.octets()[..3]
}

/// Checks a frame that left by itself, without knowing what came in.
fn check(left: &Left) -> Result<(), String> {
    if left.is_arp() {
        return Ok(());
    }
    if !matches!(left.authority, Authority::Lease { .. }) || left.frame[6..12] != Mac::of_shard(SHARD).0 {
        return Err(format!("an owner sends from its vMAC, by its lease: {:?}", left.authority));
    }
    let shape = examine(&left.frame)?;
    let (source, destination) = addresses(&left.frame);
    let payload = &left.frame[ETH + shape.ip_header..ETH + shape.ip_total];
    let names_inside = |bytes: &[u8]| bytes.windows(4).any(|w| BACKENDS.iter().any(|ip| ip.octets() == w));
    let quotes = shape.fragment.0 == 0 && shape.proto == ICMP && matches!(payload.first(), Some(3 | 4 | 5 | 11 | 12));
    if quotes {
        check_quote(left.side, destination, &payload[8..])?;
    }
    match left.side {
        Side::Outside => {
            if source != PUBLIC || is_inside(destination) {
                return Err(format!("{source} to {destination} left outside"));
            }
            // The quote's addresses and checksums only: what a host wrote behind them is its own affair.
            if quotes && names_inside(&payload[8..payload.len().min(28)]) {
                return Err("an inside address in a quote".into());
            }
            let port = match shape.proto {
                UDP | TCP if shape.fragment.0 == 0 => be16(payload, 0),
                ICMP if !quotes && shape.fragment.0 == 0 => be16(payload, 4),
                _ => return Ok(()),
            };
            if !(0..BACKENDS.len()).any(|place| lease_of(place).contains(&port)) {
                return Err(format!("port {port} is in nobody's lease"));
            }
        }
        Side::Inside => {
            if !BACKENDS.contains(&destination) || (is_inside(source) && source != GATEWAY) {
                return Err(format!("{source} to {destination} left inside"));
            }
        }
    }
    Ok(())
}

/// R16: what is complained about is what its sender knows, in a header that is right.
fn check_quote(side: Side, receiver: Ipv4Addr, quote: &[u8]) -> Result<(), String> {
    let header = quote.get(..usize::from(quote.first().map_or(0, |first| first & 15)) * 4);
    let header = header.filter(|header| header.len() >= 20).ok_or("a quote without a header")?;
    if checksum(sum(header, 0)) != 0 {
        return Err("the checksum of a quoted header is wrong".into());
    }
    let at = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    match side {
        _ if at(12) != receiver => Err(format!("{receiver} never sent what is quoted: {}", at(12))),
        Side::Outside if at(16) != PUBLIC => Err(format!("a complaint about a packet to {}", at(16))),
        Side::Outside | Side::Inside => Ok(()),
    }
}

/// Whether a frame carries an ICMP error.
fn is_error(left: &Left) -> bool {
    !left.is_arp() && left.frame[ETH + 9] == ICMP && matches!(left.frame.get(ETH + 20), Some(3 | 11 | 12))
}

/// The hosts of both sides, who put fragments together.
#[derive(Debug, Default)]
struct Receivers([Reassembly; 2]);

enum Whole {
    No,
    /// One that came in fragments.
    Datagram,
}

impl Receivers {
    /// R10, I14, I21: fragments that leave never overlap, and make datagrams whose checksums are right.
    fn take(&mut self, left: &Left) -> Result<Whole, String> {
        // Stray fragments share one identification, and may follow each other when the first are forgotten.
        if left.is_arp() || be16(&left.frame, ETH + 4) == 0x1234 {
            return Ok(Whole::No);
        }
        let Some(whole) = self.0[usize::from(left.side == Side::Inside)].take(&left.frame)? else {
            return Ok(Whole::No);
        };
        if whole.len() == left.frame.len() || whole.len() < ETH + WHOLE_MIN {
            return Ok(Whole::No);
        }
        examine(&whole).map(|_| Whole::Datagram)
    }
}

fn dropped(bed: &Bed) -> Vec<(DropReason, u64)> {
    DropReason::ALL.iter().map(|reason| (*reason, bed.worker().counters().dropped(*reason))).collect()
}

#[test]
fn whatever_arrives_nothing_wrong_leaves() {
    let (mut frames, mut out, mut reasons) = (0_u64, [0_u64; 2], std::collections::BTreeSet::new());
    let (mut errors, mut datagrams) = ([0_u64; 2], [0_u64; 2]);
    for seed in 0..seeds() {
        let (mut hostile, mut bed) = (Hostile::new(seed), Bed::default());
        let mut receivers = Receivers::default();
        for number in 0..FRAMES_EACH {
            let pause = hostile.pause_ns();
            let mut left = if pause > 0 { bed.pass_time(pause) } else { Vec::new() };
            let (side, frame) = hostile.frame();
            left.extend(bed.inject(side, &frame));
            for one in &left {
                let checked = check(one).and_then(|()| receivers.take(one));
                if let Ok(Whole::Datagram) = checked {
                    datagrams[usize::from(one.side == Side::Inside)] += 1;
                }
                if let Err(why) = checked {
                    panic!("seed {seed}, frame {number}, in {side:?} {frame:02x?}, out {one:02x?}: {why}");
                }
                out[usize::from(one.side == Side::Inside)] += 1;
                errors[usize::from(one.side == Side::Inside)] += u64::from(is_error(one));
            }
            assert!(bed.worker().counters().is_balanced(), "I51: seed {seed}, frame {number}");
            frames += 1;
        }
        reasons.extend(dropped(&bed).into_iter().filter(|(_, n)| *n > 0).map(|(reason, _)| reason));
    }
    println!("{frames} frames; {} left outside, {} inside; dropped for {reasons:?}", out[0], out[1]);
    // Otherwise the frames were too tame or too wild to show anything.
    assert!(out[0] > frames / 50 && out[1] > frames / 500 && reasons.len() >= 12, "{out:?} {reasons:?}");
    assert!(errors[0] > frames / 5_000 && errors[1] > frames / 2_000, "errors that passed: {errors:?}");
    let enough = datagrams[0] > frames / 500 && datagrams[1] > frames / 5_000;
    assert!(enough, "datagrams that came through in fragments: {datagrams:?}");
}

#[test]
fn the_same_seed_gives_the_same_packets() {
    let run = || {
        let (mut hostile, mut bed) = (Hostile::new(5), Bed::default());
        let mut all = Vec::new();
        for _ in 0..500 {
            let pause = hostile.pause_ns();
            all.extend(bed.pass_time(pause));
            let (side, frame) = hostile.frame();
            all.extend(bed.inject(side, &frame));
        }
        all
    };
    assert_eq!(run(), run());
}
