//! One row of a control store: its key, its envelope, and the metadata row's fields.

use bytes::Bytes;
use raft::eraftpb::{ConfState, HardState};

use super::{ClusterId, Identity};
use crate::wire::{self, KIND_LOG_RECORD, Reader, WireError};

const META_VERSION: u8 = 1;
/// The key of the metadata row.
pub(super) const META_KEY: &[u8] = b"m";
const ENTRY: u8 = b'e';
const SNAPSHOT: u8 = b's';

/// A row to put, or to delete.
pub(super) type Row = (Vec<u8>, Option<Vec<u8>>);

/// What the metadata row says of the snapshot.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SnapshotMeta {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) conf_state: ConfState,
    pub(super) generation: u64,
    pub(super) chunks: u32,
    pub(super) bytes: u64,
    pub(super) crc: u32,
}

/// The metadata row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Meta {
    pub(super) identity: Identity,
    /// Grows by one with every write.
    pub(super) sequence: u64,
    pub(super) hard_state: HardState,
    pub(super) conf_state: ConfState,
    pub(super) applied: u64,
    pub(super) truncated: (u64, u64),
    pub(super) last_index: u64,
    pub(super) snapshot: Option<SnapshotMeta>,
}

impl Meta {
    /// Whose record this is.
    pub(super) const fn identity(&self) -> Identity {
        self.identity
    }
}

pub(super) fn entry_key(index: u64, chunk: u16) -> Vec<u8> {
    let mut key = vec![ENTRY];
    key.extend_from_slice(&index.to_be_bytes());
    key.extend_from_slice(&chunk.to_be_bytes());
    key
}

pub(super) fn snapshot_key(generation: u64, chunk: u32) -> Vec<u8> {
    let mut key = vec![SNAPSHOT];
    key.extend_from_slice(&generation.to_be_bytes());
    key.extend_from_slice(&chunk.to_be_bytes());
    key
}

/// What a key names.
pub(super) enum Key {
    Entry { index: u64, chunk: u16 },
    Snapshot { generation: u64, chunk: u32 },
}

pub(super) fn parse_key(key: &[u8]) -> Option<Key> {
    let (kind, rest) = key.split_first()?;
    let (number, chunk) = rest.split_first_chunk::<8>()?;
    let number = u64::from_be_bytes(*number);
    match *kind {
        ENTRY => Some(Key::Entry { index: number, chunk: u16::from_be_bytes(chunk.try_into().ok()?) }),
        SNAPSHOT => Some(Key::Snapshot { generation: number, chunk: u32::from_be_bytes(chunk.try_into().ok()?) }),
        _ => None,
    }
}

/// A row's value: key length, key, payload, in an envelope. The key is in it so that an intact record in the wrong place
/// is noticed.
pub(super) fn record(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(1 + key.len() + payload.len());
    body.push(u8::try_from(key.len()).expect("keys are short"));
    body.extend_from_slice(key);
    body.extend_from_slice(payload);
    wire::seal(KIND_LOG_RECORD, &body)
}

pub(super) fn payload(key: &[u8], value: &Bytes) -> Result<Bytes, String> {
    let named = |what: String| match parse_key(key) {
        Some(Key::Entry { index, .. }) => format!("entry {index}: {what}"),
        Some(Key::Snapshot { chunk, .. }) => format!("snapshot chunk {chunk}: {what}"),
        None => format!("metadata record: {what}"),
    };
    let (kind, body) = wire::open_bytes(value).map_err(|e| named(e.to_string()))?;
    let head = 1 + key.len();
    if kind != KIND_LOG_RECORD || body.len() < head || usize::from(body[0]) != key.len() || body[1..head] != *key {
        return Err(named("is another record".into()));
    }
    Ok(body.slice(head..))
}

pub(super) fn meta_row(meta: &Meta) -> Row {
    let mut body = vec![META_VERSION];
    body.extend_from_slice(&meta.identity.cluster.0);
    let hard = &meta.hard_state;
    for n in [
        meta.identity.raft_id,
        meta.sequence,
        hard.term,
        hard.vote,
        hard.commit,
        meta.applied,
        meta.truncated.0,
        meta.truncated.1,
        meta.last_index,
    ] {
        body.extend_from_slice(&n.to_le_bytes());
    }
    put_conf(&meta.conf_state, &mut body);
    body.push(u8::from(meta.snapshot.is_some()));
    if let Some(s) = &meta.snapshot {
        for n in [s.index, s.term, s.generation, s.bytes] {
            body.extend_from_slice(&n.to_le_bytes());
        }
        body.extend_from_slice(&s.chunks.to_le_bytes());
        body.extend_from_slice(&s.crc.to_le_bytes());
        put_conf(&s.conf_state, &mut body);
    }
    (META_KEY.to_vec(), Some(record(META_KEY, &body)))
}

pub(super) fn decode_meta(body: &Bytes) -> Result<Meta, WireError> {
    let mut r = Reader::new(body);
    let version = r.u8()?;
    if version != META_VERSION {
        return Err(WireError::Version(version));
    }
    let cluster = ClusterId(r.array()?);
    let identity = Identity { cluster, raft_id: r.u64()? };
    let sequence = r.u64()?;
    let mut hard_state = HardState::default();
    hard_state.term = r.number("term")?;
    hard_state.vote = r.u64()?;
    hard_state.commit = r.number("commit")?;
    let applied = r.number("applied")?;
    let truncated = (r.number("truncated index")?, r.number("truncated term")?);
    let last_index = r.number("last index")?;
    let conf_state = take_conf(&mut r)?;
    let snapshot = match r.u8()? {
        0 => None,
        1 => {
            let (index, term) = (r.number("snapshot index")?, r.number("snapshot term")?);
            let (generation, bytes) = (r.u64()?, r.u64()?);
            let (chunks, crc) = (u32::from_le_bytes(r.array()?), u32::from_le_bytes(r.array()?));
            let conf_state = take_conf(&mut r)?;
            Some(SnapshotMeta { index, term, conf_state, generation, chunks, bytes, crc })
        }
        value => return Err(WireError::Unknown { what: "snapshot mark", value }),
    };
    r.finish()?;
    Ok(Meta { identity, sequence, hard_state, conf_state, applied, truncated, last_index, snapshot })
}

/// A configuration, or none: that of a joiner is empty, which is not a valid one.
fn put_conf(conf: &ConfState, out: &mut Vec<u8>) {
    let known = !conf.voters.is_empty();
    out.push(u8::from(known));
    if known {
        wire::encode_conf_state(conf, out);
    }
}

fn take_conf(r: &mut Reader<'_>) -> Result<ConfState, WireError> {
    match r.u8()? {
        0 => Ok(ConfState::default()),
        1 => wire::decode_conf_state_at(r),
        value => Err(WireError::Unknown { what: "configuration mark", value }),
    }
}
