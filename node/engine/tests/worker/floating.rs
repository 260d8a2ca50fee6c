//! Rules that float (D17): the instance gets packets as they were sent and answers from the frontend's address; what is believed of
//! a frame with such an address, and what begins, stands and is told of such flows.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::groups::{group, of_a, rule as access};
use crate::inward::rule;
use crate::lab::*;
use qnat_engine::cuts::{flow_of, keeps_right};
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::explain::{Outcome, Question};
use qnat_engine::ids::*;
use qnat_engine::nsg;
use qnat_engine::record::{Proto, Scenario};
use qnat_engine::rules::{Rule, Rules};
use qnat_engine::snapshot::{Frontend, Snapshot};
use qnat_engine::status::{FlowState, FlowView};

pub(crate) const CLIENT: Ipv4Addr = REMOTE;
/// A second frontend of the shard.
pub(crate) const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 12);
pub(crate) const SECOND_ID: FrontendId = FrontendId(3);
/// Somebody's network card.
pub(crate) const OTHER_CARD: Mac = Mac([0x52, 7, 7, 7, 7, 7]);
pub(crate) const SPOOFED: Verdict = Verdict::Drop(DropReason::SpoofedSource);

pub(crate) fn floating(frontend: FrontendId, proto: Proto, port: u16, members: &[u32]) -> Rule {
    Rule { floats: true, frontend, ..rule(proto, port, port, members) }
}

/// Port 80 of both frontends floats, and so does UDP 53 of the first.
pub(crate) fn both(members: &[u32]) -> Vec<Rule> {
    vec![
        floating(FRONTEND, Proto::Tcp, 80, members),
        floating(SECOND_ID, Proto::Tcp, 80, members),
        floating(FRONTEND, Proto::Udp, 53, members),
    ]
}

pub(crate) fn put(s: &mut Snapshot, rules: &[Rule]) {
    s.put_frontends([(SECOND_ID, Frontend { ip: SECOND, shard: SHARD })]);
    let mut all = Rules::default();
    rules.iter().cloned().for_each(|rule| all.put(rule));
    s.rules = Arc::new(all);
}

pub(crate) fn load(lab: &mut Lab, rules: &[Rule]) {
    let index = lab.loaded(0) + 1;
    lab.load(index, |s| put(s, rules));
}

pub(crate) fn lab(nodes: u32, members: &[u32]) -> Lab {
    let mut lab = Lab::new(nodes);
    load(&mut lab, &both(members));
    lab
}

pub(crate) fn flows(lab: &Lab) -> Vec<FlowView> {
    lab.nodes[lab.leader].worker.view().dump_flows(lab.now, Some(SHARD), 1000)
}

/// A frame of whoever has this card.
pub(crate) fn by(card: Mac, mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&card.0);
    frame
}

pub(crate) fn card_of_last(lab: &Lab) -> Mac {
    Mac(lab.sent[0].frame[..6].try_into().expect("a frame"))
}

/// A segment of the client's to a frontend, and who takes it.
pub(crate) fn asks(lab: &mut Lab, port: u16, to: Ipv4Addr, flags: u8, ack: u32) -> Mac {
    let node = lab.leader;
    let seq = if flags & SYN != 0 { 100 } else { 101 };
    let got = lab.pass(node, OUTSIDE, tcp(CLIENT, port, to, 80, flags, seq, ack));
    assert_eq!((got.src, got.src_port, got.dst, got.dst_port), (CLIENT, port, to, 80), "nothing is changed");
    assert_eq!((lab.sent[0].link, got.ttl), (INSIDE, 63));
    card_of_last(lab)
}

/// A segment that an instance sends from a frontend's address.
pub(crate) fn said(card: Mac, from: Ipv4Addr, port: u16, flags: u8) -> Vec<u8> {
    let seq = if flags & SYN != 0 { 500 } else { 501 };
    by(card, tcp(from, 80, CLIENT, port, flags, seq, 101))
}

pub(crate) fn answers(lab: &mut Lab, card: Mac, from: Ipv4Addr, port: u16, flags: u8) {
    let node = lab.leader;
    let told = lab.pass(node, INSIDE, said(card, from, port, flags));
    assert_eq!((told.src, told.src_port, told.dst, told.dst_port), (from, 80, CLIENT, port));
    assert_eq!(lab.sent[0].link, OUTSIDE);
    assert_eq!(
        (&lab.sent[0].frame[..6], &lab.sent[0].frame[6..12]),
        (&mac_of(UPSTREAM).0[..], &Mac::of_shard(SHARD).0[..])
    );
}

/// A connection of the client's port to a frontend; the card of who has it.
pub(crate) fn connect(lab: &mut Lab, port: u16, to: Ipv4Addr) -> Mac {
    let card = asks(lab, port, to, SYN, 0);
    answers(lab, card, to, port, SYN | ACK);
    assert_eq!(asks(lab, port, to, ACK, 501), card);
    card
}

pub(crate) fn data_passes(lab: &mut Lab, card: Mac, port: u16, to: Ipv4Addr) {
    assert_eq!(asks(lab, port, to, ACK, 501), card);
    answers(lab, card, to, port, ACK);
}

#[test]
fn one_client_end_has_a_connection_by_each_of_two_frontends_to_one_port_of_an_instance_also_under_a_successor() {
    let mut lab = lab(3, &[1]);
    for to in [PUBLIC, SECOND] {
        assert_eq!(connect(&mut lab, 7001, to), mac_of(A));
    }
    for _ in 0..3 {
        data_passes(&mut lab, mac_of(A), 7001, PUBLIC);
        data_passes(&mut lab, mac_of(A), 7001, SECOND);
    }
    let all = flows(&lab);
    let ends: Vec<_> = all.iter().map(|f| (f.state, f.scenario, f.public.1, f.floats_to)).collect();
    let of = |ip| (FlowState::Live, Scenario::Rule, Some(ip), Some(A));
    assert!(ends.len() == 2 && ends.contains(&of(PUBLIC)) && ends.contains(&of(SECOND)), "{ends:?}");
    lab.assert_in_step();
    let half = asks(&mut lab, 7002, PUBLIC, SYN, 0);
    lab.elect(1);
    lab.run(20);
    data_passes(&mut lab, mac_of(A), 7001, SECOND);
    data_passes(&mut lab, mac_of(A), 7001, PUBLIC);
    // A handshake that the owner before let in: the answer says by which frontend.
    assert_eq!(lab.frame(1, INSIDE, said(mac_of(B), PUBLIC, 7002, SYN | ACK)), SPOOFED);
    answers(&mut lab, half, PUBLIC, 7002, SYN | ACK);
    assert_eq!(asks(&mut lab, 7002, PUBLIC, ACK, 501), half);
    lab.assert_in_step();
}

#[test]
fn members_share_the_clients_of_a_frontend_and_each_answers_from_it() {
    let mut lab = lab(1, &[1, 2]);
    let cards: Vec<Mac> = (7000..7040).map(|port| connect(&mut lab, port, PUBLIC)).collect();
    assert!(cards.contains(&mac_of(A)) && cards.contains(&mac_of(B)));
    for (port, card) in (7000..7040).zip(cards) {
        data_passes(&mut lab, card, port, PUBLIC);
    }
}

#[test]
fn a_frame_from_a_frontends_address_is_believed_of_the_card_of_its_flows_backend_alone() {
    let mut lab = lab(1, &[1, 2]);
    let before = lab.log.len();
    let card = asks(&mut lab, 7001, PUBLIC, SYN, 0);
    let other = if card == mac_of(A) { mac_of(B) } else { mac_of(A) };
    // The other one has the address too, and the rule leads to it.
    for thief in [other, mac_of(C), OTHER_CARD] {
        assert_eq!(lab.out(0, said(thief, PUBLIC, 7001, SYN | ACK)), SPOOFED, "{thief}");
        assert_eq!(lab.out(0, said(thief, PUBLIC, 7001, RST | ACK)), SPOOFED, "{thief}");
    }
    answers(&mut lab, card, PUBLIC, 7001, SYN | ACK);
    lab.hold = Hold::Yes;
    assert_eq!(lab.frame(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, ACK, 101, 501)), Verdict::Consumed);
    assert_eq!(lab.out(0, said(other, PUBLIC, 7001, ACK)), SPOOFED, "while it opens");
    assert_eq!(lab.out(0, said(card, PUBLIC, 7001, ACK)), Verdict::Consumed, "it waits with it");
    lab.commit_waiting();
    for thief in [other, mac_of(C), OTHER_CARD] {
        assert_eq!(lab.out(0, said(thief, PUBLIC, 7001, ACK)), SPOOFED, "{thief}");
    }
    data_passes(&mut lab, card, 7001, PUBLIC);
    assert_eq!(lab.log.len(), before + 1);
    // The card that is declared is the only one.
    let index = lab.loaded(0) + 1;
    let declared = |s: &mut Snapshot| {
        put(s, &both(&[1, 2]));
        for id in [1, 2] {
            s.backends.get_mut(&BackendId(id)).expect("there").mac = Some(OTHER_CARD);
        }
    };
    lab.load(index, declared);
    assert_eq!(lab.out(0, said(card, PUBLIC, 7001, ACK)), SPOOFED);
    answers(&mut lab, OTHER_CARD, PUBLIC, 7001, ACK);
}

#[test]
fn nothing_begins_from_a_frontends_address() {
    let mut lab = lab(1, &[1]);
    // Nobody is believed to have been let in by an owner before.
    lab.run(76_000);
    let before = lab.log.len();
    let card = mac_of(A);
    let refused = |lab: &mut Lab, frame| {
        lab.sent.clear();
        assert_eq!(lab.out(0, by(card, frame)), SPOOFED);
        assert!(lab.sent.iter().all(Sent::is_arp));
    };
    for (from, port) in [(PUBLIC, 80), (PUBLIC, 81), (SECOND, 80), (PUBLIC_2, 80)] {
        refused(&mut lab, tcp(from, port, CLIENT, 7001, SYN, 1, 0));
        refused(&mut lab, tcp(from, port, CLIENT, 7001, SYN | ACK, 1, 1));
        refused(&mut lab, tcp(from, port, CLIENT, 7001, ACK, 1, 1));
    }
    refused(&mut lab, udp(PUBLIC, 53, CLIENT, 4000));
    refused(&mut lab, ping(PUBLIC, CLIENT, 7));
    // Nor on the tuple of a flow that is over.
    connect(&mut lab, 7001, PUBLIC);
    lab.pass(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, FIN | ACK, 101, 501));
    lab.pass(0, INSIDE, by(card, tcp(PUBLIC, 80, CLIENT, 7001, FIN | ACK, 501, 102)));
    lab.run(20);
    assert!(matches!(flows(&lab)[0].state, FlowState::Held(_)));
    answers(&mut lab, card, PUBLIC, 7001, ACK);
    refused(&mut lab, tcp(PUBLIC, 80, CLIENT, 7001, SYN, 900, 0));
    assert_eq!(lab.log.len(), before + 2, "opened and closed");
    // A rule that does not float leads to nobody who has the address.
    load(&mut lab, &[rule(Proto::Tcp, 80, 80, &[1])]);
    let syn = lab.pass(0, OUTSIDE, tcp(CLIENT, 7009, PUBLIC, 80, SYN, 100, 0));
    assert_eq!(syn.dst, A);
    refused(&mut lab, tcp(PUBLIC, 80, CLIENT, 7009, SYN | ACK, 500, 101));
}

#[test]
fn a_datagram_and_its_answer_keep_the_frontends_address() {
    let mut lab = lab(3, &[1]);
    let asked = lab.pass(0, OUTSIDE, udp_in(CLIENT, 4000, PUBLIC, 53));
    assert_eq!((asked.dst, asked.dst_port, card_of_last(&lab)), (PUBLIC, 53, mac_of(A)));
    let answer = || udp(PUBLIC, 53, CLIENT, 4000);
    assert_eq!(lab.out(0, by(mac_of(B), answer())), SPOOFED);
    lab.hold = Hold::Yes;
    assert_eq!(lab.out(0, by(mac_of(A), answer())), Verdict::Consumed);
    lab.sent.clear();
    lab.commit_waiting();
    let told = lab.sent.iter().find(|s| !s.is_arp()).expect("it leaves").packet();
    assert_eq!((told.src, told.src_port, told.dst, told.dst_port), (PUBLIC, 53, CLIENT, 4000));
    assert_eq!(lab.pass(0, INSIDE, by(mac_of(A), answer())).src, PUBLIC);
    lab.assert_in_step();
}

#[test]
fn what_a_rule_says_of_the_address_is_what_its_flows_stand_by() {
    let plain = |to: FrontendId| Rule { frontend: to, ..rule(Proto::Tcp, 80, 80, &[1]) };
    let mut lab = lab(1, &[1]);
    connect(&mut lab, 7001, PUBLIC);
    connect(&mut lab, 7001, SECOND);
    let live =
        |lab: &Lab| -> Vec<FlowView> { flows(lab).into_iter().filter(|flow| flow.state == FlowState::Live).collect() };
    let changes =
        [vec![floating(FRONTEND, Proto::Tcp, 80, &[1]), plain(SECOND_ID)], vec![plain(FRONTEND), plain(SECOND_ID)]];
    for (rules, stay) in changes.iter().zip([1, 0]) {
        let mut after = snapshot(1, 0, 1);
        put(&mut after, rules);
        let keeps = |flow: &&FlowView| keeps_right(&after, flow.backend, &flow_of(flow), flow.scenario);
        assert_eq!(live(&lab).iter().filter(keeps).count(), stay, "foretold");
        load(&mut lab, rules);
        assert_eq!(live(&lab).len(), stay);
    }
    lab.run(5_000);
    let syn = lab.pass(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, SYN, 100, 0));
    assert_eq!((syn.dst, syn.dst_port), (A, 80));
}

#[test]
fn groups_and_logs_have_the_instances_own_address() {
    let allow = |destination: Ipv4Addr| nsg::Rule {
        destinations: vec![nsg::Range::one(destination.to_bits())],
        ..access(nsg::Access::Allow)
    };
    let mut lab = Lab::new(1);
    lab.nodes[0].worker.log_sessions();
    let with = |lab: &mut Lab, rules: &[nsg::Rule]| {
        let deny = [access(nsg::Access::Deny)];
        let inbound: Vec<nsg::Rule> = rules.iter().chain(&deny).cloned().collect();
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| {
            put(s, &both(&[1]));
            of_a(s, [None, group(&inbound, &deny)]);
        });
    };
    with(&mut lab, &[allow(PUBLIC)]);
    let refused = lab.frame(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, SYN, 100, 0));
    assert_eq!(refused, Verdict::Drop(DropReason::SecurityRule), "S24: not what the packet has");
    with(&mut lab, &[allow(A)]);
    connect(&mut lab, 7001, PUBLIC);
    data_passes(&mut lab, mac_of(A), 7001, PUBLIC);
    let told = lab.nodes[0].worker.poll_session().expect("it opened");
    assert_eq!((told.public_ip, told.inside.endpoint.addr.ipv4(), told.inside.endpoint.port), (PUBLIC, Some(A), 80));
    with(&mut lab, &[]);
    assert!(flows(&lab).iter().all(|flow| flow.state != FlowState::Live), "D19");
}

#[test]
fn what_is_said_of_a_packet_names_the_instance_that_has_the_address_too() {
    let mut lab = lab(1, &[1]);
    let ask = |lab: &Lab, source, destination| {
        let question = Question { vnet: NETWORK, proto: Proto::Tcp, source, destination };
        lab.nodes[0].worker.view().explain(lab.now, &question).expect("loaded")
    };
    for known in [false, true] {
        let told = ask(&lab, (CLIENT, 7001), (PUBLIC, 80));
        assert_eq!((told.outcome, told.floats_to), (Outcome::Passes(PUBLIC, 80), Some(A)));
        assert_eq!((told.backend, told.mapping.is_some()), (Some(BackendId(1)), known));
        let back = ask(&lab, (PUBLIC, 80), (CLIENT, 7001));
        let expected = if known { Outcome::Passes(PUBLIC, 80) } else { Outcome::Dropped(DropReason::SpoofedSource) };
        assert_eq!((back.outcome, back.backend), (expected, known.then_some(BackendId(1))));
        if !known {
            connect(&mut lab, 7001, PUBLIC);
        }
    }
}
