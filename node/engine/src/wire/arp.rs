//! ARP for IPv4 over Ethernet (RFC 826): parsed into its meaning, and built. Who may be answered or believed is the
//! caller's decision (M1, M2), not this file's.

use std::net::Ipv4Addr;

use super::ethernet::{self, is_group};
use crate::event::DropReason;
use crate::ids::Mac;

/// Octets of the ARP message itself.
const LEN: usize = 28;
/// Ethernet, IPv4, lengths 6 and 4: the fixed start of every message that is understood here.
const PREFIX: [u8; 6] = [0x00, 0x01, 0x08, 0x00, 6, 4];

/// What an ARP message does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArpOp {
    /// Asks who has `target_ip`.
    Request,
    /// Tells that `sender_ip` is at `sender_mac`.
    Reply,
}

/// An ARP message with the Ethernet addresses of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// Request or reply.
    pub op: ArpOp,
    /// Claimed MAC of the sender; never a group address.
    pub sender_mac: Mac,
    /// Claimed address of the sender; 0.0.0.0 in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// MAC of the target; meaningless in a request.
    pub target_mac: Mac,
    /// Address that is asked for.
    pub target_ip: Ipv4Addr,
    /// Source of the frame.
    pub eth_src: Mac,
    /// Destination of the frame.
    pub eth_dst: Mac,
}

/// Parses the payload of an ARP frame; padding behind the message is ignored.
pub(super) fn parse(header: &ethernet::Header, bytes: &[u8]) -> Result<ArpPacket, DropReason> {
    let message = bytes.first_chunk::<LEN>().ok_or(DropReason::Truncated)?;
    let [
        p0,
        p1,
        p2,
        p3,
        p4,
        p5,
        o0,
        o1,
        m0,
        m1,
        m2,
        m3,
        m4,
        m5,
        s0,
        s1,
        s2,
        s3,
        n0,
        n1,
        n2,
        n3,
        n4,
        n5,
        t0,
        t1,
        t2,
        t3,
    ] = *message;
    let op = match u16::from_be_bytes([o0, o1]) {
        1 => ArpOp::Request,
        2 => ArpOp::Reply,
        _ => return Err(DropReason::Malformed),
    };
    let sender_mac = Mac([m0, m1, m2, m3, m4, m5]);
    if [p0, p1, p2, p3, p4, p5] != PREFIX || is_group(sender_mac) {
        return Err(DropReason::Malformed);
    }
    Ok(ArpPacket {
        op,
        sender_mac,
        sender_ip: Ipv4Addr::new(s0, s1, s2, s3),
        target_mac: Mac([n0, n1, n2, n3, n4, n5]),
        target_ip: Ipv4Addr::new(t0, t1, t2, t3),
        eth_src: header.src,
        eth_dst: header.dst,
    })
}

/// Builds a whole frame, padded with zeros to Ethernet's minimum without the frame check sequence.
#[expect(clippy::too_many_arguments, reason = "each is one field of the message; a struct would only repeat ArpPacket")]
pub fn build_arp(
    out: &mut [u8; 60],
    op: ArpOp,
    eth_src: Mac,
    eth_dst: Mac,
    sender_mac: Mac,
    sender_ip: Ipv4Addr,
    target_mac: Mac,
    target_ip: Ipv4Addr,
) {
    out.fill(0);
    ethernet::set_ethernet(out, eth_src, eth_dst);
    out[12..14].copy_from_slice(&[0x08, 0x06]);
    out[14..20].copy_from_slice(&PREFIX);
    out[21] = match op {
        ArpOp::Request => 1,
        ArpOp::Reply => 2,
    };
    out[22..28].copy_from_slice(&sender_mac.0);
    out[28..32].copy_from_slice(&sender_ip.octets());
    out[32..38].copy_from_slice(&target_mac.0);
    out[38..42].copy_from_slice(&target_ip.octets());
}
