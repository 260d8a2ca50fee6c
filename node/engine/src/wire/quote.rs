//! Hot path. ICMP errors: the packet that they quote, read and rewritten (RFC 5508 4.2, RFC 792).
//!
//! A quote is cut off anywhere behind the first 8 octets of its transport header, and its transport checksum is never
//! verified (RFC 5508, REQ-3 c), only kept as right as it was. What stands behind the quote (RFC 4884) stays as it is.

use std::net::Ipv4Addr;

use super::checksum::{Delta, none_to_ones};
use super::packet::{ChecksumState, FrameMeta};
use super::rewrite::{End, octets, replace_address};
use super::transport::IcmpKind;
use super::{by_address, ethernet, icmp, ipv4, tcp, udp};
use crate::event::DropReason;
use crate::ids::Mac;
use crate::record::Proto;

/// Octets of a transport header that every quote has (RFC 792).
const TRANSPORT_LEN: usize = 8;

/// An ICMP error whose lengths and checksums, and those of the quoted IP header, are right, and which goes to the source
/// of what it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Source of the frame.
    pub eth_src: Mac,
    /// Destination of the frame.
    pub eth_dst: Mac,
    /// Who complains.
    pub src: Ipv4Addr,
    /// To whom; the source of the quoted packet.
    pub dst: Ipv4Addr,
    /// Time to live as it arrived.
    pub ttl: u8,
    /// Where the IP header starts in the frame.
    pub l3: u16,
    /// Where the ICMP header starts in the frame.
    pub l4: u16,
    /// Octets of the packet.
    pub total_len: u16,
    /// About what.
    pub quote: Quote,
}

/// The packet that an error is about; ports and identifiers as in `IpPacket`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Transport protocol.
    pub proto: Proto,
    /// Its source.
    pub src: Ipv4Addr,
    /// Its destination.
    pub dst: Ipv4Addr,
    /// Source port, or identifier of an echo request.
    pub src_port: u16,
    /// Destination port, or identifier of an echo reply.
    pub dst_port: u16,
    /// Present exactly for ICMP.
    pub icmp: Option<IcmpKind>,
    /// Where its IP header starts in the frame.
    l3: u16,
    /// Where its transport header starts in the frame.
    l4: u16,
    /// Where its transport checksum stands in the frame, if the quote reaches so far.
    checksum_at: Option<u16>,
}

/// Reads an error from the frame's headers and its ICMP payload.
pub(super) fn parse(
    ethernet: &ethernet::Header,
    ip: &ipv4::Header,
    (l3, l4): (u16, u16),
    message: &[u8],
    quoted_words: u8,
) -> Result<IcmpError, DropReason> {
    let quoted = message.get(usize::from(icmp::LEN)..).ok_or(DropReason::Truncated)?;
    let quoted = match quoted_words {
        0 => quoted,
        words => quoted.get(..usize::from(words) * 4).ok_or(DropReason::Malformed)?,
    };
    let quote = parse_quote(quoted, l4 + icmp::LEN)?;
    // An error goes to whoever sent what it is about (RFC 1122 3.2.2); any other is not about our translation.
    if quote.src != ip.dst {
        return Err(DropReason::IcmpQuote);
    }
    Ok(IcmpError {
        eth_src: ethernet.src,
        eth_dst: ethernet.dst,
        src: ip.src,
        dst: ip.dst,
        ttl: ip.ttl,
        l3,
        l4,
        total_len: ip.total_len,
        quote,
    })
}

fn parse_quote(quoted: &[u8], l3: u16) -> Result<Quote, DropReason> {
    let (ip, payload) = ipv4::parse_quoted(quoted)?;
    let start = *payload.first_chunk::<TRANSPORT_LEN>().ok_or(DropReason::Truncated)?;
    let proto = Proto::of_number(ip.protocol).ok_or(DropReason::IcmpQuote)?;
    let query = (proto == Proto::Icmp).then(|| icmp::parse_quoted(start)).transpose()?;
    let [s0, s1, d0, d1, ..] = start;
    let (src_port, dst_port) = match query {
        Some(query) => (query.src_port, query.dst_port),
        None => by_address::ports(proto, [s0, s1, d0, d1]),
    };
    let kind = query.and_then(|query| query.icmp);
    let checksum_at = match proto {
        Proto::Icmp => Some(icmp::CHECKSUM_AT),
        Proto::Tcp => Some(tcp::CHECKSUM_AT),
        Proto::Udp => Some(udp::CHECKSUM_AT),
        // Theirs do not change.
        Proto::Gre | Proto::Esp | Proto::Sctp => None,
    };
    let l4 = l3 + ip.len;
    let there = |at: &u16| payload.len() >= usize::from(*at) + 2;
    let checksum_at = checksum_at.filter(there).map(|at| l4 + at);
    Ok(Quote { proto, src: ip.src, dst: ip.dst, src_port, dst_port, icmp: kind, l3, l4, checksum_at })
}

/// Inside to outside: who complains becomes `ip`, and so does the destination of what it complains about.
///
/// # Panics
/// If `frame` is not the one that `e` was parsed from.
pub fn rewrite_error_source(frame: &mut [u8], meta: &FrameMeta, e: &IcmpError, ip: Ipv4Addr, port: u16) {
    rewrite(frame, meta, e, (End::Source, End::Destination), ip, port);
}

/// Outside to inside: the complaint goes to `ip`, and is about a packet of `ip`. Who complains stays.
///
/// # Panics
/// If `frame` is not the one that `e` was parsed from.
pub fn rewrite_error_destination(frame: &mut [u8], meta: &FrameMeta, e: &IcmpError, ip: Ipv4Addr, port: u16) {
    rewrite(frame, meta, e, (End::Destination, End::Source), ip, port);
}

fn rewrite(frame: &mut [u8], meta: &FrameMeta, e: &IcmpError, (outer, quoted): (End, End), ip: Ipv4Addr, port: u16) {
    replace_address(frame, e.l3, outer, ip);
    // What changes in the quote changes the sum of the error around it. All of it stands on whole words.
    let quote = &e.quote;
    let (address, header) = replace_address(frame, quote.l3, quoted, ip);
    let mut message = address.plus(header);
    let port_delta =
        if quote.proto.is_by_address() { Delta::default() } else { replace_port(frame, quote, quoted, port) };
    message = message.plus(port_delta);
    if let Some(at) = quote.checksum_at {
        let field = octets(frame, at);
        let was = u16::from_be_bytes(*field);
        let is = match quote.proto {
            Proto::Icmp => port_delta.on_checksum(was),
            Proto::Udp if was == 0 => 0,
            Proto::Udp => none_to_ones(port_delta.plus(address).on_checksum(was)),
            Proto::Tcp => port_delta.plus(address).on_checksum(was),
            Proto::Gre | Proto::Esp | Proto::Sctp => was,
        };
        *field = is.to_be_bytes();
        message = message.word(was, is);
    }
    if !matches!(meta.checksum, ChecksumState::Partial { .. }) {
        let field = octets(frame, e.l4 + icmp::CHECKSUM_AT);
        *field = message.on_checksum(u16::from_be_bytes(*field)).to_be_bytes();
    }
}

/// Replaces the port or identifier at one end of a quote. Returns its change.
fn replace_port(frame: &mut [u8], quote: &Quote, end: End, port: u16) -> Delta {
    let at = match (quote.icmp, end) {
        (Some(_), _) => quote.l4 + icmp::IDENTIFIER_AT,
        (None, End::Source) => quote.l4,
        (None, End::Destination) => quote.l4 + 2,
    };
    let field = octets(frame, at);
    let delta = Delta::default().word(u16::from_be_bytes(*field), port);
    *field = port.to_be_bytes();
    delta
}
