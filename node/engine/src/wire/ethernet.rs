//! Hot path. Ethernet II header: parsed, and replaced on the way out. VLAN tags are not taken off: a tagged frame has an
//! EtherType that nobody here knows. Called by `wire::parse` and `judge`.

use crate::event::DropReason;
use crate::ids::Mac;

/// Octets of the header.
pub const LEN: usize = 14;

/// The EtherType of soundings; `netio` listens to it and the guard lets it pass between members.
pub const SOUNDING: u16 = 0x88b6;

/// What the frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    Ipv4,
    Arp,
    Sounding,
}

/// Addresses and kind of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) src: Mac,
    pub(super) dst: Mac,
    pub(super) payload: Payload,
}

/// Splits the header off; the rest is the payload with any padding.
pub(super) fn parse(frame: &[u8]) -> Result<(Header, &[u8]), DropReason> {
    let (header, rest) = frame.split_first_chunk::<LEN>().ok_or(DropReason::Truncated)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
    let payload = match u16::from_be_bytes([t0, t1]) {
        0x0800 => Payload::Ipv4,
        0x0806 => Payload::Arp,
        SOUNDING => Payload::Sounding,
        0x86dd => return Err(DropReason::Ipv6),
        _ => return Err(DropReason::UnknownEtherType),
    };
    let header = Header { src: Mac([s0, s1, s2, s3, s4, s5]), dst: Mac([d0, d1, d2, d3, d4, d5]), payload };
    // A group address never sends (IEEE 802.3, 3.2.3); refused here so that nobody learns it as a neighbour.
    if is_group(header.src) { Err(DropReason::Malformed) } else { Ok((header, rest)) }
}

/// Replaces both addresses.
///
/// # Panics
/// If `frame` has no whole Ethernet header; every frame that `parse` accepted has one.
pub fn set_ethernet(frame: &mut [u8], src: Mac, dst: Mac) {
    let header = frame.first_chunk_mut::<12>().expect("a parsed frame has an Ethernet header");
    header[..6].copy_from_slice(&dst.0);
    header[6..].copy_from_slice(&src.0);
}

/// Whether `mac` is a multicast or the broadcast address.
#[must_use]
pub fn is_group(mac: Mac) -> bool {
    mac.0[0] & 1 == 1
}
