//! A shard on two members, of which one owns it, with backends, an upstream router and a log that commits whatever is
//! proposed at once. The caller moves the clock and says when the other member takes over. Nothing here judges; it only
//! carries frames.

use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use engine::LeaseWords;
use engine::event::{Authority, DropReason, GroupEvent, Verdict, WorkerOutput};
use engine::fast::{FastMode, FastTable};
use engine::ids::{Incarnation, LeaseWord, Link, LogIndex, NodeId, ShardId, Side, Term};
use engine::status::FlowView;
use engine::wire::FrameMeta;
use engine::worker::Worker;
use words::time::SECOND_NS;

use crate::packet::{ETH, be16};
pub use crate::world::{
    BACKENDS, GATEWAY, NETWORKS, PORTS_EACH, PUBLIC, SHARD, UPSTREAM, World, lease_of, link_of, mac_of, network_of,
    place_of,
};

/// When a run begins.
pub(crate) const BEGIN_NS: u64 = 1_000 * SECOND_NS;
/// More than a run opens.
const FLOWS_MAX: usize = 100_000;

/// The lease words of one member.
#[derive(Debug)]
struct OneWord(LeaseWord);

impl LeaseWords for OneWord {
    fn word(&self, _: ShardId) -> LeaseWord {
        self.0
    }
}

/// A frame that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// On which interface.
    pub link: Link,
    /// The whole frame.
    pub frame: Vec<u8>,
    /// By what right.
    pub authority: Authority,
}

impl Left {
    /// On which side.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.link.side()
    }

    /// Whether it is a question or announcement about addresses rather than a packet.
    #[must_use]
    pub fn is_arp(&self) -> bool {
        be16(&self.frame, 12) != 0x0800
    }
}

/// What became of a frame that somebody else looked at ahead of the worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carried {
    /// It is the worker's.
    No,
    /// It was changed, and left by this link.
    To(Link),
    /// It was dropped.
    Dropped,
}

/// What carries packets of flows ahead of a member's worker: the kernel. Its clock is its own.
pub trait Carrier: Debug {
    /// The table that the worker fills.
    fn table(&mut self) -> Box<dyn FastTable>;
    /// The member's lease word, or what is left without one.
    fn set_word(&mut self, word: Option<LeaseWord>);
    /// Looks at a frame.
    fn carry(&mut self, now_ns: u64, link: Link, frame: &mut Vec<u8>) -> Carried;
}

/// The engine on both members, and what it needs around it.
#[derive(Debug)]
pub struct Bed {
    workers: [Worker; 2],
    carriers: Option<[Box<dyn Carrier>; 2]>,
    /// Frames that were carried.
    pub carried: u64,
    owner: usize,
    /// Nanoseconds; only the caller moves it.
    pub now_ns: u64,
    term: Term,
    index: u64,
}

/// A member's links.
const LINKS: [Link; 3] = [Link::Inside(NETWORKS[0]), Link::Inside(NETWORKS[1]), Link::Outside];

impl Default for Bed {
    fn default() -> Self {
        Self::new(&World::default())
    }
}

impl Bed {
    /// Two members, the first of which serves and knows its neighbours.
    #[must_use]
    pub fn new(world: &World) -> Self {
        Self::with(world, None)
    }

    /// The same, with what carries packets ahead of each worker: each mapping goes there that may.
    #[must_use]
    pub fn with(world: &World, mut carriers: Option<[Box<dyn Carrier>; 2]>) -> Self {
        let mut workers = [1, 2].map(|n| Worker::new(Incarnation(6 + u64::from(n)), NodeId(n), 76 + u64::from(n)));
        for (worker, carrier) in workers.iter_mut().zip(carriers.iter_mut().flatten()) {
            worker.set_fast(carrier.table(), FastMode::Eager);
        }
        let mut bed = Self { workers, carriers, carried: 0, owner: 1, now_ns: BEGIN_NS, term: Term(0), index: 1 };
        for (worker, number) in bed.workers.iter_mut().zip(1..) {
            worker.set_networks(&NETWORKS);
            assert!(worker.load_snapshot(bed.now_ns, Arc::new(world.snapshot(number))), "the first one");
            for link in LINKS {
                worker.set_link(bed.now_ns, link, true);
                worker.set_mtu(link, world.mtu_of(link));
            }
        }
        bed.tell_all(&GroupEvent::Opened { shard: SHARD, epoch: 0, index: LogIndex(1), loads: false });
        bed.take_over();
        bed.pass_time(10_000_000);
        bed
    }

    /// The other member becomes the owner, without any help of the one that was; it has applied all that was committed.
    /// Frames go to the new one from now on.
    pub fn take_over(&mut self) -> Vec<Left> {
        self.tell(self.owner, GroupEvent::Following { shard: SHARD });
        self.owner = 1 - self.owner;
        self.term = Term(self.term.0 + 1);
        let node = Some(NodeId(u32::try_from(self.owner).expect("one of two") + 1));
        self.tell_all(&GroupEvent::Owner { shard: SHARD, term: self.term, node });
        for member in 0..2 {
            let word = (member == self.owner).then(|| self.words(member).0);
            if let Some(carriers) = &mut self.carriers {
                carriers[member].set_word(word);
            }
        }
        self.tell(self.owner, GroupEvent::Leading { shard: SHARD, term: self.term });
        self.commit(Bytes::new());
        let mut left = self.pass_time(0);
        for (place, ip) in BACKENDS.into_iter().enumerate() {
            self.greet(link_of(place), ip);
        }
        self.greet(Link::Outside, UPSTREAM);
        self.drain(&mut left);
        left
    }

    /// The owner.
    #[must_use]
    pub fn worker(&self) -> &Worker {
        &self.workers[self.owner]
    }

    /// All mappings of the owner's, live and held.
    #[must_use]
    pub fn flows(&self) -> Vec<FlowView> {
        self.worker().view().dump_flows(self.now_ns, Some(SHARD), FLOWS_MAX)
    }

    fn words(&self, member: usize) -> OneWord {
        if member != self.owner {
            return OneWord(LeaseWord::default());
        }
        let lease_until_ns = self.now_ns + SECOND_NS;
        let incarnation = Incarnation(7 + member as u64);
        OneWord(LeaseWord { incarnation, term: self.term, lease_until_ns, grace_until_ns: lease_until_ns })
    }

    fn tell(&mut self, member: usize, event: GroupEvent) {
        let words = self.words(member);
        self.workers[member].handle_event(self.now_ns, &words, event);
    }

    fn tell_all(&mut self, event: &GroupEvent) {
        for member in 0..2 {
            self.tell(member, event.clone());
        }
    }

    fn commit(&mut self, entry: Bytes) {
        self.index += 1;
        let (index, term) = (LogIndex(self.index), self.term);
        self.tell_all(&GroupEvent::Committed { shard: SHARD, index, term, entry });
    }

    /// A host says who it is, as it does when it asks for the gateway.
    fn greet(&mut self, link: Link, ip: Ipv4Addr) {
        let question = arp(1, [0xff; 6], (mac_of(link, ip), ip), Ipv4Addr::new(192, 0, 2, 1));
        let _nothing_leaves = self.inject(link, &question);
    }

    /// The hosts answer for themselves.
    fn answer(&mut self, question: &Left) {
        let frame = &question.frame;
        if be16(frame, 12) != 0x0806 || be16(frame, ETH + 6) != 1 {
            return;
        }
        let asked = Ipv4Addr::new(frame[ETH + 24], frame[ETH + 25], frame[ETH + 26], frame[ETH + 27]);
        let lives_here = match question.link {
            Link::Inside(network) => place_of(network, asked).is_some(),
            Link::Outside => asked == UPSTREAM,
        };
        if lives_here {
            let asker: [u8; 6] = frame[6..12].try_into().expect("six bytes");
            let mut reply = arp(2, asker, (mac_of(question.link, asked), asked), Ipv4Addr::new(192, 0, 2, 1));
            self.hand_in(question.link, &mut reply);
        }
    }

    fn hand_in(&mut self, link: Link, frame: &mut [u8]) -> Verdict {
        let words = self.words(self.owner);
        self.workers[self.owner].handle_frame(self.now_ns, &words, link, &FrameMeta::default(), frame)
    }

    /// Hands in a frame. Returns all that left for it, in order.
    pub fn inject(&mut self, link: Link, frame: &[u8]) -> Vec<Left> {
        self.hand_over();
        let (mut frame, mut left) = (frame.to_vec(), Vec::new());
        if let Some(carriers) = &mut self.carriers {
            let carried = carriers[self.owner].carry(self.now_ns, link, &mut frame);
            if carried != Carried::No {
                self.carried += 1;
                if let Carried::To(link) = carried {
                    left.push(Left { link, frame, authority: Authority::Lease { shard: SHARD, term: self.term } });
                }
                return left;
            }
        }
        let verdict = self.hand_in(link, &mut frame);
        if let Verdict::Transmit { link, authority } = verdict {
            let words = self.words(self.owner);
            if Worker::may_transmit(&words, self.now_ns, authority) {
                left.push(Left { link, frame, authority });
            } else {
                self.workers[self.owner].not_transmitted(DropReason::LeaseLapsed);
            }
        }
        self.drain(&mut left);
        left
    }

    /// As at the beginning of a worker's turn.
    fn hand_over(&mut self) {
        for member in 0..2 {
            let words = self.words(member);
            self.workers[member].handle_fast(self.now_ns, &words);
        }
    }

    /// Lets time pass in one step. Returns what left by itself.
    pub fn pass_time(&mut self, ns: u64) -> Vec<Left> {
        self.now_ns += ns;
        self.hand_over();
        for member in 0..2 {
            let words = self.words(member);
            self.workers[member].handle_timers(self.now_ns, &words);
        }
        let mut left = Vec::new();
        self.drain(&mut left);
        left
    }

    fn drain(&mut self, left: &mut Vec<Left>) {
        let mut frame = Vec::new();
        loop {
            let words = self.words(self.owner);
            let worker = &mut self.workers[self.owner];
            if let Some((link, _, authority)) = worker.poll_frame(self.now_ns, &words, &mut frame) {
                let one = Left { link, frame: frame.clone(), authority };
                self.answer(&one);
                left.push(one);
            } else if let Some(output) = worker.poll_output(self.now_ns, &words).or_else(|| {
                // What would wait for other records goes now: no packet comes meanwhile.
                let due_ns = worker.view().next_entry_ns()?;
                worker.poll_output(due_ns, &words)
            }) {
                if let WorkerOutput::Propose { entry, .. } = output {
                    self.commit(entry);
                }
            } else {
                break;
            }
        }
        let (other, words) = (1 - self.owner, self.words(1 - self.owner));
        while let Some(output) = self.workers[other].poll_output(self.now_ns, &words) {
            assert!(!matches!(output, WorkerOutput::Propose { .. }), "nothing is proposed without the lease");
        }
        assert!(self.workers[other].poll_frame(self.now_ns, &words, &mut frame).is_none(), "nor sent");
    }
}

/// A question (1) or an answer (2) of the host at `ip`.
fn arp(operation: u8, to: [u8; 6], (mac, ip): ([u8; 6], Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend(if operation == 1 { [0; 6] } else { to });
    frame.extend(target.octets());
    frame.resize(60, 0);
    frame
}
