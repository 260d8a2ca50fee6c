//! What a backend hears of a new flow that is refused: nothing, or ICMP, if the configuration says so (R23). And what it
//! hears in any case: that its packet's way ends (RFC 1812 5.2.7.1), and that its connection is not known, if its rule wants
//! resets (R27).

use std::net::Ipv4Addr;

use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{DropReason, GroupEvent, Verdict};
use qnat_engine::ids::*;
use qnat_engine::snapshot::{Refusals, Snapshot, TcpReset};
use qnat_engine::wire::FrameMeta;

const PROHIBITED: [u8; 2] = [3, 13];
const HOST_UNREACHABLE: [u8; 2] = [3, 1];

/// Refusals are told of, and whatever else `change` says.
fn told(change: impl Fn(&mut Snapshot)) -> Lab {
    let mut lab = Lab::new(2);
    lab.learn(0, INSIDE, NO_LEASE);
    lab.load(11, |s| {
        s.params.refusals = Refusals::Told;
        change(s);
    });
    lab
}

/// Sends a packet of `from`; returns the verdict, and kind and code of the notice if one came back.
fn send(lab: &mut Lab, from: Ipv4Addr, packet: &Raw) -> (Verdict, Option<[u8; 2]>) {
    lab.sent.clear();
    let n = &mut lab.nodes[0];
    let mut frame = packet.frame(from, SHARD);
    let verdict = n.worker.handle_frame(lab.now, &n.words, INSIDE, &FrameMeta::default(), &mut frame);
    lab.pump();
    lab.sent.retain(|s| !s.is_arp() && s.frame[L3 + 12..L3 + 16] == GATEWAY.octets());
    let notice = lab.sent.first().map(|sent| {
        let ip = &sent.frame[L3..];
        assert_eq!((sent.link, &sent.frame[6..12]), (INSIDE, &Mac::of_shard(SHARD).0[..]));
        assert_eq!(
            (&ip[16..20], &ip[28..]),
            (&from.octets()[..], &packet.bytes()[..]),
            "to the sender, about its packet"
        );
        assert_eq!((checksum(&ip[..20]), checksum(&ip[20..])), (0, 0), "I14");
        [ip[20], ip[21]]
    });
    assert!(lab.sent.len() <= 1, "one refusal, one notice");
    (verdict, notice)
}

fn query(from: Ipv4Addr, port: u16, to: Ipv4Addr) -> Raw {
    udp_raw((from, port), (to, 4500), b"question")
}

#[test]
fn a_backend_hears_what_policy_refuses_if_it_is_to_hear_it() {
    let refused = [
        (NO_LEASE, query(NO_LEASE, 1, REMOTE), DropReason::NoOutboundPath),
        (NO_LEASE, tcp_raw((NO_LEASE, 1), (REMOTE, 80), SYN, b""), DropReason::NoOutboundPath),
        (NO_LEASE, echo(NO_LEASE, REMOTE, 8, 3, b"ping"), DropReason::NoOutboundPath),
        (A, query(A, 1, B), DropReason::PrivateDestination),
    ];
    let mut silent = Lab::new(1);
    let mut lab = told(|_| {});
    for (from, packet, reason) in refused {
        assert_eq!(send(&mut lab, from, &packet), (Verdict::Drop(reason), Some(PROHIBITED)));
        assert_eq!(send(&mut silent, from, &packet), (Verdict::Drop(reason), None), "off unless asked for");
    }
}

#[test]
fn a_backend_hears_of_each_quota_that_refuses_its_flow_and_its_other_flows_go_on() {
    type Quota = (fn(&mut Snapshot), u16, DropReason);
    let quotas: [Quota; 5] = [
        (|s| s.params.flows_per_backend_max = 2, 2, DropReason::FlowLimit),
        (|s| s.params.flows_per_shard_max = 1, 1, DropReason::TableFull),
        (|s| s.params.flows_per_shard_max = 4, 2, DropReason::FlowLimit),
        (|s| s.params.new_flows_per_second_max = 4, 4, DropReason::RateLimit),
        (|_| {}, 64, DropReason::PortsExhausted),
    ];
    for (set, allowed, reason) in quotas {
        let mut lab = told(set);
        for port in 0..allowed {
            assert_eq!(send(&mut lab, A, &query(A, 5000 + port, REMOTE)), (Verdict::Consumed, None), "{reason:?}");
        }
        let refused = query(A, 5999, REMOTE);
        assert_eq!(send(&mut lab, A, &refused), (Verdict::Drop(reason), Some(HOST_UNREACHABLE)));
        assert_eq!(lab.pass(0, INSIDE, query(A, 5000, REMOTE).frame(A, SHARD)).src, PUBLIC, "R22");
    }
}

#[test]
fn a_backend_hears_that_too_many_of_its_packets_wait() {
    let mut lab = told(|s| s.params.held_packets_per_backend_max = 2);
    lab.hold = Hold::Yes;
    for port in 0..2 {
        assert_eq!(send(&mut lab, A, &query(A, port, REMOTE)), (Verdict::Consumed, None));
    }
    let dropped = Verdict::Drop(DropReason::HoldLimit);
    assert_eq!(send(&mut lab, A, &query(A, 3, REMOTE)), (dropped, Some(HOST_UNREACHABLE)));
    assert_eq!(send(&mut lab, A, &query(A, 1, REMOTE)), (dropped, None), "its flow is not refused");
}

#[test]
fn nobody_hears_of_errors_of_later_fragments_or_of_what_was_sent_to_many() {
    let mut lab = told(|_| {});
    let many = [[10, 0, 0, 255], [10, 0, 0, 0], [203, 0, 113, 255], [239, 0, 0, 1], [255, 255, 255, 255]];
    for to in many {
        let (verdict, notice) = send(&mut lab, A, &query(A, 1, Ipv4Addr::from(to)));
        assert_eq!((verdict, notice), (Verdict::Drop(DropReason::MartianDestination), None), "{to:?}");
    }
    let quoted = udp_raw((REMOTE, 53), (NO_LEASE, 5), b"answer").bytes();
    let (verdict, notice) = send(&mut lab, NO_LEASE, &icmp_raw(NO_LEASE, REMOTE, [3, 3], [0; 4], &quoted));
    assert!(matches!(verdict, Verdict::Drop(_)) && notice.is_none(), "{verdict:?}");
    let first = Raw { fragment: MORE_FRAGMENTS, ..query(NO_LEASE, 1, REMOTE) };
    let later = Raw { fragment: 2, ..first.clone() };
    assert_eq!(send(&mut lab, NO_LEASE, &first).1, Some(PROHIBITED));
    assert_eq!(send(&mut lab, NO_LEASE, &later).1, None);
    // Nor of what is no new flow, nor whoever is not known to live here.
    assert_eq!(send(&mut lab, A, &tcp_raw((A, 1), (REMOTE, 80), ACK, b"")).1, None);
    let stranger = Ipv4Addr::new(10, 0, 0, 99);
    assert_eq!(send(&mut lab, stranger, &query(stranger, 1, REMOTE)).1, None);
}

#[test]
fn refusals_are_told_seldom_and_under_the_lease_alone() {
    let mut lab = told(|_| {});
    let heard = (0..200).filter(|port| send(&mut lab, NO_LEASE, &query(NO_LEASE, *port, REMOTE)).1.is_some()).count();
    assert_eq!(heard, 20);
    lab.run(1_000);
    // The limit is that of all notices.
    let heard =
        (0..200).filter(|port| send(&mut lab, NO_LEASE, &Raw { ttl: 1, ..query(NO_LEASE, *port, REMOTE) }).1.is_some());
    assert_eq!(heard.count(), 20);
    assert_eq!(send(&mut lab, NO_LEASE, &query(NO_LEASE, 1, REMOTE)).1, None);
    lab.run(1_000);
    lab.lapse();
    lab.event(0, GroupEvent::Owner { shard: SHARD, term: Term(1), node: None });
    for packet in [query(NO_LEASE, 1, REMOTE), query(NO_LEASE, 1, B)] {
        assert_eq!(send(&mut lab, NO_LEASE, &packet).1, None, "an orphan repeats, no more");
    }
}

/// The notice that came back about `packet`, which was not to be fragmented.
fn heard(lab: &mut Lab, packet: &Raw) -> Option<[u8; 2]> {
    lab.sent.retain(|s| !s.is_arp() && s.frame[L3 + 12..L3 + 16] == GATEWAY.octets());
    assert!(lab.sent.len() <= 1, "one packet, one notice");
    let sent = lab.sent.pop()?;
    let ip = &sent.frame[L3..];
    assert_eq!((sent.link, &ip[16..20], &ip[28..]), (INSIDE, &A.octets()[..], &packet.bytes()[..]));
    assert_eq!((checksum(&ip[..20]), checksum(&ip[20..])), (0, 0), "I14");
    Some([ip[20], ip[21]])
}

#[test]
fn a_backend_hears_that_nobody_has_the_address_that_it_sends_to() {
    let nobody = Ipv4Addr::new(203, 0, 113, 77);
    let packets = [
        Raw { fragment: DONT_FRAGMENT, ..query(A, 5000, nobody) },
        Raw { fragment: DONT_FRAGMENT, ..tcp_raw((A, 5000), (nobody, 80), SYN, b"") },
        Raw { fragment: DONT_FRAGMENT, ..echo(A, nobody, 8, 3, b"ping") },
    ];
    for packet in packets {
        let mut lab = Lab::new(1);
        assert_eq!(send(&mut lab, A, &packet), (Verdict::Consumed, None));
        lab.run(900);
        assert_eq!(heard(&mut lab, &packet), None, "it is still asked for");
        lab.run(200);
        assert_eq!(heard(&mut lab, &packet), Some(HOST_UNREACHABLE), "RFC 1812 4.3.3.1, by default");
        // For a while it is known.
        let (verdict, notice) = send(&mut lab, A, &packet);
        assert_eq!((verdict, notice), (Verdict::Drop(DropReason::NoNeighbour), Some(HOST_UNREACHABLE)));
        // The same for one that opens a flow: it is told when the mapping is there.
        let other = Raw { fragment: DONT_FRAGMENT, ..query(A, 5001, nobody) };
        assert_eq!(send(&mut lab, A, &other), (Verdict::Consumed, Some(HOST_UNREACHABLE)));
        let more = (0..100).filter(|_| send(&mut lab, A, &packet).1.is_some()).count();
        assert!(more < 20, "rate limited: {more}");
    }
}

#[test]
fn a_backend_hears_that_no_way_leads_to_the_address_that_it_sends_to() {
    let mut lab = Lab::new(1);
    lab.load(11, |s| s.outside.next_hop = None);
    let answer = send(&mut lab, A, &query(A, 5000, REMOTE));
    assert_eq!(answer, (Verdict::Drop(DropReason::NoRoute), Some([3, 0])));
    assert_eq!((lab.status(0).live, lab.log.len()), (0, 2), "and no mapping is made");
    assert_eq!(lab.pass(0, INSIDE, query(A, 5000, UPSTREAM).frame(A, SHARD)).dst, UPSTREAM);
    assert!(matches!(send(&mut lab, A, &query(A, 5000, PUBLIC_2)).0, Verdict::Consumed), "ours are reached");
}

#[test]
fn a_segment_of_an_unknown_connection_is_reset_if_its_rule_wants_resets() {
    let mut lab = Lab::new(1);
    let stray = |lab: &mut Lab, flags: u8, data: &[u8]| {
        lab.sent.clear();
        let mut frame = tcp_raw((A, 9), (REMOTE, 80), flags, data).frame(A, SHARD);
        let n = &mut lab.nodes[0];
        let verdict = n.worker.handle_frame(lab.now, &n.words, INSIDE, &FrameMeta::default(), &mut frame);
        assert_eq!(verdict, Verdict::Drop(DropReason::NotFirstPacket));
        lab.pump();
        lab.sent.retain(|s| !s.is_arp());
        assert!(lab.sent.iter().all(|s| s.link == INSIDE), "nothing goes outside");
        let packets: Vec<_> = lab.sent.iter().map(Sent::packet).collect();
        for p in &packets {
            assert_eq!((p.src, p.src_port, p.dst, p.dst_port, p.eth_dst), (REMOTE, 80, A, 9, mac_of(A)));
        }
        packets.first().map(|p| p.tcp.expect("a segment")).map(|tcp| (tcp.flags.0, tcp.seq, tcp.ack))
    };
    assert_eq!(stray(&mut lab, ACK, b""), None, "silence by default");
    lab.load(11, |s| s.backends.get_mut(&BackendId(1)).expect("A").tcp_reset_on_idle = TcpReset::On);
    // `tcp_raw` numbers: sequence 9, acknowledgement 5. RFC 9293 3.10.7.1.
    assert_eq!(stray(&mut lab, ACK, b"data"), Some((RST, 5, 0)));
    assert_eq!(stray(&mut lab, SYN | ACK, b""), Some((RST, 5, 0)));
    assert_eq!(stray(&mut lab, FIN | ACK, b""), Some((RST, 5, 0)));
    assert_eq!(stray(&mut lab, RST, b""), None, "a reset is not answered");
    assert_eq!(stray(&mut lab, RST | ACK, b""), None);
    let more = (0..100).filter(|_| stray(&mut lab, ACK, b"").is_some()).count();
    assert_eq!(more, 17, "rate limited");
    assert_eq!(lab.status(0).live, 0);
}
