//! The running member: threads, actors and how they are wired.

pub mod config;
pub mod founding;
pub mod request;
mod run;

pub use run::run;
