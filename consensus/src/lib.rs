//! Multi-Raft over raft-rs: one durable control group, many in-memory flow groups, their incarnations, leases,
//! elections, snapshots and re-creation. Knows nothing of NAT: entries are bytes.
//!
//! Two wings that know nothing of each other, [`control`] and [`flow`], stand on [`wire`] (the bytes) and [`event`] (what
//! goes in and comes out).
//!
//! Pure: no clock, socket, thread or log. `now_ns` is CLOCK_BOOTTIME in nanoseconds; effects come out of `poll`, **and the
//! caller performs them in the order given** (a lease word is zeroed before the message that makes it invalid leaves, L2).
#![forbid(unsafe_code)]

pub mod control;
pub mod event;
pub mod flow;
pub mod wire;
