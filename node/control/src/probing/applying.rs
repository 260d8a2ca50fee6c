//! Takes what owners report of the health of backends, and forgets whom nobody asks any more. A part of `apply` and
//! `configure`.

use engine::ids::BackendId;

use super::bounds::CHANGES_MAX;
use super::health::{Committed, HealthChange};
use super::machines::is_asked_by_its_own;
use super::model::ProbeRef;
use crate::allocation::{Allocation, Declared};
use crate::inbound::model::{InboundRule, Target};
use crate::refusal::{Refusal, count};
use crate::resource::{Desired, PoolRef};
use crate::state::State;

/// Whether a probe is to ask a backend: some rule with it leads to the backend's pool, or it is the backend's machine's own.
fn asks(desired: &Desired, allocation: &Allocation, probe: &ProbeRef, id: BackendId) -> bool {
    let Some(backend) = allocation.backends.get(&id).filter(|backend| backend.declared == Declared::Yes) else {
        return false;
    };
    match probe {
        ProbeRef::LoadBalancer { load_balancer, probe } => {
            let of_it = |pool: &&PoolRef| pool.load_balancer == *load_balancer;
            let Some(pool) = backend.pool.as_ref().filter(of_it) else { return false };
            let rules =
                desired.load_balancers.get(load_balancer).map(|balancer| balancer.load_balancing_rules.values());
            let leads = |rule: &InboundRule| matches!(&rule.target, Target::Pool(to) if *to == pool.pool);
            rules.into_iter().flatten().any(|rule| rule.probe.as_ref() == Some(probe) && leads(rule))
        }
        ProbeRef::Instance(name) => backend.instance == *name && is_asked_by_its_own(desired, backend),
    }
}

impl State {
    /// Forgets whom nobody asks any more.
    pub(crate) fn forget_health(&mut self) {
        let Self { healths, desired, allocation, .. } = self;
        for (probe, of) in &mut healths.probes {
            of.backends.retain(|id, _| asks(desired, allocation, probe, *id));
        }
        healths.probes.retain(|_, of| !of.backends.is_empty());
    }

    /// Takes what owners have found. What is not asked for any more, or was said in an earlier term, is left out.
    pub(crate) fn health_changed(&mut self, stamped_unix_ms: u64, changes: &[HealthChange]) -> Result<(), Refusal> {
        if changes.len() > CHANGES_MAX {
            return Err(Refusal::TooManyHealthChanges { count: count(changes.len()) });
        }
        for change in changes {
            let HealthChange { probe, backend, health, shard, term } = change;
            if !asks(&self.desired, &self.allocation, probe, *backend) {
                continue;
            }
            let before = self.healths.of(probe, *backend).copied();
            if before.is_some_and(|before| before.shard == *shard && before.term > *term) {
                continue;
            }
            let since_unix_ms = match before {
                Some(before) if before.health == *health => before.since_unix_ms,
                Some(_) | None => stamped_unix_ms,
            };
            let committed = Committed { health: *health, since_unix_ms, shard: *shard, term: *term };
            let of = self.healths.probes.entry(probe.clone()).or_default();
            of.backends.insert(*backend, committed);
            of.changed = self.index;
        }
        Ok(())
    }
}
