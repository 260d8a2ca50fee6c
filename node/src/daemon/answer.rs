//! Answers requests of the admin API by asking the actors and the worker. What an answer looks like is said by `answers`.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use control::codec::CodecError;
use control::command::CommandBody;
use control::concern::Concern;
use control::outcome::Outcome;
use control::parts::Cut;
use control::registry::Standing;
use control::state::State;
use control::view::{self, BackendView};
use engine::ids::{BackendId, ControlIndex, Incarnation, NodeId, ShardId, VnetId};
use engine::snapshot::Networks;
use engine::status::{FlowState, FlowView, PortsView, ShardStatus};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::ask::Peers;
use super::clock::now;
use super::concerns::{Alarms, Facts, Losses, Memory, collect};
use super::confirming::Consent;
use super::control_actor::ControlActor;
use super::counting::counted;
use super::fast_path::{FastSwitch, fast_path};
use super::flow_actor::FlowActor;
use super::guard_keeper::GuardDesk;
use super::machine::Machine;
use super::messages::{AskControl, AskFlows, ReadState, StopOrder, Submit};
use super::prober::ProbeDesk;
use super::questions::Query;
use super::reports::{ControlReport, FlowReport, Posts, WorkerStats};
use super::request::{Call, Failure, Request};
use super::status::{node_rows, shard_rows, torn};
use super::tape::{Sight, Tape};
use crate::answers::{
    Alert, BackendPorts, ClusterRow, Counted, Done, EventRow, Events, FlowRow, Flows, HashRow, Hashes, Loaded, MeRow,
    NodeRow, Ports, ShardRow, StateBytes, Status, Stopping, Who, failures_tolerated,
};
use crate::nat_log::{Journal, Question, who};

/// Most flows of one answer.
const FLOWS_MAX: usize = 100_000;
/// How often the halves are asked again when they differ, and after how long: each hears of the other within a turn.
const HALVES_AGAIN: u32 = 3;
const HALVES_AFTER: Duration = Duration::from_millis(1);

/// Who knows what.
#[derive(Clone, Debug)]
pub struct Answerer {
    /// The control actor.
    pub control: Addr<ControlActor>,
    /// The flow actor.
    pub flows: Addr<FlowActor>,
    /// What the workers count.
    pub stats: Posts,
    /// The cluster's name.
    pub cluster: String,
    /// This node.
    pub node: u32,
    /// How the kernel's guard stands.
    pub guard: GuardDesk,
    /// What turns the kernel's fast path on and off.
    pub switch: FastSwitch,
    /// What the prober counts.
    pub probes: ProbeDesk,
    /// The address-translation log.
    pub journal: Journal,
    /// What it has lost.
    pub log_losses: Losses,
    /// What is found of this machine's disks and certificates.
    pub machine: Machine,
    /// Its files, the newest first.
    pub log_files: Vec<PathBuf>,
    /// The other members.
    pub peers: Peers,
    /// Since when concerns last.
    pub memory: Memory,
    /// What has happened lately.
    pub tape: Tape,
    /// Concerns that the code which meets them raises.
    pub alarms: Alarms,
    /// Asks the node to stop.
    pub shutdown: mpsc::Sender<StopOrder>,
}

/// What was asked of this node for a status.
struct Seen {
    control: ControlReport,
    flows: FlowReport,
    nodes: Vec<NodeRow>,
    shards: Vec<ShardRow>,
    concerns: Vec<Concern>,
}

impl Answerer {
    /// Answers calls until nobody can ask any more.
    pub async fn run(self, mut calls: mpsc::Receiver<Call>) {
        while let Some(Call { request, reply }) = calls.recv().await {
            let this = self.clone();
            actix::spawn(async move {
                // Who asked may have gone away.
                let answer = if let Request::Together { of } = request {
                    this.together(*of).await
                } else {
                    this.alone(request).await
                };
                let _ = reply.send(answer);
            });
        }
    }

    /// Answers `request` out of what this node knows.
    pub(super) async fn alone(&self, request: Request) -> Result<Value, Failure> {
        match request {
            Request::Status => value(self.status().await),
            Request::Flows { shard, vnet, limit } => {
                value(self.flow_list(shard.map(ShardId), vnet.as_deref(), limit).await)
            }
            Request::Ports => value(self.ports().await),
            Request::PortLoads { shard, pieces } => value(self.port_loads(ShardId(shard), &pieces).await),
            Request::LiveOf { shard, backends, from } => {
                let backends = backends.into_iter().map(BackendId).collect();
                value(self.live_of(ShardId(shard), backends, from).await)
            }
            Request::Mappings { shard, backends, from } => {
                let backends = backends.into_iter().map(BackendId).collect();
                value(self.mappings(ShardId(shard), backends, from).await)
            }
            Request::Dump { backends } => value(self.dump(&backends).await),
            Request::Hits { keys } => value(self.hits(keys).await),
            Request::Cuts { since } => value(self.cuts(ControlIndex(since)).await),
            Request::Explain { of } => value(self.explain(&of).await),
            Request::Get { kind } => self.resources(kind).await,
            Request::Apply { file, text, dry_run, yes, plan } => {
                value(self.apply((file, text), dry_run, Consent { yes, plan }).await)
            }
            Request::IpFlow { of } => value(self.ip_flow(of).await),
            Request::EffectiveRules { nic } => value(self.effective_rules(nic).await),
            Request::SetServiceTags { file, text } => value(self.set_service_tags(&file, &text).await),
            Request::RemoveNode { node, incarnation } => {
                value(self.remove(NodeId(node), Incarnation(incarnation)).await)
            }
            Request::DrainNode { node, incarnation } => {
                let (node, incarnation) = (NodeId(node), Incarnation(incarnation));
                value(self.commit(CommandBody::DrainNode { node, incarnation }).await)
            }
            Request::ResumeNode { node } => value(self.commit(CommandBody::ResumeNode { node: NodeId(node) }).await),
            Request::SetLevel { level } => value(self.commit(CommandBody::SetLevel { level }).await),
            Request::RevokeStopToken => value(self.commit(CommandBody::StopTokenRevoke).await),
            Request::Shutdown { now } => {
                // Full: an order that ends the wait is there already.
                let order = if now { StopOrder::Now } else { StopOrder::Graceful };
                let _ = self.shutdown.try_send(order);
                value(Ok(Stopping { stopping: true }))
            }
            Request::Counters => value(self.counters().await),
            Request::Hashes => value(self.hashes().await),
            Request::Events { limit } => value(Ok(Events { events: self.tape.newest(limit), silent: Vec::new() })),
            Request::Loaded => value(self.loaded().await),
            Request::Cache { turn } => {
                if let Some(turn) = turn {
                    self.switch.set(turn.mode());
                }
                value(Ok(fast_path(self.switch.get(), &self.stats(), &self.guard.state())))
            }
            Request::Health => value(Ok(self.health().await)),
            Request::Together { .. } => {
                let problem =
                    "a question to all members cannot contain another one: ask for what it contains".to_owned();
                Err(Failure::new(400, problem))
            }
            Request::State => value(self.state().await),
            Request::Who { ip, port, at_unix_ms } => value(self.who(Question { ip, port, at_unix_ms }).await),
        }
    }

    /// For a backup (N6): what this member has applied, which may lag behind the leader by a moment.
    async fn state(&self) -> Result<StateBytes, Failure> {
        let failed = |error: CodecError| Failure::new(500, error.to_string());
        let state = self.of_state(State::encode).await?.map_err(failed)?;
        Ok(StateBytes { cluster: self.cluster.clone(), node: self.node, state: BASE64_STANDARD.encode(state) })
    }

    /// Removes a node that is powered off, or that has nothing left. One that is heard is not declared gone (N4): what it
    /// owns it may serve still.
    async fn remove(&self, node: NodeId, incarnation: Incarnation) -> Result<Done, Failure> {
        if node.0 == self.node {
            // One that is drained hears nothing of the log any more, and so cannot even say that it is.
            let problem = format!("node {node} is this very member: ask another one");
            return Err(Failure::new(409, problem));
        }
        let control = self.control().await?;
        let row = control.nodes.iter().find(|row| row.node == node.0);
        let in_use = row.is_some_and(|row| row.standing != Standing::Removed && !row.drained);
        if in_use && control.live.contains(&node) {
            let named = row.map_or(0, |row| row.named);
            return Err(Failure::all(
                409,
                vec![
                    format!("node {node} is alive: it was heard within 2 s"),
                    format!("power it off first; or let it leave: qnat node-drain {node} --incarnation {named}"),
                ],
            ));
        }
        self.commit(CommandBody::RemoveNode { node, incarnation }).await
    }

    /// What the control half knows.
    pub(super) async fn control(&self) -> Result<ControlReport, Failure> {
        let seen = self.control.send(AskControl).await.map_err(gone)?;
        tokio::task::spawn_blocking(move || seen.report()).await.map_err(gone)
    }

    /// What `walk` makes of the control state, on a thread that may take its time.
    pub(super) async fn of_state<T: Send + 'static>(
        &self,
        walk: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let state = self.control.send(ReadState).await.map_err(gone)?;
        tokio::task::spawn_blocking(move || walk(&state)).await.map_err(gone)
    }

    /// By which configuration the worker judges.
    pub(super) async fn loaded(&self) -> Result<Loaded, Failure> {
        let report = self.flows.send(AskFlows).await.map_err(gone)?.report;
        Ok(Loaded { control_loaded: report.control_loaded })
    }

    /// Commits a command and waits for its outcome.
    ///
    /// # Errors
    /// With what the log refused, or that it did not answer.
    pub async fn commit(&self, body: CommandBody) -> Result<Done, Failure> {
        self.commit_cut(Cut::Whole(body)).await
    }

    pub(super) async fn commit_cut(&self, command: Cut) -> Result<Done, Failure> {
        let (reply, outcome) = oneshot::channel();
        self.control.send(Submit { command, reply }).await.map_err(gone)?;
        match outcome.await.map_err(gone)? {
            Ok(Outcome::Applied { index, .. }) => Ok(Done { committed: Some(index.0), flows_cut: None }),
            Ok(Outcome::Refused(refusal)) => Err(Failure::refused(409, &refusal)),
            Err(error) => Err(Failure::new(503, error.to_string())),
        }
    }

    pub(super) async fn flow_list(
        &self,
        shard: Option<ShardId>,
        vnet: Option<&str>,
        limit: usize,
    ) -> Result<Flows, Failure> {
        let limit = limit.min(FLOWS_MAX);
        let (networks, vnet) = self.network(vnet)?;
        let query = |reply| Query::Flows { shard, vnet, limit, reply };
        let mut flows = match shard {
            Some(shard) => self.ask(self.worker_of(shard), query).await?,
            None => self.ask_all(query).await?,
        };
        flows.truncate(limit);
        Ok(Flows { flows: flows.iter().map(|view| flow(view, &networks)).collect() })
    }

    /// The virtual networks in use, and the one that is called so.
    pub(super) fn network(&self, name: Option<&str>) -> Result<(Arc<Networks>, Option<VnetId>), Failure> {
        let networks = self.stats.read().networks;
        let Some(name) = name else { return Ok((networks, None)) };
        match networks.carried(Some(name)) {
            Some(vnet) => Ok((networks, Some(vnet))),
            None => {
                let known: Vec<&str> = networks.0.keys().map(String::as_str).collect();
                let problem =
                    format!("--vnet {name}: no virtual network is called so; there are: {}", known.join(", "));
                Err(Failure::new(404, problem))
            }
        }
    }

    /// Leases and their use, as `qnat ports` shows them.
    ///
    /// # Errors
    /// If the control half or the worker does not answer.
    pub async fn ports(&self) -> Result<Ports, Failure> {
        let used = self.ask_all(|reply| Query::Ports { reply }).await?;
        let backends = self.of_state(view::backends).await?;
        let row = |backend: BackendView| {
            let usage = used.iter().find(|view| view.backend.0 == backend.backend);
            BackendPorts {
                used: usage.map(PortsView::used),
                held: usage.map(PortsView::held),
                flows: usage.map(|view| view.flows),
                backend: backend.name,
                id: backend.backend,
                network: backend.virtual_network,
                ip: Some(backend.private_ip),
                frontend: backend.frontend,
                way_out: backend.way_out,
                shard: backend.home_shard,
                lease: backend.lease,
                draining: backend.draining,
                allocated: backend.ports_leased,
                why: backend.why,
            }
        };
        Ok(Ports { backends: backends.into_iter().map(row).collect() })
    }

    pub(super) async fn who(&self, question: Question) -> Result<Who, Failure> {
        let files = self.log_files.clone();
        let searched = tokio::task::spawn_blocking(move || who(&files, question)).await.map_err(gone)?;
        let failed = |error: std::io::Error| Failure::new(500, format!("nat_log.path: {error}"));
        let frontends = self.of_state(view::frontends).await?;
        let public = frontends.iter().any(|frontend| frontend.address == question.ip);
        Ok(Who { node: self.node, public, ..searched.map_err(failed)? })
    }

    async fn hashes(&self) -> Result<Hashes, Failure> {
        let mut hashes = self.ask_all(|reply| Query::Hashes { reply }).await?;
        hashes.sort_by_key(|(status, _)| status.shard);
        let row = |(status, hash): &(ShardStatus, u64)| HashRow {
            shard: status.shard.0,
            epoch: status.epoch,
            applied: status.applied.0,
            live: status.live,
            held: status.held,
            hash: format!("{hash:016x}"),
        };
        Ok(Hashes { shards: hashes.iter().map(row).collect() })
    }

    fn stats(&self) -> WorkerStats {
        self.stats.read()
    }

    pub(super) async fn counters(&self) -> Result<Counted, Failure> {
        let report = self.flows.send(AskFlows).await.map_err(gone)?;
        Ok(counted(&self.stats(), report, &self.guard.state(), &self.journal.counts(), self.switch.get()))
    }

    async fn look(&self) -> Result<Seen, Failure> {
        let control = self.control().await?;
        let (flows, tables) = self.halves().await?;
        let (nodes, shards) = (node_rows(&control), shard_rows(&control, &flows, &tables));
        let (worker, log, now) = (self.stats(), self.journal.counts(), now());
        let facts = Facts {
            node: self.node,
            control: &control,
            flows: &flows,
            worker: &worker,
            nodes: &nodes,
            shards: &shards,
            guard: &self.guard.state().standing,
            log,
            log_lost: self.log_losses.look(log.failed + log.dropped + worker.sessions_lost, now.unix_ms),
            machine: self.machine.concerns(now.ns),
        };
        let concerns = collect(&facts, &self.alarms);
        Ok(Seen { control, flows, nodes, shards, concerns })
    }

    /// What the flow thread and the workers say: of one moment, if a shard changed hands between the two.
    async fn halves(&self) -> Result<(FlowReport, Vec<ShardStatus>), Failure> {
        let mut again = 0;
        loop {
            let flows = self.flows.send(AskFlows).await.map_err(gone)?;
            let tables = match flows.running {
                true => self.ask_all(|reply| Query::Shards { reply }).await.unwrap_or_default(),
                false => Vec::new(),
            };
            if again == HALVES_AGAIN || !torn(&flows, &tables) {
                return Ok((flows, tables));
            }
            again += 1;
            tokio::time::sleep(HALVES_AFTER).await;
        }
    }

    /// Looks once, and notes what has changed since the last time.
    pub(super) async fn note(&self) -> Result<(), Failure> {
        let Seen { control, flows, shards, concerns, .. } = self.look().await?;
        let unix_ms = now().unix_ms;
        let (node, life, loaded) = (self.node, control.incarnation.map(|life| life.0), flows.report.control_loaded);
        self.tape.look(&Sight { unix_ms, node, life, loaded, shards: &shards });
        for (event, concern) in self.memory.note(concerns, unix_ms) {
            let alert = Alert::of(&concern, event, unix_ms);
            let (about, text) = (concern.subject.to_string(), concern.why);
            self.tape.note(EventRow { unix_ms, node, event, about, text, alert });
        }
        Ok(())
    }

    pub(super) async fn status(&self) -> Result<Status, Failure> {
        let Seen { control, flows, nodes, shards, concerns } = self.look().await?;
        let guard = self.guard.state();
        Ok(Status {
            cluster: ClusterRow {
                name: self.cluster.clone(),
                id: control.status.cluster_id,
                level: control.status.level,
                control_index: control.status.control_index,
                control_leader: control.leader.map(|node| node.0),
                control_term: control.term,
                failures_tolerated: failures_tolerated(&nodes, &shards),
            },
            me: MeRow {
                node: self.node,
                incarnation: control.incarnation.map(|life| life.0),
                guard: guard.standing.clone(),
                fast: fast_path(self.switch.get(), &self.stats(), &guard),
                links_up: flows.report.has_all_links(),
                running: flows.running,
                control_loaded: flows.report.control_loaded,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                unix_ms: now().unix_ms,
            },
            nodes,
            shards,
            stop_token: control.status.stop_token,
            concerns: self.memory.dated(concerns, now().unix_ms),
            silent: Vec::new(),
        })
    }
}

/// An answer as JSON.
pub(super) fn value(answer: Result<impl Serialize, Failure>) -> Result<Value, Failure> {
    serde_json::to_value(answer?).map_err(|error| Failure::new(500, format!("the answer is no JSON: {error}")))
}

pub(super) fn gone(error: impl std::fmt::Display) -> Failure {
    Failure::new(503, format!("the node is stopping: {error}"))
}

/// A mapping for people.
pub(crate) fn flow(view: &FlowView, networks: &Networks) -> FlowRow {
    let (frontend, ip, port) = view.public;
    let public = ip.map_or_else(|| format!("frontend {frontend}"), |ip: Ipv4Addr| ip.to_string());
    let state = match view.state {
        FlowState::Opening => "opening".to_owned(),
        FlowState::Live => "live".to_owned(),
        FlowState::Closing => "closing".to_owned(),
        FlowState::Held(class) => format!("held ({})", class.label()),
    };
    FlowRow {
        shard: view.shard.0,
        proto: view.proto.label().to_owned(),
        backend: view.backend.0,
        network: networks.name(view.inside.vnet).map(str::to_owned),
        inside: match view.floats_to {
            Some(own) => format!("{own}:{}", view.inside.endpoint.port),
            None => format!("{}:{}", view.inside.endpoint.addr, view.inside.endpoint.port),
        },
        floating: view.floats_to.is_some(),
        public: format!("{public}:{port}"),
        remote: format!("{}:{}", view.remote.addr, view.remote.port),
        scenario: view.scenario.label().to_owned(),
        state,
        idle_ms: view.idle_ms,
        written_at: view.written_at.0,
        carried: view.carried,
    }
}
