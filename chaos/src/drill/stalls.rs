//! How long the machine itself stands still. Whoever shares a host with others is kept from running now and then, and no
//! timer of a cluster can tell that from a fault: a soak has to say how often it was so. Called by `soak`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use netio::thread;

/// Between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Above all that the members run.
const PRIORITY: i32 = 99;

/// A watch over all processors.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    longest_ns: AtomicU64,
}

impl Stalls {
    /// Watches one processor until all is over: its own thread, which nothing on this machine keeps from running.
    pub(super) fn watch(&self, cpu: usize, over: &AtomicBool) -> Result<()> {
        thread::pin_current(cpu)?;
        // Refused, it also counts what other processes take.
        let _raised = thread::raise_current(PRIORITY);
        let mut last = Instant::now();
        while !over.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK_EVERY);
            let now = Instant::now();
            let late = now.duration_since(last).saturating_sub(LOOK_EVERY);
            self.longest_ns.fetch_max(u64::try_from(late.as_nanos())?, Ordering::Relaxed);
            last = now;
        }
        Ok(())
    }

    /// The longest since the last call, in ms.
    pub(super) fn take_ms(&self) -> f64 {
        self.longest_ns.swap(0, Ordering::Relaxed) as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_sees_no_more_than_there_was_and_ends() {
        let (stalls, over) = (Stalls::default(), AtomicBool::new(false));
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| stalls.watch(0, &over).expect("there is a first processor"));
            std::thread::sleep(Duration::from_millis(30));
            over.store(true, Ordering::Relaxed);
        });
        let all_ms = begun.elapsed().as_secs_f64() * 1e3;
        let longest_ms = stalls.take_ms();
        assert!(0.0 < longest_ms && longest_ms < all_ms, "{longest_ms} of {all_ms} ms");
        assert!(stalls.take_ms() == 0.0, "taken");
    }
}
