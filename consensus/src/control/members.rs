//! The next step from the configuration that is to the one that is wanted (N2). A pure function of what the leader sees,
//! called by the control group at each tick while it leads and no change is pending.
//!
//! One swap is: add the new replica as a learner; once it holds the commit index, one explicit joint change that takes it
//! in and the old one out; leave the joint configuration. A leader never proposes its own removal.

use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};

/// What the leader knows of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Seen {
    /// The highest index known to be in its log.
    pub(super) matched: u64,
    /// Whether it was heard of within an election timeout.
    pub(super) active: bool,
}

/// What the leader should do now.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Step {
    /// All is as wanted, or something must happen first.
    Nothing,
    /// Hand leadership to this voter.
    Transfer(u64),
    /// Propose this change.
    Propose(ConfChangeV2),
}

/// The next step of the leader `own` towards the voters `wanted`.
pub(super) fn next_step(conf: &ConfState, wanted: &[u64], own: u64, commit: u64, seen: impl Fn(u64) -> Seen) -> Step {
    let is_wanted = |id: &u64| wanted.contains(id);
    if !conf.voters_outgoing.is_empty() {
        // The old half is left by whoever stays.
        return if conf.voters.contains(&own) {
            Step::Propose(change(ConfChangeTransition::Auto, &[]))
        } else {
            best(conf.voters.iter().copied(), &seen).map_or(Step::Nothing, Step::Transfer)
        };
    }
    if wanted.is_empty() {
        return Step::Nothing;
    }
    if !is_wanted(&own) && conf.voters.iter().any(is_wanted) {
        return best(conf.voters.iter().copied().filter(is_wanted), &seen).map_or(Step::Nothing, Step::Transfer);
    }
    if let Some(new) = wanted.iter().find(|id| !conf.voters.contains(id) && !conf.learners.contains(id)) {
        return Step::Propose(change(ConfChangeTransition::Auto, &[(ConfChangeType::AddLearnerNode, *new)]));
    }
    if let Some(stray) = conf.learners.iter().find(|id| !is_wanted(id)) {
        return Step::Propose(change(ConfChangeTransition::Auto, &[(ConfChangeType::RemoveNode, *stray)]));
    }
    let ready = |id: &u64| seen(*id).active && seen(*id).matched >= commit;
    let adds: Vec<u64> = conf.learners.iter().copied().filter(ready).collect();
    let mut removes: Vec<u64> = conf.voters.iter().copied().filter(|id| !is_wanted(id) && *id != own).collect();
    // The group gets no smaller than it is, or is wanted to be: a replica leaves when its successor comes. Silent ones
    // leave first.
    removes.sort_unstable_by_key(|id| (seen(*id).active, *id));
    let floor = conf.voters.len().min(wanted.len());
    removes.truncate((conf.voters.len() + adds.len()).saturating_sub(floor));
    let changes: Vec<_> = adds
        .into_iter()
        .map(|id| (ConfChangeType::AddNode, id))
        .chain(removes.into_iter().map(|id| (ConfChangeType::RemoveNode, id)))
        .collect();
    if changes.is_empty() { Step::Nothing } else { Step::Propose(change(ConfChangeTransition::Explicit, &changes)) }
}

/// Of `ids`, the active one that holds most of the log; the lowest id among equals.
pub(super) fn best(ids: impl Iterator<Item = u64>, seen: &impl Fn(u64) -> Seen) -> Option<u64> {
    ids.filter(|id| seen(*id).active).max_by_key(|id| (seen(*id).matched, std::cmp::Reverse(*id)))
}

fn change(transition: ConfChangeTransition, singles: &[(ConfChangeType, u64)]) -> ConfChangeV2 {
    let mut all = ConfChangeV2::default();
    all.transition = transition;
    for (kind, id) in singles {
        let mut single = ConfChangeSingle::default();
        single.change_type = *kind;
        single.node_id = *id;
        all.changes.push(single);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(voters: &[u64], learners: &[u64], outgoing: &[u64]) -> ConfState {
        let mut conf = ConfState::default();
        conf.voters = voters.to_vec();
        conf.learners = learners.to_vec();
        conf.voters_outgoing = outgoing.to_vec();
        conf
    }

    fn all_caught_up(_: u64) -> Seen {
        Seen { matched: 9, active: true }
    }

    fn joint(singles: &[(ConfChangeType, u64)]) -> Step {
        Step::Propose(change(ConfChangeTransition::Explicit, singles))
    }

    #[test]
    fn a_swap_is_learner_then_one_joint_change_then_leave() {
        let wanted = [1, 2, 4];
        assert_eq!(
            next_step(&conf(&[1, 2, 3], &[], &[]), &wanted, 1, 9, all_caught_up),
            Step::Propose(change(ConfChangeTransition::Auto, &[(ConfChangeType::AddLearnerNode, 4)]))
        );
        let learning = conf(&[1, 2, 3], &[4], &[]);
        let behind = |id| Seen { matched: if id == 4 { 8 } else { 9 }, active: true };
        assert_eq!(next_step(&learning, &wanted, 1, 9, behind), Step::Nothing, "it lacks the commit index");
        assert_eq!(
            next_step(&learning, &wanted, 1, 9, all_caught_up),
            joint(&[(ConfChangeType::AddNode, 4), (ConfChangeType::RemoveNode, 3)])
        );
        let leave = Step::Propose(change(ConfChangeTransition::Auto, &[]));
        assert_eq!(next_step(&conf(&[1, 2, 4], &[], &[1, 2, 3]), &wanted, 1, 9, all_caught_up), leave);
        assert_eq!(next_step(&conf(&[1, 2, 4], &[], &[]), &wanted, 1, 9, all_caught_up), Step::Nothing);
    }

    #[test]
    fn a_leader_that_is_not_wanted_transfers_and_never_removes_itself() {
        let seen = |id| Seen { matched: id, active: id != 3 };
        assert_eq!(next_step(&conf(&[1, 2, 3], &[], &[]), &[2, 3], 1, 9, seen), Step::Transfer(2), "3 is silent");
        assert_eq!(next_step(&conf(&[2, 3], &[], &[1, 2]), &[2, 3], 1, 9, seen), Step::Transfer(2), "joint");
        // Nobody wanted is a voter yet: the successor comes in first, the leader stays until it can transfer.
        assert_eq!(
            next_step(&conf(&[1], &[2], &[]), &[2], 1, 9, all_caught_up),
            joint(&[(ConfChangeType::AddNode, 2)])
        );
    }

    #[test]
    fn silent_members_leave_first_and_no_more_than_come_in() {
        let seen = |id| Seen { matched: 9, active: id != 3 };
        assert_eq!(
            next_step(&conf(&[1, 2, 3], &[5], &[]), &[1, 5, 6], 1, 9, seen),
            Step::Propose(change(ConfChangeTransition::Auto, &[(ConfChangeType::AddLearnerNode, 6)]))
        );
        let six_lags = |id| Seen { matched: if id == 6 { 0 } else { 9 }, active: id != 3 };
        assert_eq!(
            next_step(&conf(&[1, 2, 3], &[5, 6], &[]), &[1, 5, 6], 1, 9, six_lags),
            joint(&[(ConfChangeType::AddNode, 5), (ConfChangeType::RemoveNode, 3)])
        );
    }

    #[test]
    fn a_shrinking_group_drops_its_member_and_stray_learners_go() {
        assert_eq!(
            next_step(&conf(&[1, 2, 3], &[], &[]), &[1, 2], 1, 9, all_caught_up),
            joint(&[(ConfChangeType::RemoveNode, 3)])
        );
        assert_eq!(
            next_step(&conf(&[1, 2], &[7], &[]), &[1, 2], 1, 9, all_caught_up),
            Step::Propose(change(ConfChangeTransition::Auto, &[(ConfChangeType::RemoveNode, 7)]))
        );
    }
}
