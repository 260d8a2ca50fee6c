//! Round trips of a flow that stands, while something else goes on. Judges nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use qnat_lab::Host;
use serde::{Deserialize, Serialize};

use crate::beside::BY_CLUSTER;
use crate::lab::Lab;
use crate::load::{self, TripTimes};

const CLIENT: Host = Host::Backend(1);
/// Between two datagrams.
const EVERY: Duration = Duration::from_millis(2);

/// Round trips meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    /// Of datagrams that were answered within a second.
    pub times: TripTimes,
    /// All others.
    pub lost: u64,
}

/// Does `work` while a flow of the first client is probed.
///
/// # Errors
/// As `work`, or if the ends have no sockets.
pub(super) fn probed<T>(lab: &Lab, work: impl FnOnce() -> Result<T>) -> Result<(T, Probed)> {
    let (stop, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| lab.within(Host::Inet, || load::echo(BY_CLUSTER, &over)));
        // The service is there before anybody asks it.
        std::thread::sleep(Duration::from_millis(100));
        let probe = scope.spawn(|| lab.within(CLIENT, || load::standing(BY_CLUSTER, EVERY, &stop)));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let trips = probe.join().map_err(|_| anyhow!("the probe panicked"));
        over.store(true, Ordering::Relaxed);
        echo.join().map_err(|_| anyhow!("the echo service panicked"))???;
        let trips = trips???;
        Ok((done?, Probed { times: TripTimes::of(&trips.trips), lost: trips.lost }))
    })
}
