//! What people and programs see of the control state: `qnat get …` and `qnat status`.
//!
//! Serialisable rows made from the state alone; what only the running groups know (leaders, lag) is joined by the caller.
//! It says why something is not as it should be, and what an operator can do. It must never be read back into the state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use engine::ids::{BackendId, FrontendId, Incarnation, Mac, PortBlock, ShardId};
use engine::snapshot::Networks;
use serde::{Deserialize, Serialize};
use words::InsideInterface;

use crate::allocation::{Backend, Declared, Purpose};
use crate::apply::whole;
use crate::census::Census;
use crate::concern::Concern;
use crate::default_outbound;
use crate::inbound::reach::admin_state;
pub use crate::lacks::remove_command;
use crate::lacks::{backend_concern, cluster_concerns, drain_concern, shard_concern};
use crate::places::blocks_on;
use crate::registry::Standing;
use crate::resource::AdminState;
use crate::shards::{Origin, Shard};
use crate::state::State;
use crate::tier;

/// A block of ports, first and last included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// `qnat get shards`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardView {
    /// The shard.
    pub shard: u16,
    /// Its virtual MAC.
    pub virtual_mac: String,
    /// Its public addresses.
    pub frontends: Vec<Ipv4Addr>,
    /// Its epoch.
    pub epoch: u32,
    /// Its members by rank.
    pub members: Vec<ReplicaView>,
    /// Replicas on their way out.
    pub leaving: Vec<ReplicaView>,
    /// Voters as last reported.
    pub voters: Vec<u64>,
    /// How its epoch began.
    pub origin: OriginView,
    /// Whether the epoch is being sealed.
    pub sealing: bool,
    /// Why it has not its full redundancy, or no owner; empty if all is well.
    pub why: String,
    /// What an operator can do.
    pub remedy: String,
}

/// How a shard's epoch began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginView {
    /// Not at all yet: no member was registered when it was declared.
    Unplaced,
    /// Empty.
    Founded,
    /// From a survivor of the epoch before it (N4).
    Recreated,
    /// Empty, since nobody survived.
    Lost,
}

/// A replica of a shard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaView {
    /// Its node, if that is still known.
    pub node: Option<u32>,
    /// Its incarnation.
    pub incarnation: u64,
    /// Its node has a newer life, or was removed.
    pub gone: bool,
    /// It has sealed the epoch.
    pub sealed: bool,
}

/// `qnat get nodes`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeView {
    /// The node.
    pub node: u32,
    /// Member, draining or removed.
    pub standing: Standing,
    /// Its newest incarnation.
    pub incarnation: Option<u64>,
    /// What commands that end something must name as its incarnation.
    pub named: u64,
    /// It is on its way out and has nothing left: it can be stopped and removed.
    pub drained: bool,
    /// Its control raft id.
    pub control_raft_id: u64,
    /// Where it listens for peers.
    pub peer_addr: SocketAddr,
    /// Where its API listens.
    pub api_addr: SocketAddr,
    /// Its inside interfaces.
    pub inside: Vec<InterfaceView>,
    /// Outside MAC.
    pub outside_mac: String,
    /// The greatest cluster level that it supports.
    pub level: u16,
    /// Shards that it prefers to own.
    pub preferred_shards: usize,
    /// Shards that it replicates.
    pub replicated_shards: usize,
}

/// An inside interface of a member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InterfaceView {
    /// The virtual network that it leads to, if it is there; else as its `node.toml` says.
    pub virtual_network: Option<String>,
    /// Whether there is that network.
    pub declared: bool,
    /// Its MAC.
    pub mac: String,
}

/// `qnat get backends`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackendView {
    /// Its number.
    pub backend: u32,
    /// `instance/ip_configuration`.
    pub name: String,
    /// The virtual network.
    pub virtual_network: String,
    /// Its address.
    pub private_ip: Ipv4Addr,
    /// Its pool.
    pub pool: Option<String>,
    /// Whether it gets new flows by the rules of that pool: `up`, `down` or, as its probe says, `none`.
    #[serde(default)]
    pub admin_state: AdminState,
    /// The public address that its ports are on.
    pub frontend: Option<Ipv4Addr>,
    /// The public address that is its own.
    #[serde(default)]
    pub public_ip: Option<Ipv4Addr>,
    /// By which right its new flows leave: `pool`, `default` by a system address, `own address`; none: they do not.
    #[serde(default)]
    pub way_out: Option<String>,
    /// Its home shard.
    pub home_shard: Option<u16>,
    /// Ports that its tier grants.
    pub ports_granted: u16,
    /// Ports leased now.
    pub ports_leased: u16,
    /// The lease.
    pub lease: Vec<PortRange>,
    /// Blocks on their way back.
    pub draining: Vec<PortRange>,
    /// Why it has no or not all ports; empty if all is well.
    pub why: String,
    /// What an operator can do.
    pub remedy: String,
}

/// `qnat get frontends`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrontendView {
    /// Its number.
    pub frontend: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// Its name, while it is declared.
    pub name: Option<String>,
    /// What it is for.
    #[serde(default)]
    pub purpose: PurposeView,
    /// Its shard.
    pub shard: u16,
    /// Backends bound to it.
    pub backends: usize,
    /// Ports leased.
    pub ports_leased: u32,
    /// Ports draining.
    pub ports_draining: u32,
    /// Ports that can be handed out in all.
    pub ports_usable: u32,
    /// Reserved ports.
    pub reserved_ports: Vec<u16>,
    /// It is no longer declared and waits for its blocks and holds to end.
    pub retiring: bool,
}

/// What a public address is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PurposeView {
    /// A load balancer's.
    #[default]
    Shared,
    /// One IP configuration's own.
    Own,
    /// The system's, for those who have no other way out.
    System,
}

/// `qnat get pools`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolView {
    /// `load_balancer/pool`.
    pub pool: String,
    /// Instances in it: picks the tier.
    pub instances: usize,
    /// IP configurations in it.
    pub backends: usize,
    /// Ports for each.
    pub ports_per_backend: u16,
    /// Its outbound rule.
    pub outbound_rule: Option<String>,
    /// Names of the frontends that it may use.
    pub frontends: Vec<String>,
}

/// The part of `qnat status` that the state knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusView {
    /// The cluster's id, in hex.
    pub cluster_id: String,
    /// The applied control index.
    pub control_index: u64,
    /// The cluster level.
    pub level: u16,
    /// Members.
    pub nodes: usize,
    /// Members that have registered.
    pub nodes_registered: usize,
    /// The control group's voters as they should be.
    pub control_voters_wanted: Vec<u64>,
    /// And as last reported.
    pub control_voters_applied: Vec<u64>,
    /// Who may stop now.
    pub stop_token: Option<StopTokenView>,
    /// Shards.
    pub shards: usize,
    /// Shards whose map is whole.
    pub shards_whole: usize,
    /// What is not as it should be, each with its remedy.
    pub concerns: Vec<Concern>,
}

/// The stop token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StopTokenView {
    /// Who holds it.
    pub holder: u32,
    /// Since which control index.
    pub since: u64,
    /// The holder has started anew since it took the token.
    pub restarted: bool,
}

/// Most concerns in a status.
pub const CONCERNS_MAX: usize = 100;

/// All shards.
#[must_use]
pub fn shards(state: &State) -> Vec<ShardView> {
    let mut addresses: BTreeMap<ShardId, Vec<Ipv4Addr>> = BTreeMap::new();
    for frontend in state.allocation.frontends.values() {
        addresses.entry(frontend.shard).or_default().push(frontend.ip);
    }
    let mut of = |id: &ShardId| addresses.remove(id).unwrap_or_default();
    state.shards.iter().map(|(id, shard)| shard_view(state, *id, shard, of(id))).collect()
}

/// All nodes.
#[must_use]
pub fn nodes(state: &State) -> Vec<NodeView> {
    let at = |life: Option<Incarnation>, rank: Option<usize>| {
        let held = |shard: &&Shard| match (life, rank) {
            (None, _) => false,
            (Some(life), Some(rank)) => shard.members.get(rank) == Some(&life),
            (Some(life), None) => shard.members.contains(&life),
        };
        state.shards.values().filter(held).count()
    };
    let nodes = state.registry.nodes().iter().map(|(id, node)| NodeView {
        node: id.0,
        standing: node.standing,
        incarnation: node.incarnation.map(|life| life.0),
        named: node.named().0,
        drained: state.is_drained(*id),
        control_raft_id: node.raft_id,
        peer_addr: node.peer_addr,
        api_addr: node.api_addr,
        inside: node.inside.iter().map(|i| interface(state, i)).collect(),
        outside_mac: node.outside_mac.to_string(),
        level: node.level,
        preferred_shards: at(node.incarnation, Some(0)),
        replicated_shards: at(node.incarnation, None),
    });
    nodes.collect()
}

/// All backends, those that only wait for their blocks to drain too.
#[must_use]
pub fn backends(state: &State) -> Vec<BackendView> {
    let ip_of = |id: FrontendId| state.allocation.frontends.get(&id).map(|f| f.ip);
    let mut drains: BTreeMap<BackendId, Vec<PortRange>> = BTreeMap::new();
    for (block, drain) in &state.allocation.drains {
        drains.entry(drain.backend).or_default().push(range(block));
    }
    let mut view = |(id, backend): (&BackendId, &Backend)| {
        let draining = drains.remove(id).unwrap_or_default();
        let (why, remedy) = words(backend_concern(state, backend, !draining.is_empty()));
        BackendView {
            backend: id.0,
            name: format!("{}/{}", backend.instance, backend.ip_configuration),
            virtual_network: vnet_name(state, backend),
            private_ip: backend.ip,
            pool: backend.pool.as_ref().map(ToString::to_string),
            admin_state: admin_state(&state.desired, backend),
            frontend: backend.frontend.and_then(ip_of),
            public_ip: backend.own.and_then(ip_of),
            way_out: default_outbound::rows::way_out(state, backend).map(|scenario| scenario.label().to_owned()),
            home_shard: backend.home.map(|shard| shard.0),
            ports_granted: backend.grant,
            ports_leased: backend.ports(),
            lease: backend.lease.iter().map(range).collect(),
            draining,
            why,
            remedy,
        }
    };
    state.allocation.backends.iter().map(&mut view).collect()
}

/// All frontends.
#[must_use]
pub fn frontends(state: &State) -> Vec<FrontendView> {
    let names: BTreeMap<Ipv4Addr, &String> =
        state.desired.public_ips.iter().map(|(name, public)| (public.address, name)).collect();
    let view = |(id, frontend): (&FrontendId, &crate::allocation::Frontend)| {
        let bound = || state.allocation.places.bound_to(*id).map(|id| &state.allocation.backends[&id]);
        let draining = state.allocation.drains.range(blocks_on(*id)).map(|(block, _)| block);
        let unit = tier::BLOCK_LEN_MIN;
        let spoiled: std::collections::BTreeSet<u16> = frontend.reserved.iter().map(|port| port / unit).collect();
        let spoiled = u32::try_from(spoiled.len()).unwrap_or(u32::MAX).saturating_mul(unit.into());
        FrontendView {
            frontend: id.0,
            address: frontend.ip,
            name: names.get(&frontend.ip).map(|name| (*name).clone()),
            purpose: match frontend.purpose {
                Purpose::Shared => PurposeView::Shared,
                Purpose::Own(_) => PurposeView::Own,
                Purpose::System => PurposeView::System,
            },
            shard: frontend.shard.0,
            backends: bound().count(),
            ports_leased: bound().flat_map(|b| b.blocks_on(*id)).map(|block| u32::from(block.len)).sum(),
            ports_draining: draining.map(|block| u32::from(block.len)).sum(),
            ports_usable: match frontend.purpose {
                Purpose::Shared | Purpose::System => u32::from(tier::PORTS_USABLE).saturating_sub(spoiled),
                Purpose::Own(_) => 1 << 16,
            },
            reserved_ports: frontend.reserved.iter().copied().collect(),
            retiring: frontend.declared == Declared::No,
        }
    };
    state.allocation.frontends.iter().map(view).collect()
}

/// All pools.
#[must_use]
pub fn pools(state: &State) -> Vec<PoolView> {
    let census = Census::of(&state.desired);
    let mut views = Vec::new();
    for (name, balancer) in &state.desired.load_balancers {
        for pool in &balancer.pools {
            let reference = crate::resource::PoolRef { load_balancer: name.clone(), pool: pool.clone() };
            let outbound = balancer.outbound_of(pool);
            let (instances, backends) = census.of_pool(&reference);
            views.push(PoolView {
                pool: reference.to_string(),
                instances,
                backends,
                ports_per_backend: outbound.as_ref().and_then(|_| tier::ports_per_backend(instances)).unwrap_or(0),
                outbound_rule: outbound.as_ref().and_then(|outbound| outbound.rule).map(|(name, _)| name.clone()),
                frontends: outbound.map_or_else(Vec::new, |out| out.frontends.into_iter().cloned().collect()),
            });
        }
    }
    views
}

/// The status.
#[must_use]
pub fn status(state: &State) -> StatusView {
    let wanted = state.replicas_wanted();
    let mut concerns: Vec<Concern> = state.shards.iter().filter_map(|(id, s)| shard_concern(state, *id, s)).collect();
    let draining: BTreeSet<BackendId> = state.allocation.drains.values().map(|drain| drain.backend).collect();
    let backends = state.allocation.backends.iter();
    let concerned = backends.filter_map(|(id, b)| backend_concern(state, b, draining.contains(id)));
    concerns.extend(concerned.take(CONCERNS_MAX));
    let leave = state.registry.members().map(|(id, _)| id).filter(|id| state.registry.is_draining(*id));
    concerns.extend(leave.map(|id| drain_concern(state, id)));
    concerns.truncate(CONCERNS_MAX);
    concerns.extend(cluster_concerns(state));
    for concern in &mut concerns {
        concern.control_index = Some(state.index.0);
    }
    StatusView {
        cluster_id: state.cluster_id.iter().map(|byte| format!("{byte:02x}")).collect(),
        control_index: state.index.0,
        level: state.level,
        nodes: state.registry.members().count(),
        nodes_registered: state.registry.registered().count(),
        control_voters_wanted: state.control_voters(),
        control_voters_applied: state.control_applied.clone(),
        stop_token: state.stop_token.map(|token| StopTokenView {
            holder: token.holder.0,
            since: token.taken.0,
            restarted: state.registry.newest(token.holder) != Some(token.incarnation),
        }),
        shards: state.shards.len(),
        shards_whole: state.shards.values().filter(|shard| whole(shard, wanted)).count(),
        concerns,
    }
}

fn shard_view(state: &State, id: ShardId, shard: &Shard, frontends: Vec<Ipv4Addr>) -> ShardView {
    let replica = |life: &Incarnation| ReplicaView {
        node: state.registry.node_of(*life).map(|node| node.0),
        incarnation: life.0,
        gone: state.registry.gone(*life),
        sealed: shard.sealing.is_some() && shard.sealed(*life),
    };
    let (why, remedy) = words(shard_concern(state, id, shard));
    ShardView {
        shard: id.0,
        virtual_mac: Mac::of_shard(id).to_string(),
        frontends,
        epoch: shard.epoch,
        members: shard.members.iter().map(replica).collect(),
        leaving: shard.leaving.iter().map(replica).collect(),
        voters: shard.voters.iter().map(|life| life.0).collect(),
        origin: match shard.origin {
            Origin::Unplaced => OriginView::Unplaced,
            Origin::Founded { .. } => OriginView::Founded,
            Origin::Recreated { .. } => OriginView::Recreated,
            Origin::Lost { .. } => OriginView::Lost,
        },
        sealing: shard.sealing.is_some(),
        why,
        remedy,
    }
}

/// A concern in a row that has no more to say.
fn words(concern: Option<Concern>) -> (String, String) {
    concern.map_or_else(Default::default, |concern| (concern.why, concern.remedy))
}

fn interface(state: &State, interface: &InsideInterface) -> InterfaceView {
    let networks = Networks(state.vnets.clone());
    let carried = networks.carried(interface.network.as_deref()).and_then(|vnet| networks.name(vnet));
    InterfaceView {
        virtual_network: carried.map(str::to_owned).or_else(|| interface.network.clone()),
        declared: carried.is_some(),
        mac: interface.mac.to_string(),
    }
}

fn vnet_name(state: &State, backend: &Backend) -> String {
    let name = state.vnets.iter().find(|(_, id)| **id == backend.vnet).map(|(name, _)| name.clone());
    name.unwrap_or_default()
}

fn range(block: &PortBlock) -> PortRange {
    PortRange { first: block.start, last: block.start + (block.len - 1) }
}
