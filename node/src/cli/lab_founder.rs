//! The lab's founding: the same code that `qnat cluster init` runs, then the default resources, then patience with a
//! bound until every shard is served.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::member::{call_member, default_api};
use super::views;
use crate::answers::{ShardRow, Status};
use crate::client::ClientError;
use crate::daemon::config::NodeConfig;
use clap::ValueEnum as _;

use crate::daemon::data_config::{Cache, DataConfig, InsideConfig};
use crate::daemon::founding::{self, Begin, FounderSpec};
use crate::daemon::joining::{self, JoinSpec};
use crate::daemon::request::{DryRun, Request};
use crate::daemon::workers_config::WorkersConfig;
use qnat_lab::topology::{INSIDE_GATEWAY, INSIDE_NETWORK, INSIDE_PREFIX, OUTSIDE_PREFIX};
use qnat_lab::{Founder, LabConfig, LabNode, ProcessState};

/// Port of the peers' transport in the lab.
const PEER_PORT: u16 = 7800;
/// Where the lab keeps the key that signs members, in its directory.
const CA_DIR: &str = "founding-ca";
/// The lab's cluster name.
const CLUSTER: &str = "lab";
/// How long a fresh cluster may take to register all members, and again to serve all shards.
const START_BOUND: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For one look: a member that starts may be slow.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// Lines of a member's log that a failed start shows, for the log is removed with the lab.
const LOG_LINES: usize = 15;

/// Founds a lab.
#[derive(Clone, Copy, Debug)]
pub(super) struct LabFounder {
    /// The newest level of the replicated formats that the founders speak.
    pub(super) level: u16,
}

impl Founder for LabFounder {
    fn found(&self, lab: &LabConfig, nodes: &[LabNode]) -> Result<()> {
        let spec = |node: &LabNode| FounderSpec {
            id: node.id,
            peer: SocketAddr::new(IpAddr::V4(node.peer_address), PEER_PORT),
            api: default_api(),
            dir: node.dir.clone(),
        };
        let founders: Vec<FounderSpec> = nodes.iter().map(spec).collect();
        let begin = Begin::Anew { level: self.level };
        founding::found_cluster(CLUSTER, &founders, &lab.dir.join(CA_DIR), &data(lab), begin)?;
        founders.iter().try_for_each(|founder| set(&founder.dir, lab, self.level))
    }

    fn join(&self, lab: &LabConfig, node: &LabNode) -> Result<()> {
        let peer = |node: &LabNode| SocketAddr::new(IpAddr::V4(node.peer_address), PEER_PORT);
        let members = lab.lab_nodes().iter().filter(|other| other.id != node.id).map(|o| (o.id, peer(o))).collect();
        let asked = joining::request(&JoinSpec {
            cluster: CLUSTER.to_owned(),
            id: node.id,
            peer: peer(node),
            api: default_api(),
            members,
            dir: node.dir.clone(),
            data: data(lab),
        })?;
        let (_, signed) = joining::sign(&lab.dir.join(CA_DIR), &asked)?;
        let certificate = node.dir.join("signed.pem");
        fs::write(&certificate, signed).with_context(|| certificate.display().to_string())?;
        joining::accept(&node.dir, &certificate)?;
        set(&node.dir, lab, self.level)
    }

    fn after_start(&self, lab: &LabConfig, nodes: &[LabNode]) -> Result<()> {
        let (file, text) = match &lab.config_file {
            Some(file) => {
                let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
                (file.display().to_string(), text)
            }
            None => ("default resources of the lab".to_owned(), default_resources(lab)),
        };
        wait_until(lab, nodes, "all members to register", |status| not_registered(status, nodes))?;
        apply(lab, nodes, &Request::Apply { file, text, dry_run: DryRun::No, yes: false, plan: None })?;
        wait_until(lab, nodes, "every shard to be served", not_served)?;
        Ok(())
    }
}

/// Writes into a member's `node.toml` what this lab wants otherwise than founding does.
fn set(dir: &Path, lab: &LabConfig, level: u16) -> Result<()> {
    let file = dir.join("node.toml");
    let workers = WorkersConfig { count: lab.workers, cpus: Vec::new() };
    // Relative paths stay as they are.
    let mut config = NodeConfig { level, workers, ..NodeConfig::parse(Path::new("node.toml"), &read(&file)?)? };
    if let Some(cache) = &lab.cache {
        config.data.cache = Cache::from_str(cache, true).map_err(|why| anyhow!("cache {cache}: {why}"))?;
    }
    config.data.cache_flows = lab.cache_flows.unwrap_or(config.data.cache_flows);
    fs::write(&file, config.to_toml()).with_context(|| file.display().to_string())
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| file.display().to_string())
}

/// What keeps the shards from being placed; `None` if nothing does.
fn not_registered(status: &Status, nodes: &[LabNode]) -> Option<String> {
    let registered = |id: u32| status.nodes.iter().any(|row| row.node == id && row.incarnation.is_some());
    let missing: Vec<&str> = nodes.iter().filter(|node| !registered(node.id)).map(|node| node.name.as_str()).collect();
    if !missing.is_empty() {
        return Some(format!("not registered: {}", missing.join(", ")));
    }
    status.cluster.control_leader.is_none().then(|| "the control group has no leader".to_owned())
}

/// Which shards do not forward, and why; `None` if all do.
fn not_served(status: &Status) -> Option<String> {
    if status.shards.is_empty() {
        return Some("no shard is there yet".to_owned());
    }
    let idle = status.shards.iter().filter(|shard| shard.owner.is_none() || !shard.serves());
    let said = |shard: &ShardRow| if shard.serves() { "no owner yet".to_owned() } else { shard.serving.clone() };
    let idle: Vec<String> = idle.map(|shard| format!("shard {}: {}", shard.shard, said(shard))).collect();
    (!idle.is_empty()).then(|| idle.join("; "))
}

/// Looks at the members' status until nothing is missing. If it takes too long, says what one of them, by chance, logged.
fn wait_until(
    lab: &LabConfig,
    nodes: &[LabNode],
    goal: &str,
    missing: impl Fn(&Status) -> Option<String>,
) -> Result<()> {
    let began = Instant::now();
    for node in nodes.iter().cycle() {
        let now = qnat_lab::status(&lab.dir)?;
        if let Some(dead) = now.nodes.iter().find(|node| node.state == ProcessState::Dead) {
            bail!(
                "{} ended while waiting for {goal}; its last words:\n{}",
                dead.node.name,
                log_tail(&dead.node.log_path)
            );
        }
        let last = match views::merged_status(&lab.dir, &now, LOOK_TIMEOUT) {
            Some(status) => match missing(&status) {
                None => return Ok(()),
                Some(what) => what,
            },
            None => "no member answers".to_owned(),
        };
        if began.elapsed() > START_BOUND {
            let seconds = START_BOUND.as_secs();
            let log = log_tail(&node.log_path);
            bail!("waited {seconds} s for {goal}; {last}\nlast words of {}:\n{log}", node.name);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    bail!("a lab without members")
}

/// Applies; a member that cannot decide just now is passed over, since a configuration may be applied twice.
fn apply(lab: &LabConfig, nodes: &[LabNode], request: &Request) -> Result<()> {
    let began = Instant::now();
    for node in nodes.iter().cycle() {
        let applied = call_member(&lab.dir, node.id, default_api(), request, crate::client::CALL_TIMEOUT);
        match applied {
            Ok(_) => return Ok(()),
            Err(error) => {
                let undecided = error.downcast_ref::<ClientError>().is_some_and(ClientError::is_unreachable);
                ensure!(undecided && began.elapsed() < START_BOUND, "applying the resources: {}: {error:#}", node.name);
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    bail!("a lab without members")
}

fn log_tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| format!("    {line}\n"));
    let tail: String = tail.collect();
    if tail.is_empty() { "    (it wrote nothing)\n".to_owned() } else { tail }
}

/// One inside interface for each virtual network; for the only one, none is named.
fn data(lab: &LabConfig) -> DataConfig {
    if lab.virtual_networks == 1 {
        return DataConfig::default();
    }
    let inside = [("inside", 1), ("inside2", 2)].map(|(interface, network)| InsideConfig {
        interface: interface.to_owned(),
        virtual_network: Some(format!("vnet{network}")),
    });
    DataConfig { inside: inside.into(), ..DataConfig::default() }
}

/// One load balancer with all frontends, one pool with all backends, one outbound rule.
fn default_resources(lab: &LabConfig) -> String {
    let network = |n: u32| {
        format!(
            "[[virtual_network]]\nname = \"vnet{n}\"\n[[virtual_network.subnet]]\nname = \"default\"\n\
             prefix = \"{INSIDE_NETWORK}/{INSIDE_PREFIX}\"\ngateway = \"{INSIDE_GATEWAY}\"\n{}",
            if lab.isolated { "isolated = true\n" } else { "" }
        )
    };
    let mut text: String = (1..=lab.virtual_networks).map(network).collect();
    let mut push = |piece: std::fmt::Arguments<'_>| text.write_fmt(piece).expect("writing to a string cannot fail");
    let mut names = Vec::new();
    for (place, address) in lab.frontend_addresses().iter().enumerate() {
        let name = format!("pip{}", place + 1);
        push(format_args!("\n[[public_ip]]\nname = \"{name}\"\naddress = \"{address}\"\n"));
        names.push(format!("\"{name}\""));
    }
    let frontends = names.join(", ");
    push(format_args!("\n[[load_balancer]]\nname = \"lb1\"\nfrontends = [{frontends}]\n"));
    push(format_args!("[[load_balancer.pool]]\nname = \"pool1\"\n"));
    push(format_args!("[[load_balancer.outbound_rule]]\nname = \"out\"\npool = \"pool1\"\n"));
    for (k, address, network) in lab.placed_backends() {
        push(format_args!("\n[[instance]]\nname = \"b{k}\"\n[[instance.ip_configuration]]\n"));
        push(format_args!(
            "name = \"ipconfig1\"\nprivate_ip = \"{address}\"\nsubnet = \"vnet{network}/default\"\npool = \"lb1/pool1\"\n"
        ));
    }
    let [inet, _] = qnat_lab::topology::INET_ADDRESSES;
    let mask = u32::MAX << (32 - u32::from(OUTSIDE_PREFIX));
    let network = std::net::Ipv4Addr::from_bits(inet.to_bits() & mask);
    push(format_args!("\n[outside]\nnetwork = \"{network}/{OUTSIDE_PREFIX}\"\n"));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(status: Value) -> Status {
        serde_json::from_value(status).expect("a status")
    }

    #[test]
    fn the_default_resources_are_a_valid_configuration_at_every_size() {
        for (nodes, backends, frontends, virtual_networks) in
            [(3, 4, 3, 1), (3, 0, 1, 1), (7, 1000, 64, 1), (3, 4, 3, 2)]
        {
            let lab = LabConfig { frontends, virtual_networks, ..LabConfig::new(nodes, backends).expect("config") };
            let desired = control::config::parse("lab", &default_resources(&lab)).expect("valid");
            assert_eq!(desired.public_ips.len(), usize::try_from(frontends).expect("small"));
            assert_eq!(desired.instances.len(), usize::try_from(backends * virtual_networks).expect("small"));
            assert_eq!(desired.virtual_networks.len(), usize::try_from(virtual_networks).expect("small"));
        }
    }

    #[test]
    fn a_status_with_a_gap_says_which_one() {
        let lab = LabConfig::new(3, 0).expect("config");
        let nodes = lab.lab_nodes();
        let row = |node: u32, incarnation: Option<u64>| json!({"node": node, "incarnation": incarnation, "standing": "member"});
        let status = |leader: Option<u32>, second: Option<u64>| {
            let nodes = [row(1, Some(5)), row(2, second), row(3, Some(7))];
            told(json!({"cluster": {"control_leader": leader}, "nodes": nodes}))
        };
        let gap = not_registered(&status(Some(1), None), &nodes);
        assert_eq!(gap.as_deref(), Some("not registered: n2"));
        let leaderless = not_registered(&status(None, Some(6)), &nodes);
        assert_eq!(leaderless.as_deref(), Some("the control group has no leader"));
        let status = status(Some(2), Some(6));
        assert_eq!(not_registered(&status, &nodes), None);
    }

    #[test]
    fn serving_means_an_owner_and_yes() {
        let status = |owner: Option<u32>, serving: &str| {
            told(json!({"shards": [{"shard": 1, "owner": owner, "serving": serving, "origin": "founded"}]}))
        };
        assert_eq!(not_served(&status(Some(2), "yes")), None);
        assert_eq!(not_served(&status(Some(2), "no: no lease")).as_deref(), Some("shard 1: no: no lease"));
        assert_eq!(not_served(&status(None, "yes")).as_deref(), Some("shard 1: no owner yet"));
        assert!(not_served(&Status::default()).is_some());
    }
}
