//! Whatever arrives, the engine neither panics nor lets anything out that it should not (I13, I14, I51, R16, R28).
//! `QNAT_PACKETS` sets how many frames are drawn; a failure names its seed.

use engine::event::{Authority, DropReason};
use engine::ids::{Mac, Side};
use qnat_reference::bed::{BACKENDS, Bed, GATEWAY, Left, PUBLIC, SHARD, lease_of};
use qnat_reference::hostile::Hostile;
use qnat_reference::packet::{ETH, ICMP, TCP, UDP, addresses, be16, examine};

/// Frames of one seed.
const FRAMES_EACH: u64 = 2_000;

fn seeds() -> u64 {
    let packets =
        std::env::var("QNAT_PACKETS").ok().map_or(1_000_000, |n| n.parse().expect("QNAT_PACKETS is a number"));
    u64::div_ceil(packets, FRAMES_EACH)
}

/// In the subnet that the bed declares; other private addresses may well lie beyond the outside router.
fn is_inside(ip: std::net::Ipv4Addr) -> bool {
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
    let quotes = shape.proto == ICMP && matches!(payload.first(), Some(3 | 4 | 5 | 11 | 12));
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

fn dropped(bed: &Bed) -> Vec<(DropReason, u64)> {
    DropReason::ALL.iter().map(|reason| (*reason, bed.worker.counters().dropped(*reason))).collect()
}

#[test]
fn whatever_arrives_nothing_wrong_leaves() {
    let (mut frames, mut out, mut reasons) = (0_u64, [0_u64; 2], std::collections::BTreeSet::new());
    for seed in 0..seeds() {
        let (mut hostile, mut bed) = (Hostile::new(seed), Bed::new());
        for number in 0..FRAMES_EACH {
            let pause = hostile.pause_ns();
            let mut left = if pause > 0 { bed.pass_time(pause) } else { Vec::new() };
            let (side, frame) = hostile.frame();
            left.extend(bed.inject(side, &frame));
            for one in &left {
                if let Err(why) = check(one) {
                    panic!("seed {seed}, frame {number}, in {side:?} {frame:02x?}, out {one:02x?}: {why}");
                }
                out[usize::from(one.side == Side::Inside)] += 1;
            }
            assert!(bed.worker.counters().is_balanced(), "I51: seed {seed}, frame {number}");
            frames += 1;
        }
        reasons.extend(dropped(&bed).into_iter().filter(|(_, n)| *n > 0).map(|(reason, _)| reason));
    }
    println!("{frames} frames; {} left outside, {} inside; dropped for {reasons:?}", out[0], out[1]);
    // Otherwise the frames were too tame or too wild to show anything.
    assert!(out[0] > frames / 50 && out[1] > frames / 500 && reasons.len() >= 12, "{out:?} {reasons:?}");
}

#[test]
fn the_same_seed_gives_the_same_packets() {
    let run = || {
        let (mut hostile, mut bed) = (Hostile::new(5), Bed::new());
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
