//! What transport headers say.

use std::ops::BitOr;

/// What the transport header says; the common part of all protocols.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transport {
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
    pub(super) tcp: Option<TcpFields>,
    pub(super) icmp: Option<IcmpKind>,
}

/// Which query it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpKind {
    /// Echo request: the identifier is the source port.
    EchoRequest,
    /// Echo reply: the identifier is the destination port.
    EchoReply,
}

/// The eight control bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment number counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// ECN echo.
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced.
    pub const CWR: Self = Self(0x80);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether some stack sends this. SYN, FIN and RST exclude each other, and a segment with none of SYN, RST and ACK
    /// belongs to no state of RFC 9293: that covers null, Xmas and lone FIN probes.
    pub(super) const fn is_plausible(self) -> bool {
        let exclusive = (self.0 & (Self::SYN.0 | Self::FIN.0 | Self::RST.0)).count_ones() <= 1;
        exclusive && self.intersects(Self(Self::SYN.0 | Self::RST.0 | Self::ACK.0))
    }
}

impl BitOr for TcpFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What connection tracking needs of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFields {
    /// Control bits; never a combination that no stack sends.
    pub flags: TcpFlags,
    /// Sequence number of the first octet (of the SYN, if set).
    pub seq: u32,
    /// Acknowledgment number; meaningless without ACK.
    pub ack: u32,
    /// Octets behind the header; of a super-packet those of all its segments.
    pub payload_len: u32,
}
