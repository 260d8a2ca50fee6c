//! A counter of losses that only rises, as a concern that ends: what was lost is told of for an hour after the last loss.
//! The counter itself keeps it for ever. Called by the answerer with each look.

use std::sync::{Arc, Mutex, PoisonError};

/// A loss is told of for so long after it was seen.
const TOLD_MS: u64 = 3_600_000;

/// The counter and when it rose last, for all who look.
#[derive(Clone, Debug, Default)]
pub struct Losses(Arc<Mutex<Seen>>);

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    count: u64,
    rose_unix_ms: Option<u64>,
}

/// What of it is to be told now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Loss {
    /// All that was lost since the start.
    pub count: u64,
    /// Some of it within the last hour.
    pub lately: bool,
}

impl Losses {
    /// The counter stands at `count`.
    #[must_use]
    pub fn look(&self, count: u64, unix_ms: u64) -> Loss {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if count > seen.count {
            *seen = Seen { count, rose_unix_ms: Some(unix_ms) };
        }
        let lately = seen.rose_unix_ms.is_some_and(|at| unix_ms.saturating_sub(at) < TOLD_MS);
        Loss { count, lately }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_of_for_an_hour_after_the_last_one() {
        let losses = Losses::default();
        let hour = TOLD_MS;
        assert_eq!(losses.look(0, 5), Loss { count: 0, lately: false });
        assert_eq!(losses.look(3, 10), Loss { count: 3, lately: true });
        assert!(losses.look(3, 9 + hour).lately && !losses.look(3, 10 + hour).lately);
        assert!(losses.look(4, 11 + hour).lately && !losses.look(4, 11 + 2 * hour).lately);
    }
}
