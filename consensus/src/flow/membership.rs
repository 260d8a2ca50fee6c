//! Which change of its configuration a leader proposes next (N2), as a pure function of what is wanted and what is.
//!
//! Never proposes two things at once and never the leader's own removal. Called by the leader each tick, and only while no
//! change is pending.

use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};
use words::Incarnation;

use crate::event::GroupSpec;

/// What a leader does about its group's membership now.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Step {
    /// It is as wanted, or a joiner is still on its way.
    Nothing,
    /// Propose this change.
    Propose(ConfChangeV2),
    /// This leader has to go before anything else can happen: transfer.
    HandOver,
}

fn single(kind: ConfChangeType, id: u64) -> ConfChangeSingle {
    let mut change = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
    change.set_change_type(kind);
    change
}

/// A change of one replica, which needs no joint phase.
fn simple(kind: ConfChangeType, id: u64) -> ConfChangeV2 {
    ConfChangeV2 { changes: vec![single(kind, id)].into(), ..ConfChangeV2::default() }
}

/// One replica for another, through an explicit joint phase that any leader ends.
fn swap(new: u64, old: u64) -> ConfChangeV2 {
    let changes = vec![single(ConfChangeType::AddNode, new), single(ConfChangeType::RemoveNode, old)];
    let mut change = ConfChangeV2 { changes: changes.into(), ..ConfChangeV2::default() };
    change.set_transition(ConfChangeTransition::Explicit);
    change
}

/// The next step from `conf` towards `spec.members`, for the leader `me`. `caught_up` says of a learner that it has loaded
/// and has matched the commit index.
#[must_use]
pub(super) fn next_step(spec: &GroupSpec, conf: &ConfState, me: Incarnation, caught_up: impl Fn(u64) -> bool) -> Step {
    let wanted = |id: u64| spec.members.contains(&Incarnation(id));
    if !conf.voters_outgoing.is_empty() {
        // The way out of the joint phase removes the old voter; it must not be this one.
        return if conf.voters.contains(&me.0) { Step::Propose(ConfChangeV2::default()) } else { Step::HandOver };
    }
    if let Some(stale) = conf.learners.iter().copied().filter(|id| !wanted(*id)).min() {
        return Step::Propose(simple(ConfChangeType::RemoveNode, stale));
    }
    let held = |id: u64| conf.voters.contains(&id) || conf.learners.contains(&id);
    if let Some(missing) = spec.members.iter().find(|m| !held(m.0)) {
        return Step::Propose(simple(ConfChangeType::AddLearnerNode, missing.0));
    }
    // From here on every member is a voter or a learner.
    let ready = spec.members.iter().map(|m| m.0).find(|id| conf.learners.contains(id) && caught_up(*id));
    let gone = conf.voters.iter().copied().filter(|id| !wanted(*id) && *id != me.0).min();
    let me_gone = !wanted(me.0);
    match (ready, gone) {
        (Some(new), Some(old)) => Step::Propose(swap(new, old)),
        // To a member that votes; where none does yet, as when an epoch begins with this replica alone, one is made first.
        (Some(_), None) if me_gone && conf.voters.iter().any(|id| wanted(*id)) => Step::HandOver,
        (Some(new), None) => Step::Propose(simple(ConfChangeType::AddNode, new)),
        (None, Some(old)) if conf.learners.is_empty() => Step::Propose(simple(ConfChangeType::RemoveNode, old)),
        (None, None) if me_gone => Step::HandOver,
        (None, _) => Step::Nothing,
    }
}

/// The replicas that the specification still lists as leaving although the applied configuration holds them no more.
#[must_use]
pub(super) fn removed(spec: &GroupSpec, conf: &ConfState) -> Vec<Incarnation> {
    spec.leaving.iter().copied().filter(|id| !holds(conf, id.0)).collect()
}

/// Whether `id` has any part in this configuration.
#[must_use]
pub(super) fn holds(conf: &ConfState, id: u64) -> bool {
    [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next].iter().any(|ids| ids.contains(&id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Origin, Sealing};
    use words::{Epoch, ShardId};

    fn spec(members: &[u64], leaving: &[u64]) -> GroupSpec {
        let ids = |v: &[u64]| v.iter().copied().map(Incarnation).collect();
        GroupSpec {
            group: ShardId(1),
            epoch: Epoch(0),
            members: ids(members),
            leaving: ids(leaving),
            origin: Origin::Founded { voters: vec![] },
            sealing: Sealing::No,
        }
    }

    fn conf(voters: &[u64], learners: &[u64], outgoing: &[u64]) -> ConfState {
        ConfState {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            voters_outgoing: outgoing.to_vec(),
            ..ConfState::default()
        }
    }

    const NOBODY: fn(u64) -> bool = |_| false;
    const ALL: fn(u64) -> bool = |_| true;

    #[test]
    fn a_swap_goes_learner_joint_leave() {
        let (want, me) = (spec(&[1, 2, 4], &[3]), Incarnation(1));
        let add = next_step(&want, &conf(&[1, 2, 3], &[], &[]), me, ALL);
        assert_eq!(add, Step::Propose(simple(ConfChangeType::AddLearnerNode, 4)));
        let wait = next_step(&want, &conf(&[1, 2, 3], &[4], &[]), me, NOBODY);
        assert_eq!(wait, Step::Nothing);
        let joint = next_step(&want, &conf(&[1, 2, 3], &[4], &[]), me, ALL);
        assert_eq!(joint, Step::Propose(swap(4, 3)));
        let leave = next_step(&want, &conf(&[1, 2, 4], &[], &[1, 2, 3]), me, NOBODY);
        assert_eq!(leave, Step::Propose(ConfChangeV2::default()));
        assert_eq!(next_step(&want, &conf(&[1, 2, 4], &[], &[]), me, ALL), Step::Nothing);
    }

    #[test]
    fn a_leader_never_proposes_its_own_removal() {
        let (want, me) = (spec(&[2, 3, 4], &[1]), Incarnation(1));
        assert_eq!(next_step(&want, &conf(&[1, 2, 3], &[4], &[]), me, ALL), Step::HandOver);
        assert_eq!(next_step(&want, &conf(&[2, 3, 4], &[], &[1, 2, 3]), me, ALL), Step::HandOver);
        let two = spec(&[2, 3], &[1]);
        assert_eq!(next_step(&two, &conf(&[1, 2, 3], &[], &[]), me, ALL), Step::HandOver);
    }

    #[test]
    fn a_leaving_voter_waits_for_its_replacement_and_goes_alone_if_there_is_none() {
        let me = Incarnation(1);
        assert_eq!(next_step(&spec(&[1, 2, 4], &[3]), &conf(&[1, 2, 3], &[4], &[]), me, NOBODY), Step::Nothing);
        let shrink = next_step(&spec(&[1, 2], &[3]), &conf(&[1, 2, 3], &[], &[]), me, NOBODY);
        assert_eq!(shrink, Step::Propose(simple(ConfChangeType::RemoveNode, 3)));
    }

    #[test]
    fn a_group_of_one_grows_without_a_joint_phase() {
        let grow = next_step(&spec(&[1, 5], &[]), &conf(&[1], &[5], &[]), Incarnation(1), ALL);
        assert_eq!(grow, Step::Propose(simple(ConfChangeType::AddNode, 5)));
    }

    #[test]
    fn a_leader_that_votes_alone_and_has_to_go_makes_a_voter_before_it_hands_over() {
        let (want, me) = (spec(&[2, 3], &[1]), Incarnation(1));
        let grow = next_step(&want, &conf(&[1], &[2, 3], &[]), me, ALL);
        assert_eq!(grow, Step::Propose(simple(ConfChangeType::AddNode, 2)));
        assert_eq!(next_step(&want, &conf(&[1, 2], &[3], &[]), me, ALL), Step::HandOver);
        let follows = next_step(&want, &conf(&[1, 2], &[3], &[]), Incarnation(2), ALL);
        assert_eq!(follows, Step::Propose(swap(3, 1)));
    }

    #[test]
    fn a_learner_that_nobody_wants_any_more_is_removed() {
        let step = next_step(&spec(&[1, 2, 3], &[4]), &conf(&[1, 2, 3], &[4], &[]), Incarnation(1), ALL);
        assert_eq!(step, Step::Propose(simple(ConfChangeType::RemoveNode, 4)));
    }

    #[test]
    fn removal_is_reported_only_once_no_half_holds_the_replica() {
        let want = spec(&[1, 2, 4], &[3]);
        assert!(removed(&want, &conf(&[1, 2, 4], &[], &[1, 2, 3])).is_empty());
        assert_eq!(removed(&want, &conf(&[1, 2, 4], &[], &[])), [Incarnation(3)]);
    }
}
