//! What the kernel's fast path says of a mapping's packets that it carried.

/// What passed one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FastSeen {
    /// Frames; a super-packet is one.
    pub packets: u64,
    /// Octets of IP.
    pub octets: u64,
    /// When the last one passed, CLOCK_BOOTTIME; 0: none.
    pub last_ns: u64,
    /// TCP: behind the sender's last octet, the remote's as far as it came in order, and the newest of the other's that it acknowledged.
    pub tcp: (u32, u32),
}

/// Both ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FastBoth {
    /// From the backend.
    pub out: FastSeen,
    /// From the remote.
    pub incoming: FastSeen,
}

impl FastBoth {
    /// Frames both ways.
    #[must_use]
    pub const fn packets(&self) -> u64 {
        self.out.packets + self.incoming.packets
    }
}
