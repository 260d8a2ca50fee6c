//! What the cluster is held against, beside the lab: the same client and the same server, so that a measurement differs in the way
//! alone. Which one a packet takes is said by the server's address that it goes to. Must never touch other namespaces than its own,
//! but for a route or an interface of both ends and two ports of the lab's bridges; all of it goes with the lab.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use netio::netns;
use qnat_lab::Host;
use qnat_lab::topology::{FABRIC, INET_ADDRESSES};

use crate::nftables::{self, ip, masquerade};
use crate::undo::Undo;

/// The masquerade's namespace.
pub(crate) const GATEWAY: &str = "qbench-gateway";
/// The gateway's address inside: no backend of a lab of a few has it.
pub(crate) const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 255, 254);
/// And outside, where it translates to.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
/// The server's address that lies behind the cluster.
pub const BY_CLUSTER: Ipv4Addr = INET_ADDRESSES[0];
/// And the one that lies behind the masquerade, for the client that was told so.
pub const BY_MASQUERADE: Ipv4Addr = INET_ADDRESSES[1];

const SWITCH: &str = "qbench-switch";
/// The server's address that lies behind the plain bridge.
pub const BY_BRIDGE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

/// What hangs beside the lab; dropping it takes it down.
#[derive(Debug)]
pub struct Beside {
    _undo: Undo,
}

impl Beside {
    fn new(namespace: &'static str) -> Result<Self> {
        let make = || {
            netns::delete(namespace)?;
            netns::create(namespace).context(namespace)
        };
        // Its interfaces go with it, and their other ends with them.
        let ((), undo) = Undo::of(make, || drop(netns::delete(namespace)))?;
        Ok(Self { _undo: undo })
    }

    /// The kernel's masquerade as one more gateway on the lab's own bridges: `client` reaches [`BY_MASQUERADE`] by it.
    ///
    /// # Errors
    /// If a step fails.
    pub fn masquerade(client: Host) -> Result<Self> {
        let hang = || {
            for (link, bridge) in [("in", "inside"), ("out", "outside")] {
                let port = format!("qbench-{link}");
                ip(FABRIC, &["link", "add", &port, "type", "veth", "peer", "name", link, "netns", GATEWAY])?;
                ip(FABRIC, &["link", "set", &port, "master", bridge, "up"])?;
            }
            let remote = format!("{BY_MASQUERADE}/32");
            ip(&client.namespace(), &["route", "add", &remote, "via", &INSIDE.to_string()])
        };
        Self::masquerade_that(hang)
    }

    /// The same, with interfaces `in` and `out` that `hang` brings.
    ///
    /// # Errors
    /// If a step fails.
    pub fn masquerade_that(hang: impl FnOnce() -> Result<()>) -> Result<Self> {
        let this = Self::new(GATEWAY)?;
        hang()?;
        for (link, address) in [("in", format!("{INSIDE}/16")), ("out", format!("{OUTSIDE}/24"))] {
            ip(GATEWAY, &["link", "set", link, "up"])?;
            ip(GATEWAY, &["address", "add", &address, "dev", link])?;
        }
        netns::run_in(GATEWAY, || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        netns::run_in(GATEWAY, || masquerade("out"))??;
        Ok(this)
    }

    /// A bridge that both ends hang on too, with rules of nftables for what passes; `server` is [`BY_BRIDGE`] there. They judge each
    /// packet by itself: a bridge has the kernel's connection tracking only by a module of its own.
    ///
    /// # Errors
    /// If a step fails.
    pub fn bridge(client: Host, server: Host) -> Result<Self> {
        let this = Self::new(SWITCH)?;
        ip(SWITCH, &["link", "add", "bridge", "type", "bridge"])?;
        ip(SWITCH, &["link", "set", "bridge", "up"])?;
        let network = u32::from(BY_BRIDGE) & !0xff;
        for (host, address) in [(client, Ipv4Addr::from(network + 1)), (server, BY_BRIDGE)] {
            let (port, host) = (format!("to-{}", address.octets()[3]), host.namespace());
            ip(SWITCH, &["link", "add", &port, "type", "veth", "peer", "name", "side", "netns", &host])?;
            ip(SWITCH, &["link", "set", &port, "master", "bridge", "up"])?;
            ip(&host, &["link", "set", "side", "up"])?;
            ip(&host, &["address", "add", &format!("{address}/24"), "dev", "side"])?;
        }
        netns::run_in(SWITCH, || nftables::bridge_rules(network.into()))??;
        Ok(this)
    }
}
