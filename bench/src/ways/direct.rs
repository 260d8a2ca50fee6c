//! The set-up of `qnat-bench direct`: a member that hangs on its client and its server by a pair each, and the kernel's masquerade
//! that hangs on both of them likewise. No switch lies between, so that what arrives is what a gateway carries and little else.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use qnat::answers::{ConfigFile, FastPath};
use qnat::daemon::request::{Request, ResourceKind};
use qnat_lab::Host;
use qnat_lab::topology::{Network, backend_address};

use super::offered::Wire;
use super::sample::{Figure, Unit};
use crate::beside::{BY_MASQUERADE, GATEWAY, INSIDE, OUTSIDE};
use crate::lab::Lab;
use crate::nftables::ip;
use crate::offer::Bystander;

/// Changes of the configuration a second at most: each waits for the one before.
const CHANGES: f64 = 110.0;
const CLIENT: u32 = 1;
const MEMBER: Host = Host::Node(1);
const SEEN_WITHIN: Duration = Duration::from_secs(20);

/// Where the datagrams of the cluster's clients go, and those of the masquerade's.
pub(super) fn wires() -> [Wire; 2] {
    let (client, server) = (Host::Backend(CLIENT).namespace(), Host::Inet.namespace());
    let wire = |interface: &str, first: (String, &str)| Wire {
        client: (client.clone(), interface.to_owned()),
        source: backend_address(CLIENT),
        first: (first.0, first.1.to_owned()),
        server: (server.clone(), interface.to_owned()),
    };
    [wire("eth0", (MEMBER.namespace(), Network::Inside.name())), wire("eth1", (GATEWAY.to_owned(), "in"))]
}

/// Hangs the masquerade's gateway, which is there, on the client and the server: both keep their addresses.
///
/// # Errors
/// If a step fails.
pub(super) fn hang_masquerade() -> Result<()> {
    let (client, server) = (Host::Backend(CLIENT).namespace(), Host::Inet.namespace());
    let source = backend_address(CLIENT).to_string();
    let to_server = BY_MASQUERADE.to_string();
    for (link, host) in [("in", &client), ("out", &server)] {
        ip(GATEWAY, &["link", "add", link, "type", "veth", "peer", "name", "eth1", "netns", host])?;
        ip(host, &["link", "set", "eth1", "up"])?;
    }
    let way = |host: &str, to: Ipv4Addr| ip(host, &["route", "add", &format!("{to}/32"), "dev", "eth1"]);
    way(&client, INSIDE)?;
    way(&server, OUTSIDE)?;
    let via = INSIDE.to_string();
    ip(&client, &["route", "add", &format!("{to_server}/32"), "via", &via, "dev", "eth1", "src", &source])
}

/// Does `work` while others change what concerns none of the flows, a hundred times a second if it can be; how often it was.
///
/// # Errors
/// As `work`, or if a change is refused.
pub(super) fn amid_changes<T>(lab: &Lab, work: impl FnOnce() -> Result<T>) -> Result<(T, Figure)> {
    let ConfigFile { file, .. } = lab.ask(1, &Request::Get { kind: ResourceKind::Config })?;
    let (over, began) = (AtomicBool::new(false), Instant::now());
    let change = || -> Result<u64> {
        for turn in 0.. {
            if over.load(Ordering::Relaxed) {
                return Ok(turn);
            }
            let priority = 100 + turn % 2;
            lab.apply(&format!(
                "{file}\n[[security_group]]\nname = \"bench\"\n[[security_group.rule]]\nname = \"r\"\npriority = {priority}\n\
                 direction = \"outbound\"\naccess = \"deny\"\nprotocol = \"udp\"\n"
            ))?;
            let due = Duration::from_secs_f64((turn + 1) as f64 / CHANGES);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        unreachable!("it ends when it is over")
    };
    let done = std::thread::scope(|scope| -> Result<(T, Figure)> {
        let changing = scope.spawn(change);
        let done = work();
        over.store(true, Ordering::Relaxed);
        let changes = changing.join().map_err(|_| anyhow!("whoever changes panicked"))??;
        let value = changes as f64 / began.elapsed().as_secs_f64();
        Ok((done?, Figure { unit: Unit::Changes, value }))
    })?;
    lab.apply(&file)?;
    Ok(done)
}

/// By which way the kernel hands on what goes out: to the device, past which it has a way, or by that way.
#[derive(Debug, Default)]
pub(super) struct Exit {
    /// Whoever is not the member's at the device's egress keeps frames from passing it by.
    bystander: RefCell<Option<Bystander>>,
}

impl Exit {
    /// Chooses one.
    ///
    /// # Errors
    /// If the member does not see to it.
    pub(super) fn choose(&self, lab: &Lab, by_device: bool) -> Result<()> {
        let member = MEMBER.namespace();
        if by_device && self.bystander.borrow().is_none() {
            *self.bystander.borrow_mut() = Some(Bystander::at(&member, Network::Outside.name())?);
        } else if !by_device {
            self.bystander.take();
        }
        let began = Instant::now();
        while beyond(lab)? == by_device {
            if began.elapsed() > SEEN_WITHIN {
                bail!("the member does not see the filter");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Whether the kernel hands what goes out straight to the far end.
fn beyond(lab: &Lab) -> Result<bool> {
    let fast: FastPath = lab.ask(1, &Request::Cache { turn: None })?;
    Ok(fast.interfaces.iter().any(|(name, path)| name == Network::Outside.name() && path.ends_with(", far end")))
}
