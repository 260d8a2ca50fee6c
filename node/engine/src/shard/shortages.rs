//! Backends that found no port free towards a remote, lately (S12, S16): who, under which address, towards whom, and when the first
//! one comes back. Bounded: a scan may run out of ports towards as many remotes as it likes. Noted where first packets are
//! refused; it changes nothing that is judged.

use words::time::{MS, SECOND_NS};

use crate::ids::{BackendId, FrontendId};
use crate::record::{Endpoint, Proto};

/// Shortages that a shard remembers; the oldest gives way.
pub const SHORTAGES_MAX: usize = 16;
/// When a port comes back is found out by a look at each port of the lease: for each shortage once in this time.
const LOOK_NS: u64 = SECOND_NS;
/// And for all of them together no more often than that.
const LOOKS_NS: u64 = 10 * MS;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Who has no port.
    pub backend: BackendId,
    /// Under which address; none if its lease is empty.
    pub frontend: Option<FrontendId>,
    /// Of which protocol.
    pub proto: Proto,
    /// Towards whom.
    pub remote: Endpoint,
    /// Packets that were dropped for want of a port.
    pub packets: u64,
    /// When the last one was (CLOCK_BOOTTIME).
    pub at_ns: u64,
    /// When the first port that is held towards the remote comes back (CLOCK_BOOTTIME), as far as it was looked; none: all are in
    /// use.
    pub back_ns: Option<u64>,
}

/// Those of one shard, with when each was looked up, and when one was last.
#[derive(Debug, Default)]
pub(crate) struct Shortages {
    all: Vec<(Shortage, u64)>,
    looked_ns: u64,
}

impl Shortages {
    /// A packet was dropped. `back_ns` says when a port comes back, and is asked now and then.
    pub(crate) fn note(
        &mut self,
        now_ns: u64,
        (backend, frontend): (BackendId, Option<FrontendId>),
        (proto, remote): (Proto, Endpoint),
        back_ns: impl FnOnce() -> Option<u64>,
    ) {
        let is =
            |one: &Shortage| (one.backend, one.frontend, one.proto, one.remote) == (backend, frontend, proto, remote);
        let at = self.all.iter().position(|(one, _)| is(one)).unwrap_or_else(|| {
            if self.all.len() >= SHORTAGES_MAX {
                let oldest = (0..self.all.len()).min_by_key(|at| self.all[*at].0.at_ns);
                oldest.map(|at| self.all.swap_remove(at));
            }
            let new = Shortage { backend, frontend, proto, remote, packets: 0, at_ns: now_ns, back_ns: None };
            self.all.push((new, 0));
            self.all.len() - 1
        });
        let (known, looked_ns) = &mut self.all[at];
        (known.packets, known.at_ns) = (known.packets + 1, now_ns);
        if now_ns >= looked_ns.saturating_add(LOOK_NS) && now_ns >= self.looked_ns.saturating_add(LOOKS_NS) {
            (known.back_ns, *looked_ns, self.looked_ns) = (back_ns(), now_ns, now_ns);
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Shortage> {
        self.all.iter().map(|(one, _)| *one)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::Ipv4Addr;

    use super::*;
    use crate::record::Addr;

    #[test]
    fn the_oldest_gives_way_and_ports_are_looked_at_now_and_then() {
        let (mut shortages, looks) = (Shortages::default(), Cell::new(0));
        let mut note = |now_ns: u64, port: u16| {
            let remote = Endpoint { addr: Addr::from(Ipv4Addr::new(198, 51, 100, 7)), port };
            shortages.note(now_ns, (BackendId(1), Some(FrontendId(1))), (Proto::Udp, remote), || {
                looks.set(looks.get() + 1);
                Some(now_ns + 5)
            });
            shortages.all().collect::<Vec<_>>()
        };
        let start = 50 * SECOND_NS;
        for port in 0..1_000 {
            note(start + u64::from(port), port);
        }
        assert_eq!(looks.get(), 1, "a scan costs one look");
        let all = note(start + 2_000, 999);
        assert_eq!(all.len(), SHORTAGES_MAX);
        assert!(all.iter().all(|one| one.remote.port >= 984), "{all:?}");
        let last = |all: &[Shortage]| *all.iter().find(|one| one.remote.port == 999).expect("it came last");
        assert_eq!((last(&all).packets, last(&all).back_ns), (2, None));
        let later = start + 2 * LOOKS_NS;
        assert_eq!(last(&note(later, 999)).back_ns, Some(later + 5));
        note(later + LOOK_NS - 1, 999);
        assert_eq!(looks.get(), 2);
        assert_eq!(last(&note(later + LOOK_NS, 999)).back_ns, Some(later + LOOK_NS + 5));
    }
}
