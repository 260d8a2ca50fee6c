//! The identifiers of `words`, under the name by which this crate's callers know them.

pub use words::{
    BackendId, ControlIndex, Epoch, FrontendId, Incarnation, LeaseWord, Link, LogIndex, Mac, NoMac, NodeId, PortBlock,
    SHARDS_MAX, ShardId, ShardSet, Side, Term, VnetId,
};
