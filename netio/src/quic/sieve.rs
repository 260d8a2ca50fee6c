//! A UDP socket that passes only so many handshake packets a second on. What begins a handshake costs the endpoint keys and
//! ciphers before anybody can ask who sent it; so the excess is dropped here, after a look at its first octet. Packets of
//! connections that stand are never touched. Used by both endpoints of the transport.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::Instant;

use super::admission::Bucket;

/// Receptions in a row of which nothing is left, before others get their turn.
const ROUNDS_MAX: usize = 8;
/// Header Form of a packet with a long header (RFC 9000, 17.2): handshakes use it, and nothing after them.
const LONG_HEADER: u8 = 0x80;

/// See the module.
#[derive(Debug)]
pub(super) struct Sieve {
    inner: Arc<dyn AsyncUdpSocket>,
    handshakes: Mutex<Bucket>,
    dropped: Arc<AtomicU64>,
}

impl Sieve {
    /// Passes what `handshakes` allows and counts the rest in `dropped`.
    pub(super) fn new(inner: Arc<dyn AsyncUdpSocket>, handshakes: Bucket, dropped: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self { inner, handshakes: Mutex::new(handshakes), dropped })
    }

    /// Whether what was received together, all from one sender, may pass: datagrams of `stride` bytes each.
    fn passes(&self, bytes: &[u8], stride: usize) -> bool {
        let datagrams = bytes.chunks(stride.max(1));
        let handshakes = datagrams.filter(|d| d.first().is_some_and(|first| first & LONG_HEADER != 0)).count();
        let handshakes = u32::try_from(handshakes).unwrap_or(u32::MAX);
        let mut bucket = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        let passes = handshakes == 0 || bucket.take(Instant::now(), handshakes);
        if !passes {
            self.dropped.fetch_add(handshakes.into(), Ordering::Relaxed);
        }
        passes
    }
}

impl AsyncUdpSocket for Sieve {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..ROUNDS_MAX {
            let received = ready!(self.inner.poll_recv(cx, bufs, meta))?;
            let mut kept = 0;
            for n in 0..received {
                let RecvMeta { len, stride, .. } = meta[n];
                if self.passes(&bufs[n][..len], stride) {
                    bufs.swap(kept, n);
                    meta.swap(kept, n);
                    kept += 1;
                }
            }
            if kept > 0 {
                return Poll::Ready(Ok(kept));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
