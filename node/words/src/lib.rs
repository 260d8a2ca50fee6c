//! The words that the crates of the workspace share: one meaning, one type.
//!
//! A leaf: imports no crate of the workspace, so that all of them may import it. Pure, and only what at least two crates
//! mean in the same way belongs here; a rule stands here only if it is the meaning of a word (when a lease runs, what
//! a prefix contains). Must never know a clock, a socket, Raft, or what becomes of a packet.
#![forbid(unsafe_code)]

mod address;
pub mod envelope;
mod fast;
mod frame;
mod group_event;
mod ids;
mod interface;
mod lease;
pub mod level;
mod link;
mod mac;
mod ports;
mod prefix;
mod random;
mod shard_set;
mod share;
mod side;
pub mod time;

pub use address::{Addr, Endpoint};
pub use fast::{FastBoth, FastSeen};
pub use frame::{ChecksumState, FrameMeta, Gso};
pub use group_event::GroupEvent;
pub use ids::{
    BackendId, ControlIndex, Epoch, FrontendId, Incarnation, LogIndex, NodeId, SHARDS_MAX, ShardId, Term, VnetId,
};
pub use interface::{INSIDE_MAX, InsideInterface};
pub use lease::{LeaseWord, LeaseWords};
pub use link::Link;
pub use mac::{Mac, NoMac};
pub use ports::PortBlock;
pub use prefix::{NoPrefix, Prefix};
pub use random::SplitMix;
pub use shard_set::ShardSet;
pub use share::{Share, WORKERS_MAX};
pub use side::Side;
