//! A thread's sign of life: the time of its last turn, stored by itself, read by whoever judges it (L1, F7, watchdog).
//!
//! One relaxed store for each turn: a reader may see an older stamp, which is the safe side, and never a newer one. Never a
//! lock, never a system call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A line of its own: readers must not slow the writer down.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Stamp(AtomicU64);

/// The stamp of one thread; clones are ends of the same.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Stamp>);

impl Pulse {
    /// The thread's loop passes at `now_ns` (CLOCK_BOOTTIME).
    pub fn beat(&self, now_ns: u64) {
        self.0.0.store(now_ns, Ordering::Relaxed);
    }

    /// When it passed last; 0 before the first time.
    #[must_use]
    pub fn last_ns(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }
}
