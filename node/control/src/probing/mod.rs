//! Health probes, on the control side (S22): as they are declared (`model`), read from a file (`reading`), judged
//! (`checking`, `bounds`), what is committed of whom they ask (`health`), what workers and the prober are told
//! (`compiling`), and what people see of it (`rows`).
//!
//! Pure. Whoever owns a shard asks its backends and proposes what has changed; the log decides for all members alike (W3).

mod applying;
pub mod bounds;
pub(crate) mod checking;
pub(crate) mod compiling;
pub mod health;
pub mod model;
pub(crate) mod reading;
pub mod rows;
