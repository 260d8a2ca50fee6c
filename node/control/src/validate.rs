//! Whether a declared configuration makes sense by itself: references, addresses, bounds.
//!
//! Looks at nothing but the [`Desired`]; what depends on the running state is judged in `apply`. Reports every issue it
//! finds, bounded, each with the field, its value and what would be right. Called by `config` for files and by `apply`,
//! since a proposer is not trusted to have checked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use engine::ids::Mac;
use engine::snapshot::SHORT_IDLE_PORTS_MAX;

use crate::census::Census;
use crate::inbound::reach::{Taken, taken};
pub use crate::issues::{ISSUES_MAX, Issue, NAME_LEN_MAX};
use crate::issues::{Judge, names};
pub use crate::resource::CLUSTER_SHARDS_MAX;
use crate::resource::{
    AdminState, Desired, Filtering, Instance, IpConfiguration, LoadBalancer, PoolRef, Prefix, Profile, Settings,
    Sharing, VirtualNetwork,
};
use crate::tier;
use crate::{default_outbound, inbound, nsg, probing, role};

/// Most frontends of a cluster, those on their way out too. They share shards: [`CLUSTER_SHARDS_MAX`].
pub const FRONTENDS_MAX: usize = 1_024;
// Ids start at 1 and index tables.
const _: () = assert!(CLUSTER_SHARDS_MAX < engine::ids::SHARDS_MAX as u32);
/// Most IP configurations of a cluster.
pub const IP_CONFIGURATIONS_MAX: usize = 32_768;
/// Most virtual networks.
pub const VIRTUAL_NETWORKS_MAX: usize = 256;
/// Most subnets of all virtual networks.
pub const SUBNETS_MAX: usize = 1_024;
/// Most prefixes in the address space of a virtual network.
pub const ADDRESS_SPACE_MAX: usize = 16;
/// Most names of frontends in all outbound rules together; a rule without any uses all of its load balancer.
pub const RULE_FRONTENDS_MAX: usize = 16_384;
/// Most public addresses, those without a load balancer too.
pub const PUBLIC_IPS_MAX: usize = FRONTENDS_MAX + 256;
/// Most reserved ports of a public address.
pub const RESERVED_PORTS_MAX: usize = 1_024;
/// Most pools of all load balancers; each has at most one outbound rule.
pub const POOLS_MAX: usize = 1_024;
/// Smallest segment size that may be asked for: what every IPv4 host takes whole (RFC 9293 3.7.1).
pub const MSS_FLOOR: u16 = 536;
/// Most replicas of a shard.
pub const REPLICAS_MAX: u32 = 7;

/// All issues of a configuration, at most [`ISSUES_MAX`]; empty means it can be applied.
#[must_use]
pub fn issues(desired: &Desired) -> Vec<Issue> {
    let mut judge = Judge::default();
    judge.networks(desired);
    judge.outside(desired);
    judge.public_ips(desired);
    judge.load_balancers(desired);
    judge.instances(desired);
    judge.own_addresses(desired);
    role::check(&mut judge, desired);
    judge.pools(desired);
    default_outbound::checking::check(&mut judge, desired);
    inbound::checking::check(&mut judge, desired);
    probing::checking::check(&mut judge, desired);
    nsg::checking::check(&mut judge, desired);
    judge.settings(&desired.settings);
    judge.issues
}

impl Judge {
    fn networks(&mut self, desired: &Desired) {
        if desired.virtual_networks.len() > VIRTUAL_NETWORKS_MAX {
            let count = desired.virtual_networks.len();
            self.say("virtual_network", count, "too many virtual networks", format!("at most {VIRTUAL_NETWORKS_MAX}"));
            return;
        }
        let subnets = desired.virtual_networks.values().map(|network| network.subnets.len()).sum::<usize>();
        if subnets > SUBNETS_MAX {
            self.say("subnet", subnets, "too many subnets", format!("at most {SUBNETS_MAX}"));
            return;
        }
        for (name, network) in &desired.virtual_networks {
            let path = format!("virtual_network.{name}");
            self.name(&format!("{path}.name"), name);
            self.network(&path, network);
        }
    }

    fn network(&mut self, path: &str, network: &VirtualNetwork) {
        let spaces = network.address_space.len();
        if spaces > ADDRESS_SPACE_MAX {
            let remedy = format!("at most {ADDRESS_SPACE_MAX}: join those that lie side by side");
            self.say(&format!("{path}.address_space"), spaces, "too many prefixes", remedy);
        }
        for space in network.address_space.iter().take(ADDRESS_SPACE_MAX) {
            self.prefix(&format!("{path}.address_space"), *space, 1..=32);
        }
        // Those of other networks may be the same (D14).
        let mut seen: Vec<(Prefix, String)> = Vec::new();
        for (name, subnet) in &network.subnets {
            let path = format!("{path}.subnet.{name}");
            self.name(&format!("{path}.name"), name);
            let (field, prefix) = (format!("{path}.prefix"), subnet.prefix);
            if !self.prefix(&field, prefix, 8..=29) {
                continue;
            }
            let inside = |s: &Prefix| s.len <= prefix.len && s.contains(prefix.network);
            if !network.address_space.is_empty() && !network.address_space.iter().any(inside) {
                self.say(
                    &field,
                    prefix,
                    "lies outside its virtual network's address_space",
                    "extend address_space or choose a prefix inside it",
                );
            }
            if let Some((other, owner)) = seen.iter().find(|(p, _)| p.overlaps(prefix)) {
                let problem = format!("overlaps {other} of {owner}");
                self.say(&field, prefix, problem, "choose disjoint prefixes, or put it into another virtual network");
            }
            seen.push((prefix, path.clone()));
            let gateway = subnet.gateway;
            if !is_host(prefix, gateway) {
                self.say(
                    &format!("{path}.gateway"),
                    gateway,
                    format!("is no host address of {prefix}"),
                    format!("use for example {}", Ipv4Addr::from_bits(prefix.network.to_bits() + 1)),
                );
            }
        }
    }

    fn outside(&mut self, desired: &Desired) {
        let network = desired.outside.network;
        if !self.prefix("outside.network", network, 1..=32) {
            return;
        }
        if let Some((path, prefix)) = subnets(desired).find(|(_, p)| p.overlaps(network) && network.len < 32) {
            self.say("outside.network", network, format!("overlaps {prefix} of {path}"), "use disjoint networks");
        }
        if let Some(hop) = desired.outside.next_hop
            && !is_host(network, hop)
        {
            let problem = format!("is no host address of outside.network {network}");
            self.say("outside.next_hop", hop, problem, "the next hop must be on-link");
        }
    }

    fn public_ips(&mut self, desired: &Desired) {
        let count = desired.public_ips.len();
        if count > PUBLIC_IPS_MAX {
            self.say("public_ip", count, "too many public addresses", format!("at most {PUBLIC_IPS_MAX}"));
            return;
        }
        let mut seen: BTreeMap<Ipv4Addr, &str> = BTreeMap::new();
        for (name, public) in &desired.public_ips {
            let (path, ip) = (format!("public_ip.{name}"), public.address);
            self.name(&format!("{path}.name"), name);
            let field = format!("{path}.address");
            let first = ip.octets()[0];
            if ip.is_loopback() || ip.is_link_local() || first == 0 || first >= 224 {
                self.say(&field, ip, "is no unicast address", "use an address that the outside routes to this cluster");
            }
            if let Some((subnet, prefix)) = subnets(desired).find(|(_, p)| p.contains(ip)) {
                let problem = format!("lies inside the private range {prefix} of {subnet}");
                self.say(&field, ip, problem, "use an address outside every subnet");
            }
            let net = desired.outside.network;
            if net.len < 31 && (ip == net.network || ip == net.broadcast()) {
                let problem = format!("is the network or broadcast address of outside.network {net}");
                self.say(&field, ip, problem, "use a host address");
            }
            if desired.outside.next_hop == Some(ip) {
                self.say(&field, ip, "is outside.next_hop", "use an address that no other machine has");
            }
            if let Some(other) = seen.insert(ip, name) {
                let problem = format!("is already the address of public_ip.{other}");
                self.say(&field, ip, problem, "give each public_ip its own address");
            }
            let reserved = public.reserved_ports.len();
            if reserved > RESERVED_PORTS_MAX {
                let path = format!("{path}.reserved_ports");
                self.say(&path, reserved, "too many reserved ports", format!("at most {RESERVED_PORTS_MAX}"));
            }
            if let Some(low) = public.reserved_ports.iter().find(|&&port| port < tier::PORT_MIN) {
                let path = format!("{path}.reserved_ports");
                self.say(&path, low, "is below 1024 and never handed out anyway", "leave it out");
            }
        }
    }

    fn load_balancers(&mut self, desired: &Desired) {
        let pools = desired.load_balancers.values().map(|balancer| balancer.pools.len()).sum::<usize>();
        if pools > POOLS_MAX {
            self.say("load_balancer.pool", pools, "too many pools in the cluster", format!("at most {POOLS_MAX}"));
            return;
        }
        let mut users: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, balancer) in &desired.load_balancers {
            let path = format!("load_balancer.{name}");
            self.name(&format!("{path}.name"), name);
            let field = format!("{path}.frontends");
            if balancer.frontends.is_empty() {
                self.say(&field, "[]", "a load balancer needs a frontend", "list at least one public_ip");
            }
            for frontend in &balancer.frontends {
                if !desired.public_ips.contains_key(frontend) {
                    let known = names(desired.public_ips.keys());
                    self.say(&field, frontend, "is no public_ip", format!("declare it, or use one of: {known}"));
                }
                match users.insert(frontend, name) {
                    Some(other) if other == name => {
                        self.say(&field, frontend, "is listed twice", "list it once");
                    }
                    Some(other) => {
                        let problem = format!("is already a frontend of load_balancer.{other}");
                        self.say(&field, frontend, problem, "a public_ip belongs to one load balancer");
                    }
                    None => {}
                }
            }
            for pool in &balancer.pools {
                self.name(&format!("{path}.pool.{pool}.name"), pool);
            }
            self.rules(&path, balancer);
        }
        if users.len() > FRONTENDS_MAX {
            let problem = "too many frontends in the cluster";
            self.say("load_balancer", users.len(), problem, format!("at most {FRONTENDS_MAX}"));
        }
        let rules = desired.load_balancers.values().flat_map(|balancer| balancer.outbound_rules.values());
        let named = rules.map(|rule| rule.frontends.len()).sum::<usize>();
        if named > RULE_FRONTENDS_MAX {
            let remedy = format!("at most {RULE_FRONTENDS_MAX}: a rule without any uses all of its load balancer");
            self.say("load_balancer.outbound_rule.frontends", named, "too many names in all rules together", remedy);
        }
    }

    fn rules(&mut self, path: &str, balancer: &LoadBalancer) {
        let mut linked: BTreeMap<&str, &str> = BTreeMap::new();
        let own: BTreeSet<&String> = balancer.frontends.iter().collect();
        for (name, rule) in &balancer.outbound_rules {
            let path = format!("{path}.outbound_rule.{name}");
            self.name(&format!("{path}.name"), name);
            let field = format!("{path}.pool");
            if !balancer.pools.contains(&rule.pool) {
                let known = names(balancer.pools.iter());
                let problem = "is no pool of this load balancer";
                self.say(&field, &rule.pool, problem, format!("declare it, or use one of: {known}"));
            }
            if let Some(other) = linked.insert(&rule.pool, name) {
                let problem = format!("already has the outbound rule {other}");
                self.say(&field, &rule.pool, problem, "keep one outbound rule per pool");
            }
            let field = format!("{path}.frontends");
            let mut seen = BTreeSet::new();
            for frontend in &rule.frontends {
                if !own.contains(frontend) {
                    let known = names(balancer.frontends.iter());
                    let problem = "is no frontend of this load balancer";
                    self.say(&field, frontend, problem, format!("use one of: {known}"));
                }
                if !seen.insert(frontend) {
                    self.say(&field, frontend, "is listed twice", "list it once");
                }
            }
            if rule.profile == Profile::Rfc && rule.sharing == Sharing::Address {
                let problem = "is for the profile azure: rfc has one port per inside endpoint";
                self.say(&format!("{path}.sharing"), "2017", problem, "leave it out");
            }
            if rule.profile == Profile::Azure && rule.filtering != Filtering::default() {
                let problem = "is for the profile rfc: in azure only the remote of a flow may answer";
                self.say(&format!("{path}.filtering"), "endpoint_independent", problem, "leave it out");
            }
            let minutes = rule.idle_timeout_minutes;
            if !(4..=100).contains(&minutes) {
                let path = format!("{path}.idle_timeout_minutes");
                self.say(&path, minutes, "is out of range", "use 4 to 100 minutes");
            }
        }
    }

    fn instances(&mut self, desired: &Desired) {
        let mut addresses: BTreeMap<(&str, Ipv4Addr), String> = BTreeMap::new();
        let count = desired.instances.values().map(|instance| instance.ip_configurations.len()).sum::<usize>();
        if count > IP_CONFIGURATIONS_MAX {
            let problem = "too many IP configurations in the cluster";
            self.say("instance", count, problem, format!("at most {IP_CONFIGURATIONS_MAX}"));
            return;
        }
        for (name, instance) in &desired.instances {
            let path = format!("instance.{name}");
            self.name(&format!("{path}.name"), name);
            self.instance(desired, &path, instance, &mut addresses);
        }
    }

    fn instance<'a>(
        &mut self,
        desired: &'a Desired,
        path: &str,
        instance: &'a Instance,
        addresses: &mut BTreeMap<(&'a str, Ipv4Addr), String>,
    ) {
        if instance.ip_configurations.is_empty() {
            let field = format!("{path}.ip_configuration");
            self.say(&field, "[]", "an instance needs an address", "add an ip_configuration");
        }
        let mut seen = BTreeSet::new();
        for ip in &instance.ip_configurations {
            let path = format!("{path}.ip_configuration.{}", ip.name);
            self.name(&format!("{path}.name"), &ip.name);
            if !seen.insert(&ip.name) {
                let problem = "is used twice in this instance";
                self.say(&format!("{path}.name"), &ip.name, problem, "give each ip_configuration its own name");
            }
            self.address(desired, &path, ip);
            if let Some(other) = addresses.insert((&ip.virtual_network, ip.private_ip), path.clone()) {
                let problem = format!("is already the address of {other}");
                self.say(&format!("{path}.private_ip"), ip.private_ip, problem, "use a free address of the subnet");
            }
        }
    }

    fn address(&mut self, desired: &Desired, path: &str, ip: &IpConfiguration) {
        let network = desired.virtual_networks.get(&ip.virtual_network);
        let written = format!("{}/{}", ip.virtual_network, ip.subnet);
        match network.and_then(|n| n.subnets.get(&ip.subnet)) {
            None => {
                let known = names(subnets(desired).map(|(name, _)| name).collect::<Vec<_>>().iter());
                self.say(&format!("{path}.subnet"), written, "does not exist", format!("use one of: {known}"));
            }
            Some(subnet) => {
                let (field, address) = (format!("{path}.private_ip"), ip.private_ip);
                if !is_host(subnet.prefix, address) {
                    let problem = format!("is no host address of subnet {written}, {}", subnet.prefix);
                    self.say(&field, address, problem, "use an address of that subnet, or name the right subnet");
                } else if address == subnet.gateway {
                    let problem = format!("is the gateway of subnet {written}");
                    self.say(&field, address, problem, "use another address");
                }
            }
        }
        if let Some(mac) = ip.mac.filter(|mac| *mac == Mac::default() || mac.0[0] & 1 == 1 || mac.shard().is_some()) {
            let problem = "is no address of a network card: it is zero, a group's, or a shard's";
            self.say(&format!("{path}.mac"), mac, problem, "use that of the instance, or leave it out");
        }
        if let Some(pool) = &ip.pool
            && !desired.load_balancers.get(&pool.load_balancer).is_some_and(|b| b.pools.contains(&pool.pool))
        {
            let all =
                |(lb, b): (&String, &LoadBalancer)| b.pools.iter().map(|p| format!("{lb}/{p}")).collect::<Vec<_>>();
            let known = names(desired.load_balancers.iter().flat_map(all).collect::<Vec<_>>().iter());
            self.say(&format!("{path}.pool"), pool, "is no pool", format!("use one of: {known}"));
        }
        if ip.admin_state != AdminState::None && ip.pool.is_none() {
            let problem = "says which new flows of a pool it gets, and it is in none";
            self.say(&format!("{path}.admin_state"), ip.admin_state.label(), problem, "name its pool, or leave it out");
        }
    }

    /// S2: an own address is of one IP configuration, and of no load balancer.
    fn own_addresses(&mut self, desired: &Desired) {
        let balanced: BTreeMap<&String, &String> = desired
            .load_balancers
            .iter()
            .flat_map(|(name, balancer)| balancer.frontends.iter().map(move |frontend| (frontend, name)))
            .collect();
        let mut users: BTreeMap<&str, String> = BTreeMap::new();
        for (instance, ip) in
            desired.instances.iter().flat_map(|(name, i)| i.ip_configurations.iter().map(move |ip| (name, ip)))
        {
            let Some(name) = &ip.public_ip else { continue };
            let owner = format!("instance.{instance}.ip_configuration.{}", ip.name);
            let field = format!("{owner}.public_ip");
            match desired.public_ips.get(name) {
                None => {
                    let known = names(desired.public_ips.keys().filter(|name| !balanced.contains_key(name)));
                    self.say(&field, name, "is no public_ip", format!("declare it, or use one of: {known}"));
                }
                Some(public) if !public.reserved_ports.is_empty() => {
                    let remedy = "leave them out, or give the instance another public_ip";
                    self.say(&field, name, "has reserved_ports, and an own address has all its ports", remedy);
                }
                Some(_) => {}
            }
            if let Some(balancer) = balanced.get(name) {
                let problem = format!("is a frontend of load_balancer.{balancer}");
                self.say(&field, name, problem, "give the instance a public_ip that no load balancer has");
            }
            if let Some(other) = users.insert(name, owner) {
                let problem = format!("is already the address of {other}");
                self.say(&field, name, problem, "a public_ip is one ip_configuration's own");
            }
        }
        let all = balanced.len() + users.len() + desired.default_outbound.all().count();
        if all > FRONTENDS_MAX {
            let problem = "too many public addresses in use, of load balancers, of instances and of the system";
            self.say("public_ip", all, problem, format!("at most {FRONTENDS_MAX}"));
        }
    }

    /// D2: pool size; and whether the preallocations can fit at all, by pool and by load balancer.
    fn pools(&mut self, desired: &Desired) {
        let (census, taken) = (Census::of(desired), taken(desired));
        for (name, balancer) in &desired.load_balancers {
            let mut wanted_in_all = 0usize;
            // Of all its frontends, by the length of blocks.
            let mut of_all: BTreeMap<u16, usize> = BTreeMap::new();
            for pool in &balancer.pools {
                let reference = PoolRef { load_balancer: name.clone(), pool: pool.clone() };
                let (instances, addresses) = census.of_pool(&reference);
                let path = format!("load_balancer.{name}.pool.{pool}");
                let Some(ports) = tier::ports_per_backend(instances) else {
                    let problem = format!("has {instances} instances, more than {}", tier::POOL_INSTANCES_MAX);
                    self.say(&path, pool, problem, "split it into several pools");
                    continue;
                };
                let Some(outbound) = balancer.outbound_of(pool) else { continue };
                let wanted = addresses * usize::from(ports);
                wanted_in_all += wanted;
                let all = || balancer.frontends.iter();
                let there = match outbound.rule.is_some_and(|(_, rule)| rule.frontends.is_empty()) {
                    true => *of_all.entry(ports).or_insert_with(|| capacity(desired, &taken, all(), ports)),
                    false => capacity(desired, &taken, outbound.frontends.iter().copied(), ports),
                };
                if wanted > there {
                    let problem = format!("needs {wanted} ports, the frontends of its outbound rule have {there}");
                    self.say(&path, pool, problem, "add a frontend to its outbound rule");
                }
            }
            let there = capacity(desired, &taken, balancer.frontends.iter(), tier::BLOCK_LEN_MIN);
            if wanted_in_all > there {
                let path = format!("load_balancer.{name}.frontends");
                let problem = format!("its pools need {wanted_in_all} ports, its frontends have {there}");
                self.say(&path, balancer.frontends.len(), problem, "add a frontend");
            }
        }
    }

    fn settings(&mut self, settings: &Settings) {
        let mut within = |field: &str, value: u32, low: u32, high: u32| {
            if !(low..=high).contains(&value) {
                self.say(&format!("settings.{field}"), value, "is out of range", format!("use {low} to {high}"));
            }
        };
        within("tick_ms", settings.tick_ms, 1, 1_000);
        within("heartbeat_ticks", settings.heartbeat_ticks, 1, 100);
        within("vote_ticks", settings.vote_ticks, settings.heartbeat_ticks.saturating_mul(2).min(1_000), 1_000);
        within("orphan_grace_ms", settings.orphan_grace_ms, 0, 60_000);
        within("recreate_quarantine_ms", settings.recreate_quarantine_ms, 0, 600_000);
        for hold in settings.hold_ms {
            within("hold_ms", hold, 0, 600_000);
        }
        within("replicas", settings.replicas, 1, REPLICAS_MAX);
        within("shards_max", settings.shards_max, 1, CLUSTER_SHARDS_MAX);
        within("held_packets_per_backend_max", settings.held_packets_per_backend_max, 1, 65_536);
        within("held_bytes_max", settings.held_bytes_max, 1 << 16, 1 << 30);
        within("flows_per_shard_max", settings.flows_per_shard_max, 1 << 10, 1 << 28);
        within("flows_per_backend_max", settings.flows_per_backend_max, 1, 1 << 28);
        within("new_flows_per_second_max", settings.new_flows_per_second_max, 1, 1_000_000);
        if settings.mss_max != 0 {
            within("mss_max", settings.mss_max.into(), MSS_FLOOR.into(), 65_495);
        }
        let ports = &settings.short_idle_ports;
        if ports.len() > SHORT_IDLE_PORTS_MAX || ports.contains(&0) {
            let remedy = format!("list at most {SHORT_IDLE_PORTS_MAX} ports from 1 to 65535");
            self.say("settings.short_idle_ports", format!("{ports:?}"), "is no such list", remedy);
        }
    }
}

/// Ports of these frontends that can be cut into blocks of `len`.
fn capacity<'a>(
    desired: &Desired,
    taken: &BTreeMap<&str, Taken>,
    frontends: impl Iterator<Item = &'a String>,
    len: u16,
) -> usize {
    let (unit, none) = (usize::from(len), Taken::default());
    let of = |name: &String| {
        let (public, taken) = (desired.public_ips.get(name)?, taken.get(name.as_str()).unwrap_or(&none));
        let barred = public.reserved_ports.iter().chain(&taken.ports);
        let spoiled: BTreeSet<u16> = barred.map(|port| port / len).collect();
        let left = (usize::from(tier::PORTS_USABLE) / unit).saturating_sub(spoiled.len()) * unit;
        Some(if taken.whole { 0 } else { left })
    };
    frontends.filter_map(of).sum()
}

fn is_host(prefix: Prefix, ip: Ipv4Addr) -> bool {
    prefix.contains(ip) && !prefix.is_broadcast(ip)
}

fn subnets(desired: &Desired) -> impl Iterator<Item = (String, Prefix)> + '_ {
    desired
        .virtual_networks
        .iter()
        .flat_map(|(vnet, network)| network.subnets.iter().map(move |(name, s)| (format!("{vnet}/{name}"), s.prefix)))
}
