//! What a member says of an inside interface.

use bincode::{Decode, Encode};

use crate::mac::Mac;

/// Most inside interfaces of a member: the kernel's guard knows as many devices, and one is outside (`DEVICES` of
/// `bpf/guard.c`).
pub const INSIDE_MAX: usize = 15;

/// An inside interface as its member's configuration has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct InsideInterface {
    /// The virtual network that it leads to, by name; `None`: the only one that there is.
    pub network: Option<String>,
    /// Its MAC.
    pub mac: Mac,
}
