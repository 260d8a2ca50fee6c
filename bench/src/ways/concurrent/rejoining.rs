//! A member of three comes back to many flows: how long until nothing is missing any more, and what a flow notices of it. Judges
//! nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use qnat::answers::Status;
use qnat::daemon::request::Request;
use serde::{Deserialize, Serialize};

use super::filling::{Filling, Opening};
use super::member::widen;
use super::probed::{Probed, probed};
use crate::lab::Lab;
use crate::machine::{self, Memory};
use crate::ways::offered::{Offered, Wire};

/// Probed before, and while the member is away.
const QUIET: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const WHOLE_WITHIN: Duration = Duration::from_secs(300);

/// When a member came back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejoining {
    /// The flows, all of one shard.
    pub flows: u32,
    /// How they were opened, with three replicas.
    pub opening: Opening,
    /// From its start until each shard has all its replicas again, seconds.
    pub whole_s: f64,
    /// A flow of that shard: before, while the member is away, while it comes back.
    pub probed: [Probed; 3],
    /// The member's, when all was over.
    pub memory: Memory,
}

/// A replica of the flows' shard that does not own it crashes, and starts again.
///
/// # Errors
/// If the lab does not come up or the flows do not stay open, or the member does not come back.
pub(super) fn measure(binary: &Path, count: u32) -> Result<Rejoining> {
    let lab = Lab::up(binary, 1, &[])?;
    widen(&lab)?;
    let offered = Offered::of_all([Wire::of(1)])?;
    let opening = Filling::new(&lab, &offered)?.grow(&lab, &offered, count)?;
    let node = stand_by(&lab)?;
    eprintln!("{count} flows on three members, {:.0} opened a second; n{node} crashes", opening.per_second);
    let quiet = || {
        std::thread::sleep(QUIET);
        Ok(())
    };
    let ((), before) = probed(&lab, quiet)?;
    lab.kill(node)?;
    let ((), away) = probed(&lab, quiet)?;
    let (whole_s, back) = probed(&lab, || {
        let began = Instant::now();
        lab.restart(node)?;
        while !(lab.is_whole() && has(&lab, node, count)?) {
            if began.elapsed() > WHOLE_WITHIN {
                bail!("n{node} is not in step {} s after its start", WHOLE_WITHIN.as_secs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(began.elapsed().as_secs_f64())
    })?;
    eprintln!("whole {whole_s:.1} s after its start");
    let place = usize::try_from(node - 1)?;
    let pid = lab.pids()?.get(place).copied().context("the member does not run")?;
    let memory = machine::memory_of(pid)?;
    Ok(Rejoining { flows: count, opening, whole_s, probed: [before, away, back], memory })
}

/// Whether a member's own table has so many flows.
fn has(lab: &Lab, node: u32, flows: u32) -> Result<bool> {
    let status: Status = lab.ask(node, &Request::Status)?;
    Ok(status.shards.iter().filter_map(|row| row.live).any(|live| live >= flows))
}

/// A member that does not own the shard with the most flows.
fn stand_by(lab: &Lab) -> Result<u32> {
    let mut most = None;
    for node in lab.nodes() {
        let status: Status = lab.ask(node, &Request::Status)?;
        let live = status.shards.iter().filter(|row| row.serves()).filter_map(|row| row.live).max();
        most = most.max(live.map(|live| (live, node)));
    }
    let (_, owner) = most.context("no shard is served")?;
    // Not the one that is asked for the configuration.
    lab.nodes().rfind(|node| *node != owner).context("one member alone")
}
