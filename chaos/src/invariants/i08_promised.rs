//! I8, by a reference of its own: a frame from a virtual MAC leaves only while a quorum of voters has promised its sender, in
//! that very term, to give no vote. A promise is an answered heartbeat, and counts from when that was sent (L1). Nothing here
//! asks the lease word.

use std::collections::BTreeMap;

use consensus::flow::frame::Frame;
use raft::eraftpb::MessageType;
use words::{Incarnation, ShardId};

use super::{Check, ensure};

/// Voters, and those of the outgoing half of a joint configuration.
pub type Conf = (Vec<Incarnation>, Vec<Incarnation>);

/// Clocks differ in rate by less than this part of a lease.
const RATE: u64 = 500;

/// Heartbeats that were sent, and what came of them.
#[derive(Debug)]
pub struct Promises {
    /// How long a promise lasts, by the fastest and the slowest clock.
    longest_ns: u64,
    /// When each heartbeat was sent, by group, sender, term and nonce: with a new epoch nonces begin again.
    beats: BTreeMap<(ShardId, Incarnation, u64, u64), u64>,
    /// When the newest heartbeat that each voter answered had been sent, by group, leader and term.
    answered: BTreeMap<(ShardId, Incarnation, u64), BTreeMap<Incarnation, u64>>,
    /// The configurations that each replica has applied, and until when it went by them: what was gained stays gained.
    confs: BTreeMap<(ShardId, Incarnation), Vec<(Conf, u64)>>,
}

impl Promises {
    /// Nobody has promised anything; a lease is so long.
    #[must_use]
    pub const fn of(lease_ns: u64) -> Self {
        let longest_ns = lease_ns + lease_ns / RATE;
        Self { longest_ns, beats: BTreeMap::new(), answered: BTreeMap::new(), confs: BTreeMap::new() }
    }

    /// `leader`'s replica goes by `conf` from now on, if not before: also while nothing leaves there.
    pub fn applied(&mut self, group: ShardId, leader: Incarnation, conf: Conf, now_ns: u64) {
        let confs = self.confs.entry((group, leader)).or_default();
        if confs.last().is_none_or(|(newest, _)| *newest != conf) {
            // One that was superseded a lease ago or earlier has no lease left.
            confs.retain_mut(|(_, until_ns)| now_ns <= until_ns.saturating_add(self.longest_ns));
            if let Some((_, until_ns)) = confs.last_mut() {
                *until_ns = now_ns;
            }
            confs.push((conf, u64::MAX));
        }
    }

    /// A frame leaves its sender at `now_ns`.
    pub fn sent(&mut self, frame: &Frame, now_ns: u64) {
        if let Frame::Raft { key, message } = frame
            && message.get_msg_type() == MessageType::MsgHeartbeat
            && let Some(nonce) = message.context.first_chunk()
        {
            let beat = (key.group, key.from, message.term, u64::from_le_bytes(*nonce));
            self.beats.entry(beat).or_insert(now_ns);
        }
    }

    /// A frame arrives that its sender really sent.
    pub fn arrived(&mut self, frame: &Frame) {
        let Frame::Raft { key, message } = frame else { return };
        if message.get_msg_type() != MessageType::MsgHeartbeatResponse {
            return;
        }
        let Some(nonce) = message.context.first_chunk() else { return };
        let beat = (key.group, key.to, message.term, u64::from_le_bytes(*nonce));
        if let Some(sent_ns) = self.beats.get(&beat).copied() {
            let answered = self.answered.entry((key.group, key.to, message.term)).or_default();
            let newest = answered.entry(key.from).or_insert(0);
            *newest = sent_ns.max(*newest);
        }
    }

    /// `leader` uses the virtual MAC in `term`.
    ///
    /// # Errors
    /// If no quorum of a configuration that it goes by, or went by a lease ago, has promised it anything that lasts until
    /// now.
    pub fn check(&self, group: ShardId, leader: Incarnation, term: u64, now_ns: u64) -> Check {
        let longest_ns = self.longest_ns;
        let answered = self.answered.get(&(group, leader, term));
        let lasts = |voter: &Incarnation| {
            let sent_ns = answered.and_then(|answered| answered.get(voter)).copied();
            *voter == leader || sent_ns.is_some_and(|sent_ns| now_ns - sent_ns <= longest_ns)
        };
        let half = |voters: &[Incarnation]| voters.iter().filter(|v| lasts(v)).count() * 2 > voters.len();
        let confs = self.confs.get(&(group, leader)).map_or(&[][..], Vec::as_slice);
        let counts = |until_ns: u64| now_ns <= until_ns.saturating_add(longest_ns);
        let promised = confs.iter().any(|((voters, outgoing), until_ns)| {
            counts(*until_ns) && half(voters) && (outgoing.is_empty() || half(outgoing))
        });
        ensure(promised, "I8", || {
            format!(
                "{leader:?} uses the virtual MAC of {group:?} in term {term} at {now_ns}; promised: {answered:?}, {confs:?}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use consensus::flow::frame::Key;
    use raft::eraftpb::Message;
    use words::Epoch;

    use super::*;

    const G: ShardId = ShardId(1);
    const LEASE: u64 = 40_000_000;

    fn frame(kind: MessageType, from: u64, to: u64, term: u64, nonce: u64) -> Frame {
        let mut message =
            Message { from, to, term, context: nonce.to_le_bytes().to_vec().into(), ..Message::default() };
        message.set_msg_type(kind);
        Frame::Raft { key: Key { group: G, epoch: Epoch(0), from: Incarnation(from), to: Incarnation(to) }, message }
    }

    fn ids(ids: &[u64]) -> Vec<Incarnation> {
        ids.iter().copied().map(Incarnation).collect()
    }

    #[test]
    fn a_quorum_of_answers_in_the_own_term_lasts_for_a_lease_from_the_send() {
        let mut promises = Promises::of(LEASE);
        promises.applied(G, Incarnation(1), (ids(&[1, 2, 3]), vec![]), 0);
        let check = |p: &Promises, term, now| p.check(G, Incarnation(1), term, now);
        promises.sent(&frame(MessageType::MsgHeartbeat, 1, 2, 7, 5), 1_000);
        assert!(check(&promises, 7, 1_000).is_err(), "nobody has answered");
        promises.arrived(&frame(MessageType::MsgHeartbeatResponse, 2, 1, 6, 5));
        assert!(check(&promises, 7, 1_000).is_err(), "in another term");
        promises.arrived(&frame(MessageType::MsgHeartbeatResponse, 2, 1, 7, 5));
        assert!(check(&promises, 7, 1_000 + LEASE).is_ok());
        assert!(check(&promises, 8, 1_000).is_err(), "a promise is for one term");
        assert!(check(&promises, 7, 1_000 + LEASE + LEASE / RATE + 1).is_err(), "it is over");
    }

    #[test]
    fn what_a_group_of_one_had_lasts_for_a_lease_after_it_grew_and_no_longer() {
        let mut promises = Promises::of(LEASE);
        let leader = Incarnation(1);
        promises.applied(G, leader, (ids(&[1]), vec![]), 0);
        promises.applied(G, leader, (ids(&[1, 2]), ids(&[1])), 500);
        promises.applied(G, leader, (ids(&[1, 2]), vec![]), 600);
        let longest = LEASE + LEASE / RATE;
        assert!(promises.check(G, leader, 7, 500 + longest).is_ok(), "nothing left meanwhile, and yet it was alone");
        assert!(promises.check(G, leader, 7, 501 + longest).is_err(), "its second voter has promised nothing");
        assert!(promises.check(G, Incarnation(2), 7, 600).is_err(), "nothing is known of another one");
    }

    #[test]
    fn a_heartbeat_of_an_earlier_epoch_with_the_same_nonce_is_another_one() {
        let mut promises = Promises::of(LEASE);
        promises.applied(G, Incarnation(1), (ids(&[1, 2]), vec![]), 0);
        for (term, now) in [(7, 1_000), (1 << 32 | 1, 2 * LEASE)] {
            promises.sent(&frame(MessageType::MsgHeartbeat, 1, 2, term, 5), now);
            promises.arrived(&frame(MessageType::MsgHeartbeatResponse, 2, 1, term, 5));
            assert!(promises.check(G, Incarnation(1), term, now + LEASE).is_ok(), "term {term}");
        }
    }
}
