//! Frames of a bed's flows, as a device hands them over: small ones whole, with checksums to verify; super-packets of 64 KB
//! with their checksum left to whoever sends them, as every virtual device does it. Each is written anew before it is
//! used, since the engine rewrites in place.

use std::net::Ipv4Addr;

use engine::ids::{Link, Mac};
use engine::record::Proto;
use engine::wire::{ChecksumState, FrameMeta, Gso};
use serde::{Deserialize, Serialize};

use super::bed::{INSIDE, PUBLIC, SHARD, Tuple, mac_of};

const IP: usize = 14;
const L4: usize = IP + 20;
/// The least that Ethernet carries, without the checksum at its end.
const SMALL: usize = 60;
/// Fills the largest IP packet.
const SUPER: usize = IP + 65_535;
const SEGMENT: u16 = 1_400;

/// Length of the frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// 60 octets.
    Small,
    /// 64 KB.
    Super,
}

/// Where the frames go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// From inside to outside.
    Out,
    /// From outside to inside.
    In,
    /// One by one in turn.
    Mixed,
}

/// A batch of frames of one kind.
#[derive(Debug)]
pub struct Batch {
    /// By which link each comes in, and the frame.
    pub frames: Vec<(Link, Vec<u8>)>,
    /// The same for all of them.
    pub meta: FrameMeta,
}

impl Batch {
    /// Room for `count` frames.
    #[must_use]
    pub fn new(count: usize, proto: Proto, size: Size, way: Way) -> Self {
        let length = if size == Size::Small { SMALL } else { SUPER };
        let link = |at: usize| match way {
            Way::Out => INSIDE,
            Way::In => Link::Outside,
            Way::Mixed if at.is_multiple_of(2) => INSIDE,
            Way::Mixed => Link::Outside,
        };
        let frames = (0..count).map(|at| (link(at), vec![0; length])).collect();
        let offset = if proto == Proto::Tcp { 16 } else { 6 };
        let start = u16::try_from(L4).expect("small");
        let meta = match size {
            Size::Small => FrameMeta::default(),
            Size::Super => FrameMeta {
                checksum: ChecksumState::Partial { start, offset },
                gso: if proto == Proto::Tcp { Gso::Tcp4 { size: SEGMENT } } else { Gso::Udp { size: SEGMENT } },
                header_len: start + if proto == Proto::Tcp { 20 } else { 8 },
                ..FrameMeta::default()
            },
        };
        Self { frames, meta }
    }

    /// Writes a frame of each of the flows.
    pub fn fill(&mut self, proto: Proto, flows: impl Iterator<Item = Tuple>) {
        let partial = self.meta.checksum != ChecksumState::Unverified;
        for ((link, frame), flow) in self.frames.iter_mut().zip(flows) {
            let (from, to) = match link {
                Link::Inside(_) => (flow.inside, flow.remote),
                Link::Outside => (flow.remote, (PUBLIC, flow.public_port)),
            };
            let host = if *link == INSIDE { from.0 } else { Ipv4Addr::new(203, 0, 113, 1) };
            write(frame, mac_of(host), proto, from, to, partial);
        }
    }
}

fn write(
    frame: &mut [u8],
    mac: Mac,
    proto: Proto,
    (src, src_port): (Ipv4Addr, u16),
    (dst, dst_port): (Ipv4Addr, u16),
    partial: bool,
) {
    let total = u16::try_from(frame.len() - IP).expect("an IP packet");
    let transport = total - 20;
    frame[..6].copy_from_slice(&Mac::of_shard(SHARD).0);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[IP..IP + 12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, proto as u8, 0, 0]);
    put(frame, IP + 2, total);
    frame[IP + 12..IP + 16].copy_from_slice(&src.octets());
    frame[IP + 16..L4].copy_from_slice(&dst.octets());
    put(frame, L4, src_port);
    put(frame, L4 + 2, dst_port);
    let checksum_at = if proto == Proto::Tcp {
        // A segment in the middle of a connection: ACK.
        frame[L4 + 4..L4 + 20].copy_from_slice(&[0, 0, 1, 0, 0, 0, 1, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        L4 + 16
    } else {
        put(frame, L4 + 4, transport);
        put(frame, L4 + 6, 0);
        L4 + 6
    };
    let header = fold(sum(&frame[IP..L4]));
    put(frame, IP + 10, !header);
    let pseudo = sum(&frame[IP + 12..L4]) + u32::from(proto as u8) + u32::from(transport);
    // Whoever completes a partial checksum adds up the rest.
    let checksum = if partial { fold(pseudo) } else { !fold(pseudo + sum(&frame[L4..])) };
    put(frame, checksum_at, checksum);
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}
