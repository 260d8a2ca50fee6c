//! Which shard's scan goes on, and how far in one round, so that traffic goes on beside it.

use crate::codec::{CHUNK_RECORDS_MAX, Encoder};
use crate::event::{Last, WorkerOutput};
use crate::ids::{ControlIndex, ShardId};
use crate::record::ScanRecord;
use crate::shard::Shard;
use crate::shard::shards::Shards;

/// Whether chunks of scans find a place in the queues towards their readers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scans {
    /// They do.
    Go,
    /// The queues are full: no more until they are not.
    Wait,
}

/// Which shard's scan goes on, and how far now.
#[derive(Debug)]
pub(crate) struct Chunks {
    credit: u32,
    scans: Scans,
    records_max: usize,
    /// The shard whose chunk was the last: shards take turns, so that no joiner waits for another shard's.
    last: ShardId,
}

impl Chunks {
    pub(crate) const fn new() -> Self {
        Self { credit: 0, scans: Scans::Go, records_max: CHUNK_RECORDS_MAX, last: ShardId(0) }
    }

    pub(crate) const fn set_scans(&mut self, scans: Scans) {
        self.scans = scans;
    }

    pub(crate) fn set_records(&mut self, records: usize) {
        self.records_max = records.clamp(1, CHUNK_RECORDS_MAX);
    }

    pub(crate) fn grant(&mut self, count: u32) {
        self.credit = match self.scans {
            Scans::Go => self.credit.max(count),
            Scans::Wait => 0,
        };
    }

    /// The next chunk of any scan under way, if one is due. A table may hold what was written under a newer snapshot than the one
    /// `loaded`, and a higher level: then the scan waits for that snapshot.
    pub(crate) fn next(
        &mut self,
        shards: &mut Shards,
        loaded: ControlIndex,
        encoder: &mut Encoder,
        scratch: &mut Vec<ScanRecord>,
    ) -> Option<WorkerOutput> {
        if self.credit == 0 {
            return None;
        }
        let scans = |(_, s): &(ShardId, &Shard)| {
            s.replica.is_whole() && s.replica.scan.is_some() && s.replica.meta.control_index <= loaded
        };
        let later = shards.replicas().filter(|(id, _)| *id > self.last);
        let (id, _) = later.chain(shards.replicas()).find(scans)?;
        let replica = &mut shards.replica_mut(id)?.replica;
        let applied = replica.meta.applied;
        let job = replica.scan.as_mut()?;
        self.credit -= 1;
        self.last = id;
        let (output, last) = job.chunk(id, &replica.table, (applied, self.records_max), encoder, scratch);
        if last == Last::Yes {
            replica.scan = None;
        }
        Some(output)
    }
}
