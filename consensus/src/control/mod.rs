//! The control group: one durable raft group of all nodes, seen from one replica.
//!
//! Inputs go in by `handle`, time by `tick`, effects come out of `poll` and are performed in order. All inputs since the
//! last `poll` share one ready round, so one fsync. Nothing is stepped between `ready` and `advance`; the order within is
//! messages, store, persisted messages, apply, advance. A failed write ends this incarnation: it says so once and stays
//! silent (C4, I24).
//!
//! Called by the daemon's control actor and by the simulator. It knows nothing of commands: they are bytes.

#![expect(
    clippy::field_reassign_with_default,
    reason = "raft's generated messages cannot be built with all their fields"
)]

mod admit;
mod log;
mod members;
mod ready;
pub mod storage;
mod timing;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType};
use raft::{Config, ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole, Storage as _};
use thiserror::Error;

use crate::control::storage::{Durability, LogCut, LogStore, SnapshotWrite, StoreError, StoredSnapshot};
use crate::event::{ControlEffect, ControlInput};
use crate::wire::{self};
use admit::Standing;
use log::Log;
use members::{Seen, Step};
pub use timing::ControlTiming;
use words::SplitMix;

/// Longest command; a longer one is refused.
pub const MAX_COMMAND_BYTES: usize = 1 << 20;
/// Longest control state; `Compact` with a longer one is ignored, since it could not be sent to a joiner. Whoever drives a
/// group cuts a message with a state to what its transport carries.
pub const MAX_STATE_BYTES: usize = wire::MAX_BODY_BYTES - (1 << 20);

const MAX_MESSAGE_ENTRIES_BYTES: u64 = 1 << 20;
const MAX_INFLIGHT_MESSAGES: usize = 256;
const MAX_UNCOMMITTED_BYTES: u64 = 64 << 20;
const MAX_COMMITTED_BYTES: u64 = 4 << 20;

/// Why the replica cannot start.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum OpenError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The timing contradicts itself.
    #[error("control timing: tick and heartbeat must be above 0, the election timeout above the heartbeat interval")]
    Timing,
    /// raft-rs refused to start from what the store holds.
    #[error("raft: {0}")]
    Raft(String),
}

/// One replica of the control group over the store `S`.
pub struct ControlGroup<S> {
    store: S,
    node: RawNode<Log>,
    timing: ControlTiming,
    seed: u64,
    raft_id: u64,
    effects: VecDeque<ControlEffect>,
    /// As the store has it; raft's own copy lacks what a light ready changed.
    hard_state: HardState,
    conf_state: ConfState,
    applied: u64,
    /// Index of the newest applied membership change since the stored snapshot; 0 if none.
    last_change: u64,
    wanted: Vec<u64>,
    /// When the snapshot under way to a replica was sent.
    snapshots_sent_ns: BTreeMap<u64, u64>,
    role: (u64, u64, bool),
    now_ns: u64,
    next_tick_ns: u64,
    stopping: bool,
    failed: bool,
}

impl<S: LogStore> ControlGroup<S> {
    /// Starts a replica from its store. Effects begin with the stored state (`Restore`) and each later applied command
    /// (`Committed`), so the caller rebuilds its state from nothing; a joiner starts without any and waits for the group.
    ///
    /// # Errors
    /// If the store is not stamped or damaged, or `timing` contradicts itself.
    pub fn open(mut store: S, timing: ControlTiming, seed: u64, now_ns: u64) -> Result<Self, OpenError> {
        if timing.tick_ns == 0 || timing.heartbeat_ticks == 0 || timing.election_ticks <= timing.heartbeat_ticks {
            return Err(OpenError::Timing);
        }
        let recovered = store.recover()?;
        let raft_id = store.identity().expect("recover refuses a store without identity").raft_id;
        let hard_state = recovered.hard_state.clone();
        let conf_state = recovered.conf_state.clone();
        let applied = recovered.applied;
        let log = Log::new(recovered);
        let config = config(raft_id, applied, timing)?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, log, &logger).map_err(|e| OpenError::Raft(e.to_string()))?;
        let role = (0, hard_state.term, false);
        let mut group = Self {
            store,
            node,
            timing,
            seed,
            raft_id,
            effects: VecDeque::new(),
            hard_state,
            conf_state,
            applied,
            last_change: 0,
            wanted: Vec::new(),
            snapshots_sent_ns: BTreeMap::new(),
            role,
            now_ns,
            next_tick_ns: now_ns.saturating_add(timing.tick_ns),
            stopping: false,
            failed: false,
        };
        group.replay();
        if group.conf_state.voters == [raft_id] && group.conf_state.voters_outgoing.is_empty() {
            // Nobody else can lead, so there is nobody to wait for. Refused while a membership change is unapplied; then
            // the election timeout does it.
            let _ = group.node.campaign();
        }
        group.draw_timeout();
        Ok(group)
    }

    /// Takes an input. Effects of it, if any, come out of `poll`.
    pub fn handle(&mut self, now_ns: u64, input: ControlInput) {
        self.now_ns = self.now_ns.max(now_ns);
        if self.failed {
            if let ControlInput::Propose { ticket, .. } = input {
                self.effects.push_back(ControlEffect::Proposed { ticket, result: Err(0) });
            }
            return;
        }
        match input {
            ControlInput::Peer { from, frame } => self.peer(from, &frame),
            ControlInput::Propose { ticket, command } => self.propose(ticket, command),
            ControlInput::Members { voters } => {
                self.wanted = voters;
                self.wanted.sort_unstable();
                self.wanted.dedup();
                self.reconcile();
            }
            ControlInput::Compact { index, state } => self.compact(index, state),
            ControlInput::Stop => {
                self.stopping = true;
                self.hand_over();
            }
        }
        self.draw_timeout();
    }

    /// Lets time pass. The next tick is due one period after the last due time; missed ones are skipped (E3).
    pub fn tick(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        if self.now_ns < self.next_tick_ns || self.failed {
            return;
        }
        let missed = (self.now_ns - self.next_tick_ns) / self.timing.tick_ns;
        self.next_tick_ns += (missed + 1) * self.timing.tick_ns;
        self.node.tick();
        self.draw_timeout();
        self.retry_snapshots();
        if self.stopping {
            self.hand_over();
        } else {
            self.reconcile();
        }
    }

    /// The next effect; `None` when there is nothing to do until the next input or tick. Raft's writes to the store happen
    /// here, those of `Compact` in `handle`; both block for an fsync.
    pub fn poll(&mut self, now_ns: u64) -> Option<ControlEffect> {
        self.now_ns = self.now_ns.max(now_ns);
        while self.effects.is_empty() && !self.failed && self.node.has_ready() {
            self.ready_round();
        }
        self.effects.pop_front()
    }

    /// When `tick` has something to do next.
    #[must_use]
    pub const fn next_due_ns(&self) -> u64 {
        if self.failed { u64::MAX } else { self.next_tick_ns }
    }

    /// This replica's raft id.
    #[must_use]
    pub const fn raft_id(&self) -> u64 {
        self.raft_id
    }

    /// Raft id of the leader as far as this replica knows; 0 for nobody.
    #[must_use]
    pub const fn leader(&self) -> u64 {
        self.role.0
    }

    /// Whether this replica leads, and everything that it leads by is stored.
    #[must_use]
    pub const fn leading(&self) -> bool {
        self.role.2
    }

    /// The present term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Index of the newest entry that was given out as `Committed`, or of the state given out as `Restore`.
    #[must_use]
    pub const fn applied(&self) -> u64 {
        self.applied
    }

    /// The commit index.
    #[must_use]
    pub fn commit(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// Index of the last entry in the log.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// The voters by the applied configuration, ascending; in a joint one those of both halves.
    #[must_use]
    pub fn voters(&self) -> Vec<u64> {
        let mut voters = self.conf_state.voters.clone();
        voters.extend(&self.conf_state.voters_outgoing);
        voters.sort_unstable();
        voters.dedup();
        voters
    }

    /// The learners by the applied configuration, ascending.
    #[must_use]
    pub fn learners(&self) -> &[u64] {
        &self.conf_state.learners
    }

    /// Whether the group is between two configurations.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.conf_state.voters_outgoing.is_empty()
    }

    /// Whether a write failed: the node has to end.
    #[must_use]
    pub const fn failed(&self) -> bool {
        self.failed
    }

    /// The store, to look at.
    #[must_use]
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// The store, for the faults of a simulation.
    pub const fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Ends the replica, leaving its store.
    #[must_use]
    pub fn into_store(self) -> S {
        self.store
    }

    /// Gives out what is applied already: raft itself continues after it.
    fn replay(&mut self) {
        let log = self.node.store();
        let Some(snapshot) = log.snapshot() else { return };
        self.effects.push_back(ControlEffect::Restore { index: snapshot.index, state: snapshot.state.clone() });
        for entry in log.range(snapshot.index + 1, self.applied) {
            self.effects.push_back(committed(entry));
            if entry.entry_type != EntryType::EntryNormal {
                self.last_change = entry.index;
            }
        }
        self.configured();
    }

    fn peer(&mut self, from: u64, frame: &Bytes) {
        let raft = &self.node.raft;
        let standing = Standing {
            own: self.raft_id,
            term: raft.term,
            leader: raft.leader_id,
            last_index: raft.raft_log.last_index(),
            stopping: self.stopping,
        };
        if let Some(message) = admit::message(frame, from, standing) {
            // Answers of replicas outside the configuration come back as errors; there is nothing to do about them.
            let _ = self.node.step(message);
        }
    }

    /// A refusal by the leader itself (too long, stopping, handing over, too much under way) names this replica.
    fn propose(&mut self, ticket: u64, command: Bytes) {
        let result = if self.node.raft.state != StateRole::Leader {
            Err(self.node.raft.leader_id)
        } else if self.stopping || command.is_empty() || command.len() > MAX_COMMAND_BYTES {
            Err(self.raft_id)
        } else {
            let mut entry = Entry::default();
            entry.data = command;
            let mut message = Message::default();
            message.msg_type = MessageType::MsgPropose;
            message.from = self.raft_id;
            message.entries.push(entry);
            // Stepped into raft itself: the node's `propose` would copy the command.
            match self.node.raft.step(message) {
                Ok(()) => Ok(self.last_index()),
                Err(_) => Err(self.raft_id),
            }
        };
        self.effects.push_back(ControlEffect::Proposed { ticket, result });
    }

    /// Stores the caller's state and cuts the log behind it. Ignored where the configuration as of `index` is unknown,
    /// because a membership change was applied since: the caller compacts again later.
    fn compact(&mut self, index: u64, state: Bytes) {
        let log = self.node.store();
        let stored = log.snapshot().map_or(0, |s| s.index);
        if index <= stored || index > self.applied || index < self.last_change || state.len() > MAX_STATE_BYTES {
            return;
        }
        // Asked of the log itself: raft's view may already begin after a peer's snapshot that waits for its round.
        let term = log.term(index).expect("entries after the stored snapshot are in the log");
        let until = log.cut(index, self.timing.trailing_entries, self.timing.trailing_bytes);
        let snapshot = StoredSnapshot { index, term, conf_state: self.conf_state.clone(), state };
        let cut = LogCut::UpTo { index: until.0, term: until.1 };
        let write = SnapshotWrite { snapshot: snapshot.clone(), log: cut };
        if self.write(Some(write), &[], Durability::Synced) {
            self.node.mut_store().compact(snapshot, until);
            self.last_change = 0;
        }
    }

    /// raft waits for ever for the fate of a snapshot: one that is not answered is reported as lost, and sent again.
    fn retry_snapshots(&mut self) {
        let (now, retry) = (self.now_ns, self.timing.snapshot_retry_ns);
        let late: Vec<u64> = self
            .snapshots_sent_ns
            .iter()
            .filter(|(_, sent)| now.saturating_sub(**sent) >= retry)
            .map(|(to, _)| *to)
            .collect();
        for to in late {
            self.snapshots_sent_ns.remove(&to);
            let waiting = self.node.raft.prs().get(to).is_some_and(|p| p.state == ProgressState::Snapshot);
            if self.node.raft.state == StateRole::Leader && waiting {
                self.node.report_snapshot(to, SnapshotStatus::Failure);
            }
        }
    }

    /// The leader's next step towards the wanted members (N2).
    fn reconcile(&mut self) {
        let raft = &self.node.raft;
        let own_term = raft.raft_log.term(raft.raft_log.applied) == Ok(raft.term);
        // A change before the first entry of the own term is applied could contradict one of an earlier leader.
        if raft.state != StateRole::Leader || raft.has_pending_conf() || raft.lead_transferee.is_some() || !own_term {
            return;
        }
        let commit = raft.raft_log.committed;
        match members::next_step(&self.conf_state, &self.wanted, self.raft_id, commit, |id| self.seen(id)) {
            Step::Nothing => {}
            Step::Transfer(to) => self.node.transfer_leader(to),
            // A refused proposal is made again at the next tick.
            Step::Propose(change) => drop(self.node.propose_conf_change(Vec::new(), change)),
        }
    }

    /// Graceful stop: leadership goes to the voter that holds most of the log.
    fn hand_over(&mut self) {
        if self.node.raft.state != StateRole::Leader || self.node.raft.lead_transferee.is_some() {
            return;
        }
        let others = self.conf_state.voters.iter().copied().filter(|id| *id != self.raft_id);
        if let Some(to) = members::best(others, &|id| self.seen(id)) {
            self.node.transfer_leader(to);
        }
    }

    fn seen(&self, id: u64) -> Seen {
        self.node
            .raft
            .prs()
            .get(id)
            .map_or_else(Seen::default, |p| Seen { matched: p.matched, active: p.recent_active || id == self.raft_id })
    }

    /// raft-rs draws its election timeout from the thread's random numbers at each change of term; this one is a function
    /// of seed, replica and term, so that a run can be repeated.
    fn draw_timeout(&mut self) {
        let shortest = u64::from(self.timing.election_ticks);
        let drawn = shortest
            + SplitMix::mix(
                self.seed ^ SplitMix::mix(self.raft_id) ^ SplitMix::mix(self.node.raft.term).rotate_left(17),
            ) % shortest;
        self.node.raft.set_randomized_election_timeout(usize::try_from(drawn).expect("below 2^33"));
    }

    fn configured(&mut self) {
        let (voters, learners) = (self.voters(), self.conf_state.learners.clone());
        self.effects.push_back(ControlEffect::Configured { voters, learners });
    }

    fn report_role(&mut self) {
        let raft = &self.node.raft;
        let role = (raft.leader_id, raft.term, raft.state == StateRole::Leader);
        if role != self.role && !self.failed {
            self.role = role;
            let (leader, term, leading) = role;
            self.effects.push_back(ControlEffect::Role { leader, term, leading });
        }
    }
}

impl<S> fmt::Debug for ControlGroup<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlGroup")
            .field("raft_id", &self.raft_id)
            .field("role", &self.role)
            .field("applied", &self.applied)
            .field("conf_state", &self.conf_state)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

fn config(raft_id: u64, applied: u64, timing: ControlTiming) -> Result<Config, OpenError> {
    let ticks = |n: u32| usize::try_from(n).map_err(|_| OpenError::Timing);
    Ok(Config {
        id: raft_id,
        applied,
        election_tick: ticks(timing.election_ticks)?,
        heartbeat_tick: ticks(timing.heartbeat_ticks)?,
        max_election_tick: ticks(timing.election_ticks)? * 2,
        max_size_per_msg: MAX_MESSAGE_ENTRIES_BYTES,
        max_inflight_msgs: MAX_INFLIGHT_MESSAGES,
        max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
        max_committed_size_per_ready: MAX_COMMITTED_BYTES,
        check_quorum: true,
        pre_vote: true,
        read_only_option: ReadOnlyOption::Safe,
        ..Config::default()
    })
}

/// The entry as the caller sees it: raft's own entries and membership changes are empty commands.
fn committed(entry: &Entry) -> ControlEffect {
    let command = if entry.entry_type == EntryType::EntryNormal { entry.data.clone() } else { Bytes::new() };
    ControlEffect::Committed { index: entry.index, term: entry.term, command }
}

#[cfg(test)]
mod tests;
