//! Blocks of ports, as they are granted.

use bincode::{Decode, Encode};

use crate::FrontendId;

/// A contiguous range of ports of one frontend, a power of two long and aligned to its length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct PortBlock {
    /// The frontend whose ports these are.
    pub frontend: FrontendId,
    /// The first port.
    pub start: u16,
    /// How many ports; a power of two.
    pub len: u16,
}

impl PortBlock {
    /// Whether `port` lies in this block.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        port >= self.start && port - self.start < self.len
    }

    /// All ports of an address that is one backend's own; two, since a length has sixteen bits.
    #[must_use]
    pub const fn whole(frontend: FrontendId) -> [Self; 2] {
        const HALF: u16 = 1 << 15;
        [Self { frontend, start: 0, len: HALF }, Self { frontend, start: HALF, len: HALF }]
    }
}
