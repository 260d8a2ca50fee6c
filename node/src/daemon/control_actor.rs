//! The control actor: drives the control half of the member on a thread of its own, because its store waits for the disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use consensus::control::storage::sled::SledStore;
use control::outcome::Outcome;
use netio::boottime::now_ns;
use netio::pulse::Pulse;
use netio::quic::Transport;
use tokio::sync::oneshot;

use super::clerk::Clerk;
use super::clock::now;
use super::guard_keeper::GuardDesk;
use super::life::{end_life, leave};
use super::messages::{
    AskControl, Begin, Duty, JobDone, JoinFrame, Meet, NewView, PeerFrame, ReadState, StopControl, Submit,
};
use super::prober::ProbeDesk;
use super::reports::ControlSeen;
use crate::nat_log::Journal;
use member::control_member::{ControlMember, ControlOut, NotDone};
use member::frame::CHANNEL_CONTROL;
use member::turn::CONTROL_TICK_NS;
use member::view::View;

const TICK: Duration = Duration::from_nanos(CONTROL_TICK_NS);

/// See the module.
#[derive(Debug)]
pub struct ControlActor {
    member: ControlMember<SledStore>,
    transport: Transport,
    journal: Journal,
    pulse: Pulse,
    guard: GuardDesk,
    prober: ProbeDesk,
    clerk: Clerk,
    me: Recipient<JobDone>,
    flows: Option<Meet>,
    view: Option<Arc<View>>,
    begun: bool,
    tickets: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Outcome, NotDone>>>,
}

impl ControlActor {
    /// An actor over a member that has not run yet.
    #[must_use]
    pub fn new(
        member: ControlMember<SledStore>,
        transport: Transport,
        journal: Journal,
        (pulse, guard, prober): (Pulse, GuardDesk, ProbeDesk),
        (clerk, me): (Clerk, Recipient<JobDone>),
    ) -> Self {
        let (flows, view, begun, tickets, waiting) = (None, None, false, 0, BTreeMap::new());
        Self { member, transport, journal, pulse, guard, prober, clerk, me, flows, view, begun, tickets, waiting }
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
                    self.clerk.keep(Arc::clone(&view.snapshot));
                    self.guard.configure(Arc::clone(&view.snapshot));
                    self.prober.configure(Arc::clone(&view.snapshot));
                    self.view = Some(view);
                }
                ControlOut::Job(job) => self.clerk.have_done(job, self.me.clone()),
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
                ControlOut::Over { why } => leave(&why),
                ControlOut::StoreFailed { reason } => {
                    end_life(&format!("the control store failed: {reason}"));
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
                flows.begin.do_send(Begin { me, view: Arc::clone(view) });
            }
            _ => flows.views.do_send(NewView(Arc::clone(view))),
        }
        self.view = None;
    }
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

    fn handle(&mut self, flows: Meet, _: &mut Self::Context) {
        self.flows = Some(flows);
        self.settle();
    }
}

impl Handler<Submit> for ControlActor {
    type Result = ();

    fn handle(&mut self, Submit { command, reply }: Submit, _: &mut Self::Context) {
        self.tickets += 1;
        self.waiting.insert(self.tickets, reply);
        self.member.submit_cut(now(), self.tickets, command);
        self.settle();
    }
}

impl Handler<JobDone> for ControlActor {
    type Result = ();

    fn handle(&mut self, JobDone(finished): JobDone, _: &mut Self::Context) {
        if let Some(left) = self.member.finish(now(), finished) {
            self.clerk.free(left);
        }
        self.settle();
    }
}

impl Handler<ReadState> for ControlActor {
    type Result = MessageResult<ReadState>;

    fn handle(&mut self, _: ReadState, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.member.shared_state())
    }
}

impl Handler<AskControl> for ControlActor {
    type Result = MessageResult<AskControl>;

    fn handle(&mut self, _: AskControl, _: &mut Self::Context) -> Self::Result {
        let (leader, term) = self.member.leader();
        MessageResult(ControlSeen {
            state: self.member.shared_state(),
            leader,
            term,
            voters: self.member.configured().0.clone(),
            live: self.member.live(now()).into_iter().collect(),
            incarnation: self.member.incarnation(),
        })
    }
}

impl Handler<StopControl> for ControlActor {
    type Result = ();

    fn handle(&mut self, _: StopControl, _: &mut Self::Context) {
        self.member.stop(now());
        self.settle();
    }
}
