//! Probes of all shards at once: from backends of each an old flow and new flows all the while, and captures of what comes
//! back to them. Says the longest silence of both. Called by the drills in which members come and go.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use qnat_lab::{Host, topology::Network};
use serde::Serialize;

use super::canary::{Kind, Stream};
use super::capture::{Capture, Side, nanos};
use super::cluster::Cluster;
use super::judge;
use super::run::{self, CAPTURE_LAG, OLD_EVERY, TempDir, millis};

/// Backends of a shard that open flows in turns, and the time between two of one of them: a change takes up to a minute, and
/// a backend has 1,024 ports for each of two remotes.
const OPENERS: usize = 3;
const NEW_EVERY: Duration = Duration::from_millis(30);

/// Probes under way.
pub(super) struct Probes {
    each: Vec<Probe>,
    /// Where the captures write; the last to go.
    _files: TempDir,
}

struct Probe {
    shard: u64,
    /// From the first of the openers.
    old: Stream,
    new: Vec<Opener>,
}

/// A backend that opens flows, and a capture of what comes back to it.
struct Opener {
    new: Stream,
    capture: Capture,
}

/// Longest silences of one shard during one change, in ms.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Silence {
    shard: u64,
    pub(super) old_ms: f64,
    /// When it began, in ms after the change was asked for.
    old_at_ms: f64,
    pub(super) new_ms: f64,
    /// See `old_at_ms`.
    new_at_ms: f64,
}

impl Probes {
    /// From other backends of each shard in each round.
    pub(super) fn start(cluster: &Cluster, round: usize) -> Result<Self> {
        let mut homes: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for backend in cluster.backends()? {
            homes.entry(backend.shard).or_default().push(backend.number);
        }
        let files = run::tempdir()?;
        let start = |(&shard, homes): (&u64, &Vec<u32>)| {
            let openers: Vec<u32> =
                homes.iter().cycle().skip(round % homes.len()).take(OPENERS.min(homes.len())).copied().collect();
            let open = |&backend: &u32| {
                let capture = Capture::start(&files.0, Host::Backend(backend), Network::Inside, Side::ToHost)?;
                Ok(Opener { new: Stream::start(cluster.dir(), backend, Kind::New, NEW_EVERY), capture })
            };
            let new = openers.iter().map(open).collect::<Result<Vec<_>>>()?;
            let first = *openers.first().context("the shard has no backend")?;
            Ok(Probe { shard, old: Stream::start(cluster.dir(), first, Kind::Old, OLD_EVERY), new })
        };
        let each = homes.iter().map(start).collect::<Result<_>>()?;
        Ok(Self { each, _files: files })
    }

    /// Ends them. Silences between `from` and now, by shard.
    pub(super) fn stop(self, from: SystemTime) -> Result<Vec<Silence>> {
        let (from_ns, until_ns) = (nanos(from)?, nanos(SystemTime::now())?);
        std::thread::sleep(CAPTURE_LAG);
        let stop = |probe: Probe| {
            let old = probe.old.stop()?;
            let (mut old_replies, mut asked, mut answered) = (None, Vec::new(), Vec::new());
            for opener in probe.new {
                let new = opener.new.stop()?;
                let arrived = opener.capture.stop()?;
                old_replies.get_or_insert_with(|| judge::replies(&arrived, &old.ports));
                answered.extend(judge::replies(&arrived, &new.ports));
                asked.extend(new.at_ns);
            }
            asked.sort_unstable();
            answered.sort_unstable();
            let gap = |asked: &[u64], answered: &[u64]| {
                let (gap, at) = judge::longest_gap(asked, answered, from_ns, until_ns);
                (millis(gap), millis(at))
            };
            let (old_ms, old_at_ms) = gap(&old.at_ns, &old_replies.unwrap_or_default());
            let (new_ms, new_at_ms) = gap(&asked, &answered);
            Ok(Silence { shard: probe.shard, old_ms, old_at_ms, new_ms, new_at_ms })
        };
        self.each.into_iter().map(stop).collect()
    }
}
