//! Rules count the first packets that they decide about and the flows that a change has judged again, and no later packet.

use crate::groups::{OTHER, group, of_a, to};
use crate::lab::*;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::*;
use qnat_engine::nsg::{Access, Direction, rule_key};
use qnat_engine::snapshot::{Filtering, Profile, Sharing};

/// Hits of the first three rules of the group in one direction, on one node.
fn hits(lab: &Lab, node: usize, way: Direction) -> [u64; 3] {
    let keys = ["r0", "r1", "r2"].map(|rule| rule_key("g", way, rule));
    let mut sums = [0; 3];
    assert_eq!(lab.nodes[node].worker.view().add_hits(SHARD, &keys, &mut sums), 0);
    sums
}

/// A's group: one remote is denied, another allowed, the rest denied.
fn with_rules() -> Lab {
    let mut lab = Lab::new(2);
    lab.load(11, |s| {
        let outbound = [to(Access::Deny, REMOTE), to(Access::Allow, OTHER), crate::groups::rule(Access::Deny)];
        of_a(s, [None, group(&[], &outbound)]);
    });
    lab
}

#[test]
fn a_rule_counts_first_packets_and_flows_that_are_judged_again_and_no_later_packet() {
    let mut lab = with_rules();
    for port in 5000..5005 {
        assert_eq!(lab.out(0, udp(A, port, REMOTE, 53)), Verdict::Drop(DropReason::SecurityRule));
        for _ in 0..3 {
            lab.pass(0, INSIDE, udp(A, port, OTHER, 53));
        }
    }
    assert_eq!(lab.out(0, tcp(A, 80, UPSTREAM, 80, SYN, 1, 0)), Verdict::Drop(DropReason::SecurityRule));
    assert_eq!(hits(&lab, 0, Direction::Outbound), [5, 5, 1]);
    assert_eq!(hits(&lab, 1, Direction::Outbound), [0; 3], "who judged nothing has nothing to tell");
    // Its five flows are judged again, under rules of the same names.
    lab.load(12, |s| {
        let outbound = [to(Access::Deny, OTHER), to(Access::Deny, REMOTE), crate::groups::rule(Access::Allow)];
        of_a(s, [None, group(&[], &outbound)]);
    });
    lab.run(50);
    assert_eq!(hits(&lab, 0, Direction::Outbound), [10, 5, 1]);
    assert_eq!(hits(&lab, 0, Direction::Inbound), [0; 3]);
}

#[test]
fn a_stranger_that_is_let_in_or_not_counts_for_the_rule_that_says_so() {
    let mut lab = Lab::new(1);
    lab.load(11, |s| {
        let a = s.backends.get_mut(&BackendId(1)).expect("A");
        (a.sharing, a.filtering, a.profile) = (Sharing::Endpoint, Filtering::Open, Profile::Rfc);
        let inbound = [crate::groups::from(Access::Allow, REMOTE), crate::groups::rule(Access::Deny)];
        of_a(s, [None, group(&inbound, &[to(Access::Allow, OTHER), crate::groups::rule(Access::Deny)])]);
    });
    let public = lab.pass(0, INSIDE, udp(A, 5000, OTHER, 53)).src_port;
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 6000, PUBLIC, public));
    assert_eq!(lab.frame(0, OUTSIDE, udp_in(UPSTREAM, 6000, PUBLIC, public)), Verdict::Drop(DropReason::SecurityRule));
    assert_eq!(hits(&lab, 0, Direction::Inbound), [1, 1, 0]);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 6000));
    assert_eq!(
        (hits(&lab, 0, Direction::Inbound), hits(&lab, 0, Direction::Outbound)),
        ([2, 1, 0], [1, 0, 0]),
        "it answers"
    );
}
