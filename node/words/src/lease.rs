//! The lease word of a shard on one node (rules K3, L1, L4), and what it allows: this is the one place that says it in Rust
//! (`netio/bpf/guard.c` repeats it in the kernel).

use crate::{Incarnation, ShardId, Term};

/// The lease word of one shard on one node: written by the flow-group loop alone, read by workers before each transmission
/// and by the kernel's egress guard. Times are CLOCK_BOOTTIME in nanoseconds; 0 means "not held".
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LeaseWord {
    /// The incarnation that wrote the word.
    pub incarnation: Incarnation,
    /// The term in which the lease is, or was, held.
    pub term: Term,
    /// Nothing new, and no frame from the shard's vMAC, from this time on.
    pub lease_until_ns: u64,
    /// Committed mappings may be repeated from the node's own MAC until then, if no successor is known.
    pub grace_until_ns: u64,
}

impl LeaseWord {
    /// Whether the lease of `term` runs at `now_ns` (L1). The end is exclusive, as in the kernel.
    #[inline]
    #[must_use]
    pub const fn lease_runs(&self, term: Term, now_ns: u64) -> bool {
        self.term.0 == term.0 && now_ns < self.lease_until_ns
    }

    /// Whether it runs and is `incarnation`'s: what a life asks before it decides anything new.
    #[inline]
    #[must_use]
    pub const fn lease_runs_for(&self, incarnation: Incarnation, term: Term, now_ns: u64) -> bool {
        self.incarnation.0 == incarnation.0 && self.lease_runs(term, now_ns)
    }

    /// Whether committed mappings may still be repeated at `now_ns` (L4), whatever the term.
    #[inline]
    #[must_use]
    pub const fn grace_runs(&self, now_ns: u64) -> bool {
        now_ns < self.grace_until_ns
    }

    /// The same word after its lease was given up; the grace stays (L4).
    #[inline]
    #[must_use]
    pub const fn without_lease(self) -> Self {
        Self { lease_until_ns: 0, ..self }
    }
}

/// Where lease words come from: a shared page in the daemon, a table in the simulator.
pub trait LeaseWords {
    /// The shard's word; a zero word if there is none.
    fn word(&self, shard: ShardId) -> LeaseWord;
}

#[cfg(test)]
mod tests {
    use super::LeaseWord;
    use crate::{Incarnation, Term};

    const HELD: LeaseWord =
        LeaseWord { incarnation: Incarnation(3), term: Term(5), lease_until_ns: 100, grace_until_ns: 300 };

    #[test]
    fn a_lease_runs_to_its_end_in_its_own_term_and_life_only() {
        assert!(HELD.lease_runs_for(Incarnation(3), Term(5), 99));
        assert!(!HELD.lease_runs_for(Incarnation(3), Term(5), 100), "the end is exclusive");
        assert!(!HELD.lease_runs(Term(4), 99) && !HELD.lease_runs(Term(6), 99));
        assert!(!HELD.lease_runs_for(Incarnation(2), Term(5), 99));
        assert!(HELD.grace_runs(299) && !HELD.grace_runs(300));
    }

    #[test]
    fn a_lease_that_was_given_up_leaves_its_grace() {
        let given_up = HELD.without_lease();
        assert!(!given_up.lease_runs(Term(5), 0) && given_up.grace_runs(299));
        assert!(!LeaseWord::default().lease_runs(Term(0), 0) && !LeaseWord::default().grace_runs(0));
    }
}
