//! What actors tell and ask each other. None of them knows another one's type.

use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;
use control::outcome::Outcome;
use control::parts::Cut;
use control::state::State;
use engine::ids::NodeId;
use tokio::sync::oneshot;

use super::questions::Query;
use super::reports::{ControlSeen, FlowReport};
use super::room::Taken;
use member::control_member::{Finished, NotDone};
use member::flow_member::ControlDuty;
use member::view::View;

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

/// What the flow actor tells the control actor.
#[derive(Clone, Debug)]
pub struct ToControl {
    /// Frames on the control channel.
    pub peers: Recipient<PeerFrame>,
    /// Frames on the channel for joining.
    pub joiners: Recipient<JoinFrame>,
    /// What it found out.
    pub duties: Recipient<Duty>,
}

/// The flow actor is there, and takes these.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Meet {
    /// Once.
    pub begin: Recipient<Begin>,
    /// After it.
    pub views: Recipient<NewView>,
}

/// Commit a command; the outcome comes through the channel.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Submit {
    /// The command.
    pub command: Cut,
    /// Where its outcome goes.
    pub reply: oneshot::Sender<Result<Outcome, NotDone>>,
}

/// A job of the member is done.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct JobDone(pub Finished);

/// The control state, to be read on another thread and given back soon.
#[derive(Debug, Message)]
#[rtype(result = "Arc<State>")]
pub struct ReadState;

/// What the control half knows, for status.
#[derive(Debug, Message)]
#[rtype(result = "ControlSeen")]
pub struct AskControl;

/// Hand the control group's leadership over.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopControl;

/// A newer version of the control state.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct NewView(pub Arc<View>);

/// This life is registered: the flow groups may begin.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Begin {
    /// The incarnation.
    pub me: engine::ids::Incarnation,
    /// The version of the control state that registered it.
    pub view: Arc<View>,
}

/// Hand all leaderships over; answers with the number of groups that found no taker.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopFlows(pub oneshot::Sender<u32>);

/// A question to a worker.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AskWorker {
    /// Its number.
    pub worker: u16,
    /// The question.
    pub query: Query,
}

/// A question about the flow groups.
#[derive(Debug, Message)]
#[rtype(result = "FlowReport")]
pub struct AskFlows;

/// How a member is to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopOrder {
    /// With the stop token.
    Graceful,
    /// At once: it hands over what finds a taker.
    Now,
}
