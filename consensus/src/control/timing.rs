//! How often a control group ticks, and how much of its log it keeps.

/// Timing and retention of the control group; one value for the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlTiming {
    /// Tick length.
    pub tick_ns: u64,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: u32,
    /// Shortest election timeout in ticks; drawn up to twice as long.
    pub election_ticks: u32,
    /// A snapshot that was not answered for so long is sent again.
    pub snapshot_retry_ns: u64,
    /// How many entries before the stored state are kept for followers that lag.
    pub trailing_entries: u64,
    /// How many bytes of command these may have at most.
    pub trailing_bytes: u64,
}

impl Default for ControlTiming {
    fn default() -> Self {
        Self {
            tick_ns: 20_000_000,
            heartbeat_ticks: 3,
            election_ticks: 15,
            snapshot_retry_ns: 2_000_000_000,
            trailing_entries: 1024,
            trailing_bytes: 16 << 20,
        }
    }
}
