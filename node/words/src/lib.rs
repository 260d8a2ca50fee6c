//! The words that the crates of the workspace share: one meaning, one type.
//!
//! A leaf: imports no crate of the workspace, so that all of them may import it. Pure, and only what at least two crates
//! mean in the same way belongs here; a rule stands here only if it is the meaning of a word (when a lease runs, what
//! a prefix contains). Must never know a clock, a socket, Raft, or what becomes of a packet.
#![forbid(unsafe_code)]

mod address;
pub mod envelope;
mod frame;
mod ids;
mod lease;
pub mod level;
mod mac;
mod ports;
mod prefix;
mod random;
mod side;
pub mod time;

pub use address::{Addr, Endpoint};
pub use frame::{ChecksumState, FrameMeta, Gso};
pub use ids::{
    BackendId, ControlIndex, Epoch, FrontendId, Incarnation, LogIndex, NodeId, SHARDS_MAX, ShardId, Term, VnetId,
};
pub use lease::{LeaseWord, LeaseWords};
pub use mac::{Mac, NoMac};
pub use ports::PortBlock;
pub use prefix::{NoPrefix, Prefix};
pub use random::SplitMix;
pub use side::Side;
