//! A control store in memory with the faults of a real disk, for simulations and tests.
//!
//! It plans and recovers with the same records as the sled store. Writes reach an unsynced tail first; a barrier makes the
//! tail durable. `power_loss` decides how much of the tail survives, down to part of a batch. Deterministic: every choice
//! is the caller's.

use std::collections::BTreeMap;

use super::records::{Records, Step};
use super::rows::Row;
use super::{Beginning, Durability, Identity, LogStore, Recovered, StoreError, Write};

const PLACE: &str = "memory";

/// What the next write runs into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The data is handed to the system, but the first fsync fails.
    SyncFails,
    /// Nothing can be read: opening the store fails, and what is on it stays.
    ReadFails,
    /// The write ends after this many of its steps (batches and fsyncs): the process dies there.
    StopsAfter {
        /// Steps that are still performed.
        steps: usize,
    },
}

/// How much of the unsynced tail a power loss leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PowerLoss {
    /// Whole batches that had reached the disk by chance.
    pub batches: usize,
    /// Rows of the batch after them that had, the last one of them torn.
    pub torn_rows: usize,
}

/// A `LogStore` in memory. A clone is a copy of the disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    identity: Option<Identity>,
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    unsynced: Vec<Vec<Row>>,
    records: Option<Records>,
    fault: Option<Fault>,
    broken: bool,
    syncs: u64,
}

impl MemoryStore {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the next write run into `fault`.
    pub const fn inject(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// Takes back a fault that no write ran into yet.
    pub const fn repair(&mut self) {
        self.fault = None;
    }

    /// The process ends; the system still writes everything that it was handed.
    pub fn process_ends(&mut self) {
        for rows in std::mem::take(&mut self.unsynced) {
            put(&mut self.durable, rows);
        }
        self.reopen();
    }

    /// Power is lost: what was not synced is gone, except for what `loss` says.
    pub fn power_loss(&mut self, loss: PowerLoss) {
        for (at, mut rows) in std::mem::take(&mut self.unsynced).into_iter().enumerate() {
            if at == loss.batches {
                rows.truncate(loss.torn_rows.min(rows.len().saturating_sub(1)));
                if let Some((_, Some(value))) = rows.last_mut() {
                    value.truncate(value.len() / 2);
                }
            }
            if at <= loss.batches {
                put(&mut self.durable, rows);
            }
        }
        self.reopen();
    }

    /// Flips one bit of one durable row, counted in key order.
    ///
    /// # Panics
    /// If there is no such row or bit.
    pub fn flip_bit(&mut self, row: usize, bit: usize) {
        let value = self.durable.values_mut().nth(row).expect("a row of the disk");
        value[bit / 8] ^= 1 << (bit % 8);
    }

    /// Bytes of each durable row, in key order.
    #[must_use]
    pub fn row_lengths(&self) -> Vec<usize> {
        self.durable.values().map(Vec::len).collect()
    }

    /// Batches that a power loss could take.
    #[must_use]
    pub fn unsynced_batches(&self) -> usize {
        self.unsynced.len()
    }

    /// How many fsyncs succeeded.
    #[must_use]
    pub const fn syncs(&self) -> u64 {
        self.syncs
    }

    fn reopen(&mut self) {
        self.records = None;
        self.fault = None;
        self.broken = false;
    }

    fn sync(&mut self, fault: Option<Fault>) -> Result<(), StoreError> {
        if fault == Some(Fault::SyncFails) {
            return Err(injected("injected: fsync failed"));
        }
        for rows in std::mem::take(&mut self.unsynced) {
            put(&mut self.durable, rows);
        }
        self.syncs += 1;
        Ok(())
    }

    fn perform(&mut self, steps: Vec<Step>, durability: Durability) -> Result<(), StoreError> {
        // A failing fsync waits for a write that has one.
        let fault = match self.fault {
            Some(Fault::SyncFails) if durability == Durability::Buffered => None,
            Some(Fault::SyncFails | Fault::StopsAfter { .. } | Fault::ReadFails) | None => self.fault.take(),
        };
        for (at, step) in steps.into_iter().enumerate() {
            if matches!(fault, Some(Fault::StopsAfter { steps }) if at >= steps) {
                return Err(injected("injected: the write was interrupted"));
            }
            match step {
                Step::Batch(rows) => self.unsynced.push(rows),
                Step::Barrier => self.sync(fault)?,
            }
        }
        if matches!(fault, Some(Fault::StopsAfter { .. })) {
            return Err(injected("injected: the write was interrupted"));
        }
        match durability {
            Durability::Synced => self.sync(fault),
            Durability::Buffered => Ok(()),
        }
    }
}

impl LogStore for MemoryStore {
    fn identity(&self) -> Option<Identity> {
        self.identity
    }

    fn begin(&mut self, identity: Identity, beginning: Beginning<'_>) -> Result<(), StoreError> {
        if let Some(identity) = self.identity {
            return Err(StoreError::AlreadyStamped { place: PLACE.into(), identity });
        }
        self.durable.clear();
        self.unsynced.clear();
        let mut records = Records::empty(identity);
        let steps = records.begin(beginning);
        self.records = Some(records);
        self.perform(steps, Durability::Synced)?;
        self.identity = Some(identity);
        Ok(())
    }

    fn recover(&mut self) -> Result<Recovered, StoreError> {
        let Some(identity) = self.identity else {
            return Err(StoreError::NotStamped { place: PLACE.into() });
        };
        if self.fault == Some(Fault::ReadFails) {
            return Err(injected("injected: the read failed"));
        }
        let mut rows = self.durable.clone();
        for batch in &self.unsynced {
            put(&mut rows, batch.clone());
        }
        let damaged = |what| StoreError::Damaged { place: PLACE.into(), what };
        let (records, recovered, leftovers) = Records::recover(rows).map_err(damaged)?;
        if records.meta().identity() != identity {
            return Err(damaged("the log belongs to another raft id or cluster than the stamp says".into()));
        }
        self.records = Some(records);
        self.unsynced.extend(leftovers.chunks(super::records::MAX_BATCH_ROWS).map(<[Row]>::to_vec));
        self.sync(None)?;
        Ok(recovered)
    }

    fn write(&mut self, write: &Write<'_>, durability: Durability) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Broken);
        }
        let Some(records) = self.records.as_mut() else {
            return Err(StoreError::NotStamped { place: PLACE.into() });
        };
        let steps = records.plan(write);
        let result = self.perform(steps, durability);
        self.broken = result.is_err();
        result
    }
}

fn put(rows: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: Vec<Row>) {
    for (key, value) in batch {
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
}

fn injected(reason: &str) -> StoreError {
    StoreError::Io { place: PLACE.into(), reason: reason.into() }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
