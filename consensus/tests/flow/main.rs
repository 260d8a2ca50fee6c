//! The flow groups of whole clusters, in virtual time: safety under seeded faults, and each procedure by itself.

#![allow(clippy::cast_possible_truncation, reason = "small numbers in tests")]

mod base;
mod chaos;
mod cluster;
mod hostile;
mod scenarios;
