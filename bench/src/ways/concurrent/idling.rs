//! All flows go idle at once: how long until none is left, and what another flow notices of it. Judges nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::member::Member;
use super::probed::{Probed, probed};
use crate::machine::Memory;

/// Before they end.
const QUIET: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const GONE_WITHIN: Duration = Duration::from_secs(600);
/// The probe's own flows, with what the ends ask each other.
const OWN: u64 = 16;

/// When all flows had gone idle.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Idling {
    /// How many did.
    pub flows: u32,
    /// From the order that ends them until `status` shows none, seconds.
    pub closed_s: f64,
    /// From then until none of their ports is held any more, seconds.
    pub freed_s: f64,
    /// A flow beside them: before, while they end, while their ports are held and freed.
    pub probed: [Probed; 3],
    /// The member's, when all was over.
    pub memory: Memory,
}

/// Waits until all flows have been idle for long enough, and ends them.
///
/// # Errors
/// If they do not end, or a datagram cannot be sent.
pub(super) fn measure(member: &Member) -> Result<Idling> {
    eprintln!("{} flows go idle, for {} s", member.flows(), Member::shortest().as_secs());
    // The clock of the last datagram is a tenth of a second behind at most, and that of the order is ahead.
    std::thread::sleep(Member::shortest() + Duration::from_secs(1) - QUIET);
    let ((), before) = probed(&member.lab, || {
        std::thread::sleep(QUIET);
        Ok(())
    })?;
    let (closed_s, closing) = probed(&member.lab, || {
        let began = Instant::now();
        member.shorten()?;
        until(member, |(live, _)| live <= OWN)?;
        Ok(began.elapsed().as_secs_f64())
    })?;
    let (freed_s, freeing) = probed(&member.lab, || {
        let began = Instant::now();
        until(member, |(live, held)| live + held <= OWN)?;
        Ok(began.elapsed().as_secs_f64())
    })?;
    eprintln!("none after {closed_s:.1} s, no port held after {freed_s:.1} s more");
    let probed = [before, closing, freeing];
    Ok(Idling { flows: member.flows(), closed_s, freed_s, probed, memory: member.memory()? })
}

fn until(member: &Member, is_reached: impl Fn((u64, u64)) -> bool) -> Result<()> {
    let (began, mut last) = (Instant::now(), (0, 0));
    while began.elapsed() < GONE_WITHIN {
        // A member that is busy ending flows may answer late.
        if let Ok(flows) = member.lab.flows() {
            if is_reached(flows) {
                return Ok(());
            }
            last = flows;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    bail!("after {} s there are {} flows, and the ports of {} are held", GONE_WITHIN.as_secs(), last.0, last.1)
}
