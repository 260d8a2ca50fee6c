//! The running member: threads, actors and how they are wired.
//!
//! `run` starts everything. The flow actor has a thread with raised priority, the control actor one that may wait for the
//! disk, the worker one that never meets an actor but through rings. The API and its answers live on the main thread.

pub mod answer;
pub mod backup;
pub mod config;
pub mod control_actor;
pub mod flow_actor;
pub mod founding;
pub mod metrics;
pub mod recovery;
pub mod request;
pub mod run;
pub mod worker_thread;

pub use run::run;

/// Ends this life at once, as a crash would (C4). Says why itself: log lines are written by a thread that ends with the rest.
fn end_life(why: &str) -> ! {
    use std::io::Write as _;
    // If standard error is closed there is nobody to tell.
    let _ignored = writeln!(std::io::stderr(), "qnat: this life ends: {why}");
    std::process::abort();
}
