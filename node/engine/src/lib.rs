//! The translation engine of qnat: a packet goes in, a verdict comes out.
//!
//! Pure: no clock, socket, log, lock or allocation on the packet path; `now_ns` (CLOCK_BOOTTIME) and every seed are
//! arguments. It must never see Raft, tokio or a file. Called by the worker threads of `node` and by the simulator.
#![forbid(unsafe_code)]

pub mod event;
pub mod ids;
pub mod neigh;
pub mod record;
pub mod snapshot;
pub mod wire;
