//! What raft-rs takes for granted, and panics without: checked before a message or a configuration gets near it.

use raft::eraftpb::{ConfState, Message, MessageType};

use super::error::WireError;

/// Whether raft-rs accepts this configuration: it aborts the process on one that contradicts itself.
///
/// # Errors
/// The first contradiction.
pub fn validate_conf_state(conf: &ConfState) -> Result<(), WireError> {
    let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
    for ids in lists {
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != ids.len() || sorted.first() == Some(&0) {
            return Err(WireError::Invalid("replica id in a configuration"));
        }
    }
    let disjoint = |a: &[u64], b: &[u64]| a.iter().all(|id| !b.contains(id));
    if conf.voters.is_empty() {
        return Err(WireError::Invalid("configuration without voters"));
    }
    if !disjoint(&conf.learners, &conf.voters) || !disjoint(&conf.learners, &conf.voters_outgoing) {
        return Err(WireError::Invalid("learner that is also a voter"));
    }
    if !disjoint(&conf.learners_next, &conf.voters)
        || !disjoint(&conf.learners_next, &conf.learners)
        || !conf.learners_next.iter().all(|id| conf.voters_outgoing.contains(id))
    {
        return Err(WireError::Invalid("demoted voter that was none"));
    }
    if conf.voters_outgoing.is_empty() && (conf.auto_leave || !conf.learners_next.is_empty()) {
        return Err(WireError::Invalid("joint marks on a simple configuration"));
    }
    Ok(())
}

/// What raft-rs takes for granted between the fields of one message.
pub(super) fn validate(message: &Message) -> Result<(), WireError> {
    match message.msg_type {
        MessageType::MsgAppend => validate_append(message)?,
        // It takes the first entry of these without looking.
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp | MessageType::MsgPropose => {
            if message.entries.is_empty() {
                return Err(WireError::Invalid("request without entries"));
            }
        }
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgSnapshot
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgTimeoutNow
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse => {
            if !message.entries.is_empty() {
                return Err(WireError::Invalid("entries in a message without log"));
            }
        }
    }
    match (message.msg_type == MessageType::MsgSnapshot, message.snapshot.as_ref()) {
        (false, None) => Ok(()),
        (true, Some(snapshot)) if snapshot.get_metadata().term <= message.term => Ok(()),
        (true, Some(_)) => Err(WireError::Invalid("snapshot of a later term")),
        (true, None) | (false, Some(_)) => Err(WireError::Invalid("snapshot where none belongs, or none")),
    }
}

/// Entries follow `index` without a gap, and terms grow from `log_term` to at most the message's term.
fn validate_append(message: &Message) -> Result<(), WireError> {
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in message.entries.iter() {
        index += 1;
        if entry.index != index {
            return Err(WireError::Invalid("entry index"));
        }
        if entry.term < term || entry.term == 0 {
            return Err(WireError::Invalid("entry term below the one before"));
        }
        term = entry.term;
    }
    if term > message.term {
        return Err(WireError::Invalid("entry term above the message's"));
    }
    Ok(())
}
