//! Model of `netio::sync::spsc`: items cross once, in order, whole; slots are reused only after they were read; a close is
//! never seen before the last item.

use qnat_loom::explore::{Explored, explore};

macro_rules! models {
    ($twin:ident) => {
        mod $twin {
            use super::{Explored, explore};
            use loom::thread;
            use qnat_loom::$twin::spsc::{PushError, ring};

            /// Capacity 1, two items: the slot is reused, the producer may find it full, the consumer empty.
            pub(super) fn reuse() -> Option<Explored<(bool, bool)>> {
                explore(None, |outcomes| {
                    let (mut tx, mut rx) = ring::<Box<u32>>(1);
                    let producer = thread::spawn(move || {
                        let mut was_full = false;
                        for value in [1_u32, 2] {
                            let mut item = Box::new(value);
                            while let Err(back) = tx.push(item) {
                                let PushError::Full(back) = back else { panic!("the consumer lives") };
                                item = back;
                                was_full = true;
                                thread::yield_now();
                            }
                        }
                        was_full
                    });
                    let consumer = thread::spawn(move || {
                        let mut was_empty = false;
                        let mut expected = 1;
                        while expected < 3 {
                            if let Some(item) = rx.pop() {
                                assert_eq!(*item, expected);
                                expected += 1;
                            } else {
                                was_empty = true;
                                thread::yield_now();
                            }
                        }
                        was_empty
                    });
                    let was_full = producer.join().expect("producer");
                    let was_empty = consumer.join().expect("consumer");
                    outcomes.note((was_full, was_empty));
                })
            }

            /// A batch, then a close: whoever sees the end has seen every item.
            pub(super) fn close() -> Option<Explored<usize>> {
                explore(None, |outcomes| {
                    let (mut tx, mut rx) = ring::<u32>(4);
                    let producer = thread::spawn(move || {
                        assert_eq!(tx.push_batch(&mut [1, 2].into_iter()), 2);
                        tx.push(3).expect("room");
                    });
                    let consumer = thread::spawn(move || {
                        let mut got = Vec::new();
                        for _ in 0..2 {
                            rx.pop_batch(4, |item| got.push(item));
                        }
                        if rx.is_finished() {
                            assert_eq!(got.len(), 3, "the end came before the last item");
                        }
                        assert_eq!(got, (1..).take(got.len()).collect::<Vec<_>>());
                        (got.len(), rx)
                    });
                    producer.join().expect("producer");
                    let (count, _rx) = consumer.join().expect("consumer");
                    outcomes.note(count);
                })
            }
        }
    };
}

models!(exact);
models!(weak);

#[test]
fn slots_are_reused_only_after_they_were_read() {
    let explored = exact::reuse().expect("no execution may fail");
    assert!(explored.executions >= 20, "{explored:?}");
    for outcome in [(false, false), (true, false), (false, true), (true, true)] {
        assert!(explored.outcomes.contains(&outcome), "{outcome:?} never seen: {explored:?}");
    }
}

#[test]
fn a_close_is_never_seen_before_the_last_item() {
    let explored = exact::close().expect("no execution may fail");
    assert!(explored.executions >= 20, "{explored:?}");
    assert_eq!(explored.outcomes.iter().copied().collect::<Vec<_>>(), [0, 2, 3]);
}

#[test]
fn the_models_notice_missing_orderings() {
    assert!(weak::reuse().is_none(), "slots without acquire and release must fail");
    assert!(weak::close().is_none(), "a batch without acquire and release must fail");
}
