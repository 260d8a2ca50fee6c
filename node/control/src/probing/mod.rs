//! Health probes, on the control side (S22): as they are declared (`model`), read from a file (`reading`), judged
//! (`checking`, `bounds`), whom machines' own ask (`machines`), what is committed of whom they ask (`health`), what workers
//! and the prober are told (`compiling`), and what people see of it (`rows`, `concerns`).
//!
//! Pure. Whoever owns a shard asks its backends and proposes what has changed; the log decides for all members alike (W3).

mod applying;
pub mod bounds;
pub(crate) mod checking;
pub(crate) mod compiling;
pub(crate) mod concerns;
pub mod health;
mod machines;
pub mod model;
pub(crate) mod reading;
pub mod rows;
