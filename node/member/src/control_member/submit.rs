//! Commands on their way into the log: kept and submitted again until the log answers; those of other nodes only if they
//! speak for themselves.

use bytes::Bytes;
use consensus::control::storage::LogStore;
use consensus::event::ControlInput;
use control::Refusal;
use control::command::{Command, CommandBody, Key};
use control::outcome::Outcome;
use control::parts::Cut;
use engine::ids::NodeId;

use super::io::{ControlOut, NotDone, Now};
use super::{ControlMember, Pending, Phase, RETRY_NS};
use crate::frame::ControlFrame;
use words::time::MS;

/// After that the submitter hears that it took too long.
const DEADLINE_NS: u64 = 10_000 * MS;

impl<S: LogStore> ControlMember<S> {
    /// Submits a command; `Done` with this ticket follows. A configuration too long for one entry goes in parts.
    pub fn submit(&mut self, now: Now, ticket: u64, body: CommandBody) {
        let cut = if let CommandBody::Configure(configure) = body { Cut::of(configure) } else { Ok(Cut::Whole(body)) };
        match cut {
            Ok(cut) => self.submit_cut(now, ticket, cut),
            Err(_) => self.out.push_back(ControlOut::Done { ticket, result: Err(NotDone::TooLarge) }),
        }
    }

    /// The same, cut already: to cut a long configuration takes a while.
    pub fn submit_cut(&mut self, now: Now, ticket: u64, cut: Cut) {
        match cut {
            Cut::Parts(parts, hash) => self.upload(now, ticket, parts, hash),
            Cut::Whole(body) => {
                if self.enqueue(now, Some(ticket), body).is_none() {
                    self.out.push_back(ControlOut::Done { ticket, result: Err(NotDone::TooLarge) });
                }
            }
        }
    }

    pub(super) fn enqueue(&mut self, now: Now, ticket: Option<u64>, body: CommandBody) -> Option<Key> {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.rng.draw().to_be_bytes());
        key[8..].copy_from_slice(&self.rng.draw().to_be_bytes());
        let judged = matches!(body, CommandBody::StopTokenTake { .. });
        self.asked_to_stop |= matches!(body, CommandBody::StopTokenTake { node, .. } if node == self.me.node);
        let command = Command { key, stamped_unix_ms: now.unix_ms, draw: self.rng.draw(), body };
        let bytes = Bytes::from(command.encode().ok()?);
        let (next_ns, deadline_ns) = (now.ns, now.ns + DEADLINE_NS);
        self.pending.insert(key, Pending { bytes, ticket, own: false, judged, next_ns, deadline_ns });
        self.submit_pending(now, key);
        Some(key)
    }

    pub(super) fn resubmit(&mut self, now: Now) {
        let late: Vec<Key> =
            self.pending.iter().filter(|(_, p)| now.ns >= p.deadline_ns).map(|(key, _)| *key).collect();
        for key in late {
            if self.registering == Some(key) {
                self.registering = None;
            }
            if let Some(Pending { ticket: Some(ticket), .. }) = self.pending.remove(&key) {
                self.out.push_back(ControlOut::Done { ticket, result: Err(NotDone::Timeout) });
            }
            self.upload_late(key);
        }
        let due = self.pending.iter().filter(|(_, pending)| now.ns >= pending.next_ns);
        let due: Vec<Key> = due.map(|(key, _)| *key).collect();
        for key in due {
            self.submit_pending(now, key);
        }
    }

    /// Proposes one, or sends it to whoever leads.
    fn submit_pending(&mut self, now: Now, key: Key) {
        let leader = self.node_of_raft(self.leader);
        let Some(pending) = self.pending.get(&key) else { return };
        let (bytes, judged) = (pending.bytes.clone(), pending.judged);
        if !matches!(self.phase, Phase::Running(_)) {
            return;
        }
        if self.leading() {
            match if judged { self.judged(now, bytes) } else { Ok(bytes) } {
                Ok(bytes) => self.propose(now, bytes),
                Err(refusal) => return self.answer_without_entry(key, refusal),
            }
        } else if let Some(to) = leader {
            let frame = ControlFrame::Submit { command: bytes }.encode();
            self.out.push_back(ControlOut::Send { to, frame });
        } else {
            return;
        }
        if let Some(pending) = self.pending.get_mut(&key) {
            pending.next_ns = now.ns + RETRY_NS;
        }
    }

    fn propose(&mut self, now: Now, command: Bytes) {
        if let Phase::Running(group) = &mut self.phase {
            self.tickets += 1;
            group.handle(now.ns, ControlInput::Propose { ticket: self.tickets, command });
        }
    }

    /// The leader does not propose it: whoever submitted it hears why at once.
    fn answer_without_entry(&mut self, key: Key, refusal: Refusal) {
        if let Some(Pending { ticket: Some(ticket), .. }) = self.pending.remove(&key) {
            self.out.push_back(ControlOut::Done { ticket, result: Ok(Outcome::Refused(refusal)) });
        }
    }

    /// The node `from` does not propose one of ours; only the leader's word counts.
    pub(super) fn declined(&mut self, from: NodeId, key: Key, refusal: Refusal) {
        if self.node_of_raft(self.leader) == Some(from) {
            self.answer_without_entry(key, refusal);
        }
    }

    /// A command of another node. What speaks for a node must come from that node; but a member that does not lead hands on
    /// that a node asks to join, which may not reach the leader.
    pub(super) fn forwarded(&mut self, now: Now, from: NodeId, bytes: Bytes) {
        let Ok(command) = Command::decode(&bytes) else { return };
        let spoken_for = match &command.body {
            CommandBody::RegisterIncarnation(registration) => Some(registration.node),
            CommandBody::JoinControl(joiner) => Some(joiner.node),
            CommandBody::StopTokenTake { node, .. } | CommandBody::StopTokenReturn { node } => Some(*node),
            CommandBody::Sealed { incarnation, .. } => self.state.registry().node_of(*incarnation),
            // Any member may submit these for the cluster.
            CommandBody::Noop
            | CommandBody::Configure(_)
            | CommandBody::ConfigureBegin
            | CommandBody::ConfigurePart { .. }
            | CommandBody::ConfigureCommit { .. }
            | CommandBody::ControlConfApplied { .. }
            | CommandBody::ReplicaGone { .. }
            | CommandBody::VotersApplied { .. }
            | CommandBody::SealEpoch { .. }
            | CommandBody::Recreate { .. }
            | CommandBody::EpochServed { .. }
            | CommandBody::ReclaimComplete { .. }
            | CommandBody::StopTokenRevoke
            | CommandBody::RemoveNode { .. }
            | CommandBody::SetLevel { .. }
            | CommandBody::SetMembers { .. }
            | CommandBody::RetireFrontends { .. }
            | CommandBody::DrainNode { .. }
            | CommandBody::ResumeNode { .. }
            | CommandBody::SetServiceTags(_)
            | CommandBody::HealthChanged(_) => None,
        };
        let asks_to_join = matches!(command.body, CommandBody::JoinControl(_));
        let handed_on = asks_to_join && self.state.registry().members().any(|(id, _)| id == from);
        if spoken_for.is_some_and(|node| node != from) && !handed_on {
            return;
        }
        if !self.leading() {
            let leader = self.node_of_raft(self.leader).filter(|leader| *leader != from);
            if let Some(to) = leader.filter(|_| asks_to_join && spoken_for == Some(from)) {
                let frame = ControlFrame::Submit { command: bytes }.encode();
                self.out.push_back(ControlOut::Send { to, frame });
            }
            return;
        }
        match self.judged(now, bytes) {
            Ok(bytes) => self.propose(now, bytes),
            Err(refusal) => {
                let frame = ControlFrame::Declined { key: command.key, refusal }.encode();
                self.out.push_back(ControlOut::Send { to: from, frame });
            }
        }
    }
}
