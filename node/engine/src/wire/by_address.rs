//! Hot path. GRE, ESP and SCTP: protocols of which a translator changes nothing but the addresses around them. No checksum of theirs
//! covers an address, so none is looked at: it passes as it was, and its receiver judges it. Called by `wire::parse` and `quote`.

use super::packet::{ChecksumState, FrameMeta, Gso};
use super::transport::Transport;
use crate::event::DropReason;
use crate::record::Proto;

/// Where an SCTP header has its checksum (RFC 9260 3.1).
const SCTP_CHECKSUM_AT: u16 = 8;

/// Octets of the shortest header: of GRE without options (RFC 2784 2.1), of ESP index and number (RFC 4303 2), of SCTP the common
/// one (RFC 9260 3.1). 0 for what is not translated so.
pub(super) const fn len(proto: Proto) -> u16 {
    match proto {
        Proto::Gre => 4,
        Proto::Esp => 8,
        Proto::Sctp => 12,
        Proto::Icmp | Proto::Tcp | Proto::Udp => 0,
    }
}

/// Reads the header of a whole packet of a protocol of this number.
pub(super) fn parse_whole(
    number: u8,
    payload: &[u8],
    l4: u16,
    meta: &FrameMeta,
) -> Result<(Proto, Transport), DropReason> {
    let proto = Proto::of_number(number).filter(|proto| proto.is_by_address()).ok_or(DropReason::UnknownProtocol)?;
    // What was merged is to be cut into packets with this header again, which no header of a device can say.
    if meta.gso != Gso::None {
        return Err(DropReason::SuperPacket);
    }
    let transport = parse(proto, payload)?;
    match meta.checksum {
        // A tunnel's payload may have one that the device completes: it lies behind the header and covers nothing that changes.
        ChecksumState::Partial { start, .. } if proto == Proto::Gre && start >= l4 + len(proto) => {}
        ChecksumState::Partial { start, offset }
            if proto == Proto::Sctp && (start, offset) == (l4, SCTP_CHECKSUM_AT) => {}
        ChecksumState::Partial { .. } => return Err(DropReason::Malformed),
        ChecksumState::Unverified | ChecksumState::Valid => {}
    }
    Ok((proto, transport))
}

/// Reads the header of a first fragment.
pub(super) fn parse(proto: Proto, payload: &[u8]) -> Result<Transport, DropReason> {
    if payload.len() < usize::from(len(proto)) {
        return Err(DropReason::Truncated);
    }
    let (src_port, dst_port) = ports(proto, *payload.first_chunk().ok_or(DropReason::Truncated)?);
    Ok(Transport { src_port, dst_port, tcp: None, icmp: None })
}

/// What its first octets say of ports.
pub(super) fn ports(proto: Proto, [s0, s1, d0, d1]: [u8; 4]) -> (u16, u16) {
    if proto.has_ports() { (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])) } else { (0, 0) }
}
