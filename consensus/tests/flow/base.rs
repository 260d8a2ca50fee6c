//! Who may be the base of a new epoch (N4): a voter by its own configuration whose table is whole.

use bytes::Bytes;
use qnat_consensus::event::{FlowEffect, FlowInput, GroupSpec, Origin, Sealing, Timing};
use qnat_consensus::flow::FlowGroups;
use qnat_consensus::flow::frame::{ChunkEnd, ChunkHead, Frame, Key};
use raft::eraftpb::ConfState;
use words::time::MS;
use words::{Epoch, GroupEvent, Incarnation, ShardId};

const G: ShardId = ShardId(1);
const EPOCH: Epoch = Epoch(1);
const TERM: u64 = (1 << 32) + 4;
const ME: Incarnation = Incarnation(9);
const LEADER: Incarnation = Incarnation(1);
const BASE: u64 = 5_000;
const UNTIL: u64 = 5_200;

fn spec(sealing: Sealing) -> GroupSpec {
    let members = vec![LEADER, Incarnation(2), ME];
    let founders = vec![LEADER, Incarnation(2), Incarnation(3)];
    GroupSpec {
        group: G,
        epoch: EPOCH,
        members,
        leaving: vec![],
        origin: Origin::Founded { voters: founders },
        sealing,
    }
}

/// A joiner that has all chunks of a scan from `BASE` to `UNTIL`, in the configuration that the scan brought.
fn loaded(voters: &[u64], learners: &[u64]) -> FlowGroups {
    let mut groups = FlowGroups::new(ME, Timing::default(), 7, 0);
    groups.handle(0, FlowInput::Specs { control_index: 1, specs: vec![spec(Sealing::No)] });
    let conf = ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() };
    let end = Some(ChunkEnd { base_term: TERM, until: UNTIL, conf, wait_left_ns: 0 });
    let head = ChunkHead { transfer: 1, number: 0, term: TERM, base: BASE };
    let key = Key { group: G, epoch: EPOCH, from: LEADER, to: ME };
    let frame = Frame::Chunk { key, head, end, chunk: Bytes::from_static(b"table") }.encode();
    groups.handle(0, FlowInput::Peer { from: LEADER, frame });
    let loaded = std::iter::from_fn(|| groups.poll(0))
        .any(|effect| matches!(effect, FlowEffect::Worker(GroupEvent::Loaded { .. })));
    assert!(loaded, "it has the table");
    groups
}

fn stands_at(groups: &mut FlowGroups, epoch: Epoch, index: u64) {
    groups.handle(0, FlowInput::Applied { group: G, epoch, index, control_index: 1 });
}

/// Seals, and returns every report with its time.
fn seal(groups: &mut FlowGroups) -> Vec<(u64, (u64, u64))> {
    let mut reports = Vec::new();
    groups.handle(MS, FlowInput::Specs { control_index: 2, specs: vec![spec(Sealing::Yes)] });
    for now_ms in 1..2_000 {
        groups.tick(now_ms * MS);
        while let Some(effect) = groups.poll(now_ms * MS) {
            if let FlowEffect::Sealed { last_term, last_index, .. } = effect {
                reports.push((now_ms, (last_term, last_index)));
            }
        }
    }
    assert!(reports.len() > 2, "it repeats its report: {reports:?}");
    assert!(reports.iter().all(|(_, end)| *end == reports[0].1), "a sealed log does not move");
    reports
}

/// A learner in the middle of its replay once offered the greatest index, became the base, and led alone without ever serving.
#[test]
fn a_learner_that_is_still_loading_holds_nothing() {
    let reports = seal(&mut loaded(&[1, 2, 3], &[9]));
    assert_eq!(reports[0], (1, (0, 0)));
}

#[test]
fn a_learner_whose_table_is_whole_holds_nothing_either() {
    let mut groups = loaded(&[1, 2, 3], &[9]);
    stands_at(&mut groups, EPOCH, UNTIL);
    assert_eq!(seal(&mut groups)[0].1, (0, 0), "it has no vote, so it cannot have been needed for a commit");
}

#[test]
fn a_voter_reports_its_log_once_its_table_is_whole() {
    let mut groups = loaded(&[1, 2, 9], &[]);
    stands_at(&mut groups, EPOCH, UNTIL);
    assert_eq!(seal(&mut groups)[0], (1, (TERM, BASE)));
}

#[test]
fn a_voter_whose_table_does_not_become_whole_holds_nothing() {
    let mut groups = loaded(&[1, 2, 9], &[]);
    stands_at(&mut groups, EPOCH, UNTIL - 1);
    // A late word of an earlier epoch's table says nothing about this one.
    stands_at(&mut groups, Epoch(0), UNTIL + 100);
    let reports = seal(&mut groups);
    assert_eq!(reports[0].1, (0, 0));
    assert!(reports[0].0 > 100, "it waited for its worker first: {reports:?}");
}
