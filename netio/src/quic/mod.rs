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

mod accept;
mod admission;
mod close;
mod config;
mod connection;
mod dial;
mod doors;
mod event;
mod frame;
mod guests;
mod joining;
mod proof;
mod queue;
mod shared;
mod sieve;
mod strangers;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use admission::Bucket;
use config::Counters;
pub use config::{StartError, TransportConfig, TransportStats};
use doors::Doors;
pub use event::Event;
use event::Inbound;
pub use frame::FRAME_BYTES_MAX;
use guests::Guests;
pub use joining::JOIN_FRAME_BYTES_MAX;
pub use queue::{BulkError, SendOutcome};
use shared::{LinkState, Peer, Shared};
use sieve::Sieve;
pub use tls::{ALPN, Identity};

/// Frames, ups and downs in one queue (their order matters); bulk in another, so that a slow consumer of snapshots
/// never holds up heartbeats.
const EVENT_QUEUE: usize = 8192;
const BULK_QUEUE: usize = 64;
const JOIN_QUEUE: usize = 16;
/// Handshake packets that may come in members' names, a second and at once: each may cost the thread some ten microseconds.
const HANDSHAKE_PACKETS: (u32, u32) = (1000, 512);

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
        tokio::spawn(accept::accept_loop(Arc::clone(&shared), strangers));
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
                && proof::proved_key(&live.connection) != Some(*key)
            {
                live.connection.close(close::CLOSE_REMOVED, b"another key");
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
        self.shared.counters.read(&self.shared.sieved)
    }

    /// Says good-bye to every peer, so that they see `Down` at once, and waits until that is sent (bounded by the probes of
    /// a closing connection, RFC 9000, 10.2).
    pub async fn shutdown(&self) {
        self.set_peers(&BTreeMap::new());
        self.shared.endpoint.close(close::CLOSE_GOODBYE, b"shutdown");
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
        live.connection.close(close::CLOSE_REMOVED, b"removed");
    }
}

#[cfg(test)]
mod tests;
