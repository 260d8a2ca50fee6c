//! A bounded ring from one producer to one consumer. Hot path.
//!
//! Both ends remember the other end's index and look at it again only when their copy says "full" or "empty", so a batch
//! costs one shared load and one shared store. Either end may close: the producer's items stay poppable, the consumer's
//! absence turns pushes into errors. Never allocates after `ring`, never blocks; waking the other side is `doorbell`'s.
//! Called by workers (one end) and by the actors' threads (the other).

use std::mem::MaybeUninit;

use super::primitives::{Arc, AtomicBool, AtomicUsize, Ordering, UnsafeCell};

/// Keeps the two ends' indices on lines of their own; 128 because adjacent lines are prefetched in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Padded<T>(T);

/// What both ends share. Indices grow for ever (wrapping); a slot is `index & mask`.
struct Shared<T> {
    /// Next index to be popped; written by the consumer only.
    head: Padded<AtomicUsize>,
    /// Next index to be pushed; written by the producer only.
    tail: Padded<AtomicUsize>,
    /// One of the ends is gone.
    closed: AtomicBool,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    mask: usize,
}

// SAFETY: a slot is touched by the producer only while its index is in [head + capacity, tail], by the consumer only while
// it is in [head, tail); the indices are published with release and read with acquire, so accesses never overlap (loom
// model `spsc`). Values move from one thread to the other, hence `T: Send`.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above; no `&T` is ever shared between the threads.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("capacity", &(self.mask + 1)).finish_non_exhaustive()
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Both ends are gone, and dropping their `Arc`s ordered everything they did before this.
        let tail = self.tail.0.load(Ordering::Relaxed);
        let mut head = self.head.0.load(Ordering::Relaxed);
        while head != tail {
            self.slots[head & self.mask].with_mut(|slot| {
                // SAFETY: indices in [head, tail) hold initialised values that nobody has popped, and `&mut self` is exclusive.
                unsafe { (*slot).assume_init_drop() }
            });
            head = head.wrapping_add(1);
        }
    }
}

/// Why an item was not taken; it is handed back.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum PushError<T> {
    /// The ring holds as many items as it may. The caller counts it and drops, or keeps the item.
    Full(T),
    /// The consumer is gone.
    Closed(T),
}

/// The end that pushes. Not `Clone`: there is one.
#[derive(Debug)]
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    /// What `head` was when we last looked; the true one is never behind it.
    head_seen: usize,
}

/// The end that pops. Not `Clone`: there is one.
#[derive(Debug)]
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    /// What `tail` was when we last looked; the true one is never behind it.
    tail_seen: usize,
}

/// A ring for `capacity` items, rounded up to a power of two, at least 1.
///
/// # Panics
/// If `capacity` exceeds 2^30: a limit from the configuration is never that large.
#[must_use]
pub fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity <= 1 << 30, "ring capacity out of range");
    let capacity = capacity.max(1).next_power_of_two();
    let slots = (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let shared = Arc::new(Shared {
        head: Padded(AtomicUsize::new(0)),
        tail: Padded(AtomicUsize::new(0)),
        closed: AtomicBool::new(false),
        slots,
        mask: capacity - 1,
    });
    (Producer { shared: shared.clone(), tail: 0, head_seen: 0 }, Consumer { shared, head: 0, tail_seen: 0 })
}

impl<T> Producer<T> {
    /// How many items fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.mask + 1
    }

    /// How many items may be pushed now without fail (more, if the consumer pops meanwhile).
    pub fn room(&mut self) -> usize {
        self.head_seen = self.shared.head.0.load(Ordering::Acquire);
        self.capacity() - self.tail.wrapping_sub(self.head_seen)
    }

    /// Whether the consumer is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Pushes one item and publishes it.
    ///
    /// # Errors
    /// `Full` or `Closed`, with the item.
    pub fn push(&mut self, item: T) -> Result<(), PushError<T>> {
        if self.is_closed() {
            return Err(PushError::Closed(item));
        }
        if !self.has_room() {
            return Err(PushError::Full(item));
        }
        self.write(item);
        self.publish();
        Ok(())
    }

    /// Pushes from `items` until they end or the ring is full, publishes once, and says how many went in. An item that
    /// does not fit is not taken from the iterator.
    pub fn push_batch(&mut self, items: &mut impl Iterator<Item = T>) -> usize {
        if self.is_closed() {
            return 0;
        }
        let first = self.tail;
        while self.has_room() {
            let Some(item) = items.next() else { break };
            self.write(item);
        }
        let pushed = self.tail.wrapping_sub(first);
        if pushed > 0 {
            self.publish();
        }
        pushed
    }

    fn has_room(&mut self) -> bool {
        // Acquire in `room` orders the consumer's read of the slot before our next write to it.
        self.tail.wrapping_sub(self.head_seen) <= self.shared.mask || self.room() > 0
    }

    fn write(&mut self, item: T) {
        self.shared.slots[self.tail & self.shared.mask].with_mut(|slot| {
            // SAFETY: `has_room` saw tail - head < capacity, so the consumer is past this slot's former value and cannot
            // reach the new one before `publish`.
            unsafe { (*slot).write(item) };
        });
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // Release: whoever sees the new tail sees the slots below it.
        self.shared.tail.0.store(self.tail, Ordering::Release);
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // Release: a consumer that sees the close also sees the last tail. (A batch whose iterator panicked is published
        // too: its items are complete.)
        self.publish();
        self.shared.closed.store(true, Ordering::Release);
    }
}

impl<T> Consumer<T> {
    /// How many items wait now (more, if the producer pushes meanwhile).
    pub fn waiting(&mut self) -> usize {
        self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
        self.tail_seen.wrapping_sub(self.head)
    }

    /// Whether nothing waits. The re-check of `doorbell`'s protocol.
    pub fn is_empty(&mut self) -> bool {
        self.waiting() == 0
    }

    /// Whether the producer is gone **and** nothing is left to pop.
    pub fn is_finished(&mut self) -> bool {
        // The order matters: a close seen first means that the tail seen afterwards is the last one.
        self.shared.closed.load(Ordering::Acquire) && self.is_empty()
    }

    /// Pops one item.
    pub fn pop(&mut self) -> Option<T> {
        let mut popped = None;
        self.pop_batch(1, |item| popped = Some(item));
        popped
    }

    /// Pops up to `max` items in order, gives each to `f`, frees their slots at once at the end, says how many.
    pub fn pop_batch(&mut self, max: usize, mut f: impl FnMut(T)) -> usize {
        /// Frees the slots of the popped items also if `f` panics, so that none is dropped twice.
        struct Free<'a, T>(&'a mut Consumer<T>);
        impl<T> Drop for Free<'_, T> {
            fn drop(&mut self) {
                // Release: the producer that sees the new head writes after our reads.
                self.0.shared.head.0.store(self.0.head, Ordering::Release);
            }
        }

        let mut available = self.tail_seen.wrapping_sub(self.head);
        if available < max {
            available = self.waiting();
        }
        let count = available.min(max);
        if count == 0 {
            return 0;
        }
        let free = Free(self);
        for _ in 0..count {
            let item = free.0.read();
            f(item);
        }
        count
    }

    fn read(&mut self) -> T {
        let item = self.shared.slots[self.head & self.shared.mask].with(|slot| {
            // SAFETY: head < tail (acquired), so the producer initialised the slot, and it will not touch it before head
            // passes it. The value is moved out once: head advances below.
            unsafe { (*slot).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        item
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::{PushError, ring};
    use std::collections::VecDeque;

    /// xorshift: the test needs variety, not quality.
    fn next(state: &mut u64) -> usize {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        usize::try_from(*state >> 33).expect("31 bits")
    }

    #[test]
    fn any_mix_of_operations_behaves_like_a_bounded_queue() {
        for seed in 1..200_u64 {
            let mut state = seed;
            let capacity = 1 << (next(&mut state) % 5);
            let (mut tx, mut rx) = ring::<Box<usize>>(capacity);
            let mut oracle = VecDeque::new();
            for value in 0..500 {
                match next(&mut state) % 4 {
                    0 => match tx.push(Box::new(value)) {
                        Ok(()) => oracle.push_back(value),
                        Err(PushError::Full(back)) => {
                            assert_eq!(*back, value);
                            assert_eq!(oracle.len(), capacity);
                        }
                        Err(PushError::Closed(_)) => panic!("nobody closed"),
                    },
                    1 => {
                        let want = next(&mut state) % 9;
                        let mut source = (0..want).map(|i| value * 1000 + i);
                        let room = capacity - oracle.len();
                        let pushed = tx.push_batch(&mut source.by_ref().map(Box::new));
                        assert_eq!(pushed, want.min(room));
                        oracle.extend((0..pushed).map(|i| value * 1000 + i));
                        assert_eq!(source.next(), (pushed < want).then(|| value * 1000 + pushed));
                    }
                    2 => assert_eq!(rx.pop().map(|b| *b), oracle.pop_front()),
                    _ => {
                        let max = next(&mut state) % 9;
                        let mut got = Vec::new();
                        let count = rx.pop_batch(max, |b| got.push(*b));
                        assert_eq!(count, got.len());
                        assert_eq!(got, oracle.drain(..max.min(oracle.len())).collect::<Vec<_>>());
                    }
                }
                assert_eq!(rx.waiting(), oracle.len());
                assert_eq!(tx.room(), capacity - oracle.len());
            }
        }
    }

    #[test]
    fn items_left_in_the_ring_are_dropped_once() {
        let witness = std::sync::Arc::new(());
        let (mut tx, mut rx) = ring(8);
        for _ in 0..6 {
            tx.push(witness.clone()).expect("room");
        }
        drop(rx.pop());
        drop(tx);
        assert!(!rx.is_finished());
        drop(rx);
        assert_eq!(std::sync::Arc::strong_count(&witness), 1);
    }

    #[test]
    fn a_panicking_consumer_drops_no_item_twice() {
        let witness = std::sync::Arc::new(());
        let (mut tx, mut rx) = ring(8);
        for _ in 0..4 {
            tx.push(witness.clone()).expect("room");
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut seen = 0;
            rx.pop_batch(4, |_| {
                seen += 1;
                assert!(seen < 3, "planted");
            });
        }));
        assert!(outcome.is_err());
        assert_eq!(rx.waiting(), 1);
        drop((tx, rx));
        assert_eq!(std::sync::Arc::strong_count(&witness), 1);
    }

    #[test]
    fn closing_is_seen_from_both_ends() {
        let (mut tx, mut rx) = ring(4);
        tx.push(1).expect("room");
        drop(tx);
        assert!(!rx.is_finished(), "an item is left");
        assert_eq!(rx.pop(), Some(1));
        assert!(rx.is_finished());

        let (mut tx, rx) = ring(4);
        drop(rx);
        assert_eq!(tx.push(7), Err(PushError::Closed(7)));
        assert_eq!(tx.push_batch(&mut [8, 9].into_iter()), 0);
    }

    #[test]
    fn every_item_crosses_threads_once_and_in_order() {
        let (mut tx, mut rx) = ring(64);
        let total = 200_000_u32;
        let sender = std::thread::spawn(move || {
            let mut items = (0..total).peekable();
            while items.peek().is_some() {
                if tx.push_batch(&mut items.by_ref().take(17)) == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while !rx.is_finished() {
            if rx.pop_batch(29, |item| {
                assert_eq!(item, expected);
                expected += 1;
            }) == 0
            {
                std::thread::yield_now();
            }
        }
        sender.join().expect("sender");
        assert_eq!(expected, total);
    }
}
