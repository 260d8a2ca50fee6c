//! What a replica makes of bytes that no sound member would send.

use qnat_engine::codec::{ChunkHeader, Encoder};
use qnat_engine::event::GroupEvent;
use qnat_engine::ids::*;
use qnat_engine::record::{
    Addr, CloseReason, Endpoint, EntryHeader, FlowRecord, HOLD_CLASSES, HoldClass, InsideKey, Open, Proto, PublicKey,
    ScanRecord, Scenario,
};

use crate::lab::*;

fn public(port: u16) -> PublicKey {
    let remote = Endpoint { addr: Addr::from(REMOTE), port: 443 };
    PublicKey { proto: Proto::Tcp, frontend: FRONTEND, port, remote }
}

fn opened(port: u16) -> Open {
    let inside = InsideKey { vnet: VnetId(0), endpoint: Endpoint { addr: Addr::from(A), port } };
    Open { public: public(port), inside, backend: BackendId(1), scenario: Scenario::Pool }
}

fn chunk_header(sequence: u32, base: LogIndex) -> ChunkHeader {
    ChunkHeader {
        sequence,
        base,
        control_index: ControlIndex(10),
        holds_ended: [LogIndex(0); HOLD_CLASSES],
        orphan_grace_ms: 3_000,
        grace_peak_ms: 3_000,
        hold_ms: [65_000; HOLD_CLASSES],
        records: 0,
    }
}

#[test]
fn a_table_with_a_chunk_missing_is_nobodys_replica() {
    let mut lab = Lab::unelected(1);
    let (base, until) = (LogIndex(5), LogIndex(5));
    let mut encoder = Encoder::new();
    let record = |port| ScanRecord { open: opened(port), held: None, written_at: LogIndex(4) };
    let mut load = |sequences: &[u32], torn: bool| {
        lab.event(0, GroupEvent::Opened { shard: SHARD, epoch: 0, index: base, loads: true });
        for sequence in sequences {
            let chunk =
                encoder.chunk(chunk_header(*sequence, base), &[record(2048 + u16::try_from(*sequence).unwrap())]);
            let chunk = if torn { chunk.slice(1..) } else { chunk };
            lab.event(0, GroupEvent::Load { shard: SHARD, epoch: 0, chunk });
        }
        lab.event(0, GroupEvent::Loaded { shard: SHARD, base, until });
        lab.nodes[0].worker.view().state_hash(SHARD)
    };
    assert_eq!(load(&[0, 2], false), None, "the second of three is missing");
    assert_eq!(load(&[0], true), None, "not a chunk");
    assert!(load(&[0, 1, 2], false).is_some());
    // Whole as it is, it does not mind a chunk of another scan.
    let chunk = encoder.chunk(chunk_header(1, base), &[record(2048)]);
    lab.event(0, GroupEvent::Load { shard: SHARD, epoch: 0, chunk });
    assert!(lab.nodes[0].worker.view().state_hash(SHARD).is_some());
    assert_eq!(lab.status(0).live, 3);
}

#[test]
fn a_record_written_behind_the_end_of_its_scan_is_refused() {
    let mut lab = Lab::unelected(1);
    let (base, until) = (LogIndex(5), LogIndex(6));
    let record = |port, written_at| ScanRecord {
        open: opened(port),
        held: Some(HoldClass::Fin),
        written_at: LogIndex(written_at),
    };
    let mut encoder = Encoder::new();
    let chunk = encoder.chunk(chunk_header(0, base), &[record(2048, 6), record(2049, 7), record(2050, u64::MAX)]);
    lab.event(0, GroupEvent::Load { shard: SHARD, epoch: 0, chunk });
    lab.event(0, GroupEvent::Loaded { shard: SHARD, base, until });
    let header = EntryHeader {
        term: Term(1),
        stream: 0,
        sequence: 0,
        control_index: ControlIndex(10),
        holds_ended: [LogIndex(0); HOLD_CLASSES],
        orphan_grace_ms: 3_000,
        hold_ms: [65_000; HOLD_CLASSES],
        records: 0,
    };
    let open = FlowRecord::Open(opened(2051));
    let close = FlowRecord::Close { public: public(2051), reason: CloseReason::Fin };
    // Its hold ends after those that the scan brought, in the order of the log.
    for (index, record) in [(6, open), (7, close)] {
        let entry = encoder.entry(header, &[record]);
        lab.event(0, GroupEvent::Committed { shard: SHARD, index: LogIndex(index), term: Term(1), entry });
    }
    let status = lab.status(0);
    assert_eq!((status.live, status.held, status.counts.chunks_refused), (0, 2, 2));
}
