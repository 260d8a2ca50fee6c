//! Model of `netio::sync::doorbell`: whatever the interleaving, an item is popped by a consumer that found it awake or was
//! woken for it. Two models: `wake` really sleeps (loom would report a deadlock), `doze` ends where a consumer would fall
//! asleep and asks whether anybody signals it; the planted faults run in the second, since loom's deadlock report aborts.

use qnat_loom::explore::{Explored, explore};

/// Whether the consumer looks at its queue once more after it raised the flag.
#[derive(Clone, Copy)]
enum Recheck {
    Yes,
    /// The planted fault.
    Dropped,
}

macro_rules! models {
    ($twin:ident) => {
        mod $twin {
            use super::{Explored, Recheck, explore};
            use loom::sync::Arc;
            use loom::sync::atomic::{AtomicUsize, Ordering};
            use loom::thread;
            use qnat_loom::$twin::doorbell::SleepFlag;

            /// One producer and a consumer that goes to sleep once. Outcome: (slept, signalled).
            pub(super) fn doze(recheck: Recheck) -> Option<Explored<(bool, bool)>> {
                explore(None, move |outcomes| {
                    let flag = Arc::new(SleepFlag::new());
                    let published = Arc::new(AtomicUsize::new(0));
                    let producer = {
                        let (flag, published) = (flag.clone(), published.clone());
                        thread::spawn(move || {
                            published.store(1, Ordering::Release);
                            flag.needs_wake()
                        })
                    };
                    let consumer = thread::spawn(move || {
                        if published.load(Ordering::Acquire) == 1 {
                            return false;
                        }
                        flag.prepare_sleep();
                        match recheck {
                            Recheck::Yes => published.load(Ordering::Acquire) == 0,
                            Recheck::Dropped => true,
                        }
                    });
                    let signalled = producer.join().expect("producer");
                    let slept = consumer.join().expect("consumer");
                    assert!(signalled || !slept, "the consumer sleeps for ever");
                    outcomes.note((slept, signalled));
                })
            }
        }
    };
}

models!(exact);
models!(weak);

mod blocking {
    use super::{Explored, explore};
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;
    use qnat_loom::exact::doorbell::SleepFlag;

    /// The eventfd: a counter that a reader blocks on and resets.
    struct Bell {
        count: Mutex<u64>,
        rung: Condvar,
    }

    impl Bell {
        fn ring(&self) {
            *self.count.lock().expect("bell") += 1;
            self.rung.notify_one();
        }

        fn wait(&self) {
            let mut count = self.count.lock().expect("bell");
            while *count == 0 {
                count = self.rung.wait(count).expect("bell");
            }
            *count = 0;
        }
    }

    /// One consumer and `producers` producers, one item each. Outcome: (times slept, times signalled).
    pub(super) fn wake(producers: usize) -> Option<Explored<(usize, usize)>> {
        explore(Some(2), move |outcomes| {
            let flag = Arc::new(SleepFlag::new());
            let bell = Arc::new(Bell { count: Mutex::new(0), rung: Condvar::new() });
            // The queue, reduced to what matters here: how much was published.
            let published = Arc::new(AtomicUsize::new(0));

            let ringers: Vec<_> = (0..producers)
                .map(|_| {
                    let (flag, bell, published) = (flag.clone(), bell.clone(), published.clone());
                    thread::spawn(move || {
                        published.fetch_add(1, Ordering::Release);
                        let wake = flag.needs_wake();
                        if wake {
                            bell.ring();
                        }
                        usize::from(wake)
                    })
                })
                .collect();
            let consumer = thread::spawn(move || {
                let mut slept = 0;
                while published.load(Ordering::Acquire) < producers {
                    flag.prepare_sleep();
                    if published.load(Ordering::Acquire) < producers {
                        slept += 1;
                        bell.wait();
                    }
                    flag.awake();
                }
                slept
            });
            let signals = ringers.into_iter().map(|r| r.join().expect("producer")).sum();
            outcomes.note((consumer.join().expect("consumer"), signals));
        })
    }
}

#[test]
fn a_consumer_that_falls_asleep_is_signalled() {
    let explored = exact::doze(Recheck::Yes).expect("no execution may fail");
    assert!(explored.executions >= 5, "{explored:?}");
    for outcome in [(false, false), (true, true), (false, true)] {
        assert!(explored.outcomes.contains(&outcome), "{outcome:?} never seen: {explored:?}");
    }
}

#[test]
fn no_wake_up_is_lost() {
    let explored = blocking::wake(1).expect("no execution may fail");
    assert!(explored.executions >= 10, "{explored:?}");
    assert!(explored.outcomes.contains(&(0, 0)), "a busy consumer is not signalled: {explored:?}");
    assert!(explored.outcomes.contains(&(1, 1)), "a sleeping consumer is: {explored:?}");
    assert!(!explored.outcomes.contains(&(1, 0)), "{explored:?}");
}

#[test]
fn no_wake_up_is_lost_with_two_producers() {
    let explored = blocking::wake(2).expect("no execution may fail");
    assert!(explored.executions >= 100, "{explored:?}");
    assert!(explored.outcomes.contains(&(0, 0)) && explored.outcomes.contains(&(2, 2)), "{explored:?}");
}

#[test]
fn the_model_notices_a_dropped_recheck_and_missing_fences() {
    assert!(exact::doze(Recheck::Dropped).is_none(), "without the second look a wake-up is lost");
    assert!(weak::doze(Recheck::Yes).is_none(), "without the fences a wake-up is lost");
}
