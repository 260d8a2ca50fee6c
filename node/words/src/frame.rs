//! What a device tells about a frame, and is told: how far its checksum is done, and how it is to be cut.

/// What the device told about a frame (virtio_net_hdr).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameMeta {
    /// How far the transport checksum can be relied on.
    pub checksum: ChecksumState,
    /// Whether this is a super-packet that is cut into segments later.
    pub gso: Gso,
    /// Of a TCP super-packet whose mark of a reduced window (CWR) belongs to its first segment only; goes along unread.
    pub ecn: bool,
    /// Octets of all headers, as the device told them; a hint for sending. 0 if unknown.
    pub header_len: u16,
}

/// State of the transport checksum. That of the IPv4 header is always complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChecksumState {
    /// Nobody looked: it is verified here.
    #[default]
    Unverified,
    /// Device or kernel verified it.
    Valid,
    /// The field holds the folded sum of the pseudo header only, not complemented (0 for ICMP, which has none); whoever
    /// sends the frame at last sums from `start` to the end and stores the complement at `start + offset`.
    Partial {
        /// Octets from the start of the frame.
        start: u16,
        /// Octets from `start`.
        offset: u16,
    },
}

/// Segmentation that is still to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// None: the frame goes on the wire as it is.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4 {
        /// Payload octets per segment.
        size: u16,
    },
    /// UDP datagrams of one flow behind one header.
    Udp {
        /// Payload octets per datagram.
        size: u16,
    },
}
