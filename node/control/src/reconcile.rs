//! What the control leader should propose now, so that the cluster comes to what the state wants.
//!
//! A pure function of the state and of what the leader sees; asked again every tick. It proposes little at a time and
//! nothing that the state already holds, and every proposal names the version of the shard that it was made for, so a
//! repeated or late one is refused. It must never take silence for death (N4). Called by `node` while leading.

use std::collections::{BTreeMap, BTreeSet};

use engine::ids::{FrontendId, Incarnation, NodeId, ShardId};

use crate::allocation::Declared;
use crate::apply::whole;
use crate::command::CommandBody;
use crate::shards::{Load, Origin, Shard, placement};
use crate::state::State;

/// Most proposals of one call.
pub const PROPOSALS_MAX: usize = 16;
/// A shard without an owner for that long, one of whose replicas is gone, is sealed.
pub const OWNERLESS_MS: u64 = 1_000;
/// An epoch that is sealed waits so long for members that live and do not answer, if it can begin anew without them.
pub const SEAL_WAIT_MS: u64 = 3_000;
/// Added to the longest hold before a frontend retires: clocks of proposers may differ.
pub const RETIRE_MARGIN_MS: u64 = 60_000;

/// What the control leader sees.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Observed {
    /// Now, by any clock of the leader that does not jump.
    pub now_ms: u64,
    /// Since when this leader observes, by the same clock.
    pub since_ms: u64,
    /// When a leader of the shard's present epoch was last reported, by the same clock; one that waits before it serves
    /// (N4) counts too, or its wait would be taken for a loss. Reports of an earlier epoch do not count.
    pub owner_seen_ms: BTreeMap<ShardId, u64>,
    /// When the leader noticed the last change of each shard's entry, by the same clock: members that have just come are
    /// given time to say what they hear, and sealed ones to answer.
    pub changed_ms: BTreeMap<ShardId, u64>,
    /// Nodes heard within 2 s.
    pub live: BTreeSet<NodeId>,
    /// Voters of shards' applied, not joint, configurations, with the epoch, as their leaders report them.
    pub voters: BTreeMap<ShardId, (u32, Vec<Incarnation>)>,
    /// Now, by the wall clock: only for retiring frontends.
    pub unix_ms: u64,
}

/// What to propose now, most urgent first, at most [`PROPOSALS_MAX`].
#[must_use]
pub fn next(state: &State, seen: &Observed) -> Vec<CommandBody> {
    let mut proposals = Vec::new();
    for (id, shard) in &state.shards {
        proposals.extend(heal(state, seen, *id, shard));
    }
    let mut load = Load::of(&state.registry, state.shards.values());
    for (id, shard) in &state.shards {
        proposals.extend(populate(state, seen, *id, shard, &mut load));
    }
    for (id, shard) in &state.shards {
        proposals.extend(evacuate(state, seen, *id, shard, &mut load));
    }
    for (id, shard) in &state.shards {
        proposals.extend(voters(seen, *id, shard));
    }
    proposals.extend(retire(state, seen));
    if proposals.is_empty() {
        proposals.extend(rebalance(state, seen, &load));
    }
    proposals.truncate(PROPOSALS_MAX);
    proposals
}

/// N4: seal an epoch that cannot heal itself, then begin the next one.
fn heal(state: &State, seen: &Observed, id: ShardId, shard: &Shard) -> Option<CommandBody> {
    let registry = &state.registry;
    if shard.origin == Origin::Unplaced {
        return None;
    }
    let unchanged_ms = seen.changed_ms.get(&id).copied().unwrap_or(0).max(seen.since_ms);
    if shard.sealing.is_none() {
        let last = seen.owner_seen_ms.get(&id).copied().unwrap_or(0).max(unchanged_ms);
        let ownerless = seen.now_ms.saturating_sub(last) > OWNERLESS_MS;
        let seal = ownerless && shard.some_gone(registry);
        return seal.then_some(CommandBody::SealEpoch { shard: id, epoch: shard.epoch });
    }
    let active = shard.active(registry);
    let awaited = active.iter().any(|life| registry.node_of(*life).is_some_and(|node| seen.live.contains(&node)));
    let patient = seen.now_ms.saturating_sub(unchanged_ms) <= SEAL_WAIT_MS;
    if awaited && patient || !shard.quorum_impossible(registry) {
        return None;
    }
    if shard.base(registry).is_none() && !active.is_empty() {
        return None;
    }
    let live = |life: &Incarnation| {
        !registry.gone(*life) && registry.node_of(*life).is_some_and(|node| seen.live.contains(&node))
    };
    let holder = shard
        .members
        .iter()
        .copied()
        .find(live)
        .or_else(|| registry.registered().find(|(node, _)| seen.live.contains(node)).map(|(_, life)| life))?;
    Some(CommandBody::Recreate { shard: id, epoch: shard.epoch, holder_if_lost: holder })
}

/// Places a new shard, and extends one that has fewer members than it could.
fn populate(state: &State, seen: &Observed, id: ShardId, shard: &Shard, load: &mut Load) -> Option<CommandBody> {
    let registry = &state.registry;
    let live: BTreeSet<NodeId> =
        registry.eligible().filter(|(node, _)| seen.live.contains(node)).map(|(node, _)| node).collect();
    let unchanged_since = Some(shard.changed);
    if shard.origin == Origin::Unplaced {
        let members = placement(load, &live, state.replicas_wanted());
        return (!members.is_empty()).then_some(CommandBody::SetMembers { shard: id, members, unchanged_since });
    }
    let wanted = state.replicas_wanted();
    if shard.sealing.is_some() || !shard.leaving.is_empty() || shard.members.len() >= wanted {
        return None;
    }
    let mut members: Vec<NodeId> = shard.members.iter().filter_map(|life| registry.node_of(*life)).collect();
    if members.len() < shard.members.len() {
        return None;
    }
    let before = members.len();
    while members.len() < wanted {
        let may = |node: &NodeId| {
            !members.contains(node) && registry.newest(*node).is_some_and(|life| !shard.moved_out.contains(&life))
        };
        let rank = members.len();
        let Some(node) = load.least(rank, live.iter().copied().filter(may)) else { break };
        load.add(node, rank);
        members.push(node);
    }
    (members.len() > before).then_some(CommandBody::SetMembers { shard: id, members, unchanged_since })
}

/// Moves a shard off a node that is on its way out, one replica at a time: another node takes its rank in one joint change
/// (N2), or, if there is none to take it, the shard does with one replica less.
fn evacuate(state: &State, seen: &Observed, id: ShardId, shard: &Shard, load: &mut Load) -> Option<CommandBody> {
    let registry = &state.registry;
    if shard.origin == Origin::Unplaced || shard.sealing.is_some() || !shard.leaving.is_empty() {
        return None;
    }
    let mut members: Vec<NodeId> = shard.members.iter().filter_map(|life| registry.node_of(*life)).collect();
    let rank = members.iter().position(|node| registry.is_draining(*node))?;
    let stay = |node: &NodeId| !registry.is_draining(*node);
    // A change needs the others, and they would carry on alone.
    if members.len() < shard.members.len() || !members.iter().filter(|n| stay(n)).all(|n| seen.live.contains(n)) {
        return None;
    }
    let free = |(node, life): &(NodeId, Incarnation)| !members.contains(node) && !shard.moved_out.contains(life);
    let takers: Vec<NodeId> = registry.eligible().filter(free).map(|(node, _)| node).collect();
    match load.least(rank, takers.iter().copied().filter(|node| seen.live.contains(node))) {
        Some(node) => {
            load.add(node, rank);
            members[rank] = node;
        }
        None if takers.is_empty() && members.iter().any(stay) => drop(members.remove(rank)),
        None => return None,
    }
    Some(CommandBody::SetMembers { shard: id, members, unchanged_since: Some(shard.changed) })
}

/// Records configurations that leaders report.
fn voters(seen: &Observed, id: ShardId, shard: &Shard) -> Option<CommandBody> {
    let (epoch, voters) = seen.voters.get(&id)?;
    let reported: BTreeSet<Incarnation> = voters.iter().copied().collect();
    let known: BTreeSet<Incarnation> = shard.voters.iter().copied().collect();
    let in_map = |life: &Incarnation| shard.members.contains(life) || shard.leaving.contains(life);
    let news = *epoch == shard.epoch && shard.sealing.is_none() && reported != known && !reported.is_empty();
    let report = || CommandBody::VotersApplied { shard: id, epoch: *epoch, voters: reported.iter().copied().collect() };
    (news && reported.iter().all(in_map)).then(report)
}

/// Frontends that are no longer declared go when the longest hold has ended.
fn retire(state: &State, seen: &Observed) -> Option<CommandBody> {
    let settings = state.settings();
    let hold = settings.hold_ms.iter().copied().max().unwrap_or(0).max(settings.orphan_grace_ms);
    let wait = u64::from(hold) + u64::from(settings.vote_ms()) + RETIRE_MARGIN_MS;
    let over = |since: u64| seen.unix_ms.saturating_sub(since) > wait;
    let frontends = state.allocation.frontends.iter();
    let due = frontends.filter(|(_, f)| f.declared == Declared::No && f.idle_since_unix_ms.is_some_and(over));
    let due: Vec<FrontendId> = due.map(|(id, _)| *id).collect();
    // All at once: each such entry is a walk over the whole state.
    (!due.is_empty()).then_some(CommandBody::RetireFrontends { frontends: due })
}

/// Moves one preferred ownership from the node with the most to the one with the fewest, if they differ by two or more,
/// so each step lowers the difference and the last one ends it. Only while every shard is whole and nobody stops.
fn rebalance(state: &State, seen: &Observed, load: &Load) -> Option<CommandBody> {
    let registry = &state.registry;
    let wanted = state.replicas_wanted();
    let calm = state.stop_token.is_none() && state.shards.values().all(|shard| whole(shard, wanted));
    let all_live = registry.eligible().all(|(node, _)| seen.live.contains(&node));
    if !calm || !all_live {
        return None;
    }
    let nodes = || registry.eligible().map(|(node, _)| node);
    let rich = nodes().max_by_key(|node| (load.at_rank(*node, 0), std::cmp::Reverse(*node)))?;
    let poor = nodes().min_by_key(|node| (load.at_rank(*node, 0), *node))?;
    if load.at_rank(rich, 0) < load.at_rank(poor, 0) + 2 {
        return None;
    }
    let poor_life = registry.newest(poor)?;
    let members_of =
        |shard: &Shard| -> Vec<NodeId> { shard.members.iter().filter_map(|life| registry.node_of(*life)).collect() };
    let movable = |(_, shard): &(&ShardId, &Shard)| {
        shard.members.first().and_then(|life| registry.node_of(*life)) == Some(rich)
            && !shard.moved_out.contains(&poor_life)
    };
    // A shard that the poor node replicates already needs no copy.
    let (id, shard) =
        state.shards.iter().filter(movable).min_by_key(|(id, s)| (!s.members.contains(&poor_life), **id))?;
    let mut members = members_of(shard);
    match members.iter().position(|node| *node == poor) {
        Some(rank) => members.swap(0, rank),
        None => {
            if members.len() >= wanted {
                members.pop();
            }
            members.insert(0, poor);
        }
    }
    Some(CommandBody::SetMembers { shard: *id, members, unchanged_since: Some(shard.changed) })
}
