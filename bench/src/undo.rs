//! What the bench has made outside of itself, and how each of it is undone: when the value that stands for it goes, or all at once
//! when the bench is ended by Ctrl-C or SIGTERM. Must never undo what somebody else has made.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};

type Step = Box<dyn FnOnce() + Send>;

/// Held while something is made or undone, and for good once a signal has come: nobody makes anew what it undoes.
static MADE: Mutex<Vec<(u64, Step)>> = Mutex::new(Vec::new());

fn made() -> MutexGuard<'static, Vec<(u64, Step)>> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stands for what was made; dropping it undoes that.
pub struct Undo(u64);

impl fmt::Debug for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Undo").field(&self.0).finish()
    }
}

impl Undo {
    /// Makes something by `make`, which `undo` takes away again.
    ///
    /// # Errors
    /// As `make`, which then has left nothing behind.
    pub fn of<T>(make: impl FnOnce() -> Result<T>, undo: impl FnOnce() + Send + 'static) -> Result<(T, Self)> {
        let mut all = made();
        let value = make()?;
        let number = all.last().map_or(0, |(number, _)| number + 1);
        all.push((number, Box::new(undo)));
        Ok((value, Self(number)))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let mut all = made();
        if let Some(at) = all.iter().position(|(number, _)| *number == self.0) {
            let (_, undo) = all.remove(at);
            undo();
        }
    }
}

/// From now on a signal undoes everything, the newest first, and ends the process.
///
/// # Errors
/// If signals cannot be waited for.
pub fn on_signals() -> Result<()> {
    let undo = || {
        let mut all = made();
        while let Some((_, undo)) = all.pop() {
            undo();
        }
        // For good: the process ends.
        std::mem::forget(all);
    };
    qnat_lab::signals::on_interrupt(undo).context("signals")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn what_was_made_is_undone_once_and_what_was_not_is_left_alone() {
        let undone = Arc::new(AtomicU32::new(0));
        let undo = || {
            let undone = Arc::clone(&undone);
            move || {
                undone.fetch_add(1, Ordering::Relaxed);
            }
        };
        assert!(Undo::of(|| -> Result<()> { anyhow::bail!("somebody else's") }, undo()).is_err());
        let (value, first) = Undo::of(|| Ok(7), undo()).expect("made");
        let (_, second) = Undo::of(|| Ok(8), undo()).expect("made");
        drop(first);
        assert_eq!((value, undone.load(Ordering::Relaxed)), (7, 1));
        let (_, third) = Undo::of(|| Ok(9), undo()).expect("made");
        drop((second, third));
        assert_eq!(undone.load(Ordering::Relaxed), 3);
    }
}
