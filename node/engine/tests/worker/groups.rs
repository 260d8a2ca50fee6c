//! Security groups: a first packet asks them, later ones do not, and a change ends the flows that it forbids and no others.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::*;
use qnat_engine::nsg::{
    Access, Attachment, Direction, Label, List, Origin, Protocol, Range, Rule, RuleSet, Rules, rule_key,
};
use qnat_engine::record::Proto;
use qnat_engine::snapshot::{Filtering, Profile, Refusals, Sharing, Snapshot};
use qnat_engine::status::FlowState;

pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
const DENIED: Verdict = Verdict::Drop(DropReason::SecurityRule);

pub(crate) fn rule(access: Access) -> Rule {
    let any = Vec::new;
    Rule {
        protocol: Protocol::Any,
        sources: any(),
        source_ports: any(),
        destinations: any(),
        destination_ports: any(),
        access,
    }
}

pub(crate) fn to(access: Access, ip: Ipv4Addr) -> Rule {
    Rule { destinations: vec![Range::one(ip.to_bits())], ..rule(access) }
}

pub(crate) fn from(access: Access, ip: Ipv4Addr) -> Rule {
    Rule { sources: vec![Range::one(ip.to_bits())], ..rule(access) }
}

fn port(access: Access, port: u16) -> Rule {
    Rule { protocol: Protocol::Tcp, destination_ports: vec![Range::one(port.into())], ..rule(access) }
}

fn list(way: Direction, rules: &[Rule]) -> List {
    let mut hash = DefaultHasher::new();
    format!("{rules:?}").hash(&mut hash);
    let label = |n: usize| Label {
        key: rule_key("g", way, &format!("r{n}")),
        name: format!("r{n}").into(),
        priority: 100,
        origin: Origin::User,
    };
    let label_of = (0..rules.len()).map(|n| u16::try_from(n).expect("few")).collect();
    List::new(Arc::new(Rules::new(rules)), hash.finish(), (0..rules.len()).map(label).collect(), label_of)
}

pub(crate) fn group(inbound: &[Rule], outbound: &[Rule]) -> Option<Arc<RuleSet>> {
    Some(Arc::new(RuleSet {
        group: "g".into(),
        inbound: list(Direction::Inbound, inbound),
        outbound: list(Direction::Outbound, outbound),
    }))
}

pub(crate) type Groups = [Option<Arc<RuleSet>>; 2];

/// The subnet's group and the interface's of A.
pub(crate) fn of_a(s: &mut Snapshot, [subnet, card]: Groups) {
    s.security = Arc::new(Attachment::new(subnet, card).map(|all| (BackendId(1), Arc::new(all))).into_iter().collect());
}

/// A group of the interface with these rules for what leaves, before one that allows all; nothing comes in.
pub(crate) fn leaving(rules: &[Rule]) -> Groups {
    let rules: Vec<Rule> = rules.iter().cloned().chain([rule(Access::Allow)]).collect();
    [None, group(&[rule(Access::Deny)], &rules)]
}

fn load(lab: &mut Lab, groups: &Groups) {
    let index = lab.loaded(0) + 1;
    lab.load(index, |s| of_a(s, groups.clone()));
}

fn live(lab: &Lab, node: usize) -> Vec<(Ipv4Addr, u16)> {
    let flows = lab.nodes[node].worker.view().dump_flows(lab.now, Some(SHARD), usize::MAX);
    let live = flows.iter().filter(|flow| flow.state == FlowState::Live);
    live.map(|flow| (flow.remote.addr.ipv4().expect("of IPv4"), flow.inside.endpoint.port)).collect()
}

#[test]
fn what_a_group_denies_leaves_nothing_opens_nothing_and_asks_for_no_port() {
    let mut lab = Lab::new(2);
    load(&mut lab, &leaving(&[to(Access::Deny, REMOTE)]));
    for packet in [udp(A, 5000, REMOTE, 53), tcp(A, 5001, REMOTE, 80, SYN, 1, 0), ping(A, REMOTE, 7)] {
        assert_eq!(lab.out(0, packet), DENIED);
    }
    lab.run(20);
    assert!(lab.sent.iter().all(Sent::is_arp) && live(&lab, 0).is_empty());
    let counters = lab.nodes[0].worker.counters();
    assert!(Proto::ALL.iter().all(|proto| *counters.snat(*proto) == Default::default()), "S43");
    assert_eq!(counters.dropped(DropReason::SecurityRule), 3);
    assert!(lab.nodes[0].worker.view().dump_ports().iter().all(|ports| ports.used() + ports.held() == 0));
    // Another address, and another backend's.
    lab.pass(0, INSIDE, udp(A, 5000, OTHER, 53));
    lab.pass(0, INSIDE, udp(B, 5000, REMOTE, 53));
}

#[test]
fn the_interface_s_group_and_the_subnet_s_must_both_allow() {
    let mut lab = Lab::new(1);
    let outbound = |denied: u16| group(&[], &[port(Access::Deny, denied), rule(Access::Allow)]);
    load(&mut lab, &[outbound(8443), outbound(443)]);
    for (service, passes) in [(443, false), (8443, false), (80, true)] {
        let verdict = lab.out(0, tcp(A, 5000, REMOTE, service, SYN, 1, 0));
        assert_eq!(verdict == DENIED, !passes, "{service}: {verdict:?}");
    }
}

#[test]
fn a_backend_hears_that_it_may_not_if_the_configuration_says_so() {
    let mut lab = Lab::new(1);
    lab.load(11, |s| {
        of_a(s, leaving(&[to(Access::Deny, REMOTE)]));
        s.params.refusals = Refusals::Told;
    });
    lab.sent.clear();
    assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 53)), DENIED);
    let told: Vec<_> = lab.sent.iter().filter(|s| !s.is_arp()).collect();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].frame[23], &told[0].frame[34..36]), (1, &[3, 13][..]), "prohibited (RFC 1812 5.2.7.1)");
}

#[test]
fn a_change_ends_the_flows_that_it_forbids_at_once_and_no_others() {
    let mut lab = Lab::new(2);
    load(&mut lab, &leaving(&[]));
    let flows = [(A, 5000, REMOTE), (A, 5001, OTHER), (B, 5000, REMOTE)];
    let public = flows.map(|(from, port, remote)| lab.pass(0, INSIDE, udp(from, port, remote, 53)).src_port);
    for (from, port, remote) in flows {
        lab.pass(0, INSIDE, udp(from, port, remote, 53));
    }
    // No timer runs between the load and the next packets.
    let now = lab.loaded(0) + 1;
    (0..2).for_each(|node| lab.load_on(node, now, |s| of_a(s, leaving(&[to(Access::Deny, REMOTE)]))));
    assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 53)), DENIED);
    assert_eq!(lab.frame(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, public[0])), DENIED, "nor its answers");
    let about = udp_raw((PUBLIC, public[0]), (REMOTE, 53), b"x");
    let error = icmp_raw(REMOTE, PUBLIC, [3, 3], [0; 4], &about.bytes()).frame(UPSTREAM, SHARD);
    assert_eq!(lab.frame(0, OUTSIDE, error), DENIED);
    for (n, (from, port, remote)) in flows.into_iter().enumerate().skip(1) {
        assert_eq!(lab.pass(0, INSIDE, udp(from, port, remote, 53)).src_port, public[n]);
        lab.pass(0, OUTSIDE, udp_in(remote, 53, PUBLIC, public[n]));
    }
    lab.run(50);
    let mut left = live(&lab, 0);
    left.sort_unstable();
    assert_eq!(left, [(REMOTE, 5000), (OTHER, 5001)], "B's, and A's other one");
    lab.assert_in_step();
    // Allowed again, it begins anew.
    load(&mut lab, &leaving(&[]));
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
}

#[test]
fn a_successor_ends_what_its_predecessor_had_no_time_for() {
    let mut lab = Lab::new(2);
    load(&mut lab, &leaving(&[]));
    lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 80, SYN, 1, 0));
    lab.pass(0, INSIDE, tcp(A, 5001, OTHER, 80, SYN, 1, 0));
    let now = lab.loaded(0) + 1;
    (0..2).for_each(|node| lab.load_on(node, now, |s| of_a(s, leaving(&[to(Access::Deny, REMOTE)]))));
    lab.cut_off_leader(1);
    assert_eq!(lab.out(1, tcp(A, 5000, REMOTE, 80, ACK, 2, 0)), DENIED);
    lab.run(50);
    assert_eq!(live(&lab, 1), [(OTHER, 5001)]);
}

#[test]
fn a_flow_that_was_on_its_way_when_the_rule_came_does_not_leave_and_ends() {
    let mut lab = Lab::new(2);
    load(&mut lab, &leaving(&[]));
    lab.hold = Hold::Yes;
    assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 53)), Verdict::Consumed);
    let now = lab.loaded(0) + 1;
    (0..2).for_each(|node| lab.load_on(node, now, |s| of_a(s, leaving(&[to(Access::Deny, REMOTE)]))));
    lab.run(5);
    lab.sent.clear();
    lab.commit_waiting();
    lab.run(50);
    assert!(lab.sent.iter().all(Sent::is_arp), "nothing left");
    assert!(live(&lab, 0).is_empty());
    assert_eq!(lab.dropped(0, DropReason::SecurityRule), 1);
    assert!(lab.nodes[0].worker.counters().is_balanced());
}

#[test]
fn a_stranger_begins_a_flow_only_where_a_rule_lets_it_in_and_its_answer_needs_none() {
    let mut lab = Lab::new(1);
    let with = |lab: &mut Lab, inbound: Rule| {
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| {
            let a = s.backends.get_mut(&BackendId(1)).expect("A");
            (a.sharing, a.filtering, a.profile) = (Sharing::Endpoint, Filtering::Open, Profile::Rfc);
            let outbound = [to(Access::Allow, OTHER), rule(Access::Deny)];
            of_a(s, [None, group(&[inbound.clone(), rule(Access::Deny)], &outbound)]);
        });
    };
    with(&mut lab, rule(Access::Deny));
    let public = lab.pass(0, INSIDE, tcp(A, 80, OTHER, 5, SYN, 1, 0)).src_port;
    let syn = || {
        let mut frame = tcp(REMOTE, 6000, PUBLIC, public, SYN, 1, 0);
        frame[..6].copy_from_slice(&Mac::of_shard(SHARD).0);
        frame[6..12].copy_from_slice(&mac_of(REMOTE).0);
        frame
    };
    assert_eq!(lab.frame(0, OUTSIDE, syn()), DENIED);
    assert_eq!(lab.out(0, tcp(A, 80, REMOTE, 6000, SYN | ACK, 1, 2)), DENIED, "an answer to what was not let in");
    // S24: the rule speaks of the instance's own port.
    with(&mut lab, port(Access::Allow, 80));
    let received = lab.pass(0, OUTSIDE, syn());
    assert_eq!((received.dst, received.dst_port), (A, 80));
    let answer = lab.pass(0, INSIDE, tcp(A, 80, REMOTE, 6000, SYN | ACK, 1, 2));
    assert_eq!((answer.src, answer.src_port), (PUBLIC, public), "S30");
    lab.pass(0, OUTSIDE, syn());
    assert_eq!(lab.out(0, tcp(A, 81, REMOTE, 6000, SYN, 1, 0)), DENIED, "no answer to anything");
}

#[test]
fn where_strangers_are_let_in_a_backend_still_begins_nothing_that_its_rules_deny() {
    let mut lab = Lab::new(1);
    let with = |lab: &mut Lab, filtering: Filtering| {
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| {
            let a = s.backends.get_mut(&BackendId(1)).expect("A");
            (a.sharing, a.filtering, a.profile) = (Sharing::Endpoint, filtering, Profile::Rfc);
            let outbound = [to(Access::Allow, OTHER), rule(Access::Deny)];
            of_a(s, [None, group(&[rule(Access::Allow)], &outbound)]);
        });
    };
    with(&mut lab, Filtering::Open);
    assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 53)), DENIED, "nobody can have sent anything to it");
    let public = lab.pass(0, INSIDE, udp(A, 5000, OTHER, 53)).src_port;
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    lab.pass(0, INSIDE, tcp(A, 5001, OTHER, 80, SYN, 1, 0));
    assert_eq!(lab.out(0, tcp(A, 5001, REMOTE, 80, SYN, 1, 0)), DENIED, "a SYN answers nobody");
    // What stands as an answer ends when nobody may ask any more.
    with(&mut lab, Filtering::Tuple);
    assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 53)), DENIED);
    lab.run(50);
    assert_eq!(live(&lab, 0), [(OTHER, 5000), (OTHER, 5001)]);
    lab.pass(0, OUTSIDE, udp_in(OTHER, 53, PUBLIC, public));
}

#[test]
fn an_error_about_a_stranger_whom_the_groups_refuse_does_not_leave() {
    let mut lab = Lab::new(1);
    let with = |lab: &mut Lab, inbound: Access| {
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| {
            let a = s.backends.get_mut(&BackendId(1)).expect("A");
            (a.sharing, a.filtering, a.profile) = (Sharing::Endpoint, Filtering::Open, Profile::Rfc);
            of_a(s, [None, group(&[rule(inbound)], &[to(Access::Allow, OTHER), rule(Access::Deny)])]);
        });
    };
    let error = || {
        let about = udp_raw((REMOTE, 7), (A, 5000), b"x");
        icmp_raw(A, REMOTE, [3, 3], [0; 4], &about.bytes()).frame(A, SHARD)
    };
    with(&mut lab, Access::Deny);
    lab.pass(0, INSIDE, udp(A, 5000, OTHER, 53));
    assert_eq!(lab.out(0, error()), DENIED);
    with(&mut lab, Access::Allow);
    assert!(matches!(lab.out(0, error()), Verdict::Transmit { .. }), "as the port's mapping is open to it");
}

#[test]
fn a_change_that_is_taken_back_before_all_were_judged_leaves_nothing_that_it_let_in() {
    let mut lab = Lab::new(1);
    load(&mut lab, &leaving(&[to(Access::Deny, REMOTE)]));
    let swing = |lab: &mut Lab, groups: Groups| {
        let index = lab.loaded(0) + 1;
        lab.load_on(0, index, |s| of_a(s, groups.clone()));
    };
    // No timer runs meanwhile.
    swing(&mut lab, leaving(&[]));
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    swing(&mut lab, leaving(&[to(Access::Deny, REMOTE)]));
    lab.run(50);
    assert!(live(&lab, 0).is_empty(), "{:?}", live(&lab, 0));
}

#[test]
fn a_turn_asks_groups_about_so_many_flows_only_and_the_rest_is_asked_about_in_the_next_ones() {
    const FLOWS: u32 = 3_000;
    let mut lab = Lab::new(1);
    load(&mut lab, &leaving(&[]));
    let remote = |n: u32| Ipv4Addr::from(0xc000_0000 + n);
    for n in 0..FLOWS {
        lab.out(0, udp(A, 5000, remote(n), 53));
    }
    lab.run(50);
    assert_eq!(live(&lab, 0).len(), FLOWS as usize);
    let index = lab.loaded(0) + 1;
    lab.load_on(0, index, |s| of_a(s, [None, group(&[], &[rule(Access::Deny)])]));
    let mut turns = Vec::new();
    while !live(&lab, 0).is_empty() {
        let before = live(&lab, 0).len();
        lab.advance(1);
        turns.push(before - live(&lab, 0).len());
        assert!(turns.len() < 100, "{turns:?}");
    }
    let longest = turns.iter().max().copied();
    assert!(longest.is_some_and(|longest| (500..=8_192 / 9 + 1).contains(&longest)), "{turns:?}");
}
