//! Per-protocol knowledge of the translator.

pub mod tcp;
