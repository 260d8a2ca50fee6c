//! Hot path. A whole frame, checked layer by layer.

use super::arp::ArpPacket;
use super::fragment::{Fragment, Piece};
use super::packet::{ChecksumState, FrameMeta, Gso, IpPacket, L3};
use super::quote::IcmpError;
use super::sounding::Sounding;
use super::transport::Transport;
use super::{arp, by_address, checksum, ethernet, icmp, ipv4, quote, sounding, tcp, udp};
use crate::event::DropReason;
use crate::record::Proto;

/// An accepted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An ARP message.
    Arp(ArpPacket),
    /// A packet that can be translated.
    Ip(IpPacket),
    /// An ICMP error about a packet that could have been translated.
    Error(IcmpError),
    /// A fragment that is not the first of its datagram.
    Fragment(Fragment),
    /// A member asks or answers whether this network passes frames.
    Sounding(Sounding),
}

/// Checks a whole frame.
///
/// # Errors
/// The reason to drop it. Of several faults the one found first counts: lengths, then checksums, then meaning, layer by
/// layer.
pub fn parse(frame: &[u8], meta: &FrameMeta) -> Result<Parsed, DropReason> {
    let (ethernet, bytes) = ethernet::parse(frame)?;
    match ethernet.payload {
        ethernet::Payload::Arp => arp::parse(&ethernet, bytes).map(Parsed::Arp),
        ethernet::Payload::Ipv4 => parse_ip(&ethernet, bytes, meta),
        ethernet::Payload::Sounding => sounding::parse(&ethernet, bytes).map(Parsed::Sounding),
    }
}

fn parse_ip(ethernet: &ethernet::Header, bytes: &[u8], meta: &FrameMeta) -> Result<Parsed, DropReason> {
    if meta.gso != Gso::None && bytes.get(2..4) == Some(&[0, 0]) {
        return Err(DropReason::SuperPacket);
    }
    let (ip, payload) = ipv4::parse(bytes)?;
    let l4 = L3 + ip.len;
    if let Some(piece) = ip.piece {
        return parse_fragment(ethernet, &ip, piece, payload, meta);
    }
    let (proto, transport) = match ip.protocol {
        1 => match parse_icmp(payload, l4, meta)? {
            icmp::Meaning::Query(transport) => (Proto::Icmp, transport),
            icmp::Meaning::Error { .. } if meta.gso != Gso::None => return Err(DropReason::Malformed),
            icmp::Meaning::Error { quoted_words } => {
                return quote::parse(ethernet, &ip, (L3, l4), payload, quoted_words).map(Parsed::Error);
            }
        },
        6 => (Proto::Tcp, parse_tcp(&ip, payload, l4, meta)?),
        17 => (Proto::Udp, parse_udp(&ip, payload, l4, meta)?),
        number => by_address::parse_whole(number, payload, l4, meta)?,
    };
    let gso_fits = match meta.gso {
        Gso::None => true,
        Gso::Tcp4 { .. } => proto == Proto::Tcp,
        Gso::Udp { .. } => proto == Proto::Udp,
    };
    if !gso_fits {
        return Err(DropReason::Malformed);
    }
    Ok(Parsed::Ip(packet(ethernet, &ip, proto, transport)))
}

/// A fragment's transport checksum covers what others carry: nobody can judge it here.
fn parse_fragment(
    ethernet: &ethernet::Header,
    ip: &ipv4::Header,
    piece: Piece,
    payload: &[u8],
    meta: &FrameMeta,
) -> Result<Parsed, DropReason> {
    let proto = Proto::of_number(ip.protocol).ok_or(DropReason::UnknownProtocol)?;
    // No device cuts fragments, or completes their checksum.
    if meta.gso != Gso::None || matches!(meta.checksum, ChecksumState::Partial { .. }) {
        return Err(DropReason::Malformed);
    }
    if piece.start > 0 {
        piece.check_start(proto)?;
        let (eth_src, eth_dst, total_len) = (ethernet.src, ethernet.dst, ip.total_len);
        let (src, dst, ttl) = (ip.src, ip.dst, ip.ttl);
        return Ok(Parsed::Fragment(Fragment { eth_src, eth_dst, src, dst, ttl, proto, piece, l3: L3, total_len }));
    }
    let tiny = |_| DropReason::FragmentTiny;
    let transport = match proto {
        Proto::Icmp => match icmp::parse(payload).map_err(tiny)?.meaning()? {
            icmp::Meaning::Query(transport) => transport,
            // Errors are short, and their quote is needed whole (RFC 1812 4.3.2.3).
            icmp::Meaning::Error { .. } => return Err(DropReason::IcmpQuote),
        },
        Proto::Tcp => {
            let transport = tcp::parse(payload, ip.total_len - ip.len).map_err(tiny)?;
            transport.tcp.iter().try_for_each(tcp::check_flags)?;
            transport
        }
        Proto::Udp => udp::parse_ports(payload).map_err(tiny)?,
        Proto::Gre | Proto::Esp | Proto::Sctp => by_address::parse(proto, payload).map_err(tiny)?,
    };
    Ok(Parsed::Ip(packet(ethernet, ip, proto, transport)))
}

fn packet(ethernet: &ethernet::Header, ip: &ipv4::Header, proto: Proto, transport: Transport) -> IpPacket {
    IpPacket {
        eth_src: ethernet.src,
        eth_dst: ethernet.dst,
        src: ip.src,
        dst: ip.dst,
        ttl: ip.ttl,
        proto,
        src_port: transport.src_port,
        dst_port: transport.dst_port,
        tcp: transport.tcp,
        icmp: transport.icmp,
        fragment: ip.piece,
        l3: L3,
        l4: L3 + ip.len,
        total_len: ip.total_len,
    }
}

fn parse_tcp(ip: &ipv4::Header, segment: &[u8], l4: u16, meta: &FrameMeta) -> Result<Transport, DropReason> {
    let len = ip.total_len - ip.len;
    let transport = tcp::parse(segment, len)?;
    if must_verify(meta, l4, tcp::CHECKSUM_AT)? {
        verify(checksum::pseudo_header(ip.src, ip.dst, ip.protocol, len), segment)?;
    }
    transport.tcp.iter().try_for_each(tcp::check_flags)?;
    Ok(transport)
}

fn parse_udp(ip: &ipv4::Header, payload: &[u8], l4: u16, meta: &FrameMeta) -> Result<Transport, DropReason> {
    let datagram = udp::parse(payload)?;
    // 0: the sender computed none, which stays so (R25).
    if must_verify(meta, l4, udp::CHECKSUM_AT)? && datagram.checksum != 0 {
        verify(checksum::pseudo_header(ip.src, ip.dst, ip.protocol, datagram.len), datagram.covered)?;
    }
    Ok(datagram.transport)
}

fn parse_icmp(payload: &[u8], l4: u16, meta: &FrameMeta) -> Result<icmp::Meaning, DropReason> {
    let message = icmp::parse(payload)?;
    if must_verify(meta, l4, icmp::CHECKSUM_AT)? {
        verify(0, payload)?;
    }
    message.meaning()
}

/// Whether the transport checksum is still to be verified. A partial one must be that of this very header: otherwise
/// nobody knows what the field holds, and the device would write its result to a wrong place.
fn must_verify(meta: &FrameMeta, l4: u16, checksum_at: u16) -> Result<bool, DropReason> {
    match meta.checksum {
        ChecksumState::Unverified => Ok(true),
        ChecksumState::Valid => Ok(false),
        ChecksumState::Partial { start, offset } if start == l4 && offset == checksum_at => Ok(false),
        ChecksumState::Partial { .. } => Err(DropReason::Malformed),
    }
}

fn verify(pseudo_header: u16, covered: &[u8]) -> Result<(), DropReason> {
    if checksum::add(pseudo_header, checksum::sum(covered)) == 0xffff { Ok(()) } else { Err(DropReason::BadChecksum) }
}
