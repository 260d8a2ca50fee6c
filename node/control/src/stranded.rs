//! Backends that a configuration leaves without an address in the shard which their flows tie them to (M3). A new address of theirs
//! comes to that shard, so that who replaces an address cuts nobody off. Called by `configure`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use engine::ids::ShardId;

use crate::allocation::{Allocation, Declared};
use crate::default_outbound::ways::Granting;
use crate::resource::{Desired, PoolRef};

/// How many of a pool are stranded in each shard.
type Counts = BTreeMap<ShardId, usize>;

/// To which shards new addresses come for their sake, after backends and the frontends that stay were declared: each to the one
/// where most are stranded, who are so no longer then.
pub(crate) fn places<'a>(
    allocation: &Allocation,
    desired: &Desired,
    new: impl Iterator<Item = &'a Ipv4Addr>,
) -> BTreeMap<Ipv4Addr, ShardId> {
    let mut stranded = tied(allocation);
    let declared = allocation.frontends.values().filter(|frontend| frontend.declared == Declared::Yes);
    let shards: BTreeMap<Ipv4Addr, ShardId> = declared.map(|frontend| (frontend.ip, frontend.shard)).collect();
    let mut users: BTreeMap<Ipv4Addr, Vec<&PoolRef>> = BTreeMap::new();
    for (pool, counts) in &mut stranded {
        let Some(outbound) = desired.outbound_of(pool) else { continue };
        for public in outbound.frontends.iter().filter_map(|name| desired.public_ips.get(*name)) {
            match shards.get(&public.address) {
                Some(shard) => drop(counts.remove(shard)),
                None => users.entry(public.address).or_default().push(pool),
            }
        }
    }
    let mut places = BTreeMap::new();
    for ip in new {
        let Some(users) = users.get(ip) else { continue };
        let mut all = Counts::new();
        for (shard, count) in users.iter().filter_map(|pool| stranded.get(pool)).flatten() {
            *all.entry(*shard).or_default() += count;
        }
        let Some((shard, _)) = all.into_iter().rev().max_by_key(|(_, count)| *count) else { continue };
        places.insert(*ip, shard);
        for pool in users {
            stranded.get_mut(pool).and_then(|counts| counts.remove(&shard));
        }
    }
    places
}

/// Backends that are granted ports by their pools and have something in a shard.
fn tied(allocation: &Allocation) -> BTreeMap<&PoolRef, Counts> {
    let mut tied: BTreeMap<&PoolRef, Counts> = BTreeMap::new();
    let granted = |declared, granting| declared == Declared::Yes && granting == Granting::Pool;
    for (id, backend) in allocation.backends.iter().filter(|(_, b)| granted(b.declared, b.granting)) {
        if let (Some(pool), Some(home)) = (&backend.pool, backend.home)
            && !allocation.is_free(*id, backend)
        {
            *tied.entry(pool).or_default().entry(home).or_default() += 1;
        }
    }
    tied
}
