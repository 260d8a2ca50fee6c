//! The asking side of the admin API: one blocking call, one answer, as the type that the caller names (`answers`).
//!
//! It must never repeat a call by itself: only [`ClientError::Unreachable`] proves that nothing was done. Called by `cli`,
//! inside a lab member's namespace where that is wanted.

use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::daemon::request::{Failure, Request};

/// How long a call may take in all: more than the server gives the node.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection: nothing was asked.
    #[error("no member answers at {addr} ({reason}); is the node running? Choose another with --api or --node")]
    Unreachable {
        /// Who was called.
        addr: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// The connection broke or the time was over after the call was sent: it may have been carried out.
    #[error("{addr} gave no answer ({reason}); the request may have been carried out all the same, see `qnat status`")]
    NoAnswer {
        /// Who was called.
        addr: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// The member answered, and what it answered is why not.
    #[error("{}", .0.problems.join("\n"))]
    Refused(Failure),
    /// Something answered that is no member.
    #[error("{addr} does not speak like a qnat member ({reason}); is it the right port?")]
    Garbled {
        /// Who was called.
        addr: SocketAddr,
        /// What is odd.
        reason: String,
    },
}

impl ClientError {
    /// Whether the cluster could not be reached or could not decide, as opposed to having said no.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::NoAnswer { .. } => true,
            Self::Refused(failure) => matches!(failure.status, 503 | 504),
            Self::Garbled { .. } => false,
        }
    }
}

/// Asks the member at `addr`.
///
/// # Errors
/// See [`ClientError`].
pub fn call<T: DeserializeOwned>(addr: SocketAddr, request: &Request) -> Result<T, ClientError> {
    call_within(addr, request, CALL_TIMEOUT)
}

/// [`call`] that gives up after `timeout`.
///
/// # Errors
/// See [`ClientError`].
pub fn call_within<T: DeserializeOwned>(
    addr: SocketAddr,
    request: &Request,
    timeout: Duration,
) -> Result<T, ClientError> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        // The API is on loopback: a proxy from the environment would send the call to another machine.
        .proxy(None)
        .build()
        .into();
    let sent = agent.post(format!("http://{addr}/v1/call")).send_json(request);
    let mut response = sent.map_err(|error| sending_failed(addr, &error))?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
    let body = body.map_err(|error| ClientError::NoAnswer { addr, reason: error.to_string() })?;
    if (200..300).contains(&status) {
        return serde_json::from_str(&body).map_err(|error| ClientError::Garbled { addr, reason: error.to_string() });
    }
    match serde_json::from_str::<Failure>(&body) {
        Ok(failure) => Err(ClientError::Refused(failure)),
        Err(_) => Err(ClientError::Garbled { addr, reason: format!("status {status}") }),
    }
}

/// Whether the call can have reached the member.
fn sending_failed(addr: SocketAddr, error: &ureq::Error) -> ClientError {
    // Whatever is not known to come before the connection may have come after it.
    let never_connected = if let ureq::Error::Io(io) = error {
        use std::io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable};
        matches!(io.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable | AddrNotAvailable)
    } else {
        matches!(
            error,
            ureq::Error::ConnectionFailed
                | ureq::Error::HostNotFound
                | ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve)
        )
    };
    let reason = error.to_string();
    if never_connected { ClientError::Unreachable { addr, reason } } else { ClientError::NoAnswer { addr, reason } }
}
