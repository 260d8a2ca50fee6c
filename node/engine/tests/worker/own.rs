//! Flows by a public address that is one backend's own: ports kept, the first packet at once, the next ones after the commit.

use crate::lab::*;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::*;
use qnat_engine::snapshot::{Draining, Frontend, OnReclaim, Snapshot};
use std::net::Ipv4Addr;

pub(crate) const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
pub(crate) const OWN_ID: FrontendId = FrontendId(7);
pub(crate) const OTHER_REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);

fn address(s: &mut Snapshot) {
    s.put_frontends([(OWN_ID, Frontend { ip: OWN, shard: SHARD })]);
}

/// The address is there, and this backend's.
pub(crate) fn give(s: &mut Snapshot, id: u32) {
    address(s);
    s.backends.get_mut(&BackendId(id)).expect("a backend").ways.own = Some(OWN_ID);
}

/// It is nobody's any more.
pub(crate) fn take(s: &mut Snapshot, on_reclaim: OnReclaim) {
    address(s);
    for block in PortBlock::whole(OWN_ID) {
        drains(s, Draining { block, reclaim_index: ControlIndex(12), on_reclaim });
    }
}

pub(crate) fn with_own(nodes: u32) -> Lab {
    let mut lab = Lab::new(nodes);
    lab.load(11, |s| give(s, 1));
    lab
}

fn packets(lab: &Lab) -> Vec<qnat_engine::wire::IpPacket> {
    lab.sent.iter().filter(|s| !s.is_arp()).map(Sent::packet).collect()
}

#[test]
fn all_flows_leave_by_the_own_address_with_their_own_ports() {
    let mut lab = with_own(2);
    for port in [1, 80, 1023, 5000, 65_535] {
        let p = lab.pass(0, INSIDE, udp(A, port, REMOTE, 4500));
        assert_eq!((p.src, p.src_port), (OWN, port), "S2, S5: before the pool");
        let p = lab.pass(0, INSIDE, tcp(A, port, REMOTE, 443, SYN, 1, 0));
        assert_eq!((p.src, p.src_port), (OWN, port));
        let p = lab.pass(0, INSIDE, ping(A, REMOTE, port));
        assert_eq!((p.src, p.src_port), (OWN, port), "the identifier is kept");
        let back = lab.pass(0, OUTSIDE, udp_in(REMOTE, 4500, OWN, port));
        assert_eq!((back.dst, back.dst_port), (A, port));
    }
    assert_eq!(lab.pass(0, INSIDE, udp(B, 5000, REMOTE, 4500)).src, PUBLIC, "another backend's flows do not");
    lab.assert_in_step();
}

#[test]
fn the_first_packet_leaves_before_the_commit_and_all_others_of_the_flow_wait_for_it() {
    let mut lab = with_own(2);
    lab.hold = Hold::Yes;
    let p = lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, SYN, 10, 0));
    assert_eq!((p.src, p.src_port), (OWN, 5000), "W2");
    lab.sent.clear();
    assert_eq!(lab.out(0, tcp(A, 5000, REMOTE, 443, SYN, 10, 0)), Verdict::Consumed, "repeated: it waits");
    let answer = tcp(REMOTE, 443, OWN, 5000, SYN | ACK, 70, 11);
    assert_eq!(lab.frame(0, OUTSIDE, answer), Verdict::Consumed, "an answer waits too");
    let stranger = tcp(OTHER_REMOTE, 443, OWN, 5000, SYN | ACK, 70, 11);
    assert_eq!(lab.frame(0, OUTSIDE, stranger), Verdict::Drop(DropReason::NoMapping));
    assert!(packets(&lab).is_empty());
    lab.commit_waiting();
    let left: Vec<_> = packets(&lab).iter().map(|p| (p.src, p.dst)).collect();
    assert_eq!(left, [(OWN, REMOTE), (REMOTE, A)], "in their order");
    let p = lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, ACK, 11, 71));
    assert_eq!(p.src_port, 5000, "its handshake was seen from the first packet on");
    lab.assert_in_step();
}

#[test]
fn what_a_lost_term_had_not_committed_is_not_answered() {
    let mut lab = with_own(2);
    lab.hold = Hold::Yes;
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    assert_eq!(lab.frame(0, OUTSIDE, udp_in(REMOTE, 4500, OWN, 5000)), Verdict::Consumed);
    lab.hold = Hold::No;
    lab.elect(1);
    lab.run(20);
    assert_eq!(lab.dropped(0, DropReason::TermLost), 1, "the answer that waited");
    assert_eq!(lab.frame(1, OUTSIDE, udp_in(REMOTE, 4500, OWN, 5000)), Verdict::Drop(DropReason::NoMapping));
    let p = lab.pass(1, INSIDE, udp(A, 5000, REMOTE, 4500));
    assert_eq!((p.src, p.src_port), (OWN, 5000), "the same again: nothing that left is somebody else's");
}

#[test]
fn a_takeover_keeps_what_was_answered() {
    let mut lab = with_own(2);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    lab.elect(1);
    lab.run(20);
    let back = lab.pass(1, OUTSIDE, udp_in(REMOTE, 4500, OWN, 5000));
    assert_eq!((back.dst, back.dst_port), (A, 5000));
}

#[test]
fn flows_keep_what_they_have_when_the_address_is_given_and_when_it_is_taken() {
    let mut lab = Lab::new(2);
    let pooled = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    assert_eq!(pooled.src, PUBLIC);
    lab.load(11, |s| give(s, 1));
    let kept = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    assert_eq!((kept.src, kept.src_port), (PUBLIC, pooled.src_port), "D12");
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5001, REMOTE, 4500)).src, OWN, "a new one leaves by its own");
    lab.load(12, |s| take(s, OnReclaim::Keep));
    lab.run(239_000);
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5001, REMOTE, 4500)).src, OWN, "D12: as long as it lives");
    lab.run(239_000);
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5001, REMOTE, 4500)).src, OWN, "longer than a drain waits");
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5002, REMOTE, 4500)).src, PUBLIC, "new ones leave by the pool again");
    lab.run(400_000);
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5001, REMOTE, 4500)).src, PUBLIC, "once it was idle it is a new flow");
    assert_eq!(lab.fenced(), PortBlock::whole(OWN_ID), "F4: all ports of it are empty, holds too");
}

#[test]
fn an_address_that_changes_hands_is_fenced_only_when_nothing_holds_it() {
    let mut lab = with_own(2);
    lab.pass(0, INSIDE, udp(A, 40_000, REMOTE, 4500));
    lab.load(12, |s| take(s, OnReclaim::Expire));
    lab.run(30_000);
    assert_eq!(lab.fenced(), [PortBlock::whole(OWN_ID)[0]], "the half without a flow");
    assert_eq!(
        lab.frame(0, OUTSIDE, udp_in(REMOTE, 4500, OWN, 40_000)),
        Verdict::Drop(DropReason::NoMapping),
        "taken back: nothing passes"
    );
    lab.run(40_000);
    assert_eq!(lab.fenced(), PortBlock::whole(OWN_ID), "after the hold");
    lab.load(13, |s| give(s, 2));
    let p = lab.pass(0, INSIDE, udp(B, 40_000, REMOTE, 4500));
    assert_eq!((p.src, p.src_port), (OWN, 40_000));
    lab.assert_in_step();
}

#[test]
fn what_stands_at_the_address_for_somebody_else_is_not_opened_twice() {
    let mut lab = with_own(1);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    // As after a re-creation from a base that lacked the fence: B has the address while A's mapping is held (N4).
    lab.load(12, |s| give(s, 2));
    assert_eq!(lab.out(0, udp(B, 5000, REMOTE, 4500)), Verdict::Drop(DropReason::OpenRefused), "S7: nothing leaves");
    lab.run(70_000);
    assert_eq!(lab.pass(0, INSIDE, udp(B, 5000, REMOTE, 4500)).src, OWN);
}

#[test]
fn flows_by_the_own_address_idle_out_after_four_minutes_whatever_the_pool_s_rule_says() {
    let mut lab = Lab::new(1);
    lab.load(11, |s| {
        give(s, 1);
        s.backends.get_mut(&BackendId(1)).expect("A").idle_timeout_ms = 600_000;
    });
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    lab.run(235_000);
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 4500, OWN, 5000));
    lab.run(8_000);
    assert_eq!((lab.status(0).live, lab.status(0).held), (0, 1), "S2, S13");
    let p = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    assert_eq!((p.src, p.src_port), (OWN, 5000), "D6: its own hold is no obstacle");
}

#[test]
fn a_backend_without_a_pool_has_its_own_address_and_its_limits() {
    let mut lab = Lab::new(1);
    lab.learn(0, INSIDE, A);
    lab.load(11, |s| {
        give(s, 1);
        s.backends.get_mut(&BackendId(1)).expect("A").lease = Vec::new();
        s.params.flows_per_backend_max = 3;
    });
    for port in 0..3 {
        assert_eq!(lab.pass(0, INSIDE, udp(A, port, REMOTE, 4500)).src_port, port);
    }
    assert_eq!(lab.out(0, udp(A, 3, REMOTE, 4500)), Verdict::Drop(DropReason::FlowLimit), "R21");
}
