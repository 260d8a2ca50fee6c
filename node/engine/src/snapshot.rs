//! The compiled, immutable configuration that workers judge packets by. Made by `control::compile`, published whole.

use std::net::Ipv4Addr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

pub use crate::backends::Backends;
use crate::ids::{BackendId, ControlIndex, FrontendId, Mac, NodeId, PortBlock, ShardId, VnetId};

/// Hash maps of the engine: keyed hashing with a fixed seed per process role, so that iteration order is never relied on.
pub type Map<K, V> = HashMap<K, V, FixedState>;

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
    /// All public addresses.
    pub frontends: Map<FrontendId, Frontend>,
    /// Frontends by address.
    pub frontend_by_ip: Map<Ipv4Addr, FrontendId>,
    /// All backends (IP configurations), with their leases.
    pub backends: Backends,
    /// Backends by virtual network and address; shared by all versions of one configuration.
    pub backend_by_ip: Arc<Map<(VnetId, Ipv4Addr), BackendId>>,
    /// Inside subnets, with their gateway addresses.
    pub subnets: Vec<Subnet>,
    /// The outside network that the data interface is attached to.
    pub outside: Outside,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLinks {
    /// The node.
    pub node: NodeId,
    /// Its own MAC on the inside network.
    pub inside: Mac,
    /// Its own MAC on the outside network.
    pub outside: Mac,
}

/// A shard, as the dataplane sees it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ShardConfig {
    /// Its frontends, in ascending order.
    pub frontends: Vec<FrontendId>,
    /// Port blocks that are being taken back, to be fenced when nothing uses them (F4).
    pub draining: Vec<Draining>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReclaim {
    /// Mappings close silently, at once.
    Expire,
    /// They may end by themselves, within `DRAIN_MAX_MS`; what is left then closes silently.
    Drain,
    /// Mappings close at once, and both ends of a connection hear of it.
    Reset,
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

/// An IP configuration that may open flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its virtual network.
    pub vnet: VnetId,
    /// Its private address.
    pub ip: Ipv4Addr,
    /// Who alone has it, if that was declared; else whoever answers for it (I43).
    pub mac: Option<Mac>,
    /// Its home shard (M3): decides the vMAC that answers its ARP and where its flows are translated.
    pub home: ShardId,
    /// Its lease: the blocks that it may open flows on, without draining ones. Empty means no outbound path.
    pub lease: Vec<PortBlock>,
    /// Idle timeout of its flows (S13).
    pub idle_timeout_ms: u32,
    /// TCP resets to both sides at idle timeout.
    pub tcp_reset_on_idle: TcpReset,
    /// How long its flows live (D7).
    pub profile: Profile,
    /// How its flows share ports.
    pub sharing: Sharing,
    /// Who may answer.
    pub filtering: Filtering,
}

/// Which flows of a backend may have one public port (S8, S9, R3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Those to distinct remote tuples.
    #[default]
    Tuple,
    /// Those to distinct remote addresses.
    Address,
    /// Those of one inside address and port, which all have it: endpoint-independent mapping (RFC 4787 REQ-1).
    Endpoint,
}

/// What passes inwards to a port with a mapping (R6); anything but the first needs `Sharing::Endpoint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Filtering {
    /// Packets of exactly the remote tuple.
    #[default]
    Tuple,
    /// Packets of every remote address that a mapping of the port goes to (RFC 4787 REQ-8, second choice).
    Address,
    /// All (RFC 4787 REQ-8, first choice).
    Open,
}

/// Translation profile of an outbound rule (D7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Profile {
    /// The rule's idle timeout.
    #[default]
    Azure,
    /// Timers of the RFCs: 2 h 4 min established TCP, 5 min UDP (R14).
    Rfc,
}

/// `enable_tcp_reset` of an outbound rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TcpReset {
    /// Flows end silently.
    #[default]
    Off,
    /// Both sides get a reset.
    On,
}

/// An inside subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The virtual network.
    pub vnet: VnetId,
    /// Network address.
    pub network: Ipv4Addr,
    /// Prefix length.
    pub prefix_len: u8,
    /// The gateway address that backends send to; qnat answers ARP for it.
    pub gateway: Ipv4Addr,
}

/// The outside network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside {
    /// Network address.
    pub network: Ipv4Addr,
    /// Prefix length.
    pub prefix_len: u8,
    /// Next hop for everything that is not on-link; `None`: only on-link remotes are reachable.
    pub next_hop: Option<Ipv4Addr>,
}

impl Default for Outside {
    fn default() -> Self {
        Self { network: Ipv4Addr::UNSPECIFIED, prefix_len: 32, next_hop: None }
    }
}
