//! The cluster under test, seen from outside: brought up and taken down with the `qnat` executable, asked over the admin
//! API of each member. Must never touch anything but the lab. Called by the drills.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use control::view::BackendView;
use qnat::answers::{Counted, FlowRow, Flows, Status};
use qnat::client;
use qnat::daemon::request::{Request, ResourceKind};
use qnat_lab::Host;
use serde::de::DeserializeOwned;

use super::interrupt;

/// Members of the lab under test.
pub(super) const NODES: u32 = 3;
/// Where each member's admin API listens, in its own namespace.
const API: &str = "127.0.0.1:7880";
/// For one question.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Most flows that one question asks for.
const FLOWS_MAX: usize = 100_000;

/// A mapping, as the member that was asked knows it: texts `address:port`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Flow {
    pub(super) shard: u64,
    pub(super) proto: String,
    pub(super) inside: String,
    pub(super) public: String,
    pub(super) remote: String,
}

/// A backend, its shard and its lease.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    /// `k` of `b<k>`.
    pub(super) number: u32,
    pub(super) shard: u64,
    pub(super) frontend: String,
    /// First and last port of each block.
    pub(super) lease: Vec<(u64, u64)>,
}

/// Handle of the lab under test; dropping it takes the lab down, unless it only looks on.
#[derive(Debug)]
pub(super) struct Cluster {
    dir: PathBuf,
    looks_on: bool,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.looks_on {
            return;
        }
        let gate = interrupt::gate();
        if let Err(error) = qnat_lab::down(&self.dir) {
            eprintln!("the lab could not be taken down: {error:#}");
        }
        interrupt::set_ours(&gate, false);
    }
}

impl Cluster {
    /// Brings a fresh lab up and waits until all of it serves.
    pub(super) fn up(binary: &Path, backends: u32) -> Result<Self> {
        let dir = PathBuf::from(qnat_lab::DEFAULT_DIR);
        let mut command = Command::new(binary);
        command.args(["lab", "up", "--detach", "--nodes", &NODES.to_string(), "--backends", &backends.to_string()]);
        {
            let gate = interrupt::gate();
            let output = command.output().with_context(|| binary.display().to_string())?;
            // One that failed has cleaned up behind itself, or another lab is up.
            ensure!(output.status.success(), "lab up: {}", String::from_utf8_lossy(&output.stderr));
            interrupt::set_ours(&gate, true);
        }
        let cluster = Self { dir, looks_on: false };
        cluster.wait_whole(Duration::from_secs(60))?;
        Ok(cluster)
    }

    /// For another thread.
    pub(super) fn observer(&self) -> Self {
        Self { dir: self.dir.clone(), looks_on: true }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Asks one member, whose answer is a `T` (`qnat::answers`).
    pub(super) fn ask<T: DeserializeOwned + Send>(&self, node: u32, request: &Request) -> Result<T> {
        let api: SocketAddr = API.parse().context("address of the admin API")?;
        let answer = qnat_lab::in_host(&self.dir, Host::Node(node), || client::call_within(api, request, ASK_TIMEOUT))?;
        answer.with_context(|| format!("n{node}"))
    }

    /// Who owns which shard, by the newest term that any running member knows.
    pub(super) fn owners(&self) -> BTreeMap<u64, u32> {
        let mut best: BTreeMap<u64, (u64, bool, u32)> = BTreeMap::new();
        for node in self.running() {
            let Ok(status) = self.ask::<Status>(node, &Request::Status) else { continue };
            for row in status.shards {
                let Some(owner) = row.owner else { continue };
                let seen = (row.term.unwrap_or(0), owner == node, owner);
                let entry = best.entry(row.shard.into()).or_insert(seen);
                *entry = (*entry).max(seen);
            }
        }
        best.into_iter().map(|(shard, (_, _, owner))| (shard, owner)).collect()
    }

    /// Members whose process runs.
    pub(super) fn running(&self) -> Vec<u32> {
        let Ok(status) = qnat_lab::status(&self.dir) else { return Vec::new() };
        let running = status.nodes.iter().filter(|node| node.state == qnat_lab::ProcessState::Running);
        running.map(|node| node.node.id).collect()
    }

    /// What is still missing from full redundancy, if anything.
    fn missing(&self) -> Option<String> {
        let running = self.running();
        if running.len() != usize::try_from(NODES).unwrap_or(usize::MAX) {
            return Some(format!("only {running:?} run"));
        }
        let mut served = BTreeSet::new();
        let mut known = BTreeSet::new();
        for node in running {
            let status: Status = match self.ask(node, &Request::Status) {
                Ok(status) => status,
                Err(error) => return Some(format!("{error:#}")),
            };
            for row in status.shards {
                known.insert(row.shard);
                if row.serves() {
                    if !row.redundancy.is_full() {
                        return Some(format!("shard {}: {} voters in step", row.shard, row.redundancy));
                    }
                    served.insert(row.shard);
                }
            }
        }
        (known.is_empty() || served != known).then(|| format!("served {served:?} of {known:?}"))
    }

    /// Waits for full redundancy.
    pub(super) fn wait_whole(&self, bound: Duration) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let Some(missing) = self.missing() else { return Ok(began.elapsed()) };
            if began.elapsed() > bound {
                bail!("not whole after {} s: {missing}", bound.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Live mappings as `node` knows them, of the shards in `of`.
    pub(super) fn flows(&self, node: u32, of: &BTreeSet<u64>) -> Result<Vec<Flow>> {
        let answer: Flows = self.ask(node, &Request::Flows { shard: None, vnet: None, limit: FLOWS_MAX })?;
        let live = answer.flows.into_iter().filter(|row| matches!(&*row.state, "live" | "closing" | "opening"));
        let flows = live.map(|FlowRow { shard, proto, inside, public, remote, .. }| Flow {
            shard: shard.into(),
            proto,
            inside,
            public,
            remote,
        });
        Ok(flows.filter(|flow| of.contains(&flow.shard)).collect())
    }

    /// Live mappings of all shards, each as its owner knows them.
    pub(super) fn owned_flows(&self) -> Result<Vec<Flow>> {
        let mut shards_of: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        for (shard, owner) in self.owners() {
            shards_of.entry(owner).or_default().insert(shard);
        }
        let mut all = Vec::new();
        for (owner, shards) in &shards_of {
            all.extend(self.flows(*owner, shards)?);
        }
        Ok(all)
    }

    /// All backends with their leases.
    pub(super) fn backends(&self) -> Result<Vec<Backend>> {
        let node = *self.running().first().context("no member runs")?;
        let rows: Vec<BackendView> = self.ask(node, &Request::Get { kind: ResourceKind::Backends })?;
        let backend = |row: &BackendView| {
            Some(Backend {
                number: row.name.strip_prefix('b')?.split('/').next()?.parse().ok()?,
                shard: row.home_shard?.into(),
                frontend: row.frontend?.to_string(),
                lease: row.lease.iter().map(|block| (block.first.into(), block.last.into())).collect(),
            })
        };
        let backends: Vec<Backend> = rows.iter().filter_map(backend).collect();
        ensure!(!backends.is_empty(), "none of {} backends has a home shard", rows.len());
        Ok(backends)
    }

    /// Elections that each running member counted since it started.
    pub(super) fn elections(&self) -> BTreeMap<u32, u64> {
        let count = |node| Some((node, self.counted(node).ok()?.elections));
        self.running().into_iter().filter_map(count).collect()
    }

    /// The same by shard.
    pub(super) fn elections_by_shard(&self) -> BTreeMap<u32, BTreeMap<u64, u64>> {
        let of = |node| {
            let counted = self.counted(node).ok()?.elections_by_shard;
            let by_shard = counted.into_iter().filter_map(|(shard, count)| Some((shard.parse().ok()?, count)));
            Some((node, by_shard.collect()))
        };
        self.running().into_iter().filter_map(of).collect()
    }

    /// What one member counted since it started.
    pub(super) fn counted(&self, node: u32) -> Result<Counted> {
        self.ask(node, &Request::Counters)
    }
}
