//! Loom models of the lock-free types of `netio::sync`: the very same source files, included once over loom's primitives
//! (`exact`) and once over primitives in which every ordering is weakened to `Relaxed` and every fence is dropped (`weak`).
//! The models in `tests/` must pass over the first and fail over the second, which shows that they would notice. Plain
//! `cargo test` runs them; no `--cfg loom`, which would reconfigure other crates too. Nothing but tests uses this crate.

#![expect(clippy::duplicate_mod, reason = "the same file over two sets of primitives is the point")]

pub mod exact;
pub mod explore;
pub mod weak;
