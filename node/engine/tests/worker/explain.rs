//! What the engine says of a packet is what it does with it.

use std::net::Ipv4Addr;

use words::SplitMix;

use crate::by_address::bare;
use crate::groups::{group, leaving, of_a, rule, to};
use crate::lab::*;
use crate::own::give;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::explain::{Explanation, Outcome, Question};
use qnat_engine::ids::*;
use qnat_engine::nsg::{Access, Direction, Origin, Place};
use qnat_engine::record::{Proto, Scenario};
use qnat_engine::snapshot::{Filtering, Profile, Sharing};

const REMOTES: [Ipv4Addr; 3] = [REMOTE, Ipv4Addr::new(198, 51, 100, 8), Ipv4Addr::new(192, 0, 2, 77)];
const ODD: [Ipv4Addr; 6] = [
    Ipv4Addr::new(10, 0, 0, 5),
    Ipv4Addr::new(192, 168, 1, 1),
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(224, 0, 0, 5),
    PUBLIC,
    PUBLIC_2,
];

fn ask(lab: &Lab, proto: Proto, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Explanation {
    let question = Question { vnet: NETWORK, proto, source, destination };
    lab.nodes[0].worker.view().explain(lab.now, &question).expect("a configuration is loaded")
}

fn frame(proto: Proto, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Vec<u8> {
    match proto {
        Proto::Udp => udp(source.0, source.1, destination.0, destination.1),
        Proto::Tcp => tcp(source.0, source.1, destination.0, destination.1, SYN, 1, 0),
        Proto::Icmp => ping(source.0, destination.0, source.1),
        Proto::Gre | Proto::Esp | Proto::Sctp => {
            bare(proto, source.0, destination.0, (source.1, destination.1)).frame(source.0, SHARD)
        }
    }
}

/// Sends the packet and holds what becomes of it against what was said.
fn holds(lab: &mut Lab, seen: &mut Seen, proto: Proto, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) {
    let told = ask(lab, proto, source, destination);
    assert_eq!(told, ask(lab, proto, source, destination), "asking changes nothing");
    lab.sent.clear();
    let verdict = lab.out(0, frame(proto, source, destination));
    let left: Vec<_> = lab.sent.iter().filter(|sent| !sent.is_arp()).map(Sent::packet).collect();
    let case = format!("{proto:?} {source:?} {destination:?}: {told:?}, {verdict:?}");
    match told.outcome {
        Outcome::Passes(..) | Outcome::Opens(..) if matches!(told.turned, Some(Err(_))) => {
            assert!(left.is_empty(), "{case}");
            seen.turned_away += 1;
        }
        Outcome::Passes(ip, port) | Outcome::Opens(_, ip, port) => {
            let known = matches!(told.outcome, Outcome::Passes(..));
            // One whose neighbour has to be asked first leaves a moment later as well.
            let at_once = matches!(told.outcome, Outcome::Opens(Scenario::OwnOut, ..));
            assert!(known || at_once || verdict == Verdict::Consumed, "{case}");
            let sources: Vec<_> = left.iter().map(|packet| (packet.src, packet.src_port)).collect();
            assert_eq!(sources, [(ip, port)], "{case}");
            assert!(!known || told.mapping.is_some(), "{case}");
            seen.passed += 1;
        }
        Outcome::OpensIfFree(_) => panic!("few ports: {case}"),
        Outcome::Waits => assert_eq!(verdict, Verdict::Consumed, "{case}"),
        Outcome::Dropped(reason) => {
            assert_eq!(verdict, Verdict::Drop(reason), "{case}");
            assert!(left.is_empty(), "{case}");
            seen.note(reason);
        }
        Outcome::NotHere => assert!(matches!(verdict, Verdict::Drop(_)) && left.is_empty(), "{case}"),
    }
}

#[derive(Default)]
struct Seen {
    passed: u32,
    turned_away: u32,
    dropped: Vec<DropReason>,
}

impl Seen {
    fn note(&mut self, reason: DropReason) {
        if !self.dropped.contains(&reason) {
            self.dropped.push(reason);
        }
    }
}

#[test]
fn what_is_said_of_a_packet_is_what_becomes_of_it() {
    let (mut lab, mut draw, mut seen) = (Lab::new(1), SplitMix::new(11), Seen::default());
    let mut below = |end: usize| usize::try_from(draw.draw() >> 33).expect("31 bits") % end;
    for round in 0..120 {
        let remote = REMOTES[below(3)];
        let groups = match below(4) {
            0 => [None, None],
            1 => leaving(&[to(Access::Deny, remote)]),
            2 => [group(&[], &[to(Access::Allow, remote), rule(Access::Deny)]), None],
            _ => [group(&[], &[rule(Access::Allow)]), group(&[], &[to(Access::Deny, remote), rule(Access::Allow)])],
        };
        let (flows, few) = [(20, false), (100_000, true), (100_000, false)][below(3)];
        let sharing = [Sharing::Tuple, Sharing::Address, Sharing::Endpoint][round / 40];
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| {
            of_a(s, groups.clone());
            s.params.flows_per_backend_max = flows;
            if round % 2 == 1 {
                give(s, 4);
            }
            for id in [1, 2] {
                let backend = s.backends.get_mut(&BackendId(id)).expect("A and B");
                (backend.sharing, backend.profile) = (sharing, Profile::Rfc);
                if few {
                    backend.lease = vec![block(if id == 1 { 2048 } else { 2080 }, 8)];
                }
            }
        });
        for _ in 0..60 {
            let proto = Proto::ALL[below(9) % 6];
            let from = [A, A, A, B, NO_LEASE, C][below(6)];
            let dst = if below(5) == 0 { ODD[below(ODD.len())] } else { REMOTES[below(3)] };
            if dst == from {
                continue;
            }
            let port = u16::try_from(5000 + below(12)).expect("small");
            let service = if proto == Proto::Icmp { 0 } else { [53, 80, 443][below(3)] };
            holds(&mut lab, &mut seen, proto, (from, port), (dst, service));
        }
        lab.lease(0, 3600 * SEC);
        lab.run([5, 70_000, 300_000][below(3)]);
    }
    assert!(seen.passed > 500 && seen.turned_away > 5, "{} {}", seen.passed, seen.turned_away);
    for reason in [
        DropReason::SecurityRule,
        DropReason::PrivateDestination,
        DropReason::MartianDestination,
        DropReason::NoOutboundPath,
        DropReason::PortsExhausted,
        DropReason::FlowLimit,
        DropReason::NoOwnAddress,
    ] {
        assert!(seen.dropped.contains(&reason), "{reason:?} was met: {:?}", seen.dropped);
    }
}

#[test]
fn an_explanation_names_the_rules_the_mapping_and_who_owns_it() {
    let mut lab = Lab::new(1);
    let subnet = group(&[], &[rule(Access::Allow)]);
    lab.load(11, |s| of_a(s, [subnet.clone(), group(&[], &[to(Access::Deny, REMOTES[1]), rule(Access::Allow)])]));
    let told = ask(&lab, Proto::Udp, (A, 5000), (REMOTE, 53));
    let Outcome::Opens(Scenario::Pool, PUBLIC, port) = told.outcome else { panic!("{told:?}") };
    assert_eq!(told.groups.iter().map(|judged| judged.place).collect::<Vec<_>>(), [Place::Card, Place::Subnet]);
    assert_eq!(told.groups[0].rule, Some(("r1".to_owned(), 100, Origin::User)));
    assert_eq!((told.backend, told.shard, told.next_hop), (Some(BackendId(1)), Some(SHARD), Some(UPSTREAM)));
    assert_eq!(told.owner.map(|(_, node)| node), Some(Some(NodeId(0))));
    assert!(told.mapping.is_none());
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port, port);
    let told = ask(&lab, Proto::Udp, (A, 5000), (REMOTE, 53));
    assert_eq!(told.outcome, Outcome::Passes(PUBLIC, port));
    assert!(told.mapping.is_some_and(|mapping| mapping.written_at > LogIndex(0)));
    let told = ask(&lab, Proto::Udp, (A, 5001), (REMOTES[1], 53));
    assert_eq!(told.outcome, Outcome::Dropped(DropReason::SecurityRule));
    assert_eq!(told.groups.len(), 1, "the subnet's was not asked");
    assert_eq!(told.groups[0].rule, Some(("r0".to_owned(), 100, Origin::User)));
}

#[test]
fn what_comes_from_outside_is_explained_as_well() {
    let mut lab = Lab::new(1);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    let back = ask(&lab, Proto::Udp, (REMOTE, 53), (PUBLIC, port));
    assert_eq!((back.direction, back.outcome), (Direction::Inbound, Outcome::Passes(A, 5000)));
    let other = ask(&lab, Proto::Udp, (REMOTES[1], 53), (PUBLIC, port));
    assert_eq!(other.outcome, Outcome::Dropped(DropReason::NoMapping));
    assert_eq!(ask(&lab, Proto::Udp, (REMOTE, 53), (REMOTES[1], 9)).outcome, Outcome::Dropped(DropReason::NotForUs));
    assert_eq!(ask(&lab, Proto::Udp, (REMOTE, 53), (PUBLIC_2, 9)).outcome, Outcome::NotHere);
    let nobody = ask(&lab, Proto::Udp, (Ipv4Addr::new(10, 0, 0, 99), 9), (REMOTE, 53));
    assert_eq!(nobody.outcome, Outcome::Dropped(DropReason::SpoofedSource));
    // Where ports are open to strangers, the rules are asked, by the instance's own address and port.
    let open = |lab: &mut Lab, inbound| {
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| {
            let a = s.backends.get_mut(&BackendId(1)).expect("A");
            (a.sharing, a.filtering, a.profile) = (Sharing::Endpoint, Filtering::Open, Profile::Rfc);
            of_a(s, [None, group(&[rule(inbound)], &[rule(Access::Allow)])]);
        });
    };
    for (inbound, outcome) in
        [(Access::Deny, Outcome::Dropped(DropReason::SecurityRule)), (Access::Allow, Outcome::Passes(A, 6000))]
    {
        open(&mut lab, inbound);
        let port = lab.pass(0, INSIDE, udp(A, 6000, REMOTE, 53)).src_port;
        let told = ask(&lab, Proto::Udp, (REMOTES[1], 7), (PUBLIC, port));
        assert_eq!((told.outcome, told.groups.len()), (outcome, 1));
    }
}
