//! Founding a cluster (N5): the root of trust, one certificate and one `node.toml` per founder, and data directories that
//! all begin with the same genesis state.
//!
//! The only place that founds. It must never write over anything: a data directory that belongs to a cluster is refused,
//! for a founder that forgot would vote acknowledged entries away. Called by `qnat cluster init` and by the lab.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use consensus::control::storage::{ClusterId, LogStore};
use control::limits::NODES_MAX;
use control::registry::Founder;
use control::state::State;
use engine::ids::NodeId;
use netio::ca::{ClusterCa, IssuedPem};
use words::level;

use super::config::{API_DEFAULT, ApiConfig, NodeConfig, PeerConfig, PeersConfig, TimingConfig, TlsConfig};
use super::control_store::{open_control_store, random};
use super::data_config::DataConfig;
use super::nat_log_config::NatLogConfig;
use super::recovery::Genesis;
use super::workers_config::WorkersConfig;

/// One founder, and where its files go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FounderSpec {
    /// The node; never 0.
    pub id: u32,
    /// Where it listens for peers.
    pub peer: SocketAddr,
    /// Where its API listens: loopback.
    pub api: SocketAddr,
    /// Its directory: gets `node.toml`, `tls/` and `data/`. The data directory may be there, but empty.
    pub dir: PathBuf,
}

/// What a cluster begins with.
#[derive(Debug)]
pub enum Begin {
    /// Nothing, at a level of the replicated formats (C2).
    Anew {
        /// The newest, unless older builds shall be members.
        level: u16,
    },
    /// The state of a lost cluster (N6).
    Continued(Box<State>),
}

/// Founds cluster `name`: writes the authority into `ca_dir` (`ca.pem`, and `ca.key`, which the members do not need) and
/// each founder's files into its directory. Returns the cluster's id.
///
/// # Errors
/// If names or addresses are refused, or anything is there already or cannot be written.
pub fn found_cluster(
    name: &str,
    founders: &[FounderSpec],
    ca_dir: &Path,
    data: &DataConfig,
    begin: Begin,
) -> Result<ClusterId> {
    check(founders)?;
    let ca = ClusterCa::create(name)?;
    let cluster = ClusterId(random()?);
    let issued: Vec<IssuedPem> = founders.iter().map(|f| ca.issue(f.id)).collect::<Result<_, _>>()?;
    let named = |(f, issued): (&FounderSpec, &IssuedPem)| -> Result<Founder> {
        let key = netio::ca::key_hash_of_pem(&issued.cert_pem)?;
        Ok(Founder { node: NodeId(f.id), peer_addr: f.peer, api_addr: f.api, key })
    };
    let registry: Vec<Founder> = founders.iter().zip(&issued).map(named).collect::<Result<_>>()?;
    let genesis = match begin {
        Begin::Continued(base) => Genesis::of(*base, 0, cluster, &registry)?,
        Begin::Anew { level } => {
            let key = [u64::from_le_bytes(random()?), u64::from_le_bytes(random()?)];
            Genesis::first(&State::found(cluster.0, &registry, key).at_level(level))?
        }
    };
    let voters: Vec<u64> = founders.iter().map(|f| genesis.raft_id(f.id)).collect();

    make_dir(ca_dir)?;
    write_new(&ca_dir.join("ca.pem"), &ca.pem.cert_pem, 0o644)?;
    write_new(&ca_dir.join("ca.key"), &ca.pem.key_pem, 0o600)?;
    for (founder, issued) in founders.iter().zip(&issued) {
        write_identity(name, &ca, (founder, issued), founders, data)?;
        let mut store = open_control_store(&founder.dir.join("data"))?;
        let founded = store.found_at(cluster, genesis.raft_id(founder.id), &voters, genesis.at, &genesis.state);
        founded.with_context(|| format!("data directory of node {}", founder.id))?;
    }
    Ok(cluster)
}

fn check(founders: &[FounderSpec]) -> Result<()> {
    ensure!(!founders.is_empty(), "no founder: name each node with --node ID=PEER_ADDR");
    ensure!(founders.len() <= NODES_MAX, "{} founders: a cluster has at most {NODES_MAX} nodes", founders.len());
    for (place, founder) in founders.iter().enumerate() {
        let id = founder.id;
        ensure!(id != 0, "node 0: count nodes from 1");
        ensure!(founder.api.ip().is_loopback(), "node {id}: API address {} is not loopback", founder.api);
        let peer = founder.peer;
        usable_peer(id, peer)?;
        let earlier = &founders[..place];
        ensure!(earlier.iter().all(|other| other.id != id), "node {id} is named twice");
        let twin = earlier.iter().find(|other| other.peer == peer);
        ensure!(twin.is_none(), "node {id}: {peer} is the address of another node too");
    }
    Ok(())
}

/// Refuses an address at which nobody could reach a node.
pub(super) fn usable_peer(id: u32, peer: SocketAddr) -> Result<()> {
    let usable = peer.port() != 0 && !peer.ip().is_unspecified() && !peer.ip().is_multicast();
    ensure!(usable, "node {id}: {peer} is no address at which other members could reach it");
    Ok(())
}

/// `node.toml` and `tls/`: what a member keeps when its data directory is lost.
fn write_identity(
    cluster: &str,
    ca: &ClusterCa,
    (founder, issued): (&FounderSpec, &IssuedPem),
    founders: &[FounderSpec],
    data: &DataConfig,
) -> Result<()> {
    let tls = founder.dir.join("tls");
    make_dir(&tls)?;
    write_new(&tls.join("ca.pem"), &ca.pem.cert_pem, 0o644)?;
    write_new(&tls.join("node.pem"), &issued.cert_pem, 0o644)?;
    write_new(&tls.join("node.key"), &issued.key_pem, 0o600)?;
    let others = founders.iter().filter(|other| other.id != founder.id).map(|other| (other.id, other.peer));
    let own = (founder.id, founder.peer, founder.api);
    let config = node_config(cluster, &founder.dir, own, &others.collect::<Vec<_>>(), data);
    NodeConfig::parse(&config.file, &config.to_toml())?;
    write_new(&config.file, &config.to_toml(), 0o644)
}

/// The configuration of node `id` at `peer` and `api`, whose files are in `dir`.
pub(super) fn node_config(
    cluster: &str,
    dir: &Path,
    (id, peer, api): (u32, SocketAddr, SocketAddr),
    others: &[(u32, SocketAddr)],
    data: &DataConfig,
) -> NodeConfig {
    // Relative paths: the directory is carried to another machine.
    NodeConfig {
        file: dir.join("node.toml"),
        cluster: cluster.to_owned(),
        node_id: id,
        name: format!("n{id}"),
        data_dir: "data".into(),
        peers: PeersConfig { listen: peer, interface: None },
        peer: others
            .iter()
            .map(|(id, address)| PeerConfig { id: *id, address: *address, api: api_default() })
            .collect(),
        tls: TlsConfig { ca: "tls/ca.pem".into(), cert: "tls/node.pem".into(), key: "tls/node.key".into() },
        api: ApiConfig { listen: api },
        data: data.clone(),
        workers: WorkersConfig::default(),
        timing: TimingConfig::default(),
        level: level::NEWEST,
        metrics: None,
        nat_log: NatLogConfig::default(),
    }
}

fn api_default() -> SocketAddr {
    API_DEFAULT.parse().expect("a constant address")
}

pub(super) fn make_dir(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| dir.display().to_string())
}

/// Writes a file, in place of one that may be there, in one step.
pub(super) fn replace_file(path: &Path, text: &str, mode: u32) -> Result<()> {
    let draft = path.with_extension("new");
    // One that an interrupted attempt left.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| draft.display().to_string());
        }
        Ok(()) | Err(_) => {}
    }
    write_new(&draft, text, mode)?;
    fs::rename(&draft, path).with_context(|| path.display().to_string())?;
    sync_parent(path)
}

/// Writes a file that must not be there yet.
pub(crate) fn write_new(path: &Path, text: &str, mode: u32) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("{} (it must not exist yet)", path.display()))?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().context("a file in a directory")?;
    fs::File::open(parent).and_then(|dir| dir.sync_all()).with_context(|| parent.display().to_string())
}

#[cfg(test)]
mod tests {
    use consensus::control::{ControlGroup, ControlTiming};

    use consensus::control::storage::sled::SledStore;

    use super::super::control_store::founder_raft_id;
    use super::*;

    const ANEW: Begin = Begin::Anew { level: level::NEWEST };

    fn spec(id: u32, dir: &Path) -> FounderSpec {
        let peer = SocketAddr::from(([198, 18, 0, u8::try_from(id).expect("small")], 7800));
        let api = "127.0.0.1:7880".parse().expect("an address");
        FounderSpec { id, peer, api, dir: dir.join(format!("n{id}")) }
    }

    #[test]
    fn founded_members_open_with_one_genesis_and_their_own_raft_ids() {
        let scratch = tempfile::tempdir().expect("scratch");
        let founders: Vec<FounderSpec> = (1..=3).map(|id| spec(id, scratch.path())).collect();
        let cluster = found_cluster("demo", &founders, &scratch.path().join("ca"), &DataConfig::default(), ANEW)
            .expect("founded");
        let mut states = Vec::new();
        for founder in &founders {
            let config = NodeConfig::load(&founder.dir.join("node.toml")).expect("a good file");
            assert_eq!((config.node_id, config.peer.len()), (founder.id, 2));
            let store = open_control_store(&config.data_dir).expect("a store");
            let identity = store.identity().expect("stamped");
            assert_eq!((identity.cluster, identity.raft_id), (cluster, founder_raft_id(founder.id)));
            let mut again = SledStore::open(&scratch.path().join("copy")).expect("an empty store");
            assert!(again.recover().is_err(), "an unfounded directory opens as a member");
            let group = ControlGroup::open(store, ControlTiming::default(), 1, 0).expect("opens");
            drop(group);
            let recovered = open_control_store(&config.data_dir).expect("unlocked").recover();
            let recovered = recovered.expect("intact");
            assert_eq!(recovered.conf_state.voters, [1, 2, 3].map(founder_raft_id));
            let snapshot = recovered.snapshot.expect("genesis");
            assert_eq!((snapshot.index, snapshot.term), (1, 1));
            let state = State::decode(&snapshot.state).expect("readable");
            assert_eq!(state.cluster_id(), cluster.0);
            states.push(snapshot.state);
            let cert = fs::read_to_string(&config.tls.cert).expect("certificate");
            assert!(cert.contains("BEGIN CERTIFICATE"));
            let key = fs::metadata(&config.tls.key).expect("key");
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o077, 0, "the key is readable");
        }
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "the members begin differently");
        let again = found_cluster("demo", &founders, &scratch.path().join("ca2"), &DataConfig::default(), ANEW);
        assert!(again.is_err(), "founded over a member");
    }

    #[test]
    fn founders_that_could_not_meet_are_refused_before_anything_is_written() {
        let scratch = tempfile::tempdir().expect("scratch");
        let good = || (1..=3).map(|id| spec(id, scratch.path())).collect::<Vec<_>>();
        let refused = |change: fn(&mut Vec<FounderSpec>)| {
            let mut founders = good();
            change(&mut founders);
            let ca = scratch.path().join("ca");
            let error = found_cluster("demo", &founders, &ca, &DataConfig::default(), ANEW).expect_err("refused");
            assert!(!ca.exists());
            error.to_string()
        };
        assert_eq!(refused(|f| f[2].id = 1), "node 1 is named twice");
        assert!(refused(|f| f[2].peer = f[0].peer).contains("the address of another node"));
        assert!(refused(|f| f[0].id = 0).contains("from 1"));
        assert!(refused(|f| f[1].api = f[1].peer).contains("not loopback"));
        assert!(refused(|f| f[1].peer.set_port(0)).contains("no address"));
        assert!(refused(Vec::clear).contains("no founder"));
    }
}
