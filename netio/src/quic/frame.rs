//! Bytes of a stream: a header that says what the stream carries, then frames, each behind its length.
//! Must bound every length before it allocates: a peer's bytes are outside input.
//!
//! Stream: magic `"qn1"`, kind u8, channel u32, then for each frame: length u32, bytes. All big-endian.

use bytes::{BufMut, Bytes, BytesMut};
use quinn::RecvStream;

/// Longest frame in bytes.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

const MAGIC: [u8; 3] = *b"qn1";
pub(super) const HEADER_BYTES: usize = 8;

/// What a stream carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum StreamKind {
    /// The acceptor's word that it takes this connection; carries no frame.
    Greeting,
    Frames,
    Bulk,
    /// A question to join, or the answers to it.
    Join,
}

/// Names one stream of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct StreamKey {
    pub(super) kind: StreamKind,
    pub(super) channel: u32,
}

impl StreamKey {
    pub(super) const GREETING: Self = Self { kind: StreamKind::Greeting, channel: 0 };

    pub(super) const JOIN: Self = Self { kind: StreamKind::Join, channel: 0 };

    pub(super) const fn frames(channel: u32) -> Self {
        Self { kind: StreamKind::Frames, channel }
    }

    pub(super) const fn bulk(channel: u32) -> Self {
        Self { kind: StreamKind::Bulk, channel }
    }

    /// Priority on the wire: bulk yields.
    pub(super) const fn priority(self) -> i32 {
        match self.kind {
            StreamKind::Greeting => 2,
            StreamKind::Frames | StreamKind::Join => 1,
            StreamKind::Bulk => 0,
        }
    }

    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        let kind = match self.kind {
            StreamKind::Greeting => 0,
            StreamKind::Frames => 1,
            StreamKind::Bulk => 2,
            StreamKind::Join => 3,
        };
        let [c0, c1, c2, c3] = self.channel.to_be_bytes();
        [MAGIC[0], MAGIC[1], MAGIC[2], kind, c0, c1, c2, c3]
    }

    /// `None` for anything that [`StreamKey::encode`] does not write.
    pub(super) fn decode(bytes: [u8; HEADER_BYTES]) -> Option<Self> {
        let [m0, m1, m2, kind, c0, c1, c2, c3] = bytes;
        let channel = u32::from_be_bytes([c0, c1, c2, c3]);
        let kind = match kind {
            0 if channel == 0 => StreamKind::Greeting,
            1 => StreamKind::Frames,
            2 => StreamKind::Bulk,
            3 if channel == 0 => StreamKind::Join,
            _ => return None,
        };
        ([m0, m1, m2] == MAGIC).then_some(Self { kind, channel })
    }
}

/// Why a stream ends.
#[derive(Debug)]
pub(super) enum StreamEnd {
    /// Cleanly, or with its connection.
    Over,
    /// The peer broke the format; the connection must go.
    Malformed,
}

/// Reads the frames of one stream.
///
/// Small frames are cut from a shared read buffer without copying each; one that does not fit in what has been read is
/// completed in a buffer of its own length. Memory follows bytes that arrived, not lengths that were claimed.
#[derive(Debug)]
pub(super) struct FrameReader {
    stream: RecvStream,
    buffer: BytesMut,
    frame_bytes_max: usize,
}

/// How much one read takes at most.
const READ_BYTES: usize = 64 << 10;

impl FrameReader {
    /// A longer frame than `frame_bytes_max` breaks the format.
    pub(super) fn new(stream: RecvStream, frame_bytes_max: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), frame_bytes_max }
    }

    pub(super) async fn header(&mut self) -> Result<StreamKey, StreamEnd> {
        let mut bytes = [0; HEADER_BYTES];
        self.stream.read_exact(&mut bytes).await.map_err(|_| StreamEnd::Over)?;
        StreamKey::decode(bytes).ok_or(StreamEnd::Malformed)
    }

    /// The next frame.
    pub(super) async fn next(&mut self) -> Result<Bytes, StreamEnd> {
        loop {
            if let Some(frame) = cut_frame(&mut self.buffer, self.frame_bytes_max)? {
                return Ok(frame);
            }
            let chunk = self.stream.read_chunk(READ_BYTES, true).await.map_err(|_| StreamEnd::Over)?;
            let Some(chunk) = chunk else {
                return Err(if self.buffer.is_empty() { StreamEnd::Over } else { StreamEnd::Malformed });
            };
            self.buffer.extend_from_slice(&chunk.bytes);
        }
    }
}

/// Cuts a whole frame off the front of `buffer`; `None` if it is not all there yet.
fn cut_frame(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, StreamEnd> {
    let Some(prefix) = buffer.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*prefix);
    let len = usize::try_from(len).ok().filter(|len| *len <= bytes_max).ok_or(StreamEnd::Malformed)?;
    if buffer.len() < 4 + len {
        return Ok(None);
    }
    let mut frame = buffer.split_to(4 + len);
    Ok(Some(frame.split_off(4).freeze()))
}

/// Frames of one write: small ones are gathered in one chunk, large ones are passed on without a copy.
#[derive(Debug, Default)]
pub(super) struct Batch {
    gathered: BytesMut,
    chunks: Vec<Bytes>,
}

/// From this length on a frame is its own chunk.
const OWN_CHUNK_BYTES: usize = 16 << 10;

impl Batch {
    /// Starts a stream.
    pub(super) fn push_header(&mut self, key: StreamKey) {
        self.gathered.put_slice(&key.encode());
    }

    /// Adds a frame of at most [`FRAME_BYTES_MAX`].
    pub(super) fn push(&mut self, frame: Bytes) {
        let len = u32::try_from(frame.len()).expect("send refuses frames above FRAME_BYTES_MAX");
        self.gathered.put_u32(len);
        if frame.len() < OWN_CHUNK_BYTES {
            self.gathered.put_slice(&frame);
        } else {
            self.chunks.push(self.gathered.split().freeze());
            self.chunks.push(frame);
        }
    }

    /// All of it, as chunks in order; the batch is empty afterwards (but for its buffer) once the chunks are drained.
    pub(super) fn chunks(&mut self) -> &mut Vec<Bytes> {
        if !self.gathered.is_empty() {
            self.chunks.push(self.gathered.split().freeze());
        }
        &mut self.chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_headers_round_trip_and_foreign_ones_are_refused() {
        for key in [
            StreamKey::GREETING,
            StreamKey::JOIN,
            StreamKey::frames(0),
            StreamKey::frames(u32::MAX),
            StreamKey::bulk(7),
        ] {
            assert_eq!(StreamKey::decode(key.encode()), Some(key));
        }
        assert_eq!(StreamKey::decode(*b"qn2\x01\0\0\0\0"), None);
        assert_eq!(StreamKey::decode(*b"qn1\x04\0\0\0\0"), None);
        assert_eq!(StreamKey::decode(*b"qn1\x00\0\0\0\x01"), None);
    }

    #[test]
    fn a_batch_reads_back_frame_by_frame_however_it_is_split() {
        let frames: Vec<Bytes> = [0, 1, 3, OWN_CHUNK_BYTES - 1, OWN_CHUNK_BYTES, 100_000, 5]
            .iter()
            .map(|&n| Bytes::from(vec![7; n]))
            .collect();
        let mut batch = Batch::default();
        for frame in &frames {
            batch.push(frame.clone());
        }
        let wire: Vec<u8> = batch.chunks().drain(..).flatten().collect();
        for step in [1, 7, 4096, wire.len()] {
            let mut buffer = BytesMut::new();
            let mut read = Vec::new();
            for piece in wire.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = cut_frame(&mut buffer, FRAME_BYTES_MAX).expect("well formed") {
                    read.push(frame);
                }
            }
            assert_eq!(read, frames);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_length_bomb_is_refused_by_its_prefix_alone() {
        let claimed = u32::try_from(FRAME_BYTES_MAX + 1).expect("small").to_be_bytes();
        assert!(matches!(cut_frame(&mut BytesMut::from(&claimed[..]), FRAME_BYTES_MAX), Err(StreamEnd::Malformed)));
        assert!(matches!(cut_frame(&mut BytesMut::from(&[0xff; 4][..]), FRAME_BYTES_MAX), Err(StreamEnd::Malformed)));
    }
}
