//! The running member: threads, actors and how they are wired.
//!
//! `run` starts everything. The flow actor has a thread with raised priority, the control actor one that may wait for the
//! disk, the worker one that never meets an actor but through rings. The API and its answers live on the main thread.

pub mod answer;
pub mod config;
pub mod control_actor;
pub mod flow_actor;
pub mod founding;
pub mod metrics;
pub mod request;
pub mod run;
pub mod worker_thread;

pub use run::run;
