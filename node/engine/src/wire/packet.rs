//! A frame's meaning: what an IPv4 packet says.

use std::net::Ipv4Addr;

pub use words::{ChecksumState, FrameMeta, Gso};

use super::fragment::Piece;
use super::transport::{IcmpKind, TcpFields};
use super::{ethernet, udp};
use crate::ids::Mac;
use crate::record::Proto;

/// An IPv4 packet of TCP, UDP or ICMP echo, whose lengths and checksums are right; or the first fragment of one, of whose
/// transport only the header is judged. Of GRE, ESP and SCTP nothing but the length of the header is judged in any packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// Source of the frame; never a group address.
    pub eth_src: Mac,
    /// Destination of the frame.
    pub eth_dst: Mac,
    /// Source address; an address that may be one, and not `dst`.
    pub src: Ipv4Addr,
    /// Destination address, not judged.
    pub dst: Ipv4Addr,
    /// Time to live as it arrived; 0 and 1 are possible.
    pub ttl: u8,
    /// Transport protocol.
    pub proto: Proto,
    /// Source port; of an echo request its identifier, of an echo reply 0, and of a protocol without ports.
    pub src_port: u16,
    /// Destination port; of an echo request 0, and of a protocol without ports, of an echo reply its identifier.
    pub dst_port: u16,
    /// Present exactly for TCP.
    pub tcp: Option<TcpFields>,
    /// Present exactly for ICMP.
    pub icmp: Option<IcmpKind>,
    /// Present exactly for a fragment, the first of its datagram.
    pub fragment: Option<Piece>,
    /// Where the IP header starts in the frame.
    pub l3: u16,
    /// Where the transport header starts in the frame.
    pub l4: u16,
    /// Octets from the IP header to the end of the packet; the frame may be longer by padding.
    pub total_len: u16,
}

impl IpPacket {
    /// Octets of the largest IP packet that goes on a wire for this frame: of a super-packet, a segment.
    #[must_use]
    pub fn wire_len(&self, meta: &FrameMeta) -> u16 {
        let ip = self.l4 - self.l3;
        let payload = self.tcp.map_or(0, |tcp| u16::try_from(tcp.payload_len).unwrap_or(u16::MAX));
        let whole = match meta.gso {
            Gso::None => self.total_len,
            Gso::Tcp4 { size } => self.total_len.saturating_sub(payload).saturating_add(size),
            Gso::Udp { size } => (ip + udp::LEN).saturating_add(size),
        };
        whole.min(self.total_len)
    }
}

/// Where the IP header starts: Ethernet without tags.
pub(crate) const L3: u16 = 14;
const _: () = assert!(L3 as usize == ethernet::LEN);
