//! `node.toml`: what one member must know before it can ask the cluster for the rest.
//!
//! [`NodeConfig::load`] refuses what it does not understand and names file, field, value and remedy; it must never guess,
//! and never touch what the paths lead to. Read by `qnat node`, written by `founding`.
//!
//! ```toml
//! cluster = "prod"
//! node_id = 1
//! name = "n1"
//! data_dir = "data"                 # relative paths begin at this file
//! workers = 2                       # threads that judge packets; left out: one for each processor
//! worker_cpus = [0, 1]              # where they run; left out: wherever the system likes
//! level = 1                         # left out: the newest that the build speaks; for tests of a cluster with older builds
//!
//! [peers]
//! listen = "198.18.0.1:7800"
//! interface = "peers"               # only it reaches the port; the one with the address unless told otherwise
//!
//! [[peer]]
//! id = 2
//! address = "198.18.0.2:7800"
//! api = "127.0.0.1:7880"
//!
//! [tls]
//! ca = "tls/ca.pem"
//! cert = "tls/node.pem"
//! key = "tls/node.key"
//!
//! [api]
//! listen = "127.0.0.1:7880"
//!
//! [metrics]                         # left out: /metrics is on the admin API alone
//! listen = "0.0.0.0:9880"           # read-only: /metrics, /healthz, /readyz
//!
//! [data]
//! outside = "outside"
//! guard = "auto"                    # or "required", "off"
//! cache = "off"                     # or "on": the kernel carries packets of mappings in use; "eager": all, for tests
//! cache_flows = 65536               # how many it has room for; 0: none
//!
//! [[data.inside]]                   # one for each virtual network; short, for the only one: inside = "inside"
//! interface = "inside"
//! virtual_network = "vnet1"         # may be left out if there is one interface, and one network
//!
//! [timing]
//! raise_priority = true
//! keep_awake = "auto"               # or "always", "never": processors that never halt; see README
//!
//! [nat_log]                         # who had which public port when
//! path = "data/nat.log"
//! size_max_mib = 64                 # then a new file begins
//! kept = 9                          # older files that stay
//! sessions = false                  # also each mapping, of the shards owned here
//! destinations = false              # and where it led
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use words::level;

use super::data_config::{DataConfig, RawData, is_interface_name};
use super::nat_log_config::NatLogConfig;
use super::workers_config::WorkersConfig;

/// Where the admin API listens unless told otherwise.
pub const API_DEFAULT: &str = "127.0.0.1:7880";

/// What is wrong with a `node.toml`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {field}{}: {problem}; {remedy}", .file.display(), value_text(.value))]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The field, as a dotted path, or the line.
    pub field: String,
    /// Its value; empty if there is none.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

fn value_text(value: &str) -> String {
    if value.is_empty() { String::new() } else { format!(" = {value}") }
}

/// The file, read and checked; its paths made absolute as far as the file's own path is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// Where it was read from.
    pub file: PathBuf,
    /// The cluster's name, part of the members' certificates.
    pub cluster: String,
    /// This member; never 0.
    pub node_id: u32,
    /// What people call it.
    pub name: String,
    /// Where it stores what must survive a restart.
    pub data_dir: PathBuf,
    /// Where it listens for its peers.
    pub peers: PeersConfig,
    /// The other members (this one is left out if the file lists it).
    pub peer: Vec<PeerConfig>,
    /// Who it is.
    pub tls: TlsConfig,
    /// Where its API listens; always loopback.
    pub api: ApiConfig,
    /// Where metrics and probes may be read from elsewhere; nowhere unless it says so.
    pub metrics: Option<SocketAddr>,
    /// Its data interfaces.
    pub data: DataConfig,
    /// The threads that judge packets.
    pub workers: WorkersConfig,
    /// How its threads are scheduled.
    pub timing: TimingConfig,
    /// The newest level of the replicated formats that it reads and writes (C2): that of its build, unless told to be as an
    /// older one.
    pub level: u16,
    /// The address-translation log.
    pub nat_log: NatLogConfig,
}

/// `[peers]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeersConfig {
    /// UDP address of the peer transport.
    pub listen: SocketAddr,
    /// The interface that peers are reached by; the one that has the address unless told otherwise. No other interface can
    /// reach the port.
    pub interface: Option<String>,
}

/// One `[[peer]]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerConfig {
    /// The member.
    pub id: u32,
    /// Where it listens for peers.
    pub address: SocketAddr,
    /// Where its API listens, on its own loopback.
    pub api: SocketAddr,
}

/// `[tls]`: PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsConfig {
    /// The cluster's root certificate.
    pub ca: PathBuf,
    /// This member's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[api]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApiConfig {
    /// TCP address of the admin API.
    pub listen: SocketAddr,
}

/// `[timing]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimingConfig {
    /// The threads of the flow and control groups run with real-time priority, the others that they share locks with and the
    /// worker before ordinary ones, if the machine permits.
    pub raise_priority: bool,
    /// Whether the processors that it may use are kept from halting.
    pub keep_awake: KeepAwake,
}

impl Default for TimingConfig {
    fn default() -> Self {
        Self { raise_priority: true, keep_awake: KeepAwake::Auto }
    }
}

/// When processors are kept from halting (`netio::awake`): a host may give one that halted back too late for a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepAwake {
    /// In a virtual machine with few processors.
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

/// The file as it is written: addresses are still text, so that each can be refused with its field.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    cluster: String,
    node_id: u32,
    name: Option<String>,
    data_dir: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    worker_cpus: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<u16>,
    peers: RawPeers,
    tls: RawTls,
    api: Option<RawListen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<RawListen>,
    #[serde(default)]
    data: RawData,
    #[serde(default)]
    timing: TimingConfig,
    #[serde(default)]
    nat_log: NatLogConfig,
    #[serde(default)]
    peer: Vec<RawPeer>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListen {
    listen: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPeers {
    listen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPeer {
    id: u32,
    address: String,
    api: Option<String>,
}

impl NodeConfig {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(file).map_err(|error| ConfigError {
            file: file.to_owned(),
            field: "file".into(),
            value: String::new(),
            problem: format!("cannot be read: {error}"),
            remedy: "give the node.toml that `qnat cluster init` wrote for this node".into(),
        })?;
        Self::parse(file, &text)
    }

    /// Checks `text`, the content of `file`, which is not touched.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let check = Check { file };
        let raw: Raw = toml::from_str(text).map_err(|error| check.syntax(text, &error))?;
        check.name("cluster", &raw.cluster)?;
        if raw.node_id == 0 {
            return Err(check.error("node_id", "0", "is not a node", "count nodes from 1"));
        }
        let level = raw.level.unwrap_or(level::NEWEST);
        if !(level::FIRST..=level::NEWEST).contains(&level) {
            let remedy = format!("{} to {}; left out: the newest", level::FIRST, level::NEWEST);
            return Err(check.error("level", &level.to_string(), "is no level that this build speaks", &remedy));
        }
        let workers = WorkersConfig::of(raw.workers, raw.worker_cpus)
            .map_err(|[field, value, problem, remedy]| check.error(&field, &value, &problem, &remedy))?;
        let listen = check.address("peers.listen", &raw.peers.listen)?;
        let api = raw.api.as_ref().map_or(API_DEFAULT, |api| &api.listen);
        let api = check.loopback("api.listen", api)?;
        let metrics =
            raw.metrics.as_ref().map(|metrics| check.address("metrics.listen", &metrics.listen)).transpose()?;
        let data = check.data(raw.data)?;
        if let Some(name) = &raw.peers.interface {
            check.interface("peers.interface", name)?;
            if data.inside.iter().map(|inside| &inside.interface).chain([&data.outside]).any(|one| one == name) {
                let remedy = "peers need an interface of their own, which no backend and nobody outside reaches";
                return Err(check.error("peers.interface", name, "is a data interface", remedy));
            }
        }
        let name = raw.name.unwrap_or_else(|| format!("n{}", raw.node_id));
        check.present("name", &name)?;
        let peer = check.peers(raw.node_id, listen, &raw.peer)?;
        check.nat_log(&raw.nat_log)?;
        let base = file.parent().unwrap_or(Path::new(""));
        Ok(Self {
            file: file.to_owned(),
            cluster: raw.cluster,
            node_id: raw.node_id,
            name,
            data_dir: base.join(raw.data_dir),
            peers: PeersConfig { listen, interface: raw.peers.interface },
            peer,
            tls: TlsConfig { ca: base.join(raw.tls.ca), cert: base.join(raw.tls.cert), key: base.join(raw.tls.key) },
            api: ApiConfig { listen: api },
            metrics,
            data,
            workers,
            timing: raw.timing,
            level,
            nat_log: NatLogConfig { path: raw.nat_log.path.map(|path| base.join(path)), ..raw.nat_log },
        })
    }

    /// Where the address-translation log is.
    #[must_use]
    pub fn nat_log_path(&self) -> PathBuf {
        self.nat_log.path.clone().unwrap_or_else(|| self.data_dir.join("nat.log"))
    }

    /// The text of a file that reads as this; paths as they stand here.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let peer = |p: &PeerConfig| RawPeer { id: p.id, address: p.address.to_string(), api: Some(p.api.to_string()) };
        let tls = &self.tls;
        let raw = Raw {
            cluster: self.cluster.clone(),
            node_id: self.node_id,
            name: Some(self.name.clone()),
            data_dir: self.data_dir.clone(),
            workers: (self.workers != WorkersConfig::default()).then_some(self.workers.count),
            worker_cpus: self.workers.cpus.clone(),
            level: (self.level != level::NEWEST).then_some(self.level),
            peers: RawPeers { listen: self.peers.listen.to_string(), interface: self.peers.interface.clone() },
            tls: RawTls { ca: tls.ca.clone(), cert: tls.cert.clone(), key: tls.key.clone() },
            api: Some(RawListen { listen: self.api.listen.to_string() }),
            metrics: self.metrics.map(|listen| RawListen { listen: listen.to_string() }),
            data: RawData::of(&self.data),
            timing: self.timing,
            nat_log: self.nat_log.clone(),
            peer: self.peer.iter().map(peer).collect(),
        };
        toml::to_string(&raw).expect("plain tables are always representable")
    }
}

/// The checks, with the name of the file at hand.
struct Check<'a> {
    file: &'a Path,
}

impl Check<'_> {
    fn error(&self, field: &str, value: &str, problem: &str, remedy: &str) -> ConfigError {
        let (field, value) = (field.to_owned(), value.chars().take(80).collect());
        ConfigError { file: self.file.to_owned(), field, value, problem: problem.to_owned(), remedy: remedy.to_owned() }
    }

    /// What the TOML reader objects to, with the line that it points at.
    fn syntax(&self, text: &str, error: &toml::de::Error) -> ConfigError {
        let message = error.message().replace('\n', " ");
        let missing = message.starts_with("missing field");
        let start = error.span().map(|span| span.start.min(text.len()));
        let (field, value) = match start {
            Some(start) if !missing => {
                let number = text[..start].matches('\n').count() + 1;
                let line = text.lines().nth(number - 1).unwrap_or_default().trim();
                let (key, value) = line.split_once('=').map_or((line, ""), |(key, value)| (key.trim(), value.trim()));
                (format!("line {number}: {key}"), value.to_owned())
            }
            _ => (message.split('`').nth(1).unwrap_or("file").to_owned(), String::new()),
        };
        let remedy = if missing {
            "add it; `qnat cluster init` writes complete files"
        } else if message.starts_with("unknown field") {
            "remove it, or correct its spelling"
        } else {
            "correct it as the documentation of node.toml says"
        };
        self.error(&field, &value, &message, remedy)
    }

    fn name(&self, field: &str, value: &str) -> Result<(), ConfigError> {
        // The rule of the certificates: one DNS label (RFC 1035, 2.3.4).
        let good = (1..=netio::ca::CLUSTER_NAME_MAX).contains(&value.len())
            && value.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
            && !value.starts_with('-')
            && !value.ends_with('-');
        let remedy = "use 1 to 40 of a-z, 0-9 and inner hyphens, as in `qnat cluster init`";
        if good { Ok(()) } else { Err(self.error(field, &format!("{value:?}"), "is no cluster name", remedy)) }
    }

    fn present(&self, field: &str, value: &str) -> Result<(), ConfigError> {
        let remedy = "give it a name, or leave the field out";
        if value.trim().is_empty() { Err(self.error(field, "\"\"", "is empty", remedy)) } else { Ok(()) }
    }

    fn address(&self, field: &str, value: &str) -> Result<SocketAddr, ConfigError> {
        let addr: Result<SocketAddr, _> = value.parse();
        let remedy = "write address and port, such as \"198.18.0.1:7800\"";
        let addr = addr.map_err(|_| self.error(field, &format!("{value:?}"), "is no address with a port", remedy))?;
        if addr.port() == 0 {
            return Err(self.error(field, value, "has port 0", "members must be found again: choose a port"));
        }
        if addr.ip().is_multicast() {
            return Err(self.error(field, value, "is a multicast address", "use an address of one machine"));
        }
        Ok(addr)
    }

    fn loopback(&self, field: &str, value: &str) -> Result<SocketAddr, ConfigError> {
        let addr = self.address(field, value)?;
        if addr.ip().is_loopback() {
            return Ok(addr);
        }
        let problem = "is not a loopback address, and the admin API has no authentication";
        let remedy = format!("use \"127.0.0.1:{}\", and an SSH tunnel from elsewhere", addr.port());
        Err(self.error(field, value, problem, &remedy))
    }

    fn interface(&self, field: &str, value: &str) -> Result<(), ConfigError> {
        let remedy = "use a name that `ip link` shows";
        let good = is_interface_name(value);
        if good { Ok(()) } else { Err(self.error(field, &format!("{value:?}"), "is no interface name", remedy)) }
    }

    fn data(&self, raw: RawData) -> Result<DataConfig, ConfigError> {
        raw.checked().map_err(|wrong| self.error(&wrong.field, &wrong.value, wrong.problem, &wrong.remedy))
    }

    fn nat_log(&self, log: &NatLogConfig) -> Result<(), ConfigError> {
        log.check().map_err(|[field, value, problem, remedy]| self.error(&field, &value, &problem, &remedy))
    }

    fn peers(&self, own: u32, listen: SocketAddr, raw: &[RawPeer]) -> Result<Vec<PeerConfig>, ConfigError> {
        let mut ids = BTreeSet::new();
        let mut addresses = BTreeSet::from([listen]);
        let mut peers = Vec::new();
        for (place, peer) in raw.iter().enumerate() {
            let field = |name: &str| format!("peer[{place}].{name}");
            let address = self.address(&field("address"), &peer.address)?;
            let api = self.loopback(&field("api"), peer.api.as_deref().unwrap_or(API_DEFAULT))?;
            let (id, problem) = (peer.id, "is listed twice");
            if id == 0 || !ids.insert(id) {
                let problem = if id == 0 { "is not a node" } else { problem };
                return Err(self.error(&field("id"), &id.to_string(), problem, "list each other member once, from 1"));
            }
            if id == own {
                // The same list may be on all machines.
                continue;
            }
            if address.ip().is_unspecified() {
                let remedy = "write the address at which this node reaches that member";
                return Err(self.error(&field("address"), &peer.address, "names no machine", remedy));
            }
            if !addresses.insert(address) {
                let problem = "is the address of another member too";
                return Err(self.error(
                    &field("address"),
                    &peer.address,
                    problem,
                    "members have addresses of their own",
                ));
            }
            peers.push(PeerConfig { id, address, api });
        }
        Ok(peers)
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
