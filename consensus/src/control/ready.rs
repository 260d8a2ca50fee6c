//! The ready loop: what raft wants stored goes to the store first, and what it acknowledges leaves after that (C3).

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeV2, Entry, EntryType, Message, MessageType};

use super::{ControlGroup, committed, log};
use crate::control::storage::{Durability, LogCut, LogStore, SnapshotWrite, Write};
use crate::event::ControlEffect;
use crate::wire::{self, KIND_CONTROL_MESSAGE};

impl<S: LogStore> ControlGroup<S> {
    /// One round of raft's work, from `ready` to `advance_apply`.
    pub(super) fn ready_round(&mut self) {
        let mut ready = self.node.ready();
        for message in ready.take_messages() {
            self.send(message);
        }
        if let Some(hard_state) = ready.hs() {
            self.hard_state = hard_state.clone();
        }
        let durability = if ready.must_sync() { Durability::Synced } else { Durability::Buffered };
        let snapshot = (!ready.snapshot().is_empty()).then(|| log::stored_snapshot(ready.snapshot()));
        let entries = ready.take_entries();
        let changed = ready.hs().is_some() || snapshot.is_some() || !entries.is_empty();
        if let Some(snapshot) = &snapshot {
            self.applied = snapshot.index;
            self.conf_state = snapshot.conf_state.clone();
            self.last_change = 0;
        }
        let snapshot_write = snapshot.clone().map(|snapshot| SnapshotWrite { snapshot, log: LogCut::All });
        if changed && !self.write(snapshot_write, &entries, durability) {
            return;
        }
        let log = self.node.mut_store();
        if let Some(snapshot) = snapshot {
            self.effects.push_back(ControlEffect::Restore { index: snapshot.index, state: snapshot.state.clone() });
            log.restore(snapshot);
            log.append(&entries);
            self.configured();
        } else {
            log.append(&entries);
        }
        for message in ready.take_persisted_messages() {
            self.send(message);
        }
        let before = self.applied;
        self.apply(ready.take_committed_entries());
        let mut light = self.node.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.hard_state.commit = commit;
        }
        for message in light.take_messages() {
            self.send(message);
        }
        self.apply(light.take_committed_entries());
        self.node.advance_apply();
        if self.applied != before {
            // Raft can always find out again what is committed, so this need not survive a power loss. That it is in the
            // store before the next entries are keeps a replica that forgot a membership change from campaigning by the
            // old one: the commit index that comes with an entry is stored with it.
            self.write(None, &[], Durability::Buffered);
        }
        self.draw_timeout();
        self.report_role();
    }

    pub(super) fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            assert_eq!(entry.index, self.applied + 1, "committed entries come in order and without gaps");
            self.applied = entry.index;
            self.effects.push_back(committed(&entry));
            if entry.entry_type != EntryType::EntryNormal {
                self.last_change = entry.index;
                self.apply_change(&entry);
            }
        }
    }

    /// Applies a membership change. One that cannot be read or applied is no change, on every replica alike.
    pub(super) fn apply_change(&mut self, entry: &Entry) {
        let conf_state = if entry.entry_type == EntryType::EntryConfChange {
            let mut change = ConfChange::default();
            change.merge_from_bytes(&entry.data).ok().and_then(|()| self.node.apply_conf_change(&change).ok())
        } else {
            let mut change = ConfChangeV2::default();
            change.merge_from_bytes(&entry.data).ok().and_then(|()| self.node.apply_conf_change(&change).ok())
        };
        if let Some(conf_state) = conf_state {
            self.conf_state = log::sorted(conf_state);
            self.configured();
        }
    }

    /// Writes, together with hard state, configuration and applied index (C3). False ends this incarnation (C4).
    pub(super) fn write(&mut self, snapshot: Option<SnapshotWrite>, entries: &[Entry], durability: Durability) -> bool {
        let write = Write {
            snapshot,
            entries,
            hard_state: &self.hard_state,
            conf_state: &self.conf_state,
            applied: self.applied,
        };
        match self.store.write(&write, durability) {
            Ok(()) => true,
            Err(error) => {
                self.failed = true;
                self.role.2 = false;
                self.effects.push_back(ControlEffect::StoreFailed { reason: error.to_string() });
                false
            }
        }
    }

    pub(super) fn send(&mut self, message: Message) {
        if message.msg_type == MessageType::MsgSnapshot {
            self.snapshots_sent_ns.insert(message.to, self.now_ns);
        }
        let mut body = Vec::new();
        wire::encode_message(&message, &mut body);
        let frame = wire::seal(KIND_CONTROL_MESSAGE, &body).into();
        self.effects.push_back(ControlEffect::Send { to: message.to, frame });
    }
}
