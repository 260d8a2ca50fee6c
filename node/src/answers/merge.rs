//! One status out of several: each member knows its own shards and its own machine best.

use std::collections::{BTreeMap, BTreeSet};

use control::concern::{Concern, Subject, What, sorted};

use super::{ShardRow, Status, failures_tolerated};

/// Members whose wall clocks differ by more than this are told of. Nothing in the protocol reads a wall clock; logs do.
const CLOCK_APART_MS: u64 = 1_000;

/// What members say together. `answers` begins with the one that asked the others; `silent` did not answer.
///
/// The cluster is as the member furthest in the control log sees it; each shard is described by whoever has the newest
/// term of it, among those by its owner, who alone knows whether it forwards. So are the concerns about them. Of all others
/// those that the replicated state says are taken from the member furthest in the log (one that was drained hears nothing
/// of it any more), and those that members measure from everybody. `None` without an answer.
#[must_use]
pub fn merge(answers: &[Status], silent: &[u32]) -> Option<Status> {
    let newest = answers.iter().rev().max_by_key(|answer| answer.cluster.control_index)?;
    let mut merged = newest.clone();
    merged.me = answers.first()?.me.clone();
    let mut tellers: BTreeMap<u16, u32> = BTreeMap::new();
    for shard in &mut merged.shards {
        if let Some((row, teller)) = newest_row(answers, shard.shard) {
            tellers.insert(row.shard, teller);
            *shard = row.clone();
        }
    }
    let answered: BTreeSet<u32> = answers.iter().map(|answer| answer.me.node).collect();
    for node in &mut merged.nodes {
        node.alive |= answered.contains(&node.node);
    }
    merged.cluster.failures_tolerated = failures_tolerated(&merged.nodes, &merged.shards);
    let told = answers.iter().flat_map(|answer| answer.concerns.iter().map(|concern| (concern, answer.me.node)));
    let taken = told.filter(|(concern, by)| match &concern.subject {
        Subject::Shard { shard } => tellers.get(shard) == Some(by),
        Subject::Cluster | Subject::Control => *by == newest.me.node,
        Subject::Member { node } => concern.what != What::MemberSilent || !answered.contains(node),
        Subject::Link { .. }
        | Subject::Backend { .. }
        | Subject::Instance { .. }
        | Subject::Frontend { .. }
        | Subject::Pool { .. } => true,
    });
    let of_shard = |concern: &Concern| matches!(concern.subject, Subject::Shard { .. });
    let taken =
        taken.filter(|(concern, by)| of_shard(concern) || concern.control_index.is_none() || *by == newest.me.node);
    let mut concerns: Vec<Concern> = taken.map(|(concern, _)| concern.clone()).collect();
    for node in silent {
        let subject = Subject::Member { node: *node };
        if !concerns.iter().any(|c| c.subject == subject && c.what == What::MemberSilent) {
            let why = "it did not answer when it was asked, so what it alone knows is missing here";
            let remedy = "ask it itself on its machine: qnat status --alone; look at its log and its network";
            concerns.push(Concern::warning(subject, What::NoAnswer, why, remedy));
        }
    }
    concerns.extend(torn(answers).into_iter().filter_map(|shard| disowned(newest_row(answers, shard)?.0)));
    concerns.extend(versions(answers));
    merged.concerns = sorted(concerns);
    merged.silent = silent.to_vec();
    Some(merged)
}

/// Whoever describes a shard, and how.
fn newest_row(answers: &[Status], shard: u16) -> Option<(&ShardRow, u32)> {
    let rows = answers.iter().flat_map(|answer| answer.shards.iter().map(|row| (row, answer.me.node)));
    let same = rows.filter(|(row, _)| row.shard == shard);
    same.max_by_key(|(row, node)| (row.epoch, row.term, row.owner == Some(*node)))
}

/// Shards whose owner, as others say, has answered and says that it is not: members answer one after the other, and a shard
/// that moves meanwhile is nobody's in what they say together.
#[must_use]
pub fn torn(answers: &[Status]) -> Vec<u16> {
    let shards: BTreeSet<u16> = answers.iter().flat_map(|answer| &answer.shards).map(|row| row.shard).collect();
    let answered = |node| answers.iter().any(|answer| answer.me.node == node);
    let of_another = |shard: &u16| {
        let newest = newest_row(answers, *shard);
        newest.is_some_and(|(row, teller)| row.owner.is_some_and(|owner| owner != teller && answered(owner)))
    };
    shards.into_iter().filter(of_another).collect()
}

fn disowned(row: &ShardRow) -> Option<Concern> {
    let why = format!("n{} owns it, as others say, and says that it does not: it moves", row.owner?);
    let remedy = "ask again; if it stays, look at that member's log";
    Some(Concern::critical(Subject::Shard { shard: row.shard }, What::NotServing, why, remedy))
}

fn versions(answers: &[Status]) -> Option<Concern> {
    let versions: BTreeSet<&str> = answers.iter().map(|answer| answer.me.version.as_str()).collect();
    (versions.len() > 1).then(|| {
        let versions = versions.into_iter().collect::<Vec<_>>().join(", ");
        let why = format!("members run different builds: {versions}");
        Concern::notice(Subject::Cluster, What::VersionsDiffer, why, "bring all members to the newest build")
    })
}

/// A member whose wall clock is not the asking one's: `ahead_ms` is how far it is ahead (or behind), give or take
/// `round_trip_ms`.
#[must_use]
pub fn clock_apart(node: u32, ahead_ms: i64, round_trip_ms: u64) -> Option<Concern> {
    (ahead_ms.unsigned_abs() > CLOCK_APART_MS + round_trip_ms).then(|| {
        let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
        let why = format!(
            "its wall clock is {} ms {way} that of the member asked: logs cannot be held together",
            ahead_ms.unsigned_abs()
        );
        Concern::warning(
            Subject::Member { node },
            What::ClockApart,
            why,
            "let both follow a time server (chrony, ntpd)",
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view(me: u32, index: u64, owner: Option<u32>, term: u64, live: u64) -> Status {
        let nodes: Vec<_> =
            (1..=3).map(|n| json!({"node": n, "incarnation": n, "standing": "member", "alive": n != 2 || me == 2, "control_voter": true})).collect();
        serde_json::from_value(json!({
            "me": {"node": me, "version": "1"}, "cluster": {"control_index": index}, "nodes": nodes,
            "shards": [{"shard": 1, "epoch": 1, "owner": owner, "term": term, "live": live, "origin": "founded",
                        "role": "follower", "voters": [1, 2, 3], "redundancy": {"have": 3, "want": 3}}]}))
        .expect("a status")
    }

    fn concern(subject: Subject, what: What) -> Concern {
        Concern::warning(subject, what, "why", "what helps")
    }

    #[test]
    fn each_shard_is_described_by_its_newest_owner_else_by_the_newest_term() {
        // n1 is cut off and still believes in itself; n2 took over; n3 is furthest in the control log.
        let answers = [view(1, 10, Some(1), 3, 100), view(2, 11, Some(2), 4, 200), view(3, 12, Some(2), 4, 199)];
        let merged = merge(&answers, &[]).expect("answers");
        assert_eq!((merged.cluster.control_index, merged.me.node), (12, 1));
        assert_eq!((merged.shards[0].owner, merged.shards[0].live), (Some(2), Some(200)));
        assert_eq!(merged.cluster.failures_tolerated, Some(1), "n2 answered, so it lives");
        // The new owner does not answer: the old one's claim is older than what n3 knows.
        let merged = merge(&[view(1, 10, Some(1), 3, 100), view(3, 12, Some(2), 4, 199)], &[2]).expect("answers");
        assert_eq!(merged.shards[0].owner, Some(2));
        assert_eq!(merge(&[], &[1]), None);
    }

    #[test]
    fn a_shard_that_moves_between_two_answers_is_seen_to() {
        let settled = [view(1, 10, Some(2), 4, 1), view(2, 10, Some(2), 4, 1), view(3, 10, Some(2), 4, 1)];
        assert_eq!(torn(&settled), [0; 0]);
        // n3 takes it over from n2: it had not when it answered, but n1 has heard of it; or n2 has, which gave it away.
        let mut taken = settled.clone();
        taken[0] = view(1, 10, Some(3), 5, 1);
        assert_eq!(torn(&taken), [1]);
        // n2 has given it away, and nobody has heard of a successor.
        let mut given = settled.clone();
        given[1] = view(2, 10, None, 4, 1);
        assert_eq!(torn(&given), [1]);
        let said = merge(&given, &[]).expect("answers").concerns;
        assert_eq!(said.iter().map(|c| c.what).collect::<Vec<_>>(), [What::NotServing]);
        assert!(said[0].why.starts_with("n2 owns it, as others say"), "{}", said[0].why);
        // Whose owner is silent is told of by its silence.
        assert_eq!(torn(&[settled[0].clone(), settled[2].clone()]), [0; 0]);
        assert_eq!(torn(&[view(1, 10, Some(1), 3, 1), settled[1].clone()]), [0; 0], "an old claim is none");
    }

    #[test]
    fn concerns_come_from_whoever_knows_best() {
        let (shard, cluster) = (|| Subject::Shard { shard: 1 }, || Subject::Cluster);
        let mut old = view(1, 10, Some(1), 3, 100);
        old.concerns = vec![
            concern(shard(), What::NoOwner),
            concern(cluster(), What::FailureTolerance),
            concern(Subject::Member { node: 1 }, What::DiskSpace),
            concern(Subject::Member { node: 2 }, What::MemberSilent),
        ];
        let mut owner = view(2, 11, Some(2), 4, 200);
        owner.concerns = vec![concern(shard(), What::BelowRedundancy)];
        let merged = merge(&[old, owner], &[3]).expect("answers");
        let said: Vec<_> = merged.concerns.iter().map(|c| (c.what, c.subject.to_string())).collect();
        assert_eq!(
            said,
            [
                (What::DiskSpace, "n1".to_owned()),
                (What::NoAnswer, "n3".to_owned()),
                (What::BelowRedundancy, "shard 1".to_owned())
            ]
        );
        assert_eq!(merged.silent, [3]);
    }

    #[test]
    fn what_the_replicated_state_says_is_told_by_whoever_is_furthest_in_the_log() {
        let (backend, member) = (Subject::Backend { name: "a/b".into() }, || Subject::Member { node: 1 });
        let says =
            |why, index| Concern { control_index: index, ..Concern::notice(member(), What::Moving, why, "wait") };
        let mut drained = view(1, 20, Some(2), 4, 100);
        let no_ports = Concern::critical(backend, What::PortsMissing, "no ports yet", "wait");
        let measured = concern(member(), What::DiskSpace);
        drained.concerns =
            vec![says("draining", Some(20)), Concern { control_index: Some(20), ..no_ports }, measured.clone()];
        let mut leader = view(2, 21, Some(2), 4, 100);
        leader.concerns = vec![says("drained", Some(21))];
        for answers in [[drained.clone(), leader.clone()], [leader, drained]] {
            let merged = merge(&answers, &[]).expect("answers");
            assert_eq!(merged.concerns, [measured.clone(), says("drained", Some(21))]);
        }
    }

    #[test]
    fn a_member_known_to_be_silent_is_missed_once() {
        let mut asked = view(1, 10, Some(1), 3, 100);
        asked.concerns = vec![concern(Subject::Member { node: 2 }, What::MemberSilent)];
        let merged = merge(&[asked], &[2]).expect("an answer");
        assert_eq!(merged.concerns.len(), 1);
    }

    #[test]
    fn builds_and_clocks_that_differ_are_told_of() {
        let mut other = view(2, 11, Some(2), 4, 200);
        other.me.version = "2".into();
        let merged = merge(&[view(1, 10, Some(2), 4, 100), other], &[]).expect("answers");
        assert_eq!(merged.concerns.iter().map(|c| c.what).collect::<Vec<_>>(), [What::VersionsDiffer]);
        assert_eq!(clock_apart(2, 1_000, 5), None);
        assert_eq!(clock_apart(2, -1_004, 5), None, "within what the round trip hides");
        let behind = clock_apart(2, -5_000, 5).expect("apart");
        assert!(behind.why.contains("5000 ms behind"), "{}", behind.why);
    }
}
