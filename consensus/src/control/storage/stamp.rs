//! The small files beside the database: who owns the directory, the lock, and the guard against a log that shrank.
//!
//! Called by the sled store only. The stamp (`cluster-id`, N5) is written last when a directory is founded or joins, so a
//! directory with a stamp is complete. The guard holds the sequence number of the last write that was acknowledged: sled
//! cuts its log silently at the first record that it cannot read, which after a flipped bit would take back votes and
//! entries (I34, I37); with the guard that is noticed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{ClusterId, Identity, StoreError};
use crate::wire::{self, KIND_LOG_RECORD, Reader};

/// Name of the stamp in a data directory.
pub(super) const STAMP_FILE: &str = "cluster-id";
const GUARD_FILE: &str = "guard";
const LOCK_FILE: &str = "lock";
const SLOT_BYTES: u64 = 512;
const BODY_BYTES: usize = 16;

/// An input or output error at `place`.
pub(super) fn io_error(place: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Io { place: place.display().to_string(), reason: error.to_string() }
}

/// Damage found at `place`.
pub(super) fn damaged(place: &Path, what: impl Into<String>) -> StoreError {
    StoreError::Damaged { place: place.display().to_string(), what: what.into() }
}

/// Takes the directory for this process until the file is dropped.
pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK_FILE);
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|e| io_error(&path, &e))?;
    take(&file, &path)?;
    Ok(file)
}

/// Refuses a file that somebody has locked; one that is not there will do.
pub(super) fn must_be_free(path: &Path) -> Result<(), StoreError> {
    match File::open(path) {
        Ok(file) => take(&file, path),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io_error(path, &e)),
    }
}

fn take(file: &File, path: &Path) -> Result<(), StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { place: path.display().to_string() }),
        Err(TryLockError::Error(e)) => Err(io_error(path, &e)),
    }
}

/// The directory's identity, if it has one.
pub(super) fn read(dir: &Path) -> Result<Option<Identity>, StoreError> {
    let path = dir.join(STAMP_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text).map(Some).ok_or_else(|| damaged(&path, "this is no stamp of a qnat data directory")),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error(&path, &e)),
    }
}

/// Stamps the directory, durably: a new file takes its name only once its content is on disk.
pub(super) fn write(dir: &Path, identity: Identity) -> Result<(), StoreError> {
    let (path, draft) = (dir.join(STAMP_FILE), dir.join("cluster-id.new"));
    let text = format!("qnat control store 1\ncluster {}\nraft-id {}\n", identity.cluster, identity.raft_id);
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    };
    write().map_err(|e| io_error(&path, &e))?;
    sync_directory(dir)
}

/// Makes names in a directory durable.
pub(super) fn sync_directory(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io_error(dir, &e))
}

fn parse(text: &str) -> Option<Identity> {
    let mut lines = text.lines();
    if lines.next()? != "qnat control store 1" {
        return None;
    }
    let hex = lines.next()?.strip_prefix("cluster ")?;
    let raft_id: u64 = lines.next()?.strip_prefix("raft-id ")?.parse().ok()?;
    if hex.len() != 32 || !hex.is_ascii() || lines.next().is_some() || raft_id == 0 {
        return None;
    }
    let mut cluster = [0; 16];
    for (byte, pair) in cluster.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Identity { cluster: ClusterId(cluster), raft_id })
}

/// The sequence number of the last acknowledged write, in two slots that take turns, so that a torn write of one leaves
/// the other.
#[derive(Debug)]
pub(super) struct Guard {
    file: File,
    path: PathBuf,
    next_slot: u64,
}

impl Guard {
    /// Opens the guard; also what it says, `None` if both slots are empty or unreadable.
    pub(super) fn open(dir: &Path, raft_id: u64) -> Result<(Self, Option<u64>), StoreError> {
        let path = dir.join(GUARD_FILE);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| io_error(&path, &e))?;
        let slots = [read_slot(&file, 0, raft_id), read_slot(&file, 1, raft_id)];
        // The older slot, or an unreadable one, is written next.
        let next_slot = u64::from(slots[0] >= slots[1]);
        Ok((Self { file, path, next_slot }, slots.into_iter().flatten().max()))
    }

    /// Puts another file under the guard, for tests of disks that fail.
    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    /// Says durably that the write `sequence` is about to be acknowledged.
    pub(super) fn set(&mut self, raft_id: u64, sequence: u64) -> Result<(), StoreError> {
        let mut body = [0; BODY_BYTES];
        body[..8].copy_from_slice(&raft_id.to_le_bytes());
        body[8..].copy_from_slice(&sequence.to_le_bytes());
        let sealed = wire::seal(KIND_LOG_RECORD, &body);
        self.file
            .write_all_at(&sealed, self.next_slot * SLOT_BYTES)
            .and_then(|()| self.file.sync_data())
            .map_err(|e| io_error(&self.path, &e))?;
        self.next_slot = 1 - self.next_slot;
        Ok(())
    }
}

fn read_slot(file: &File, slot: u64, raft_id: u64) -> Option<u64> {
    let mut bytes = [0; wire::ENVELOPE_LEN + BODY_BYTES];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES).ok()?;
    let (kind, body) = wire::open(&bytes).ok()?;
    let mut r = Reader::new(body);
    let owner = r.u64().ok()?;
    let sequence = r.u64().ok()?;
    (kind == KIND_LOG_RECORD && owner == raft_id).then_some(sequence)
}
