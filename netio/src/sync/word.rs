//! The lease word of one shard (rules K3, L2, L5): one writer, any number of readers, and the kernel's programs. Hot path.
//!
//! Four 64-bit atomics without a lock or a sequence number, since a BPF program has to read them too. Whoever changes
//! {incarnation, term} first takes both times away, then changes the names, then gives the new times; so every single value
//! read is safe by itself, and a reader that sees the same times before and after the names knows that they belong together.
//! Precondition, kept by the lease rules: under a new (incarnation, term) a time is later than any under an older one (it
//! counts from a later send time), so equal times mean that nothing happened in between. Never in here: waiting.

use words::{Incarnation, LeaseWord, Term};

use super::primitives::{AtomicU64, Ordering, fence};

/// One shard's word in memory that a BPF array map shares: four native-endian u64, in this order (`bpf/guard.c`).
#[derive(Debug)]
#[repr(C)]
pub struct SharedWord {
    incarnation: AtomicU64,
    term: AtomicU64,
    lease_until_ns: AtomicU64,
    grace_until_ns: AtomicU64,
}

impl Default for SharedWord {
    fn default() -> Self {
        Self::new()
    }
}

/// How often a reader tries again when the word changes under it. A writer changes a word a few times per second; two
/// failures in a row already mean that the reader was stopped in between. Giving up answers "not held", the safe side.
const READ_TRIES: u32 = 4;

impl SharedWord {
    /// A word that nobody holds.
    #[must_use]
    pub fn new() -> Self {
        Self {
            incarnation: AtomicU64::new(0),
            term: AtomicU64::new(0),
            lease_until_ns: AtomicU64::new(0),
            grace_until_ns: AtomicU64::new(0),
        }
    }

    /// Sets the word. Only one thread may ever do so (`LeaseWords` hands out one writer).
    pub fn set(&self, word: LeaseWord) {
        let renewal = self.incarnation.load(Ordering::Relaxed) == word.incarnation.0
            && self.term.load(Ordering::Relaxed) == word.term.0;
        if !renewal {
            self.lease_until_ns.store(0, Ordering::Relaxed);
            self.grace_until_ns.store(0, Ordering::Relaxed);
            // Release: who sees a new name sees the zeroes, or something newer.
            self.incarnation.store(word.incarnation.0, Ordering::Release);
            self.term.store(word.term.0, Ordering::Release);
        }
        if word.lease_until_ns == 0 {
            // Giving up comes first and alone (L2): whoever sees the grace change sees the lease gone.
            self.lease_until_ns.store(0, Ordering::Release);
            self.grace_until_ns.store(word.grace_until_ns, Ordering::Release);
        } else {
            // Release: who sees a new time sees the names that it belongs to.
            self.grace_until_ns.store(word.grace_until_ns, Ordering::Release);
            self.lease_until_ns.store(word.lease_until_ns, Ordering::Release);
        }
        // A store alone may still sit in this core's buffer when a message leaves that relies on it (L2).
        fence(Ordering::SeqCst);
    }

    /// What the word says now: names and times that belong together. `LeaseWord::default()` if nothing is held.
    #[must_use]
    pub fn get(&self) -> LeaseWord {
        for _ in 0..READ_TRIES {
            let lease_until_ns = self.lease_until_ns.load(Ordering::Acquire);
            let grace_until_ns = self.grace_until_ns.load(Ordering::Acquire);
            if lease_until_ns == 0 && grace_until_ns == 0 {
                return LeaseWord::default();
            }
            // Acquire on the names: the second look at the times comes after them.
            let incarnation = Incarnation(self.incarnation.load(Ordering::Acquire));
            let term = Term(self.term.load(Ordering::Acquire));
            let same = self.lease_until_ns.load(Ordering::Relaxed) == lease_until_ns
                && self.grace_until_ns.load(Ordering::Relaxed) == grace_until_ns;
            if same {
                return LeaseWord { incarnation, term, lease_until_ns, grace_until_ns };
            }
        }
        LeaseWord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Incarnation, LeaseWord, SharedWord, Term};

    const HELD: LeaseWord =
        LeaseWord { incarnation: Incarnation(3), term: Term(5), lease_until_ns: 100, grace_until_ns: 300 };

    #[test]
    fn a_word_reads_back_as_it_was_set() {
        let word = SharedWord::new();
        assert_eq!(word.get(), LeaseWord::default());
        word.set(HELD);
        assert_eq!(word.get(), HELD);
    }

    #[test]
    fn giving_up_the_lease_keeps_the_grace() {
        let word = SharedWord::new();
        word.set(HELD);
        word.set(HELD.without_lease());
        assert_eq!(word.get(), HELD.without_lease());
    }

    #[test]
    fn a_word_has_the_layout_of_the_bpf_program() {
        assert_eq!(size_of::<SharedWord>(), 32);
        assert_eq!(std::mem::offset_of!(SharedWord, incarnation), 0);
        assert_eq!(std::mem::offset_of!(SharedWord, term), 8);
        assert_eq!(std::mem::offset_of!(SharedWord, lease_until_ns), 16);
        assert_eq!(std::mem::offset_of!(SharedWord, grace_until_ns), 24);
    }
}
