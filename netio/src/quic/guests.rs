//! The nodes that ask to join and wait for an answer: a few at a time.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::queue::SendOutcome;

/// Most nodes that may ask at a time.
pub(super) const GUESTS_MAX: usize = 8;
/// Most frames in either direction of one connection.
pub(super) const FRAMES_MAX: usize = 4;

/// The nodes that wait for an answer, by their proved number.
#[derive(Debug, Default)]
pub(super) struct Guests {
    open: Mutex<BTreeMap<u32, mpsc::Sender<Bytes>>>,
}

impl Guests {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u32, mpsc::Sender<Bytes>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for `id`, in place of an earlier one of the same number; `None` if too many others ask.
    pub(super) fn enter(&self, id: u32) -> Option<(mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>)> {
        let mut open = self.open();
        if open.len() >= GUESTS_MAX && !open.contains_key(&id) {
            return None;
        }
        let (answers, answered) = mpsc::channel(FRAMES_MAX);
        open.insert(id, answers.clone());
        Some((answers, answered))
    }

    pub(super) fn leave(&self, id: u32, place: &mpsc::Sender<Bytes>) {
        let mut open = self.open();
        if open.get(&id).is_some_and(|newest| newest.same_channel(place)) {
            open.remove(&id);
        }
    }

    /// Queues an answer for the node that asked.
    pub(super) fn answer(&self, id: u32, frame: Bytes) -> SendOutcome {
        let taken = self.open().get(&id).is_some_and(|place| place.try_send(frame).is_ok());
        if taken { SendOutcome::Queued } else { SendOutcome::Down }
    }
}
