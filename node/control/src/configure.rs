//! What a configuration does to the state (a part of `apply`): what cannot be is refused first, then networks, frontends and
//! backends are declared, leases settled, and new shards placed. A walk over all of it, whatever it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine::ids::{BackendId, FrontendId, Incarnation, NodeId, ShardId, VnetId};
use words::level;

use crate::allocation::{Backend, Declared, Frontend, Purpose};
use crate::command::{Command, Configure};
use crate::default_outbound::ways::Granting;
use crate::inbound::reach::{Reach, Taken, taken};
use crate::limits::{BACKENDS_MAX, HINTS_MAX};
use crate::nsg::service_tags::ServiceTags;
use crate::refusal::{Refusal, count};
use crate::resource::{Desired, Instance, IpConfiguration};
use crate::shards::{Load, Shard, lowest_free_id, placement};
use crate::state::State;
use crate::{plan, stranded, validate};

impl State {
    /// Replaces the declared configuration; nothing has changed if that is refused.
    pub(crate) fn configure(&mut self, command: &Command, configure: &Configure) -> Result<(), Refusal> {
        let desired = &configure.desired;
        if !validate::issues(desired).is_empty() {
            return Err(Refusal::ConfigurationInvalid {});
        }
        if configure.hints.len() > HINTS_MAX {
            return Err(Refusal::TooManyHints { count: count(configure.hints.len()) });
        }
        if let Some(hash) = configure.base_hash
            && hash != plan::hash(self, desired)
        {
            return Err(Refusal::PlanOutdated {});
        }
        self.refuse_impossible(desired)?;
        self.parts = None;
        self.desired = desired.clone();
        self.name_networks();
        self.declare_backends();
        self.declare_frontends();
        self.settle(command, &configure.hints);
        self.forget_health();
        Ok(())
    }

    /// Replaces the prefixes of service tags; rules that name them are compiled anew, so it counts as a walk over everything.
    pub(crate) fn set_service_tags(&mut self, command: &Command, tags: &ServiceTags) -> Result<(), Refusal> {
        if tags.issue().is_some() {
            return Err(Refusal::ServiceTagsInvalid {});
        }
        if tags.version <= self.tags.version {
            return Err(Refusal::ServiceTagsNotNewer { version: tags.version, newest: self.tags.version });
        }
        self.tags = tags.clone();
        self.settle(command, &[]);
        Ok(())
    }

    /// What the running state does not allow. Everything that can fail is here, before anything changes.
    fn refuse_impossible(&self, desired: &Desired) -> Result<(), Refusal> {
        let (old, new) = (&self.desired.settings, &desired.settings);
        let timing = |s: &crate::resource::Settings| (s.tick_ms, s.heartbeat_ticks, s.vote_ticks);
        if timing(old) != timing(new) && !self.shards.is_empty() {
            // E1, L1: V is one value for all; a lease of the old length would outlive a vote of the new one.
            let (tick_ms, heartbeat_ticks, vote_ticks) = timing(old);
            return Err(Refusal::TimingFixed { tick_ms, heartbeat_ticks, vote_ticks });
        }
        let known: BTreeMap<Ipv4Addr, FrontendId> =
            self.allocation.frontends.iter().map(|(id, frontend)| (frontend.ip, *id)).collect();
        for public in desired.public_ips.values() {
            let Some(id) = known.get(&public.address) else { continue };
            let frontend = &self.allocation.frontends[id];
            let added: BTreeSet<u16> = public.reserved_ports.difference(&frontend.reserved).copied().collect();
            if let Some((port, backend)) = self.allocation.user_of(*id, &added) {
                return Err(Refusal::ReservedPortInUse { port, address: public.address, backend });
            }
        }
        self.refuse_rules(desired, &known)?;
        self.refuse_too_many_backends(desired)?;
        self.refuse_own_addresses(desired)?;
        if !desired.default_outbound.addresses.is_empty() && self.level < level::SYSTEM_ADDRESSES {
            return Err(Refusal::LevelTooLow { level: self.level, needs: level::SYSTEM_ADDRESSES });
        }
        let mut wanted = frontend_addresses(desired);
        let own = desired.own_addresses().map(|(public, _)| public.address);
        wanted.extend(own.chain(desired.default_outbound.all()).map(|address| (address, Ports::default())));
        let leaving = self.allocation.frontends.values().filter(|f| !wanted.contains_key(&f.ip)).count();
        if wanted.len() + leaving > validate::FRONTENDS_MAX {
            return Err(Refusal::TooManyFrontends { declared: count(wanted.len()), leaving: count(leaving) });
        }
        Ok(())
    }

    /// A frontend stays in its shard (M3), and one with grants takes no rule for all ports.
    fn refuse_rules(&self, desired: &Desired, known: &BTreeMap<Ipv4Addr, FrontendId>) -> Result<(), Refusal> {
        for kin in Reach::of(desired).kin() {
            let shard = |ip: &Ipv4Addr| known.get(ip).map(|id| (*ip, self.allocation.frontends[id].shard));
            let mut there = kin.iter().filter_map(shard);
            if let Some((one, first)) = there.next()
                && let Some((other, _)) = there.find(|(_, shard)| *shard != first)
            {
                return Err(Refusal::RulesLinkShards { one, other });
            }
        }
        for (name, _) in taken(desired).into_iter().filter(|(_, taken)| taken.whole) {
            let public = desired.public_ips.get(name).and_then(|ip| known.get_key_value(&ip.address));
            if let Some((address, _)) = public.filter(|(_, id)| self.allocation.in_use(**id)) {
                return Err(Refusal::AllPortsOfGranting { address: *address });
            }
        }
        Ok(())
    }

    /// Those that are gone count as long as their blocks drain.
    fn refuse_too_many_backends(&self, desired: &Desired) -> Result<(), Refusal> {
        let addresses = || desired.instances.values().flat_map(|instance| &instance.ip_configurations);
        let (old, new) = (self.allocation.backends.len(), addresses().count());
        if old + new <= BACKENDS_MAX {
            return Ok(());
        }
        let known: BTreeSet<(&str, Ipv4Addr)> =
            addresses().map(|ip| (ip.virtual_network.as_str(), ip.private_ip)).collect();
        let names: BTreeMap<VnetId, &str> = self.vnets.iter().map(|(name, id)| (*id, name.as_str())).collect();
        let stays = |b: &&Backend| names.get(&b.vnet).is_some_and(|name| known.contains(&(*name, b.ip)));
        let leaving = old - self.allocation.backends.values().filter(stays).count();
        if new + leaving > BACKENDS_MAX {
            return Err(Refusal::TooManyBackends { declared: count(new), leaving: count(leaving) });
        }
        Ok(())
    }

    /// What is an IP configuration's own has to be in the shard where its pool's ports are (M3).
    fn refuse_own_addresses(&self, desired: &Desired) -> Result<(), Refusal> {
        let mut own = desired.own_addresses().peekable();
        if own.peek().is_some() && self.level < level::OWN_ADDRESSES {
            return Err(Refusal::LevelTooLow { level: self.level, needs: level::OWN_ADDRESSES });
        }
        let reach = Reach::of(desired);
        let shards: BTreeMap<Ipv4Addr, ShardId> = self.allocation.frontends.values().map(|f| (f.ip, f.shard)).collect();
        let homes: BTreeMap<(VnetId, Ipv4Addr), (BackendId, ShardId)> = self
            .allocation
            .backends
            .iter()
            .filter_map(|(id, b)| Some(((b.vnet, b.ip), (*id, self.allocation.frontends[&b.own?].shard))))
            .collect();
        for (public, ip) in own {
            let place = self.vnets.get(&ip.virtual_network).and_then(|vnet| homes.get(&(*vnet, ip.private_ip)));
            let (Some((backend, home)), Some(pool)) = (place, &ip.pool) else { continue };
            let Some(outbound) = desired.outbound_of(pool) else { continue };
            let there = |ip: &Ipv4Addr| shards.get(ip) == Some(home);
            let publics = outbound.frontends.iter().filter_map(|name| desired.public_ips.get(*name));
            let reached = reach.of_pool(pool).is_none_or(|all| all.iter().all(there));
            let apart = !reached || !publics.into_iter().any(|frontend| there(&frontend.address));
            if there(&public.address) && apart {
                return Err(Refusal::OwnAddressElsewhere { backend: *backend, address: public.address });
            }
        }
        Ok(())
    }

    fn name_networks(&mut self) {
        self.vnets.retain(|name, _| self.desired.virtual_networks.contains_key(name));
        for name in self.desired.virtual_networks.keys() {
            if !self.vnets.contains_key(name) {
                self.last_vnet = VnetId(self.last_vnet.0 + 1);
                self.vnets.insert(name.clone(), self.last_vnet);
            }
        }
    }

    fn declare_frontends(&mut self) {
        let mut wanted = frontend_addresses(&self.desired);
        let mut system: BTreeSet<Ipv4Addr> = self.desired.default_outbound.all().collect();
        for frontend in self.allocation.frontends.values_mut() {
            let purpose = if system.remove(&frontend.ip) { Purpose::System } else { Purpose::Shared };
            match wanted.remove(&frontend.ip).or_else(|| (purpose == Purpose::System).then(Ports::default)) {
                Some(ports) => {
                    frontend.declared = Declared::Yes;
                    frontend.purpose = purpose;
                    (frontend.reserved, frontend.ruled) = (ports.reserved, ports.ruled);
                }
                None => frontend.declared = Declared::No,
            }
        }
        self.allocation.declare_own();
        let mut crowds = self.crowds();
        let kin = Reach::of(&self.desired).kin();
        let stranded = stranded::places(&self.allocation, &self.desired, wanted.keys());
        for (ip, ports) in wanted {
            let place = self.shard_of_kin(&kin, ip).or_else(|| stranded.get(&ip).copied());
            let place = place.or_else(|| self.shard_without(Purpose::Shared));
            let shard = place.unwrap_or_else(|| self.shard_of_a_new_frontend(&mut crowds));
            self.add_frontend(ip, shard, Purpose::Shared, ports);
        }
        self.add_system_addresses(system);
    }

    /// Whoever changes between a pool and the system's addresses stays in its shard as long as it has flows (M3): so there are both in
    /// each, as far as they go round. System addresses begin shards only where there are none.
    fn add_system_addresses(&mut self, new: BTreeSet<Ipv4Addr>) {
        let begins = self.shards.is_empty();
        let mut crowds = self.crowds();
        for ip in new {
            let shard = match begins {
                true => self.shard_of_a_new_frontend(&mut crowds),
                false => self.shard_with_fewest_system_addresses().expect("there are shards"),
            };
            self.add_frontend(ip, shard, Purpose::System, Ports::default());
        }
    }

    fn shard_with_fewest_system_addresses(&self) -> Option<ShardId> {
        let mut counts: BTreeMap<ShardId, usize> = self.shards.keys().map(|id| (*id, 0)).collect();
        for frontend in self.allocation.frontends.values().filter(|f| f.purpose == Purpose::System) {
            *counts.entry(frontend.shard).or_default() += 1;
        }
        counts.into_iter().min_by_key(|(id, count)| (*count, *id)).map(|(id, _)| id)
    }

    /// The first shard that has a system address, and no frontend of this purpose.
    fn shard_without(&self, purpose: Purpose) -> Option<ShardId> {
        let of = |purpose| -> BTreeSet<ShardId> {
            let frontends = self.allocation.frontends.values().filter(|f| f.purpose == purpose);
            frontends.map(|frontend| frontend.shard).collect()
        };
        of(Purpose::System).difference(&of(purpose)).next().copied()
    }

    /// The shard of those by which the same backends are reached, if one of them is there already.
    fn shard_of_kin(&self, kin: &[BTreeSet<Ipv4Addr>], ip: Ipv4Addr) -> Option<ShardId> {
        let set = kin.iter().find(|set| set.contains(&ip))?;
        self.allocation.frontends.values().find(|frontend| set.contains(&frontend.ip)).map(|frontend| frontend.shard)
    }

    fn add_frontend(&mut self, ip: Ipv4Addr, shard: ShardId, purpose: Purpose, ports: Ports) {
        let id = FrontendId(self.allocation.last_frontend.0 + 1);
        self.allocation.last_frontend = id;
        let Ports { reserved, ruled } = ports;
        let (declared, idle_since_unix_ms) = (Declared::Yes, None);
        let frontend = Frontend { ip, shard, purpose, reserved, ruled, declared, idle_since_unix_ms };
        self.allocation.frontends.insert(id, frontend);
    }

    /// Own addresses that are nowhere yet come to the home shards of their backends (M3). Returns whether there were any.
    pub(crate) fn add_own_addresses(&mut self) -> bool {
        let there: BTreeSet<Ipv4Addr> = self.allocation.frontends.values().map(|frontend| frontend.ip).collect();
        let backends = self.allocation.backends.iter().filter(|(_, backend)| backend.declared == Declared::Yes);
        let new = backends.filter_map(|(id, backend)| Some((*id, backend.public?, backend.home)));
        let new: Vec<_> = new.filter(|(_, ip, _)| !there.contains(ip)).collect();
        let mut crowds = self.crowds();
        for (id, ip, home) in &new {
            let shard = home.unwrap_or_else(|| self.shard_of_a_new_frontend(&mut crowds));
            self.allocation.backend_mut(*id).home = Some(shard);
            self.add_frontend(*ip, shard, Purpose::Own(*id), Ports::default());
        }
        !new.is_empty()
    }

    /// How many frontends each shard has, and to how many backends it is home.
    fn crowds(&self) -> BTreeMap<ShardId, (usize, usize)> {
        let mut crowds: BTreeMap<ShardId, (usize, usize)> = self.shards.keys().map(|id| (*id, (0, 0))).collect();
        for frontend in self.allocation.frontends.values() {
            crowds.entry(frontend.shard).or_default().0 += 1;
        }
        for home in self.allocation.backends.values().filter_map(|backend| backend.home) {
            crowds.entry(home).or_default().1 += 1;
        }
        crowds
    }

    /// See [`Frontend::shard`].
    fn shard_of_a_new_frontend(&mut self, crowds: &mut BTreeMap<ShardId, (usize, usize)>) -> ShardId {
        let most = usize::try_from(self.desired.settings.shards_max).unwrap_or(usize::MAX);
        let least_crowded = crowds.iter().min_by_key(|(id, crowd)| (**crowd, **id)).map(|(id, _)| *id);
        let shard = match least_crowded.filter(|_| self.shards.len() >= most) {
            Some(shard) => shard,
            None => {
                let shard = lowest_free_id(&self.shards, &self.free_shards).expect("more ids than shards there may be");
                let epoch = self.free_shards.remove(&shard).unwrap_or(0);
                self.shards.insert(shard, Shard { epoch, ..Shard::unplaced(self.index) });
                shard
            }
        };
        crowds.entry(shard).or_default().0 += 1;
        shard
    }

    fn declare_backends(&mut self) {
        let mut by_address: BTreeMap<(VnetId, Ipv4Addr), BackendId> = BTreeMap::new();
        for (id, backend) in &mut self.allocation.backends {
            backend.declared = Declared::No;
            by_address.insert((backend.vnet, backend.ip), *id);
        }
        let each = |(name, instance): (&'_ String, &'_ Instance)| -> Vec<(String, IpConfiguration)> {
            instance.ip_configurations.iter().map(|ip| (name.clone(), ip.clone())).collect()
        };
        let wanted: Vec<(String, IpConfiguration)> = self.desired.instances.iter().flat_map(each).collect();
        for (instance, ip) in wanted {
            let (vnet, granting) = (self.vnets[&ip.virtual_network], self.desired.granting_of(&ip));
            let id = *by_address.entry((vnet, ip.private_ip)).or_insert_with(|| {
                self.allocation.last_backend = BackendId(self.allocation.last_backend.0 + 1);
                self.allocation.last_backend
            });
            let backend = self.allocation.backends.entry(id).or_insert_with(|| Backend {
                vnet,
                ip: ip.private_ip,
                mac: None,
                instance: String::new(),
                ip_configuration: String::new(),
                pool: None,
                granting: Granting::Nothing,
                public: None,
                own: None,
                declared: Declared::Yes,
                home: None,
                frontend: None,
                lease: Vec::new(),
                grant: 0,
            });
            backend.declared = Declared::Yes;
            backend.mac = ip.mac;
            backend.instance = instance;
            backend.ip_configuration = ip.name;
            backend.pool = ip.pool;
            backend.granting = granting;
            let public = ip.public_ip.and_then(|name| self.desired.public_ips.get(&name));
            backend.public = public.map(|public| public.address);
        }
    }

    /// Founds new shards on the nodes that are registered; `reconcile` extends them to later ones.
    pub(crate) fn place_new_shards(&mut self) {
        let nodes: BTreeSet<NodeId> = self.registry.eligible().map(|(node, _)| node).collect();
        let replicas = self.replicas_wanted();
        let mut load = Load::of(&self.registry, self.shards.values());
        for shard in self.shards.values_mut().filter(|shard| shard.members.is_empty()) {
            let chosen = placement(&mut load, &nodes, replicas);
            let lives: Vec<Incarnation> = chosen.iter().filter_map(|node| self.registry.newest(*node)).collect();
            if !lives.is_empty() {
                shard.set_members(self.index, lives).expect("a shard that is not placed takes any members");
            }
        }
    }
}

/// Ports of a frontend that are no backend's.
#[derive(Default)]
struct Ports {
    reserved: BTreeSet<u16>,
    ruled: BTreeSet<u16>,
}

/// Addresses that are a frontend of some load balancer, with the ports that nobody is given.
fn frontend_addresses(desired: &Desired) -> BTreeMap<Ipv4Addr, Ports> {
    let mut taken = taken(desired);
    let names = desired.load_balancers.values().flat_map(|balancer| &balancer.frontends);
    let ports = |name: &String| {
        let public = desired.public_ips.get(name)?;
        let Taken { ports: ruled, .. } = taken.remove(name.as_str()).unwrap_or_default();
        Some((public.address, Ports { reserved: public.reserved_ports.clone(), ruled }))
    };
    names.filter_map(ports).collect()
}
