//! Whether one more failure would stop something: the first question of whoever is woken at night.

use control::concern::{Concern, Severity, Subject, What};

use super::facts::Facts;
use crate::answers::{ShardRow, control_group, failures_tolerated};

/// Members that a cluster needs, to lose one without a loss of service.
const MEMBERS_FOR_A_FAILURE: usize = 3;

pub(super) fn concerns(facts: &Facts<'_>, found: &mut Vec<Concern>) {
    let control = facts.control;
    if control.leader.is_none() {
        let why = "it has no leader, so nothing can be configured, joined or moved";
        let remedy = "start a stopped member: it needs more than half of its voters";
        found.push(Concern::critical(Subject::Control, What::NoControlLeader, why, remedy));
    }
    let (have, want) = control_group(facts.nodes);
    if have < want {
        let why = format!("{have} of {want} voters answer");
        found.push(Concern::warning(Subject::Control, What::BelowRedundancy, why, restart()));
    }
    for row in facts.shards {
        found.extend(of_shard(facts, row));
    }
    found.extend(tolerance(facts));
}

const fn restart() -> &'static str {
    "bring the silent member back, or remove one that is powered off for good: \
     qnat node-remove NODE --incarnation N, N from `qnat get nodes`"
}

fn of_shard(facts: &Facts<'_>, row: &ShardRow) -> Option<Concern> {
    let subject = Subject::Shard { shard: row.shard };
    let runs_here = row.role.is_some();
    if row.owner.is_none() && runs_here && !row.sealing {
        let why = "no majority of its replicas answers, so nobody owns it: new flows are refused; committed flows end \
                   with the orphan grace";
        let remedy = "bring a stopped node back (it resumes by itself), or remove one that is powered off for \
                      good: `qnat node-remove NODE --incarnation N`, N from `qnat get nodes`";
        return Some(Concern::critical(subject, What::NoOwner, why, remedy));
    }
    if row.owner == Some(facts.node) && !row.serves() {
        let why = format!("its owner n{} does not serve: {}", facts.node, row.serving.trim_start_matches("no: "));
        let remedy = "it hands over to a member that can serve, if there is one; look at its links and its log";
        return Some(Concern::critical(subject, What::NotServing, why, remedy));
    }
    let (have, want) = (row.redundancy.have, row.redundancy.want);
    let short = runs_here && have < want;
    short.then(|| {
        let why = format!("{have} of {want} replicas are in step");
        Concern::warning(
            subject,
            What::BelowRedundancy,
            why,
            "bring the silent member back, or wait until it has caught up",
        )
    })
}

fn tolerance(facts: &Facts<'_>) -> Option<Concern> {
    let spare = failures_tolerated(facts.nodes, facts.shards)?;
    if spare > 0 {
        return None;
    }
    let registered = facts.nodes.iter().filter(|node| node.incarnation.is_some()).count();
    let small = registered < MEMBERS_FOR_A_FAILURE;
    let whole = facts.shards.iter().all(|row| row.redundancy.have >= row.redundancy.want);
    let (severity, why, remedy) = match small && whole {
        true => (
            Severity::Notice,
            format!(
                "{registered} of the {MEMBERS_FOR_A_FAILURE} members that can lose one: a failure stops new connections"
            ),
            "let more members join: qnat join request --help",
        ),
        false => (Severity::Warning, "one more failure stops new connections, or changes".to_owned(), restart()),
    };
    Some(Concern::new(severity, Subject::Cluster, What::FailureTolerance, why, remedy))
}

/// A shard without an owner says so once: what else it lacks follows from that.
pub(super) fn without_consequences(found: &mut Vec<Concern>) {
    let ownerless: Vec<Subject> =
        found.iter().filter(|c| c.what == What::NoOwner).map(|concern| concern.subject.clone()).collect();
    found.retain(|concern| concern.what == What::NoOwner || !ownerless.contains(&concern.subject));
}
