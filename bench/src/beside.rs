//! The kernel's masquerade as one more gateway on the lab's own bridges: the same client, the same server and the same switch,
//! so that a measurement differs in the gateway alone. Which one a packet takes is said by the server's address that it goes to.
//! Must never touch other namespaces than its own, but for one route of the client's and two ports of the lab's bridges; all
//! of it goes with the lab.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use netio::netns;
use qnat_lab::Host;
use qnat_lab::topology::{FABRIC, INET_ADDRESSES};

use crate::nftables::{ip, masquerade};

const GATEWAY: &str = "qbench-gateway";
/// The gateway's address inside: no backend of a lab of a few has it.
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 255, 254);
/// And outside, where it translates to.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
/// The server's address that lies behind the cluster.
pub const BY_CLUSTER: Ipv4Addr = INET_ADDRESSES[0];
/// And the one that lies behind the masquerade, for the client that was told so.
pub const BY_MASQUERADE: Ipv4Addr = INET_ADDRESSES[1];

/// The gateway; dropping it takes it down.
#[derive(Debug)]
pub struct Beside;

impl Drop for Beside {
    fn drop(&mut self) {
        // What was not made yet needs no removal; its interfaces go with it, and their other ends with them.
        let _absent = netns::delete(GATEWAY);
    }
}

impl Beside {
    /// Hangs it on the bridges of the lab that is up, and has `client` reach [`BY_MASQUERADE`] by it.
    ///
    /// # Errors
    /// If a step fails.
    pub fn up(client: Host) -> Result<Self> {
        netns::delete(GATEWAY)?;
        netns::create(GATEWAY).context(GATEWAY)?;
        let this = Self;
        for (link, bridge, address) in
            [("in", "inside", format!("{INSIDE}/16")), ("out", "outside", format!("{OUTSIDE}/24"))]
        {
            let port = format!("qbench-{link}");
            ip(FABRIC, &["link", "add", &port, "type", "veth", "peer", "name", link, "netns", GATEWAY])?;
            ip(FABRIC, &["link", "set", &port, "master", bridge, "up"])?;
            ip(GATEWAY, &["link", "set", link, "up"])?;
            ip(GATEWAY, &["address", "add", &address, "dev", link])?;
        }
        netns::run_in(GATEWAY, || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        netns::run_in(GATEWAY, || masquerade("out"))??;
        let remote = format!("{BY_MASQUERADE}/32");
        ip(&client.namespace(), &["route", "add", &remote, "via", &INSIDE.to_string()])?;
        Ok(this)
    }
}
