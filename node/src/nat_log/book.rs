//! Whose each public port is now, with the line that said so. What a file begins with, and what tells news from repetition.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use control::port_log::{PortFate, PortUse};

use super::line::{BlockLine, Body, Line};

/// A range that stands.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Standing {
    last: u16,
    unix_ms: u64,
    block: BlockLine,
}

/// The book.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Book {
    ranges: BTreeMap<(Ipv4Addr, u16), Standing>,
    /// The cluster that it is about.
    pub(super) cluster: String,
    /// The newest entry of the control log that is in it.
    pub(super) index: u64,
    /// Its time.
    pub(super) unix_ms: u64,
}

impl Book {
    /// Takes a line about a block. Returns whether it changes anything.
    pub(super) fn note(&mut self, unix_ms: u64, block: &BlockLine) -> bool {
        self.index = self.index.max(block.index);
        self.unix_ms = self.unix_ms.max(unix_ms);
        let PortUse { public, first, last, .. } = block.ports;
        if block.fate != PortFate::Released
            && self.ranges.get(&(public, first)).is_some_and(|s| {
                s.last == last && s.block.fate == block.fate && s.block.ports.backend == block.ports.backend
            })
        {
            return false;
        }
        let had = self.cut(public, first, last);
        if block.fate == PortFate::Released {
            return had;
        }
        self.ranges.insert((public, first), Standing { last, unix_ms, block: block.clone() });
        true
    }

    /// Takes a range out of all that lies on it. Returns whether something did.
    fn cut(&mut self, public: Ipv4Addr, first: u16, last: u16) -> bool {
        let below = self.ranges.range(..=(public, last)).rev();
        let touching: Vec<(Ipv4Addr, u16)> =
            below.take_while(|((ip, _), s)| *ip == public && s.last >= first).map(|(key, _)| *key).collect();
        for key in &touching {
            let Some(old) = self.ranges.remove(key) else { continue };
            if key.1 < first {
                self.ranges.insert(*key, Standing { last: first - 1, ..old.clone() });
            }
            if old.last > last {
                self.ranges.insert((public, last + 1), Standing { last: old.last, ..old });
            }
        }
        !touching.is_empty()
    }

    /// An empty book of a cluster at an entry of its control log: what follows is all.
    pub(super) fn begin(cluster: &str, index: u64, unix_ms: u64) -> Self {
        Self { cluster: cluster.to_owned(), index, unix_ms, ..Self::default() }
    }

    /// Who has a port.
    pub(super) fn holder(&self, public: Ipv4Addr, port: u16) -> Option<&PortUse> {
        let (key, standing) = self.ranges.range(..=(public, port)).next_back()?;
        (key.0 == public && standing.last >= port).then_some(&standing.block.ports)
    }

    /// All that stands, as a file begins with it: each line as old as what it says.
    pub(super) fn lines(&self) -> Vec<Line> {
        let head = Line {
            unix_ms: self.unix_ms,
            body: Body::All { cluster: self.cluster.clone(), index: self.index, count: self.ranges.len() },
        };
        let standing = self.ranges.iter().map(|((_, first), standing)| {
            let ports = PortUse { first: *first, last: standing.last, ..standing.block.ports.clone() };
            Line { unix_ms: standing.unix_ms, body: Body::Block(BlockLine { ports, ..standing.block.clone() }) }
        });
        std::iter::once(head).chain(standing).collect()
    }

    /// The same ranges in the same hands, whenever that began.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        fn plain(book: &Book) -> impl Iterator<Item = (Ipv4Addr, u16, u16, PortFate, &str)> {
            book.ranges
                .iter()
                .map(|((ip, first), s)| (*ip, *first, s.last, s.block.fate, s.block.ports.backend.as_str()))
        }
        plain(self).eq(plain(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(fate: PortFate, first: u16, last: u16, backend: &str) -> BlockLine {
        let (public, inside) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(10, 0, 1, 1));
        let ports = PortUse { public, first, last, network: "v".into(), inside, backend: backend.into() };
        BlockLine { fate, index: 7, ports }
    }

    #[test]
    fn a_piece_that_drains_and_goes_leaves_the_rest_as_old_as_it_was() {
        let mut book = Book::default();
        assert!(book.note(10, &block(PortFate::Granted, 1024, 2047, "a")));
        assert!(!book.note(20, &block(PortFate::Granted, 1024, 2047, "a")), "no news");
        assert!(book.note(30, &block(PortFate::Draining, 1536, 1791, "a")));
        let times = |book: &Book| -> Vec<(u64, u16, u16)> {
            let blocks = book.lines().into_iter().filter_map(|line| match line.body {
                Body::Block(b) => Some((line.unix_ms, b.ports.first, b.ports.last)),
                Body::All { .. } | Body::Session(_) => None,
            });
            blocks.collect()
        };
        assert_eq!(times(&book), [(10, 1024, 1535), (30, 1536, 1791), (10, 1792, 2047)]);
        assert!(book.note(40, &block(PortFate::Released, 1536, 1791, "a")));
        assert!(!book.note(40, &block(PortFate::Released, 1536, 1791, "a")));
        let holder = |port| book.holder(Ipv4Addr::new(203, 0, 113, 1), port).map(|u| u.backend.as_str());
        assert_eq!(
            [1023, 1024, 1535, 1536, 1791, 1792, 2047, 2048].map(holder),
            [None, Some("a"), Some("a"), None, None, Some("a"), Some("a"), None]
        );
    }

    #[test]
    fn the_last_port_of_all_is_a_port() {
        let mut book = Book::default();
        book.note(1, &block(PortFate::Granted, 64_512, 65_535, "a"));
        book.note(2, &block(PortFate::Released, 65_024, 65_535, "a"));
        assert_eq!(book.lines().len(), 2);
        assert!(book.holder(Ipv4Addr::new(203, 0, 113, 1), 65_535).is_none());
    }
}
