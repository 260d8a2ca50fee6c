//! The board of concerns that only the code which meets them knows. Who raises one clears it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control::concern::{Concern, Subject, What};

/// A board that any thread may write on. It is locked for a moment, so not for the packet path.
#[derive(Clone, Debug, Default)]
pub struct Alarms(Arc<Mutex<BTreeMap<(What, Subject), Concern>>>);

impl Alarms {
    /// Raises a concern, or says it anew.
    pub fn raise(&self, concern: Concern) {
        self.board().insert(concern.key(), concern);
    }

    /// It is over.
    pub fn clear(&self, what: What, subject: &Subject) {
        self.board().remove(&(what, subject.clone()));
    }

    /// Raises or clears, whichever is true now.
    pub fn set(&self, what: What, subject: &Subject, concern: Option<Concern>) {
        match concern {
            Some(concern) => self.raise(concern),
            None => self.clear(what, subject),
        }
    }

    /// `found` is all that there is now of these kinds: whoever calls it is the only one who raises them.
    pub fn replace(&self, kinds: &[What], found: Vec<Concern>) {
        let mut board = self.board();
        board.retain(|(what, _), _| !kinds.contains(what));
        board.extend(found.into_iter().map(|concern| (concern.key(), concern)));
    }

    /// What is raised now.
    #[must_use]
    pub fn raised(&self) -> Vec<Concern> {
        self.board().values().cloned().collect()
    }

    fn board(&self) -> MutexGuard<'_, BTreeMap<(What, Subject), Concern>> {
        // Whoever panicked with the lock left whole concerns behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
