//! Scans of a table for joiners (F10): one per shard, replaced and cancelled; shards take turns. And what names its epoch.

use bytes::Bytes;
use qnat_engine::codec::{Encoder, Format, decode_chunk};
use qnat_engine::event::{GroupEvent, Last, WorkerOutput};
use qnat_engine::ids::{ControlIndex, LogIndex, ShardId, Term};
use qnat_engine::record::{EntryHeader, FlowRecord, Open, Scenario};

use crate::lab::*;
use crate::ownership::{header, open};

const OTHER: ShardId = ShardId(7);

/// The chunks that come in so many rounds of timers: shard, transfer, and whether it was the last.
fn chunks(lab: &mut Lab, rounds: u32) -> Vec<(ShardId, u64, Last)> {
    let mut seen = Vec::new();
    for _ in 0..rounds {
        let node = &mut lab.nodes[0];
        node.worker.handle_timers(lab.now, &node.words);
        while let Some(output) = node.worker.poll_output(lab.now, &node.words) {
            if let WorkerOutput::Chunk { shard, transfer, last, .. } = output {
                seen.push((shard, transfer, last));
            }
        }
    }
    seen
}

/// A replica with ten mappings, one in each chunk.
fn lab_of_ten() -> Lab {
    let mut lab = Lab::new(1);
    let records: Vec<FlowRecord> = (0..10).map(|i| open(2048 + i, i)).collect();
    lab.log.push((Term(1), Encoder::new().entry(header(1), &records)));
    lab.pump();
    lab.nodes[0].worker.set_chunk_records(1);
    lab
}

/// Orders used to queue up: a joiner whose transfer is restarted faster than a scan is done would never get the table.
#[test]
fn a_new_order_replaces_the_scan_that_is_under_way() {
    let mut lab = lab_of_ten();
    lab.event(0, GroupEvent::Scan { shard: SHARD, transfer: 1 });
    assert!(!chunks(&mut lab, 1).is_empty());
    lab.event(0, GroupEvent::Scan { shard: SHARD, transfer: 2 });
    let seen = chunks(&mut lab, 30);
    assert!(seen.iter().all(|(_, transfer, _)| *transfer == 2), "{seen:?}");
    assert_eq!(seen.len(), 10, "all of the table");
    assert_eq!(seen.last().map(|(.., last)| *last), Some(Last::Yes));
}

#[test]
fn a_scan_that_nobody_waits_for_is_given_up() {
    let mut lab = lab_of_ten();
    lab.event(0, GroupEvent::Scan { shard: SHARD, transfer: 3 });
    lab.event(0, GroupEvent::ScanOver { shard: SHARD, transfer: 2 });
    assert!(!chunks(&mut lab, 1).is_empty(), "another one's end");
    lab.event(0, GroupEvent::ScanOver { shard: SHARD, transfer: 3 });
    assert!(chunks(&mut lab, 5).is_empty());
    lab.event(0, GroupEvent::Scan { shard: SHARD, transfer: 4 });
    assert!(!chunks(&mut lab, 1).is_empty());
    lab.event(0, GroupEvent::Following { shard: SHARD });
    assert!(chunks(&mut lab, 5).is_empty(), "only a leader's chunks are wanted");
}

/// The table may hold what only the level of a newer snapshot can write.
#[test]
fn a_scan_waits_for_the_snapshot_under_which_its_newest_entry_was_judged() {
    let mut lab = lab_of_ten();
    let newer = EntryHeader { control_index: ControlIndex(12), ..header(1) };
    lab.log.push((Term(1), Encoder::new().entry(newer, &[open(2100, 9)])));
    lab.pump();
    lab.event(0, GroupEvent::Scan { shard: SHARD, transfer: 1 });
    assert!(chunks(&mut lab, 5).is_empty(), "10 is loaded, 12 was written");
    lab.load(12, |_| {});
    assert_eq!(chunks(&mut lab, 30).last().map(|(.., last)| *last), Some(Last::Yes));
}

#[test]
fn entries_and_chunks_are_written_as_the_snapshots_level_says() {
    for (format, version) in [(Format::First, 4), (Format::Second, 5), (Format::Third, 6)] {
        let mut lab = lab_of_ten();
        lab.load(11, |s| s.params.format = format);
        lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
        assert_eq!(lab.log.last().map(|(_, entry)| entry[2]), Some(version));
        lab.event(0, GroupEvent::Scan { shard: SHARD, transfer: 1 });
        let node = &mut lab.nodes[0];
        node.worker.handle_timers(lab.now, &node.words);
        let outputs = std::iter::from_fn(|| node.worker.poll_output(lab.now, &node.words));
        let versions: Vec<u8> = outputs
            .filter_map(|output| if let WorkerOutput::Chunk { chunk, .. } = output { Some(chunk[2]) } else { None })
            .collect();
        assert!(!versions.is_empty() && versions.iter().all(|found| *found == version), "{versions:?}");
    }
}

/// A mapping that stands under a right which nobody has any more ends; under which it stands survives a scan.
#[test]
fn a_mapping_says_under_which_right_it_stands() {
    let mut lab = Lab::new(1);
    let FlowRecord::Open(open) = open(2048, 1) else { unreachable!("it opens") };
    let own = Open { scenario: Scenario::OwnOut, ..open };
    lab.log.push((Term(1), Encoder::new().entry(header(1), &[FlowRecord::Open(own)])));
    lab.pump();
    let mut records = Vec::new();
    lab.event(0, GroupEvent::Scan { shard: SHARD, transfer: 1 });
    let node = &mut lab.nodes[0];
    node.worker.handle_timers(lab.now, &node.words);
    while let Some(output) = node.worker.poll_output(lab.now, &node.words) {
        if let WorkerOutput::Chunk { chunk, .. } = output {
            decode_chunk(Format::NEWEST, &chunk, &mut records).expect("its own");
        }
    }
    assert_eq!(records.iter().map(|scanned| scanned.open).collect::<Vec<_>>(), [own]);
    let (pool, other) =
        (Encoder::new().entry(header(1), &[FlowRecord::Open(open)]), lab.status(0).counts.opens_refused);
    lab.log.push((Term(1), pool));
    lab.pump();
    assert_eq!(lab.status(0).counts.opens_refused, other + 1, "the same tuple under another right is another mapping");
    lab.load(11, |_| {});
    lab.run(100);
    assert_eq!((lab.status(0).live, lab.status(0).held), (0, 1));
}

#[test]
fn shards_take_turns_with_their_chunks() {
    let mut lab = lab_of_ten();
    lab.event(0, GroupEvent::Opened { shard: OTHER, epoch: 1, index: LogIndex(1), loads: false });
    let entry = |index: u64, bytes: Bytes| GroupEvent::Committed {
        shard: OTHER,
        index: LogIndex(index),
        term: Term(1),
        entry: bytes,
    };
    let records: Vec<FlowRecord> = (0..4).map(|i| open(2048 + i, i)).collect();
    lab.event(0, entry(2, Encoder::new().entry(header(1), &records)));
    lab.event(0, GroupEvent::Scan { shard: SHARD, transfer: 1 });
    lab.event(0, GroupEvent::Scan { shard: OTHER, transfer: 2 });
    let seen = chunks(&mut lab, 30);
    let first: Vec<ShardId> = seen.iter().take(8).map(|(shard, ..)| *shard).collect();
    assert_eq!(first.iter().filter(|shard| **shard == OTHER).count(), 4, "{first:?}");
    assert_eq!(seen.len(), 14);
}

/// F5: by the time that a report is read, this node may know of another epoch, whose table may lack the fence.
#[test]
fn a_fence_and_an_applied_index_name_the_epoch_of_the_replica_that_has_them() {
    let mut lab = Lab::new(1);
    lab.event(0, GroupEvent::Following { shard: SHARD });
    lab.event(0, GroupEvent::Reopened { shard: SHARD, epoch: 4, control_index: ControlIndex(11) });
    lab.load(11, |_| {});
    lab.term = 4 << 32;
    lab.elect(0);
    let fence = FlowRecord::Fence { block: block(2048, 32), reclaim_index: ControlIndex(11) };
    lab.outputs.clear();
    let header = EntryHeader { control_index: ControlIndex(11), ..header(lab.term) };
    lab.log.push((Term(lab.term), Encoder::new().entry(header, &[fence])));
    lab.pump();
    let epochs = lab.outputs.iter().filter_map(|(_, output)| match output {
        WorkerOutput::Fenced { epoch, .. } => Some(("fenced", *epoch)),
        WorkerOutput::Applied { epoch, .. } => Some(("applied", *epoch)),
        WorkerOutput::Propose { .. }
        | WorkerOutput::Serving { .. }
        | WorkerOutput::SnapshotLoaded { .. }
        | WorkerOutput::Chunk { .. } => None,
    });
    let epochs: Vec<_> = epochs.collect();
    assert!(epochs.contains(&("fenced", 4)) && epochs.contains(&("applied", 4)), "{epochs:?}");
    assert!(epochs.iter().all(|(_, epoch)| *epoch == 4), "{epochs:?}");
}
