//! What became of a command. Stored with its idempotency key, so a retry hears the same.

use std::fmt;

use bincode::{Decode, Encode};
use engine::ids::{ControlIndex, Incarnation};

use crate::refusal::Refusal;

/// The answer to a command.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Outcome {
    /// It was applied.
    Applied {
        /// The entry that applied it; for a repeated key the first one.
        index: ControlIndex,
        /// What it yielded.
        result: Yield,
    },
    /// Nothing changed.
    Refused(Refusal),
}

/// What an applied command yields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Yield {
    /// Nothing.
    Nothing,
    /// The incarnation of a registration.
    Incarnation(Incarnation),
    /// The control raft id of a join.
    RaftId(u64),
}

impl Outcome {
    /// Whether the command took effect.
    #[must_use]
    pub fn is_applied(&self) -> bool {
        matches!(self, Self::Applied { .. })
    }

    /// Why it did not.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Applied { .. } => None,
            Self::Refused(refusal) => Some(refusal),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied { index, .. } => write!(f, "committed at index {index}"),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
        }
    }
}
