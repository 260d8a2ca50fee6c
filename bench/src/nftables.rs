//! The kernel's masquerade in the lab's topology: client, switch, gateway, switch, server, in namespaces of the bench's own.
//! And the sink that counts and drops what arrives, for both. Must never touch other namespaces or the host's rules.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use netio::netns;

use crate::load::FLOOD_PORTS;
use crate::undo::Undo;

/// The client's namespace.
pub const CLIENT: &str = "qbench-client";
/// The server's namespace.
pub const SERVER: &str = "qbench-server";
/// The server's address: that of the lab's internet.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The client's address.
pub const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
const GATEWAY: &str = "qbench-gateway";
const SWITCH: &str = "qbench-switch";
const ALL: [&str; 4] = [CLIENT, GATEWAY, SERVER, SWITCH];
/// Ports of the flows that stand.
pub(crate) const FLOOD: std::ops::Range<u16> = FLOOD_PORTS;
/// Only the initial namespace has it, and all others obey it.
const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const CONNTRACK_WANTED: u64 = 4 << 20;

/// The topology; dropping it takes it down.
#[derive(Debug)]
pub struct Masquerade {
    _namespaces: Undo,
    _room: Room,
}

/// Room for the connections that the kernel tracks; dropping it takes back what was raised.
#[derive(Debug)]
pub(crate) struct Room {
    _undo: Option<Undo>,
}

impl Room {
    /// Room for a flood of new flows. It is there to be raised once something is tracked.
    ///
    /// # Errors
    /// In another network namespace than the machine's first.
    pub(crate) fn raised() -> Result<Self> {
        let before = std::fs::read_to_string(CONNTRACK_MAX).with_context(|| CONNTRACK_MAX.to_owned())?;
        if before.trim().parse::<u64>()? >= CONNTRACK_WANTED {
            return Ok(Self { _undo: None });
        }
        let raise = || {
            std::fs::write(CONNTRACK_MAX, CONNTRACK_WANTED.to_string()).with_context(|| {
                format!(
                    "{CONNTRACK_MAX} is to be {CONNTRACK_WANTED}: only the machine's first network namespace may write it"
                )
            })
        };
        let lower = move || {
            if let Err(error) = std::fs::write(CONNTRACK_MAX, before) {
                eprintln!("{CONNTRACK_MAX} stays raised: {error}");
            }
        };
        let ((), undo) = Undo::of(raise, lower)?;
        Ok(Self { _undo: Some(undo) })
    }
}

impl Masquerade {
    /// Builds it afresh: no connection is tracked yet.
    ///
    /// # Errors
    /// If a step fails.
    pub fn up() -> Result<Self> {
        let remove = || ALL.iter().for_each(|name| drop(netns::delete(name)));
        let make = || {
            for name in ALL {
                netns::delete(name)?;
                netns::create(name).with_context(|| name.to_owned()).inspect_err(|_| remove())?;
            }
            Ok(())
        };
        let ((), namespaces) = Undo::of(make, remove)?;
        for (host, link, bridge) in [
            (CLIENT, "in", "inside"),
            (GATEWAY, "in", "inside"),
            (GATEWAY, "out", "outside"),
            (SERVER, "out", "outside"),
        ] {
            // Fails for the second host on a bridge: it is there.
            let _known = ip(SWITCH, &["link", "add", bridge, "type", "bridge"]);
            let port = format!("{}-{link}", host.trim_start_matches("qbench-"));
            ip(SWITCH, &["link", "add", &port, "type", "veth", "peer", "name", link, "netns", host])?;
            ip(SWITCH, &["link", "set", &port, "master", bridge, "up"])?;
            ip(SWITCH, &["link", "set", bridge, "up"])?;
            ip(host, &["link", "set", link, "up"])?;
        }
        ip(CLIENT, &["address", "add", &format!("{CLIENT_ADDRESS}/16"), "dev", "in"])?;
        ip(GATEWAY, &["address", "add", "10.0.0.1/16", "dev", "in"])?;
        ip(GATEWAY, &["address", "add", "203.0.113.1/24", "dev", "out"])?;
        ip(SERVER, &["address", "add", &format!("{SERVER_ADDRESS}/24"), "dev", "out"])?;
        ip(CLIENT, &["route", "add", "default", "via", "10.0.0.1"])?;
        netns::run_in(GATEWAY, || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        netns::run_in(GATEWAY, || masquerade("out"))??;
        netns::run_in(SERVER, sink)??;
        Ok(Self { _namespaces: namespaces, _room: Room::raised()? })
    }
}

/// Counts and drops the flood's datagrams in this namespace, before anything answers them.
///
/// # Errors
/// If `nft` does.
pub fn sink() -> Result<()> {
    let (first, last) = (FLOOD_PORTS.start, FLOOD_PORTS.end - 1);
    nft(&format!(
        "table ip qbench {{ counter delivered {{ }}\n chain sink {{ type filter hook prerouting priority -300; \
         udp dport {first}-{last} counter name delivered drop; }}\n}}"
    ))
}

/// The same of the small datagrams of flows that stand: others to the same ports, which have to be answered, pass.
///
/// # Errors
/// If `nft` does.
pub(crate) fn small_sink() -> Result<()> {
    let (first, last) = (FLOOD.start, FLOOD.end - 1);
    // With the header of UDP, 8 octets.
    nft(&format!(
        "table ip qbench {{ counter delivered {{ }}\n chain sink {{ type filter hook prerouting priority -300; \
         udp dport {first}-{last} udp length 26 counter name delivered drop; }}\n}}"
    ))
}

/// Has this namespace translate what leaves by an interface.
pub(crate) fn masquerade(interface: &str) -> Result<()> {
    nft(&format!(
        "table ip nat {{ chain post {{ type nat hook postrouting priority 100; oifname \"{interface}\" masquerade; }}\n}}"
    ))
}

/// Has this namespace's bridge pass what the network's hosts say to each other by TCP, UDP and ICMP, and nothing else but ARP.
pub(crate) fn bridge_rules(network: Ipv4Addr) -> Result<()> {
    nft(&format!(
        "table bridge qbench {{ chain pass {{ type filter hook forward priority 0; policy drop; ether type arp accept;\n \
         ip saddr {network}/24 ip daddr {network}/24 ip protocol {{ tcp, udp, icmp }} accept;\n}}\n}}"
    ))
}

/// Has this namespace answer ARP for a network of hosts that do not exist, and drop what comes for them.
pub(crate) fn strangers(network: Ipv4Addr, prefix: u8) -> Result<()> {
    let network = format!("{network}/{prefix}");
    let added = Command::new("ip").args(["route", "add", "local", &network, "dev", "lo"]).status().context("ip")?;
    ensure!(added.success(), "ip refused a local route to {network}");
    nft(&format!(
        "table ip strangers {{ chain sink {{ type filter hook prerouting priority -300; ip daddr {network} drop;\n}}\n}}"
    ))
}

/// Datagrams that the sink of this namespace has seen.
///
/// # Errors
/// If there is none.
pub fn delivered() -> Result<u64> {
    let output = Command::new("nft").args(["list", "counter", "ip", "qbench", "delivered"]).output().context("nft")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (_, rest) = text.split_once("packets ").with_context(|| format!("counter of the sink: {text}"))?;
    Ok(rest.split_whitespace().next().context("count")?.parse()?)
}

fn nft(rules: &str) -> Result<()> {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("nft")?;
    child.stdin.take().context("piped above")?.write_all(rules.as_bytes())?;
    ensure!(child.wait()?.success(), "nft refused: {rules}");
    Ok(())
}

/// Runs `ip` in a namespace.
pub(crate) fn ip(namespace: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(["-n", namespace]).args(arguments).output().context("ip")?;
    ensure!(output.status.success(), "ip -n {namespace} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
