//! By which frontends backends are reached, and what follows from it: which ports of a frontend are no grant's (W3), which
//! frontends belong into one shard, and in which shard the members of a pool live (M3).
//!
//! A view of what is declared. Used by `validate`, `configure`, `allocation` and `compiling`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine::ids::{FrontendId, ShardId};

use super::model::{InboundRule, Target};
use crate::holdings::{Backend, Frontend};
use crate::resource::{AdminState, Desired, IpConfiguration, PoolRef};

/// All inbound rules: the load balancer's name, the table and the rule's name, and the rule.
pub(crate) fn rules(desired: &Desired) -> impl Iterator<Item = (&String, (&'static str, &String), &InboundRule)> {
    let balancers = desired.load_balancers.iter();
    balancers.flat_map(|(name, balancer)| balancer.inbound().map(move |(at, rule)| (name, at, rule)))
}

/// The IP configuration that a rule leads to.
pub(crate) fn ip_configuration<'a>(desired: &'a Desired, instance: &str, name: &str) -> Option<&'a IpConfiguration> {
    desired.instances.get(instance)?.ip_configurations.iter().find(|ip| ip.name == name)
}

/// Whether a backend gets new flows by the rules of its pool, as an operator says.
pub(crate) fn admin_state(desired: &Desired, backend: &Backend) -> AdminState {
    let declared = ip_configuration(desired, &backend.instance, &backend.ip_configuration);
    declared.map_or(AdminState::None, |ip| ip.admin_state)
}

/// By which public addresses pools and IP configurations are reached.
#[derive(Debug, Default)]
pub(crate) struct Reach<'a> {
    pools: BTreeMap<PoolRef, BTreeSet<Ipv4Addr>>,
    /// By instance and IP configuration; those in no pool.
    alone: BTreeMap<&'a str, BTreeMap<&'a str, BTreeSet<Ipv4Addr>>>,
}

impl<'a> Reach<'a> {
    pub(crate) fn of(desired: &'a Desired) -> Self {
        let mut reach = Self::default();
        for (balancer, _, rule) in rules(desired) {
            let Some(public) = desired.public_ips.get(&rule.frontend) else { continue };
            let pool = match &rule.target {
                Target::Pool(pool) => Some(PoolRef { load_balancer: balancer.clone(), pool: pool.clone() }),
                Target::IpConfiguration { instance, ip_configuration: name } => {
                    // All of its pool live where it lives.
                    let ip = ip_configuration(desired, instance, name);
                    if ip.is_some_and(|ip| ip.pool.is_none()) {
                        let of = reach.alone.entry(instance).or_default().entry(name);
                        of.or_default().insert(public.address);
                    }
                    ip.and_then(|ip| ip.pool.clone())
                }
            };
            if let Some(pool) = pool {
                reach.pools.entry(pool).or_default().insert(public.address);
            }
        }
        reach
    }

    /// By which addresses the members of a pool are reached.
    pub(crate) fn of_pool(&self, pool: &PoolRef) -> Option<&BTreeSet<Ipv4Addr>> {
        self.pools.get(pool)
    }

    /// By which a backend is reached.
    fn of_backend(&self, backend: &Backend) -> Option<&BTreeSet<Ipv4Addr>> {
        match &backend.pool {
            Some(pool) => self.pools.get(pool),
            None => self.alone.get(backend.instance.as_str())?.get(backend.ip_configuration.as_str()),
        }
    }

    /// Pools and IP configurations with all the addresses of each.
    pub(crate) fn all(&self) -> impl Iterator<Item = &BTreeSet<Ipv4Addr>> {
        self.pools.values().chain(self.alone.values().flat_map(BTreeMap::values))
    }

    /// Addresses that belong into one shard, since the same backends are reached by them (M3); each in one set.
    pub(crate) fn kin(&self) -> Vec<BTreeSet<Ipv4Addr>> {
        let mut kin: Vec<BTreeSet<Ipv4Addr>> = Vec::new();
        for addresses in self.all() {
            let (mut joined, apart): (Vec<_>, Vec<_>) = kin.into_iter().partition(|set| !set.is_disjoint(addresses));
            let mut set = addresses.clone();
            joined.iter_mut().for_each(|other| set.append(other));
            kin = apart;
            kin.push(set);
        }
        kin
    }
}

/// In which shards backends are reached, by what is declared and where its frontends are.
#[derive(Debug)]
pub(crate) struct Shores<'a> {
    reach: Reach<'a>,
    shards: BTreeMap<Ipv4Addr, ShardId>,
}

impl<'a> Shores<'a> {
    pub(crate) fn of(desired: &'a Desired, frontends: &BTreeMap<FrontendId, Frontend>) -> Self {
        let reach = Reach::of(desired);
        let shards = match reach.all().next() {
            None => BTreeMap::new(),
            Some(_) => frontends.values().map(|frontend| (frontend.ip, frontend.shard)).collect(),
        };
        Self { reach, shards }
    }

    fn shard(&self, addresses: Option<&BTreeSet<Ipv4Addr>>) -> Option<ShardId> {
        addresses?.iter().find_map(|address| self.shards.get(address)).copied()
    }

    /// The shard in which a backend lives, if rules lead to it: that of all members of its pool.
    pub(crate) fn of_backend(&self, backend: &Backend) -> Option<ShardId> {
        self.shard(self.reach.of_backend(backend))
    }
}

/// What rules take of a frontend.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Taken {
    /// Ports that can otherwise be granted.
    pub(crate) ports: BTreeSet<u16>,
    /// Every one.
    pub(crate) whole: bool,
}

/// What rules take, by the name of the public address.
pub(crate) fn taken(desired: &Desired) -> BTreeMap<&str, Taken> {
    let mut taken: BTreeMap<&str, Taken> = BTreeMap::new();
    for (_, _, rule) in rules(desired) {
        let of = taken.entry(&rule.frontend).or_default();
        of.whole |= rule.is_for_all_ports();
        if rule.frontend_port >= crate::tier::PORT_MIN {
            of.ports.insert(rule.frontend_port);
        }
    }
    taken
}
