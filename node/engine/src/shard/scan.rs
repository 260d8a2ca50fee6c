//! A scan of a shard's table for a joining replica (F10): slot by slot, a chunk at a time, while entries go on being
//! applied. Made exact by the joiner's replay of the log behind `base`.
//!
//! Every record that existed at `base` is sent in some version: one that is freed before the scan reaches it is copied
//! first. Without that copy a joiner could take an `Open` that all others refused because the key was held then.

use crate::codec::{ChunkHeader, Encoder};
use crate::event::{Last, WorkerOutput};
use crate::flow::{Record, Slot, State, Table};
use crate::ids::{LogIndex, ShardId};
use crate::meta::Meta;
use crate::record::ScanRecord;

/// One transfer in progress.
#[derive(Debug)]
pub(crate) struct ScanJob {
    transfer: u64,
    meta: Meta,
    /// Next slot to visit; records behind `end` were all written after `base`.
    position: u32,
    end: u32,
    sequence: u32,
    saved: Vec<ScanRecord>,
}

impl ScanJob {
    pub(crate) fn new(transfer: u64, meta: Meta, table: &Table) -> Self {
        Self { transfer, meta, position: 0, end: table.slots(), sequence: 0, saved: Vec::new() }
    }

    pub(crate) const fn transfer(&self) -> u64 {
        self.transfer
    }

    /// The record in `slot` is about to be freed.
    pub(crate) fn before_free(&mut self, slot: Slot, record: &Record) {
        if slot.position() >= self.position && slot.position() < self.end {
            self.saved.push(scan_record(record));
        }
    }

    /// The next chunk, of `records_max` records at most; with `Last::Yes` the job is over.
    pub(crate) fn chunk(
        &mut self,
        shard: ShardId,
        table: &Table,
        (applied, records_max): (LogIndex, usize),
        encoder: &mut Encoder,
        scratch: &mut Vec<ScanRecord>,
    ) -> (WorkerOutput, Last) {
        scratch.clear();
        while scratch.len() < records_max && self.position < self.end {
            if let Some(slot) = table.occupied(self.position) {
                scratch.push(scan_record(table.record(slot)));
            }
            self.position += 1;
        }
        let room = records_max - scratch.len();
        let from = self.saved.len().saturating_sub(room);
        scratch.extend(self.saved.drain(from..));
        let last = if self.position == self.end && self.saved.is_empty() { Last::Yes } else { Last::No };
        let m = &self.meta;
        let header = ChunkHeader {
            sequence: self.sequence,
            base: m.applied,
            control_index: m.control_index,
            holds_ended: m.holds_ended,
            orphan_grace_ms: m.orphan_grace_ms,
            grace_peak_ms: m.grace_peak_ms,
            hold_ms: m.hold_ms,
            records: 0,
        };
        self.sequence += 1;
        let chunk = encoder.chunk(header, scratch);
        let output =
            WorkerOutput::Chunk { shard, transfer: self.transfer, base: m.applied, until: applied, last, chunk };
        (output, last)
    }
}

fn scan_record(record: &Record) -> ScanRecord {
    ScanRecord {
        open: record.opened(),
        held: match record.state {
            State::Live | State::Free => None,
            State::Held(class) => Some(class),
        },
        written_at: record.written_at,
    }
}
