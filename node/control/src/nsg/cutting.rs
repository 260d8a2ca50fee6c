//! Whose live flows a change may end (D19): IP configurations that go, and those of which groups, tags, members or the openness of
//! ports say something else than before. Which of their flows do end, `engine::cuts` says for each by the snapshot that the change
//! will come to: the very judge of packets (D21). Called by `plan`, off the control thread.

use std::collections::{BTreeMap, BTreeSet};

use engine::ids::{BackendId, NodeId, ShardId};
use engine::nsg::Attachments;
use engine::snapshot::Snapshot;

use super::compiling;
use crate::allocation::{Backend, Declared};
use crate::compile;
use crate::inbound::model::Target;
use crate::inbound::reach::rules;
use crate::resource::PoolRef;
use crate::state::State;

/// What a change may end.
#[derive(Clone, PartialEq, Debug)]
pub struct Cutting {
    /// Whose flows, by the shard that has them; all of the shard's if nobody is named.
    pub backends: BTreeMap<ShardId, BTreeSet<BackendId>>,
    /// What packets would be judged by.
    pub after: Snapshot,
}

/// `None` if it can end no flow.
pub(crate) fn cutting(before: &State, after: &State) -> Option<Cutting> {
    let changed = changed(before, after);
    let mut backends: BTreeMap<ShardId, BTreeSet<BackendId>> = BTreeMap::new();
    for id in changed {
        let Some(home) = before.allocation.backends.get(&id).and_then(|backend| backend.home) else { continue };
        backends.entry(home).or_default().insert(id);
    }
    if backends.is_empty() {
        return None;
    }
    // Whose snapshot it is makes no difference to the groups.
    let after = compile::snapshot(after, NodeId(0));
    if after.private.routed && (!after.private.isolated.is_empty() || !after.private.connected.is_empty()) {
        // A private flow stands under the number of whoever began it, in the shard of the lower one: all are asked for.
        backends = before.shards.keys().map(|shard| (*shard, BTreeSet::new())).collect();
    }
    Some(Cutting { backends, after })
}

fn changed(before: &State, after: &State) -> BTreeSet<BackendId> {
    let declared = |backend: &&Backend| backend.declared == Declared::Yes;
    let stays = |(id, old): &(&BackendId, &Backend)| {
        let new = after.allocation.backends.get(id).filter(declared);
        new.is_some_and(|new| (new.vnet, new.ip, new.home) == (old.vnet, old.ip, old.home))
    };
    let were = before.allocation.backends.iter().filter(|(_, backend)| declared(backend));
    let mut found: BTreeSet<BackendId> = were.filter(|one| !stays(one)).map(|(id, _)| *id).collect();
    let groups = compiling::attachments(before, &Attachments::default());
    let wanted = compiling::attachments(after, &groups);
    found.extend(wanted.changed_since(&groups));
    // Where ports are open to strangers an inbound rule may be what a flow stands by.
    if before.desired.load_balancers != after.desired.load_balancers {
        found.extend(wanted.iter().map(|(id, _)| id));
        found.extend(led_otherwise(before, after));
    }
    found
}

/// Members of rules that float, or will, and are not as they were: the address that their flows have inside is another one then (D17).
fn led_otherwise(before: &State, after: &State) -> BTreeSet<BackendId> {
    let will: BTreeMap<_, _> = rules(&after.desired).map(|(balancer, at, rule)| ((balancer, at), rule)).collect();
    let mut pools: BTreeSet<PoolRef> = BTreeSet::new();
    let mut alone: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (balancer, at, rule) in rules(&before.desired) {
        let new = will.get(&(balancer, at)).copied();
        let floats = rule.floating_ip || new.is_some_and(|new| new.floating_ip);
        if !floats || new == Some(rule) {
            continue;
        }
        match &rule.target {
            Target::Pool(pool) => {
                pools.insert(PoolRef { load_balancer: balancer.clone(), pool: pool.clone() });
            }
            Target::IpConfiguration { instance, ip_configuration } => {
                alone.insert((instance, ip_configuration));
            }
        }
    }
    let is_led = |backend: &Backend| {
        backend.pool.as_ref().is_some_and(|pool| pools.contains(pool))
            || alone.contains(&(backend.instance.as_str(), backend.ip_configuration.as_str()))
    };
    before.allocation.backends.iter().filter(|(_, backend)| is_led(backend)).map(|(id, _)| *id).collect()
}
