//! The rows of a status, out of the reports of the two halves and of the worker. Called by the answerer.

use consensus::flow::{GroupStatus, Role};
use control::registry::Standing;
use control::view::ShardView;
use engine::ids::{Incarnation, NodeId};
use engine::status::ShardStatus;

use super::reports::{ControlReport, FlowReport};
use crate::answers::{NodeRow, Redundancy, ShardRow};

/// All members.
pub(super) fn node_rows(control: &ControlReport) -> Vec<NodeRow> {
    let row = |node: &control::view::NodeView| NodeRow {
        node: node.node,
        name: format!("n{}", node.node),
        incarnation: node.incarnation,
        named: node.named,
        drained: node.drained,
        standing: node.standing,
        alive: control.live.contains(&NodeId(node.node)),
        control_voter: node.standing != Standing::Removed && control.voters.contains(&node.control_raft_id),
    };
    control.nodes.iter().map(row).collect()
}

/// All shards.
pub(super) fn shard_rows(control: &ControlReport, flows: &FlowReport, tables: &[ShardStatus]) -> Vec<ShardRow> {
    control.shards.iter().map(|shard| shard_row(shard, flows, tables, &control.live)).collect()
}

fn shard_row(view: &ShardView, report: &FlowReport, tables: &[ShardStatus], live: &[NodeId]) -> ShardRow {
    let group = report.groups.iter().find(|group| group.group.0 == view.shard);
    let health = report.health.iter().find(|health| health.group.0 == view.shard);
    let table = tables.iter().find(|table| table.shard.0 == view.shard);
    let node = |life: u64| report.node_of.get(&Incarnation(life)).copied();
    let owner = group.and_then(|group| group.owner).and_then(|life| node(life.0));
    let leads = group.is_some_and(|group| group.role == Role::Leader);
    let heard = |group: &GroupStatus| {
        group.voters.iter().filter(|life| node(life.0).is_some_and(|node| live.contains(&node))).count()
    };
    let have = match (health.filter(|_| leads), group) {
        (Some(health), _) => health.voters.iter().filter(|(_, in_step)| *in_step).count(),
        // Only the owner measures it. Whom this node hears is all that anybody else can say, never who is listed.
        (None, group) => group.map_or(0, heard),
    };
    ShardRow {
        shard: view.shard,
        frontends: view.frontends.clone(),
        epoch: view.epoch,
        owner: owner.map(|node| node.0),
        term: group.map(|group| group.term),
        raft_term: group.map(|group| group.term & u64::from(u32::MAX)),
        role: group.map(|group| group.role.label().to_owned()),
        serving: serving(group, table),
        redundancy: Redundancy {
            have,
            want: view.members.len(),
            exact: leads,
            reachable: owner.is_none() && group.is_some(),
        },
        members: view.members.iter().map(|member| member.node).collect(),
        voters: group.map(|group| group.voters.iter().filter_map(|life| Some(node(life.0)?.0)).collect()),
        applied: table.map(|table| table.applied.0),
        live: table.map(|table| table.live),
        held: table.map(|table| table.held),
        cut: table.map(|table| table.cut),
        pending: table.map(|table| table.pending),
        lease_ms: group.map(|group| group.lease_until_ns.saturating_sub(report.now_ns) / 1_000_000),
        origin: view.origin,
        sealing: view.sealing,
        why: view.why.clone(),
        remedy: view.remedy.clone(),
    }
}

/// Whether the flow thread says of a shard that it is served here and its worker that it is not, or the reverse: they answer
/// one after the other.
pub(super) fn torn(report: &FlowReport, tables: &[ShardStatus]) -> bool {
    let differ = |group: &GroupStatus| {
        let table = tables.iter().find(|table| table.shard.0 == group.group.0);
        let leads = group.role == Role::Leader && group.waiting.is_none();
        table.is_some_and(|table| leads != (table.serving == Some(Ok(()))))
    };
    report.groups.iter().any(differ)
}

fn serving(group: Option<&GroupStatus>, table: Option<&ShardStatus>) -> String {
    match table.and_then(|table| table.serving) {
        Some(Ok(())) => return "yes".to_owned(),
        Some(Err(why)) => return format!("no: {}", why.label()),
        None => {}
    }
    match group {
        Some(GroupStatus { waiting: Some(why), .. }) => format!("no: {}", why.label()),
        Some(_) => "standby".to_owned(),
        None => "no replica here".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use consensus::flow::Waiting;
    use engine::ApplyCounts;
    use engine::event::NotServing;
    use engine::ids::{ControlIndex, LogIndex, ShardId};
    use engine::status::Confirmed;

    use super::*;

    fn group(role: Role, waiting: Option<Waiting>) -> FlowReport {
        let owner = Some(Incarnation(1));
        let group = GroupStatus {
            group: ShardId(1),
            epoch: engine::ids::Epoch(1),
            role,
            term: 4,
            commit: 0,
            applied: 0,
            lease_until_ns: 0,
            voters: Vec::new(),
            outgoing: Vec::new(),
            learners: Vec::new(),
            waiting,
            elections: 1,
            owner,
        };
        FlowReport { groups: vec![group], ..FlowReport::default() }
    }

    #[test]
    fn a_shard_that_changes_hands_between_two_threads_is_seen_to() {
        let table = |serving| {
            let (shard, leading, owner) = (ShardId(1), None, None);
            let (applied, control_index, counts) = (LogIndex(0), ControlIndex(0), ApplyCounts::default());
            let announced = Confirmed::No;
            [ShardStatus {
                shard,
                epoch: 1,
                applied,
                control_index,
                leading,
                serving,
                owner,
                live: 0,
                held: 0,
                free: 0,
                table_bytes: 0,
                pending: 0,
                announced,
                cut: 0,
                counts,
            }]
        };
        let (served, refused) = (table(Some(Ok(()))), table(Some(Err(NotServing::NoLease))));
        let (leads, waits) = (group(Role::Leader, None), group(Role::Leader, Some(Waiting::Worker)));
        let follows = group(Role::Follower, None);
        for (report, tables) in
            [(&leads, &served), (&waits, &refused), (&waits, &table(None)), (&follows, &table(None))]
        {
            assert!(!torn(report, tables), "{report:?} {tables:?}");
        }
        for (report, tables) in [(&leads, &table(None)), (&leads, &refused), (&waits, &served), (&follows, &served)] {
            assert!(torn(report, tables), "{report:?} {tables:?}");
        }
        assert!(!torn(&leads, &[]), "a worker that gives no answer gives none to hold against");
    }
}
