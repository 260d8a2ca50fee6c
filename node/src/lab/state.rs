//! What the lab remembers between commands: `lab.json` in its directory, changed under a file lock.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::LabConfig;
use super::cuts::Cut;
use super::process::ProcessId;

const FILE: &str = "lab.json";
const LOCK: &str = "lab.lock";

/// The lab's memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) config: LabConfig,
    /// The nodes' processes, in the order of their numbers; `None` before the first start.
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
    /// Waits for other commands to end.
    pub(super) fn take(dir: &Path) -> Result<Self> {
        let path = dir.join(LOCK);
        let file = File::create(&path).with_context(|| format!("{}: is a lab up?", path.display()))?;
        file.lock().with_context(|| path.display().to_string())?;
        Ok(Self { _file: file, dir: dir.to_owned() })
    }

    pub(super) fn load(&self) -> Result<State> {
        load(&self.dir)
    }

    /// Replaces the file in one step.
    pub(super) fn store(&self, state: &State) -> Result<()> {
        let (path, new) = (self.dir.join(FILE), self.dir.join("lab.json.new"));
        fs::write(&new, serde_json::to_vec_pretty(state)?).with_context(|| new.display().to_string())?;
        fs::rename(&new, &path).with_context(|| path.display().to_string())
    }
}

/// Whether a lab has its memory in `dir`.
pub(super) fn exists(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

/// Reads the memory of the lab in `dir`.
pub(super) fn load(dir: &Path) -> Result<State> {
    let path = dir.join(FILE);
    if !path.exists() {
        bail!("no lab is up in {}: start one with `qnat lab up`", dir.display());
    }
    let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged: run `qnat lab down`", path.display()))
}

/// Removes what the lab put into `dir`, and `dir` if nothing else is in it.
pub(super) fn remove(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| dir.display().to_string()),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let path = entry.path();
        let ours_dir = name.strip_prefix('n').is_some_and(|id| id.parse::<u32>().is_ok()) || name == "inet";
        let removed = if ours_dir && entry.file_type()?.is_dir() {
            fs::remove_dir_all(&path)
        } else if [FILE, LOCK, "lab.json.new"].contains(&name) || name.starts_with("founding") {
            if entry.file_type()?.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
        } else {
            Ok(())
        };
        removed.with_context(|| path.display().to_string())?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => {
            Err(error).with_context(|| dir.display().to_string())
        }
        _ => Ok(()),
    }
}
