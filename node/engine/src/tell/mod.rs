//! What a worker tells: counters, what happened to mappings, entries and reports for the flow groups, and listings for those
//! who ask.

pub mod counters;
pub mod cuts;
pub mod histogram;
pub mod sessions;
pub mod status;
pub(crate) mod telling;
