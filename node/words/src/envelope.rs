//! The envelope around everything that qnat stores or sends: what it is, in which version, how long, and whether it is whole.
//!
//! Layout, little-endian: magic `u16` ("QN"), version `u8`, kind `u8`, length `u32` of the body, crc32 `u32` (of version, kind,
//! length and body), body. Versions and kinds are the writers' own; no two have a kind in common: those of `consensus` are
//! below 32, those of `engine` below 64, those of `control` from 64 on. Reading never allocates, and never panics on any bytes.

use thiserror::Error;

/// Octets before the body.
pub const ENVELOPE_LEN: usize = 12;
/// The first two octets: "QN".
pub const MAGIC: u16 = u16::from_le_bytes(*b"QN");

/// Why octets are no intact envelope that the reader knows. Nothing of a refused one is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum EnvelopeError {
    /// Shorter than an envelope.
    #[error("{len} octets are shorter than an envelope of {ENVELOPE_LEN}")]
    Short {
        /// Their length.
        len: usize,
    },
    /// Not qnat's, or of a build before its envelopes were one.
    #[error(
        "magic {found:#06x} is not qnat's ({MAGIC:#06x}): written by another program, or by a build that this one does not read"
    )]
    Magic {
        /// The first two octets.
        found: u16,
    },
    /// A version that this build does not read.
    #[error("version {found} is not readable by this build, which reads {read}")]
    Version {
        /// As the envelope says.
        found: u8,
        /// What the reader knows.
        read: u8,
    },
    /// Another kind of body.
    #[error("kind {found} where {expected} belongs")]
    Kind {
        /// As the envelope says.
        found: u8,
        /// What the reader wants.
        expected: u8,
    },
    /// The length contradicts the octets, or exceeds the reader's limit.
    #[error("the envelope says {said} octets, {there} follow, at most {limit} are accepted")]
    Length {
        /// As the envelope says.
        said: u32,
        /// Octets after the head.
        there: usize,
        /// The reader's limit.
        limit: usize,
    },
    /// A flipped or torn record.
    #[error("the octets are damaged: checksum {stored:#010x} stored, {computed:#010x} computed")]
    Checksum {
        /// As the envelope says.
        stored: u32,
        /// As the octets say.
        computed: u32,
    },
}

/// The octets that go before `body`.
///
/// # Panics
/// If the body has 2^32 octets or more: whoever writes one has a limit far below.
#[must_use]
pub fn head(version: u8, kind: u8, body: &[u8]) -> [u8; ENVELOPE_LEN] {
    let len = u32::try_from(body.len()).expect("a body is bounded by its writer");
    let [m0, m1] = MAGIC.to_le_bytes();
    let [l0, l1, l2, l3] = len.to_le_bytes();
    let [c0, c1, c2, c3] = checksum([version, kind, l0, l1, l2, l3], body).to_le_bytes();
    [m0, m1, version, kind, l0, l1, l2, l3, c0, c1, c2, c3]
}

/// An envelope with `body` in it.
///
/// # Panics
/// As `head`.
#[must_use]
pub fn seal(version: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ENVELOPE_LEN + body.len());
    out.extend_from_slice(&head(version, kind, body));
    out.extend_from_slice(body);
    out
}

/// Takes an envelope apart: its kind and its body. The slice must be one whole envelope of this version, with a body of at
/// most `limit` octets.
///
/// # Errors
/// Any way in which it is not.
pub fn open(version: u8, limit: usize, bytes: &[u8]) -> Result<(u8, &[u8]), EnvelopeError> {
    let short = EnvelopeError::Short { len: bytes.len() };
    let (head, body) = bytes.split_first_chunk::<ENVELOPE_LEN>().ok_or(short)?;
    let [m0, m1, found, kind, l0, l1, l2, l3, c0, c1, c2, c3] = *head;
    let magic = u16::from_le_bytes([m0, m1]);
    if magic != MAGIC {
        return Err(EnvelopeError::Magic { found: magic });
    }
    if found != version {
        return Err(EnvelopeError::Version { found, read: version });
    }
    let said = u32::from_le_bytes([l0, l1, l2, l3]);
    if usize::try_from(said) != Ok(body.len()) || body.len() > limit {
        return Err(EnvelopeError::Length { said, there: body.len(), limit });
    }
    let stored = u32::from_le_bytes([c0, c1, c2, c3]);
    let computed = checksum([found, kind, l0, l1, l2, l3], body);
    if stored == computed { Ok((kind, body)) } else { Err(EnvelopeError::Checksum { stored, computed }) }
}

/// As `open`, where only one kind belongs.
///
/// # Errors
/// As `open`, and `Kind`.
pub fn open_kind(version: u8, expected: u8, limit: usize, bytes: &[u8]) -> Result<&[u8], EnvelopeError> {
    let (found, body) = open(version, limit, bytes)?;
    if found == expected { Ok(body) } else { Err(EnvelopeError::Kind { found, expected }) }
}

fn checksum(head: [u8; 6], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Golden octets: the layout is protocol.
    #[test]
    fn the_layout_is_frozen() {
        let sealed = seal(3, 7, b"qnat");
        assert_eq!(sealed[..8], [b'Q', b'N', 3, 7, 4, 0, 0, 0]);
        assert_eq!(&sealed[ENVELOPE_LEN..], b"qnat");
        let crc = crc32fast::hash(&[&sealed[2..8], b"qnat"].concat());
        assert_eq!(sealed[8..12], crc.to_le_bytes());
        assert_eq!(open(3, 4, &sealed), Ok((7, &b"qnat"[..])));
    }

    #[test]
    fn what_does_not_fit_the_reader_says_why() {
        let sealed = seal(3, 7, b"qnat");
        assert_eq!(open(4, 4, &sealed), Err(EnvelopeError::Version { found: 3, read: 4 }));
        assert_eq!(open_kind(3, 8, 4, &sealed), Err(EnvelopeError::Kind { found: 7, expected: 8 }));
        assert_eq!(open(3, 3, &sealed), Err(EnvelopeError::Length { said: 4, there: 4, limit: 3 }));
        assert_eq!(open(3, 4, &sealed[..11]), Err(EnvelopeError::Short { len: 11 }));
        let longer = [&sealed[..], b"!"].concat();
        assert_eq!(open(3, 9, &longer), Err(EnvelopeError::Length { said: 4, there: 5, limit: 9 }));
        let former = [&[0x4e, 0x51], &sealed[2..]].concat();
        assert_eq!(open(3, 4, &former), Err(EnvelopeError::Magic { found: 0x514e }), "what consensus wrote before");
    }

    proptest! {
        #[test]
        fn a_flipped_or_missing_octet_is_refused(
            body in proptest::collection::vec(any::<u8>(), 0..60),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let sealed = seal(1, 2, &body);
            let at = at.index(sealed.len());
            let mut flipped = sealed.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(open(1, 100, &flipped).is_err(), "octet {at}");
            prop_assert!(open(1, 100, &sealed[..at]).is_err(), "cut at {at}");
        }
    }
}
