//! What a packet loop is given, what it is told, and what it counts: interfaces, limits, dispositions, errors, counters.

use words::INSIDE_MAX;

use crate::link::Link;
use crate::socket::BufferLimits;

/// Which of a loop's data interfaces: the outside one, or an inside one in the order in which they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface(u8);

impl Interface {
    /// To the network of the public addresses.
    pub const OUTSIDE: Self = Self(0);

    /// The `place`-th inside one, from 0.
    ///
    /// # Panics
    /// If there cannot be so many.
    #[must_use]
    pub const fn inside(place: u8) -> Self {
        assert!((place as usize) < INSIDE_MAX, "a member has few inside interfaces");
        Self(place + 1)
    }

    /// 0 outside, then the inside ones: for tables with one element per interface, and for the guard's maps.
    #[must_use]
    pub fn index(self) -> usize {
        self.0.into()
    }

    /// Outside, then `inside` inside ones.
    pub fn all(inside: usize) -> impl Iterator<Item = Self> {
        std::iter::once(Self::OUTSIDE).chain((0..).take(inside).map(Self::inside))
    }

    pub(crate) fn at(index: usize) -> Self {
        Self(u8::try_from(index).expect("few"))
    }
}

/// One data interface.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// The interface.
    pub link: Link,
    /// Kernel buffers of its IPv4 socket; the ARP socket gets a sixteenth.
    pub limits: BufferLimits,
    /// Whether the device accepts every frame, instead of its own address and those added by `add_mac`.
    pub reception: Reception,
}

/// Which frames the device accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reception {
    /// Its own address and the added ones.
    Filtered,
    /// All: for devices that cannot hold several unicast addresses.
    Promiscuous,
}

/// Sizes of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopLimits {
    /// Buffers for received frames, a power of two, at most 16384; each 68 KiB of address space.
    pub receive_buffers: u16,
    /// Buffers for frames that the worker makes itself, at most 16384.
    pub transmit_buffers: u16,
    /// Requests per submission to the kernel.
    pub requests: u32,
}

impl Default for LoopLimits {
    fn default() -> Self {
        Self { receive_buffers: 1024, transmit_buffers: 256, requests: 512 }
    }
}

impl Default for BufferLimits {
    fn default() -> Self {
        Self { receive_bytes: 16 << 20, send_bytes: 16 << 20 }
    }
}

impl BufferLimits {
    /// Of a socket that has little to receive beside another one.
    pub(crate) const fn sixteenth(self) -> Self {
        Self { receive_bytes: self.receive_bytes / 16, send_bytes: self.send_bytes / 16 }
    }
}

/// What the worker wants done with a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Send it, as it is now, on `interface`; `tag` goes to `flush`'s check.
    Transmit {
        /// Where to.
        interface: Interface,
        /// By what right; means nothing to this crate.
        tag: u64,
    },
    /// Done with it.
    Done,
}

/// Why the loop cannot run.
#[derive(Debug, thiserror::Error)]
pub enum IoError {
    /// A limit that cannot be.
    #[error("{what} is {value}; {expected}")]
    Limit {
        /// The limit's name.
        what: &'static str,
        /// As configured.
        value: u64,
        /// What would be right.
        expected: &'static str,
    },
    /// A packet socket.
    #[error("packet socket on {interface}, {op}: {source}")]
    Socket {
        /// What was tried.
        op: &'static str,
        /// The interface.
        interface: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// io_uring.
    #[error("io_uring, {op}: {source}")]
    Ring {
        /// What was tried.
        op: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Counters of one interface since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames given to the worker.
    pub received: u64,
    /// Bytes of them, Ethernet header included.
    pub received_bytes: u64,
    /// Frames of a VLAN: no traffic of this network.
    pub received_tagged: u64,
    /// Frames too short for an Ethernet header.
    pub received_short: u64,
    /// Frames that the kernel dropped because its receive buffer was full (as of the last `link_states`).
    pub kernel_drops: u64,
    /// Times that receiving ended because every buffer was in use.
    pub out_of_buffers: u64,
    /// Times that receiving ended with another error, such as a link that went down.
    pub receive_errors: u64,
    /// Frames that the kernel took.
    pub transmitted: u64,
    /// Frames that `flush`'s check refused.
    pub refused_by_check: u64,
    /// Frames refused as ENOBUFS or EAGAIN: by the guard, or by a full queue.
    pub refused_by_kernel: u64,
    /// Frames refused because the link was down.
    pub link_down: u64,
    /// Frames refused for another reason.
    pub transmit_errors: u64,
    /// Frames of the worker that found no free buffer, or were longer than one.
    pub no_buffer: u64,
}

impl PortStats {
    /// Together with those of another loop on the same interface.
    #[must_use]
    pub const fn with(self, other: &Self) -> Self {
        Self {
            received: self.received + other.received,
            received_bytes: self.received_bytes + other.received_bytes,
            received_tagged: self.received_tagged + other.received_tagged,
            received_short: self.received_short + other.received_short,
            kernel_drops: self.kernel_drops + other.kernel_drops,
            out_of_buffers: self.out_of_buffers + other.out_of_buffers,
            receive_errors: self.receive_errors + other.receive_errors,
            transmitted: self.transmitted + other.transmitted,
            refused_by_check: self.refused_by_check + other.refused_by_check,
            refused_by_kernel: self.refused_by_kernel + other.refused_by_kernel,
            link_down: self.link_down + other.link_down,
            transmit_errors: self.transmit_errors + other.transmit_errors,
            no_buffer: self.no_buffer + other.no_buffer,
        }
    }
}

/// Refuses limits that cannot be.
pub(crate) fn check(limits: LoopLimits) -> Result<(), IoError> {
    const MAX: u16 = 16_384;
    let wrong = |what, value, expected| Err(IoError::Limit { what, value, expected });
    if !limits.receive_buffers.is_power_of_two() || limits.receive_buffers > MAX {
        return wrong("receive_buffers", limits.receive_buffers.into(), "a power of two up to 16384 is needed");
    }
    if limits.transmit_buffers == 0 || limits.transmit_buffers > MAX {
        return wrong("transmit_buffers", limits.transmit_buffers.into(), "1 to 16384 are possible");
    }
    if limits.requests == 0 || limits.requests > 32_768 {
        return wrong("requests", limits.requests.into(), "1 to 32768 are possible");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{IoError, LoopLimits, check};

    #[test]
    fn limits_that_cannot_be_are_refused_by_name() {
        let refused = |limits| match check(limits) {
            Err(IoError::Limit { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        check(LoopLimits::default()).expect("the defaults are possible");
        assert_eq!(refused(LoopLimits { receive_buffers: 1000, ..LoopLimits::default() }), "receive_buffers");
        assert_eq!(refused(LoopLimits { receive_buffers: 0, ..LoopLimits::default() }), "receive_buffers");
        assert_eq!(refused(LoopLimits { transmit_buffers: 0, ..LoopLimits::default() }), "transmit_buffers");
        assert_eq!(refused(LoopLimits { requests: 0, ..LoopLimits::default() }), "requests");
    }
}
