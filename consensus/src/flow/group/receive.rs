//! Raft messages of peers, on their way into raft. Called with what carries the right key.

use bytes::Bytes;
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};
use words::Incarnation;

use super::{Effects, FlowGroup};
use crate::flow::admit::{self, FrameDrop};

impl FlowGroup {
    /// A raft message of a replica with the right key. Dropped ones come back with the reason.
    pub(crate) fn receive(&mut self, mut m: Message, now_ns: u64, out: &mut Effects) -> Result<(), FrameDrop> {
        if self.is_sealed() {
            return Err(FrameDrop::Sealed);
        }
        admit::admit(&m, &self.node.raft, self.spec.epoch)?;
        let unasked_vote = admit::is_unasked_vote(&m);
        if unasked_vote && self.leader_alive(now_ns) {
            return Err(FrameDrop::LeaderAlive);
        }
        let bulk = matches!(
            m.msg_type,
            MessageType::MsgAppend
                | MessageType::MsgAppendResponse
                | MessageType::MsgHeartbeat
                | MessageType::MsgHeartbeatResponse
        );
        if !bulk {
            // A role may change only with nothing unstored: raft asserts it.
            self.settle(now_ns, out);
        }
        let raft = &self.node.raft;
        if admit::is_of_leader(m.msg_type) && m.term >= raft.term {
            self.last_leader_ns = Some(now_ns);
            self.last_leader = Some(Incarnation(m.from));
        }
        let own_term = m.term == raft.term && raft.state == StateRole::Leader;
        let (kind, from) = (m.msg_type, m.from);
        let nonce = if kind == MessageType::MsgHeartbeatResponse { Some(split_nonce(&mut m)?) } else { None };
        // E2: this log is newer than the one that asks, and no leader lives.
        let help = kind == MessageType::MsgRequestPreVote
            && raft.state == StateRole::Follower
            && raft.promotable()
            && !raft.raft_log.is_up_to_date(m.index, m.log_term);
        if kind == MessageType::MsgTimeoutNow {
            self.handover.was_handed_over(Incarnation(from), now_ns);
        }
        // Errors are raft's way of ignoring a message.
        let _ignored = self.node.step(m);
        self.set_campaign_time();
        if own_term {
            self.answered(from, nonce, now_ns, out);
        }
        if help && unasked_vote && self.node.raft.state == StateRole::Follower {
            self.settle(now_ns, out);
            self.campaign();
        }
        if !bulk {
            self.settle(now_ns, out);
        }
        Ok(())
    }

    /// A peer answered the leader in its own term.
    pub(super) fn answered(&mut self, from: u64, nonce: Option<u64>, now_ns: u64, out: &mut Effects) {
        let term = self.node.raft.term;
        let Some(leadership) = self.leading.as_mut().filter(|l| l.term == term) else { return };
        leadership.heard_ns.insert(from, now_ns);
        if let Some(nonce) = nonce
            && self.lease.echoed(nonce, from, &self.conf) == crate::flow::lease::Grew::Yes
        {
            self.publish_lease(now_ns, out);
        }
    }
}

/// Takes the nonce off a heartbeat's echo, leaving raft's own context.
fn split_nonce(m: &mut Message) -> Result<u64, FrameDrop> {
    let (nonce, rest) = m.context.split_first_chunk::<8>().ok_or(FrameDrop::Context)?;
    let nonce = u64::from_le_bytes(*nonce);
    m.context = Bytes::copy_from_slice(rest);
    Ok(nonce)
}
