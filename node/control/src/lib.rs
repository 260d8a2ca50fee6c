//! The replicated control state of qnat.
#![forbid(unsafe_code)]
