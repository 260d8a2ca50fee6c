//! What one run is configured as: the rule of each backend, what the links take, and how much a backend may have. Compiled
//! to the snapshot that a member would load.

use std::net::Ipv4Addr;
use std::sync::Arc;
use words::Prefix;

use engine::ids::{BackendId, ControlIndex, FrontendId, Link, Mac, NodeId, PortBlock, ShardId, Side, VnetId};
use engine::snapshot::{
    Backend, Filtering, Frontend, NodeLinks, Outside, Params, Profile, Sharing, Snapshot, Subnet, TcpReset, Ways,
};

use crate::guard::Guard;

/// The one shard.
pub const SHARD: ShardId = ShardId(1);
/// Its public address.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Another one, which in some worlds is the backend's own that has no lease.
pub const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
/// That backend's place.
pub const OWNER: usize = BACKENDS.len() - 1;
/// The router towards the internet.
pub const UPSTREAM: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The virtual networks, with one subnet and one gateway address (D14).
pub const NETWORKS: [VnetId; 2] = [VnetId(0), VnetId(1)];
/// The backends' addresses: two backends of each network, the first of which have one address. The last has no lease.
pub const BACKENDS: [Ipv4Addr; 4] =
    [Ipv4Addr::new(10, 0, 0, 4), Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 4), Ipv4Addr::new(10, 0, 0, 7)];
/// Ports that each of the backends with a lease has; few, so that they run out.
pub const PORTS_EACH: u16 = 32;
/// The gateway's address inside.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

const FIRST_PORT: u16 = 2048;
const OWN_FRONTEND: FrontendId = FrontendId(2);

fn id_of(place: usize) -> BackendId {
    BackendId(u32::try_from(place).expect("few") + 1)
}

/// The network of the backend at `place` in `BACKENDS`.
#[must_use]
pub const fn network_of(place: usize) -> VnetId {
    NETWORKS[place / 2]
}

/// The link by which it is reached.
#[must_use]
pub const fn link_of(place: usize) -> Link {
    Link::Inside(network_of(place))
}

/// The backend of this address in a network.
#[must_use]
pub fn place_of(network: VnetId, ip: Ipv4Addr) -> Option<usize> {
    (0..BACKENDS.len()).find(|place| (network_of(*place), BACKENDS[*place]) == (network, ip))
}

/// The MAC address of the host at `ip` on a link. Hosts of one address in two networks have different ones.
#[must_use]
pub fn mac_of(link: Link, ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x52, if link == Link::Inside(NETWORKS[1]) { 0x10 } else { 0 }, a, b, c, d]
}

/// The ports that the backend at `place` in `BACKENDS` was granted.
#[must_use]
pub fn lease_of(place: usize) -> std::ops::Range<u16> {
    let first = FIRST_PORT + u16::try_from(place).expect("few backends") * PORTS_EACH;
    if place + 1 == BACKENDS.len() { first..first } else { first..first + PORTS_EACH }
}

/// A backend's outbound rule (D7, S8, S9, R3, R6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rule {
    /// How long its mappings live.
    pub profile: Profile,
    /// How they share ports.
    pub sharing: Sharing,
    /// Who may answer.
    pub filtering: Filtering,
}

impl Rule {
    /// All that a configuration can ask for.
    pub const ALL: [Self; 5] = [
        Self { profile: Profile::Azure, sharing: Sharing::Tuple, filtering: Filtering::Tuple },
        Self { profile: Profile::Azure, sharing: Sharing::Address, filtering: Filtering::Tuple },
        Self { profile: Profile::Rfc, sharing: Sharing::Endpoint, filtering: Filtering::Tuple },
        Self { profile: Profile::Rfc, sharing: Sharing::Endpoint, filtering: Filtering::Address },
        Self { profile: Profile::Rfc, sharing: Sharing::Endpoint, filtering: Filtering::Open },
    ];
}

/// What one run is configured as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct World {
    /// By place in `BACKENDS`.
    pub rules: [Rule; 4],
    /// Octets of the largest IP packet, inside and outside (R11).
    pub mtu: [u16; 2],
    /// Whether the last backend has an address of its own, and who may begin something with it (S23, S26).
    pub own: Option<Guard>,
    /// R26; 0: hosts offer what they like.
    pub mss_max: u16,
    /// R21: flows of one backend, and how many it may open per second and at once.
    pub flows_max: u32,
    /// The second of them.
    pub rate_max: u32,
}

impl Default for World {
    fn default() -> Self {
        let Params { flows_per_backend_max: flows_max, new_flows_per_second_max: rate_max, .. } = Params::default();
        Self { rules: [Rule::default(); 4], own: None, mtu: [1500; 2], mss_max: 0, flows_max, rate_max }
    }
}

impl World {
    /// What a link takes; both networks take the same.
    #[must_use]
    pub const fn mtu_of(&self, link: Link) -> u16 {
        match link.side() {
            Side::Inside => self.mtu[0],
            Side::Outside => self.mtu[1],
        }
    }

    /// The public address of a backend.
    #[must_use]
    pub const fn public_of(&self, place: usize) -> Ipv4Addr {
        if place == OWNER && self.own.is_some() { OWN } else { PUBLIC }
    }

    /// The snapshot that the member with this number loads; there are two members.
    #[must_use]
    pub fn snapshot(&self, member: u8) -> Snapshot {
        let links = |n: u8| NodeLinks {
            node: NodeId(u32::from(n)),
            inside: vec![(NETWORKS[0], Mac([0x52, 1, 0, 0, 0, n])), (NETWORKS[1], Mac([0x52, 3, 0, 0, 0, n]))],
            outside: Mac([0x52, 2, 0, 0, 0, n]),
        };
        let prefix = Prefix { network: Ipv4Addr::new(10, 0, 0, 0), len: 24 };
        let subnet = |vnet| Subnet { vnet, prefix, gateway: GATEWAY };
        let frontend = FrontendId(1);
        let mut s = Snapshot {
            control_index: ControlIndex(10),
            params: Params {
                key: [11, 22],
                mss_max: self.mss_max,
                flows_per_backend_max: self.flows_max,
                new_flows_per_second_max: self.rate_max,
                ..Params::default()
            },
            me: Some(links(member)),
            peers: vec![links(3 - member)],
            subnets: NETWORKS.map(subnet).to_vec(),
            outside: Outside {
                prefix: Prefix { network: Ipv4Addr::new(203, 0, 113, 0), len: 24 },
                next_hop: Some(UPSTREAM),
            },
            ..Snapshot::default()
        };
        let own = self.own.map(|_| OWN_FRONTEND);
        let frontends = [Some((frontend, PUBLIC)), own.map(|own| (own, OWN))].into_iter().flatten();
        s.put_frontends(frontends.map(|(id, ip)| (id, Frontend { ip, shard: SHARD })));
        if let Some(guard) = self.own {
            let owner = id_of(OWNER);
            Arc::make_mut(&mut s.rules).put_own(OWN_FRONTEND, owner);
            s.security = Arc::new(guard.groups(owner));
        }
        for (place, ip) in BACKENDS.into_iter().enumerate() {
            let ports = lease_of(place);
            let block = PortBlock { frontend, start: ports.start, len: PORTS_EACH };
            let lease = if ports.is_empty() { Vec::new() } else { vec![block] };
            let Rule { profile, sharing, filtering } = self.rules[place];
            let backend = Backend {
                vnet: network_of(place),
                ip,
                mac: None,
                home: SHARD,
                lease,
                ways: Ways { own: own.filter(|_| place == OWNER), ..Ways::default() },
                idle_timeout_ms: 240_000,
                tcp_reset_on_idle: TcpReset::Off,
                profile,
                sharing,
                filtering,
            };
            s.put_backend(id_of(place), backend);
        }
        s
    }
}
