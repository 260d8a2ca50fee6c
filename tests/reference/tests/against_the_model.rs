//! The engine and the naive translator see the same packets at the same times and must agree (S7-S13, D6, D9, R1, R5, R15).
//! A difference shrinks to the shortest sequence that shows it. `QNAT_PACKETS` sets how many packets are sent in all.

use std::net::Ipv4Addr;

use engine::ids::Side;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use qnat_reference::bed::{BACKENDS, Bed};
use qnat_reference::connection::{ACK, FIN, RST, SYN, Segment};
use qnat_reference::model::{Complaint, Model, Packet, public_ports};
use qnat_reference::packet::{ICMP, TCP, UDP};

/// Packets of the longest case; the mean is half of it.
const LENGTH: u32 = 800;
const REMOTES: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(198, 51, 100, 8)];
/// No well-known ones, whose flows may end sooner (D26).
const SERVICES: [u16; 2] = [80, 8443];

#[derive(Clone, Debug)]
enum Step {
    Out(Packet),
    In(Packet),
    ComplaintOut(Complaint),
    ComplaintIn(Complaint),
    /// To one of the connections that there are.
    Back(usize, Segment),
    Wait {
        ms: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum Sent {
    Packet(Packet),
    Complaint(Complaint),
}

fn packet(near: impl Strategy<Value = u16>) -> impl Strategy<Value = Packet> {
    let proto = prop_oneof![3 => Just(UDP), 1 => Just(ICMP)];
    let ends = (0..BACKENDS.len(), near, prop::sample::select(&REMOTES[..]), prop::sample::select(&SERVICES[..]));
    (proto, ends, any::<u8>()).prop_map(|(proto, (backend, near, remote, service), mark)| Packet {
        proto,
        backend,
        near,
        remote,
        // Echo has no port: to the model it is one service.
        service: if proto == ICMP { 0 } else { service },
        mark,
        segment: Segment::default(),
    })
}

fn complaint(near: impl Strategy<Value = u16>) -> impl Strategy<Value = Complaint> {
    let head = prop::sample::select(vec![(3, 1), (3, 3), (3, 4), (11, 0), (12, 0)]);
    (packet(near), head, 8_usize..14).prop_map(|(about, head, keep)| Complaint { about, head, keep })
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

fn from_backend() -> impl Strategy<Value = Packet> {
    let parts = (packet(5000..5003_u16), segment(100..106, 500..506));
    parts.prop_map(|(packet, segment)| Packet { proto: TCP, service: 443, remote: REMOTES[0], segment, ..packet })
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop_oneof![8 => 0..200_u64, 6 => 0..20_000_u64, 2 => 15_000..20_000_u64, 2 => 60_000..70_000_u64, 2 => 235_000..250_000_u64];
    prop_oneof![
        30 => packet(5000..5050_u16).prop_map(Step::Out),
        15 => packet(public_ports()).prop_map(Step::In),
        4 => complaint(5000..5050_u16).prop_map(Step::ComplaintOut),
        4 => complaint(public_ports()).prop_map(Step::ComplaintIn),
        10 => from_backend().prop_map(Step::Out),
        10 => (any::<usize>(), segment(500..506, 100..106)).prop_map(|(nth, segment)| Step::Back(nth, segment)),
        1 => wait.prop_map(|ms| Step::Wait { ms }),
    ]
}

/// Lets time pass as a driver does: in steps no longer than the engine's timers ask for.
fn wait(bed: &mut Bed, ms: u64) -> Result<(), TestCaseError> {
    let end = bed.now_ns + ms * 1_000_000;
    while bed.now_ns < end {
        let next = (end - bed.now_ns).min(100_000_000);
        for left in bed.pass_time(next) {
            prop_assert!(left.is_arp(), "a packet left by itself: {:02x?}", left.frame);
        }
    }
    Ok(())
}

fn agree(steps: &[Step]) -> Result<(), TestCaseError> {
    let (mut bed, mut model) = (Bed::new(), Model::default());
    for (number, step) in steps.iter().enumerate() {
        let (side, sent) = match step {
            Step::Out(packet) => (Side::Inside, Sent::Packet(*packet)),
            Step::In(packet) => (Side::Outside, Sent::Packet(*packet)),
            Step::ComplaintOut(complaint) => (Side::Inside, Sent::Complaint(*complaint)),
            Step::ComplaintIn(complaint) => (Side::Outside, Sent::Complaint(*complaint)),
            Step::Back(nth, segment) => match model.to_connection(*nth, *segment) {
                Some(packet) => (Side::Outside, Sent::Packet(packet)),
                None => continue,
            },
            Step::Wait { ms } => {
                wait(&mut bed, *ms)?;
                continue;
            }
        };
        let frame = match &sent {
            Sent::Packet(packet) => packet.frame(side),
            Sent::Complaint(complaint) => complaint.frame(side),
        };
        let mut left = bed.inject(side, &frame);
        left.retain(|one| !one.is_arp());
        let judged = match &sent {
            Sent::Packet(packet) => model.judge(bed.now_ns, side, packet, &left),
            Sent::Complaint(complaint) => model.judge_complaint(bed.now_ns, side, complaint, &left),
        };
        if let Err(why) = judged {
            return Err(TestCaseError::fail(format!("step {number}, {step:?}: {why}")));
        }
    }
    Ok(())
}

#[test]
fn the_engine_does_what_the_naive_translator_does() {
    let packets =
        std::env::var("QNAT_PACKETS").ok().map_or(1_000_000, |n| n.parse().expect("QNAT_PACKETS is a number"));
    let cases = u32::div_ceil(packets, LENGTH / 2);
    let config = Config { cases, max_shrink_iters: 20_000, failure_persistence: None, ..Config::default() };
    let length = usize::try_from(LENGTH).expect("small");
    let steps = prop::collection::vec(step(), 1..=length);
    match TestRunner::new(config).run(&steps, |steps| agree(&steps)) {
        Ok(()) => {}
        Err(TestError::Fail(why, steps)) => {
            let lines: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
            panic!("{why}\n{} steps:\n{}", steps.len(), lines.join("\n"));
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

#[test]
fn flows_to_different_remotes_share_ports() {
    let (mut bed, mut model) = (Bed::new(), Model::default());
    for round in 0..4_u16 {
        for service in 1000..1200_u16 {
            let packet = Packet {
                proto: UDP,
                backend: 0,
                near: 5000 + round,
                remote: REMOTES[0],
                service,
                mark: 0,
                segment: Segment::default(),
            };
            let left = bed.inject(Side::Inside, &packet.frame(Side::Inside));
            model.judge(bed.now_ns, Side::Inside, &packet, &left).expect("translated");
            assert_eq!(left.len(), 1, "800 flows fit into 32 ports");
        }
        model.judge_density(usize::from(round) + 1).expect("as many ports as flows to one remote");
    }
}
