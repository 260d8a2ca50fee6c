//! Hot path. Translation in place: addresses, ports, identifiers and TTL, with every checksum that covers them kept right
//! by the difference (RFC 1624), so a frame's length costs nothing. Works on frames that `wire::parse` accepted.
//!
//! Old values are read from the frame, not from the `IpPacket`, so that one frame can be rewritten several times (a
//! hairpin changes source and destination) with the packet it was parsed into.

use std::net::Ipv4Addr;

use super::checksum::{Delta, none_to_ones};
use super::packet::{ChecksumState, FrameMeta, IpPacket};
use super::transport::IcmpKind;
use super::{icmp, tcp, udp};
use crate::record::Proto;

/// Where in the IPv4 header things stand.
const IDENTIFICATION_AT: u16 = 4;
const FRAGMENT_AT: u16 = 6;
const TTL_AT: u16 = 8;
const CHECKSUM_AT: u16 = 10;
const SOURCE_AT: u16 = 12;
const DESTINATION_AT: u16 = 16;

/// Which end of the packet is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

impl End {
    /// Where its address stands in an IPv4 header.
    pub(super) const fn address_at(self) -> u16 {
        match self {
            Self::Source => SOURCE_AT,
            Self::Destination => DESTINATION_AT,
        }
    }
}

/// Replaces source address and port. For an echo request the port is the identifier; for an echo reply, whose identifier
/// belongs to the destination, it is ignored.
///
/// # Panics
/// If `frame` is not the one that `p` was parsed from.
pub fn rewrite_source(frame: &mut [u8], meta: &FrameMeta, p: &IpPacket, ip: Ipv4Addr, port: u16) {
    rewrite(frame, meta, p, End::Source, ip, port);
}

/// Replaces destination address and port. For an echo reply the port is the identifier; for an echo request, whose
/// identifier belongs to the source, it is ignored.
///
/// # Panics
/// If `frame` is not the one that `p` was parsed from.
pub fn rewrite_destination(frame: &mut [u8], meta: &FrameMeta, p: &IpPacket, ip: Ipv4Addr, port: u16) {
    rewrite(frame, meta, p, End::Destination, ip, port);
}

/// Takes one off the TTL of the IP header at `l3` (I16). A TTL of 0 stays; the caller has dropped what would reach 0.
///
/// # Panics
/// If no whole IP header stands at `l3`.
pub fn decrement_ttl(frame: &mut [u8], l3: u16) {
    change_ttl(frame, l3, |ttl| ttl.saturating_sub(1));
}

/// Gives back what `decrement_ttl` took.
pub(crate) fn increment_ttl(frame: &mut [u8], l3: u16) {
    change_ttl(frame, l3, |ttl| ttl.saturating_add(1));
}

fn change_ttl(frame: &mut [u8], l3: u16, change: impl FnOnce(u8) -> u8) {
    let [was, protocol] = *octets(frame, l3 + TTL_AT);
    let is = change(was);
    octets::<2>(frame, l3 + TTL_AT)[0] = is;
    let delta = Delta::default().word(u16::from_be_bytes([was, protocol]), u16::from_be_bytes([is, protocol]));
    let field = octets(frame, l3 + CHECKSUM_AT);
    *field = delta.on_checksum(u16::from_be_bytes(*field)).to_be_bytes();
}

/// Whether the IP header at `l3` allows fragmentation.
pub(crate) fn may_fragment(frame: &mut [u8], l3: u16) -> bool {
    octets::<1>(frame, l3 + FRAGMENT_AT)[0] & 0x40 == 0
}

/// Replaces the identification in the IP header at `l3`.
pub(crate) fn set_identification(frame: &mut [u8], l3: u16, id: u16) {
    let field = octets(frame, l3 + IDENTIFICATION_AT);
    let delta = Delta::default().word(u16::from_be_bytes(*field), id);
    *field = id.to_be_bytes();
    let field = octets(frame, l3 + CHECKSUM_AT);
    *field = delta.on_checksum(u16::from_be_bytes(*field)).to_be_bytes();
}

/// Replaces addresses in the IP header at `l3`, and nothing behind it.
pub(crate) fn rewrite_addresses(frame: &mut [u8], l3: u16, source: Option<Ipv4Addr>, destination: Option<Ipv4Addr>) {
    for (end, ip) in [(End::Source, source), (End::Destination, destination)] {
        if let Some(ip) = ip {
            replace_address(frame, l3, end, ip);
        }
    }
}

/// Replaces an address in an IPv4 header. Returns the change of the address, and that of the header's checksum.
pub(super) fn replace_address(frame: &mut [u8], l3: u16, end: End, ip: Ipv4Addr) -> (Delta, Delta) {
    let field = octets(frame, l3 + end.address_at());
    let address = Delta::default().addr(Ipv4Addr::from(*field), ip);
    *field = ip.octets();
    let field = octets(frame, l3 + CHECKSUM_AT);
    let was = u16::from_be_bytes(*field);
    let is = address.on_checksum(was);
    *field = is.to_be_bytes();
    (address, Delta::default().word(was, is))
}

fn rewrite(frame: &mut [u8], meta: &FrameMeta, p: &IpPacket, end: End, ip: Ipv4Addr, port: u16) {
    let (addr_delta, _) = replace_address(frame, p.l3, end, ip);
    let port_at = p.l4 + if end == End::Source { 0 } else { 2 };
    match p.proto {
        Proto::Tcp => {
            let delta = replace_port(frame, port_at, port, addr_delta);
            let field = octets(frame, p.l4 + tcp::CHECKSUM_AT);
            let old = u16::from_be_bytes(*field);
            let new = if is_partial(meta) { addr_delta.on_sum(old) } else { delta.on_checksum(old) };
            *field = new.to_be_bytes();
        }
        Proto::Udp => {
            let delta = replace_port(frame, port_at, port, addr_delta);
            let field = octets(frame, p.l4 + udp::CHECKSUM_AT);
            let new = match (u16::from_be_bytes(*field), is_partial(meta)) {
                (old, true) => addr_delta.on_sum(old),
                // No checksum in, none out (R25).
                (0, false) => 0,
                // 0 would mean "none": its other form is sent (RFC 768).
                (old, false) => none_to_ones(delta.on_checksum(old)),
            };
            *field = new.to_be_bytes();
        }
        Proto::Icmp => {
            let carries_identifier = match p.icmp {
                Some(IcmpKind::EchoRequest) => end == End::Source,
                Some(IcmpKind::EchoReply) => end == End::Destination,
                None => false,
            };
            if carries_identifier {
                rewrite_identifier(frame, meta, p, port);
            }
        }
        // No checksum of these covers an address, and no port changes.
        Proto::Gre | Proto::Esp | Proto::Sctp => {}
    }
}

/// ICMP has no pseudo header: addresses do not enter its checksum, and a partial one is computed later over the new
/// identifier.
fn rewrite_identifier(frame: &mut [u8], meta: &FrameMeta, p: &IpPacket, identifier: u16) {
    let delta = replace_port(frame, p.l4 + icmp::IDENTIFIER_AT, identifier, Delta::default());
    if is_partial(meta) {
        return;
    }
    let field = octets(frame, p.l4 + icmp::CHECKSUM_AT);
    let new = delta.on_checksum(u16::from_be_bytes(*field));
    // An echo reply with identifier, sequence number and data all zero is the one message whose other octets sum to plain
    // zero: its checksum is 0xffff, which the difference cannot know (RFC 1624, section 3). With other data both forms
    // verify, so with a zero identifier that one is right in any case.
    let new = if identifier == 0 { none_to_ones(new) } else { new };
    *field = new.to_be_bytes();
}

/// Stores a port or identifier and adds its replacement to `delta`.
fn replace_port(frame: &mut [u8], at: u16, new: u16, delta: Delta) -> Delta {
    let field = octets(frame, at);
    let delta = delta.word(u16::from_be_bytes(*field), new);
    *field = new.to_be_bytes();
    delta
}

pub(super) fn is_partial(meta: &FrameMeta) -> bool {
    matches!(meta.checksum, ChecksumState::Partial { .. })
}

/// A field of the headers, to read and write.
pub(super) fn octets<const N: usize>(frame: &mut [u8], at: u16) -> &mut [u8; N] {
    frame.get_mut(usize::from(at)..).and_then(|rest| rest.first_chunk_mut()).expect("parse saw the whole header")
}
