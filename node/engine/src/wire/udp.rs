//! Hot path. UDP header (RFC 768). Called by `wire::parse`.

use super::transport::Transport;
use crate::event::DropReason;

/// Octets of the header.
pub(super) const LEN: u16 = 8;
/// Where the checksum stands in the header.
pub(super) const CHECKSUM_AT: u16 = 6;

/// A datagram's ports and the part of the IP payload that it says it fills.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram<'a> {
    pub(super) transport: Transport,
    /// Header and data: what the checksum covers. Octets behind it are legal and ignored (RFC 9868 calls them surplus).
    pub(super) covered: &'a [u8],
    /// Its length, as in the pseudo header.
    pub(super) len: u16,
    /// 0: the sender computed none.
    pub(super) checksum: u16,
}

/// Parses the header alone: of a first fragment.
pub(super) fn parse_ports(payload: &[u8]) -> Result<Transport, DropReason> {
    let [s0, s1, d0, d1, ..] = *payload.first_chunk::<{ LEN as usize }>().ok_or(DropReason::Truncated)?;
    let (src_port, dst_port) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    Ok(Transport { src_port, dst_port, tcp: None, icmp: None })
}

/// Parses the IP payload.
pub(super) fn parse(payload: &[u8]) -> Result<Datagram<'_>, DropReason> {
    let transport = parse_ports(payload)?;
    let fixed = payload.first_chunk::<{ LEN as usize }>().ok_or(DropReason::Truncated)?;
    let [_, _, _, _, l0, l1, c0, c1] = *fixed;
    let len = u16::from_be_bytes([l0, l1]);
    let covered =
        payload.get(..usize::from(len)).filter(|d| d.len() >= usize::from(LEN)).ok_or(DropReason::Malformed)?;
    Ok(Datagram { transport, covered, len, checksum: u16::from_be_bytes([c0, c1]) })
}
