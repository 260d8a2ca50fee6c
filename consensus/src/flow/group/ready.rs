//! The ready loop: what raft wants stored, sent and applied, until it comes to rest. The word is zeroed before any message that
//! voids it (L2).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use protobuf::Message as _;
use raft::StateRole;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType, Message, MessageType, SnapshotMetadata};
use words::{GroupEvent, Incarnation, LogIndex, Term};

use super::{Effects, FlowGroup, Leadership};
use crate::event::FlowEffect;
use crate::flow::frame::Frame;

/// Rounds of the ready loop in one call; more means that raft produces work out of nothing.
const READY_ROUNDS_MAX: usize = 10_000;

impl FlowGroup {
    /// Runs the ready loop until nothing is left.
    ///
    /// # Panics
    /// If raft never comes to rest.
    pub(crate) fn settle(&mut self, now_ns: u64, out: &mut Effects) {
        if self.is_sealed() {
            return;
        }
        for _ in 0..READY_ROUNDS_MAX {
            if self.observe(now_ns, out) == Began::Yes {
                // Its lease would otherwise wait for a heartbeat interval (E2).
                self.node.ping();
            }
            if !self.node.has_ready() {
                return;
            }
            self.round(now_ns, out);
        }
        panic!("the ready loop comes to rest");
    }

    pub(super) fn round(&mut self, now_ns: u64, out: &mut Effects) {
        let mut ready = self.node.ready();
        self.send(ready.take_messages(), now_ns, out);
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata().clone();
            self.install(&metadata);
        }
        self.node.mut_store().append(ready.take_entries());
        if let Some(hard) = ready.hs() {
            self.node.mut_store().set_hard_state(hard.clone());
        }
        self.send(ready.take_persisted_messages(), now_ns, out);
        self.apply(ready.take_committed_entries(), out);
        let mut light = self.node.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.node.mut_store().set_commit(commit);
        }
        self.send(light.take_messages(), now_ns, out);
        self.apply(light.take_committed_entries(), out);
        self.node.advance_apply();
    }

    /// Follows raft's role. The word is cleared here, before any message of the round leaves (L2).
    fn observe(&mut self, now_ns: u64, out: &mut Effects) -> Began {
        let raft = &self.node.raft;
        let leads = (raft.state == StateRole::Leader).then_some(raft.term);
        if self.leading.as_ref().map(|l| l.term) == leads {
            return Began::No;
        }
        self.end_leadership(out);
        let Some(term) = leads else {
            self.set_campaign_time();
            return Began::No;
        };
        self.lease.reset();
        self.last_leader = Some(self.me);
        self.elections += 1;
        self.handover.leadership_began();
        self.leading = Some(Leadership {
            term,
            since_ns: now_ns,
            unserved_since_ns: Some(now_ns.max(self.wait_until_ns)),
            timeout_sent_ns: None,
            lapsed_ticks: 0,
            heard_ns: BTreeMap::new(),
            commit_marks: (u64::MAX, u64::MAX),
            transfer: None,
            removed_told_ns: None,
            health_told: None,
            behind_told_ns: 0,
        });
        out.push_back(FlowEffect::Worker(GroupEvent::Leading { shard: self.group(), term: Term(term) }));
        Began::Yes
    }

    pub(super) fn end_leadership(&mut self, out: &mut Effects) {
        if self.leading.take().is_none() {
            return;
        }
        self.lease.reset();
        self.clear_lease(out);
        out.push_back(FlowEffect::Worker(GroupEvent::Following { shard: self.group() }));
    }

    pub(super) fn install(&mut self, metadata: &SnapshotMetadata) {
        let conf = metadata.get_conf_state().clone();
        self.node.mut_store().install(metadata.index, metadata.term, conf.clone());
        self.conf_history = VecDeque::from([(metadata.index, conf.clone())]);
        self.conf = conf;
        self.worker_index = metadata.index;
    }

    pub(super) fn apply(&mut self, entries: Vec<Entry>, out: &mut Effects) {
        for entry in entries {
            self.hand_out(&entry, out);
            // Changes of the first kind are never proposed here, and would be refused alike everywhere.
            if entry.get_entry_type() != EntryType::EntryConfChangeV2 {
                continue;
            }
            let change = ConfChangeV2::parse_from_bytes(&entry.data).ok();
            let Some(conf) = change.and_then(|change| self.node.apply_conf_change(&change).ok()) else { continue };
            self.conf_history.push_back((entry.index, conf.clone()));
            self.conf = conf;
            self.lease.membership_changed();
            if let Some(leadership) = &mut self.leading {
                leadership.removed_told_ns = None;
            }
        }
    }

    /// One committed entry to the worker; raft's own and membership changes are empty there.
    pub(super) fn hand_out(&self, entry: &Entry, out: &mut Effects) {
        let normal = entry.get_entry_type() == EntryType::EntryNormal;
        let data = if normal { entry.data.clone() } else { Bytes::new() };
        let (index, term) = (LogIndex(entry.index), Term(entry.term));
        out.push_back(FlowEffect::Worker(GroupEvent::Committed { shard: self.group(), index, term, entry: data }));
    }

    pub(super) fn send(&mut self, messages: Vec<Message>, now_ns: u64, out: &mut Effects) {
        let mut round_nonce = None;
        for mut m in messages {
            if m.msg_type == MessageType::MsgHeartbeat {
                let nonce = *round_nonce.get_or_insert_with(|| self.lease.sent(now_ns));
                let mut context = nonce.to_le_bytes().to_vec();
                context.extend_from_slice(&m.context);
                m.context = context.into();
            } else if m.msg_type == MessageType::MsgTimeoutNow {
                self.clear_lease(out);
                if let Some(leadership) = &mut self.leading {
                    leadership.timeout_sent_ns.get_or_insert(now_ns);
                }
            }
            let to = Incarnation(m.to);
            let frame = Frame::Raft { key: self.key(to), message: m }.encode();
            out.push_back(FlowEffect::Send { to, group: self.group(), frame });
        }
    }
}

/// Whether a leadership began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Began {
    Yes,
    No,
}
