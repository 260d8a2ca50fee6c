//! How a replica of an epoch begins (N4, N5): a pure decision from the specification and what lived here before.
//!
//! Founding and beginning alone happen once per process and epoch; everybody else joins by transfer. Used by `FlowGroups`.

use raft::eraftpb::ConfState;
use words::Incarnation;

use crate::event::{GroupSpec, Origin, Sealing};

/// What becomes of this node's part in an epoch in which it has no replica yet.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Beginning {
    /// Nothing: not listed, or a joiner of an epoch that is being sealed.
    Nothing,
    /// Ask the members for the table.
    Join,
    /// An empty table at index 1 with these voters; no lease for `wait_ns`.
    Empty {
        /// The first configuration.
        conf: ConfState,
        /// How long nothing is served.
        wait_ns: u64,
    },
    /// The own table and log up to here are the epoch's beginning, alone; no lease for `wait_ns`.
    Continue {
        /// Term of the last entry.
        last_term: u64,
        /// Its index.
        last_index: u64,
        /// How long nothing is served.
        wait_ns: u64,
    },
    /// This node is said to hold the base, but what it holds is something else: it must not vote for it.
    Mismatch,
}

/// What lived here of the group before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Before {
    /// No replica.
    Nothing,
    /// A replica of an older epoch whose log ends so.
    Log {
        /// Term of the last entry.
        last_term: u64,
        /// Its index.
        last_index: u64,
    },
}

/// Whether this process has begun this epoch before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begun {
    /// It has, and lost the replica by command: it may only join.
    Before,
    /// It has not.
    Never,
}

/// A configuration of these voters.
#[must_use]
pub(super) fn voters(ids: &[Incarnation]) -> ConfState {
    ConfState { voters: ids.iter().map(|id| id.0).collect(), ..ConfState::default() }
}

/// How `me` begins in `spec`'s epoch.
#[must_use]
pub(super) fn beginning(spec: &GroupSpec, me: Incarnation, before: Before, begun: Begun) -> Beginning {
    let member = spec.members.contains(&me);
    if !(member || spec.leaving.contains(&me)) {
        return Beginning::Nothing;
    }
    let first = begun == Begun::Never;
    match &spec.origin {
        Origin::Founded { voters: founders } if first && founders.contains(&me) => {
            Beginning::Empty { conf: voters(founders), wait_ns: 0 }
        }
        Origin::Recreated { base, last_term, last_index, wait_ns } if first && *base == me => {
            let expected = Before::Log { last_term: *last_term, last_index: *last_index };
            if before == expected {
                Beginning::Continue { last_term: *last_term, last_index: *last_index, wait_ns: *wait_ns }
            } else {
                Beginning::Mismatch
            }
        }
        Origin::Lost { holder, wait_ns } if first && *holder == me => {
            Beginning::Empty { conf: voters(&[me]), wait_ns: *wait_ns }
        }
        // Nobody appends in an epoch that is being sealed; but who holds its beginning must keep it, and seal it.
        Origin::Founded { .. } | Origin::Recreated { .. } | Origin::Lost { .. }
            if member && spec.sealing == Sealing::No =>
        {
            Beginning::Join
        }
        Origin::Founded { .. } | Origin::Recreated { .. } | Origin::Lost { .. } => Beginning::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use words::{Epoch, ShardId};

    const ME: Incarnation = Incarnation(7);

    fn spec(origin: Origin) -> GroupSpec {
        GroupSpec {
            group: ShardId(1),
            epoch: Epoch(2),
            members: vec![ME, Incarnation(8)],
            leaving: vec![],
            origin,
            sealing: Sealing::No,
        }
    }

    #[test]
    fn only_founders_found_and_only_once() {
        let founded = spec(Origin::Founded { voters: vec![ME, Incarnation(3)] });
        assert!(matches!(beginning(&founded, ME, Before::Nothing, Begun::Never), Beginning::Empty { .. }));
        assert_eq!(beginning(&founded, ME, Before::Nothing, Begun::Before), Beginning::Join);
        assert_eq!(beginning(&founded, Incarnation(8), Before::Nothing, Begun::Never), Beginning::Join);
        assert_eq!(beginning(&founded, Incarnation(3), Before::Nothing, Begun::Never), Beginning::Nothing);
    }

    #[test]
    fn a_base_continues_only_from_exactly_the_log_that_it_reported() {
        let recreated = spec(Origin::Recreated { base: ME, last_term: 5, last_index: 9, wait_ns: 3 });
        let log = |last_index| Before::Log { last_term: 5, last_index };
        let going_on = Beginning::Continue { last_term: 5, last_index: 9, wait_ns: 3 };
        assert_eq!(beginning(&recreated, ME, log(9), Begun::Never), going_on);
        assert_eq!(beginning(&recreated, ME, log(10), Begun::Never), Beginning::Mismatch);
        assert_eq!(beginning(&recreated, ME, Before::Nothing, Begun::Never), Beginning::Mismatch);
        assert_eq!(beginning(&recreated, Incarnation(8), log(9), Begun::Never), Beginning::Join);
    }

    #[test]
    fn an_epoch_that_is_being_sealed_is_joined_by_nobody_but_keeps_its_beginning() {
        let mut lost = spec(Origin::Lost { holder: ME, wait_ns: 3 });
        lost.sealing = Sealing::Yes;
        assert!(matches!(beginning(&lost, ME, Before::Nothing, Begun::Never), Beginning::Empty { wait_ns: 3, .. }));
        assert_eq!(beginning(&lost, Incarnation(8), Before::Nothing, Begun::Never), Beginning::Nothing);
        let mut base = spec(Origin::Recreated { base: ME, last_term: 5, last_index: 9, wait_ns: 3 });
        base.sealing = Sealing::Yes;
        let log = Before::Log { last_term: 5, last_index: 9 };
        assert!(matches!(beginning(&base, ME, log, Begun::Never), Beginning::Continue { .. }));
    }
}
