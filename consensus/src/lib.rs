//! Multi-Raft over raft-rs: one durable control group, many in-memory flow groups, their incarnations, leases,
//! elections, snapshots and re-creation. Knows nothing of NAT: entries are bytes.
//!
//! Pure: no clock, socket, thread or log. `now_ns` is CLOCK_BOOTTIME in nanoseconds; effects come out of `poll`, **and the
//! caller performs them in the order given** (a lease word is zeroed before the message that makes it invalid leaves, L2).
#![forbid(unsafe_code)]

pub mod barrier;
pub mod control_group;
pub mod election;
pub mod event;
pub mod flow_group;
pub mod flow_groups;
pub mod frame;
pub mod guard;
pub mod handover;
mod leading;
pub mod lease;
pub mod membership;
pub mod memory;
pub mod owners;
pub mod recreate;
pub mod storage;
pub mod transfer;
pub mod turns;
pub mod wire;
