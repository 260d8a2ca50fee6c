//! What the lock-free files are built from in production: the atomics of `core` and a cell with loom's access shape.
//! `tests/loom` has a file of the same role for its models. Only the files in this folder use it.

use std::cell;

pub use std::sync::Arc;
pub use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// An `UnsafeCell` that hands its pointer to a closure, so that loom's twin can check each access.
#[derive(Debug)]
#[repr(transparent)]
pub struct UnsafeCell<T>(cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(cell::UnsafeCell::new(value))
    }

    /// Shared access: no one may write meanwhile (loom checks it).
    #[inline(always)]
    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// Exclusive access: no one may read or write meanwhile (loom checks it).
    #[inline(always)]
    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
