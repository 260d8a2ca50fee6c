//! Hot path. Fragments of IPv4 datagrams (RFC 791 2.3): where each lies in its datagram. The first one is an `IpPacket`,
//! since it has the ports; the others are found by the identification that they share.

use std::net::Ipv4Addr;

use crate::event::{DropReason, Last};
use crate::ids::Mac;
use crate::record::Proto;

/// A part of a datagram's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The datagram's identification.
    pub id: u16,
    /// Where it starts, in octets.
    pub start: u16,
    /// Where it ends.
    pub end: u16,
    /// Whether the datagram ends there too.
    pub last: Last,
}

/// A fragment that is not the first of its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Source of the frame.
    pub eth_src: Mac,
    /// Destination of the frame.
    pub eth_dst: Mac,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Time to live as it arrived.
    pub ttl: u8,
    /// Transport protocol.
    pub proto: Proto,
    /// Which part it is.
    pub piece: Piece,
    /// Where the IP header starts in the frame.
    pub l3: u16,
    /// Octets of the packet.
    pub total_len: u16,
}

impl Piece {
    /// The part that a header tells of; `None`: the whole datagram. `word`: flags and offset; `header` and `payload`: octets.
    pub(super) fn of(id: u16, word: u16, header: u16, payload: u16) -> Result<Option<Self>, DropReason> {
        let (more, start) = (word & 0x2000 != 0, (word & 0x1fff) * 8);
        if !more && start == 0 {
            return Ok(None);
        }
        // All but the last end where the next can begin, and none behind what a datagram can hold ("ping of death").
        let end = start.checked_add(payload).filter(|end| end.checked_add(header).is_some());
        let end = end.ok_or(DropReason::Malformed)?;
        if payload == 0 || (more && !payload.is_multiple_of(8)) {
            return Err(DropReason::Malformed);
        }
        Ok(Some(Self { id, start, end, last: if more { Last::No } else { Last::Yes } }))
    }

    /// Refuses a later fragment that would lie over the transport header of the first (RFC 1858, RFC 3128).
    pub(super) fn check_start(&self, proto: Proto) -> Result<(), DropReason> {
        let header = match proto {
            Proto::Tcp => super::tcp::MIN_LEN,
            Proto::Udp => super::udp::LEN,
            Proto::Icmp => super::icmp::LEN,
            Proto::Gre | Proto::Esp | Proto::Sctp => super::by_address::len(proto),
        };
        if self.start < header { Err(DropReason::FragmentTiny) } else { Ok(()) }
    }
}
