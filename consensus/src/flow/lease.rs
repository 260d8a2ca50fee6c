//! The lease of a leader (L1): which heartbeat a quorum has answered, by nonces and local send times.
//!
//! Pure arithmetic; knows nothing of when a lease may be published (that is the replica's: L2, N4). Nothing about time
//! ever leaves the node: an echo only names the heartbeat, and the send time is looked up here.

use std::collections::VecDeque;

use raft::eraftpb::ConfState;

/// Heartbeats whose echoes may still come; older ones are worthless, since a lease is shorter than that.
const BEATS_MAX: usize = 16;

/// Whether the replicas for which `holds` is true are a quorum; in a joint configuration of both halves.
#[must_use]
pub(super) fn quorum(conf: &ConfState, holds: impl Fn(u64) -> bool) -> bool {
    let half = |voters: &[u64]| voters.iter().filter(|id| holds(**id)).count() * 2 > voters.len();
    half(&conf.voters) && (conf.voters_outgoing.is_empty() || half(&conf.voters_outgoing))
}

/// Whether `id` has a vote.
#[must_use]
pub(super) fn is_voter(conf: &ConfState, id: u64) -> bool {
    conf.voters.contains(&id) || conf.voters_outgoing.contains(&id)
}

#[derive(Debug)]
struct Beat {
    nonce: u64,
    sent_ns: u64,
    echoes: Vec<u64>,
}

/// The lease of one replica.
#[derive(Debug)]
pub(super) struct Lease {
    me: u64,
    length_ns: u64,
    next_nonce: u64,
    beats: VecDeque<Beat>,
    until_ns: u64,
}

impl Lease {
    /// No lease. `first_nonce` only tells lives apart in traces; nonces never repeat within one.
    #[must_use]
    pub(super) const fn new(me: u64, length_ns: u64, first_nonce: u64) -> Self {
        Self { me, length_ns, next_nonce: first_nonce, beats: VecDeque::new(), until_ns: 0 }
    }

    /// End of the lease; 0 if none was ever held in this term.
    #[must_use]
    pub(super) const fn until_ns(&self) -> u64 {
        self.until_ns
    }

    /// A new term, or leadership lost: nothing that was sent before counts, no lease.
    pub(super) fn reset(&mut self) {
        self.beats.clear();
        self.until_ns = 0;
    }

    /// A membership change was applied: heartbeats sent before it count no more; what was gained stays.
    pub(super) fn membership_changed(&mut self) {
        self.beats.clear();
    }

    /// A round of heartbeats leaves now; returns its nonce. The own echo counts at the send.
    pub(super) fn sent(&mut self, now_ns: u64) -> u64 {
        let nonce = self.next_nonce;
        self.next_nonce = self.next_nonce.wrapping_add(1);
        if self.beats.len() == BEATS_MAX {
            self.beats.pop_front();
        }
        self.beats.push_back(Beat { nonce, sent_ns: now_ns, echoes: vec![self.me] });
        nonce
    }

    /// An echo of `from` came back, in this term. Returns whether the lease grew.
    pub(super) fn echoed(&mut self, nonce: u64, from: u64, conf: &ConfState) -> Grew {
        if !is_voter(conf, from) {
            return Grew::No;
        }
        let Some(at) = self.beats.iter().position(|b| b.nonce == nonce) else { return Grew::No };
        let beat = &mut self.beats[at];
        if !beat.echoes.contains(&from) {
            beat.echoes.push(from);
        }
        if !quorum(conf, |id| beat.echoes.contains(&id)) {
            return Grew::No;
        }
        let until = beat.sent_ns + self.length_ns;
        // Older rounds cannot extend it any more.
        self.beats.drain(..=at);
        self.extend(until)
    }

    /// A group of one: this replica is the quorum.
    pub(super) fn alone(&mut self, now_ns: u64) -> Grew {
        self.extend(now_ns + self.length_ns)
    }

    fn extend(&mut self, until_ns: u64) -> Grew {
        if until_ns <= self.until_ns {
            return Grew::No;
        }
        self.until_ns = until_ns;
        Grew::Yes
    }
}

/// Whether the lease got longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Grew {
    /// It did; the word must be written.
    Yes,
    /// It did not.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(voters: &[u64], outgoing: &[u64]) -> ConfState {
        ConfState { voters: voters.to_vec(), voters_outgoing: outgoing.to_vec(), ..ConfState::default() }
    }

    #[test]
    fn the_lease_counts_from_the_send_not_from_the_echo() {
        let mut lease = Lease::new(1, 40, 5);
        let nonce = lease.sent(100);
        assert_eq!(lease.echoed(nonce, 2, &conf(&[1, 2, 3], &[])), Grew::Yes);
        assert_eq!(lease.until_ns(), 140);
    }

    #[test]
    fn an_old_echo_never_shortens_it() {
        let mut lease = Lease::new(1, 40, 0);
        let (old, new) = (lease.sent(100), lease.sent(115));
        assert_eq!(lease.echoed(new, 2, &conf(&[1, 2, 3], &[])), Grew::Yes);
        assert_eq!(lease.echoed(old, 3, &conf(&[1, 2, 3], &[])), Grew::No);
        assert_eq!(lease.until_ns(), 155);
    }

    #[test]
    fn learners_and_strangers_do_not_count() {
        let mut lease = Lease::new(1, 40, 0);
        let nonce = lease.sent(100);
        assert_eq!(lease.echoed(nonce, 9, &conf(&[1, 2, 3], &[])), Grew::No);
        assert_eq!(lease.until_ns(), 0);
    }

    #[test]
    fn one_voter_that_echoes_twice_is_one_voter() {
        let mut lease = Lease::new(1, 40, 0);
        let nonce = lease.sent(100);
        let five = conf(&[1, 2, 3, 4, 5], &[]);
        assert_eq!(lease.echoed(nonce, 2, &five), Grew::No);
        assert_eq!(lease.echoed(nonce, 2, &five), Grew::No);
        assert_eq!(lease.echoed(nonce, 3, &five), Grew::Yes);
    }

    #[test]
    fn half_of_an_even_group_is_no_quorum() {
        let mut lease = Lease::new(1, 40, 0);
        let (two, four) = (conf(&[1, 2], &[]), conf(&[1, 2, 3, 4], &[]));
        let nonce = lease.sent(100);
        assert_eq!(lease.echoed(nonce, 1, &two), Grew::No, "the own echo is one of two");
        assert_eq!(lease.until_ns(), 0);
        assert_eq!(lease.echoed(nonce, 2, &two), Grew::Yes);
        let nonce = lease.sent(110);
        assert_eq!(lease.echoed(nonce, 2, &four), Grew::No, "two of four");
        assert_eq!(lease.echoed(nonce, 3, &four), Grew::Yes);
    }

    #[test]
    fn a_joint_configuration_needs_both_halves() {
        let mut lease = Lease::new(1, 40, 0);
        let nonce = lease.sent(100);
        let joint = conf(&[1, 4, 5], &[1, 2, 3]);
        assert_eq!(lease.echoed(nonce, 4, &joint), Grew::No);
        assert_eq!(lease.echoed(nonce, 2, &joint), Grew::Yes);
    }

    #[test]
    fn heartbeats_from_before_a_membership_change_or_term_do_not_count() {
        let mut lease = Lease::new(1, 40, 0);
        let nonce = lease.sent(100);
        lease.membership_changed();
        assert_eq!(lease.echoed(nonce, 2, &conf(&[1, 2, 3], &[])), Grew::No);
        let nonce = lease.sent(110);
        lease.reset();
        assert_eq!(lease.echoed(nonce, 2, &conf(&[1, 2, 3], &[])), Grew::No);
    }
}
