//! Model of `netio::sync::word`: a reader never sees names and times of different holders together, and never a lease that
//! was given up before something that it already saw.

use qnat_loom::explore::{Explored, explore};
use words::{Incarnation, LeaseWord, Term};

macro_rules! models {
    ($twin:ident) => {
        mod $twin {
            use super::{Explored, Incarnation, LeaseWord, Term, explore};
            use loom::sync::Arc;
            use loom::thread;
            use qnat_loom::$twin::word::SharedWord;

            const FIRST: LeaseWord =
                LeaseWord { incarnation: Incarnation(1), term: Term(10), lease_until_ns: 100, grace_until_ns: 300 };
            const SECOND: LeaseWord =
                LeaseWord { incarnation: Incarnation(2), term: Term(20), lease_until_ns: 500, grace_until_ns: 700 };

            fn read(word: &SharedWord) -> u64 {
                let seen = word.get();
                match (seen.lease_until_ns, seen.grace_until_ns) {
                    (0, 0) => 0,
                    (100 | 0, 300 | 0) => {
                        assert_eq!((seen.incarnation.0, seen.term.0), (1, 10), "old times, other names");
                        1
                    }
                    (500 | 0, 700 | 0) => {
                        assert_eq!((seen.incarnation.0, seen.term.0), (2, 20), "new times, other names");
                        2
                    }
                    mixed => panic!("times of two holders: {mixed:?}"),
                }
            }

            /// One holder follows another while a reader looks twice. Outcome: what it saw.
            pub(super) fn succession() -> Option<Explored<(u64, u64)>> {
                explore(Some(2), |outcomes| {
                    let word = Arc::new(SharedWord::new());
                    word.set(FIRST);
                    let writer = {
                        let word = word.clone();
                        thread::spawn(move || word.set(SECOND))
                    };
                    let reader = thread::spawn(move || (read(&word), read(&word)));
                    writer.join().expect("writer");
                    outcomes.note(reader.join().expect("reader"));
                })
            }
        }
    };
}

models!(exact);
models!(weak);

mod giving_up {
    use super::{Explored, Incarnation, LeaseWord, Term, explore};
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, Ordering};
    use loom::thread;
    use qnat_loom::exact::word::SharedWord;

    const FIRST: LeaseWord =
        LeaseWord { incarnation: Incarnation(1), term: Term(10), lease_until_ns: 100, grace_until_ns: 300 };

    /// The lease is zeroed, then a message leaves (L2): whoever saw the message sees no lease, but the grace.
    /// The term's lease was never given again, as the rule demands.
    pub(super) fn surrender() -> Option<Explored<(bool, u64)>> {
        explore(None, |outcomes| {
            let word = Arc::new(SharedWord::new());
            word.set(FIRST);
            let sent = Arc::new(AtomicBool::new(false));
            let writer = {
                let (word, sent) = (word.clone(), sent.clone());
                thread::spawn(move || {
                    word.set(FIRST.without_lease());
                    sent.store(true, Ordering::Release);
                })
            };
            let reader = thread::spawn(move || {
                let received = sent.load(Ordering::Acquire);
                let seen = word.get();
                assert!(!(received && seen.lease_until_ns != 0), "a lease after its surrender");
                assert!(seen.grace_runs(299), "the grace never stops");
                (received, seen.lease_until_ns)
            });
            writer.join().expect("writer");
            outcomes.note(reader.join().expect("reader"));
        })
    }
}

#[test]
fn names_and_times_of_two_holders_never_mix() {
    let explored = exact::succession().expect("no execution may fail");
    assert!(explored.executions >= 100, "{explored:?}");
    for outcome in [(1, 1), (1, 0), (0, 0), (0, 2), (1, 2), (2, 2)] {
        assert!(explored.outcomes.contains(&outcome), "{outcome:?} never seen: {explored:?}");
    }
    assert!(explored.outcomes.iter().all(|(first, second)| first.max(&1) <= second || *second == 0), "{explored:?}");
}

#[test]
fn a_surrendered_lease_is_gone_for_whoever_heard_of_it() {
    let explored = giving_up::surrender().expect("no execution may fail");
    assert!(explored.executions >= 3, "{explored:?}");
    for outcome in [(false, 100), (false, 0), (true, 0)] {
        assert!(explored.outcomes.contains(&outcome), "{outcome:?} never seen: {explored:?}");
    }
}

#[test]
fn the_model_notices_missing_orderings() {
    assert!(weak::succession().is_none(), "relaxed names and times must mix in some execution");
}
