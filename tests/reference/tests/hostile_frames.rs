//! Whatever arrives, the engine neither panics nor lets anything out that it should not (I13, I14, I51, R16, R28).
//! `QNAT_PACKETS` sets how many frames are drawn; a failure names its seed.

use engine::event::DropReason;
use qnat_reference::bed::{Bed, Left};
use qnat_reference::hostile::Hostile;
use qnat_reference::judge::{Receivers, Whole, check};
use qnat_reference::packet::{ETH, ICMP};

/// Frames of one seed.
const FRAMES_EACH: u64 = 2_000;

fn seeds() -> u64 {
    let packets =
        std::env::var("QNAT_PACKETS").ok().map_or(1_000_000, |n| n.parse().expect("QNAT_PACKETS is a number"));
    u64::div_ceil(packets, FRAMES_EACH)
}

/// Whether a frame carries an ICMP error.
fn is_error(left: &Left) -> bool {
    !left.is_arp() && left.frame[ETH + 9] == ICMP && matches!(left.frame.get(ETH + 20), Some(3 | 11 | 12))
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
            let (link, frame) = hostile.frame();
            left.extend(bed.inject(link, &frame));
            for one in &left {
                let checked = check(one).and_then(|()| receivers.take(one));
                if let Ok(Whole::Datagram) = checked {
                    datagrams[usize::from(one.link.is_inside())] += 1;
                }
                if let Err(why) = checked {
                    panic!("seed {seed}, frame {number}, in {link:?} {frame:02x?}, out {one:02x?}: {why}");
                }
                out[usize::from(one.link.is_inside())] += 1;
                errors[usize::from(one.link.is_inside())] += u64::from(is_error(one));
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
            let (link, frame) = hostile.frame();
            all.extend(bed.inject(link, &frame));
        }
        all
    };
    assert_eq!(run(), run());
}
