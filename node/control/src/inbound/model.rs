//! An inbound rule as it is declared: a port of a frontend leads to a pool, or to one instance. Plain data.

use bincode::{Decode, Encode};
use serde::Serialize;

/// A load-balancing rule (S21) or an inbound NAT rule (D17).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct InboundRule {
    /// Name of a frontend of the load balancer.
    pub frontend: String,
    /// Which packets.
    pub protocol: RuleProtocol,
    /// The port at the frontend; 0: every one.
    pub frontend_port: u16,
    /// Who gets them.
    pub target: Target,
    /// The port of the instance; 0: that of the frontend.
    pub backend_port: u16,
    /// The probe, of the same load balancer, that says who of them gets new flows; none: each one's machine, by its own.
    pub probe: Option<String>,
    /// Which packets of a client go to one member.
    pub distribution: Distribution,
    /// Idle timeout, 4..=100 minutes (S13).
    pub idle_timeout_minutes: u8,
    /// Resets to both sides when a TCP connection goes idle.
    pub enable_tcp_reset: bool,
    /// Whether its packets keep the frontend's address, which their receivers have too (D17); then both ports are the same.
    pub floating_ip: bool,
}

impl InboundRule {
    /// Whether every port of its frontend leads by it.
    #[must_use]
    pub const fn is_for_all_ports(&self) -> bool {
        self.frontend_port == 0
    }
}

/// Which packets a rule is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Encode, Decode, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// Both, to all ports.
    All,
}

/// Where a rule leads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// To a pool of the same load balancer.
    Pool(String),
    /// To one IP configuration.
    IpConfiguration {
        /// Of this instance.
        instance: String,
        /// Its name there.
        ip_configuration: String,
    },
}

/// Which of a client's flows go to the same member (D15).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub enum Distribution {
    /// Those of one connection.
    #[default]
    #[serde(rename = "5-tuple")]
    Connection,
    /// All of one source address and protocol.
    #[serde(rename = "source-ip-protocol")]
    SourceAndProtocol,
    /// All of one source address.
    #[serde(rename = "source-ip")]
    Source,
}
