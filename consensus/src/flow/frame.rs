//! The frames that nodes exchange about flow groups, each in a sealed envelope (`wire`).
//!
//! A frame of a replica carries the key of its sender and of its receiver (N1). Decoding checks form only; whether a frame
//! fits the living replica is judged in `admit` and by the replica. Called by `FlowGroups` and `FlowGroup`.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Message};
use words::{Epoch, Incarnation, ShardId};

use crate::event::Report;
use crate::wire::{self, KIND_FLOW_FIRST, WireError};

/// Group of the frames that concern the whole node (announcements and reports).
pub const NODE_GROUP: ShardId = ShardId(u16::MAX);

const KIND_RAFT: u8 = KIND_FLOW_FIRST;
const KIND_JOIN: u8 = KIND_FLOW_FIRST + 1;
const KIND_CHUNK: u8 = KIND_FLOW_FIRST + 2;
const KIND_BEHIND: u8 = KIND_FLOW_FIRST + 3;
const KIND_OWNERS: u8 = KIND_FLOW_FIRST + 4;
const KIND_REPORT: u8 = KIND_FLOW_FIRST + 5;

/// Bound on what the structured part of a frame may claim to hold.
const HEAD_BYTES_MAX: usize = 1 << 18;

/// From which replica to which (N1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, bincode::Encode, bincode::Decode)]
pub struct Key {
    /// The group.
    pub group: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Sender.
    pub from: Incarnation,
    /// Receiver.
    pub to: Incarnation,
}

/// Where a joiner stands in a transfer: its number and the next chunk that it waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, bincode::Encode, bincode::Decode)]
pub struct Have {
    /// The transfer.
    pub transfer: u64,
    /// Number of the chunk that is missing.
    pub next: u64,
    /// Chunks after the missing one have come, so it never will: this transfer cannot be completed.
    pub broken: bool,
}

/// Head of a chunk of a table (F10).
#[derive(Clone, Copy, PartialEq, Eq, Debug, bincode::Encode, bincode::Decode)]
pub struct ChunkHead {
    /// Numbers the transfers of one sender; grows.
    pub transfer: u64,
    /// Running number of the chunk, from 0.
    pub number: u64,
    /// The sender's term.
    pub term: u64,
    /// Index that the table is made exact from.
    pub base: u64,
}

/// With the last chunk: what the joiner's raft node starts from.
#[derive(Clone, PartialEq, Debug)]
pub struct ChunkEnd {
    /// Term of the entry at the base.
    pub base_term: u64,
    /// Index up to which records in the chunks may have been written.
    pub until: u64,
    /// Configuration as of the base.
    pub conf: ConfState,
    /// How much longer a predecessor of the epoch may serve (N4). It counts from the arrival, so never too short.
    pub wait_left_ns: u64,
}

/// A group that the sender leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, bincode::Encode, bincode::Decode)]
pub struct Owned {
    /// The group.
    pub group: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The sender's term.
    pub term: u64,
}

/// One frame.
#[derive(Clone, Debug)]
pub enum Frame {
    /// A raft message.
    Raft { key: Key, message: Message },
    /// A member without a replica, or one that fell behind the log, asks for the table.
    Join { key: Key, have: Option<Have> },
    /// A piece of the table.
    Chunk { key: Key, head: ChunkHead, end: Option<ChunkEnd>, chunk: Bytes },
    /// The leader's log does not reach back to the receiver's end: it must load the table anew.
    /// `base` is where it begins.
    Behind { key: Key, base: u64 },
    /// The groups that the sender leads, all of them (M1).
    Owners { from: Incarnation, owned: Vec<Owned> },
    /// What the sender says of itself (F2, F7).
    Report { from: Incarnation, report: Box<Report> },
}

#[derive(bincode::Encode, bincode::Decode)]
struct EndBody {
    base_term: u64,
    until: u64,
    conf: Vec<u8>,
    wait_left_ns: u64,
}

fn put<T: bincode::Encode>(head: T) -> Vec<u8> {
    bincode::encode_to_vec(head, bincode::config::standard()).expect("plain data encodes")
}

fn take<T: bincode::Decode<()>>(body: &Bytes) -> Result<(T, Bytes), WireError> {
    let config = bincode::config::standard().with_limit::<HEAD_BYTES_MAX>();
    let (head, used) =
        bincode::decode_from_slice::<T, _>(body, config).map_err(|_| WireError::Invalid("head of a flow frame"))?;
    Ok((head, body.slice(used..)))
}

fn whole<T: bincode::Decode<()>>(body: &Bytes) -> Result<T, WireError> {
    let (head, rest) = take(body)?;
    if rest.is_empty() { Ok(head) } else { Err(WireError::Trailing(rest.len())) }
}

impl Frame {
    /// The sealed bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, body) = match self {
            Self::Raft { key, message } => {
                let mut body = put(key);
                wire::encode_message(message, &mut body);
                (KIND_RAFT, body)
            }
            Self::Join { key, have } => (KIND_JOIN, put((key, have))),
            Self::Chunk { key, head, end, chunk } => {
                let end = end.as_ref().map(|end| {
                    let mut conf = Vec::new();
                    wire::encode_conf_state(&end.conf, &mut conf);
                    EndBody { base_term: end.base_term, until: end.until, conf, wait_left_ns: end.wait_left_ns }
                });
                let mut body = put((key, head, end));
                body.extend_from_slice(chunk);
                (KIND_CHUNK, body)
            }
            Self::Behind { key, base } => (KIND_BEHIND, put((key, base))),
            Self::Owners { from, owned } => (KIND_OWNERS, put((from, owned))),
            Self::Report { from, report } => (KIND_REPORT, put((from, report))),
        };
        wire::seal(kind, &body).into()
    }

    /// Takes sealed bytes apart; payloads share their memory.
    ///
    /// # Errors
    /// Anything that is not an intact frame of a known kind.
    pub fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        let (kind, body) = wire::open_bytes(bytes)?;
        match kind {
            KIND_RAFT => {
                let (key, rest) = take(&body)?;
                Ok(Self::Raft { key, message: wire::decode_message_bytes(&rest)? })
            }
            KIND_JOIN => whole(&body).map(|(key, have)| Self::Join { key, have }),
            KIND_CHUNK => {
                let ((key, head, end), chunk) = take::<(Key, ChunkHead, Option<EndBody>)>(&body)?;
                let end = match end {
                    None => None,
                    Some(end) => Some(ChunkEnd {
                        base_term: end.base_term,
                        until: end.until,
                        conf: wire::decode_conf_state(&end.conf)?,
                        wait_left_ns: end.wait_left_ns,
                    }),
                };
                Ok(Self::Chunk { key, head, end, chunk })
            }
            KIND_BEHIND => whole(&body).map(|(key, base)| Self::Behind { key, base }),
            KIND_OWNERS => whole(&body).map(|(from, owned)| Self::Owners { from, owned }),
            KIND_REPORT => whole(&body).map(|(from, report)| Self::Report { from, report }),
            value => Err(WireError::Unknown { what: "flow frame", value }),
        }
    }

    /// Who says that it sent the frame.
    #[must_use]
    pub const fn from(&self) -> Incarnation {
        match self {
            Self::Raft { key, .. } | Self::Join { key, .. } | Self::Chunk { key, .. } | Self::Behind { key, .. } => {
                key.from
            }
            Self::Owners { from, .. } | Self::Report { from, .. } => *from,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft::eraftpb::MessageType;

    use super::*;

    const KEY: Key = Key { group: ShardId(7), epoch: Epoch(3), from: Incarnation(11), to: Incarnation(300) };

    fn samples() -> Vec<Frame> {
        let mut message = Message { from: 11, to: 300, term: 5, commit: 4, ..Message::default() };
        message.set_msg_type(MessageType::MsgHeartbeat);
        message.context = vec![1; 8].into();
        let conf = ConfState { voters: vec![11, 12], learners: vec![300], ..ConfState::default() };
        let head = ChunkHead { transfer: 9, number: 2, term: 5, base: 77 };
        let end = ChunkEnd { base_term: 4, until: 80, conf, wait_left_ns: 5 };
        vec![
            Frame::Raft { key: KEY, message },
            Frame::Join { key: KEY, have: Some(Have { transfer: 9, next: 2, broken: false }) },
            Frame::Chunk { key: KEY, head, end: None, chunk: Bytes::from_static(b"records") },
            Frame::Chunk { key: KEY, head, end: Some(end), chunk: Bytes::new() },
            Frame::Behind { key: KEY, base: 7 },
            Frame::Owners { from: Incarnation(11), owned: vec![Owned { group: ShardId(7), epoch: Epoch(3), term: 5 }] },
            Frame::Report { from: Incarnation(11), report: Box::new(Report { control_ready: 9, ..Report::default() }) },
        ]
    }

    #[test]
    fn every_kind_survives_the_wire() {
        for frame in samples() {
            let back = Frame::decode(&frame.encode()).expect("decodes");
            assert_eq!(format!("{back:?}"), format!("{frame:?}"));
        }
    }

    #[test]
    fn a_list_that_claims_more_than_the_frame_holds_is_refused() {
        // A count of 2^32 - 1 groups in a frame of a few bytes.
        let mut body = put(Incarnation(1));
        body.extend_from_slice(&[252, 255, 255, 255, 255]);
        let bytes = Bytes::from(wire::seal(KIND_OWNERS, &body));
        assert!(Frame::decode(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bodies_never_panic(kind in 0_u8..40, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(&Bytes::from(wire::seal(kind, &body)));
        }

        #[test]
        fn a_flipped_bit_is_refused(which in 0_usize..7, at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut bytes = samples()[which].encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Frame::decode(&Bytes::from(bytes)).is_err());
        }
    }
}
