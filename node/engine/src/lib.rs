//! The translation engine of qnat: a packet goes in, a verdict comes out.
//!
//! Pure: no clock, socket, log, lock or allocation on the packet path; `now_ns` (CLOCK_BOOTTIME) and every seed are
//! arguments. It must never see Raft, tokio or a file. Called by the worker threads of `node` and by the simulator.
//!
//! `worker` is the door, and the only file that sees the whole: it lends its parts to the rooms. `judge` judges a frame
//! (`established` applies the `translation` of a mapping that stands, `outbound` and `inbound` judge the others by `policy`,
//! `errors` those that quote others, `pieces` those in fragments). `egress` is the one way out: next hops, neighbours, frames
//! that wait, notices. `group` takes what the flow groups tell, and `shard` keeps it (`apply` writes what the log says into the
//! `flow` table, `overlay` has what is proposed, `stream` in which batches, `scan` copies it to a joiner) and does an owner's
//! duties. `fast` is the trait by which the kernel carries packets, `cache` its books. `tell` counts and lists. `addresses` says where an address is, `context` by what all of them judge.
//!
//! No two files import each other, also by way of others: `cargo run -p qnat-tests --bin house` draws it, and a test holds it.
#![forbid(unsafe_code)]

mod addresses;
mod backend;
pub mod backends;
mod cache;
pub mod codec;
mod consent;
mod context;
mod egress;
pub mod event;
pub mod fast;
pub mod flow;
mod group;
pub mod ids;
mod judge;
mod lease;
pub mod map;
mod meta;
pub mod nat;
pub mod neigh;
pub mod nsg;
pub mod ports;
mod private;
pub mod probes;
pub mod record;
mod revision;
pub mod rules;
mod shard;
pub mod snapshot;
mod tell;
mod translation;
pub mod wire;
pub mod worker;

pub use egress::{claims, delivered, links, soundings};
pub use judge::explain;
pub use lease::LeaseWords;
pub use shard::apply::ApplyCounts;
pub use shard::shortages;
pub use tell::{counters, cuts, histogram, sessions, status};
