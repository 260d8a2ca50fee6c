//! A backend that leaves by another right than before (S5): its new flows leave by that at once, if its home shard has an
//! address of that kind (M3), and those that are there keep what they have until they close (D12). What they stand on
//! drains, and the drain waits for them, but no longer than any drain if somebody else waits for it. Called by `allocation`
//! and `reclaim`.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use engine::ids::{BackendId, FrontendId, PortBlock};
use engine::snapshot::OnReclaim;

use crate::allocation::Allocation;
use crate::default_outbound::ways::Granting;
use crate::grants::Grant;
use crate::holdings::{Backend, Declared, Drain, Purpose};
use crate::resource::Desired;

impl Allocation {
    /// What becomes of a backend's flows on ports that are taken from its lease.
    pub(crate) fn fate(&self, backend: &Backend, grant: &Grant) -> OnReclaim {
        let purpose = backend.frontend.and_then(|frontend| self.frontends.get(&frontend)).map(|f| f.purpose);
        match (backend.declared, purpose, grant.granting) {
            (Declared::Yes, Some(Purpose::System), Granting::Pool | Granting::Nothing | Granting::Barred) => {
                OnReclaim::Keep
            }
            (Declared::Yes, Some(Purpose::Shared), Granting::Default) if grant.ports > 0 => OnReclaim::Keep,
            // It has an address of its own instead.
            (Declared::Yes, Some(Purpose::Shared), Granting::Nothing) => OnReclaim::Keep,
            // The address is not the system's any more.
            (Declared::Yes, Some(Purpose::System), Granting::Default) if !self.has(backend, grant) => OnReclaim::Drain,
            _ => grant.on_reclaim_if_any(),
        }
    }

    fn has(&self, backend: &Backend, grant: &Grant) -> bool {
        backend.frontend.is_some_and(|frontend| grant.has(frontend))
    }

    /// A backend that is granted ports, but no more on its frontend, gets them elsewhere at once: what it has there ties it to
    /// its shard (M3), and new flows need not wait for old ones to end.
    pub(crate) fn leave_frontend(&mut self, id: BackendId, grant: &Grant) {
        let backend = &self.backends[&id];
        if grant.ports > 0 && backend.lease.is_empty() && !self.has(backend, grant) {
            self.backend_mut(id).frontend = None;
        }
    }

    /// The address that a backend shares with others of its set.
    pub(crate) fn address_of_set(&self, backend: &Backend, grant: &Grant, desired: &Desired) -> Option<FrontendId> {
        let is_default = grant.granting == Granting::Default;
        let address = || self.sets.get(&desired.sharers_of(&backend.instance)).copied();
        is_default.then(address).flatten().filter(|frontend| grant.has(*frontend))
    }

    /// Drains that wait for ever do so no longer than there is a reason to: their backend is there, and nobody else is to
    /// have what they stand on.
    pub(crate) fn hasten_unwanted(&mut self, desired: &Desired) {
        let there: BTreeSet<Ipv4Addr> = desired.public_ips.values().map(|public| public.address).collect();
        for (block, drain) in &mut self.drains {
            let frontend = &self.frontends[&block.frontend];
            let whole = PortBlock::whole(block.frontend).contains(block);
            let nobody_s = match (frontend.purpose, frontend.declared) {
                (Purpose::Own(_), Declared::Yes) => false,
                (Purpose::Own(_), Declared::No) => there.contains(&frontend.ip),
                (Purpose::Shared | Purpose::System, declared) => {
                    declared == Declared::Yes && !whole && !frontend.rules_within(*block)
                }
            };
            let may_stay = self.backends.get(&drain.backend).is_some_and(|b| b.declared == Declared::Yes) && nobody_s;
            if drain.on_reclaim == OnReclaim::Keep && !may_stay {
                drain.on_reclaim = OnReclaim::Drain;
            }
        }
    }

    /// Of these backends, those that get no ports in the shard where their former flows tie them (M3) wait for these no
    /// longer than a drain does. Returns the frontends where that is news.
    pub(crate) fn hasten_stuck(&mut self, ids: impl Iterator<Item = BackendId>) -> BTreeSet<FrontendId> {
        let is_stuck = |id: &BackendId| {
            let waits = |b: &Backend| b.grant > 0 && b.frontend.is_none() && b.own.is_none();
            self.places.drains(*id) && self.backends.get(id).is_some_and(waits)
        };
        let stuck: BTreeSet<BackendId> = ids.filter(is_stuck).collect();
        let mut news = BTreeSet::new();
        if stuck.is_empty() {
            return news;
        }
        let kept = |drain: &Drain| drain.on_reclaim == OnReclaim::Keep && stuck.contains(&drain.backend);
        for (block, drain) in self.drains.iter_mut().filter(|(_, drain)| kept(drain)) {
            drain.on_reclaim = OnReclaim::Drain;
            news.insert(block.frontend);
        }
        news
    }
}
