//! The translation engine of qnat: a packet goes in, a verdict comes out.
//!
//! Pure: no clock, socket, log, lock or allocation on the packet path; `now_ns` (CLOCK_BOOTTIME) and every seed are
//! arguments. It must never see Raft, tokio or a file. Called by the worker threads of `node` and by the simulator.
//!
//! `worker` is the door. Behind it: `pipeline` judges frames, `established` applies the `translation` of those whose mapping
//! stands, `outbound` and `inbound` judge the others by `policy`, `errors` those that
//! quote others, `pieces` those in fragments; `judge` has what they share, `addresses` says where an address is; `notices`
//! tells senders (`wire` parses and rewrites, `arp` and `neigh` find neighbours and announce, `sounding` asks whether frames pass; `ahead`
//! warms the cache for a batch). `group` takes what the flow groups tell. `shard` does an owner's duties (`overlay`: what is
//! proposed; `stream`: in which batches), `apply` writes what the log says into the `flow` table, `scan` copies it to a joiner
//! in `chunks`, `status` and `sessions` tell.
//!
//! No two files import each other, also by way of others: `cargo run -p qnat-tests --bin house` draws it, and a test holds it.
#![forbid(unsafe_code)]

mod addresses;
mod ahead;
mod announcement;
mod apply;
mod arp;
mod backend;
pub mod backends;
mod chunks;
pub mod claims;
pub mod codec;
mod context;
pub mod counters;
mod drains;
mod duties;
mod egress;
mod errors;
mod established;
pub mod event;
pub mod flow;
mod fragmenting;
mod fragments;
mod group;
mod hairpin;
mod held;
pub mod histogram;
pub mod ids;
mod inbound;
mod judge;
mod lease;
mod limits;
pub mod links;
pub mod map;
mod meta;
pub mod nat;
pub mod neigh;
mod notices;
mod noting;
pub mod nsg;
mod opening;
mod outbound;
mod overlay;
mod pieces;
mod pipeline;
mod policy;
pub mod ports;
mod quota;
pub mod record;
mod reset;
mod revision;
mod rights;
mod scan;
pub mod sessions;
mod shard;
mod shards;
pub mod snapshot;
mod sounding;
pub mod soundings;
pub mod status;
mod stream;
mod telling;
mod translation;
pub mod wire;
pub mod worker;

pub use apply::ApplyCounts;
pub use lease::LeaseWords;
