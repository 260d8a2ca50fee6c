//! Several workers of one member: what comes to one for another one's shard is handed over, once for the member is once.

use std::sync::Arc;

use crate::lab::*;
use qnat_engine::event::{Authority, DropReason, GroupEvent, Verdict};
use qnat_engine::ids::*;
use qnat_engine::wire::{ArpOp, FrameMeta, Parsed, SoundingOp, parse};
use qnat_engine::worker::Worker;
use words::Share;

/// The first of node 0's two workers; `OTHER` is in its share. The lab's own is the second, which serves `SHARD`.
fn first_beside(lab: &mut Lab, nodes: u32) -> Node {
    let [first, second] = Share::all(2).collect::<Vec<_>>()[..] else { unreachable!("two") };
    assert!(first.has(OTHER) && second.has(SHARD));
    lab.nodes[0].worker.set_share(second);
    let mut node = lab.boot(0, nodes);
    node.worker.set_share(first);
    node.words = lab.nodes[0].words.clone();
    node
}

fn hand(lab: &Lab, node: &mut Node, link: Link, frame: &mut [u8]) -> Verdict {
    let verdict = node.worker.handle_frame(lab.now, &node.words, link, &FrameMeta::default(), frame);
    assert!(node.worker.counters().is_balanced(), "I51");
    verdict
}

const FORWARD: Authority = Authority::Forward;

#[test]
fn a_frame_for_another_workers_shard_is_handed_to_it_whole_and_translated_there() {
    let mut lab = Lab::new(1);
    let mut first = first_beside(&mut lab, 1);
    let own = links(0);
    let mut out = udp_to(own.mac_on(INSIDE).expect("there"), A, 5000, REMOTE, 53);
    let sent = out.clone();
    assert_eq!(hand(&lab, &mut first, INSIDE, &mut out), Verdict::Transmit { link: INSIDE, authority: FORWARD });
    assert_eq!(out[..6], Mac::of_shard(SHARD).0, "for the worker that has the shard");
    assert_eq!(out[6..], sent[6..], "the sender's address is looked at there");
    let left = lab.pass(0, INSIDE, out);
    assert_eq!((left.src, left.dst), (PUBLIC, REMOTE));

    let mut back = udp_in(REMOTE, 53, PUBLIC, left.src_port);
    back[..6].copy_from_slice(&own.outside.0);
    assert_eq!(hand(&lab, &mut first, OUTSIDE, &mut back), Verdict::Transmit { link: OUTSIDE, authority: FORWARD });
    let back = lab.pass(0, OUTSIDE, back);
    assert_eq!((back.dst, back.dst_port), (A, 5000));
}

#[test]
fn what_this_life_has_no_word_for_is_another_members_or_nobodys() {
    let mut lab = Lab::new(2);
    let mut first = first_beside(&mut lab, 2);
    let frame = || udp_to(links(0).mac_on(INSIDE).expect("there"), A, 5000, REMOTE, 53);
    let mut word = first.words.0[&SHARD];
    word.incarnation = Incarnation(99);
    first.words.0.insert(SHARD, word);
    assert_eq!(hand(&lab, &mut first, INSIDE, &mut frame()), Verdict::Drop(DropReason::NoForward), "a former life's");
    let owner = GroupEvent::Owner { shard: SHARD, term: Term(9), node: Some(NodeId(1)) };
    first.worker.handle_event(lab.now, &first.words, owner);
    let mut forwarded = frame();
    assert_eq!(hand(&lab, &mut first, INSIDE, &mut forwarded), Verdict::Transmit { link: INSIDE, authority: FORWARD });
    assert_eq!(Some(Mac(forwarded[..6].try_into().expect("six"))), links(1).mac_on(INSIDE));
    assert_eq!(Some(Mac(forwarded[6..12].try_into().expect("six"))), links(0).mac_on(INSIDE));
}

#[test]
fn arp_is_learned_by_all_workers_and_counted_and_answered_by_one() {
    let mut lab = Lab::new(1);
    let mut first = first_beside(&mut lab, 1);
    let question = arp(ArpOp::Request, mac_of(A), A, Mac::BROADCAST, GATEWAY);
    let before = [*lab.nodes[0].worker.counters(), *first.worker.counters()];
    lab.sent.clear();
    assert_eq!(lab.frame(0, INSIDE, question.clone()), Verdict::Consumed);
    assert_eq!(hand(&lab, &mut first, INSIDE, &mut question.clone()), Verdict::Consumed);
    let after = [*lab.nodes[0].worker.counters(), *first.worker.counters()];
    let [second, first_of] =
        [0, 1].map(|n| (after[n].received - before[n].received, after[n].absorbed - before[n].absorbed));
    assert_eq!((second, first_of), ((0, 0), (1, 1)));
    assert_eq!(lab.sent.len(), 1, "who has the shard of the asker");
    assert_eq!(lab.sent[0].frame[6..12], Mac::of_shard(SHARD).0);
    assert!(first.worker.poll_frame(lab.now, &first.words, &mut Vec::new()).is_none());

    let claim = arp(ArpOp::Reply, mac_of(A), PUBLIC, Mac::BROADCAST, PUBLIC);
    lab.frame(0, OUTSIDE, claim.clone());
    hand(&lab, &mut first, OUTSIDE, &mut claim.clone());
    assert_eq!((lab.nodes[0].worker.claims().count(), first.worker.claims().count()), (0, 1));
}

/// What a worker that sounds asks in a second of silence: questions to peers, and for the next hop.
fn asked(lab: &mut Lab, mut worker: Worker, words: &Words) -> (usize, usize) {
    worker.sound();
    let (mut peers, mut hop, mut frame) = (0, 0, Vec::new());
    for _ in 0..10 {
        lab.now += 100 * MS;
        worker.handle_timers(lab.now, words);
        while let Some((link, ..)) = worker.poll_frame(lab.now, words, &mut frame) {
            match parse(&frame, &FrameMeta::default()) {
                Ok(Parsed::Sounding(s)) => peers += usize::from(s.op == SoundingOp::Question),
                Ok(Parsed::Arp(p)) => hop += usize::from((link, p.target_ip) == (OUTSIDE, UPSTREAM)),
                other => panic!("{other:?}"),
            }
        }
    }
    (peers, hop)
}

#[test]
fn peers_are_sounded_by_the_first_worker_which_may_ask_the_next_hop_by_any_lease_of_the_members() {
    let mut lab = Lab::new(2);
    let first = first_beside(&mut lab, 2);
    let (peers, hop) = asked(&mut lab, first.worker, &first.words);
    assert!(peers > 0 && hop > 0, "{peers} questions, {hop} for the next hop, under the lease of the second's shard");
    let mut worker = lab.boot(0, 2).worker;
    worker.set_share(Share::all(2).last().expect("two"));
    assert!(worker.load_snapshot(lab.now, Arc::new(snapshot(10, 0, 2))));
    assert_eq!(asked(&mut lab, worker, &first.words), (0, 0));
}
