//! Machines, the instances of a file, with a probe of their own: it asks the primary address, and what it finds is said of each
//! of the machine's addresses.
//!
//! A view of what is declared and of who has which id. Pure. Used by `applying`, `checking`, `compiling`, `rows` and
//! `concerns`.

use std::collections::BTreeMap;

use engine::ids::BackendId;
use engine::probes::Health;

use super::model::{Probe, ProbeRef};
use crate::allocation::{Backend, Declared};
use crate::resource::Desired;
use crate::state::State;

/// Whether a backend is the primary address of a machine that has a probe of its own.
pub(super) fn is_asked_by_its_own(desired: &Desired, backend: &Backend) -> bool {
    let machine = desired.instances.get(&backend.instance).filter(|instance| instance.probe.is_some());
    machine.and_then(|machine| machine.primary()).is_some_and(|primary| primary.name == backend.ip_configuration)
}

/// The declared probes of machines, in the order of their names.
pub(super) fn declared(desired: &Desired) -> impl Iterator<Item = (&String, &Probe)> {
    desired.instances.iter().filter_map(|(name, instance)| Some((name, instance.probe.as_ref()?)))
}

/// Those machines by name, and the backend that is asked of each.
pub(super) struct Machines<'a> {
    primaries: BTreeMap<&'a str, BackendId>,
}

impl<'a> Machines<'a> {
    pub(super) fn of(state: &'a State) -> Self {
        let mut primaries = BTreeMap::new();
        // Most clusters have none, and are not looked through.
        if declared(&state.desired).next().is_some() {
            let asked = state.allocation.backends.iter().filter(|(_, backend)| {
                backend.declared == Declared::Yes && is_asked_by_its_own(&state.desired, backend)
            });
            primaries.extend(asked.map(|(id, backend)| (backend.instance.as_str(), *id)));
        }
        Self { primaries }
    }

    /// The backend that is asked of a machine, if it has a probe.
    pub(super) fn asked(&self, instance: &str) -> Option<BackendId> {
        self.primaries.get(instance).copied()
    }

    /// All of them, with what is committed of each.
    pub(super) fn found(&self, state: &State) -> impl Iterator<Item = (&'a str, Option<Health>)> {
        self.primaries.iter().map(|(name, id)| {
            let committed = state.healths.of(&ProbeRef::Instance((*name).to_owned()), *id);
            (*name, committed.map(|committed| committed.health))
        })
    }
}
