//! Several replicas: takeover, grace, forwarding, refusals, scans.

use crate::lab::*;
use crate::raw::L3;
use bytes::Bytes;
use proptest::prelude::*;
use qnat_engine::codec::{CHUNK_RECORDS_MAX, ENTRY_RECORDS_MAX, Encoder, Format, decode_entry};
use qnat_engine::event::{Authority, DropReason, GroupEvent, Last, NotServing, Verdict, WorkerOutput};
use qnat_engine::ids::*;
use qnat_engine::record::*;
use qnat_engine::snapshot::{Draining, OnReclaim, Refusals};
use qnat_engine::status::FlowState;
use qnat_engine::worker::Scans;
use std::net::Ipv4Addr;

#[test]
fn a_takeover_keeps_every_mapping_and_its_port() {
    let mut lab = Lab::new(3);
    let ports: Vec<u16> = (0..40).map(|i| lab.pass(0, INSIDE, udp(A, 5000 + i, REMOTE, 53)).src_port).collect();
    lab.assert_in_step();
    lab.elect(1);
    for (i, port) in (0u16..).zip(&ports) {
        assert_eq!(lab.pass(1, INSIDE, udp(A, 5000 + i, REMOTE, 53)).src_port, *port, "I10");
        let back = lab.pass(1, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, *port));
        assert_eq!((back.dst, back.dst_port), (A, 5000 + i));
        assert_eq!(lab.sent[0].authority, Authority::Lease { shard: SHARD, term: Term(2) });
    }
    let fresh = lab.pass(1, INSIDE, udp(A, 6000, REMOTE, 53)).src_port;
    assert!(!ports.contains(&fresh), "I1");
    lab.assert_in_step();
}

#[test]
fn losing_the_term_drops_what_was_not_committed() {
    let mut lab = Lab::new(2);
    lab.hold = Hold::Yes;
    lab.out(0, udp(A, 5000, REMOTE, 53));
    lab.sent.clear();
    lab.elect(1);
    lab.hold = Hold::No;
    lab.run(10);
    assert_eq!(lab.dropped(0, DropReason::TermLost), 1);
    assert!(lab.sent.iter().all(Sent::is_arp), "I6: the packet never leaves");
    assert_eq!(lab.status(0).live, 0);
    assert_eq!(lab.nodes[0].worker.held_bytes(), (0, false));
}

#[test]
fn what_the_successor_commits_comes_back_through_apply() {
    let mut lab = Lab::new(2);
    lab.hold = Hold::Yes;
    lab.out(0, udp(A, 5000, REMOTE, 53));
    let tail = lab.waiting.clone();
    // The entry reached the successor's log before the election.
    lab.log.extend(tail);
    lab.sent.clear();
    lab.elect(1);
    lab.hold = Hold::No;
    lab.run(10);
    assert!(lab.sent.iter().all(Sent::is_arp));
    lab.pass(1, INSIDE, udp(A, 5000, REMOTE, 53));
    assert_eq!(lab.log.len(), 4, "no second mapping was opened");
    lab.assert_in_step();
}

#[test]
fn a_leader_serves_nothing_before_its_predecessors_entries_are_applied() {
    let mut lab = Lab::new(2);
    lab.hold = Hold::Yes;
    lab.out(0, udp(A, 5000, REMOTE, 53));
    // A majority has the entry, so the packet may have left; the successor has not applied it.
    let committed = lab.waiting.clone();
    lab.hold = Hold::No;
    lab.begin_term(1);
    assert!(matches!(lab.out(1, udp(A, 5000, REMOTE, 53)), Verdict::Drop(_)), "F7: it would open a second mapping");
    lab.run(10);
    assert_eq!((lab.status(1).live, lab.waiting.len()), (0, 0));
    lab.log.extend(committed);
    lab.log.push((Term(2), Bytes::new()));
    lab.pump();
    lab.pass(1, INSIDE, udp(A, 5000, REMOTE, 53));
    assert_eq!(lab.status(1).live, 1, "I10");
    lab.assert_in_step();
}

#[test]
fn a_refused_stream_restarts_behind_a_barrier() {
    let mut lab = Lab::new(2);
    lab.hold = Hold::Yes;
    lab.out(0, udp(A, 5000, REMOTE, 53));
    // The first batch was accepted; the next one is refused.
    lab.hold = Hold::Refuse;
    lab.out(0, udp(A, 5001, REMOTE, 53));
    lab.run(30);
    assert_eq!(lab.dropped(0, DropReason::TermLost), 2);
    assert_eq!(lab.out(0, udp(A, 5002, REMOTE, 53)), Verdict::Drop(DropReason::Backpressure), "nothing is judged yet");
    let proposals = lab.outputs.iter().filter(|(_, o)| matches!(o, WorkerOutput::Propose { .. })).count();
    assert!(proposals < 12, "a refused barrier is not repeated without pause: {proposals}");
    lab.commit_waiting();
    lab.run(20);
    assert_eq!(lab.status(0).live, 1, "the accepted one was applied, the refused one was not");
    lab.sent.clear();
    let first = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    assert_ne!(lab.pass(0, INSIDE, udp(A, 5001, REMOTE, 53)).src_port, first);
    assert_eq!(lab.status(0).counts.opens_refused, 0);
    lab.assert_in_step();
}

#[test]
fn an_orphan_repeats_committed_mappings_from_its_own_mac_until_its_grace_ends() {
    let mut lab = Lab::new(2);
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    lab.run(20);
    lab.lapse();
    lab.event(0, GroupEvent::Owner { shard: SHARD, term: Term(1), node: None });
    lab.run(10);
    let left = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    assert_eq!((left.src_port, left.eth_src), (port, links(0).outside), "M1");
    assert_eq!(lab.sent[0].authority, Authority::Grace { shard: SHARD });
    let back = lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, port));
    assert_eq!(back.eth_src, links(0).mac_on(INSIDE).expect("it has one"));
    assert_eq!(lab.out(0, udp(A, 5001, REMOTE, 53)), Verdict::Consumed, "it waits for a while");
    lab.sent.clear();
    lab.run(3_000);
    assert_eq!(lab.dropped(0, DropReason::NotOwner), 1, "L4: nothing new");
    assert!(lab.sent.is_empty(), "no announcement without the lease");
    assert_eq!(lab.out(0, udp(A, 5000, REMOTE, 53)), Verdict::Drop(DropReason::NotOwner), "I8: then silence");
}

#[test]
fn an_ex_owner_forwards_to_its_successor_and_never_twice() {
    let mut lab = Lab::new(3);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    lab.elect(1);
    let before = udp(A, 5000, REMOTE, 53);
    let on_wire = lab.pass(0, INSIDE, before.clone());
    assert_eq!(
        (on_wire.eth_src, on_wire.eth_dst),
        (links(0).mac_on(INSIDE).expect("it has one"), links(1).mac_on(INSIDE).expect("it has one"))
    );
    assert_eq!((on_wire.src, on_wire.ttl), (A, 64), "untranslated");
    assert_eq!(lab.sent[0].link, INSIDE);
    assert_eq!(lab.sent[0].frame[14..], before[14..]);
    let forwarded = lab.sent[0].frame.clone();
    assert_eq!(lab.pass(1, INSIDE, forwarded.clone()).src, PUBLIC, "the owner takes it");
    lab.elect(2);
    assert_eq!(lab.out(1, forwarded), Verdict::Drop(DropReason::NoForward), "M1");
    lab.run(61_000);
    assert_eq!(lab.out(0, before), Verdict::Drop(DropReason::NotForUs), "after a minute it is a flood");
}

#[test]
fn what_may_not_leave_is_forwarded_too_since_only_the_owner_may_tell_its_sender() {
    let mut lab = Lab::new(2);
    lab.load(11, |s| s.params.refusals = Refusals::Told);
    lab.elect(1);
    let forwarded = lab.pass(0, INSIDE, udp(A, 5000, Ipv4Addr::new(169, 254, 1, 1), 53));
    assert_eq!(forwarded.eth_dst, links(1).mac_on(INSIDE).expect("it has one"));
    let frame = lab.sent[0].frame.clone();
    lab.sent.clear();
    assert_eq!(lab.out(1, frame), Verdict::Drop(DropReason::MartianDestination));
    let told = lab.sent.iter().find(|sent| !sent.is_arp()).expect("a notice");
    assert_eq!((told.link, &told.frame[L3 + 20..L3 + 22]), (INSIDE, &[3, 13][..]), "R23: it is prohibited");
}

#[test]
fn a_backend_of_another_shard_is_forwarded_to_that_owner() {
    let mut lab = Lab::new(2);
    let frame = || udp_to(Mac::of_shard(SHARD), C, 1, REMOTE, 53);
    assert_eq!(lab.out(0, frame()), Verdict::Drop(DropReason::NoForward), "owner unknown");
    lab.event(0, GroupEvent::Owner { shard: OTHER, term: Term(5), node: Some(NodeId(1)) });
    assert_eq!(lab.pass(0, INSIDE, frame()).eth_dst, links(1).mac_on(INSIDE).expect("it has one"), "M3");
    assert_eq!(lab.nodes[0].worker.counters().forwarded, 1);
}

#[test]
fn serving_waits_for_each_condition() {
    let mut lab = Lab::unelected(1);
    for link in [INSIDE, OUTSIDE] {
        lab.nodes[0].worker.set_link(lab.now, link, false);
    }
    let serving = |lab: &mut Lab| {
        lab.run(10);
        lab.outputs
            .iter()
            .rev()
            .find_map(|(_, o)| if let WorkerOutput::Serving { state, .. } = o { Some(*state) } else { None })
    };
    lab.term = 1;
    lab.event(0, GroupEvent::Leading { shard: SHARD, term: Term(1) });
    assert_eq!(serving(&mut lab), Some(Err(NotServing::OwnTermNotApplied)));
    let header = EntryHeader { control_index: ControlIndex(20), ..header(1) };
    lab.log.push((Term(1), Encoder::new().entry(header, &[])));
    assert_eq!(serving(&mut lab), Some(Err(NotServing::ControlBehind)), "F2");
    lab.load(20, |_| {});
    assert_eq!(serving(&mut lab), Some(Err(NotServing::NoLease)));
    lab.lease(0, 10 * SEC);
    assert_eq!(serving(&mut lab), Some(Err(NotServing::LinkDown)));
    assert_eq!(lab.out(0, udp(A, 1, REMOTE, 53)), Verdict::Drop(DropReason::NotOwner));
    for link in [INSIDE, OUTSIDE] {
        lab.nodes[0].worker.set_link(lab.now, link, true);
    }
    assert_eq!(lab.nodes[0].worker.next_timer_ns(), lab.now, "judged at once");
    assert_eq!(serving(&mut lab), Some(Ok(())));
    lab.pass(0, INSIDE, udp(A, 1, REMOTE, 53));
    lab.lapse();
    assert_eq!(serving(&mut lab), Some(Err(NotServing::NoLease)));
}

#[test]
fn nothing_is_proposed_without_the_lease() {
    let mut lab = Lab::new(1);
    let n = &mut lab.nodes[0];
    let mut frame = udp(A, 1, REMOTE, 53);
    assert_eq!(n.worker.handle_frame(lab.now, &n.words, INSIDE, &Default::default(), &mut frame), Verdict::Consumed);
    lab.lapse();
    lab.pump();
    assert_eq!(lab.log.len(), 2, "L4: the batch waits");
    lab.lease(0, SEC);
    lab.pump();
    assert_eq!(lab.log.len(), 3);
}

#[test]
fn a_committed_packet_whose_lease_lapsed_does_not_leave() {
    let mut lab = Lab::new(1);
    lab.hold = Hold::Yes;
    lab.out(0, udp(A, 1, REMOTE, 53));
    lab.sent.clear();
    lab.lapse();
    lab.commit_waiting();
    assert!(lab.sent.is_empty());
    assert_eq!(lab.dropped(0, DropReason::LeaseLapsed), 1);
}

#[test]
fn idle_timeouts_and_holds_restart_in_full_on_takeover() {
    let mut lab = Lab::new(2);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    lab.run(250_000);
    assert_eq!(lab.status(0).held, 1);
    lab.pass(0, INSIDE, udp(A, 5001, REMOTE, 4500));
    lab.run(50_000);
    lab.elect(1);
    lab.run(64_000);
    assert_eq!(lab.status(1).held, 1, "F6: a full hold after the takeover");
    lab.run(4_000);
    assert_eq!(lab.status(1).held, 0);
    lab.run(171_000);
    assert_eq!(lab.status(1).live, 1, "I48: a full timeout after the takeover");
    lab.run(28_000);
    assert_eq!(lab.status(1).live, 0, "at most a tenth later");
    lab.assert_in_step();
}

#[test]
fn no_fence_before_a_predecessors_grace_has_ended() {
    let mut lab = Lab::new(2);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    let drain = |s: &mut qnat_engine::snapshot::Snapshot| {
        let block = block(2080, 32);
        let draining = Draining { block, reclaim_index: ControlIndex(11), on_reclaim: OnReclaim::Expire };
        drains(s, draining);
        s.backends.get_mut(&BackendId(2)).expect("B").lease = Vec::new();
    };
    lab.elect(1);
    lab.load(11, drain);
    lab.run(3_000);
    assert!(lab.fenced().is_empty(), "L4: V + orphan grace");
    lab.run(200);
    assert_eq!(lab.fenced(), [block(2080, 32)]);
    // A successor looks again and needs no second fence: it has applied this one.
    lab.outputs.clear();
    lab.elect(0);
    lab.run(4_000);
    assert_eq!(lab.fenced(), [block(2080, 32)], "told again by the new owner");
    assert!(!lab.outputs.iter().any(|(_, o)| matches!(o, WorkerOutput::Propose { .. })));
}

#[test]
fn a_shorter_hold_lowers_the_grace_and_frees_nothing_before_the_old_one_ended() {
    let mut lab = Lab::new(2);
    lab.run(10_000);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    lab.load(11, |s| {
        s.params.hold_ms = [2_000; 5];
        s.backends.get_mut(&BackendId(1)).expect("A").idle_timeout_ms = 1_000;
    });
    lab.run(200);
    let mut records = Vec::new();
    let (_, entry) = lab.log.last().expect("entries");
    let header = decode_entry(Format::NEWEST, entry, &mut records).expect("decodes");
    assert_eq!((header.orphan_grace_ms, header.hold_ms), (950, [2_000; HOLD_CLASSES]), "2 s - V - 1 s");
    lab.run(3_500);
    assert_eq!((lab.status(0).live, lab.status(0).held), (0, 1), "not before 3 s + V + 1 s after the header");
    lab.run(1_500);
    assert_eq!(lab.status(0).held, 0);
    lab.assert_in_step();
    // With hardly any hold at all there is no grace, and the hold is raised to V + 1 s.
    lab.load(12, |s| s.params.hold_ms = [0; 5]);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    lab.run(100);
    let header = decode_entry(Format::NEWEST, &lab.log.last().expect("entries").1, &mut records).expect("decodes");
    assert_eq!((header.orphan_grace_ms, header.hold_ms), (0, [1_050; HOLD_CLASSES]));
}

pub(crate) fn header(term: u64) -> EntryHeader {
    EntryHeader {
        term: Term(term),
        stream: 1,
        sequence: 0,
        control_index: ControlIndex(10),
        holds_ended: [LogIndex(0); HOLD_CLASSES],
        orphan_grace_ms: 3_000,
        hold_ms: [65_000; HOLD_CLASSES],
        records: 0,
    }
}

pub(crate) fn open(port: u16, inside: u16) -> FlowRecord {
    let remote = Endpoint { addr: Addr::from(REMOTE), port: 53 };
    let public = PublicKey { proto: Proto::Udp, frontend: FRONTEND, port, remote };
    let endpoint = Endpoint { addr: Addr::from(A), port: inside };
    let inside = InsideKey { vnet: VnetId(0), endpoint };
    FlowRecord::Open(Open { public, inside, backend: BackendId(1), scenario: Scenario::Pool })
}

pub(crate) fn close(port: u16, reason: CloseReason) -> FlowRecord {
    let FlowRecord::Open(Open { public, .. }) = open(port, 0) else { unreachable!("an open") };
    FlowRecord::Close { public, reason }
}

#[test]
fn apply_refuses_whole_what_is_judged_under_an_older_control_state() {
    let mut lab = Lab::new(2);
    let mut e = Encoder::new();
    let newer = EntryHeader { control_index: ControlIndex(12), ..header(1) };
    lab.log.push((Term(1), e.entry(newer, &[open(2048, 1)])));
    lab.log.push((Term(1), e.entry(header(1), &[open(2049, 2), close(2048, CloseReason::Fin)])));
    lab.log.push((Term(1), Bytes::from_static(b"not an entry")));
    lab.log.push((Term(1), e.entry(newer, &[open(2048, 9), close(2060, CloseReason::Fin)])));
    lab.pump();
    let s = lab.status(1);
    assert_eq!((s.live, s.held, s.control_index), (1, 0, ControlIndex(12)));
    assert_eq!((s.counts.control_behind, s.counts.undecodable), (1, 1), "F2");
    assert_eq!((s.counts.opens_refused, s.counts.closes_stray), (1, 1), "F3");
    lab.assert_in_step();
}

#[test]
fn a_held_key_reopens_for_its_own_inside_alone() {
    let mut lab = Lab::new(2);
    let mut e = Encoder::new();
    lab.log.push((Term(1), e.entry(header(1), &[open(2048, 1), close(2048, CloseReason::Idle)])));
    lab.log.push((Term(1), e.entry(header(1), &[open(2048, 2)])));
    lab.pump();
    assert_eq!((lab.status(1).live, lab.status(1).held, lab.status(1).counts.opens_refused), (0, 1, 1));
    lab.log.push((Term(1), e.entry(header(1), &[open(2048, 1), open(2048, 1)])));
    lab.pump();
    assert_eq!((lab.status(1).live, lab.status(1).held, lab.status(1).counts.opens_refused), (1, 0, 2), "F3");
    let flow = &lab.nodes[1].worker.view().dump_flows(lab.now, None, 9)[0];
    assert_eq!(flow.inside.endpoint.port, 1);
    lab.assert_in_step();
}

#[test]
fn flows_outside_their_lease_close_after_a_re_creation() {
    let mut lab = Lab::new(1);
    let mut e = Encoder::new();
    lab.log.push((Term(1), e.entry(header(1), &[open(9000, 1), open(2048, 2)])));
    lab.pump();
    assert_eq!(lab.status(0).live, 2);
    lab.event(0, GroupEvent::Following { shard: SHARD });
    lab.event(0, GroupEvent::Reopened { shard: SHARD, epoch: 1, control_index: ControlIndex(15) });
    lab.load(15, |_| {});
    lab.term = 1 << 32;
    lab.elect(0);
    lab.run(100);
    assert_eq!((lab.status(0).live, lab.status(0).held), (1, 1), "N4");
    assert_eq!(lab.status(0).control_index, ControlIndex(15));
}

#[test]
fn a_mapping_on_its_way_is_shown_as_such() {
    let mut lab = Lab::new(1);
    lab.hold = Hold::Yes;
    lab.out(0, udp(A, 5000, REMOTE, 53));
    let flows = lab.nodes[0].worker.view().dump_flows(lab.now, None, 10);
    assert_eq!(flows.iter().map(|f| f.state).collect::<Vec<_>>(), [FlowState::Opening]);
    assert_eq!(flows[0].public.1, Some(PUBLIC));
    assert!(lab.nodes[0].worker.view().dump_flows(lab.now, None, 0).is_empty());
}

/// Random churn of opens, reopens, closes and hold ends, several records per entry.
fn churn() -> impl Strategy<Value = Vec<(Vec<(u8, u16)>, u8)>> {
    proptest::collection::vec((proptest::collection::vec((0u8..5, 0u16..24), 0..6), 0u8..4), 1..60)
}

fn entry(encoder: &mut Encoder, index: u64, ops: &[(u8, u16)], ended: u8) -> Bytes {
    let records: Vec<FlowRecord> = ops
        .iter()
        .map(|(op, port)| match op {
            0 | 1 => open(2048 + port, *port),
            2 => open(2048 + port, port + 1000),
            3 => close(2048 + port, CloseReason::Fin),
            _ => close(2048 + port, CloseReason::Idle),
        })
        .collect();
    // Now and then all holds up to some entries back end; even a header that overstates it must do the same everywhere.
    let ended = LogIndex(if ended == 0 {
        index.saturating_sub(3)
    } else if ended == 1 {
        index + 5
    } else {
        0
    });
    let header = EntryHeader { holds_ended: [ended; HOLD_CLASSES], ..header(1) };
    encoder.entry(header, &records)
}

/// More records than one chunk holds, so that churn goes on between chunks.
fn ballast(encoder: &mut Encoder) -> Bytes {
    const { assert!(ENTRY_RECORDS_MAX > CHUNK_RECORDS_MAX) };
    let many = u16::try_from(ENTRY_RECORDS_MAX).expect("a few thousand");
    let records: Vec<FlowRecord> = (0..many).map(|i| open(10_000 + i, 10_000 + i)).collect();
    encoder.entry(header(1), &records)
}

/// A joiner on a slow link costs no more memory than the queues towards it have.
#[test]
fn a_scan_waits_while_there_is_no_room_for_its_chunks() {
    let mut lab = Lab::new(1);
    let chunks = |lab: &mut Lab| {
        let node = &mut lab.nodes[0];
        node.worker.handle_timers(lab.now, &node.words);
        let outputs = std::iter::from_fn(|| node.worker.poll_output(lab.now, &node.words));
        outputs.filter(|output| matches!(output, WorkerOutput::Chunk { .. })).count()
    };
    lab.nodes[0].worker.set_scans(Scans::Wait);
    lab.event(0, GroupEvent::Scan { shard: SHARD, transfer: 1 });
    assert_eq!(chunks(&mut lab), 0);
    lab.nodes[0].worker.set_scans(Scans::Go);
    assert_eq!(chunks(&mut lab), 1, "all of an empty table");
    assert_eq!(chunks(&mut lab), 0, "once");
}

proptest! {

    #[test]
    fn a_scan_at_any_point_of_any_churn_equals_its_source(
        script in churn(), ops in churn(), scan_at in 0usize..60, per_chunk in 0usize..20, ballast_first in any::<bool>(),
    ) {
        let mut lab = Lab::unelected(1);
        let mut encoder = Encoder::new();
        let script: Vec<_> = script.into_iter().chain(ops).collect();
        let mut entries = Vec::new();
        if ballast_first {
            entries.push(ballast(&mut encoder));
        }
        for (ops, ended) in &script {
            let index = u64::try_from(entries.len()).unwrap() + 2;
            entries.push(entry(&mut encoder, index, ops, *ended));
            if !ballast_first && entries.len() == 2 {
                entries.push(ballast(&mut encoder));
            }
        }
        let scan_at = scan_at % entries.len();
        let mut chunks: Vec<(Last, LogIndex, LogIndex, Bytes)> = Vec::new();
        let mut i = 0;
        while i < entries.len() || !chunks.last().is_some_and(|(last, ..)| *last == Last::Yes) {
            if i == scan_at {
                lab.event(0, GroupEvent::Scan { shard: SHARD, transfer: 1 });
            }
            for _ in 0..if i < scan_at { 1 } else { per_chunk.max(1) } {
                if let Some(entry) = entries.get(i) {
                    lab.log.push((Term(1), entry.clone()));
                    i += 1;
                    if i == scan_at {
                        break;
                    }
                }
            }
            let before = lab.nodes[0].seen;
            for k in before..lab.log.len() {
                let (term, entry) = lab.log[k].clone();
                let index = LogIndex(u64::try_from(k + 1).unwrap());
                lab.nodes[0].seen = k + 1;
                lab.event(0, GroupEvent::Committed { shard: SHARD, index, term, entry });
            }
            let n = &mut lab.nodes[0];
            let mut one = false;
            while !one && let Some(output) = n.worker.poll_output(lab.now, &n.words) {
                if let WorkerOutput::Chunk { last, base, until, chunk, .. } = output {
                    chunks.push((last, base, until, chunk));
                    one = true;
                }
            }
            n.worker.handle_timers(lab.now, &n.words);
        }
        let joiner = lab.boot(1, 2);
        lab.nodes.push(joiner);
        let (_, base, until, _) = *chunks.last().unwrap();
        lab.event(1, GroupEvent::Opened { shard: SHARD, epoch: 0, index: base, loads: true });
        prop_assert_eq!(lab.nodes[1].worker.view().state_hash(SHARD), None, "an empty table is not the one of its index (I22)");
        for (_, _, _, chunk) in chunks {
            lab.event(1, GroupEvent::Load { shard: SHARD, epoch: 0, chunk });
        }
        lab.event(1, GroupEvent::Loaded { shard: SHARD, base, until });
        lab.nodes[1].seen = usize::try_from(base.0).unwrap();
        lab.pump();
        prop_assert_eq!(lab.status(1).counts.chunks_refused, 0);
        lab.assert_in_step();
        // And they stay in step, and the joiner can take over with every flow.
        for extra in 0..5u64 {
            let index = u64::try_from(lab.log.len()).unwrap() + 1;
            let ops: Vec<_> = (0..24).map(|p| (u8::try_from((extra + u64::from(p)) % 5).unwrap(), p)).collect();
            lab.log.push((Term(1), entry(&mut encoder, index, &ops, u8::try_from(extra % 2).unwrap())));
            lab.pump();
            lab.assert_in_step();
        }
        let (a, b) = (lab.status(0), lab.status(1));
        prop_assert_eq!((a.live, a.held), (b.live, b.held));
    }
}
