//! A probe as it is declared. Plain data.

use std::fmt;

use bincode::{Decode, Encode};
use serde::Serialize;

/// A health probe of a load balancer (S22).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct Probe {
    /// How it asks.
    pub protocol: ProbeProtocol,
    /// Which port of the instance.
    pub port: u16,
    /// What it asks for; empty with `tcp`.
    pub request_path: String,
    /// From one question to the next, and how long an answer may take.
    pub interval_seconds: u16,
    /// So many failures in a row are an instance that is down.
    pub number_of_probes: u8,
}

/// How a probe asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeProtocol {
    /// The port takes a connection.
    #[default]
    Tcp,
    /// The answer to a request is 200.
    Http,
    /// The same by TLS; whose certificate it is does not matter.
    Https,
}

impl ProbeProtocol {
    /// As configurations have it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A probe, written `load_balancer/probe`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct ProbeRef {
    /// The load balancer.
    pub load_balancer: String,
    /// The probe.
    pub probe: String,
}

impl fmt::Display for ProbeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.load_balancer, self.probe)
    }
}
