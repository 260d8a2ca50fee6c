//! The commands of the control log: one entry each (C1).
//!
//! A command carries everything that apply needs and that is not in the state: the proposer's time and random draw, and
//! an idempotency key. It must never carry anything that a replica would have to look up elsewhere. Encoded through
//! `codec`; the layout is frozen per version (C2), pinned by a golden-bytes test.

use bincode::{Decode, Encode};
use engine::ids::{ControlIndex, FrontendId, Incarnation, NodeId, PortBlock, ShardId};

use crate::codec::{self, CodecError, Kind};
use crate::loads::PortLoad;
use crate::nsg::service_tags::ServiceTags;
use crate::probing::health::HealthChange;
use crate::registry::Joiner;
use crate::registry::Registration;
use crate::resource::Desired;

/// Idempotency key: a retry carries the same one.
pub type Key = [u8; 16];

/// A hash of a plan (C5).
pub type PlanHash = [u8; 32];

/// One entry of the control log.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Command {
    /// Applied once, however often it is proposed.
    pub key: Key,
    /// The proposer's wall clock, milliseconds since 1970: for people and for retirement times, never for safety.
    pub stamped_unix_ms: u64,
    /// Random bits drawn by the proposer (D1).
    pub draw: u64,
    /// What to do.
    pub body: CommandBody,
}

/// What a command does.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum CommandBody {
    /// Nothing.
    Noop,
    /// Replace the declared configuration.
    Configure(Box<Configure>),
    /// A node started: its new incarnation is this entry's index (N1).
    RegisterIncarnation(Registration),
    /// A node without a stamp asks for a control raft id: this entry's index (N5).
    JoinControl(Joiner),
    /// The control group applied this configuration (raft ids).
    ControlConfApplied {
        /// Its voters.
        voters: Vec<u64>,
    },
    /// The shard's applied configuration holds these replicas no longer: ends `leaving` (N1, N2).
    ReplicaGone {
        /// The shard.
        shard: ShardId,
        /// Its epoch.
        epoch: u32,
        /// The replicas.
        gone: Vec<Incarnation>,
    },
    /// The shard's leader reports the voters of its applied, not joint, configuration. Sharpens N4 and the status.
    VotersApplied {
        /// The shard.
        shard: ShardId,
        /// Its epoch.
        epoch: u32,
        /// The voters.
        voters: Vec<Incarnation>,
    },
    /// Survivors of the epoch must seal and report (N4).
    SealEpoch {
        /// The shard.
        shard: ShardId,
        /// The epoch.
        epoch: u32,
    },
    /// A replica sealed. One that was no voter, or never had a table, reports (0, 0), which cannot become a base.
    Sealed {
        /// The shard.
        shard: ShardId,
        /// The epoch.
        epoch: u32,
        /// The replica.
        incarnation: Incarnation,
        /// Term of its last log entry.
        last_term: u64,
        /// Index of its last log entry.
        last_index: u64,
    },
    /// End the sealed epoch and begin the next one (N4). Base and wait are computed by apply.
    Recreate {
        /// The shard.
        shard: ShardId,
        /// The epoch that ends.
        epoch: u32,
        /// Who begins alone if no survivor holds a base.
        holder_if_lost: Incarnation,
    },
    /// An owner of the epoch serves: it has waited for whoever could still repeat mappings of earlier epochs (N4).
    EpochServed {
        /// The shard.
        shard: ShardId,
        /// The epoch.
        epoch: u32,
    },
    /// Fences of these blocks were committed in the shard's flow log (F5).
    ReclaimComplete {
        /// The shard.
        shard: ShardId,
        /// The epoch in which the fences were committed.
        shard_epoch: u32,
        /// The blocks, and which reclaim of each. Those that are late change nothing.
        blocks: Vec<(PortBlock, ControlIndex)>,
    },
    /// A node wants to stop (N3).
    StopTokenTake {
        /// The node.
        node: NodeId,
        /// Who votes and is in step in each shard, as the control group's leader saw it when it proposed this; what the
        /// node itself says here counts for nothing.
        seen: Vec<InStep>,
    },
    /// The holder is back and fully redundant (N3).
    StopTokenReturn {
        /// The node.
        node: NodeId,
    },
    /// An operator takes the token back (N3).
    StopTokenRevoke,
    /// An operator removed the node after powering it off (N4).
    RemoveNode {
        /// The node.
        node: NodeId,
        /// What it was when the operator decided ([`crate::registry::Node::named`]); refused for any other.
        incarnation: Incarnation,
    },
    /// Raise the cluster level (C2).
    SetLevel {
        /// The new level.
        level: u16,
    },
    /// Set a shard's members by successor rank; on a shard without members it founds the group.
    SetMembers {
        /// The shard.
        shard: ShardId,
        /// Nodes by rank, rank 0 preferred.
        members: Vec<NodeId>,
        /// Only if the shard's membership last changed at this index; `None`: whatever it is (an operator's move).
        unchanged_since: Option<ControlIndex>,
    },
    /// Frontends that are no longer declared, hold no lease and whose holds have ended go; with its last one a shard goes.
    RetireFrontends {
        /// The frontends. Those of which that is not so stay; refused if it is so of none.
        frontends: Vec<FrontendId>,
    },
    /// An operator wants the node out of the cluster: its shards move away, then its vote in the control group ends.
    DrainNode {
        /// The node.
        node: NodeId,
        /// What it was when the operator decided; refused for any other.
        incarnation: Incarnation,
    },
    /// An operator takes a drain back.
    ResumeNode {
        /// The node.
        node: NodeId,
    },
    /// Begin a configuration that comes in parts: this entry's index is the number of the attempt.
    ConfigureBegin,
    /// One part of it.
    ConfigurePart {
        /// The attempt.
        attempt: ControlIndex,
        /// The number of the part, from 0.
        number: u32,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// The parts are there: replace the declared configuration by what they come to.
    ConfigureCommit {
        /// The attempt.
        attempt: ControlIndex,
        /// How many parts it has.
        parts: u32,
        /// Hash of all of them in a row.
        hash: PlanHash,
    },
    /// The platform's prefixes of service tags from now on (D20).
    SetServiceTags(Box<ServiceTags>),
    /// Probes of backends came to another end than what is committed (S22).
    HealthChanged(Vec<HealthChange>),
}

/// A declared configuration on its way into the state.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Configure {
    /// The configuration.
    pub desired: Desired,
    /// The plan that an operator saw; refused if blocks or configuration changed since (C5).
    pub base_hash: Option<PlanHash>,
    /// Live flows per piece of port space, to choose the half that drains (D4). Pieces of any size; none means ties.
    pub hints: Vec<PortLoad>,
}

/// The replicas of a shard that vote, are heard and have what is committed, as its owner measured it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct InStep {
    /// The shard.
    pub shard: ShardId,
    /// Its epoch.
    pub epoch: u32,
    /// These replicas; none if its configuration is joint.
    pub lives: Vec<Incarnation>,
}

impl Command {
    /// The bytes of the log entry.
    ///
    /// # Errors
    /// [`CodecError::Encode`] if it exceeds `limits::COMMAND_LEN_MAX`.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(Kind::Command, self)
    }

    /// Reads a log entry.
    ///
    /// # Errors
    /// See [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(Kind::Command, bytes)
    }
}

impl CommandBody {
    /// About what it costs to apply it, in blocks of ports that change hands; a part of a configuration costs its length.
    /// Says nothing of those that settle all leases.
    #[must_use]
    pub const fn weight(&self) -> usize {
        const ANY: usize = 16;
        const PART_BYTES_PER_BLOCK: usize = 512;
        if let Self::ReclaimComplete { blocks, .. } = self {
            ANY + blocks.len()
        } else if let Self::ConfigurePart { bytes, .. } = self {
            ANY + bytes.len() / PART_BYTES_PER_BLOCK
        } else if let Self::HealthChanged(changes) = self {
            ANY + changes.len()
        } else {
            ANY
        }
    }

    /// Whether it may change any part of the state, so that to apply it is a walk over all of it. All others cost what they
    /// change.
    #[must_use]
    pub const fn settles(&self) -> bool {
        matches!(
            self,
            Self::Configure(_) | Self::ConfigureCommit { .. } | Self::RetireFrontends { .. } | Self::SetServiceTags(_)
        )
    }

    /// A short name, for logs and events.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Configure(_) => "configure",
            Self::ConfigureBegin => "configure_begin",
            Self::ConfigurePart { .. } => "configure_part",
            Self::ConfigureCommit { .. } => "configure_commit",
            Self::RegisterIncarnation(_) => "register_incarnation",
            Self::JoinControl(_) => "join_control",
            Self::ControlConfApplied { .. } => "control_conf_applied",
            Self::ReplicaGone { .. } => "replica_gone",
            Self::VotersApplied { .. } => "voters_applied",
            Self::SealEpoch { .. } => "seal_epoch",
            Self::Sealed { .. } => "sealed",
            Self::Recreate { .. } => "recreate",
            Self::EpochServed { .. } => "epoch_served",
            Self::ReclaimComplete { .. } => "reclaim_complete",
            Self::StopTokenTake { .. } => "stop_token_take",
            Self::StopTokenReturn { .. } => "stop_token_return",
            Self::StopTokenRevoke => "stop_token_revoke",
            Self::RemoveNode { .. } => "remove_node",
            Self::SetLevel { .. } => "set_level",
            Self::SetMembers { .. } => "set_members",
            Self::RetireFrontends { .. } => "retire_frontends",
            Self::DrainNode { .. } => "drain_node",
            Self::ResumeNode { .. } => "resume_node",
            Self::SetServiceTags(_) => "set_service_tags",
            Self::HealthChanged(_) => "health_changed",
        }
    }
}
