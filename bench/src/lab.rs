//! The cluster under test, as a user has it: brought up with the `qnat` executable, asked over the admin API. Dropping it
//! takes it down.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use control::view::BackendView;
use qnat::answers::{self, Applied, Status};
use qnat::client;
use qnat::daemon::request::{DryRun, Request, ResourceKind};
use qnat_lab::{Host, Wipe};
use serde::de::DeserializeOwned;

use crate::machine;
use crate::numbers::Buckets;
use crate::undo::Undo;

/// Members, unless somebody wants another number.
pub(crate) const NODES: u32 = 3;
const API: &str = "127.0.0.1:7880";
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Within which members have to have taken a configuration.
const APPLIED_WITHIN: Duration = Duration::from_secs(120);
const WHOLE_WITHIN: Duration = Duration::from_secs(60);

/// The lab; one per machine.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    /// Members.
    nodes: u32,
    /// Takes it down.
    _undo: Undo,
}

/// What the members have counted so far, all of them together.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Mappings committed by their owner.
    pub committed: u64,
    /// Drops by reason, largest first.
    pub drops: Vec<(String, u64)>,
    /// Elections won.
    pub elections: u64,
    /// Holds of first packets.
    pub hold: Buckets,
    /// Proposal to commit of a batch.
    pub commit: Buckets,
}

/// What all members have used until now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Processor seconds of their processes.
    pub cpu_s: f64,
    /// Times that a thread went to sleep.
    pub wakes: u64,
    /// UDP datagrams that they sent.
    pub datagrams: u64,
}

impl Lab {
    /// A fresh lab that serves with full redundancy, brought up with `more` arguments.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn up(binary: &Path, backends: u32, more: &[&str]) -> Result<Self> {
        Self::up_of(NODES, binary, backends, more)
    }

    /// The same of so many members.
    ///
    /// # Errors
    /// As `up`.
    pub fn up_of(nodes: u32, binary: &Path, backends: u32, more: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(["lab", "up", "--detach", "--nodes", &nodes.to_string(), "--backends", &backends.to_string()]);
        command.args(more);
        let up = || {
            let output = command.output().with_context(|| binary.display().to_string())?;
            ensure!(output.status.success(), "lab up: {}", String::from_utf8_lossy(&output.stderr));
            Ok(PathBuf::from(qnat_lab::DEFAULT_DIR))
        };
        let down = || {
            if let Err(error) = qnat_lab::down(Path::new(qnat_lab::DEFAULT_DIR)) {
                eprintln!("the lab could not be taken down: {error:#}");
            }
        };
        let (dir, undo) = Undo::of(up, down)?;
        let this = Self { dir, nodes, _undo: undo };
        let began = Instant::now();
        while !this.is_whole() {
            if began.elapsed() > WHOLE_WITHIN {
                bail!("the lab is not whole after {} s", WHOLE_WITHIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(this)
    }

    /// Asks one member, whose answer is a `T` (`qnat::answers`).
    ///
    /// # Errors
    /// If it does not answer.
    pub fn ask<T: DeserializeOwned + Send>(&self, node: u32, request: &Request) -> Result<T> {
        self.ask_within(node, request, ASK_TIMEOUT)
    }

    /// The same, of what takes long.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn ask_within<T: DeserializeOwned + Send>(&self, node: u32, request: &Request, time: Duration) -> Result<T> {
        let api: SocketAddr = API.parse()?;
        Ok(self.within(Host::Node(node), || client::call_within(api, request, time))??)
    }

    /// Makes the configuration what `text` says, whatever ends by that.
    ///
    /// # Errors
    /// If it is refused.
    pub fn apply(&self, text: &str) -> Result<()> {
        let (file, text) = ("bench".to_owned(), text.to_owned());
        let request = Request::Apply { file, text, dry_run: DryRun::No, yes: true, plan: None };
        let applied: Applied = self.ask_within(1, &request, APPLIED_WITHIN)?;
        ensure!(applied.committed.is_some(), "refused: {:?}", applied.refused);
        Ok(())
    }

    /// Runs `work` in the namespace of a host.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn within<T: Send>(&self, host: Host, work: impl FnOnce() -> T + Send) -> Result<T> {
        qnat_lab::in_host(&self.dir, host, work)
    }

    /// The members' numbers.
    pub(crate) fn nodes(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.nodes
    }

    /// The members' processes.
    ///
    /// # Errors
    /// If one does not run.
    pub(crate) fn pids(&self) -> Result<Vec<u32>> {
        let nodes = qnat_lab::status(&self.dir)?.nodes;
        nodes.into_iter().map(|node| Ok(node.process.context("a member does not run")?.pid)).collect()
    }

    /// Whether every shard is served with all its replicas.
    pub(crate) fn is_whole(&self) -> bool {
        let answers: Result<Vec<Status>> = self.nodes().map(|node| self.ask(node, &Request::Status)).collect();
        let Ok(answers) = answers else { return false };
        let rows = || answers.iter().flat_map(|answer| &answer.shards);
        let served = rows().filter(|row| row.serves() && row.redundancy.is_full());
        let served: Vec<u16> = served.map(|row| row.shard).collect();
        rows().next().is_some() && rows().all(|row| served.contains(&row.shard))
    }

    /// Flows that owners have in their tables: live ones, and those of which only the ports are still held.
    ///
    /// # Errors
    /// If a member does not answer.
    pub(crate) fn flows(&self) -> Result<(u64, u64)> {
        let (mut live, mut held) = (0, 0);
        for node in self.nodes() {
            let status: Status = self.ask(node, &Request::Status)?;
            for row in status.shards.iter().filter(|row| row.serves()) {
                live += u64::from(row.live.unwrap_or(0));
                held += u64::from(row.held.unwrap_or(0));
            }
        }
        Ok((live, held))
    }

    /// Crashes a member.
    ///
    /// # Errors
    /// If it does not run.
    pub(crate) fn kill(&self, node: u32) -> Result<()> {
        qnat_lab::kill(&self.dir, node)
    }

    /// Starts a member again that was crashed.
    ///
    /// # Errors
    /// If it does not start.
    pub(crate) fn restart(&self, node: u32) -> Result<()> {
        qnat_lab::restart(&self.dir, node, Wipe::No)
    }

    /// Two backends of one shard, by number: the flood's, and the one beside it.
    ///
    /// # Errors
    /// If no shard has two.
    pub fn neighbours(&self) -> Result<(u32, u32)> {
        let all = self.homes()?;
        let pair = all.windows(2).find(|pair| pair[0].0 == pair[1].0).context("no shard has two backends")?;
        Ok((pair[0].1, pair[1].1))
    }

    /// Two backends of different shards, by number.
    ///
    /// # Errors
    /// If all are of one.
    pub fn strangers(&self) -> Result<(u32, u32)> {
        let all = self.homes()?;
        let pair = all.windows(2).find(|pair| pair[0].0 != pair[1].0).context("all backends are of one shard")?;
        Ok((pair[0].1, pair[1].1))
    }

    /// Home shards and numbers of all backends, ascending.
    fn homes(&self) -> Result<Vec<(u16, u32)>> {
        let rows: Vec<BackendView> = self.ask(1, &Request::Get { kind: ResourceKind::Backends })?;
        let backend = |row: &BackendView| {
            let number = row.name.strip_prefix('b')?.split('/').next()?.parse().ok()?;
            Some((row.home_shard?, number))
        };
        let mut all: Vec<(u16, u32)> = rows.iter().filter_map(backend).collect();
        all.sort_unstable();
        Ok(all)
    }

    /// What all members have counted.
    ///
    /// # Errors
    /// If one does not answer.
    pub fn counted(&self) -> Result<Counted> {
        let (mut sum, mut holds, mut commits) = (Counted::default(), Vec::new(), Vec::new());
        for node in self.nodes() {
            let answer: answers::Counted = self.ask(node, &Request::Counters)?;
            sum.committed += answer.snat.iter().map(|row| row.successful).sum::<u64>();
            sum.elections += answer.elections;
            holds.push(answer.hold.into());
            commits.push(answer.commit.into());
            for (reason, n) in answer.drops {
                match sum.drops.iter_mut().find(|(known, _)| *known == reason) {
                    Some((_, known)) => *known += n,
                    None => sum.drops.push((reason, n)),
                }
            }
        }
        (sum.hold, sum.commit) = (Buckets::merged(&holds), Buckets::merged(&commits));
        Ok(sum)
    }

    /// What the members' processes have used.
    ///
    /// # Errors
    /// If one does not run.
    pub fn used(&self) -> Result<Used> {
        let mut sum = Used::default();
        for pid in self.pids()? {
            sum.cpu_s += machine::cpu_of(pid)?;
            sum.wakes += machine::wakes_of(pid)?;
            sum.datagrams += machine::datagrams_of(pid)?;
        }
        Ok(sum)
    }

    /// The same once nothing moves any more: the worker publishes its counters five times a second.
    ///
    /// # Errors
    /// If a member does not answer, or they still move after ten seconds.
    pub fn settled(&self) -> Result<Counted> {
        const STILL: Duration = Duration::from_millis(500);
        let began = Instant::now();
        let mut before = self.counted()?;
        while began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(STILL);
            let now = self.counted()?;
            if now.committed == before.committed && now.drops == before.drops {
                return Ok(now);
            }
            before = now;
        }
        bail!("the counters still move ten seconds after the load ended")
    }
}

impl Counted {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |reason: &str| earlier.drops.iter().find(|(known, _)| known == reason).map_or(0, |(_, n)| *n);
        let drops = self.drops.iter().map(|(reason, n)| (reason.clone(), n.saturating_sub(before(reason))));
        let mut drops: Vec<(String, u64)> = drops.filter(|(_, n)| *n > 0).collect();
        drops.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        Self {
            committed: self.committed - earlier.committed,
            drops,
            elections: self.elections - earlier.elections,
            hold: self.hold.since(&earlier.hold),
            commit: self.commit.since(&earlier.commit),
        }
    }
}
