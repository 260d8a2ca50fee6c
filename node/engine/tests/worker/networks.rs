//! Two virtual networks with the same private addresses (D14): one inside link each, and nothing of one passes by the other.

use std::net::Ipv4Addr;

use crate::lab::*;
use crate::raw::*;
use qnat_engine::event::{Authority, DropReason, NotServing, Verdict, WorkerOutput};
use qnat_engine::ids::*;
use qnat_engine::map::hashes;
use qnat_engine::snapshot::{Backend, Filtering, Sharing, Snapshot, Subnet};
use qnat_engine::wire::{ArpOp, FrameMeta, Parsed, parse};

const OTHER_NETWORK: VnetId = VnetId(7);
const THERE: Link = Link::Inside(OTHER_NETWORK);
/// A's address, there.
const TWIN: BackendId = BackendId(9);
/// Only there is there a backend of this address.
const ONLY_THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const BOTH: [Link; 2] = [INSIDE, THERE];

/// The snapshot with another network, which looks like the first.
fn with_another(s: &mut Snapshot) {
    let a = s.backends[&BackendId(1)].clone();
    let there = |ip, start| Backend { vnet: OTHER_NETWORK, ip, lease: vec![block(start, 32)], ..a.clone() };
    s.put_backend(TWIN, there(A, 8192));
    s.put_backend(BackendId(10), there(ONLY_THERE, 8224));
    let twins: Vec<Subnet> = s.subnets.iter().map(|subnet| Subnet { vnet: OTHER_NETWORK, ..*subnet }).collect();
    s.subnets.extend(twins);
    for links in s.me.iter_mut().chain(&mut s.peers) {
        let Mac([a, _, rest @ ..]) = links.outside;
        let [b, c, d, e] = rest;
        links.inside.push((OTHER_NETWORK, Mac([a, 3, b, c, d, e])));
    }
}

fn mac_there(node: u32) -> Mac {
    let Mac([a, _, b, c, d, e]) = links(node).outside;
    Mac([a, 3, b, c, d, e])
}

fn lab(n: u32) -> Lab {
    lab_with(n, |_| {})
}

fn lab_with(n: u32, change: impl Fn(&mut Snapshot)) -> Lab {
    let mut lab = silent(n, change);
    for node in 0..lab.nodes.len() {
        lab.learn(node, THERE, A);
        lab.learn(node, THERE, ONLY_THERE);
    }
    lab.sent.clear();
    lab
}

/// Nobody of the other network has said which card has its address.
fn silent(n: u32, change: impl Fn(&mut Snapshot)) -> Lab {
    let mut lab = Lab::new(n);
    for node in &mut lab.nodes {
        node.worker.set_networks(&[NETWORK, OTHER_NETWORK]);
        node.worker.set_link(lab.now, THERE, true);
    }
    lab.load(11, |s| {
        with_another(s);
        change(s);
    });
    lab
}

/// The same frame, from the card that has the address on that link.
fn by(link: Link, mut frame: Vec<u8>) -> Vec<u8> {
    let src = Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]);
    frame[6..12].copy_from_slice(&mac_in(link, src).0);
    frame
}

/// The public port that A has on a link, for the same packet.
fn open(lab: &mut Lab, link: Link) -> u16 {
    lab.pass(0, link, by(link, udp(A, 5000, REMOTE, 53))).src_port
}

/// The only packet that left, and by which link to whom.
fn left(lab: &mut Lab, node: usize, link: Link, frame: Vec<u8>) -> (Link, Vec<u8>) {
    lab.sent.clear();
    let verdict = lab.frame(node, link, frame);
    lab.sent.retain(|s| !s.is_arp());
    assert_eq!(lab.sent.len(), 1, "one packet leaves, verdict {verdict:?}");
    (lab.sent[0].link, lab.sent[0].frame.clone())
}

#[test]
fn one_address_in_two_networks_is_two_backends_at_once_and_each_gets_its_own_answers() {
    let mut lab = lab(1);
    let ports = BOTH.map(|link| open(&mut lab, link));
    assert!(ports[0] < 8192 && block(8192, 32).contains(ports[1]), "{ports:?}");
    // The first packets of either were judged; what follows goes by what was decided.
    for _ in 0..3 {
        for (link, port) in BOTH.into_iter().zip(ports) {
            assert_eq!(open(&mut lab, link), port, "the same mapping");
            let (to, frame) = left(&mut lab, 0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port));
            assert_eq!((to, &frame[..6]), (link, &mac_in(link, A).0[..]));
        }
    }
    let flows = lab.nodes[0].worker.view().dump_flows(lab.now, None, 10);
    let mut owners: Vec<_> = flows.iter().map(|f| (f.inside.vnet, f.backend, f.public.2)).collect();
    owners.sort();
    assert_eq!(owners, [(NETWORK, BackendId(1), ports[0]), (OTHER_NETWORK, TWIN, ports[1])]);
}

#[test]
fn in_either_network_a_packet_of_an_established_flow_costs_its_look_up_in_the_flow_table_and_no_other() {
    let mut lab = lab(1);
    let ports = BOTH.map(|link| lab.pass(0, link, by(link, udp(A, 5000, REMOTE, 443))).src_port);
    for (link, port) in BOTH.into_iter().zip(ports) {
        let frames = [(link, by(link, udp(A, 5000, REMOTE, 443))), (OUTSIDE, udp_in(REMOTE, 443, PUBLIC, port))];
        lab.pass(0, OUTSIDE, frames[1].1.clone());
        for (link, mut frame) in frames {
            let before = hashes();
            let node = &mut lab.nodes[0];
            let verdict = node.worker.handle_frame(lab.now, &node.words, link, &FrameMeta::default(), &mut frame);
            assert!(matches!(verdict, Verdict::Transmit { .. }), "{link:?}: {verdict:?}");
            assert_eq!(hashes() - before, 0, "{link:?}");
        }
    }
}

#[test]
fn a_source_is_judged_by_the_network_that_it_came_by() {
    let mut lab = lab(1);
    let frame = |ip| udp(ip, 5000, REMOTE, 53);
    assert_eq!(lab.frame(0, INSIDE, frame(ONLY_THERE)), Verdict::Drop(DropReason::SpoofedSource));
    assert_eq!(lab.frame(0, THERE, by(THERE, frame(B))), Verdict::Drop(DropReason::SpoofedSource));
    // The card that has the address in one network is a rival in the other.
    assert_eq!(lab.frame(0, THERE, frame(A)), Verdict::Drop(DropReason::SpoofedSource));
    assert_eq!(lab.frame(0, INSIDE, by(THERE, frame(A))), Verdict::Drop(DropReason::SpoofedSource));
    lab.pass(0, THERE, by(THERE, frame(ONLY_THERE)));
}

/// A network may use addresses of the internet for itself; to the others they are the internet's.
#[test]
fn what_is_private_in_one_network_is_a_destination_in_another() {
    let alone: Ipv4Addr = Ipv4Addr::new(20, 77, 0, 5);
    let mut lab = lab_with(1, |s| s.subnets.last_mut().expect("there").prefix.network = Ipv4Addr::new(20, 77, 0, 0));
    assert_eq!(lab.pass(0, INSIDE, udp(A, 5000, alone, 53)).dst, alone);
    assert_eq!(lab.frame(0, INSIDE, udp(A, 5000, B, 53)), Verdict::Drop(DropReason::PrivateDestination));
    // From outside nobody has an address of any network.
    let spoofed = udp_in(alone, 53, PUBLIC, 2048);
    assert_eq!(lab.frame(0, OUTSIDE, spoofed), Verdict::Drop(DropReason::SpoofedSource));
}

#[test]
fn errors_about_a_flow_go_to_its_network_and_are_believed_by_its_network_alone() {
    let mut lab = lab(1);
    for link in BOTH {
        let port = open(&mut lab, link);
        let quoted = udp_raw((PUBLIC, port), (REMOTE, 53), b"payload");
        let error = icmp_raw(REMOTE, PUBLIC, [3, 3], [0; 4], &quoted.bytes());
        let (to, frame) = left(&mut lab, 0, OUTSIDE, error.frame(UPSTREAM, SHARD));
        assert_eq!((to, &frame[..6]), (link, &mac_in(link, A).0[..]));
        // A complains about an answer.
        lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port));
        let answer = udp_raw((REMOTE, 53), (A, 5000), b"answer");
        let complaint = icmp_raw(A, REMOTE, [3, 3], [0; 4], &answer.bytes()).frame(A, SHARD);
        let (to, frame) = left(&mut lab, 0, link, by(link, complaint));
        let inner = L3 + 20 + 8;
        assert_eq!((to, word(&frame, inner + 20 + 2)), (OUTSIDE, port), "the quote's destination port");
    }
    // Of a flow that only the other network has.
    lab.pass(0, THERE, by(THERE, udp(ONLY_THERE, 5000, REMOTE, 53)));
    let answer = udp_raw((REMOTE, 53), (ONLY_THERE, 5000), b"answer");
    let complaint = icmp_raw(ONLY_THERE, REMOTE, [3, 3], [0; 4], &answer.bytes()).frame(ONLY_THERE, SHARD);
    assert_eq!(lab.frame(0, INSIDE, complaint), Verdict::Drop(DropReason::SpoofedSource));
}

#[test]
fn fragments_of_one_number_in_two_networks_are_two_datagrams() {
    // Cards differ within one network only.
    let mut lab = silent(1, |_| {});
    lab.learn_card(0, THERE, A, mac_of(A));
    let ports = BOTH.map(|link| lab.pass(0, link, udp(A, 5000, REMOTE, 53)).src_port);
    let piece = |first: bool| {
        let whole = udp_raw((A, 5000), (REMOTE, 53), &[5; 1600]);
        let (at, part) = if first { (MORE_FRAGMENTS, 0..800) } else { (100, 800..1608) };
        Raw { id: 500, fragment: at, payload: whole.payload[part].to_vec(), ..whole }.frame(A, SHARD)
    };
    lab.sent.clear();
    // The rest of there comes before any first one, and waits for that of its own network.
    assert_eq!(lab.frame(0, THERE, piece(false)), Verdict::Consumed);
    lab.frame(0, INSIDE, piece(true));
    assert_eq!(lab.sent.len(), 1, "not the other network's");
    lab.frame(0, THERE, piece(true));
    lab.frame(0, INSIDE, piece(false));
    let ids = |from: &[&[u8]]| from.iter().map(|f| word(f, L3 + 4)).collect::<Vec<_>>();
    let frames: Vec<&[u8]> = lab.sent.iter().map(|s| &s.frame[..]).collect();
    assert_eq!(frames.len(), 4);
    assert_eq!([word(frames[0], L3 + 20), word(frames[1], L3 + 20)], ports, "the first ones");
    let ids = ids(&frames);
    assert_eq!((ids[1], ids[0]), (ids[2], ids[3]), "each rest has its own first one's number");
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn fragments_of_an_answer_follow_the_first_into_its_network() {
    let mut lab = lab(1);
    let port = open(&mut lab, THERE);
    let whole = udp_raw((REMOTE, 53), (PUBLIC, port), &[5; 1600]);
    let first = Raw { fragment: MORE_FRAGMENTS, payload: whole.payload[..800].to_vec(), ..whole.clone() };
    let rest = Raw { fragment: 100, payload: whole.payload[800..].to_vec(), ..whole };
    for piece in [first, rest] {
        let (to, frame) = left(&mut lab, 0, OUTSIDE, piece.frame(UPSTREAM, SHARD));
        assert_eq!((to, &frame[..6]), (THERE, &mac_in(THERE, A).0[..]));
    }
}

#[test]
fn a_backend_reaches_the_one_of_its_own_address_in_the_other_network_by_public_ends() {
    let mut lab = lab_with(1, |s| {
        for id in [BackendId(1), TWIN] {
            let backend = s.backends.get_mut(&id).expect("there");
            (backend.sharing, backend.filtering) = (Sharing::Endpoint, Filtering::Open);
        }
    });
    let ports = BOTH.map(|link| open(&mut lab, link));
    for (from, to, port, seen) in [(INSIDE, THERE, ports[1], ports[0]), (THERE, INSIDE, ports[0], ports[1])] {
        let (link, frame) = left(&mut lab, 0, from, by(from, udp(A, 5000, PUBLIC, port)));
        assert_eq!((link, &frame[..6]), (to, &mac_in(to, A).0[..]));
        let Ok(Parsed::Ip(p)) = parse(&frame, &FrameMeta::default()) else { panic!("a packet") };
        assert_eq!((p.src, p.src_port, p.dst, p.dst_port), (PUBLIC, seen, A, 5000));
    }
    // Not back to itself.
    lab.sent.clear();
    let before = lab.dropped(0, DropReason::NoMapping);
    lab.frame(0, INSIDE, udp(A, 5000, PUBLIC, ports[0]));
    assert_eq!((lab.sent.len(), lab.dropped(0, DropReason::NoMapping) - before), (0, 1));
}

#[test]
fn who_does_not_own_the_shard_forwards_by_the_network_that_the_frame_came_by() {
    let mut lab = lab(2);
    for (link, own, owner) in
        [(INSIDE, links(1).inside[0].1, links(0).inside[0].1), (THERE, mac_there(1), mac_there(0))]
    {
        let port = open(&mut lab, link);
        // A switch that has not relearned: the frame reaches its last owner, or one that it was sent to by its own MAC.
        let mut frame = by(link, udp(A, 5000, REMOTE, 53));
        frame[..6].copy_from_slice(&own.0);
        let (by_link, mut forwarded) = left(&mut lab, 1, link, frame);
        assert_eq!(by_link, link);
        assert_eq!((&forwarded[..6], &forwarded[6..12]), (&owner.0[..], &own.0[..]), "M1");
        assert_eq!(lab.sent[0].authority, Authority::Forward);
        let (by_link, out) = left(&mut lab, 0, link, std::mem::take(&mut forwarded));
        assert_eq!((by_link, word(&out, L3 + 20)), (OUTSIDE, port), "and translated there");
    }
    // The owner has no interface in the other network: nobody to forward to.
    let without = |s: &mut Snapshot| {
        with_another(s);
        s.peers.iter_mut().for_each(|peer| peer.inside.truncate(1));
    };
    lab.load_on(1, 12, without);
    let mut frame = by(THERE, udp(A, 5000, REMOTE, 53));
    frame[..6].copy_from_slice(&mac_there(1).0);
    assert_eq!(lab.frame(1, THERE, frame), Verdict::Drop(DropReason::NoForward));
}

#[test]
fn a_successor_goes_on_with_the_flows_of_both_networks() {
    let mut lab = lab(2);
    let ports = BOTH.map(|link| open(&mut lab, link));
    lab.cut_off_leader(1);
    lab.run(20);
    for (link, port) in BOTH.into_iter().zip(ports) {
        assert_eq!(lab.pass(1, link, by(link, udp(A, 5000, REMOTE, 53))).src_port, port);
        let (to, frame) = left(&mut lab, 1, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port));
        assert_eq!((to, &frame[..6]), (link, &mac_in(link, A).0[..]));
    }
}

#[test]
fn a_takeover_is_announced_in_every_network() {
    let mut lab = lab(2);
    lab.sent.clear();
    lab.elect(1);
    lab.run(20);
    let announced = |link| lab.sent.iter().any(|s| s.link == link && s.frame[12..14] == [0x88, 0xb5]);
    assert!(announced(INSIDE) && announced(THERE) && !announced(OUTSIDE), "M2");
}

#[test]
fn a_gateway_is_answered_for_in_its_own_network_alone() {
    let gateway: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 200);
    let mut lab = lab_with(1, |s| s.subnets.last_mut().expect("there").gateway = gateway);
    let mut asked = |link, target| {
        lab.sent.clear();
        let question = arp(ArpOp::Request, mac_in(link, A), A, Mac::BROADCAST, target);
        assert_eq!(lab.frame(0, link, question), Verdict::Consumed);
        let replies = lab.sent.iter().filter(|s| s.frame[20..22] == [0, 2]);
        replies.map(|s| (s.link, s.frame[..6].to_vec())).collect::<Vec<_>>()
    };
    for (link, own, other) in [(INSIDE, GATEWAY, gateway), (THERE, gateway, GATEWAY)] {
        assert_eq!(asked(link, own), [(link, mac_in(link, A).0.to_vec())]);
        assert_eq!(asked(link, other), []);
    }
}

#[test]
fn the_gateway_address_of_one_network_may_be_a_backend_of_another() {
    let mut lab = lab_with(1, |s| s.subnets.last_mut().expect("there").gateway = B);
    let claims = lab.nodes[0].worker.claims().count();
    lab.learn(0, INSIDE, B);
    assert_eq!(lab.nodes[0].worker.claims().count(), claims, "B is itself there");
    lab.pass(0, INSIDE, udp(B, 5000, REMOTE, 53));
    lab.learn(0, THERE, B);
    assert_eq!(lab.nodes[0].worker.claims().count(), claims + 1, "and a thief here");
}

#[test]
fn answers_for_a_network_that_this_member_has_no_interface_to_are_dropped_as_such() {
    let mut lab = lab(1);
    let port = open(&mut lab, THERE);
    lab.nodes[0].worker.set_networks(&[NETWORK]);
    let answer = udp_in(REMOTE, 53, PUBLIC, port);
    assert_eq!(lab.frame(0, OUTSIDE, answer), Verdict::Drop(DropReason::NoLink));
}

#[test]
fn a_packet_must_fit_the_link_of_its_own_network() {
    let mut lab = lab(1);
    lab.nodes[0].worker.set_mtu(THERE, 1000);
    for link in BOTH {
        let port = open(&mut lab, link);
        let long = Raw { fragment: DONT_FRAGMENT, ..udp_raw((REMOTE, 53), (PUBLIC, port), &[7; 1100]) };
        let verdict = lab.frame(0, OUTSIDE, long.frame(UPSTREAM, SHARD));
        match link == THERE {
            true => assert_eq!(verdict, Verdict::Drop(DropReason::TooBig)),
            false => assert!(matches!(verdict, Verdict::Transmit { link: INSIDE, .. }), "{verdict:?}"),
        }
    }
}

#[test]
fn a_shard_serves_while_one_of_its_networks_is_there() {
    let mut lab = lab(1);
    let serving = |lab: &mut Lab| {
        lab.run(10);
        let told = lab.outputs.iter().rev();
        told.filter_map(|(_, o)| if let WorkerOutput::Serving { state, .. } = o { Some(*state) } else { None }).next()
    };
    lab.nodes[0].worker.set_link(lab.now, THERE, false);
    assert_eq!(serving(&mut lab), None, "nothing changed");
    open(&mut lab, INSIDE);
    lab.nodes[0].worker.set_link(lab.now, INSIDE, false);
    assert_eq!(serving(&mut lab), Some(Err(NotServing::LinkDown)));
    lab.nodes[0].worker.set_link(lab.now, THERE, true);
    assert_eq!(serving(&mut lab), Some(Ok(())));
    open(&mut lab, THERE);
}
