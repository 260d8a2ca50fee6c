//! Who may act for a shard now, by the word that the flow groups keep (L1).

use crate::ids::{Incarnation, LeaseWord, ShardId, Term};

/// Where lease words come from: a shared page in the daemon, a table in the simulator.
pub trait LeaseWords {
    /// The shard's word; a zero word if there is none.
    fn word(&self, shard: ShardId) -> LeaseWord;
}

/// Whether the lease of `term` runs at `now_ns` by the shard's word.
pub(crate) fn lease_runs(now_ns: u64, me: Incarnation, term: Term, word: LeaseWord) -> bool {
    word.incarnation == me && word.term == term && now_ns < word.lease_until_ns
}
