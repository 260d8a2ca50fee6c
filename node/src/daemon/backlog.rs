//! Whether a worker is behind: what waits in its sockets' queues is measured a thousand times a second while it has anything to do.

use netio::packet::PacketLoop;

/// Between two looks.
const EVERY_NS: u64 = 1_000_000;
/// Of a queue's memory, in percent: a thousand small packets, which are some milliseconds of work, or ten merged ones. It costs nobody
/// anything that is not flooded.
const LONG_PERCENT: u32 = 5;

/// What the last look said.
#[derive(Debug, Default)]
pub struct Backlog {
    looked_ns: u64,
    is_long: bool,
}

impl Backlog {
    /// Whether so much waits that newcomers of who is flooded are to give way.
    pub fn is_long(&mut self, now_ns: u64, packets: &PacketLoop) -> bool {
        if now_ns >= self.looked_ns + EVERY_NS {
            (self.looked_ns, self.is_long) = (now_ns, packets.fullest_percent() >= LONG_PERCENT);
        }
        self.is_long
    }
}
