//! Members ask each other what only the other one knows, so that one member can answer for all.
//!
//! A question is a [`Request`] that changes nothing; it goes over the peers' transport on a channel of its own, its answer
//! by the bulk stream, so that a long one never stands before what the groups say. Whoever does not answer within [`WAIT`]
//! is named as silent. Questions and answers are bounded in length and in number: one that is too many is dropped, which
//! looks like silence. It must never carry an order, and never ask further members on behalf of one that asks. Frames come
//! by a bounded queue from the flow actor, which only looks at their channel.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use netio::quic::Transport;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::request::{Failure, Request};
use member::frame::CHANNEL_ASK;

/// How long another member may take for an answer.
pub const WAIT: Duration = Duration::from_millis(300);
/// Longest frame of the channel; an answer that is longer is a failure that says so.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Questions of others that are answered at a time.
const UNDER_WAY_MAX: usize = 16;

const QUESTION: u8 = 1;
const ANSWER: u8 = 2;

/// A frame of the channel: its kind, the number of the question, and JSON.
#[derive(Debug)]
enum Frame {
    Question(u64, Request),
    Answer(u64, Result<Value, Failure>),
}

impl Frame {
    fn encode(&self) -> Bytes {
        let (kind, id, body) = match self {
            Self::Question(id, request) => (QUESTION, *id, serde_json::to_vec(request)),
            Self::Answer(id, answer) => (ANSWER, *id, serde_json::to_vec(answer)),
        };
        let mut out = vec![kind];
        out.extend_from_slice(&id.to_be_bytes());
        out.extend(body.expect("plain data is always representable"));
        out.into()
    }

    /// `None` for anything malformed.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (id, body) = rest.split_first_chunk()?;
        let id = u64::from_be_bytes(*id);
        match *kind {
            QUESTION => Some(Self::Question(id, serde_json::from_slice(body).ok()?)),
            ANSWER => Some(Self::Answer(id, serde_json::from_slice(body).ok()?)),
            _ => None,
        }
    }
}

/// A question that waits: whom it went to, and where the answer goes.
type Waiting = (u32, oneshot::Sender<Result<Value, Failure>>);

/// The other members, to be asked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers(Arc<Desk>);

#[derive(Debug)]
struct Desk {
    transport: Transport,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    under_way: AtomicUsize,
}

impl Peers {
    /// Asks by `transport`.
    #[must_use]
    pub fn new(transport: Transport) -> Self {
        let (next, under_way) = (AtomicU64::new(1), AtomicUsize::new(0));
        Self(Arc::new(Desk { transport, next, waiting: Mutex::default(), under_way }))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Waiting>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `node` answers; `None` if it does not within [`WAIT`], or answers something else.
    pub async fn ask<T: DeserializeOwned>(&self, node: u32, request: &Request) -> Option<T> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.waiting().insert(id, (node, reply));
        self.0.transport.send(node, CHANNEL_ASK, Frame::Question(id, request.clone()).encode());
        let answer = tokio::time::timeout(WAIT, answer).await;
        self.waiting().remove(&id);
        match answer {
            Ok(Ok(Ok(value))) => serde_json::from_value(value).ok(),
            Ok(Ok(Err(failure))) => {
                tracing::debug!(node, problems = ?failure.problems, "a member gave no answer");
                None
            }
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Asks all of `nodes` at once.
    pub async fn ask_all<T: DeserializeOwned>(&self, nodes: &[u32], request: &Request) -> Vec<(u32, Option<T>)> {
        join_all(nodes.iter().map(async |node| (*node, self.ask(*node, request).await))).await
    }

    /// Takes frames until none can come any more: answers of others to whoever asked, and questions to `answer`.
    pub async fn run<F>(self, mut frames: mpsc::Receiver<(u32, Bytes)>, answer: impl Fn(Request) -> F)
    where
        F: Future<Output = Result<Value, Failure>> + 'static,
    {
        while let Some((from, bytes)) = frames.recv().await {
            match Frame::decode(&bytes) {
                Some(Frame::Answer(id, said)) => {
                    let mut waiting = self.waiting();
                    // Only from whom it was asked of.
                    if waiting.get(&id).is_some_and(|(node, _)| *node == from)
                        && let Some((_, reply)) = waiting.remove(&id)
                    {
                        // Who asked may have gone away.
                        let _ = reply.send(said);
                    }
                }
                Some(Frame::Question(id, request)) => self.take_question(from, id, request, &answer),
                None => tracing::debug!(from, len = bytes.len(), "a frame on the channel for questions is none"),
            }
        }
    }

    fn take_question<F>(&self, from: u32, id: u64, request: Request, answer: impl Fn(Request) -> F)
    where
        F: Future<Output = Result<Value, Failure>> + 'static,
    {
        if self.0.under_way.load(Ordering::Relaxed) >= UNDER_WAY_MAX {
            return;
        }
        let desk = Arc::clone(&self.0);
        let reply = async move |said| {
            let mut frame = Frame::Answer(id, said).encode();
            if frame.len() > FRAME_BYTES_MAX {
                let problem =
                    format!("the answer has {} bytes; at most {FRAME_BYTES_MAX} go to another member", frame.len());
                frame = Frame::Answer(id, Err(Failure::new(413, problem))).encode();
            }
            // Behind whatever the groups say. If the link has ended, so has the question.
            let _ended = desk.transport.send_bulk(from, CHANNEL_ASK, frame).await;
        };
        let answered = if request.is_question() {
            Ok(answer(request))
        } else {
            let problem = format!("{} is no question: members do not give each other orders", request.name());
            Err(Failure::new(403, problem))
        };
        let desk = Arc::clone(&self.0);
        desk.under_way.fetch_add(1, Ordering::Relaxed);
        actix::spawn(async move {
            reply(match answered {
                Ok(answered) => answered.await,
                Err(failure) => Err(failure),
            })
            .await;
            desk.under_way.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use netio::ca::ClusterCa;
    use netio::quic::{Event, Identity, TransportConfig};
    use serde_json::json;

    use super::*;
    use crate::daemon::request::DryRun;

    /// What the other member answers, or not at all.
    type Answering = fn(Request) -> Option<Result<Value, Failure>>;

    fn member(ca: &ClusterCa, id: u32) -> (Transport, netio::quic::Events, SocketAddr) {
        let issued = ca.issue(id).expect("issued");
        let identity = Identity {
            ca_cert_pem: ca.pem.cert_pem.clone(),
            cert_pem: issued.cert_pem.clone(),
            key_pem: issued.key_pem.clone(),
        };
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let (transport, events) =
            Transport::start(TransportConfig { listen, ..TransportConfig::default() }, &identity).expect("starts");
        let address = transport.local_address().expect("bound");
        (transport, events, address)
    }

    /// Hands frames of the channel on, as the flow actor does.
    async fn serve(
        mut events: netio::quic::Events,
        peers: Peers,
        mut up: Option<oneshot::Sender<()>>,
        answering: Answering,
    ) {
        let (asked, frames) = mpsc::channel(64);
        actix::spawn(peers.run(frames, move |request| async move {
            match answering(request) {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }));
        while let Some(event) = events.recv().await {
            if let Event::Frame { from, channel: CHANNEL_ASK, bytes }
            | Event::Bulk { from, channel: CHANNEL_ASK, bytes } = event
            {
                asked.try_send((from, bytes)).expect("room");
            } else if let Event::Up(_) = event
                && let Some(up) = up.take()
            {
                up.send(()).expect("somebody waits for the link");
            }
        }
    }

    /// Member 1 asks member 2, over real transports.
    fn with_peer(answering: Answering, body: impl AsyncFnOnce(Peers)) {
        actix::System::new().block_on(async move {
            let ca = ClusterCa::create("test").expect("ca");
            let (one, two) = (member(&ca, 1), member(&ca, 2));
            one.0.set_peers(&BTreeMap::from([(2, two.2)]));
            two.0.set_peers(&BTreeMap::from([(1, one.2)]));
            let asker = Peers::new(one.0.clone());
            let (up, linked) = oneshot::channel();
            actix::spawn(serve(one.1, asker.clone(), Some(up), |_| None));
            actix::spawn(serve(two.1, Peers::new(two.0), None, answering));
            tokio::time::timeout(Duration::from_secs(10), linked).await.expect("linked in time").expect("linked");
            body(asker).await;
        });
    }

    #[test]
    fn a_member_answers_for_itself() {
        with_peer(
            |request| Some(Ok(json!({"heard": request}))),
            async |peers| {
                let answers: Vec<(u32, Option<Value>)> = peers.ask_all(&[2], &Request::Counters).await;
                assert_eq!(answers, [(2, Some(json!({"heard": {"request": "counters"}})))]);
            },
        );
    }

    #[test]
    fn whoever_is_silent_or_unknown_costs_no_more_than_the_wait() {
        with_peer(
            |_| None,
            async |peers| {
                let began = Instant::now();
                let answers: Vec<(u32, Option<Value>)> = peers.ask_all(&[2, 9], &Request::Status).await;
                assert_eq!(answers, [(2, None), (9, None)]);
                assert!(began.elapsed() >= WAIT, "it gave up early");
                assert!(began.elapsed() < 10 * WAIT, "{:?}", began.elapsed());
                assert!(peers.waiting().is_empty(), "what is given up is forgotten");
            },
        );
    }

    #[test]
    fn orders_are_refused_and_answers_that_are_too_long_are_not_sent() {
        with_peer(
            |request| {
                let long = request == Request::Ports;
                Some(Ok(if long { Value::String("x".repeat(FRAME_BYTES_MAX)) } else { Value::Null }))
            },
            async |peers| {
                let apply = Request::Apply {
                    file: String::new(),
                    text: String::new(),
                    dry_run: DryRun::No,
                    yes: false,
                    plan: None,
                };
                for order in [Request::Shutdown { now: true }, Request::RevokeStopToken, apply, Request::Ports] {
                    let began = Instant::now();
                    assert_eq!(peers.ask::<Value>(2, &order).await, None, "{order:?}");
                    assert!(began.elapsed() < WAIT, "{order:?} was refused, not passed over");
                }
            },
        );
    }

    #[test]
    fn malformed_frames_are_none() {
        let whole = Frame::Question(7, Request::Status).encode();
        assert!(matches!(Frame::decode(&whole), Some(Frame::Question(7, Request::Status))));
        for len in 0..whole.len() {
            assert!(Frame::decode(&whole[..len]).is_none(), "length {len}");
        }
        assert!(Frame::decode(&[9; 20]).is_none());
    }
}
