//! Packets of established flows: decided once, applied to many.

use std::sync::Arc;

use crate::lab::*;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::*;
use qnat_engine::map::hashes;
use qnat_engine::snapshot::Snapshot;
use qnat_engine::wire::{ArpOp, FrameMeta};

/// A lab with a TCP flow of A, and its public port.
fn established() -> (Lab, u16) {
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, SYN, 100, 0)).src_port;
    lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, port, SYN | ACK, 500, 101));
    lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, ACK, 101, 501));
    (lab, port)
}

/// What the worker makes of a frame, and how many look-ups in maps that took.
fn judge(lab: &mut Lab, link: Link, mut frame: Vec<u8>) -> (Verdict, Vec<u8>, u64) {
    let (now, node) = (lab.now, &mut lab.nodes[0]);
    let before = hashes();
    let verdict = node.worker.handle_frame(now, &node.words, link, &FrameMeta::default(), &mut frame);
    (verdict, frame, hashes() - before)
}

fn load(lab: &mut Lab, change: impl FnOnce(&mut Snapshot), last: &mut Arc<Snapshot>) {
    let mut next = Snapshot { control_index: ControlIndex(last.control_index.0 + 1), ..Snapshot::clone(last) };
    change(&mut next);
    *last = Arc::new(next);
    // As with every load: the snapshot says which networks the inside interfaces carry.
    lab.nodes[0].worker.set_networks(&[last.subnets[0].vnet]);
    assert!(lab.nodes[0].worker.load_snapshot(lab.now, Arc::clone(last)));
    lab.run(1);
}

#[test]
fn a_packet_of_an_established_flow_costs_its_look_up_in_the_flow_table_and_no_other() {
    let (mut lab, port) = established();
    let udp_port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 443)).src_port;
    let frames = [
        (INSIDE, tcp(A, 5000, REMOTE, 443, ACK, 101, 501)),
        (OUTSIDE, tcp(REMOTE, 443, PUBLIC, port, ACK, 501, 101)),
        (INSIDE, udp(A, 5000, REMOTE, 443)),
        (OUTSIDE, udp_in(REMOTE, 443, PUBLIC, udp_port)),
    ];
    for (link, frame) in frames {
        let (verdict, _, look_ups) = judge(&mut lab, link, frame);
        assert!(matches!(verdict, Verdict::Transmit { .. }), "{verdict:?}");
        assert_eq!(look_ups, 0, "{link:?}");
    }
    let (_, _, look_ups) = judge(&mut lab, INSIDE, tcp(A, 5001, REMOTE, 443, SYN, 100, 0));
    assert!(look_ups > 0, "a first packet is judged at length");
}

#[test]
fn a_thousand_commits_that_concern_nobody_decide_nothing_again() {
    let (mut lab, port) = established();
    let mut last = Arc::new(snapshot(11, 0, 1));
    load(&mut lab, |_| {}, &mut last);
    lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, ACK, 101, 501));
    let decided = lab.nodes[0].worker.counters().decided;
    for n in 0..1_000 {
        let unrelated = |s: &mut Snapshot| {
            s.peers = vec![links(n % 7 + 1)];
            s.backends.get_mut(&BackendId(2)).expect("B").idle_timeout_ms = 240_000 + n;
        };
        load(&mut lab, unrelated, &mut last);
        lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, ACK, 101, 501));
        lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, port, ACK, 501, 101));
    }
    assert_eq!(lab.nodes[0].worker.counters().decided, decided);
    load(&mut lab, |s| s.backends.get_mut(&BackendId(1)).expect("A").idle_timeout_ms = 1_000_000, &mut last);
    lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, ACK, 101, 501));
    assert_eq!(lab.nodes[0].worker.counters().decided, decided + 1, "its own change");
}

#[test]
fn a_change_is_seen_by_the_next_packet() {
    let (mut lab, port) = established();
    let mut last = Arc::new(snapshot(11, 0, 1));
    load(&mut lab, |_| {}, &mut last);
    let out = || tcp(A, 5000, REMOTE, 443, ACK, 101, 501);
    let back = || tcp(REMOTE, 443, PUBLIC, port, ACK, 501, 101);
    let (_, frame, _) = judge(&mut lab, INSIDE, out());
    assert_eq!(frame[..6], mac_of(UPSTREAM).0);
    // The outside network's next hop.
    let other = std::net::Ipv4Addr::new(203, 0, 113, 2);
    load(&mut lab, |s| s.outside.next_hop = Some(other), &mut last);
    lab.learn(0, OUTSIDE, other);
    let (_, frame, _) = judge(&mut lab, INSIDE, out());
    assert_eq!(frame[..6], mac_of(other).0);
    // Its MAC.
    let mac = Mac([0x52, 9, 9, 9, 9, 9]);
    lab.frame(0, OUTSIDE, arp(ArpOp::Request, mac, other, Mac::BROADCAST, UPSTREAM));
    let (_, frame, _) = judge(&mut lab, INSIDE, out());
    assert_eq!(frame[..6], mac.0);
    // The backend: another one has the address.
    let taken = |s: &mut Snapshot| {
        let a = s.backends.remove(&BackendId(1)).expect("A");
        s.backends.insert(BackendId(9), a);
        Arc::make_mut(&mut s.backend_by_ip).insert((VnetId(0), A), BackendId(9));
    };
    load(&mut lab, taken, &mut last);
    let verdict = judge(&mut lab, INSIDE, out()).0;
    assert_eq!(verdict, Verdict::Drop(DropReason::NotFirstPacket), "the flow was another's");
    assert_eq!(judge(&mut lab, OUTSIDE, back()).0, Verdict::Drop(DropReason::NoMapping));
}

#[test]
fn a_stranger_s_frame_does_not_pass_by_what_was_decided() {
    let (mut lab, port) = established();
    let mut forged = tcp(A, 5000, REMOTE, 443, ACK, 101, 501);
    forged[6..12].copy_from_slice(&mac_of(B).0);
    assert_eq!(judge(&mut lab, INSIDE, forged).0, Verdict::Drop(DropReason::SpoofedSource), "I43");
    let mut flooded = tcp(REMOTE, 443, PUBLIC, port, ACK, 501, 101);
    flooded[..6].copy_from_slice(&Mac::of_shard(OTHER).0);
    assert_eq!(judge(&mut lab, OUTSIDE, flooded).0, Verdict::Drop(DropReason::NotForUs), "M1");
    // Without the lease nothing leaves as its owner's (L4).
    lab.lapse();
    let out = tcp(A, 5000, REMOTE, 443, ACK, 101, 501);
    let (verdict, frame, _) = judge(&mut lab, INSIDE, out);
    assert!(!matches!(verdict, Verdict::Transmit { .. }) || frame[6..12] != Mac::of_shard(SHARD).0, "{verdict:?}");
}
