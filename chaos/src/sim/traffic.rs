//! Frames of backends and of the remote: UDP over IPv4, and ARP.

use std::net::Ipv4Addr;

use engine::ids::Mac;
use engine::wire::{ArpOp, ArpPacket, build_arp, checksum};

/// The remote that answers everything.
pub(super) const REMOTE: (Ipv4Addr, Mac) = (Ipv4Addr::new(203, 0, 113, 10), Mac([2, 0, 0, 0, 0, 9]));
const PORT: u16 = 7;

/// MAC of a backend.
pub(super) fn backend_mac(ip: Ipv4Addr) -> Mac {
    let [a, b, c, d] = ip.octets();
    Mac([2, 1, a, b, c, d])
}

/// A UDP frame that carries `tag`.
pub(super) fn udp(eth: (Mac, Mac), src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), tag: u32) -> Vec<u8> {
    let mut frame = vec![0; 14 + 20 + 8 + 4];
    frame[..6].copy_from_slice(&eth.1.0);
    frame[6..12].copy_from_slice(&eth.0.0);
    frame[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut frame[14..34];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&32_u16.to_be_bytes());
    ip[8] = 64;
    ip[9] = 17;
    ip[12..16].copy_from_slice(&src.0.octets());
    ip[16..20].copy_from_slice(&dst.0.octets());
    let sum = !checksum::sum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame[34..36].copy_from_slice(&src.1.to_be_bytes());
    frame[36..38].copy_from_slice(&dst.1.to_be_bytes());
    frame[38..40].copy_from_slice(&12_u16.to_be_bytes());
    frame[42..46].copy_from_slice(&tag.to_be_bytes());
    frame
}

/// A flow of a backend: the frame that it sends to the remote.
pub(super) fn outbound(gateway: Mac, ip: Ipv4Addr, port: u16, tag: u32) -> Vec<u8> {
    udp((backend_mac(ip), gateway), (ip, port), (REMOTE.0, PORT), tag)
}

/// The remote's answer to a frame.
pub(super) fn echo(seen: &Seen, to: Mac) -> Vec<u8> {
    udp((REMOTE.1, to), (REMOTE.0, PORT), (seen.src, seen.sport), seen.tag)
}

/// What a UDP frame says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) eth_src: Mac,
    pub(super) src: Ipv4Addr,
    pub(super) sport: u16,
    pub(super) dst: Ipv4Addr,
    pub(super) dport: u16,
    pub(super) tag: u32,
}

/// Reads a UDP frame; `None` for anything else.
pub(super) fn read(frame: &[u8]) -> Option<Seen> {
    if frame.len() < 46 || frame[12..14] != [8, 0] {
        return None;
    }
    let ip = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    Some(Seen {
        eth_src: Mac(frame[6..12].try_into().ok()?),
        src: ip(26),
        dst: ip(30),
        sport: port(34),
        dport: port(36),
        tag: u32::from_be_bytes(frame[42..46].try_into().ok()?),
    })
}

/// The answer of the host that has `ip` to a request for it.
pub(super) fn arp_answer(request: &ArpPacket, ip: Ipv4Addr, mac: Mac) -> Option<Vec<u8>> {
    if request.op != ArpOp::Request || request.target_ip != ip {
        return None;
    }
    let mut out = [0; 60];
    build_arp(&mut out, ArpOp::Reply, mac, request.sender_mac, mac, ip, request.sender_mac, request.sender_ip);
    Some(out.to_vec())
}
