//! The moment between composing a batch and handing it over, in which a simulated worker may be descheduled (F1).

use engine::event::WorkerOutput;

/// A batch that its worker does not hand over before a moment, because it is descheduled.
#[derive(Debug, Default)]
pub(super) struct Ambush {
    until_ns: u64,
    /// Batches that leave before it.
    after: u32,
}

impl Ambush {
    pub(super) const fn new(until_ns: u64, after: u32) -> Self {
        Self { until_ns, after }
    }

    /// Until when, if this output is the one; after it there is none.
    pub(super) fn holds_up(&mut self, now_ns: u64, output: &WorkerOutput) -> Option<u64> {
        if self.until_ns <= now_ns || !matches!(output, WorkerOutput::Propose { .. }) {
            return None;
        }
        match self.after.checked_sub(1) {
            Some(after) => {
                self.after = after;
                None
            }
            None => Some(std::mem::take(&mut self.until_ns)),
        }
    }
}
