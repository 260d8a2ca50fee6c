//! Hot path. IPv4 header: lengths, checksum, fragments, options and addresses that must not be a source. Never looks into
//! the payload; called by `wire::parse`.

use std::net::Ipv4Addr;

use super::checksum;
use super::fragment::Piece;
use crate::event::DropReason;

/// Octets of the header without options.
const MIN_LEN: usize = 20;

/// What later layers need of the header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    pub(super) ttl: u8,
    pub(super) protocol: u8,
    /// Octets of the header with options.
    pub(super) len: u16,
    /// Octets of the packet as the header tells.
    pub(super) total_len: u16,
    /// Present exactly for a fragment.
    pub(super) piece: Option<Piece>,
}

/// Parses the header at the start of `bytes`; returns it with the payload, cut to the total length, so Ethernet padding
/// and trailers are gone.
///
/// Lengths come first, because the checksum needs them; then the checksum, because nothing else means anything without it.
pub(super) fn parse(bytes: &[u8]) -> Result<(Header, &[u8]), DropReason> {
    let fixed = bytes.first_chunk::<MIN_LEN>().ok_or(DropReason::Truncated)?;
    let [version_ihl, _, t0, t1, i0, i1, f0, f1, ttl, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *fixed;
    let total_len = u16::from_be_bytes([t0, t1]);
    let len = u16::from(version_ihl & 0x0f) * 4;
    // A total length of 0 is how Linux marks an IPv4 packet above 64 KB (BIG TCP); the devices are told not to make these.
    if version_ihl >> 4 != 4 || usize::from(len) < MIN_LEN || total_len < len {
        return Err(DropReason::Malformed);
    }
    let packet = bytes.get(..usize::from(total_len)).ok_or(DropReason::Truncated)?;
    let (header, payload) = packet.split_at(usize::from(len));
    if checksum::sum(header) != 0xffff {
        return Err(DropReason::BadChecksum);
    }
    // The reserved bit is left alone: RFC 791 gives it no meaning.
    let piece = Piece::of(u16::from_be_bytes([i0, i1]), u16::from_be_bytes([f0, f1]), len, total_len - len)?;
    check_options(&header[MIN_LEN..])?;
    let (src, dst) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
    if must_not_be_source(src) {
        return Err(DropReason::SpoofedSource);
    }
    // "Land": nobody reaches himself through a gateway.
    if src == dst {
        return Err(DropReason::Malformed);
    }
    Ok((Header { src, dst, ttl, protocol, len, total_len, piece }, payload))
}

/// Parses the header of a packet that an ICMP error quotes; the rest is as much of its payload as was quoted. The total
/// length tells nothing about that, and stacks have been known to quote it in the wrong byte order: it is not judged.
pub(super) fn parse_quoted(quoted: &[u8]) -> Result<(Header, &[u8]), DropReason> {
    let fixed = quoted.first_chunk::<MIN_LEN>().ok_or(DropReason::Truncated)?;
    let [version_ihl, _, t0, t1, _, _, f0, f1, ttl, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *fixed;
    let len = u16::from(version_ihl & 0x0f) * 4;
    if version_ihl >> 4 != 4 || usize::from(len) < MIN_LEN {
        return Err(DropReason::IcmpQuote);
    }
    let (header, payload) = quoted.split_at_checked(usize::from(len)).ok_or(DropReason::Truncated)?;
    // RFC 5508, REQ-3 a.
    if checksum::sum(header) != 0xffff {
        return Err(DropReason::BadChecksum);
    }
    // Only a first fragment has ports.
    if u16::from_be_bytes([f0, f1]) & 0x1fff != 0 {
        return Err(DropReason::IcmpQuote);
    }
    check_options(&header[MIN_LEN..])?;
    let (src, dst) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
    Ok((Header { src, dst, ttl, protocol, len, total_len: u16::from_be_bytes([t0, t1]), piece: None }, payload))
}

/// Lets through what cannot carry an address: padding and router alert (RFC 2113). Source routes, record route, timestamp
/// and traceroute options name hosts on the way, which translation would have to hide (I13), and the internet drops
/// nearly all others anyway (RFC 7126), so an unknown option is refused instead of trusted.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const ROUTER_ALERT: u8 = 148;
    loop {
        options = match *options {
            [] | [END, ..] => return Ok(()),
            [NO_OPERATION, ref rest @ ..] => rest,
            // An option without its length octet, or longer than the header.
            [_] => return Err(DropReason::Malformed),
            [kind, len, ..] => {
                let rest = options.get(usize::from(len)..).ok_or(DropReason::Malformed)?;
                match (kind, len) {
                    (_, 0 | 1) => return Err(DropReason::Malformed),
                    (ROUTER_ALERT, 4) => rest,
                    _ => return Err(DropReason::IpOptions),
                }
            }
        };
    }
}

/// "This network" 0/8, loopback 127/8, multicast 224/4, reserved 240/4 with the limited broadcast (RFC 1812 5.3.7,
/// RFC 6890). Directed broadcasts need the subnets, so `judge` has them.
fn must_not_be_source(ip: Ipv4Addr) -> bool {
    matches!(ip.octets()[0], 0 | 127 | 224..)
}
