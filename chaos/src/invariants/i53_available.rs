//! I53: while a single fault lasts, some member serves each shard again within 2 s. Asked while faults run, not after.

use std::collections::BTreeMap;

use engine::ids::ShardId;

use super::{Check, ensure};

/// The longest that a shard may be without service, in milliseconds.
pub const WITHOUT_MAX_MS: u64 = 2_000;

/// A life of a shard: one that takes the id of a retired one is another, and nobody has missed it before it was founded.
pub type Life = (ShardId, u32);

/// When each shard was served last, in milliseconds.
#[derive(Debug, Default)]
pub struct Availability(BTreeMap<Life, u64>);

impl Availability {
    /// Some member serves the shard.
    pub fn served(&mut self, shard: Life, now_ms: u64) {
        self.0.insert(shard, now_ms);
    }

    /// What is missing is excused for now: a shard that is still being set up, or more than one fault.
    pub fn excused(&mut self, shard: Life) {
        self.0.remove(&shard);
    }

    /// Nobody serves it.
    ///
    /// # Errors
    /// If that lasts for too long.
    pub fn check(&self, shard: Life, now_ms: u64, seen: impl FnOnce() -> String) -> Check {
        let since = self.0.get(&shard).copied();
        let within = since.is_none_or(|since| now_ms - since <= WITHOUT_MAX_MS);
        ensure(within, "I53", || format!("nobody has served shard {} for {WITHOUT_MAX_MS} ms: {}", shard.0, seen()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_seconds_without_service_are_too_long_and_an_excuse_begins_anew() {
        let (shard, mut availability) = ((ShardId(1), 0), Availability::default());
        let check = |a: &Availability, ms| a.check(shard, ms, String::new);
        assert!(check(&availability, 90_000).is_ok(), "it was never served");
        availability.served(shard, 100);
        assert!(check(&availability, 2_100).is_ok());
        assert!(check(&availability, 2_101).is_err());
        assert!(availability.check((ShardId(1), 1), 2_101, String::new).is_ok(), "its id's next life");
        availability.excused(shard);
        assert!(check(&availability, 2_101).is_ok());
    }
}
