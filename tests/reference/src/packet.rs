//! Frames, naively: plain offsets, every checksum summed over all its bytes. Must never use the engine's parser, since it
//! judges what that one let through.

use std::net::Ipv4Addr;

/// IP protocol numbers.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// Length of an Ethernet header.
pub const ETH: usize = 14;

/// The ones' complement sum of RFC 1071 over `bytes`, added to `sum`; not folded.
#[must_use]
pub fn sum(bytes: &[u8], sum: u32) -> u32 {
    bytes
        .chunks(2)
        .fold(sum, |sum, pair| sum + (u32::from(pair[0]) << 8) + u32::from(pair.get(1).copied().unwrap_or(0)))
}

/// Folds a sum into the checksum that makes it whole.
#[must_use]
pub fn checksum(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

fn pseudo(ip: &[u8], proto: u8, len: usize) -> u32 {
    sum(&ip[12..20], u32::from(proto) + u32::try_from(len).expect("a frame"))
}

/// Two bytes, big endian.
#[must_use]
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Where a frame's parts lie, if its lengths make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of the IP header.
    pub ip_header: usize,
    /// Bytes of the IP packet.
    pub ip_total: usize,
    /// Protocol number.
    pub proto: u8,
    /// Offset of the fragment in bytes; more fragments follow.
    pub fragment: (usize, bool),
}

/// The shape of an IPv4 frame; `None` if it is none or its lengths contradict each other.
#[must_use]
pub fn shape(frame: &[u8]) -> Option<Shape> {
    let ip = frame.get(ETH..).filter(|ip| ip.len() >= 20)?;
    let (ip_header, ip_total) = (usize::from(ip[0] & 15) * 4, usize::from(be16(ip, 2)));
    let sound = be16(frame, 12) == 0x0800 && ip[0] >> 4 == 4 && ip_header >= 20;
    let flags = be16(ip, 6);
    let fragment = (usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
    let shape = Shape { ip_header, ip_total, proto: ip[9], fragment };
    (sound && ip_total >= ip_header && ip_total <= ip.len()).then_some(shape)
}

/// Source and destination of an IPv4 frame.
#[must_use]
pub fn addresses(frame: &[u8]) -> (Ipv4Addr, Ipv4Addr) {
    let at = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    (at(ETH + 12), at(ETH + 16))
}

/// Makes every length and checksum of an IPv4 frame right again, as far as its shape allows it.
pub fn mend(frame: &mut [u8]) {
    let Some(shape) = shape(frame) else { return };
    let ip = &mut frame[ETH..ETH + shape.ip_total];
    put16(ip, 10, 0);
    let header = checksum(sum(&ip[..shape.ip_header], 0));
    put16(ip, 10, header);
    if shape.fragment != (0, false) {
        return;
    }
    let len = shape.ip_total - shape.ip_header;
    let (at, pseudo, minimum) = match shape.proto {
        TCP => (16, pseudo(ip, TCP, len), 20),
        UDP => (6, pseudo(ip, UDP, len), 8),
        ICMP => (2, 0, 8),
        _ => return,
    };
    if len < minimum {
        return;
    }
    let payload = &mut ip[shape.ip_header..];
    if shape.proto == UDP {
        put16(payload, 4, u16::try_from(len).expect("a frame"));
    }
    put16(payload, at, 0);
    let mut value = checksum(sum(payload, pseudo));
    if shape.proto == UDP && value == 0 {
        value = 0xffff;
    }
    put16(payload, at, value);
}

/// What is wrong with a frame that left: a shape or checksum that is not right.
///
/// # Errors
/// Says what.
pub fn examine(frame: &[u8]) -> Result<Shape, String> {
    let shape = shape(frame).ok_or("no IPv4 packet whose lengths agree")?;
    let ip = &frame[ETH..ETH + shape.ip_total];
    if checksum(sum(&ip[..shape.ip_header], 0)) != 0 {
        return Err("the IP header's checksum is wrong".into());
    }
    if shape.fragment != (0, false) {
        return Ok(shape);
    }
    let mut payload = &ip[shape.ip_header..];
    if shape.proto == UDP && payload.len() >= 8 {
        // What stands behind the datagram is none of its checksum's business (RFC 768, RFC 9868).
        payload = payload.get(..usize::from(be16(payload, 4))).ok_or("a datagram longer than its packet")?;
    }
    let (pseudo, minimum) = match shape.proto {
        TCP => (pseudo(ip, TCP, payload.len()), 20),
        UDP => (pseudo(ip, UDP, payload.len()), 8),
        ICMP => (0, 8),
        _ => return Ok(shape),
    };
    if payload.len() < minimum {
        return Err(format!("protocol {} with {} bytes", shape.proto, payload.len()));
    }
    // RFC 768: zero says that the sender made none.
    let none = shape.proto == UDP && be16(payload, 6) == 0;
    if !none && checksum(sum(payload, pseudo)) != 0 {
        return Err(format!("the checksum of protocol {} is wrong", shape.proto));
    }
    Ok(shape)
}

/// An Ethernet and IPv4 frame around `payload`, with right lengths and checksums.
#[must_use]
pub fn ipv4(macs: ([u8; 6], [u8; 6]), source: Ipv4Addr, destination: Ipv4Addr, proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETH + 20 + payload.len());
    frame.extend(macs.1);
    frame.extend(macs.0);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(u16::try_from(20 + payload.len()).expect("a frame").to_be_bytes());
    frame.extend([0x12, 0x34, 0, 0, 64, proto, 0, 0]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(payload);
    mend(&mut frame);
    frame
}

/// The part of a whole datagram's frame, without options, from `start` to `end` of its payload, as a fragment.
#[must_use]
pub fn piece(frame: &[u8], start: usize, end: usize) -> Vec<u8> {
    let (header, payload) = frame.split_at(ETH + 20);
    let mut piece = [header, &payload[start..end]].concat();
    let flags = be16(frame, ETH + 6) & 0xe000 | if end < payload.len() { 0x2000 } else { 0 };
    put16(&mut piece, ETH + 2, u16::try_from(20 + end - start).expect("a frame"));
    put16(&mut piece, ETH + 6, flags + u16::try_from(start / 8).expect("a frame"));
    mend(&mut piece);
    piece
}

/// The fragments of a frame without options, each of at most `step` octets of payload, a multiple of eight.
#[must_use]
pub fn fragments(frame: &[u8], step: usize) -> Vec<Vec<u8>> {
    let len = frame.len() - ETH - 20;
    (0..len).step_by(step).map(|start| piece(frame, start, len.min(start + step))).collect()
}

/// The same of a packet or fragment that is larger than a link takes (RFC 791 2.3); of any other the frame itself.
#[must_use]
pub fn cut(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    if frame.len() - ETH <= usize::from(mtu) {
        return vec![frame.to_vec()];
    }
    let (word, room) = (be16(frame, ETH + 6), usize::from(mtu - 20) & !7);
    let mut whole = frame.to_vec();
    put16(&mut whole, ETH + 6, word & 0xc000);
    let mut all = fragments(&whole, room);
    let last = all.len() - 1;
    for (place, part) in all.iter_mut().enumerate() {
        let more = if place < last { 0x2000 } else { word & 0x2000 };
        let offset = (word + be16(part, ETH + 6)) & 0x1fff;
        put16(part, ETH + 6, word & 0xc000 | more | offset);
        mend(part);
    }
    all
}

/// Puts fragments together as a receiver would that trusts nobody; options are not expected.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// By addresses, protocol and identification: the header, and parts by where they start.
    open: std::collections::BTreeMap<Vec<u8>, Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    header: Vec<u8>,
    parts: std::collections::BTreeMap<usize, Vec<u8>>,
    end: Option<usize>,
}

impl Reassembly {
    /// Takes a frame; a whole packet comes back at once, a datagram with its last fragment.
    ///
    /// # Errors
    /// If fragments overlap that are not copies.
    pub fn take(&mut self, frame: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let Some(shape) = shape(frame).filter(|shape| shape.fragment != (0, false)) else {
            return Ok(Some(frame.to_vec()));
        };
        let key = [&frame[ETH + 4..ETH + 6], &frame[ETH + 9..ETH + 10], &frame[ETH + 12..ETH + 20]].concat();
        let part = frame[ETH + shape.ip_header..ETH + shape.ip_total].to_vec();
        let (start, more) = shape.fragment;
        let end = start + part.len();
        let parts = self.open.entry(key.clone()).or_default();
        // The network may double a fragment (RFC 791); a copy says nothing new.
        if parts.parts.get(&start) == Some(&part) {
            return Ok(None);
        }
        if parts.parts.iter().any(|(s, other)| start < s + other.len() && *s < end) {
            return Err(format!("a fragment at {start} overlaps others"));
        }
        if start == 0 {
            parts.header = frame[..ETH + shape.ip_header].to_vec();
        }
        parts.parts.insert(start, part);
        if !more {
            parts.end = Some(end);
        }
        if parts.end != Some(parts.parts.values().map(Vec::len).sum()) {
            return Ok(None);
        }
        let parts = self.open.remove(&key).expect("just there");
        let mut whole = parts.header;
        whole.extend(parts.parts.into_values().flatten());
        let total = u16::try_from(whole.len() - ETH).map_err(|_| "too long a datagram")?;
        put16(&mut whole, ETH + 2, total);
        put16(&mut whole, ETH + 6, 0);
        put16(&mut whole, ETH + 10, 0);
        let sum = checksum(sum(&whole[ETH..ETH + 20], 0));
        put16(&mut whole, ETH + 10, sum);
        Ok(Some(whole))
    }
}

/// A UDP header and its data, checksum left to `mend`.
#[must_use]
pub fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + data.len());
    out.extend(source.to_be_bytes());
    out.extend(destination.to_be_bytes());
    out.extend(u16::try_from(8 + data.len()).expect("a frame").to_be_bytes());
    out.extend([0, 0]);
    out.extend(data);
    out
}

/// A TCP header and its data, checksum left to `mend`. `flags` is the low byte of the flags.
#[must_use]
pub fn tcp(ports: (u16, u16), numbers: (u32, u32), flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4) && options.len() <= 40, "options come in words");
    let words = u8::try_from(5 + options.len() / 4).expect("at most 15");
    let mut out = Vec::with_capacity(20 + options.len() + data.len());
    out.extend(ports.0.to_be_bytes());
    out.extend(ports.1.to_be_bytes());
    out.extend(numbers.0.to_be_bytes());
    out.extend(numbers.1.to_be_bytes());
    out.extend([words << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    out.extend(options);
    out.extend(data);
    out
}

/// An ICMP message, checksum left to `mend`. `rest` are the four bytes behind the checksum.
#[must_use]
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, code, 0, 0];
    out.extend(rest);
    out.extend(data);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

    /// The example of RFC 1071, section 3.
    #[test]
    fn the_sum_is_that_of_the_rfc() {
        assert_eq!(checksum(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0)), !0xddf2);
    }

    #[test]
    fn every_changed_byte_of_a_packet_is_noticed() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(192, 0, 2, 9));
        for (proto, payload) in [
            (UDP, udp(5, 6, b"odd")),
            (TCP, tcp((5, 6), (7, 8), 2, &[2, 4, 5, 180], b"x")),
            (ICMP, icmp(8, 0, [0, 1, 0, 2], b"ping")),
        ] {
            let good = ipv4(MACS, a, b, proto, &payload);
            assert_eq!(examine(&good).map(|shape| shape.proto), Ok(proto));
            for at in ETH..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x10;
                let checksum_of_udp = proto == UDP && (at == ETH + 26 || at == ETH + 27) && be16(&bad, ETH + 26) == 0;
                assert!(examine(&bad).is_err() || checksum_of_udp, "protocol {proto}, byte {at}");
            }
        }
    }
}
