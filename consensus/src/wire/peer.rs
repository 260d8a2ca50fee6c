//! What kinds of raft message a peer may send at all. Asked by both wings before they look at anything else of a message.

use raft::eraftpb::MessageType;

/// Kinds of raft message that come from peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerMessage {
    /// Entries, or their absence.
    Append,
    /// The answer to it.
    AppendResponse,
    /// A candidate asks for a vote.
    RequestVote,
    /// The answer to it.
    RequestVoteResponse,
    /// Whoever would like to be a candidate asks whether it would get a vote.
    RequestPreVote,
    /// The answer to it.
    RequestPreVoteResponse,
    /// A leader's whole state.
    Snapshot,
    /// A leader lives.
    Heartbeat,
    /// The answer to it.
    HeartbeatResponse,
    /// A leader hands over.
    TimeoutNow,
}

/// Which kind of a peer's messages this is. None: raft's local messages, which steer a replica from inside, and requests
/// that only the own node may make.
#[must_use]
pub const fn peer_message(kind: MessageType) -> Option<PeerMessage> {
    Some(match kind {
        MessageType::MsgAppend => PeerMessage::Append,
        MessageType::MsgAppendResponse => PeerMessage::AppendResponse,
        MessageType::MsgRequestVote => PeerMessage::RequestVote,
        MessageType::MsgRequestVoteResponse => PeerMessage::RequestVoteResponse,
        MessageType::MsgRequestPreVote => PeerMessage::RequestPreVote,
        MessageType::MsgRequestPreVoteResponse => PeerMessage::RequestPreVoteResponse,
        MessageType::MsgSnapshot => PeerMessage::Snapshot,
        MessageType::MsgHeartbeat => PeerMessage::Heartbeat,
        MessageType::MsgHeartbeatResponse => PeerMessage::HeartbeatResponse,
        MessageType::MsgTimeoutNow => PeerMessage::TimeoutNow,
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => return None,
    })
}
