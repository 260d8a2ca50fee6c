//! How long an owner without its lease may go on, and how long its successor waits for that (L4, F6).

use crate::lab::*;
use qnat_engine::LeaseWords;
use qnat_engine::event::{Authority, GroupEvent, Verdict};
use qnat_engine::ids::*;
use qnat_engine::worker::Worker;

/// Hold and idle timeout of a cluster whose grace was lowered from 3 s to hold - V - 1 s.
const SHORT_HOLD_MS: u32 = 2_000;
const SHORT_IDLE_MS: u32 = 1_000;

#[test]
fn a_frame_that_was_judged_in_the_grace_does_not_leave_after_it() {
    let mut lab = Lab::new(2);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    lab.lapse();
    lab.event(0, GroupEvent::Owner { shard: SHARD, term: Term(1), node: None });
    let judged = lab.out(0, udp(A, 5000, REMOTE, 53));
    let Verdict::Transmit { authority, .. } = judged else { panic!("a committed mapping is repeated: {judged:?}") };
    assert_eq!(authority, Authority::Grace { shard: SHARD });
    let words = &lab.nodes[0].words;
    let grace_until_ns = words.word(SHARD).grace_until_ns;
    assert_eq!(grace_until_ns, lab.now + 3 * SEC);
    assert!(Worker::may_transmit(words, grace_until_ns - 1, authority));
    assert!(!Worker::may_transmit(words, grace_until_ns, authority), "I8: then silence");
}

/// A predecessor that was cut off before the grace was lowered goes by the longer one: its successor waits for that one, however
/// short its own is.
#[test]
fn a_new_owner_frees_no_port_before_a_longer_grace_of_a_predecessor_has_ended() {
    let mut lab = Lab::new(2);
    lab.run(10_000);
    // The long grace is in the log with the first mapping.
    lab.pass(0, INSIDE, udp(A, 4999, REMOTE, 53));
    lab.load(11, |s| {
        s.params.hold_ms = [SHORT_HOLD_MS; 5];
        s.backends.get_mut(&BackendId(1)).expect("A").idle_timeout_ms = SHORT_IDLE_MS;
    });
    // What lowering it makes wait is over.
    lab.run(10_000);
    assert_eq!((lab.status(0).live, lab.status(0).held), (0, 0));
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53));
    let held = (0..400).any(|_| {
        lab.run(10);
        lab.status(0).held == 1
    });
    assert!(held, "it idles: {:?}", lab.status(0));
    lab.elect(1);
    lab.run(3_800);
    assert_eq!(lab.status(1).held, 1, "not before 3 s + V + 1 s, although a hold takes 2 s: {:?}", lab.status(1));
    lab.run(600);
    assert_eq!(lab.status(1).held, 0, "{:?}", lab.status(1));
    lab.assert_in_step();
}
