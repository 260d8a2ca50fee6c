//! The map of the packet path.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// Hash maps of the engine: keyed hashing with a fixed seed per process role, so that iteration order is never relied on.
pub type Map<K, V> = HashMap<K, V, FixedState>;
