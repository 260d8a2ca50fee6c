//! Which system address each availability set has. Given when the set first needs one, and kept as long as the set and the
//! address are declared, so that a member that comes back to this way out finds the address again. Pure; called by
//! `allocation`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use engine::ids::{FrontendId, ShardId};

use super::ways::{Count, Granting, SetCensus, Sharers};
use crate::allocation::Allocation;
use crate::grants::Grants;
use crate::holdings::Declared;
use crate::resource::Desired;
use crate::tier;

impl Allocation {
    /// Gives each set that needs an address the one on which the fewest ports are promised, the largest sets first, in the
    /// shard in which its members have to live if some do (M3).
    pub(crate) fn assign_sets(&mut self, desired: &Desired, census: &SetCensus, grants: &Grants<'_>) {
        let system: BTreeSet<FrontendId> = grants.system().iter().copied().collect();
        let exists = |sharers: &Sharers| match sharers {
            Sharers::Set(name) => desired.availability_sets.contains(name),
            Sharers::Alone(name) => desired.instances.get(name).is_some_and(|i| i.availability_set.is_none()),
        };
        self.sets.retain(|sharers, frontend| system.contains(frontend) && exists(sharers));
        if system.is_empty() {
            return;
        }
        let mut promised: BTreeMap<FrontendId, u32> = system.iter().map(|id| (*id, 0)).collect();
        let wanted = |count: Count| {
            let each = tier::ports_per_backend(count.instances).unwrap_or(0);
            u32::try_from(count.defaulted).unwrap_or(u32::MAX).saturating_mul(each.into())
        };
        let mut without = Vec::new();
        for (sharers, count) in census.all().filter(|(_, count)| count.defaulted > 0) {
            match self.sets.get(sharers).and_then(|frontend| promised.get_mut(frontend)) {
                Some(all) => *all += wanted(count),
                None => without.push((Reverse(wanted(count)), sharers)),
            }
        }
        without.sort_unstable();
        let tied = if without.is_empty() { BTreeMap::new() } else { self.ties(desired, grants) };
        for (Reverse(wanted), sharers) in without {
            let home = tied.get(sharers).copied();
            let near = |id: &FrontendId| home.is_none_or(|home| self.frontends[id].shard == home);
            let fewest = |near: &dyn Fn(&FrontendId) -> bool| {
                promised.iter().filter(|(id, _)| near(id)).min_by_key(|(id, all)| (**all, **id)).map(|(id, _)| *id)
            };
            let Some(chosen) = fewest(&near).or_else(|| fewest(&|_| true)) else { return };
            *promised.entry(chosen).or_default() += wanted;
            self.sets.insert(sharers.clone(), chosen);
        }
    }

    /// In which shard members of sets have to live, by those of them who do: the first one's.
    fn ties(&self, desired: &Desired, grants: &Grants<'_>) -> BTreeMap<Sharers, ShardId> {
        let mut ties = BTreeMap::new();
        let defaulted = |declared, granting| declared == Declared::Yes && granting == Granting::Default;
        for (id, backend) in self.backends.iter().filter(|(_, b)| defaulted(b.declared, b.granting)) {
            let tied = grants.shore_of(backend).or_else(|| self.tied_to(*id, backend));
            if let Some(shard) = tied {
                ties.entry(desired.sharers_of(&backend.instance)).or_insert(shard);
            }
        }
        ties
    }
}
