//! Per-protocol knowledge of the translator.

pub mod tcp;
pub(crate) mod timeouts;
