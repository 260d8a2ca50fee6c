//! The replicated control state of qnat: resources, leases, the shard map and node incarnations, as one deterministic
//! state machine over the control log.
//!
//! Pure: no clock, socket, log or Raft; commands come in as bytes, decisions come out as data. It imports only `engine`'s
//! types. [`state::State`] is the whole; [`command::Command`] is what changes it; `apply` says how; [`compile`] turns it
//! into what workers judge packets by; [`reconcile`] says what the control leader should propose now; [`plan`] says what a
//! configuration would change; [`view`] is what people and programs see, with each [`concern`]; [`port_log`] says who had which ports when; [`recovery`] is what a cluster continues from
//! that was lost; [`nsg`] has security groups, [`probing`] health probes. Called by `node` and by the simulator.
#![forbid(unsafe_code)]

pub mod allocation;
pub mod apply;
mod buddy;
mod census;
pub mod codec;
pub mod command;
pub mod compile;
pub mod concern;
pub mod config;
mod configure;
pub mod default_outbound;
mod grants;
pub mod holdings;
pub mod inbound;
mod issues;
mod lacks;
pub mod limits;
pub mod loads;
pub mod nsg;
pub mod outcome;
mod own;
pub mod parts;
mod places;
pub mod plan;
pub mod port_log;
pub mod printing;
pub mod probing;
mod reclaim;
pub mod reconcile;
pub mod recovery;
pub mod refusal;
pub mod registry;
pub mod resource;
mod rights;
mod role;
pub mod shards;
pub mod state;
mod stranded;
pub mod tier;
mod toml_reader;
pub mod validate;
pub mod view;

pub use command::{Command, CommandBody};
pub use outcome::{Outcome, Yield};
pub use refusal::Refusal;
pub use state::State;
