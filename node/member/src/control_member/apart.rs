//! What the member has done apart, as jobs (`job`), and what it does with them when they are back.

use std::sync::Arc;

use bytes::Bytes;
use consensus::control::storage::LogStore;
use consensus::event::ControlInput;
use control::command::Command;
use control::state::State;

use super::io::{ControlOut, Now};
use super::job::{Done, Finished, Job, Work};
use super::{ControlMember, Phase};

impl<S: LogStore> ControlMember<S> {
    /// Applies an entry that may change everything.
    pub(super) fn apply_apart(&mut self, now: Now, index: u64, command: Command) {
        self.lend(now, Work::Apply { index, command });
    }

    /// Reads a state that came whole. The first one of a life at once: without it there is nothing to go on with.
    pub(super) fn restore(&mut self, now: Now, index: u64, bytes: Bytes) {
        let job = self.job(now, Work::Restore { index, bytes });
        if self.founded {
            self.out.push_back(ControlOut::Job(Box::new(job)));
        } else {
            drop(self.finish(now, job.run()));
        }
    }

    /// Writes the state down if it is time to.
    pub(super) fn compact_if_due(&mut self, now: Now) {
        let index = self.state.index().0;
        if index >= self.compacted + self.compact_every && self.books.is_some() {
            self.compacted = index;
            self.lend(now, Work::Encode);
        }
    }

    fn lend(&mut self, now: Now, work: Work) {
        let job = self.job(now, work);
        self.out.push_back(ControlOut::Job(Box::new(job)));
    }

    fn job(&mut self, now: Now, work: Work) -> Job {
        // Not with the job's: it would be late.
        self.tell_changes(now);
        let books = self.books.take().expect("one job at a time: entries are applied only when the last one is back");
        Job { state: Arc::clone(&self.state), books, work }
    }

    /// Takes a job back. What is returned is nobody's any more: to free it may take as long as a walk.
    pub fn finish(&mut self, now: Now, finished: Finished) -> Option<Arc<State>> {
        let Finished { books, result } = finished;
        self.books = Some(books);
        match result {
            Done::Applied { command, outcome, next } => {
                let before = std::mem::replace(&mut self.state, next.state);
                self.upload_answered(now, command.key, &outcome);
                self.answered(&command, outcome);
                self.out.extend(next.ports.map(ControlOut::Ports));
                self.tell(now, next.view);
                self.compact_if_due(now);
                Some(before)
            }
            Done::Restored { index, next } => {
                let before = std::mem::replace(&mut self.state, next.state);
                self.founded = true;
                self.compacted = index;
                self.out.extend(next.ports.map(ControlOut::Ports));
                self.tell(now, next.view);
                Some(before)
            }
            Done::Unreadable { why } => {
                self.fail(why);
                None
            }
            Done::Encoded { index, bytes } => {
                if let (Some(state), Phase::Running(group)) = (bytes, &mut self.phase) {
                    group.handle(now.ns, ControlInput::Compact { index, state });
                }
                None
            }
        }
    }
}
