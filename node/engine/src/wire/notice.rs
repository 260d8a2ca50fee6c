//! ICMP errors of the gateway's own: what is said about a packet that ends here (RFC 792, RFC 1191, RFC 1812 4.3.2).

use std::net::Ipv4Addr;

use super::checksum;

/// Octets of such a packet at most (RFC 1812 4.3.2.3).
const PACKET_MAX: usize = 576;
const ETHERNET: usize = super::ethernet::LEN;
const IP: usize = 20;
const ICMP: usize = 8;
/// Room for the whole frame.
pub(crate) const FRAME_MAX: usize = ETHERNET + PACKET_MAX;

/// What there is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The time to live has run out on the way.
    TimeExceeded,
    /// Larger than the next link, and not to be fragmented.
    FragmentationNeeded {
        /// What the link takes.
        mtu: u16,
    },
    /// No route goes there.
    NetUnreachable,
    /// Nothing goes there, or from this sender, for now.
    HostUnreachable,
    /// Nothing may go there, or from this sender.
    Prohibited,
}

/// Writes a frame that says it about `packet`, which starts with its IP header. Its Ethernet addresses are left to the
/// caller. Returns its length.
pub(crate) fn build_notice(
    out: &mut [u8; FRAME_MAX],
    (from, to): (Ipv4Addr, Ipv4Addr),
    id: u16,
    notice: Notice,
    packet: &[u8],
) -> usize {
    let quote = &packet[..packet.len().min(PACKET_MAX - IP - ICMP)];
    let end = ETHERNET + IP + ICMP + quote.len();
    let (head, body) = out[..end].split_at_mut(ETHERNET + IP);
    let ip = &mut head[ETHERNET..];
    let total = u16::try_from(end - ETHERNET).expect("at most PACKET_MAX");
    // Internetwork control (RFC 1812 4.3.2.5), one hop of many, no flags.
    ip.copy_from_slice(&[0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[4..6].copy_from_slice(&id.to_be_bytes());
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..20].copy_from_slice(&to.octets());
    let sum = !checksum::sum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let (kind, code, mtu) = match notice {
        Notice::TimeExceeded => (11, 0, 0),
        Notice::FragmentationNeeded { mtu } => (3, 4, mtu),
        Notice::NetUnreachable => (3, 0, 0),
        Notice::HostUnreachable => (3, 1, 0),
        Notice::Prohibited => (3, 13, 0),
    };
    let [m0, m1] = mtu.to_be_bytes();
    body[..ICMP].copy_from_slice(&[kind, code, 0, 0, 0, 0, m0, m1]);
    body[ICMP..].copy_from_slice(quote);
    let sum = !checksum::sum(body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    head[12..ETHERNET].copy_from_slice(&[8, 0]);
    end
}
