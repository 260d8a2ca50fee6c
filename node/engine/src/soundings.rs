//! Whether frames pass on the data networks (F7): each member questions the others' own MACs, five times a second, and
//! the next hop by ARP when no peer answers. A carrier says nothing about that: a switch may swallow everything.
//!
//! The next hop itself is watched as well: it is silent from when packets for it found nobody ([`NextHop`]) until it speaks.
//!
//! Decides nothing about shards: it tells by network whether anybody answers, so that a member that hears nothing and the
//! others that do can be told apart. Silence is counted in questions, so that a machine that stood still is not taken for a
//! network that did. Part of `Worker`; switched on by [`Worker::sound`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::event::{Authority, DropReason, Verdict};
use crate::held::{Origin, Outgoing};
use crate::ids::{Mac, NodeId, Side};
use crate::neigh::NeighbourCache;
use crate::pipeline::{Cx, mac_on};
use crate::shard::LeaseWords;
use crate::snapshot::Snapshot;
use crate::wire::{FrameMeta, Sounding, SoundingOp, build_sounding};
use crate::worker::Worker;

/// Between two rounds of questions.
pub const ASK_EVERY_NS: u64 = 200_000_000;
/// Rounds without any answer, after which a network counts as silent: a second.
pub const ROUNDS_SILENT: u32 = 5;
/// Rounds without an answer of a peer, after which the next hop is asked as well.
const ROUNDS_OF_PEERS: u32 = 1;
/// A silent next hop is asked once in so many rounds, whoever else answers: else nobody without packets for it would see it
/// come back.
const ROUNDS_TO_NEXT_HOP: u32 = 5;

/// What a data network carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Passing {
    /// Nobody was asked for long enough.
    #[default]
    Unproved,
    /// Somebody answers.
    Yes,
    /// Nobody answers any more.
    Silent,
}

/// One data network, as it was heard.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Heard {
    /// Whether anybody answers.
    pub passing: Passing,
    /// When anything arrived last; 0: never.
    pub heard_ns: u64,
    /// When a question of ours was answered last; 0: never.
    pub answered_ns: u64,
    /// When each peer answered last.
    pub peers: BTreeMap<NodeId, u64>,
    /// Rounds of questions since the last answer.
    pub unanswered: u32,
}

impl Heard {
    fn answered(&mut self, now_ns: u64) {
        (self.answered_ns, self.unanswered, self.passing) = (now_ns, 0, Passing::Yes);
    }

    /// A round of questions begins, to whomever there is to ask.
    fn ask(&mut self, asked: usize) {
        if asked == 0 {
            (self.passing, self.unanswered) = (Passing::Unproved, 0);
            return;
        }
        if self.unanswered >= ROUNDS_SILENT {
            self.passing = Passing::Silent;
        }
        self.unanswered = self.unanswered.saturating_add(1);
    }
}

/// The configured next hop, as an owner knows it: nobody else may ask for it (M1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Its address.
    pub ip: Ipv4Addr,
    /// When it spoke last; 0: never since it is watched.
    pub heard_ns: u64,
    /// Since when it answers nobody.
    pub silent_since_ns: Option<u64>,
}

/// Both data networks, inside first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Soundings {
    pub(crate) sides: [Heard; 2],
    next_ns: u64,
    rounds: u32,
    next_hop: Option<NextHop>,
}

impl Soundings {
    pub(crate) const fn next_ns(&self) -> u64 {
        self.next_ns
    }

    pub(crate) fn of(&mut self, side: Side) -> &mut Heard {
        &mut self.sides[index(side)]
    }

    /// Looks at the next hop, if there is one that this node may ask for. Whether it is to be asked for its silence.
    fn watch_next_hop(&mut self, now_ns: u64, hop: Option<Ipv4Addr>, neighbours: &NeighbourCache) -> bool {
        self.rounds = self.rounds.wrapping_add(1);
        let Some(ip) = hop else {
            self.next_hop = None;
            return false;
        };
        let known = self.next_hop.filter(|known| known.ip == ip);
        let mut next_hop = known.unwrap_or(NextHop { ip, heard_ns: 0, silent_since_ns: None });
        if next_hop.silent_since_ns.is_none() && neighbours.is_silent(Side::Outside, ip) {
            next_hop.silent_since_ns = Some(now_ns);
        }
        self.next_hop = Some(next_hop);
        next_hop.silent_since_ns.is_some() && self.rounds.is_multiple_of(ROUNDS_TO_NEXT_HOP)
    }
}

const fn index(side: Side) -> usize {
    match side {
        Side::Inside => 0,
        Side::Outside => 1,
    }
}

impl Worker {
    /// From now on the data networks are sounded.
    pub fn sound(&mut self) {
        self.soundings.get_or_insert_default();
    }

    /// What the data networks carry, inside first; nothing is known before [`Worker::sound`].
    #[must_use]
    pub fn passing(&self) -> [Passing; 2] {
        self.soundings.as_ref().map_or_else(Default::default, |s| [s.sides[0].passing, s.sides[1].passing])
    }

    /// The same with when and by whom.
    #[must_use]
    pub fn heard(&self) -> [Heard; 2] {
        self.soundings.as_ref().map(|s| s.sides.clone()).unwrap_or_default()
    }

    /// The next hop, as long as this node owns a shard and has one configured.
    #[must_use]
    pub fn next_hop(&self) -> Option<NextHop> {
        self.soundings.as_ref().and_then(|soundings| soundings.next_hop)
    }

    /// A member's question or answer.
    pub(crate) fn handle_sounding<W: LeaseWords>(
        &mut self,
        cx: &Cx<'_, W>,
        side: Side,
        s: &Sounding,
    ) -> Result<Verdict, DropReason> {
        let own = cx.snapshot.me.map(|me| mac_on(&me, side)).filter(|own| *own == s.eth_dst);
        let peer = cx.snapshot.peers.iter().find(|peer| mac_on(peer, side) == s.eth_src);
        let (Some(own), Some(peer)) = (own, peer) else { return Err(DropReason::NotForUs) };
        match s.op {
            SoundingOp::Question => self.send_sounding(cx.now_ns, side, own, s.eth_src, SoundingOp::Answer),
            SoundingOp::Answer => {
                if let Some(soundings) = &mut self.soundings {
                    let heard = soundings.of(side);
                    heard.answered(cx.now_ns);
                    heard.peers.insert(peer.node, cx.now_ns);
                }
            }
        }
        self.counters.absorbed += 1;
        Ok(Verdict::Consumed)
    }

    /// The next hop has spoken.
    pub(crate) fn next_hop_heard(&mut self, now_ns: u64) {
        if let Some(soundings) = &mut self.soundings {
            soundings.of(Side::Outside).answered(now_ns);
            if let Some(next_hop) = &mut soundings.next_hop {
                (next_hop.heard_ns, next_hop.silent_since_ns) = (now_ns, None);
            }
        }
    }

    /// Asks everybody, if it is time to.
    pub(crate) fn sounding_timers(&mut self, now_ns: u64, s: &Snapshot, words: &impl LeaseWords) {
        let Some(soundings) = self.soundings.as_mut().filter(|soundings| now_ns >= soundings.next_ns) else { return };
        soundings.next_ns = now_ns + ASK_EVERY_NS;
        let authority = self.any_right(now_ns, words);
        let hop = s.outside.next_hop.filter(|_| authority.is_some());
        let Some(soundings) = &mut self.soundings else { return };
        let hop_is_due = soundings.watch_next_hop(now_ns, hop, &self.neighbours);
        let Some(me) = s.me else { return };
        for side in [Side::Inside, Side::Outside] {
            let Some(soundings) = &mut self.soundings else { return };
            let heard = soundings.of(side);
            heard.peers.retain(|node, _| s.peers.iter().any(|peer| peer.node == *node));
            let peers_silent = heard.unanswered >= ROUNDS_OF_PEERS;
            heard.ask(s.peers.len());
            for peer in &s.peers {
                self.send_sounding(now_ns, side, mac_on(&me, side), mac_on(peer, side), SoundingOp::Question);
            }
            if side == Side::Outside
                && (peers_silent || hop_is_due)
                && let (Some(hop), Some(authority)) = (hop, authority)
            {
                self.ask(now_ns, s, side, authority, hop, Mac::BROADCAST);
            }
        }
    }

    fn send_sounding(&mut self, now_ns: u64, side: Side, eth_src: Mac, eth_dst: Mac, op: SoundingOp) {
        let Some(mut frame) = self.held.own_buffer() else { return };
        frame.extend_from_slice(&build_sounding(&Sounding { op, node: self.node, eth_src, eth_dst }));
        let (meta, authority) = (FrameMeta::default(), Authority::Forward);
        self.held.push(Outgoing { frame, meta, side, authority, origin: Origin::Own, since_ns: now_ns });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::{Incarnation, LeaseWord, ShardId, VnetId};
    use crate::snapshot::NodeLinks;

    const MS: u64 = 1_000_000;

    struct NoLease;

    impl LeaseWords for NoLease {
        fn word(&self, _: ShardId) -> LeaseWord {
            LeaseWord::default()
        }
    }

    fn links(n: u8) -> NodeLinks {
        let mac = |side| Mac([2, 9, 0, 0, side, n]);
        NodeLinks { node: NodeId(n.into()), inside: mac(1), outside: mac(2) }
    }

    fn worker(n: u8, of: u8) -> Worker {
        let mut worker = Worker::new(Incarnation(n.into()), NodeId(n.into()), VnetId(1), 1);
        let peers = (1..=of).filter(|other| *other != n).map(links).collect();
        worker.sound();
        worker.load_snapshot(0, Arc::new(Snapshot { me: Some(links(n)), peers, ..Snapshot::default() }));
        worker
    }

    /// Everything that `from` has to say is carried to whom it is addressed, unless `swallows` says otherwise.
    fn carry(now_ns: u64, workers: &mut [Worker], swallows: &impl Fn(usize, Side) -> bool) {
        let mut buffer = Vec::new();
        let mut busy = true;
        while std::mem::take(&mut busy) {
            for from in 0..workers.len() {
                while let Some((side, meta, _)) = workers[from].poll_frame(now_ns, &NoLease, &mut buffer) {
                    busy = true;
                    let to = usize::from(buffer[5]) - 1;
                    if !swallows(from, side) && !swallows(to, side) {
                        workers[to].handle_frame(now_ns, &NoLease, side, &meta, &mut buffer);
                    }
                }
            }
        }
    }

    fn run(from_ms: u64, to_ms: u64, workers: &mut [Worker], swallows: impl Fn(usize, Side) -> bool) {
        for ms in (from_ms..to_ms).step_by(10) {
            for worker in &mut *workers {
                if ms * MS >= worker.next_timer_ns() {
                    worker.handle_timers(ms * MS, &NoLease);
                }
            }
            carry(ms * MS, workers, &swallows);
        }
    }

    #[test]
    fn members_that_hear_each_other_say_so_and_by_whom() {
        let mut workers = [worker(1, 3), worker(2, 3), worker(3, 3)];
        assert_eq!(workers[0].passing(), [Passing::Unproved; 2]);
        run(0, 300, &mut workers, |_, _| false);
        for worker in &workers {
            assert_eq!(worker.passing(), [Passing::Yes; 2]);
            assert!(worker.counters().is_balanced());
        }
        let heard = workers[0].heard();
        assert_eq!(heard[1].peers.keys().copied().collect::<Vec<_>>(), [NodeId(2), NodeId(3)]);
        assert_eq!(heard[1].answered_ns, 200 * MS);
    }

    #[test]
    fn a_member_whose_network_swallows_everything_knows_within_a_second_and_a_bit_and_the_others_hear_on() {
        let mut workers = [worker(1, 3), worker(2, 3), worker(3, 3)];
        run(0, 1_010, &mut workers, |_, _| false);
        let cut = |node: usize, side| node == 0 && side == Side::Outside;
        run(1_010, 2_000, &mut workers, cut);
        assert_eq!(workers[0].passing(), [Passing::Yes; 2], "not before a second");
        run(2_000, 2_250, &mut workers, cut);
        assert_eq!(workers[0].passing(), [Passing::Yes, Passing::Silent]);
        for other in &workers[1..] {
            assert_eq!(other.passing(), [Passing::Yes; 2]);
        }
        run(2_250, 2_500, &mut workers, |_, _| false);
        assert_eq!(workers[0].passing(), [Passing::Yes; 2]);
    }

    #[test]
    fn who_was_never_answered_is_unproved_first_and_silent_after_a_second() {
        let mut workers = [worker(1, 2), worker(2, 2)];
        run(0, 900, &mut workers, |_, _| true);
        assert_eq!(workers[0].passing(), [Passing::Unproved; 2]);
        run(900, 1_300, &mut workers, |_, _| true);
        assert_eq!(workers[0].passing(), [Passing::Silent; 2]);
    }

    #[test]
    fn who_has_nobody_to_ask_knows_nothing() {
        let mut workers = [worker(1, 1)];
        run(0, 5_000, &mut workers, |_, _| false);
        assert_eq!(workers[0].passing(), [Passing::Unproved; 2]);
    }

    #[test]
    fn a_machine_that_stood_still_does_not_take_its_network_for_silent() {
        let mut workers = [worker(1, 2), worker(2, 2)];
        run(0, 300, &mut workers, |_, _| false);
        for ms in [5_000, 9_000, 20_000] {
            run(ms, ms + 300, &mut workers, |_, _| false);
            assert_eq!(workers[0].passing(), [Passing::Yes; 2]);
        }
    }

    #[test]
    fn a_strangers_question_is_not_answered_and_its_answer_proves_nothing() {
        let mut workers = [worker(1, 2), worker(2, 2)];
        let stranger = Mac([2, 7, 7, 7, 7, 7]);
        let own = links(1);
        for (op, eth_src, eth_dst) in [
            (SoundingOp::Question, stranger, own.inside),
            (SoundingOp::Answer, stranger, own.inside),
            (SoundingOp::Answer, links(2).inside, Mac::BROADCAST),
        ] {
            let mut frame = build_sounding(&Sounding { op, node: NodeId(2), eth_src, eth_dst });
            let meta = FrameMeta::default();
            let verdict = workers[0].handle_frame(1, &NoLease, Side::Inside, &meta, &mut frame);
            assert_eq!(verdict, Verdict::Drop(DropReason::NotForUs));
        }
        assert!(workers[0].poll_frame(1, &NoLease, &mut Vec::new()).is_none());
        assert_eq!(workers[0].passing(), [Passing::Unproved; 2]);
    }
}
