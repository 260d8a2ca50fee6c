//! Answers of all members together: the asked one asks the others, for each knows its own shards, log and machine best.
//! It never waits for a member longer than [`ask::WAIT`](super::ask::WAIT), and says who was silent.

use std::time::{Duration, Instant};

use control::registry::Standing;
use control::view::NodeView;
use engine::ids::NodeId;
use serde_json::Value;

use super::answer::{Answerer, gone, value};
use super::clock::now;
use super::reports::ControlReport;
use super::request::{Failure, Request};
use crate::answers::{
    Counted, CountedTogether, Events, Flows, Loaded, MemberCounts, Ports, Programmed, Status, Who, clock_apart, merge,
    merge_events, merge_who, torn,
};
use crate::nat_log::Question;

/// Flows of a shard that another member is asked for: what fits into one frame.
const FLOWS_OF_PEER_MAX: usize = 2_000;
/// Events that a member is asked for: what fits into one frame.
const EVENTS_MAX: usize = 1_000;
/// How often members are asked again because a shard moved between two answers, and after how long: a hand-over is shorter.
const AGAIN_MAX: usize = 3;
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How long an apply waits for the members that are heard to judge by it.
const PROGRAMMED_WAIT_MS: u128 = 2_000;

/// Members with a life, without this one.
fn others(control: &ControlReport, me: u32) -> Vec<u32> {
    let member = |node: &&NodeView| node.standing == Standing::Member && node.incarnation.is_some() && node.node != me;
    control.nodes.iter().filter(member).map(|node| node.node).collect()
}

impl Answerer {
    /// Answers `request` for the cluster, if it is one that members answer together; else for this node.
    pub(super) async fn together(&self, request: Request) -> Result<Value, Failure> {
        match request {
            Request::Status => value(self.status_together().await),
            Request::Flows { shard, vnet, limit } => value(self.flows_together(shard, vnet, limit).await),
            Request::Ports => value(self.ports_together().await),
            Request::Explain { of } => value(self.explain_together(of).await),
            Request::Counters => value(self.counters_together().await),
            Request::Events { limit } => value(self.events_together(limit).await),
            Request::Who { ip, port, at_unix_ms } => value(self.who_together(Question { ip, port, at_unix_ms }).await),
            other @ (Request::Get { .. }
            | Request::Apply { .. }
            | Request::RemoveNode { .. }
            | Request::DrainNode { .. }
            | Request::ResumeNode { .. }
            | Request::SetLevel { .. }
            | Request::RevokeStopToken
            | Request::SetServiceTags { .. }
            | Request::IpFlow { .. }
            | Request::EffectiveRules { .. }
            | Request::Shutdown { .. }
            | Request::PortLoads { .. }
            | Request::LiveOf { .. }
            | Request::Mappings { .. }
            | Request::Dump { .. }
            | Request::Cuts { .. }
            | Request::Hits { .. }
            | Request::Hashes
            | Request::State
            | Request::Loaded
            | Request::Cache { .. }
            | Request::Health
            | Request::Together { .. }) => self.alone(other).await,
        }
    }

    async fn status_together(&self) -> Result<Status, Failure> {
        let own = self.status().await?;
        let whom: Vec<u32> = own
            .nodes
            .iter()
            .filter(|row| row.standing == Standing::Member && row.incarnation.is_some())
            .map(|row| row.node)
            .filter(|node| *node != self.node)
            .collect();
        let (mut answers, silent) = self.statuses(own, &whom).await;
        // Who has answered is asked again; who is silent is not waited for twice.
        for _ in 0..AGAIN_MAX {
            if torn(&answers).is_empty() {
                break;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
            let whom: Vec<u32> = answers.iter().skip(1).map(|answer| answer.me.node).collect();
            answers = self.statuses(self.status().await?, &whom).await.0;
        }
        merge(&answers, &silent).ok_or_else(|| gone("nobody answered"))
    }

    /// `own`, what `whom` say, and who of them says nothing.
    async fn statuses(&self, own: Status, whom: &[u32]) -> (Vec<Status>, Vec<u32>) {
        let (asked, asked_ms) = (Instant::now(), now().unix_ms);
        let said: Vec<(u32, Option<Status>)> = self.peers.ask_all(whom, &Request::Status).await;
        let round_trip_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (mut answers, mut silent) = (vec![own], Vec::new());
        for (node, said) in said {
            let Some(mut answer) = said else {
                silent.push(node);
                continue;
            };
            let ahead = answer.me.unix_ms.cast_signed() - asked_ms.cast_signed();
            answer.concerns.extend(clock_apart(node, ahead, round_trip_ms));
            answers.push(answer);
        }
        (answers, silent)
    }

    /// Flows as the owners of their shards know them: only they know how long a flow is idle. Where the owner is unknown or
    /// silent, and this node has a replica, it answers itself.
    async fn flows_together(&self, only: Option<u16>, vnet: Option<String>, limit: usize) -> Result<Flows, Failure> {
        self.network(vnet.as_deref())?;
        let vnet = &vnet;
        let status = self.status().await?;
        let shards = status.shards.iter().filter(|row| only.is_none_or(|only| only == row.shard));
        let answers = shards.map(async |row| {
            let shard = Some(row.shard);
            if let Some(owner) = row.owner.filter(|owner| *owner != self.node) {
                let request = Request::Flows { shard, vnet: vnet.clone(), limit: limit.min(FLOWS_OF_PEER_MAX) };
                if let Some(flows) = self.peers.ask::<Flows>(owner, &request).await {
                    return flows.flows;
                }
            }
            self.flow_list(shard.map(engine::ids::ShardId), vnet.as_deref(), limit).await.unwrap_or_default().flows
        });
        let mut flows: Vec<_> = futures_util::future::join_all(answers).await.into_iter().flatten().collect();
        flows.truncate(limit);
        Ok(Flows { flows })
    }

    /// Leases are in the control state; the use of those whose shard has no replica here is asked for.
    async fn ports_together(&self) -> Result<Ports, Failure> {
        let mut ports = self.ports().await?;
        if ports.backends.iter().all(|row| row.used.is_some() || row.shard.is_none()) {
            return Ok(ports);
        }
        let whom = others(&self.control().await?, self.node);
        let said: Vec<(u32, Option<Ports>)> = self.peers.ask_all(&whom, &Request::Ports).await;
        for known in said.into_iter().filter_map(|(_, said)| said).flat_map(|ports| ports.backends) {
            let row = ports.backends.iter_mut().find(|row| row.id == known.id && row.used.is_none());
            if let (Some(row), Some(_)) = (row, known.used) {
                (row.used, row.held, row.flows) = (known.used, known.held, known.flows);
            }
        }
        Ok(ports)
    }

    async fn counters_together(&self) -> Result<CountedTogether, Failure> {
        let whom = others(&self.control().await?, self.node);
        let said: Vec<(u32, Option<Counted>)> = self.peers.ask_all(&whom, &Request::Counters).await;
        let mut all = CountedTogether::default();
        all.members.push(MemberCounts { node: self.node, counted: self.counters().await? });
        for (node, said) in said {
            match said {
                Some(counted) => all.members.push(MemberCounts { node, counted }),
                None => all.silent.push(node),
            }
        }
        all.members.sort_by_key(|member| member.node);
        Ok(all)
    }

    async fn events_together(&self, limit: usize) -> Result<Events, Failure> {
        let limit = limit.min(EVENTS_MAX);
        let whom = others(&self.control().await?, self.node);
        let said: Vec<(u32, Option<Events>)> = self.peers.ask_all(&whom, &Request::Events { limit }).await;
        let silent = said.iter().filter(|(_, said)| said.is_none()).map(|(node, _)| *node).collect();
        let told = said.into_iter().filter_map(|(_, said)| said).flat_map(|said| said.events);
        Ok(Events { events: merge_events(told.chain(self.tape.newest(limit)), limit), silent })
    }

    /// Every member has the blocks of ports; mappings are in the log of whoever owned the shard then.
    async fn who_together(&self, question: Question) -> Result<Who, Failure> {
        let control = self.control().await?;
        let whom = others(&control, self.node);
        let Question { ip, port, at_unix_ms } = question;
        let said: Vec<(u32, Option<Who>)> = self.peers.ask_all(&whom, &Request::Who { ip, port, at_unix_ms }).await;
        let silent = said.iter().filter(|(_, said)| said.is_none()).map(|(node, _)| *node).collect();
        let others = said.into_iter().filter_map(|(_, said)| said);
        Ok(Who { silent, ..merge_who(self.who(question).await?, others) })
    }

    /// Waits until the members that are heard judge by the configuration of `index`, so that a caller may rely on it. Those
    /// that are not heard are not waited for.
    pub(super) async fn programmed(&self, index: u64) -> Programmed {
        let began = Instant::now();
        let Ok(control) = self.control().await else { return Programmed { missing: vec![self.node], on: 0, of: 1 } };
        let mut missing = others(&control, self.node);
        let of = missing.len() + 1;
        missing.push(self.node);
        loop {
            let (heard, silent): (Vec<u32>, Vec<u32>) =
                missing.iter().copied().partition(|node| control.live.contains(&NodeId(*node)));
            let whom: Vec<u32> = heard.iter().copied().filter(|node| *node != self.node).collect();
            let mut behind = silent;
            for (node, said) in self.peers.ask_all::<Loaded>(&whom, &Request::Loaded).await {
                if said.is_none_or(|said| said.control_loaded < index) {
                    behind.push(node);
                }
            }
            if heard.contains(&self.node) && self.loaded().await.is_ok_and(|own| own.control_loaded < index) {
                behind.push(self.node);
            }
            behind.sort_unstable();
            missing = behind;
            let wait = missing.iter().any(|node| control.live.contains(&NodeId(*node)));
            if !wait || began.elapsed().as_millis() >= PROGRAMMED_WAIT_MS {
                return Programmed { on: of - missing.len(), of, missing };
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
