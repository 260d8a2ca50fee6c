//! From the control state to what workers judge packets by.
//!
//! A pure function of the state: two nodes at the same index compile the same snapshot but for `me` and `peers`. A
//! [`Compiler`] comes to the same from the version before, at the cost of what has changed since. It must never leave out a
//! draining block or put one into a lease. Called by `node` after each change, off the packet path.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use engine::codec::Format;
use engine::ids::{BackendId, FrontendId, NodeId, ShardId, VnetId};
use engine::record::Scenario;
use engine::snapshot::{
    Backend, Draining, Frontend, Networks, NodeLinks, Outside, Params, Private, Refusals, SHORT_IDLE_PORTS_MAX,
    Snapshot, Subnet, TcpReset, Ways, Without,
};

use engine::nsg::Attachments;
use words::InsideInterface;

use crate::allocation::{self, Declared, Purpose};
use crate::default_outbound::ways::Granting;
use crate::inbound;
use crate::nsg::compiling;
use crate::places::blocks_on;
use crate::probing;
use crate::registry::Node;
use crate::resource::{Filtering, Profile, Settings, Sharing};
use crate::state::State;

/// Compiles one version after the other for one node, and shares with the one before what no entry between them touched.
#[derive(Clone, Debug)]
pub struct Compiler {
    me: NodeId,
    last: Option<Arc<Snapshot>>,
    work: Work,
}

/// What was done in all so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// Versions that were compiled whole.
    pub whole: u64,
    /// Backends that were looked at.
    pub backends: u64,
    /// Backends that were not as before.
    pub changed: u64,
}

impl Compiler {
    /// One that has compiled nothing yet.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self { me, last: None, work: Work::default() }
    }

    /// The state came whole: nothing is known of what led to it.
    pub fn restart(&mut self) {
        self.last = None;
    }

    /// What was done so far.
    #[must_use]
    pub const fn work(&self) -> Work {
        self.work
    }

    /// The state, which goes on from the one compiled before, if it was not told to restart.
    pub fn snapshot(&mut self, state: &State) -> Arc<Snapshot> {
        let settled = state.allocation.places.settled();
        let next = match self.last.take() {
            Some(last)
                if settled <= last.control_index
                    && last.control_index <= state.index
                    && !rules_may_change(state, &last) =>
            {
                self.next(state, &last)
            }
            last => {
                let groups = last.as_ref().map(|last| Arc::clone(&last.security)).unwrap_or_default();
                let mut next = compiled_with(state, self.me, &groups);
                if let Some(last) = last {
                    share(&mut next, &last);
                }
                let backends = u64::try_from(next.backends.len()).unwrap_or(u64::MAX);
                self.work.whole += 1;
                self.work.backends += backends;
                self.work.changed += backends;
                next
            }
        };
        let next = Arc::new(next);
        self.last = Some(Arc::clone(&next));
        next
    }

    /// No entry since `last` settled everything: but for the nodes and the level, only the blocks of some frontends have changed.
    fn next(&mut self, state: &State, last: &Snapshot) -> Snapshot {
        let mut next = Snapshot { control_index: state.index, params: params(state), ..last.clone() };
        next.probes = probing::compiling::renewed(state, &last.probes, last.control_index);
        // What waited for the level is there at once, not with the next configuration (C2).
        if next.params.format != last.params.format {
            next.private = Arc::new(private(state));
            let (rules, probes) = inbound::compiling::rules(state);
            (next.rules, next.probes) = (Arc::new(rules), Arc::new(probes));
        }
        put_nodes(&mut next, state, self.me);
        let allocation = &state.allocation;
        let mut homes: BTreeMap<(VnetId, ShardId), BackendId> = BTreeMap::new();
        let mut touched: BTreeSet<ShardId> = BTreeSet::new();
        for frontend in allocation.places.changed_since(last.control_index) {
            touched.insert(allocation.frontends[&frontend].shard);
            for id in allocation.places.bound_to(frontend) {
                self.work.backends += 1;
                let backend = backend_of(state, &allocation.backends[&id]);
                if let Some(backend) = backend
                    && next.backends.get(&id) != Some(&backend)
                {
                    self.work.changed += 1;
                    let (vnet, home) = (backend.vnet, backend.home);
                    let before = next.backends.insert(id, backend).map(|before| before.home);
                    for home in before.into_iter().chain([home]).filter(|_| before != Some(home)) {
                        let lowest = homes.entry((vnet, home)).or_insert(id);
                        *lowest = id.min(*lowest);
                    }
                }
            }
        }
        for shard in touched {
            if let Some(config) = next.shards.get_mut(&shard) {
                config.draining = draining(state, &config.addresses);
            }
        }
        for (home, id) in homes {
            find_first(&mut next, state, home, id);
        }
        next
    }
}

/// Whether a rule waits for a port, or a member on its way to the rule's shard, and a block was freed: both may be there now. A
/// rare time, in which all is compiled anew.
fn rules_may_change(state: &State, last: &Snapshot) -> bool {
    last.rules.waiting && state.allocation.places.changed_since(last.control_index).next().is_some()
}

/// What is as it was before becomes the very same: whoever compares two versions looks at the rest only.
fn share(next: &mut Snapshot, last: &Snapshot) {
    next.backends.share_with(&last.backends);
    if next.security == last.security {
        next.security = Arc::clone(&last.security);
    }
    if next.rules == last.rules {
        next.rules = Arc::clone(&last.rules);
    }
    if next.probes == last.probes {
        next.probes = Arc::clone(&last.probes);
    }
    if next.backend_by_ip == last.backend_by_ip {
        next.backend_by_ip = Arc::clone(&last.backend_by_ip);
    }
    if next.frontends == last.frontends && next.frontend_by_ip == last.frontend_by_ip {
        next.frontends = Arc::clone(&last.frontends);
        next.frontend_by_ip = Arc::clone(&last.frontend_by_ip);
    }
    for (id, config) in &mut next.shards {
        let Some(before) = last.shards.get(id) else { continue };
        if config.addresses == before.addresses {
            config.addresses = Arc::clone(&before.addresses);
        }
        if config.draining == before.draining {
            config.draining = Arc::clone(&before.draining);
        }
    }
}

/// Compiles the state for one node. IP configurations without any shard to live in are left out.
#[must_use]
pub fn snapshot(state: &State, me: NodeId) -> Snapshot {
    compiled_with(state, me, &Attachments::default())
}

/// The same; `groups` are those of the version before.
fn compiled_with(state: &State, me: NodeId, groups: &Attachments) -> Snapshot {
    let (rules, probes) = inbound::compiling::rules(state);
    let mut snapshot = Snapshot {
        control_index: state.index,
        params: params(state),
        security: Arc::new(compiling::attachments(state, groups)),
        rules: Arc::new(rules),
        probes: Arc::new(probes),
        private: Arc::new(private(state)),
        networks: Arc::new(Networks(state.vnets.clone())),
        outside: Outside { prefix: state.desired.outside.network, next_hop: state.desired.outside.next_hop },
        ..Snapshot::default()
    };
    put_nodes(&mut snapshot, state, me);
    let frontends = state.allocation.frontends.iter();
    snapshot.put_frontends(frontends.map(|(id, frontend)| (*id, Frontend { ip: frontend.ip, shard: frontend.shard })));
    for config in snapshot.shards.values_mut() {
        config.draining = draining(state, &config.addresses);
    }
    for (id, backend) in &state.allocation.backends {
        if let Some(compiled) = backend_of(state, backend) {
            snapshot.put_backend(*id, compiled);
        }
    }
    for (name, network) in &state.desired.virtual_networks {
        let vnet = state.vnets[name];
        snapshot.subnets.extend(network.subnets.values().map(|subnet| Subnet {
            vnet,
            prefix: subnet.prefix,
            gateway: subnet.gateway,
        }));
    }
    snapshot
}

/// The first backend of a shard that others have left or come to, none of them below `id`.
fn find_first(snapshot: &mut Snapshot, state: &State, (vnet, home): (VnetId, ShardId), id: BackendId) {
    let firsts = Arc::make_mut(&mut snapshot.first_backends);
    let from = firsts.remove(&(vnet, home)).map_or(id, |(first, _)| first.min(id));
    let mut later = state.allocation.backends.range(from..);
    let lives_there = |backend: &allocation::Backend| {
        (backend.vnet, backend.home, backend.declared) == (vnet, Some(home), Declared::Yes)
    };
    if let Some((id, backend)) = later.find(|(_, backend)| lives_there(backend)) {
        firsts.insert((vnet, home), (*id, backend.ip));
    }
}

/// What private traffic depends on. Only a configuration, or a level, changes it: a walk over its networks.
fn private(state: &State) -> Private {
    let (desired, vnets) = (state.desired(), &state.vnets);
    let connected = desired.virtual_networks.keys().filter_map(|name| {
        let with: Vec<VnetId> = desired.connected(name).filter_map(|(peer, _)| vnets.get(peer).copied()).collect();
        (!with.is_empty()).then(|| Some((*vnets.get(name)?, with)))?
    });
    let isolated = desired.virtual_networks.iter().flat_map(|(name, network)| {
        let subnets = network.subnets.values().filter(|subnet| subnet.isolated);
        subnets.filter_map(|subnet| Some((*vnets.get(name)?, subnet.prefix)))
    });
    let spaces = desired.virtual_networks.iter().filter_map(|(name, network)| {
        let reached = desired.connected(name).map(|(_, peer)| peer).chain([network]);
        let spaces = reached.flat_map(|network| network.space()).chain(network.on_premises.iter().copied());
        Some((*vnets.get(name)?, spaces.collect()))
    });
    Private {
        routed: Format::of_level(state.level) != Format::First,
        connected: connected.collect(),
        isolated: isolated.collect(),
        spaces: spaces.collect(),
    }
}

fn put_nodes(snapshot: &mut Snapshot, state: &State, me: NodeId) {
    snapshot.me = None;
    snapshot.peers.clear();
    for (id, node) in state.registry.members().filter(|(_, node)| node.incarnation.is_some()) {
        match id == me {
            true => snapshot.me = Some(links(id, node, &snapshot.networks)),
            false => snapshot.peers.push(links(id, node, &snapshot.networks)),
        }
    }
}

/// Of a backend that is declared and has a home.
fn backend_of(state: &State, backend: &allocation::Backend) -> Option<Backend> {
    match (backend.home, backend.declared) {
        (Some(home), Declared::Yes) => Some(compiled(state, backend, home)),
        (None, _) | (_, Declared::No) => None,
    }
}

fn params(state: &State) -> Params {
    let settings = state.settings();
    Params {
        orphan_grace_ms: settings.orphan_grace_ms,
        vote_timeout_ms: settings.vote_ms(),
        hold_ms: settings.hold_ms,
        held_packets_per_backend_max: settings.held_packets_per_backend_max,
        held_bytes_max: settings.held_bytes_max,
        flows_per_shard_max: settings.flows_per_shard_max,
        flows_per_backend_max: settings.flows_per_backend_max,
        new_flows_per_second_max: settings.new_flows_per_second_max,
        mss_max: settings.mss_max,
        refusals: if settings.icmp_on_refusal { Refusals::Told } else { Refusals::Silent },
        short_idle_ports: short_idle_ports(settings),
        format: Format::of_level(state.level),
        key: state.key,
    }
}

fn short_idle_ports(settings: &Settings) -> [u16; SHORT_IDLE_PORTS_MAX] {
    let mut ports = [0; SHORT_IDLE_PORTS_MAX];
    for (to, from) in ports.iter_mut().zip(&settings.short_idle_ports) {
        *to = *from;
    }
    ports
}

/// An interface whose network there is not leads nowhere.
fn links(id: NodeId, node: &Node, networks: &Networks) -> NodeLinks {
    let carried = |i: &InsideInterface| Some((networks.carried(i.network.as_deref())?, i.mac));
    NodeLinks { node: id, inside: node.inside.iter().filter_map(carried).collect(), outside: node.outside_mac }
}

/// The blocks of a shard's frontends that drain, in order.
fn draining(state: &State, addresses: &[(Ipv4Addr, FrontendId)]) -> Arc<[Draining]> {
    let mut frontends: Vec<FrontendId> = addresses.iter().map(|(_, id)| *id).collect();
    frontends.sort_unstable();
    let drains = frontends.iter().flat_map(|frontend| state.allocation.drains.range(blocks_on(*frontend)));
    let draining = drains.map(|(block, drain)| Draining {
        block: *block,
        reclaim_index: drain.reclaim_index,
        on_reclaim: drain.on_reclaim,
    });
    draining.collect()
}

/// By which ways its flows leave: under which right its lease is used, and what is said if it has none.
fn ways(state: &State, backend: &allocation::Backend) -> Ways {
    let granted = backend.frontend.filter(|_| !backend.lease.is_empty());
    let purpose = granted.and_then(|id| state.allocation.frontends.get(&id)).map(|frontend| frontend.purpose);
    Ways {
        own: backend.own,
        granted: match purpose {
            Some(Purpose::System) => Scenario::Default,
            Some(Purpose::Shared | Purpose::Own(_)) | None => Scenario::Pool,
        },
        without: match backend.granting {
            Granting::Barred => Without::Barred,
            Granting::Pool | Granting::Default | Granting::Nothing => Without::NoPath,
        },
    }
}

fn compiled(state: &State, backend: &allocation::Backend, home: ShardId) -> Backend {
    let rule = backend.pool.as_ref().and_then(|pool| state.desired.rule_of(pool)).map(|(_, rule)| rule);
    Backend {
        vnet: backend.vnet,
        ip: backend.ip,
        mac: backend.mac,
        home,
        lease: backend.lease.clone(),
        ways: ways(state, backend),
        idle_timeout_ms: rule.map_or(4, |rule| u32::from(rule.idle_timeout_minutes)) * 60_000,
        tcp_reset_on_idle: match rule {
            Some(rule) if rule.enable_tcp_reset => TcpReset::On,
            _ => TcpReset::Off,
        },
        profile: match rule.map(|rule| rule.profile) {
            Some(Profile::Rfc) => engine::snapshot::Profile::Rfc,
            Some(Profile::Azure) | None => engine::snapshot::Profile::Azure,
        },
        sharing: match rule.map(|rule| (rule.profile, rule.sharing)) {
            Some((Profile::Rfc, _)) => engine::snapshot::Sharing::Endpoint,
            Some((Profile::Azure, Sharing::Address)) => engine::snapshot::Sharing::Address,
            Some((Profile::Azure, Sharing::Tuple)) | None => engine::snapshot::Sharing::Tuple,
        },
        filtering: match rule.map(|rule| (rule.profile, rule.filtering)) {
            Some((Profile::Rfc, Filtering::AddressDependent)) => engine::snapshot::Filtering::Address,
            Some((Profile::Rfc, Filtering::EndpointIndependent)) => engine::snapshot::Filtering::Open,
            Some((Profile::Azure, _)) | None => engine::snapshot::Filtering::Tuple,
        },
    }
}
