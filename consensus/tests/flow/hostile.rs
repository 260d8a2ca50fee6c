//! What peers may throw at a replica: well-formed frames with any content must not bring it down (raft-rs panics on some),
//! and what N1, F1 and L3 forbid must be dropped before it has an effect.

use bytes::Bytes;
use qnat_consensus::event::{FlowEffect, FlowInput};
use qnat_consensus::flow::admit::FrameDrop;
use qnat_consensus::flow::frame::{ChunkEnd, ChunkHead, Frame, Have, Key, Owned};
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use words::{Epoch, GroupEvent, Incarnation, ShardId};

use crate::cluster::{Cluster, MS};

const G: ShardId = ShardId(0);

const KINDS: [MessageType; 12] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTimeoutNow,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
    MessageType::MsgHup,
    MessageType::MsgTransferLeader,
    MessageType::MsgUnreachable,
];

fn key(from: Incarnation, to: Incarnation) -> Key {
    Key { group: G, epoch: Epoch(0), from, to }
}

/// A message that decodes, with numbers near those of the replica.
fn message(rng: &mut ChaCha8Rng, near: (u64, u64), from: Incarnation, to: Incarnation) -> Message {
    let (term, index) = near;
    let around = |rng: &mut ChaCha8Rng, n: u64| match rng.random_range(0..10) {
        0 => 0,
        1 => rng.random_range(0..1 << 61),
        _ => (n + rng.random_range(0..8)).saturating_sub(4),
    };
    let mut m = Message { from: from.0, to: to.0, ..Message::default() };
    m.set_msg_type(KINDS[rng.random_range(0..KINDS.len())]);
    m.term = around(rng, term).min((1 << 32) - 1);
    m.log_term = around(rng, term).min(m.term);
    m.index = around(rng, index);
    m.commit = around(rng, index);
    m.commit_term = around(rng, term);
    m.reject = rng.random_bool(0.3);
    m.reject_hint = around(rng, index);
    m.priority = rng.random_range(-2..3);
    if rng.random_bool(0.7) {
        let len = rng.random_range(0..20);
        m.context = vec![rng.random(); len].into();
    }
    if rng.random_bool(0.2) {
        m.context = Bytes::from_static(b"CampaignTransfer");
    }
    if m.get_msg_type() == MessageType::MsgAppend {
        let mut entries = Vec::new();
        for i in 0..rng.random_range(0..4) {
            let mut entry = Entry { index: m.index + 1 + i, term: m.term.max(1), ..Entry::default() };
            entry.data = vec![9; rng.random_range(0..30)].into();
            if rng.random_bool(0.2) {
                entry.set_entry_type(EntryType::EntryConfChangeV2);
            }
            entries.push(entry);
        }
        m.entries = entries.into();
        m.term = m.term.max(1);
        m.log_term = m.log_term.min(m.term);
    }
    m
}

fn frame(rng: &mut ChaCha8Rng, near: (u64, u64), from: Incarnation, to: Incarnation) -> Frame {
    let key = key(from, to);
    let conf = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    match rng.random_range(0..20) {
        0 => Frame::Join {
            key,
            have: Some(Have { transfer: rng.random_range(0..4), next: rng.random(), broken: rng.random() }),
        },
        1 => Frame::Behind { key, base: rng.random() },
        2 => {
            let number = rng.random_range(0..3);
            let head = ChunkHead { transfer: rng.random_range(0..9), number, term: near.0, base: near.1 };
            let base_term = rng.random_range(1..=near.0);
            let end =
                rng.random_bool(0.5).then_some(ChunkEnd { base_term, until: near.1, conf, wait_left_ns: u64::MAX });
            Frame::Chunk { key, head, end, chunk: Bytes::from_static(&[0; 40]) }
        }
        3 => Frame::Owners { from, owned: vec![Owned { group: G, epoch: Epoch(0), term: near.0 }] },
        _ => Frame::Raft { key, message: message(rng, near, from, to) },
    }
}

#[test]
fn no_well_formed_frame_brings_a_replica_down() {
    for seed in 0..30 {
        let mut cluster = Cluster::new(seed, 3, 1, 3);
        assert!(cluster.run_until(2_000 * MS, Cluster::all_redundant));
        cluster.run(100 * MS);
        let ids: Vec<Incarnation> = cluster.nodes.iter().map(|n| n.incarnation).collect();
        // A liar voids everything that the judge holds true; only survival is asked here.
        let target = (seed % 3) as usize;
        let groups = &mut cluster.nodes[target].groups;
        let mut now = cluster.now;
        let mut got_through = 0;
        for _ in 0..4_000 {
            let status = groups.status(now).pop().expect("there");
            let from = ids[(target + cluster.rng.random_range(1..3)) % 3];
            let frame = frame(&mut cluster.rng, (status.term, status.commit), from, ids[target]);
            if let Frame::Raft { message, .. } = &frame
                && message.entries.iter().any(|e| e.get_entry_type() != EntryType::EntryNormal && !e.data.is_empty())
                && cluster.rng.random_bool(0.5)
            {
                continue;
            }
            groups.handle(now, FlowInput::Peer { from, frame: frame.encode() });
            now += cluster.rng.random_range(0..MS);
            groups.tick(now);
            while groups.poll(now).is_some() {
                got_through += 1;
            }
        }
        assert!(got_through > 1_000, "the frames must reach something: {got_through}");
    }
}

/// A follower of a settled cluster, alone from now on, and the leader's id.
fn follower() -> (Cluster, Incarnation, Incarnation) {
    let mut cluster = Cluster::new(1, 3, 1, 3);
    assert!(cluster.run_until(2_000 * MS, Cluster::all_redundant));
    let (leader, me) = (cluster.nodes[0].incarnation, cluster.nodes[1].incarnation);
    assert_eq!(cluster.leader(G), Some(0));
    (cluster, leader, me)
}

fn send(cluster: &mut Cluster, frame: &Frame, from: Incarnation) -> (Vec<FlowEffect>, Vec<FrameDrop>) {
    let now = cluster.now;
    let groups = &mut cluster.nodes[1].groups;
    let before = groups.drops().clone();
    groups.handle(now, FlowInput::Peer { from, frame: frame.encode() });
    let effects = std::iter::from_fn(|| groups.poll(now)).collect();
    let drops = groups.drops().iter().filter(|(k, n)| before.get(k) != Some(n)).map(|(k, _)| *k).collect();
    (effects, drops)
}

fn raft_frame(kind: MessageType, term: u64, from: Incarnation, to: Incarnation) -> Message {
    let mut m = Message { from: from.0, to: to.0, term, ..Message::default() };
    m.set_msg_type(kind);
    m
}

#[test]
fn what_the_rules_forbid_is_dropped_and_counted() {
    let (mut cluster, leader, me) = follower();
    let status = cluster.status(1, G).expect("there");
    let (term, third) = (status.term, cluster.nodes[2].incarnation);
    let m = |kind, term, from| raft_frame(kind, term, from, me);
    let mut ahead = m(MessageType::MsgHeartbeat, term, leader);
    ahead.commit = status.commit + 1_000;
    let mut vote = m(MessageType::MsgRequestVote, term + 1, third);
    vote.index = status.commit + 9;
    vote.log_term = term;
    let stranger = Incarnation(99);
    let cases = [
        (ahead, leader, FrameDrop::CommitBeyondLog),
        (vote, third, FrameDrop::LeaderAlive),
        (m(MessageType::MsgTransferLeader, term, third), third, FrameDrop::Kind),
        (m(MessageType::MsgHup, term, third), third, FrameDrop::Kind),
        (m(MessageType::MsgHeartbeat, 0, leader), leader, FrameDrop::Term),
        (m(MessageType::MsgHeartbeat, 1 << 32, leader), leader, FrameDrop::Term),
        (m(MessageType::MsgTimeoutNow, term, third), third, FrameDrop::FalseTimeout),
        (m(MessageType::MsgHeartbeat, term + 1, stranger), stranger, FrameDrop::Stranger),
    ];
    for (message, from, reason) in cases {
        let kind = message.get_msg_type();
        let (effects, drops) = send(&mut cluster, &Frame::Raft { key: key(from, me), message }, from);
        assert_eq!(drops, [reason], "{kind:?}");
        assert!(effects.is_empty(), "{kind:?}: {effects:?}");
    }
}

/// Raft would commit what only the leader has.
#[test]
fn an_answer_about_entries_that_the_leader_never_had_commits_nothing() {
    let (mut cluster, leader, _) = follower();
    cluster.load = 0.0;
    cluster.run(100 * MS);
    // Cut off, it appends; nobody has what it appends.
    cluster.cuts.extend([(0, 1), (0, 2)]);
    let (now, term) = (cluster.now, cluster.status(0, G).expect("led").term);
    let commit = cluster.status(0, G).expect("led").commit;
    let liar = cluster.nodes[1].incarnation;
    let groups = &mut cluster.nodes[0].groups;
    let entry = Bytes::from_static(b"abcd12345678");
    let (stream, sequence) = (100, 0);
    groups.handle(now, FlowInput::Propose { group: G, term, stream, sequence, entry });
    while groups.poll(now).is_some() {}
    for beyond in [2, 3, 1_000] {
        let mut answer = raft_frame(MessageType::MsgAppendResponse, term, liar, leader);
        answer.index = commit + beyond;
        let frame = Frame::Raft { key: key(liar, leader), message: answer }.encode();
        groups.handle(now, FlowInput::Peer { from: liar, frame });
        while groups.poll(now).is_some() {}
        let status = groups.status(now).into_iter().find(|s| s.group == G).expect("there");
        assert_eq!(status.commit, commit, "{beyond} beyond the commit index, where the log ends 1 beyond it");
    }
    assert_eq!(groups.drops().get(&FrameDrop::IndexBeyondLog), Some(&3));
}

#[test]
fn a_frame_under_another_key_reaches_nobody() {
    let (mut cluster, leader, me) = follower();
    let term = cluster.status(1, G).expect("there").term;
    let beat = || raft_frame(MessageType::MsgHeartbeat, term, leader, me);
    let good = key(leader, me);
    let wrong = [
        (Key { epoch: Epoch(1), ..good }, FrameDrop::NoReplica),
        (Key { group: ShardId(5), ..good }, FrameDrop::NoReplica),
        (Key { from: Incarnation(3), ..good }, FrameDrop::WrongKey),
        (Key { to: Incarnation(4), ..good }, FrameDrop::WrongKey),
    ];
    for (key, reason) in wrong {
        let (_, drops) = send(&mut cluster, &Frame::Raft { key, message: beat() }, leader);
        assert_eq!(drops, [reason], "{key:?}");
    }
    // A message that claims another sender than its key.
    let mut forged = beat();
    forged.from = 3;
    let (_, drops) = send(&mut cluster, &Frame::Raft { key: good, message: forged }, leader);
    assert_eq!(drops, [FrameDrop::WrongKey]);
    let (effects, drops) = send(&mut cluster, &Frame::Raft { key: good, message: beat() }, leader);
    assert!(drops.is_empty() && effects.len() == 1, "the right one is answered");
}

#[test]
fn only_the_stream_of_the_leading_term_is_taken_and_a_refusal_refuses_the_rest() {
    let (mut cluster, _, _) = follower();
    cluster.load = 0.0;
    cluster.run(50 * MS);
    let now = cluster.now;
    let term = cluster.status(0, G).expect("led").term;
    let mut propose = |node: usize, term: u64, stream: u32, sequence: u64| {
        let groups = &mut cluster.nodes[node].groups;
        let entry = Bytes::from_static(b"abcd12345678");
        groups.handle(now, FlowInput::Propose { group: G, term, stream, sequence, entry });
        let mut refused = 0;
        let mut sent = 0;
        while let Some(effect) = groups.poll(now) {
            if let FlowEffect::Worker(GroupEvent::Refused { stream: s, .. }) = effect {
                assert_eq!(s, stream);
                refused += 1;
            } else {
                assert!(matches!(effect, FlowEffect::Send { .. }), "{effect:?}");
                sent += 1;
            }
        }
        (refused, sent > 0)
    };
    assert_eq!(propose(1, term, 100, 0), (1, false), "a follower takes nothing");
    assert_eq!(propose(0, term - 1, 100, 0), (0, false), "an older term's stream is long dead");
    assert_eq!(propose(0, term, 100, 0), (0, true));
    assert_eq!(propose(0, term, 100, 2), (1, false), "a gap");
    assert_eq!(propose(0, term, 100, 1), (0, false), "refused for good, and told once");
    assert_eq!(propose(0, term, 101, 0), (0, true), "the next stream is taken");
    assert_eq!(propose(0, term + 1, 0, 0), (1, false), "a term that is not led");
}
