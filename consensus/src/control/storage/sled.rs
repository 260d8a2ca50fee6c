//! The control store on disk, in sled.
//!
//! Owned by one `ControlGroup`, so there is one writer. What sled 0.34 does not promise is made up for here:
//! - `flush` is no fsync: `sync_data` on a descriptor of our own for sled's log file follows it.
//! - pages above a quarter of a segment go to side files that are never synced: rows are small (`records.rs`) and segments
//!   large enough that no page gets there; should one get there all the same, its file is synced with the log.
//! - a log that cannot be read to its end is cut silently: the guard (`stamp.rs`) notices.
//! - append and delete-behind without flushes deadlock: batches are at most 256 rows, each followed by a flush.
//!
//! Layout of the directory: `cluster-id`, `guard`, `lock`, and sled's own files under `log/`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::records::{Records, Step};
use super::rows::Row;
use super::stamp::{self, Guard, damaged, io_error};
use super::{Beginning, Durability, Identity, LogStore, Recovered, StoreError, Write};

/// Side files begin at a quarter of this; a page of sled holds at most some 20 of our rows of 16 KiB.
const SEGMENT_BYTES: usize = 4 << 20;
/// sled's page cache. The log is read once, at start.
const CACHE_BYTES: u64 = 16 << 20;
/// sled must have a flush thread: without one it never collects segments.
const FLUSH_EVERY_MS: u64 = 500;

/// A `LogStore` in a directory.
#[derive(Debug)]
pub struct SledStore {
    dir: PathBuf,
    identity: Option<Identity>,
    records: Option<Records>,
    guard: Option<Guard>,
    broken: bool,
    db: sled::Db,
    /// Our own descriptor of sled's log file.
    log_file: File,
    /// Held as long as the store is open.
    _lock: File,
}

impl SledStore {
    /// Opens or creates the store in `dir`.
    ///
    /// # Errors
    /// `Locked` if another process has it, or an earlier store of this one, whose file sled's threads keep for a moment after
    /// it was dropped: try again. Others if its stamp is damaged, or sled cannot open it.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|e| io_error(dir, &e))?;
        let lock = stamp::lock(dir)?;
        let identity = stamp::read(dir)?;
        let path = dir.join("log");
        if identity.is_some() && !path.join("db").exists() {
            return Err(damaged(&path, "the stamp is there, but the log is gone"));
        }
        // sled reports a lock as it does whatever else goes wrong.
        stamp::must_be_free(&path.join("db"))?;
        let db = sled::Config::new()
            .path(&path)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .open()
            .map_err(|e| sled_error(&path, &e))?;
        let file = path.join("db");
        let log_file = File::open(&file).map_err(|e| io_error(&file, &e))?;
        // The names of sled's files must outlive a power loss before anything in them is relied on.
        stamp::sync_directory(&path)?;
        stamp::sync_directory(dir)?;
        Ok(Self { dir: dir.to_owned(), identity, records: None, guard: None, broken: false, db, log_file, _lock: lock })
    }

    fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Removes what an interrupted founding or joining may have left.
    fn clear(&self) -> Result<(), StoreError> {
        loop {
            let keys: Result<Vec<_>, _> = self.db.iter().keys().take(super::records::MAX_BATCH_ROWS).collect();
            let keys = keys.map_err(|e| sled_error(&self.log_dir(), &e))?;
            if keys.is_empty() {
                return Ok(());
            }
            self.batch(keys.into_iter().map(|k| (k.to_vec(), None)).collect())?;
        }
    }

    fn batch(&self, rows: Vec<Row>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, value) in rows {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        let place = self.log_dir();
        self.db.apply_batch(batch).map_err(|e| sled_error(&place, &e))?;
        self.db.flush().map_err(|e| sled_error(&place, &e))?;
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let place = self.log_dir();
        let blobs = place.join("blobs");
        let sync_blobs = || -> std::io::Result<()> {
            let mut any = false;
            for blob in fs::read_dir(&blobs)? {
                File::open(blob?.path())?.sync_all()?;
                any = true;
            }
            if any { File::open(&blobs)?.sync_all() } else { Ok(()) }
        };
        sync_blobs().map_err(|e| io_error(&blobs, &e))?;
        self.log_file.sync_data().map_err(|e| io_error(&place.join("db"), &e))
    }

    fn perform(&mut self, steps: Vec<Step>, durability: Durability) -> Result<(), StoreError> {
        for step in steps {
            match step {
                Step::Batch(rows) => self.batch(rows)?,
                Step::Barrier => self.sync()?,
            }
        }
        if durability == Durability::Synced {
            self.sync()?;
            let meta = self.records.as_ref().expect("steps are planned by records").meta();
            let (raft_id, sequence) = (meta.identity().raft_id, meta.sequence);
            self.guard.as_mut().expect("opened with the records").set(raft_id, sequence)?;
        }
        Ok(())
    }
}

impl LogStore for SledStore {
    fn identity(&self) -> Option<Identity> {
        self.identity
    }

    fn begin(&mut self, identity: Identity, beginning: Beginning<'_>) -> Result<(), StoreError> {
        if let Some(identity) = self.identity {
            return Err(StoreError::AlreadyStamped { place: self.dir.display().to_string(), identity });
        }
        self.clear()?;
        let mut records = Records::empty(identity);
        let steps = records.begin(beginning);
        self.records = Some(records);
        self.guard = Some(Guard::open(&self.dir, identity.raft_id)?.0);
        self.perform(steps, Durability::Synced)?;
        stamp::write(&self.dir, identity)?;
        self.identity = Some(identity);
        Ok(())
    }

    fn recover(&mut self) -> Result<Recovered, StoreError> {
        let place = self.log_dir();
        let Some(identity) = self.identity else {
            return Err(StoreError::NotStamped { place: self.dir.display().to_string() });
        };
        let rows: Result<Vec<_>, _> = self.db.iter().map(|row| row.map(|(k, v)| (k.to_vec(), v.to_vec()))).collect();
        let rows = rows.map_err(|e| sled_error(&place, &e))?;
        let (records, recovered, leftovers) = Records::recover(rows).map_err(|what| damaged(&place, what))?;
        if records.meta().identity() != identity {
            return Err(damaged(&place, "the log belongs to another raft id or cluster than the stamp says"));
        }
        let (guard, acknowledged) = Guard::open(&self.dir, identity.raft_id)?;
        let Some(acknowledged) = acknowledged else {
            return Err(damaged(&self.dir.join("guard"), "unreadable"));
        };
        if records.meta().sequence < acknowledged {
            let what = format!("ends at write {}, but write {acknowledged} was acknowledged", records.meta().sequence);
            return Err(damaged(&place, what));
        }
        self.records = Some(records);
        self.guard = Some(guard);
        for rows in leftovers.chunks(super::records::MAX_BATCH_ROWS) {
            self.batch(rows.to_vec())?;
        }
        self.sync()?;
        Ok(recovered)
    }

    fn write(&mut self, write: &Write<'_>, durability: Durability) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Broken);
        }
        let Some(records) = self.records.as_mut() else {
            return Err(StoreError::NotStamped { place: self.dir.display().to_string() });
        };
        let steps = records.plan(write);
        let result = self.perform(steps, durability);
        self.broken = result.is_err();
        result
    }
}

fn sled_error(place: &Path, error: &sled::Error) -> StoreError {
    match error {
        sled::Error::Corruption { .. } => damaged(place, error.to_string()),
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Io(_) => StoreError::Io { place: place.display().to_string(), reason: error.to_string() },
    }
}

#[cfg(test)]
#[path = "sled_tests.rs"]
mod tests;
