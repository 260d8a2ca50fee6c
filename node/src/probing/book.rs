//! Whom this member asks, when, and what has come of it: of each backend of each probe whose shard it owns.
//!
//! A backend is up after one success, and down after as many failures in a row as its probe says. What differs from what is
//! committed becomes a change to propose, at most one entry each `ENTRY_EVERY_NS`; what is not committed in time is
//! proposed again. Counts are this owner's own: a successor goes on from what is committed, and counts anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::sync::Arc;

use control::probing::bounds::CHANGES_MAX;
use control::probing::health::HealthChange;
use control::probing::model::ProbeRef;
use engine::ids::{BackendId, ShardId, Term};
use engine::probes::{Ask, Health, Probe};
use engine::snapshot::Snapshot;
use words::SplitMix;
use words::time::SECOND_NS;

use super::attempt::Ended;

/// Between two entries of this member at least: the bound of what health costs the control log.
const ENTRY_EVERY_NS: u64 = SECOND_NS / 5;
/// A change that is not committed by then is proposed again.
const COMMITTED_WITHIN_NS: u64 = 2 * SECOND_NS;
/// Backends of which nothing is known are first asked within this time.
const FIRST_WITHIN_NS: u64 = SECOND_NS / 4;

/// A probe by its name, and a backend that it asks.
pub type Key = (Arc<str>, BackendId);

/// The lease under which a shard's backends are asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The shard.
    pub shard: ShardId,
    /// In which term it is owned.
    pub term: Term,
}

/// Somebody who is to be asked now.
#[derive(Clone, Debug)]
pub struct Due {
    /// By which probe, and who.
    pub key: Key,
    /// Where.
    pub to: SocketAddrV4,
    /// How.
    pub ask: Ask,
    /// What the answer may take.
    pub timeout_ns: u64,
    /// Under which lease.
    pub lease: Lease,
}

#[derive(Debug)]
struct Target {
    probe: Arc<Probe>,
    to: SocketAddrV4,
    lease: Lease,
    committed: Option<Health>,
    due_ns: u64,
    failures: u32,
    /// What this owner has found.
    found: Option<Health>,
    /// Until when a change of it may still be on its way to the log.
    proposed_until_ns: u64,
}

impl Target {
    /// What the log is to hear.
    fn news(&self) -> Option<Health> {
        let found = self.found?;
        let same = matches!(
            (found, self.committed),
            (Health::Up, Some(Health::Up)) | (Health::Down(_), Some(Health::Down(_)))
        );
        (!same).then_some(found)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Book {
    targets: BTreeMap<Key, Target>,
    due: BTreeSet<(u64, Key)>,
    /// Those of which the log is to hear.
    news: BTreeSet<Key>,
    next_entry_ns: u64,
}

impl Book {
    /// Asks by this configuration from now on, the backends of the shards that `owned` says.
    pub fn configure(&mut self, now_ns: u64, snapshot: &Snapshot, owned: impl Fn(ShardId) -> Option<Term>) {
        let mut before = std::mem::take(&mut self.targets);
        (self.due, self.news) = (BTreeSet::new(), BTreeSet::new());
        for probe in &snapshot.probes.all {
            for (id, committed) in &probe.members {
                let Some(backend) = snapshot.backends.get(id) else { continue };
                let Some(term) = owned(backend.home) else { continue };
                let key = (Arc::clone(&probe.name), *id);
                let lease = Lease { shard: backend.home, term };
                let to = SocketAddrV4::new(backend.ip, probe.port);
                let known = before.remove(&key).filter(|known| {
                    let asked = (&known.probe.ask, known.probe.interval_ms);
                    (known.lease, known.to, asked) == (lease, to, (&probe.ask, probe.interval_ms))
                });
                let mut target = known.unwrap_or_else(|| Target {
                    due_ns: now_ns + wait(&key, probe, *committed),
                    probe: Arc::clone(probe),
                    to,
                    lease,
                    committed: *committed,
                    failures: 0,
                    found: None,
                    proposed_until_ns: 0,
                });
                if target.committed != *committed {
                    target.proposed_until_ns = 0;
                }
                (target.committed, target.probe) = (*committed, Arc::clone(probe));
                self.due.insert((target.due_ns, key.clone()));
                if target.news().is_some() {
                    self.news.insert(key.clone());
                }
                self.targets.insert(key, target);
            }
        }
    }

    /// How many are asked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether nobody is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// When somebody is to be asked, or the log to be told; `u64::MAX`: never.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        let ask = self.due.first().map_or(u64::MAX, |(due_ns, _)| *due_ns);
        let tell = if self.news.is_empty() { u64::MAX } else { self.next_entry_ns };
        ask.min(tell)
    }

    /// The next who is to be asked; the time after that is one interval after this one was due.
    pub fn take_due(&mut self, now_ns: u64) -> Option<Due> {
        let (due_ns, _) = self.due.first()?;
        if *due_ns > now_ns {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        let target = self.targets.get_mut(&key)?;
        let interval_ns = u64::from(target.probe.interval_ms) * 1_000_000;
        // Who comes late, since there was no room, is not asked twice for it.
        target.due_ns = (target.due_ns + interval_ns).max(now_ns + interval_ns / 2);
        self.due.insert((target.due_ns, key.clone()));
        Some(Due { to: target.to, ask: target.probe.ask.clone(), timeout_ns: interval_ns, lease: target.lease, key })
    }

    /// What came of asking, under a lease that ran all the while. Another owner's, or another question's, counts for
    /// nothing.
    pub fn ended(&mut self, key: &Key, lease: Lease, ended: Ended) {
        let Some(target) = self.targets.get_mut(key).filter(|target| target.lease == lease) else { return };
        match ended {
            Ok(()) => {
                target.failures = 0;
                target.found = Some(Health::Up);
            }
            Err(failing) => {
                target.failures = target.failures.saturating_add(1);
                if target.failures >= target.probe.threshold {
                    target.found = Some(Health::Down(failing));
                }
            }
        }
        if target.news().is_some() {
            self.news.insert(key.clone());
        } else {
            self.news.remove(key);
        }
    }

    /// What the log is to hear now: the changes of one entry, or none.
    pub fn take_changes(&mut self, now_ns: u64) -> Vec<HealthChange> {
        if now_ns < self.next_entry_ns || self.news.is_empty() {
            return Vec::new();
        }
        let mut changes = Vec::new();
        for key in &self.news {
            let Some(target) = self.targets.get_mut(key) else { continue };
            if changes.len() == CHANGES_MAX {
                break;
            }
            let (Some(health), true) = (target.news(), target.proposed_until_ns <= now_ns) else { continue };
            let Some(probe) = ProbeRef::parse(&key.0) else { continue };
            let Lease { shard, term } = target.lease;
            changes.push(HealthChange { probe, backend: key.1, health, shard, term });
            target.proposed_until_ns = now_ns + COMMITTED_WITHIN_NS;
        }
        self.next_entry_ns = now_ns + ENTRY_EVERY_NS;
        changes
    }
}

/// How long somebody new waits: those of one probe are spread over its interval, and who gets no flows for want of an
/// answer is asked soon.
fn wait(key: &Key, probe: &Probe, committed: Option<Health>) -> u64 {
    let interval_ns = u64::from(probe.interval_ms) * 1_000_000;
    let within = if committed.is_none() { interval_ns.min(FIRST_WITHIN_NS) } else { interval_ns };
    let name = key.0.bytes().fold(0_u64, |sum, octet| SplitMix::mix(sum ^ u64::from(octet)));
    SplitMix::mix(name ^ u64::from(key.1.0)) % within.max(1)
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
