//! Health probes (S22, D16): who gets new flows, what a change of health leaves alone, and how the packets of probes
//! themselves go.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::groups::{from, group, of_a};
use crate::inward::{connect, data_passes, flows, half, rule};
use crate::lab::*;
use qnat_engine::event::{Authority, DropReason, Verdict};
use qnat_engine::explain::{Outcome, PassedBy, PassedOver, Question};
use qnat_engine::ids::*;
use qnat_engine::nsg::Access;
use qnat_engine::probes::{Ask, Asked, Failing, Health, HealthSource, Probe, ProbeId, Probes, SOURCE};
use qnat_engine::record::Proto;
use qnat_engine::rules::{AdminState, Rule, Rules};
use qnat_engine::snapshot::Snapshot;
use qnat_engine::status::FlowState;

const CLIENT: Ipv4Addr = REMOTE;
const UP: Option<Health> = Some(Health::Up);
const DOWN: Option<Health> = Some(Health::Down(Failing::Refused));
/// A port of a probe's attempt.
const PORT: u16 = 20_001;

/// `PUBLIC`:80 leads to 8080 of A and B, and UDP 53 to their 5353, as a probe has found them.
fn put(s: &mut Snapshot, [a, b]: [Option<Health>; 2]) {
    let mut all = Rules::default();
    for (proto, port, inside) in [(Proto::Tcp, 80, 8080), (Proto::Udp, 53, 5353)] {
        all.put(Rule { health: HealthSource::Rule(ProbeId(0)), ..rule(proto, port, inside, &[1, 2]) });
    }
    s.rules = Arc::new(all);
    let probe = Probe {
        name: "lb/alive".into(),
        ask: Ask::Tcp,
        port: 8080,
        interval_ms: 5_000,
        threshold: 2,
        members: [(BackendId(1), a), (BackendId(2), b)].into(),
    };
    s.probes = Arc::new(Probes { all: vec![Arc::new(probe)], ..Probes::default() });
}

fn find(lab: &mut Lab, health: [Option<Health>; 2]) {
    let index = lab.loaded(0) + 1;
    lab.load(index, |s| put(s, health));
}

fn lab(nodes: u32) -> Lab {
    let mut lab = Lab::new(nodes);
    find(&mut lab, [UP, UP]);
    lab
}

fn syn(lab: &mut Lab, port: u16) -> Verdict {
    let node = lab.leader;
    lab.frame(node, OUTSIDE, tcp(CLIENT, port, PUBLIC, 80, SYN, 100, 0))
}

fn live(lab: &Lab) -> usize {
    flows(lab).iter().filter(|flow| flow.state == FlowState::Live).count()
}

#[test]
fn who_is_down_gets_no_new_flow_and_keeps_those_that_it_has_also_under_a_successor() {
    let mut lab = lab(3);
    let before: BTreeMap<u16, Ipv4Addr> = (7000..7040).map(|port| (port, connect(&mut lab, port))).collect();
    assert!(before.values().any(|ip| *ip == A) && before.values().any(|ip| *ip == B));
    find(&mut lab, [UP, DOWN]);
    assert_eq!(live(&lab), 40, "D16: health ends nothing");
    before.iter().for_each(|(port, to)| data_passes(&mut lab, *port, *to));
    assert!((7100..7140).all(|port| connect(&mut lab, port) == A), "no new ones for B");
    lab.elect(1);
    lab.run(20);
    before.iter().for_each(|(port, to)| data_passes(&mut lab, *port, *to));
    assert!((7200..7240).all(|port| connect(&mut lab, port) == A), "a successor knows it at once");
    find(&mut lab, [UP, UP]);
    assert!((7300..7340).any(|port| connect(&mut lab, port) == B), "it has its share again");
    lab.assert_in_step();
}

#[test]
fn an_operator_overrules_a_probe_either_way_and_ends_no_flow() {
    let mut lab = lab(3);
    let before: BTreeMap<u16, Ipv4Addr> = (7000..7040).map(|port| (port, connect(&mut lab, port))).collect();
    let state = |lab: &mut Lab, health, admin: &[(u32, AdminState)]| {
        let index = lab.loaded(0) + 1;
        let admin: Arc<[_]> = admin.iter().map(|(id, state)| (BackendId(*id), *state)).collect();
        lab.load(index, |s| {
            put(s, health);
            let mut all = Rules::default();
            all.put(Rule {
                health: HealthSource::Rule(ProbeId(0)),
                admin: Arc::clone(&admin),
                ..rule(Proto::Tcp, 80, 8080, &[1, 2])
            });
            s.rules = Arc::new(all);
        });
    };
    state(&mut lab, [UP, UP], &[(2, AdminState::Down)]);
    assert_eq!(live(&lab), 40, "it drains");
    before.iter().for_each(|(port, to)| data_passes(&mut lab, *port, *to));
    assert!((7100..7140).all(|port| connect(&mut lab, port) == A), "no new ones for B");
    lab.elect(1);
    lab.run(20);
    before.iter().for_each(|(port, to)| data_passes(&mut lab, *port, *to));
    assert!((7200..7240).all(|port| connect(&mut lab, port) == A), "a successor knows it");
    state(&mut lab, [UP, DOWN], &[(1, AdminState::Down), (2, AdminState::Up)]);
    assert!((7300..7340).all(|port| connect(&mut lab, port) == B), "whatever its probe says");
    state(&mut lab, [UP, UP], &[(1, AdminState::Down), (2, AdminState::Down)]);
    assert_eq!(syn(&mut lab, 7400), Verdict::Drop(DropReason::NoBackend));
    before.iter().for_each(|(port, to)| data_passes(&mut lab, *port, *to));
    lab.assert_in_step();
}

#[test]
fn only_the_share_of_who_is_down_moves() {
    let mut lab = lab(1);
    let chosen = |lab: &mut Lab| -> Vec<Ipv4Addr> {
        (8000..8100).map(|port| lab.pass(0, OUTSIDE, udp_in(CLIENT, port, PUBLIC, 53)).dst).collect()
    };
    let before = chosen(&mut lab);
    assert!(before.contains(&A) && before.contains(&B));
    // Nobody has answered yet: they are asked of somebody else.
    find(&mut lab, [UP, DOWN]);
    assert!(chosen(&mut lab).iter().all(|to| *to == A));
    // And stay there, until they are given up.
    lab.run(76_000);
    lab.lease(0, 3600 * SEC);
    find(&mut lab, [UP, UP]);
    assert_eq!(chosen(&mut lab), before, "as it was");
}

#[test]
fn a_handshake_that_was_answered_goes_on_and_one_that_was_not_begins_with_somebody_else() {
    let mut lab = lab(1);
    let of_b = |lab: &mut Lab, ports: std::ops::Range<u16>, answered: bool| -> Vec<u16> {
        let begin = |lab: &mut Lab, port| {
            if answered {
                half(lab, port)
            } else {
                lab.pass(0, OUTSIDE, tcp(CLIENT, port, PUBLIC, 80, SYN, 100, 0)).dst
            }
        };
        ports.filter(|port| begin(lab, *port) == B).collect()
    };
    let (answered, silent) = (of_b(&mut lab, 7000..7020, true), of_b(&mut lab, 7100..7120, false));
    assert!(!answered.is_empty() && !silent.is_empty());
    find(&mut lab, [UP, DOWN]);
    for port in answered {
        let ack = lab.pass(0, OUTSIDE, tcp(CLIENT, port, PUBLIC, 80, ACK, 101, 501));
        assert_eq!(ack.dst, B, "it has spoken with B");
        data_passes(&mut lab, port, B);
    }
    for port in silent {
        assert_eq!(connect(&mut lab, port), A, "its repeated SYN");
    }
}

#[test]
fn where_nobody_is_up_new_flows_end_for_a_reason_of_their_own() {
    let mut lab = lab(1);
    let to = connect(&mut lab, 7001);
    for nobody in [[DOWN, DOWN], [DOWN, None], [None, None]] {
        find(&mut lab, nobody);
        assert_eq!(syn(&mut lab, 7002), Verdict::Drop(DropReason::NoBackend), "{nobody:?}");
        let datagram = lab.frame(0, OUTSIDE, udp_in(CLIENT, 4000, PUBLIC, 53));
        assert_eq!(datagram, Verdict::Drop(DropReason::NoBackend));
        data_passes(&mut lab, 7001, to);
    }
    // Outwards nobody asks for health (S3).
    assert_eq!(lab.pass(0, INSIDE, tcp(A, 9, REMOTE, 443, SYN, 100, 0)).src, PUBLIC);
    find(&mut lab, [None, UP]);
    assert_eq!(connect(&mut lab, 7002), B, "one that nothing is known of yet gets nothing");
}

#[test]
fn within_the_hold_a_client_comes_back_to_the_same_member_or_to_nobody() {
    let mut lab = lab(1);
    let to = connect(&mut lab, 7001);
    lab.pass(0, OUTSIDE, tcp(CLIENT, 7001, PUBLIC, 80, FIN | ACK, 101, 501));
    lab.pass(0, INSIDE, tcp(to, 8080, CLIENT, 7001, FIN | ACK, 501, 102));
    find(&mut lab, if to == A { [DOWN, UP] } else { [UP, DOWN] });
    assert_eq!(syn(&mut lab, 7001), Verdict::Drop(DropReason::NoMapping));
    lab.run(4_500);
    assert_ne!(connect(&mut lab, 7001), to, "grace and vote timeout and a second later somebody else has it");
}

/// As a rule without a probe has it, beside one at port 81 with a probe that both pass and an inbound NAT rule to B at port 2202:
/// what is committed of the two machines.
fn put_machines(s: &mut Snapshot, machines: [Option<Health>; 2], admin: &[(u32, AdminState)]) {
    put(s, [UP, UP]);
    let admin: Arc<[_]> = admin.iter().map(|(id, state)| (BackendId(*id), *state)).collect();
    let mut all = Rules::default();
    let health = HealthSource::Machine;
    all.put(Rule { health, admin, ..rule(Proto::Tcp, 80, 8080, &[1, 2]) });
    all.put(Rule { health: HealthSource::Rule(ProbeId(0)), ..rule(Proto::Tcp, 81, 8081, &[1, 2]) });
    all.put(rule(Proto::Tcp, 2202, 22, &[2]));
    s.rules = Arc::new(all);
    let mut probes = Probes::clone(&s.probes);
    for (id, (name, health)) in (1..).zip([("instance a", machines[0]), ("instance b", machines[1])]) {
        let members = [(BackendId(id), health)].into();
        probes.all.push(Arc::new(Probe { name: name.into(), members, ..Probe::clone(&probes.all[0]) }));
        let asked = Asked { probe: ProbeId(id), backend: BackendId(id) };
        Arc::make_mut(&mut probes.machines).insert(BackendId(id), asked);
    }
    s.probes = Arc::new(probes);
}

fn machines(lab: &mut Lab, health: [Option<Health>; 2], admin: &[(u32, AdminState)]) {
    let index = lab.loaded(0) + 1;
    lab.load(index, |s| put_machines(s, health, admin));
}

/// Who gets a new connection to this port.
fn led(lab: &mut Lab, port: u16, to: u16) -> Ipv4Addr {
    let node = lab.leader;
    lab.pass(node, OUTSIDE, tcp(CLIENT, port, PUBLIC, to, SYN, 100, 0)).dst
}

#[test]
fn a_rule_without_a_probe_goes_by_its_members_machines_and_no_other_rule_does() {
    let mut lab = lab(3);
    machines(&mut lab, [UP, UP], &[]);
    let before: BTreeMap<u16, Ipv4Addr> = (7000..7040).map(|port| (port, connect(&mut lab, port))).collect();
    assert!(before.values().any(|ip| *ip == A) && before.values().any(|ip| *ip == B));
    for health in [DOWN, None] {
        machines(&mut lab, [UP, health], &[]);
        let from = if health.is_none() { 7100 } else { 7200 };
        assert!((from..from + 40).all(|port| connect(&mut lab, port) == A), "no new ones for B: {health:?}");
    }
    assert_eq!(live(&lab), 120, "D16: it ends nothing");
    before.iter().for_each(|(port, to)| data_passes(&mut lab, *port, *to));
    assert!((7300..7340).any(|port| led(&mut lab, port, 81) == B), "a rule with a probe goes by that alone");
    assert_eq!(led(&mut lab, 7400, 2202), B, "nobody stands in for one instance");
    assert_eq!(lab.pass(0, INSIDE, tcp(B, 9, REMOTE, 443, SYN, 100, 0)).src, PUBLIC, "outwards nobody asks (S3)");
    lab.elect(1);
    lab.run(20);
    before.iter().for_each(|(port, to)| data_passes(&mut lab, *port, *to));
    assert!((7500..7540).all(|port| connect(&mut lab, port) == A), "a successor knows it at once");
    machines(&mut lab, [UP, UP], &[]);
    assert!((7600..7640).any(|port| connect(&mut lab, port) == B), "it has its share again");
    lab.assert_in_step();
}

#[test]
fn where_no_machine_is_up_new_flows_by_a_rule_without_a_probe_are_refused() {
    let mut lab = lab(1);
    machines(&mut lab, [UP, UP], &[]);
    let to = connect(&mut lab, 7001);
    for nobody in [[DOWN, DOWN], [DOWN, None], [None, None]] {
        machines(&mut lab, nobody, &[]);
        assert_eq!(syn(&mut lab, 7002), Verdict::Drop(DropReason::NoBackend), "{nobody:?}");
        data_passes(&mut lab, 7001, to);
    }
    let question =
        |to: u16| Question { vnet: NETWORK, proto: Proto::Tcp, source: (CLIENT, 7003), destination: (PUBLIC, to) };
    let told = lab.nodes[0].worker.view().explain(lab.now, &question(80)).expect("it serves");
    assert_eq!(told.outcome, Outcome::Dropped(DropReason::NoBackend));
    let over = |id: u32, name: &str| PassedOver {
        backend: BackendId(id),
        by: PassedBy::Probe { name: name.into(), health: None },
    };
    assert_eq!(told.passed_over, [over(1, "instance a"), over(2, "instance b")]);
    let told = lab.nodes[0].worker.view().explain(lab.now, &question(81)).expect("it serves");
    assert_eq!(told.passed_over, [], "both pass the probe of that rule");
    machines(&mut lab, [None, UP], &[]);
    assert_eq!(connect(&mut lab, 7002), B);
}

#[test]
fn an_operator_overrules_a_machines_probe_either_way() {
    let mut lab = lab(1);
    machines(&mut lab, [UP, UP], &[(2, AdminState::Down)]);
    assert!((7000..7040).all(|port| connect(&mut lab, port) == A), "it drains");
    machines(&mut lab, [UP, DOWN], &[(1, AdminState::Down), (2, AdminState::Up)]);
    assert!((7100..7140).all(|port| connect(&mut lab, port) == B), "whatever the machine's probe says");
    let question = Question { vnet: NETWORK, proto: Proto::Tcp, source: (CLIENT, 1), destination: (PUBLIC, 80) };
    let told = lab.nodes[0].worker.view().explain(lab.now, &question).expect("it serves");
    assert_eq!(told.passed_over, [PassedOver { backend: BackendId(1), by: PassedBy::Operator }]);
    machines(&mut lab, [UP, UP], &[(1, AdminState::Down), (2, AdminState::Down)]);
    assert_eq!(syn(&mut lab, 7200), Verdict::Drop(DropReason::NoBackend));
}

/// A segment of a probe, as its connection makes it: the Ethernet header is left to the worker.
fn segment(source: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut frame = tcp(source, PORT, to, 8080, SYN, 100, 0);
    frame[..12].fill(0);
    frame
}

fn probe(lab: &mut Lab, node: usize, backend: u32, mut frame: Vec<u8>) -> Result<(), DropReason> {
    let n = &mut lab.nodes[node];
    let sent = n.worker.send_probe(lab.now, &n.words, BackendId(backend), &mut frame);
    lab.pump();
    sent
}

#[test]
fn a_probe_leaves_under_the_lease_of_the_backends_shard_and_by_its_groups() {
    let mut lab = lab(2);
    let (entries, flows) = (lab.log.len(), flows(&lab).len());
    lab.sent.clear();
    assert_eq!(probe(&mut lab, 0, 1, segment(SOURCE, A)), Ok(()));
    lab.sent.retain(|sent| !sent.is_arp());
    assert_eq!(lab.sent.len(), 1);
    let sent = &lab.sent[0];
    let (packet, term) = (sent.packet(), Term(lab.term));
    assert_eq!((packet.eth_src, packet.eth_dst), (Mac::of_shard(SHARD), mac_of(A)));
    assert_eq!((packet.src, packet.src_port, packet.dst, packet.dst_port), (SOURCE, PORT, A, 8080));
    assert_eq!((sent.link, sent.authority), (INSIDE, Authority::Lease { shard: SHARD, term }));
    assert_eq!((lab.log.len(), self::flows(&lab).len()), (entries, flows), "nothing of it is a mapping");

    assert_eq!(probe(&mut lab, 1, 1, segment(SOURCE, A)), Err(DropReason::NotOwner));
    assert_eq!(probe(&mut lab, 0, 1, segment(REMOTE, A)), Err(DropReason::Malformed), "in nobody else's name");
    assert_eq!(probe(&mut lab, 0, 1, segment(SOURCE, B)), Err(DropReason::Malformed), "to nobody else");
    assert_eq!(probe(&mut lab, 0, 3, segment(SOURCE, C)), Err(DropReason::NotOwner), "another shard's");
    assert_eq!(probe(&mut lab, 0, 9, segment(SOURCE, A)), Err(DropReason::NoBackend));

    let judged = |lab: &mut Lab, rules: &[qnat_engine::nsg::Rule]| {
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| {
            put(s, [UP, UP]);
            of_a(s, [None, group(rules, &[])]);
        });
        probe(lab, 0, 1, segment(SOURCE, A))
    };
    assert_eq!(judged(&mut lab, &[from(Access::Deny, SOURCE)]), Err(DropReason::SecurityRule));
    assert_eq!(judged(&mut lab, &[from(Access::Deny, REMOTE), from(Access::Allow, SOURCE)]), Ok(()));
    lab.lapse();
    assert_eq!(probe(&mut lab, 0, 1, segment(SOURCE, A)), Err(DropReason::NotOwner), "without a lease nothing");
}

#[test]
fn an_answer_to_a_probe_ends_at_the_owner_whoever_gets_it_and_nothing_else_goes_there() {
    let mut lab = lab(2);
    let answer = || tcp(A, 8080, SOURCE, PORT, SYN | ACK, 500, 101);
    lab.sent.clear();
    assert_eq!(lab.frame(0, INSIDE, answer()), Verdict::Consumed);
    let told = lab.nodes[0].worker.poll_answer().expect("it is handed over");
    assert_eq!((told.backend, told.port), (BackendId(1), PORT));
    assert_eq!(*told.packet, answer()[14..], "from its IP header on");
    assert!(lab.nodes[0].worker.poll_answer().is_none());

    // A switch that has not heard of the successor yet.
    lab.elect(1);
    lab.run(20);
    lab.sent.clear();
    let forwarded = lab.frame(0, INSIDE, answer());
    assert_eq!(forwarded, Verdict::Transmit { link: INSIDE, authority: Authority::Forward });
    let frame = lab.sent.iter().find(|sent| !sent.is_arp()).expect("it goes on").frame.clone();
    assert_eq!(lab.frame(1, INSIDE, frame), Verdict::Consumed);
    assert_eq!(lab.nodes[1].worker.poll_answer().map(|told| told.backend), Some(BackendId(1)));

    for other in [tcp(A, 9, SOURCE, 80, SYN, 1, 0), udp(A, 9, SOURCE, 53), ping(A, SOURCE, 7)] {
        assert_eq!(lab.frame(1, INSIDE, other), Verdict::Drop(DropReason::PlatformAddress));
    }
    let spoofed = lab.frame(1, OUTSIDE, tcp(SOURCE, PORT, PUBLIC, 80, SYN, 1, 0));
    assert_eq!(spoofed, Verdict::Drop(DropReason::SpoofedSource), "nobody outside has it, whatever groups allow it");
    assert!(lab.nodes[1].worker.poll_answer().is_none());
    assert_eq!(flows(&lab).len(), 0);
    assert!(lab.nodes.iter().all(|node| node.worker.counters().is_balanced()));
}

#[test]
fn answers_that_nobody_takes_are_bounded() {
    let mut lab = lab(1);
    let verdicts: Vec<Verdict> =
        (0..1_100).map(|n| lab.frame(0, INSIDE, tcp(A, 8080, SOURCE, PORT, ACK, n, 1))).collect();
    let taken = verdicts.iter().filter(|verdict| **verdict == Verdict::Consumed).count();
    assert_eq!((taken, verdicts[1_099]), (1_024, Verdict::Drop(DropReason::HoldLimit)));
    assert!(lab.nodes[0].worker.counters().is_balanced(), "they wait");
    assert_eq!(std::iter::from_fn(|| lab.nodes[0].worker.poll_answer()).count(), 1_024);
    assert_eq!(lab.frame(0, INSIDE, tcp(A, 8080, SOURCE, PORT, ACK, 1, 1)), Verdict::Consumed);
    assert!(lab.nodes[0].worker.counters().is_balanced());
}
