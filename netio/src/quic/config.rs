//! What a transport is started with, why it may not start, and what it counts. Used by all of `quic`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
    pub(super) frames_sent: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    pub(super) frames_received: AtomicU64,
    pub(super) bytes_received: AtomicU64,
    pub(super) dropped_full: AtomicU64,
    pub(super) dropped_down: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) links_up: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) turned_away: AtomicU64,
}

impl Counters {
    /// The counters now; `sieved` is counted where packets are dropped unread.
    pub(super) fn read(&self, sieved: &AtomicU64) -> TransportStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TransportStats {
            frames_sent: read(&self.frames_sent),
            bytes_sent: read(&self.bytes_sent),
            frames_received: read(&self.frames_received),
            bytes_received: read(&self.bytes_received),
            dropped_full: read(&self.dropped_full),
            dropped_down: read(&self.dropped_down),
            refused: read(&self.refused),
            links_up: read(&self.links_up),
            retried: read(&self.retried),
            turned_away: read(&self.turned_away),
            sieved: read(sieved),
        }
    }
}
