//! What comes in to a public address that is one backend's own (S23): all ports and pings of it are that backend's, and nothing is
//! committed for what nobody has proved (W3).

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::groups::{from, group, of_a, rule};
use crate::lab::*;
use crate::own::{OTHER_REMOTE, OWN, OWN_ID, give, take};
use crate::raw::*;
use etherparse::PacketBuilder;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::*;
use qnat_engine::nsg::Access;
use qnat_engine::record::Scenario;
use qnat_engine::snapshot::{OnReclaim, Snapshot};
use qnat_engine::status::{FlowState, FlowView};

/// The address is this backend's, both ways.
fn give_both_ways(s: &mut Snapshot, id: u32) {
    give(s, id);
    Arc::make_mut(&mut s.rules).put_own(OWN_ID, BackendId(id));
}

fn with_own(nodes: u32) -> Lab {
    let mut lab = Lab::new(nodes);
    lab.load(11, |s| give_both_ways(s, 1));
    for node in 0..lab.nodes.len() {
        lab.learn(node, INSIDE, A);
    }
    lab
}

fn flows(lab: &Lab) -> Vec<FlowView> {
    lab.nodes[lab.leader].worker.view().dump_flows(lab.now, Some(SHARD), 1000)
}

/// A connection of the remote's to the instance's port 22.
fn connect(lab: &mut Lab, port: u16) {
    half(lab, port);
    let node = lab.leader;
    let ack = lab.pass(node, OUTSIDE, tcp(REMOTE, port, OWN, 22, ACK, 101, 501));
    assert_eq!((ack.dst, ack.dst_port, ack.src, ack.src_port), (A, 22, REMOTE, port));
}

fn half(lab: &mut Lab, port: u16) {
    let node = lab.leader;
    let syn = lab.pass(node, OUTSIDE, tcp(REMOTE, port, OWN, 22, SYN, 100, 0));
    assert_eq!((syn.dst, syn.dst_port, syn.src, syn.src_port), (A, 22, REMOTE, port), "the client is not hidden");
    let answer = lab.pass(node, INSIDE, tcp(A, 22, REMOTE, port, SYN | ACK, 500, 101));
    assert_eq!((answer.src, answer.src_port, answer.dst, answer.dst_port), (OWN, 22, REMOTE, port));
}

fn data_passes(lab: &mut Lab, port: u16) {
    let node = lab.leader;
    assert_eq!(lab.pass(node, OUTSIDE, tcp(REMOTE, port, OWN, 22, ACK, 101, 501)).dst, A);
    let said = lab.pass(node, INSIDE, tcp(A, 22, REMOTE, port, ACK, 501, 101));
    assert_eq!((said.src, said.src_port), (OWN, 22));
}

fn ping_in(from: Ipv4Addr, to: Ipv4Addr, id: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2(mac_of(UPSTREAM).0, Mac::of_shard(SHARD).0)
        .ipv4(from.octets(), to.octets(), 64)
        .icmpv4_echo_request(id, 1);
    step.write(&mut frame, b"payload").expect("fits");
    frame
}

fn pong_out(from: Ipv4Addr, to: Ipv4Addr, id: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2(mac_of(from).0, Mac::of_shard(SHARD).0)
        .ipv4(from.octets(), to.octets(), 64)
        .icmpv4_echo_reply(id, 1);
    step.write(&mut frame, b"payload").expect("fits");
    frame
}

#[test]
fn all_that_comes_to_an_own_address_reaches_its_backend_by_the_same_port() {
    let mut lab = with_own(3);
    for port in [1, 22, 1023, 5000, 65_535] {
        let syn = lab.pass(0, OUTSIDE, tcp(REMOTE, 7000, OWN, port, SYN, 100, 0));
        assert_eq!((syn.dst, syn.dst_port), (A, port));
        let asked = lab.pass(0, OUTSIDE, udp_in(REMOTE, 7000, OWN, port));
        assert_eq!((asked.dst, asked.dst_port), (A, port));
        let told = lab.pass(0, INSIDE, udp(A, port, REMOTE, 7000));
        assert_eq!((told.src, told.src_port, told.dst_port), (OWN, port, 7000));
        let asked = lab.pass(0, OUTSIDE, ping_in(REMOTE, OWN, port));
        assert_eq!((asked.dst, asked.src, asked.src_port), (A, REMOTE, port), "the identifier is the remote's");
        let told = lab.pass(0, INSIDE, pong_out(A, REMOTE, port));
        assert_eq!((told.src, told.dst, told.dst_port), (OWN, REMOTE, port));
    }
    let all = flows(&lab);
    assert_eq!(all.len(), 10, "what was answered");
    assert!(all.iter().all(|flow| flow.scenario == Scenario::OwnIn && flow.state == FlowState::Live));
    lab.assert_in_step();
}

#[test]
fn nothing_is_committed_before_the_handshake_completes_or_the_datagram_is_answered() {
    let mut lab = with_own(3);
    let before = lab.log.len();
    half(&mut lab, 7001);
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 7001, OWN, 53));
    lab.pass(0, OUTSIDE, ping_in(REMOTE, OWN, 9));
    assert_eq!((lab.log.len(), flows(&lab).len()), (before, 0));
    lab.hold = Hold::Yes;
    lab.sent.clear();
    let ack = lab.frame(0, OUTSIDE, tcp(REMOTE, 7001, OWN, 22, ACK, 101, 501));
    let told = lab.out(0, udp(A, 53, REMOTE, 7001));
    let echoed = lab.out(0, pong_out(A, REMOTE, 9));
    assert_eq!([ack, told, echoed], [Verdict::Consumed; 3], "they wait");
    let opening: Vec<_> = flows(&lab).iter().map(|flow| (flow.state, flow.scenario)).collect();
    assert_eq!(opening, [(FlowState::Opening, Scenario::OwnIn); 3]);
    assert!(lab.sent.iter().all(Sent::is_arp));
    lab.commit_waiting();
    assert_eq!(lab.sent.iter().filter(|s| !s.is_arp()).count(), 3);
    data_passes(&mut lab, 7001);
    lab.assert_in_step();
}

#[test]
fn what_came_in_goes_on_under_a_successor() {
    let mut lab = with_own(3);
    connect(&mut lab, 7001);
    half(&mut lab, 7002);
    lab.pass(0, OUTSIDE, tcp(REMOTE, 7003, OWN, 22, SYN, 100, 0));
    lab.elect(1);
    lab.run(20);
    data_passes(&mut lab, 7001);
    assert_eq!(lab.pass(1, OUTSIDE, tcp(REMOTE, 7002, OWN, 22, ACK, 101, 501)).dst, A);
    let repeated = lab.pass(1, INSIDE, tcp(A, 22, REMOTE, 7003, SYN | ACK, 500, 101));
    assert_eq!((repeated.src, repeated.src_port), (OWN, 22));
    assert_eq!(flows(&lab).len(), 2);
    lab.run(76_000);
    let late = lab.frame(1, OUTSIDE, tcp(REMOTE, 7004, OWN, 22, ACK, 101, 501));
    assert_eq!(late, Verdict::Drop(DropReason::NoMapping), "75 s after the takeover nobody is believed");
    lab.assert_in_step();
}

#[test]
fn flows_from_either_side_stand_beside_each_other_and_one_flow_has_one_mapping() {
    let mut lab = with_own(2);
    connect(&mut lab, 7001);
    let out = lab.pass(0, INSIDE, tcp(A, 22, OTHER_REMOTE, 7001, SYN, 1, 0));
    assert_eq!((out.src, out.src_port), (OWN, 22), "another remote: another tuple");
    // Both sides begin one flow with a datagram.
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 500, OWN, 500));
    assert_eq!(lab.pass(0, INSIDE, udp(A, 500, REMOTE, 500)).src_port, 500);
    assert_eq!(lab.pass(0, OUTSIDE, udp_in(REMOTE, 500, OWN, 500)).dst, A);
    let of_500 = flows(&lab).iter().filter(|flow| flow.public.2 == 500).count();
    assert_eq!(of_500, 1);
    lab.pass(0, INSIDE, udp(A, 501, REMOTE, 501));
    assert_eq!(lab.pass(0, OUTSIDE, udp_in(REMOTE, 501, OWN, 501)).dst, A, "its answer, or the remote's own: one flow");
    assert_eq!(flows(&lab).iter().filter(|flow| flow.public.2 == 501).count(), 1);
    lab.assert_in_step();
}

#[test]
fn what_a_remote_began_goes_on_after_its_end_from_either_side() {
    let mut lab = with_own(2);
    for first in [OUTSIDE, INSIDE] {
        lab.pass(0, OUTSIDE, udp_in(REMOTE, 4000, OWN, 53));
        lab.pass(0, INSIDE, udp(A, 53, REMOTE, 4000));
        lab.run(241_000);
        lab.lease(0, 3600 * SEC);
        assert!(matches!(flows(&lab)[0].state, FlowState::Held(_)), "S13: idle");
        if first == OUTSIDE {
            assert_eq!(lab.pass(0, OUTSIDE, udp_in(REMOTE, 4000, OWN, 53)).dst, A);
        }
        let told = lab.pass(0, INSIDE, udp(A, 53, REMOTE, 4000));
        assert_eq!((told.src, told.src_port), (OWN, 53), "the same, though its hold is not over");
        assert_eq!((flows(&lab).len(), flows(&lab)[0].state), (1, FlowState::Live));
    }
    lab.assert_in_step();
}

#[test]
fn a_connection_from_outside_is_not_taken_for_late_packets_of_one_that_the_backend_began() {
    let mut lab = with_own(1);
    lab.pass(0, INSIDE, tcp(A, 22, REMOTE, 7001, SYN, 10, 0));
    lab.pass(0, OUTSIDE, tcp(REMOTE, 7001, OWN, 22, SYN | ACK, 70, 11));
    lab.pass(0, INSIDE, tcp(A, 22, REMOTE, 7001, FIN | ACK, 11, 71));
    lab.pass(0, OUTSIDE, tcp(REMOTE, 7001, OWN, 22, FIN | ACK, 71, 12));
    lab.run(20);
    assert!(matches!(flows(&lab)[0].state, FlowState::Held(_)));
    let again = || tcp(REMOTE, 7001, OWN, 22, SYN, 100, 0);
    assert_eq!(lab.frame(0, OUTSIDE, again()), Verdict::Drop(DropReason::NoMapping), "D6: while the tuple is held");
    lab.run(66_000);
    connect(&mut lab, 7001);
    assert_eq!(flows(&lab)[0].scenario, Scenario::OwnIn);
}

#[test]
fn groups_decide_who_may_begin_and_an_answer_needs_no_rule() {
    let (allow, deny) = ([from(Access::Allow, REMOTE), rule(Access::Deny)], [rule(Access::Deny)]);
    let mut lab = with_own(1);
    lab.load(12, |s| {
        give_both_ways(s, 1);
        of_a(s, [None, group(&allow, &deny)]);
    });
    connect(&mut lab, 7001);
    for frame in
        [tcp(OTHER_REMOTE, 7001, OWN, 22, SYN, 100, 0), udp_in(OTHER_REMOTE, 7, OWN, 53), ping_in(OTHER_REMOTE, OWN, 5)]
    {
        assert_eq!(lab.frame(0, OUTSIDE, frame), Verdict::Drop(DropReason::SecurityRule));
    }
    let out = lab.out(0, tcp(A, 5000, REMOTE, 443, SYN, 1, 0));
    assert_eq!(out, Verdict::Drop(DropReason::SecurityRule), "S30: what it begins itself needs one");
    lab.load(13, |s| {
        give_both_ways(s, 1);
        of_a(s, [None, group(&deny, &[rule(Access::Allow)])]);
    });
    assert!(flows(&lab).iter().all(|flow| flow.state != FlowState::Live), "D19: it could not begin any more");
    assert_eq!(lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, SYN, 1, 0)).src, OWN);
}

#[test]
fn an_address_that_is_taken_keeps_its_connections_and_takes_no_new_ones() {
    let mut lab = with_own(2);
    connect(&mut lab, 7001);
    lab.load(12, |s| take(s, OnReclaim::Keep));
    lab.run(200_000);
    lab.lease(0, 3600 * SEC);
    data_passes(&mut lab, 7001);
    let new = lab.frame(0, OUTSIDE, tcp(REMOTE, 7002, OWN, 22, SYN, 100, 0));
    assert_eq!(new, Verdict::Drop(DropReason::NoMapping), "D12: only what was there");
    lab.run(245_020);
    assert!(flows(&lab).is_empty());
    assert_eq!(lab.fenced(), PortBlock::whole(OWN_ID));
}

#[test]
fn an_address_that_is_not_its_backend_s_yet_lets_nothing_in() {
    let mut lab = with_own(1);
    connect(&mut lab, 7001);
    // B is to have it, and A's connection is still there.
    lab.load(12, |s| {
        take(s, OnReclaim::Drain);
        Arc::make_mut(&mut s.rules).put_own(OWN_ID, BackendId(2));
    });
    for frame in [tcp(REMOTE, 7002, OWN, 22, SYN, 100, 0), udp_in(REMOTE, 7002, OWN, 53), ping_in(REMOTE, OWN, 5)] {
        assert_eq!(lab.frame(0, OUTSIDE, frame), Verdict::Drop(DropReason::NoMapping));
    }
    data_passes(&mut lab, 7001);
}

#[test]
fn another_backend_reaches_it_by_its_own_address_and_pings_it() {
    let mut lab = with_own(2);
    lab.learn(0, INSIDE, B);
    let syn = lab.pass(0, INSIDE, tcp(B, 9, OWN, 22, SYN, 100, 0));
    assert_eq!((syn.src, syn.dst, syn.dst_port), (PUBLIC, A, 22), "R7: under its public end");
    let answer = lab.pass(0, INSIDE, tcp(A, 22, PUBLIC, syn.src_port, SYN | ACK, 500, 101));
    assert_eq!((answer.src, answer.src_port, answer.dst, answer.dst_port), (OWN, 22, B, 9));
    let ack = lab.pass(0, INSIDE, tcp(B, 9, OWN, 22, ACK, 101, 501));
    assert_eq!((ack.dst, ack.dst_port), (A, 22));
    assert_eq!(flows(&lab).len(), 2, "each side's");
    let asked = lab.pass(0, INSIDE, ping(B, OWN, 77));
    assert_eq!((asked.src, asked.dst), (PUBLIC, A));
    let told = lab.pass(0, INSIDE, pong_out(A, PUBLIC, asked.src_port));
    assert_eq!((told.src, told.dst, told.dst_port), (OWN, B, 77));
    assert_eq!(lab.out(0, ping(A, PUBLIC, 5)), Verdict::Drop(DropReason::NoMapping), "a shared one answers none");
    lab.assert_in_step();
}

#[test]
fn what_the_instance_says_of_a_port_that_nobody_listens_on_reaches_who_asked() {
    let mut lab = with_own(1);
    let before = lab.log.len();
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 33_434, OWN, 33_435));
    let mut quoted = Vec::new();
    PacketBuilder::ipv4(REMOTE.octets(), A.octets(), 63)
        .udp(33_434, 33_435)
        .write(&mut quoted, b"answer")
        .expect("fits");
    let mut frame = Vec::new();
    let unreachable = etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
    let step = PacketBuilder::ethernet2(mac_of(A).0, Mac::of_shard(SHARD).0)
        .ipv4(A.octets(), REMOTE.octets(), 64)
        .icmpv4(unreachable);
    step.write(&mut frame, &quoted).expect("fits");
    lab.sent.clear();
    assert!(matches!(lab.out(0, frame.clone()), Verdict::Transmit { .. }), "RFC 1122 4.1.3.1");
    assert_eq!(lab.log.len(), before, "and opens nothing");
    let mut other = frame;
    let last = other.len() - 14;
    other[last] ^= 1;
    assert!(matches!(lab.out(0, other), Verdict::Drop(_)), "about a datagram that nobody sent");
}

#[test]
fn fragments_of_what_is_there_are_turned_back_to_an_own_address_and_begin_nothing() {
    let mut lab = with_own(1);
    lab.learn(0, INSIDE, B);
    let whole = udp_raw((B, 5000), (OWN, 53), &[8; 1000]);
    let parts = |id: u16| {
        let part = |fragment, payload: &[u8]| Raw { id, fragment, payload: payload.to_vec(), ..whole.clone() };
        [part(MORE_FRAGMENTS, &whole.payload[..504]), part(63, &whole.payload[504..])].map(|raw| raw.frame(B, SHARD))
    };
    lab.pass(0, INSIDE, udp(B, 5000, OTHER_REMOTE, 53));
    lab.sent.clear();
    for frame in parts(1) {
        lab.out(0, frame);
    }
    lab.run(5);
    assert!(lab.sent.iter().all(Sent::is_arp), "nothing begins in fragments");
    let asked = lab.pass(0, INSIDE, udp(B, 5000, OWN, 53));
    lab.pass(0, INSIDE, udp(A, 53, PUBLIC, asked.src_port));
    for frame in parts(2) {
        assert!(matches!(lab.out(0, frame), Verdict::Transmit { link: INSIDE, .. }));
    }
}
