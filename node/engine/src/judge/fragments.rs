//! Datagrams in fragments (R10): the first one's ports decide for all; those that come before it wait. Nothing is put
//! together, and everything is bounded: datagrams, also by sender, their fragments, waiting octets, and time. Overlapping
//! fragments end their datagram (RFC 1858, RFC 5722). The owner alone keeps this: after a failover the fragments that are
//! on their way are lost.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::context::Exit;
use crate::event::{DropReason, Last};
use crate::ids::{Link, Mac};
use crate::wire::{Fragment, FrameMeta, IpPacket, Piece, Proto};

/// How long the fragments of one datagram are waited for.
const PATIENCE_NS: u64 = 2_000_000_000;
/// Datagrams that have come in parts from one side, in all and from one sender.
const DATAGRAMS_MAX: usize = 1024;
const DATAGRAMS_EACH_MAX: usize = 128;
/// Octets that wait for first fragments on one side, in all and from one sender.
const OCTETS_MAX: usize = 1 << 20;
const OCTETS_EACH_MAX: usize = 256 << 10;
/// Fragments of one datagram: 64 KB over a link of 576 octets are 119.
const PIECES_MAX: usize = 128;

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    link: Link,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    proto: Proto,
    id: u16,
    /// Inside, who sent them: several hosts may have one address (D17).
    sender: Mac,
}

impl Key {
    pub(crate) fn of_first(link: Link, p: &IpPacket) -> Option<Self> {
        let sender = Self::sender(link, p.eth_src);
        p.fragment.map(|piece| Self { link, src: p.src, dst: p.dst, proto: p.proto, id: piece.id, sender })
    }

    pub(crate) fn of(link: Link, f: &Fragment) -> Self {
        let sender = Self::sender(link, f.eth_src);
        Self { link, src: f.src, dst: f.dst, proto: f.proto, id: f.piece.id, sender }
    }

    /// Outside the routers on the way may be several.
    fn sender(link: Link, mac: Mac) -> Mac {
        if link.is_inside() { mac } else { Mac::default() }
    }

    /// Bounds are by side.
    const fn side(&self) -> usize {
        self.link.side().index()
    }
}

/// How the first fragment was translated, and so are the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Way {
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) destination: Option<Ipv4Addr>,
    pub(crate) id: Option<u16>,
    pub(crate) hop: Ipv4Addr,
    pub(crate) exit: Exit,
}

/// What becomes of a datagram's later fragments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// The first one has not come, or waits for its mapping.
    Open,
    /// They are translated.
    Known(Way),
    /// They are dropped.
    Refused(DropReason),
}

/// A fragment that waits for the first.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) frame: Vec<u8>,
    pub(crate) meta: FrameMeta,
    pub(crate) fragment: Fragment,
}

#[derive(Debug)]
struct Datagram {
    since_ns: u64,
    pieces: Vec<(u16, u16)>,
    /// Octets of all pieces, and of the datagram once its end is known.
    octets: u32,
    len: Option<u16>,
    fate: Fate,
    waiting: Vec<Waiting>,
}

impl Datagram {
    fn is_whole(&self) -> bool {
        self.len.is_some_and(|len| u32::from(len) == self.octets)
    }

    /// Takes note of a piece. One that came before is a copy of the network's making and ends nothing.
    fn note(&mut self, piece: &Piece) -> Result<(), DropReason> {
        let (start, end) = (piece.start, piece.end);
        if self.pieces.contains(&(start, end)) {
            return Err(DropReason::FragmentOverlap);
        }
        let overlaps = self.pieces.iter().any(|(s, e)| start < *e && *s < end);
        let beyond = self.len.is_some_and(|len| end > len || piece.last == Last::Yes);
        let last_is_inside = piece.last == Last::Yes && self.pieces.iter().any(|(_, e)| *e > end);
        if overlaps || beyond || last_is_inside {
            self.fate = Fate::Refused(DropReason::FragmentOverlap);
            return Err(DropReason::FragmentOverlap);
        }
        if self.pieces.len() >= PIECES_MAX {
            return Err(DropReason::FragmentLimit);
        }
        self.pieces.push((start, end));
        self.octets += u32::from(end - start);
        if piece.last == Last::Yes {
            self.len = Some(end);
        }
        Ok(())
    }

    fn waiting_octets(&self) -> usize {
        self.waiting.iter().map(|w| w.frame.len()).sum()
    }
}

/// The datagrams of which some fragments have come.
#[derive(Debug, Default)]
pub(crate) struct Fragments {
    datagrams: BTreeMap<Key, Datagram>,
    count: [usize; 2],
    octets: [usize; 2],
    /// No datagram ends its wait before.
    due_ns: Option<u64>,
}

impl Fragments {
    /// Takes note of a fragment. Returns what becomes of it.
    pub(crate) fn note(&mut self, now_ns: u64, key: Key, piece: &Piece) -> Result<Fate, DropReason> {
        let side = key.side();
        if !self.datagrams.contains_key(&key) {
            if self.count[side] >= DATAGRAMS_MAX || self.of_sender(&key).count() >= DATAGRAMS_EACH_MAX {
                return Err(DropReason::FragmentLimit);
            }
            self.count[side] += 1;
            let due_ns = now_ns.saturating_add(PATIENCE_NS);
            self.due_ns = Some(self.due_ns.map_or(due_ns, |due| due.min(due_ns)));
        }
        let datagram = self.datagrams.entry(key).or_insert_with(|| Datagram {
            since_ns: now_ns,
            pieces: Vec::new(),
            octets: 0,
            len: None,
            fate: Fate::Open,
            waiting: Vec::new(),
        });
        if let Fate::Refused(reason) = datagram.fate {
            return Err(reason);
        }
        datagram.note(piece)?;
        Ok(datagram.fate)
    }

    /// Whether any fragment of its datagram has come.
    pub(crate) fn knows(&self, key: &Key) -> bool {
        self.datagrams.contains_key(key)
    }

    /// Whether one more fragment may wait.
    pub(crate) fn has_room(&self, key: &Key, len: usize) -> bool {
        let octets: usize = self.of_sender(key).map(Datagram::waiting_octets).sum();
        octets + len <= OCTETS_EACH_MAX && self.octets[key.side()] + len <= OCTETS_MAX
    }

    pub(crate) fn wait(&mut self, key: &Key, waiting: Waiting) {
        self.octets[key.side()] += waiting.frame.len();
        self.datagrams.get_mut(key).expect("its fragment was taken note of").waiting.push(waiting);
    }

    /// Takes note of a packet that is the first fragment of its datagram. A second such is the network's copy.
    pub(crate) fn note_first(&mut self, now_ns: u64, link: Link, p: &IpPacket) -> Result<(), DropReason> {
        let (Some(key), Some(piece)) = (Key::of_first(link, p), &p.fragment) else { return Ok(()) };
        self.note(now_ns, key, piece).map(|_| ())
    }

    /// The first fragment was translated, or refused.
    pub(crate) fn decide(&mut self, key: &Key, fate: Fate) {
        if let Some(datagram) = self.datagrams.get_mut(key)
            && !matches!(datagram.fate, Fate::Refused(_))
        {
            datagram.fate = fate;
        }
    }

    /// What is known of a datagram whose fate is decided: its waiting fragments need not wait any longer. Forgets it when
    /// all of it has come.
    pub(crate) fn settle(&mut self, key: &Key) -> Option<(Fate, Vec<Waiting>)> {
        let datagram = self.datagrams.get_mut(key)?;
        if datagram.fate == Fate::Open {
            return None;
        }
        let waiting = std::mem::take(&mut datagram.waiting);
        self.octets[key.side()] -= waiting.iter().map(|w| w.frame.len()).sum::<usize>();
        let fate = datagram.fate;
        if datagram.is_whole() {
            self.forget(key);
        }
        Some((fate, waiting))
    }

    /// Forgets what has been waited for too long, and returns the fragments that were still waiting.
    pub(crate) fn expire(&mut self, now_ns: u64) -> Vec<Waiting> {
        let mut gone = Vec::new();
        if self.due_ns.is_none_or(|due| now_ns < due) {
            return gone;
        }
        let is_old = |d: &Datagram| d.since_ns.saturating_add(PATIENCE_NS) <= now_ns;
        let old: Vec<Key> = self.datagrams.iter().filter(|(_, d)| is_old(d)).map(|(key, _)| *key).collect();
        for key in old {
            gone.extend(self.forget(&key));
        }
        self.due_ns = self.datagrams.values().map(|d| d.since_ns.saturating_add(PATIENCE_NS)).min();
        gone
    }

    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.due_ns
    }

    fn forget(&mut self, key: &Key) -> Vec<Waiting> {
        let Some(datagram) = self.datagrams.remove(key) else { return Vec::new() };
        self.count[key.side()] -= 1;
        self.octets[key.side()] -= datagram.waiting_octets();
        datagram.waiting
    }

    fn of_sender(&self, key: &Key) -> impl Iterator<Item = &Datagram> {
        let (link, src) = (key.link, key.src);
        let (lowest, highest) = (Mac::default(), Mac::BROADCAST);
        let first = Key { link, src, dst: Ipv4Addr::UNSPECIFIED, proto: Proto::Icmp, id: 0, sender: lowest };
        let last = Key { link, src, dst: Ipv4Addr::BROADCAST, proto: Proto::Udp, id: u16::MAX, sender: highest };
        self.datagrams.range(first..=last).map(|(_, datagram)| datagram)
    }
}
