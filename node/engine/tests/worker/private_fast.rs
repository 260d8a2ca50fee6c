//! What instances say to each other in the kernel's fast path: by flow where groups judge them, as a pair where none does.

use std::sync::Arc;

use crate::fast::{Shared, turn, with};
use crate::groups::{Groups, from, group, rule};
use crate::lab::*;
use crate::private::{NONE, closed, isolated, judged, load, open};
use qnat_engine::fast::{FastBoth, FastEntry, FastMode, FastSeen, FastSide};
use qnat_engine::ids::*;
use qnat_engine::nsg::Access;
use qnat_engine::record::Proto;
use qnat_engine::snapshot::{Private, Snapshot};

fn lab(flows: u32, mode: FastMode, groups: [Groups; 2]) -> (Lab, Shared) {
    let (mut lab, kernel) = with(flows, mode);
    load(&mut lab, groups);
    // The log's first entry says how long the grace is. A question to a name server is never handed over itself.
    lab.pass(0, INSIDE, udp(A, 4999, REMOTE, 53));
    (lab, kernel)
}

type Change = fn(&mut Snapshot);

/// Lets in everybody but A.
fn denies_a() -> Groups {
    [None, group(&[from(Access::Deny, A), rule(Access::Allow)], &[rule(Access::Allow)])]
}

/// A datagram each way, from this port of A.
fn talk(lab: &mut Lab, port: u16, rounds: usize) {
    for _ in 0..rounds {
        lab.pass(0, INSIDE, udp(A, port, B, 443));
        lab.pass(0, INSIDE, udp(B, 443, A, port));
    }
}

fn entry(lab: &Lab, made: u64) -> FastEntry {
    let side = |ip| FastSide { link: INSIDE, mac: mac_of(ip), mtu: 1500 };
    FastEntry {
        shard: SHARD,
        incarnation: Incarnation(100),
        term: Term(lab.term),
        made,
        backend: BackendId(1),
        far: Some(BackendId(2)),
        proto: None,
        inside: (A, 0),
        public: (A, 0),
        remote: (B, 0),
        to_backend: side(A),
        to_hop: side(B),
        tcp: [(0, 0); 2],
    }
}

#[test]
fn two_that_no_group_judges_are_one_entry_whatever_they_say_and_whoever_begins() {
    for begins in [A, B] {
        let (mut lab, kernel) = lab(8, FastMode::On, [NONE, NONE]);
        let other = if begins == A { B } else { A };
        for port in 0..3 {
            lab.pass(0, INSIDE, udp(begins, 5000 + port, other, 53));
            lab.pass(0, INSIDE, udp(other, 53, begins, 5000 + port));
        }
        for port in 10..20 {
            lab.pass(0, INSIDE, udp(begins, 5000 + port, other, 53));
        }
        turn(&mut lab, &kernel, 10);
        assert!(kernel.get().live.is_empty(), "three answers");
        lab.pass(0, INSIDE, ping(other, begins, 7));
        turn(&mut lab, &kernel, 10);
        let (_, handed) = kernel.only();
        assert_eq!(handed, entry(&lab, handed.made));
        assert!(kernel.passes(&handed));
        talk(&mut lab, 6000, 9);
        turn(&mut lab, &kernel, 10);
        assert_eq!(kernel.only().1, handed, "what comes to the worker all the same asks for no second one");
        assert_eq!(lab.status(0).live, 1, "W4: nothing is kept of it but that question");
    }
}

#[test]
fn a_shard_that_keeps_nothing_is_told_what_is_in_force_before_the_kernel_goes_by_it() {
    let (mut lab, kernel) = with(8, FastMode::On);
    load(&mut lab, [NONE, NONE]);
    talk(&mut lab, 5000, 4);
    turn(&mut lab, &kernel, 10);
    assert!(kernel.get().live.is_empty(), "F6: the words may allow a grace that no successor knows of");
    turn(&mut lab, &kernel, 200);
    talk(&mut lab, 5000, 4);
    turn(&mut lab, &kernel, 10);
    assert!(kernel.passes(&kernel.only().1), "the log says it now");
    assert_eq!(lab.status(0).live, 0);
    lab.assert_in_step();
}

#[test]
fn what_changes_for_either_of_two_ends_their_entry_at_once_and_nothing_else_does() {
    let changes: [(&str, Change); 5] = [
        ("the first is judged", |s| judged(s, [closed(), NONE])),
        ("the second is judged", |s| judged(s, [NONE, open()])),
        ("it may not be reached", |s| judged(s, [NONE, denies_a()])),
        ("the second is another one", |s| s.backends.get_mut(&BackendId(2)).expect("there").mac = Some(mac_of(REMOTE))),
        ("they are neighbours", |s| s.private = Arc::new(Private::default())),
    ];
    for (what, change) in changes {
        let (mut lab, kernel) = lab(8, FastMode::Eager, [NONE, NONE]);
        let mut last = snapshot(11, 0, 1);
        isolated(&mut last);
        let mut commit = |lab: &mut Lab, change: Change| {
            let mut next = Snapshot { control_index: ControlIndex(last.control_index.0 + 1), ..last.clone() };
            change(&mut next);
            last = next.clone();
            assert!(lab.nodes[0].worker.load_snapshot(lab.now, Arc::new(next)));
        };
        commit(&mut lab, |_| {});
        turn(&mut lab, &kernel, 2_500);
        talk(&mut lab, 5000, 1);
        turn(&mut lab, &kernel, 10);
        let (_, pair) = kernel.only();
        commit(&mut lab, |s| s.backends.get_mut(&BackendId(3)).expect("there").idle_timeout_ms = 250_000);
        assert!(kernel.passes(&pair), "a commit that concerns somebody else");
        commit(&mut lab, change);
        assert!(!kernel.passes(&pair), "K2: {what}");
        turn(&mut lab, &kernel, 2_000);
        assert!(kernel.get().live.is_empty(), "{what}");
    }
}

#[test]
fn a_pair_that_nobody_used_for_a_minute_goes_and_one_in_use_stays() {
    let (mut lab, kernel) = lab(8, FastMode::On, [NONE, NONE]);
    talk(&mut lab, 5000, 4);
    turn(&mut lab, &kernel, 10);
    let (number, pair) = kernel.only();
    let wait = |lab: &mut Lab, seconds: u64, used: bool| {
        for n in 0..seconds {
            if used {
                let out = FastSeen { packets: n + 1, last_ns: lab.now, ..FastSeen::default() };
                kernel.get().seen.insert(number, FastBoth { out, incoming: FastSeen::default() });
            }
            turn(lab, &kernel, 1_000);
            for ip in [A, B] {
                lab.learn(0, INSIDE, ip);
            }
        }
    };
    wait(&mut lab, 90, true);
    assert!(kernel.passes(&pair), "in use");
    wait(&mut lab, 50, false);
    assert!(kernel.passes(&pair), "50 s");
    wait(&mut lab, 15, false);
    assert!(kernel.get().live.is_empty(), "a minute");
    talk(&mut lab, 5000, 4);
    turn(&mut lab, &kernel, 10);
    assert_eq!(kernel.get().live.len(), 1, "and comes back with its packets");
    lab.nodes[0].worker.set_fast_mode(FastMode::Off);
    turn(&mut lab, &kernel, 2_000);
    assert!(kernel.get().live.is_empty(), "switched off");
}

#[test]
fn a_judged_flow_is_handed_over_by_its_ports_and_either_way_keeps_it_alive() {
    let (mut lab, kernel) = lab(8, FastMode::On, [closed(), open()]);
    talk(&mut lab, 5000, 5);
    turn(&mut lab, &kernel, 10);
    let (number, flow) = kernel.only();
    let ends = FastEntry { inside: (A, 5000), public: (A, 5000), remote: (B, 443), ..entry(&lab, flow.made) };
    assert_eq!(flow, FastEntry { proto: Some(Proto::Udp), ..ends });
    let wait = |lab: &mut Lab, seconds: u64| {
        for _ in 0..seconds / 10 {
            turn(lab, &kernel, 10_000);
            for ip in [A, B] {
                lab.learn(0, INSIDE, ip);
            }
        }
    };
    wait(&mut lab, 200);
    let incoming = FastSeen { packets: 1, last_ns: lab.now, ..FastSeen::default() };
    kernel.get().seen.insert(number, FastBoth { out: FastSeen::default(), incoming });
    wait(&mut lab, 200);
    assert_eq!(lab.status(0).live, 1, "an answer of 200 s ago that no worker saw");
    wait(&mut lab, 50);
    assert_eq!((lab.status(0).live, kernel.get().live.len()), (0, 0), "idle for 240 s (K1)");
}

#[test]
fn what_needs_a_worker_for_each_packet_between_two_is_never_handed_over() {
    let (mut lab, kernel) = lab(8, FastMode::Eager, [closed(), open()]);
    lab.pass(0, INSIDE, udp(A, 5000, B, 53));
    lab.pass(0, INSIDE, udp(B, 53, A, 5000));
    lab.pass(0, INSIDE, ping(A, B, 7));
    lab.pass(0, INSIDE, ping(A, B, 7));
    lab.pass(0, INSIDE, tcp(A, 5001, B, 443, SYN, 100, 0));
    turn(&mut lab, &kernel, 10);
    assert!(kernel.get().live.is_empty(), "a service whose mapping ends with its answer, a ping, half a handshake");
}

#[test]
fn a_change_of_either_side_s_groups_is_heard_by_the_kernel_before_the_next_packet() {
    for (groups, goes_on) in [([closed(), denies_a()], false), ([open(), open()], true)] {
        let (mut lab, kernel) = lab(8, FastMode::Eager, [closed(), open()]);
        talk(&mut lab, 5000, 1);
        turn(&mut lab, &kernel, 10);
        let (_, flow) = kernel.only();
        load(&mut lab, groups);
        assert!(!kernel.passes(&flow), "K2");
        turn(&mut lab, &kernel, 2_500);
        lab.out(0, udp(A, 5000, B, 443));
        turn(&mut lab, &kernel, 10);
        assert_eq!(kernel.get().live.len(), usize::from(goes_on), "anew if it may");
    }
}

#[test]
fn a_connection_between_two_is_carried_once_its_handshake_is_over_and_its_fin_takes_it_back() {
    let (mut lab, kernel) = lab(8, FastMode::Eager, [closed(), open()]);
    lab.pass(0, INSIDE, tcp(A, 5000, B, 80, SYN, 100, 0));
    lab.pass(0, INSIDE, tcp(B, 80, A, 5000, SYN | ACK, 500, 101));
    turn(&mut lab, &kernel, 10);
    assert!(kernel.get().live.is_empty(), "half a handshake");
    lab.pass(0, INSIDE, tcp(A, 5000, B, 80, ACK, 101, 501));
    turn(&mut lab, &kernel, 10);
    assert!(kernel.get().live.is_empty(), "not all is known of what the other end has got");
    lab.pass(0, INSIDE, tcp(B, 80, A, 5000, ACK, 501, 101));
    turn(&mut lab, &kernel, 10);
    let (_, flow) = kernel.only();
    assert_eq!(
        (flow.proto, flow.inside, flow.remote, flow.tcp),
        (Some(Proto::Tcp), (A, 5000), (B, 80), [(101, 501), (501, 101)])
    );
    lab.pass(0, INSIDE, tcp(B, 80, A, 5000, FIN | ACK, 501, 101));
    assert!(kernel.get().live.is_empty(), "from here on each packet may matter");
}

#[test]
fn what_passes_both_ways_says_that_both_cards_are_there_and_one_way_alone_does_not() {
    for (ways, stays) in [([1, 1], true), ([1, 0], false), ([0, 1], false)] {
        let (mut lab, kernel) = lab(8, FastMode::On, [NONE, NONE]);
        talk(&mut lab, 5000, 4);
        turn(&mut lab, &kernel, 10);
        let (number, pair) = kernel.only();
        // Nobody answers questions from here on.
        lab.answers = false;
        for second in 1..=100 {
            let [out, incoming] =
                ways.map(|way| FastSeen { packets: way * second, last_ns: lab.now, ..FastSeen::default() });
            kernel.get().seen.insert(number, FastBoth { out, incoming });
            turn(&mut lab, &kernel, 1_000);
        }
        assert_eq!(kernel.passes(&pair), stays, "{ways:?}");
    }
}

#[test]
fn a_card_that_is_heard_of_in_packets_needs_no_question_to_be_handed_over_again() {
    let (mut lab, kernel) = lab(8, FastMode::On, [NONE, NONE]);
    talk(&mut lab, 5000, 4);
    turn(&mut lab, &kernel, 10);
    assert_eq!(kernel.get().live.len(), 1);
    lab.answers = false;
    turn(&mut lab, &kernel, 40_000);
    assert!(kernel.get().live.is_empty(), "both are stale");
    talk(&mut lab, 5000, 4);
    turn(&mut lab, &kernel, 10);
    assert_eq!(kernel.get().live.len(), 1);
}
