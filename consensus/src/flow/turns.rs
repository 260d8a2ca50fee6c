//! Whether the worker lives (L1, F7): when its loop passed last, as it stamps itself.
//!
//! Three answers. A lease is bounded by the clock: never beyond the last stamp + V. That the worker cannot serve, and so gets
//! nothing, and that it hangs, and so loses what it has, are counted in the own ticks, of which late ones are skipped (E3): a
//! machine that stood still as a whole has hung no worker. Pure; used by `FlowGroups`.

use crate::event::Timing;

/// Times V that a worker may stand still before its groups are handed over.
const PATIENCE: u32 = 3;

/// The worker's last turn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turns {
    last_ns: u64,
    /// Own ticks since the stamp moved.
    still_ticks: u32,
}

impl Turns {
    /// The worker's loop passed at `at_ns`; older stamps say nothing.
    pub(super) const fn stamped(&mut self, at_ns: u64) {
        if at_ns > self.last_ns {
            self.last_ns = at_ns;
            self.still_ticks = 0;
        }
    }

    /// A tick of this node's own.
    pub(super) const fn tick(&mut self) {
        self.still_ticks = self.still_ticks.saturating_add(1);
    }

    /// Whether the loop passed within V, as far as this node was awake to see it. A worker that never began does not.
    #[must_use]
    pub(super) const fn pass(&self, timing: &Timing) -> bool {
        self.last_ns > 0 && self.still_ticks < timing.vote_ticks
    }

    /// Whether the loop has not passed for so long that a group is better off elsewhere. Longer than V: threads of a busy
    /// machine are kept from running for V now and then, those of several members at once, which must not swap their groups.
    #[must_use]
    pub(super) const fn hang(&self, timing: &Timing) -> bool {
        self.last_ns == 0 || self.still_ticks >= timing.vote_ticks * PATIENCE
    }

    /// No lease lasts longer than this; 0 before the first turn.
    #[must_use]
    pub(super) const fn lease_bound_ns(&self, timing: &Timing) -> u64 {
        if self.last_ns == 0 { 0 } else { self.last_ns.saturating_add(timing.vote_ns()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use words::time::MS;

    #[test]
    fn a_worker_that_makes_no_turn_for_v_cannot_serve_until_it_turns_again() {
        let timing = Timing::default();
        let mut turns = Turns::default();
        assert!(!turns.pass(&timing), "it has not begun");
        assert_eq!(turns.lease_bound_ns(&timing), 0);
        turns.stamped(100 * MS);
        for _ in 0..9 {
            turns.tick();
            turns.stamped(100 * MS);
        }
        assert!(turns.pass(&timing));
        turns.tick();
        assert!(!turns.pass(&timing));
        turns.stamped(151 * MS);
        assert!(turns.pass(&timing));
    }

    #[test]
    fn a_worker_that_stood_still_for_v_keeps_what_it_has_and_one_that_hangs_does_not() {
        let timing = Timing::default();
        let mut turns = Turns::default();
        assert!(turns.hang(&timing), "it has not begun");
        turns.stamped(100 * MS);
        for tick in 1..=30 {
            assert!(!turns.hang(&timing), "{tick}");
            turns.tick();
        }
        assert!(turns.hang(&timing));
        turns.stamped(251 * MS);
        assert!(!turns.hang(&timing));
    }

    #[test]
    fn the_lease_is_bounded_by_the_clock_and_never_goes_back() {
        let timing = Timing::default();
        let mut turns = Turns::default();
        turns.stamped(100 * MS);
        assert_eq!(turns.lease_bound_ns(&timing), 150 * MS);
        turns.stamped(90 * MS);
        assert_eq!(turns.lease_bound_ns(&timing), 150 * MS);
    }

    #[test]
    fn a_machine_that_stood_still_has_not_hung_its_worker() {
        let timing = Timing::default();
        let mut turns = Turns::default();
        turns.stamped(100 * MS);
        // Half a second later the flow thread wakes first: one tick, not a hundred.
        turns.tick();
        assert!(turns.pass(&timing));
        assert!(turns.lease_bound_ns(&timing) < 600 * MS, "its lease is over all the same");
    }
}
