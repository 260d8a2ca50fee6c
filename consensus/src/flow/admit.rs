//! What a peer's raft message must satisfy before it reaches `step()` (N1, F1, L3): raft-rs panics on some messages,
//! believes strangers, and forwards proposals. Form was checked by `wire`; this is about the living replica.
//!
//! Pure; called by `FlowGroup::receive` for every message.

use raft::eraftpb::{Message, MessageType};
use raft::{CAMPAIGN_TRANSFER, Raft, StateRole};
use words::{Epoch, Term};

use crate::flow::log::MemoryLog;
use crate::wire::peer_message;

/// Why a peer's frame was dropped. Every drop is counted under one of these.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FrameDrop {
    /// Not an intact frame.
    Malformed,
    /// The frame names another sender than the transport proved, or another receiver.
    WrongKey,
    /// No replica of that group and epoch lives here.
    NoReplica,
    /// The sender is neither in the specification nor in the replica's configuration.
    Stranger,
    /// A kind that peers may not send, or that flow groups do not use.
    Kind,
    /// The term is not one of this epoch.
    Term,
    /// A heartbeat that commits beyond the local log.
    CommitBeyondLog,
    /// An answer about entries that the log does not hold.
    IndexBeyondLog,
    /// An append that names no predecessor: raft-rs takes term 0 for a match anywhere beyond the log, and then panics.
    NoPredecessor,
    /// A request for a snapshot message.
    SnapshotRequest,
    /// `TimeoutNow` from somebody else than the leader of this term.
    FalseTimeout,
    /// An unknown campaign context or a heartbeat answer without its nonce.
    Context,
    /// A vote within V of a leader's message (L3).
    LeaderAlive,
    /// The epoch is sealed (N4).
    Sealed,
}

impl FrameDrop {
    /// The reason in answers and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::WrongKey => "wrong_key",
            Self::NoReplica => "no_replica",
            Self::Stranger => "stranger",
            Self::Kind => "kind",
            Self::Term => "term",
            Self::CommitBeyondLog => "commit_beyond_log",
            Self::IndexBeyondLog => "index_beyond_log",
            Self::NoPredecessor => "no_predecessor",
            Self::SnapshotRequest => "snapshot_request",
            Self::FalseTimeout => "false_timeout",
            Self::Context => "context",
            Self::LeaderAlive => "leader_alive",
            Self::Sealed => "sealed",
        }
    }
}

/// Whether `raft` digests this message.
///
/// # Errors
/// The reason to drop it.
pub fn admit(message: &Message, raft: &Raft<MemoryLog>, epoch: Epoch) -> Result<(), FrameDrop> {
    if peer_message(message.msg_type).is_none() || message.msg_type == MessageType::MsgSnapshot {
        return Err(FrameDrop::Kind);
    }
    // Term 0 would pass for a message of this replica itself.
    if message.term == 0 || Term(message.term).epoch() != epoch {
        return Err(FrameDrop::Term);
    }
    let last = raft.raft_log.last_index();
    let kind = message.msg_type;
    if kind == MessageType::MsgHeartbeat && message.term >= raft.term && message.commit > last {
        return Err(FrameDrop::CommitBeyondLog);
    }
    if kind == MessageType::MsgAppend && message.log_term == 0 {
        return Err(FrameDrop::NoPredecessor);
    }
    if kind == MessageType::MsgTimeoutNow && (message.term != raft.term || message.from != raft.leader_id) {
        return Err(FrameDrop::FalseTimeout);
    }
    let asks = matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
    if asks && !message.context.is_empty() && message.context != CAMPAIGN_TRANSFER {
        return Err(FrameDrop::Context);
    }
    if kind == MessageType::MsgAppendResponse { admit_answer(message, raft, last) } else { Ok(()) }
}

fn admit_answer(message: &Message, raft: &Raft<MemoryLog>, last: u64) -> Result<(), FrameDrop> {
    if message.request_snapshot != 0 {
        return Err(FrameDrop::SnapshotRequest);
    }
    let about_this_term = raft.state == StateRole::Leader && message.term == raft.term;
    // A false match would count towards the quorum of entries that the follower never had.
    if about_this_term && (message.index > last || message.reject_hint > last) {
        return Err(FrameDrop::IndexBeyondLog);
    }
    Ok(())
}

/// Whether this is a leader's message, which starts the silence of L3.
#[must_use]
pub fn is_of_leader(kind: MessageType) -> bool {
    matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat)
}

/// Whether this asks for a vote that L3 refuses while a leader lives: any but that of a transfer.
#[must_use]
pub fn is_unasked_vote(message: &Message) -> bool {
    matches!(message.msg_type, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
        && message.context != CAMPAIGN_TRANSFER
}
