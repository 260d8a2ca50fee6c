//! The lease words of all shards (rule K3) in memory shared with the kernel's guard, or in plain memory where there is
//! none. One writer exists per table, by construction: the flow-group loop's. Readers are cheap to clone, one per worker.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use words::{LeaseWord, LeaseWords, SHARDS_MAX, ShardId};

use crate::sync::word::SharedWord;

const BYTES: usize = SHARDS_MAX as usize * size_of::<SharedWord>();

/// The mapped memory; unmapped with the last end of the table.
#[derive(Debug)]
struct Table {
    first: NonNull<SharedWord>,
}

// SAFETY: the memory is valid until `drop`, from any thread, and consists of atomics only.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    fn words(&self) -> &[SharedWord] {
        // SAFETY: `first` points to SHARDS_MAX words (page-aligned, zero or written as atomics), mapped until `drop`;
        // other processes' access is the kernel's alone, which reads whole u64.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), usize::from(SHARDS_MAX)) }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: mapped with this length in `over_map` or `anonymous`; no reference outlives the last `Arc`.
        let unmapped = unsafe { munmap(self.first.as_ptr().cast(), BYTES) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping");
    }
}

/// The only end that writes. Not `Clone`.
#[derive(Debug)]
pub struct WordsWriter {
    table: Arc<Table>,
}

/// An end that reads.
#[derive(Clone, Debug)]
pub struct WordsReader {
    table: Arc<Table>,
}

/// A table in plain memory, all zero, for nodes without the kernel's guard.
///
/// # Errors
/// When memory is exhausted.
pub fn anonymous() -> io::Result<(WordsWriter, WordsReader)> {
    // SAFETY: a fresh private mapping aliases nothing.
    let first = unsafe { mmap_anonymous(std::ptr::null_mut(), BYTES, PROTECTION, MapFlags::PRIVATE) }?;
    Ok(ends(first.cast()))
}

/// A table over a BPF array map of `SHARDS_MAX` 32-byte values created with BPF_F_MMAPABLE. Zeroed first (K3).
///
/// # Errors
/// When the map is not mmapable or smaller.
pub(crate) fn over_map(map: BorrowedFd<'_>) -> io::Result<(WordsWriter, WordsReader)> {
    // SAFETY: a new mapping of the map's pages; the kernel checks length and permission, and all access is atomic.
    let first = unsafe { mmap(std::ptr::null_mut(), BYTES, PROTECTION, MapFlags::SHARED, map, 0) }?;
    let (mut writer, reader) = ends(first.cast());
    writer.zero_all();
    Ok((writer, reader))
}

const PROTECTION: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

fn ends(first: *mut SharedWord) -> (WordsWriter, WordsReader) {
    let first = NonNull::new(first).expect("a mapping is never at address 0");
    let table = Arc::new(Table { first });
    (WordsWriter { table: table.clone() }, WordsReader { table })
}

impl WordsWriter {
    /// Writes the word of a shard; when it returns, no reader on any core sees the former one.
    ///
    /// # Panics
    /// If `shard` is not below `SHARDS_MAX`: the control state never has that many.
    pub fn set(&mut self, shard: ShardId, word: LeaseWord) {
        self.table.words()[usize::from(shard.0)].set(word);
    }

    /// Takes every lease and grace away: a new incarnation does so before it registers (K3).
    pub fn zero_all(&mut self) {
        for word in self.table.words() {
            word.set(LeaseWord::default());
        }
    }

    /// Another reading end.
    #[must_use]
    pub fn reader(&self) -> WordsReader {
        WordsReader { table: self.table.clone() }
    }
}

impl LeaseWords for WordsReader {
    /// The word of a shard; a zero one, "not held", for one that has none.
    fn word(&self, shard: ShardId) -> LeaseWord {
        self.table.words().get(usize::from(shard.0)).map_or_else(LeaseWord::default, SharedWord::get)
    }
}

#[cfg(test)]
mod tests {
    use super::anonymous;
    use words::{Incarnation, LeaseWord, LeaseWords, SHARDS_MAX, ShardId, Term};

    #[test]
    fn each_shard_has_a_word_of_its_own_and_zeroing_takes_all() {
        let (mut writer, reader) = anonymous().expect("memory");
        let word = |shard: u16| LeaseWord {
            incarnation: Incarnation(1),
            term: Term(u64::from(shard) + 1),
            lease_until_ns: 10 + u64::from(shard),
            grace_until_ns: 20 + u64::from(shard),
        };
        for shard in [0, 1, 7, SHARDS_MAX - 1] {
            writer.set(ShardId(shard), word(shard));
        }
        let other = reader.clone();
        for shard in [0, 1, 7, SHARDS_MAX - 1] {
            assert_eq!(other.word(ShardId(shard)), word(shard));
        }
        assert_eq!(reader.word(ShardId(2)), LeaseWord::default());
        assert_eq!(reader.word(ShardId(SHARDS_MAX)), LeaseWord::default());
        writer.zero_all();
        assert!((0..SHARDS_MAX).all(|shard| reader.word(ShardId(shard)) == LeaseWord::default()));
    }
}
