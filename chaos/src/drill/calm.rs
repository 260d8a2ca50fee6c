//! Whether a shard moved though nothing was wrong. Looks at members' counts of elections all the while, and tells moves that
//! a recorded stall of the machine explains from such that nothing does. Called by the soak and by drills without a fault.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::cluster::{Cluster, NODES};
use crate::stalls::{Stall, unix_ms};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// So many looks in a row find the shards spread before they are at rest, and so long it may take.
const AT_REST_LOOKS: u32 = 10;
const AT_REST_BOUND: Duration = Duration::from_secs(60);
/// A move is the machine's if a processor stood still at most so long before it.
const EXPLAINS_MS: u64 = 1_000;

/// An election in a shard's group, between two looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Move {
    /// The look before it, in ms since 1970.
    pub(super) after_unix_ms: u64,
    /// The look that found it.
    pub(super) until_unix_ms: u64,
    pub(super) shard: u64,
    /// How many elections.
    pub(super) elections: u64,
    /// The owner at the look before, and the one afterwards.
    pub(super) from: Option<u32>,
    pub(super) to: Option<u32>,
}

/// Why a shard moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cause {
    /// The machine stood still.
    Stall,
    /// It went back to where it was before the machine stood still.
    Return,
    /// Nothing that was seen.
    Unexplained,
}

/// Waits until every member owns its share of the shards: after a start they go to where they were placed, one by one. Not
/// for ever; who watches then sees them go.
pub(super) fn wait_at_rest(cluster: &Cluster) {
    let began = Instant::now();
    let is_spread = || {
        let owners = cluster.owners();
        let distinct: BTreeSet<u32> = owners.values().copied().collect();
        distinct.len() == owners.len().min(usize::try_from(NODES).unwrap_or(usize::MAX))
    };
    let mut looks = 0;
    while looks < AT_REST_LOOKS && began.elapsed() < AT_REST_BOUND {
        looks = if is_spread() { looks + 1 } else { 0 };
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Looks until all is `over`. A look that a member does not answer is left out for it.
pub(super) fn watch(cluster: &Cluster, over: &AtomicBool) -> Result<Vec<Move>> {
    let (mut known, mut owners, mut moves) = (cluster.elections_by_shard(), cluster.owners(), Vec::new());
    let mut after_unix_ms = unix_ms()?;
    loop {
        let last = over.load(Ordering::Relaxed);
        if !last {
            std::thread::sleep(LOOK_EVERY);
        }
        let seen = cluster.elections_by_shard();
        let until_unix_ms = unix_ms()?;
        let elections = grown(&known, &seen);
        if !elections.is_empty() {
            std::thread::sleep(LOOK_EVERY);
            let now = cluster.owners();
            moves.extend(elections.into_iter().map(|(shard, elections)| {
                let (from, to) = (owners.get(&shard).copied(), now.get(&shard).copied());
                Move { after_unix_ms, until_unix_ms, shard, elections, from, to }
            }));
            owners = now;
        }
        known.extend(seen);
        after_unix_ms = until_unix_ms;
        if last {
            return Ok(moves);
        }
    }
}

/// Elections by shard that members counted between two looks; one whose count is lower has begun anew.
fn grown(known: &BTreeMap<u32, BTreeMap<u64, u64>>, seen: &BTreeMap<u32, BTreeMap<u64, u64>>) -> BTreeMap<u64, u64> {
    let mut grown = BTreeMap::new();
    for (node, counts) in seen {
        for (shard, count) in counts {
            let before = known.get(node).and_then(|counts| counts.get(shard)).copied().unwrap_or(0);
            let more = if *count < before { *count } else { count - before };
            if more > 0 {
                *grown.entry(*shard).or_default() += more;
            }
        }
    }
    grown
}

/// A shorter stall makes no election: the lease with the default timers.
const LEASE_MS: u64 = 40;

/// The cause of each move, in their order.
pub(super) fn causes(moves: &[Move], stalls: &[Stall]) -> Vec<Cause> {
    // Where a shard was that a stall has taken from there.
    let mut homes: BTreeMap<u64, u32> = BTreeMap::new();
    let cause = |one: &Move| {
        let stood_still = stalls.iter().filter(|stall| stall.ms >= LEASE_MS).any(|stall| {
            let began = stall.ended_unix_ms.saturating_sub(stall.ms);
            began <= one.until_unix_ms && stall.ended_unix_ms + EXPLAINS_MS >= one.after_unix_ms
        });
        let home = homes.get(&one.shard).copied();
        if stood_still {
            if let (None, Some(from)) = (home, one.from) {
                homes.insert(one.shard, from);
            }
            Cause::Stall
        } else if one.elections == 1 && home.is_some() && home == one.to && one.from != one.to {
            homes.remove(&one.shard);
            Cause::Return
        } else {
            Cause::Unexplained
        }
    };
    moves.iter().map(cause).collect()
}

/// Moves and what explains them.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Explained {
    /// Elections at most a second after a processor stood still for a lease.
    pub(super) elections_by_stalls: u64,
    /// Such by which a shard went back after one of these.
    pub(super) elections_by_returns: u64,
    /// All others: nothing that was seen explains them.
    pub(super) elections_unexplained: u64,
    /// One by one.
    pub(super) moves: Vec<Caused>,
}

/// A move and its cause.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Caused {
    #[serde(flatten)]
    what: Move,
    cause: Cause,
}

impl Explained {
    /// `moves` in their order, and all stalls of that time.
    pub(super) fn of(moves: &[Move], stalls: &[Stall]) -> Self {
        let causes = causes(moves, stalls);
        let of = |cause| count(moves, &causes, cause);
        Self {
            elections_by_stalls: of(Cause::Stall),
            elections_by_returns: of(Cause::Return),
            elections_unexplained: of(Cause::Unexplained),
            moves: moves.iter().zip(&causes).map(|(&what, &cause)| Caused { what, cause }).collect(),
        }
    }
}

/// Elections of one cause.
pub(super) fn count(moves: &[Move], causes: &[Cause], of: Cause) -> u64 {
    moves.iter().zip(causes).filter(|(_, cause)| **cause == of).map(|(one, _)| one.elections).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(at: u64, from: u32, to: u32) -> Move {
        let (from, to) = (Some(from), Some(to));
        Move { after_unix_ms: at - 200, until_unix_ms: at, shard: 1, elections: 1, from, to }
    }

    fn stall(ended_unix_ms: u64) -> Stall {
        Stall { ended_unix_ms, ms: 50, cpu: 0 }
    }

    #[test]
    fn a_move_within_a_second_of_a_stall_is_the_machines_and_any_other_is_not() {
        let caused = |at, stalls: &[Stall]| causes(&[one(at, 1, 2)], stalls)[0];
        assert_eq!(caused(10_000, &[]), Cause::Unexplained);
        assert_eq!(caused(10_000, &[stall(10_000)]), Cause::Stall);
        assert_eq!(caused(10_000, &[Stall { ms: 39, ..stall(10_000) }]), Cause::Unexplained, "shorter than a lease");
        assert_eq!(caused(10_000, &[stall(8_800)]), Cause::Stall, "a second before the look before it");
        assert_eq!(caused(10_000, &[stall(8_799)]), Cause::Unexplained);
        assert_eq!(caused(10_000, &[stall(10_050)]), Cause::Stall, "it had begun");
        assert_eq!(caused(10_000, &[stall(10_051)]), Cause::Unexplained, "it began after the look");
    }

    #[test]
    fn a_return_is_of_the_stall_that_took_the_shard_away_and_counts_once() {
        let moves = [one(10_000, 1, 2), one(40_000, 2, 1), one(50_000, 1, 2), one(60_000, 2, 1)];
        let causes = causes(&moves, &[stall(10_000)]);
        assert_eq!(causes, [Cause::Stall, Cause::Return, Cause::Unexplained, Cause::Unexplained]);
        assert_eq!(count(&moves, &causes, Cause::Unexplained), 2);
    }

    #[test]
    fn a_member_that_began_anew_counts_from_nothing() {
        let counts = |n| BTreeMap::from([(1, BTreeMap::from([(7, n)]))]);
        assert_eq!(grown(&counts(5), &counts(5)), BTreeMap::new());
        assert_eq!(grown(&counts(5), &counts(7)), BTreeMap::from([(7, 2)]));
        assert_eq!(grown(&counts(5), &counts(1)), BTreeMap::from([(7, 1)]));
    }
}
