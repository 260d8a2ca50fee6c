//! How many there are in each pool: by that a pool has its tier. Pure; asked by whoever grants, plans, shows or judges pools.

use std::collections::{BTreeMap, BTreeSet};

use crate::resource::{Desired, PoolRef};

/// Members of all pools, counted once: instances (they pick the tier, D2) and IP configurations (each has a grant).
#[derive(Debug, Default)]
pub(crate) struct Census(BTreeMap<PoolRef, (usize, usize)>);

impl Census {
    pub(crate) fn of(desired: &Desired) -> Self {
        let mut counts: BTreeMap<PoolRef, (usize, usize)> = BTreeMap::new();
        for instance in desired.instances.values() {
            let mut pools = BTreeSet::new();
            for pool in instance.ip_configurations.iter().filter_map(|ip| ip.pool.as_ref()) {
                let count = counts.entry(pool.clone()).or_default();
                count.1 += 1;
                count.0 += usize::from(pools.insert(pool));
            }
        }
        Self(counts)
    }

    /// (instances, IP configurations) of a pool.
    pub(crate) fn of_pool(&self, pool: &PoolRef) -> (usize, usize) {
        self.0.get(pool).copied().unwrap_or_default()
    }
}
