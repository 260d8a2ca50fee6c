//! Ctrl-C and SIGTERM: the lab goes, with everything that runs in its namespaces and the captures' files, and what was
//! measured so far is printed. Must never leave a lab behind that was just being brought up. Called by the command.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

/// Held while a lab is brought up or taken down or a verdict is written, and for good once a signal has come: then
/// nobody can build anew what the signal takes down, and there is one verdict.
static GATE: Mutex<()> = Mutex::new(());
/// Whether the lab that is up is ours; changed behind the gate. Somebody else's is none of our business.
static OURS: AtomicBool = AtomicBool::new(false);

/// Waits until no lab is being brought up or taken down; forever after a signal, which ends the process.
pub(super) fn gate() -> MutexGuard<'static, ()> {
    GATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lab is ours from now on, or no more. The caller is behind the gate.
pub(super) fn set_ours(_gate: &MutexGuard<'_, ()>, ours: bool) {
    OURS.store(ours, Ordering::Relaxed);
}

/// From now on a signal takes our lab and the directory `files` away, calls `report` and ends the process.
pub(super) fn watch(files: std::path::PathBuf, report: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let work = move || {
        // For good: the process ends.
        std::mem::forget(gate());
        if OURS.load(Ordering::Relaxed)
            && let Err(error) = qnat_lab::down(Path::new(qnat_lab::DEFAULT_DIR))
        {
            eprintln!("the lab could not be taken down: {error:#}");
        }
        // It is there only while a run is under way.
        let _gone = std::fs::remove_dir_all(files);
        if let Err(error) = report() {
            eprintln!("what was measured could not be written: {error:#}");
        }
    };
    qnat_lab::signals::on_interrupt(work).context("signals")
}
