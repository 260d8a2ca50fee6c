//! The kernel's fast path of one member.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What it carries, and what it made of the frames that it looked at. See `engine::fast::FastCounts` and
/// `netio::fast::FastFates`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FastPath {
    /// `off`, `on` or `eager`.
    pub mode: String,
    /// Each data interface: `kernel` if the fast path stands there and is on, `kernel, far end` if it also hands what leaves there
    /// straight to the other end of a pair, else why every packet goes by a worker.
    pub interfaces: BTreeMap<String, String>,
    /// Mappings that it carries now.
    pub entries: u64,
    /// As many as it has room for.
    pub room: u64,
    /// Handed over so far.
    pub installed: u64,
    /// Taken back so far.
    pub ended: u64,
    /// Part of those: nobody had used them lately, and others wanted room.
    pub cold: u64,
    /// Not handed over, for want of room or because the kernel did not take them.
    pub not_taken: u64,
    /// Frames that it sent; no worker has seen or counted them.
    pub sent: u64,
    /// Those by direction.
    pub out: Carried,
    /// The same.
    pub incoming: Carried,
    /// Part of those: in grace, from the member's own MAC.
    pub sent_in_grace: u64,
    /// Frames that it dropped, since their right ended while they were rewritten.
    pub dropped: u64,
    /// Frames to virtual MACs that it left to the workers, by reason.
    pub left: BTreeMap<String, u64>,
}

/// What was sent in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Carried {
    /// Frames; merged ones count once.
    pub packets: u64,
    /// Octets of IP.
    pub octets: u64,
}
