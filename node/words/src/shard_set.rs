//! A set of shards, of constant size: what a member reports, shard by shard.

use bincode::{Decode, Encode};

use crate::ids::{SHARDS_MAX, ShardId};

const WORDS: usize = SHARDS_MAX as usize / 64;

/// Which shards; ids from `SHARDS_MAX` on are in none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct ShardSet([u64; WORDS]);

impl ShardSet {
    /// No shard.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// Puts a shard in.
    pub fn insert(&mut self, ShardId(id): ShardId) {
        if let Some(word) = self.0.get_mut(usize::from(id / 64)) {
            *word |= 1 << (id % 64);
        }
    }

    /// Whether a shard is in it.
    #[must_use]
    pub fn contains(&self, ShardId(id): ShardId) -> bool {
        self.0.get(usize::from(id / 64)).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    /// Whether no shard is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = ShardId> {
        (0..SHARDS_MAX).map(ShardId).filter(|id| self.contains(*id))
    }
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> Self {
        let mut set = Self::EMPTY;
        shards.into_iter().for_each(|shard| set.insert(shard));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_in_it_and_what_cannot_be_is_not() {
        let ids = [0, 63, 64, SHARDS_MAX - 1].map(ShardId);
        let mut set: ShardSet = ids.into_iter().collect();
        set.insert(ShardId(SHARDS_MAX));
        assert_eq!(set.iter().collect::<Vec<_>>(), ids);
        assert!(!set.contains(ShardId(1)) && !set.contains(ShardId(SHARDS_MAX)));
        assert!(ShardSet::EMPTY.is_empty() && !set.is_empty());
    }
}
