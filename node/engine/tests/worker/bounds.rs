//! Every bound is reached: what still fits at it, and what one more is dropped as (R10, R21, I46, I47, I49).

use std::net::Ipv4Addr;
use words::Prefix;

use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::*;
use qnat_engine::snapshot::Snapshot;
use qnat_engine::status::FlowState;
use qnat_engine::wire::{ArpOp, FrameMeta};

use crate::lab::*;
use crate::raw::*;

/// An address on the outside link that nobody has told of.
fn near(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(203, 0, 120, 0).to_bits() + n)
}

/// The outside link holds 65,534 hosts, and a backend's packets that wait are bounded by something else.
fn wide(s: &mut Snapshot) {
    s.outside.prefix = Prefix { network: Ipv4Addr::new(203, 0, 0, 0), len: 16 };
    s.params.held_packets_per_backend_max = 65_536;
}

fn packets(lab: &mut Lab) -> Vec<Sent> {
    lab.sent.retain(|sent| !sent.is_arp());
    std::mem::take(&mut lab.sent)
}

#[test]
fn held_mappings_count_against_the_limit_of_a_shard() {
    let mut lab = Lab::new(1);
    lab.load(11, |s| s.params.flows_per_shard_max = 2);
    lab.pass(0, INSIDE, udp(A, 1, REMOTE, 4500));
    lab.run(242_000);
    assert_eq!((lab.status(0).live, lab.status(0).held), (0, 1));
    // Of one backend each: the last free place is for who has none (I40).
    lab.pass(0, INSIDE, udp(B, 2, REMOTE, 4500));
    assert_eq!(lab.out(0, udp(B, 3, REMOTE, 4500)), Verdict::Drop(DropReason::TableFull), "one live and one held");
    assert_eq!(lab.out(0, udp(A, 3, REMOTE, 4500)), Verdict::Drop(DropReason::TableFull), "whoever asks");
    lab.run(66_000);
    assert_eq!((lab.status(0).live, lab.status(0).held), (1, 0));
    lab.pass(0, INSIDE, udp(A, 3, REMOTE, 4500));
}

#[test]
fn mappings_on_their_way_count_against_the_limits_of_shard_and_backend() {
    for (per_shard, second, reason) in [(true, B, DropReason::TableFull), (false, A, DropReason::FlowLimit)] {
        let mut lab = Lab::new(1);
        lab.load(11, |s| {
            *(if per_shard { &mut s.params.flows_per_shard_max } else { &mut s.params.flows_per_backend_max }) = 2;
        });
        lab.hold = Hold::Yes;
        assert_eq!(lab.out(0, udp(A, 1, REMOTE, 53)), Verdict::Consumed);
        assert_eq!(lab.out(0, udp(second, 2, REMOTE, 53)), Verdict::Consumed);
        assert_eq!(lab.out(0, udp(A, 3, REMOTE, 53)), Verdict::Drop(reason));
    }
}

#[test]
fn sixty_four_packets_wait_for_one_neighbour_and_no_more() {
    let mut lab = Lab::new(1);
    for n in 0..64 {
        assert_eq!(lab.out(0, udp(A, 5000, Ipv4Addr::new(203, 0, 113, 77), 53)), Verdict::Consumed, "packet {n}");
    }
    let more = lab.out(0, udp(A, 5000, Ipv4Addr::new(203, 0, 113, 77), 53));
    assert_eq!(more, Verdict::Drop(DropReason::NoNeighbour));
    lab.sent.clear();
    lab.learn(0, OUTSIDE, Ipv4Addr::new(203, 0, 113, 77));
    lab.pump();
    assert_eq!(packets(&mut lab).len(), 64, "all that waited leave");
    assert_eq!(lab.nodes[0].worker.held_bytes(), (0, false));
}

#[test]
fn a_thousand_neighbours_are_waited_for_and_no_more() {
    let mut lab = Lab::new(1);
    lab.load(11, wide);
    for n in 1..=1_024 {
        assert_eq!(lab.out(0, udp(A, 5000, near(n), 53)), Verdict::Consumed, "neighbour {n}");
    }
    assert_eq!(lab.dropped(0, DropReason::NoNeighbour), 0);
    lab.out(0, udp(A, 5000, near(1_025), 53));
    assert_eq!(lab.dropped(0, DropReason::NoNeighbour), 1, "one more");
    assert_eq!(lab.out(0, udp(A, 5000, near(1_024), 53)), Verdict::Consumed, "one that is waited for already");
}

#[test]
fn a_datagram_has_at_most_128_fragments() {
    let mut lab = Lab::new(1);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    let step = 16;
    let whole = |count: usize, id| Raw { id, ..udp_raw((A, 5000), (REMOTE, 53), &vec![7; count * step - 8]) };
    let fragments = |count, id| -> Vec<Vec<u8>> {
        let packet: Raw = whole(count, id);
        let piece = |(place, part): (usize, &[u8])| {
            let more = if place + 1 < count { MORE_FRAGMENTS } else { 0 };
            let fragment = more + u16::try_from(place * step / 8).expect("small");
            Raw { fragment, payload: part.to_vec(), ..packet.clone() }.frame(A, SHARD)
        };
        packet.payload.chunks(step).enumerate().map(piece).collect()
    };
    lab.sent.clear();
    for fragment in fragments(128, 1) {
        lab.out(0, fragment);
    }
    assert_eq!((packets(&mut lab).len(), lab.dropped(0, DropReason::FragmentLimit)), (128, 0));
    let mut more = fragments(129, 2);
    let last = more.pop().expect("129");
    more.into_iter().for_each(|fragment| {
        lab.out(0, fragment);
    });
    assert_eq!(lab.dropped(0, DropReason::FragmentLimit), 0);
    assert_eq!(lab.out(0, last), Verdict::Drop(DropReason::FragmentLimit));
}

#[test]
fn entries_in_flight_and_batches_behind_them_are_bounded_and_nothing_of_them_is_lost() {
    let mut lab = Lab::new(1);
    lab.load(11, wide);
    lab.hold = Hold::Yes;
    let mut flows = 0..;
    let mut open = |lab: &mut Lab| {
        let n = flows.next().expect("endless");
        lab.out(0, udp(A, 5000, Ipv4Addr::from_bits(REMOTE.to_bits() + n), 53))
    };
    for n in 0..300 {
        assert_eq!(open(&mut lab), Verdict::Consumed, "flow {n}");
    }
    assert_eq!(lab.waiting.len(), 256, "no more entries are on their way; the rest is one batch");
    // A new configuration begins a new batch: 63 more of them.
    for index in 12..75 {
        lab.load_on(0, index, wide);
        assert_eq!(open(&mut lab), Verdict::Consumed, "batch of configuration {index}");
    }
    lab.load_on(0, 75, wide);
    assert_eq!(open(&mut lab), Verdict::Drop(DropReason::Backpressure), "64 batches wait");
    lab.sent.clear();
    lab.commit_waiting();
    assert_eq!(packets(&mut lab).len(), 363, "whatever was accepted leaves");
    assert_eq!((lab.status(0).live, lab.status(0).pending), (363, 0));
    assert_eq!(open(&mut lab), Verdict::Consumed);
}

#[test]
fn a_thousand_frames_of_the_workers_own_wait_and_no_more() {
    let mut lab = Lab::new(1);
    let request = arp(ArpOp::Request, mac_of(A), A, Mac::BROADCAST, GATEWAY);
    let node = &mut lab.nodes[0];
    for _ in 0..1_030 {
        let meta = FrameMeta::default();
        let verdict = node.worker.handle_frame(lab.now, &node.words, INSIDE, &meta, &mut request.clone());
        assert_eq!(verdict, Verdict::Consumed);
    }
    lab.sent.clear();
    lab.pump();
    assert_eq!(lab.sent.len(), 1_024);
    assert!(lab.sent.iter().all(Sent::is_arp));
    lab.sent.clear();
    lab.frame(0, INSIDE, request);
    assert_eq!(lab.sent.len(), 1, "there is room again");
}

#[test]
fn a_lease_that_grows_leaves_every_flow_on_its_port_and_new_ones_use_what_was_added() {
    let mut lab = Lab::new(2);
    let narrow = |s: &mut Snapshot| s.backends.get_mut(&BackendId(1)).expect("A").lease = vec![block(2048, 32)];
    lab.load(11, narrow);
    let ports: Vec<u16> = (0..32).map(|n| lab.pass(0, INSIDE, udp(A, 100 + n, REMOTE, 53)).src_port).collect();
    assert!(ports.iter().all(|port| block(2048, 32).contains(*port)));
    assert_eq!(lab.out(0, udp(A, 99, REMOTE, 53)), Verdict::Drop(DropReason::PortsExhausted));
    lab.load(12, |s| s.backends.get_mut(&BackendId(1)).expect("A").lease = vec![block(2048, 64)]);
    for (n, port) in (0..).zip(&ports) {
        assert_eq!(lab.pass(0, INSIDE, udp(A, 100 + n, REMOTE, 53)).src_port, *port);
        assert_eq!(lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, *port)).dst_port, 100 + n);
    }
    let added = lab.pass(0, INSIDE, udp(A, 99, REMOTE, 53)).src_port;
    assert!(block(2080, 32).contains(added), "{added}");
    lab.assert_in_step();
}

#[test]
fn a_keepalive_from_outside_keeps_an_established_connection() {
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, SYN, 100, 0)).src_port;
    lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, SYN | ACK, 500, 101));
    lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, ACK, 101, 501));
    for minute in 0..6 {
        lab.run(200_000);
        let states: Vec<FlowState> =
            lab.nodes[0].worker.view().dump_flows(lab.now, None, 10).iter().map(|f| f.state).collect();
        assert_eq!(states, [FlowState::Live], "round {minute}");
        lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, ACK, 500, 101));
    }
    lab.run(243_000);
    assert_eq!(lab.status(0).live, 0, "without one it idles out");
}
