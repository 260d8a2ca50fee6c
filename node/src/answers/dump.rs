//! What is needed to explain packets away from the cluster: `qnat dump`.

use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

/// What a dump calls itself.
pub const DUMP_FORMAT: &str = "qnat dump 1";

/// A cluster at a moment, as far as packets are judged by it. No key and no certificate is in it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dump {
    /// [`DUMP_FORMAT`].
    pub format: String,
    /// The version that wrote it.
    pub version: String,
    /// The cluster's name.
    pub cluster: String,
    /// The member that gathered it.
    pub node: u32,
    /// When, milliseconds since 1970, by that member's clock.
    pub unix_ms: u64,
    /// The control state is as of this index.
    pub control_index: u64,
    /// Numbers of the backends whose mappings alone are in it; none: all.
    pub only: Vec<u32>,
    /// What is not in it, one line each.
    pub left_out: Vec<String>,
    /// The shards.
    pub shards: Vec<DumpedShard>,
    /// The control state without its secrets, encoded, in base64.
    pub state: String,
}

/// A shard as its owner had it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DumpedShard {
    /// The shard.
    pub shard: u16,
    /// Its epoch.
    pub epoch: u32,
    /// Who owned it; none: nobody who answered.
    pub owner: Option<u32>,
    /// In which term.
    pub term: Option<u64>,
    /// Which of the owner's workers has it.
    pub worker: u16,
    /// Its last applied entry.
    pub applied: u64,
    /// The control index that the owner judged by.
    pub loaded: u64,
    /// When its mappings were read, milliseconds since 1970, by the owner's clock.
    pub unix_ms: u64,
    /// Its mappings, or the first of them.
    pub mappings: Vec<KeptFlow>,
    /// Not all are among these.
    pub is_partial: bool,
}

/// A page of a shard's mappings, and what its owner says of the shard.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mappings {
    /// One each.
    pub mappings: Vec<KeptFlow>,
    /// Where the next page begins; none: there is none.
    pub next: Option<u32>,
    /// Its epoch.
    pub epoch: u32,
    /// In which term the answering member serves it; none: it does not.
    pub term: Option<u64>,
    /// Which of its workers has it.
    pub worker: u16,
    /// Its last applied entry.
    pub applied: u64,
    /// The control index that packets are judged by.
    pub loaded: u64,
    /// When.
    pub unix_ms: u64,
}

/// A mapping in few octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeptFlow {
    /// Its protocol's number.
    #[serde(rename = "p")]
    pub proto: u8,
    /// Number of its backend.
    #[serde(rename = "b")]
    pub backend: u32,
    /// Number of the virtual network of its inside end.
    #[serde(rename = "v")]
    pub vnet: u32,
    /// Its inside end.
    #[serde(rename = "i")]
    pub inside: SocketAddrV4,
    /// Number of its frontend, and its public port.
    #[serde(rename = "o")]
    pub public: (u32, u16),
    /// Its remote.
    #[serde(rename = "r")]
    pub remote: SocketAddrV4,
    /// Number of its right.
    #[serde(rename = "s")]
    pub scenario: u8,
    /// Number of its hold, if it is closed.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub held: Option<u8>,
    /// The entry that wrote it last.
    #[serde(rename = "w")]
    pub written_at: u64,
    /// Milliseconds since the last packet that counted.
    #[serde(rename = "t")]
    pub idle_ms: u64,
}
