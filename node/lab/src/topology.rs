//! Names, addresses and MACs of the lab: pure arithmetic, the same in every run.
//!
//! `qnat-fabric` holds the bridges `inside` (10.0.0.0/16), `outside` (203.0.113.0/24) and `peers` (198.18.0.0/24), and
//! `inside2` with the addresses of `inside` if the lab has two virtual networks;
//! `qnat-n<i>` the nodes, `qnat-b<k>` the backends, `qnat-inet` the internet.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Namespace of the bridges.
pub const FABRIC: &str = "qnat-fabric";
/// Namespace of the internet's servers.
pub const INET: &str = "qnat-inet";
/// Addresses of the internet's servers.
pub const INET_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 11)];
/// Prefix length of the outside network.
pub const OUTSIDE_PREFIX: u8 = 24;
/// Gateway of the backends' subnet; answered by the cluster.
pub const INSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The backends' subnet.
pub const INSIDE_NETWORK: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
/// Prefix length of the backends' subnet.
pub const INSIDE_PREFIX: u8 = 16;
/// Prefix length of the peers' network.
pub const PEERS_PREFIX: u8 = 24;
/// Fewest and most nodes of a lab.
pub const NODES: std::ops::RangeInclusive<u32> = 1..=7;
/// Most virtual networks of a lab.
pub const VIRTUAL_NETWORKS_MAX: u32 = 2;
/// Most backends of a lab in each virtual network.
pub const BACKENDS_MAX: u32 = 250 * 16;
/// Most frontends of a lab: what the outside network has beside the internet's servers.
pub const FRONTENDS_MAX: u32 = 252;

/// A bridge of the fabric, and the interface of that name in each node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The network of the backends.
    Inside,
    /// The network of the public addresses.
    Outside,
    /// The members' own network.
    Peers,
    /// The network of a second virtual network's backends, in labs that have one.
    Inside2,
}

impl Network {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Inside, Self::Outside, Self::Peers, Self::Inside2];

    /// Those of a lab with so many virtual networks.
    #[must_use]
    pub fn of(virtual_networks: u32) -> &'static [Self] {
        if virtual_networks > 1 { &Self::ALL } else { &[Self::Inside, Self::Outside, Self::Peers] }
    }

    /// Those that the dataplane answers on.
    #[must_use]
    pub const fn is_data(self) -> bool {
        !matches!(self, Self::Peers)
    }

    /// Name of the bridge, and of the interface in a node.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inside => "inside",
            Self::Outside => "outside",
            Self::Peers => "peers",
            Self::Inside2 => "inside2",
        }
    }

    const fn octet(self) -> u8 {
        match self {
            Self::Inside => 1,
            Self::Outside => 2,
            Self::Peers => 3,
            Self::Inside2 => 4,
        }
    }

    /// MAC of the bridge itself.
    #[must_use]
    pub const fn bridge_mac(self) -> [u8; 6] {
        [0x0e, 0, 0, 0, 0, self.octet()]
    }
}

/// A host of the lab.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Host {
    /// Member `n<i>`, from 1.
    Node(u32),
    /// Backend `b<k>`, from 1.
    Backend(u32),
    /// The internet, `inet`.
    Inet,
}

impl std::str::FromStr for Host {
    type Err = anyhow::Error;

    /// `n1`, `b1` or `inet`.
    fn from_str(name: &str) -> anyhow::Result<Self> {
        let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n > 0 && n.to_string() == text);
        let host = match name.split_at_checked(1) {
            _ if name == "inet" => Some(Self::Inet),
            Some(("n", rest)) => number(rest).map(Self::Node),
            Some(("b", rest)) => number(rest).map(Self::Backend),
            _ => None,
        };
        host.ok_or_else(|| anyhow::anyhow!("no host is called {name:?}: use n1, b1 or inet"))
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(id) => write!(f, "n{id}"),
            Self::Backend(number) => write!(f, "b{number}"),
            Self::Inet => write!(f, "inet"),
        }
    }
}

impl Host {
    /// The namespace it lives in.
    #[must_use]
    pub fn namespace(self) -> String {
        format!("qnat-{self}")
    }
}

/// Whether a namespace of this name is the lab's.
#[must_use]
pub fn is_lab_namespace(name: &str) -> bool {
    name == FABRIC || name.strip_prefix("qnat-").is_some_and(|host| host.parse::<Host>().is_ok())
}

/// Name of the bridge port that leads to `host`.
#[must_use]
pub fn fabric_port(host: Host, network: Network) -> String {
    match (host, network) {
        (Host::Node(_), Network::Inside) => format!("{host}-in"),
        (Host::Node(_), Network::Outside) => format!("{host}-out"),
        (Host::Node(_), Network::Peers) => format!("{host}-peer"),
        (Host::Node(_), Network::Inside2) => format!("{host}-in2"),
        _ => host.to_string(),
    }
}

/// MAC of the interface of `host` on `network`: readable (`0a:00:00:<network>:<number>`, and 0b, 1e for backends and the
/// internet), locally administered, never a shard's.
#[must_use]
pub fn mac(host: Host, network: Network) -> [u8; 6] {
    let (kind, number) = match host {
        Host::Node(id) => (network.octet(), id),
        Host::Backend(number) => (0x0b, number),
        Host::Inet => (0x1e, 1),
    };
    let [_, _, hi, lo] = number.to_be_bytes();
    [0x0a, 0, 0, kind, hi, lo]
}

/// Address of backend `k`, from 1: 10.0.1.1 to 10.0.1.250, then 10.0.2.1 and so on.
#[must_use]
pub fn backend_address(k: u32) -> Ipv4Addr {
    let index = k.saturating_sub(1);
    Ipv4Addr::from_bits(u32::from(INSIDE_NETWORK) + ((index / 250 + 1) << 8) + index % 250 + 1)
}

/// Public address of frontend `k`, from 1: 203.0.113.1 to .9, then from .12 on (the internet's servers have .10 and .11).
#[must_use]
pub fn frontend_address(k: u32) -> Ipv4Addr {
    let last = if k < 10 { k } else { k + 2 };
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(203, 0, 113, 0)) + last)
}

/// Address of node `id` on the peers' network.
#[must_use]
pub fn peer_address(id: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + id)
}

/// One member as the lab lays it out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LabNode {
    /// Its number, from 1.
    pub id: u32,
    /// `n<id>`.
    pub name: String,
    /// The namespace it runs in.
    pub namespace: String,
    /// Its own directory.
    pub dir: PathBuf,
    /// What it is started with: `qnat node --config <this>`.
    pub config_path: PathBuf,
    /// What a wipe empties. Keep identity (certificate, key) outside it.
    pub data_dir: PathBuf,
    /// Where its output goes.
    pub log_path: PathBuf,
    /// Its address on the peers' network.
    pub peer_address: Ipv4Addr,
}

impl LabNode {
    /// Node `id` of the lab in `lab_dir`.
    #[must_use]
    pub fn new(id: u32, lab_dir: &Path) -> Self {
        let host = Host::Node(id);
        let dir = lab_dir.join(host.to_string());
        Self {
            id,
            name: host.to_string(),
            namespace: host.namespace(),
            config_path: dir.join("node.toml"),
            data_dir: dir.join("data"),
            log_path: dir.join("log"),
            dir,
            peer_address: peer_address(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_plan_and_skip_the_internets_own() {
        assert_eq!(backend_address(1), Ipv4Addr::new(10, 0, 1, 1));
        assert_eq!(backend_address(250), Ipv4Addr::new(10, 0, 1, 250));
        assert_eq!(backend_address(251), Ipv4Addr::new(10, 0, 2, 1));
        assert_eq!(frontend_address(9), Ipv4Addr::new(203, 0, 113, 9));
        assert_eq!(frontend_address(10), Ipv4Addr::new(203, 0, 113, 12));
        assert_eq!(frontend_address(FRONTENDS_MAX), Ipv4Addr::new(203, 0, 113, 254));
        assert_eq!(peer_address(7), Ipv4Addr::new(198, 18, 0, 7));
    }

    #[test]
    fn host_names_parse_in_one_spelling_only() {
        for host in [Host::Node(1), Host::Backend(12), Host::Inet] {
            assert_eq!(host.to_string().parse::<Host>().ok(), Some(host));
        }
        for name in ["", "n", "n0", "n01", "x1", "inet1", "b-1", "é1"] {
            assert!(name.parse::<Host>().is_err(), "{name:?} was taken");
        }
    }

    #[test]
    fn only_the_labs_own_namespaces_count_as_such() {
        for name in ["qnat-fabric", "qnat-inet", "qnat-n1", "qnat-b40"] {
            assert!(is_lab_namespace(name), "{name}");
        }
        for name in ["qnat", "qnat-", "qnat-nx", "fabric", "other", "qnat-bench"] {
            assert!(!is_lab_namespace(name), "{name}");
        }
    }

    #[test]
    fn no_two_interfaces_share_a_mac_and_port_names_fit() {
        let mut seen = std::collections::BTreeSet::new();
        for network in Network::ALL {
            assert!(seen.insert(network.bridge_mac()));
            for id in NODES {
                assert!(seen.insert(mac(Host::Node(id), network)));
                assert!(fabric_port(Host::Node(id), network).len() < 16);
            }
        }
        for k in 1..=BACKENDS_MAX {
            assert!(seen.insert(mac(Host::Backend(k), Network::Inside)));
        }
        assert!(seen.insert(mac(Host::Inet, Network::Outside)));
        assert!(seen.iter().all(|mac| mac[0] & 3 == 2), "locally administered unicast");
    }
}
