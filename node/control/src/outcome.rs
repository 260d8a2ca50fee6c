//! What became of a command. Stored with its idempotency key, so a retry hears the same.

use std::fmt;

use bincode::{Decode, Encode};
use engine::ids::{ControlIndex, Incarnation};

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
    Refused {
        /// Why.
        why: String,
        /// What would help.
        remedy: String,
    },
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

/// Longest text kept of a refusal, in bytes: the memory of keys is bounded.
pub(crate) const TEXT_LEN_MAX: usize = 400;

impl Outcome {
    /// A refusal, with its texts cut to a bound.
    #[must_use]
    pub fn refused(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused { why: bounded(why.into()), remedy: bounded(remedy.into()) }
    }

    /// Whether the command took effect.
    #[must_use]
    pub fn is_applied(&self) -> bool {
        matches!(self, Self::Applied { .. })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied { index, .. } => write!(f, "committed at index {index}"),
            Self::Refused { why, remedy } => write!(f, "refused: {why}; {remedy}"),
        }
    }
}

/// A refusal on its way to an [`Outcome`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    pub(crate) why: String,
    pub(crate) remedy: String,
}

/// Shorthand for refusing.
pub(crate) fn refuse<T>(why: impl Into<String>, remedy: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { why: why.into(), remedy: remedy.into() })
}

fn bounded(mut text: String) -> String {
    if text.len() > TEXT_LEN_MAX {
        let cut = (0..=TEXT_LEN_MAX).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let Outcome::Refused { why, .. } = Outcome::refused("ä".repeat(1000), "") else { panic!("refused") };
        assert!(why.len() <= TEXT_LEN_MAX + '…'.len_utf8() && why.ends_with('…'));
    }
}
