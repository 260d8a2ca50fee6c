//! One owner: packets, ports, holds, limits.

use crate::lab::*;
use qnat_engine::event::{Authority, DropReason, Verdict, WorkerOutput};
use qnat_engine::ids::*;
use qnat_engine::record::{HoldClass, Proto};
use qnat_engine::snapshot::Draining;
use qnat_engine::snapshot::OnReclaim;
use qnat_engine::status::FlowState;
use qnat_engine::wire::ArpOp;
use std::net::Ipv4Addr;
use std::sync::Arc;

fn state(lab: &Lab) -> Vec<FlowState> {
    lab.nodes[lab.leader].worker.view().dump_flows(lab.now, Some(SHARD), 1000).into_iter().map(|f| f.state).collect()
}

#[test]
fn a_first_packet_leaves_only_after_its_commit_and_the_reply_finds_its_way_back() {
    let mut lab = Lab::new(1);
    lab.hold = Hold::Yes;
    assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 53)), Verdict::Consumed);
    assert!(lab.sent.is_empty(), "I6: nothing leaves before the commit");
    assert_eq!(state(&lab), [FlowState::Opening]);
    lab.commit_waiting();
    assert_eq!(lab.sent.len(), 1);
    let left = lab.sent[0].packet();
    assert_eq!((left.src, left.dst, left.dst_port, left.ttl), (PUBLIC, REMOTE, 53, 63));
    assert_eq!((left.eth_src, left.eth_dst), (Mac::of_shard(SHARD), mac_of(UPSTREAM)));
    assert!(block(2048, 32).contains(left.src_port) || block(4096, 32).contains(left.src_port), "I3");
    assert_eq!(lab.sent[0].authority, Authority::Lease { shard: SHARD, term: Term(1) });
    let back = lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, left.src_port));
    assert_eq!((back.src, back.dst, back.dst_port, back.ttl), (REMOTE, A, 5000, 63));
    assert_eq!((back.eth_src, back.eth_dst), (Mac::of_shard(SHARD), mac_of(A)));
    let again = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    assert_eq!(again.src_port, left.src_port);
    assert_eq!(lab.nodes[0].worker.counters().hold.count(), 1);
}

#[test]
fn return_traffic_passes_from_exactly_that_remote_only() {
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    let stranger = Ipv4Addr::new(198, 51, 100, 8);
    for frame in [udp_in(stranger, 53, PUBLIC, port), udp_in(REMOTE, 54, PUBLIC, port)] {
        assert_eq!(lab.frame(0, OUTSIDE, frame), Verdict::Drop(DropReason::NoMapping));
    }
}

#[test]
fn flows_to_distinct_remotes_share_a_port_and_flows_to_one_remote_do_not() {
    let mut lab = Lab::new(1);
    let first = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 54)).src_port, first, "S8, S10");
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5001, Ipv4Addr::new(198, 51, 100, 9), 53)).src_port, first);
    assert_ne!(lab.pass(0, INSIDE, udp(A, 5001, REMOTE, 53)).src_port, first, "S7");
    let ports = lab.nodes[0].worker.view().dump_ports();
    assert_eq!((ports[0].leased(), ports[0].used(), ports[0].held()), (64, 2, 0));
}

#[test]
fn a_backend_never_uses_more_than_its_lease() {
    let mut lab = Lab::new(1);
    let mut ports = std::collections::BTreeSet::new();
    for i in 0..32 {
        let p = lab.pass(0, INSIDE, udp(B, 6000 + i, REMOTE, 53));
        assert!(block(2080, 32).contains(p.src_port), "I3");
        assert!(ports.insert(p.src_port), "I1");
    }
    assert_eq!(lab.out(0, udp(B, 7000, REMOTE, 53)), Verdict::Drop(DropReason::PortsExhausted), "S12");
    assert_eq!(lab.pass(0, INSIDE, udp(B, 7000, REMOTE, 54)).dst_port, 54, "other remotes still pass");
}

#[test]
fn what_must_not_open_a_flow_does_not() {
    let mut lab = Lab::new(1);
    let cases = [
        (tcp(A, 1, REMOTE, 80, ACK, 1, 1), DropReason::NotFirstPacket),
        (tcp(A, 1, REMOTE, 80, SYN | ACK, 1, 1), DropReason::NotFirstPacket),
        (udp(Ipv4Addr::new(10, 0, 0, 99), 1, REMOTE, 53), DropReason::SpoofedSource),
        (udp(A, 1, B, 53), DropReason::PrivateDestination),
        (udp(A, 1, Ipv4Addr::new(203, 0, 113, 255), 53), DropReason::MartianDestination),
        (udp(A, 1, Ipv4Addr::new(239, 0, 0, 1), 53), DropReason::MartianDestination),
        (udp(NO_LEASE, 1, REMOTE, 53), DropReason::NoOutboundPath),
        (udp_to(Mac::BROADCAST, A, 1, REMOTE, 53), DropReason::NotForUs),
        (udp_to(Mac::of_shard(OTHER), A, 1, REMOTE, 53), DropReason::NotForUs),
        (udp_to(Mac([0x52, 9, 9, 9, 9, 9]), A, 1, REMOTE, 53), DropReason::NotForUs),
    ];
    for (frame, reason) in cases {
        assert_eq!(lab.out(0, frame), Verdict::Drop(reason));
    }
    assert_eq!(lab.status(0).live, 0, "I43");
    assert_eq!(lab.log.len(), 2, "nothing was proposed");
}

#[test]
fn packets_of_an_opening_flow_wait_together_and_leave_in_order() {
    let mut lab = Lab::new(1);
    lab.hold = Hold::Yes;
    for seq in [7, 7, 8] {
        assert_eq!(lab.out(0, tcp(A, 9, REMOTE, 80, SYN, seq, 0)), Verdict::Consumed);
    }
    lab.commit_waiting();
    let seqs: Vec<u32> = lab.sent.iter().map(|s| s.packet().tcp.expect("tcp").seq).collect();
    assert_eq!(seqs, [7, 7, 8]);
    assert_eq!(lab.status(0).live, 1);
    assert_eq!(lab.nodes[0].worker.held_bytes(), (0, false));
}

#[test]
fn opens_gathered_between_polls_form_one_entry() {
    let mut lab = Lab::new(1);
    for port in 0..20 {
        let n = &mut lab.nodes[0];
        let mut frame = udp(A, 5000 + port, REMOTE, 53);
        n.worker.handle_frame(lab.now, &n.words, INSIDE, &Default::default(), &mut frame);
    }
    lab.pump();
    let entries = lab.outputs.iter().filter(|(_, o)| matches!(o, WorkerOutput::Propose { .. })).count();
    assert_eq!((entries, lab.status(0).live), (1, 20));
}

#[test]
fn held_packets_are_bounded_and_dropped_beyond() {
    let mut lab = Lab::new(1);
    lab.load(11, |s| {
        s.params.held_packets_per_backend_max = 3;
        s.params.held_bytes_max = 260;
    });
    lab.hold = Hold::Yes;
    for port in 0..3 {
        assert_eq!(lab.out(0, udp(A, port, REMOTE, 53)), Verdict::Consumed);
    }
    assert_eq!(lab.out(0, udp(A, 0, REMOTE, 53)), Verdict::Drop(DropReason::HoldLimit));
    assert_eq!(lab.out(0, udp(B, 0, REMOTE, 53)), Verdict::Consumed, "I40: another backend has its own limit");
    assert_eq!(lab.nodes[0].worker.held_bytes().0, 4 * 49);
    assert_eq!(lab.out(0, udp(B, 1, REMOTE, 53)), Verdict::Consumed);
    assert_eq!(lab.out(0, udp(B, 2, REMOTE, 53)), Verdict::Drop(DropReason::HoldLimit), "I49: bytes in all");
    lab.commit_waiting();
    assert_eq!(lab.sent.len(), 5);
    assert_eq!(lab.nodes[0].worker.held_bytes(), (0, false));
}

#[test]
fn a_packet_held_for_a_second_is_dropped_and_never_sent() {
    let mut lab = Lab::new(1);
    lab.hold = Hold::Yes;
    lab.out(0, udp(A, 5000, REMOTE, 53));
    lab.run(1_010);
    assert_eq!(lab.dropped(0, DropReason::OpenRefused), 1, "I28");
    lab.commit_waiting();
    assert!(lab.sent.iter().all(Sent::is_arp));
    assert_eq!(lab.status(0).live, 1, "its mapping opened and serves the next packet");
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
}

#[test]
fn the_flow_limit_of_a_shard_drops_new_flows_only() {
    let mut lab = Lab::new(1);
    lab.pass(0, INSIDE, udp(A, 1, REMOTE, 53));
    lab.load(11, |s| s.params.flows_per_shard_max = 1);
    assert_eq!(lab.out(0, udp(A, 2, REMOTE, 53)), Verdict::Drop(DropReason::TableFull));
    lab.pass(0, INSIDE, udp(A, 1, REMOTE, 53));
}

#[test]
fn an_idle_datagram_flow_closes_is_held_and_then_forgotten() {
    let mut lab = Lab::new(2);
    lab.run(100);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500)).src_port;
    lab.run(239_500);
    assert_eq!(state(&lab), [FlowState::Live], "not before the timeout (I48)");
    // Inbound alone does not refresh (R5).
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 4500, PUBLIC, port));
    lab.run(2_500);
    assert_eq!(state(&lab), [FlowState::Held(HoldClass::IdleDatagram)]);
    lab.run(63_000);
    assert_eq!(lab.status(0).held, 1, "the hold runs 65 s");
    lab.assert_in_step();
    lab.run(4_500);
    assert_eq!((lab.status(0).held, lab.status(0).live, lab.status(1).held), (0, 0, 0), "I29");
    assert_eq!(lab.status(0).free, 1);
    lab.assert_in_step();
}

#[test]
fn outbound_datagrams_refresh_the_idle_timeout() {
    let mut lab = Lab::new(1);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    for _ in 0..3 {
        lab.run(200_000);
        lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    }
    assert_eq!(state(&lab), [FlowState::Live]);
}

#[test]
fn a_held_flow_reopens_on_its_own_port_and_a_stranger_gets_another() {
    let mut lab = Lab::new(2);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500)).src_port;
    lab.run(300_000);
    assert_eq!(lab.status(0).held, 1);
    let other = lab.pass(0, INSIDE, udp(A, 5001, REMOTE, 4500)).src_port;
    assert_ne!(other, port, "I11: held towards this remote");
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5002, REMOTE, 54)).src_port, port, "D6: other remotes may");
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500)).src_port, port, "F3");
    assert_eq!((lab.status(0).live, lab.status(0).held), (3, 0));
    lab.assert_in_step();
    lab.run(100_000);
    assert_eq!(lab.status(0).live, 3, "the old hold's end does not touch the reopened mapping");
    lab.assert_in_step();
}

#[test]
fn a_packet_behind_a_proposed_close_waits_and_reopens_the_flow() {
    let mut lab = Lab::new(2);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    lab.hold = Hold::Yes;
    lab.run(270_000);
    assert_eq!(state(&lab), [FlowState::Closing]);
    assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 53)), Verdict::Consumed);
    lab.sent.clear();
    lab.commit_waiting();
    lab.sent.retain(|s| !s.is_arp());
    assert_eq!(lab.sent.iter().map(|s| s.packet().src_port).collect::<Vec<_>>(), [port]);
    assert_eq!((lab.status(0).live, lab.status(0).held), (1, 0));
    lab.assert_in_step();
}

fn handshake(lab: &mut Lab) -> u16 {
    let port = lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, SYN, 100, 0)).src_port;
    lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, SYN | ACK, 500, 101));
    lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, ACK, 101, 501));
    port
}

#[test]
fn both_fins_close_and_late_segments_still_pass() {
    let mut lab = Lab::new(1);
    let port = handshake(&mut lab);
    lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, FIN | ACK, 101, 501));
    assert_eq!(state(&lab), [FlowState::Live], "half closed");
    lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, FIN | ACK, 501, 102));
    lab.run(19);
    assert_eq!(state(&lab), [FlowState::Closing], "its close waits for other records, 20 ms at most");
    lab.run(1);
    assert_eq!(state(&lab), [FlowState::Held(HoldClass::Fin)]);
    lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, ACK, 102, 502));
    lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, FIN | ACK, 501, 102));
    assert_eq!(state(&lab), [FlowState::Held(HoldClass::Fin)], "late segments change nothing");
    assert_eq!(lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 80, SYN, 900, 0)).src_port, port);
    assert_eq!(state(&lab), [FlowState::Live]);
}

#[test]
fn a_reset_off_the_expected_sequence_changes_nothing_and_one_on_it_closes_after_silence() {
    let mut lab = Lab::new(1);
    let port = handshake(&mut lab);
    lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, RST, 600, 0));
    lab.run(20_000);
    assert_eq!(state(&lab), [FlowState::Live], "I17");
    lab.pass(0, OUTSIDE, tcp(REMOTE, 80, PUBLIC, port, RST, 501, 0));
    lab.run(15_500);
    assert_eq!(state(&lab), [FlowState::Live]);
    lab.run(2_500);
    assert_eq!(state(&lab), [FlowState::Held(HoldClass::Rst)], "R18");
    lab.run(18_000);
    assert_eq!(state(&lab), [], "16 s of hold");
}

#[test]
fn echo_requests_get_an_identifier_of_the_lease() {
    let mut lab = Lab::new(1);
    let left = lab.pass(0, INSIDE, ping(A, REMOTE, 77));
    assert_eq!(left.proto, Proto::Icmp);
    assert!(block(2048, 32).contains(left.src_port) || block(4096, 32).contains(left.src_port), "D9");
    let back = lab.pass(0, OUTSIDE, pong(PUBLIC, left.src_port));
    assert_eq!((back.dst, back.dst_port), (A, 77));
}

#[test]
fn a_packet_for_an_unknown_neighbour_waits_for_the_answer() {
    let mut lab = Lab::new(1);
    let near = Ipv4Addr::new(203, 0, 113, 77);
    assert_eq!(lab.out(0, udp(A, 5000, near, 53)), Verdict::Consumed);
    let asks: Vec<_> = lab.sent.iter().filter(|s| s.is_arp()).collect();
    assert_eq!(asks.len(), 1);
    assert_eq!(asks[0].authority, Authority::Lease { shard: SHARD, term: Term(1) });
    assert_eq!(asks[0].frame[28..32], PUBLIC.octets(), "outside a question carries the frontend");
    assert_eq!(lab.out(0, udp(A, 5000, near, 53)), Verdict::Consumed, "later packets keep their place");
    lab.sent.clear();
    let answer = arp(ArpOp::Reply, mac_of(near), near, Mac::of_shard(SHARD), PUBLIC);
    lab.frame(0, OUTSIDE, answer);
    assert_eq!(lab.sent.len(), 2);
    assert!(lab.sent.iter().all(|s| s.packet().eth_dst == mac_of(near)));
    let silent = Ipv4Addr::new(203, 0, 113, 78);
    lab.out(0, udp(A, 5000, silent, 53));
    lab.run(1_200);
    assert_eq!(lab.dropped(0, DropReason::NoNeighbour), 1);
}

#[test]
fn gateway_and_frontends_are_answered_for_by_their_owner_alone() {
    let mut lab = Lab::new(2);
    let ask = |ip, target| arp(ArpOp::Request, mac_of(ip), ip, Mac::BROADCAST, target);
    let cases = [
        (0, INSIDE, ask(A, GATEWAY), true),
        (1, INSIDE, ask(A, GATEWAY), false),
        (0, INSIDE, ask(C, GATEWAY), false),
        (0, INSIDE, ask(A, B), false),
        (0, OUTSIDE, ask(UPSTREAM, PUBLIC), true),
        (0, OUTSIDE, ask(UPSTREAM, PUBLIC_2), false),
        (1, OUTSIDE, ask(UPSTREAM, PUBLIC), false),
    ];
    for (i, (node, link, frame, answered)) in cases.into_iter().enumerate() {
        lab.sent.clear();
        assert_eq!(lab.frame(node, link, frame), Verdict::Consumed);
        assert_eq!(lab.sent.len(), usize::from(answered), "case {i}");
        if answered {
            assert_eq!(lab.sent[0].frame[6..12], Mac::of_shard(SHARD).0, "M1: from the vMAC");
        }
    }
    lab.lapse();
    lab.sent.clear();
    lab.frame(0, INSIDE, ask(A, GATEWAY));
    assert!(lab.sent.is_empty(), "nothing without the lease");
}

fn drain(s: &mut qnat_engine::snapshot::Snapshot, on_reclaim: OnReclaim) {
    let draining = Draining { block: block(2048, 32), reclaim_index: ControlIndex(11), on_reclaim };
    drains(s, draining);
    s.backends.get_mut(&BackendId(1)).expect("A").lease = vec![block(4096, 32)];
}

/// Opens flows of A to one remote until one is on the block that will drain and one is not.
fn one_on_each(lab: &mut Lab) -> (u16, u16) {
    let (mut on, mut off) = (None, None);
    for port in 5000..5064 {
        let public = lab.pass(0, INSIDE, udp(A, port, REMOTE, 53)).src_port;
        if block(2048, 32).contains(public) {
            on.get_or_insert(port)
        } else {
            off.get_or_insert(port)
        };
    }
    (on.expect("64 flows use 64 ports"), off.expect("64 flows use 64 ports"))
}

#[test]
fn a_reclaimed_block_closes_holds_and_is_fenced_last() {
    let mut lab = Lab::new(2);
    lab.run(4_000);
    let (on, off) = one_on_each(&mut lab);
    lab.load(11, |s| drain(s, OnReclaim::Expire));
    lab.run(100);
    assert_eq!((lab.status(0).live, lab.status(0).held), (32, 32), "S14: kept ports keep their flows");
    assert!(lab.fenced().is_empty());
    lab.pass(0, INSIDE, udp(A, off, REMOTE, 53));
    assert_eq!(
        lab.out(0, udp(A, on, REMOTE, 53)),
        Verdict::Drop(DropReason::PortsExhausted),
        "it must be established anew, and the kept half is full towards this remote"
    );
    let again = lab.pass(0, INSIDE, udp(A, on, REMOTE, 54));
    assert!(block(4096, 32).contains(again.src_port));
    lab.run(64_000);
    assert!(lab.fenced().is_empty(), "F4, I11: a held port is use");
    lab.run(4_000);
    assert_eq!(lab.fenced(), [block(2048, 32)]);
    lab.assert_in_step();
    lab.outputs.clear();
    lab.run(1_500);
    assert_eq!(lab.fenced(), [block(2048, 32)], "told again until the control state has it");
    assert!(!lab.outputs.iter().any(|(_, o)| matches!(o, WorkerOutput::Propose { .. })), "but not proposed again");
}

#[test]
fn a_draining_block_waits_for_its_flows_when_told_to() {
    let mut lab = Lab::new(1);
    lab.run(4_000);
    let (on, _) = one_on_each(&mut lab);
    lab.load(11, |s| drain(s, OnReclaim::Drain));
    lab.run(1_000);
    assert_eq!(lab.status(0).live, 64);
    lab.pass(0, INSIDE, udp(A, on, REMOTE, 53));
    assert!(lab.fenced().is_empty());
}

#[test]
fn an_open_in_flight_on_a_draining_block_is_closed_before_the_fence() {
    let mut lab = Lab::new(1);
    lab.run(4_000);
    lab.hold = Hold::Yes;
    for port in 0..64 {
        lab.out(0, udp(A, port, REMOTE, 53));
    }
    lab.load(11, |s| drain(s, OnReclaim::Expire));
    lab.run(200);
    assert!(lab.fenced().is_empty(), "the overlay has flows on it");
    lab.commit_waiting();
    assert_eq!(lab.status(0).live, 64, "judged under the old snapshot");
    lab.run(100);
    assert_eq!((lab.status(0).live, lab.status(0).held), (32, 32));
    assert!(lab.fenced().is_empty(), "no fence was under way behind them");
    lab.run(66_000);
    assert_eq!(lab.fenced(), [block(2048, 32)]);
    assert_eq!(lab.status(0).counts, qnat_engine::ApplyCounts::default(), "nothing was refused");
}

#[test]
fn flows_of_a_backend_that_vanished_close_by_policy() {
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    lab.pass(0, INSIDE, udp(B, 5000, REMOTE, 53));
    lab.load(11, |s| {
        s.backends.remove(&BackendId(1));
        Arc::make_mut(&mut s.backend_by_ip).remove(&(VnetId(0), A));
    });
    lab.run(50);
    assert_eq!((lab.status(0).live, lab.status(0).held), (1, 1));
    assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 53)), Verdict::Drop(DropReason::SpoofedSource));
    let late = udp_in(REMOTE, 53, PUBLIC, port);
    assert_eq!(lab.frame(0, OUTSIDE, late), Verdict::Drop(DropReason::NoMapping));
}

#[test]
fn an_older_snapshot_is_not_loaded() {
    let mut lab = Lab::new(1);
    lab.load(12, |_| {});
    assert!(!lab.nodes[0].worker.load_snapshot(lab.now, std::sync::Arc::new(snapshot(11, 0, 1))));
}

#[test]
fn a_backend_at_its_flow_limit_opens_nothing_and_keeps_what_it_has() {
    let mut lab = Lab::new(1);
    for port in 1..=2 {
        lab.pass(0, INSIDE, udp(A, port, REMOTE, 4500));
    }
    lab.load(11, |s| s.params.flows_per_backend_max = 3);
    lab.hold = Hold::Yes;
    assert_eq!(lab.out(0, udp(A, 3, REMOTE, 4500)), Verdict::Consumed);
    assert_eq!(lab.out(0, udp(A, 4, REMOTE, 4500)), Verdict::Drop(DropReason::FlowLimit), "one is on its way");
    lab.commit_waiting();
    lab.pass(0, INSIDE, udp(A, 1, REMOTE, 4500));
    lab.pass(0, INSIDE, udp(B, 1, REMOTE, 4500));
    lab.run(250_000);
    assert_eq!(lab.out(0, udp(A, 4, REMOTE, 4500)), Verdict::Drop(DropReason::FlowLimit), "held ones count");
    lab.pass(0, INSIDE, udp(A, 2, REMOTE, 4500));
    lab.run(70_000);
    lab.pass(0, INSIDE, udp(A, 4, REMOTE, 4500));
}

#[test]
fn backends_at_their_limit_leave_a_part_of_the_table_to_all_others() {
    let mut lab = Lab::new(1);
    lab.load(11, |s| (s.params.flows_per_shard_max, s.params.flows_per_backend_max) = (56, 56));
    let flood = |lab: &mut Lab, from| -> u16 {
        let opened = (1..=60).take_while(|port| {
            let verdict = lab.out(0, udp(from, *port, REMOTE, 4500));
            assert!(matches!(verdict, Verdict::Consumed | Verdict::Drop(DropReason::FlowLimit)), "{verdict:?}");
            verdict == Verdict::Consumed
        });
        u16::try_from(opened.count()).expect("few")
    };
    assert_eq!(flood(&mut lab, A), 28, "one alone takes half");
    assert_eq!(flood(&mut lab, B), 14, "half of what is left");
    lab.pass(0, INSIDE, udp(A, 1, REMOTE, 4500));
    lab.pass(0, INSIDE, udp(B, 1, REMOTE, 4500));
    let (live, held) =
        (lab.nodes[0].worker.view().shard_status()[0].live, lab.nodes[0].worker.view().shard_status()[0].held);
    assert_eq!((live, held), (42, 0), "a quarter is left for who has little");
}

#[test]
fn a_backend_over_its_rate_opens_nothing_for_a_while_and_others_do_not_feel_it() {
    let mut lab = Lab::new(1);
    lab.load(11, |s| s.params.new_flows_per_second_max = 10);
    let opened = |lab: &mut Lab, from: u16| {
        (from..from + 20).filter(|port| lab.out(0, udp(A, *port, REMOTE, 4500)) == Verdict::Consumed).count()
    };
    assert_eq!((opened(&mut lab, 1000), lab.dropped(0, DropReason::RateLimit)), (10, 10));
    lab.pass(0, INSIDE, udp(A, 1000, REMOTE, 4500));
    lab.pass(0, INSIDE, udp(B, 1, REMOTE, 4500));
    lab.run(500);
    assert_eq!(opened(&mut lab, 2000), 5);
    // A flow whose close is on its way goes on, although there is no token left (R22).
    lab.hold = Hold::Yes;
    lab.run(245_000);
    lab.commit_waiting();
    lab.hold = Hold::Yes;
    assert_eq!(opened(&mut lab, 3000), 10);
    assert_eq!(lab.out(0, udp(A, 1000, REMOTE, 4500)), Verdict::Consumed);
    lab.sent.clear();
    lab.commit_waiting();
    assert_eq!(lab.sent.iter().filter(|s| !s.is_arp()).count(), 11);
}
