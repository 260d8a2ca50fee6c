//! How many flows a change ends (D19): foretold for a dry run, by asking the owners of the shards for the live flows that it can
//! concern and judging each by the configuration to come; and counted afterwards, as the owners' logs have it. It must never
//! decide what ends, nor keep an apply from being committed. Called by `applying` and `groups`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use control::nsg::cutting::Cutting;
use engine::cuts::{Which, keeps_right};
use engine::flow::FlowKey;
use engine::ids::{BackendId, ControlIndex, ShardId, VnetId};
use engine::record::{Addr, Endpoint, InsideKey, Proto, Scenario};
use engine::snapshot::Snapshot;
use engine::status::FlowView;
use futures_util::future::join_all;

use super::answer::Answerer;
use super::questions::{LiveOf, Query};
use super::request::{Failure, Request};
use crate::answers::{Cuts, FlowRow, FlowsCut, LiveFlow, LiveFlows, ShardCut};

/// Flows of one answer: its frame stays below the longest.
const PAGE: usize = 8_000;
/// Backends that one question names; of more, all flows are asked for.
const NAMED_MAX: usize = 4_096;
/// Flows that a dry run shows.
const LISTED_MAX: usize = 20;
/// How long a dry run asks one shard.
const FORETELL_WAIT: Duration = Duration::from_secs(5);
/// How long an apply waits for owners to have judged all their flows.
const MEASURE_WAIT: Duration = Duration::from_secs(2);
/// And how long between two looks.
const MEASURE_STEP: Duration = Duration::from_millis(20);

impl Answerer {
    /// The live flows that a change would end.
    pub(super) async fn foretell_cut(&self, cutting: &Cutting) -> Result<FlowsCut, Failure> {
        let rows = self.status().await?.shards;
        let owner = |shard: ShardId| rows.iter().find(|row| row.shard == shard.0).and_then(|row| row.owner);
        let shards = cutting.backends.iter().map(async |(shard, backends)| {
            let told =
                tokio::time::timeout(FORETELL_WAIT, self.foretell_at(owner(*shard), *shard, backends, &cutting.after));
            (*shard, told.await.ok().flatten())
        });
        let mut all = FlowsCut::default();
        for (shard, told) in join_all(shards).await {
            match told {
                Some((flows, listed)) => {
                    all.flows += flows;
                    all.listed.extend(listed);
                }
                None => all.uncounted_shards.push(shard.0),
            }
        }
        all.listed.truncate(LISTED_MAX);
        Ok(all)
    }

    /// As the owner of a shard has them; `None` if it does not answer.
    async fn foretell_at(
        &self,
        owner: Option<u32>,
        shard: ShardId,
        backends: &BTreeSet<BackendId>,
        after: &Snapshot,
    ) -> Option<(u64, Vec<FlowRow>)> {
        let owner = owner?;
        let named: BTreeSet<BackendId> = if backends.len() > NAMED_MAX { BTreeSet::new() } else { backends.clone() };
        let (mut flows, mut listed, mut from) = (0, Vec::new(), Some(0));
        while let Some(at) = from {
            let page = if owner == self.node {
                self.live_of(shard, named.clone(), at).await.ok()?
            } else {
                let request =
                    Request::LiveOf { shard: shard.0, backends: named.iter().map(|id| id.0).collect(), from: at };
                self.peers.ask::<LiveFlows>(owner, &request).await?
            };
            for flow in &page.flows {
                let Some(key) = key(flow) else { continue };
                if keeps_right(after, BackendId(flow.backend), &key, scenario(flow)) {
                    continue;
                }
                flows += 1;
                if listed.len() < LISTED_MAX {
                    listed.push(row(shard, flow, key.proto, after));
                }
            }
            from = page.next;
        }
        Some((flows, listed))
    }

    /// A page of live flows as this member's table has them.
    pub(super) async fn live_of(
        &self,
        shard: ShardId,
        backends: BTreeSet<BackendId>,
        from: u32,
    ) -> Result<LiveFlows, Failure> {
        if backends.len() > NAMED_MAX {
            let problem = format!("{} backends are named; name at most {NAMED_MAX}, or none for all", backends.len());
            return Err(Failure::new(413, problem));
        }
        let of = LiveOf { shard, backends, which: Which::Live, from, limit: PAGE };
        let (views, next) = self.ask(self.worker_of(shard), |reply| Query::LiveOf { of, reply }).await?;
        Ok(LiveFlows { flows: views.iter().filter_map(live).collect(), next })
    }

    /// What changes from `since` on have ended in the shards that this member owns.
    pub(super) async fn cuts(&self, since: ControlIndex) -> Result<Cuts, Failure> {
        let told = self.ask_all(|reply| Query::Cuts { since, reply }).await?;
        let shard =
            |(shard, cut): (ShardId, engine::cuts::Cut)| ShardCut { shard: shard.0, flows: cut.flows, over: cut.over };
        Ok(Cuts { shards: told.into_iter().map(shard).collect() })
    }

    /// What the change at `index` has ended in `shards`; in all shards if none is named. It waits for owners that are still
    /// judging, but not for ever.
    pub(super) async fn measure_cut(&self, index: u64, shards: BTreeSet<u16>) -> FlowsCut {
        let began = Instant::now();
        let Ok(control) = self.control().await else {
            return FlowsCut { uncounted_shards: shards.into_iter().collect(), ..FlowsCut::default() };
        };
        let all = || control.shards.iter().map(|row| row.shard).collect();
        let wanted: BTreeSet<u16> = if shards.is_empty() { all() } else { shards };
        let others: Vec<u32> = control.live.iter().map(|node| node.0).filter(|node| *node != self.node).collect();
        loop {
            let mut told: BTreeMap<u16, ShardCut> = BTreeMap::new();
            let said = self.peers.ask_all::<Cuts>(&others, &Request::Cuts { since: index }).await;
            let own = self.cuts(ControlIndex(index)).await.ok();
            for cut in said.into_iter().filter_map(|(_, said)| said).chain(own).flat_map(|said| said.shards) {
                told.insert(cut.shard, cut);
            }
            told.retain(|shard, _| wanted.contains(shard));
            let over = |shard: &&u16| !told.get(*shard).is_some_and(|cut| cut.over);
            let uncounted_shards: Vec<u16> = wanted.iter().filter(over).copied().collect();
            if uncounted_shards.is_empty() || began.elapsed() >= MEASURE_WAIT {
                let flows = told.values().map(|cut| cut.flows).sum();
                return FlowsCut { flows, listed: Vec::new(), uncounted_shards };
            }
            tokio::time::sleep(MEASURE_STEP).await;
        }
    }
}

/// A flow in few octets; `None`: it is not of IPv4.
fn live(view: &FlowView) -> Option<LiveFlow> {
    let end = |end: Endpoint| Some(SocketAddrV4::new(end.addr.ipv4()?, end.port));
    let (_, ip, port) = view.public;
    Some(LiveFlow {
        proto: view.proto as u8,
        private: view.scenario == Scenario::Private,
        scenario: view.scenario as u8,
        backend: view.backend.0,
        vnet: view.inside.vnet.0,
        inside: end(view.inside.endpoint)?,
        public: SocketAddrV4::new(ip.unwrap_or(Ipv4Addr::UNSPECIFIED), port),
        remote: end(view.remote)?,
    })
}

/// An older member says nothing but whether it is private.
fn scenario(flow: &LiveFlow) -> Scenario {
    let of = |scenario: &Scenario| *scenario as u8 == flow.scenario;
    let right = Scenario::ALL.into_iter().find(of).unwrap_or(Scenario::Pool);
    if flow.private { Scenario::Private } else { right }
}

/// `None`: of a protocol that nobody translates.
fn key(flow: &LiveFlow) -> Option<FlowKey> {
    let proto = Proto::of_number(flow.proto)?;
    let end = |end: SocketAddrV4| Endpoint { addr: Addr::from(*end.ip()), port: end.port() };
    let inside = InsideKey { vnet: VnetId(flow.vnet), endpoint: end(flow.inside) };
    Some(FlowKey { proto, inside, remote: end(flow.remote) })
}

fn row(shard: ShardId, flow: &LiveFlow, proto: Proto, s: &Snapshot) -> FlowRow {
    FlowRow {
        shard: shard.0,
        proto: proto.label().to_owned(),
        backend: flow.backend,
        network: s.networks.name(VnetId(flow.vnet)).map(str::to_owned),
        inside: flow.inside.to_string(),
        public: flow.public.to_string(),
        remote: flow.remote.to_string(),
        scenario: scenario(flow).label().to_owned(),
        state: "live".to_owned(),
        ..FlowRow::default()
    }
}
