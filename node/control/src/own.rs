//! Public addresses that are one backend's own (S2): who gets one, and how it comes back.
//!
//! An own address is a frontend of which one backend has all ports, as two blocks. It leaves like any block: it drains, is fenced and
//! reported (F4, F5), and nobody else gets it before. Its backend keeps what flows it has there until they close (D12); if
//! somebody else is to have it, or it is no longer declared, for as long as a drain waits. Called by `allocation` and
//! `configure`; what it needs of shards is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine::ids::{BackendId, FrontendId, PortBlock, ShardId};
use engine::snapshot::OnReclaim;

use crate::allocation::{Allocation, Settle};
use crate::holdings::{Backend, Declared, Drain, Purpose};
use crate::places::blocks_on;

impl Allocation {
    /// Which addresses that are there already may be whose own; a backend that nothing ties to a shard comes to its address. One that
    /// lies elsewhere retires first.
    pub(crate) fn declare_own(&mut self) {
        let ids: BTreeMap<Ipv4Addr, FrontendId> = self.frontends.iter().map(|(id, f)| (f.ip, *id)).collect();
        let wanted: Vec<(BackendId, FrontendId)> = self
            .backends
            .iter()
            .filter(|(_, backend)| backend.declared == Declared::Yes)
            .filter_map(|(id, backend)| Some((*id, *ids.get(&backend.public?)?)))
            .collect();
        for (id, frontend) in wanted {
            let free = self.is_free(id, &self.backends[&id]);
            let shard = self.frontends[&frontend].shard;
            let backend = self.backend_mut(id);
            if free {
                backend.home = Some(shard);
            }
            if backend.home == Some(shard) {
                let frontend = self.frontends.get_mut(&frontend).expect("ids are taken from the map");
                frontend.declared = Declared::Yes;
                frontend.purpose = Purpose::Own(id);
                (frontend.reserved, frontend.ruled) = (BTreeSet::new(), BTreeSet::new());
            }
        }
    }

    /// In which shard alone a backend may get ports (M3): where it has something, or will have.
    pub(crate) fn tied_to(&self, id: BackendId, backend: &Backend) -> Option<ShardId> {
        if !self.is_free(id, backend) {
            return backend.home;
        }
        let address = backend.public?;
        let mut all = self.frontends.values().filter(|f| f.ip == address);
        all.find(|f| f.purpose == Purpose::Own(id) && f.declared == Declared::Yes).map(|f| f.shard)
    }

    /// Addresses whose backend is not to have them any more begin to drain.
    pub(crate) fn part_with_addresses(&mut self, with: &Settle<'_>) {
        let lost: Vec<(BackendId, FrontendId)> = self
            .backends
            .iter()
            .filter_map(|(id, b)| Some((*id, b.own.filter(|own| !self.is_to_have(*id, *own))?)))
            .collect();
        for (id, frontend) in lost {
            self.backend_mut(id).own = None;
            for block in PortBlock::whole(frontend) {
                let on_reclaim = OnReclaim::Keep;
                self.drains.insert(block, Drain { backend: id, reclaim_index: with.index, on_reclaim });
            }
        }
    }

    /// Gives an address to the backend that is to have it, if nobody else has anything there.
    pub(crate) fn give_address(&mut self, id: FrontendId) {
        let Some(frontend) = self.frontends.get(&id) else { return };
        let Purpose::Own(to) = frontend.purpose else { return };
        let shard = frontend.shard;
        let there: Vec<(PortBlock, BackendId)> =
            self.drains.range(blocks_on(id)).map(|(block, drain)| (*block, drain.backend)).collect();
        let free = self.places.bound_count(id) == 0 && there.iter().all(|(_, of)| *of == to);
        if !self.is_to_have(to, id) || !free || self.backends.get(&to).is_none_or(|b| b.home != Some(shard)) {
            return;
        }
        for (block, _) in there {
            self.drains.remove(&block);
            self.places.drained(to);
        }
        self.backend_mut(to).own = Some(id);
        self.places.bind(to, id);
    }

    /// Whether this very backend is to have the address.
    fn is_to_have(&self, id: BackendId, frontend: FrontendId) -> bool {
        let wanted = self.backends.get(&id).is_some_and(|b| b.declared == Declared::Yes);
        let frontend = self.frontends.get(&frontend);
        wanted && frontend.is_some_and(|f| f.purpose == Purpose::Own(id) && f.declared == Declared::Yes)
    }

    /// Whether nothing ties a backend to its home: it may live in any shard (M3).
    pub(crate) fn is_free(&self, id: BackendId, backend: &Backend) -> bool {
        backend.frontend.is_none() && backend.own.is_none() && !self.places.drains(id)
    }
}
