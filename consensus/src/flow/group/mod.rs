//! One replica of a flow group: a raft node over a log in memory, its ready loop, its lease word and its elections.
//!
//! Nothing is stepped, ticked or proposed between `ready()` and `advance()`; everything that leaves is an effect, in order,
//! and the word is zeroed before any message that voids it (L2). Its parts by topic are in the files beside this one. Owned
//! and called by `FlowGroups` alone.

mod campaign;
mod leading;
mod ready;
mod receive;
mod reload;
pub(super) mod status;
mod word;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use raft::{RawNode, StateRole};
use words::{Epoch, GroupEvent, Incarnation, LeaseWord, ShardId, Term};

use crate::event::{FlowEffect, GroupSpec, Sealing, Timing};
use crate::flow::election;
use crate::flow::frame::{ChunkEnd, ChunkHead, Key};
use crate::flow::handover::Handover;
use crate::flow::lease::{Lease, is_voter};
use crate::flow::log::MemoryLog;
use crate::flow::membership;
use crate::flow::transfer::{Outgoing, Reload};

/// Effects in the order in which they must be performed.
pub(crate) type Effects = VecDeque<FlowEffect>;

/// How often a sealed replica repeats its report.
const SEALED_REPEAT_NS: u64 = 500_000_000;
/// A sealed voter waits so long for its own table to become whole.
const SEALED_WHOLE_NS: u64 = 500_000_000;
/// Entries that stay in the log for followers that lag, beyond what a transfer retains.
pub(crate) const RETAINED_ENTRIES: u64 = 4096;
/// Bytes of such entries.
const RETAINED_BYTES: usize = 8 << 20;

/// What a replica starts from.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) me: Incarnation,
    pub(crate) spec: GroupSpec,
    pub(crate) timing: Timing,
    /// Index and term of the stored snapshot.
    pub(crate) at: (u64, u64),
    /// A table that was loaded by a scan is whole once the worker says that it stands here (F10).
    pub(crate) loading_until: Option<u64>,
    pub(crate) conf: ConfState,
    /// No lease before this time (N4).
    pub(crate) wait_until_ns: u64,
    pub(crate) first_nonce: u64,
    pub(crate) retained_entries: u64,
}

/// A replica that is sealed (N4).
#[derive(Clone, Copy, Debug)]
struct Sealed {
    since_ns: u64,
    /// When it reported last, and what: a sealed log does not move, and the first report stands.
    told: Option<(u64, (u64, u64))>,
}

/// The report of who cannot be the base of a new epoch: only a voter by its own configuration whose table is whole could
/// serve; a learner amid its scan would lead alone and serve nothing (N4).
const HOLDS_NOTHING: (u64, u64) = (0, 0);

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
    term: u64,
    since_ns: u64,
    /// Since when it leads without serving (F7).
    unserved_since_ns: Option<u64>,
    /// When `TimeoutNow` left; no lease any more in this term (L2).
    timeout_sent_ns: Option<u64>,
    /// Ticks since its lease ended (E4).
    lapsed_ticks: u32,
    /// When each peer answered last.
    heard_ns: BTreeMap<u64, u64>,
    /// Commit indexes of the last heartbeat intervals: a learner that has the older one has caught up.
    commit_marks: (u64, u64),
    transfer: Option<Outgoing>,
    removed_told_ns: Option<u64>,
    health_told: Option<(u64, crate::event::GroupHealth)>,
    behind_told_ns: u64,
}

/// One replica.
pub(super) struct FlowGroup {
    me: Incarnation,
    spec: GroupSpec,
    timing: Timing,
    node: RawNode<MemoryLog>,
    /// The applied configuration, and those before it as far back as the log, by the index that applied them.
    conf: ConfState,
    conf_history: VecDeque<(u64, ConfState)>,
    lease: Lease,
    word: LeaseWord,
    leading: Option<Leadership>,
    last_leader_ns: Option<u64>,
    last_leader: Option<Incarnation>,
    sealed: Option<Sealed>,
    /// Where the worker's table has to stand to be whole; `None` once it does (F10).
    loading_until: Option<u64>,
    retained_entries: u64,
    stream: Stream,
    worker_index: u64,
    worker_control: u64,
    wait_until_ns: u64,
    handover: Handover,
    reload: Reload,
    elections: u64,
    was_leaving: bool,
    stopping: bool,
    standing: Standing,
    /// No lease beyond this: the worker's last turn + V (L1).
    lease_bound_ns: u64,
}

/// How a replica stands in an election (E1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// By its rank.
    InTurn,
    /// Its node cannot serve at present: after all that can.
    Behind,
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
    epoch.first_term().0.max(1)
}

impl FlowGroup {
    /// A replica that starts from a stored snapshot.
    ///
    /// # Panics
    /// If the timing is none that raft accepts.
    pub(crate) fn new(seed: Seed) -> Self {
        let Seed { me, spec, timing, at, loading_until, conf, wait_until_ns, first_nonce, retained_entries } = seed;
        let (index, snapshot_term) = at;
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
            word: LeaseWord { incarnation: me, ..LeaseWord::default() },
            leading: None,
            last_leader_ns: None,
            last_leader: None,
            sealed: None,
            loading_until,
            retained_entries,
            stream: Stream::default(),
            worker_index: index,
            worker_control: 0,
            wait_until_ns,
            handover: Handover::default(),
            reload: Reload::default(),
            elections: 0,
            was_leaving: spec.leaving.contains(&me),
            stopping: false,
            standing: Standing::InTurn,
            lease_bound_ns: 0,
            spec,
        };
        group.set_campaign_time();
        group
    }

    pub(crate) const fn group(&self) -> ShardId {
        self.spec.group
    }

    pub(crate) const fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    pub(crate) const fn leader_heard_ns(&self) -> Option<u64> {
        self.last_leader_ns
    }

    pub(super) const fn epoch(&self) -> Epoch {
        self.spec.epoch
    }

    /// The term in which it leads, if it does.
    pub(super) fn leads(&self) -> Option<u64> {
        self.leading.as_ref().map(|leadership| leadership.term)
    }

    /// The applied configuration.
    pub(super) const fn conf(&self) -> &ConfState {
        &self.conf
    }

    /// Whether this life is in the specification or in the configuration (N1).
    pub(super) fn knows(&self, life: Incarnation) -> bool {
        self.spec.members.contains(&life) || self.spec.leaving.contains(&life) || membership::holds(&self.conf, life.0)
    }

    /// The leader that this replica follows and when it spoke last.
    pub(crate) fn follows(&self) -> Option<(u64, Incarnation, u64)> {
        let raft = &self.node.raft;
        let leader = Incarnation(raft.leader_id);
        (!self.is_sealed() && raft.leader_id != 0 && leader != self.me).then_some((
            raft.term,
            leader,
            self.last_leader_ns?,
        ))
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
        if self.spec.sealing == Sealing::Yes && !self.is_sealed() {
            self.seal(now_ns, out);
        }
    }

    pub(crate) fn set_stopping(&mut self) {
        self.stopping = true;
    }

    pub(crate) fn set_standing(&mut self, standing: Standing) {
        self.standing = standing;
    }

    /// The worker's turns allow a lease up to there, from now on (L1).
    pub(crate) fn bound_lease(&mut self, until_ns: u64) {
        self.lease_bound_ns = until_ns;
    }

    pub(crate) const fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// No more votes, appends or emissions in this epoch (N4). There is no way back.
    fn seal(&mut self, now_ns: u64, out: &mut Effects) {
        self.settle(now_ns, out);
        self.sealed = Some(Sealed { since_ns: now_ns, told: None });
        self.end_leadership(out);
        self.clear_word(out);
        self.tell_sealed(now_ns, out);
    }

    fn tell_sealed(&mut self, now_ns: u64, out: &mut Effects) {
        let Some(Sealed { since_ns, told }) = self.sealed else { return };
        let end = match told {
            Some((told_ns, _)) if now_ns.saturating_sub(told_ns) < SEALED_REPEAT_NS => return,
            Some((_, end)) => end,
            None if !is_voter(&self.conf, self.me.0) => HOLDS_NOTHING,
            None if self.loading_until.is_none() => self.log_end(),
            // What was handed out before the seal is on its way through the worker.
            None if now_ns.saturating_sub(since_ns) < SEALED_WHOLE_NS => return,
            None => HOLDS_NOTHING,
        };
        self.sealed = Some(Sealed { since_ns, told: Some((now_ns, end)) });
        let (last_term, last_index) = end;
        out.push_back(FlowEffect::Sealed { group: self.group(), epoch: self.spec.epoch, last_term, last_index });
    }

    /// The replica ends: its word goes first.
    pub(crate) fn close(&mut self, out: &mut Effects) {
        self.end_leadership(out);
        self.clear_word(out);
    }

    /// Hands out everything up to the end of the log, the uncommitted tail included: the base of a re-creation (N4).
    pub(crate) fn commit_tail(&mut self, now_ns: u64, out: &mut Effects) {
        if !self.is_sealed() {
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
        if self.is_sealed() {
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
        }
        // Also without news of the lease itself: the worker's turns may allow more of it now.
        self.publish_lease(now_ns, out);
    }

    /// Forgets log that nobody needs any more.
    pub(crate) fn compact(&mut self) {
        if self.is_sealed() {
            return;
        }
        let applied = self.node.raft.raft_log.applied;
        let retained = self.leading.as_ref().and_then(|l| l.transfer.as_ref()).map_or(applied, Outgoing::retain_from);
        let log = self.node.mut_store();
        let by_count = applied.saturating_sub(self.retained_entries);
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

    // ---- the worker ----

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
            out.push_back(FlowEffect::Worker(GroupEvent::Refused { shard: self.group(), term: Term(term), stream }));
        }
    }

    /// Whether proposals of `term` are taken now.
    fn accepts(&self, term: u64) -> bool {
        let raft = &self.node.raft;
        let leads = raft.state == StateRole::Leader && raft.term == term && !self.is_sealed();
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
        self.loading_until.take_if(|until| *until <= index);
        self.worker_control = self.worker_control.max(control_index);
    }

    /// The worker serves, or not (F7).
    pub(crate) fn serving(&mut self, term: u64, serves: bool, now_ns: u64) {
        if let Some(l) = self.leading.as_mut().filter(|l| l.term == term) {
            l.unserved_since_ns = if serves { None } else { l.unserved_since_ns.or(Some(now_ns)) };
        }
    }

    pub(crate) const fn key(&self, to: Incarnation) -> Key {
        Key { group: self.spec.group, epoch: self.spec.epoch, from: self.me, to }
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
