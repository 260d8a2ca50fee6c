//! The member's own data links: which networks its inside interfaces carry, what they take, whether they work, and what
//! that is for each shard (F7). Part of `Worker`.
//!
//! A shard serves while outside works and one of the networks in which it has backends: those of the others are cut off
//! here and nowhere better, or the group moves to a member that has all of them.

use std::collections::BTreeMap;

use crate::context::News;
use crate::egress::soundings::Passing;
use crate::ids::{Link, ShardId, ShardSet, VnetId};
use crate::snapshot::Snapshot;

/// What an interface takes until its size is known.
const MTU_DEFAULT: u16 = 1500;
/// No host has to cope with less (RFC 791), so a smaller value counts as this.
const MTU_MIN: u16 = 576;

/// What the data links do for each shard. `outside` is the same for all; where inside is not as it should be, the shard
/// stands in one of the sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// The outside interface works.
    pub outside_up: bool,
    /// What the outside network carries.
    pub outside: Passing,
    /// Shards that have backends in a network which no working interface leads to.
    pub lacking: ShardSet,
    /// Shards that have backends in a network in which nobody answers.
    pub silent: ShardSet,
    /// Shards that have backends in a network in which nobody was asked for long enough.
    pub unproved: ShardSet,
}

#[derive(Clone, Copy, Debug)]
struct Own {
    carrier: Carrier,
    mtu: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Carrier {
    Up,
    Down,
}

impl Own {
    const UNKNOWN: Self = Self { carrier: Carrier::Down, mtu: MTU_DEFAULT };
}

/// The interfaces, and the networks of each shard's backends.
#[derive(Debug)]
pub(crate) struct Links {
    outside: Own,
    /// A member has few: a look through them costs less than a search.
    inside: Vec<(VnetId, Own)>,
    of_shards: BTreeMap<ShardId, Vec<VnetId>>,
    told: Option<Standing>,
    /// Something that `Standing` depends on is new.
    pub(crate) news: News,
}

impl Default for Links {
    fn default() -> Self {
        let (inside, of_shards) = (Vec::new(), BTreeMap::new());
        Self { outside: Own::UNKNOWN, inside, of_shards, told: None, news: News::Yes }
    }
}

impl Links {
    #[inline]
    fn own(&self, link: Link) -> Option<&Own> {
        match link {
            Link::Outside => Some(&self.outside),
            Link::Inside(vnet) => self.inside.iter().find(|(of, _)| *of == vnet).map(|(_, own)| own),
        }
    }

    fn own_mut(&mut self, link: Link) -> Option<&mut Own> {
        match link {
            Link::Outside => Some(&mut self.outside),
            Link::Inside(vnet) => self.inside.iter_mut().find(|(of, _)| *of == vnet).map(|(_, own)| own),
        }
    }

    /// Whether this member has an interface there.
    #[inline]
    pub(crate) fn has(&self, link: Link) -> bool {
        self.own(link).is_some()
    }

    /// The largest IP packet that leaves by a link; `None`: there is no interface.
    #[inline]
    pub(crate) fn mtu(&self, link: Link) -> Option<u16> {
        self.own(link).map(|own| own.mtu)
    }

    /// The smallest of the inside ones.
    pub(crate) fn mtu_inside(&self) -> u16 {
        self.inside.iter().map(|(_, own)| own.mtu).min().unwrap_or(MTU_DEFAULT)
    }

    /// The inside ones.
    pub(crate) fn inside(&self) -> impl Iterator<Item = VnetId> {
        self.inside.iter().map(|(vnet, _)| *vnet)
    }

    /// Outside and all of inside.
    pub(crate) fn all(&self) -> impl Iterator<Item = Link> {
        self.inside().map(Link::Inside).chain([Link::Outside])
    }

    pub(crate) fn load(&mut self, snapshot: &Snapshot) {
        self.of_shards.clear();
        for (vnet, shard) in snapshot.first_backends.keys() {
            self.of_shards.entry(*shard).or_default().push(*vnet);
        }
        self.news = News::Yes;
    }

    fn is_up(&self, link: Link) -> bool {
        self.own(link).is_some_and(|own| own.carrier == Carrier::Up)
    }

    /// Whether a shard can be served at all.
    pub(crate) fn carry(&self, shard: ShardId) -> bool {
        let networks = self.of_shards.get(&shard);
        self.is_up(Link::Outside)
            && networks.is_none_or(|networks| networks.iter().any(|vnet| self.is_up(Link::Inside(*vnet))))
    }

    fn standing(&self, passing: impl Fn(Link) -> Passing) -> Standing {
        let mut standing =
            Standing { outside_up: self.is_up(Link::Outside), outside: passing(Link::Outside), ..Standing::default() };
        for (shard, networks) in &self.of_shards {
            for link in networks.iter().copied().map(Link::Inside) {
                let of = match passing(link) {
                    _ if !self.is_up(link) => &mut standing.lacking,
                    Passing::Silent => &mut standing.silent,
                    Passing::Unproved => &mut standing.unproved,
                    Passing::Yes => continue,
                };
                of.insert(*shard);
            }
        }
        standing
    }

    /// These are the inside ones from now on; what is known of those that stay is kept. Whether that is news.
    pub(crate) fn set_inside(&mut self, networks: &[VnetId]) -> News {
        if self.inside().eq(networks.iter().copied()) {
            return News::No;
        }
        let kept = |vnet: VnetId| self.own(Link::Inside(vnet)).copied().unwrap_or(Own::UNKNOWN);
        self.inside = networks.iter().map(|vnet| (*vnet, kept(*vnet))).collect();
        self.news = News::Yes;
        News::Yes
    }

    /// Whether that is news.
    pub(crate) fn set_up(&mut self, link: Link, up: bool) -> News {
        let carrier = if up { Carrier::Up } else { Carrier::Down };
        let Some(own) = self.own_mut(link).filter(|own| own.carrier != carrier) else { return News::No };
        own.carrier = carrier;
        self.news = News::Yes;
        News::Yes
    }

    pub(crate) fn set_mtu(&mut self, link: Link, mtu: u16) -> News {
        let Some(own) = self.own_mut(link) else { return News::No };
        let before = std::mem::replace(&mut own.mtu, mtu.max(MTU_MIN));
        if before == own.mtu { News::No } else { News::Yes }
    }

    /// What is new since it was told.
    pub(crate) fn tell(&mut self, passing: impl Fn(Link) -> Passing) -> Option<Standing> {
        if std::mem::replace(&mut self.news, News::No) == News::No {
            return None;
        }
        let standing = self.standing(passing);
        if self.told == Some(standing) {
            return None;
        }
        self.told = Some(standing);
        Some(standing)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::ids::BackendId;

    const A: VnetId = VnetId(1);
    const B: VnetId = VnetId(2);

    /// Shard 1 has backends in A, shard 2 in both, shard 3 none.
    fn links() -> Links {
        let mut snapshot = Snapshot::default();
        let firsts = Arc::make_mut(&mut snapshot.first_backends);
        for (vnet, shard) in [(A, 1), (A, 2), (B, 2)] {
            firsts.insert((vnet, ShardId(shard)), (BackendId(1), Ipv4Addr::LOCALHOST));
        }
        let mut links = Links::default();
        assert_eq!(links.set_inside(&[A, B]), News::Yes);
        links.load(&snapshot);
        for link in [Link::Outside, Link::Inside(A), Link::Inside(B)] {
            assert_eq!(links.set_up(link, true), News::Yes);
        }
        links
    }

    fn lacking(links: &mut Links) -> Vec<u16> {
        links.tell(|_| Passing::Yes).expect("it changed").lacking.iter().map(|shard| shard.0).collect()
    }

    fn carried(links: &Links) -> [bool; 3] {
        [1, 2, 3].map(|shard| links.carry(ShardId(shard)))
    }

    #[test]
    fn a_network_that_is_cut_concerns_the_shards_that_have_backends_there_and_they_serve_the_others() {
        let mut links = links();
        assert!(lacking(&mut links).is_empty());
        assert_eq!(links.tell(|_| Passing::Yes), None, "told once");
        links.set_up(Link::Inside(B), false);
        assert_eq!((lacking(&mut links), carried(&links)), (vec![2], [true; 3]));
        links.set_up(Link::Inside(A), false);
        assert_eq!((lacking(&mut links), carried(&links)), (vec![1, 2], [false, false, true]));
        links.set_up(Link::Outside, false);
        assert_eq!((links.tell(|_| Passing::Yes).map(|s| s.outside_up), carried(&links)), (Some(false), [false; 3]));
    }

    #[test]
    fn a_network_without_an_interface_is_lacking() {
        let mut links = links();
        links.set_inside(&[B]);
        assert_eq!((lacking(&mut links), carried(&links)), (vec![1, 2], [false, true, true]));
        assert_eq!(links.set_up(Link::Inside(A), true), News::No, "there is none");
    }

    #[test]
    fn a_network_in_which_nobody_answers_is_told_of_for_the_shards_that_need_it() {
        let mut links = links();
        let of = |link| if link == Link::Inside(B) { Passing::Silent } else { Passing::Yes };
        let told = links.tell(of).expect("it changed");
        assert_eq!(told.silent.iter().collect::<Vec<_>>(), [ShardId(2)]);
        assert!(told.lacking.is_empty() && told.unproved.is_empty() && told.outside == Passing::Yes);
        links.news = News::Yes;
        let of = |link| if link == Link::Inside(A) { Passing::Unproved } else { Passing::Yes };
        assert_eq!(links.tell(of).expect("it changed").unproved.iter().collect::<Vec<_>>(), [1, 2].map(ShardId));
    }
}
