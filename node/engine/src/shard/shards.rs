//! All shards that a worker knows something of, found by number without a search: there are few, and packets ask often.

use words::Share;

use crate::ids::{Incarnation, NodeId, ShardId};
use crate::shard::{Shard, ShardEntry};
use crate::snapshot::Snapshot;

/// No entry.
const NONE: u16 = u16::MAX;

/// See the module. Entries stay once they are there.
#[derive(Debug)]
pub(crate) struct Shards {
    /// Whose leases are its own.
    pub(crate) me: Incarnation,
    pub(crate) node: NodeId,
    /// Those that it may hold replicas of.
    pub(crate) share: Share,
    /// More packets wait for this worker than it gets through in some milliseconds.
    pub(crate) behind: bool,
    /// In the order of their numbers.
    entries: Vec<(ShardId, ShardEntry)>,
    /// Where the entry of each number stands.
    places: Vec<u16>,
}

impl Shards {
    pub(crate) const fn new(me: Incarnation, node: NodeId) -> Self {
        Self { me, node, share: Share::WHOLE, behind: false, entries: Vec::new(), places: Vec::new() }
    }

    fn place(&self, shard: ShardId) -> Option<usize> {
        let place = *self.places.get(usize::from(shard.0))?;
        (place != NONE).then_some(usize::from(place))
    }

    pub(crate) fn get(&self, shard: ShardId) -> Option<&ShardEntry> {
        Some(&self.entries[self.place(shard)?].1)
    }

    pub(crate) fn get_mut(&mut self, shard: ShardId) -> Option<&mut ShardEntry> {
        let place = self.place(shard)?;
        Some(&mut self.entries[place].1)
    }

    /// The entry of a shard, an empty one if there is none yet.
    pub(crate) fn entry(&mut self, shard: ShardId) -> &mut ShardEntry {
        let place = self.place(shard).unwrap_or_else(|| self.insert(shard));
        &mut self.entries[place].1
    }

    fn insert(&mut self, shard: ShardId) -> usize {
        let place = self.entries.partition_point(|(id, _)| *id < shard);
        self.entries.insert(place, (shard, ShardEntry::default()));
        let numbers = usize::from(self.entries.last().map_or(0, |(id, _)| id.0)) + 1;
        self.places = vec![NONE; numbers];
        for (place, (id, _)) in self.entries.iter().enumerate() {
            self.places[usize::from(id.0)] = u16::try_from(place).expect("shard numbers have 16 bits");
        }
        place
    }

    /// A newer snapshot is in force.
    pub(crate) fn own(&mut self, now_ns: u64, snapshot: &Snapshot) {
        for shard in snapshot.shards.keys() {
            self.entry(*shard);
        }
        for (shard, entry) in &mut self.entries {
            entry.own(now_ns, *shard, snapshot);
        }
    }

    pub(crate) fn replica(&self, shard: ShardId) -> Option<&Shard> {
        self.get(shard)?.replica.as_deref()
    }

    pub(crate) fn replica_mut(&mut self, shard: ShardId) -> Option<&mut Shard> {
        self.get_mut(shard)?.replica.as_deref_mut()
    }

    pub(crate) fn ids(&self) -> impl DoubleEndedIterator<Item = ShardId> {
        self.entries.iter().map(|(id, _)| *id)
    }

    pub(crate) fn replicas(&self) -> impl Iterator<Item = (ShardId, &Shard)> {
        self.entries.iter().filter_map(|(id, entry)| Some((*id, entry.replica.as_deref()?)))
    }

    pub(crate) fn replicas_mut(&mut self) -> impl Iterator<Item = (ShardId, &mut Shard)> {
        self.entries.iter_mut().filter_map(|(id, entry)| Some((*id, entry.replica.as_deref_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_number_whatever_came_first() {
        let mut shards = Shards::new(Incarnation(1), NodeId(1));
        assert!(shards.get(ShardId(3)).is_none());
        for n in [7, 3, 900, 0, u16::MAX, 5] {
            shards.entry(ShardId(n)).last_owned_ns = Some(n.into());
        }
        assert_eq!(shards.entry(ShardId(900)).last_owned_ns, Some(900), "the one that is there already");
        assert_eq!(shards.ids().map(|id| id.0).collect::<Vec<_>>(), [0, 3, 5, 7, 900, u16::MAX]);
        for n in [0, 3, 5, 7, 900, u16::MAX] {
            assert_eq!(shards.get_mut(ShardId(n)).and_then(|entry| entry.last_owned_ns), Some(n.into()));
        }
        assert!(shards.get(ShardId(4)).is_none() && shards.get(ShardId(901)).is_none());
    }
}
