//! What an operator declares: networks, public addresses, load balancers, instances, security groups (whose types are in `nsg`)
//! and settings, by name.
//!
//! A [`Desired`] is plain data in a normal form (maps sorted by name), so that equal configurations encode equally. It
//! carries no numeric id: those are assigned when it is applied. Must never depend on the running state. Made by
//! `config`, judged by `validate`, carried by `Command::Configure`, kept by `State`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use bincode::{Decode, Encode};
use engine::ids::Mac;
use serde::{Deserialize, Serialize, Serializer};
pub use words::Prefix;

pub use crate::default_outbound::model::DefaultOutbound;
use crate::inbound::model::{InboundRule, Target};
use crate::nsg::model::{Nic, SecurityGroup};
use crate::probing::model::Probe;

/// The whole declared configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct Desired {
    /// Virtual networks by name.
    pub virtual_networks: BTreeMap<String, VirtualNetwork>,
    /// Public addresses by name.
    pub public_ips: BTreeMap<String, PublicIp>,
    /// Load balancers by name.
    pub load_balancers: BTreeMap<String, LoadBalancer>,
    /// Instances by name.
    pub instances: BTreeMap<String, Instance>,
    /// Network interfaces by name.
    pub nics: BTreeMap<String, Nic>,
    /// Security groups by name.
    pub security_groups: BTreeMap<String, SecurityGroup>,
    /// Names of application security groups.
    pub application_security_groups: BTreeSet<String>,
    /// Names of availability sets.
    pub availability_sets: BTreeSet<String>,
    /// The addresses of those who have no other way out.
    pub default_outbound: DefaultOutbound,
    /// The network of the public addresses.
    pub outside: Outside,
    /// Cluster-wide parameters.
    pub settings: Settings,
}

/// A private address space.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct VirtualNetwork {
    /// Its address space; empty means: whatever its subnets hold.
    pub address_space: Vec<Prefix>,
    /// Subnets by name.
    pub subnets: BTreeMap<String, Subnet>,
    /// Networks whose instances are reached as those of this one are, if they name this one too.
    pub peerings: BTreeSet<String>,
    /// Space behind a gateway of this network.
    pub on_premises: Vec<Prefix>,
}

impl VirtualNetwork {
    /// Its address space: as declared, or what its subnets hold.
    pub fn space(&self) -> impl Iterator<Item = Prefix> + '_ {
        let subnets = self.subnets.values().map(|subnet| subnet.prefix).filter(|_| self.address_space.is_empty());
        self.address_space.iter().copied().chain(subnets)
    }
}

/// A subnet of a virtual network.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct Subnet {
    /// Its addresses.
    pub prefix: Prefix,
    /// The address that qnat answers ARP for.
    pub gateway: Ipv4Addr,
    /// The security group that judges all in it.
    pub security_group: Option<String>,
    /// Its hosts reach nobody but the gateway, which answers in the name of the others (S41).
    pub isolated: bool,
    /// Whether its instances may leave by a system address if they have nothing else (D11).
    pub default_outbound_access: bool,
}

/// A public address.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct PublicIp {
    /// The address.
    pub address: Ipv4Addr,
    /// Ports that are never handed out (D8): something else listens there.
    pub reserved_ports: BTreeSet<u16>,
}

/// A public load balancer: frontends, pools and the rules that link them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct LoadBalancer {
    /// Names of public addresses, in declared order.
    pub frontends: Vec<String>,
    /// Names of its backend pools.
    pub pools: BTreeSet<String>,
    /// Outbound rules by name.
    pub outbound_rules: BTreeMap<String, OutboundRule>,
    /// Load-balancing rules by name.
    pub load_balancing_rules: BTreeMap<String, InboundRule>,
    /// Inbound NAT rules by name.
    pub inbound_nat_rules: BTreeMap<String, InboundRule>,
    /// Health probes by name.
    pub probes: BTreeMap<String, Probe>,
}

/// How the members of a pool get out: by these frontends, as an outbound rule says, or, without one, as is usual (S3, D27).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outbound<'a> {
    /// Names of frontends that have ports to grant.
    pub frontends: Vec<&'a String>,
    /// The rule.
    pub rule: Option<(&'a String, &'a OutboundRule)>,
}

impl Outbound<'_> {
    /// What happens to flows on reclaimed ports.
    #[must_use]
    pub fn on_reclaim(&self) -> OnReclaim {
        self.rule.map_or(OnReclaim::default(), |(_, rule)| rule.on_reclaim)
    }
}

impl LoadBalancer {
    /// The outbound rule of a pool. At most one exists (checked by `validate`).
    #[must_use]
    pub fn rule_of(&self, pool: &str) -> Option<&OutboundRule> {
        self.outbound_rules.values().find(|rule| rule.pool == pool)
    }

    /// All inbound rules with their table and name.
    pub fn inbound(&self) -> impl Iterator<Item = ((&'static str, &String), &InboundRule)> {
        let balancing = self.load_balancing_rules.iter().map(|(name, rule)| (("load_balancing_rule", name), rule));
        balancing.chain(self.inbound_nat_rules.iter().map(|(name, rule)| (("inbound_nat_rule", name), rule)))
    }

    /// By what the rules that lead to a pool choose its members: names of probes, and `None` for what their machines' own say.
    #[must_use]
    pub fn probes_of(&self, pool: &str) -> BTreeSet<Option<&str>> {
        let leads = |rule: &&InboundRule| matches!(&rule.target, Target::Pool(to) if to == pool);
        self.load_balancing_rules.values().filter(leads).map(|rule| rule.probe.as_deref()).collect()
    }

    /// How the members of a pool get out; `None`: not by this load balancer, since no rule links it to a frontend. A
    /// load-balancing rule is enough, an outbound rule refines it (S3).
    #[must_use]
    pub fn outbound_of(&self, pool: &str) -> Option<Outbound<'_>> {
        if let Some((name, rule)) = self.outbound_rules.iter().find(|(_, rule)| rule.pool == pool) {
            return Some(Outbound { frontends: self.frontends_of(rule).iter().collect(), rule: Some((name, rule)) });
        }
        let leads = |rule: &&InboundRule| matches!(&rule.target, Target::Pool(to) if to == pool);
        let rules = self.load_balancing_rules.values().filter(leads);
        let granting: BTreeSet<&String> =
            rules.filter(|rule| !rule.is_for_all_ports()).map(|rule| &rule.frontend).collect();
        let frontends: Vec<&String> = granting.into_iter().collect();
        (!frontends.is_empty()).then_some(Outbound { frontends, rule: None })
    }

    /// The frontends that a rule may use: its own list, or all of the load balancer.
    #[must_use]
    pub fn frontends_of<'a>(&'a self, rule: &'a OutboundRule) -> &'a [String] {
        if rule.frontends.is_empty() { &self.frontends } else { &rule.frontends }
    }
}

/// Lets the members of a pool out through frontends (S3).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct OutboundRule {
    /// The pool, of the same load balancer.
    pub pool: String,
    /// Which of the load balancer's frontends; empty means all.
    pub frontends: Vec<String>,
    /// Idle timeout, 4..=100 minutes (S13, D7).
    pub idle_timeout_minutes: u8,
    /// Resets to both sides when a TCP flow goes idle.
    pub enable_tcp_reset: bool,
    /// Timers, and with `rfc` one public port per inside endpoint.
    pub profile: Profile,
    /// How flows share ports in the profile `azure`.
    pub sharing: Sharing,
    /// Who may answer in the profile `rfc`.
    pub filtering: Filtering,
    /// What happens to flows on reclaimed ports.
    pub on_reclaim: OnReclaim,
}

/// Translation profile of a rule (D7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// The rule's idle timeout and sharing; only the remote of a flow may answer.
    #[default]
    Azure,
    /// Timers of the RFCs (R14) and endpoint-independent mapping (R3).
    Rfc,
}

/// Which flows need ports of their own (S8, S9), by the year in which the product changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub enum Sharing {
    /// Those to the same remote address.
    #[serde(rename = "2017")]
    Address,
    /// Those to the same remote address, remote port and protocol.
    #[default]
    #[serde(rename = "2018")]
    Tuple,
}

/// What passes inwards in the profile `rfc` (R6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filtering {
    /// Packets of addresses that the inside endpoint has sent to.
    #[default]
    AddressDependent,
    /// All to a port in use.
    EndpointIndependent,
}

/// D5: flows on reclaimed ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReclaim {
    /// The mapping closes silently at once.
    #[default]
    Expire,
    /// The block waits until its flows end by themselves, at most four minutes.
    Drain,
    /// The mapping closes at once, and both ends of a connection get a reset.
    Reset,
}

/// A machine with one or more addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct Instance {
    /// Its addresses, the primary one first.
    pub ip_configurations: Vec<IpConfiguration>,
    /// A security group of the classic model, which judges all of its interfaces in the place of theirs.
    pub security_group: Option<String>,
    /// Name of the availability set that it is in: it shares a system address with the others of it (S4).
    pub availability_set: Option<String>,
    /// Its own probe, which asks its primary address: for rules that have none (S22).
    pub probe: Option<Probe>,
    /// Which role of a classic cloud service it is, if it is one.
    pub role: Option<Role>,
}

impl Instance {
    /// The address that is asked when the instance as a whole is meant. Each has one (checked by `validate`).
    #[must_use]
    pub fn primary(&self) -> Option<&IpConfiguration> {
        self.ip_configurations.first()
    }
}

/// Which role of a classic cloud service an instance is (S20).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It serves requests.
    Web,
    /// It works off what others leave to it.
    Worker,
}

impl Role {
    /// In a file.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Worker => "worker",
        }
    }
}

/// One private address of an instance.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct IpConfiguration {
    /// Name, unique in its instance.
    pub name: String,
    /// The virtual network.
    pub virtual_network: String,
    /// The subnet of that network.
    pub subnet: String,
    /// The address.
    pub private_ip: Ipv4Addr,
    /// Who alone may have it (I43); else whoever answers for it.
    #[serde(serialize_with = "as_text")]
    pub mac: Option<Mac>,
    /// The pool that it is a member of.
    pub pool: Option<PoolRef>,
    /// Whether it gets new flows by the rules of that pool.
    pub admin_state: AdminState,
    /// Name of the public address that is its own (S2); no load balancer has it.
    pub public_ip: Option<String>,
    /// The network interface that it belongs to; without one it has one of its own ([`Nic`]).
    pub nic: Option<String>,
}

/// Whether a member of a pool gets new flows by its rules. What it has it keeps either way, and its own flows outwards are its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// As the rule's probe says, or its machine's.
    #[default]
    None,
    /// Whatever probes say.
    Up,
    /// No: it drains.
    Down,
}

impl AdminState {
    /// As it is written.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

fn as_text<S: Serializer>(mac: &Option<Mac>, serializer: S) -> Result<S::Ok, S::Error> {
    mac.map(|mac| mac.to_string()).serialize(serializer)
}

/// A pool, written `load_balancer/pool`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct PoolRef {
    /// The load balancer.
    pub load_balancer: String,
    /// The pool.
    pub pool: String,
}

impl fmt::Display for PoolRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.load_balancer, self.pool)
    }
}

impl Serialize for PoolRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The network that the outside data interfaces are attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct Outside {
    /// Its addresses.
    pub network: Prefix,
    /// Next hop for everything that is not on-link; without it only on-link remotes are reachable.
    pub next_hop: Option<Ipv4Addr>,
}

impl Default for Outside {
    fn default() -> Self {
        Self { network: Prefix::NOWHERE, next_hop: None }
    }
}

/// Most shards of a cluster, each a flow group; what `settings.shards_max` may be.
pub const CLUSTER_SHARDS_MAX: u32 = 64;

/// Cluster-wide parameters.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct Settings {
    /// Length of a tick of the flow groups (E1).
    pub tick_ms: u32,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: u32,
    /// The vote timeout V in ticks.
    pub vote_ticks: u32,
    /// How long an ex-owner that knows no successor repeats committed mappings (L4).
    pub orphan_grace_ms: u32,
    /// Wait for new flows when an epoch had no survivor (N4).
    pub recreate_quarantine_ms: u32,
    /// Hold-downs in the order of `engine::record::HoldClass` (D6).
    pub hold_ms: [u32; engine::record::HOLDS_CONFIGURED],
    /// Replicas of each shard that the map tries to have.
    pub replicas: u32,
    /// Frontends have a shard each until there are so many; further ones share them. What is there stays when it is lowered.
    pub shards_max: u32,
    /// Held first packets per backend.
    pub held_packets_per_backend_max: u32,
    /// Bytes of all held packets of a worker.
    pub held_bytes_max: u32,
    /// Flows of one shard, live and held.
    pub flows_per_shard_max: u32,
    /// Flows of one backend, live and held (R21).
    pub flows_per_backend_max: u32,
    /// Flows that one backend may open per second, and at once (R21).
    pub new_flows_per_second_max: u32,
    /// Remote ports of UDP services whose flows end soon after their reply (D26).
    pub short_idle_ports: BTreeSet<u16>,
    /// Largest TCP segment that hosts on either side may offer to receive (R26); 0: as they say.
    pub mss_max: u16,
    /// Backends hear by ICMP of new flows that are refused (R23): 3/13 by policy, 3/1 by a quota or for want of ports.
    pub icmp_on_refusal: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tick_ms: 5,
            heartbeat_ticks: 3,
            vote_ticks: 10,
            orphan_grace_ms: 3_000,
            recreate_quarantine_ms: 65_000,
            hold_ms: [65_000, 16_000, 65_000, 65_000, 120_000],
            replicas: 3,
            shards_max: CLUSTER_SHARDS_MAX,
            held_packets_per_backend_max: 256,
            held_bytes_max: 16 << 20,
            flows_per_shard_max: 4 << 20,
            flows_per_backend_max: 1 << 20,
            new_flows_per_second_max: 100_000,
            short_idle_ports: BTreeSet::from([53, 123]),
            mss_max: 0,
            icmp_on_refusal: false,
        }
    }
}

impl Settings {
    /// The vote timeout V.
    #[must_use]
    pub fn vote_ms(&self) -> u32 {
        self.tick_ms.saturating_mul(self.vote_ticks)
    }

    /// The lease length, 0.8 V (L1), rounded up.
    #[must_use]
    pub fn lease_ms(&self) -> u32 {
        self.vote_ms().saturating_mul(4).div_ceil(5)
    }
}

impl Desired {
    /// The public addresses that are one IP configuration's own, and whose.
    pub fn own_addresses(&self) -> impl Iterator<Item = (&PublicIp, &IpConfiguration)> {
        let all = self.instances.values().flat_map(|instance| &instance.ip_configurations);
        all.filter_map(|ip| Some((self.public_ips.get(ip.public_ip.as_ref()?)?, ip)))
    }

    /// Whether it declares anything beside settings and the outside network.
    #[must_use]
    pub fn has_resources(&self) -> bool {
        let Self {
            virtual_networks,
            public_ips,
            load_balancers,
            instances,
            nics,
            security_groups,
            application_security_groups,
            availability_sets,
            default_outbound: _,
            outside: _,
            settings: _,
        } = self;
        let (routed, balanced) = (virtual_networks.len() + instances.len(), public_ips.len() + load_balancers.len());
        let named = application_security_groups.len() + availability_sets.len();
        routed + balanced + nics.len() + security_groups.len() + named > 0
    }

    /// The networks that a network is connected to: each names the other.
    pub fn connected<'a>(&'a self, network: &'a str) -> impl Iterator<Item = (&'a String, &'a VirtualNetwork)> {
        let peers = self.virtual_networks.get(network).into_iter().flat_map(|network| &network.peerings);
        let known = peers.filter_map(|name| self.virtual_networks.get_key_value(name));
        known.filter(move |(_, peer)| peer.peerings.contains(network))
    }

    /// How the members of a pool get out.
    #[must_use]
    pub fn outbound_of(&self, pool: &PoolRef) -> Option<Outbound<'_>> {
        self.load_balancers.get(&pool.load_balancer)?.outbound_of(&pool.pool)
    }

    /// The outbound rule of a pool.
    #[must_use]
    pub fn rule_of(&self, pool: &PoolRef) -> Option<(&LoadBalancer, &OutboundRule)> {
        let balancer = self.load_balancers.get(&pool.load_balancer)?;
        Some((balancer, balancer.rule_of(&pool.pool)?))
    }
}
