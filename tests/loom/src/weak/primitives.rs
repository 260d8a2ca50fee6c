//! Loom's primitives with the orderings taken out: the planted fault that each model has to find.

pub use loom::cell::UnsafeCell;
pub use loom::sync::Arc;
pub use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use loom::sync::atomic::Ordering as Exact;

/// Same names as the real one, every one of them `Relaxed`.
#[derive(Debug)]
pub struct Ordering;

#[expect(non_upper_case_globals, reason = "stands in for the variants of the real enum")]
impl Ordering {
    /// Weakened.
    pub const Relaxed: Exact = Exact::Relaxed;
    /// Weakened.
    pub const Acquire: Exact = Exact::Relaxed;
    /// Weakened.
    pub const Release: Exact = Exact::Relaxed;
    /// Weakened.
    pub const SeqCst: Exact = Exact::Relaxed;
}

/// No fence at all.
pub fn fence(_: Exact) {}
