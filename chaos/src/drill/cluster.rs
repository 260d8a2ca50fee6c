//! The cluster under test, seen from outside: brought up and taken down with the `qnat` executable, asked over the admin
//! API of each member. Must never touch anything but the lab. Called by the drills.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use qnat::answers::Counted;
use qnat::client;
use qnat::daemon::request::{Request, ResourceKind};
use qnat_lab::Host;
use serde_json::Value;

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

    /// Asks one member.
    pub(super) fn ask(&self, node: u32, request: &Request) -> Result<Value> {
        let api: SocketAddr = API.parse().context("address of the admin API")?;
        let answer = qnat_lab::in_host(&self.dir, Host::Node(node), || client::call_within(api, request, ASK_TIMEOUT))?;
        answer.with_context(|| format!("n{node}"))
    }

    /// Who owns which shard, by the newest term that any running member knows.
    pub(super) fn owners(&self) -> BTreeMap<u64, u32> {
        let mut best: BTreeMap<u64, (u64, bool, u32)> = BTreeMap::new();
        for node in self.running() {
            let Ok(status) = self.ask(node, &Request::Status) else { continue };
            for row in status["shards"].as_array().into_iter().flatten() {
                let (Some(shard), Some(owner)) = (row["shard"].as_u64(), row["owner"].as_u64()) else { continue };
                let Ok(owner) = u32::try_from(owner) else { continue };
                let seen = (row["term"].as_u64().unwrap_or(0), owner == node, owner);
                let entry = best.entry(shard).or_insert(seen);
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
            let status = match self.ask(node, &Request::Status) {
                Ok(status) => status,
                Err(error) => return Some(format!("{error:#}")),
            };
            for row in status["shards"].as_array().into_iter().flatten() {
                known.insert(row["shard"].as_u64());
                if row["serving"] == "yes" {
                    if row["redundancy"]["have"] != row["redundancy"]["want"] {
                        return Some(format!("shard {}: {}", row["shard"], row["redundancy"]));
                    }
                    served.insert(row["shard"].as_u64());
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
        let answer = self.ask(node, &Request::Flows { shard: None, limit: FLOWS_MAX })?;
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let rows = answer["flows"].as_array().into_iter().flatten();
        let live = rows.filter(|row| matches!(row["state"].as_str(), Some("live" | "closing" | "opening")));
        let flows = live.map(|row| Flow {
            shard: row["shard"].as_u64().unwrap_or(0),
            proto: text(row, "proto"),
            inside: text(row, "inside"),
            public: text(row, "public"),
            remote: text(row, "remote"),
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
        let rows = self.ask(node, &Request::Get { kind: ResourceKind::Backends })?;
        let number = |row: &Value| row["name"].as_str()?.strip_prefix('b')?.split('/').next()?.parse().ok();
        let block = |block: &Value| {
            let (first, last) = (block["first"].as_u64()?, block["last"].as_u64()?);
            Some((first, last))
        };
        let backend = |row: &Value| {
            Some(Backend {
                number: number(row)?,
                shard: row["home_shard"].as_u64()?,
                frontend: row["frontend"].as_str()?.to_owned(),
                lease: row["lease"].as_array()?.iter().filter_map(block).collect(),
            })
        };
        let backends: Vec<Backend> = rows.as_array().into_iter().flatten().filter_map(backend).collect();
        ensure!(!backends.is_empty(), "no backend has a home shard: {rows}");
        Ok(backends)
    }

    /// Elections that each running member counted since it started.
    pub(super) fn elections(&self) -> BTreeMap<u32, u64> {
        let count = |node| Some((node, self.ask(node, &Request::Counters).ok()?["elections"].as_u64()?));
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
        let answer = self.ask(node, &Request::Counters)?;
        serde_json::from_value(answer).with_context(|| format!("counters of n{node}"))
    }

    /// Frames that running members dropped since they started, by reason.
    pub(super) fn drops(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for node in self.running() {
            let Ok(counters) = self.ask(node, &Request::Counters) else { continue };
            for (why, count) in counters["drops"].as_object().into_iter().flatten() {
                *all.entry(why.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        all
    }
}
