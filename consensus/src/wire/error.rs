//! Why bytes of the wire or of the store are refused. Made by all that reads them.

use thiserror::Error;
use words::envelope::EnvelopeError;

/// Why bytes were refused. Nothing of a refused frame is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum WireError {
    /// The bytes end inside a field, or a length points beyond them.
    #[error("truncated: {need} bytes needed, {left} left")]
    Truncated {
        /// What the field or length asks for.
        need: usize,
        /// What the frame still has.
        left: usize,
    },
    /// Bytes follow the last field.
    #[error("{0} bytes after the end")]
    Trailing(usize),
    /// Longer than [`super::MAX_BODY_BYTES`].
    #[error("{0} bytes are more than a message may have")]
    TooLong(usize),
    /// No intact envelope of this version.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// A version of what is inside that this build does not read.
    #[error("version {0} is not readable by this build")]
    Version(u8),
    /// An enumeration value that does not exist.
    #[error("unknown {what} {value}")]
    Unknown {
        /// Which enumeration.
        what: &'static str,
        /// The value found.
        value: u8,
    },
    /// A field contradicts another one or its own range.
    #[error("invalid {0}")]
    Invalid(&'static str),
}
