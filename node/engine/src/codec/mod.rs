//! Bytes of the flow log and of table scans: an envelope with a checksum around fixed-width bincode.
//!
//! Decoding is total: any input gives a value or a `CodecError`, never a panic and never an allocation larger than the
//! input. An entry that does not decode is refused whole, by every replica alike, because all see the same bytes.
//! Heads are the same in all formats, records differ (`first`, `second`; the third is the second with more protocols). An owner writes the format of the cluster's level
//! (C2), and reads all. Called by the worker when it packs a batch, applies an entry, or scans and loads a table.

mod first;
mod second;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bytes::Bytes;
pub use words::envelope::ENVELOPE_LEN;
use words::envelope::{self, EnvelopeError};
use words::level;

use crate::ids::{ControlIndex, LogIndex};
use crate::record::{EntryHeader, FlowRecord, HOLD_CLASSES, Proto, ScanRecord};

/// Greatest length of one entry or chunk, envelope included (F9, F10).
pub const ENTRY_MAX: usize = 64 << 10;
/// Encoded length of an `EntryHeader`.
pub const HEADER_LEN: usize = 108;
/// Encoded length of the longest `FlowRecord` in any format.
pub const RECORD_MAX_LEN: usize = longer(first::RECORD_MAX_LEN, second::RECORD_MAX_LEN);
/// As many records fit into one entry, whatever they are.
pub const ENTRY_RECORDS_MAX: usize = (ENTRY_MAX - ENVELOPE_LEN - HEADER_LEN) / RECORD_MAX_LEN;
/// Encoded length of a `ChunkHeader`.
pub const CHUNK_HEADER_LEN: usize = 104;
/// Encoded length of the longest `ScanRecord` in any format.
pub const SCAN_RECORD_LEN: usize = longer(first::SCAN_RECORD_LEN, second::SCAN_RECORD_MAX_LEN);
/// As many records fit into one chunk.
pub const CHUNK_RECORDS_MAX: usize = (ENTRY_MAX - ENVELOPE_LEN - CHUNK_HEADER_LEN) / SCAN_RECORD_LEN;

const CONFIG: Configuration<LittleEndian, Fixint, Limit<ENTRY_MAX>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<ENTRY_MAX>();

const fn longer(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// How records are laid out; the version of the envelope.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Format {
    /// Level 1: a port of a grant is the only right that a mapping may stand under.
    First = 4,
    /// Level 2: each mapping says its scenario; protocols, addresses and ends are tagged.
    Second = 5,
    /// Level 3: the same layout, with protocols that are translated by address alone.
    Third = 6,
}

impl Format {
    /// What this build writes at the newest level.
    pub const NEWEST: Self = Self::Third;

    /// What is written at a cluster level.
    #[must_use]
    pub const fn of_level(level: u16) -> Self {
        match level {
            level::BY_ADDRESS.. => Self::Third,
            _ if level > level::FIRST => Self::Second,
            _ => Self::First,
        }
    }

    /// Whether a mapping of this protocol can be written (C2).
    #[must_use]
    pub const fn carries(self, proto: Proto) -> bool {
        !proto.is_by_address() || matches!(self, Self::Third)
    }

    /// That of an envelope; one that no format has is refused when the envelope is opened.
    fn of(bytes: &[u8]) -> Self {
        let version = |format: &Self| bytes.get(2) == Some(&(*format as u8));
        [Self::First, Self::Second].into_iter().find(version).unwrap_or(Self::NEWEST)
    }
}

/// What an envelope contains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A flow entry: header and records.
    Entry = 32,
    /// A chunk of a table scan.
    Chunk = 33,
}

/// Why bytes were not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// No intact envelope of this version and kind.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The body does not decode, or does not end where it should.
    #[error("body does not decode")]
    Body,
}

/// Head of a chunk: the shard's replicated values at the scan's base, repeated in each chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, bincode::Encode, bincode::Decode)]
pub struct ChunkHeader {
    /// Number of the chunk in its transfer, from 0.
    pub sequence: u32,
    /// The index that the scan is made exact from.
    pub base: LogIndex,
    /// See `EntryHeader`.
    pub control_index: ControlIndex,
    /// See `EntryHeader`.
    pub holds_ended: [LogIndex; HOLD_CLASSES],
    /// See `EntryHeader`.
    pub orphan_grace_ms: u32,
    /// The greatest grace that any header carried so far (F6: an old owner may still use it).
    pub grace_peak_ms: u32,
    /// See `EntryHeader`.
    pub hold_ms: [u32; HOLD_CLASSES],
    /// How many records follow.
    pub records: u32,
}

/// Packs bodies into envelopes; owns the one buffer that they are built in.
#[derive(Debug)]
pub struct Encoder {
    format: Format,
    buffer: Box<[u8]>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder of the newest format, with its buffer allocated.
    #[must_use]
    pub fn new() -> Self {
        Self { format: Format::NEWEST, buffer: vec![0; ENTRY_MAX].into_boxed_slice() }
    }

    /// Writes this format from now on.
    pub fn set_format(&mut self, format: Format) {
        self.format = format;
    }

    /// Packs an entry; `header.records` is set here.
    ///
    /// # Panics
    /// With more than `ENTRY_RECORDS_MAX` records: the stream never gathers more.
    pub fn entry(&mut self, header: EntryHeader, records: &[FlowRecord]) -> Bytes {
        assert!(records.len() <= ENTRY_RECORDS_MAX, "a batch is bounded by the stream");
        let count = u32::try_from(records.len()).expect("bounded by ENTRY_RECORDS_MAX");
        let header = EntryHeader { records: count, ..header };
        match self.format {
            Format::First => self.seal(Kind::Entry, &header, records.iter().map(first::Written::of)),
            Format::Second | Format::Third => {
                self.seal(Kind::Entry, &header, records.iter().copied().map(second::Written))
            }
        }
    }

    /// Packs a chunk; `header.records` is set here.
    ///
    /// # Panics
    /// With more than `CHUNK_RECORDS_MAX` records: a scan never gathers more.
    pub fn chunk(&mut self, header: ChunkHeader, records: &[ScanRecord]) -> Bytes {
        assert!(records.len() <= CHUNK_RECORDS_MAX, "a chunk is bounded by the scan");
        let count = u32::try_from(records.len()).expect("bounded by CHUNK_RECORDS_MAX");
        let header = ChunkHeader { records: count, ..header };
        match self.format {
            Format::First => self.seal(Kind::Chunk, &header, records.iter().map(first::Scanned::of)),
            Format::Second | Format::Third => {
                self.seal(Kind::Chunk, &header, records.iter().copied().map(second::Scanned))
            }
        }
    }

    fn seal<H: bincode::Encode, R: bincode::Encode>(
        &mut self,
        kind: Kind,
        header: &H,
        records: impl Iterator<Item = R>,
    ) -> Bytes {
        let (envelope, body) = self.buffer.split_at_mut(ENVELOPE_LEN);
        let mut used = bincode::encode_into_slice(header, body, CONFIG).expect("the header fits the buffer");
        for record in records {
            used += bincode::encode_into_slice(record, &mut body[used..], CONFIG).expect("bounded by the record count");
        }
        envelope.copy_from_slice(&envelope::head(self.format as u8, kind as u8, &body[..used]));
        Bytes::copy_from_slice(&self.buffer[..ENVELOPE_LEN + used])
    }
}

/// Decodes an entry of a format up to `newest`; `records` is cleared and filled.
///
/// # Errors
/// Whatever does not decode to its last byte; `records` is then unspecified.
pub fn decode_entry(newest: Format, bytes: &[u8], records: &mut Vec<FlowRecord>) -> Result<EntryHeader, CodecError> {
    let (format, body) = open(newest, bytes, Kind::Entry)?;
    let (header, rest) = take::<EntryHeader>(body)?;
    match format {
        Format::First => decode_records(rest, header.records, records, |w: first::Written| Some(w.record()))?,
        Format::Second | Format::Third => {
            let carried = |record: &FlowRecord| record.proto().is_none_or(|proto| format.carries(proto));
            decode_records(rest, header.records, records, |second::Written(record)| Some(record).filter(carried))?;
        }
    }
    Ok(header)
}

/// Decodes a chunk of a format up to `newest`; `records` is cleared and filled.
///
/// # Errors
/// Whatever does not decode to its last byte; `records` is then unspecified.
pub fn decode_chunk(newest: Format, bytes: &[u8], records: &mut Vec<ScanRecord>) -> Result<ChunkHeader, CodecError> {
    let (format, body) = open(newest, bytes, Kind::Chunk)?;
    let (header, rest) = take::<ChunkHeader>(body)?;
    match format {
        Format::First => decode_records(rest, header.records, records, first::Scanned::record)?,
        Format::Second | Format::Third => {
            let carried = |record: &ScanRecord| format.carries(record.open.public.proto);
            decode_records(rest, header.records, records, |second::Scanned(record)| Some(record).filter(carried))?;
        }
    }
    Ok(header)
}

fn decode_records<W: bincode::Decode<()>, R>(
    mut rest: &[u8],
    count: u32,
    records: &mut Vec<R>,
    read: impl Fn(W) -> Option<R>,
) -> Result<(), CodecError> {
    records.clear();
    // Every record is longer than a byte, so a count beyond the input is a lie; never reserve by it.
    if usize::try_from(count).map_or(true, |count| count > rest.len()) {
        return Err(CodecError::Body);
    }
    for _ in 0..count {
        let (written, tail) = take::<W>(rest)?;
        records.push(read(written).ok_or(CodecError::Body)?);
        rest = tail;
    }
    if rest.is_empty() { Ok(()) } else { Err(CodecError::Body) }
}

fn take<T: bincode::Decode<()>>(bytes: &[u8]) -> Result<(T, &[u8]), CodecError> {
    let (value, used) = bincode::decode_from_slice::<T, _>(bytes, CONFIG).map_err(|_| CodecError::Body)?;
    bytes.get(used..).map(|rest| (value, rest)).ok_or(CodecError::Body)
}

fn open(newest: Format, bytes: &[u8], kind: Kind) -> Result<(Format, &[u8]), CodecError> {
    let format = Format::of(bytes).min(newest);
    let body = envelope::open_kind(format as u8, kind as u8, ENTRY_MAX - ENVELOPE_LEN, bytes)?;
    Ok((format, body))
}

#[cfg(test)]
mod tests;
