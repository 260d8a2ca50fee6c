//! Health probes, as an owner makes them (S22): one question over a TCP stack of its own (`attempt`), what is said in it
//! (`speech`), and whom to ask when, and what has come of it (`book`).
//!
//! Without threads, clocks and sockets: packets and time come from `daemon::prober`, and go to the worker that owns the
//! backend's shard. The stack is a library in this process: the kernel's would need a route and an address for each virtual
//! network, and these may overlap (D14). It must never decide who gets a flow: that is the log's, by what is reported.

mod attempt;
mod book;
mod speech;

pub use attempt::{Attempt, Ended, Question};
pub use book::{Book, Due, Key, Lease};
