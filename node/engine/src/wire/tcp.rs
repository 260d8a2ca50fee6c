//! Hot path. TCP header (RFC 9293): ports, flags, sequence numbers. Connection state is not kept here; called by
//! `wire::parse`.

use super::transport::{TcpFields, TcpFlags, Transport};
use crate::event::DropReason;

/// Octets of the header without options.
pub(super) const MIN_LEN: u16 = 20;
/// Where the checksum stands in the header.
pub(super) const CHECKSUM_AT: u16 = 16;

/// Lengths of the header, and its ports and fields. The flags are not judged yet: that waits for the checksum.
pub(super) fn parse(segment: &[u8], len: u16) -> Result<Transport, DropReason> {
    let fixed = segment.first_chunk::<{ MIN_LEN as usize }>().ok_or(DropReason::Truncated)?;
    let [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, offset, flags, ..] = *fixed;
    let header_len = u16::from(offset >> 4) * 4;
    if header_len < MIN_LEN || header_len > len {
        return Err(DropReason::Malformed);
    }
    Ok(Transport {
        src_port: u16::from_be_bytes([s0, s1]),
        dst_port: u16::from_be_bytes([d0, d1]),
        tcp: Some(TcpFields {
            flags: TcpFlags(flags),
            seq: u32::from_be_bytes([q0, q1, q2, q3]),
            ack: u32::from_be_bytes([a0, a1, a2, a3]),
            payload_len: u32::from(len - header_len),
        }),
        icmp: None,
    })
}

/// Refuses flags that no stack sends.
pub(super) fn check_flags(fields: &TcpFields) -> Result<(), DropReason> {
    if fields.flags.is_plausible() { Ok(()) } else { Err(DropReason::BadFlags) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plausible_flags_are_those_of_rfc9293() {
        let (f, s, r, p, a, u) =
            (TcpFlags::FIN, TcpFlags::SYN, TcpFlags::RST, TcpFlags::PSH, TcpFlags::ACK, TcpFlags::URG);
        let ecn_syn = s | TcpFlags::ECE | TcpFlags::CWR;
        for good in [s, s | a, a, p | a, f | a, f | p | a, r, r | a, u | a, f | p | u | a, ecn_syn] {
            assert!(good.is_plausible(), "{good:?}");
        }
        for bad in [TcpFlags(0), f, p, u, f | p | u, s | f, s | r, f | r | a, s | f | a, TcpFlags(0x3f), TcpFlags(0xc0)]
        {
            assert!(!bad.is_plausible(), "{bad:?}");
        }
    }
}
