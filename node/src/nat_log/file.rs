//! The file that lines are appended to, and its older ones. It never writes into the middle of a line that a crash has torn.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Files of a log, the newest first: itself, then `PATH.1` and so on.
#[must_use]
pub fn files(path: &Path, kept: u32) -> Vec<PathBuf> {
    (0..=kept).map(|age| aged(path, age)).collect()
}

/// `PATH`, `PATH.1`, …
pub(super) fn aged(path: &Path, age: u32) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    PathBuf::from(name)
}

/// An open log file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    kept: u32,
    size_max: u64,
    file: File,
    /// Octets that were written behind the file's own beginning.
    grown: u64,
}

impl LogFile {
    /// Opens or creates it.
    pub(super) fn open(path: &Path, kept: u32, size_max: u64) -> io::Result<Self> {
        let mut file = append(path)?;
        let len = file.seek(SeekFrom::End(0))?;
        if len > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != [b'\n'] {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { path: path.to_owned(), kept, size_max, file, grown: len })
    }

    /// Whether it has become too long.
    pub(super) const fn is_full(&self) -> bool {
        self.grown >= self.size_max
    }

    /// Appends whole lines.
    pub(super) fn append(&mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        self.grown += text.len() as u64;
        Ok(())
    }

    /// Waits until the disk has it.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Puts the file behind the older ones, the oldest of which goes, and begins a new one with `head`.
    pub(super) fn rotate(&mut self, head: &str) -> io::Result<()> {
        self.file.sync_data()?;
        for age in (0..self.kept).rev() {
            match fs::rename(aged(&self.path, age), aged(&self.path, age + 1)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        if self.kept == 0 {
            fs::remove_file(&self.path)?;
        }
        self.file = append(&self.path)?;
        self.file.write_all(head.as_bytes())?;
        self.grown = 0;
        Ok(())
    }
}

/// Whom a public port led to is nobody else's business.
fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)
}
