//! Mappings, port leases and table hashes.

use std::net::Ipv4Addr;

use control::view::PortRange;
use serde::{Deserialize, Serialize};

/// Mappings.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Flows {
    /// One each.
    pub flows: Vec<FlowRow>,
}

/// One mapping.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowRow {
    /// The shard.
    pub shard: u16,
    /// `tcp`, `udp` or `icmp`.
    pub proto: String,
    /// Number of the backend whose lease the port comes from.
    pub backend: u32,
    /// The virtual network of the backend's end; its address may be another backend's in another one.
    pub network: Option<String>,
    /// The backend's end, at its own address.
    pub inside: String,
    /// Whether the backend sees and sends the public end's address in its place.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub floating: bool,
    /// The public end.
    pub public: String,
    /// The remote end.
    pub remote: String,
    /// By which right it leaves: `pool`, or `private` between two instances, nothing translated.
    pub scenario: String,
    /// `opening`, `live`, `closing` or `held (CLASS)`.
    pub state: String,
    /// Milliseconds since the last packet that counted, as far as the answering member knows.
    pub idle_ms: u64,
    /// The entry that wrote it last; 0 while opening.
    pub written_at: u64,
    /// Whether the owner's kernel carries its packets.
    pub carried: bool,
}

/// Leases and their use.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ports {
    /// One for each backend.
    pub backends: Vec<BackendPorts>,
}

/// The lease of one backend. `used` and `held` are known for shards that the answering member replicates.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendPorts {
    /// `instance/ip_configuration`.
    pub backend: String,
    /// Its number.
    pub id: u32,
    /// Its virtual network.
    pub network: String,
    /// Its address.
    pub ip: Option<Ipv4Addr>,
    /// Its public address.
    pub frontend: Option<Ipv4Addr>,
    /// By which right its new flows leave: `pool`, `default` by a system address, `own address`.
    pub way_out: Option<String>,
    /// Its home shard.
    pub shard: Option<u16>,
    /// The lease.
    pub lease: Vec<PortRange>,
    /// Blocks on their way back.
    pub draining: Vec<PortRange>,
    /// Ports of the lease.
    pub allocated: u16,
    /// Ports with a live mapping.
    pub used: Option<u32>,
    /// Ports without one, but held towards some remote.
    pub held: Option<u32>,
    /// Live and held mappings, which its limit counts.
    pub flows: Option<u32>,
    /// Why it has no ports, or not all; empty if all is well.
    pub why: String,
}

/// Live flows on pieces of port space.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PortLoads {
    /// In the order of the pieces; none without a whole table of the shard.
    pub flows: Option<Vec<u32>>,
}

/// State hashes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hashes {
    /// One for each replica of the answering member.
    pub shards: Vec<HashRow>,
}

/// The state hash of a replica (I22).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HashRow {
    /// The shard.
    pub shard: u16,
    /// Its epoch.
    pub epoch: u32,
    /// The applied index.
    pub applied: u64,
    /// Live mappings.
    pub live: u32,
    /// Held mappings.
    pub held: u32,
    /// The hash, in hex.
    pub hash: String,
}
