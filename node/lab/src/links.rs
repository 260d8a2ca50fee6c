//! Builds the lab's links over netlink: bridges, virtual Ethernet pairs, addresses, routes, and the few kernel settings
//! that keep a node's own stack out of the data path. Must leave no trace outside the lab's namespaces: every link is
//! made inside one of them, so it ends with them.

use std::fs;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result};
use netio::netns;
use rtnetlink::packet_route::link::{BridgeStpState, InfoData, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::config::LabConfig;
use super::topology::{
    FABRIC, Host, INET, INET_ADDRESSES, INSIDE_GATEWAY, INSIDE_PREFIX, Network, OUTSIDE_PREFIX, PEERS_PREFIX,
    backend_address, fabric_port, mac, peer_address,
};

/// Makes all namespaces and links of `config`.
pub(super) fn build(config: &LabConfig) -> Result<()> {
    create_namespace(FABRIC)?;
    in_namespace(FABRIC, |netlink| async move {
        // A switch judges no IP header: else the fabric would drop malformed packets before a member sees them.
        set("bridge/bridge-nf-call-iptables", "0")?;
        for &network in Network::of(config.virtual_networks) {
            add_bridge(&netlink, network).await.with_context(|| format!("bridge {}", network.name()))?;
        }
        Ok(())
    })?;
    let inet = INET_ADDRESSES.map(|address| (address, OUTSIDE_PREFIX));
    if config.direct {
        return build_direct(&inet).context("without switches");
    }
    for id in 1..=config.nodes {
        build_node(id, config.virtual_networks).with_context(|| format!("node n{id}"))?;
    }
    for (k, address, network) in config.placed_backends() {
        let network = if network == 1 { Network::Inside } else { Network::Inside2 };
        build_host(Host::Backend(k), network, &[(address, INSIDE_PREFIX)], Some(INSIDE_GATEWAY))
            .with_context(|| format!("backend b{k}"))?;
        if config.isolated {
            isolate(Host::Backend(k), network).with_context(|| format!("backend b{k}"))?;
        }
    }
    build_host(Host::Inet, Network::Outside, &inet, None).with_context(|| INET.to_owned())
}

/// The first member, backend and the internet, without switches between them.
fn build_direct(inet: &[(Ipv4Addr, u8)]) -> Result<()> {
    let (member, backend) = (Host::Node(1), Host::Backend(1));
    for host in [member, backend, Host::Inet] {
        create_namespace(&host.namespace())?;
    }
    plug(member, Network::Peers, Network::Peers.name())?;
    pair(member, Network::Inside, backend)?;
    pair(member, Network::Outside, Host::Inet)?;
    set_up_node(1, Network::of(1))?;
    set_up_host(backend, &[(backend_address(1), INSIDE_PREFIX)], Some(INSIDE_GATEWAY))?;
    set_up_host(Host::Inet, inet, None)
}

/// A host with one interface `eth0` on `network`, the given addresses and default gateway. The tests hang further hosts
/// into the fabric with it.
pub(super) fn build_host(
    host: Host,
    network: Network,
    addresses: &[(Ipv4Addr, u8)],
    gateway: Option<Ipv4Addr>,
) -> Result<()> {
    create_namespace(&host.namespace())?;
    plug(host, network, "eth0")?;
    set_up_host(host, addresses, gateway)
}

fn set_up_host(host: Host, addresses: &[(Ipv4Addr, u8)], gateway: Option<Ipv4Addr>) -> Result<()> {
    in_namespace(&host.namespace(), |netlink| async move {
        for &(address, prefix) in addresses {
            add_address(&netlink, "eth0", address, prefix).await?;
        }
        set_up(&netlink, "eth0").await?;
        if let Some(gateway) = gateway {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
            netlink.route().add(route).execute().await.context("default route")?;
        }
        Ok(())
    })
}

/// A member's namespace, with an interface on each network.
pub(super) fn build_node(id: u32, virtual_networks: u32) -> Result<()> {
    let host = Host::Node(id);
    create_namespace(&host.namespace())?;
    let networks = Network::of(virtual_networks);
    for &network in networks {
        plug(host, network, network.name())?;
    }
    set_up_node(id, networks)
}

fn set_up_node(id: u32, networks: &'static [Network]) -> Result<()> {
    in_namespace(&Host::Node(id).namespace(), |netlink| async move {
        set("ipv4/ip_forward", "0")?;
        // The larger of "all" and the interface's own value counts.
        set("ipv4/conf/all/rp_filter", "0")?;
        for network in networks.iter().filter(|network| network.is_data()) {
            quiet(*network)?;
        }
        add_address(&netlink, Network::Peers.name(), peer_address(id), PEERS_PREFIX).await?;
        for network in networks {
            set_up(&netlink, network.name()).await?;
        }
        Ok(())
    })
}

/// The dataplane answers ARP on a data network, with the shards' addresses; the kernel never does.
fn quiet(network: Network) -> Result<()> {
    let name = network.name();
    set(&format!("ipv4/conf/{name}/rp_filter"), "0")?;
    set(&format!("ipv4/conf/{name}/arp_ignore"), "8")
}

/// Deletes a node's interface and makes it again.
pub(super) fn remake(id: u32, network: Network) -> Result<()> {
    let host = Host::Node(id);
    in_namespace(&host.namespace(), |netlink| async move {
        netlink.link().del(index_of(network.name())?).execute().await.context("deleting")
    })?;
    plug(host, network, network.name())?;
    in_namespace(&host.namespace(), |netlink| async move {
        quiet(network)?;
        set_up(&netlink, network.name()).await
    })
}

/// A new namespace with loopback up and without IPv6 (no neighbour or router chatter in captures).
fn create_namespace(name: &str) -> Result<()> {
    netns::create(name).with_context(|| format!("namespace {name}"))?;
    in_namespace(name, |netlink| async move {
        for scope in ["all", "default"] {
            set(&format!("ipv6/conf/{scope}/disable_ipv6"), "1")?;
        }
        set_up(&netlink, "lo").await
    })
}

async fn add_bridge(netlink: &Handle, network: Network) -> Result<()> {
    // No spanning tree and no forward delay: a port forwards from the moment it is plugged in.
    let bridge = LinkBridge::new(network.name())
        .address(network.bridge_mac().to_vec())
        .stp_state(BridgeStpState::Disabled)
        .forward_delay(0)
        .mcast_snooping(false)
        .build();
    Ok(netlink.link().add(bridge).execute().await?)
}

/// Connects `host` to the bridge of `network`, with interface `interface` at the host's end.
fn plug(host: Host, network: Network, interface: &str) -> Result<()> {
    let far = netns::open(&host.namespace())?;
    let far_fd: RawFd = far.as_raw_fd();
    in_namespace(FABRIC, |netlink| async move {
        let host_end =
            LinkMessageBuilder::<LinkUnspec>::new().name(interface.to_owned()).address(mac(host, network).to_vec());
        let port_mac = {
            let [_, b, c, d, e, f] = mac(host, network);
            [0x0e, b, c, d, e, f]
        };
        let pair = LinkVeth::new(&fabric_port(host, network), interface)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(host_end.setns_by_fd(far_fd).build())))
            .address(port_mac.to_vec())
            .controller(index_of(network.name())?)
            .up()
            .build();
        netlink.link().add(pair).execute().await.with_context(|| format!("veth to {host} on {}", network.name()))
    })
}

/// Connects a member's interface of `network` to the interface `eth0` of `far`.
fn pair(member: Host, network: Network, far: Host) -> Result<()> {
    let far_namespace = netns::open(&far.namespace())?;
    let far_fd: RawFd = far_namespace.as_raw_fd();
    in_namespace(&member.namespace(), |netlink| async move {
        let far_end =
            LinkMessageBuilder::<LinkUnspec>::new().name("eth0".to_owned()).address(mac(far, network).to_vec());
        let pair = LinkVeth::new(network.name(), "eth0")
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far_end.setns_by_fd(far_fd).build())))
            .address(mac(member, network).to_vec())
            .build();
        netlink.link().add(pair).execute().await.with_context(|| format!("veth from {member} to {far}"))
    })
}

/// From now on the bridge passes nothing between `host` and others that are isolated.
fn isolate(host: Host, network: Network) -> Result<()> {
    in_namespace(FABRIC, |netlink| async move {
        let port = fabric_port(host, network);
        let message = LinkBridgePort::new(index_of(&port)?).isolated(true).build();
        netlink.link().set_port(message).execute().await.with_context(|| format!("isolating {port}"))
    })
}

/// Takes a node's cables out. They would go with its namespace too, but some time later.
pub(super) fn unplug_node(id: u32) -> Result<()> {
    in_namespace(FABRIC, |netlink| async move {
        for network in Network::ALL {
            let port = fabric_port(Host::Node(id), network);
            // One that is not there needs no removal: an attempt to build the node ended early.
            if let Ok(index) = index_of(&port) {
                netlink.link().del(index).execute().await.with_context(|| port.clone())?;
            }
        }
        Ok(())
    })
}

async fn add_address(netlink: &Handle, interface: &str, address: Ipv4Addr, prefix: u8) -> Result<()> {
    let request = netlink.address().add(index_of(interface)?, IpAddr::V4(address), prefix);
    request.execute().await.with_context(|| format!("address {address} on {interface}"))
}

async fn set_up(netlink: &Handle, interface: &str) -> Result<()> {
    let message = LinkUnspec::new_with_index(index_of(interface)?).up().build();
    netlink.link().set(message).execute().await.with_context(|| format!("{interface} up"))
}

/// The index of an interface in the calling thread's namespace.
fn index_of(interface: &str) -> Result<u32> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    netdevice::name_to_index(&socket, interface).with_context(|| format!("interface {interface}"))
}

/// Writes a setting of the calling thread's namespace.
/// What a kernel may have been built without.
const OPTIONAL: [&str; 2] = ["ipv6/", "bridge/"];

fn set(key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{key}");
    match fs::write(&path, value) {
        // A kernel without IPv6, or whose bridges never ask netfilter, needs no telling.
        Err(error) if error.kind() == ErrorKind::NotFound && OPTIONAL.iter().any(|kind| key.starts_with(kind)) => {
            Ok(())
        }
        other => other.with_context(|| path),
    }
}

/// Runs netlink work inside a namespace, on a thread and runtime of its own.
fn in_namespace<F, W>(name: &str, work: W) -> Result<()>
where
    W: FnOnce(Handle) -> F + Send,
    F: Future<Output = Result<()>>,
{
    netns::run_in(name, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (connection, netlink, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            work(netlink).await
        })
    })
    .with_context(|| format!("namespace {name}"))?
}
