//! The control half of a member: the control group, the state that its log makes, and the duties of a node towards it
//! (joining, registering its incarnation, reporting, and as leader reconciling).
//!
//! Sans-IO. Commands are idempotent by key, so everything submitted is simply submitted again until the log answers or
//! the deadline passes; nobody has to remember replies. Driven by the daemon's control actor and by the simulator.

mod apart;
mod applying;
mod duty;
mod fences;
mod io;
mod job;
mod join;
mod measured;
mod owners;
mod parts;
mod pieces;
mod reconcile;
mod submit;
mod token;
mod transfers;
mod upload;

pub use io::{ControlOut, Identity, NotDone, Now};
pub use job::{Finished, Job};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use consensus::control::storage::LogStore;
use consensus::control::{ControlGroup, ControlTiming, OpenError};
use consensus::event::{ControlEffect, ControlInput};
use control::command::Key;
use control::compile::Compiler;
use control::limits::{COMMAND_LEN_MAX, STATE_LEN_MAX};
use control::port_log::PortLog;
use control::registry::FOUNDER_RAFT_ID;
use control::state::State;
use engine::ids::{ControlIndex, Incarnation, NodeId, ShardId};
use words::envelope::ENVELOPE_LEN;

use super::frame::ControlFrame;
use fences::Fences;
use io::{ALIVE_NS, LIVE_NS};
use job::{Backlog, Books, Waiting};
use measured::Measured;
use owners::Owners;
use parts::Upload;
use pieces::{Piece, Pieces};
use words::SplitMix;
use words::time::MS;

/// A submission is repeated this often until the log answers.
const RETRY_NS: u64 = 300 * MS;
/// How often the leader compares what is with what should be.
const RECONCILE_NS: u64 = 100 * MS;
/// The log is compacted after so many applied entries.
const COMPACT_EVERY: u64 = 512;
/// So much is applied between two ticks, and what the last entry has above it: a turn of the thread stays below a tick of the
/// group. See `CommandBody::weight`.
const WORK_PER_TICK_MAX: usize = 1_024;
// What a command can be is what the log takes, and what the state can be is what it is compacted to.
const _: () = assert!(COMMAND_LEN_MAX + ENVELOPE_LEN <= consensus::control::MAX_COMMAND_BYTES);
const _: () = assert!(STATE_LEN_MAX + ENVELOPE_LEN <= consensus::control::MAX_STATE_BYTES);

struct Pending {
    bytes: Bytes,
    ticket: Option<u64>,
    /// Proposed by the reconciler: it waits for the answer before it proposes again.
    own: bool,
    /// Only the leader can judge whether it may be proposed.
    judged: bool,
    next_ns: u64,
    deadline_ns: u64,
}

enum Phase<S> {
    /// Without a stamp: asks the members for a raft id (N5).
    Joining { store: Box<S>, nonce: u64, next_ns: u64 },
    /// A replica of the control group.
    Running(Box<ControlGroup<S>>),
    /// The store could not be opened or failed.
    Failed,
}

/// See the module.
pub struct ControlMember<S> {
    me: Identity,
    phase: Phase<S>,
    timing: ControlTiming,
    rng: SplitMix,
    seed: u64,
    /// Not changed while somebody else reads it.
    state: Arc<State>,
    read_since_ns: Option<u64>,
    /// With the job, while there is one.
    books: Option<Books>,
    backlog: Backlog,
    founded: bool,
    incarnation: Option<Incarnation>,
    registering: Option<Key>,
    registration_nonce: u64,
    /// Since when nobody leads, and when to ask the next time whether this node still belongs.
    lost_ns: Option<u64>,
    next_asking_ns: u64,
    over: bool,
    pending: BTreeMap<Key, Pending>,
    tickets: u64,
    leader: u64,
    leading_since_ns: Option<u64>,
    term: u64,
    configured: (Vec<u64>, Vec<u64>),
    heard_ns: BTreeMap<NodeId, u64>,
    routes: BTreeMap<u64, NodeId>,
    owners: Owners,
    /// When this leader noticed that a shard's entry had changed, and to which version.
    changed_ns: BTreeMap<ShardId, (ControlIndex, u64)>,
    reported_ns: BTreeMap<ShardId, u64>,
    next_alive_ns: u64,
    next_reconcile_ns: u64,
    next_return_ns: u64,
    /// Whether this life has asked for the stop token.
    asked_to_stop: bool,
    compacted: u64,
    compact_every: u64,
    changed: bool,
    measured: Measured,
    fences: Fences,
    uploads: Vec<Upload>,
    pieces: Pieces,
    /// What may still be applied before the next tick.
    work_left: usize,
    out: VecDeque<ControlOut>,
}

impl<S: std::fmt::Debug> std::fmt::Debug for ControlMember<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlMember")
            .field("me", &self.me)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

impl<S: LogStore> ControlMember<S> {
    /// Starts from the node's store: as the replica that it is stamped as, or as a joiner. `seed` must be drawn anew at
    /// each start: keys of commands come from it.
    ///
    /// # Errors
    /// If the store is damaged.
    pub fn new(me: Identity, store: S, timing: ControlTiming, seed: u64, now: Now) -> Result<Self, OpenError> {
        let mut rng = SplitMix::new(seed);
        let registration_nonce = rng.draw();
        let phase = match store.identity() {
            Some(_) => Phase::Running(Box::new(ControlGroup::open(store, timing, seed, now.ns)?)),
            None => Phase::Joining { store: Box::new(store), nonce: rng.draw(), next_ns: now.ns },
        };
        Ok(Self {
            books: Some(Books { compiler: Compiler::new(me.node), port_log: PortLog::default() }),
            me,
            phase,
            timing,
            rng,
            seed,
            state: Arc::new(State::found([0; 16], &[], [0, 0])),
            read_since_ns: None,
            backlog: Backlog::default(),
            founded: false,
            incarnation: None,
            registering: None,
            registration_nonce,
            lost_ns: None,
            next_asking_ns: now.ns,
            over: false,
            pending: BTreeMap::new(),
            tickets: 0,
            leader: 0,
            leading_since_ns: None,
            term: 0,
            configured: (Vec::new(), Vec::new()),
            heard_ns: BTreeMap::new(),
            routes: BTreeMap::new(),
            owners: Owners::default(),
            changed_ns: BTreeMap::new(),
            reported_ns: BTreeMap::new(),
            next_alive_ns: now.ns,
            next_reconcile_ns: now.ns,
            next_return_ns: now.ns,
            asked_to_stop: false,
            compacted: 0,
            compact_every: COMPACT_EVERY,
            changed: false,
            measured: Measured::default(),
            fences: Fences::default(),
            uploads: Vec::new(),
            pieces: Pieces::default(),
            work_left: WORK_PER_TICK_MAX,
            out: VecDeque::new(),
        })
    }

    /// The log is compacted after so many entries from now on; for tests, which want replicas to lag behind it.
    pub const fn set_compact_every(&mut self, entries: u64) {
        self.compact_every = entries;
    }

    /// A frame on the control channel, from the node that the transport proved.
    pub fn handle_peer(&mut self, now: Now, from: NodeId, bytes: &Bytes) {
        let Some(frame) = ControlFrame::decode(bytes) else { return };
        self.heard_ns.insert(from, now.ns);
        match frame {
            ControlFrame::Raft { from: raft_id, to, frame } => self.raft_frame(now, from, (raft_id, to), frame),
            ControlFrame::Submit { command } => self.forwarded(now, from, command),
            // Answers to those outside come on the channel for joining.
            ControlFrame::Joined { .. } | ControlFrame::Refused { .. } => {}
            ControlFrame::Alive { owned } => self.owners.hear(&self.state, owned.into_iter(), now.ns),
            ControlFrame::Measured { in_step } => self.measured.hear(now.ns, in_step),
            ControlFrame::Piece { transfer, from: raft_id, to, at, len, bytes } => {
                self.piece(now, from, Piece { transfer, ids: (raft_id, to), at, len, bytes });
            }
            ControlFrame::Taken { transfer, taken } => self.pieces_taken(now, from, transfer, taken),
            ControlFrame::Declined { key, refusal } => self.declined(from, key, refusal),
        }
    }

    /// A frame on the channel for joining, from a node that the transport proved to be of the cluster, listed or not: it may
    /// ask for its own raft id (N5), or whether it still belongs, and hear the answer. Anything else is dropped.
    pub fn handle_join(&mut self, now: Now, from: NodeId, bytes: &Bytes) {
        match ControlFrame::decode(bytes) {
            Some(ControlFrame::Submit { command }) => self.asked_from_outside(now, from, command),
            Some(ControlFrame::Joined { nonce, raft_id, cluster_id, members }) => {
                self.joined(now, (nonce, raft_id), cluster_id, members);
            }
            Some(ControlFrame::Refused { nonce, refusal }) => self.refused(now, from, nonce, &refusal),
            Some(
                ControlFrame::Raft { .. }
                | ControlFrame::Alive { .. }
                | ControlFrame::Measured { .. }
                | ControlFrame::Piece { .. }
                | ControlFrame::Taken { .. }
                | ControlFrame::Declined { .. },
            )
            | None => {}
        }
    }

    /// Hands the control group's leadership over, if this node has it.
    pub fn stop(&mut self, now: Now) {
        if let Phase::Running(group) = &mut self.phase {
            group.handle(now.ns, ControlInput::Stop);
        }
    }

    /// Runs what is due; call about every 10 ms.
    pub fn tick(&mut self, now: Now) {
        self.ask_to_join(now);
        if let Phase::Running(group) = &mut self.phase {
            group.tick(now.ns);
        }
        self.register(now);
        self.ask_whether_wanted(now);
        self.return_token(now);
        self.report_fences(now);
        self.resubmit(now);
        self.resend_pieces(now);
        self.work_left = WORK_PER_TICK_MAX;
        if now.ns >= self.next_alive_ns {
            self.next_alive_ns = now.ns + ALIVE_NS;
            let measured = ControlFrame::Measured { in_step: self.measured.tell(now.ns) }.encode();
            let frame = ControlFrame::Alive { owned: self.owners.told(now.ns) }.encode();
            for to in self.others() {
                self.out.push_back(ControlOut::Send { to, frame: frame.clone() });
                self.out.push_back(ControlOut::Send { to, frame: measured.clone() });
            }
        }
        if now.ns >= self.next_reconcile_ns {
            self.next_reconcile_ns = now.ns + RECONCILE_NS;
            self.reconcile(now);
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self, now: Now) -> Option<ControlOut> {
        loop {
            while self.backlog.has_room()
                && let Some(effect) = self.group_effect(now)
            {
                self.perform(now, effect);
            }
            if !self.apply_committed(now) {
                return self.out.pop_front();
            }
        }
    }

    /// When `tick` has something to do at the latest.
    #[must_use]
    pub fn next_due_ns(&self) -> u64 {
        let group = match &self.phase {
            Phase::Running(group) => group.next_due_ns(),
            Phase::Joining { next_ns, .. } => *next_ns,
            Phase::Failed => u64::MAX,
        };
        group.min(self.next_alive_ns).min(self.next_reconcile_ns)
    }

    /// The state as applied here.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The same for another thread. Entries wait until it is given back, or for a second.
    #[must_use]
    pub fn shared_state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    /// This life, once registered.
    #[must_use]
    pub const fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation
    }

    /// The node that leads the control group, and its term.
    #[must_use]
    pub fn leader(&self) -> (Option<NodeId>, u64) {
        (self.node_of_raft(self.leader), self.term)
    }

    /// Whether this node leads the control group.
    #[must_use]
    pub const fn leading(&self) -> bool {
        self.leading_since_ns.is_some()
    }

    /// Voters and learners of the control group by raft id, as applied here.
    #[must_use]
    pub const fn configured(&self) -> &(Vec<u64>, Vec<u64>) {
        &self.configured
    }

    /// Nodes heard within 2 s, this one included.
    #[must_use]
    pub fn live(&self, now: Now) -> BTreeSet<NodeId> {
        let heard = self.heard_ns.iter().filter(|(_, at)| now.ns.saturating_sub(**at) < LIVE_NS).map(|(node, _)| *node);
        heard.chain([self.me.node]).collect()
    }

    /// Gives the store back, for a simulator's restart; `None` while it is with nobody.
    pub fn into_store(self) -> Option<S> {
        match self.phase {
            Phase::Joining { store, .. } => Some(*store),
            Phase::Running(group) => Some(group.into_store()),
            Phase::Failed => None,
        }
    }

    // ---- the control group ----

    fn group_effect(&mut self, now: Now) -> Option<ControlEffect> {
        match &mut self.phase {
            Phase::Running(group) => group.poll(now.ns),
            Phase::Joining { .. } | Phase::Failed => None,
        }
    }

    fn perform(&mut self, now: Now, effect: ControlEffect) {
        match effect {
            ControlEffect::Send { to, frame } => self.send_raft(now, to, frame),
            ControlEffect::Committed { index, command, .. } => {
                self.backlog.push(Waiting::Entry { index, bytes: command });
            }
            ControlEffect::Restore { index, state } => self.backlog.push(Waiting::State { index, bytes: state }),
            ControlEffect::Proposed { .. } => {}
            ControlEffect::Role { leader, term, leading } => {
                self.leader = leader;
                self.term = term;
                self.leading_since_ns = leading.then(|| self.leading_since_ns.unwrap_or(now.ns));
            }
            ControlEffect::Configured { voters, learners } => self.configured = (voters, learners),
            ControlEffect::StoreFailed { reason } => self.fail(reason),
        }
    }

    fn fail(&mut self, reason: String) {
        self.phase = Phase::Failed;
        self.out.push_back(ControlOut::StoreFailed { reason });
    }

    fn raft_frame(&mut self, now: Now, from: NodeId, (raft_id, to): (u64, u64), frame: Bytes) {
        if !self.may_speak(from, raft_id) {
            return;
        }
        self.routes.insert(raft_id, from);
        if let Phase::Running(group) = &mut self.phase
            && group.raft_id() == to
        {
            group.handle(now.ns, ControlInput::Peer { from: raft_id, frame });
        }
    }

    /// Whether `raft_id` may be that node's. An id that a node had before it lost its disk is gone for good; one that it
    /// got later than what this replica has applied is not known here yet (N5).
    fn may_speak(&self, from: NodeId, raft_id: u64) -> bool {
        match self.state.registry().nodes().get(&from) {
            Some(node) if node.raft_id == raft_id => true,
            Some(_) | None if !self.founded => true,
            Some(_) | None => raft_id < FOUNDER_RAFT_ID && raft_id > self.state.index().0,
        }
    }

    fn node_of_raft(&self, raft_id: u64) -> Option<NodeId> {
        let known = self.state.registry().nodes().iter().find(|(_, node)| node.raft_id == raft_id).map(|(id, _)| *id);
        known.or_else(|| self.routes.get(&raft_id).copied())
    }

    fn send_raft(&mut self, now: Now, to: u64, frame: Bytes) {
        let Phase::Running(group) = &self.phase else { return };
        let from = group.raft_id();
        let Some(node) = self.node_of_raft(to) else { return };
        if frame.len() > pieces::WHOLE_BYTES_MAX {
            self.send_in_pieces(now, node, (from, to), frame);
        } else {
            let frame = ControlFrame::Raft { from, to, frame }.encode();
            self.out.push_back(ControlOut::Send { to: node, frame });
        }
    }
}

#[cfg(test)]
mod job_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod token_tests;
#[cfg(test)]
mod upload_tests;
