//! What a worker hands over to the kernel's fast path, and when it takes it back; the kernel is a table here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::inward::rule;
use crate::lab::*;
use qnat_engine::event::GroupEvent;
use qnat_engine::fast::{FastBoth, FastEntry, FastMode, FastSeen, FastSide, FastTable};
use qnat_engine::ids::*;
use qnat_engine::record::Proto;
use qnat_engine::rules::{Rule, Rules};
use qnat_engine::snapshot::Snapshot;
use qnat_engine::status::FlowState;

/// What the kernel would hold.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    flows: u32,
    now: u64,
    /// Those that live.
    pub(crate) live: BTreeMap<u32, FastEntry>,
    /// Those that are still found, alive or not.
    found: BTreeMap<u32, FastEntry>,
    pub(crate) seen: BTreeMap<u32, FastBoth>,
    /// When each was removed.
    removed: BTreeMap<u32, u64>,
    raised: BTreeMap<BackendId, u64>,
    all: u64,
    takes: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Shared(pub(crate) Arc<Mutex<Kernel>>);

impl Shared {
    pub(crate) fn get(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().expect("no test panicked with it")
    }

    /// The only entry that lives, with its number.
    pub(crate) fn only(&self) -> (u32, FastEntry) {
        let kernel = self.get();
        assert_eq!(kernel.live.len(), 1, "{:?}", kernel.live);
        kernel.live.iter().map(|(number, entry)| (*number, *entry)).next().expect("one")
    }

    /// Whether a packet of an entry would pass.
    pub(crate) fn passes(&self, entry: &FastEntry) -> bool {
        let kernel = self.get();
        let raised = |id: BackendId| kernel.raised.get(&id).copied().unwrap_or(0);
        let since = raised(entry.backend).max(entry.far.map_or(0, raised)).max(kernel.all);
        kernel.live.values().any(|live| live == entry) && entry.made >= since
    }
}

impl FastTable for Shared {
    fn flows(&self) -> u32 {
        self.get().flows
    }

    fn install(&mut self, number: u32, entry: &FastEntry) -> bool {
        let mut kernel = self.get();
        let key = |entry: &FastEntry| (entry.proto, entry.inside, entry.remote);
        assert!(kernel.found.values().all(|found| key(found) != key(entry)), "no flow is found twice");
        let rested = kernel.removed.get(&number).is_none_or(|at| kernel.now >= at + SEC);
        assert!(rested, "a number rests for a second after its removal");
        if kernel.takes {
            kernel.live.insert(number, *entry);
            kernel.found.insert(number, *entry);
            let [out, incoming] = entry.tcp.map(|tcp| FastSeen { tcp, ..FastSeen::default() });
            kernel.seen.insert(number, FastBoth { out, incoming });
        }
        kernel.takes
    }

    fn kill(&mut self, number: u32) {
        self.get().live.remove(&number);
    }

    fn remove(&mut self, number: u32) {
        let mut kernel = self.get();
        assert!(!kernel.live.contains_key(&number), "it is killed first");
        kernel.found.remove(&number);
        let now = kernel.now;
        kernel.removed.insert(number, now);
    }

    fn seen(&self, number: u32) -> FastBoth {
        self.get().seen.get(&number).copied().unwrap_or_default()
    }

    fn raise(&mut self, backend: BackendId, made: u64) {
        self.get().raised.insert(backend, made);
    }

    fn raise_all(&mut self, made: u64) {
        self.get().all = made;
    }
}

pub(crate) fn with(flows: u32, mode: FastMode) -> (Lab, Shared) {
    let mut lab = Lab::new(1);
    let kernel = Shared(Arc::new(Mutex::new(Kernel { flows, takes: true, ..Kernel::default() })));
    lab.nodes[0].worker.set_fast(Box::new(kernel.clone()), mode);
    (lab, kernel)
}

pub(crate) fn turn(lab: &mut Lab, kernel: &Shared, ms: u64) {
    for step in steps(ms) {
        kernel.get().now = lab.now + step * MS;
        lab.advance(step);
    }
}

/// A connection of A from this port, and its public port; the numbers are 101 and 501.
fn connect(lab: &mut Lab, port: u16) -> u16 {
    let public = lab.pass(0, INSIDE, tcp(A, port, REMOTE, 443, SYN, 100, 0)).src_port;
    lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, public, SYN | ACK, 500, 101));
    lab.pass(0, INSIDE, tcp(A, port, REMOTE, 443, ACK, 101, 501));
    public
}

/// Some packets both ways.
fn talk(lab: &mut Lab, port: u16, public: u16, packets: usize) {
    for _ in 0..packets {
        lab.pass(0, INSIDE, tcp(A, port, REMOTE, 443, ACK, 101, 501));
        lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, public, ACK, 501, 101));
    }
}

fn state(lab: &Lab) -> (FlowState, bool) {
    let flows = lab.nodes[0].worker.view().dump_flows(lab.now, None, 10);
    let [flow] = &flows[..] else { panic!("{flows:?}") };
    (flow.state, flow.carried)
}

#[test]
fn a_connection_in_use_is_handed_over_with_all_that_its_packets_need() {
    let (mut lab, kernel) = with(8, FastMode::On);
    let public = connect(&mut lab, 5000);
    talk(&mut lab, 5000, public, 2);
    turn(&mut lab, &kernel, 10);
    assert!(kernel.get().live.is_empty(), "a short one never pays for it");
    talk(&mut lab, 5000, public, 3);
    assert!(kernel.get().live.is_empty(), "not while frames are judged");
    turn(&mut lab, &kernel, 10);
    let (_, entry) = kernel.only();
    let side = |link, mac| FastSide { link, mac, mtu: 1500 };
    let expected = FastEntry {
        shard: SHARD,
        incarnation: Incarnation(100),
        term: Term(lab.term),
        made: entry.made,
        backend: BackendId(1),
        far: None,
        proto: Some(Proto::Tcp),
        inside: (A, 5000),
        public: (PUBLIC, public),
        remote: (REMOTE, 443),
        to_backend: side(INSIDE, mac_of(A)),
        to_hop: side(OUTSIDE, mac_of(UPSTREAM)),
        tcp: [(101, 501), (501, 101)],
    };
    assert_eq!(entry, expected);
    assert!(kernel.passes(&entry));
    assert_eq!(state(&lab), (FlowState::Live, true));
    let counts = lab.nodes[0].worker.fast_counts();
    assert_eq!((counts.entries, counts.room, counts.installed, counts.refused), (1, 8, 1, 0));
}

#[test]
fn what_needs_a_worker_for_each_packet_is_never_handed_over() {
    let (mut lab, kernel) = with(8, FastMode::Eager);
    let short = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 53)).src_port;
    lab.pass(0, OUTSIDE, udp_in(REMOTE, 53, PUBLIC, short));
    let pinged = lab.pass(0, INSIDE, ping(A, REMOTE, 7)).src_port;
    lab.pass(0, OUTSIDE, pong(PUBLIC, pinged));
    lab.pass(0, INSIDE, tcp(A, 5001, REMOTE, 443, SYN, 100, 0));
    turn(&mut lab, &kernel, 10);
    assert!(kernel.get().live.is_empty(), "a service whose mapping ends with its answer, a ping, half a handshake");
    let plain = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 443)).src_port;
    turn(&mut lab, &kernel, 10);
    assert_eq!(kernel.only().1.public.1, plain, "eagerly, after the first packet");
    lab.nodes[0].worker.set_fast_mode(FastMode::Off);
    assert!(!kernel.passes(&kernel.only().1), "switched off: at once");
    turn(&mut lab, &kernel, 2_000);
    assert!(kernel.get().live.is_empty());
    lab.pass(0, INSIDE, udp(A, 5003, REMOTE, 443));
    turn(&mut lab, &kernel, 10);
    assert!(kernel.get().live.is_empty(), "and nothing more");
}

/// The kernel changes addresses; who takes a packet that keeps its own only a worker knows (D17).
#[test]
fn a_flow_that_floats_is_never_handed_over() {
    let (mut lab, kernel) = with(8, FastMode::Eager);
    let load = |lab: &mut Lab, floats| {
        let index = lab.loaded(0) + 1;
        lab.load(index, |s: &mut Snapshot| {
            let mut rules = Rules::default();
            rules.put(Rule { floats, ..rule(Proto::Tcp, 80, 80, &[1]) });
            s.rules = Arc::new(rules);
        });
    };
    for (floats, end, port) in [(true, PUBLIC, 7001), (false, A, 7002)] {
        load(&mut lab, floats);
        let back = |flags, seq, ack| {
            let mut frame = tcp(end, 80, REMOTE, port, flags, seq, ack);
            frame[6..12].copy_from_slice(&mac_of(A).0);
            frame
        };
        lab.pass(0, OUTSIDE, tcp(REMOTE, port, PUBLIC, 80, SYN, 100, 0));
        lab.pass(0, INSIDE, back(SYN | ACK, 500, 101));
        for _ in 0..20 {
            lab.pass(0, OUTSIDE, tcp(REMOTE, port, PUBLIC, 80, ACK, 101, 501));
            lab.pass(0, INSIDE, back(ACK, 501, 101));
        }
        turn(&mut lab, &kernel, 10);
        assert_eq!(kernel.get().live.len(), usize::from(!floats), "floats: {floats}");
    }
}

#[test]
fn a_mapping_that_the_kernel_has_used_is_not_idle() {
    let (mut lab, kernel) = with(8, FastMode::Eager);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 443));
    turn(&mut lab, &kernel, 10);
    let (number, _) = kernel.only();
    let last_ns = lab.now + 200 * SEC;
    // Its neighbours are known all the time.
    let wait = |lab: &mut Lab, seconds: u64| {
        for _ in 0..seconds / 10 {
            turn(lab, &kernel, 10_000);
            lab.learn(0, INSIDE, A);
            lab.learn(0, OUTSIDE, UPSTREAM);
        }
    };
    wait(&mut lab, 200);
    // After the look at it, and nothing that a worker saw: incoming ones do not count (R5).
    let used = FastSeen { packets: 1, last_ns, ..FastSeen::default() };
    kernel
        .get()
        .seen
        .insert(number, FastBoth { out: used, incoming: FastSeen { last_ns: last_ns + 100 * SEC, ..used } });
    wait(&mut lab, 230);
    assert_eq!(state(&lab).0, FlowState::Live, "430 s after its first packet, 230 s after its last");
    wait(&mut lab, 20);
    assert_eq!(lab.status(0).live, 0, "idle for 240 s");
    assert!(kernel.get().live.is_empty(), "taken back before it closed (K1)");
}

#[test]
fn a_packet_just_before_the_idle_end_keeps_its_mapping_although_no_look_at_its_entry_saw_it() {
    // Once a second each entry is looked at: some of these packets come between that and the end.
    for phase in 0..10 {
        let (mut lab, kernel) = with(1_000, FastMode::Eager);
        turn(&mut lab, &kernel, 1_000 + 100 * phase);
        lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 443));
        let first_ns = lab.now;
        let until = |lab: &mut Lab, end_ns: u64| {
            while lab.now < end_ns {
                let ms = (end_ns - lab.now).min(10 * SEC) / MS;
                turn(lab, &kernel, ms);
                lab.learn(0, INSIDE, A);
                lab.learn(0, OUTSIDE, UPSTREAM);
            }
        };
        until(&mut lab, first_ns + 240 * SEC - 20 * MS);
        let (number, _) = kernel.only();
        let out = FastSeen { packets: 1, octets: 36, last_ns: lab.now, ..FastSeen::default() };
        kernel.get().seen.insert(number, FastBoth { out, incoming: FastSeen::default() });
        until(&mut lab, first_ns + 470 * SEC);
        assert_eq!(state(&lab).0, FlowState::Live, "K1, {phase}: 230 s after its last packet");
        until(&mut lab, first_ns + 490 * SEC);
        assert_eq!(lab.status(0).live, 0, "idle for 250 s");
    }
}

#[test]
fn ends_of_connections_are_judged_by_what_the_kernel_saw() {
    let (mut lab, kernel) = with(8, FastMode::Eager);
    let public = connect(&mut lab, 5000);
    turn(&mut lab, &kernel, 10);
    let (number, _) = kernel.only();
    let out = FastSeen { packets: 9, octets: 900, last_ns: lab.now, tcp: (7101, 9501) };
    kernel.get().seen.insert(number, FastBoth { out, incoming: FastSeen::default() });
    lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, public, RST, 501, 0));
    assert_eq!(kernel.get().live.len(), 1, "a reset of long ago is not believed");
    lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, public, RST, 9501, 0));
    assert!(kernel.get().live.is_empty(), "one where the backend expects it is");
    turn(&mut lab, &kernel, 17_000);
    assert!(matches!(state(&lab).0, FlowState::Held(_)), "R18");
}

#[test]
fn a_remote_that_has_claimed_its_end_is_a_workers_until_it_is_beyond() {
    let (mut lab, kernel) = with(8, FastMode::Eager);
    let public = connect(&mut lab, 5000);
    turn(&mut lab, &kernel, 10);
    assert_eq!(kernel.get().live.len(), 1);
    // Behind a gap, or in the remote's name: its end is at 605.
    lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, public, FIN | ACK, 604, 101));
    assert!(kernel.get().live.is_empty(), "any segment may fill the gap");
    let acknowledge = |lab: &mut Lab, ack| {
        lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, ACK, 101, ack));
        turn(lab, &kernel, 1_500);
        lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, ACK, 101, ack));
        turn(lab, &kernel, 10);
    };
    acknowledge(&mut lab, 600);
    assert!(kernel.get().live.is_empty());
    acknowledge(&mut lab, 700);
    assert_eq!(kernel.get().live.len(), 1, "it was not its end");
}

#[test]
fn what_the_kernel_saw_of_the_remote_counts_as_what_a_worker_sees() {
    // A reset is believed where its sender's last octet ended, or where the other end's acknowledgments have come to.
    for (from, seq) in [(INSIDE, 7101), (INSIDE, 7050), (OUTSIDE, 9700)] {
        for too_early in [true, false] {
            let (mut lab, kernel) = with(8, FastMode::Eager);
            let public = connect(&mut lab, 5000);
            turn(&mut lab, &kernel, 10);
            let (number, _) = kernel.only();
            let seen = |tcp| FastSeen { packets: 9, octets: 900, last_ns: lab.now, tcp };
            let (out, incoming) = (seen((7101, 9501)), seen((9700, 7050)));
            kernel.get().seen.insert(number, FastBoth { out, incoming });
            let seq = seq - u32::from(too_early);
            let reset = match from {
                INSIDE => tcp(A, 5000, REMOTE, 443, RST, seq, 0),
                Link::Inside(_) | Link::Outside => tcp(REMOTE, 443, PUBLIC, public, RST, seq, 0),
            };
            lab.pass(0, from, reset);
            assert_eq!(kernel.get().live.len(), usize::from(too_early), "{from:?} {seq}");
        }
    }
}

#[test]
fn both_fins_close_a_connection_that_the_kernel_carried_and_a_half_closed_one_is_a_workers() {
    let (mut lab, kernel) = with(8, FastMode::Eager);
    let public = connect(&mut lab, 5000);
    turn(&mut lab, &kernel, 10);
    let (number, _) = kernel.only();
    let out = FastSeen { packets: 9, octets: 900, last_ns: lab.now, tcp: (7101, 9501) };
    kernel.get().seen.insert(number, FastBoth { out, incoming: FastSeen::default() });
    lab.pass(0, INSIDE, tcp(A, 5000, REMOTE, 443, FIN | ACK, 7101, 9501));
    assert!(kernel.get().live.is_empty());
    talk(&mut lab, 5000, public, 3);
    turn(&mut lab, &kernel, 10);
    assert!(kernel.get().live.is_empty(), "not again");
    lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, public, FIN | ACK, 9501, 7102));
    turn(&mut lab, &kernel, 20);
    assert!(matches!(state(&lab).0, FlowState::Held(_)));
}

#[test]
fn what_changes_for_a_mapping_ends_its_entry_at_once_and_no_other() {
    let (mut lab, kernel) = with(8, FastMode::Eager);
    let mut last = Arc::new(snapshot(11, 0, 1));
    assert!(lab.nodes[0].worker.load_snapshot(lab.now, Arc::clone(&last)));
    let again = |lab: &mut Lab, kernel: &Shared| {
        turn(lab, kernel, 1_500);
        lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 443));
        lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 443));
        turn(lab, kernel, 10);
        let entry = kernel.only().1;
        assert!(kernel.passes(&entry));
        entry
    };
    let entry = again(&mut lab, &kernel);
    let mut load = |lab: &mut Lab, change: fn(&mut Snapshot)| {
        let mut next = Snapshot { control_index: ControlIndex(last.control_index.0 + 1), ..Snapshot::clone(&last) };
        change(&mut next);
        last = Arc::new(next);
        assert!(lab.nodes[0].worker.load_snapshot(lab.now, Arc::clone(&last)));
    };
    load(&mut lab, |_| {});
    assert!(kernel.passes(&entry), "a commit that concerns nobody");
    load(&mut lab, |s| s.backends.get_mut(&BackendId(2)).expect("there").idle_timeout_ms = 250_000);
    assert!(kernel.passes(&entry), "somebody else");
    load(&mut lab, |s| s.backends.get_mut(&BackendId(1)).expect("there").idle_timeout_ms = 250_000);
    assert!(!kernel.passes(&entry), "its own backend");
    let entry = again(&mut lab, &kernel);
    load(&mut lab, |s| s.params.orphan_grace_ms = 2_000);
    assert!(!kernel.passes(&entry), "the grace that the words go by");
    let entry = again(&mut lab, &kernel);
    lab.nodes[0].worker.set_mtu(OUTSIDE, 1400);
    assert!(!kernel.passes(&entry), "a link takes less");
    let entry = again(&mut lab, &kernel);
    assert_eq!(entry.to_hop.mtu, 1400);
    let moved = Mac([0x52, 9, 9, 9, 9, 9]);
    let claim = |ip| arp(qnat_engine::wire::ArpOp::Reply, moved, ip, Mac::BROADCAST, ip);
    lab.frame(0, OUTSIDE, claim(UPSTREAM));
    assert!(!kernel.passes(&entry), "the next hop has another card");
    let entry = again(&mut lab, &kernel);
    assert_eq!(entry.to_hop.mac, moved);
}

#[test]
fn an_entry_that_no_longer_stands_is_replaced_as_soon_as_a_packet_comes_to_the_worker() {
    let (mut lab, kernel) = with(8, FastMode::On);
    let public = connect(&mut lab, 5000);
    talk(&mut lab, 5000, public, 4);
    turn(&mut lab, &kernel, 10);
    let (_, entry) = kernel.only();
    assert!(kernel.passes(&entry) && state(&lab).1);
    lab.nodes[0].worker.set_fast_mode(FastMode::Off);
    lab.nodes[0].worker.set_fast_mode(FastMode::On);
    assert!(!kernel.passes(&entry) && !state(&lab).1, "switched off in between: nobody says that it is carried");
    talk(&mut lab, 5000, public, 1);
    turn(&mut lab, &kernel, 10);
    let (_, entry) = kernel.only();
    assert!(kernel.passes(&entry), "K2: not only when all entries are looked through");
    assert_eq!(state(&lab), (FlowState::Live, true));
}

#[test]
fn nothing_is_carried_for_a_shard_that_is_not_served_here() {
    let (mut lab, kernel) = with(8, FastMode::Eager);
    let again = |lab: &mut Lab, port: u16| {
        lab.pass(0, INSIDE, udp(A, port, REMOTE, 443));
        turn(lab, &kernel, 10);
        let entry = *kernel.get().live.values().find(|entry| entry.inside.1 == port).expect("handed over");
        assert!(kernel.passes(&entry));
        entry
    };
    let entry = again(&mut lab, 5000);
    lab.nodes[0].worker.set_link(lab.now, OUTSIDE, false);
    lab.advance(1);
    assert!(!kernel.passes(&entry), "its link is down, though the lease runs");
    lab.nodes[0].worker.set_link(lab.now, OUTSIDE, true);
    turn(&mut lab, &kernel, 2_000);
    let entry = again(&mut lab, 5001);
    let successor = GroupEvent::Owner { shard: SHARD, term: Term(lab.term + 1), node: Some(NodeId(7)) };
    lab.event(0, successor);
    assert!(!kernel.passes(&entry), "a successor is known: its packets are forwarded");
}

#[test]
fn numbers_rest_and_where_room_is_short_the_cold_go() {
    let (mut lab, kernel) = with(2, FastMode::Eager);
    for port in [5000, 5001, 5002] {
        lab.pass(0, INSIDE, udp(A, port, REMOTE, 443));
    }
    turn(&mut lab, &kernel, 10);
    let counts = lab.nodes[0].worker.fast_counts();
    assert_eq!((counts.entries, counts.refused), (2, 1), "no more than there is room for");
    let busy = kernel.get().live.keys().copied().next().expect("one");
    for n in 1..=8 {
        let out = FastSeen { packets: n, last_ns: lab.now, ..FastSeen::default() };
        kernel.get().seen.insert(busy, FastBoth { out, incoming: FastSeen::default() });
        turn(&mut lab, &kernel, 1_000);
    }
    assert_eq!(kernel.get().live.keys().copied().collect::<Vec<_>>(), [busy], "the one that nobody used is cold");
    assert_eq!(lab.nodes[0].worker.fast_counts().cold, 1);
    for port in [5003, 5004] {
        lab.pass(0, INSIDE, udp(A, port, REMOTE, 443));
    }
    turn(&mut lab, &kernel, 10);
    assert_eq!(kernel.get().live.len(), 2, "its number serves again");
    kernel.get().takes = false;
    turn(&mut lab, &kernel, 10_000);
    let refused = lab.nodes[0].worker.fast_counts().refused;
    lab.pass(0, INSIDE, udp(A, 5005, REMOTE, 443));
    turn(&mut lab, &kernel, 10);
    assert!(lab.nodes[0].worker.fast_counts().refused > refused, "the kernel did not take it");
}

#[test]
fn where_room_is_short_no_more_go_than_are_to_be_free() {
    let (mut lab, kernel) = with(64, FastMode::Eager);
    for port in 5000..5064 {
        lab.pass(0, INSIDE, udp(A, port, REMOTE, 443));
        turn(&mut lab, &kernel, 10);
    }
    let entries = |lab: &Lab| lab.nodes[0].worker.fast_counts().entries;
    assert_eq!(entries(&lab), 64);
    turn(&mut lab, &kernel, 20_000);
    assert_eq!(entries(&lab), 56, "an eighth of the room, though all are cold");
}

#[test]
fn a_flow_that_hears_nothing_is_handed_over_however_long_ago_its_host_was_heard() {
    let (mut lab, kernel) = with(8, FastMode::Eager);
    for port in [5000, 5001] {
        lab.pass(0, INSIDE, udp(A, port, REMOTE, 443));
        turn(&mut lab, &kernel, 10);
    }
    assert_eq!(kernel.get().live.len(), 2);
    turn(&mut lab, &kernel, 40_000);
    assert!(kernel.get().live.is_empty(), "nobody used them, so nobody was asked where the host is");
    for _ in 0..3 {
        lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 443));
        turn(&mut lab, &kernel, 10);
    }
    assert_eq!(kernel.only().1.inside.1, 5000, "the host was asked, and has answered");
}

#[test]
fn a_number_is_not_used_again_while_a_packet_may_be_on_its_way_by_it() {
    let (mut lab, kernel) = with(1, FastMode::Eager);
    let public = connect(&mut lab, 5000);
    turn(&mut lab, &kernel, 10);
    kernel.only();
    lab.pass(0, OUTSIDE, tcp(REMOTE, 443, PUBLIC, public, RST, 501, 0));
    let removed_ns = lab.now;
    // Somebody wants the only number all the time; the table refuses one that has not rested.
    while kernel.get().live.is_empty() {
        assert!(lab.now < removed_ns + 3 * SEC, "after its rest it serves again");
        lab.pass(0, INSIDE, udp(A, 5001, REMOTE, 443));
        turn(&mut lab, &kernel, 10);
    }
    assert!(lab.now >= removed_ns + 2 * SEC, "K2: it rested for two seconds");
    assert_eq!(kernel.only().1.inside.1, 5001);
}

#[test]
fn neighbours_of_what_the_kernel_carries_are_asked_in_time() {
    let (mut lab, kernel) = with(2, FastMode::Eager);
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 443));
    turn(&mut lab, &kernel, 10);
    let (number, entry) = kernel.only();
    let use_it = |lab: &mut Lab, seconds: u64, packets: &mut u64| {
        for _ in 0..seconds {
            *packets += 1;
            let out = FastSeen { packets: *packets, last_ns: lab.now, ..FastSeen::default() };
            kernel.get().seen.insert(number, FastBoth { out, incoming: FastSeen::default() });
            turn(lab, &kernel, 1_000);
        }
    };
    let mut packets = 0;
    use_it(&mut lab, 100, &mut packets);
    assert!(kernel.passes(&entry), "it never became stale: the hosts answered");
    lab.answers = false;
    use_it(&mut lab, 31, &mut packets);
    assert!(kernel.get().live.is_empty(), "nobody answers: the worker's from now on");
}

#[test]
fn a_replica_that_is_made_anew_is_not_looked_through_for_what_its_former_one_had() {
    let (mut lab, kernel) = with(8, FastMode::Eager);
    let public = connect(&mut lab, 5000);
    talk(&mut lab, 5000, public, 5);
    turn(&mut lab, &kernel, 10);
    let (_, entry) = kernel.only();
    lab.event(0, GroupEvent::Dropped { shard: SHARD });
    lab.event(0, GroupEvent::Opened { shard: SHARD, epoch: 1, index: LogIndex(1), loads: true });
    assert!(kernel.get().live.is_empty(), "its table is gone");
    turn(&mut lab, &kernel, 2_000);
    assert!(!kernel.passes(&entry));
    assert_eq!(lab.nodes[0].worker.fast_counts().entries, 0);
}
