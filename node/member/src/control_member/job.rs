//! What walks over the whole state is no step of the member's own thread, where ticks are due: it is a [`Job`], which the
//! driver runs wherever it likes and brings back ([`ControlMember::finish`]).
//!
//! Meanwhile nothing else is applied: what is committed waits in the [`Backlog`]. All else goes on, with the state as it
//! was: heartbeats, votes, signs of life, answers. A job comes to the same whenever and wherever it runs (I22); it must never
//! look at anything but the state that it was lent. The same holds for whoever reads the state on another thread.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use consensus::control::storage::LogStore;
use consensus::event::ControlInput;
use control::command::Command;
use control::compile::Compiler;
use control::outcome::Outcome;
use control::port_log::{PortBatch, PortLog};
use control::state::State;

use super::{ControlMember, ControlOut, Now, Phase};
use crate::view::View;

/// What follows the state entry by entry.
#[derive(Clone, Debug)]
pub(super) struct Books {
    pub(super) compiler: Compiler,
    pub(super) port_log: PortLog,
}

/// A walk over the whole state.
#[derive(Clone, Debug)]
pub struct Job {
    state: Arc<State>,
    books: Books,
    work: Work,
}

#[derive(Clone, Debug)]
enum Work {
    /// Apply an entry that may change everything.
    Apply { index: u64, command: Command },
    /// Write the state down, for the log before it to be cut off.
    Encode,
    /// Read one that came whole, up to the entry `index`.
    Restore { index: u64, bytes: Bytes },
}

/// A job that was done.
#[derive(Debug)]
pub struct Finished {
    books: Books,
    result: Done,
}

#[derive(Debug)]
enum Done {
    Applied { command: Command, outcome: Outcome, next: Next },
    Encoded { index: u64, bytes: Option<Bytes> },
    Restored { index: u64, next: Next },
    Unreadable { why: String },
}

/// The state from now on, and what there is to tell of it.
#[derive(Debug)]
struct Next {
    state: Arc<State>,
    ports: Option<PortBatch>,
    view: Arc<View>,
}

impl Books {
    fn next(&mut self, state: State, ports: Option<PortBatch>) -> Next {
        let view = Arc::new(View::of(&state, self.compiler.snapshot(&state)));
        Next { state: Arc::new(state), ports, view }
    }
}

impl Job {
    /// Does it.
    #[must_use]
    pub fn run(self) -> Finished {
        let Self { state: before, mut books, work } = self;
        let result = match work {
            Work::Encode => {
                let bytes = before.encode().ok().map(Bytes::from);
                Done::Encoded { index: before.index().0, bytes }
            }
            Work::Apply { index, command } => {
                let mut state = State::clone(&before);
                let outcome = state.apply(index, &command);
                let ports = books.port_log.follow(&state);
                Done::Applied { command, outcome, next: books.next(state, ports) }
            }
            Work::Restore { index, bytes } => match State::decode(&bytes) {
                Ok(state) => {
                    let ports = Some(books.port_log.restart(&state));
                    books.compiler.restart();
                    Done::Restored { index, next: books.next(state, ports) }
                }
                Err(error) => {
                    let why = format!("the stored control state at index {index} cannot be read: {error}");
                    Done::Unreadable { why }
                }
            },
        };
        Finished { books, result }
    }
}

/// What the log has committed and the state has not yet. When it is full, what comes after stays with the group, and the
/// group's messages with it.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) enum Waiting {
    Entry {
        index: u64,
        bytes: Bytes,
    },
    /// The state came whole.
    State {
        index: u64,
        bytes: Bytes,
    },
}

impl Waiting {
    fn len(&self) -> usize {
        match self {
            Self::Entry { bytes, .. } | Self::State { bytes, .. } => bytes.len(),
        }
    }
}

impl Backlog {
    pub(super) const ENTRIES_MAX: usize = 4_096;
    pub(super) const BYTES_MAX: usize = 64 << 20;

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < Self::ENTRIES_MAX && self.bytes < Self::BYTES_MAX
    }

    pub(super) fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.len();
        self.waiting.push_back(waiting);
    }

    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let next = self.waiting.pop_front()?;
        self.bytes -= next.len();
        Some(next)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

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
