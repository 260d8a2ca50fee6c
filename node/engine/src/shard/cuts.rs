//! How many mappings ended because a change took their right (D19), by the configuration that they were judged under. Every
//! replica counts what its log says, so a successor knows what its predecessor cut. Called by `apply`, read by `tell::cuts`.

use std::collections::VecDeque;

use crate::ids::ControlIndex;

/// Configurations that are told apart; of older ones only the sum is kept.
const INDEXES_MAX: usize = 64;

/// See the module. Counts begin when the replica begins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cuts {
    all: u64,
    newest: VecDeque<(ControlIndex, u64)>,
}

impl Cuts {
    /// One more; `judged` never decreases (F2).
    pub(crate) fn add(&mut self, judged: ControlIndex) {
        self.all += 1;
        match self.newest.back_mut() {
            Some((index, count)) if *index == judged => *count += 1,
            Some(_) | None => {
                if self.newest.len() >= INDEXES_MAX {
                    self.newest.pop_front();
                }
                self.newest.push_back((judged, 1));
            }
        }
    }

    pub(crate) const fn all(&self) -> u64 {
        self.all
    }

    /// Those that were judged under `index` or a later configuration.
    pub(crate) fn since(&self, index: ControlIndex) -> u64 {
        self.newest.iter().filter(|(judged, _)| *judged >= index).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_told_apart_by_configuration_and_old_ones_make_room() {
        let mut cuts = Cuts::default();
        for index in 1..=100 {
            cuts.add(ControlIndex(index));
            cuts.add(ControlIndex(index));
        }
        assert_eq!((cuts.all(), cuts.since(ControlIndex(99)), cuts.since(ControlIndex(101))), (200, 4, 0));
        assert_eq!((cuts.newest.len(), cuts.since(ControlIndex(1))), (INDEXES_MAX, 128));
    }
}
