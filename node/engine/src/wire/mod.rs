//! Hot path. Frames: checked and parsed into their meaning, and rewritten in place.
//!
//! Everything that a frame can be wrong in is refused here, with its `DropReason`, so later stages work on values and not
//! on octets. Pure, without allocation, and never panics on packet content. Does not judge policy: TTL, destinations,
//! subnets and who may be answered are the pipeline's. Called by the pipeline and by the slow path's builders.

use std::net::Ipv4Addr;

use crate::event::DropReason;
use crate::ids::Mac;
pub use crate::record::Proto;

pub mod arp;
pub mod checksum;
pub mod ethernet;
mod fragment;
mod icmp;
mod ipv4;
mod mss;
mod notice;
mod quote;
mod reset;
mod rewrite;
pub mod sounding;
mod split;
mod tcp;
mod udp;

pub use arp::{ArpOp, ArpPacket, build_arp};
pub use ethernet::set_ethernet;
pub use fragment::{Fragment, Piece};
pub use icmp::IcmpKind;
pub use mss::clamp_mss;
pub(crate) use notice::{FRAME_MAX, Notice, build_notice};
pub use quote::{IcmpError, Quote, rewrite_error_destination, rewrite_error_source};
pub use reset::build_reset;
pub use rewrite::{decrement_ttl, rewrite_destination, rewrite_source};
pub(crate) use rewrite::{increment_ttl, may_fragment, rewrite_addresses, set_identification};
pub use sounding::{Sounding, SoundingOp, build_sounding};
pub(crate) use split::{Cut, complete_checksum};
pub use tcp::{TcpFields, TcpFlags};

/// What the device told about a frame (virtio_net_hdr).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameMeta {
    /// How far the transport checksum can be relied on.
    pub checksum: ChecksumState,
    /// Whether this is a super-packet that is cut into segments later.
    pub gso: Gso,
    /// Octets of all headers, as the device told them; a hint for sending.
    pub header_len: u16,
}

/// State of the transport checksum. That of the IPv4 header is always complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChecksumState {
    /// Nobody looked: it is verified here.
    #[default]
    Unverified,
    /// Device or kernel verified it.
    Valid,
    /// The field holds the folded sum of the pseudo header only, not complemented (0 for ICMP, which has none); whoever
    /// sends the frame at last sums from `start` to the end and stores the complement at `start + offset`.
    Partial {
        /// Octets from the start of the frame.
        start: u16,
        /// Octets from `start`.
        offset: u16,
    },
}

/// Segmentation that is still to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// None: the frame goes on the wire as it is.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4 {
        /// Payload octets per segment.
        size: u16,
    },
    /// UDP datagrams of one flow behind one header.
    Udp {
        /// Payload octets per datagram.
        size: u16,
    },
}

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

/// An IPv4 packet of TCP, UDP or ICMP echo, whose lengths and checksums are right; or the first fragment of one, of whose
/// transport only the header is judged.
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
    /// Source port; of an echo request its identifier, of an echo reply 0.
    pub src_port: u16,
    /// Destination port; of an echo request 0, of an echo reply its identifier.
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

/// What the transport header says; the common part of all protocols.
#[derive(Clone, Copy, Debug)]
struct Transport {
    src_port: u16,
    dst_port: u16,
    tcp: Option<TcpFields>,
    icmp: Option<IcmpKind>,
}

/// Where the IP header starts: Ethernet without tags.
pub(crate) const L3: u16 = 14;
const _: () = assert!(L3 as usize == ethernet::LEN);

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
        _ => return Err(DropReason::UnknownProtocol),
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
    let proto = match ip.protocol {
        1 => Proto::Icmp,
        6 => Proto::Tcp,
        17 => Proto::Udp,
        _ => return Err(DropReason::UnknownProtocol),
    };
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

/// 0 would say that there is no checksum: its other form is sent (RFC 768).
const fn none_to_ones(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}
