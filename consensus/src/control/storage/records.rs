//! The rows of a control store, and the order in which they are written.
//!
//! Shared by the sled store and the in-memory one, so that a simulator exercises the very records that lie on disks. Every
//! row is an envelope with a checksum over its key and its payload. Entries and snapshots are cut into chunks, since sled
//! puts large pages into side files that it never syncs (see `sled.rs`).
//!
//! The metadata row decides what counts: entry rows outside its range and snapshot rows of another generation are remains
//! of interrupted writes and are removed; inside its range everything must be there and intact, or recovery refuses.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState};

use super::rows::{
    Key, META_KEY, Meta, Row, SnapshotMeta, decode_meta, entry_key, meta_row, parse_key, payload, record, snapshot_key,
};
use super::{Beginning, Identity, LogCut, LogPosition, Recovered, SnapshotWrite, StoredSnapshot, Write};
use crate::wire::{self, Reader};

/// Most rows in one batch: larger ones have deadlocked sled.
pub(super) const MAX_BATCH_ROWS: usize = 256;
/// Most payload bytes in one row.
pub(super) const CHUNK_BYTES: usize = 16 << 10;

/// A step of a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Apply atomically; at most `MAX_BATCH_ROWS`.
    Batch(Vec<Row>),
    /// All earlier steps must be durable before any later one.
    Barrier,
}

/// Knows what is stored and plans each change of it.
#[derive(Clone, Debug)]
pub(super) struct Records {
    meta: Meta,
    /// How many rows each stored entry has, from `truncated.0 + 1` to `last_index`.
    chunks: VecDeque<u16>,
}

impl Records {
    /// The records of a store that holds nothing but its identity.
    pub(super) fn empty(identity: Identity) -> Self {
        let meta = Meta {
            identity,
            sequence: 0,
            hard_state: HardState::default(),
            conf_state: ConfState::default(),
            applied: 0,
            truncated: (0, 0),
            last_index: 0,
            snapshot: None,
        };
        Self { meta, chunks: VecDeque::new() }
    }

    /// The metadata as of the last planned write.
    pub(super) const fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The steps of the first write of all.
    pub(super) fn begin(&mut self, beginning: Beginning<'_>) -> Vec<Step> {
        match beginning {
            Beginning::Founded { conf_state, at: LogPosition { term, index }, genesis } => {
                let mut hard_state = HardState::default();
                (hard_state.term, hard_state.commit) = (term, index);
                let snapshot = StoredSnapshot { index, term, conf_state: conf_state.clone(), state: genesis.clone() };
                let snapshot = Some(SnapshotWrite { snapshot, log: LogCut::All });
                let hard_state = &hard_state;
                self.plan(&Write { snapshot, entries: &[], hard_state, conf_state: &conf_state, applied: index })
            }
            Beginning::Joined => {
                self.meta.sequence += 1;
                vec![Step::Batch(vec![meta_row(&self.meta)])]
            }
        }
    }

    /// The steps that perform `write`, in order. The last batch with a metadata row makes the write count.
    ///
    /// # Panics
    /// If the entries leave a gap to the stored ones: raft never does that.
    pub(super) fn plan(&mut self, write: &Write<'_>) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some(snapshot) = &write.snapshot {
            self.plan_snapshot(snapshot, write, &mut steps);
        }
        let mut rows = Vec::new();
        if let Some(first) = write.entries.first() {
            self.plan_replaced_tail(first.index, &mut steps);
            for entry in write.entries {
                assert_eq!(entry.index, self.meta.last_index + 1, "entries follow the stored log");
                self.put_entry(entry, &mut rows);
            }
        }
        self.meta.hard_state = write.hard_state.clone();
        self.meta.conf_state = write.conf_state.clone();
        self.meta.applied = write.applied;
        self.meta.sequence += 1;
        let room = MAX_BATCH_ROWS - 1;
        while rows.len() > room {
            let rest = rows.split_off(room);
            steps.push(Step::Batch(std::mem::replace(&mut rows, rest)));
            if rows.len() <= room {
                steps.push(Step::Barrier);
            }
        }
        rows.push(meta_row(&self.meta));
        steps.push(Step::Batch(rows));
        steps
    }

    /// Takes everything apart that `rows` hold. `leftovers` are keys that an interrupted write left behind.
    ///
    /// # Errors
    /// In words, what is damaged.
    pub(super) fn recover<I>(rows: I) -> Result<(Self, Recovered, Vec<Row>), String>
    where
        I: IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    {
        let mut meta = None;
        let mut others = Vec::new();
        for (key, value) in rows {
            if key == META_KEY {
                meta = Some(decode_meta(&payload(&key, &value.into())?).map_err(|e| format!("metadata record: {e}"))?);
            } else {
                others.push((key, Bytes::from(value)));
            }
        }
        let meta = meta.ok_or("the metadata record is missing")?;
        let mut recovery = Recovery {
            meta,
            entries: Vec::new(),
            chunks: VecDeque::new(),
            state: Vec::new(),
            next: None,
            leftovers: Vec::new(),
        };
        for (key, value) in others {
            recovery.row(key, &value)?;
        }
        recovery.finish()
    }

    /// New snapshot rows, then the metadata that names them, then removal of what they replace.
    fn plan_snapshot(&mut self, write: &SnapshotWrite, whole: &Write<'_>, steps: &mut Vec<Step>) {
        let SnapshotWrite { snapshot, log } = write;
        let old = self.meta.snapshot.take();
        let generation = old.as_ref().map_or(1, |s| s.generation + 1);
        let mut puts: Vec<Row> = Vec::new();
        for (at, chunk) in snapshot.state.chunks(CHUNK_BYTES).enumerate() {
            let key = snapshot_key(generation, u32::try_from(at).expect("states are far below 2^32 chunks"));
            puts.push((key.clone(), Some(record(&key, chunk))));
        }
        self.meta.snapshot = Some(SnapshotMeta {
            index: snapshot.index,
            term: snapshot.term,
            conf_state: snapshot.conf_state.clone(),
            generation,
            chunks: u32::try_from(puts.len()).expect("states are far below 2^32 chunks"),
            bytes: u64::try_from(snapshot.state.len()).expect("usize fits"),
            crc: crc32fast::hash(&snapshot.state),
        });
        push_batches(puts, steps);
        steps.push(Step::Barrier);
        let mut deletes: Vec<Row> = Vec::new();
        match *log {
            LogCut::All => {
                self.delete_entries(self.meta.last_index, &mut deletes);
                self.meta.truncated = (snapshot.index, snapshot.term);
                self.meta.last_index = snapshot.index;
                // The commit index of this metadata must lie within the log that is left; later entries follow in a
                // batch of their own.
                self.meta.hard_state = whole.hard_state.clone();
                self.meta.hard_state.commit = snapshot.index;
                self.meta.conf_state = snapshot.conf_state.clone();
                self.meta.applied = snapshot.index;
            }
            LogCut::UpTo { index, term } => {
                assert!(
                    index <= snapshot.index && index <= self.meta.last_index,
                    "compaction stays below its snapshot"
                );
                assert!(whole.entries.is_empty(), "a compaction appends nothing");
                self.meta.hard_state = whole.hard_state.clone();
                self.meta.conf_state = whole.conf_state.clone();
                self.meta.applied = whole.applied;
                if index > self.meta.truncated.0 {
                    self.delete_entries(index, &mut deletes);
                    self.meta.truncated = (index, term);
                }
            }
        }
        if let Some(old) = old {
            deletes.extend((0..old.chunks).map(|chunk| (snapshot_key(old.generation, chunk), None)));
        }
        self.meta.sequence += 1;
        steps.push(Step::Batch(vec![meta_row(&self.meta)]));
        steps.push(Step::Barrier);
        push_batches(deletes, steps);
    }

    /// Removes the stored entries from `first` on, durably, before others take their place: a crash in between must not
    /// leave a log of two leaders. Entries that a newer leader replaces were never committed, so nothing is lost.
    fn plan_replaced_tail(&mut self, first: u64, steps: &mut Vec<Step>) {
        if first > self.meta.last_index {
            return;
        }
        assert!(first > self.meta.truncated.0, "what is compacted is committed and never replaced");
        let mut deletes = Vec::new();
        let last = self.meta.last_index;
        for index in first..=last {
            let chunks = self.chunks[self.position(index)];
            deletes.extend((0..chunks).map(|chunk| (entry_key(index, chunk), None)));
        }
        self.chunks.truncate(self.position(first));
        self.meta.last_index = first - 1;
        self.meta.sequence += 1;
        steps.push(Step::Batch(vec![meta_row(&self.meta)]));
        push_batches(deletes, steps);
        steps.push(Step::Barrier);
    }

    /// Rows that delete all entries up to `until`.
    fn delete_entries(&mut self, until: u64, deletes: &mut Vec<Row>) {
        for index in self.meta.truncated.0 + 1..=until {
            let chunks = self.chunks.pop_front().expect("one count for each stored entry");
            deletes.extend((0..chunks).map(|chunk| (entry_key(index, chunk), None)));
        }
    }

    fn put_entry(&mut self, entry: &Entry, rows: &mut Vec<Row>) {
        let mut bytes = Vec::new();
        wire::encode_entry(entry, &mut bytes);
        let count = u16::try_from(bytes.len().div_ceil(CHUNK_BYTES)).expect("entries are at most a message long");
        for (chunk, part) in (0..count).zip(bytes.chunks(CHUNK_BYTES)) {
            let key = entry_key(entry.index, chunk);
            let mut body = Vec::with_capacity(2 + part.len());
            body.extend_from_slice(&count.to_le_bytes());
            body.extend_from_slice(part);
            rows.push((key.clone(), Some(record(&key, &body))));
        }
        self.meta.last_index = entry.index;
        self.chunks.push_back(count);
    }

    fn position(&self, index: u64) -> usize {
        usize::try_from(index - self.meta.truncated.0 - 1).expect("the log fits into memory")
    }
}

/// An entry whose chunks are being collected.
struct Partial {
    index: u64,
    count: u16,
    seen: u16,
    bytes: Vec<u8>,
}

/// State of a recovery; rows come in key order, so entries by index and chunk, then snapshot chunks.
struct Recovery {
    meta: Meta,
    entries: Vec<Entry>,
    chunks: VecDeque<u16>,
    state: Vec<u8>,
    next: Option<Partial>,
    leftovers: Vec<Row>,
}

impl Recovery {
    fn row(&mut self, key: Vec<u8>, value: &Bytes) -> Result<(), String> {
        match parse_key(&key) {
            Some(Key::Entry { index, .. }) if index <= self.meta.truncated.0 || index > self.meta.last_index => {
                self.leftovers.push((key, None));
                Ok(())
            }
            Some(Key::Entry { index, chunk }) => self.entry_row(index, chunk, &payload(&key, value)?),
            Some(Key::Snapshot { generation, chunk }) => match &self.meta.snapshot {
                Some(s) if s.generation == generation => {
                    let expected = u64::from(chunk) * u64::try_from(CHUNK_BYTES).expect("usize fits");
                    if chunk >= s.chunks || u64::try_from(self.state.len()) != Ok(expected) {
                        return Err(format!("snapshot chunk {chunk} is out of place"));
                    }
                    self.state.extend_from_slice(&payload(&key, value)?);
                    Ok(())
                }
                Some(_) | None => {
                    self.leftovers.push((key, None));
                    Ok(())
                }
            },
            None => Err(format!("a record with the unknown key {key:02x?}")),
        }
    }

    fn entry_row(&mut self, index: u64, chunk: u16, body: &Bytes) -> Result<(), String> {
        let mut r = Reader::new(body);
        let count = r.array().map(u16::from_le_bytes).map_err(|e| format!("entry {index}: {e}"))?;
        let part = r.rest();
        let mut partial = self.next.take().unwrap_or(Partial { index, count, seen: 0, bytes: Vec::new() });
        if partial.index != index || partial.count != count || partial.seen != chunk {
            return Err(format!("entry {}: part {} is missing", partial.index, partial.seen));
        }
        partial.bytes.extend_from_slice(part);
        partial.seen += 1;
        if partial.seen < partial.count {
            self.next = Some(partial);
            return Ok(());
        }
        let entry = wire::decode_entry(&Bytes::from(partial.bytes)).map_err(|e| format!("entry {index}: {e}"))?;
        let (previous, term) = self.entries.last().map_or(self.meta.truncated, |e| (e.index, e.term));
        if entry.index != index || index != previous + 1 {
            return Err(format!("entry {index} follows entry {previous}"));
        }
        if entry.term < term || entry.term > self.meta.hard_state.term {
            return Err(format!("entry {index} has term {}, which cannot follow term {term}", entry.term));
        }
        self.entries.push(entry);
        self.chunks.push_back(count);
        Ok(())
    }

    fn finish(self) -> Result<(Records, Recovered, Vec<Row>), String> {
        let Self { meta, entries, chunks, state, next, leftovers } = self;
        let last = entries.last().map_or(meta.truncated.0, |e| e.index);
        if next.is_some() || last != meta.last_index {
            return Err(format!("the log ends at entry {last}, but {} were written", meta.last_index));
        }
        let snapshot = match &meta.snapshot {
            None => None,
            Some(s) => {
                if u64::try_from(state.len()) != Ok(s.bytes) || crc32fast::hash(&state) != s.crc {
                    return Err(format!("the snapshot of index {} is incomplete", s.index));
                }
                let state = Bytes::from(state);
                Some(StoredSnapshot { index: s.index, term: s.term, conf_state: s.conf_state.clone(), state })
            }
        };
        check(&meta)?;
        let recovered = Recovered {
            hard_state: meta.hard_state.clone(),
            conf_state: meta.conf_state.clone(),
            applied: meta.applied,
            snapshot,
            truncated: meta.truncated,
            entries,
        };
        Ok((Records { meta, chunks }, recovered, leftovers))
    }
}

/// What raft takes for granted at a restart; it aborts the process otherwise.
fn check(meta: &Meta) -> Result<(), String> {
    let ordered = match &meta.snapshot {
        // A joiner that has not heard of the group may have voted, but knows nothing.
        None => meta.hard_state.commit == 0 && meta.applied == 0 && meta.truncated == (0, 0) && meta.last_index == 0,
        Some(s) => {
            meta.truncated.0 <= s.index
                && s.index <= meta.applied
                && meta.applied <= meta.hard_state.commit
                && meta.hard_state.commit <= meta.last_index
                && s.term <= meta.hard_state.term
        }
    };
    if ordered { Ok(()) } else { Err("the indices of the metadata record contradict each other".into()) }
}

fn push_batches(rows: Vec<Row>, steps: &mut Vec<Step>) {
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        steps.push(Step::Batch(rows.by_ref().take(MAX_BATCH_ROWS).collect()));
    }
}
