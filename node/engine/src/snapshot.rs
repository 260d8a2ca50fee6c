//! The compiled, immutable configuration that workers judge packets by. Made by `control::compile`, published whole.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

pub use crate::backend::{Backend, Filtering, Profile, Sharing, TcpReset, Ways, Without};
pub use crate::backends::Backends;
use words::Prefix;

use crate::codec::Format;
use crate::ids::{BackendId, ControlIndex, FrontendId, Link, Mac, NodeId, PortBlock, ShardId, VnetId};
pub use crate::map::Map;
use crate::nsg::Attachments;
use crate::probes::Probes;
use crate::rules::Rules;

/// One version of the configuration, as seen by one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The control state that it was compiled from.
    pub control_index: ControlIndex,
    /// Cluster-wide parameters.
    pub params: Params,
    /// This node and the MAC addresses of its data interfaces.
    pub me: Option<NodeLinks>,
    /// The other nodes' data links: where `Forward` sends, and whose frames count as forwarded (rule M1).
    pub peers: Vec<NodeLinks>,
    /// All shards.
    pub shards: Map<ShardId, ShardConfig>,
    /// All public addresses; shared by all versions that have the same.
    pub frontends: Arc<Map<FrontendId, Frontend>>,
    /// Frontends by address; shared like them.
    pub frontend_by_ip: Arc<Map<Ipv4Addr, FrontendId>>,
    /// All backends (IP configurations), with their leases.
    pub backends: Backends,
    /// Backends by virtual network and address; shared by all versions of one configuration.
    pub backend_by_ip: Arc<Map<(VnetId, Ipv4Addr), BackendId>>,
    /// The backend of the lowest number in each shard, by virtual network.
    pub first_backends: Arc<BTreeMap<(VnetId, ShardId), (BackendId, Ipv4Addr)>>,
    /// The security groups that judge backends; shared by all versions that have the same.
    pub security: Arc<Attachments>,
    /// What comes in without a mapping; shared by all versions that have the same.
    pub rules: Arc<Rules>,
    /// Who gets new flows by rules with probes; shared by all versions that have the same.
    pub probes: Arc<Probes>,
    /// What private traffic depends on besides.
    pub private: Arc<Private>,
    /// The virtual networks.
    pub networks: Arc<Networks>,
    /// Inside subnets, with their gateway addresses.
    pub subnets: Vec<Subnet>,
    /// The outside network that the data interface is attached to.
    pub outside: Outside,
}

impl Snapshot {
    /// Puts public addresses in that are not there yet, with all that finds them; their shards too.
    pub fn put_frontends(&mut self, frontends: impl IntoIterator<Item = (FrontendId, Frontend)>) {
        let all = Arc::make_mut(&mut self.frontends);
        let by_ip = Arc::make_mut(&mut self.frontend_by_ip);
        let mut of: BTreeMap<ShardId, Vec<(Ipv4Addr, FrontendId)>> = BTreeMap::new();
        for (id, frontend) in frontends {
            all.insert(id, frontend);
            by_ip.insert(frontend.ip, id);
            of.entry(frontend.shard).or_default().push((frontend.ip, id));
        }
        for (shard, mut addresses) in of {
            let config = self.shards.entry(shard).or_default();
            addresses.extend_from_slice(&config.addresses);
            addresses.sort_unstable();
            config.addresses = addresses.into();
        }
    }

    /// Takes a public address out, with all that finds it.
    pub fn take_frontend(&mut self, id: FrontendId) {
        let Some(frontend) = Arc::make_mut(&mut self.frontends).remove(&id) else { return };
        Arc::make_mut(&mut self.frontend_by_ip).remove(&frontend.ip);
        let config = self.shards.entry(frontend.shard).or_default();
        config.addresses = config.addresses.iter().filter(|(_, of)| *of != id).copied().collect();
    }

    /// Puts a backend in, with all that finds it.
    pub fn put_backend(&mut self, id: BackendId, backend: Backend) {
        let (vnet, ip, home) = (backend.vnet, backend.ip, backend.home);
        Arc::make_mut(&mut self.backend_by_ip).insert((vnet, ip), id);
        let first = Arc::make_mut(&mut self.first_backends).entry((vnet, home)).or_insert((id, ip));
        *first = (*first).min((id, ip));
        self.backends.insert(id, backend);
    }
}

/// How many services may have the short timeout of D26.
pub const SHORT_IDLE_PORTS_MAX: usize = 8;
/// DNS and NTP.
pub const SHORT_IDLE_PORTS: [u16; SHORT_IDLE_PORTS_MAX] = [53, 123, 0, 0, 0, 0, 0, 0];

/// Cluster-wide parameters; the same on every node because they are in the control log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// How long an ex-owner that knows no successor may repeat committed mappings (L4).
    pub orphan_grace_ms: u32,
    /// The vote timeout V.
    pub vote_timeout_ms: u32,
    /// Hold-down after FIN, RST, idle UDP or ICMP, idle or reclaimed TCP, and idle UDP of the profile `rfc`, in the order of
    /// `record::HoldClass` (D6).
    pub hold_ms: [u32; crate::record::HOLDS_CONFIGURED],
    /// Held first packets per backend, and their bytes over all backends of a worker.
    pub held_packets_per_backend_max: u32,
    /// Bytes of all held packets of a worker.
    pub held_bytes_max: u32,
    /// Flows of one shard, live and held; more is dropped.
    pub flows_per_shard_max: u32,
    /// Flows of one backend, live and held; more is dropped (R21).
    pub flows_per_backend_max: u32,
    /// Flows that one backend may open per second, and at once (R21).
    pub new_flows_per_second_max: u32,
    /// Largest TCP segment that hosts may offer to receive (R26); 0: as they say.
    pub mss_max: u16,
    /// Remote ports of UDP services whose mappings end soon after the reply (D26); 0 is no port.
    pub short_idle_ports: [u16; SHORT_IDLE_PORTS_MAX],
    /// Whether backends hear by ICMP that a new flow of theirs was refused (R23).
    pub refusals: Refusals,
    /// How entries and chunks are written (C2).
    pub format: Format,
    /// Seed of the keyed port order and hashing (D9); drawn once per cluster.
    pub key: [u64; 2],
}

impl Default for Params {
    fn default() -> Self {
        Self {
            orphan_grace_ms: 3_000,
            vote_timeout_ms: 50,
            hold_ms: [65_000, 16_000, 65_000, 65_000, 120_000],
            held_packets_per_backend_max: 256,
            held_bytes_max: 16 << 20,
            flows_per_shard_max: 4 << 20,
            flows_per_backend_max: 1 << 20,
            new_flows_per_second_max: 100_000,
            mss_max: 0,
            short_idle_ports: SHORT_IDLE_PORTS,
            refusals: Refusals::default(),
            format: Format::NEWEST,
            key: [0, 0],
        }
    }
}

/// What a backend hears of a new flow that is refused (R23).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Refusals {
    /// Nothing.
    #[default]
    Silent,
    /// ICMP 3/13 when policy refuses it, 3/1 when a quota or the ports do.
    Told,
}

/// The data links of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLinks {
    /// The node.
    pub node: NodeId,
    /// Its own MAC on each inside network that it has an interface to.
    pub inside: Vec<(VnetId, Mac)>,
    /// Its own MAC on the outside network.
    pub outside: Mac,
}

impl NodeLinks {
    /// Its own MAC on a link, if it has an interface there.
    #[inline]
    #[must_use]
    pub fn mac_on(&self, link: Link) -> Option<Mac> {
        match link {
            Link::Outside => Some(self.outside),
            Link::Inside(vnet) => self.inside.iter().find(|(of, _)| *of == vnet).map(|(_, mac)| *mac),
        }
    }
}

/// The virtual networks by name.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Networks(pub BTreeMap<String, VnetId>);

impl Networks {
    /// The network that an interface carries: the named one, or, if none is named, the only one that there is.
    #[must_use]
    pub fn carried(&self, named: Option<&str>) -> Option<VnetId> {
        match named {
            Some(name) => self.0.get(name).copied(),
            None => self.0.values().next().copied().filter(|_| self.0.len() == 1),
        }
    }

    /// What a network is called.
    #[must_use]
    pub fn name(&self, vnet: VnetId) -> Option<&str> {
        self.0.iter().find(|(_, id)| **id == vnet).map(|(name, _)| name.as_str())
    }
}

/// A shard, as the dataplane sees it: a group of public addresses.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ShardConfig {
    /// Its public addresses, in ascending order, and whose they are; shared by all versions that have the same.
    pub addresses: Arc<[(Ipv4Addr, FrontendId)]>,
    /// Port blocks that are being taken back, to be fenced when nothing uses them (F4), by frontend and first port; shared
    /// by all versions that have the same.
    pub draining: Arc<[Draining]>,
}

/// A block on its way back to the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draining {
    /// The block.
    pub block: PortBlock,
    /// The control index at which it began to drain; identifies this reclaim (F5).
    pub reclaim_index: ControlIndex,
    /// What becomes of its mappings.
    pub on_reclaim: OnReclaim,
}

/// What happens to live flows on a draining block (D5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum OnReclaim {
    /// Mappings close silently, at once.
    Expire,
    /// They may end by themselves, within `DRAIN_MAX_MS`; what is left then closes silently.
    Drain,
    /// Mappings close at once, and both ends of a connection hear of it.
    Reset,
    /// They end by themselves, whenever that is: their backend has another way out now (D12).
    Keep,
}

/// How long a block may wait for its flows (D5).
pub const DRAIN_MAX_MS: u32 = 240_000;

/// A public address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The address.
    pub ip: Ipv4Addr,
    /// The shard that it belongs to.
    pub shard: ShardId,
}

/// What private traffic (S41) depends on besides groups and addresses.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Private {
    /// Whether it is routed at all: the log has had a place for it since level 2 (C2).
    pub routed: bool,
    /// The networks that each is connected to.
    pub connected: BTreeMap<VnetId, Vec<VnetId>>,
    /// Subnets whose hosts reach nobody but the gateway.
    pub isolated: Vec<(VnetId, Prefix)>,
    /// What is private to each network, whether anybody declared has it or not: its own space, that of the networks which it is
    /// connected to, and what is on premises.
    pub spaces: BTreeMap<VnetId, Vec<Prefix>>,
}

/// An inside subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The virtual network.
    pub vnet: VnetId,
    /// Its network.
    pub prefix: Prefix,
    /// The gateway address that backends send to; qnat answers ARP for it.
    pub gateway: Ipv4Addr,
}

/// The outside network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The network.
    pub prefix: Prefix,
    /// Next hop for everything that is not on-link; `None`: only on-link remotes are reachable.
    pub next_hop: Option<Ipv4Addr>,
}

impl Default for Outside {
    fn default() -> Self {
        Self { prefix: Prefix::NOWHERE, next_hop: None }
    }
}
