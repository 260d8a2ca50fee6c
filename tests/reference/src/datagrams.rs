//! Datagrams that have come in parts to one member, naively (R10, I21): a list.

use std::net::Ipv4Addr;

use engine::ids::Link;

use crate::expect::Outcome;
use crate::packet::{ETH, addresses, be16, shape};

/// How long the parts of a datagram are waited for.
const PATIENCE_NS: u64 = 2_000_000_000;

/// Link, addresses, protocol, identification.
pub(crate) type Key = (Link, (Ipv4Addr, Ipv4Addr), u8, u16);

/// Where a fragment lies, and whether it is the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) start: usize,
    end: usize,
    last: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Fate {
    Open,
    /// They go as this frame went: the first one's, by that link.
    Like(Link, Vec<u8>),
    /// They would have gone like the first, which the member sent when it was owner before.
    Stale,
    Refused,
}

#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) key: Key,
    since_ns: u64,
    parts: Vec<Part>,
    pub(crate) fate: Fate,
    pub(crate) waiting: Vec<Vec<u8>>,
}

/// The datagrams of which some fragments have come to one member.
#[derive(Debug, Default)]
pub(crate) struct Datagrams(pub(crate) Vec<Datagram>);

pub(crate) fn key_of(link: Link, frame: &[u8]) -> Key {
    (link, addresses(frame), frame[ETH + 9], be16(frame, ETH + 4))
}

pub(crate) fn part_of(frame: &[u8]) -> Part {
    let shape = shape(frame).expect("a frame of the script's");
    let (start, more) = shape.fragment;
    Part { start, end: start + shape.ip_total - shape.ip_header, last: !more }
}

impl Datagram {
    /// What a part is to those that have come.
    pub(crate) fn note(&mut self, part: Part) -> Option<Outcome> {
        if let Fate::Refused = self.fate {
            return Some(Outcome::Lost);
        }
        if self.parts.iter().any(|p| (p.start, p.end) == (part.start, part.end)) {
            return Some(Outcome::Copy);
        }
        let over = |p: &Part| part.start < p.end && p.start < part.end;
        let beyond = |p: &Part| (p.last && (part.last || part.end > p.end)) || (part.last && p.end > part.end);
        if self.parts.iter().any(|p| over(p) || beyond(p)) {
            self.refuse();
            return Some(Outcome::Overlap);
        }
        self.parts.push(part);
        None
    }

    pub(crate) fn refuse(&mut self) {
        self.fate = Fate::Refused;
        self.waiting.clear();
    }

    fn is_whole(&self) -> bool {
        let octets: usize = self.parts.iter().map(|p| p.end - p.start).sum();
        self.parts.iter().any(|p| p.last && p.end == octets)
    }
}

impl Datagrams {
    /// The owner changes: what was sent on was sent by another's right.
    pub(crate) fn lose(&mut self) {
        for datagram in self.0.iter_mut().filter(|d| matches!(d.fate, Fate::Like(..))) {
            datagram.fate = Fate::Stale;
        }
    }

    pub(crate) fn forget(&mut self, now_ns: u64) {
        self.0.retain(|d| now_ns < d.since_ns + PATIENCE_NS && (matches!(d.fate, Fate::Open) || !d.is_whole()));
    }

    pub(crate) fn of(&mut self, now_ns: u64, key: Key) -> &mut Datagram {
        let there = self.0.iter().position(|d| d.key == key);
        let place = there.unwrap_or_else(|| {
            let (parts, waiting) = (Vec::new(), Vec::new());
            self.0.push(Datagram { key, since_ns: now_ns, parts, fate: Fate::Open, waiting });
            self.0.len() - 1
        });
        &mut self.0[place]
    }
}
