//! The wire form of raft messages, and the envelope around everything that this crate sends or stores.
//!
//! Called by the control group, the flow groups and the log stores. No peer byte reaches protobuf's parser: a message is
//! a versioned struct of our own, fixed integers in little-endian order, checked field by field while it is decoded, and
//! every length is compared with what is left of the frame before anything is allocated for it. The only protobuf bytes
//! are the payloads of membership entries, parsed after they are committed.
//!
//! What is checked here is form: a message that decodes is one that raft-rs digests without a panic as far as its own
//! fields go. Whether it fits this replica (sender, receiver, commit within the log, kinds that a peer may send) is the
//! caller's part: see `peer_message`.

#![expect(
    clippy::field_reassign_with_default,
    reason = "raft's generated messages cannot be built with all their fields"
)]

mod error;
mod peer;
mod reader;
mod validate;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata};
use words::envelope;
pub use words::envelope::ENVELOPE_LEN;

pub use error::WireError;
pub use peer::{PeerMessage, peer_message};
pub(crate) use reader::Reader;
pub use reader::{MAX_CONF_IDS, MAX_NUMBER};
use validate::validate;
pub use validate::validate_conf_state;

/// Version of everything that this crate puts into an envelope.
pub const ENVELOPE_VERSION: u8 = 2;
/// Version of the message struct.
pub const MESSAGE_VERSION: u8 = 1;
/// Longest message or envelope body: a control snapshot is the largest thing that travels in one.
pub const MAX_BODY_BYTES: usize = 256 << 20;

/// Envelope kind: a raft message of the control group.
pub const KIND_CONTROL_MESSAGE: u8 = 1;
/// Envelope kind: a record of a log store.
pub const KIND_LOG_RECORD: u8 = 2;
/// Kinds from here on, below 32, belong to the flow groups.
pub const KIND_FLOW_FIRST: u8 = 16;

/// Smallest encoded entry: type, term, index, two lengths.
const ENTRY_MIN: usize = 1 + 8 + 8 + 4 + 4;
const FLAG_REJECT: u8 = 1;
const FLAG_SNAPSHOT: u8 = 2;

/// Puts `body` into an envelope.
///
/// # Panics
/// If `body` is longer than `MAX_BODY_BYTES`: senders bound what they send.
#[must_use]
pub fn seal(kind: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= MAX_BODY_BYTES, "a sealed body is bounded by its writer");
    envelope::seal(ENVELOPE_VERSION, kind, body)
}

/// Takes an envelope apart: its kind and its body. The slice must be one whole envelope.
///
/// # Errors
/// Any way in which the bytes are not an intact envelope of a known version.
pub fn open(bytes: &[u8]) -> Result<(u8, &[u8]), WireError> {
    Ok(envelope::open(ENVELOPE_VERSION, MAX_BODY_BYTES, bytes)?)
}

/// As `open`, sharing the memory of `frame`.
///
/// # Errors
/// As `open`.
pub fn open_bytes(frame: &Bytes) -> Result<(u8, Bytes), WireError> {
    let (kind, body) = open(frame)?;
    Ok((kind, frame.slice_ref(body)))
}

/// Appends the wire form of `message` to `out`, without an envelope.
///
/// # Panics
/// If a payload or a list has 2^32 elements or more.
pub fn encode_message(message: &Message, out: &mut Vec<u8>) {
    let payload: usize = message.entries.iter().map(|e| ENTRY_MIN + e.data.len() + e.context.len()).sum();
    out.reserve(128 + payload + message.context.len());
    out.push(MESSAGE_VERSION);
    out.push(message_type_code(message.msg_type));
    let snapshot = message.snapshot.as_ref();
    out.push(if message.reject { FLAG_REJECT } else { 0 } | if snapshot.is_some() { FLAG_SNAPSHOT } else { 0 });
    for scalar in [
        message.to,
        message.from,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.request_snapshot,
        message.reject_hint,
        message.deprecated_priority,
    ] {
        out.extend_from_slice(&scalar.to_le_bytes());
    }
    out.extend_from_slice(&message.priority.to_le_bytes());
    put_blob(out, &message.context);
    put_len(out, message.entries.len());
    for entry in message.entries.iter() {
        encode_entry(entry, out);
    }
    if let Some(snapshot) = snapshot {
        encode_snapshot(snapshot, out);
    }
}

/// Decodes one message that fills `bytes` exactly. Copies the frame once; see `decode_message_bytes`.
///
/// # Errors
/// Any way in which the bytes are not a well-formed message.
pub fn decode_message(bytes: &[u8]) -> Result<Message, WireError> {
    // Checked before the copy, since a length bomb must not be copied either.
    if bytes.len() > MAX_BODY_BYTES {
        return Err(WireError::TooLong(bytes.len()));
    }
    decode_message_bytes(&Bytes::copy_from_slice(bytes))
}

/// Decodes one message that fills `frame` exactly. Entry data, contexts and snapshot data share the frame's memory, so
/// the frame lives as long as any of its entries.
///
/// # Errors
/// Any way in which the bytes are not a well-formed message.
pub fn decode_message_bytes(frame: &Bytes) -> Result<Message, WireError> {
    if frame.len() > MAX_BODY_BYTES {
        return Err(WireError::TooLong(frame.len()));
    }
    let mut r = Reader::new(frame);
    let version = r.u8()?;
    if version != MESSAGE_VERSION {
        return Err(WireError::Version(version));
    }
    let mut message = Message::default();
    message.msg_type = message_type(r.u8()?)?;
    let flags = r.u8()?;
    if flags & !(FLAG_REJECT | FLAG_SNAPSHOT) != 0 {
        return Err(WireError::Unknown { what: "message flags", value: flags });
    }
    message.reject = flags & FLAG_REJECT != 0;
    message.to = r.u64()?;
    message.from = r.u64()?;
    message.term = r.number("term")?;
    message.log_term = r.number("log term")?;
    message.index = r.number("index")?;
    message.commit = r.number("commit")?;
    message.commit_term = r.number("commit term")?;
    message.request_snapshot = r.number("requested snapshot index")?;
    message.reject_hint = r.number("reject hint")?;
    message.deprecated_priority = r.u64()?;
    message.priority = i64::from_le_bytes(r.array()?);
    message.context = r.blob(frame)?;
    let count = r.len()?;
    r.expect_left(count, ENTRY_MIN)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(decode_entry_at(&mut r, frame)?);
    }
    message.entries = entries.into();
    if flags & FLAG_SNAPSHOT != 0 {
        message.snapshot = Some(decode_snapshot_at(&mut r, frame)?).into();
    }
    r.finish()?;
    validate(&message)?;
    Ok(message)
}

/// Appends one log entry: type `u8`, term, index, data and context, each with a `u32` length.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.push(entry_type_code(entry.entry_type));
    out.extend_from_slice(&entry.term.to_le_bytes());
    out.extend_from_slice(&entry.index.to_le_bytes());
    put_blob(out, &entry.data);
    put_blob(out, &entry.context);
}

/// Decodes one entry that fills `frame` exactly; its payload shares the frame's memory.
///
/// # Errors
/// Any way in which the bytes are not a well-formed entry.
pub fn decode_entry(frame: &Bytes) -> Result<Entry, WireError> {
    let mut r = Reader::new(frame);
    let entry = decode_entry_at(&mut r, frame)?;
    r.finish()?;
    Ok(entry)
}

/// Appends a configuration: four lists with `u32` counts, and whether a joint one is left automatically.
pub fn encode_conf_state(conf: &ConfState, out: &mut Vec<u8>) {
    for ids in [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next] {
        put_len(out, ids.len());
        for id in ids {
            out.extend_from_slice(&id.to_le_bytes());
        }
    }
    out.push(u8::from(conf.auto_leave));
}

/// Decodes one configuration that fills `bytes` exactly and is consistent in itself.
///
/// # Errors
/// Any way in which the bytes are not one.
pub fn decode_conf_state(bytes: &[u8]) -> Result<ConfState, WireError> {
    let mut r = Reader::new(bytes);
    let conf = decode_conf_state_at(&mut r)?;
    r.finish()?;
    Ok(conf)
}

fn decode_entry_at(r: &mut Reader<'_>, frame: &Bytes) -> Result<Entry, WireError> {
    let mut entry = Entry::default();
    entry.entry_type = entry_type(r.u8()?)?;
    entry.term = r.number("entry term")?;
    entry.index = r.number("entry index")?;
    entry.data = r.blob(frame)?;
    entry.context = r.blob(frame)?;
    Ok(entry)
}

/// Appends index, term, configuration and data of a snapshot.
fn encode_snapshot(snapshot: &Snapshot, out: &mut Vec<u8>) {
    let metadata = snapshot.get_metadata();
    out.extend_from_slice(&metadata.index.to_le_bytes());
    out.extend_from_slice(&metadata.term.to_le_bytes());
    encode_conf_state(metadata.get_conf_state(), out);
    put_blob(out, &snapshot.data);
}

fn decode_snapshot_at(r: &mut Reader<'_>, frame: &Bytes) -> Result<Snapshot, WireError> {
    let mut metadata = SnapshotMetadata::default();
    metadata.index = r.number("snapshot index")?;
    metadata.term = r.number("snapshot term")?;
    // Every group begins with a stored snapshot at index >= 1 (N5), so there is none at 0.
    if metadata.index == 0 || metadata.term == 0 {
        return Err(WireError::Invalid("snapshot at index or term 0"));
    }
    metadata.conf_state = Some(decode_conf_state_at(r)?).into();
    let mut snapshot = Snapshot::default();
    snapshot.metadata = Some(metadata).into();
    snapshot.data = r.blob(frame)?;
    Ok(snapshot)
}

pub(crate) fn decode_conf_state_at(r: &mut Reader<'_>) -> Result<ConfState, WireError> {
    let mut conf = ConfState::default();
    conf.voters = r.ids()?;
    conf.learners = r.ids()?;
    conf.voters_outgoing = r.ids()?;
    conf.learners_next = r.ids()?;
    conf.auto_leave = match r.u8()? {
        0 => false,
        1 => true,
        value => return Err(WireError::Unknown { what: "auto-leave mark", value }),
    };
    validate_conf_state(&conf)?;
    Ok(conf)
}

/// All kinds of raft message at the position of their wire code. The codes are ours: a reordering inside raft-rs must not
/// change them.
const MESSAGE_TYPES: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

fn message_type(code: u8) -> Result<MessageType, WireError> {
    MESSAGE_TYPES.get(usize::from(code)).copied().ok_or(WireError::Unknown { what: "message type", value: code })
}

fn message_type_code(kind: MessageType) -> u8 {
    let at = MESSAGE_TYPES.iter().position(|k| *k == kind).expect("the table lists every kind");
    u8::try_from(at).expect("19 kinds")
}

fn entry_type(code: u8) -> Result<EntryType, WireError> {
    match code {
        0 => Ok(EntryType::EntryNormal),
        1 => Ok(EntryType::EntryConfChange),
        2 => Ok(EntryType::EntryConfChangeV2),
        value => Err(WireError::Unknown { what: "entry type", value }),
    }
}

const fn entry_type_code(kind: EntryType) -> u8 {
    match kind {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).expect("payloads are far below 4 GiB").to_le_bytes());
}

fn put_blob(out: &mut Vec<u8>, blob: &[u8]) {
    put_len(out, blob.len());
    out.extend_from_slice(blob);
}

#[cfg(test)]
mod tests;
