//! Per-protocol knowledge of the translator.

pub(crate) mod identification;
pub mod tcp;
pub(crate) mod timeouts;
