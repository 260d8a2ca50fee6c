//! What a lab consists of, and within which limits. Read by all that build, ask or remove one.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::topology::{self, Host, LabNode};

/// Where the lab lives unless told otherwise.
pub const DEFAULT_DIR: &str = "/run/qnat-lab";

/// What a lab consists of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LabConfig {
    /// Members, 1 to 7; those added later are counted, and those removed too.
    pub nodes: u32,
    /// Numbers of members whose machines were removed.
    #[serde(default)]
    pub removed: BTreeSet<u32>,
    /// Backends `b1`, `b2`, … of each virtual network.
    pub backends: u32,
    /// Virtual networks, one or two. Of two, the second has hosts with the same addresses, numbered after those of the
    /// first: of four, `b5` has the address of `b1`.
    #[serde(default = "one")]
    pub virtual_networks: u32,
    /// Public addresses, see [`topology::frontend_address`].
    pub frontends: u32,
    /// Worker threads of each member.
    #[serde(default = "one_worker")]
    pub workers: u16,
    /// How the members' kernel fast path starts; see `data.cache` of node.toml, whose default it has if it is left out.
    #[serde(default)]
    pub cache: Option<String>,
    /// For how many mappings it has room; the same.
    #[serde(default)]
    pub cache_flows: Option<u32>,
    /// Backends reach nobody but the members.
    #[serde(default)]
    pub isolated: bool,
    /// One member and one backend: both data links of the member lead to the backend and to the internet by a pair each, and no
    /// switch lies between. Faults on the data networks need switches.
    #[serde(default)]
    pub direct: bool,
    /// Resources to apply in place of the default ones; read by the [`crate::Founder`].
    pub config_file: Option<PathBuf>,
    /// Directory of everything the lab writes, founding included; empty or absent before, removed by [`crate::down`].
    pub dir: PathBuf,
    /// The `qnat` executable that members and the internet run.
    pub binary: PathBuf,
}

impl LabConfig {
    /// A lab of `nodes` members with as many frontends, in the default directory, run by this very executable.
    ///
    /// # Errors
    /// If the executable's path cannot be found out.
    pub fn new(nodes: u32, backends: u32) -> Result<Self> {
        let binary = std::env::current_exe().context("path of this executable")?;
        let dir = PathBuf::from(DEFAULT_DIR);
        Ok(Self {
            nodes,
            removed: BTreeSet::new(),
            backends,
            virtual_networks: one(),
            frontends: nodes,
            workers: one_worker(),
            cache: None,
            cache_flows: None,
            isolated: false,
            direct: false,
            config_file: None,
            dir,
            binary,
        })
    }

    /// The members.
    #[must_use]
    pub fn lab_nodes(&self) -> Vec<LabNode> {
        self.node_ids().map(|id| LabNode::new(id, &self.dir)).collect()
    }

    pub(crate) fn node_ids(&self) -> impl Iterator<Item = u32> {
        (1..=self.nodes).filter(|id| !self.removed.contains(id))
    }

    /// The public addresses.
    #[must_use]
    pub fn frontend_addresses(&self) -> Vec<Ipv4Addr> {
        (1..=self.frontends).map(topology::frontend_address).collect()
    }

    /// All backends with their addresses, and the virtual network that they are in, counted from 1.
    pub fn placed_backends(&self) -> impl Iterator<Item = (u32, Ipv4Addr, u32)> {
        let backends = self.backends;
        (1..=self.virtual_networks).flat_map(move |network| {
            (1..=backends).map(move |k| ((network - 1) * backends + k, topology::backend_address(k), network))
        })
    }

    /// Says what is out of range, if anything.
    ///
    /// # Errors
    /// With the limit that is broken.
    pub fn validate(&self) -> Result<()> {
        let (nodes_min, nodes_max) = (topology::NODES.start(), topology::NODES.end());
        ensure!(topology::NODES.contains(&self.nodes), "nodes: {} is not {nodes_min} to {nodes_max}", self.nodes);
        let backends_max = topology::BACKENDS_MAX;
        ensure!(self.backends <= backends_max, "backends: {} is above {backends_max}", self.backends);
        let networks_max = topology::VIRTUAL_NETWORKS_MAX;
        ensure!(
            (1..=networks_max).contains(&self.virtual_networks),
            "virtual networks: {} is not 1 to {networks_max}",
            self.virtual_networks
        );
        let workers_max = words::WORKERS_MAX;
        ensure!((1..=workers_max).contains(&self.workers), "workers: {} is not 1 to {workers_max}", self.workers);
        let frontends_max = topology::FRONTENDS_MAX;
        ensure!(
            (1..=frontends_max).contains(&self.frontends),
            "frontends: {} is not 1 to {frontends_max}",
            self.frontends
        );
        let alone = (self.nodes, self.backends, self.virtual_networks) == (1, 1, 1);
        ensure!(!self.direct || alone, "direct: needs one node, one backend and one virtual network");
        ensure!(self.dir.is_absolute(), "dir: {} is not absolute", self.dir.display());
        Ok(())
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = Host> {
        let nodes = self.node_ids().map(Host::Node);
        nodes.chain((1..=self.backends * self.virtual_networks).map(Host::Backend)).chain([Host::Inet])
    }
}

const fn one_worker() -> u16 {
    1
}

fn one() -> u32 {
    1
}
