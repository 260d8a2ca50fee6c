//! Which of a peer's messages reach raft: raft-rs panics on some and believes others that it must not (N1).
//!
//! Called by the control group for each frame, after the transport has proved who sent it.

use bytes::Bytes;
use raft::eraftpb::Message;

use crate::wire::{self, KIND_CONTROL_MESSAGE, PeerMessage};

/// What this replica is and knows, as far as messages are judged by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) own: u64,
    pub(super) term: u64,
    pub(super) leader: u64,
    pub(super) last_index: u64,
    pub(super) stopping: bool,
}

/// The message in `frame`, if it is whole, meant for this replica, of a kind that a peer may send, and harmless.
pub(super) fn message(frame: &Bytes, from: u64, standing: Standing) -> Option<Message> {
    let (kind, body) = wire::open_bytes(frame).ok()?;
    if kind != KIND_CONTROL_MESSAGE {
        return None;
    }
    let message = wire::decode_message_bytes(&body).ok()?;
    let addressed = message.to == standing.own && message.from == from && from != standing.own && from != 0;
    // Term 0 marks raft's local messages.
    if !addressed || message.term == 0 {
        return None;
    }
    harmless(wire::peer_message(message.msg_type)?, &message, standing).then_some(message)
}

fn harmless(kind: PeerMessage, message: &Message, standing: Standing) -> bool {
    match kind {
        // A stale heartbeat to a replica that lost its log would commit what is not there.
        PeerMessage::Heartbeat => message.commit <= standing.last_index,
        // Every log starts after a snapshot (N5): nothing follows index 0, and no predecessor has term 0, which raft-rs
        // would take for a match beyond its own log.
        PeerMessage::Append => (message.index > 0 || message.entries.is_empty()) && message.log_term > 0,
        // An answer cannot be about entries that this replica never had; we never ask a leader for a snapshot.
        PeerMessage::AppendResponse => message.index <= standing.last_index && message.request_snapshot == 0,
        // Only the present leader may ask for an election without timeout; a delayed request would disrupt a later one.
        PeerMessage::TimeoutNow => {
            message.term == standing.term && message.from == standing.leader && !standing.stopping
        }
        PeerMessage::RequestVote
        | PeerMessage::RequestVoteResponse
        | PeerMessage::Snapshot
        | PeerMessage::HeartbeatResponse
        | PeerMessage::RequestPreVote
        | PeerMessage::RequestPreVoteResponse => true,
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::MessageType;

    use super::*;

    const STANDING: Standing = Standing { own: 2, term: 5, leader: 1, last_index: 10, stopping: false };

    fn sent(change: impl FnOnce(&mut Message)) -> Bytes {
        let mut m = Message::default();
        m.msg_type = MessageType::MsgHeartbeat;
        (m.to, m.from, m.term, m.commit) = (2, 1, 5, 10);
        change(&mut m);
        let mut body = Vec::new();
        wire::encode_message(&m, &mut body);
        wire::seal(KIND_CONTROL_MESSAGE, &body).into()
    }

    fn admitted(change: impl FnOnce(&mut Message)) -> bool {
        message(&sent(change), 1, STANDING).is_some()
    }

    #[test]
    fn only_whole_messages_for_this_replica_from_that_peer_pass() {
        assert!(admitted(|_| ()));
        assert!(!admitted(|m| m.to = 3));
        assert!(!admitted(|m| m.from = 3));
        assert!(!admitted(|m| m.term = 0));
        assert!(message(&sent(|m| m.from = 2), 2, STANDING).is_none(), "from itself");
        assert!(message(&Bytes::from(wire::seal(KIND_CONTROL_MESSAGE + 1, &[])), 1, STANDING).is_none());
        assert!(message(&Bytes::from_static(b"noise"), 1, STANDING).is_none());
    }

    #[test]
    fn what_would_panic_or_steer_raft_is_dropped() {
        assert!(!admitted(|m| m.commit = 11), "commit beyond the log");
        for kind in [MessageType::MsgHup, MessageType::MsgUnreachable, MessageType::MsgTransferLeader] {
            assert!(!admitted(|m| m.msg_type = kind));
        }
        assert!(admitted(|m| (m.msg_type, m.commit) = (MessageType::MsgTimeoutNow, 0)));
        assert!(!admitted(|m| (m.msg_type, m.term) = (MessageType::MsgTimeoutNow, 4)), "delayed");
        assert!(!admitted(|m| (m.msg_type, m.index) = (MessageType::MsgAppendResponse, 11)), "never had it");
        let from_zero = |m: &mut Message| {
            let mut e = raft::eraftpb::Entry::default();
            (e.term, e.index) = (1, 1);
            m.msg_type = MessageType::MsgAppend;
            m.entries.push(e);
        };
        assert!(!admitted(from_zero), "a log that starts at nothing");
    }
}
