//! Probes of all shards at once: from one backend of each an old flow and new flows all the while, and a capture of what
//! comes back to it. Says the longest silence of both. Called by the drills in which members come and go.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use qnat::lab::{Host, topology::Network};

use super::canary::{Kind, Stream};
use super::capture::{Capture, Side, nanos};
use super::cluster::Cluster;
use super::judge;
use super::run::{self, CAPTURE_LAG, OLD_EVERY, TempDir, millis};

/// Between two new flows: a change takes up to a minute, and a backend has 1,024 ports for each of two remotes.
const NEW_EVERY: Duration = Duration::from_millis(30);

/// Probes under way.
pub(super) struct Probes {
    each: Vec<Probe>,
    /// Where the captures write; the last to go.
    _files: TempDir,
}

struct Probe {
    capture: Capture,
    old: Stream,
    new: Stream,
}

/// Longest silences of one shard, in ms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    pub(super) old_ms: f64,
    pub(super) new_ms: f64,
}

impl Probes {
    /// From another backend of each shard in each round.
    pub(super) fn start(cluster: &Cluster, round: usize) -> Result<Self> {
        let mut homes: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for backend in cluster.backends()? {
            homes.entry(backend.shard).or_default().push(backend.number);
        }
        let files = run::tempdir()?;
        let start = |homes: &Vec<u32>| {
            let backend = *homes.get(round % homes.len().max(1)).context("the shard has no backend")?;
            Ok(Probe {
                capture: Capture::start(&files.0, Host::Backend(backend), Network::Inside, Side::ToHost)?,
                old: Stream::start(cluster.dir(), backend, Kind::Old, OLD_EVERY),
                new: Stream::start(cluster.dir(), backend, Kind::New, NEW_EVERY),
            })
        };
        let each = homes.values().map(start).collect::<Result<_>>()?;
        Ok(Self { each, _files: files })
    }

    /// Ends them. Silences between `from` and now, by shard.
    pub(super) fn stop(self, from: SystemTime) -> Result<Vec<Silence>> {
        let (from_ns, until_ns) = (nanos(from)?, nanos(SystemTime::now())?);
        std::thread::sleep(CAPTURE_LAG);
        let stop = |probe: Probe| {
            let (old, new) = (probe.old.stop()?, probe.new.stop()?);
            let replies = probe.capture.stop()?;
            let gap =
                |ports: Vec<u16>| millis(judge::gap_ns(&replies, &ports.into_iter().collect(), from_ns, until_ns));
            Ok(Silence { old_ms: gap(old), new_ms: gap(new) })
        };
        self.each.into_iter().map(stop).collect()
    }
}
