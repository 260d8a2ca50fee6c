//! One replica of a flow group: a raft node over a log in memory, its ready loop, its lease word and its elections.
//!
//! Nothing is stepped, ticked or proposed between `ready()` and `advance()`; everything that leaves is an effect, in order,
//! and the word is zeroed before any message that voids it (L2). What only a leader does is in `leading.rs`. Owned and
//! called by `FlowGroups` alone.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata};
use raft::{RawNode, StateRole};

use crate::election;
use crate::event::{Epoch, FlowEffect, GroupId, GroupSpec, Incarnation, Sealing, Timing};
use crate::frame::{ChunkEnd, ChunkHead, Frame, Key};
use crate::guard::{self, FrameDrop};
use crate::handover::Handover;
use crate::lease::Lease;
use crate::membership;
use crate::memory::MemoryLog;
use crate::transfer::{Outgoing, Reload};

/// Effects in the order in which they must be performed.
pub(crate) type Effects = VecDeque<FlowEffect>;

/// How often a sealed replica repeats its report.
const SEALED_REPEAT_NS: u64 = 500_000_000;
/// Entries that stay in the log for followers that lag, beyond what a transfer retains.
const RETAINED_ENTRIES: u64 = 4096;
/// Bytes of such entries.
const RETAINED_BYTES: usize = 8 << 20;
/// Rounds of the ready loop in one call; more means that raft produces work out of nothing.
const READY_ROUNDS_MAX: usize = 10_000;

/// What a replica starts from.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) me: Incarnation,
    pub(crate) spec: GroupSpec,
    pub(crate) timing: Timing,
    /// Index and term of the stored snapshot.
    pub(crate) at: (u64, u64),
    pub(crate) conf: ConfState,
    /// No lease before this time (N4).
    pub(crate) wait_until_ns: u64,
    pub(crate) first_nonce: u64,
}

/// The part of the lease word that the replica writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Word {
    term: u64,
    lease_until_ns: u64,
    grace_until_ns: u64,
}

/// The worker's stream of proposals (F1).
#[derive(Debug, Default)]
struct Stream {
    term: u64,
    number: u32,
    next_sequence: Option<u64>,
    refused: bool,
}

/// One leadership of this replica.
#[derive(Debug)]
pub(crate) struct Leadership {
    pub(crate) term: u64,
    pub(crate) since_ns: u64,
    /// Since when it leads without serving (F7).
    pub(crate) unserved_since_ns: Option<u64>,
    /// When `TimeoutNow` left; no lease any more in this term (L2).
    pub(crate) timeout_sent_ns: Option<u64>,
    /// When each peer answered last.
    pub(crate) heard_ns: BTreeMap<u64, u64>,
    /// Commit indexes of the last heartbeat intervals: a learner that has the older one has caught up.
    pub(crate) commit_marks: (u64, u64),
    pub(crate) transfer: Option<Outgoing>,
    pub(crate) removed_told_ns: Option<u64>,
    pub(crate) health_told: Option<(u64, crate::event::GroupHealth)>,
    pub(crate) behind_told_ns: u64,
}

/// One replica.
pub struct FlowGroup {
    pub(crate) me: Incarnation,
    pub(crate) spec: GroupSpec,
    pub(crate) timing: Timing,
    pub(crate) node: RawNode<MemoryLog>,
    /// The applied configuration, and those before it as far back as the log, by the index that applied them.
    pub(crate) conf: ConfState,
    conf_history: VecDeque<(u64, ConfState)>,
    pub(crate) lease: Lease,
    word: Word,
    pub(crate) leading: Option<Leadership>,
    last_leader_ns: Option<u64>,
    last_leader: Option<Incarnation>,
    sealed_told_ns: Option<u64>,
    sealed: bool,
    stream: Stream,
    pub(crate) worker_index: u64,
    pub(crate) worker_control: u64,
    pub(crate) wait_until_ns: u64,
    pub(crate) handover: Handover,
    reload: Reload,
    elections: u64,
    was_leaving: bool,
    stopping: bool,
}

impl std::fmt::Debug for FlowGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowGroup")
            .field("group", &self.spec.group)
            .field("epoch", &self.spec.epoch)
            .field("me", &self.me)
            .field("term", &self.node.raft.term)
            .field("role", &self.node.raft.state)
            .field("conf", &self.conf)
            .finish_non_exhaustive()
    }
}

fn silent_logger() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}

/// The first term of an epoch; 1 rather than 0 for epoch 0, since raft-rs takes term 0 for "no term".
#[must_use]
pub(crate) fn first_term(epoch: Epoch) -> u64 {
    (u64::from(epoch.0) << 32).max(1)
}

impl FlowGroup {
    /// A replica that starts from a stored snapshot.
    ///
    /// # Panics
    /// If the timing is none that raft accepts.
    pub(crate) fn new(seed: Seed) -> Self {
        let Seed { me, spec, timing, at: (index, snapshot_term), conf, wait_until_ns, first_nonce } = seed;
        let term = first_term(spec.epoch).max(snapshot_term);
        let log = MemoryLog::new(index, snapshot_term, conf.clone(), term);
        let node = RawNode::new(&election::config(me, &timing, index), log, &silent_logger())
            .expect("timing and configuration are valid");
        let mut group = Self {
            me,
            timing,
            node,
            conf_history: VecDeque::from([(index, conf.clone())]),
            conf,
            lease: Lease::new(me.0, timing.lease_ns(), first_nonce),
            word: Word::default(),
            leading: None,
            last_leader_ns: None,
            last_leader: None,
            sealed_told_ns: None,
            sealed: false,
            stream: Stream::default(),
            worker_index: index,
            worker_control: 0,
            wait_until_ns,
            handover: Handover::default(),
            reload: Reload::default(),
            elections: 0,
            was_leaving: spec.leaving.contains(&me),
            stopping: false,
            spec,
        };
        group.set_campaign_time();
        group
    }

    pub(crate) const fn group(&self) -> GroupId {
        self.spec.group
    }

    pub(crate) const fn is_sealed(&self) -> bool {
        self.sealed
    }

    pub(crate) const fn leader_heard_ns(&self) -> Option<u64> {
        self.last_leader_ns
    }

    pub(crate) const fn elections(&self) -> u64 {
        self.elections
    }

    pub(crate) const fn lease_until_ns(&self) -> u64 {
        self.word.lease_until_ns
    }

    /// The leader that this replica follows and when it spoke last.
    pub(crate) fn follows(&self) -> Option<(u64, Incarnation, u64)> {
        let raft = &self.node.raft;
        let leader = Incarnation(raft.leader_id);
        (!self.sealed && raft.leader_id != 0 && leader != self.me).then_some((raft.term, leader, self.last_leader_ns?))
    }

    /// Last term and index of the log (N4).
    pub(crate) fn log_end(&self) -> (u64, u64) {
        (self.node.raft.raft_log.last_term(), self.node.raft.raft_log.last_index())
    }

    /// Whether the control map or the own configuration keeps this replica alive (N1).
    pub(crate) fn is_kept(&self) -> bool {
        let listed = self.spec.members.contains(&self.me) || self.spec.leaving.contains(&self.me);
        // `leaving` ends by the report of the applied change, so whoever was on that list and is gone from it is out.
        listed || (!self.was_leaving && membership::holds(&self.conf, self.me.0))
    }

    /// A new specification of the same epoch.
    pub(crate) fn respecify(&mut self, spec: GroupSpec, now_ns: u64, out: &mut Effects) {
        assert!(spec.group == self.spec.group && spec.epoch == self.spec.epoch, "same group, same epoch");
        self.spec = spec;
        self.was_leaving |= self.spec.leaving.contains(&self.me);
        if self.spec.sealing == Sealing::Yes && !self.sealed {
            self.seal(now_ns, out);
        }
    }

    pub(crate) fn set_stopping(&mut self) {
        self.stopping = true;
    }

    pub(crate) const fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// No more votes, appends or emissions in this epoch (N4). There is no way back.
    fn seal(&mut self, now_ns: u64, out: &mut Effects) {
        self.settle(now_ns, out);
        self.sealed = true;
        self.end_leadership(out);
        self.clear_word(out);
        self.tell_sealed(now_ns, out);
    }

    fn tell_sealed(&mut self, now_ns: u64, out: &mut Effects) {
        if self.sealed_told_ns.is_some_and(|told| now_ns.saturating_sub(told) < SEALED_REPEAT_NS) {
            return;
        }
        self.sealed_told_ns = Some(now_ns);
        let (last_term, last_index) = self.log_end();
        out.push_back(FlowEffect::Sealed { group: self.group(), epoch: self.spec.epoch, last_term, last_index });
    }

    /// The replica ends: its word goes first.
    pub(crate) fn close(&mut self, out: &mut Effects) {
        self.end_leadership(out);
        self.clear_word(out);
    }

    /// Hands out everything up to the end of the log, the uncommitted tail included: the base of a re-creation (N4).
    pub(crate) fn commit_tail(&mut self, now_ns: u64, out: &mut Effects) {
        if !self.sealed {
            self.settle(now_ns, out);
        }
        let applied = self.node.raft.raft_log.applied;
        for entry in self.node.store().after(applied) {
            self.hand_out(&entry, out);
        }
    }

    // ---- time ----

    /// Whether a leader spoke within V (L3).
    pub(crate) fn leader_alive(&self, now_ns: u64) -> bool {
        self.last_leader_ns.is_some_and(|at| now_ns.saturating_sub(at) < self.timing.vote_ns())
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.conf.voters_outgoing.is_empty() && self.conf.voters == [self.me.0]
    }

    /// One tick. Leader's duties follow separately.
    pub(crate) fn tick(&mut self, now_ns: u64, out: &mut Effects) {
        if self.sealed {
            self.tell_sealed(now_ns, out);
            return;
        }
        self.settle(now_ns, out);
        self.maybe_step_down(now_ns);
        let before = self.node.raft.state;
        let would_campaign = before != StateRole::Leader
            && self.node.raft.election_elapsed + 1 >= self.node.raft.randomized_election_timeout();
        if !(would_campaign && self.leader_alive(now_ns)) {
            self.node.tick();
        }
        self.set_campaign_time();
        self.maybe_campaign(before, now_ns);
        self.settle(now_ns, out);
        if self.leading.is_some() && self.is_alone() {
            self.lease.alone(now_ns);
            self.publish_lease(now_ns, out);
        }
    }

    /// E4 and the end of an unsuccessful transfer (L2).
    fn maybe_step_down(&mut self, now_ns: u64) {
        let Some(leadership) = &self.leading else { return };
        let heartbeat_ns = self.timing.tick_ns * u64::from(self.timing.heartbeat_ticks);
        let transfer_failed =
            leadership.timeout_sent_ns.is_some_and(|at| now_ns.saturating_sub(at) >= self.timing.vote_ns());
        let held_until = self.lease.until_ns().max(leadership.since_ns + self.timing.lease_ns());
        let lapsed = leadership.timeout_sent_ns.is_none() && !self.is_alone() && now_ns > held_until + heartbeat_ns;
        if transfer_failed || lapsed {
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, raft::INVALID_ID);
            self.set_campaign_time();
        }
    }

    /// What raft's own timeout does not do: a group of one leads at once, a pre-candidate asks each tick (E2), a candidate
    /// whose votes got lost asks again.
    fn maybe_campaign(&mut self, before: StateRole, now_ns: u64) {
        let state = self.node.raft.state;
        if state == StateRole::Leader || !self.node.raft.promotable() || self.leader_alive(now_ns) {
            return;
        }
        let waited = self.node.raft.election_elapsed;
        let retry = election::retry_ticks(self.rank());
        let again = match before {
            StateRole::PreCandidate => state == StateRole::PreCandidate,
            StateRole::Candidate => state == StateRole::Candidate && waited >= retry,
            StateRole::Follower | StateRole::Leader => false,
        };
        if self.is_alone() || again {
            self.campaign();
        }
    }

    fn campaign(&mut self) {
        // It fails only for a message that may not be stepped, and this is raft's own.
        self.node.campaign().expect("raft takes its own campaign");
        self.set_campaign_time();
    }

    /// E1: raft draws a random timeout at each change of state; ours depends on the rank alone.
    fn set_campaign_time(&mut self) {
        let ticks = election::campaign_ticks(&self.timing, self.rank());
        self.node.raft.set_randomized_election_timeout(ticks);
    }

    fn rank(&self) -> u32 {
        if self.stopping { election::RANK_LAST } else { election::rank(&self.spec, self.me, self.last_leader) }
    }

    /// Forgets log that nobody needs any more.
    pub(crate) fn compact(&mut self) {
        if self.sealed {
            return;
        }
        let applied = self.node.raft.raft_log.applied;
        let retained = self.leading.as_ref().and_then(|l| l.transfer.as_ref()).map_or(applied, Outgoing::retain_from);
        let log = self.node.mut_store();
        let by_count = applied.saturating_sub(RETAINED_ENTRIES);
        // Half at a time, so that a log at its bound is not compacted entry by entry.
        let by_bytes = if log.bytes() > RETAINED_BYTES { log.base() + (applied - log.base()) / 2 } else { 0 };
        log.compact_to(by_count.max(by_bytes).min(retained).max(log.base()));
        let base = log.base();
        while self.conf_history.get(1).is_some_and(|(index, _)| *index <= base) {
            self.conf_history.pop_front();
        }
    }

    /// Term and configuration as of `index`, if the log still reaches there and it is applied.
    pub(crate) fn state_at(&self, index: u64) -> Option<(u64, ConfState)> {
        let log = &self.node.raft.raft_log;
        if index < self.node.store().base() || index > log.applied {
            return None;
        }
        let (_, conf) = self.conf_history.iter().rev().find(|(since, _)| *since <= index)?;
        Some((log.term(index).ok()?, conf.clone()))
    }

    // ---- messages in ----

    /// A raft message of a replica with the right key. Dropped ones come back with the reason.
    pub(crate) fn receive(&mut self, mut m: Message, now_ns: u64, out: &mut Effects) -> Result<(), FrameDrop> {
        if self.sealed {
            return Err(FrameDrop::Sealed);
        }
        guard::admit(&m, &self.node.raft, self.spec.epoch)?;
        let unasked_vote = guard::is_unasked_vote(&m);
        if unasked_vote && self.leader_alive(now_ns) {
            return Err(FrameDrop::LeaderAlive);
        }
        let bulk = matches!(
            m.msg_type,
            MessageType::MsgAppend
                | MessageType::MsgAppendResponse
                | MessageType::MsgHeartbeat
                | MessageType::MsgHeartbeatResponse
        );
        if !bulk {
            // A role may change only with nothing unstored: raft asserts it.
            self.settle(now_ns, out);
        }
        let raft = &self.node.raft;
        if guard::is_of_leader(m.msg_type) && m.term >= raft.term {
            self.last_leader_ns = Some(now_ns);
            self.last_leader = Some(Incarnation(m.from));
        }
        let own_term = m.term == raft.term && raft.state == StateRole::Leader;
        let (kind, from) = (m.msg_type, m.from);
        let nonce = if kind == MessageType::MsgHeartbeatResponse { Some(split_nonce(&mut m)?) } else { None };
        // E2: this log is newer than the one that asks, and no leader lives.
        let help = kind == MessageType::MsgRequestPreVote
            && raft.state == StateRole::Follower
            && raft.promotable()
            && !raft.raft_log.is_up_to_date(m.index, m.log_term);
        if kind == MessageType::MsgTimeoutNow {
            self.handover.was_handed_over(Incarnation(from), now_ns);
        }
        // Errors are raft's way of ignoring a message.
        let _ignored = self.node.step(m);
        self.set_campaign_time();
        if own_term {
            self.answered(from, nonce, now_ns, out);
        }
        if help && unasked_vote && self.node.raft.state == StateRole::Follower {
            self.settle(now_ns, out);
            self.campaign();
        }
        if !bulk {
            self.settle(now_ns, out);
        }
        Ok(())
    }

    /// A peer answered the leader in its own term.
    fn answered(&mut self, from: u64, nonce: Option<u64>, now_ns: u64, out: &mut Effects) {
        let term = self.node.raft.term;
        let Some(leadership) = self.leading.as_mut().filter(|l| l.term == term) else { return };
        leadership.heard_ns.insert(from, now_ns);
        if let Some(nonce) = nonce
            && self.lease.echoed(nonce, from, &self.conf) == crate::lease::Grew::Yes
        {
            self.publish_lease(now_ns, out);
        }
    }

    /// The worker's batch (F1).
    pub(crate) fn propose(&mut self, batch: Batch, out: &mut Effects) {
        let Batch { term, stream, sequence, entry } = batch;
        if (term, stream) < (self.stream.term, self.stream.number) {
            return;
        }
        if (term, stream) > (self.stream.term, self.stream.number) {
            self.stream = Stream { term, number: stream, next_sequence: None, refused: false };
        }
        if self.stream.refused {
            return;
        }
        let in_order = self.stream.next_sequence.is_none_or(|next| next == sequence);
        if in_order && self.accepts(term) && self.append(entry) {
            self.stream.next_sequence = Some(sequence + 1);
        } else {
            self.stream.refused = true;
            out.push_back(FlowEffect::Refused { group: self.group(), term, stream });
        }
    }

    /// Whether proposals of `term` are taken now.
    fn accepts(&self, term: u64) -> bool {
        let raft = &self.node.raft;
        let leads = raft.state == StateRole::Leader && raft.term == term && !self.sealed;
        let stays = self.leading.as_ref().is_some_and(|l| l.term == term && l.timeout_sent_ns.is_none());
        leads && stays && raft.lead_transferee.is_none()
    }

    fn append(&mut self, data: Bytes) -> bool {
        let size = u64::try_from(data.len()).expect("a usize fits in u64");
        // An empty entry is raft's own; a longer one would not fit a message.
        if data.is_empty() || size > election::MESSAGE_BYTES_MAX {
            return false;
        }
        let entry = Entry { data, ..Entry::default() };
        let mut m = Message { from: self.me.0, entries: vec![entry].into(), ..Message::default() };
        m.set_msg_type(MessageType::MsgPropose);
        self.node.raft.step(m).is_ok()
    }

    /// The worker's table moved on.
    pub(crate) fn applied(&mut self, index: u64, control_index: u64) {
        self.worker_index = index;
        self.worker_control = self.worker_control.max(control_index);
    }

    /// The worker serves, or not (F7).
    pub(crate) fn serving(&mut self, term: u64, serves: bool, now_ns: u64) {
        if let Some(l) = self.leading.as_mut().filter(|l| l.term == term) {
            l.unserved_since_ns = if serves { None } else { l.unserved_since_ns.or(Some(now_ns)) };
        }
    }

    // ---- the ready loop ----

    /// Runs the ready loop until nothing is left.
    ///
    /// # Panics
    /// If raft never comes to rest.
    pub(crate) fn settle(&mut self, now_ns: u64, out: &mut Effects) {
        if self.sealed {
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

    fn round(&mut self, now_ns: u64, out: &mut Effects) {
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
            heard_ns: BTreeMap::new(),
            commit_marks: (u64::MAX, u64::MAX),
            transfer: None,
            removed_told_ns: None,
            health_told: None,
            behind_told_ns: 0,
        });
        out.push_back(FlowEffect::Leading { group: self.group(), term });
        Began::Yes
    }

    fn end_leadership(&mut self, out: &mut Effects) {
        if self.leading.take().is_none() {
            return;
        }
        self.lease.reset();
        self.clear_lease(out);
        out.push_back(FlowEffect::Following { group: self.group() });
    }

    fn install(&mut self, metadata: &SnapshotMetadata) {
        let conf = metadata.get_conf_state().clone();
        self.node.mut_store().install(metadata.index, metadata.term, conf.clone());
        self.conf_history = VecDeque::from([(metadata.index, conf.clone())]);
        self.conf = conf;
        self.worker_index = metadata.index;
    }

    fn apply(&mut self, entries: Vec<Entry>, out: &mut Effects) {
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
    fn hand_out(&self, entry: &Entry, out: &mut Effects) {
        let normal = entry.get_entry_type() == EntryType::EntryNormal;
        let data = if normal { entry.data.clone() } else { Bytes::new() };
        out.push_back(FlowEffect::Committed { group: self.group(), index: entry.index, term: entry.term, entry: data });
    }

    fn send(&mut self, messages: Vec<Message>, now_ns: u64, out: &mut Effects) {
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

    pub(crate) const fn key(&self, to: Incarnation) -> Key {
        Key { group: self.spec.group, epoch: self.spec.epoch, from: self.me, to }
    }

    // ---- the word ----

    fn write_word(&mut self, word: Word, out: &mut Effects) {
        if self.word == word {
            return;
        }
        self.word = word;
        let Word { term, lease_until_ns, grace_until_ns } = word;
        out.push_back(FlowEffect::Word { group: self.group(), term, lease_until_ns, grace_until_ns });
    }

    /// The lease ends, the grace stays (L4).
    fn clear_lease(&mut self, out: &mut Effects) {
        self.write_word(Word { lease_until_ns: 0, ..self.word }, out);
    }

    /// Nothing may leave any more.
    fn clear_word(&mut self, out: &mut Effects) {
        self.write_word(Word { lease_until_ns: 0, grace_until_ns: 0, ..self.word }, out);
    }

    /// A successor leads in `term`: the grace of an ex-owner ends (L4).
    pub(crate) fn successor_known(&mut self, term: u64, out: &mut Effects) {
        if term > self.word.term && self.leading.is_none() {
            self.clear_word(out);
        }
    }

    /// Writes the lease, if this replica may have one (L2, N4).
    fn publish_lease(&mut self, now_ns: u64, out: &mut Effects) {
        let until = self.lease.until_ns();
        let Some(leadership) = &self.leading else { return };
        let raft = &self.node.raft;
        let leads = raft.state == StateRole::Leader && raft.term == leadership.term;
        if !leads || leadership.timeout_sent_ns.is_some() || now_ns < self.wait_until_ns || until <= now_ns {
            return;
        }
        let term = leadership.term;
        let grace_until_ns = until + self.timing.orphan_grace_ns;
        self.write_word(Word { term, lease_until_ns: until, grace_until_ns }, out);
    }

    // ---- loading the table anew ----

    /// The leader's log does not reach back to this replica's end; answers with what is needed.
    pub(crate) fn fell_behind(&self, from: Incarnation, out: &mut Effects) {
        let raft = &self.node.raft;
        if self.sealed || raft.state != StateRole::Follower || raft.leader_id != from.0 {
            return;
        }
        let frame = Frame::Join { key: self.key(from), have: self.reload.have() }.encode();
        out.push_back(FlowEffect::Send { to: from, group: self.group(), frame });
    }

    /// A chunk for a replica that reloads. Term, vote and every acknowledged entry stay: the new table is installed as
    /// raft's own snapshot of a committed prefix, and only when it is complete.
    pub(crate) fn reload_chunk(&mut self, piece: Piece, now_ns: u64, out: &mut Effects) {
        let Piece { from, head, end, chunk } = piece;
        let raft = &self.node.raft;
        if self.sealed || raft.state != StateRole::Follower || raft.leader_id != from.0 {
            return;
        }
        let Some(chunks) = self.reload.take(from, head, chunk, end.is_some()) else { return };
        let Some(end) = end else { return };
        self.settle(now_ns, out);
        let raft = &self.node.raft;
        let term = raft.term;
        let follows = raft.state == StateRole::Follower && raft.leader_id == from.0 && end.base_term <= term;
        if !follows || !membership::holds(&end.conf, self.me.0) || end.conf.learners_next.contains(&self.me.0) {
            return;
        }
        let (index, group) = (head.base, self.group());
        let replaces = index > raft.raft_log.committed && !raft.raft_log.match_term(index, end.base_term);
        if replaces {
            out.push_back(FlowEffect::Opened { group, epoch: self.spec.epoch, index });
            let epoch = self.spec.epoch;
            out.extend(chunks.into_iter().map(|chunk| FlowEffect::Load { group, epoch, chunk }));
            out.push_back(FlowEffect::Loaded { group, base: index, until: end.until });
        }
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = index;
        snapshot.mut_metadata().term = end.base_term;
        snapshot.mut_metadata().set_conf_state(end.conf);
        let mut m = Message { from: from.0, to: self.me.0, term, ..Message::default() };
        m.set_msg_type(MessageType::MsgSnapshot);
        m.set_snapshot(snapshot);
        let _ignored = self.node.step(m);
        self.set_campaign_time();
        self.settle(now_ns, out);
    }
}

/// A worker's batch.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) term: u64,
    pub(crate) stream: u32,
    pub(crate) sequence: u64,
    pub(crate) entry: Bytes,
}

/// A chunk from a peer.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) from: Incarnation,
    pub(crate) head: ChunkHead,
    pub(crate) end: Option<ChunkEnd>,
    pub(crate) chunk: Bytes,
}

/// Whether a leadership began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Began {
    Yes,
    No,
}

/// Takes the nonce off a heartbeat's echo, leaving raft's own context.
fn split_nonce(m: &mut Message) -> Result<u64, FrameDrop> {
    let (nonce, rest) = m.context.split_first_chunk::<8>().ok_or(FrameDrop::Context)?;
    let nonce = u64::from_le_bytes(*nonce);
    m.context = Bytes::copy_from_slice(rest);
    Ok(nonce)
}
