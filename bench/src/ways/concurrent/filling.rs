//! Opening flows: at the greatest pace at which almost none is lost, which is found on the way; what was lost is sent again until
//! every flow is there. Judges nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::beside::BY_CLUSTER;
use crate::lab::Lab;
use crate::offer::{Flows, RATE_MIN};
use crate::ways::offered::Offered;

/// Flows to each port of the remote.
pub(super) const PER_PORT: u32 = 1_000;
/// New flows a second at first, and at most.
const RATES: (u32, u32) = (100_000, 1_000_000);
/// After so long the pace is looked at.
const PIECE: Duration = Duration::from_millis(500);
/// What may be missing of a pace that is kept, one in so many.
const LOST_ONE_IN: u64 = 200;
/// By how much faster lost datagrams are sent again at first: almost all are of flows that are there, which cost less.
const AGAIN: u32 = 2;
/// Of a pace that could be sent.
const KEPT: f64 = 0.9;
/// How often all are sent, until those that are missing still are a failure.
const LAPS_MAX: u32 = 12;
/// A worker publishes its counters five times a second.
const PUBLISHED_WITHIN: Duration = Duration::from_millis(600);

/// How flows were opened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// How many.
    pub flows: u32,
    /// While datagrams were sent, those again included that were lost.
    pub seconds: f64,
    /// New flows a second while each was sent for the first time. It begins at 100,000: of fewer flows that says little.
    pub per_second: f64,
    /// Those that were there then, of all, 0 to 1.
    pub at_once: f64,
    /// The pace that this ended with, a second.
    pub pace: u32,
}

/// The flows that are there, all of the lab's first client.
#[derive(Debug)]
pub(super) struct Filling {
    open: Flows,
    /// Flows of others.
    besides: u64,
    /// New flows a second.
    pace: u32,
}

impl Filling {
    /// None yet.
    ///
    /// # Errors
    /// If the gateway's address is not answered for, or a member does not answer.
    pub(super) fn new(lab: &Lab, offered: &Offered) -> Result<Self> {
        let flows = offered.flows(BY_CLUSTER, 1)?.first().copied().context("a client")?;
        let open = Flows { count: 0, ..flows };
        // What the ends asked each other for their addresses is a flow as well.
        std::thread::sleep(PUBLISHED_WITHIN);
        let (besides, _) = lab.flows()?;
        Ok(Self { open, besides, pace: RATES.0 })
    }

    /// Those that are there.
    pub(super) const fn open(&self) -> Flows {
        self.open
    }

    /// Opens flows until there are so many.
    ///
    /// # Errors
    /// If they do not all stay open.
    pub(super) fn grow(&mut self, lab: &Lab, offered: &Offered, to: u32) -> Result<Opening> {
        let (from, ports) = (self.open.count, u16::try_from(self.open.count / PER_PORT)?);
        let new = Flows { count: to - from, to: self.open.to + ports, ..self.open };
        let first = self.first_lap(offered, &new)?;
        let there = self.counted(lab, to)?;
        let gained = there.saturating_sub(from.into()) as f64;
        let mut opening = Opening {
            flows: new.count,
            seconds: first,
            per_second: gained / first,
            at_once: gained / f64::from(new.count),
            pace: self.pace,
        };
        for lap in 0..LAPS_MAX {
            if self.counted(lab, to)? >= to.into() {
                self.open.count = to;
                return Ok(opening);
            }
            opening.seconds += lap_of(offered, &new, (self.pace * AGAIN) >> lap)?;
        }
        let (there, drops) = (self.counted(lab, to)?, lab.counted()?.drops);
        bail!("of {to} flows {there} are there after each was sent {LAPS_MAX} times; dropped: {drops:?}")
    }

    /// Sends by each flow once, at a pace that follows what arrives; for how many seconds.
    fn first_lap(&mut self, offered: &Offered, flows: &Flows) -> Result<f64> {
        let (mut left, mut seconds) = (u64::from(flows.count), 0.0);
        while left > 0 {
            let (sent, arrived, took) = offered.send(&[*flows], Some(self.pace), piece(left, self.pace))?;
            let lost = sent.saturating_sub(arrived);
            let is_kept = sent as f64 > took.as_secs_f64() * f64::from(self.pace) * KEPT;
            self.pace = match lost > sent / LOST_ONE_IN {
                true => (self.pace / 5 * 4).max(RATE_MIN),
                false if is_kept => (self.pace / 5 * 6).min(RATES.1),
                // The generator was kept from sending so many.
                false => self.pace,
            };
            left = left.saturating_sub(sent);
            seconds += took.as_secs_f64();
        }
        Ok(seconds)
    }

    /// Sends by each flow that is there once more.
    ///
    /// # Errors
    /// If the generator fails.
    pub(super) fn lap(&self, offered: &Offered) -> Result<()> {
        lap_of(offered, &self.open, self.pace).map(drop)
    }

    /// Flows that are there, once they are all, or do not become more.
    fn counted(&self, lab: &Lab, all: u32) -> Result<u64> {
        let began = Instant::now();
        loop {
            let there = lab.flows()?.0.saturating_sub(self.besides);
            if there >= all.into() || began.elapsed() > PUBLISHED_WITHIN {
                return Ok(there);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Sends by each flow once, so many a second; for how many seconds.
fn lap_of(offered: &Offered, flows: &Flows, pace: u32) -> Result<f64> {
    let (pace, mut left, mut seconds) = (pace.max(RATE_MIN), u64::from(flows.count), 0.0);
    while left > 0 {
        let (sent, _, took) = offered.send(&[*flows], Some(pace), piece(left, pace))?;
        left = left.saturating_sub(sent);
        seconds += took.as_secs_f64();
    }
    Ok(seconds)
}

/// As long as it takes to send what is left, and no longer than a piece.
fn piece(left: u64, pace: u32) -> Duration {
    // One more: what is not a whole number of microseconds is cut off.
    PIECE.min(Duration::from_secs_f64((left + 1) as f64 / f64::from(pace)))
}
