//! A probe as it is declared. Plain data.

use std::fmt;

use bincode::{Decode, Encode};
use serde::Serialize;

/// A health probe, of a load balancer or a machine's own (S22).
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

/// Which probe; written as people call it, and read by [`ProbeRef::parse`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub enum ProbeRef {
    /// One of a load balancer, for the rules that name it: `load_balancer/probe`.
    LoadBalancer {
        /// The load balancer.
        load_balancer: String,
        /// The probe.
        probe: String,
    },
    /// A machine's own, for rules that name none: `instance NAME`.
    Instance(String),
}

/// What stands before the name of a machine.
const INSTANCE: &str = "instance ";

impl ProbeRef {
    /// From what it is written as: names have neither spaces nor slashes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix(INSTANCE) {
            return Some(Self::Instance(name.to_owned()));
        }
        let (load_balancer, probe) = text.split_once('/')?;
        Some(Self::LoadBalancer { load_balancer: load_balancer.to_owned(), probe: probe.to_owned() })
    }
}

impl fmt::Display for ProbeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoadBalancer { load_balancer, probe } => write!(f, "{load_balancer}/{probe}"),
            Self::Instance(name) => write!(f, "{INSTANCE}{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_read_from_what_it_is_written_as() {
        let of_balancer = ProbeRef::LoadBalancer { load_balancer: "instance".into(), probe: "web".into() };
        for (probe, text) in [(of_balancer, "instance/web"), (ProbeRef::Instance("web-1_X".into()), "instance web-1_X")]
        {
            assert_eq!(probe.to_string(), text);
            assert_eq!(ProbeRef::parse(text), Some(probe));
        }
        assert_eq!(ProbeRef::parse("web"), None);
    }
}
