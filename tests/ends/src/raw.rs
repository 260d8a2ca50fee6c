//! The other kind of end: a socket of the host's own stack for one IP protocol, which that stack adds headers to, cuts and puts
//! together again, and otherwise knows nothing of. Judges nothing. Called by the black-box tests.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, Protocol, SocketType, socket};

/// One end of flows of one protocol.
#[derive(Debug)]
pub struct IpSocket {
    /// No socket of UDP: what the standard library calls so reads and writes any that has no connection.
    socket: UdpSocket,
}

impl IpSocket {
    /// Opens one in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Without CAP_NET_RAW.
    pub fn open(protocol: u8) -> Result<Self> {
        let protocol = NonZeroU32::new(protocol.into()).map(Protocol::from_raw);
        let socket = socket(AddressFamily::INET, SocketType::RAW, protocol).context("a raw socket over IP")?;
        Ok(Self { socket: UdpSocket::from(socket) })
    }

    /// Sends a packet; all that stands behind the IP header.
    ///
    /// # Errors
    /// If the stack refuses it.
    pub fn send(&self, to: Ipv4Addr, payload: &[u8]) -> Result<()> {
        self.socket.send_to(payload, (to, 0)).map(drop).with_context(|| format!("a packet to {to}"))
    }

    /// Whether exactly this arrives from there in time; whatever else arrives is passed over.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn hears(&self, from: Ipv4Addr, payload: &[u8], within: Duration) -> Result<bool> {
        let until = Instant::now() + within;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.socket.set_read_timeout(Some(left))?;
            let length = match self.socket.recv(&mut buffer) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(false),
                other => other.context("receiving")?,
            };
            let header = usize::from(buffer[0] & 15) * 4;
            if buffer[12..16] == from.octets() && buffer.get(header..length) == Some(payload) {
                return Ok(true);
            }
        }
    }
}
