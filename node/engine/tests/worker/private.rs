//! Private traffic: what passes between instances through the gateway, what is kept of it, and what is not let through.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::groups::{Groups, from, group, leaving, rule, to};
use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{Authority, DropReason, GroupEvent, Verdict};
use qnat_engine::explain::{Outcome, Question};
use qnat_engine::ids::*;
use qnat_engine::nsg::{Access, Attachment};
use qnat_engine::record::{Proto, Scenario};
use qnat_engine::snapshot::{Private, Snapshot};
use qnat_engine::wire::ArpOp;
use words::Prefix;

const DENIED: Verdict = Verdict::Drop(DropReason::SecurityRule);

/// Hosts of the subnet reach nobody but the gateway.
pub(crate) fn isolated(s: &mut Snapshot) {
    let isolated = s.subnets.iter().map(|subnet| (subnet.vnet, subnet.prefix)).collect();
    s.private = Arc::new(Private { routed: true, isolated, ..Private::default() });
}

/// These groups judge A and B.
pub(crate) fn judged(s: &mut Snapshot, of: [Groups; 2]) {
    let all = of.into_iter().zip([BackendId(1), BackendId(2)]);
    let attached = all.filter_map(|([subnet, card], id)| Some((id, Arc::new(Attachment::new(subnet, card)?))));
    s.security = Arc::new(attached.collect());
}

pub(crate) const NONE: Groups = [None, None];

/// Lets its instance begin whatever it likes, and nobody else.
pub(crate) fn closed() -> Groups {
    leaving(&[])
}

pub(crate) fn open() -> Groups {
    [None, group(&[rule(Access::Allow)], &[rule(Access::Allow)])]
}

fn lab(nodes: u32, groups: [Groups; 2]) -> Lab {
    let mut lab = Lab::new(nodes);
    load(&mut lab, groups);
    lab
}

pub(crate) fn load(lab: &mut Lab, groups: [Groups; 2]) {
    let index = lab.loaded(0) + 1;
    lab.load(index, |s| {
        isolated(s);
        judged(s, groups.clone());
    });
    lab.sent.clear();
}

fn kept(lab: &Lab, node: usize) -> [u32; 2] {
    let status = lab.status(node);
    [status.live, u32::try_from(status.pending).expect("few")]
}

/// The frames that left, but for questions.
fn left(lab: &mut Lab) -> Vec<Sent> {
    lab.sent.drain(..).filter(|sent| !sent.is_arp()).collect()
}

#[test]
fn where_no_group_judges_packets_pass_untranslated_and_nothing_is_kept_of_them() {
    let mut lab = lab(2, [NONE, NONE]);
    for (from, port, to, to_port) in [(A, 5000, B, 53), (B, 53, A, 5000), (B, 77, A, 78)] {
        let p = lab.pass(0, INSIDE, udp(from, port, to, to_port));
        assert_eq!((p.src, p.src_port, p.dst, p.dst_port, p.ttl), (from, port, to, to_port, 63));
        let Sent { link, frame, authority, .. } = &lab.sent[0];
        assert_eq!((*link, &frame[..6], &frame[6..12]), (INSIDE, &mac_of(to).0[..], &Mac::of_shard(SHARD).0[..]));
        assert!(matches!(authority, Authority::Lease { shard: SHARD, .. }));
    }
    assert_eq!(kept(&lab, 0), [0, 0], "W4");
    let counters = lab.nodes[0].worker.counters();
    assert!(Proto::ALL.iter().all(|proto| *counters.snat(*proto) == Default::default()));
}

#[test]
fn a_judged_flow_s_first_packet_leaves_at_once_and_its_next_ones_either_way_wait_for_the_log() {
    let mut lab = lab(2, [closed(), open()]);
    lab.hold = Hold::Yes;
    let first = lab.pass(0, INSIDE, tcp(A, 5000, B, 80, SYN, 1, 0));
    assert_eq!((first.src, first.dst_port), (A, 80));
    assert_eq!(kept(&lab, 0), [0, 1]);
    let answer = || tcp(B, 80, A, 5000, SYN | ACK, 9, 2);
    assert_eq!(lab.out(0, answer()), Verdict::Consumed);
    assert_eq!(lab.out(0, tcp(A, 5000, B, 80, ACK, 2, 10)), Verdict::Consumed);
    lab.sent.clear();
    lab.commit_waiting();
    let came: Vec<_> = left(&mut lab).iter().map(|sent| (sent.packet().src, sent.packet().dst)).collect();
    assert_eq!(came, [(B, A), (A, B)], "in their order");
    assert_eq!((kept(&lab, 0), kept(&lab, 1)), ([1, 0], [1, 0]), "both replicas have it");
    assert_eq!(lab.pass(0, INSIDE, answer()).dst, A, "S30: A's group lets nobody begin");
    let flows = lab.nodes[0].worker.view().dump_flows(lab.now, None, 9);
    assert_eq!((flows[0].scenario, flows[0].public.1), (Scenario::Private, Some(A)));
    assert_eq!(lab.out(0, udp(B, 81, A, 5000)), DENIED);
    lab.assert_in_step();
}

#[test]
fn both_sides_groups_are_asked_and_either_may_deny() {
    let no_b = || leaving(&[to(Access::Deny, B)]);
    let from_a = |access| -> Groups { [None, group(&[from(access, A), rule(Access::Allow)], &[rule(Access::Allow)])] };
    for (groups, passes) in [
        ([closed(), open()], true),
        ([no_b(), open()], false),
        ([closed(), from_a(Access::Deny)], false),
        ([closed(), from_a(Access::Allow)], true),
        ([NONE, from_a(Access::Deny)], false),
        ([no_b(), NONE], false),
        ([open(), NONE], true),
    ] {
        let mut lab = lab(1, groups);
        for frame in [udp(A, 5000, B, 53), tcp(A, 5001, B, 80, SYN, 1, 0), ping(A, B, 7)] {
            let verdict = lab.out(0, frame);
            assert_eq!(verdict == DENIED, !passes, "{verdict:?}");
        }
        assert_eq!(left(&mut lab).len(), if passes { 3 } else { 0 });
        assert_eq!(kept(&lab, 0)[0], if passes { 3 } else { 0 });
    }
}

#[test]
fn a_change_of_either_side_s_groups_ends_the_flows_that_it_forbids() {
    let mut lab = lab(2, [closed(), open()]);
    lab.pass(0, INSIDE, udp(A, 5000, B, 53));
    lab.pass(0, INSIDE, udp(A, 5001, B, 54));
    let now = lab.loaded(0) + 1;
    let denies = |s: &mut Snapshot| {
        isolated(s);
        let b = [from(Access::Deny, A), rule(Access::Allow)];
        judged(s, [closed(), [None, group(&b, &[rule(Access::Allow)])]]);
    };
    (0..2).for_each(|node| lab.load_on(node, now, denies));
    assert_eq!(lab.out(0, udp(A, 5000, B, 53)), DENIED, "no timer ran yet");
    assert_eq!(lab.out(0, udp(B, 53, A, 5000)), DENIED, "nor do answers pass");
    lab.run(50);
    assert_eq!((kept(&lab, 0), lab.status(0).cut), ([0, 0], 2));
    load(&mut lab, [closed(), open()]);
    lab.pass(0, INSIDE, udp(A, 5000, B, 53));
}

#[test]
fn a_successor_lets_answers_in_that_no_rule_would() {
    let mut lab = lab(2, [closed(), open()]);
    lab.pass(0, INSIDE, tcp(A, 5000, B, 80, SYN, 1, 0));
    lab.cut_off_leader(1);
    lab.run(20);
    lab.sent.clear();
    let answer = lab.pass(1, INSIDE, tcp(B, 80, A, 5000, SYN | ACK, 9, 2));
    assert_eq!(answer.dst, A);
    assert_eq!(lab.out(1, tcp(B, 80, A, 5002, SYN, 9, 0)), DENIED);
}

#[test]
fn in_mid_stream_a_connection_is_taken_up_if_either_side_may_begin_it() {
    let mut lab = lab(1, [closed(), open()]);
    // Nothing is known of it: it is older than the groups.
    assert_eq!(lab.pass(0, INSIDE, tcp(B, 80, A, 5000, ACK, 9, 2)).dst, A);
    assert_eq!(kept(&lab, 0)[0], 1);
    let b_keeps_out_a: Groups = [None, group(&[from(Access::Deny, A), rule(Access::Allow)], &[rule(Access::Allow)])];
    load(&mut lab, [closed(), b_keeps_out_a]);
    lab.run(50);
    assert_eq!(kept(&lab, 0)[0], 0);
    assert_eq!(lab.out(0, tcp(B, 80, A, 5001, ACK, 9, 2)), DENIED, "neither may begin it");
    assert_eq!(lab.out(0, udp(B, 53, A, 5001)), DENIED, "a datagram may always be a first one");
    // What is cut is not taken up under the other one's right, however soon it sends.
    load(&mut lab, [open(), open()]);
    lab.pass(0, INSIDE, tcp(A, 5002, B, 80, SYN, 1, 0));
    let to_b: Groups = [None, group(&[rule(Access::Allow)], &[to(Access::Deny, B), rule(Access::Allow)])];
    load(&mut lab, [to_b, open()]);
    lab.run(50);
    assert_eq!(lab.out(0, tcp(A, 5002, B, 80, ACK, 2, 10)), DENIED);
    assert_eq!(lab.out(0, tcp(B, 80, A, 5002, ACK, 10, 2)), DENIED, "B may begin, but it was A's");
    // And nothing is, once groups and owner have been there for a while.
    lab.run(61_000);
    assert_eq!(lab.out(0, tcp(B, 80, A, 5003, ACK, 9, 2)), DENIED);
    assert!(matches!(lab.out(0, tcp(B, 80, A, 5003, SYN, 9, 0)), Verdict::Transmit { .. }));
}

#[test]
fn who_comes_to_live_in_another_shard_keeps_private_connections() {
    let mut lab = lab(1, [closed(), open()]);
    let home = |lab: &mut Lab, shard| {
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| {
            isolated(s);
            judged(s, [closed(), open()]);
            s.backends.get_mut(&BackendId(1)).expect("A").home = shard;
        });
    };
    home(&mut lab, OTHER);
    lab.run(61_000);
    home(&mut lab, SHARD);
    assert_eq!(lab.pass(0, INSIDE, tcp(B, 80, A, 5000, ACK, 9, 2)).dst, A, "begun where A lived before");
    lab.run(61_000);
    assert_eq!(lab.out(0, tcp(B, 80, A, 5001, ACK, 9, 2)), DENIED);
}

#[test]
fn an_error_goes_to_whose_packet_it_is_about_and_needs_a_flow() {
    let mut lab = lab(1, [closed(), open()]);
    let error = |port| {
        let about = udp_raw((A, port), (B, 53), b"x");
        icmp_raw(B, A, [3, 3], [0; 4], &about.bytes()).frame(B, SHARD)
    };
    assert_eq!(lab.out(0, error(5000)), Verdict::Drop(DropReason::NoMapping));
    lab.pass(0, INSIDE, udp(A, 5000, B, 53));
    assert!(matches!(lab.out(0, error(5000)), Verdict::Transmit { link: INSIDE, .. }));
    assert_eq!(lab.out(0, error(5001)), Verdict::Drop(DropReason::NoMapping));
    load(&mut lab, [NONE, NONE]);
    assert!(matches!(lab.out(0, error(5001)), Verdict::Transmit { link: INSIDE, .. }), "nobody judges");
}

#[test]
fn every_other_private_destination_is_dropped_with_its_own_reason() {
    let mut lab = lab(1, [NONE, NONE]);
    for nobody in [Ipv4Addr::new(10, 0, 0, 200), Ipv4Addr::new(192, 168, 1, 1), Ipv4Addr::new(100, 64, 0, 1)] {
        assert_eq!(lab.out(0, udp(A, 5000, nobody, 53)), Verdict::Drop(DropReason::PrivateDestination), "{nobody}");
    }
    // Nor is what the networks have that it is connected to, whatever range that is.
    let theirs = Ipv4Addr::new(20, 0, 0, 9);
    assert_ne!(lab.out(0, udp(A, 5000, theirs, 53)), Verdict::Drop(DropReason::PrivateDestination));
    let index = lab.loaded(0) + 1;
    lab.load(index, |s| {
        isolated(s);
        let space = Prefix { network: Ipv4Addr::new(20, 0, 0, 0), len: 16 };
        Arc::make_mut(&mut s.private).spaces = BTreeMap::from([(NETWORK, vec![space])]);
    });
    assert_eq!(lab.out(0, udp(A, 5001, theirs, 53)), Verdict::Drop(DropReason::PrivateDestination));
    lab.sent.clear();
    // Whose hosts hear each other needs no gateway; below level 2 nothing is routed.
    for routed in [true, false] {
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| {
            isolated(s);
            let private = Arc::make_mut(&mut s.private);
            private.routed = routed;
            private.isolated.retain(|_| !routed);
        });
        assert_eq!(lab.out(0, udp(A, 5000, B, 53)), Verdict::Drop(DropReason::PrivateDestination));
    }
    assert!(lab.sent.iter().all(Sent::is_arp));
}

#[test]
fn a_host_that_asks_for_an_isolated_neighbour_is_told_the_pair_s_shard() {
    let mut lab = lab(2, [NONE, NONE]);
    let answers = |lab: &mut Lab, node, asker: Ipv4Addr, target| -> Vec<Vec<u8>> {
        lab.sent.clear();
        lab.frame(node, INSIDE, arp(ArpOp::Request, mac_of(asker), asker, Mac::BROADCAST, target));
        lab.sent.drain(..).map(|sent| sent.frame).collect()
    };
    let told = answers(&mut lab, 0, A, B);
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0][..6], &told[0][20..28]), (&mac_of(A).0[..], &arp_op_and_sender()[..]));
    assert_eq!(told[0][28..32], B.octets(), "in B's name");
    assert!(answers(&mut lab, 1, A, B).is_empty(), "the owner alone");
    assert!(answers(&mut lab, 0, A, Ipv4Addr::new(10, 0, 0, 200)).is_empty(), "nobody's address");
    assert!(answers(&mut lab, 0, A, A).is_empty(), "who looks whether his address is free hears nothing");
    let index = lab.loaded(0) + 1;
    lab.load(index, |s| s.private = Arc::new(Private { routed: true, ..Private::default() }));
    assert!(answers(&mut lab, 0, A, B).is_empty(), "B hears it itself");
}

/// ARP's operation and sender in an answer of the shard's.
fn arp_op_and_sender() -> [u8; 8] {
    let [a, b, c, d, e, f] = Mac::of_shard(SHARD).0;
    [0, 2, a, b, c, d, e, f]
}

#[test]
fn the_pair_s_shard_is_the_lower_one_s_and_others_pass_it_on() {
    let mut lab = lab(2, [NONE, NONE]);
    lab.event(0, GroupEvent::Owner { shard: OTHER, term: Term(1), node: Some(NodeId(1)) });
    // C lives in another shard; A is below it.
    assert_eq!(lab.pass(0, INSIDE, udp_to(Mac::of_shard(SHARD), C, 5000, A, 53)).dst, A);
    let forwarded = lab.frame(1, INSIDE, udp_to(links(1).inside[0].1, C, 5000, A, 53));
    assert!(matches!(forwarded, Verdict::Transmit { authority: Authority::Forward, .. }), "{forwarded:?}");
}

#[test]
fn in_grace_what_is_committed_or_judged_by_nobody_is_repeated_and_nothing_begins() {
    for groups in [[NONE, NONE], [closed(), open()]] {
        let is_judged = groups[0][1].is_some();
        let mut lab = lab(2, groups);
        lab.pass(0, INSIDE, udp(A, 5000, B, 53));
        lab.lapse();
        lab.event(0, GroupEvent::Owner { shard: SHARD, term: Term(1), node: None });
        lab.sent.clear();
        for (from, port, to, to_port) in [(A, 5000, B, 53), (B, 53, A, 5000)] {
            let Verdict::Transmit { authority, link } = lab.out(0, udp(from, port, to, to_port)) else {
                panic!("repeated")
            };
            assert_eq!((authority, link), (Authority::Grace { shard: SHARD }, INSIDE));
        }
        assert!(left(&mut lab).iter().all(|sent| sent.frame[6..12] == links(0).inside[0].1.0), "M1");
        let new = lab.out(0, udp(A, 5001, B, 53));
        assert_eq!(new == Verdict::Consumed, is_judged, "{new:?}");
    }
}

#[test]
fn what_is_said_of_a_private_packet_is_what_happens() {
    let no_b = leaving(&[to(Access::Deny, B)]);
    for (groups, outcome) in [
        ([NONE, NONE], Outcome::Passes(A, 5000)),
        ([closed(), open()], Outcome::Opens(Scenario::Private, A, 5000)),
        ([no_b, open()], Outcome::Dropped(DropReason::SecurityRule)),
    ] {
        let mut lab = lab(1, groups);
        let question = Question { vnet: NETWORK, proto: Proto::Udp, source: (A, 5000), destination: (B, 53) };
        let ask = |lab: &Lab| lab.nodes[0].worker.view().explain(lab.now, &question).expect("loaded");
        assert_eq!((ask(&lab).outcome, ask(&lab).shard), (outcome, Some(SHARD)));
        let verdict = lab.out(0, udp(A, 5000, B, 53));
        assert_eq!(verdict == DENIED, matches!(outcome, Outcome::Dropped(_)));
        if let Outcome::Opens(..) = outcome {
            assert_eq!(ask(&lab).groups.len(), 2, "both sides'");
            assert!(ask(&lab).mapping.is_some());
        }
    }
}

#[test]
fn connected_networks_reach_each_other_and_others_do_not() {
    const PEER: VnetId = VnetId(1);
    let far = Ipv4Addr::new(10, 9, 0, 4);
    let mut lab = Lab::new(1);
    for connected in [true, false] {
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| {
            let backend = s.backends.get(&BackendId(2)).expect("B").clone();
            s.put_backend(BackendId(9), qnat_engine::snapshot::Backend { vnet: PEER, ip: far, ..backend });
            let with = if connected { vec![(NETWORK, vec![PEER]), (PEER, vec![NETWORK])] } else { Vec::new() };
            s.private = Arc::new(Private { routed: true, connected: with.into_iter().collect(), ..Private::default() });
        });
        let verdict = lab.out(0, udp(A, 5000, far, 53));
        // Its packets go out by the other network's interface, which this member has not.
        let wanted = if connected { DropReason::NoLink } else { DropReason::PrivateDestination };
        assert_eq!(verdict, Verdict::Drop(wanted));
    }
}
