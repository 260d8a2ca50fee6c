//! What waits between two threads of a simulated member: it delays, and what is in it stays in order. Whoever fills it bounds it.

use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub(super) struct Ring<T>(VecDeque<(u64, T)>);

impl<T> Ring<T> {
    pub(super) const fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn push(&mut self, ready_ns: u64, item: T) {
        let after = self.0.back().map_or(0, |(ready, _)| *ready);
        self.0.push_back((ready_ns.max(after), item));
    }

    pub(super) fn pop(&mut self, now_ns: u64) -> Option<T> {
        if self.0.front()?.0 > now_ns {
            return None;
        }
        self.0.pop_front().map(|(_, item)| item)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
