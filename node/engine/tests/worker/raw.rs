//! IPv4 packets octet by octet, for what packet builders do not make: quotes, options, fragments. Sums by definition.

use std::net::Ipv4Addr;

use crate::lab::mac_of;
use qnat_engine::ids::{Mac, ShardId};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
/// Where the IP header stands in a frame.
pub(crate) const L3: usize = 14;

pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;

/// An IPv4 packet without its Ethernet header.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    pub(crate) proto: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    /// Flags and fragment offset as they stand in the header.
    pub(crate) fragment: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Raw {
    pub(crate) fn new(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, payload: Vec<u8>) -> Self {
        Self { src, dst, proto, ttl: 64, id: 77, fragment: 0, options: Vec::new(), payload }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut out = vec![0x40 | u8::try_from(header / 4).expect("small"), 0];
        out.extend(u16::try_from(header + self.payload.len()).expect("small").to_be_bytes());
        out.extend(self.id.to_be_bytes());
        out.extend(self.fragment.to_be_bytes());
        out.extend([self.ttl, self.proto, 0, 0]);
        out.extend(self.src.octets());
        out.extend(self.dst.octets());
        out.extend(&self.options);
        let sum = checksum(&out);
        put(&mut out, 10, sum);
        out.extend(&self.payload);
        out
    }

    /// The frame that brings it from `from` to a shard's virtual MAC.
    pub(crate) fn frame(&self, from: Ipv4Addr, shard: ShardId) -> Vec<u8> {
        ethernet(mac_of(from), Mac::of_shard(shard), &self.bytes())
    }
}

pub(crate) fn ethernet(src: Mac, dst: Mac, packet: &[u8]) -> Vec<u8> {
    let mut out = dst.0.to_vec();
    out.extend(src.0);
    out.extend([8, 0]);
    out.extend(packet);
    out
}

pub(crate) fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// RFC 1071: the complement of the ones' complement sum.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|p| u32::from(u16::from_be_bytes([p[0], *p.get(1).unwrap_or(&0)]))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).expect("small")
}

/// Sets the transport checksum of a whole segment or datagram between two hosts.
fn with_checksum(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, at: usize, mut payload: Vec<u8>) -> Vec<u8> {
    let mut covered = payload.clone();
    if covered.len() % 2 == 1 {
        covered.push(0);
    }
    if proto != ICMP {
        covered.extend(src.octets());
        covered.extend(dst.octets());
        covered.extend([0, proto]);
        covered.extend(u16::try_from(payload.len()).expect("small").to_be_bytes());
    }
    put(&mut payload, at, checksum(&covered));
    payload
}

pub(crate) fn udp_raw(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), data: &[u8]) -> Raw {
    let mut payload = [src.1.to_be_bytes(), dst.1.to_be_bytes()].concat();
    payload.extend(u16::try_from(8 + data.len()).expect("small").to_be_bytes());
    payload.extend([0, 0]);
    payload.extend(data);
    Raw::new(src.0, dst.0, UDP, with_checksum(src.0, dst.0, UDP, 6, payload))
}

pub(crate) fn tcp_raw(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: u8, data: &[u8]) -> Raw {
    let mut payload = [src.1.to_be_bytes(), dst.1.to_be_bytes()].concat();
    payload.extend([0, 0, 0, 9, 0, 0, 0, 5, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    payload.extend(data);
    Raw::new(src.0, dst.0, TCP, with_checksum(src.0, dst.0, TCP, 16, payload))
}

pub(crate) fn icmp_raw(src: Ipv4Addr, dst: Ipv4Addr, head: [u8; 2], rest: [u8; 4], data: &[u8]) -> Raw {
    let mut payload = vec![head[0], head[1], 0, 0];
    payload.extend(rest);
    payload.extend(data);
    Raw::new(src, dst, ICMP, with_checksum(src, dst, ICMP, 2, payload))
}

pub(crate) fn echo(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, id: u16, data: &[u8]) -> Raw {
    let [a, b] = id.to_be_bytes();
    icmp_raw(src, dst, [kind, 0], [a, b, 0, 1], data)
}
