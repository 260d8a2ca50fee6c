//! The running member: threads, actors and how they are wired.
//!
//! `run` starts everything. The flow actor has a thread with raised priority, the control actor one that may wait for the
//! disk, each worker one that never meets an actor but through rings; strangers at the peer port, the egress guard's upkeep
//! and the address-translation log have ordinary ones. The API and its answers live on the main thread.

pub mod answer;
mod applying;
pub mod ask;
pub mod awake;
pub mod backlog;
pub mod backup;
pub mod bindings;
mod chance;
pub mod clerk;
mod clock;
pub mod concerns;
pub mod config;
mod confirming;
pub mod control_actor;
pub mod control_store;
mod counting;
mod cutting;
pub mod data_config;
mod dumping;
pub(crate) mod explaining;
pub mod fast_path;
pub mod flow_actor;
pub mod founding;
mod groups;
pub mod guard_keeper;
mod health;
mod inquiry;
mod interfaces;
pub mod joining;
mod lanes;
mod life;
pub mod lines;
pub mod link_watch;
mod machine;
pub mod member_lock;
pub mod messages;
pub mod metrics;
pub mod nat_log_config;
mod noting;
mod own_key;
pub mod probe_ends;
pub mod prober;
pub mod questions;
pub mod recovery;
pub mod reports;
pub mod request;
mod resources;
pub mod room;
pub mod run;
mod status;
mod stopping;
mod tape;
mod together;
pub mod watch;
pub mod worker_thread;
mod workers;
pub mod workers_config;

pub use life::{EXIT_AGAIN, Ending};
pub use run::run;
