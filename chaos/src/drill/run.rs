//! One run of a drill: canaries up, fault, canaries judged, fault taken back, cluster whole again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use qnat_lab::{Host, topology::Network};

use super::canary::{self, Download, Idle, Kind, Sent, Stream};
use super::capture::{Capture, Frame, Side, nanos};
use super::cluster::{Backend, Cluster, Flow, NODES};
use super::fault::Fault;
use super::judge::{self, Emissions, Emitted, Handover, Scene};
use super::truth::{self, Asking};

/// Between two datagrams of the old flow, and between two new flows.
pub(super) const OLD_EVERY: Duration = Duration::from_millis(1);
const NEW_EVERY: Duration = Duration::from_millis(5);
/// Traffic before the fault.
const SETTLE: Duration = Duration::from_millis(700);
/// New flows after the fault.
const NEW_AFTER: Duration = Duration::from_millis(2500);
/// Traffic after the fault was taken back.
const AFTER: Duration = Duration::from_millis(1500);
/// Longest time that a captured frame spends in the kernel (tcpdump asks for 1 s).
pub(super) const CAPTURE_LAG: Duration = Duration::from_millis(1200);
/// An owner that comes back may lead again after this: earlier it owns nothing.
const RETURN_NS: u64 = 200_000_000;
/// How long the cluster may take to be whole again.
const WHOLE_BOUND: Duration = Duration::from_secs(40);
/// How often a shard may move while the traffic begins.
const MOVES_MAX: usize = 5;
/// Bytes of the download, which outlasts the takeover.
const DOWNLOAD_BYTES: u64 = 24 << 20;

/// What one run found.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) kept: usize,
    pub(super) total: usize,
    pub(super) first_loss: Option<String>,
    pub(super) mappings_changed: usize,
    pub(super) duplicates: usize,
    pub(super) gap_old_ms: f64,
    pub(super) gap_new_ms: f64,
    /// Longest silence of the old flow when the fault was taken back.
    pub(super) gap_return_ms: f64,
    pub(super) elections: u64,
    /// Groups that the fault left without a leader.
    pub(super) groups: u64,
    pub(super) emissions: Emissions,
    pub(super) untranslated: u64,
    pub(super) wrong_port: u64,
    pub(super) download: Result<bool, String>,
    pub(super) whole_again_ms: u128,
    /// How often members were asked for their status, and what they said that is not true.
    pub(super) statuses: usize,
    pub(super) lies: Vec<String>,
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for people; 2^53 ns are 104 days")]
pub(super) fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// Mappings of the idle connections: inside and remote end to public end.
pub(super) fn mappings_of(flows: &[Flow], idle: &[Idle]) -> BTreeMap<(String, String), String> {
    let wanted: BTreeSet<_> = idle.iter().map(|idle| (idle.inside.to_string(), idle.remote.to_string())).collect();
    let tcp = flows.iter().filter(|flow| flow.proto == "tcp");
    let keyed = tcp.map(|flow| ((flow.inside.clone(), flow.remote.clone()), flow.public.clone()));
    keyed.filter(|(key, _)| wanted.contains(key)).collect()
}

/// Live mappings that share protocol, public end and remote end with another one.
pub(super) fn duplicates(flows: &[Flow]) -> usize {
    let distinct: BTreeSet<_> = flows.iter().map(|flow| (&flow.proto, &flow.public, &flow.remote)).collect();
    flows.len() - distinct.len()
}

struct Captures {
    nodes: Vec<(u32, Capture, Capture)>,
    backend: Capture,
    inet: Capture,
}

impl Captures {
    fn start(into: &Path, backend: u32) -> Result<Self> {
        let of_node = |node| {
            let inside = Capture::start(into, Host::Node(node), Network::Inside, Side::FromHost)?;
            Ok((node, inside, Capture::start(into, Host::Node(node), Network::Outside, Side::FromHost)?))
        };
        Ok(Self {
            nodes: (1..=NODES).map(of_node).collect::<Result<_>>()?,
            backend: Capture::start(into, Host::Backend(backend), Network::Inside, Side::ToHost)?,
            inet: Capture::start(into, Host::Inet, Network::Outside, Side::ToHost)?,
        })
    }
}

/// What the captures of a run hold.
struct Seen {
    emitted: Vec<Emitted>,
    /// What reached the probing backend.
    replies: Vec<Frame>,
    /// What reached the internet.
    arrived: Vec<Frame>,
}

impl Captures {
    fn stop(self) -> Result<Seen> {
        let mut emitted = Vec::new();
        for (node, inside, outside) in self.nodes {
            emitted.push(Emitted { node, inside: inside.stop()?, outside: outside.stop()? });
        }
        Ok(Seen { emitted, replies: self.backend.stop()?, arrived: self.inet.stop()? })
    }
}

/// Upon whom the fault comes, and which backend of the shard measures the gap.
struct Target {
    shard: u64,
    owner: u32,
    /// Shards that it owns.
    groups: u64,
    probe: u32,
    backends: Vec<Backend>,
}

impl Target {
    /// Another shard in each run, and another of its backends in each round.
    fn choose(cluster: &Cluster, run: usize) -> Result<Self> {
        let owners = cluster.owners();
        let place = run % owners.len().max(1);
        let (&shard, &owner) = owners.iter().nth(place).context("no shard has an owner")?;
        let backends = cluster.backends()?;
        let homes: Vec<u32> = backends.iter().filter(|one| one.shard == shard).map(|one| one.number).collect();
        let probe = *homes.get(run / owners.len() % homes.len().max(1)).context("the shard has no backend")?;
        let groups = u64::try_from(owners.values().filter(|one| **one == owner).count())?;
        Ok(Self { shard, owner, groups, probe, backends })
    }
}

/// Until when the old owner is judged: one that was started again, or began anew by itself, is another process; one that
/// lives on is judged on until `until_ns`.
fn judged_until(fault: Fault, (began_ns, ended_ns, until_ns): (u64, u64, u64)) -> u64 {
    match fault {
        Fault::KillOwner | Fault::StopOwner => ended_ns,
        Fault::PauseOwner | Fault::PartitionOwner | Fault::SilentNetwork => until_ns,
        Fault::HangWorker | Fault::RemakeInterface => {
            let lives = fault.survives().map_or(0, |lives| u64::try_from(lives.as_nanos()).unwrap_or(u64::MAX));
            began_ns.saturating_add(lives).min(ended_ns)
        }
    }
}

/// Traffic that runs, watched, ahead of the fault.
struct Scenery {
    target: Target,
    captures: Captures,
    old: Stream,
    new: Stream,
    download: Download,
    elections: BTreeMap<u32, u64>,
    /// The mappings of all shards.
    flows: Vec<Flow>,
    /// Where the captures write; the last to go.
    files: TempDir,
}

impl Scenery {
    /// Ready for a fault upon an owner that is one: a shard may move by itself, to where it was placed, or because the
    /// machine stood still, and then another one is chosen.
    fn set(cluster: &Cluster, run: usize) -> Result<Self> {
        for _ in 0..MOVES_MAX {
            let target = Target::choose(cluster, run)?;
            let elections = cluster.elections();
            let files = tempdir()?;
            let captures = Captures::start(&files.0, target.probe)?;
            let old = Stream::start(cluster.dir(), target.probe, Kind::Old, OLD_EVERY);
            let new = Stream::start(cluster.dir(), target.probe, Kind::New, NEW_EVERY);
            let download = Download::start(cluster.dir(), target.probe, DOWNLOAD_BYTES);
            std::thread::sleep(SETTLE);
            let flows = cluster.owned_flows()?;
            let owner = cluster.owners().get(&target.shard).copied();
            if owner == Some(target.owner) {
                return Ok(Self { target, captures, old, new, download, elections, flows, files });
            }
            eprintln!("shard {} moved from n{} to {owner:?} ahead of the fault", target.shard, target.owner);
        }
        bail!("a shard moved ahead of the fault, {MOVES_MAX} times: the cluster is not at rest")
    }
}

/// Runs `fault` once upon the owner of a shard that changes from run to run.
pub(super) fn once(cluster: &Cluster, fault: Fault, lasts: Duration, run: usize, idle: &mut [Idle]) -> Result<Outcome> {
    let scenery = Scenery::set(cluster, run)?;
    let Scenery { target, captures, old, new, download, elections: elections_before, flows: before, files: _files } =
        scenery;
    let Target { shard, owner, groups, probe: _, backends } = target;

    let asking = Asking::start(cluster, owner, shard);
    let clock = Instant::now();
    let (began, sure) = fault.inject(cluster, owner)?;
    std::thread::sleep(NEW_AFTER.saturating_sub(clock.elapsed()));
    let new = new.stop()?;
    let new_until = SystemTime::now();
    let during = canary::exchange_all(idle, 1 << 32);
    let dump = cluster.owned_flows()?;
    std::thread::sleep(lasts.saturating_sub(clock.elapsed()));
    let ended = SystemTime::now();
    let elections_after = cluster.elections();
    fault.end(cluster, owner)?;
    let healing = Instant::now();
    std::thread::sleep(AFTER);
    let owner_after = cluster.owners().get(&shard).copied();
    let until = SystemTime::now();
    // The kernel hands frames over in blocks; what is in the last one when a capture ends is lost.
    std::thread::sleep(CAPTURE_LAG);
    let old = old.stop()?;

    let Seen { emitted, replies, arrived } = captures.stop()?;
    let (began_ns, ended_ns, until_ns) = (nanos(began)?, nanos(ended)?, nanos(until)?);
    let owns_again = owner_after == Some(owner);
    let until_ns_of_owner = if owns_again { ended_ns + RETURN_NS } else { until_ns };
    let end_ns = judged_until(fault, (began_ns, ended_ns, until_ns_of_owner));
    let handover = fault.handover();
    let scene = Scene { owner, shard: u16::try_from(shard)?, began_ns, sure_ns: nanos(sure)?, end_ns, handover };
    let emissions = emissions(&emitted, &stood(&before, &dump, handover), scene)?;
    ensure!(
        !arrived.is_empty() && !dump.is_empty(),
        "nothing arrived outside, or no mapping is known: nothing is proved"
    );
    let (untranslated, wrong_port) = judge::leaks(&arrived, &backends);
    let from_ns = began_ns - 200_000_000;
    let download = download.finish().map_err(|error| format!("{error:#}"));
    let whole = cluster.wait_whole(WHOLE_BOUND).map(|_| healing.elapsed().as_millis())?;
    let said = asking.stop()?;
    let lies = truth::lies(&said, truths(fault, scene, (ended_ns, until_ns), &judge::places(&emitted, scene.shard)));
    let after = canary::exchange_all(idle, 2 << 32);
    let flows = cluster.owned_flows()?;
    let grown = |(node, count): (&u32, &u64)| count.saturating_sub(elections_before.get(node).copied().unwrap_or(0));
    let gap = |sent: &Sent, from_ns, to_ns| {
        millis(judge::longest_gap(&sent.at_ns, &judge::replies(&replies, &sent.ports), from_ns, to_ns).0)
    };
    Ok(Outcome {
        kept: during.0.min(after.0),
        total: idle.len(),
        first_loss: during.1.or(after.1),
        mappings_changed: changed(&mappings_of(&before, idle), &mappings_of(&flows, idle)),
        duplicates: duplicates(&dump) + duplicates(&flows),
        gap_old_ms: gap(&old, from_ns, ended_ns),
        gap_new_ms: gap(&new, from_ns, nanos(new_until)?),
        gap_return_ms: gap(&old, ended_ns, until_ns),
        elections: elections_after.iter().map(grown).sum(),
        groups,
        emissions,
        untranslated,
        wrong_port,
        download,
        whole_again_ms: whole,
        statuses: said.len(),
        lies,
    })
}

/// Mappings that stood when the old owner's lease ended. One that hands over opens some after the fault has begun, and hands
/// them over with the others: the successor has them.
fn stood(before: &[Flow], after: &[Flow], handover: Handover) -> Vec<Flow> {
    let handed_over = if handover == Handover::Graceful { after } else { &[] };
    before.iter().chain(handed_over).cloned().collect()
}

/// What owners sent, by captures that saw something of the old one before the fault: else they prove nothing.
fn emissions(emitted: &[Emitted], known: &[Flow], scene: Scene) -> Result<Emissions> {
    let found = judge::emissions(emitted, known, scene);
    if found.owner_sent_before == 0 {
        let seen: Vec<String> = emitted.iter().map(|one| one.summary(scene.began_ns)).collect();
        bail!(
            "the captures saw nothing of n{} before the fault: they prove nothing ({})",
            scene.owner,
            seen.join("; ")
        );
    }
    Ok(found)
}

/// How many of the mappings have another public end, or none.
fn changed(had: &BTreeMap<(String, String), String>, has: &BTreeMap<(String, String), String>) -> usize {
    had.iter().filter(|(key, public)| has.get(*key) != Some(*public)).count()
}

/// What answers of `status` are held against.
const fn truths(fault: Fault, scene: Scene, until: (u64, u64), places: &[(u64, u32)]) -> truth::Scene<'_> {
    let Scene { owner: target, began_ns, sure_ns, .. } = scene;
    let (ended_ns, captured_ns) = until;
    truth::Scene { fault, target, began_ns, sure_ns, ended_ns, captured_ns, places }
}

/// A directory that is removed with all that is in it.
pub(super) struct TempDir(pub(super) std::path::PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        // Nothing else can be done about it here.
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// Where the captures of this process are while a run is under way.
pub(super) fn files() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("qnat-drill-{}", std::process::id()))
}

/// An empty one.
pub(super) fn tempdir() -> Result<TempDir> {
    let path = files();
    std::fs::create_dir_all(&path)?;
    Ok(TempDir(path))
}
