//! What a worker tells the flow groups and the log of mappings: entries to propose, what was applied and fenced, chunks of
//! scans, and what became of mappings. Queues and encoders only; the shards know what is to be told.

use std::collections::VecDeque;

use crate::addresses::own_end;
use crate::codec::Encoder;
use crate::event::WorkerOutput;
use crate::flow::Slot;
use crate::ids::ShardId;
use crate::lease::LeaseWords;
use crate::record::ScanRecord;
use crate::shard::chunks::Chunks;
use crate::shard::shards::Shards;
use crate::snapshot::Snapshot;
use crate::tell::sessions::{SessionFate, Sessions};

/// See the module.
#[derive(Debug)]
pub(crate) struct Telling {
    pub(crate) outputs: VecDeque<WorkerOutput>,
    /// `None`: nobody wants to know.
    pub(crate) sessions: Option<Sessions>,
    pub(crate) chunks: Chunks,
    pub(crate) encoder: Encoder,
    scratch: Vec<ScanRecord>,
}

impl Telling {
    pub(crate) fn new() -> Self {
        Self {
            outputs: VecDeque::new(),
            sessions: None,
            chunks: Chunks::new(),
            encoder: Encoder::new(),
            scratch: Vec::new(),
        }
    }

    /// The next entry or report for the flow groups.
    pub(crate) fn poll(
        &mut self,
        now_ns: u64,
        words: &impl LeaseWords,
        shards: &mut Shards,
        snapshot: Option<&Snapshot>,
    ) -> Option<WorkerOutput> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        let me = shards.me;
        for (id, s) in shards.replicas_mut() {
            if std::mem::take(&mut s.applied_dirty) && s.replica.is_whole() {
                let (index, control_index) = (s.replica.meta.applied, s.replica.meta.control_index);
                return Some(WorkerOutput::Applied { shard: id, epoch: s.epoch, index, control_index });
            }
            let Some(snapshot) = snapshot else { continue };
            // Nothing new leaves without the lease (L4); it waits in the stream.
            if !s.holds_lease(now_ns, me, words.word(id)) {
                continue;
            }
            if let Some((term, stream, sequence, entry)) = s.next_batch(now_ns, snapshot, &mut self.encoder) {
                return Some(WorkerOutput::Propose { shard: id, term, stream, sequence, entry });
            }
        }
        self.chunks.next(shards, snapshot?.control_index, &mut self.encoder, &mut self.scratch)
    }

    /// Takes note of what became of a mapping of this owner's.
    pub(crate) fn note_session(
        &mut self,
        now_ns: u64,
        (shards, snapshot): (&Shards, Option<&Snapshot>),
        (shard, slot): (ShardId, Slot),
        fate: SessionFate,
    ) {
        let (Some(sessions), Some(snapshot)) = (&mut self.sessions, snapshot) else { return };
        let Some(record) = shards.replica(shard).map(|s| s.replica.table.record(slot)) else { return };
        if let Some(frontend) = snapshot.frontends.get(&record.frontend) {
            let own = own_end(snapshot, record.backend, record.inside);
            sessions.note(now_ns, fate, frontend.ip, (record, own));
        }
    }
}
