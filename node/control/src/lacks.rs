//! What the replicated state itself says is not as it should be: of shards, of backends, of the configuration as a whole.
//! Pure; called by `view`.

use engine::ids::{Incarnation, NodeId, ShardId};

use crate::allocation::{Backend, Declared};
use crate::concern::{Concern, Severity, Subject, What};
use crate::default_outbound;
use crate::default_outbound::ways::Granting;
use crate::nsg::warnings;
use crate::places::blocks_on;
use crate::probing;
use crate::resource::Outside;
use crate::shards::{Origin, Shard};
use crate::state::State;
use crate::validate;

/// What the configuration as a whole lacks, or will soon.
pub(crate) fn cluster_concerns(state: &State) -> Vec<Concern> {
    let mut found = Vec::new();
    if state.desired.outside == Outside::default() && !state.allocation.backends.is_empty() {
        let why = "no [outside] network is configured: no backend reaches anybody";
        let remedy = "apply a configuration with [outside] network, and next_hop for what is not on-link";
        found.push(Concern::critical(Subject::Cluster, What::NoPath, why, remedy));
    }
    let limits = [
        ("frontends", state.allocation.frontends.len(), validate::FRONTENDS_MAX),
        ("public addresses", state.desired.public_ips.len(), validate::PUBLIC_IPS_MAX),
        ("IP configurations", state.allocation.backends.len(), validate::IP_CONFIGURATIONS_MAX),
    ];
    for (what, have, most) in limits.into_iter().filter(|(_, have, most)| have * 10 >= most * 9) {
        let why = format!("{have} of at most {most} {what} are in use");
        found.push(Concern::notice(Subject::Cluster, What::LimitNear, why, "plan a second cluster"));
    }
    found.extend(warnings::warnings(state));
    found.extend(default_outbound::rows::concern(state));
    found.extend(probing::concerns::concerns(state));
    if let Some(token) = &state.stop_token
        && state.registry.newest(token.holder) != Some(token.incarnation)
    {
        let why = format!("n{} holds the stop token and has started anew since: nobody else may stop", token.holder.0);
        found.push(Concern::warning(Subject::Cluster, What::StopTokenHeld, why, "qnat stop-token revoke"));
    }
    found
}

/// Why a shard has no full redundancy or no owner, as far as the state says, and what helps.
pub(crate) fn shard_concern(state: &State, id: ShardId, shard: &Shard) -> Option<Concern> {
    let registry = &state.registry;
    let numbers = |lives: &mut dyn Iterator<Item = Incarnation>| -> Vec<u32> {
        let mut nodes: Vec<u32> = lives.filter_map(|life| registry.node_of(life)).map(|node| node.0).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    };
    let nodes = |lives: &mut dyn Iterator<Item = Incarnation>| -> String {
        numbers(lives).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let subject = Subject::Shard { shard: id.0 };
    let say = |severity, what, why: String, remedy| Some(Concern::new(severity, subject, what, why, remedy));
    if shard.origin == Origin::Unplaced {
        let why = "no node was registered when it was declared".into();
        return say(Severity::Critical, What::NoOwner, why, "start a node; it is placed by itself");
    }
    if shard.sealing.is_some() {
        let awaited = numbers(&mut shard.active(registry).into_iter());
        let active = nodes(&mut shard.active(registry).into_iter());
        return if !shard.quorum_impossible(registry) || (shard.base(registry).is_none() && !active.is_empty()) {
            let why = format!("no owner: it lost its quorum, and node {active} has neither sealed nor gone");
            let commands: Vec<String> = awaited.iter().map(|node| remove_command(state, NodeId(*node))).collect();
            let remedy = format!("bring that node back, or remove it after powering it off: {}", commands.join("; "));
            say(Severity::Critical, What::NoOwner, why, &remedy)
        } else {
            let why = "no owner: it is being re-created from its survivors".into();
            say(Severity::Critical, What::NoOwner, why, "wait a moment")
        };
    }
    if !shard.leaving.is_empty() {
        let why = format!("replicas of node {} are being replaced", nodes(&mut shard.leaving.iter().copied()));
        let remedy = "wait until the new ones are in step; both groups of nodes must stay up";
        return say(Severity::Warning, What::Moving, why, remedy);
    }
    let wanted = state.replicas_wanted();
    if shard.members.len() < wanted {
        let why = format!("{} of {wanted} replicas", shard.members.len());
        let (barred, free) = shard.spare(registry);
        return match numbers(&mut barred.into_iter()).first() {
            // Nobody else can take its place, and it may not in this life: that would wait for ever.
            Some(node) if free.is_empty() => {
                let why = format!("{why}: n{node} has given it away and may have it back only as another incarnation");
                let remedy = format!("restart that node: `qnat stop --node {node}`, then start it again");
                say(Severity::Warning, What::BelowRedundancy, why, &remedy)
            }
            _ => {
                let remedy = "wait: registered nodes are added by themselves, one change at a time";
                say(Severity::Warning, What::BelowRedundancy, why, remedy)
            }
        };
    }
    if shard.voters.len() < wanted {
        let alone = matches!(shard.origin, Origin::Recreated { .. } | Origin::Lost { .. }) && shard.voters.len() == 1;
        let why = match alone {
            true => format!("re-created: only node {} holds its flows", nodes(&mut shard.voters.iter().copied())),
            false => format!("{} of {wanted} replicas vote", shard.voters.len()),
        };
        let remedy = "wait until the others are in step; do not stop a node now";
        return say(Severity::Warning, What::BelowRedundancy, why, remedy);
    }
    None
}

/// Why a backend has no ports, or fewer than its grant, and what helps.
pub(crate) fn backend_concern(state: &State, backend: &Backend, drains: bool) -> Option<Concern> {
    let subject = || Subject::Backend { name: format!("{}/{}", backend.instance, backend.ip_configuration) };
    let wait = "wait until their flows are closed and fenced";
    if backend.declared == Declared::No {
        return Some(Concern::notice(subject(), What::Draining, "removed; its blocks are draining", wait));
    }
    if let Some(address) = backend.public.filter(|_| backend.own.is_none()) {
        let why = format!(
            "its public address {address} is not free yet: flows of its former user, or of another shard, end there"
        );
        return Some(Concern::warning(subject(), What::PortsMissing, why, "wait; see qnat get frontends"));
    }
    if backend.own.is_some() && backend.ports() >= backend.grant {
        return None;
    }
    if backend.granting != Granting::Pool
        && let Some(found) = no_way_out(state, backend)
    {
        return Some(found);
    }
    if backend.ports() >= backend.grant {
        return None;
    }
    if drains && backend.lease.is_empty() {
        let why = "its old blocks must drain before it is bound to a frontend of another shard";
        return Some(Concern::warning(subject(), What::PortsMissing, why, "wait until they have drained"));
    }
    let drains = &state.allocation.drains;
    let waiting = match backend.frontend {
        Some(frontend) => drains.range(blocks_on(frontend)).next().is_some(),
        None => !drains.is_empty(),
    };
    let short = |why: &str, remedy: &str| Some(Concern::warning(subject(), What::PortsMissing, why, remedy));
    match waiting {
        true => short("its frontends have no room until other blocks have drained", "wait until they have drained"),
        false if backend.granting == Granting::Default => {
            let remedy = "add addresses under [default_outbound], as many as there are shards: `qnat apply -f FILE`";
            short("no system address that it can have has room for it", remedy)
        }
        false => short("its frontends have no room", "add a frontend to its outbound rule"),
    }
}

/// Why a backend that no rule lets out has no ports, and what helps.
fn no_way_out(state: &State, backend: &Backend) -> Option<Concern> {
    let subject = Subject::Backend { name: format!("{}/{}", backend.instance, backend.ip_configuration) };
    let nothing = match &backend.pool {
        None => "no outbound path: it is in no pool",
        Some(_) => "no outbound path: no rule links its pool to a frontend that has ports to grant",
    };
    let remedy = match &backend.pool {
        None => "put it into a pool that has an outbound rule",
        Some(_) => "add a load-balancing rule or an outbound rule for the pool",
    };
    match backend.granting {
        Granting::Barred => {
            let why = format!("{nothing}, and its subnet has default_outbound_access = false");
            Some(Concern::notice(subject, What::NoPath, why, remedy))
        }
        Granting::Default if state.desired.default_outbound.addresses.is_empty() => {
            let why = format!("{nothing}, and there are no system addresses");
            let remedy = format!("{remedy}, or configure [default_outbound] addresses: `qnat apply -f FILE`");
            Some(Concern::warning(subject, What::NoPath, why, &remedy))
        }
        Granting::Default | Granting::Nothing | Granting::Pool => None,
    }
}

/// The command that removes a node as it is now.
#[must_use]
pub fn remove_command(state: &State, node: NodeId) -> String {
    let named = state.registry.nodes().get(&node).map_or(0, |known| known.named().0);
    format!("qnat node-remove {node} --incarnation {named}")
}

/// What is to be said of a node on its way out.
pub(crate) fn drain_concern(state: &State, id: NodeId) -> Concern {
    let subject = Subject::Member { node: id.0 };
    if state.is_drained(id) {
        let remedy = format!("stop it, then: {}", remove_command(state, id));
        return Concern::notice(subject, What::Moving, "drained: nothing depends on it any more", &remedy);
    }
    let on_it = |shard: &&Shard| shard.possible().iter().any(|life| state.registry.node_of(*life) == Some(id));
    let why = format!("draining: {} shards and its vote have to move", state.shards.values().filter(on_it).count());
    let remedy = format!("wait, and keep it running; or take it back: qnat node-resume {id}");
    Concern::notice(subject, What::Moving, why, &remedy)
}
