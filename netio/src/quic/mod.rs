//! The transport between cluster members: QUIC with mutual TLS, one connection per pair, one stream per channel, so that
//! no channel blocks another. A frame's sender is who its certificate says, never what the bytes claim.
//!
//! Guarantees: within one life of a link (from `Up` to `Down`) the frames of a channel arrive in order and unbroken, save
//! those that `send` reports dropped; at `Down` everything queued or in flight is gone. Raft resends, so nothing here does.
//! Never blocks a caller, never runs 0-RTT (a replayed frame would be a forged one).
//! Called by the daemon's peer loop on its current-thread tokio runtime.
//!
//! Links are carried on the caller's runtime, whose thread holds leases. Whatever does not come from the exact address of a
//! listed member is heard by another endpoint on another thread (`doors.rs`, `strangers.rs`), where nodes ask to join
//! (`joining.rs`); and both begin only so many handshakes (`admission.rs`, `sieve.rs`).
//!
//! The member with the lower number dials. The other one knocks instead: a handshake that proves who it is and asks to be
//! dialed now. A restarted member dials or knocks at once, and answers packets of its former life with stateless resets
//! (RFC 9000, 10.3) under a key that survives restarts, so that a peer leaves a dead connection in one round trip.

mod admission;
mod connection;
mod dial;
mod doors;
mod frame;
mod joining;
mod queue;
mod sieve;
mod strangers;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;

use admission::Bucket;
use doors::{Doors, Porter};
pub use frame::FRAME_BYTES_MAX;
use joining::Guests;
pub use joining::JOIN_FRAME_BYTES_MAX;
use queue::Outbound;
pub use queue::{BulkError, SendOutcome};
use sieve::Sieve;
pub use tls::{ALPN, Identity};

/// What a transport is started with. `Default` gives the values that the cluster's timing rules were chosen for.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Where to listen; connections to peers leave from the same socket.
    pub listen: SocketAddr,
    /// The interface that peers are reached by; no other can reach the port. `None`: any.
    pub interface: Option<String>,
    /// A connection that hears nothing for so long is dead.
    pub idle_timeout: Duration,
    /// Silence after which a connection is probed.
    pub keep_alive: Duration,
    /// Round trip assumed before the first measurement: loss probes of a handshake start at three times this.
    pub initial_rtt: Duration,
    /// How long a receiver may delay an acknowledgement: a lost tail is probed about this long after a round trip.
    pub ack_delay_max: Duration,
    /// Pause after the first failed dial; doubles with each further one.
    pub backoff_min: Duration,
    /// Longest pause between dials.
    pub backoff_max: Duration,
    /// Pause after a peer has said that it does not list us. As soon as it does, it dials or knocks itself; and dialing
    /// it all the while would use up the handshakes that our own question to join needs (`admission.rs`).
    pub backoff_unlisted: Duration,
    /// How long a question on the channel for joining may wait for its answer.
    pub question_life: Duration,
    /// How long one dial may take, handshake and greeting.
    pub dial_timeout: Duration,
    /// Send and receive buffer of the socket, in bytes.
    pub socket_buffer: usize,
    /// Most frames queued on one channel; above it `send` drops the oldest.
    pub queue_frames_max: usize,
    /// Most bytes queued on one channel; above it `send` drops the oldest, `send_bulk` waits.
    pub queue_bytes_max: usize,
    /// Most channels in use per peer, both spaces together; a frame on a further one is refused.
    pub channels_max: u32,
    /// Most received bytes per peer that wait for `recv`, in each of the two spaces.
    pub receive_bytes_max: u32,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            interface: None,
            idle_timeout: Duration::from_secs(3),
            keep_alive: Duration::from_millis(500),
            initial_rtt: Duration::from_millis(5),
            ack_delay_max: Duration::from_millis(2),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(500),
            backoff_unlisted: Duration::from_secs(2),
            question_life: Duration::from_secs(2),
            dial_timeout: Duration::from_millis(500),
            socket_buffer: 4 << 20,
            queue_frames_max: 4096,
            queue_bytes_max: 8 << 20,
            channels_max: 4096,
            receive_bytes_max: 32 << 20,
        }
    }
}

/// What the transport tells its owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A frame sent with [`Transport::send`].
    Frame {
        /// The sender, proved by its certificate.
        from: u32,
        /// The channel it was sent on.
        channel: u32,
        /// The frame, at most [`FRAME_BYTES_MAX`].
        bytes: Bytes,
    },
    /// A frame sent with [`Transport::send_bulk`]; its channels are numbered apart from those of `Frame`.
    Bulk {
        /// The sender, proved by its certificate.
        from: u32,
        /// The bulk channel it was sent on.
        channel: u32,
        /// The frame, at most [`FRAME_BYTES_MAX`].
        bytes: Bytes,
    },
    /// A frame on the channel for joining: a question of a node that may be no member ([`Transport::ask`]), or a member's
    /// answer to ours ([`Transport::answer`]).
    Join {
        /// The sender, proved by its certificate.
        from: u32,
        /// The frame, at most [`JOIN_FRAME_BYTES_MAX`].
        bytes: Bytes,
    },
    /// A link to this member begins.
    Up(u32),
    /// The link to this member ended; what was on its way is lost. A restarted peer shows as `Down`, then `Up`.
    Down(u32),
}

/// Why a transport did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates or keys are unreadable, or do not belong together.
    #[error("identity: {0}")]
    Identity(String),
    /// The socket cannot be had.
    #[error("listen on {address}{}: {source}", .interface.as_ref().map(|name| format!(" of interface {name}")).unwrap_or_default())]
    Socket {
        /// The address asked for.
        address: SocketAddr,
        /// And the interface.
        interface: Option<String>,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Counters since the start. Frames and bytes are of the application.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TransportStats {
    /// Frames handed to a stream.
    pub frames_sent: u64,
    /// Bytes of those frames.
    pub bytes_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Bytes of those frames.
    pub bytes_received: u64,
    /// Frames dropped because a channel's queue was full.
    pub dropped_full: u64,
    /// Frames refused because no link to the peer was up.
    pub dropped_down: u64,
    /// Connections refused: foreign or expired certificate, or a member that is no peer.
    pub refused: u64,
    /// Links that came up.
    pub links_up: u64,
    /// Handshakes that were asked to prove their address first.
    pub retried: u64,
    /// Handshakes that were not begun, being too many.
    pub turned_away: u64,
    /// Handshake packets that were dropped unread, being too many, from addresses of members and from others.
    pub sieved: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    frames_sent: AtomicU64,
    bytes_sent: AtomicU64,
    frames_received: AtomicU64,
    bytes_received: AtomicU64,
    dropped_full: AtomicU64,
    dropped_down: AtomicU64,
    refused: AtomicU64,
    links_up: AtomicU64,
    retried: AtomicU64,
    turned_away: AtomicU64,
}

/// Events on their way to the owner; a permit gives back the receive budget when the owner has taken the frame.
type Inbound = (Event, Option<OwnedSemaphorePermit>);

/// Frames, ups and downs in one queue (their order matters); bulk in another, so that a slow consumer of snapshots
/// never holds up heartbeats.
const EVENT_QUEUE: usize = 8192;
const BULK_QUEUE: usize = 64;
const JOIN_QUEUE: usize = 16;
/// Handshake packets that may come in members' names, a second and at once: each may cost the thread some ten microseconds.
const HANDSHAKE_PACKETS: (u32, u32) = (1000, 512);

/// A link's streams and queues, valid for one connection.
struct Live {
    connection: quinn::Connection,
    generation: u64,
    since: tokio::time::Instant,
    channels: BTreeMap<frame::StreamKey, Arc<Outbound>>,
}

#[derive(Default)]
struct LinkState {
    /// Where it is by the list, and where it proved its number from if that was elsewhere.
    addresses: (Option<SocketAddr>, Option<SocketAddr>),
    /// SHA-256 of its public key, once the owner has said it.
    key: Option<[u8; 32]>,
    live: Option<Live>,
    /// The newest connection that asked to become the link; an older one that still waits gives up.
    newest_generation: u64,
}

/// One peer, as long as `set_peers` lists it.
struct Peer {
    id: u32,
    state: Mutex<LinkState>,
    /// One connection at a time runs the link, so that `Down` of the old is told before `Up` of the new.
    turn: tokio::sync::Mutex<()>,
    /// The dialer looks again: link changed, address changed, or the peer knocked.
    wake_dialer: Notify,
    dialer: Mutex<Option<JoinHandle<()>>>,
    /// A question on the channel for joining is under way.
    asking: AtomicBool,
}

impl Peer {
    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Shared {
    own_id: u32,
    cluster: String,
    config: TransportConfig,
    endpoint: quinn::Endpoint,
    client: quinn::ClientConfig,
    join_client: quinn::ClientConfig,
    guests: Arc<Guests>,
    porter: Porter,
    runtime: tokio::runtime::Handle,
    peers: Mutex<BTreeMap<u32, Arc<Peer>>>,
    events: mpsc::Sender<Inbound>,
    bulk: mpsc::Sender<Inbound>,
    questions: mpsc::Sender<Event>,
    counters: Arc<Counters>,
    sieved: Arc<AtomicU64>,
}

impl Shared {
    fn peer(&self, id: u32) -> Option<Arc<Peer>> {
        self.peers().get(&id).cloned()
    }

    /// The peer that a connection proves to be: by its certificate's number, and by its key if that is known.
    fn proved_peer(&self, connection: &quinn::Connection) -> Option<Arc<Peer>> {
        let peer = self.peer(connection::proved_id(connection)?)?;
        let expected = peer.state().key;
        expected.is_none_or(|expected| connection::proved_key(connection) == Some(expected)).then_some(peer)
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the kernel whose datagrams come to the members' socket.
    fn list(&self, peers: &BTreeMap<u32, Arc<Peer>>) {
        let addresses = peers.values().map(|peer| peer.state().addresses);
        let addresses = addresses.flat_map(|(listed, proved)| listed.into_iter().chain(proved)).collect();
        if let Err(error) = self.porter.list(addresses) {
            tracing::error!(%error, "the members' addresses cannot be told to the kernel: who is not told stays a stranger");
        }
    }

    /// A node proved its number from an address that is not listed: if it is a member, it is there from now on.
    fn proved(&self, id: u32, address: SocketAddr) {
        let peers = self.peers();
        let Some(peer) = peers.get(&id) else {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let known = peer.state().addresses.1.replace(address) == Some(address);
        if !known {
            tracing::info!(peer = id, %address, "a member is at another address than the listed one");
            self.list(&peers);
        }
        peer.wake_dialer.notify_one();
    }
}

/// The sending half; cheap to clone. Dropping all clones leaves links running until [`Transport::shutdown`] or the end of
/// the runtime.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("node", &self.shared.own_id).finish_non_exhaustive()
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct Events {
    events: mpsc::Receiver<Inbound>,
    bulk: mpsc::Receiver<Inbound>,
    questions: mpsc::Receiver<Event>,
}

impl Events {
    /// The next event; frames and link changes go before bulk. `None` after [`Transport::shutdown`] when all is told.
    /// Cancel-safe.
    pub async fn recv(&mut self) -> Option<Event> {
        let taken = tokio::select! {
            biased;
            event = self.events.recv() => event,
            Some(bulk) = self.bulk.recv() => Some(bulk),
            Some(question) = self.questions.recv() => Some((question, None)),
        };
        taken.map(|(event, _permit)| event)
    }

    /// An event that is there already; `None` if there is none now.
    pub fn try_recv(&mut self) -> Option<Event> {
        let taken = self.events.try_recv().or_else(|_| self.bulk.try_recv());
        taken.map(|(event, _permit)| event).or_else(|_| self.questions.try_recv()).ok()
    }
}

impl Transport {
    /// Binds the socket and begins to listen. Peers are dialed after [`Transport::set_peers`]. Must be called inside the
    /// tokio runtime that shall carry all its tasks.
    ///
    /// # Errors
    /// If the identity is unusable or the socket cannot be bound.
    pub fn start(config: TransportConfig, identity: &Identity) -> Result<(Self, Events), StartError> {
        let configs = tls::configs(identity, &config)?;
        let (address, interface) = (config.listen, config.interface.clone());
        let socket_error = |source| StartError::Socket { address, interface, source };
        let doors = Doors::open(config.listen, config.interface.as_deref(), config.socket_buffer);
        let Doors { members, strangers, porter } = doors.map_err(socket_error.clone())?;
        let (counters, sieved) = (Arc::<Counters>::default(), Arc::<AtomicU64>::default());
        let quinn_runtime = Arc::new(quinn::TokioRuntime);
        let (per_second, burst) = HANDSHAKE_PACKETS;
        let socket = quinn::Runtime::wrap_udp_socket(&*quinn_runtime, members).map_err(socket_error.clone())?;
        let socket = Sieve::new(socket, Bucket::new(per_second, burst), Arc::clone(&sieved));
        let endpoint = configs.endpoint.clone();
        let endpoint = quinn::Endpoint::new_with_abstract_socket(endpoint, Some(configs.server), socket, quinn_runtime);
        let endpoint = endpoint.map_err(socket_error.clone())?;
        let (events, events_rx) = mpsc::channel(EVENT_QUEUE);
        let (bulk, bulk_rx) = mpsc::channel(BULK_QUEUE);
        let (questions, questions_rx) = mpsc::channel(JOIN_QUEUE);
        let (proved, mut newly_proved) = mpsc::channel(JOIN_QUEUE);
        let guests = Arc::<Guests>::default();
        let desk = strangers::Desk {
            guests: Arc::clone(&guests),
            questions: questions.clone(),
            proved,
            counters: Arc::clone(&counters),
            question_life: config.question_life,
        };
        let strangers = strangers::start(strangers::Parts {
            socket: strangers,
            endpoint: configs.endpoint,
            server: configs.strangers,
            dropped: Arc::clone(&sieved),
            desk,
        });
        let strangers = strangers.map_err(socket_error)?;
        let shared = Arc::new(Shared {
            own_id: configs.member.node_id,
            cluster: configs.member.cluster,
            config,
            endpoint,
            client: configs.client,
            join_client: configs.join_client,
            guests,
            porter,
            runtime: tokio::runtime::Handle::current(),
            peers: Mutex::default(),
            events,
            bulk,
            questions,
            counters,
            sieved,
        });
        tokio::spawn(connection::accept_loop(Arc::clone(&shared), strangers));
        let told = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Some((id, address)) = newly_proved.recv().await {
                told.proved(id, address);
            }
        });
        Ok((Self { shared }, Events { events: events_rx, bulk: bulk_rx, questions: questions_rx }))
    }

    /// This member's own number, from its certificate.
    #[must_use]
    pub fn own_id(&self) -> u32 {
        self.shared.own_id
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// Says who the other members are and where. New ones are dialed at once, missing ones are cut off, a changed address
    /// counts from the next dial on. The own number is ignored.
    pub fn set_peers(&self, addresses: &BTreeMap<u32, SocketAddr>) {
        let mut peers = self.shared.peers();
        let gone: Vec<u32> = peers.keys().copied().filter(|id| !addresses.contains_key(id)).collect();
        for id in gone {
            if let Some(peer) = peers.remove(&id) {
                stop_peer(&peer);
            }
        }
        for (&id, &address) in addresses.iter().filter(|(id, _)| **id != self.shared.own_id) {
            let peer = peers.entry(id).or_insert_with(|| self.new_peer(id, address));
            let mut state = peer.state();
            if state.addresses.0 != Some(address) {
                state.addresses = (Some(address), None);
                drop(state);
                peer.wake_dialer.notify_one();
            }
        }
        self.shared.list(&peers);
    }

    /// Says which key each peer proves itself with; whoever else has a certificate with its number is no peer, and a link to
    /// such a one is cut. Peers that are not named keep what was said before.
    pub fn set_keys(&self, keys: &BTreeMap<u32, [u8; 32]>) {
        for (id, key) in keys {
            let Some(peer) = self.shared.peer(*id) else { continue };
            let mut state = peer.state();
            state.key = Some(*key);
            if let Some(live) = &state.live
                && connection::proved_key(&live.connection) != Some(*key)
            {
                live.connection.close(connection::CLOSE_REMOVED, b"another key");
            }
        }
    }

    /// Queues a frame for `to` on `channel` and wakes its writer; never waits. If the queue is full the oldest frames go:
    /// the newest carries the newest term, commit index and lease nonce.
    pub fn send(&self, to: u32, channel: u32, bytes: Bytes) -> SendOutcome {
        if bytes.len() > FRAME_BYTES_MAX {
            return SendOutcome::TooLong;
        }
        let Some(peer) = self.shared.peer(to) else { return SendOutcome::UnknownPeer };
        let outbound = match connection::outbound(&self.shared, &peer, frame::StreamKey::frames(channel)) {
            Ok(outbound) => outbound,
            Err(refused) => return refused,
        };
        let outcome = outbound.push(bytes);
        if let SendOutcome::QueuedAfterDropping(count) = outcome {
            self.shared.counters.dropped_full.fetch_add(count.into(), Ordering::Relaxed);
        }
        outcome
    }

    /// Queues a frame for `to` on the bulk channel `channel`, waiting for room; drops nothing. Bulk channels yield the wire
    /// to those of [`Transport::send`].
    ///
    /// # Errors
    /// [`BulkError`] if there is no link, it ends while this waits, or the frame is too long. A frame that was taken is
    /// lost if the link ends later: start over at the next `Up`.
    pub async fn send_bulk(&self, to: u32, channel: u32, bytes: Bytes) -> Result<(), BulkError> {
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(BulkError::TooLong);
        }
        let peer = self.shared.peer(to).ok_or(BulkError::UnknownPeer)?;
        let outbound = connection::outbound(&self.shared, &peer, frame::StreamKey::bulk(channel));
        outbound.map_err(|_| BulkError::Down)?.push_when_room(bytes).await
    }

    /// Puts a question to `to` on the channel for joining, which needs no link and no place in `to`'s list; its answer comes
    /// as [`Event::Join`]. One question to a member at a time: `Down` if one is under way, ask again later.
    pub fn ask(&self, to: u32, question: Bytes) -> SendOutcome {
        if question.len() > JOIN_FRAME_BYTES_MAX {
            return SendOutcome::TooLong;
        }
        let peer = self.shared.peer(to);
        let Some((peer, address)) = peer.and_then(|peer| Some((Arc::clone(&peer), peer.state().addresses.0?))) else {
            return SendOutcome::UnknownPeer;
        };
        if peer.asking.swap(true, Ordering::Relaxed) {
            return SendOutcome::Down;
        }
        let shared = Arc::clone(&self.shared);
        self.shared.runtime.spawn(async move {
            joining::ask(&shared, to, address, question).await;
            peer.asking.store(false, Ordering::Relaxed);
        });
        SendOutcome::Queued
    }

    /// Answers a node that asked on the channel for joining; `Down` if it does not wait (any more): it asks again.
    pub fn answer(&self, to: u32, answer: Bytes) -> SendOutcome {
        if answer.len() > JOIN_FRAME_BYTES_MAX {
            return SendOutcome::TooLong;
        }
        self.shared.guests.answer(to, answer)
    }

    /// Whether a link to `node` is up.
    #[must_use]
    pub fn is_up(&self, node: u32) -> bool {
        self.shared.peer(node).is_some_and(|peer| peer.state().live.is_some())
    }

    /// The smoothed round trip to `node`, while a link is up.
    #[must_use]
    pub fn round_trip(&self, node: u32) -> Option<Duration> {
        let peer = self.shared.peer(node)?;
        let state = peer.state();
        state.live.as_ref().map(|live| live.connection.rtt())
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> TransportStats {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TransportStats {
            frames_sent: read(&counters.frames_sent),
            bytes_sent: read(&counters.bytes_sent),
            frames_received: read(&counters.frames_received),
            bytes_received: read(&counters.bytes_received),
            dropped_full: read(&counters.dropped_full),
            dropped_down: read(&counters.dropped_down),
            refused: read(&counters.refused),
            links_up: read(&counters.links_up),
            retried: read(&counters.retried),
            turned_away: read(&counters.turned_away),
            sieved: read(&self.shared.sieved),
        }
    }

    /// Says good-bye to every peer, so that they see `Down` at once, and waits until that is sent (bounded by the probes of
    /// a closing connection, RFC 9000, 10.2).
    pub async fn shutdown(&self) {
        self.set_peers(&BTreeMap::new());
        self.shared.endpoint.close(connection::CLOSE_GOODBYE, b"shutdown");
        self.shared.endpoint.wait_idle().await;
    }

    fn new_peer(&self, id: u32, address: SocketAddr) -> Arc<Peer> {
        let peer = Arc::new(Peer {
            id,
            state: Mutex::new(LinkState { addresses: (Some(address), None), ..LinkState::default() }),
            turn: tokio::sync::Mutex::default(),
            wake_dialer: Notify::new(),
            dialer: Mutex::default(),
            asking: AtomicBool::new(false),
        });
        let task = self.shared.runtime.spawn(dial::dial_loop(Arc::clone(&self.shared), Arc::clone(&peer)));
        *peer.dialer.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        peer
    }
}

/// Ends a peer's dialer and its link; the link's own task tells `Down`.
fn stop_peer(peer: &Peer) {
    if let Some(task) = peer.dialer.lock().unwrap_or_else(PoisonError::into_inner).take() {
        task.abort();
    }
    let mut state = peer.state();
    state.newest_generation = u64::MAX;
    if let Some(live) = &state.live {
        live.connection.close(connection::CLOSE_REMOVED, b"removed");
    }
}

#[cfg(test)]
mod tests;
