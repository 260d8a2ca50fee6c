//! I8, by a reference of its own: a frame from a virtual MAC leaves only while a quorum of voters has promised its sender, in
//! that very term, to give no vote. A promise is an answered heartbeat, and counts from when that was sent (L1). Nothing here
//! asks the lease word.

use std::collections::BTreeMap;

use consensus::event::{GroupId, Incarnation};
use consensus::frame::Frame;
use raft::eraftpb::MessageType;

use super::{Check, ensure};

/// Voters, and those of the outgoing half of a joint configuration.
pub type Conf = (Vec<Incarnation>, Vec<Incarnation>);

/// Clocks differ in rate by less than this part of a lease.
const RATE: u64 = 500;

/// Heartbeats that were sent, and what came of them.
#[derive(Debug, Default)]
pub struct Promises {
    /// Term and time of each heartbeat, by group, sender and nonce.
    beats: BTreeMap<(GroupId, Incarnation, u64), (u64, u64)>,
    /// When the newest heartbeat that each voter answered had been sent, by group, leader and term.
    answered: BTreeMap<(GroupId, Incarnation, u64), BTreeMap<Incarnation, u64>>,
    /// The configurations that each leader has applied, and since when: what a lease was gained in stays gained.
    confs: BTreeMap<(GroupId, Incarnation), Vec<(Conf, u64)>>,
}

impl Promises {
    /// A frame leaves its sender at `now_ns`.
    pub fn sent(&mut self, frame: &Frame, now_ns: u64) {
        if let Frame::Raft { key, message } = frame
            && message.get_msg_type() == MessageType::MsgHeartbeat
            && let Some(nonce) = message.context.first_chunk()
        {
            let beat = (key.group, key.from, u64::from_le_bytes(*nonce));
            self.beats.entry(beat).or_insert((message.term, now_ns));
        }
    }

    /// A frame arrives that its sender really sent.
    pub fn arrived(&mut self, frame: &Frame) {
        let Frame::Raft { key, message } = frame else { return };
        if message.get_msg_type() != MessageType::MsgHeartbeatResponse {
            return;
        }
        let Some(nonce) = message.context.first_chunk() else { return };
        let Some((term, sent_ns)) = self.beats.get(&(key.group, key.to, u64::from_le_bytes(*nonce))).copied() else {
            return;
        };
        if message.term == term {
            let newest = self.answered.entry((key.group, key.to, term)).or_default().entry(key.from).or_insert(0);
            *newest = sent_ns.max(*newest);
        }
    }

    /// `leader`, which has applied `conf`, uses the virtual MAC in `term`.
    ///
    /// # Errors
    /// If no quorum has promised it anything that lasts until now.
    pub fn check(
        &mut self,
        group: GroupId,
        leader: Incarnation,
        term: u64,
        conf: Conf,
        now_ns: u64,
        lease_ns: u64,
    ) -> Check {
        let longest_ns = lease_ns + lease_ns / RATE;
        let confs = self.confs.entry((group, leader)).or_default();
        if confs.last().is_none_or(|(newest, _)| *newest != conf) {
            confs.push((conf, now_ns));
        }
        // One that was superseded a lease ago or earlier has no lease left.
        while confs.get(1).is_some_and(|(_, since_ns)| now_ns - since_ns > longest_ns) {
            confs.remove(0);
        }
        let answered = self.answered.get(&(group, leader, term));
        let lasts = |voter: &Incarnation| {
            let sent_ns = answered.and_then(|answered| answered.get(voter)).copied();
            *voter == leader || sent_ns.is_some_and(|sent_ns| now_ns - sent_ns <= longest_ns)
        };
        let half =
            |voters: &[Incarnation]| voters.is_empty() || voters.iter().filter(|v| lasts(v)).count() * 2 > voters.len();
        let promised = confs.iter().any(|((voters, outgoing), _)| half(voters) && half(outgoing));
        ensure(promised, "I8", || {
            format!(
                "{leader:?} uses the virtual MAC of {group:?} in term {term} at {now_ns}; promised: {answered:?}, {confs:?}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use consensus::event::Epoch;
    use consensus::frame::Key;
    use raft::eraftpb::Message;

    use super::*;

    const G: GroupId = GroupId(1);
    const LEASE: u64 = 40_000_000;

    fn frame(kind: MessageType, from: u64, to: u64, term: u64, nonce: u64) -> Frame {
        let mut message =
            Message { from, to, term, context: nonce.to_le_bytes().to_vec().into(), ..Message::default() };
        message.set_msg_type(kind);
        Frame::Raft { key: Key { group: G, epoch: Epoch(0), from: Incarnation(from), to: Incarnation(to) }, message }
    }

    #[test]
    fn a_quorum_of_answers_in_the_own_term_lasts_for_a_lease_from_the_send() {
        let mut promises = Promises::default();
        let ids = |ids: &[u64]| ids.iter().copied().map(Incarnation).collect::<Vec<_>>();
        let conf = || (ids(&[1, 2, 3]), vec![]);
        let check = |p: &mut Promises, term, now| p.check(G, Incarnation(1), term, conf(), now, LEASE);
        promises.sent(&frame(MessageType::MsgHeartbeat, 1, 2, 7, 5), 1_000);
        assert!(check(&mut promises, 7, 1_000).is_err(), "nobody has answered");
        promises.arrived(&frame(MessageType::MsgHeartbeatResponse, 2, 1, 6, 5));
        assert!(check(&mut promises, 7, 1_000).is_err(), "in another term");
        promises.arrived(&frame(MessageType::MsgHeartbeatResponse, 2, 1, 7, 5));
        assert!(check(&mut promises, 7, 1_000 + LEASE).is_ok());
        assert!(check(&mut promises, 8, 1_000).is_err(), "a promise is for one term");
        assert!(check(&mut promises, 7, 1_000 + LEASE + LEASE / RATE + 1).is_err(), "it is over");
    }
}
