//! When a consumer must be woken, and when the system call can be saved. Hot path.
//!
//! The flag says "the consumer sleeps, or is about to". Consumer: raise the flag, **then** look at the queues once more,
//! then sleep. Producer: publish the item, **then** look at the flag. A sequentially consistent fence on each side between
//! its own store and its look at the other's store makes it impossible that both look too early (Dekker's pattern), so no
//! wake-up is lost; a busy consumer is never signalled. The system call itself is elsewhere (`Ringer`): loom checks this file.

use super::primitives::{AtomicBool, Ordering, fence};

/// The flag of one consumer. Shared by it and by any number of producers.
#[derive(Debug)]
pub struct SleepFlag {
    sleeping: AtomicBool,
}

impl Default for SleepFlag {
    fn default() -> Self {
        Self::new()
    }
}

impl SleepFlag {
    /// The consumer is awake.
    #[must_use]
    pub fn new() -> Self {
        Self { sleeping: AtomicBool::new(false) }
    }

    /// Consumer, before it sleeps. Afterwards it must look at **all** its queues again, and sleep only if all are empty.
    pub fn prepare_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Consumer, after it slept or found work after all.
    pub fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Producer, after it published. `true`: this caller, and no other, must signal the consumer.
    #[must_use]
    pub fn needs_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        // The plain load keeps the line shared while the consumer is busy; the swap picks one of several producers.
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::SleepFlag;

    #[test]
    fn only_a_sleeping_consumer_is_signalled_and_once() {
        let flag = SleepFlag::new();
        assert!(!flag.needs_wake());
        flag.prepare_sleep();
        assert!(flag.needs_wake());
        assert!(!flag.needs_wake());
        flag.prepare_sleep();
        flag.awake();
        assert!(!flag.needs_wake());
    }
}
