//! Walks over the whole state, which are done elsewhere: what goes on meanwhile, and what waits.

use control::command::CommandBody;
use control::outcome::Outcome;

use super::job::Backlog;
use super::token_tests::Bed;
use super::upload_tests::{body, long};
use super::*;

/// Two seconds: three elections.
const JOB_STEPS: u64 = 400;

fn begin(bed: &mut Bed, at: NodeId, ticket: u64, body: CommandBody) {
    let now = bed.now();
    bed.members.get_mut(&at).expect("a member").submit(now, ticket, body);
}

fn applied(bed: &Bed, ticket: u64) -> Option<ControlIndex> {
    match bed.answers.get(&ticket)? {
        Ok(Outcome::Applied { index, .. }) => Some(*index),
        other => panic!("{other:?}"),
    }
}

#[test]
fn heartbeats_go_on_and_entries_wait_while_a_configuration_is_applied_elsewhere() {
    let mut bed = Bed::running(3);
    let (leader, term) = (bed.leader(), bed.members[&NodeId(1)].leader().1);
    bed.job_steps = JOB_STEPS;
    begin(&mut bed, leader, 71, body(&long(100, 'a')));
    bed.until(|bed| bed.jobs.len() == 3);
    let before = bed.state().index();
    begin(&mut bed, leader, 72, CommandBody::Noop);
    bed.run(5 * (JOB_STEPS - 20));
    assert_eq!(bed.jobs.len(), 3, "they are not back yet");
    for member in bed.members.values() {
        assert_eq!(member.state().index(), before);
        assert_eq!(member.live(bed.now()).len(), 3);
        assert_eq!(member.leader(), (Some(leader), term), "nobody missed a heartbeat");
    }
    assert!(bed.answers.is_empty());
    bed.until(|bed| bed.answers.len() == 2);
    assert!(applied(&bed, 71) < applied(&bed, 72), "in the order of the log");
    bed.until(|bed| bed.members.values().all(|member| member.state().desired() == &long(100, 'a')));
    let digests: BTreeSet<_> = bed.members.values().map(|member| member.state().digest()).collect();
    assert_eq!(digests.len(), 1);
}

#[test]
fn a_replica_that_dies_with_a_job_applies_the_entry_anew() {
    let mut bed = Bed::running(3);
    bed.job_steps = JOB_STEPS;
    let leader = bed.leader();
    begin(&mut bed, leader, 71, body(&long(100, 'a')));
    bed.until(|bed| bed.jobs.len() == 3);
    let node = *bed.members.keys().find(|node| **node != leader).expect("another one");
    bed.jobs.retain(|(_, of, _)| *of != node);
    bed.restart(node);
    bed.job_steps = 1;
    bed.until(|bed| bed.members[&node].state().desired() == &long(100, 'a'));
}

#[test]
fn entries_wait_for_who_reads_the_state_but_not_for_ever() {
    let mut bed = Bed::running(3);
    let leader = bed.leader();
    let read = bed.members[&leader].shared_state();
    let index = read.index();
    begin(&mut bed, leader, 71, CommandBody::Noop);
    bed.run(900);
    assert_eq!(bed.state().index(), index, "it is being read");
    bed.run(300);
    assert!(applied(&bed, 71) > Some(index));
    assert_eq!(read.index(), index, "who reads has what it was given");
    drop(read);
    begin(&mut bed, leader, 72, CommandBody::Noop);
    bed.run(50);
    assert!(applied(&bed, 72).is_some(), "nobody reads it any more");
}

#[test]
fn what_waits_for_a_job_is_bounded_and_what_is_over_stays_with_the_group() {
    let mut bed = Bed::running(1);
    bed.job_steps = u64::MAX / 100;
    begin(&mut bed, NodeId(1), 0, body(&long(1, 'a')));
    bed.until(|bed| bed.jobs.len() == 1);
    let most = u64::try_from(Backlog::ENTRIES_MAX).expect("few");
    for ticket in 1..=most + 500 {
        begin(&mut bed, NodeId(1), ticket, CommandBody::Noop);
        if ticket.is_multiple_of(50) {
            bed.step();
        }
    }
    assert_eq!(bed.members[&NodeId(1)].backlog.len(), Backlog::ENTRIES_MAX);
    bed.job_steps = 1;
    bed.jobs[0].0 = 0;
    bed.until(|bed| u64::try_from(bed.answers.len()).expect("few") == most + 501);
    // Proposed again meanwhile, since no answer came.
    bed.until(|bed| bed.members[&NodeId(1)].backlog.is_empty());
}

#[test]
fn backlog_counts_bytes_too() {
    let mut backlog = Backlog::default();
    let entry = |len: usize| Waiting::Entry { index: 1, bytes: Bytes::from(vec![0; len]) };
    backlog.push(entry(Backlog::BYTES_MAX - 1));
    assert!(backlog.has_room());
    backlog.push(entry(1));
    assert!(!backlog.has_room());
    assert!(backlog.pop().is_some() && backlog.has_room());
}

/// Versions that were compiled whole, and backends that were looked at.
fn compiled(bed: &Bed) -> Option<(u64, u64)> {
    let books = bed.members[&NodeId(1)].books.as_ref()?;
    Some((books.compiler.work().whole, books.compiler.work().backends))
}

#[test]
fn no_turn_of_the_members_own_thread_looks_at_the_whole_state() {
    let mut bed = Bed::running(1);
    bed.job_steps = u64::MAX / 100;
    bed.members.values_mut().for_each(|member| member.set_compact_every(4));
    let mut jobs = 0;
    for (ticket, wanted) in [(1, long(3_000, 'a')), (2, long(2_000, 'b'))] {
        begin(&mut bed, NodeId(1), ticket, body(&wanted));
        while !bed.answers.contains_key(&ticket) {
            let before = compiled(&bed);
            bed.step();
            let after = compiled(&bed);
            assert!(before.is_none() || after.is_none() || before == after, "{before:?} {after:?}");
            if let Some((_, _, job)) = bed.jobs.pop() {
                let (now, finished) = (bed.now(), job.run());
                bed.members.get_mut(&NodeId(1)).expect("the member").finish(now, finished);
                jobs += 1;
            }
        }
    }
    assert!(jobs >= 4, "two configurations, and states that were stored: {jobs}");
}

#[test]
fn a_turn_applies_no_more_than_its_share_however_much_is_committed() {
    let mut bed = Bed::running(1);
    bed.job_steps = u64::MAX / 100;
    begin(&mut bed, NodeId(1), 1, body(&long(1, 'a')));
    bed.until(|bed| bed.jobs.len() == 1);
    for ticket in 2..300 {
        begin(&mut bed, NodeId(1), ticket, CommandBody::Noop);
    }
    bed.step();
    bed.jobs[0].0 = 0;
    let most = WORK_PER_TICK_MAX / CommandBody::Noop.weight();
    let mut longest = 0;
    while bed.answers.len() < 299 {
        let before = bed.answers.len();
        bed.step();
        longest = longest.max(bed.answers.len() - before);
    }
    assert!(longest >= most && longest <= most + 1, "{longest} answers in a turn, of {most}");
}
