//! What all tasks of a transport share: who the peers are, where they are, and the link to each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::config::{Counters, TransportConfig};
use super::doors::Porter;
use super::event::{Event, Inbound};
use super::frame;
use super::guests::Guests;
use super::proof::{proved_id, proved_key};
use super::queue::Outbound;

/// A link's streams and queues, valid for one connection.
pub(super) struct Live {
    pub(super) connection: quinn::Connection,
    pub(super) generation: u64,
    pub(super) since: tokio::time::Instant,
    pub(super) channels: BTreeMap<frame::StreamKey, Arc<Outbound>>,
}

#[derive(Default)]
pub(super) struct LinkState {
    /// Where it is by the list, and where it proved its number from if that was elsewhere.
    pub(super) addresses: (Option<SocketAddr>, Option<SocketAddr>),
    /// SHA-256 of its public key, once the owner has said it.
    pub(super) key: Option<[u8; 32]>,
    pub(super) live: Option<Live>,
    /// The newest connection that asked to become the link; an older one that still waits gives up.
    pub(super) newest_generation: u64,
}

/// One peer, as long as `set_peers` lists it.
pub(super) struct Peer {
    pub(super) id: u32,
    pub(super) state: Mutex<LinkState>,
    /// One connection at a time runs the link, so that `Down` of the old is told before `Up` of the new.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// The dialer looks again: link changed, address changed, or the peer knocked.
    pub(super) wake_dialer: Notify,
    pub(super) dialer: Mutex<Option<JoinHandle<()>>>,
    /// A question on the channel for joining is under way.
    pub(super) asking: AtomicBool,
}

impl Peer {
    pub(super) fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Shared {
    pub(super) own_id: u32,
    pub(super) cluster: String,
    pub(super) config: TransportConfig,
    pub(super) endpoint: quinn::Endpoint,
    pub(super) client: quinn::ClientConfig,
    pub(super) join_client: quinn::ClientConfig,
    pub(super) guests: Arc<Guests>,
    pub(super) porter: Porter,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) peers: Mutex<BTreeMap<u32, Arc<Peer>>>,
    pub(super) events: mpsc::Sender<Inbound>,
    pub(super) bulk: mpsc::Sender<Inbound>,
    pub(super) questions: mpsc::Sender<Event>,
    pub(super) counters: Arc<Counters>,
    pub(super) sieved: Arc<AtomicU64>,
}

impl Shared {
    pub(super) fn peer(&self, id: u32) -> Option<Arc<Peer>> {
        self.peers().get(&id).cloned()
    }

    /// The peer that a connection proves to be: by its certificate's number, and by its key if that is known.
    pub(super) fn proved_peer(&self, connection: &quinn::Connection) -> Option<Arc<Peer>> {
        let peer = self.peer(proved_id(connection)?)?;
        let expected = peer.state().key;
        expected.is_none_or(|expected| proved_key(connection) == Some(expected)).then_some(peer)
    }

    pub(super) fn peers(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the kernel whose datagrams come to the members' socket.
    pub(super) fn list(&self, peers: &BTreeMap<u32, Arc<Peer>>) {
        let addresses = peers.values().map(|peer| peer.state().addresses);
        let addresses = addresses.flat_map(|(listed, proved)| listed.into_iter().chain(proved)).collect();
        if let Err(error) = self.porter.list(addresses) {
            tracing::error!(%error, "the members' addresses cannot be told to the kernel: who is not told stays a stranger");
        }
    }

    /// A node proved its number from an address that is not listed: if it is a member, it is there from now on.
    pub(super) fn proved(&self, id: u32, address: SocketAddr) {
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
