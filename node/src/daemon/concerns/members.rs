//! The other members: whether they are heard, and whether they are of one kind.

use control::concern::{Concern, Subject, What};
use control::registry::Standing;

use super::facts::Facts;

pub(super) fn concerns(facts: &Facts<'_>, found: &mut Vec<Concern>) {
    if facts.control.incarnation.is_none() || !facts.flows.running {
        let why = "it has not registered with the cluster yet, so it replicates and serves nothing";
        let remedy = "wait: it needs a majority of the control group; its log says what it waits for";
        found.push(Concern::critical(Subject::Member { node: facts.node }, What::NotRegistered, why, remedy));
    }
    for row in
        facts.nodes.iter().filter(|row| row.standing != Standing::Removed && !row.drained && row.node != facts.node)
    {
        let subject = Subject::Member { node: row.node };
        if row.incarnation.is_none() {
            let why = "it belongs to the cluster and has never started";
            found.push(Concern::warning(subject, What::NotRegistered, why, "start it: qnat node --config node.toml"));
        } else if !row.alive {
            let why = "it is not heard";
            let remedy = format!(
                "start it again, or look at its network; one that is powered off for good: \
                 qnat node-remove {} --incarnation {}",
                row.node, row.named
            );
            found.push(Concern::warning(subject, What::MemberSilent, why, &remedy));
        }
    }
    let levels =
        facts.control.nodes.iter().filter(|node| node.standing == Standing::Member && node.incarnation.is_some());
    let levels: std::collections::BTreeSet<u16> = levels.map(|node| node.level).collect();
    if let (Some(low), Some(high)) = (levels.first(), levels.last())
        && low != high
    {
        let why = format!("members speak levels {low} to {high}: what only the newer ones know is not used");
        found.push(Concern::notice(
            Subject::Cluster,
            What::VersionsDiffer,
            why,
            "bring all members to the newest build",
        ));
    }
    if let Some(all) = levels.first()
        && *all > facts.control.status.level
    {
        let why = format!("the cluster is at level {}, and all members speak {all}", facts.control.status.level);
        let remedy = format!("`qnat cluster level {all}`: an older build cannot come back after it");
        found.push(Concern::notice(Subject::Cluster, What::LevelBelow, why, &remedy));
    }
}
