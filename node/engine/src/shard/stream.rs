//! The owner's stream of batches (F1, F9): records gathered since the last poll, numbered, and forgotten as a whole when
//! one is refused.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::codec::{ENTRY_RECORDS_MAX, Encoder};
use crate::ids::{ControlIndex, Term};
use crate::record::{EntryHeader, FlowRecord};
use crate::shard::pace::Pace;

/// Batches proposed and not yet applied; more wait in the queue.
const IN_FLIGHT_MAX: usize = 256;
/// Batches in the queue; more records are refused with `Backpressure`.
const QUEUE_MAX: usize = 64;
/// A barrier that was refused is not proposed again sooner.
const BARRIER_RETRY_NS: u64 = 5_000_000;

#[derive(Debug)]
struct Batch {
    control_index: ControlIndex,
    records: Vec<FlowRecord>,
}

/// After a refusal, batches of the former stream may still be on their way to their commit. Until an entry of the new
/// stream is applied nothing is judged, because the applied table may lack what they did: a fence could overtake an
/// `Open` on its block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Barrier {
    /// Everything proposed is known.
    Passed,
    /// An empty entry is to be proposed from then on.
    Due { not_before_ns: u64 },
    /// It is on its way.
    Proposed,
}

/// The stream of one shard.
#[derive(Debug)]
pub(crate) struct Stream {
    number: u32,
    next_sequence: u64,
    applied_sequence: u64,
    queue: VecDeque<Batch>,
    barrier: Barrier,
    pace: Pace,
    spare: Vec<Vec<FlowRecord>>,
    /// When the batches in flight were proposed, by their number modulo the length.
    proposed_ns: Box<[u64]>,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            number: 0,
            next_sequence: 0,
            applied_sequence: 0,
            queue: VecDeque::new(),
            barrier: Barrier::Passed,
            pace: Pace::default(),
            spare: Vec::new(),
            proposed_ns: vec![0; IN_FLIGHT_MAX].into_boxed_slice(),
        }
    }
}

impl Stream {
    pub(crate) const fn number(&self) -> u32 {
        self.number
    }

    /// A new term: its first entry is raft's own, and all earlier ones are applied before serving begins.
    pub(crate) fn begin(&mut self) {
        self.number += 1;
        self.next_sequence = 0;
        self.applied_sequence = 0;
        self.queue.clear();
        self.pace.left();
        self.barrier = Barrier::Passed;
    }

    /// The stream was refused: start another one.
    pub(crate) fn restart(&mut self, now_ns: u64) {
        let again = self.barrier != Barrier::Passed;
        self.begin();
        self.barrier = Barrier::Due { not_before_ns: if again { now_ns + BARRIER_RETRY_NS } else { now_ns } };
    }

    /// Whether records may be judged and pushed now.
    pub(crate) fn is_open(&self) -> bool {
        self.barrier == Barrier::Passed && self.queue.len() < QUEUE_MAX
    }

    /// Adds a record judged under `control_index`.
    pub(crate) fn push(&mut self, control_index: ControlIndex, record: FlowRecord) {
        self.pace.joined(&record);
        match self.queue.back_mut() {
            Some(batch) if batch.control_index == control_index && batch.records.len() < ENTRY_RECORDS_MAX => {
                batch.records.push(record);
            }
            _ => {
                let mut records = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(64));
                records.push(record);
                self.queue.push_back(Batch { control_index, records });
            }
        }
    }

    /// Makes sure that an entry leaves, even without records: its header says something new.
    pub(crate) fn push_header(&mut self, control_index: ControlIndex) {
        self.pace.urge();
        if self.queue.is_empty() {
            self.queue.push_back(Batch { control_index, records: self.spare.pop().unwrap_or_default() });
        }
    }

    /// The next batch to propose, with its number. `header` gives what is in force now.
    pub(crate) fn next(
        &mut self,
        now_ns: u64,
        term: Term,
        encoder: &mut Encoder,
        header: impl FnOnce(Option<ControlIndex>) -> EntryHeader,
    ) -> Option<(u32, u64, Bytes)> {
        match self.barrier {
            Barrier::Due { not_before_ns } if now_ns >= not_before_ns => {
                self.barrier = Barrier::Proposed;
                let header = self.number_it(now_ns, term, header(None));
                return Some((header.stream, header.sequence, encoder.entry(header, &[])));
            }
            Barrier::Due { .. } | Barrier::Proposed => return None,
            Barrier::Passed => {}
        }
        if self.next_sequence - self.applied_sequence >= self.proposed_ns.len() as u64 {
            return None;
        }
        // A full batch, or one judged under an earlier configuration, waits for nothing more.
        if !self.pace.lets_go(now_ns) && self.queue.len() < 2 {
            return None;
        }
        let mut batch = self.queue.pop_front()?;
        if self.queue.is_empty() {
            self.pace.left();
        }
        let header = self.number_it(now_ns, term, header(Some(batch.control_index)));
        let bytes = encoder.entry(header, &batch.records);
        batch.records.clear();
        self.spare.push(batch.records);
        Some((header.stream, header.sequence, bytes))
    }

    fn number_it(&mut self, now_ns: u64, term: Term, header: EntryHeader) -> EntryHeader {
        let sequence = self.next_sequence;
        *self.proposed_at(sequence) = now_ns;
        self.next_sequence += 1;
        EntryHeader { term, stream: self.number, sequence, ..header }
    }

    /// An entry of this replica's own was applied. Returns how long ago this stream proposed it.
    pub(crate) fn applied(&mut self, now_ns: u64, header: &EntryHeader) -> Option<u64> {
        // What this stream never sent is not its business.
        if header.stream != self.number || header.sequence >= self.next_sequence {
            return None;
        }
        self.applied_sequence = header.sequence + 1;
        if self.barrier == Barrier::Proposed {
            self.barrier = Barrier::Passed;
        }
        let took_ns = now_ns.saturating_sub(*self.proposed_at(header.sequence));
        self.pace.committed(took_ns);
        Some(took_ns)
    }

    /// When what waits is to be proposed, as far as `next` was asked since it came.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.pace.due_ns()
    }

    /// The same of new flows that wait for others.
    pub(crate) fn gathers_until_ns(&self) -> Option<u64> {
        self.pace.due_ns().filter(|_| self.pace.gathers())
    }

    fn proposed_at(&mut self, sequence: u64) -> &mut u64 {
        let slots = self.proposed_ns.len() as u64;
        &mut self.proposed_ns[usize::try_from(sequence % slots).expect("below the length of a slice")]
    }

    /// When the barrier may be proposed (again).
    pub(crate) const fn barrier_due_ns(&self) -> Option<u64> {
        match self.barrier {
            Barrier::Due { not_before_ns } => Some(not_before_ns),
            Barrier::Passed | Barrier::Proposed => None,
        }
    }
}
