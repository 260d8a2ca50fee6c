//! The order of a flow's packets is kept (I56), also where an earlier one had to wait and a later one need not.

use std::net::Ipv4Addr;

use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::Verdict;
use qnat_engine::ids::*;
use qnat_engine::wire::{ArpOp, FrameMeta};

/// One batch: nothing is polled between its frames. Returns who left, in order, by the last octet of the payload.
fn batch(lab: &mut Lab, frames: Vec<(Link, Vec<u8>)>) -> Vec<(u16, u8)> {
    let n = &mut lab.nodes[0];
    let mut left = Vec::new();
    for (link, mut frame) in frames {
        if let Verdict::Transmit { .. } =
            n.worker.handle_frame(lab.now, &n.words, link, &FrameMeta::default(), &mut frame)
        {
            left.push(frame);
        }
    }
    let mut frame = Vec::new();
    while n.worker.poll_frame(lab.now, &n.words, &mut frame).is_some() {
        left.push(frame.clone());
    }
    left.retain(|frame| frame[12..14] == [8, 0]);
    left.iter().map(|f| (word(f, L3 + 22), *f.last().expect("a payload"))).collect()
}

fn numbered(to: Ipv4Addr, port: u16, number: u8, len: usize) -> (Link, Vec<u8>) {
    let mut data = vec![0; len];
    data.push(number);
    (INSIDE, udp_raw((A, 5000), (to, port), &data).frame(A, SHARD))
}

#[test]
fn a_packet_that_need_not_wait_stays_behind_the_one_that_waited_for_its_neighbour() {
    let mut lab = Lab::new(1);
    let near = Ipv4Addr::new(203, 0, 113, 77);
    lab.out(0, numbered(near, 53, 1, 8).1);
    lab.out(0, numbered(near, 53, 2, 8).1);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    let answer = (OUTSIDE, arp(ArpOp::Reply, mac_of(near), near, Mac::of_shard(SHARD), PUBLIC));
    let frames = vec![answer, numbered(near, 53, 3, 8), numbered(REMOTE, 4500, 9, 8), numbered(near, 53, 4, 8)];
    let left = batch(&mut lab, frames);
    let of = |port| left.iter().filter(|(to, _)| *to == port).map(|(_, n)| *n).collect::<Vec<_>>();
    assert_eq!(of(53), [1, 2, 3, 4]);
    assert_eq!(of(4500), [9]);
    assert_eq!(lab.nodes[0].worker.held_bytes(), (0, false));
}

#[test]
fn a_short_packet_stays_behind_the_pieces_of_a_long_one() {
    let mut lab = Lab::new(1);
    lab.nodes[0].worker.set_mtu(INSIDE, 9000);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    let frames = vec![numbered(REMOTE, 4500, 1, 2000), numbered(REMOTE, 4500, 2, 8), numbered(REMOTE, 4500, 3, 8)];
    let left: Vec<u8> = batch(&mut lab, frames).iter().map(|(_, number)| *number).collect();
    // The first piece ends in the middle of the datagram, the second with its number.
    assert_eq!(left, [0, 1, 2, 3]);
}

#[test]
fn packets_that_nothing_waits_for_leave_at_once() {
    let mut lab = Lab::new(1);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    let verdict = lab.out(0, numbered(REMOTE, 4500, 1, 8).1);
    assert!(matches!(verdict, Verdict::Transmit { .. }), "{verdict:?}");
}
