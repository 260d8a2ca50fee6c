//! The endpoint behind the strangers' socket, on a thread of its own with ordinary priority: whoever does not write from the
//! address of a listed member is heard here. It carries the channel for joining, and tells the transport when a node proves
//! its number from an address that is not listed for it; it never carries a link.
//!
//! It shares no lock with the members' endpoint, whose thread holds leases and must not wait for this one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use quinn::{Connection, Endpoint};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::admission::{Admission, Bucket, HANDSHAKE_TIMEOUT, STRANGERS};
use super::close::CLOSE_ASK_AGAIN;
use super::config::Counters;
use super::event::Event;
use super::guests::Guests;
use super::proof::proved_id;
use super::sieve::Sieve;
use super::{joining, tls};

/// Handshake packets a second, and at once: each may cost the thread some ten microseconds.
const HANDSHAKE_PACKETS: (u32, u32) = (1000, 256);

/// What the thread needs.
pub(super) struct Parts {
    pub(super) socket: std::net::UdpSocket,
    pub(super) endpoint: quinn::EndpointConfig,
    pub(super) server: quinn::ServerConfig,
    pub(super) dropped: Arc<AtomicU64>,
    pub(super) desk: Desk,
}

/// Where its findings go.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) guests: Arc<Guests>,
    pub(super) questions: mpsc::Sender<Event>,
    /// A node proved its number, from this address.
    pub(super) proved: mpsc::Sender<(u32, SocketAddr)>,
    pub(super) counters: Arc<Counters>,
    /// How long a question on the channel for joining may wait for its answers.
    pub(super) question_life: Duration,
}

/// The running thread; dropping this ends it.
#[derive(Debug)]
pub(super) struct Strangers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Strangers {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It ends within the handshake step that it is in; the port must be free when this returns.
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Starts the thread.
///
/// # Errors
/// If the system has no thread, or the socket cannot be watched.
pub(super) fn start(parts: Parts) -> std::io::Result<Strangers> {
    let (stop, stopped) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let endpoint = {
        let _entered = runtime.enter();
        let socket = quinn::Runtime::wrap_udp_socket(&quinn::TokioRuntime, parts.socket)?;
        let (per_second, burst) = HANDSHAKE_PACKETS;
        let socket = Sieve::new(socket, Bucket::new(per_second, burst), parts.dropped);
        let quinn_runtime = Arc::new(quinn::TokioRuntime);
        Endpoint::new_with_abstract_socket(parts.endpoint, Some(parts.server), socket, quinn_runtime)?
    };
    let desk = parts.desk;
    let thread = std::thread::Builder::new().name("strangers".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = accept(&endpoint, &desk) => {}
                _dropped = stopped => {}
            }
        });
        runtime.shutdown_background();
    })?;
    Ok(Strangers { stop: Some(stop), thread: Some(thread) })
}

async fn accept(endpoint: &Endpoint, desk: &Desk) {
    let mut admission = Admission::new(STRANGERS, Arc::clone(&desk.counters));
    while let Some(incoming) = endpoint.accept().await {
        let Some((incoming, place)) = admission.judge(incoming) else { continue };
        let desk = desk.clone();
        tokio::spawn(async move {
            let heard = match timeout(HANDSHAKE_TIMEOUT, incoming).await {
                Ok(Ok(connection)) => {
                    drop(place);
                    hear(&desk, &connection).await
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a stranger's handshake refused");
                    None
                }
                Err(_) => None,
            };
            if heard.is_none() {
                desk.counters.refused.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// A node of this cluster, since its certificate is good. `None`: refused.
async fn hear(desk: &Desk, connection: &Connection) -> Option<()> {
    if tls::is_join(connection) {
        return joining::receive(&desk.guests, &desk.questions, connection, desk.question_life).await;
    }
    let told = proved_id(connection).map(|id| desk.proved.try_send((id, connection.remote_address())));
    connection.close(CLOSE_ASK_AGAIN, b"dial again, if you are a member");
    told?.ok()
}
