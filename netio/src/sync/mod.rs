//! Lock-free types between the worker threads and the rest of the daemon.
//!
//! The files in this folder take every atomic, fence and cell from `super::primitives`, and nothing else from `std::sync`.
//! `tests/loom` includes the very same files below its own `primitives` (loom's, and deliberately weakened ones), so what
//! is model-checked is what runs. Nothing here may block, log or make a system call.

pub mod doorbell;
pub mod primitives;
pub mod spsc;
pub mod word;
