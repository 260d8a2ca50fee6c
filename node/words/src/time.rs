//! Units of time. All times are nanoseconds, of CLOCK_BOOTTIME where a moment is meant.

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000 * MS;
