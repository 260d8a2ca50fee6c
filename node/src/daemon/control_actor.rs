//! The control actor: drives the control half of the member on a thread of its own, because its store waits for the disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::prelude::*;
use bytes::Bytes;
use consensus::storage::sled::SledStore;
use control::codec::CodecError;
use control::command::{CommandBody, Configure, PortLoad};
use control::outcome::Outcome;
use control::resource::Desired;
use control::{plan, view};
use engine::ids::{Incarnation, NodeId, PortBlock, ShardId};
use netio::boottime::now_ns;
use netio::pulse::Pulse;
use netio::quic::Transport;
use serde_json::Value;
use tokio::sync::oneshot;

use super::flow_actor::{Begin, FlowActor, NewView};
use super::guard_keeper::GuardDesk;
use super::request::{DryRun, Failure, ResourceKind};
use super::room::Taken;
use crate::answers::{Applied, Refusal};
use crate::member::control_member::{ControlMember, ControlOut, NotDone, Now};
use crate::member::flow_member::ControlDuty;
use crate::member::frame::CHANNEL_CONTROL;
use crate::member::view::View;
use crate::nat_log::Journal;

const TICK: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Debug)]
pub struct ControlActor {
    member: ControlMember<SledStore>,
    transport: Transport,
    journal: Journal,
    pulse: Pulse,
    guard: GuardDesk,
    flows: Option<Addr<FlowActor>>,
    view: Option<Arc<View>>,
    begun: bool,
    tickets: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Outcome, NotDone>>>,
}

/// A frame of a peer on the control channel.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PeerFrame {
    /// The node, as the transport proved it.
    pub from: NodeId,
    /// The frame.
    pub bytes: Bytes,
    /// What it takes of the room for unread frames.
    pub room: Taken,
}

/// A frame on the channel for joining.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct JoinFrame {
    /// The node, as the transport proved it; perhaps no member.
    pub from: NodeId,
    /// The frame.
    pub bytes: Bytes,
    /// What it takes of the room for unread frames.
    pub room: Taken,
}

/// Something that the flow half found out.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Duty {
    /// It.
    pub duty: ControlDuty,
    /// Its place among the unread ones, if there was one.
    pub _room: Option<Taken>,
}

/// The flow actor is there.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Meet(pub Addr<FlowActor>);

/// Commit a command; the outcome comes through the channel.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Submit {
    /// The command.
    pub body: CommandBody,
    /// Where its outcome goes.
    pub reply: oneshot::Sender<Result<Outcome, NotDone>>,
}

/// What would a configuration change?
#[derive(Debug, Message)]
#[rtype(result = "Result<Planned, Failure>")]
pub struct PlanApply {
    /// The configuration.
    pub desired: Box<Desired>,
    /// Live flows per piece of port space, to choose the halves that drain (D4).
    pub hints: Vec<PortLoad>,
    /// For a dry run a refused plan is shown, not an error.
    pub dry_run: DryRun,
}

/// How a configuration would be brought about.
#[derive(Debug)]
pub struct Planned {
    /// What to commit.
    pub configure: Box<Configure>,
    /// What to answer.
    pub answer: Applied,
    /// Where live flows decide what goes.
    pub pieces: BTreeMap<ShardId, Vec<PortBlock>>,
}

/// Resources by kind.
#[derive(Debug, Message)]
#[rtype(result = "Value")]
pub struct Get(pub ResourceKind);

/// The control state, encoded.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<u8>, CodecError>")]
pub struct EncodeState;

/// What the control half knows, for status.
#[derive(Debug, Message)]
#[rtype(result = "ControlReport")]
pub struct AskControl;

/// The answer.
#[derive(Clone, Debug, MessageResponse)]
pub struct ControlReport {
    /// What the replicated state says.
    pub status: view::StatusView,
    /// Its nodes.
    pub nodes: Vec<view::NodeView>,
    /// Its shards.
    pub shards: Vec<view::ShardView>,
    /// Who leads the control group.
    pub leader: Option<NodeId>,
    /// In which term.
    pub term: u64,
    /// Raft ids of its voters, by the configuration that is applied here.
    pub voters: Vec<u64>,
    /// Members that were heard of lately, this one among them.
    pub live: Vec<NodeId>,
    /// This node's life, once it is registered.
    pub incarnation: Option<Incarnation>,
    /// Most flows of a shard, as configured.
    pub flows_per_shard_max: u32,
    /// Most flows of a backend.
    pub flows_per_backend_max: u32,
}

/// Hand the control group's leadership over.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopControl;

impl ControlActor {
    /// An actor over a member that has not run yet.
    #[must_use]
    pub fn new(
        member: ControlMember<SledStore>,
        transport: Transport,
        journal: Journal,
        (pulse, guard): (Pulse, GuardDesk),
    ) -> Self {
        let (flows, view, begun, tickets, waiting) = (None, None, false, 0, BTreeMap::new());
        Self { member, transport, journal, pulse, guard, flows, view, begun, tickets, waiting }
    }

    fn settle(&mut self) {
        while let Some(out) = self.member.poll(now()) {
            match out {
                ControlOut::Send { to, frame } => {
                    self.transport.send(to.0, CHANNEL_CONTROL, frame);
                }
                ControlOut::Ask { to, frame } => {
                    self.transport.ask(to.0, frame);
                }
                ControlOut::Answer { to, frame } => {
                    self.transport.answer(to.0, frame);
                }
                ControlOut::View(view) => {
                    self.guard.configure(Arc::clone(&view.snapshot));
                    self.view = Some(view);
                }
                ControlOut::Registered(_) => {}
                ControlOut::Ports(batch) => self.journal.note(batch),
                ControlOut::Done { ticket, result } => {
                    if let Some(reply) = self.waiting.remove(&ticket) {
                        // Who asked may have given up.
                        let _ = reply.send(result);
                    }
                }
                ControlOut::Members(members) => {
                    // Until the control state is here, and names them with their keys.
                    self.transport.set_peers(&members.iter().map(|(node, address)| (node.0, *address)).collect());
                }
                ControlOut::NotTaken { why } => tracing::warn!("the cluster does not take this node: {why}"),
                ControlOut::Over { why } => super::leave(&why),
                ControlOut::StoreFailed { reason } => {
                    super::end_life(&format!("the control store failed: {reason}"));
                }
            }
        }
        self.tell_flows();
    }

    fn tell_flows(&mut self) {
        let (Some(flows), Some(view)) = (&self.flows, &self.view) else { return };
        match self.member.incarnation() {
            Some(me) if !self.begun && view.node_of.contains_key(&me) => {
                self.begun = true;
                flows.do_send(Begin { me, view: Arc::clone(view) });
            }
            _ => flows.do_send(NewView(Arc::clone(view))),
        }
        self.view = None;
    }
}

/// The member's two clocks.
#[must_use]
pub fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { ns: now_ns(), unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
}

impl Actor for ControlActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TICK, |actor, _| {
            actor.pulse.beat(now_ns());
            actor.member.tick(now());
            if actor.journal.needs_all() {
                actor.member.retell_ports();
            }
            actor.settle();
        });
    }
}

impl Handler<PeerFrame> for ControlActor {
    type Result = ();

    fn handle(&mut self, PeerFrame { from, bytes, room }: PeerFrame, _: &mut Self::Context) {
        drop(room);
        self.member.handle_peer(now(), from, &bytes);
        self.settle();
    }
}

impl Handler<JoinFrame> for ControlActor {
    type Result = ();

    fn handle(&mut self, JoinFrame { from, bytes, room }: JoinFrame, _: &mut Self::Context) {
        drop(room);
        self.member.handle_join(now(), from, &bytes);
        self.settle();
    }
}

impl Handler<Duty> for ControlActor {
    type Result = ();

    fn handle(&mut self, Duty { duty, _room }: Duty, _: &mut Self::Context) {
        self.member.handle_duty(now(), duty);
        self.settle();
    }
}

impl Handler<Meet> for ControlActor {
    type Result = ();

    fn handle(&mut self, Meet(flows): Meet, _: &mut Self::Context) {
        self.flows = Some(flows);
        self.settle();
    }
}

impl Handler<Submit> for ControlActor {
    type Result = ();

    fn handle(&mut self, Submit { body, reply }: Submit, _: &mut Self::Context) {
        self.tickets += 1;
        self.waiting.insert(self.tickets, reply);
        self.member.submit(now(), self.tickets, body);
        self.settle();
    }
}

impl Handler<PlanApply> for ControlActor {
    type Result = Result<Planned, Failure>;

    fn handle(&mut self, PlanApply { desired, hints, dry_run }: PlanApply, _: &mut Self::Context) -> Self::Result {
        let refused = |problems: Vec<String>| Failure { status: 422, problems };
        let plan = plan::diff_with(self.member.state(), &desired, &hints);
        if let (Some((why, remedy)), DryRun::No) = (&plan.refused, dry_run) {
            return Err(refused(vec![why.clone(), remedy.clone()]));
        }
        let refusal = plan.refused.map(|(why, remedy)| Refusal { why, remedy });
        let answer = Applied {
            changes: plan.changes,
            refused: refusal,
            flows_taken: (!plan.pieces.is_empty()).then_some(plan.flows_taken),
            uncounted_shards: plan.uncounted.iter().map(|shard| shard.0).collect(),
            ..Applied::default()
        };
        let configure = Box::new(Configure { desired: *desired, base_hash: Some(plan.hash), hints });
        Ok(Planned { configure, answer, pieces: plan.pieces })
    }
}

impl Handler<Get> for ControlActor {
    type Result = MessageResult<Get>;

    fn handle(&mut self, Get(kind): Get, _: &mut Self::Context) -> Self::Result {
        let state = self.member.state();
        let value = match kind {
            ResourceKind::Nodes => serde_json::to_value(view::nodes(state)),
            ResourceKind::Shards => serde_json::to_value(view::shards(state)),
            ResourceKind::Backends => serde_json::to_value(view::backends(state)),
            ResourceKind::Frontends => serde_json::to_value(view::frontends(state)),
            ResourceKind::Pools => serde_json::to_value(view::pools(state)),
        };
        MessageResult(value.unwrap_or(Value::Null))
    }
}

impl Handler<EncodeState> for ControlActor {
    type Result = MessageResult<EncodeState>;

    fn handle(&mut self, _: EncodeState, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.member.state().encode())
    }
}

impl Handler<AskControl> for ControlActor {
    type Result = ControlReport;

    fn handle(&mut self, _: AskControl, _: &mut Self::Context) -> ControlReport {
        let state = self.member.state();
        let (leader, term) = self.member.leader();
        ControlReport {
            status: view::status(state),
            nodes: view::nodes(state),
            shards: view::shards(state),
            leader,
            term,
            voters: self.member.configured().0.clone(),
            live: self.member.live(now()).into_iter().collect(),
            incarnation: self.member.incarnation(),
            flows_per_shard_max: state.desired().settings.flows_per_shard_max,
            flows_per_backend_max: state.desired().settings.flows_per_backend_max,
        }
    }
}

impl Handler<StopControl> for ControlActor {
    type Result = ();

    fn handle(&mut self, _: StopControl, _: &mut Self::Context) {
        self.member.stop(now());
        self.settle();
    }
}
