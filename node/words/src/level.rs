//! Levels of the replicated formats (C2): an entry is written as the cluster's level says, and a level is raised only when each
//! member's program reads what it brings.

/// What every build reads.
pub const FIRST: u16 = 1;
/// The newest that this build reads and writes. Level 2: entries of flow logs say under which right a mapping stands. Level 3: they
/// have mappings of protocols that are translated by address alone.
pub const NEWEST: u16 = 3;
/// From which on an address may be one instance's own, since the log says so of its mappings.
pub const OWN_ADDRESSES: u16 = 2;
/// From which on there may be system addresses, since the log says which mappings are by them.
pub const SYSTEM_ADDRESSES: u16 = 2;
/// From which on GRE, ESP and SCTP are translated at an address of one's own, since the log has their mappings.
pub const BY_ADDRESS: u16 = 3;
