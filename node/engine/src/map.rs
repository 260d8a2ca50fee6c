//! The map of the packet path.

use std::hash::BuildHasher;

use foldhash::fast::{FixedState, FoldHasher};
use hashbrown::HashMap;

/// Hash maps of the engine: keyed hashing with a fixed seed per process role, so that iteration order is never relied on.
pub type Map<K, V> = HashMap<K, V, Keyed>;

/// How the engine's maps hash. Where assertions are on it counts its hashes, so that a test can say what a packet costs.
#[derive(Clone, Debug, Default)]
pub struct Keyed(FixedState);

impl Keyed {
    /// Hashes of this seed.
    #[must_use]
    pub const fn with_seed(seed: u64) -> Self {
        Self(FixedState::with_seed(seed))
    }
}

impl BuildHasher for Keyed {
    type Hasher = FoldHasher<'static>;

    #[inline]
    fn build_hasher(&self) -> FoldHasher<'static> {
        #[cfg(debug_assertions)]
        HASHES.set(HASHES.get() + 1);
        self.0.build_hasher()
    }
}

#[cfg(debug_assertions)]
thread_local! {
    static HASHES: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Hashes of this thread's maps so far: each is a look-up.
#[cfg(debug_assertions)]
#[must_use]
pub fn hashes() -> u64 {
    HASHES.get()
}
