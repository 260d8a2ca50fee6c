//! Builds TCP resets (RFC 9293 3.10.7). Whether one is sent, and with which numbers, is decided elsewhere.

use std::net::SocketAddrV4;

use super::checksum;

/// Ethernet's minimum without the frame check sequence.
const FRAME_LEN: usize = 60;
const L3: usize = super::packet::L3 as usize;
const L4: usize = L3 + 20;
/// Of IP header and segment: neither has options, the segment no data.
const TOTAL_LEN: u16 = 40;
const TCP_LEN: u16 = 20;

/// A whole frame but for its Ethernet addresses, padded with zeros.
#[must_use]
pub fn build_reset(from: SocketAddrV4, to: SocketAddrV4, seq: u32, ack: Option<u32>) -> [u8; FRAME_LEN] {
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    let mut out = [0; FRAME_LEN];
    out[12..14].copy_from_slice(&[0x08, 0x00]);
    out[L3] = 0x45;
    out[L3 + 2..L3 + 4].copy_from_slice(&TOTAL_LEN.to_be_bytes());
    // Never fragmented, so it needs no identification (RFC 6864).
    out[L3 + 6] = 0x40;
    out[L3 + 8] = 64;
    out[L3 + 9] = 6;
    out[L3 + 12..L3 + 16].copy_from_slice(&from.ip().octets());
    out[L3 + 16..L3 + 20].copy_from_slice(&to.ip().octets());
    let header = !checksum::sum(&out[L3..L4]);
    out[L3 + 10..L3 + 12].copy_from_slice(&header.to_be_bytes());
    out[L4..L4 + 2].copy_from_slice(&from.port().to_be_bytes());
    out[L4 + 2..L4 + 4].copy_from_slice(&to.port().to_be_bytes());
    out[L4 + 4..L4 + 8].copy_from_slice(&seq.to_be_bytes());
    out[L4 + 8..L4 + 12].copy_from_slice(&ack.unwrap_or(0).to_be_bytes());
    out[L4 + 12] = 5 << 4;
    out[L4 + 13] = RST | if ack.is_some() { ACK } else { 0 };
    let pseudo = checksum::pseudo_header(*from.ip(), *to.ip(), 6, TCP_LEN);
    let segment = !checksum::add(pseudo, checksum::sum(&out[L4..L4 + usize::from(TCP_LEN)]));
    out[L4 + 16..L4 + 18].copy_from_slice(&segment.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::super::{FrameMeta, Parsed, Proto, TcpFlags, parse};
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_reset_is_read_back_as_it_was_built() {
        let (from, to) = (Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(198, 51, 100, 7));
        for ack in [None, Some(77)] {
            let mut frame = build_reset(SocketAddrV4::new(from, 2048), SocketAddrV4::new(to, 443), 0xdead_beef, ack);
            crate::wire::set_ethernet(&mut frame, crate::ids::Mac([2; 6]), crate::ids::Mac([4; 6]));
            let Ok(Parsed::Ip(p)) = parse(&frame, &FrameMeta::default()) else { panic!("{ack:?}") };
            let tcp = p.tcp.expect("a segment");
            assert_eq!((p.src, p.src_port, p.dst, p.dst_port), (from, 2048, to, 443));
            assert_eq!((p.proto, p.ttl, p.total_len), (Proto::Tcp, 64, 40));
            assert_eq!((tcp.seq, tcp.ack, tcp.payload_len), (0xdead_beef, ack.unwrap_or(0), 0));
            assert!(tcp.flags.contains(TcpFlags::RST) && tcp.flags.contains(TcpFlags::ACK) == ack.is_some());
        }
    }
}
