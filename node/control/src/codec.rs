//! The one place where control bytes are made and read: an envelope around bincode.
//!
//! Every length is checked before anything is allocated for it, and the body must be consumed to its last byte. It must never
//! panic on outside bytes. The body of a version is frozen: a change of a struct needs a new version. Called by `command` and `state`.

use bincode::config::Config;
use bincode::{Decode, Encode};
use words::envelope::{self, EnvelopeError};

use crate::limits::{COMMAND_LEN_MAX, CONFIGURATION_LEN_MAX, STATE_LEN_MAX};

/// What the lists of a command may take in memory, all together. Elements that are short as octets take many times as much, and
/// bincode counts what they take.
const COMMAND_MEMORY_MAX: usize = 64 * COMMAND_LEN_MAX;

/// The version of all bodies.
pub const VERSION: u8 = 17;

/// What the body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A `command::Command`.
    Command = 64,
    /// A `state::State`.
    State = 65,
    /// A `command::Configure`, whole; it travels in parts.
    Configuration = 66,
}

/// Why bytes were not accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// No intact envelope of this version and kind.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The body is not what it should be, or goes on after its end.
    #[error("body does not decode: {0}")]
    Body(String),
    /// Too long to be encoded under the limit.
    #[error("encoding exceeds the limit of {limit} bytes or failed: {reason}")]
    Encode {
        /// The limit of this kind.
        limit: usize,
        /// What the encoder said.
        reason: String,
    },
}

/// Encodes `value` into an envelope.
///
/// # Errors
/// [`CodecError::Encode`] if the body would exceed the limit of its kind.
pub fn encode<T: Encode>(kind: Kind, value: &T) -> Result<Vec<u8>, CodecError> {
    let limit = limit_of(kind);
    let failed = |reason: String| CodecError::Encode { limit, reason };
    let body = bincode::encode_to_vec(value, bincode::config::standard()).map_err(|e| failed(e.to_string()))?;
    if body.len() > limit {
        return Err(failed(format!("body is {} bytes", body.len())));
    }
    Ok(envelope::seal(VERSION, kind as u8, &body))
}

/// Reads a value out of an envelope.
///
/// # Errors
/// See [`CodecError`]; no list is allocated that could not be in so many octets.
pub fn decode<T: Decode<()>>(kind: Kind, bytes: &[u8]) -> Result<T, CodecError> {
    let body = envelope::open_kind(VERSION, kind as u8, limit_of(kind), bytes)?;
    match kind {
        Kind::Command => body_of(body, bincode::config::standard().with_limit::<COMMAND_MEMORY_MAX>()),
        Kind::State => body_of(body, bincode::config::standard().with_limit::<STATE_LEN_MAX>()),
        Kind::Configuration => body_of(body, bincode::config::standard().with_limit::<CONFIGURATION_LEN_MAX>()),
    }
}

fn limit_of(kind: Kind) -> usize {
    match kind {
        Kind::Command => COMMAND_LEN_MAX,
        Kind::State => STATE_LEN_MAX,
        Kind::Configuration => CONFIGURATION_LEN_MAX,
    }
}

fn body_of<T: Decode<()>, C: Config>(body: &[u8], config: C) -> Result<T, CodecError> {
    let (value, consumed) = bincode::decode_from_slice(body, config).map_err(|e| CodecError::Body(e.to_string()))?;
    if consumed != body.len() {
        return Err(CodecError::Body(format!("{} bytes follow its end", body.len() - consumed)));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damaged_byte_is_noticed() {
        let bytes = encode(Kind::Command, &vec![1u32, 2, 3]).expect("small");
        assert_eq!(decode::<Vec<u32>>(Kind::Command, &bytes), Ok(vec![1, 2, 3]));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(decode::<Vec<u32>>(Kind::Command, &damaged).is_err(), "byte {at}");
        }
        for len in 0..bytes.len() {
            assert!(decode::<Vec<u32>>(Kind::Command, &bytes[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn a_length_bomb_inside_the_body_is_refused_without_allocating_it() {
        // A vector that claims 2^40 elements.
        let mut body = vec![253u8];
        body.extend_from_slice(&(1u64 << 40).to_le_bytes());
        let bytes = envelope::seal(VERSION, Kind::Command as u8, &body);
        assert!(matches!(decode::<Vec<u64>>(Kind::Command, &bytes), Err(CodecError::Body(_))));
    }

    #[test]
    fn bytes_after_the_value_are_refused() {
        let bytes = encode(Kind::Command, &(1u8, 2u8)).expect("small");
        assert!(matches!(decode::<u8>(Kind::Command, &bytes), Err(CodecError::Body(_))));
    }
}
