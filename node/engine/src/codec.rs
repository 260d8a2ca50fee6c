//! Bytes of the flow log and of table scans: an envelope with a checksum around fixed-width bincode.
//!
//! Decoding is total: any input gives a value or a `CodecError`, never a panic and never an allocation larger than the
//! input. An entry that does not decode is refused whole, by every replica alike, because all see the same bytes.
//! Called by the worker when it packs a batch, applies an entry, or scans and loads a table.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bytes::Bytes;
pub use words::envelope::ENVELOPE_LEN;
use words::envelope::{self, EnvelopeError};

use crate::ids::{BackendId, ControlIndex, LogIndex};
use crate::record::{EntryHeader, FlowRecord, HOLD_CLASSES, HoldClass, InsideKey, PublicKey};

/// Greatest length of one entry or chunk, envelope included (F9, F10).
pub const ENTRY_MAX: usize = 64 << 10;
/// Encoded length of an `EntryHeader`.
pub const HEADER_LEN: usize = 108;
/// Encoded length of the longest `FlowRecord`.
pub const RECORD_MAX_LEN: usize = 58;
/// As many records fit into one entry, whatever they are.
pub const ENTRY_RECORDS_MAX: usize = (ENTRY_MAX - ENVELOPE_LEN - HEADER_LEN) / RECORD_MAX_LEN;
/// Encoded length of a `ChunkHeader`.
pub const CHUNK_HEADER_LEN: usize = 104;
/// Encoded length of a `ScanRecord`.
pub const SCAN_RECORD_LEN: usize = 63;
/// As many records fit into one chunk.
pub const CHUNK_RECORDS_MAX: usize = (ENTRY_MAX - ENVELOPE_LEN - CHUNK_HEADER_LEN) / SCAN_RECORD_LEN;

/// The version of all entries and chunks.
pub const VERSION: u8 = 4;
const CONFIG: Configuration<LittleEndian, Fixint, Limit<ENTRY_MAX>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<ENTRY_MAX>();

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

/// One record of a scan.
#[derive(Clone, Copy, PartialEq, Eq, Debug, bincode::Encode, bincode::Decode)]
pub struct ScanRecord {
    /// The public side.
    pub public: PublicKey,
    /// The inside.
    pub inside: InsideKey,
    /// Whose lease the port comes from.
    pub backend: BackendId,
    /// 0: live; 1 + class: held. Checked by `held` before use.
    pub state: u8,
    /// The entry that wrote it last.
    pub written_at: LogIndex,
}

impl ScanRecord {
    /// The hold class, or `None` for a live record.
    ///
    /// # Errors
    /// `CodecError::Body` if the state is neither.
    pub fn held(&self) -> Result<Option<HoldClass>, CodecError> {
        match self.state {
            0 => Ok(None),
            n => HoldClass::ALL.get(usize::from(n) - 1).copied().map(Some).ok_or(CodecError::Body),
        }
    }
}

/// Packs bodies into envelopes; owns the one buffer that they are built in.
#[derive(Debug)]
pub struct Encoder {
    buffer: Box<[u8]>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder with its buffer allocated.
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: vec![0; ENTRY_MAX].into_boxed_slice() }
    }

    /// Packs an entry; `header.records` is set here.
    ///
    /// # Panics
    /// With more than `ENTRY_RECORDS_MAX` records: the stream never gathers more.
    pub fn entry(&mut self, header: EntryHeader, records: &[FlowRecord]) -> Bytes {
        assert!(records.len() <= ENTRY_RECORDS_MAX, "a batch is bounded by the stream");
        let count = u32::try_from(records.len()).expect("bounded by ENTRY_RECORDS_MAX");
        self.seal(Kind::Entry, &EntryHeader { records: count, ..header }, records)
    }

    /// Packs a chunk; `header.records` is set here.
    ///
    /// # Panics
    /// With more than `CHUNK_RECORDS_MAX` records: a scan never gathers more.
    pub fn chunk(&mut self, header: ChunkHeader, records: &[ScanRecord]) -> Bytes {
        assert!(records.len() <= CHUNK_RECORDS_MAX, "a chunk is bounded by the scan");
        let count = u32::try_from(records.len()).expect("bounded by CHUNK_RECORDS_MAX");
        self.seal(Kind::Chunk, &ChunkHeader { records: count, ..header }, records)
    }

    fn seal<H: bincode::Encode, R: bincode::Encode>(&mut self, kind: Kind, header: &H, records: &[R]) -> Bytes {
        let (envelope, body) = self.buffer.split_at_mut(ENVELOPE_LEN);
        let mut used = bincode::encode_into_slice(header, body, CONFIG).expect("the header fits the buffer");
        for record in records {
            used += bincode::encode_into_slice(record, &mut body[used..], CONFIG).expect("bounded by the record count");
        }
        envelope.copy_from_slice(&envelope::head(VERSION, kind as u8, &body[..used]));
        Bytes::copy_from_slice(&self.buffer[..ENVELOPE_LEN + used])
    }
}

/// Decodes an entry; `records` is cleared and filled.
///
/// # Errors
/// Whatever does not decode to its last byte; `records` is then unspecified.
pub fn decode_entry(bytes: &[u8], records: &mut Vec<FlowRecord>) -> Result<EntryHeader, CodecError> {
    let body = open(bytes, Kind::Entry)?;
    let (header, rest) = take::<EntryHeader>(body)?;
    decode_records(rest, header.records, records)?;
    Ok(header)
}

/// Decodes a chunk; `records` is cleared and filled. Each record's state is checked.
///
/// # Errors
/// Whatever does not decode to its last byte; `records` is then unspecified.
pub fn decode_chunk(bytes: &[u8], records: &mut Vec<ScanRecord>) -> Result<ChunkHeader, CodecError> {
    let body = open(bytes, Kind::Chunk)?;
    let (header, rest) = take::<ChunkHeader>(body)?;
    decode_records(rest, header.records, records)?;
    for record in records.iter() {
        record.held()?;
    }
    Ok(header)
}

fn decode_records<R: bincode::Decode<()>>(mut rest: &[u8], count: u32, records: &mut Vec<R>) -> Result<(), CodecError> {
    records.clear();
    // Every record is longer than a byte, so a count beyond the input is a lie; never reserve by it.
    if usize::try_from(count).map_or(true, |count| count > rest.len()) {
        return Err(CodecError::Body);
    }
    for _ in 0..count {
        let (record, tail) = take::<R>(rest)?;
        records.push(record);
        rest = tail;
    }
    if rest.is_empty() { Ok(()) } else { Err(CodecError::Body) }
}

fn take<T: bincode::Decode<()>>(bytes: &[u8]) -> Result<(T, &[u8]), CodecError> {
    let (value, used) = bincode::decode_from_slice::<T, _>(bytes, CONFIG).map_err(|_| CodecError::Body)?;
    bytes.get(used..).map(|rest| (value, rest)).ok_or(CodecError::Body)
}

fn open(bytes: &[u8], kind: Kind) -> Result<&[u8], CodecError> {
    Ok(envelope::open_kind(VERSION, kind as u8, ENTRY_MAX - ENVELOPE_LEN, bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{FrontendId, PortBlock, Term, VnetId};
    use crate::record::{Addr, CloseReason, Endpoint, Proto};
    use proptest::prelude::*;

    fn header() -> EntryHeader {
        EntryHeader {
            term: Term(7),
            stream: 2,
            sequence: 9,
            control_index: ControlIndex(5),
            holds_ended: [LogIndex(1); HOLD_CLASSES],
            orphan_grace_ms: 3000,
            hold_ms: [65_000; HOLD_CLASSES],
            records: 0,
        }
    }

    fn public() -> PublicKey {
        let remote = Endpoint { addr: Addr::from(std::net::Ipv4Addr::new(198, 51, 100, 1)), port: 443 };
        PublicKey { proto: Proto::Tcp, frontend: FrontendId(3), port: 2048, remote }
    }

    fn records() -> Vec<FlowRecord> {
        let endpoint = Endpoint { addr: Addr::from(std::net::Ipv4Addr::new(10, 0, 0, 4)), port: 5000 };
        let inside = InsideKey { vnet: VnetId(1), endpoint };
        vec![
            FlowRecord::Open { public: public(), inside, backend: BackendId(8) },
            FlowRecord::Close { public: public(), reason: CloseReason::Fin },
            FlowRecord::Fence {
                block: PortBlock { frontend: FrontendId(3), start: 2048, len: 1024 },
                reclaim_index: ControlIndex(4),
            },
        ]
    }

    #[test]
    fn an_entry_comes_back_as_it_was_packed() {
        let packed = Encoder::new().entry(header(), &records());
        let mut found = Vec::new();
        let decoded = decode_entry(&packed, &mut found).expect("decodes");
        assert_eq!(decoded, EntryHeader { records: 3, ..header() });
        assert_eq!(found, records());
    }

    #[test]
    fn the_layout_has_the_lengths_that_the_bounds_are_computed_from() {
        let empty = Encoder::new().entry(header(), &[]);
        assert_eq!(empty.len(), ENVELOPE_LEN + HEADER_LEN);
        let one = Encoder::new().entry(header(), &records()[..1]);
        assert_eq!(one.len(), ENVELOPE_LEN + HEADER_LEN + RECORD_MAX_LEN);
        let endpoint = Endpoint { addr: Addr::NONE, port: 0 };
        let scan = ScanRecord {
            public: public(),
            inside: InsideKey { vnet: VnetId(0), endpoint },
            backend: BackendId(0),
            state: 4,
            written_at: LogIndex(0),
        };
        let head = ChunkHeader {
            sequence: 0,
            base: LogIndex(0),
            control_index: ControlIndex(0),
            holds_ended: [LogIndex(0); HOLD_CLASSES],
            orphan_grace_ms: 0,
            grace_peak_ms: 0,
            hold_ms: [0; HOLD_CLASSES],
            records: 0,
        };
        let chunk = Encoder::new().chunk(head, &[scan; CHUNK_RECORDS_MAX]);
        assert_eq!(chunk.len(), ENVELOPE_LEN + CHUNK_HEADER_LEN + CHUNK_RECORDS_MAX * SCAN_RECORD_LEN);
        let mut out = Vec::new();
        assert_eq!(decode_chunk(&chunk, &mut out).map(|h| h.records), Ok(u32::try_from(CHUNK_RECORDS_MAX).unwrap()));
    }

    /// Golden bytes: the layout is protocol, a change needs a new version.
    #[test]
    fn the_bytes_of_version_4_are_frozen() {
        let packed = Encoder::new().entry(header(), &records());
        assert_eq!(crc32fast::hash(&packed), GOLDEN_ENTRY_CRC);
        assert_eq!(&packed[..8], &[0x51, 0x4e, 4, 32, 222, 0, 0, 0]);
    }
    const GOLDEN_ENTRY_CRC: u32 = 2_398_216_323;

    #[test]
    fn a_count_that_promises_more_than_there_is_is_refused() {
        let mut body = Encoder::new().entry(header(), &records())[ENVELOPE_LEN..].to_vec();
        body[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&u32::MAX.to_le_bytes());
        let packed = envelope::seal(VERSION, Kind::Entry as u8, &body);
        assert_eq!(decode_entry(&packed, &mut Vec::new()), Err(CodecError::Body));
    }

    proptest! {
        #[test]
        fn decoding_never_panics_on_any_body(body in proptest::collection::vec(any::<u8>(), 0..400), kind in 31u8..35) {
            let bytes = envelope::seal(VERSION, kind, &body);
            let _ = decode_entry(&bytes, &mut Vec::new());
            let _ = decode_chunk(&bytes, &mut Vec::new());
        }

        #[test]
        fn a_flipped_or_missing_byte_is_refused(at in 0usize..200, bit in 0u8..8, cut in 1usize..200) {
            let packed = Encoder::new().entry(header(), &records());
            let mut flipped = packed.to_vec();
            let at = at % flipped.len();
            flipped[at] ^= 1 << bit;
            prop_assert!(decode_entry(&flipped, &mut Vec::new()).is_err());
            prop_assert!(decode_entry(&packed[..packed.len() - cut.min(packed.len())], &mut Vec::new()).is_err());
        }
    }
}
