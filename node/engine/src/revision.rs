//! Which decisions about packets still stand (K2): each IP configuration has the number of the load that last changed the
//! fate of its packets, and one number stands for what concerns all. Dense, so that a packet compares and searches nothing.
//!
//! Never the snapshot's own number: a commit that concerns nobody makes nobody decide again. Hot path: `holds`.

use std::sync::Arc;

use crate::context::News;
use crate::ids::BackendId;
use crate::snapshot::Snapshot;

/// Places for IP configurations, twice what a configuration may have. Two whose numbers differ by a multiple of it share one,
/// and decide again with each other.
const PLACES: usize = 1 << 16;
/// Parts of backends that a load compares one by one; if more have changed, all decide again.
pub(crate) const PARTS_MAX: usize = 32;
/// Backends with groups that it compares one by one; if there are more, all decide again when any group has changed.
const GROUPED_MAX: usize = 2048;

/// See the module.
#[derive(Debug)]
pub(crate) struct Revisions {
    now: u64,
    all: u64,
    of: Box<[u64]>,
    /// What was raised since the fast path was told.
    raised: Raised,
}

/// Whose numbers were raised.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Raised {
    pub(crate) all: bool,
    pub(crate) of: Vec<BackendId>,
}

impl Revisions {
    pub(crate) fn new() -> Self {
        Self { now: 1, all: 1, of: vec![0; PLACES].into(), raised: Raised::default() }
    }

    /// The number that a decision of this moment has; never 0.
    pub(crate) const fn now(&self) -> u64 {
        self.now
    }

    /// Whether a decision about packets of `backend` still stands that was made at `made`.
    #[inline]
    pub(crate) fn holds(&self, backend: BackendId, made: u64) -> bool {
        made >= self.all && made >= self.of[place(backend)]
    }

    /// Nothing that was decided stands any more.
    pub(crate) fn end_all(&mut self) {
        self.now += 1;
        self.raise_all();
    }

    /// What was decided stands for workers; the number that a decision of this moment has from now on is a greater one.
    pub(crate) const fn advance(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// The same for one, whose numbers are raised to it: for workers too.
    pub(crate) fn renew(&mut self, id: BackendId) {
        self.of[place(id)] = self.now;
    }

    /// Whose numbers were raised to `now` since this was asked.
    pub(crate) fn take_raised(&mut self) -> Raised {
        std::mem::take(&mut self.raised)
    }

    fn raise_all(&mut self) {
        self.all = self.now;
        self.raised.all = true;
    }

    fn raise(&mut self, id: BackendId) {
        self.of[place(id)] = self.now;
        self.raised.of.push(id);
    }

    /// `after` takes the place of `before`. Returns whether somebody's ports may be open to others than before.
    pub(crate) fn load(&mut self, before: Option<&Snapshot>, after: &Snapshot) -> News {
        let Some(before) = before.filter(|before| concerns_few(before, after)) else {
            self.end_all();
            return News::Yes;
        };
        self.now += 1;
        let mut opened = News::No;
        for id in after.backends.changed_since(&before.backends) {
            self.raise(id);
            let open = |s: &Snapshot| s.backends.get(&id).map(|b| (b.sharing, b.filtering));
            if open(before) != open(after) {
                opened = News::Yes;
            }
        }
        if !Arc::ptr_eq(&after.security, &before.security) {
            if after.security.len().max(before.security.len()) > GROUPED_MAX {
                self.raise_all();
            } else {
                for id in after.security.changed_since(&before.security) {
                    self.raise(id);
                }
            }
        }
        opened
    }
}

/// Whether two versions differ at most in some backends, and in what no decision about a mapping's packets asks for.
fn concerns_few(before: &Snapshot, after: &Snapshot) -> bool {
    let Snapshot {
        control_index: _,
        params,
        me,
        peers: _,
        shards: _,
        frontends,
        frontend_by_ip,
        backends,
        backend_by_ip,
        first_backends: _,
        // Compared one by one by `load`.
        security: _,
        rules,
        // Who gets new flows: what is decided of others stands (D16).
        probes: _,
        private,
        networks: _,
        subnets,
        outside,
    } = after;
    params.short_idle_ports == before.params.short_idle_ports
        && *me == before.me
        && Arc::ptr_eq(frontends, &before.frontends)
        && Arc::ptr_eq(frontend_by_ip, &before.frontend_by_ip)
        && Arc::ptr_eq(backend_by_ip, &before.backend_by_ip)
        && Arc::ptr_eq(rules, &before.rules)
        && *subnets == before.subnets
        && *outside == before.outside
        && *private == before.private
        && backends.parts_apart_from(&before.backends) <= PARTS_MAX
}

fn place(BackendId(id): BackendId) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX) % PLACES
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::backend::Backend;
    use crate::ids::{ControlIndex, FrontendId, ShardId, VnetId};
    use crate::nsg::{Attachment, List, RuleSet, Rules};
    use crate::snapshot::Frontend;

    fn snapshot(backends: u32) -> Snapshot {
        let mut s = Snapshot::default();
        (0..backends).for_each(|n| drop(s.backends.insert(BackendId(n), Backend::numbered(n))));
        s
    }

    /// Which of the first backends' decisions stand that were made before `change` was loaded.
    fn left(change: impl FnOnce(&mut Snapshot)) -> Vec<bool> {
        let (mut revisions, before) = (Revisions::new(), snapshot(10_000));
        revisions.load(None, &before);
        let made = revisions.now();
        let mut after = before.clone();
        after.control_index = ControlIndex(9);
        change(&mut after);
        revisions.load(Some(&before), &after);
        (0..4).map(|n| revisions.holds(BackendId(n), made)).collect()
    }

    #[test]
    fn a_load_ends_what_was_decided_about_whom_it_concerns_and_nothing_else() {
        assert_eq!(left(|_| {}), [true; 4]);
        assert_eq!(left(|s| s.peers.clear()), [true; 4]);
        assert_eq!(
            left(|s| drop(s.backends.insert(BackendId(10_001), Backend::numbered(10_001)))),
            [true; 4],
            "a new one"
        );
        let moved = |s: &mut Snapshot| s.backends.get_mut(&BackendId(2)).expect("there").home = ShardId(7);
        assert_eq!(left(moved), [true, true, false, true]);
        assert_eq!(left(|s| drop(s.backends.remove(&BackendId(1)))), [true, false, true, true]);
        let judged = |s: &mut Snapshot| {
            let rules = |group: &str| {
                let list = || List::new(Arc::new(Rules::new(&[])), 7, Arc::default(), Box::default());
                Some(Arc::new(RuleSet { group: group.into(), inbound: list(), outbound: list() }))
            };
            let of = |id| (BackendId(id), Arc::new(Attachment::new(None, rules("g")).expect("a group")));
            s.security = Arc::new([of(1), of(3)].into_iter().collect());
        };
        assert_eq!(left(judged), [true, false, true, false], "whose groups changed");
        let many = |s: &mut Snapshot, count: usize| {
            judged(s);
            let of = s.security.iter().next().map(|(_, of)| Arc::clone(of)).expect("one");
            let ids = (1..=u32::try_from(count).expect("few")).map(BackendId);
            s.security = Arc::new(ids.map(|id| (id, Arc::clone(&of))).collect());
        };
        assert_eq!(left(|s| many(s, GROUPED_MAX)), [true, false, false, false], "one by one");
        assert_eq!(left(|s| many(s, GROUPED_MAX + 1)), [false; 4], "too many to look through");
        let shared = BackendId(1 + u32::try_from(PLACES).expect("small"));
        assert_eq!(
            left(|s| drop(s.backends.insert(shared, Backend::numbered(1)))),
            [true, false, true, true],
            "one place"
        );
    }

    #[test]
    fn what_concerns_everybody_ends_every_decision() {
        let ip = Ipv4Addr::new(203, 0, 113, 9);
        assert_eq!(left(|s| s.outside.next_hop = Some(ip)), [false; 4]);
        assert_eq!(left(|s| s.put_frontends([(FrontendId(1), Frontend { ip, shard: ShardId(1) })])), [false; 4]);
        assert_eq!(left(|s| s.params.short_idle_ports[0] = 54), [false; 4]);
        assert_eq!(left(|s| _ = Arc::make_mut(&mut s.backend_by_ip).insert((VnetId(0), ip), BackendId(2))), [false; 4]);
        let more_than_it_compares = |s: &mut Snapshot| {
            (4..10_000).step_by(64).for_each(|n| s.backends.get_mut(&BackendId(n)).expect("there").idle_timeout_ms = 1);
        };
        assert_eq!(left(more_than_it_compares), [false; 4]);
        assert!(!Revisions::new().holds(BackendId(1), 0), "nothing was decided at 0");
    }
}
