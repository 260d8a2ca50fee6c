//! Where backends and blocks are, found without a walk over all of them, so that an entry costs what it changes.
//!
//! Part of the state, and equal to what [`Places::of`] makes of the rest of it (checked by `State::check`). It must never
//! decide anything. Kept by `allocation`; read by `compile` and `port_log` too.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use bincode::{Decode, Encode};
use engine::ids::{BackendId, ControlIndex, FrontendId, PortBlock};

use crate::holdings::{Backend, Declared, Drain, Frontend};

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub(crate) struct Places {
    /// Backends that are bound to each frontend, or whose own it is; without empty sets.
    bound: BTreeMap<FrontendId, BTreeSet<BackendId>>,
    /// How many blocks of each backend drain; without zeros.
    draining: BTreeMap<BackendId, u32>,
    /// Backends that have fewer ports than their grant.
    waiting: BTreeSet<BackendId>,
    /// The last entry that may have changed the blocks of each frontend.
    changed: BTreeMap<FrontendId, ControlIndex>,
    /// The last entry by which all leases were settled: what it changed is not told apart.
    settled: ControlIndex,
}

impl Places {
    /// Found anew; every frontend counts as changed at `index`.
    pub(crate) fn of(
        frontends: &BTreeMap<FrontendId, Frontend>,
        backends: &BTreeMap<BackendId, Backend>,
        drains: &BTreeMap<PortBlock, Drain>,
        index: ControlIndex,
    ) -> Self {
        let mut places = Self { settled: index, ..Self::default() };
        for (id, backend) in backends {
            for frontend in backend.frontend.into_iter().chain(backend.own) {
                places.bind(*id, frontend);
            }
            places.judge(*id, backend);
        }
        for drain in drains.values() {
            places.drain(drain.backend);
        }
        places.changed = frontends.keys().map(|id| (*id, index)).collect();
        places
    }

    /// Whether the two differ in nothing but in when something changed.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        (&self.bound, &self.draining, &self.waiting) == (&other.bound, &other.draining, &other.waiting)
    }

    /// Backends that are bound to the frontend, ascending.
    pub(crate) fn bound_to(&self, frontend: FrontendId) -> impl Iterator<Item = BackendId> + '_ {
        self.bound.get(&frontend).into_iter().flatten().copied()
    }

    /// How many.
    pub(crate) fn bound_count(&self, frontend: FrontendId) -> u32 {
        self.bound.get(&frontend).map_or(0, |all| u32::try_from(all.len()).unwrap_or(u32::MAX))
    }

    /// Whether some block of the backend drains.
    pub(crate) fn drains(&self, backend: BackendId) -> bool {
        self.draining.contains_key(&backend)
    }

    /// Backends that have fewer ports than their grant, ascending.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = BackendId> + '_ {
        self.waiting.iter().copied()
    }

    /// Frontends whose blocks may have changed after the entry `since`, ascending.
    pub(crate) fn changed_since(&self, since: ControlIndex) -> impl Iterator<Item = FrontendId> + '_ {
        self.changed.iter().filter(move |(_, at)| **at > since).map(|(id, _)| *id)
    }

    /// The last entry that may have changed anything: configuration, frontends, backends and their blocks.
    pub(crate) const fn settled(&self) -> ControlIndex {
        self.settled
    }

    pub(crate) fn bind(&mut self, backend: BackendId, frontend: FrontendId) {
        self.bound.entry(frontend).or_default().insert(backend);
    }

    pub(crate) fn unbind(&mut self, backend: BackendId, frontend: FrontendId) {
        if let Some(all) = self.bound.get_mut(&frontend) {
            all.remove(&backend);
            if all.is_empty() {
                self.bound.remove(&frontend);
            }
        }
    }

    /// One more block of the backend drains.
    pub(crate) fn drain(&mut self, backend: BackendId) {
        *self.draining.entry(backend).or_default() += 1;
    }

    /// One block of the backend drains no longer.
    pub(crate) fn drained(&mut self, backend: BackendId) {
        let Some(left) = self.draining.get_mut(&backend) else { return };
        *left -= 1;
        if *left == 0 {
            self.draining.remove(&backend);
        }
    }

    /// Whether the backend waits for ports, as it is now.
    pub(crate) fn judge(&mut self, id: BackendId, backend: &Backend) {
        if backend.declared == Declared::Yes && backend.ports() < backend.grant {
            self.waiting.insert(id);
        } else {
            self.waiting.remove(&id);
        }
    }

    /// The backend is gone.
    pub(crate) fn forget(&mut self, backend: BackendId) {
        self.waiting.remove(&backend);
    }

    /// The blocks of the frontend may have changed.
    pub(crate) fn touch(&mut self, frontend: FrontendId, index: ControlIndex) {
        self.changed.insert(frontend, index);
    }
}

/// All blocks that there can be on a frontend, for a range in a map of blocks.
pub(crate) fn blocks_on(frontend: FrontendId) -> RangeInclusive<PortBlock> {
    PortBlock { frontend, start: 0, len: 0 }..=PortBlock { frontend, start: u16::MAX, len: u16::MAX }
}
