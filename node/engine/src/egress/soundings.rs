//! What was heard on the data networks (F7): questions to members' own MACs, five times a second, their answers, and the
//! next hop, which is silent from when packets for it found nobody ([`NextHop`]) until it speaks.
//!
//! Silence is counted in questions, so that a machine that stood still is not taken for a network that did. Part of
//! `Worker`, which asks and answers in `sounding`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::context::News;
use crate::ids::{Link, NodeId};
use crate::neigh::NeighbourCache;

/// Between two rounds of questions.
pub const ASK_EVERY_NS: u64 = 200_000_000;
/// Rounds without any answer, after which a network counts as silent: a second.
pub const ROUNDS_SILENT: u32 = 5;
/// Rounds without an answer of a peer, after which the next hop is asked as well.
pub(crate) const ROUNDS_OF_PEERS: u32 = 1;
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

impl Passing {
    /// Its word in log lines.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unproved => "unproved",
            Self::Yes => "passing",
            Self::Silent => "silent",
        }
    }
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

/// All data networks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Soundings {
    /// A member has few: a look through them costs less than a search.
    links: Vec<(Link, Heard)>,
    pub(crate) next_ns: u64,
    rounds: u32,
    pub(crate) next_hop: Option<NextHop>,
}

impl Soundings {
    /// From now on these are sounded; of those that stay, what was heard stays.
    pub(crate) fn set_links(&mut self, links: impl Iterator<Item = Link>) {
        let mut before = std::mem::take(&mut self.links);
        let mut heard = |link| before.iter_mut().find(|(of, _)| *of == link).map(|(_, heard)| std::mem::take(heard));
        self.links = links.map(|link| (link, heard(link).unwrap_or_default())).collect();
    }

    pub(crate) fn of(&self, link: Link) -> Option<&Heard> {
        self.links.iter().find(|(of, _)| *of == link).map(|(_, heard)| heard)
    }

    pub(crate) fn of_mut(&mut self, link: Link) -> Option<&mut Heard> {
        self.links.iter_mut().find(|(of, _)| *of == link).map(|(_, heard)| heard)
    }

    /// A frame came by a link.
    pub(crate) fn heard_anything(&mut self, link: Link, now_ns: u64) {
        if let Some(heard) = self.of_mut(link) {
            heard.heard_ns = now_ns;
        }
    }

    /// Somebody answered.
    pub(crate) fn answered(&mut self, link: Link, now_ns: u64) -> News {
        self.change(link, |heard| heard.answered(now_ns))
    }

    /// A round of questions begins, to whomever there is to ask.
    pub(crate) fn ask(&mut self, link: Link, asked: usize) -> News {
        self.change(link, |heard| heard.ask(asked))
    }

    fn change(&mut self, link: Link, change: impl FnOnce(&mut Heard)) -> News {
        let Some(heard) = self.of_mut(link) else { return News::No };
        let before = heard.passing;
        change(heard);
        if before == heard.passing { News::No } else { News::Yes }
    }

    /// Looks at the next hop, if there is one that this node may ask for. Whether it is to be asked for its silence.
    pub(crate) fn watch_next_hop(&mut self, now_ns: u64, hop: Option<Ipv4Addr>, neighbours: &NeighbourCache) -> bool {
        self.rounds = self.rounds.wrapping_add(1);
        let Some(ip) = hop else {
            self.next_hop = None;
            return false;
        };
        let known = self.next_hop.filter(|known| known.ip == ip);
        let mut next_hop = known.unwrap_or(NextHop { ip, heard_ns: 0, silent_since_ns: None });
        if next_hop.silent_since_ns.is_none() && neighbours.is_silent(Link::Outside, ip) {
            next_hop.silent_since_ns = Some(now_ns);
        }
        self.next_hop = Some(next_hop);
        next_hop.silent_since_ns.is_some() && self.rounds.is_multiple_of(ROUNDS_TO_NEXT_HOP)
    }
}
