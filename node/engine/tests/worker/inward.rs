//! What comes in by rules: who gets a client, what is committed when, and what a change of pool, groups or owner leaves alone.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::groups::{group, of_a, rule as access};
use crate::lab::*;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::ids::*;
use qnat_engine::nsg;
use qnat_engine::probes::HealthSource;
use qnat_engine::record::Proto;
use qnat_engine::rules::{Distribution, Rule, Rules};
use qnat_engine::snapshot::{Frontend, Profile, Snapshot, TcpReset};
use qnat_engine::status::{FlowState, FlowView};

const CLIENT: Ipv4Addr = REMOTE;

pub(crate) fn rule(proto: Proto, port: u16, backend_port: u16, members: &[u32]) -> Rule {
    Rule {
        name: "lb/web".into(),
        frontend: FRONTEND,
        proto,
        port,
        backend_port,
        floats: false,
        members: members.iter().map(|n| BackendId(*n)).collect(),
        admin: Arc::default(),
        health: HealthSource::Nobody,
        distribution: Distribution::Connection,
        idle_timeout_ms: 300_000,
        tcp_reset_on_idle: TcpReset::Off,
    }
}

fn put(s: &mut Snapshot, rules: &[Rule]) {
    let mut all = Rules::default();
    rules.iter().cloned().for_each(|rule| all.put(rule));
    s.rules = Arc::new(all);
}

/// `PUBLIC`:80 leads to 8080 of A and B, and UDP 53 to their 5353.
fn both(members: &[u32]) -> [Rule; 2] {
    [rule(Proto::Tcp, 80, 8080, members), rule(Proto::Udp, 53, 5353, members)]
}

fn load(lab: &mut Lab, rules: &[Rule]) {
    let index = lab.loaded(0) + 1;
    lab.load(index, |s| put(s, rules));
}

pub(crate) fn lab(nodes: u32) -> Lab {
    let mut lab = Lab::new(nodes);
    load(&mut lab, &both(&[1, 2]));
    lab
}

pub(crate) fn flows(lab: &Lab) -> Vec<FlowView> {
    lab.nodes[lab.leader].worker.view().dump_flows(lab.now, Some(SHARD), 1000)
}

/// A connection of the client's port; returns who has it. The client's next octet is 101, the backend's 501.
pub(crate) fn connect(lab: &mut Lab, port: u16) -> Ipv4Addr {
    let to = half(lab, port);
    let node = lab.leader;
    let ack = lab.pass(node, OUTSIDE, tcp(CLIENT, port, PUBLIC, 80, ACK, 101, 501));
    assert_eq!((ack.dst, ack.dst_port, ack.src, ack.src_port), (to, 8080, CLIENT, port));
    to
}

/// The same up to the answer.
pub(crate) fn half(lab: &mut Lab, port: u16) -> Ipv4Addr {
    let node = lab.leader;
    let syn = lab.pass(node, OUTSIDE, tcp(CLIENT, port, PUBLIC, 80, SYN, 100, 0));
    assert_eq!((syn.dst_port, syn.src, syn.src_port), (8080, CLIENT, port), "the client is not hidden");
    let answer = lab.pass(node, INSIDE, tcp(syn.dst, 8080, CLIENT, port, SYN | ACK, 500, 101));
    assert_eq!((answer.src, answer.src_port, answer.dst, answer.dst_port), (PUBLIC, 80, CLIENT, port));
    syn.dst
}

pub(crate) fn data_passes(lab: &mut Lab, port: u16, to: Ipv4Addr) {
    let node = lab.leader;
    let asked = lab.pass(node, OUTSIDE, tcp(CLIENT, port, PUBLIC, 80, ACK, 101, 501));
    assert_eq!((asked.dst, asked.dst_port), (to, 8080));
    let said = lab.pass(node, INSIDE, tcp(to, 8080, CLIENT, port, ACK, 501, 101));
    assert_eq!((said.src, said.src_port), (PUBLIC, 80));
}

#[test]
fn a_handshake_passes_uncommitted_and_the_packet_that_completes_it_waits_for_its_commit() {
    let mut lab = lab(3);
    let before = lab.log.len();
    let to = half(&mut lab, 7001);
    assert_eq!((lab.log.len(), flows(&lab).len()), (before, 0), "nothing was written for it");
    lab.hold = Hold::Yes;
    lab.sent.clear();
    let ack = || tcp(CLIENT, 7001, PUBLIC, 80, ACK, 101, 501);
    assert_eq!(lab.frame(0, OUTSIDE, ack()), Verdict::Consumed);
    assert_eq!(
        lab.frame(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, ACK, 101, 501)),
        Verdict::Consumed,
        "it waits with it"
    );
    assert!(lab.sent.iter().all(Sent::is_arp), "nothing goes in before a majority has the mapping");
    lab.commit_waiting();
    let got: Vec<_> = lab.sent.iter().filter(|s| !s.is_arp()).map(|s| (s.packet().dst, s.packet().src_port)).collect();
    assert_eq!(got, [(to, 7001), (to, 7001)]);
    data_passes(&mut lab, 7001, to);
    let flow = flows(&lab).remove(0);
    assert_eq!((flow.state, flow.public.2), (FlowState::Live, 80));
    lab.assert_in_step();
}

#[test]
fn what_anybody_may_write_in_a_strangers_name_writes_no_log() {
    let mut lab = lab(1);
    let before = lab.log.len();
    for port in 1..500 {
        lab.frame(0, OUTSIDE, tcp(CLIENT, port, PUBLIC, 80, SYN, 100, 0));
        lab.frame(0, OUTSIDE, udp_in(CLIENT, port, PUBLIC, 53));
    }
    lab.run(76_000);
    for port in 1..500 {
        lab.frame(0, OUTSIDE, tcp(CLIENT, port, PUBLIC, 80, SYN, 100, 0));
        let ack = lab.frame(0, OUTSIDE, tcp(CLIENT, port, PUBLIC, 80, ACK, 101, 501));
        assert_eq!(ack, Verdict::Drop(DropReason::NoMapping), "no backend has answered");
        let other = lab.frame(0, OUTSIDE, tcp(CLIENT, port + 1000, PUBLIC, 80, ACK, 101, 501));
        assert_eq!(other, Verdict::Drop(DropReason::NoMapping), "nobody has begun");
    }
    assert_eq!(lab.log.len(), before);
}

#[test]
fn an_answered_datagram_opens_a_mapping_and_its_answer_waits_for_that() {
    let mut lab = lab(3);
    let asked = lab.pass(0, OUTSIDE, udp_in(CLIENT, 4000, PUBLIC, 53));
    assert_eq!((asked.dst_port, asked.src), (5353, CLIENT));
    assert_eq!(lab.pass(0, OUTSIDE, udp_in(CLIENT, 4000, PUBLIC, 53)).dst, asked.dst, "the next one goes there too");
    lab.hold = Hold::Yes;
    lab.sent.clear();
    assert_eq!(lab.out(0, udp(asked.dst, 5353, CLIENT, 4000)), Verdict::Consumed);
    assert!(lab.sent.iter().all(Sent::is_arp));
    lab.commit_waiting();
    let answer = lab.sent.iter().find(|s| !s.is_arp()).expect("it leaves").packet();
    assert_eq!((answer.src, answer.src_port, answer.dst_port), (PUBLIC, 53, 4000));
    assert_eq!(lab.pass(0, INSIDE, udp(asked.dst, 5353, CLIENT, 4000)).src_port, 53);
    // The client alone keeps it alive.
    for _ in 0..3 {
        lab.run(250_000);
        lab.lease(0, 3600 * SEC);
        lab.pass(0, OUTSIDE, udp_in(CLIENT, 4000, PUBLIC, 53));
    }
    assert_eq!(flows(&lab)[0].state, FlowState::Live);
    lab.run(303_000);
    assert!(flows(&lab).iter().all(|flow| flow.state != FlowState::Live), "the rule's timeout, not the backend's");
}

#[test]
fn an_established_connection_goes_on_under_a_successor_and_one_in_its_handshake_too() {
    let mut lab = lab(3);
    let kept = connect(&mut lab, 7001);
    let answered = half(&mut lab, 7002);
    let began = lab.pass(0, OUTSIDE, tcp(CLIENT, 7003, PUBLIC, 80, SYN, 100, 0)).dst;
    lab.elect(1);
    lab.run(20);
    data_passes(&mut lab, 7001, kept);
    let ack = lab.pass(1, OUTSIDE, tcp(CLIENT, 7002, PUBLIC, 80, ACK, 101, 501));
    assert_eq!(ack.dst, answered, "the hash finds whom the owner before had chosen");
    let repeated = lab.pass(1, INSIDE, tcp(began, 8080, CLIENT, 7003, SYN | ACK, 500, 101));
    assert_eq!((repeated.src, repeated.src_port), (PUBLIC, 80));
    assert_eq!(lab.pass(1, OUTSIDE, tcp(CLIENT, 7003, PUBLIC, 80, ACK, 101, 501)).dst, began);
    assert_eq!(flows(&lab).len(), 3);
    lab.run(76_000);
    let late = lab.frame(1, OUTSIDE, tcp(CLIENT, 7004, PUBLIC, 80, ACK, 101, 501));
    assert_eq!(late, Verdict::Drop(DropReason::NoMapping), "75 s after the takeover nobody is believed");
}

#[test]
fn a_changed_pool_leaves_connections_where_they_are_and_ends_those_of_who_left() {
    let mut lab = lab(3);
    let before: BTreeMap<u16, Ipv4Addr> = (7000..7040).map(|port| (port, connect(&mut lab, port))).collect();
    assert!(before.values().any(|ip| *ip == A) && before.values().any(|ip| *ip == B));
    load(&mut lab, &both(&[1]));
    let live: Vec<u16> = flows(&lab).iter().filter(|f| f.state == FlowState::Live).map(|f| f.remote.port).collect();
    let of_a: Vec<u16> = before.iter().filter(|(_, ip)| **ip == A).map(|(port, _)| *port).collect();
    assert_eq!(live.len(), of_a.len(), "those of A alone");
    for port in of_a {
        data_passes(&mut lab, port, A);
    }
    let b = *before.iter().find(|(_, ip)| **ip == B).expect("some").0;
    let reused = lab.frame(0, OUTSIDE, tcp(CLIENT, b, PUBLIC, 80, ACK, 101, 501));
    assert_eq!(reused, Verdict::Drop(DropReason::NoMapping), "nobody else goes on with it");
    load(&mut lab, &both(&[1, 2]));
    lab.run(10_000);
    for port in 7100..7140 {
        connect(&mut lab, port);
    }
    load(&mut lab, &[]);
    assert!(flows(&lab).iter().all(|flow| flow.state != FlowState::Live), "the rule is gone");
    let gone = lab.frame(0, OUTSIDE, tcp(CLIENT, 9, PUBLIC, 80, SYN, 100, 0));
    assert_eq!(gone, Verdict::Drop(DropReason::NoMapping));
    load(&mut lab, &both(&[]));
    let nobody = lab.frame(0, OUTSIDE, tcp(CLIENT, 9, PUBLIC, 80, SYN, 100, 0));
    assert_eq!(nobody, Verdict::Drop(DropReason::NoBackend));
}

#[test]
fn groups_see_the_clients_own_end_and_the_instances_own() {
    let allow = |destination: Ipv4Addr, port: u16| nsg::Rule {
        protocol: nsg::Protocol::Tcp,
        sources: vec![nsg::Range::one(CLIENT.to_bits())],
        destinations: vec![nsg::Range::one(destination.to_bits())],
        destination_ports: vec![nsg::Range::one(port.into())],
        ..access(nsg::Access::Allow)
    };
    let mut lab = Lab::new(1);
    let with = |lab: &mut Lab, rules: &[nsg::Rule]| {
        let deny = [access(nsg::Access::Deny)];
        let inbound: Vec<nsg::Rule> = rules.iter().chain(&deny).cloned().collect();
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| {
            put(s, &both(&[1]));
            of_a(s, [None, group(&inbound, &deny)]);
        });
    };
    with(&mut lab, &[allow(PUBLIC, 80)]);
    let refused = lab.frame(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, SYN, 100, 0));
    assert_eq!(refused, Verdict::Drop(DropReason::SecurityRule), "S24: not what the client wrote");
    with(&mut lab, &[allow(A, 8080)]);
    assert_eq!(connect(&mut lab, 7001), A, "and the answer needs no rule (S30)");
    data_passes(&mut lab, 7001, A);
    with(&mut lab, &[]);
    assert!(flows(&lab).iter().all(|flow| flow.state != FlowState::Live), "D19");
}

#[test]
fn a_closed_connection_is_held_as_briefly_as_may_be_and_its_client_comes_back_to_the_same_member() {
    let mut lab = lab(3);
    let to = connect(&mut lab, 7001);
    lab.pass(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, FIN | ACK, 101, 501));
    lab.pass(0, INSIDE, tcp(to, 8080, CLIENT, 7001, FIN | ACK, 501, 102));
    lab.run(20);
    assert!(matches!(flows(&lab)[0].state, FlowState::Held(_)));
    let last = lab.pass(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, ACK, 102, 502));
    assert_eq!(last.dst, to, "late packets pass");
    // The other one would be chosen now, but somebody may still remember.
    let other = if to == A { 2 } else { 1 };
    assert_eq!(connect(&mut lab, 7001), to);
    assert_eq!(flows(&lab).len(), 1);
    lab.pass(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, FIN | ACK, 101, 501));
    lab.pass(0, INSIDE, tcp(to, 8080, CLIENT, 7001, FIN | ACK, 501, 102));
    load(&mut lab, &both(&[other]));
    let syn = || tcp(CLIENT, 7001, PUBLIC, 80, SYN, 100, 0);
    assert_eq!(lab.frame(0, OUTSIDE, syn()), Verdict::Drop(DropReason::NoMapping), "or to nobody");
    lab.run(4_500);
    assert_eq!(flows(&lab).len(), 0, "grace and vote timeout and a second: no longer");
    assert_ne!(lab.pass(0, OUTSIDE, syn()).dst, to);
    lab.assert_in_step();
}

#[test]
fn a_refused_connection_is_told_as_the_frontend_and_leaves_nothing() {
    let mut lab = lab(1);
    let before = lab.log.len();
    let to = lab.pass(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, SYN, 100, 0)).dst;
    let reset = lab.pass(0, INSIDE, tcp(to, 8080, CLIENT, 7001, RST | ACK, 0, 101));
    assert_eq!((reset.src, reset.src_port), (PUBLIC, 80));
    let ack = lab.frame(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, RST, 101, 0));
    assert!(matches!(ack, Verdict::Drop(_)), "{ack:?}");
    assert_eq!(lab.log.len(), before);
}

#[test]
fn a_backend_goes_out_by_its_grant_as_before_and_a_rule_lasts_as_long_as_it_says() {
    let mut lab = lab(1);
    let index = lab.loaded(0) + 1;
    lab.load(index, |s| {
        put(s, &both(&[1]));
        s.backends.get_mut(&BackendId(1)).expect("A").profile = Profile::Rfc;
    });
    let out = lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 443, SYN, 100, 0));
    assert_eq!(out.src, PUBLIC);
    assert!(out.src_port >= 1024, "of its grant");
    lab.run(76_000);
    let own = lab.pass(0, INSIDE, udp(A, 5353, REMOTE, 123));
    assert!(own.src_port >= 1024, "nobody asked: it begins itself");
    connect(&mut lab, 7001);
    let of_rule = |lab: &Lab| flows(lab).into_iter().find(|flow| flow.public.2 == 80).expect("there").state;
    lab.run(299_000);
    assert_eq!(of_rule(&lab), FlowState::Live);
    lab.run(3_000);
    assert!(flows(&lab).iter().all(|flow| flow.public.2 != 80 || flow.state != FlowState::Live));
}

#[test]
fn a_member_reaches_the_frontend_of_its_own_pool_another_member_or_itself() {
    for (members, receiver) in [(&[2][..], B), (&[1][..], A)] {
        let mut lab = Lab::new(3);
        load(&mut lab, &both(members));
        let syn = lab.pass(0, INSIDE, tcp(A, 9, PUBLIC, 80, SYN, 100, 0));
        assert_eq!((syn.src, syn.dst, syn.dst_port), (PUBLIC, receiver, 8080), "under its own public end");
        let answer = lab.pass(0, INSIDE, tcp(receiver, 8080, PUBLIC, syn.src_port, SYN | ACK, 500, 101));
        assert_eq!((answer.src, answer.src_port, answer.dst, answer.dst_port), (PUBLIC, 80, A, 9));
        assert_eq!(flows(&lab).len(), 1, "its own, so far");
        let ack = lab.pass(0, INSIDE, tcp(A, 9, PUBLIC, 80, ACK, 101, 501));
        assert_eq!((ack.dst, ack.dst_port, ack.src_port), (receiver, 8080, syn.src_port));
        assert_eq!(flows(&lab).len(), 2, "committed before that went in");
        assert_eq!(lab.pass(0, INSIDE, tcp(receiver, 8080, PUBLIC, syn.src_port, ACK, 501, 101)).dst, A);
        let asked = lab.pass(0, INSIDE, udp(A, 77, PUBLIC, 53));
        assert_eq!((asked.dst, asked.dst_port), (receiver, 5353));
        let told = lab.pass(0, INSIDE, udp(receiver, 5353, PUBLIC, asked.src_port));
        assert_eq!((told.src_port, told.dst, told.dst_port), (53, A, 77));
        lab.elect(1);
        lab.run(20);
        assert_eq!(lab.pass(1, INSIDE, tcp(A, 9, PUBLIC, 80, ACK, 101, 501)).dst, receiver);
        lab.assert_in_step();
    }
}

#[test]
fn only_who_has_heard_the_backends_answer_completes_a_handshake() {
    let mut lab = lab(1);
    lab.run(76_000);
    let before = lab.log.len();
    let to = half(&mut lab, 7001);
    for wrong in [0, 500, 502, 500_000] {
        let blind = lab.frame(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, ACK, 101, wrong));
        assert_eq!(blind, Verdict::Drop(DropReason::NoMapping), "{wrong}");
    }
    assert_eq!(lab.pass(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, ACK, 101, 501)).dst, to);
    assert_eq!(lab.log.len(), before + 1);
    // A host that never asked resets what it hears: that goes in, and nothing is written.
    let to = half(&mut lab, 7002);
    assert_eq!(lab.pass(0, OUTSIDE, tcp(CLIENT, 7002, PUBLIC, 80, RST, 501, 0)).dst, to);
    let late = lab.frame(0, OUTSIDE, tcp(CLIENT, 7002, PUBLIC, 80, ACK, 101, 501));
    assert_eq!((late, lab.log.len()), (Verdict::Drop(DropReason::NoMapping), before + 1));
}

#[test]
fn a_flow_that_its_backend_begins_while_it_comes_in_is_opened_once() {
    for committed in [false, true] {
        let mut lab = lab(1);
        let to = half(&mut lab, 7001);
        lab.hold = Hold::Yes;
        assert_eq!(lab.out(0, tcp(to, 8080, CLIENT, 7001, SYN, 900, 0)), Verdict::Consumed, "a flow of its own");
        if committed {
            lab.commit_waiting();
        }
        let ack = lab.frame(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, ACK, 101, 501));
        assert_eq!(ack, Verdict::Drop(DropReason::NoMapping));
        lab.commit_waiting();
        assert_eq!(flows(&lab).len(), 1, "one mapping for one flow");
        lab.assert_in_step();
    }
}

#[test]
fn after_a_takeover_a_datagram_of_a_backend_is_its_own_until_the_client_speaks() {
    let mut lab = lab(2);
    let index = lab.loaded(0) + 1;
    let (deny, all) = ([access(nsg::Access::Deny)], [access(nsg::Access::Allow)]);
    lab.load(index, |s| {
        put(s, &both(&[1]));
        of_a(s, [None, group(&all, &deny)]);
    });
    lab.elect(1);
    lab.run(20);
    let begun = lab.out(1, udp(A, 5353, CLIENT, 4000));
    assert_eq!(begun, Verdict::Drop(DropReason::SecurityRule), "S43: nobody asked");
    assert!(flows(&lab).is_empty());
}

#[test]
fn a_rule_that_is_gone_ends_its_connections_packets_both_ways_at_once() {
    let mut lab = lab(1);
    let to = connect(&mut lab, 7001);
    // The stream takes nothing, so that the mapping cannot be closed yet.
    lab.hold = Hold::Refuse;
    lab.out(0, udp(A, 6000, REMOTE, 443));
    lab.run(5);
    load(&mut lab, &[]);
    assert_eq!(flows(&lab)[0].state, FlowState::Live);
    let said = lab.frame(0, INSIDE, tcp(to, 8080, CLIENT, 7001, ACK, 501, 101));
    assert!(matches!(said, Verdict::Drop(_)), "{said:?}");
    let asked = lab.frame(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, ACK, 101, 501));
    assert!(matches!(asked, Verdict::Drop(_)), "{asked:?}");
}

#[test]
fn a_flooded_frontend_gives_way_while_its_worker_is_behind_and_nobody_else_does() {
    const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
    const HALF_OPEN: u32 = 16_384;
    let mut lab = Lab::new(1);
    let index = lab.loaded(0) + 1;
    lab.load(index, |s| {
        s.put_frontends([(FrontendId(7), Frontend { ip: OTHER, shard: SHARD })]);
        put(
            s,
            &[rule(Proto::Tcp, 80, 8080, &[1]), Rule { frontend: FrontendId(7), ..rule(Proto::Tcp, 80, 8080, &[2]) }],
        );
    });
    let begin = |lab: &mut Lab, n: u32, to: Ipv4Addr| {
        let (from, port) =
            (Ipv4Addr::from(0x1400_0000 + n / 60_000), u16::try_from(1_024 + n % 60_000).expect("a port"));
        lab.frame(0, OUTSIDE, tcp(from, port, to, 80, SYN, 100, 0))
    };
    let passes = |verdict: Verdict| matches!(verdict, Verdict::Transmit { .. });
    lab.nodes[0].worker.set_behind(true);
    for n in 0..HALF_OPEN {
        assert!(passes(begin(&mut lab, n, PUBLIC)), "{n}: as long as there is room");
    }
    assert_eq!(begin(&mut lab, HALF_OPEN, PUBLIC), Verdict::Drop(DropReason::Flooded));
    assert!(passes(begin(&mut lab, 7, PUBLIC)), "who has begun says so again");
    assert!(passes(begin(&mut lab, HALF_OPEN, OTHER)), "another address of the shard");
    lab.nodes[0].worker.set_behind(false);
    assert!(passes(begin(&mut lab, HALF_OPEN, PUBLIC)), "who has caught up lets the oldest give way");
}
