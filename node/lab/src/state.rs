//! What the lab remembers between commands: `lab.json` in its directory, changed under a file lock.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::config::LabConfig;
use super::cuts::Cut;
use super::process::ProcessId;

const FILE: &str = "lab.json";
const FILE_NEW: &str = "lab.json.new";
const LOCK: &str = "lab.lock";
/// How long whoever ends a lab waits for a command that changes it; one that takes longer hangs.
const END_WAIT_MAX: Duration = Duration::from_secs(60);

/// The lab's memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) config: LabConfig,
    /// The nodes' processes, in the order of their numbers; `None` before the first start and after a removal.
    pub(super) nodes: Vec<Option<ProcessId>>,
    pub(super) inet: Option<ProcessId>,
    /// What is cut off now.
    pub(super) cuts: Vec<Cut>,
    /// All namespaces, so that a person can see what belongs to the lab.
    pub(super) namespaces: Vec<String>,
}

/// Held while a command changes the lab.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
    dir: PathBuf,
}

impl Lock {
    /// Waits for other commands to end. Only for a lab that is up: a directory that is no lab's gets no lock file.
    pub(super) fn take(dir: &Path) -> Result<Self> {
        ensure_up(dir)?;
        Self::take_new(dir)
    }

    /// For the command that founds the lab.
    pub(super) fn take_new(dir: &Path) -> Result<Self> {
        let path = dir.join(LOCK);
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        file.lock().with_context(|| path.display().to_string())?;
        Ok(Self { _file: file, dir: dir.to_owned() })
    }

    /// For the command that ends the lab, and clears up after those that hang or were killed. `None`: there is nobody to wait for, or
    /// no end to it.
    pub(super) fn take_to_end(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(LOCK);
        let Ok(file) = File::open(&path) else { return Ok(None) };
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self { _file: file, dir: dir.to_owned() })),
                Err(TryLockError::WouldBlock) if begun.elapsed() < END_WAIT_MAX => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
    }

    pub(super) fn load(&self) -> Result<State> {
        load(&self.dir)
    }

    /// Replaces the file in one step.
    pub(super) fn store(&self, state: &State) -> Result<()> {
        let (path, new) = (self.dir.join(FILE), self.dir.join(FILE_NEW));
        fs::write(&new, serde_json::to_vec_pretty(state)?).with_context(|| new.display().to_string())?;
        fs::rename(&new, &path).with_context(|| path.display().to_string())
    }
}

/// Whether a lab has its memory in `dir`.
pub(super) fn exists(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

fn ensure_up(dir: &Path) -> Result<()> {
    ensure!(exists(dir), "no lab is up in {}: start one with `qnat lab up`", dir.display());
    Ok(())
}

/// Reads the memory of the lab in `dir`.
pub(super) fn load(dir: &Path) -> Result<State> {
    ensure_up(dir)?;
    let path = dir.join(FILE);
    let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged: run `qnat lab down`", path.display()))
}

/// Whether a lab may settle in `dir`: it must be empty or not there, since all of it is removed in the end.
pub(super) fn is_free(dir: &Path) -> Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| dir.display().to_string()),
    }
}

/// Removes `dir` with all that is in it, if it is a lab's.
pub(super) fn remove(dir: &Path) -> Result<()> {
    let removed = if exists(dir) {
        fs::remove_dir_all(dir)
    } else {
        // All that a start leaves that crashed before it had a memory.
        [LOCK, FILE_NEW].into_iter().for_each(|name| drop(fs::remove_file(dir.join(name))));
        fs::remove_dir(dir)
    };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        // Somebody else's directory.
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other.with_context(|| dir.display().to_string()),
    }
}
