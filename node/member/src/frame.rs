//! What members say to each other above the transport: the control channel's frames and the header of a flow frame.
//! Decoding is total; the transport has proved which node a frame comes from, never more.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::{Bytes, BytesMut};
use control::Refusal;
use control::command::{InStep, Key};
use engine::ids::{Incarnation, NodeId, SHARDS_MAX, ShardId};

/// Transport channel of the control group.
pub const CHANNEL_CONTROL: u32 = u32::MAX - 1;
/// Number of the channel for joining, where drivers number channels: the transport has one apart from all others.
pub const CHANNEL_JOIN: u32 = u32::MAX - 2;
/// Transport channel of questions that members ask each other; see `daemon::ask`.
pub const CHANNEL_ASK: u32 = u32::MAX - 3;
/// Transport channel of a flow group, and of the frames between nodes that belong to none (`consensus::flow::frame::NODE_GROUP`).
#[must_use]
pub fn channel_of(group: ShardId) -> u32 {
    u32::from(group.0)
}

/// A frame on the control channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlFrame {
    /// A raft message of the control group between two raft ids.
    Raft { from: u64, to: u64, frame: Bytes },
    /// A command that the receiver, if it leads, shall propose. Answered by the log itself: commands are idempotent by key.
    Submit { command: Bytes },
    /// The raft id that the control log gave to the node that asked to join with this nonce (N5), and who the members are.
    Joined { nonce: u64, raft_id: u64, cluster_id: [u8; 16], members: BTreeMap<NodeId, SocketAddr> },
    /// The control log refused what a node outside asked for with this nonce.
    Refused { nonce: u64, refusal: Refusal },
    /// The node is alive and has a control replica; sent every 200 ms so that the leader knows whom to count on.
    /// With it, the shards of which its flow half hears an owner now, and in which epoch, so that the leader does not go by
    /// its own hearing alone.
    Alive { owned: Vec<(ShardId, u32)> },
    /// What the owners on the node have measured of their shards; sent with `Alive`.
    Measured { in_step: Vec<InStep> },
    /// A part of a raft message of the control group that is longer than a frame may be.
    Piece { transfer: u64, from: u64, to: u64, at: u64, len: u64, bytes: Bytes },
    /// So many bytes of a transfer have come.
    Taken { transfer: u64, taken: u64 },
    /// The leader does not propose the command of this key, and why.
    Declined { key: Key, refusal: Refusal },
}

const RAFT: u8 = 1;
const SUBMIT: u8 = 2;
const JOINED: u8 = 4;
const ALIVE: u8 = 5;
const MEASURED: u8 = 7;
const PIECE: u8 = 9;
const TAKEN: u8 = 10;
const REFUSED: u8 = 11;
const DECLINED: u8 = 12;
/// Transfer, sender, receiver, place and length before the bytes of a piece.
const PIECE_HEADER: usize = 5 * 8;
/// Most members that a frame names.
const MEMBERS_MAX: usize = 64;

impl ControlFrame {
    /// The bytes on the wire: a kind, then the fields in big-endian order.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Raft { from, to, frame } => {
                out.extend_from_slice(&[RAFT]);
                out.extend_from_slice(&from.to_be_bytes());
                out.extend_from_slice(&to.to_be_bytes());
                out.extend_from_slice(frame);
            }
            Self::Submit { command } => {
                out.extend_from_slice(&[SUBMIT]);
                out.extend_from_slice(command);
            }
            Self::Joined { nonce, raft_id, cluster_id, members } => {
                out.extend_from_slice(&[JOINED]);
                out.extend_from_slice(&nonce.to_be_bytes());
                out.extend_from_slice(&raft_id.to_be_bytes());
                out.extend_from_slice(cluster_id);
                for (node, address) in members.iter().take(MEMBERS_MAX) {
                    put_member(&mut out, *node, *address);
                }
            }
            Self::Refused { nonce, refusal } => {
                out.extend_from_slice(&[REFUSED]);
                out.extend_from_slice(&nonce.to_be_bytes());
                out.extend_from_slice(&refusal.to_bytes());
            }
            Self::Alive { owned } => {
                out.extend_from_slice(&[ALIVE]);
                for (shard, epoch) in owned {
                    out.extend_from_slice(&shard.0.to_be_bytes());
                    out.extend_from_slice(&epoch.to_be_bytes());
                }
            }
            Self::Measured { in_step } => {
                out.extend_from_slice(&[MEASURED]);
                in_step.iter().for_each(|shard| put_in_step(&mut out, shard));
            }
            Self::Piece { transfer, from, to, at, len, bytes } => {
                out.extend_from_slice(&[PIECE]);
                [transfer, from, to, at, len].into_iter().for_each(|n| out.extend_from_slice(&n.to_be_bytes()));
                out.extend_from_slice(bytes);
            }
            Self::Taken { transfer, taken } => {
                out.extend_from_slice(&[TAKEN]);
                out.extend_from_slice(&transfer.to_be_bytes());
                out.extend_from_slice(&taken.to_be_bytes());
            }
            Self::Declined { key, refusal } => {
                out.extend_from_slice(&[DECLINED]);
                out.extend_from_slice(key);
                out.extend_from_slice(&refusal.to_bytes());
            }
        }
        out.freeze()
    }

    /// Reads a frame; `None` for anything malformed.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        match kind {
            RAFT => {
                let (from, rest) = rest.split_first_chunk()?;
                let (to, _) = rest.split_first_chunk()?;
                Some(Self::Raft {
                    from: u64::from_be_bytes(*from),
                    to: u64::from_be_bytes(*to),
                    frame: bytes.slice(17..),
                })
            }
            SUBMIT => Some(Self::Submit { command: bytes.slice(1..) }),
            JOINED => {
                let (nonce, rest) = rest.split_first_chunk()?;
                let (raft_id, rest) = rest.split_first_chunk()?;
                let (cluster_id, rest) = rest.split_first_chunk()?;
                Some(Self::Joined {
                    nonce: u64::from_be_bytes(*nonce),
                    raft_id: u64::from_be_bytes(*raft_id),
                    cluster_id: *cluster_id,
                    members: members(rest)?,
                })
            }
            ALIVE => owned(rest).map(|owned| Self::Alive { owned }),
            REFUSED => {
                let (nonce, refusal) = rest.split_first_chunk()?;
                let refusal = Refusal::from_bytes(refusal)?;
                Some(Self::Refused { nonce: u64::from_be_bytes(*nonce), refusal })
            }
            MEASURED => {
                let mut in_step = Vec::new();
                let mut left = rest;
                while !left.is_empty() {
                    in_step.push(take_in_step(&mut left)?);
                }
                Some(Self::Measured { in_step })
            }
            PIECE => {
                let (numbers, _) = rest.split_first_chunk::<PIECE_HEADER>()?;
                let (numbers, _) = numbers.as_chunks::<8>();
                let &[transfer, from, to, at, len] = numbers else { return None };
                let [transfer, from, to, at, len] = [transfer, from, to, at, len].map(u64::from_be_bytes);
                Some(Self::Piece { transfer, from, to, at, len, bytes: bytes.slice(1 + PIECE_HEADER..) })
            }
            TAKEN => {
                let (transfer, rest) = rest.split_first_chunk()?;
                let taken = u64::from_be_bytes(rest.try_into().ok()?);
                Some(Self::Taken { transfer: u64::from_be_bytes(*transfer), taken })
            }
            DECLINED => {
                let (key, refusal) = rest.split_first_chunk()?;
                Some(Self::Declined { key: *key, refusal: Refusal::from_bytes(refusal)? })
            }
            _ => None,
        }
    }
}

/// Shards and epochs, six octets each; a shard is named once at most, in order.
fn owned(bytes: &[u8]) -> Option<Vec<(ShardId, u32)>> {
    let (pairs, rest) = bytes.as_chunks::<6>();
    let pair = |[a, b, epoch @ ..]: &[u8; 6]| (ShardId(u16::from_be_bytes([*a, *b])), u32::from_be_bytes(*epoch));
    let owned: Vec<_> = pairs.iter().map(pair).collect();
    let fits = rest.is_empty() && owned.len() <= usize::from(SHARDS_MAX) && owned.is_sorted_by(|a, b| a.0 < b.0);
    fits.then_some(owned)
}

/// A member in 22 bytes: its number, its address as IPv6 (IPv4 mapped into it), its port.
const MEMBER_BYTES: usize = 4 + 16 + 2;

fn put_member(out: &mut BytesMut, node: NodeId, address: SocketAddr) {
    let ip = match address.ip() {
        IpAddr::V4(four) => four.to_ipv6_mapped(),
        IpAddr::V6(six) => six,
    };
    out.extend_from_slice(&node.0.to_be_bytes());
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&address.port().to_be_bytes());
}

fn members(bytes: &[u8]) -> Option<BTreeMap<NodeId, SocketAddr>> {
    let (each, rest) = bytes.as_chunks::<MEMBER_BYTES>();
    if !rest.is_empty() || each.len() > MEMBERS_MAX {
        return None;
    }
    let member = |bytes: &[u8; MEMBER_BYTES]| {
        let (node, rest) = bytes.split_first_chunk()?;
        let (ip, port) = rest.split_first_chunk::<16>()?;
        let ip = Ipv6Addr::from(*ip).to_canonical();
        let address = SocketAddr::new(ip, u16::from_be_bytes(port.try_into().ok()?));
        Some((NodeId(u32::from_be_bytes(*node)), address))
    };
    each.iter().map(member).collect()
}

/// Shard, epoch, how many, and each incarnation.
fn put_in_step(out: &mut BytesMut, in_step: &InStep) {
    let lives = &in_step.lives[..in_step.lives.len().min(usize::from(u8::MAX))];
    out.extend_from_slice(&in_step.shard.0.to_be_bytes());
    out.extend_from_slice(&in_step.epoch.to_be_bytes());
    out.extend_from_slice(&[u8::try_from(lives.len()).unwrap_or(u8::MAX)]);
    lives.iter().for_each(|life| out.extend_from_slice(&life.0.to_be_bytes()));
}

fn take_in_step(bytes: &mut &[u8]) -> Option<InStep> {
    let (shard, rest) = bytes.split_first_chunk()?;
    let (epoch, rest) = rest.split_first_chunk()?;
    let (&[count], mut rest) = rest.split_first_chunk()?;
    let mut lives = Vec::new();
    for _ in 0..count {
        let (life, left) = rest.split_first_chunk()?;
        lives.push(Incarnation(u64::from_be_bytes(*life)));
        rest = left;
    }
    *bytes = rest;
    Some(InStep { shard: ShardId(u16::from_be_bytes(*shard)), epoch: u32::from_be_bytes(*epoch), lives })
}

/// Puts the sender's incarnation before a flow frame, so that the receiver can hold it against the registry (N1).
#[must_use]
pub fn flow_frame(from: Incarnation, frame: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + frame.len());
    out.extend_from_slice(&from.0.to_be_bytes());
    out.extend_from_slice(frame);
    out.freeze()
}

/// Splits what `flow_frame` made.
#[must_use]
pub fn split_flow_frame(bytes: &Bytes) -> Option<(Incarnation, Bytes)> {
    let (from, _) = bytes.split_first_chunk()?;
    Some((Incarnation(u64::from_be_bytes(*from)), bytes.slice(8..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined() -> ControlFrame {
        let four: SocketAddr = "198.18.0.1:7800".parse().expect("an address");
        let six: SocketAddr = "[2001:db8::1]:7801".parse().expect("an address");
        let members = [(NodeId(1), four), (NodeId(2), six)].into();
        ControlFrame::Joined { nonce: 7, raft_id: 40, cluster_id: [1; 16], members }
    }

    #[test]
    fn every_kind_survives_the_wire() {
        let frames = [
            ControlFrame::Raft { from: 3, to: 9, frame: Bytes::from_static(b"raft") },
            ControlFrame::Submit { command: Bytes::from_static(b"command") },
            ControlFrame::Alive { owned: vec![] },
            ControlFrame::Alive { owned: vec![(ShardId(1), 7), (ShardId(1_023), u32::MAX)] },
            joined(),
            ControlFrame::Refused { nonce: 7, refusal: Refusal::NodeRemoved { node: NodeId(4) } },
            ControlFrame::Measured { in_step: vec![] },
            ControlFrame::Measured {
                in_step: vec![
                    InStep { shard: ShardId(3), epoch: 7, lives: vec![Incarnation(9), Incarnation(u64::MAX)] },
                    InStep { shard: ShardId(1023), epoch: u32::MAX, lives: vec![] },
                ],
            },
            ControlFrame::Declined { key: [4; 16], refusal: Refusal::NodeSilent { node: NodeId(2) } },
            ControlFrame::Piece {
                transfer: 7,
                from: 3,
                to: 9,
                at: 262_144,
                len: 1 << 33,
                bytes: Bytes::from_static(b"p"),
            },
            ControlFrame::Taken { transfer: u64::MAX, taken: 262_145 },
        ];
        for frame in frames {
            assert_eq!(ControlFrame::decode(&frame.encode()), Some(frame));
        }
    }

    #[test]
    fn cut_or_unknown_frames_are_refused() {
        let whole = joined().encode();
        for len in 0..whole.len() {
            let cut_between_members = len >= 33 && (len - 33).is_multiple_of(MEMBER_BYTES);
            assert_eq!(ControlFrame::decode(&whole.slice(..len)).is_some(), cut_between_members, "length {len}");
        }
        let alive = |owned| ControlFrame::decode(&ControlFrame::Alive { owned }.encode());
        assert_eq!(alive(vec![(ShardId(2), 1), (ShardId(1), 1)]), None, "in order");
        assert_eq!(alive(vec![(ShardId(1), 1), (ShardId(1), 2)]), None, "each once");
        assert!(alive((0..SHARDS_MAX).map(|id| (ShardId(id), 1)).collect()).is_some());
        let too_many = ControlFrame::Alive { owned: (0..=SHARDS_MAX).map(|id| (ShardId(id), 1)).collect() };
        assert_eq!(ControlFrame::decode(&too_many.encode()), None);
        assert_eq!(ControlFrame::decode(&Bytes::from_static(&[ALIVE, 0, 1, 0])), None, "cut");
        let refusal = Refusal::NodeJoinedAgain { node: NodeId(4), raft_id: 40, former: 7 };
        let refused = ControlFrame::Refused { nonce: 1, refusal: refusal.clone() }.encode();
        let declined = ControlFrame::Declined { key: [4; 16], refusal }.encode();
        for whole in [refused, declined] {
            for len in 0..whole.len() {
                assert_eq!(ControlFrame::decode(&whole.slice(..len)), None, "length {len}");
            }
            let longer = [&whole[..], b"x"].concat();
            assert_eq!(ControlFrame::decode(&longer.into()), None);
        }
        let measured = ControlFrame::Measured {
            in_step: vec![InStep { shard: ShardId(3), epoch: 7, lives: vec![Incarnation(9)] }],
        };
        let measured = measured.encode();
        for len in 2..measured.len() {
            assert_eq!(ControlFrame::decode(&measured.slice(..len)), None, "length {len}");
        }
        let short = Bytes::from_static(&[PIECE; PIECE_HEADER]);
        assert_eq!(ControlFrame::decode(&short), None);
        assert_eq!(ControlFrame::decode(&Bytes::from_static(&[TAKEN; 18])), None);
        assert_eq!(ControlFrame::decode(&Bytes::from_static(&[99])), None);
        assert_eq!(split_flow_frame(&Bytes::from_static(&[1, 2])), None);
    }
}
