//! What the control group keeps on disk, and the trait behind which it lies.
//!
//! A store holds the log after the last truncation, one snapshot of the control state, and one metadata record with hard
//! state, configuration, applied index and snapshot metadata, which changes as a whole (C3). Opened stores are used by one
//! `ControlGroup` each; founding and joining are called once by the command line before that (N5).
//!
//! A store must never invent state: what cannot be proved intact is refused with an error that names the place and the
//! remedy (I34). After a failed write it refuses everything: this incarnation is over (C4).

#![expect(
    clippy::field_reassign_with_default,
    reason = "raft's generated messages cannot be built with all their fields"
)]

pub mod memory;
mod records;
mod rows;
pub mod sled;
mod stamp;

use std::fmt;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState};
use thiserror::Error;

use crate::wire;

/// Names a cluster for ever; drawn once by `qnat cluster init` and stamped into every data directory (N5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Whose data directory this is. A raft id belongs to one directory: an empty disk always gets a new one (N5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The raft id in the control group; never 0.
    pub raft_id: u64,
}

/// A place in the control log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LogPosition {
    /// The term of the entry: of two logs, the one with the greater last term knows more.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

impl LogPosition {
    /// Where a founding puts its state.
    pub const FIRST: Self = Self { term: 1, index: 1 };
}

/// A snapshot of the control state.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredSnapshot {
    /// The log index that the state is as of; at least 1.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The configuration as of that index.
    pub conf_state: ConfState,
    /// The state, serialised by the caller.
    pub state: Bytes,
}

/// All that a store holds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Recovered {
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// The configuration as of `applied`; empty in a joiner that has not heard of the group yet.
    pub conf_state: ConfState,
    /// The index that `conf_state` is as of.
    pub applied: u64,
    /// The newest snapshot; none in such a joiner.
    pub snapshot: Option<StoredSnapshot>,
    /// Index and term of the entry before the first kept one; index at most the snapshot's.
    pub truncated: (u64, u64),
    /// The kept entries, consecutive from `truncated.0 + 1`.
    pub entries: Vec<Entry>,
}

impl Recovered {
    /// Index of the last entry, or of the snapshot if none follows.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.entries.last().map_or(self.truncated.0, |e| e.index)
    }

    /// The commands behind the snapshot with their indexes, committed or not; empty for what carries none.
    pub fn commands(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let from = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        let command = |e: &'_ Entry| e.entry_type == EntryType::EntryNormal;
        let behind = self.entries.iter().filter(move |e| e.index > from);
        behind.map(move |e| (e.index, if command(e) { e.data.as_ref() } else { &[] }))
    }

    /// Where the log ends, committed or not.
    #[must_use]
    pub fn end(&self) -> LogPosition {
        let (index, term) = self.entries.last().map_or(self.truncated, |e| (e.index, e.term));
        LogPosition { term, index }
    }
}

/// A snapshot that is to be stored, and what becomes of the log.
#[derive(Clone, PartialEq, Debug)]
pub struct SnapshotWrite {
    /// The snapshot.
    pub snapshot: StoredSnapshot,
    /// What becomes of the log.
    pub log: LogCut,
}

/// What a snapshot does to the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogCut {
    /// A peer's snapshot: nothing of the log is kept, it goes on after the snapshot.
    All,
    /// A compaction: entries up to this index, whose term is given, are removed. At most the snapshot's index.
    UpTo {
        /// Last removed index.
        index: u64,
        /// Its term.
        term: u64,
    },
}

/// One change of a store. The snapshot comes first, then the entries; hard state, configuration, applied index and
/// snapshot metadata change in one batch, entries in the same or an earlier one (C3).
#[derive(Clone, Debug)]
pub struct Write<'a> {
    /// A new snapshot.
    pub snapshot: Option<SnapshotWrite>,
    /// Consecutive entries. The first one follows the last stored one, or replaces it and all after it.
    pub entries: &'a [Entry],
    /// Term, vote and commit index from now on.
    pub hard_state: &'a HardState,
    /// The configuration as of `applied`.
    pub conf_state: &'a ConfState,
    /// The applied index from now on.
    pub applied: u64,
}

/// What a write must survive when it returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Power loss: entries, votes, terms, snapshots.
    Synced,
    /// The end of the process: commit and applied index, which a majority's logs can always give back.
    Buffered,
}

/// What a store holds at first.
#[derive(Clone, PartialEq, Debug)]
pub enum Beginning<'a> {
    /// The genesis state as a snapshot (N5, N6).
    Founded {
        /// The founders.
        conf_state: ConfState,
        /// Where the snapshot stands.
        at: LogPosition,
        /// The state, serialised.
        genesis: &'a Bytes,
    },
    /// Nothing: a joiner learns everything from the group.
    Joined,
}

/// The configuration of a founding.
fn founding(raft_id: u64, voters: &[u64]) -> Result<ConfState, StoreError> {
    let mut conf_state = ConfState::default();
    conf_state.voters = voters.to_vec();
    conf_state.voters.sort_unstable();
    if wire::validate_conf_state(&conf_state).is_err() || !voters.contains(&raft_id) {
        return Err(StoreError::Voters);
    }
    Ok(conf_state)
}

/// The store of one replica of the control group.
pub trait LogStore {
    /// Whose store this is; `None` before `found` or `join`.
    fn identity(&self) -> Option<Identity>;

    /// Founds the control group (N5): stores the genesis state as a snapshot at index 1, term 1, with `voters` as its
    /// configuration, and stamps the store. Only `qnat cluster init` calls this, once.
    ///
    /// # Errors
    /// As `found_at`.
    fn found(&mut self, cluster: ClusterId, raft_id: u64, voters: &[u64], genesis: &Bytes) -> Result<(), StoreError> {
        self.found_at(cluster, raft_id, voters, LogPosition::FIRST, genesis)
    }

    /// Founds the control group on a state that an earlier cluster left, as a snapshot `at` a position behind all of that
    /// one's entries (N6). Only `found` and the commands that recover or restore call this.
    ///
    /// # Errors
    /// If the store is stamped already, `voters` is no configuration that holds `raft_id`, or the disk fails.
    fn found_at(
        &mut self,
        cluster: ClusterId,
        raft_id: u64,
        voters: &[u64],
        at: LogPosition,
        genesis: &Bytes,
    ) -> Result<(), StoreError> {
        let conf_state = founding(raft_id, voters)?;
        self.begin(Identity { cluster, raft_id }, Beginning::Founded { conf_state, at, genesis })
    }

    /// Stamps an empty store as that of a joiner, which learns everything from the group. `raft_id` must be new (N5).
    ///
    /// # Errors
    /// If the store is stamped already, or the disk fails.
    fn join(&mut self, cluster: ClusterId, raft_id: u64) -> Result<(), StoreError> {
        self.begin(Identity { cluster, raft_id }, Beginning::Joined)
    }

    /// An empty log, the first rows, and the stamp last. Only `found_at` and `join` call this.
    ///
    /// # Errors
    /// If the store is stamped already, or the disk fails.
    fn begin(&mut self, identity: Identity, beginning: Beginning<'_>) -> Result<(), StoreError>;

    /// Reads and checks everything, and removes what an interrupted write left behind.
    ///
    /// # Errors
    /// If the store is not stamped, or anything in it is damaged.
    fn recover(&mut self) -> Result<Recovered, StoreError>;

    /// Performs `write`. Only after `recover`. After an error nothing may be acknowledged any more (C4, I24).
    ///
    /// # Errors
    /// If the disk fails; every later call fails too.
    fn write(&mut self, write: &Write<'_>, durability: Durability) -> Result<(), StoreError>;
}

/// Why a store cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("{place}: {reason}")]
    Io {
        /// File or directory.
        place: String,
        /// What the system said.
        reason: String,
    },
    /// Another process uses the directory.
    #[error("{place}: in use by another process; stop that one first")]
    Locked {
        /// The lock file.
        place: String,
    },
    /// A record is torn, flipped, missing or contradicts another one.
    #[error(
        "{place}: {what}. The control log on this disk cannot be trusted: move the directory away and let the node join again, which gives it a new raft id"
    )]
    Damaged {
        /// File or directory.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// `found` or `join` on a store that has an identity.
    #[error("{place}: belongs to cluster {cluster} as raft id {raft_id} already", cluster = .identity.cluster, raft_id = .identity.raft_id)]
    AlreadyStamped {
        /// File or directory.
        place: String,
        /// Whose it is.
        identity: Identity,
    },
    /// The store has no identity.
    #[error(
        "{place}: not stamped: it was neither founded (`qnat cluster init --help`) nor has it joined (`qnat join request --help`)"
    )]
    NotStamped {
        /// File or directory.
        place: String,
    },
    /// The voters of a founding are no configuration, or do not hold the founder.
    #[error("the founding voters are not a configuration that holds the founder")]
    Voters,
    /// An earlier write failed, so this incarnation of the node is over (C4).
    #[error("an earlier write failed; restart the node")]
    Broken,
}
