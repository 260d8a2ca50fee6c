//! Whether frames pass on the data networks (F7): each member questions the others' own MACs, and the next hop by ARP when
//! no peer answers. A carrier says nothing about that: a switch may swallow everything.
//!
//! Decides nothing about shards: it tells by network whether anybody answers, so that a member that hears nothing and the
//! others that do can be told apart. Of several workers of a member the first asks the peers and hears them; the others look
//! at the next hop alone, which packets may wait for anywhere. Switched on by [`Worker::sound`].

use crate::context::News;
use crate::context::{At, Exit};
use crate::egress::Egress;
use crate::egress::soundings::{ASK_EVERY_NS, ROUNDS_OF_PEERS};
use crate::event::{Authority, DropReason, Verdict};
use crate::ids::{Link, Mac};
use crate::wire::{Sounding, SoundingOp, build_sounding};

impl Egress {
    /// A member's question or answer.
    pub(crate) fn handle_sounding(&mut self, at: At<'_>, link: Link, s: &Sounding) -> Result<Verdict, DropReason> {
        let own = at.snapshot.me.as_ref().and_then(|me| me.mac_on(link)).filter(|own| *own == s.eth_dst);
        let peer = at.snapshot.peers.iter().find(|peer| peer.mac_on(link) == Some(s.eth_src));
        let (Some(own), Some(peer)) = (own, peer) else { return Err(DropReason::NotForUs) };
        match s.op {
            SoundingOp::Question => self.send_sounding(at.now_ns, link, own, s.eth_src, SoundingOp::Answer),
            SoundingOp::Answer => {
                let node = peer.node;
                self.answered(link, at.now_ns);
                if let Some(heard) = self.soundings.as_mut().and_then(|soundings| soundings.of_mut(link)) {
                    heard.peers.insert(node, at.now_ns);
                }
            }
        }
        self.counters.absorbed += 1;
        Ok(Verdict::Consumed)
    }

    /// The next hop has spoken.
    pub(crate) fn next_hop_heard(&mut self, now_ns: u64) {
        self.answered(Link::Outside, now_ns);
        if let Some(next_hop) = self.soundings.as_mut().and_then(|soundings| soundings.next_hop.as_mut()) {
            (next_hop.heard_ns, next_hop.silent_since_ns) = (now_ns, None);
        }
    }

    fn answered(&mut self, link: Link, now_ns: u64) {
        if let Some(soundings) = &mut self.soundings
            && soundings.answered(link, now_ns) == News::Yes
        {
            self.links.news = News::Yes;
        }
    }

    /// Asks everybody, if it is time to.
    pub(crate) fn sounding_timers(&mut self, at: At<'_>, authority: Option<Authority>) {
        let At { now_ns, snapshot: s } = at;
        let Some(soundings) = self.soundings.as_mut().filter(|soundings| now_ns >= soundings.next_ns) else { return };
        soundings.next_ns = now_ns + ASK_EVERY_NS;
        let hop = s.outside.next_hop.filter(|_| authority.is_some());
        let Some(soundings) = &mut self.soundings else { return };
        let hop_is_due = soundings.watch_next_hop(now_ns, hop, &self.neighbours);
        let links: Vec<Link> = self.links.all().collect();
        for link in links {
            let Some(own) = s.me.as_ref().and_then(|me| me.mac_on(link)) else { continue };
            let Some(soundings) = &mut self.soundings else { return };
            let Some(heard) = soundings.of_mut(link) else { continue };
            heard.peers.retain(|node, _| s.peers.iter().any(|peer| peer.node == *node));
            let peers_silent = heard.unanswered >= ROUNDS_OF_PEERS;
            let asked = s.peers.iter().filter(|_| self.share.is_first());
            let peers: Vec<Mac> = asked.filter_map(|peer| peer.mac_on(link)).collect();
            if soundings.ask(link, peers.len()) == News::Yes {
                self.links.news = News::Yes;
            }
            for peer in peers {
                self.send_sounding(now_ns, link, own, peer, SoundingOp::Question);
            }
            if link == Link::Outside
                && (peers_silent || hop_is_due)
                && let (Some(hop), Some(authority)) = (hop, authority)
            {
                self.ask(at, Exit { link, authority }, hop, Mac::BROADCAST);
            }
        }
    }

    fn send_sounding(&mut self, now_ns: u64, link: Link, eth_src: Mac, eth_dst: Mac, op: SoundingOp) {
        let frame = build_sounding(&Sounding { op, node: self.node, eth_src, eth_dst });
        self.queue_own(now_ns, Exit { link, authority: Authority::Forward }, &frame);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::egress::soundings::Passing;
    use crate::ids::{Incarnation, LeaseWord, NodeId, ShardId, VnetId};
    use crate::lease::LeaseWords;
    use crate::snapshot::NodeLinks;
    use crate::snapshot::Snapshot;
    use crate::wire::FrameMeta;
    use crate::worker::Worker;

    use words::time::MS;

    const INSIDE: Link = Link::Inside(VnetId(1));

    struct NoLease;

    impl LeaseWords for NoLease {
        fn word(&self, _: ShardId) -> LeaseWord {
            LeaseWord::default()
        }
    }

    fn links(n: u8) -> NodeLinks {
        let mac = |side| Mac([2, 9, 0, 0, side, n]);
        NodeLinks { node: NodeId(n.into()), inside: vec![(VnetId(1), mac(1))], outside: mac(2) }
    }

    fn worker(n: u8, of: u8) -> Worker {
        let mut worker = Worker::new(Incarnation(n.into()), NodeId(n.into()), 1);
        worker.set_networks(&[VnetId(1)]);
        let peers = (1..=of).filter(|other| *other != n).map(links).collect();
        worker.sound();
        worker.load_snapshot(0, Arc::new(Snapshot { me: Some(links(n)), peers, ..Snapshot::default() }));
        worker
    }

    fn passing(worker: &Worker) -> [Passing; 2] {
        [INSIDE, Link::Outside].map(|link| worker.passing(link))
    }

    /// Everything that `from` has to say is carried to whom it is addressed, unless `swallows` says otherwise.
    fn carry(now_ns: u64, workers: &mut [Worker], swallows: &impl Fn(usize, Link) -> bool) {
        let mut buffer = Vec::new();
        let mut busy = true;
        while std::mem::take(&mut busy) {
            for from in 0..workers.len() {
                while let Some((link, meta, _)) = workers[from].poll_frame(now_ns, &NoLease, &mut buffer) {
                    busy = true;
                    let to = usize::from(buffer[5]) - 1;
                    if !swallows(from, link) && !swallows(to, link) {
                        workers[to].handle_frame(now_ns, &NoLease, link, &meta, &mut buffer);
                    }
                }
            }
        }
    }

    fn run(from_ms: u64, to_ms: u64, workers: &mut [Worker], swallows: impl Fn(usize, Link) -> bool) {
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
        assert_eq!(passing(&workers[0]), [Passing::Unproved; 2]);
        run(0, 300, &mut workers, |_, _| false);
        for worker in &workers {
            assert_eq!(passing(worker), [Passing::Yes; 2]);
            assert!(worker.counters().is_balanced());
        }
        let heard = workers[0].heard(Link::Outside).expect("sounded");
        assert_eq!(heard.peers.keys().copied().collect::<Vec<_>>(), [NodeId(2), NodeId(3)]);
        assert_eq!(heard.answered_ns, 200 * MS);
    }

    #[test]
    fn a_member_whose_network_swallows_everything_knows_within_a_second_and_a_bit_and_the_others_hear_on() {
        let mut workers = [worker(1, 3), worker(2, 3), worker(3, 3)];
        run(0, 1_010, &mut workers, |_, _| false);
        let cut = |node: usize, link| node == 0 && link == Link::Outside;
        run(1_010, 2_000, &mut workers, cut);
        assert_eq!(passing(&workers[0]), [Passing::Yes; 2], "not before a second");
        run(2_000, 2_250, &mut workers, cut);
        assert_eq!(passing(&workers[0]), [Passing::Yes, Passing::Silent]);
        for other in &workers[1..] {
            assert_eq!(passing(other), [Passing::Yes; 2]);
        }
        run(2_250, 2_500, &mut workers, |_, _| false);
        assert_eq!(passing(&workers[0]), [Passing::Yes; 2]);
    }

    #[test]
    fn who_was_never_answered_is_unproved_first_and_silent_after_a_second() {
        let mut workers = [worker(1, 2), worker(2, 2)];
        run(0, 900, &mut workers, |_, _| true);
        assert_eq!(passing(&workers[0]), [Passing::Unproved; 2]);
        run(900, 1_300, &mut workers, |_, _| true);
        assert_eq!(passing(&workers[0]), [Passing::Silent; 2]);
    }

    #[test]
    fn who_has_nobody_to_ask_knows_nothing() {
        let mut workers = [worker(1, 1)];
        run(0, 5_000, &mut workers, |_, _| false);
        assert_eq!(passing(&workers[0]), [Passing::Unproved; 2]);
    }

    #[test]
    fn a_machine_that_stood_still_does_not_take_its_network_for_silent() {
        let mut workers = [worker(1, 2), worker(2, 2)];
        run(0, 300, &mut workers, |_, _| false);
        for ms in [5_000, 9_000, 20_000] {
            run(ms, ms + 300, &mut workers, |_, _| false);
            assert_eq!(passing(&workers[0]), [Passing::Yes; 2]);
        }
    }

    #[test]
    fn a_strangers_question_is_not_answered_and_its_answer_proves_nothing() {
        let mut workers = [worker(1, 2), worker(2, 2)];
        let stranger = Mac([2, 7, 7, 7, 7, 7]);
        let own = links(1);
        for (op, eth_src, eth_dst) in [
            (SoundingOp::Question, stranger, own.inside[0].1),
            (SoundingOp::Answer, stranger, own.inside[0].1),
            (SoundingOp::Answer, links(2).inside[0].1, Mac::BROADCAST),
        ] {
            let mut frame = build_sounding(&Sounding { op, node: NodeId(2), eth_src, eth_dst });
            let meta = FrameMeta::default();
            let verdict = workers[0].handle_frame(1, &NoLease, INSIDE, &meta, &mut frame);
            assert_eq!(verdict, Verdict::Drop(DropReason::NotForUs));
        }
        assert!(workers[0].poll_frame(1, &NoLease, &mut Vec::new()).is_none());
        assert_eq!(passing(&workers[0]), [Passing::Unproved; 2]);
    }
}
