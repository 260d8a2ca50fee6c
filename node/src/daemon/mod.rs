//! The running member: threads, actors and how they are wired.

pub mod request;
