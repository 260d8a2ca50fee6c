//! The question that members put to each other's own MACs on the data networks, and its answer: a frame of an EtherType of
//! its own (IEEE 802 local experimental 2), which no host listens to, no cache learns from and nobody translates.

use super::ethernet;
use crate::event::DropReason;
use crate::ids::{Mac, NodeId};

pub use super::ethernet::SOUNDING as ETHERTYPE;
/// Octets of the frame: the shortest that Ethernet has.
pub const FRAME_LEN: usize = 60;
/// First octets of the payload, with the version.
const MAGIC: [u8; 5] = *b"qnat\x01";

/// What a sounding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundingOp {
    /// Who gets it answers.
    Question,
    /// It was heard.
    Answer,
}

/// A sounding with the Ethernet addresses of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sounding {
    /// Question or answer.
    pub op: SoundingOp,
    /// Who sends it, as it says; what counts is the source address.
    pub node: NodeId,
    /// Source of the frame.
    pub eth_src: Mac,
    /// Destination of the frame.
    pub eth_dst: Mac,
}

pub(super) fn parse(header: &ethernet::Header, bytes: &[u8]) -> Result<Sounding, DropReason> {
    let (magic, rest) = bytes.split_first_chunk::<5>().ok_or(DropReason::Truncated)?;
    let (&[op, n0, n1, n2, n3], _) = rest.split_first_chunk::<5>().ok_or(DropReason::Truncated)?;
    let op = match (*magic, op) {
        (MAGIC, 1) => SoundingOp::Question,
        (MAGIC, 2) => SoundingOp::Answer,
        _ => return Err(DropReason::Malformed),
    };
    let node = NodeId(u32::from_be_bytes([n0, n1, n2, n3]));
    Ok(Sounding { op, node, eth_src: header.src, eth_dst: header.dst })
}

/// Builds the frame.
#[must_use]
pub fn build_sounding(s: &Sounding) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[..6].copy_from_slice(&s.eth_dst.0);
    frame[6..12].copy_from_slice(&s.eth_src.0);
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    frame[14..19].copy_from_slice(&MAGIC);
    frame[19] = match s.op {
        SoundingOp::Question => 1,
        SoundingOp::Answer => 2,
    };
    frame[20..24].copy_from_slice(&s.node.0.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FrameMeta, Parsed, parse};

    #[test]
    fn a_sounding_is_read_as_it_was_built_and_anything_else_is_refused() {
        for op in [SoundingOp::Question, SoundingOp::Answer] {
            let s =
                Sounding { op, node: NodeId(7), eth_src: Mac([2, 0, 0, 0, 0, 1]), eth_dst: Mac([2, 0, 0, 0, 0, 2]) };
            let frame = build_sounding(&s);
            assert_eq!(parse(&frame, &FrameMeta::default()), Ok(Parsed::Sounding(s)));
            assert_eq!(parse(&frame[..23], &FrameMeta::default()), Err(DropReason::Truncated));
            for at in 14..20 {
                let mut wrong = frame;
                wrong[at] ^= 0x40;
                assert_eq!(parse(&wrong, &FrameMeta::default()), Err(DropReason::Malformed), "octet {at}");
            }
        }
    }
}
