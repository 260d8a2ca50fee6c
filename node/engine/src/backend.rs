//! An IP configuration, as the packet path knows it.

use std::net::Ipv4Addr;

use crate::ids::{FrontendId, Mac, PortBlock, ShardId, VnetId};
use crate::record::Scenario;

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
    /// Its lease: the blocks that it may open flows on, without draining ones. Empty and without an address of its own it has
    /// no outbound path.
    pub lease: Vec<PortBlock>,
    /// What else decides by which way its flows leave.
    pub ways: Ways,
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

/// The ways out that a backend has besides the ports of its lease (S5, D12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// The public address that is its own (S2): all new flows leave by it.
    pub own: Option<FrontendId>,
    /// Under which right the ports of its lease are used: `Pool` or `Default`.
    pub granted: Scenario,
    /// Why it has none of these, if it has none.
    pub without: Without,
}

/// Why a backend has no way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Without {
    /// Nothing is granted to it, or not yet.
    #[default]
    NoPath,
    /// Its subnet keeps it from the system's addresses, and it has nothing else (D11).
    Barred,
}

impl Default for Ways {
    fn default() -> Self {
        Self { own: None, granted: Scenario::Pool, without: Without::NoPath }
    }
}

/// Whether a port belongs to the lease.
pub(crate) fn in_lease(lease: &[PortBlock], frontend: FrontendId, port: u16) -> bool {
    lease.iter().any(|b| b.frontend == frontend && b.contains(port))
}

impl Backend {
    /// Whether flows of it may stand on a public port under a right.
    #[must_use]
    pub fn has(&self, scenario: Scenario, frontend: FrontendId, port: u16) -> bool {
        match scenario {
            Scenario::Pool | Scenario::Default => in_lease(&self.lease, frontend, port),
            Scenario::OwnOut | Scenario::OwnIn => self.ways.own == Some(frontend),
            Scenario::Rule | Scenario::Private => false,
        }
    }

    /// Under which right its new flows leave: an address of its own is before its pool, and that before what the system chose (S5,
    /// D29).
    pub(crate) const fn way_out(&self) -> Scenario {
        if self.ways.own.is_some() { Scenario::OwnOut } else { self.ways.granted }
    }
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

impl Sharing {
    /// All, in the order of their discriminants.
    pub(crate) const ALL: [Self; 3] = [Self::Tuple, Self::Address, Self::Endpoint];
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

#[cfg(test)]
impl Backend {
    /// One for tests, told apart by its address.
    pub(crate) fn numbered(n: u32) -> Self {
        Self {
            vnet: VnetId(0),
            ip: Ipv4Addr::from(n),
            mac: None,
            home: ShardId(1),
            lease: Vec::new(),
            ways: Ways::default(),
            idle_timeout_ms: 240_000,
            tcp_reset_on_idle: TcpReset::Off,
            profile: Profile::Azure,
            sharing: Sharing::Tuple,
            filtering: Filtering::Tuple,
        }
    }
}
