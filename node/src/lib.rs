//! The qnat daemon and its command line.

pub mod answers;
pub mod api;
pub mod cli;
pub mod client;
pub mod daemon;
pub mod nat_log;
pub mod probing;
pub mod replay;
