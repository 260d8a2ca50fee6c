//! A configuration that is too long for one entry comes in numbered parts, which change nothing by themselves: the entry
//! behind them, which says how many they are and what they come to, is the command (C1).
//!
//! `Parts` is what the state keeps of them, [`Cut`] is what a proposer makes of a configuration. One attempt is collected
//! at a time, in whatever order its parts come: a newer one replaces it, a configuration that takes effect drops it, and so
//! do [`ENTRIES_MAX`] entries without an end. A part costs its own length. It must never judge a configuration. Called by
//! `apply` and by the member.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use engine::ids::ControlIndex;

use crate::codec::{self, CodecError, Kind};
use crate::command::{CommandBody, Configure, PlanHash};
use crate::limits::{PART_LEN_MAX, PARTS_MAX};
use crate::refusal::{Refusal, count};

/// An attempt that has not come to its end within so many entries is given up.
pub const ENTRIES_MAX: u64 = 16_384;

/// The parts of one attempt that have come so far.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct Parts {
    /// The entry that began it.
    attempt: ControlIndex,
    parts: BTreeMap<u32, Vec<u8>>,
}

impl Parts {
    pub(crate) const fn begin(attempt: ControlIndex) -> Self {
        Self { attempt, parts: BTreeMap::new() }
    }

    /// Whether it has taken too long by the entry `index`.
    pub(crate) const fn is_over(&self, index: ControlIndex) -> bool {
        index.0.saturating_sub(self.attempt.0) > ENTRIES_MAX
    }

    /// Takes a part; one that is there already stays.
    pub(crate) fn put(&mut self, number: u32, bytes: &[u8]) -> Result<(), Refusal> {
        if bytes.is_empty() || bytes.len() > PART_LEN_MAX || usize::try_from(number).is_ok_and(|n| n >= PARTS_MAX) {
            return Err(Refusal::NoPart { number, len: count(bytes.len()) });
        }
        self.parts.entry(number).or_insert_with(|| bytes.to_vec());
        Ok(())
    }

    /// The configuration, if its `count` parts are there and come to `hash`.
    pub(crate) fn whole(&self, count: u32, hash: &PlanHash) -> Result<Configure, Refusal> {
        if let Some(part) = (0..count).find(|number| !self.parts.contains_key(number)) {
            return Err(Refusal::PartMissing { part, count });
        }
        let mut bytes = Vec::with_capacity(self.parts.values().map(Vec::len).sum());
        self.parts.values().for_each(|part| bytes.extend_from_slice(part));
        if self.parts.len() != usize::try_from(count).unwrap_or(usize::MAX) || blake3::hash(&bytes) != *hash {
            return Err(Refusal::PartsDiffer {});
        }
        codec::decode(Kind::Configuration, &bytes).map_err(|_| Refusal::PartsUnreadable {})
    }
}

/// The attempt of this number, if it is the one that is being collected.
pub(crate) fn of(parts: &mut Option<Parts>, attempt: ControlIndex) -> Result<&mut Parts, Refusal> {
    let newest = parts.as_ref().map(|parts| parts.attempt);
    match parts.as_mut().filter(|parts| parts.attempt == attempt) {
        Some(parts) => Ok(parts),
        None => Err(match newest {
            Some(newest) => Refusal::AttemptReplaced { attempt, newest },
            None => Refusal::AttemptOver { attempt },
        }),
    }
}

/// A configuration as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cut {
    /// In one entry.
    Whole(CommandBody),
    /// In parts.
    Parts(Vec<Vec<u8>>, PlanHash),
}

impl Cut {
    /// As few entries as it fits into.
    ///
    /// # Errors
    /// [`CodecError::Encode`] if it is longer than any that the limits allow.
    pub fn of(configure: Box<Configure>) -> Result<Self, CodecError> {
        let bytes = codec::encode(Kind::Configuration, &configure)?;
        if bytes.len() <= PART_LEN_MAX {
            return Ok(Self::Whole(CommandBody::Configure(configure)));
        }
        let hash = *blake3::hash(&bytes).as_bytes();
        Ok(Self::Parts(bytes.chunks(PART_LEN_MAX).map(<[u8]>::to_vec).collect(), hash))
    }
}
