//! A lease that lapses for a moment: first packets that come meanwhile wait for it, and nothing is proposed before (L4).

use crate::inward;
use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{Authority, DropReason, GroupEvent, Verdict};
use qnat_engine::ids::*;

/// A datagram of a flow of A's to a service, with a number in it.
fn numbered(service: u16, number: u8) -> Vec<u8> {
    udp_raw((A, 5000), (REMOTE, service), &[0, number]).frame(A, SHARD)
}

/// The numbers of what has left, in order, to a service.
fn numbers(lab: &Lab, service: u16) -> Vec<u8> {
    let left = lab.sent.iter().filter(|sent| !sent.is_arp() && sent.packet().dst_port == service);
    left.map(|sent| *sent.frame.last().expect("a number")).collect()
}

#[test]
fn first_packets_that_come_in_a_lapse_leave_when_the_lease_is_back_in_their_order() {
    let mut lab = Lab::new(2);
    lab.pass(0, INSIDE, numbered(4500, 0));
    lab.lapse();
    lab.run(10);
    let proposed = lab.log.len();
    lab.sent.clear();
    for number in [1, 2] {
        assert_eq!(lab.out(0, numbered(53, number)), Verdict::Consumed, "it waits");
    }
    let repeated = lab.out(0, numbered(4500, 1));
    assert_eq!(repeated, Verdict::Transmit { link: OUTSIDE, authority: Authority::Grace { shard: SHARD } }, "M1");
    lab.run(30);
    assert_eq!((numbers(&lab, 53), lab.log.len()), (vec![], proposed), "L4: nothing new without the lease");
    lab.lease(0, 10 * SEC);
    lab.out(0, numbered(53, 3));
    lab.run(10);
    assert_eq!(numbers(&lab, 53), [1, 2, 3], "I56");
    assert!(lab.log.len() > proposed, "I6: their mapping is in the log");
    assert_eq!(lab.nodes[0].worker.held_bytes(), (0, false));
    lab.assert_in_step();
}

#[test]
fn what_comes_right_after_a_lapse_stays_behind_what_came_in_it() {
    let mut lab = Lab::new(2);
    lab.lapse();
    // So short that no timer noticed it.
    [1, 2].into_iter().for_each(|number| assert_eq!(lab.out(0, numbered(53, number)), Verdict::Consumed));
    lab.lease(0, 10 * SEC);
    lab.sent.clear();
    lab.out(0, numbered(53, 3));
    assert_eq!(numbers(&lab, 53), [1, 2, 3], "I56");
}

#[test]
fn what_waits_in_a_lapse_needs_no_other_packet_to_go_on() {
    let mut lab = Lab::new(2);
    lab.lapse();
    lab.out(0, numbered(53, 1));
    assert!(lab.nodes[0].worker.next_timer_ns() <= lab.now + 10 * MS);
    lab.lease(0, 10 * SEC);
    lab.sent.clear();
    lab.run(10);
    assert_eq!(numbers(&lab, 53), [1]);
}

#[test]
fn what_waits_in_a_lapse_goes_to_the_successor_that_is_heard_of() {
    let mut lab = Lab::new(2);
    lab.cut_off_leader(1);
    lab.out(0, numbered(53, 1));
    lab.sent.clear();
    lab.heal();
    lab.run(10);
    let forwarded: Vec<&Sent> = lab.sent.iter().filter(|sent| sent.node == 0 && !sent.is_arp()).collect();
    assert_eq!(forwarded.len(), 1);
    assert_eq!(forwarded[0].authority, Authority::Forward);
    assert_eq!(forwarded[0].packet().eth_dst, links(1).mac_on(INSIDE).expect("it has one"));
}

#[test]
fn what_waits_in_a_lapse_for_too_long_is_dropped_and_so_is_what_finds_no_room() {
    let mut lab = Lab::new(2);
    lab.lapse();
    lab.event(0, GroupEvent::Owner { shard: SHARD, term: Term(1), node: None });
    let verdicts: Vec<Verdict> = (0..300).map(|i| lab.out(0, udp(A, 6000 + i, REMOTE, 53))).collect();
    let waiting = verdicts.iter().filter(|verdict| **verdict == Verdict::Consumed).count();
    assert_eq!(waiting, 256);
    assert_eq!(lab.dropped(0, DropReason::NotOwner), 44);
    lab.sent.clear();
    lab.run(90);
    assert_eq!(lab.dropped(0, DropReason::NotOwner), 44, "not yet");
    lab.run(20);
    assert_eq!(lab.dropped(0, DropReason::NotOwner), 300);
    lab.lease(0, 10 * SEC);
    lab.run(20);
    assert_eq!(numbers(&lab, 53), [], "dropped is not sent later");
    assert_eq!(lab.nodes[0].worker.held_bytes(), (0, false));
}

#[test]
fn a_client_that_comes_to_a_rule_in_a_lapse_is_let_in_when_the_lease_is_back() {
    let mut lab = inward::lab(2);
    lab.lapse();
    assert_eq!(lab.frame(0, OUTSIDE, udp_in(REMOTE, 900, PUBLIC, 53)), Verdict::Consumed);
    lab.sent.clear();
    lab.run(10);
    assert_eq!(numbers(&lab, 5353).len(), 0, "L4");
    lab.lease(0, 10 * SEC);
    lab.run(10);
    assert_eq!(numbers(&lab, 5353).len(), 1);
}
