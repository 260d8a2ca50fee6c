//! GRE, ESP and SCTP: translated at an address of one's own by nothing but the address (S2, S23), and nowhere else.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::groups::{from, group, leaving, of_a, rule};
use crate::lab::*;
use crate::own::{OTHER_REMOTE, OWN, OWN_ID, give, take};
use crate::private::{isolated, judged};
use crate::raw::*;
use qnat_engine::codec::Format;
use qnat_engine::event::{DropReason, Verdict};
use qnat_engine::explain::{Outcome, Question};
use qnat_engine::ids::*;
use qnat_engine::nsg::{Access, Protocol, Range, Rule};
use qnat_engine::record::{Proto, Scenario};
use qnat_engine::snapshot::{Frontend, OnReclaim, Refusals, Snapshot};
use qnat_engine::status::{FlowState, FlowView};

const PROTOCOLS: [Proto; 3] = [Proto::Gre, Proto::Esp, Proto::Sctp];
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 33);
const OWN_OF_B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 21);
const PORTS: (u16, u16) = (7000, 2905);

/// A packet of `len` octets of payload behind a header of its protocol; what an SCTP packet says of ports.
fn sized(proto: Proto, src: Ipv4Addr, dst: Ipv4Addr, (from, to): (u16, u16), len: usize) -> Raw {
    let mut payload = match proto {
        // A tunnel's, with a key (RFC 2890).
        Proto::Gre => vec![0x20, 0, 8, 0, 0, 0, 0, 7],
        Proto::Esp => vec![0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 1],
        // A checksum that nobody here can judge: it is the receiver's.
        Proto::Sctp | Proto::Icmp | Proto::Tcp | Proto::Udp => {
            [&from.to_be_bytes()[..], &to.to_be_bytes(), &[1, 2, 3, 4, 0xc, 0xc, 0xc, 0xc]].concat()
        }
    };
    payload.extend((0..len).map(|n| n.to_le_bytes()[0]));
    Raw::new(src, dst, proto as u8, payload)
}

pub(crate) fn bare(proto: Proto, src: Ipv4Addr, dst: Ipv4Addr, ports: (u16, u16)) -> Raw {
    sized(proto, src, dst, ports, 33)
}

/// As a backend, or the upstream, sends it.
fn out(packet: &Raw) -> Vec<u8> {
    packet.frame(packet.src, SHARD)
}

fn inwards(packet: &Raw) -> Vec<u8> {
    packet.frame(UPSTREAM, SHARD)
}

fn give_both_ways(s: &mut Snapshot) {
    give(s, 1);
    Arc::make_mut(&mut s.rules).put_own(OWN_ID, BackendId(1));
}

fn with_own(nodes: u32) -> Lab {
    let mut lab = Lab::new(nodes);
    lab.load(11, give_both_ways);
    for node in 0..lab.nodes.len() {
        lab.learn(node, INSIDE, A);
        lab.learn(node, INSIDE, B);
    }
    lab
}

fn flows(lab: &Lab) -> Vec<FlowView> {
    lab.nodes[lab.leader].worker.view().dump_flows(lab.now, Some(SHARD), 1000)
}

/// The only packet that leaves: all of it, with these addresses and one hop less.
fn passes(lab: &mut Lab, link: Link, frame: Vec<u8>, wanted: &Raw) {
    lab.sent.clear();
    let node = lab.leader;
    let verdict = lab.frame(node, link, frame);
    lab.sent.retain(|s| !s.is_arp());
    assert_eq!(lab.sent.len(), 1, "one packet leaves, verdict {verdict:?}");
    let bytes = &lab.sent[0].frame[L3..];
    let id = word(bytes, 4);
    assert_eq!(bytes, Raw { id, ttl: wanted.ttl - 1, ..wanted.clone() }.bytes(), "{bytes:02x?}");
}

fn leaves(lab: &mut Lab, proto: Proto, remote: Ipv4Addr) {
    let (sent, wanted) = (bare(proto, A, remote, PORTS), bare(proto, OWN, remote, PORTS));
    passes(lab, INSIDE, out(&sent), &wanted);
}

fn comes(lab: &mut Lab, proto: Proto, remote: Ipv4Addr) {
    let back = (PORTS.1, PORTS.0);
    let (sent, wanted) = (bare(proto, remote, OWN, back), bare(proto, remote, A, back));
    passes(lab, OUTSIDE, inwards(&sent), &wanted);
}

#[test]
fn a_flow_of_either_side_has_one_mapping_and_no_octet_but_the_addresses_changes() {
    for proto in PROTOCOLS {
        for begins in [Scenario::OwnOut, Scenario::OwnIn] {
            let mut lab = with_own(3);
            if begins == Scenario::OwnIn {
                comes(&mut lab, proto, REMOTE);
                assert!(flows(&lab).is_empty(), "W3: nobody has answered");
            }
            for _ in 0..3 {
                leaves(&mut lab, proto, REMOTE);
                comes(&mut lab, proto, REMOTE);
            }
            let ports = if proto == Proto::Sctp { PORTS } else { (0, 0) };
            let all: Vec<_> = flows(&lab).iter().map(|f| (f.scenario, f.public.2, f.remote.port, f.state)).collect();
            assert_eq!(all, [(begins, ports.0, ports.1, FlowState::Live)], "{proto:?}");
            leaves(&mut lab, proto, OTHER_REMOTE);
            assert_eq!(flows(&lab).len(), 2, "one for each remote");
            lab.assert_in_step();
        }
    }
}

#[test]
fn the_next_packets_of_a_flow_wait_for_its_commit_and_so_does_the_answer_to_a_stranger() {
    for proto in PROTOCOLS {
        let mut lab = with_own(2);
        comes(&mut lab, proto, OTHER_REMOTE);
        lab.hold = Hold::Yes;
        leaves(&mut lab, proto, REMOTE);
        lab.sent.clear();
        let waiting = [
            lab.out(0, out(&bare(proto, A, REMOTE, PORTS))),
            lab.frame(0, OUTSIDE, inwards(&bare(proto, REMOTE, OWN, (PORTS.1, PORTS.0)))),
            lab.out(0, out(&bare(proto, A, OTHER_REMOTE, PORTS))),
        ];
        assert_eq!(waiting, [Verdict::Consumed; 3], "{proto:?}: W2, W3");
        assert!(lab.sent.iter().all(Sent::is_arp));
        lab.commit_waiting();
        assert_eq!(lab.sent.iter().filter(|s| !s.is_arp()).count(), 3);
    }
}

#[test]
fn a_takeover_keeps_what_was_answered_and_silence_of_four_minutes_ends_it() {
    for proto in PROTOCOLS {
        let mut lab = with_own(3);
        leaves(&mut lab, proto, REMOTE);
        comes(&mut lab, proto, OTHER_REMOTE);
        leaves(&mut lab, proto, OTHER_REMOTE);
        lab.elect(1);
        lab.run(20);
        assert_eq!(flows(&lab).len(), 2);
        comes(&mut lab, proto, REMOTE);
        comes(&mut lab, proto, OTHER_REMOTE);
        lab.lease(1, 3600 * SEC);
        lab.run(200_000);
        leaves(&mut lab, proto, REMOTE);
        lab.run(239_000);
        let live = |lab: &Lab| flows(lab).iter().filter(|flow| flow.state == FlowState::Live).count();
        assert_eq!(live(&lab), 1, "S13: what was used");
        lab.run(2_000);
        assert_eq!(live(&lab), 0, "S2: here too");
        lab.assert_in_step();
    }
}

#[test]
fn the_other_fragments_follow_the_first_both_ways() {
    for proto in PROTOCOLS {
        let mut lab = with_own(1);
        leaves(&mut lab, proto, REMOTE);
        let back = (PORTS.1, PORTS.0);
        let ways = [
            (INSIDE, sized(proto, A, REMOTE, PORTS, 900), sized(proto, OWN, REMOTE, PORTS, 900)),
            (OUTSIDE, sized(proto, REMOTE, OWN, back, 900), sized(proto, REMOTE, A, back, 900)),
        ];
        for (link, sent, wanted) in ways {
            let cut = |whole: &Raw, ttl, id| {
                let part =
                    |fragment, payload: &[u8]| Raw { id, ttl, fragment, payload: payload.to_vec(), ..whole.clone() };
                [part(MORE_FRAGMENTS, &whole.payload[..504]), part(63, &whole.payload[504..])]
            };
            let from = if link == INSIDE { A } else { UPSTREAM };
            for (datagram, order) in [(70, [0, 1]), (71, [1, 0])] {
                lab.sent.clear();
                let parts = cut(&sent, 64, datagram);
                for place in order {
                    lab.frame(0, link, parts[place].frame(from, SHARD));
                }
                lab.sent.retain(|s| !s.is_arp());
                let id = word(&lab.sent[0].frame[L3..], 4);
                let mut left: Vec<_> = lab.sent.iter().map(|s| s.frame[L3..].to_vec()).collect();
                left.sort_by_key(|bytes| word(bytes, 6) & 0x1fff);
                assert_eq!(left, cut(&wanted, 63, id).map(|part| part.bytes()), "{proto:?} {order:?}");
            }
            let [first, _] = cut(&sent, 64, 99);
            let header = if proto == Proto::Sctp { 12 } else { 8 };
            let tiny = Raw { payload: first.payload[..8].to_vec(), ..first };
            let verdict = lab.frame(0, link, tiny.frame(from, SHARD));
            assert_eq!(verdict == Verdict::Drop(DropReason::FragmentTiny), header > 8, "{proto:?}");
        }
    }
}

#[test]
fn errors_are_about_what_their_receiver_sent_both_ways_and_touch_nothing() {
    for proto in PROTOCOLS {
        let mut lab = with_own(1);
        leaves(&mut lab, proto, REMOTE);
        let hash = lab.hash(0);
        let (inner, outer) = (bare(proto, A, REMOTE, PORTS), bare(proto, OWN, REMOTE, PORTS));
        for keep in [8, 12, outer.payload.len()] {
            let about = |packet: &Raw| {
                let mut quote = Raw { ttl: 1, ..packet.clone() }.bytes();
                quote.truncate(20 + keep);
                quote
            };
            let sent = icmp_raw(ROUTER, OWN, [3, 4], [0, 0, 5, 0], &about(&outer));
            passes(&mut lab, OUTSIDE, inwards(&sent), &icmp_raw(ROUTER, A, [3, 4], [0, 0, 5, 0], &about(&inner)));
            let (to_public, to_inside) =
                (bare(proto, REMOTE, OWN, (PORTS.1, PORTS.0)), bare(proto, REMOTE, A, (PORTS.1, PORTS.0)));
            let said = icmp_raw(A, REMOTE, [3, 2], [0; 4], &about(&to_inside));
            passes(&mut lab, INSIDE, out(&said), &icmp_raw(OWN, REMOTE, [3, 2], [0; 4], &about(&to_public)));
        }
        let stranger = icmp_raw(ROUTER, OWN, [3, 4], [0, 0, 5, 0], &bare(proto, OWN, OTHER_REMOTE, PORTS).bytes());
        assert_eq!(lab.frame(0, OUTSIDE, inwards(&stranger)), Verdict::Drop(DropReason::NoMapping));
        assert_eq!((lab.hash(0), flows(&lab).len()), (hash, 1), "R9");
        let kept = lab.frame(0, OUTSIDE, inwards(&icmp_raw(ROUTER, OWN, [3, 4], [0; 4], &outer.bytes()[..27])));
        assert_eq!(kept, Verdict::Drop(DropReason::Truncated));
    }
}

#[test]
fn an_instance_says_of_a_stranger_s_packet_that_it_does_not_speak_the_protocol() {
    for proto in PROTOCOLS {
        let mut lab = with_own(1);
        comes(&mut lab, proto, REMOTE);
        let about = |to| bare(proto, REMOTE, to, (PORTS.1, PORTS.0)).bytes();
        let said = icmp_raw(A, REMOTE, [3, 2], [0; 4], &about(A));
        passes(&mut lab, INSIDE, out(&said), &icmp_raw(OWN, REMOTE, [3, 2], [0; 4], &about(OWN)));
        assert!(flows(&lab).is_empty(), "{proto:?}");
    }
}

#[test]
fn what_has_no_hop_left_or_does_not_fit_is_told_of() {
    for proto in PROTOCOLS {
        let mut lab = with_own(1);
        leaves(&mut lab, proto, REMOTE);
        let notice = |lab: &mut Lab, packet: &Raw| {
            lab.sent.clear();
            let verdict = lab.out(0, out(packet));
            lab.sent.retain(|s| !s.is_arp());
            let said = lab.sent.first().map(|s| (s.frame[L3 + 20], s.frame[L3 + 21]));
            (verdict, said)
        };
        let dies = Raw { ttl: 1, ..bare(proto, A, REMOTE, PORTS) };
        assert_eq!(notice(&mut lab, &dies), (Verdict::Drop(DropReason::TtlExpired), Some((11, 0))));
        let long = Raw { fragment: DONT_FRAGMENT, ..sized(proto, A, REMOTE, PORTS, 1600) };
        assert_eq!(notice(&mut lab, &long), (Verdict::Drop(DropReason::TooBig), Some((3, 4))), "R11");
        lab.sent.clear();
        lab.out(0, out(&Raw { fragment: 0, ..long }));
        lab.run(5);
        assert_eq!(lab.sent.iter().filter(|s| !s.is_arp()).count(), 2, "what may be cut is cut");
    }
}

/// B has an address of its own as well.
fn of_both(lab: &mut Lab) {
    lab.load(12, |s| {
        give_both_ways(s);
        s.put_frontends([(FrontendId(8), Frontend { ip: OWN_OF_B, shard: SHARD })]);
        s.backends.get_mut(&BackendId(2)).expect("B").ways.own = Some(FrontendId(8));
        Arc::make_mut(&mut s.rules).put_own(FrontendId(8), BackendId(2));
    });
}

#[test]
fn two_own_addresses_reach_each_other_and_what_is_said_of_it_comes_back() {
    for proto in PROTOCOLS {
        let mut lab = with_own(2);
        of_both(&mut lab);
        for _ in 0..3 {
            let sent = bare(proto, B, OWN, PORTS);
            passes(&mut lab, INSIDE, out(&sent), &bare(proto, OWN_OF_B, A, PORTS));
            let back = (PORTS.1, PORTS.0);
            passes(&mut lab, INSIDE, out(&bare(proto, A, OWN_OF_B, back)), &bare(proto, OWN, B, back));
        }
        assert_eq!(flows(&lab).len(), 2, "R7: each side's");
        let about = |src, dst| bare(proto, src, dst, PORTS).bytes();
        let said = icmp_raw(A, OWN_OF_B, [3, 2], [0; 4], &about(OWN_OF_B, A));
        passes(&mut lab, INSIDE, out(&said), &icmp_raw(OWN, B, [3, 2], [0; 4], &about(B, OWN)));
        lab.assert_in_step();
    }
}

#[test]
fn behind_a_shared_address_it_is_dropped_for_a_reason_of_its_own_and_explain_says_so() {
    let want = DropReason::NoOwnAddress;
    for proto in PROTOCOLS {
        let mut lab = with_own(1);
        // B has ports of a pool, and the last one has nothing.
        let cases = [
            (INSIDE, bare(proto, B, REMOTE, PORTS)),
            (INSIDE, bare(proto, NO_LEASE, REMOTE, PORTS)),
            (OUTSIDE, bare(proto, REMOTE, PUBLIC, PORTS)),
        ];
        for (link, packet) in cases {
            let frame = if link == INSIDE { out(&packet) } else { inwards(&packet) };
            let before = lab.dropped(0, want);
            assert_eq!(lab.frame(0, link, frame), Verdict::Drop(want), "{proto:?}");
            assert_eq!(lab.dropped(0, want), before + 1);
            assert_eq!(told(&lab, proto, packet.src, packet.dst), Outcome::Dropped(want));
        }
        // What A sends to one is turned back there.
        assert_eq!(lab.out(0, out(&bare(proto, A, PUBLIC, PORTS))), Verdict::Drop(want), "{proto:?}");
        assert!(flows(&lab).iter().all(|flow| flow.scenario == Scenario::OwnOut), "nothing by a shared address");
    }
}

fn told(lab: &Lab, proto: Proto, src: Ipv4Addr, dst: Ipv4Addr) -> Outcome {
    // Ports that nothing would be looked up by count for nothing.
    let question = Question { vnet: NETWORK, proto, source: (src, PORTS.0), destination: (dst, PORTS.1) };
    lab.nodes[0].worker.view().explain(lab.now, &question).expect("a configuration is loaded").outcome
}

#[test]
fn a_backend_hears_why_if_it_is_to_hear_of_refusals() {
    for proto in PROTOCOLS {
        let mut lab = with_own(1);
        lab.load(12, |s| {
            give_both_ways(s);
            s.params.refusals = Refusals::Told;
        });
        lab.sent.clear();
        assert_eq!(lab.out(0, out(&bare(proto, B, REMOTE, PORTS))), Verdict::Drop(DropReason::NoOwnAddress));
        let said = lab.sent.iter().find(|s| !s.is_arp()).expect("a notice");
        assert_eq!(said.frame[L3 + 20..L3 + 22], [3, 13], "R23");
    }
}

#[test]
fn below_its_level_nothing_of_it_passes_and_with_the_raise_it_does() {
    let want = DropReason::ClusterLevel;
    for proto in PROTOCOLS {
        let mut lab = with_own(2);
        for format in [Format::First, Format::Second] {
            let index = lab.loaded(0) + 1;
            lab.load(index, |s| {
                give_both_ways(s);
                s.params.format = format;
            });
            let (first, back) = (bare(proto, A, REMOTE, PORTS), bare(proto, REMOTE, OWN, (PORTS.1, PORTS.0)));
            assert_eq!(lab.out(0, out(&first)), Verdict::Drop(want), "C2");
            assert_eq!(lab.frame(0, OUTSIDE, inwards(&back)), Verdict::Drop(want));
            assert_eq!(told(&lab, proto, A, REMOTE), Outcome::Dropped(want));
            assert_eq!(told(&lab, proto, REMOTE, OWN), Outcome::Dropped(want));
            assert!(flows(&lab).is_empty());
        }
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| {
            give_both_ways(s);
            s.params.format = Format::of_level(3);
        });
        assert!(matches!(told(&lab, proto, A, REMOTE), Outcome::Opens(Scenario::OwnOut, OWN, _)));
        leaves(&mut lab, proto, REMOTE);
        comes(&mut lab, proto, REMOTE);
        assert_eq!(told(&lab, proto, A, REMOTE), Outcome::Passes(OWN, flows(&lab)[0].public.2));
        assert_eq!(lab.log.last().map(|(_, entry)| entry[2]), Some(6));
    }
}

#[test]
fn rules_for_any_protocol_judge_it_and_those_for_tcp_udp_or_ports_do_not() {
    let any = |access| Rule { ..rule(access) };
    let of = |protocol| Rule { protocol, ..rule(Access::Allow) };
    let ported = Rule { destination_ports: vec![Range::one(PORTS.0.into())], ..rule(Access::Allow) };
    for proto in PROTOCOLS {
        let mut lab = with_own(1);
        let judged_by = |lab: &mut Lab, inbound: &[Rule], outbound: &[Rule]| {
            let index = lab.loaded(0) + 1;
            lab.load(index, |s| {
                give_both_ways(s);
                of_a(s, [None, group(inbound, outbound)]);
            });
        };
        let (first, back) = (bare(proto, A, REMOTE, PORTS), bare(proto, REMOTE, OWN, (PORTS.1, PORTS.0)));
        let denied = Verdict::Drop(DropReason::SecurityRule);
        for allowed in [of(Protocol::Tcp), of(Protocol::Udp), ported.clone()] {
            let rules = [allowed, rule(Access::Deny)];
            judged_by(&mut lab, &rules, &rules);
            assert_eq!([lab.out(0, out(&first)), lab.frame(0, OUTSIDE, inwards(&back))], [denied; 2], "{proto:?}");
        }
        judged_by(&mut lab, &[from(Access::Allow, REMOTE), rule(Access::Deny)], &[rule(Access::Deny)]);
        let stranger = bare(proto, OTHER_REMOTE, OWN, (PORTS.1, PORTS.0));
        assert_eq!(lab.frame(0, OUTSIDE, inwards(&stranger)), denied);
        comes(&mut lab, proto, REMOTE);
        leaves(&mut lab, proto, REMOTE);
        assert_eq!(lab.out(0, out(&bare(proto, A, OTHER_REMOTE, PORTS))), denied, "S30: what it begins needs one");
        judged_by(&mut lab, &[rule(Access::Deny)], &[any(Access::Allow)]);
        lab.run(100);
        assert!(flows(&lab).iter().all(|flow| flow.state != FlowState::Live), "D19: it could not begin any more");
    }
}

#[test]
fn strangers_that_nobody_answers_are_bounded_and_write_nothing() {
    for proto in PROTOCOLS {
        let mut lab = with_own(1);
        let before = lab.log.len();
        for n in 0..20_000u32 {
            let remote = Ipv4Addr::from(Ipv4Addr::new(198, 18, 0, 0).to_bits() + n);
            assert!(matches!(
                lab.frame(0, OUTSIDE, inwards(&bare(proto, remote, OWN, PORTS))),
                Verdict::Transmit { .. }
            ));
            lab.sent.clear();
        }
        assert_eq!(lab.log.len(), before, "{proto:?}: W3");
        // Of the first nobody knows any more: its answer is a flow of the instance's own.
        let early = bare(proto, A, Ipv4Addr::new(198, 18, 0, 0), (PORTS.1, PORTS.0));
        let late = bare(proto, A, Ipv4Addr::new(198, 18, 78, 0), (PORTS.1, PORTS.0));
        lab.out(0, out(&early));
        lab.out(0, out(&late));
        let scenarios: Vec<_> = flows(&lab).iter().map(|flow| (flow.remote.addr, flow.scenario)).collect();
        assert!(scenarios.contains(&(early.dst.into(), Scenario::OwnOut)), "{scenarios:?}");
        assert!(scenarios.contains(&(late.dst.into(), Scenario::OwnIn)), "{scenarios:?}");
    }
}

#[test]
fn what_is_shorter_than_its_header_is_refused() {
    for (proto, len) in [(Proto::Gre, 4), (Proto::Esp, 8), (Proto::Sctp, 12)] {
        let mut lab = with_own(1);
        let mut packet = bare(proto, A, REMOTE, PORTS);
        packet.payload.truncate(len - 1);
        assert_eq!(lab.out(0, out(&packet)), Verdict::Drop(DropReason::Truncated), "{proto:?}");
        let mut packet = bare(proto, A, REMOTE, PORTS);
        packet.payload.truncate(len);
        let wanted = Raw { src: OWN, ..packet.clone() };
        passes(&mut lab, INSIDE, out(&packet), &wanted);
    }
}

#[test]
fn private_flows_of_it_pass_as_they_are_and_are_kept_where_a_group_judges() {
    for proto in PROTOCOLS {
        let mut lab = with_own(2);
        let (forth, back) = (bare(proto, A, B, PORTS), bare(proto, B, A, (PORTS.1, PORTS.0)));
        for groups in [[[None, None], [None, None]], [leaving(&[]), [None, None]]] {
            let index = lab.loaded(0) + 1;
            lab.load(index, |s| {
                isolated(s);
                judged(s, groups.clone());
            });
            let is_judged = groups[0][1].is_some();
            if is_judged {
                // Past the time in which what is older than the groups is taken up.
                lab.lease(0, 3600 * SEC);
                lab.run(61_000);
                assert_eq!(
                    lab.out(0, out(&back)),
                    Verdict::Drop(DropReason::SecurityRule),
                    "{proto:?}: nobody is let in"
                );
            }
            for _ in 0..2 {
                passes(&mut lab, INSIDE, out(&forth), &forth);
                passes(&mut lab, INSIDE, out(&back), &back);
            }
            let kept: Vec<_> = flows(&lab).iter().map(|flow| flow.scenario).collect();
            assert_eq!(kept, if is_judged { vec![Scenario::Private] } else { vec![] }, "{proto:?}: W4");
        }
        let index = lab.loaded(0) + 1;
        lab.load(index, |s| {
            isolated(s);
            s.params.format = Format::Second;
        });
        assert_eq!(lab.out(0, out(&forth)), Verdict::Drop(DropReason::ClusterLevel), "C2: here too");
    }
}

#[test]
fn it_counts_among_its_instance_s_flows_and_outlives_the_address_but_begins_nothing_without_one() {
    for proto in PROTOCOLS {
        let mut lab = with_own(1);
        lab.load(12, |s| {
            give_both_ways(s);
            s.params.flows_per_backend_max = 2;
        });
        leaves(&mut lab, proto, REMOTE);
        comes(&mut lab, proto, OTHER_REMOTE);
        leaves(&mut lab, proto, OTHER_REMOTE);
        let third = bare(proto, A, Ipv4Addr::new(198, 51, 100, 9), PORTS);
        assert_eq!(lab.out(0, out(&third)), Verdict::Drop(DropReason::FlowLimit), "{proto:?}: R21");
        lab.load(13, |s| take(s, OnReclaim::Keep));
        leaves(&mut lab, proto, REMOTE);
        comes(&mut lab, proto, OTHER_REMOTE);
        assert_eq!(lab.out(0, out(&third)), Verdict::Drop(DropReason::NoOwnAddress), "{proto:?}: D12");
        let stranger = bare(proto, third.dst, OWN, (PORTS.1, PORTS.0));
        assert_eq!(lab.frame(0, OUTSIDE, inwards(&stranger)), Verdict::Drop(DropReason::NoOwnAddress));
    }
}
