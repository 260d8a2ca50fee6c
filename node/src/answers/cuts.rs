//! Flows that a change ends, foretold or measured (D19), and what rules have decided.

use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

use super::FlowRow;

/// How many flows a change ends, or has ended.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowsCut {
    /// How many.
    pub flows: u64,
    /// Some of them, before they end.
    pub listed: Vec<FlowRow>,
    /// Shards whose owners did not answer in time, or had not judged every flow yet: of their flows there may be more.
    pub uncounted_shards: Vec<u16>,
}

/// A page of live flows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LiveFlows {
    /// One each.
    pub flows: Vec<LiveFlow>,
    /// Where the next page begins; none: there is none.
    pub next: Option<u32>,
}

/// A live flow in few octets: a page has thousands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LiveFlow {
    /// Its protocol's number.
    #[serde(rename = "p")]
    pub proto: u8,
    /// Whether it is private traffic.
    #[serde(rename = "s", default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    /// Number of the right under which it stands (`Scenario`), of what is not private.
    #[serde(rename = "c", default, skip_serializing_if = "is_zero")]
    pub scenario: u8,
    /// Number of its backend.
    #[serde(rename = "b")]
    pub backend: u32,
    /// Number of the virtual network of its inside end.
    #[serde(rename = "v")]
    pub vnet: u32,
    /// Its inside end.
    #[serde(rename = "i")]
    pub inside: SocketAddrV4,
    /// Its public end.
    #[serde(rename = "o")]
    pub public: SocketAddrV4,
    /// Its remote.
    #[serde(rename = "r")]
    pub remote: SocketAddrV4,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_zero(number: &u8) -> bool {
    *number == 0
}

/// How often rules have decided, as a member has counted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleHits {
    /// In the order of the keys that were named.
    pub hits: Vec<u64>,
    /// Hits that found no room.
    pub lost: u64,
}

/// What changes have ended in the shards that the answering member owns.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cuts {
    /// One each.
    pub shards: Vec<ShardCut>,
}

/// What changes have ended in a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ShardCut {
    /// The shard.
    pub shard: u16,
    /// How many flows.
    pub flows: u64,
    /// Its owner has judged all, and the log has each end.
    pub over: bool,
}
