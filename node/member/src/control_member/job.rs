//! What walks over the whole state is no step of the member's own thread, where ticks are due: it is a [`Job`], which the
//! driver runs wherever it likes and brings back ([`super::ControlMember::finish`]).
//!
//! Meanwhile nothing else is applied: what is committed waits in the [`Backlog`]. All else goes on, with the state as it
//! was: heartbeats, votes, signs of life, answers. A job comes to the same whenever and wherever it runs (I22); it must never
//! look at anything but the state that it was lent. The same holds for whoever reads the state on another thread.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use control::command::Command;
use control::compile::Compiler;
use control::outcome::Outcome;
use control::port_log::{PortBatch, PortLog};
use control::state::State;

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
    pub(super) state: Arc<State>,
    pub(super) books: Books,
    pub(super) work: Work,
}

#[derive(Clone, Debug)]
pub(super) enum Work {
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
    pub(super) books: Books,
    pub(super) result: Done,
}

#[derive(Debug)]
pub(super) enum Done {
    Applied { command: Command, outcome: Outcome, next: Next },
    Encoded { index: u64, bytes: Option<Bytes> },
    Restored { index: u64, next: Next },
    Unreadable { why: String },
}

/// The state from now on, and what there is to tell of it.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) state: Arc<State>,
    pub(super) ports: Option<PortBatch>,
    pub(super) view: Arc<View>,
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
