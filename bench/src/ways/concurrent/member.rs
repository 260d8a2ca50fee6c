//! The member under test: alone, a pair each to its client and to its server, and a configuration that lets one client have as many
//! flows as anybody asks for. Judges nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use qnat::answers::{ConfigFile, FastPath};
use qnat::daemon::data_config::CACHE_FLOWS_MAX;
use qnat::daemon::request::{Request, ResourceKind};
use serde::{Deserialize, Serialize};

use super::filling::{Filling, Opening};
use crate::lab::Lab;
use crate::machine::{self, Memory};
use crate::numbers::Spread;
use crate::ways::direct;
use crate::ways::offered::{ARRIVES_WITHIN, NEW, Offered};

/// A backend may have half of what a shard has room for.
const LIMITS: [(&str, u32); 3] =
    [("flows_per_shard_max", 1 << 25), ("flows_per_backend_max", 1 << 24), ("new_flows_per_second_max", 1_000_000)];
/// Of an outbound rule, minutes: so long that nothing ends while others are opened, and the shortest.
const IDLE_TIMEOUTS: (u32, u32) = (100, 4);
/// Datagrams a second of a load that a worker can carry.
pub const PACED: u32 = 100_000;
/// How long flows may take to be in the kernel.
const CACHED_WITHIN: Duration = Duration::from_secs(120);

/// What arrived of datagrams of 60 octets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    /// Of as many as could be sent, several million a second: arrived, thousands a second.
    pub kpps: Spread,
    /// Of [`PACED`] a second: arrived, 0 to 1.
    pub paced_share: Spread,
}

/// A lab of one member, and its ends.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) lab: Lab,
    offered: Offered,
    filling: Filling,
    pid: u32,
}

/// Lets one client have many flows.
///
/// # Errors
/// If the configuration is refused.
pub(super) fn widen(lab: &Lab) -> Result<()> {
    let fields = LIMITS.into_iter().chain([("idle_timeout_minutes", IDLE_TIMEOUTS.0)]);
    apply(lab, fields)
}

fn apply(lab: &Lab, fields: impl IntoIterator<Item = (&'static str, u32)>) -> Result<()> {
    let ConfigFile { file, .. } = lab.ask(1, &Request::Get { kind: ResourceKind::Config })?;
    lab.apply(&fields.into_iter().try_fold(file, |file, (field, value)| with(&file, field, value))?)
}

/// The file with another value of a field that it has once.
fn with(file: &str, field: &str, value: u32) -> Result<String> {
    let is_field = |line: &&str| line.split_once('=').is_some_and(|(name, _)| name.trim() == field);
    ensure!(file.lines().filter(is_field).count() == 1, "the lab's configuration has no {field}, or several");
    let line = |line: &str| if is_field(&line) { format!("{field} = {value}\n") } else { format!("{line}\n") };
    Ok(file.lines().map(line).collect())
}

impl Member {
    /// One without flows whose fast path begins as `cache` says.
    ///
    /// # Errors
    /// If the lab does not come up, or without two processors.
    pub(super) fn up(binary: &Path, cache: &str) -> Result<Self> {
        let room = if cache == "off" { 0 } else { CACHE_FLOWS_MAX };
        let lab = Lab::up_of(1, binary, 1, &["--direct", "--cache", cache, "--cache-flows", &room.to_string()])?;
        widen(&lab)?;
        let [wire, _] = direct::wires();
        let offered = Offered::of_one(&lab, wire, NEW, false)?;
        let filling = Filling::new(&lab, &offered)?;
        let pid = lab.pids()?.first().copied().context("no member")?;
        Ok(Self { lab, offered, filling, pid })
    }

    /// Its memory.
    ///
    /// # Errors
    /// If it is gone.
    pub(super) fn memory(&self) -> Result<Memory> {
        machine::memory_of(self.pid)
    }

    /// Opens flows until there are so many.
    ///
    /// # Errors
    /// If they do not all stay open.
    pub(super) fn grow(&mut self, to: u32) -> Result<Opening> {
        self.filling.grow(&self.lab, &self.offered, to)
    }

    /// What is carried of all of them, hit in turn.
    ///
    /// # Errors
    /// If the generator fails.
    pub(super) fn carried(&self, rounds: u32, lasting: Duration) -> Result<Carried> {
        let (flows, mut kpps, mut shares) = ([self.filling.open()], Vec::new(), Vec::new());
        for _ in 0..rounds {
            let began = Instant::now();
            let (_, arrived, _) = self.offered.send(&flows, None, lasting)?;
            // By the clock: the kernel leaves out for how long it was kept from sending, though whoever carries was not.
            let took = began.elapsed().saturating_sub(ARRIVES_WITHIN);
            kpps.push(arrived as f64 / took.as_secs_f64() / 1e3);
            let (sent, arrived, _) = self.offered.send(&flows, Some(PACED), lasting)?;
            shares.push(arrived as f64 / sent as f64);
        }
        let spread = |values| Spread::of(values).context("at least one round");
        Ok(Carried { kpps: spread(kpps)?, paced_share: spread(shares)? })
    }

    /// Sends by all flows until the kernel carries them.
    ///
    /// # Errors
    /// If that takes too long.
    pub(super) fn await_cached(&self) -> Result<()> {
        let (flows, began) = (self.filling.open(), Instant::now());
        loop {
            let fast: FastPath = self.lab.ask(1, &Request::Cache { turn: None })?;
            if fast.entries >= flows.count.into() {
                return Ok(());
            }
            if began.elapsed() > CACHED_WITHIN {
                bail!("of {} flows the kernel has {}, with room for {}", flows.count, fast.entries, fast.room);
            }
            self.filling.lap(&self.offered)?;
        }
    }

    /// Ends from now on what was idle for the shortest time that there is; how long that is.
    ///
    /// # Errors
    /// If the configuration is refused.
    pub(super) fn shorten(&self) -> Result<()> {
        apply(&self.lab, [("idle_timeout_minutes", IDLE_TIMEOUTS.1)])
    }

    /// How long a flow has to be idle for that.
    pub(super) const fn shortest() -> Duration {
        Duration::from_secs(60 * IDLE_TIMEOUTS.1 as u64)
    }

    /// As many flows as there are.
    pub(super) const fn flows(&self) -> u32 {
        self.filling.open().count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_gets_its_value_and_one_that_is_missing_is_named() {
        let file = "[settings]\ntick_ms = 5\nreplicas = 3\n";
        assert_eq!(with(file, "tick_ms", 7).expect("it is there"), "[settings]\ntick_ms = 7\nreplicas = 3\n");
        let why = with(file, "ticks", 7).expect_err("it is not");
        assert!(why.to_string().contains("no ticks"), "{why}");
    }
}
