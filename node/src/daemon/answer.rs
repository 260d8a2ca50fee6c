//! Answers requests of the admin API by asking the actors and the worker. JSON shapes are part of the interface.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::Addr;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use consensus::flow_groups::{GroupStatus, Role};
use control::codec::CodecError;
use control::command::CommandBody;
use control::outcome::Outcome;
use engine::counters::Counters;
use engine::event::{DropReason, NotServing};
use engine::histogram::Histogram;
use engine::ids::{Incarnation, ShardId};
use engine::record::{Addr as WideAddr, Proto};
use engine::status::{FlowState, FlowView, ShardStatus};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::control_actor::{AskControl, ControlActor, EncodeState, Get, PlanApply, Submit};
use super::flow_actor::{AskFlows, AskWorker, FlowActor, FlowReport};
use super::metrics::label_of;
use super::request::{Call, DryRun, Failure, Request};
use super::worker_thread::{Query, WorkerStats};
use crate::nat_log::{Journal, Question, who};

/// How long a dry answer of the worker may take.
const WORKER_WAIT: Duration = Duration::from_secs(5);
/// Most flows of one answer.
const FLOWS_MAX: usize = 100_000;

/// Who knows what.
#[derive(Clone, Debug)]
pub struct Answerer {
    /// The control actor.
    pub control: Addr<ControlActor>,
    /// The flow actor.
    pub flows: Addr<FlowActor>,
    /// What the worker counts.
    pub stats: Arc<Mutex<WorkerStats>>,
    /// The cluster's name.
    pub cluster: String,
    /// This node.
    pub node: u32,
    /// Whether the kernel's guard is attached, or why not.
    pub guard: String,
    /// The address-translation log.
    pub journal: Journal,
    /// Its files, the newest first.
    pub log_files: Vec<PathBuf>,
    /// Asks the node to stop.
    pub shutdown: mpsc::Sender<()>,
}

type Answer = Result<Value, Failure>;

impl Answerer {
    /// Answers calls until nobody can ask any more.
    pub async fn run(self, mut calls: mpsc::Receiver<Call>) {
        while let Some(Call { request, reply }) = calls.recv().await {
            let this = self.clone();
            actix::spawn(async move {
                // Who asked may have gone away.
                let _ = reply.send(this.answer(request).await);
            });
        }
    }

    async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Status => self.status().await,
            Request::Flows { shard, limit } => self.flow_list(shard.map(ShardId), limit).await,
            Request::Ports => self.ports().await,
            Request::Get { kind } => self.control.send(Get(kind)).await.map_err(gone),
            Request::Apply { file, text, dry_run } => self.apply(file, text, dry_run).await,
            Request::RemoveNode { node } => {
                self.commit(CommandBody::RemoveNode { node: engine::ids::NodeId(node) }).await
            }
            Request::RevokeStopToken => self.commit(CommandBody::StopTokenRevoke).await,
            Request::Shutdown => {
                // A second order while one is under way changes nothing.
                let _ = self.shutdown.try_send(());
                Ok(json!({"stopping": true}))
            }
            Request::Counters => self.counters().await,
            Request::Hashes => self.hashes().await,
            Request::State => self.state().await,
            Request::Who { ip, port, at_unix_ms } => self.who(Question { ip, port, at_unix_ms }).await,
        }
    }

    /// For a backup (N6): what this member has applied, which may lag behind the leader by a moment.
    async fn state(&self) -> Answer {
        let failed = |error: CodecError| Failure { status: 500, problems: vec![error.to_string()] };
        let state = self.control.send(EncodeState).await.map_err(gone)?.map_err(failed)?;
        Ok(json!({"cluster": self.cluster, "node": self.node, "state": BASE64_STANDARD.encode(state)}))
    }

    async fn apply(&self, file: String, text: String, dry_run: DryRun) -> Answer {
        let (body, mut answer) = self.control.send(PlanApply { file, text, dry_run }).await.map_err(gone)??;
        if dry_run == DryRun::Yes {
            return Ok(answer);
        }
        let committed = self.commit(body).await?;
        let index = committed["committed"].as_u64().unwrap_or(0);
        answer["committed"] = json!(index);
        answer["programmed"] = self.programmed(index).await;
        Ok(answer)
    }

    /// Waits until this node judges by the new configuration, so that a caller may rely on it here.
    async fn programmed(&self, index: u64) -> Value {
        for _ in 0..100 {
            if let Ok(report) = self.flows.send(AskFlows).await
                && report.report.control_loaded >= index
            {
                return json!({"node": self.node, "control_loaded": report.report.control_loaded});
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        json!({"node": self.node, "control_loaded": null})
    }

    /// Commits a command and waits for its outcome.
    ///
    /// # Errors
    /// With what the log refused, or that it did not answer.
    pub async fn commit(&self, body: CommandBody) -> Answer {
        let (reply, outcome) = oneshot::channel();
        self.control.send(Submit { body, reply }).await.map_err(gone)?;
        match outcome.await.map_err(gone)? {
            Ok(Outcome::Applied { index, .. }) => Ok(json!({"committed": index.0})),
            Ok(Outcome::Refused { why, remedy }) => Err(Failure { status: 409, problems: vec![why, remedy] }),
            Err(error) => Err(Failure { status: 503, problems: vec![error.to_string()] }),
        }
    }

    async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.flows.send(AskWorker(query(reply))).await.map_err(gone)?;
        match tokio::time::timeout(WORKER_WAIT, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => {
                Err(Failure { status: 503, problems: vec!["the dataplane worker does not run (yet)".to_owned()] })
            }
        }
    }

    async fn flow_list(&self, shard: Option<ShardId>, limit: usize) -> Answer {
        let limit = limit.min(FLOWS_MAX);
        let flows = self.ask(|reply| Query::Flows { shard, limit, reply }).await?;
        Ok(json!({"flows": flows.iter().map(flow).collect::<Vec<_>>()}))
    }

    /// Leases and their use, as `qnat ports` shows them.
    ///
    /// # Errors
    /// If the control half or the worker does not answer.
    pub async fn ports(&self) -> Answer {
        let used = self.ask(|reply| Query::Ports { reply }).await?;
        let backends = self.control.send(Get(super::request::ResourceKind::Backends)).await.map_err(gone)?;
        let mut rows = Vec::new();
        for entry in backends.as_array().into_iter().flatten() {
            let usage = used.iter().find(|view| entry["backend"].as_u64() == Some(u64::from(view.backend.0)));
            rows.push(json!({
                "backend": entry["name"],
                "id": entry["backend"],
                "ip": entry["private_ip"],
                "frontend": entry["frontend"],
                "shard": entry["home_shard"],
                "lease": entry["lease"],
                "draining": entry["draining"],
                "allocated": entry["ports_leased"],
                "used": usage.map(engine::status::PortsView::used),
                "held": usage.map(engine::status::PortsView::held),
                "why": entry["why"],
            }));
        }
        Ok(json!({"backends": rows}))
    }

    async fn who(&self, question: Question) -> Answer {
        let files = self.log_files.clone();
        let searched = tokio::task::spawn_blocking(move || who(&files, question)).await.map_err(gone)?;
        let failed = |error: std::io::Error| Failure { status: 500, problems: vec![format!("nat_log.path: {error}")] };
        let mut answer = searched.map_err(failed)?;
        answer["node"] = json!(self.node);
        Ok(answer)
    }

    async fn hashes(&self) -> Answer {
        let hashes = self.ask(|reply| Query::Hashes { reply }).await?;
        let rows = hashes.iter().map(|(status, hash)| {
            json!({"shard": status.shard.0, "epoch": status.epoch, "applied": status.applied.0,
                   "live": status.live, "held": status.held, "hash": format!("{hash:016x}")})
        });
        Ok(json!({"shards": rows.collect::<Vec<_>>()}))
    }

    async fn counters(&self) -> Answer {
        let stats = *self.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let report = self.flows.send(AskFlows).await.map_err(gone)?;
        let (engine, log) = (&stats.engine, self.journal.counts());
        let drops: BTreeMap<&str, u64> =
            DropReason::ALL.iter().map(|why| (why.label(), engine.dropped(*why))).filter(|(_, n)| *n > 0).collect();
        let elections: u64 = report.groups.iter().map(|group| group.elections).sum();
        Ok(json!({
            "received": engine.received, "transmitted": engine.transmitted, "originated": engine.originated,
            "absorbed": engine.absorbed, "parked": engine.parked, "forwarded": engine.forwarded,
            "balanced": engine.is_balanced(), "drops": drops,
            "hold": histogram(&engine.hold), "commit": histogram(&engine.commit),
            "failover": histogram(&report.failovers),
            "leader_changes": report.leader_changes.iter().map(|(s, n)| (s.0.to_string(), n)).collect::<BTreeMap<_, _>>(),
            "snat": Proto::ALL.map(|proto| snat(engine, proto)),
            "inside": format!("{:?}", stats.inside), "outside": format!("{:?}", stats.outside),
            "elections": elections,
            "elections_by_shard": report.groups.iter().map(|g| (g.group.0.to_string(), g.elections)).collect::<BTreeMap<_, _>>(),
            "frame_drops": report.frame_drops, "guard": report.guard.map(|guard| format!("{guard:?}")),
            "links_up": report.report.links_up,
            "nat_log": {"written": log.written, "failed": log.failed, "sessions_lost": stats.sessions_lost},
        }))
    }

    async fn status(&self) -> Answer {
        let control = self.control.send(AskControl).await.map_err(gone)?;
        let report = self.flows.send(AskFlows).await.map_err(gone)?;
        let shards = if report.running {
            self.ask(|reply| Query::Shards { reply }).await.unwrap_or_default()
        } else {
            Vec::new()
        };
        let live: Vec<u64> = control["live"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let voters = &control["control_voters"];
        let nodes = control["nodes"].as_array().into_iter().flatten().map(|node| {
            let id = node["node"].as_u64().unwrap_or(0);
            let voter = voters.as_array().is_some_and(|voters| voters.contains(&node["control_raft_id"]));
            json!({"node": id, "name": format!("n{id}"), "incarnation": node["incarnation"], "standing": node["standing"],
                   "alive": live.contains(&id), "control_voter": voter})
        });
        let mut concerns: Vec<Value> = control["status"]["concerns"].as_array().cloned().unwrap_or_default();
        let rows: Vec<Value> = control["shards"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| shard_row(entry, &report, &shards, &live, &mut concerns))
            .collect();
        Ok(json!({
            "cluster": {
                "name": self.cluster, "id": control["status"]["cluster_id"], "level": control["status"]["level"],
                "control_index": control["status"]["control_index"],
                "control_leader": control["control_leader"], "control_term": control["control_term"],
            },
            "me": {"node": self.node, "incarnation": control["incarnation"], "guard": self.guard,
                   "links_up": report.report.links_up, "running": report.running,
                   "control_loaded": report.report.control_loaded},
            "nodes": nodes.collect::<Vec<_>>(),
            "shards": rows,
            "stop_token": control["status"]["stop_token"],
            "concerns": concerns,
        }))
    }
}

/// Sum, count, and the buckets that are not empty: upper end (`null`: without end) and count.
fn histogram(histogram: &Histogram) -> Value {
    let buckets: Vec<_> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
    json!({"count": histogram.count(), "sum_ns": histogram.sum_ns(), "buckets_ns": buckets})
}

fn snat(engine: &Counters, proto: Proto) -> Value {
    let counts = engine.snat(proto);
    json!({"proto": label_of(proto), "pending": counts.pending, "successful": counts.successful,
           "failed": counts.failed + counts.failed_later, "closed": counts.closed})
}

fn gone(error: impl std::fmt::Display) -> Failure {
    Failure { status: 503, problems: vec![format!("the node is stopping: {error}")] }
}

/// One shard as this node knows it. `live`: nodes that it hears.
fn shard_row(
    entry: &Value,
    report: &FlowReport,
    tables: &[ShardStatus],
    live: &[u64],
    concerns: &mut Vec<Value>,
) -> Value {
    let shard = entry["shard"].as_u64().unwrap_or(0);
    let group = report.groups.iter().find(|group| u64::from(group.group.0) == shard);
    let health = report.health.iter().find(|health| u64::from(health.group.0) == shard);
    let table = tables.iter().find(|table| u64::from(table.shard.0) == shard);
    let node = |life: u64| report.node_of.get(&Incarnation(life)).map(|node| node.0);
    let owner = group.and_then(|group| group.owner).and_then(|life| node(life.0));
    let leads = group.is_some_and(|group| group.role == Role::Leader);
    let want = entry["members"].as_array().map_or(0, Vec::len);
    let reachable = |group: &GroupStatus| {
        let nodes = group.voters.iter().filter_map(|life| node(life.0));
        nodes.filter(|node| live.contains(&u64::from(*node))).count()
    };
    let have = match (health.filter(|_| leads), group) {
        (Some(health), _) => health.voters.iter().filter(|(_, up)| *up).count(),
        // Without an owner nobody's count can be repeated: what this node hears is all that it knows.
        (None, Some(group)) if owner.is_none() => reachable(group),
        (None, Some(group)) => group.voters.len(),
        (None, None) => 0,
    };
    // A shard that is being created anew says so itself, and what helps then.
    if owner.is_none() && group.is_some() && entry["sealing"] != true {
        let about = format!("shard {shard}");
        // One concern for each shard: what the configuration misses follows from this.
        concerns.retain(|concern| concern["about"] != about.as_str());
        concerns.push(json!({
            "about": about,
            "why": "no majority of its replicas answers, so nobody owns it: new flows are refused; committed flows end with the orphan grace",
            "remedy": "bring a stopped node back (it resumes by itself), or run `qnat node-remove ID` for one that is powered off for good",
        }));
    }
    json!({
        "shard": shard, "frontends": entry["frontends"], "epoch": entry["epoch"], "owner": owner,
        // A shard's term counts on over its epochs: the epoch is its upper half, raft's own term the lower.
        "term": group.map(|group| group.term), "raft_term": group.map(|group| group.term & u64::from(u32::MAX)), "role": group.map(|group| format!("{:?}", group.role).to_lowercase()),
        "serving": serving(group, table),
        "redundancy": {"have": have, "want": want, "exact": leads, "reachable": owner.is_none() && group.is_some()},
        "members": entry["members"].as_array().into_iter().flatten().map(|m| m["node"].clone()).collect::<Vec<_>>(),
        "voters": group.map(|group| group.voters.iter().filter_map(|life| node(life.0)).collect::<Vec<_>>()),
        "applied": table.map(|table| table.applied.0), "live": table.map(|table| table.live),
        "held": table.map(|table| table.held), "pending": table.map(|table| table.pending),
        "lease_ms": group.map(|group| group.lease_until_ns.saturating_sub(report.now_ns) / 1_000_000),
        "origin": entry["origin"], "sealing": entry["sealing"], "why": entry["why"], "remedy": entry["remedy"],
    })
}

fn serving(group: Option<&GroupStatus>, table: Option<&ShardStatus>) -> String {
    match table.and_then(|table| table.serving) {
        Some(Ok(())) => return "yes".to_owned(),
        Some(Err(why)) => {
            return match why {
                NotServing::OwnTermNotApplied => "no: own term not applied",
                NotServing::ControlBehind => "no: configuration behind the flow log",
                NotServing::NoLease => "no: no lease",
                NotServing::LinkDown => "no: data link down",
                NotServing::Waiting => "no: waiting for a predecessor",
            }
            .to_owned();
        }
        None => {}
    }
    match group {
        Some(GroupStatus { waiting: Some(why), .. }) => format!("no: {why:?}").to_lowercase(),
        Some(_) => "standby".to_owned(),
        None => "no replica here".to_owned(),
    }
}

fn address(addr: WideAddr) -> String {
    let six = std::net::Ipv6Addr::from(addr.0);
    six.to_ipv4_mapped().map_or_else(|| six.to_string(), |four| four.to_string())
}

fn flow(view: &FlowView) -> Value {
    let (frontend, ip, port) = view.public;
    let public = ip.map_or_else(|| format!("frontend {frontend}"), |ip: Ipv4Addr| ip.to_string());
    let state = match view.state {
        FlowState::Opening => "opening".to_owned(),
        FlowState::Live => "live".to_owned(),
        FlowState::Closing => "closing".to_owned(),
        FlowState::Held(class) => format!("held ({class:?})").to_lowercase(),
    };
    json!({
        "shard": view.shard.0, "proto": format!("{:?}", view.proto).to_lowercase(), "backend": view.backend.0,
        "inside": format!("{}:{}", address(view.inside.endpoint.addr), view.inside.endpoint.port),
        "public": format!("{public}:{port}"),
        "remote": format!("{}:{}", address(view.remote.addr), view.remote.port),
        "state": state, "idle_ms": view.idle_ms, "written_at": view.written_at.0,
    })
}
