//! Bounds of what waits for another thread, counted in octets: a queue of 64 KiB entries that is bounded in entries is not
//! bounded. Used by the flow actor towards the worker and the control actor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So much may wait; what does is given back when it is dropped.
#[derive(Clone, Debug)]
pub struct Room {
    taken: Arc<AtomicUsize>,
    max: usize,
}

/// What something takes of a room, until it is dropped.
#[derive(Debug)]
pub struct Taken {
    room: Arc<AtomicUsize>,
    octets: usize,
}

impl Room {
    /// An empty room for `max` octets (or whatever is counted).
    #[must_use]
    pub fn of(max: usize) -> Self {
        Self { taken: Arc::default(), max }
    }

    /// Takes `octets` of it; `None` if there are not so many left. Only one thread takes; any gives back.
    #[must_use]
    pub fn take(&self, octets: usize) -> Option<Taken> {
        if self.taken.load(Ordering::Relaxed).saturating_add(octets) > self.max {
            return None;
        }
        self.taken.fetch_add(octets, Ordering::Relaxed);
        Some(Taken { room: Arc::clone(&self.taken), octets })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.fetch_sub(self.octets, Ordering::Relaxed);
    }
}

/// Octets that one thread handed over and the other has not read.
#[derive(Clone, Debug, Default)]
pub struct Unread(Arc<AtomicUsize>);

impl Unread {
    /// Counts something that is handed over; returns the sum.
    pub fn add(&self, octets: usize) -> usize {
        self.0.fetch_add(octets, Ordering::Relaxed) + octets
    }

    /// Counts it as read.
    pub fn read(&self, octets: usize) {
        self.0.fetch_sub(octets, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_full_by_octets_and_has_place_again_when_they_are_read() {
        let room = Room::of(1000);
        let mut taken: Vec<Taken> = (0..10).map(|_| room.take(100).expect("room")).collect();
        assert!(room.take(1).is_none(), "a frame beyond the bound was taken");
        taken.pop();
        assert!(room.take(101).is_none());
        assert!(room.take(100).is_some());
        drop(taken);
        assert!(room.take(1000).is_some());
    }

    #[test]
    fn what_is_read_does_not_count_any_more() {
        let here = Unread::default();
        let there = here.clone();
        assert_eq!(here.add(70), 70);
        assert_eq!(here.add(30), 100);
        there.read(70);
        assert_eq!(here.add(1), 31);
    }
}
