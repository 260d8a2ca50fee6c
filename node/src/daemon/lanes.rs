//! Hot path. Frames between the workers of one member: what one would send to a shard that another one has goes over a ring, as
//! it would over the wire to another member, and comes in there by the same interface. Never waits: what finds no place is
//! refused. A ring keeps the order, and all frames of a flow that come to one worker take the same one (I56).

use engine::event::Authority;
use netio::bell::Ringer;
use netio::port::Interface;
use netio::sync::spsc::{Consumer, Producer, ring};
use words::{FrameMeta, Incarnation, LeaseWords, Mac, Share};

/// Frames on their way from one worker to another.
const LANE: usize = 512;

/// A frame that has been on its way for longer than a vote takes is as one that got lost on the wire: its sender's right to it may
/// have ended.
const AGE_MAX_NS: u64 = 50_000_000;
/// A larger buffer is not kept: few frames are merged segments.
const SPARE_CAPACITY_MAX: usize = 4096;

/// A frame from another worker.
#[derive(Debug)]
pub struct Handed {
    /// By which it would have come.
    pub interface: Interface,
    /// Of its checksum and segmentation.
    pub meta: FrameMeta,
    /// It, from the Ethernet header on.
    pub frame: Vec<u8>,
    /// When its sender looked at its right to send it.
    at_ns: u64,
}

/// To another worker.
#[derive(Debug)]
struct Outlet {
    frames: Producer<Handed>,
    spare: Consumer<Vec<u8>>,
    ringer: Ringer,
    /// It was handed something since it was rung.
    handed: bool,
}

/// From another worker.
#[derive(Debug)]
struct Inlet {
    frames: Consumer<Handed>,
    spare: Producer<Vec<u8>>,
}

/// One worker's ends.
#[derive(Debug)]
pub struct Lanes {
    share: Share,
    me: Incarnation,
    /// By the others' numbers; none to itself.
    outlets: Vec<Option<Outlet>>,
    inlets: Vec<Inlet>,
    /// Where the next look begins.
    next: usize,
}

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// By the link.
    Wire,
    /// To the worker of this number.
    Worker(u16),
}

impl Lanes {
    /// The ends of each of several workers of the life `me`, whose bells these are.
    #[must_use]
    pub fn mesh(me: Incarnation, bells: &[Ringer]) -> Vec<Self> {
        let workers = u16::try_from(bells.len()).expect("few workers");
        let mut all: Vec<Self> = Share::all(workers)
            .map(|share| {
                let outlets = bells.iter().map(|_| None).collect();
                Self { share, me, outlets, inlets: Vec::new(), next: 0 }
            })
            .collect();
        for from in 0..all.len() {
            for (to, bell) in bells.iter().enumerate().filter(|(to, _)| *to != from) {
                let ((frames, arriving), (back, spare)) = (ring(LANE), ring(LANE));
                let ringer = bell.clone();
                all[from].outlets[to] = Some(Outlet { frames, spare, ringer, handed: false });
                all[to].inlets.push(Inlet { frames: arriving, spare: back });
            }
        }
        all
    }

    /// Where a frame goes that leaves by this right. One to the virtual MAC of another worker's shard is that worker's if it was
    /// given up to it, or as long as this life leases that shard: the wire would not bring it back. A lease that begins or ends
    /// meanwhile costs it, as on the wire.
    #[inline]
    pub fn way(&self, words: &impl LeaseWords, now_ns: u64, authority: Authority, frame: &[u8]) -> Way {
        if self.share == Share::WHOLE {
            return Way::Wire;
        }
        let to = frame.first_chunk().and_then(|to| Mac(*to).shard());
        let Some(shard) = to.filter(|shard| !self.share.has(*shard)) else { return Way::Wire };
        let here = match authority {
            Authority::Forward => true,
            // The sender's own right is looked at here for the last time; without it the wire's check refuses the frame.
            Authority::Lease { shard: own, term } => {
                let target = words.word(shard);
                words.word(own).lease_runs(term, now_ns) && target.lease_runs_for(self.me, target.term, now_ns)
            }
            // From the own MAC, which only other members take it from.
            Authority::Grace { .. } => false,
        };
        if here { Way::Worker(self.share.worker_of(shard)) } else { Way::Wire }
    }

    /// Hands a frame over; whether there was a place for it.
    pub fn hand(&mut self, at_ns: u64, worker: u16, (interface, meta): (Interface, FrameMeta), bytes: &[u8]) -> bool {
        let Some(Some(outlet)) = self.outlets.get_mut(usize::from(worker)) else { return false };
        if outlet.frames.room() == 0 {
            return false;
        }
        let mut frame = outlet.spare.pop().unwrap_or_default();
        frame.clear();
        frame.extend_from_slice(bytes);
        outlet.handed = outlet.frames.push(Handed { interface, meta, frame, at_ns }).is_ok() || outlet.handed;
        true
    }

    /// Wakes whoever was handed something.
    pub fn ring(&mut self) {
        for outlet in self.outlets.iter_mut().flatten().filter(|outlet| outlet.handed) {
            outlet.handed = false;
            outlet.ringer.ring();
        }
    }

    /// The next frame from another worker, and where its buffer belongs.
    pub fn take(&mut self, now_ns: u64) -> Option<(usize, Handed)> {
        let count = self.inlets.len();
        let begin = self.next;
        for place in (0..count).map(|step| (begin + step) % count) {
            while let Some(handed) = self.inlets[place].frames.pop() {
                if now_ns.saturating_sub(handed.at_ns) > AGE_MAX_NS {
                    self.give_back(place, handed.frame);
                    continue;
                }
                self.next = place + 1;
                return Some((place, handed));
            }
        }
        None
    }

    /// Gives a buffer back.
    pub fn give_back(&mut self, place: usize, frame: Vec<u8>) {
        if frame.capacity() <= SPARE_CAPACITY_MAX {
            // Without a place it is freed.
            let _full = self.inlets[place].spare.push(frame);
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&mut self) -> bool {
        self.inlets.iter_mut().all(|inlet| inlet.frames.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use netio::bell::Doorbell;
    use words::{LeaseWord, ShardId, Term};

    use super::*;

    const ME: Incarnation = Incarnation(7);
    const NOW: u64 = 1_000;

    #[derive(Default)]
    struct Set(BTreeMap<ShardId, LeaseWord>);

    impl LeaseWords for Set {
        fn word(&self, shard: ShardId) -> LeaseWord {
            self.0.get(&shard).copied().unwrap_or_default()
        }
    }

    fn mesh(workers: usize) -> (Vec<Doorbell>, Vec<Lanes>) {
        let bells: Vec<Doorbell> = (0..workers).map(|_| Doorbell::new().expect("eventfd")).collect();
        let ringers: Vec<Ringer> = bells.iter().map(Doorbell::ringer).collect();
        (bells, Lanes::mesh(ME, &ringers))
    }

    fn frame(to: Mac) -> Vec<u8> {
        [&to.0[..], &[0; 54]].concat()
    }

    #[test]
    fn a_frame_for_another_workers_shard_is_handed_over_while_this_life_leases_it() {
        let (_bells, lanes) = mesh(2);
        let word = LeaseWord { incarnation: ME, term: Term(4), lease_until_ns: NOW + 1, grace_until_ns: NOW + 9 };
        let words = Set(BTreeMap::from([(ShardId(2), word), (ShardId(3), word)]));
        let lease = Authority::Lease { shard: ShardId(2), term: Term(4) };
        let way = |now, authority, to| lanes[0].way(&words, now, authority, &frame(to));
        let (own, other) = (Mac::of_shard(ShardId(2)), Mac::of_shard(ShardId(3)));
        assert_eq!(way(NOW, lease, other), Way::Worker(1));
        assert_eq!(way(NOW, lease, own), Way::Wire);
        assert_eq!(way(NOW, lease, Mac([2, 0, 0, 0, 0, 3])), Way::Wire);
        assert_eq!(way(NOW + 1, lease, other), Way::Wire, "it may be another member's by now");
        assert_eq!(way(NOW, lease, Mac::of_shard(ShardId(5))), Way::Wire, "it is another member's");
        let lapsed = Authority::Lease { shard: ShardId(2), term: Term(3) };
        assert_eq!(way(NOW, lapsed, other), Way::Wire, "where it is refused");
        assert_eq!(way(NOW, Authority::Grace { shard: ShardId(2) }, other), Way::Wire);
        let (_bell, only) = mesh(1);
        assert_eq!(only[0].way(&words, NOW, lease, &frame(other)), Way::Wire);
    }

    #[test]
    fn what_was_given_up_to_another_worker_never_takes_the_wire() {
        let (_bells, lanes) = mesh(3);
        let way = |to| lanes[1].way(&Set::default(), NOW, Authority::Forward, &frame(to));
        assert_eq!(way(Mac::of_shard(ShardId(3))), Way::Worker(0));
        assert_eq!(way(Mac::of_shard(ShardId(5))), Way::Worker(2));
        assert_eq!(way(Mac([2, 1, 0, 0, 0, 3])), Way::Wire, "another member's own address");
    }

    #[test]
    fn frames_keep_their_order_their_buffers_come_back_and_a_full_lane_refuses() {
        let (bells, mut lanes) = mesh(2);
        let (interface, meta) = (Interface::inside(2), FrameMeta::default());
        let numbered = |n: usize| n.to_be_bytes().to_vec();
        bells[1].prepare_sleep();
        for n in 0..LANE {
            assert!(lanes[0].hand(NOW, 1, (interface, meta), &numbered(n)));
        }
        assert!(!lanes[0].hand(NOW, 1, (interface, meta), &numbered(LANE)), "it is full");
        assert!(!bells[1].clear(), "not before it is told to");
        lanes[0].ring();
        assert!(bells[1].clear());
        assert!(lanes[0].is_empty() && !lanes[1].is_empty());
        let mut buffers = Vec::new();
        for n in 0..LANE {
            let (place, handed) = lanes[1].take(NOW).expect("one more");
            assert_eq!((handed.interface, &handed.frame), (interface, &numbered(n)));
            buffers.push(handed.frame.as_ptr());
            lanes[1].give_back(place, handed.frame);
        }
        assert!(lanes[1].take(NOW).is_none() && lanes[1].is_empty());
        assert!(lanes[0].hand(NOW, 1, (interface, meta), &numbered(1)));
        let (_, again) = lanes[1].take(NOW).expect("there is room again");
        assert_eq!(again.frame.as_ptr(), buffers[0], "no memory is asked for");
    }

    #[test]
    fn a_worker_takes_turns_between_those_that_hand_it_frames() {
        let (_bells, mut lanes) = mesh(3);
        for from in [0, 0, 1, 1] {
            let (way, frame) = ((Interface::OUTSIDE, FrameMeta::default()), [u8::try_from(from).expect("small")]);
            assert!(lanes[from].hand(NOW, 2, way, &frame));
        }
        let order: Vec<u8> = std::iter::from_fn(|| lanes[2].take(NOW).map(|(_, handed)| handed.frame[0])).collect();
        assert_eq!(order, [0, 1, 0, 1]);
    }

    #[test]
    fn a_frame_that_a_stopped_process_left_on_its_way_goes_no_further_and_a_large_buffer_is_not_kept() {
        let (_bells, mut lanes) = mesh(2);
        let way = (Interface::OUTSIDE, FrameMeta::default());
        assert!(lanes[0].hand(NOW, 1, way, &[1]) && lanes[0].hand(NOW + AGE_MAX_NS, 1, way, &[2]));
        let (_, handed) = lanes[1].take(NOW + AGE_MAX_NS + 1).expect("the younger one");
        assert_eq!(handed.frame, [2], "its sender's lease may have ended since");
        assert!(lanes[0].hand(NOW, 1, way, &vec![0; 65_000]));
        let (place, handed) = lanes[1].take(NOW).expect("it");
        lanes[1].give_back(place, handed.frame);
        assert!(lanes[0].outlets[1].as_mut().is_some_and(|outlet| outlet.spare.pop().is_none()));
    }
}
