//! What each backend is granted: so many ports, on one of these frontends, under which right (S3–S5, S11). By what is
//! declared and where frontends are; the one place that says it, whoever serves backends. Pure; asked by `allocation` and
//! `reclaim`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;

use engine::ids::{FrontendId, ShardId};
use engine::snapshot::OnReclaim;

use crate::census::Census;
use crate::default_outbound::ways::{Granting, SetCensus};
use crate::holdings::{Backend, Declared, Frontend, Purpose};
use crate::inbound::reach::Shores;
use crate::resource::{self, Desired, Outbound, PoolRef};
use crate::tier;

/// What the configuration grants one backend.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) ports: u16,
    /// Ascending by id; of one shard alone, if the backend is reached there (M3).
    pub(crate) frontends: Vec<FrontendId>,
    pub(crate) on_reclaim: OnReclaim,
    pub(crate) granting: Granting,
}

impl Grant {
    const fn none(granting: Granting) -> Self {
        Self { ports: 0, frontends: Vec::new(), on_reclaim: OnReclaim::Expire, granting }
    }

    /// What becomes of flows on what is taken back; of those of who is granted nothing they end at once.
    pub(crate) fn on_reclaim_if_any(&self) -> OnReclaim {
        if self.ports > 0 { self.on_reclaim } else { OnReclaim::Expire }
    }

    pub(crate) fn has(&self, frontend: FrontendId) -> bool {
        self.frontends.binary_search(&frontend).is_ok()
    }
}

/// How many ports each backend is to have, by the size of its pool or its set (D2).
pub(crate) struct Sizes {
    pools: Census,
    pub(crate) sets: SetCensus,
}

impl Sizes {
    pub(crate) fn of(desired: &Desired) -> Self {
        Self { pools: Census::of(desired), sets: SetCensus::of(desired) }
    }

    pub(crate) fn ports(&self, desired: &Desired, grants: &Grants<'_>, backend: &Backend) -> u16 {
        let instances = match (backend.declared, backend.granting, &backend.pool) {
            (Declared::Yes, Granting::Pool, Some(pool)) => self.pools.of_pool(pool).0,
            (Declared::Yes, Granting::Default, _) if !grants.system.is_empty() => {
                self.sets.of_sharers(&desired.sharers_of(&backend.instance)).instances
            }
            _ => return 0,
        };
        tier::ports_per_backend(instances).unwrap_or(0)
    }
}

/// What all backends are granted; those of one pool, and those of system addresses, have the same, which is found once.
pub(crate) struct Grants<'a> {
    desired: &'a Desired,
    shores: Shores<'a>,
    /// Declared frontends by address, and where they are.
    declared: BTreeMap<Ipv4Addr, FrontendId>,
    shards: BTreeMap<FrontendId, ShardId>,
    /// Declared ones that are the system's, ascending.
    system: Vec<FrontendId>,
    pools: BTreeMap<PoolRef, Rc<Grant>>,
    defaults: BTreeMap<(u16, Option<ShardId>), Rc<Grant>>,
}

impl<'a> Grants<'a> {
    pub(crate) fn new(desired: &'a Desired, frontends: &BTreeMap<FrontendId, Frontend>) -> Self {
        let declared = || frontends.iter().filter(|(_, frontend)| frontend.declared == Declared::Yes);
        let system = declared().filter(|(_, frontend)| frontend.purpose == Purpose::System);
        Self {
            desired,
            shores: Shores::of(desired, frontends),
            declared: declared().map(|(id, frontend)| (frontend.ip, *id)).collect(),
            shards: declared().map(|(id, frontend)| (*id, frontend.shard)).collect(),
            system: system.map(|(id, _)| *id).collect(),
            pools: BTreeMap::new(),
            defaults: BTreeMap::new(),
        }
    }

    /// Where backends are reached by rules.
    pub(crate) fn shores(&self) -> &Shores<'a> {
        &self.shores
    }

    /// The shard in which rules lead to a backend.
    pub(crate) fn shore_of(&self, backend: &Backend) -> Option<ShardId> {
        self.shores.of_backend(backend)
    }

    /// The system's addresses.
    pub(crate) fn system(&self) -> &[FrontendId] {
        &self.system
    }

    /// What a backend is granted, which is to have `Backend::grant` ports.
    pub(crate) fn of(&mut self, backend: &Backend) -> Rc<Grant> {
        let within = self.shores.of_backend(backend);
        match (backend.declared, backend.granting, &backend.pool) {
            (Declared::Yes, Granting::Pool, Some(pool)) => match self.pools.get(pool) {
                Some(found) => Rc::clone(found),
                None => {
                    let grant = Rc::new(self.of_pool(pool, backend.grant, within));
                    self.pools.insert(pool.clone(), Rc::clone(&grant));
                    grant
                }
            },
            (Declared::Yes, Granting::Default, _) => {
                let (system, shards) = (&self.system, &self.shards);
                let near = |id: &FrontendId| within.is_none_or(|only| shards.get(id) == Some(&only));
                let find = || {
                    let frontends = system.iter().copied().filter(near).collect();
                    Rc::new(Grant { ports: backend.grant, frontends, ..Grant::none(Granting::Default) })
                };
                Rc::clone(self.defaults.entry((backend.grant, within)).or_insert_with(find))
            }
            (_, granting, _) => Rc::new(Grant::none(granting)),
        }
    }

    fn of_pool(&self, pool: &PoolRef, ports: u16, within: Option<ShardId>) -> Grant {
        let Some(outbound) = self.desired.outbound_of(pool) else { return Grant::none(Granting::Pool) };
        let publics = outbound.frontends.iter().filter_map(|name| self.desired.public_ips.get(*name));
        let known = publics.filter_map(|public| self.declared.get(&public.address).copied());
        let near = |id: &FrontendId| within.is_none_or(|only| self.shards.get(id) == Some(&only));
        let mut frontends: Vec<FrontendId> = known.filter(near).collect();
        frontends.sort_unstable();
        Grant { ports, frontends, on_reclaim: on_reclaim(&outbound), granting: Granting::Pool }
    }
}

fn on_reclaim(outbound: &Outbound<'_>) -> OnReclaim {
    match outbound.on_reclaim() {
        resource::OnReclaim::Expire => OnReclaim::Expire,
        resource::OnReclaim::Drain => OnReclaim::Drain,
        resource::OnReclaim::Reset => OnReclaim::Reset,
    }
}
