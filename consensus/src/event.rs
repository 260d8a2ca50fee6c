//! The boundary of the flow groups and of the control group: specifications and events in, effects out.

use bytes::Bytes;
use words::{Epoch, GroupEvent, Incarnation, LeaseWord, ShardId, ShardSet};

/// What the control state wants of one group, as compiled for every node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSpec {
    /// The group.
    pub group: ShardId,
    /// Its present epoch.
    pub epoch: Epoch,
    /// The voters that it should have, by successor rank: rank 0 is the preferred owner (E1).
    pub members: Vec<Incarnation>,
    /// Replicas that are to be removed; they live until the applied change is reported (N1).
    pub leaving: Vec<Incarnation>,
    /// How this epoch began.
    pub origin: Origin,
    /// Survivors must seal this epoch and report (N4).
    pub sealing: Sealing,
}

/// Whether an epoch is being sealed for re-creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sealing {
    /// Normal operation.
    No,
    /// No more votes, appends or emissions in this epoch (N4).
    Yes,
}

/// How an epoch began (N4, N5). Every replica starts from a stored snapshot at index >= 1 that carries its ConfState.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// First epoch of a shard: these incarnations are its voters, tables empty. Nobody else ever founds.
    Founded { voters: Vec<Incarnation> },
    /// Continued from the table of `base`, whose log ended at (`last_term`, `last_index`); a group of one.
    Recreated { base: Incarnation, last_term: u64, last_index: u64, wait_ns: u64 },
    /// No survivor: `holder` begins alone with an empty table; new flows wait.
    Lost { holder: Incarnation, wait_ns: u64 },
}

/// What this node knows of another one, to choose transfer targets and load barriers (F2, F7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, bincode::Encode, bincode::Decode)]
pub struct Report {
    /// The newest control index whose snapshot is compiled and ready to load.
    pub control_ready: u64,
    /// The control index that the workers judge by.
    pub control_loaded: u64,
    /// The data links that all groups need are up.
    pub links_up: bool,
    /// What their networks carry.
    pub passage: Passage,
    /// Groups that miss another one of their data links here.
    pub lacking: ShardSet,
    /// Groups that need another network, in which nobody answers.
    pub silent: ShardSet,
    /// Groups that need another network, in which nobody was asked for long enough.
    pub unproved: ShardSet,
    /// The worker's loop passes; the flow groups themselves say so, by its stamps.
    pub turns: bool,
    /// The node is stopping: it takes no transfer.
    pub stopping: bool,
}

impl Report {
    /// What it says about one group: its sets are of that group alone, and the passage is that of all networks it needs.
    #[must_use]
    pub fn of(&self, group: ShardId) -> Self {
        let passage = match self.passage {
            Passage::Silent => Passage::Silent,
            Passage::Passes | Passage::Unproved if self.silent.contains(group) => Passage::Silent,
            Passage::Passes if self.unproved.contains(group) => Passage::Unproved,
            other @ (Passage::Passes | Passage::Unproved) => other,
        };
        let mut lacking = ShardSet::EMPTY;
        if self.lacking.contains(group) {
            lacking.insert(group);
        }
        Self { passage, lacking, silent: ShardSet::EMPTY, unproved: ShardSet::EMPTY, ..*self }
    }

    /// Whether all data links that any group needs are up.
    #[must_use]
    pub fn has_all_links(&self) -> bool {
        self.links_up && self.lacking.is_empty()
    }

    /// Whether what carries packets works: without it a leader hands over, and nobody hands over to it (F7).
    #[must_use]
    pub const fn can_serve(&self) -> bool {
        self.links_up && self.turns
    }
}

/// Whether frames pass between a node and anybody else on the data networks, as its own questions tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, bincode::Encode, bincode::Decode)]
pub enum Passage {
    /// Nobody was asked for long enough.
    #[default]
    Unproved,
    /// Somebody answers on each.
    Passes,
    /// On one of them nobody answers any more.
    Silent,
}

/// Into the flow groups; see `FlowGroups::handle`.
#[derive(Clone, Debug)]
pub enum FlowInput {
    /// The control state at `control_index` wants these groups, all of them; groups not listed are dropped.
    Specs { control_index: u64, specs: Vec<GroupSpec> },
    /// A frame from the replica set of `from` (the transport has proved its node; the caller, that the incarnation is that node's).
    Peer { from: Incarnation, frame: Bytes },
    /// The worker wants this entry replicated (F1).
    Propose { group: ShardId, term: u64, stream: u32, sequence: u64, entry: Bytes },
    /// The worker's table of the replica of `epoch` is whole and stands at `index`; greatest control index in its entries.
    Applied { group: ShardId, epoch: Epoch, index: u64, control_index: u64 },
    /// The worker serves, or why not (F7); `Err` carries a small code for status.
    Serving { group: ShardId, term: u64, state: Result<(), u8> },
    /// This node's own report changed; of what it says, `turns` is not looked at.
    Report(Box<Report>),
    /// The worker's loop passed last at this time (L1, F7).
    Turned { at_ns: u64 },
    /// A chunk of a scan that `GroupEvent::Scan` asked for.
    Chunk { group: ShardId, transfer: u64, base: u64, until: u64, last: bool, chunk: Bytes },
    /// Graceful stop: hand all leaderships over, take none (N3).
    Stop,
    /// The newest incarnations of all live members: who is told of owners and reports, also without a replica (M1).
    Nodes(Vec<Incarnation>),
}

/// Out of the flow groups; to be performed in order.
#[derive(Clone, Debug)]
pub enum FlowEffect {
    /// Send to every replica-holding or other node; small, on the group's stream.
    Send { to: Incarnation, group: ShardId, frame: Bytes },
    /// Bulk bytes (snapshot chunks), on a stream of their own; the transport may block it without blocking others.
    SendBulk { to: Incarnation, group: ShardId, frame: Bytes },
    /// Write the shard's word (K3). Zeroing comes before the messages that need it (L2).
    Word { group: ShardId, word: LeaseWord },
    /// Tell the worker, which holds the table.
    Worker(GroupEvent),
    /// Tell the worker that a re-created epoch continues from this replica's own table.
    Reopened { group: ShardId, epoch: Epoch },
    /// Who owns (leads) the group as far as this node knows.
    Owner { group: ShardId, term: u64, owner: Option<Incarnation> },
    /// Workers may load the snapshot of this control index: a majority reported it ready, or 1 s passed (F2).
    MayLoad { control_index: u64 },
    /// The applied configuration no longer holds these replicas, for the control log (N1, N2).
    Removed { group: ShardId, epoch: Epoch, gone: Vec<Incarnation> },
    /// Sealed, for the control log (N4).
    Sealed { group: ShardId, epoch: Epoch, last_term: u64, last_index: u64 },
    /// Redundancy and leadership of a group that this replica leads, for status and the stop token (N3).
    Health(GroupHealth),
    /// After `FlowInput::Stop`: everything that could be handed over has been; so many groups found nobody to take them.
    Stopped { kept: u32 },
}

/// What a leader knows of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHealth {
    /// The group.
    pub group: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The leader's term.
    pub term: u64,
    /// Voters by the applied configuration, and whether each was heard of within V and has the commit index.
    pub voters: Vec<(Incarnation, bool)>,
    /// Learners on their way in.
    pub learners: Vec<Incarnation>,
    /// Commit index.
    pub commit: u64,
}

/// Timing of the flow groups; one value for the whole cluster (E1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Tick length.
    pub tick_ns: u64,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: u32,
    /// Vote timeout V in ticks: raft's `election_tick`.
    pub vote_ticks: u32,
    /// How long an ex-owner without successor may repeat committed mappings (L4).
    pub orphan_grace_ns: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { tick_ns: 5_000_000, heartbeat_ticks: 3, vote_ticks: 10, orphan_grace_ns: 3_000_000_000 }
    }
}

impl Timing {
    /// The vote timeout V.
    #[must_use]
    pub const fn vote_ns(&self) -> u64 {
        self.tick_ns * self.vote_ticks as u64
    }

    /// The lease length: 0.8 V (L1).
    #[must_use]
    pub const fn lease_ns(&self) -> u64 {
        self.vote_ns() / 5 * 4
    }
}

/// Into the control group; see `ControlGroup::handle`. Peers are raft ids of the control group.
#[derive(Clone, Debug)]
pub enum ControlInput {
    /// A raft frame of `from`.
    Peer { from: u64, frame: Bytes },
    /// A command to replicate; refused if not leading. `ticket` comes back.
    Propose { ticket: u64, command: Bytes },
    /// The voters (raft ids) that the control state wants, and ids that are gone for good; the leader reconciles (N2).
    Members { voters: Vec<u64> },
    /// The state as of `index`, serialised, so that the log may be compacted up to it.
    Compact { index: u64, state: Bytes },
    /// Graceful stop: hand leadership over.
    Stop,
}

/// Out of the control group; to be performed in order.
#[derive(Clone, Debug)]
pub enum ControlEffect {
    /// Send to the replica with this raft id.
    Send { to: u64, frame: Bytes },
    /// A committed command, durable. Empty is raft's own.
    Committed { index: u64, term: u64, command: Bytes },
    /// Replace the state by this one (a snapshot that a peer sent, or the one found at start).
    Restore { index: u64, state: Bytes },
    /// The proposal was taken at `index`, or refused with the leader's raft id if known (0: nobody). The own id: this
    /// leader itself refuses, because the command is empty or too long, it hands over, or too much is under way.
    Proposed { ticket: u64, result: Result<u64, u64> },
    /// Leadership as this replica sees it: leader's raft id (0: nobody), and whether it is this one.
    Role { leader: u64, term: u64, leading: bool },
    /// The applied configuration: voters and learners by raft id.
    Configured { voters: Vec<u64>, learners: Vec<u64> },
    /// The disk failed: nothing is acknowledged any more by this incarnation (C4).
    StoreFailed { reason: String },
}
