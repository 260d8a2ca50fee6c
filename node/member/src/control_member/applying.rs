//! From the log into the state: entries in their order, what came of them, and the version that the rest of the node is told.

use std::sync::Arc;

use consensus::control::storage::LogStore;
use consensus::event::ControlInput;
use control::command::Command;
use control::outcome::{Outcome, Yield};

use super::io::{ControlOut, Now};
use super::job::Waiting;
use super::{ControlMember, Pending, Phase};
use crate::view::View;
use words::time::MS;

/// Entries wait for somebody who reads the state, but for no longer than this: after that they go on with a copy of it.
const READERS_NS: u64 = 1_000 * MS;

impl<S: LogStore> ControlMember<S> {
    /// Applies what was committed, and tells what came of it; false if there is nothing, or the rest has to wait: for the
    /// next tick, so that heartbeats and signs of life go on however much there is, or for a job.
    pub(super) fn apply_committed(&mut self, now: Now) -> bool {
        let mut some = false;
        while self.work_left > 0 && !self.backlog.is_empty() && self.may_apply(now) {
            some = true;
            match self.backlog.pop() {
                Some(Waiting::Entry { index, bytes }) => self.apply(now, index, &bytes),
                Some(Waiting::State { index, bytes }) => self.restore(now, index, bytes),
                None => {}
            }
        }
        self.tell_changes(now);
        some
    }

    /// Compiles and tells what single entries have changed.
    pub(super) fn tell_changes(&mut self, now: Now) {
        if let Some(books) = self.books.as_mut().filter(|_| std::mem::take(&mut self.changed)) {
            let snapshot = books.compiler.snapshot(&self.state);
            let view = Arc::new(View::of(&self.state, snapshot));
            self.tell(now, view);
        }
    }

    /// Another version of the state is applied.
    pub(super) fn tell(&mut self, now: Now, view: Arc<View>) {
        self.notice_own_end();
        self.out.push_back(ControlOut::View(view));
        if let Phase::Running(group) = &mut self.phase {
            group.handle(now.ns, ControlInput::Members { voters: self.state.control_voters() });
        }
    }

    fn apply(&mut self, now: Now, index: u64, command: &[u8]) {
        let decoded = Command::decode(command);
        let weight = decoded.as_ref().map_or(1, |command| command.body.weight());
        self.work_left = self.work_left.saturating_sub(weight);
        match decoded {
            Ok(command) if command.body.settles() => return self.apply_apart(now, index, command),
            Ok(command) => {
                let outcome = Arc::make_mut(&mut self.state).apply(index, &command);
                self.upload_answered(now, command.key, &outcome);
                self.answered(&command, outcome);
            }
            // Raft's own entries, and what no version writes.
            Err(_) => drop(Arc::make_mut(&mut self.state).apply_bytes(index, command)),
        }
        let ports = self.books.as_mut().and_then(|books| books.port_log.follow(&self.state));
        self.out.extend(ports.map(ControlOut::Ports));
        self.changed = true;
        self.compact_if_due(now);
    }

    /// The log answered a command, perhaps one of ours.
    pub(super) fn answered(&mut self, command: &Command, outcome: Outcome) {
        self.answer_joiner(command, &outcome);
        if self.registering == Some(command.key) {
            match &outcome {
                Outcome::Applied { result: Yield::Incarnation(life), .. } => {
                    self.incarnation = Some(*life);
                    self.out.push_back(ControlOut::Registered(*life));
                }
                Outcome::Refused(refusal) => {
                    self.registering = None;
                    self.end(refusal.to_string());
                }
                Outcome::Applied { .. } => self.registering = None,
            }
        }
        if let Some(Pending { ticket: Some(ticket), .. }) = self.pending.remove(&command.key) {
            self.out.push_back(ControlOut::Done { ticket, result: Ok(outcome) });
        }
    }

    /// Whether the next entry may be applied: the state is with nobody else.
    fn may_apply(&mut self, now: Now) -> bool {
        if self.books.is_none() {
            return false;
        }
        if Arc::strong_count(&self.state) == 1 {
            self.read_since_ns = None;
            return true;
        }
        now.ns.saturating_sub(*self.read_since_ns.get_or_insert(now.ns)) >= READERS_NS
    }

    /// Tells all that stands of ports anew ([`ControlOut::Ports`]): whoever writes it down has lost some.
    pub fn retell_ports(&mut self) {
        // With a job it is told later: whoever asks does so until it is told.
        let Some(books) = &mut self.books else { return };
        self.out.push_back(ControlOut::Ports(books.port_log.restart(&self.state)));
    }
}
