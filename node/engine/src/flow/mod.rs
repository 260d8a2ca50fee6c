//! The flow table of one shard: mappings, live and held, with both of their indexes.
//!
//! It knows mappings, not packets, and never decides: `apply` writes what the log says, `judge` reads.

mod holds;
mod index;
mod record;
mod table;
mod translation;

pub use holds::{HoldEntry, HoldQueues};
pub use record::{FlowKey, Mark, Record, Seen, Slot, State};
pub use table::Table;
pub(crate) use translation::{Answers, Translation};
