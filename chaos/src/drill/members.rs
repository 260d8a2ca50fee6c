//! Drills in which members come and go while connections are open: join, replace, grow and shrink. What is held against the
//! cluster: no connection lost, no mapping changed, no gap longer than at a takeover, a download with the right digest, and the wanted members in the end, all
//! voting, all shards whole. Called by the command.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use control::registry::Standing;
use control::view::NodeView;
use qnat::answers::{NodeRow, Status};
use qnat::client::ClientError;
use qnat::daemon::request::{Request, ResourceKind};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::canary::{self, Download, Idle};
use super::cluster::{Cluster, Flow};
use super::output::Judged;
use super::probes::{Probes, Silence};
use super::run::{duplicates, mappings_of};
use super::verdict::{Gap, too_long};

/// How long one change of members may take until all of it is in force.
const SETTLE_BOUND: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Traffic before each change and after it.
const MARGIN: Duration = Duration::from_millis(500);
/// Largest median and largest 99th percentile of the gaps, as when an owner is lost or stops.
const GAP_MAX_MS: (f64, f64) = (80.0, 150.0);
/// Bytes of each download: longer than a change takes.
const DOWNLOAD_BYTES: u64 = 48 << 20;

/// What happens to the members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// A fourth machine joins.
    Join,
    /// A machine is lost with its disk and its key; another one takes its number.
    Replace,
    /// Two machines join, and two of the first three leave: every shard moves.
    GrowShrink,
}

/// What a drill found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct MembersVerdict {
    /// The drill.
    drill: &'static str,
    /// Idle connections before the first change, and of these the ones that carried a nonce after each.
    connections: usize,
    /// See `connections`.
    connections_kept: usize,
    /// Of those, whose public end is another one.
    mappings_changed: usize,
    /// Live mappings that share public and remote end with another.
    duplicates: usize,
    /// Downloads that went on through a change, and those of them with the right digest.
    downloads: usize,
    /// See `downloads`.
    downloads_right: usize,
    /// How long each change took until it was in force, in milliseconds.
    steps_ms: Vec<(String, u128)>,
    /// Silence of an old flow and of flows opened all the while, over all changes and shards.
    gap_old_ms: Gap,
    /// See `gap_old_ms`.
    gap_new_ms: Gap,
    /// Of each change and shard.
    silences: Vec<Silence>,
    /// Whether all is well.
    pass: bool,
    /// What is not.
    reasons: Vec<String>,
}

impl Change {
    /// As on the command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Replace => "replace",
            Self::GrowShrink => "grow-shrink",
        }
    }

    fn carry_out(self, scene: &mut Scene) -> Result<()> {
        match self {
            Self::Join => scene.step("n4 joins", &[1, 2, 3, 4], |lab| lab.add(4)),
            Self::Replace => scene.step("n2 is replaced", &[1, 2, 3], |lab| {
                let named = lab.named(2)?;
                lab.command(&["lab", "remove", "n2"])?;
                lab.forget(2, named)?;
                lab.add(2)
            }),
            Self::GrowShrink => {
                for (node, members) in [(4, &[1, 2, 3, 4][..]), (5, &[1, 2, 3, 4, 5])] {
                    scene.step(&format!("n{node} joins"), members, |lab| lab.add(node))?;
                }
                for (node, members) in [(1, &[2, 3, 4, 5][..]), (2, &[3, 4, 5])] {
                    scene.step(&format!("n{node} leaves"), members, |lab| lab.leave(node))?;
                }
                Ok(())
            }
        }
    }
}

impl MembersVerdict {
    /// Before anything was measured.
    pub(super) fn new(change: Change, connections: usize, reasons: Vec<String>) -> Self {
        Self {
            drill: change.name(),
            connections,
            connections_kept: 0,
            mappings_changed: 0,
            duplicates: 0,
            downloads: 0,
            downloads_right: 0,
            steps_ms: Vec::new(),
            gap_old_ms: Gap::of(std::iter::empty()),
            gap_new_ms: Gap::of(std::iter::empty()),
            silences: Vec::new(),
            pass: false,
            reasons,
        }
    }
}

/// Runs one drill upon a fresh lab.
pub(super) fn drill(binary: &Path, change: Change, backends: u32, connections: usize) -> MembersVerdict {
    let mut verdict = MembersVerdict::new(change, connections, Vec::new());
    if let Err(error) = in_lab(binary, change, backends, &mut verdict) {
        verdict.reasons.push(format!("{error:#}"));
    }
    verdict.gap_old_ms = Gap::of(verdict.silences.iter().map(|one| one.old_ms));
    verdict.gap_new_ms = Gap::of(verdict.silences.iter().map(|one| one.new_ms));
    verdict.reasons.extend(too_long(verdict.gap_old_ms, verdict.gap_new_ms, GAP_MAX_MS));
    verdict.pass = verdict.reasons.is_empty();
    verdict
}

fn in_lab(binary: &Path, change: Change, backends: u32, verdict: &mut MembersVerdict) -> Result<()> {
    let cluster = Cluster::up(binary, backends)?;
    let all: Vec<u32> = (1..=backends).collect();
    let idle = canary::open_idle(cluster.dir(), &all, verdict.connections)?;
    let lab = LabUnderChange { cluster: &cluster, binary: binary.to_owned() };
    let before = mappings_of(&cluster.owned_flows()?, &idle);
    ensure!(before.len() == idle.len(), "only {} of {} connections have a mapping", before.len(), idle.len());
    verdict.connections_kept = idle.len();
    change.carry_out(&mut Scene { lab, idle, before, verdict, round: 1 })
}

/// Connections under way, and what they are judged by.
struct Scene<'a> {
    lab: LabUnderChange<'a>,
    idle: Vec<Idle>,
    before: BTreeMap<(String, String), String>,
    verdict: &'a mut MembersVerdict,
    round: u64,
}

impl Scene<'_> {
    /// One change, until `members` are the cluster's; then all connections are looked at.
    fn step(
        &mut self,
        what: &str,
        members: &[u32],
        change: impl FnOnce(&LabUnderChange<'_>) -> Result<()>,
    ) -> Result<()> {
        let backend = u32::try_from(self.round)?;
        let download = Download::start(self.lab.cluster.dir(), backend, DOWNLOAD_BYTES);
        let probes = Probes::start(self.lab.cluster, usize::try_from(self.round)?)?;
        std::thread::sleep(MARGIN);
        let from = SystemTime::now();
        let began = Instant::now();
        change(&self.lab).with_context(|| what.to_owned())?;
        self.lab.wait_settled(members).with_context(|| what.to_owned())?;
        self.verdict.steps_ms.push((what.to_owned(), began.elapsed().as_millis()));
        std::thread::sleep(MARGIN);
        self.verdict.silences.extend(probes.stop(from)?);
        let (kept, first_loss) = canary::exchange_all(&mut self.idle, self.round << 32);
        let flows = self.lab.owned_flows()?;
        self.judge(what, kept, first_loss, &flows);
        self.verdict.downloads += 1;
        match download.finish() {
            Ok(true) => self.verdict.downloads_right += 1,
            Ok(false) => self.verdict.reasons.push(format!("{what}: the download's digest is wrong")),
            Err(error) => self.verdict.reasons.push(format!("{what}: download: {error:#}")),
        }
        self.round += 1;
        Ok(())
    }

    fn judge(&mut self, what: &str, kept: usize, first_loss: Option<String>, flows: &[Flow]) {
        let has = mappings_of(flows, &self.idle);
        let changed = self.before.iter().filter(|(key, public)| has.get(*key) != Some(*public)).count();
        let twice = duplicates(flows);
        let verdict = &mut self.verdict;
        verdict.connections_kept = verdict.connections_kept.min(kept);
        verdict.mappings_changed = verdict.mappings_changed.max(changed);
        verdict.duplicates += twice;
        for (count, which) in
            [(self.idle.len() - kept, "connections lost"), (changed, "mappings changed"), (twice, "duplicate mappings")]
        {
            if count > 0 {
                verdict.reasons.push(format!("{what}: {count} {which}"));
            }
        }
        verdict.reasons.extend(first_loss.map(|loss| format!("{what}: first loss: {loss}")));
    }
}

/// The lab, and the operator's commands.
struct LabUnderChange<'a> {
    cluster: &'a Cluster,
    binary: PathBuf,
}

impl LabUnderChange<'_> {
    fn command(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new(&self.binary).args(arguments).output().context("qnat")?;
        ensure!(output.status.success(), "qnat {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn add(&self, node: u32) -> Result<()> {
        self.command(&["lab", "add", &format!("n{node}")])
    }

    /// Asks members in turn until one of them, other than `beside`, says yes or no.
    fn decide<T: DeserializeOwned + Send>(&self, beside: u32, request: &Request) -> Result<T> {
        let began = Instant::now();
        loop {
            let members = self.cluster.running().into_iter().filter(|node| *node != beside);
            let mut last = None;
            for node in members {
                match self.cluster.ask(node, request) {
                    Ok(answer) => return Ok(answer),
                    Err(error) => last = Some(error),
                }
            }
            let last = last.context("no member runs")?;
            let refused = last.downcast_ref::<ClientError>().is_some_and(|error| !error.is_unreachable());
            // A node that was powered off a moment ago counts as alive for two seconds.
            let too_early = refused && format!("{last:#}").contains("is alive");
            if (refused && !too_early) || began.elapsed() > SETTLE_BOUND {
                return Err(last);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn row(&self, node: u32) -> Result<NodeView> {
        let rows: Vec<NodeView> = self.decide(node, &Request::Get { kind: ResourceKind::Nodes })?;
        rows.into_iter().find(|row| row.node == node).with_context(|| format!("n{node} is not known"))
    }

    /// What a command must name to mean `node` as it is.
    fn named(&self, node: u32) -> Result<u64> {
        Ok(self.row(node)?.named)
    }

    fn forget(&self, node: u32, incarnation: u64) -> Result<()> {
        self.decide(node, &Request::RemoveNode { node, incarnation }).map(|_: IgnoredAny| ())
    }

    /// A node leaves as an operator lets it: drained, stopped, removed, its machine gone.
    fn leave(&self, node: u32) -> Result<()> {
        let incarnation = self.named(node)?;
        let _: IgnoredAny = self.decide(node, &Request::DrainNode { node, incarnation })?;
        let began = Instant::now();
        while !self.row(node)?.drained {
            ensure!(
                began.elapsed() < SETTLE_BOUND,
                "not drained: {} shards are left on it",
                self.row(node)?.replicated_shards
            );
            std::thread::sleep(LOOK_EVERY);
        }
        self.forget(node, incarnation)?;
        self.command(&["lab", "remove", &format!("n{node}")])
    }

    /// Waits until exactly `members` are members, alive and voters, and every shard is served in full redundancy.
    fn wait_settled(&self, members: &[u32]) -> Result<()> {
        let began = Instant::now();
        loop {
            let Some(missing) = self.missing(members) else { return Ok(()) };
            if began.elapsed() > SETTLE_BOUND {
                bail!("after {} s: {missing}", SETTLE_BOUND.as_secs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn missing(&self, members: &[u32]) -> Option<String> {
        let wanted: BTreeSet<u32> = members.iter().copied().collect();
        let mut served = BTreeSet::new();
        let mut known = BTreeSet::new();
        for &node in members {
            let status: Status = match self.cluster.ask(node, &Request::Status) {
                Ok(status) => status,
                Err(error) => return Some(format!("{error:#}")),
            };
            let there = status.nodes.iter().filter(|row| row.standing != Standing::Removed);
            let listed: BTreeSet<u32> = there.map(|row| row.node).collect();
            let votes = |row: &&NodeRow| row.standing == Standing::Member && row.alive && row.control_voter;
            let counted: BTreeSet<u32> = status.nodes.iter().filter(votes).map(|row| row.node).collect();
            if listed != wanted || counted != wanted {
                return Some(format!("n{node} knows {listed:?}, of which {counted:?} are alive and vote"));
            }
            for row in status.shards {
                known.insert(row.shard);
                if row.serves() {
                    if (row.redundancy.have, row.redundancy.want) != (3, 3) {
                        return Some(format!("shard {}: {} voters in step", row.shard, row.redundancy));
                    }
                    served.insert(row.shard);
                }
            }
        }
        (known.is_empty() || served != known).then(|| format!("served {served:?} of {known:?}"))
    }

    /// Live mappings, asked again while ownership moves.
    fn owned_flows(&self) -> Result<Vec<Flow>> {
        self.cluster.owned_flows()
    }
}

impl Judged for MembersVerdict {
    fn drill(&self) -> &'static str {
        self.drill
    }

    fn reasons(&self) -> &[String] {
        &self.reasons
    }

    fn table(verdicts: &[Self]) -> String {
        table(verdicts)
    }
}

fn table(verdicts: &[MembersVerdict]) -> String {
    let mut text = String::new();
    for one in verdicts {
        let steps: Vec<String> =
            one.steps_ms.iter().map(|(what, ms)| format!("{what} in {}.{} s", ms / 1000, ms % 1000 / 100)).collect();
        text += &format!(
            "{}: {}; {} of {} connections kept, {} mappings changed, {} duplicates, {} of {} downloads right; \
             gap (median/largest) old {:.1}/{:.1} ms, new {:.1}/{:.1} ms; {}\n",
            one.drill,
            if one.pass { "pass" } else { "FAIL" },
            one.connections_kept,
            one.connections,
            one.mappings_changed,
            one.duplicates,
            one.downloads_right,
            one.downloads,
            one.gap_old_ms.median,
            one.gap_old_ms.max,
            one.gap_new_ms.median,
            one.gap_new_ms.max,
            steps.join(", ")
        );
        for reason in &one.reasons {
            text += &format!("  {reason}\n");
        }
    }
    text
}
