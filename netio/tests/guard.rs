//! The egress guard in the kernel, judged by what arrives at the other end of the wire.

mod net;

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use net::Namespace;
use qnat_netio::bell::Doorbell;
use qnat_netio::boottime;
use qnat_netio::bpf::{self, Program, TcAttachType};
use qnat_netio::fast::FastSize;
use qnat_netio::guard::{Guard, GuardCounters, available};
use qnat_netio::hooks::By;
use qnat_netio::link::Link;
use qnat_netio::packet::PacketLoop;
use qnat_netio::port::{Disposition, Interface, LoopLimits, PortConfig, Reception};
use qnat_netio::socket::BufferLimits;
use rustix::process::{Pid, Signal, kill_process};
use words::time::MS;
use words::{FrameMeta, Incarnation, LeaseWord, ShardId, Share, Term};

const SHARD: u16 = 0x0103;
const INSIDE: Interface = Interface::inside(0);
const OUTSIDE: Interface = Interface::OUTSIDE;
const VMAC: [u8; 6] = [0x02, 0x51, 0x4e, 0x00, 0x01, 0x03];
const PEER: [u8; 6] = [0x02, 0xaa, 0, 0, 0, 9];
const HOST: [u8; 6] = [0x02, 0xbb, 0, 0, 0, 7];
const FRONTEND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 4);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

fn open() -> (PacketLoop, [Link; 2]) {
    open_on(["gi", "go"])
}

fn open_on(names: [&str; 2]) -> (PacketLoop, [Link; 2]) {
    let links = names.map(|name| Link::named(name).expect("link"));
    let port = |link: &Link| PortConfig {
        link: link.clone(),
        limits: BufferLimits::default(),
        reception: Reception::Filtered,
    };
    let limits = LoopLimits { receive_buffers: 64, transmit_buffers: 64, requests: 64 };
    let packets =
        PacketLoop::new((&port(&links[1]), &[port(&links[0])]), limits, Doorbell::new().expect("bell"), Share::WHOLE)
            .expect("loop");
    (packets, links)
}

fn frame(destination: [u8; 6], source: [u8; 6], ethertype: u16, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&46_u16.to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 17]);
    frame[26..30].copy_from_slice(&from.octets());
    frame[30..34].copy_from_slice(&to.octets());
    frame
}

/// The word of a process that is the `life`th one, and leads in the term of the same number.
fn held(life: u64, lease_until_ns: u64, grace_until_ns: u64) -> LeaseWord {
    LeaseWord { incarnation: Incarnation(life), term: Term(life), lease_until_ns, grace_until_ns }
}

/// Sends one frame and says whether the kernel took it.
fn passes(packets: &mut PacketLoop, interface: Interface, frame: &[u8]) -> bool {
    let before = packets.stats(interface);
    assert!(packets.transmit(interface, FrameMeta::default(), 0, frame), "a free buffer");
    packets.flush(&mut |_| true).expect("flush");
    for _ in 0..1000 {
        let now = packets.stats(interface);
        if now.transmitted > before.transmitted {
            return true;
        }
        if now.refused_by_kernel > before.refused_by_kernel {
            return false;
        }
        packets.wait(Duration::from_millis(10), || false).expect("wait");
        packets.receive(&mut |_, _, _| Disposition::Done);
    }
    panic!("no completion: {:?}", packets.stats(interface));
}

fn sleep_until(time_ns: u64) {
    while let Some(left_ns) = (time_ns + 1).checked_sub(boottime::now_ns()).filter(|left_ns| *left_ns > 0) {
        std::thread::sleep(Duration::from_nanos(left_ns));
    }
}

/// gi and go in one namespace, their far ends in another.
fn gateway() -> (Namespace, Namespace) {
    let (inner, outer) = (Namespace::new("g"), Namespace::new("o"));
    inner.veth("gi", &outer, "oi");
    inner.veth("go", &outer, "oo");
    (inner, outer)
}

/// Sends by an outside and two inside interfaces.
fn loop_of(links: &[Link; 3]) -> PacketLoop {
    let port = |link: &Link| PortConfig {
        link: link.clone(),
        limits: BufferLimits::default(),
        reception: Reception::Filtered,
    };
    let limits = LoopLimits { receive_buffers: 64, transmit_buffers: 16, requests: 64 };
    let [outside, inside @ ..] = links.each_ref().map(port);
    let bell = Doorbell::new().expect("bell");
    PacketLoop::new((&outside, &inside), limits, bell, Share::WHOLE).expect("loop")
}

#[test]
fn one_address_in_two_networks_has_in_each_the_grace_of_its_own_shard() {
    require_root!();
    let (inner, outer) = gateway();
    inner.veth("gj", &outer, "oj");
    inner.run(|| {
        let links = ["go", "gi", "gj"].map(|name| Link::named(name).expect("link"));
        let (mut guard, mut words) = Guard::attach(&links[0], &links[1..]).expect("guard");
        let mut packets = loop_of(&links);
        let second = Interface::inside(1);
        guard.set_addresses([(INSIDE, BACKEND, SHARD), (second, BACKEND, SHARD + 1)]).expect("addresses");
        let now = boottime::now_ns();
        words.set(ShardId(SHARD + 1), held(1, now, now + 5_000 * MS));
        let grace = |link: &Link| frame(HOST, link.mac, 0x0800, FAR, BACKEND);
        assert!(!passes(&mut packets, INSIDE, &grace(&links[1])), "the other network's shard has a grace");
        assert!(passes(&mut packets, second, &grace(&links[2])));
        words.set(ShardId(SHARD), held(1, now, now + 5_000 * MS));
        assert!(passes(&mut packets, INSIDE, &grace(&links[1])));
        guard.set_addresses([(INSIDE, BACKEND, SHARD)]).expect("addresses");
        assert!(!passes(&mut packets, second, &grace(&links[2])), "no address of that network any more");
        assert_eq!(guard.look_again().put_back.len(), 0, "it stands on all three");
        drop(guard);
    });
}

/// What passes between two hosts is repeated by the right of the lower one's shard (M3), whoever sends, and between two networks
/// not at all.
#[test]
fn private_traffic_is_repeated_in_the_grace_of_the_lower_one_s_shard_alone() {
    require_root!();
    let (inner, outer) = gateway();
    inner.veth("gj", &outer, "oj");
    inner.run(|| {
        let links = ["go", "gi", "gj"].map(|name| Link::named(name).expect("link"));
        let (mut guard, mut words) = Guard::attach(&links[0], &links[1..]).expect("guard");
        let mut packets = loop_of(&links);
        // The lower one by its number, not by its octets as a little-endian machine reads them.
        let (low, high, far) = (Ipv4Addr::new(10, 0, 1, 9), Ipv4Addr::new(10, 0, 2, 1), Ipv4Addr::new(10, 7, 0, 1));
        let all = [(INSIDE, low, SHARD), (INSIDE, high, SHARD + 1), (Interface::inside(1), far, SHARD + 1)];
        guard.set_addresses(all).expect("addresses");
        let now = boottime::now_ns();
        let between = |from, to| frame(HOST, links[1].mac, 0x0800, from, to);
        words.set(ShardId(SHARD + 1), held(1, now, now + 5_000 * MS));
        assert!(!passes(&mut packets, INSIDE, &between(low, high)), "the receiver's shard is not the pair's");
        assert!(!passes(&mut packets, INSIDE, &between(high, low)));
        assert!(passes(&mut packets, INSIDE, &between(FAR, high)), "from outside it is the receiver's");
        assert!(!passes(&mut packets, INSIDE, &between(far, high)), "from another network");
        words.set(ShardId(SHARD + 1), held(1, now, now));
        words.set(ShardId(SHARD), held(1, now, now + 5_000 * MS));
        assert!(passes(&mut packets, INSIDE, &between(low, high)));
        assert!(passes(&mut packets, INSIDE, &between(high, low)));
        assert!(!passes(&mut packets, INSIDE, &between(FAR, high)));
        drop(guard);
    });
}

#[test]
fn each_frame_leaves_only_by_its_right_and_in_its_time() {
    require_root!();
    assert!(available(), "clang is expected where the tests run");
    let (inner, _outer) = gateway();
    inner.run(|| {
        let links = ["gi", "go"].map(|name| Link::named(name).expect("link"));
        let (mut guard, mut words) = Guard::attach(&links[1], &links[..1]).expect("guard");
        let (mut packets, _) = open();
        let own = [links[0].mac, links[1].mac];
        let from_vmac = frame(HOST, VMAC, 0x0800, FRONTEND, FAR);
        let grace_out = frame(HOST, own[1], 0x0800, FRONTEND, FAR);
        let grace_in = frame(HOST, own[0], 0x0800, FAR, BACKEND);

        // Nothing is held, nobody is known.
        for frame in [&from_vmac, &grace_out] {
            assert!(!passes(&mut packets, OUTSIDE, frame));
        }
        guard.set_addresses([(OUTSIDE, FRONTEND, SHARD), (INSIDE, BACKEND, SHARD)]).expect("addresses");
        guard.set_peers([PEER]).expect("peers");
        assert!(!passes(&mut packets, OUTSIDE, &grace_out), "known, but no grace");

        let now = boottime::now_ns();
        let word = held(1, now + 700 * MS, now + 1400 * MS);
        words.set(ShardId(SHARD), word);
        assert!(passes(&mut packets, OUTSIDE, &from_vmac));
        assert!(passes(&mut packets, INSIDE, &from_vmac));
        assert!(passes(&mut packets, INSIDE, &frame([0xff; 6], VMAC, 0x0806, FAR, FAR)), "ARP by the owner");
        assert!(passes(&mut packets, OUTSIDE, &grace_out));
        assert!(passes(&mut packets, INSIDE, &grace_in));
        assert!(
            !passes(&mut packets, INSIDE, &frame(HOST, own[0], 0x0800, FRONTEND, FAR)),
            "inside, the destination counts"
        );
        assert!(!passes(&mut packets, OUTSIDE, &frame(HOST, own[1], 0x0800, FAR, BACKEND)), "outside, the source");
        assert!(passes(&mut packets, INSIDE, &frame(PEER, own[0], 0x0800, BACKEND, FAR)), "a Forward");
        assert!(!passes(&mut packets, OUTSIDE, &frame(HOST, own[1], 0x0800, BACKEND, FAR)), "untranslated");
        assert!(!passes(&mut packets, OUTSIDE, &frame([0xff; 6], own[1], 0x0806, FAR, FAR)), "the stack's ARP");
        assert!(!passes(&mut packets, OUTSIDE, &frame(HOST, own[1], 0x86dd, FAR, FAR)), "IPv6");
        assert!(!passes(&mut packets, OUTSIDE, &frame(HOST, HOST, 0x0800, FRONTEND, FAR)), "a foreign source");
        assert!(!passes(&mut packets, OUTSIDE, &frame(HOST, own[0], 0x0800, FRONTEND, FAR)), "the other device's");
        let mut other = from_vmac.clone();
        other[11] += 1;
        assert!(!passes(&mut packets, OUTSIDE, &other), "another shard's vMAC");

        // A process that was stopped here would go on sending by its stale check; the kernel does not.
        sleep_until(word.lease_until_ns);
        assert!(!passes(&mut packets, OUTSIDE, &from_vmac));
        assert!(passes(&mut packets, OUTSIDE, &grace_out));
        guard.set_addresses([(INSIDE, BACKEND, SHARD)]).expect("addresses");
        assert!(!passes(&mut packets, OUTSIDE, &grace_out), "no address of ours any more");
        assert!(passes(&mut packets, INSIDE, &grace_in));
        sleep_until(word.grace_until_ns);
        assert!(!passes(&mut packets, INSIDE, &grace_in));
        assert!(passes(&mut packets, INSIDE, &frame(PEER, own[0], 0x0800, BACKEND, FAR)), "a Forward needs no lease");
        guard.set_peers([]).expect("peers");
        assert!(!passes(&mut packets, INSIDE, &frame(PEER, own[0], 0x0800, FAR, FAR)), "no peer any more");

        let counters = guard.counters().expect("counters");
        let expected = GuardCounters {
            pass_lease: 3,
            pass_forward: 2,
            pass_grace: 4,
            drop_lease: 3,
            drop_grace: 2,
            drop_address: 6,
            drop_arp: 1,
            drop_protocol: 1,
            drop_source: 2,
            ..GuardCounters::default()
        };
        assert_eq!(counters, expected);
        words.zero_all();
        drop(guard);
        assert!(passes(&mut packets, OUTSIDE, &from_vmac), "an orderly exit leaves no filter");
    });
}

#[test]
fn a_sounding_leaves_to_a_peer_only_and_needs_no_lease() {
    require_root!();
    let (inner, _outer) = gateway();
    inner.run(|| {
        let (mut packets, links) = open();
        let (mut guard, _words) = Guard::attach(&links[1], &links[..1]).expect("guard");
        let sounding = |to, from| frame(to, from, 0x88b6, FAR, FAR);
        assert!(!passes(&mut packets, OUTSIDE, &sounding(PEER, links[1].mac)), "no peer yet");
        guard.set_peers([PEER]).expect("peers");
        assert!(passes(&mut packets, OUTSIDE, &sounding(PEER, links[1].mac)));
        assert!(passes(&mut packets, INSIDE, &sounding(PEER, links[0].mac)));
        assert!(!passes(&mut packets, OUTSIDE, &sounding(HOST, links[1].mac)), "a stranger");
        assert!(!passes(&mut packets, OUTSIDE, &sounding(PEER, VMAC)), "in a shard's name");
        let counters = guard.counters().expect("counters");
        assert_eq!((counters.pass_sounding, counters.drop_protocol, counters.drop_lease), (2, 2, 1));
    });
}

/// Set in the child processes of the tests below, to the length of their lease in ms.
const CHILD: &str = "QNAT_TEST_GUARD_CHILD";
/// Lengths of leases that are tried: what a slow machine cannot look at within one, it can within a longer one.
const LEASES_MS: [u64; 3] = [500, 5_000, 30_000];

/// The lease of this process, if it is a child of one of these tests.
fn lease_of_child() -> Option<u64> {
    std::env::var(CHILD).ok().map(|ms| ms.parse::<u64>().expect("a length in ms") * MS)
}

/// Looks at a child with one lease after another, until one was long enough to look.
fn with_leases(looked: impl Fn(u64) -> bool) {
    assert!(LEASES_MS.into_iter().any(looked), "nobody can look at a lease of {LEASES_MS:?} ms in time");
}

/// This test again, in a child process with a lease of its own.
fn child(test: &str, lease_ms: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.args(["--exact", test, "--nocapture"]).env(CHILD, lease_ms.to_string());
    command.stdout(Stdio::piped()).spawn().expect("child")
}

/// Takes the guard away from the egress of `go`, as anybody with privilege can.
fn take_away(by: By) {
    match by {
        By::Tcx => {
            let go = Link::named("go").expect("link").ifindex;
            let programs = bpf::programs_at(go, TcAttachType::Egress).expect("asked");
            let [guard] = programs[..] else { panic!("one program: {programs:?}") };
            Program::of(guard).expect("it is there").take_away(go, TcAttachType::Egress).expect("taken away");
        }
        By::Clsact => {
            let taken = Command::new("tc").args("qdisc del dev go clsact".split(' ')).status().expect("tc runs");
            assert!(taken.success());
        }
    }
}

#[test]
fn a_guard_that_was_taken_away_is_noticed_and_put_back() {
    require_root!();
    for by in [By::Tcx, By::Clsact] {
        let (inner, _outer) = gateway();
        inner.run(move || {
            let links = ["gi", "go"].map(|name| Link::named(name).expect("link"));
            let (mut guard, _words, _) = Guard::attach_by(&links[1], &links[..1], None, by).expect("guard");
            let (mut packets, _) = open();
            let without_lease = frame(HOST, VMAC, 0x0800, FRONTEND, FAR);
            assert!(!passes(&mut packets, OUTSIDE, &without_lease), "{by:?}");
            let seen = guard.look_again();
            assert!(seen.put_back.is_empty() && seen.missing.is_empty(), "nothing was taken away: {seen:?}");
            for _ in 0..2 {
                take_away(by);
                assert!(passes(&mut packets, OUTSIDE, &without_lease), "nobody judges any more");
                let seen = guard.look_again();
                assert_eq!(seen.put_back, ["go"]);
                assert!(seen.missing.is_empty(), "{seen:?}");
                assert!(!passes(&mut packets, OUTSIDE, &without_lease), "judged again");
            }
            let taken = Command::new("ip").args("link del gi".split(' ')).status().expect("ip runs");
            assert!(taken.success());
            let seen = guard.look_again();
            assert_eq!((seen.put_back.len(), seen.missing.len()), (0, 1), "{seen:?}");
            drop(guard);
            assert!(passes(&mut packets, OUTSIDE, &without_lease), "an orderly end leaves nothing that judges");
        });
    }
}

#[test]
fn a_life_takes_the_place_of_an_earlier_one_wherever_that_hung() {
    require_root!();
    for (earlier, later) in [(By::Clsact, By::Tcx), (By::Tcx, By::Clsact), (By::Tcx, By::Tcx)] {
        let (inner, _outer) = gateway();
        inner.run(move || {
            let links = ["gi", "go"].map(|name| Link::named(name).expect("link"));
            let room = |flows| Some(FastSize { workers: 1, flows });
            let attach = |by, room| Guard::attach_by(&links[1], &links[..1], room, by).expect("guard");
            // As a killed process leaves them.
            std::mem::forget(attach(earlier, room(8)));
            let (guard, mut words, _) = attach(later, None);
            let until = boottime::now_ns() + 60_000 * MS;
            words.set(ShardId(SHARD), held(1, until, until));
            let (mut packets, _) = open();
            let from_vmac = frame(HOST, VMAC, 0x0800, FRONTEND, FAR);
            assert!(passes(&mut packets, OUTSIDE, &from_vmac), "{earlier:?} {later:?}: no earlier guard judges");
            for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                let count = bpf::programs_at(links[0].ifindex, side).expect("asked").len();
                assert_eq!(count, usize::from(later == By::Tcx), "{earlier:?} {later:?} {side:?}");
            }
            drop(guard);
        });
    }
}

/// What a configuration of the largest size costs its thread, and a change in it.
#[test]
fn thirty_two_thousand_backends_are_written_once_and_then_by_their_differences() {
    require_root!();
    let (inner, _outer) = gateway();
    inner.run(|| {
        let links = ["gi", "go"].map(|name| Link::named(name).expect("link"));
        let (mut guard, _words) = Guard::attach(&links[1], &links[..1]).expect("guard");
        let backends = |shard: u16, others: u16| {
            (0..32_000_u32).map(move |n| {
                let home = if n % 1000 == 0 { shard } else { others };
                (INSIDE, Ipv4Addr::from_bits(0x0a00_0000 + n), home)
            })
        };
        let mut took = [1, 2, 2].map(|shard| {
            let begun = std::time::Instant::now();
            guard.set_addresses(backends(shard, 1)).expect("addresses");
            begun.elapsed()
        });
        println!("32,000 backends: first {:?}, 32 changed {:?}, none changed {:?}", took[0], took[1], took[2]);
        took.reverse();
        assert!(took[1] < took[2], "a change of 32 costs as much as all");
        guard.set_addresses([]).expect("addresses");
    });
}

#[test]
fn the_guard_outlives_a_killed_process_and_is_replaced_by_the_next_one() {
    require_root!();
    if let Some(lease_ns) = lease_of_child() {
        // Runs inside the parent's namespace: takes lease and grace, says until when, dies without any clean-up.
        let links = ["gi", "go"].map(|name| Link::named(name).expect("link"));
        let (mut guard, mut words) = Guard::attach(&links[1], &links[..1]).expect("guard");
        guard.set_addresses([(OUTSIDE, FRONTEND, SHARD)]).expect("addresses");
        let lease_until_ns = boottime::now_ns() + lease_ns;
        let word = held(1, lease_until_ns, lease_until_ns + lease_ns);
        words.set(ShardId(SHARD), word);
        println!("\nleft {} {}", word.lease_until_ns, word.grace_until_ns);
        std::process::abort();
    }
    with_leases(|lease_ms| {
        let (inner, _outer) = gateway();
        inner.run(move || outlives_a_killed_process(lease_ms))
    });
}

/// Whether it could be looked at in time: the guard of a process that dies with a lease.
fn outlives_a_killed_process(lease_ms: u64) -> bool {
    // Inherits this thread's namespace.
    let mut child = child("the_guard_outlives_a_killed_process_and_is_replaced_by_the_next_one", lease_ms);
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let line = output
        .lines()
        .map(|line| line.expect("text"))
        .find(|line| line.starts_with("left "))
        .expect("the child took its lease");
    let times: Vec<u64> = line.split_whitespace().skip(1).map(|word| word.parse().expect("a time")).collect();
    assert!(child.wait().expect("child").signal().is_some(), "it died, it did not exit");

    let (mut packets, links) = open();
    let from_vmac = frame(HOST, VMAC, 0x0800, FRONTEND, FAR);
    let grace = frame(HOST, links[1].mac, 0x0800, FRONTEND, FAR);
    let within_lease = passes(&mut packets, OUTSIDE, &from_vmac);
    if boottime::now_ns() >= times[0] {
        return false;
    }
    assert!(within_lease, "within the dead process's lease");
    sleep_until(times[0]);
    assert!(!passes(&mut packets, OUTSIDE, &from_vmac));
    let within_grace = passes(&mut packets, OUTSIDE, &grace);
    if boottime::now_ns() >= times[1] {
        return false;
    }
    assert!(within_grace, "within its grace");
    sleep_until(times[1]);
    assert!(!passes(&mut packets, OUTSIDE, &grace), "silence");

    // The next process judges alone: were the old filter still there, it would drop this frame.
    let (_guard, mut words) = Guard::attach(&links[1], &links[..1]).expect("the next guard");
    assert!(!passes(&mut packets, OUTSIDE, &from_vmac), "it starts with nothing");
    let now = boottime::now_ns();
    let word = held(2, now + 60_000 * MS, now + 60_000 * MS);
    words.set(ShardId(SHARD), word);
    assert!(passes(&mut packets, OUTSIDE, &from_vmac));
    true
}

/// A child process that does not outlive its test, whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends from the vMAC for ever, by a check that never says no, as a process does that was stopped right after its check.
#[expect(clippy::print_stdout, reason = "the parent test reads it")]
fn send_for_ever(lease_ns: u64) -> ! {
    let links = ["gi", "go"].map(|name| Link::named(name).expect("link"));
    let (mut guard, mut words) = Guard::attach(&links[1], &links[..1]).expect("guard");
    guard.set_peers([PEER]).expect("peers");
    let (mut packets, _) = open();
    let until = boottime::now_ns() + lease_ns;
    words.set(ShardId(SHARD), held(1, until, until));
    let from_vmac = frame(HOST, VMAC, 0x0800, FRONTEND, FAR);
    println!("\nlease {until}");
    let mut told = false;
    loop {
        packets.transmit(OUTSIDE, FrameMeta::default(), 0, &from_vmac);
        packets.flush(&mut |_| true).expect("flush");
        packets.wait(Duration::from_millis(1), || false).expect("wait");
        packets.receive(&mut |_, _, _| Disposition::Done);
        if !told && packets.stats(OUTSIDE).refused_by_kernel >= 20 {
            told = true;
            println!("refused");
        }
    }
}

#[test]
fn a_stopped_process_that_wakes_up_after_its_lease_emits_nothing() {
    require_root!();
    if let Some(lease_ns) = lease_of_child() {
        send_for_ever(lease_ns);
    }
    with_leases(wakes_up_after_its_lease);
}

/// What has come at the outer end of `go`.
#[derive(Default)]
struct Arrivals {
    seen: Mutex<Seen>,
    more: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    from_vmac: usize,
    /// Frames to [`PEER`]: those of [`Marker`].
    markers: usize,
}

impl Arrivals {
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().expect("nobody panics with it"));
        self.more.notify_all();
    }

    /// Waits until something has come, but not beyond a time. What has come by then.
    fn wait_for(&self, until_ns: u64, come: impl Fn(&Seen) -> bool) -> Seen {
        let bound = Duration::from_nanos(until_ns.saturating_sub(boottime::now_ns()));
        let seen = self.seen.lock().expect("nobody panics with it");
        *self.more.wait_timeout_while(seen, bound, |seen| !come(seen)).expect("nobody panics with it").0
    }
}

/// A way to know that all that was sent before has come: a frame of its own behind it on the same wire, which the guard
/// lets through as a Forward.
struct Marker {
    packets: PacketLoop,
    frame: Vec<u8>,
    sent: usize,
}

impl Marker {
    fn new() -> Self {
        let (packets, links) = open();
        Self { packets, frame: frame(PEER, links[1].mac, 0x0800, BACKEND, FAR), sent: 0 }
    }

    /// How many frames of the shard have come, of all that were sent before.
    fn count(&mut self, seen: &Arrivals) -> usize {
        assert!(passes(&mut self.packets, OUTSIDE, &self.frame), "a Forward needs no lease");
        self.sent += 1;
        let seen = seen.wait_for(boottime::now_ns() + 20_000 * MS, |seen| seen.markers >= self.sent);
        assert!(seen.markers >= self.sent, "the marker is lost");
        seen.from_vmac
    }
}

/// Whether it could be looked at in time: a process that is stopped within its lease and goes on after it.
fn wakes_up_after_its_lease(lease_ms: u64) -> bool {
    let (inner, outer) = gateway();
    let (stop, arrivals) = (Arc::new(AtomicBool::new(false)), Arc::new(Arrivals::default()));
    let outer_side = outer.spawn({
        let (stop, arrivals) = (stop.clone(), arrivals.clone());
        move || {
            let (mut packets, _) = open_on(["oi", "oo"]);
            while !stop.load(Ordering::Relaxed) {
                packets.wait(Duration::from_millis(20), || false).expect("wait");
                packets.receive(&mut |_, _, frame| {
                    if frame[6..12] == VMAC {
                        arrivals.note(|seen| seen.from_vmac += 1);
                    }
                    if frame[..6] == PEER {
                        arrivals.note(|seen| seen.markers += 1);
                    }
                    Disposition::Done
                });
            }
        }
    });
    let seen = arrivals.clone();
    let before = inner.run(move || {
        let mut child = Killed(child("a_stopped_process_that_wakes_up_after_its_lease_emits_nothing", lease_ms));
        let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines().map(|line| line.expect("text"));
        let lease = lines.find(|line| line.starts_with("lease ")).expect("the child took its lease");
        let lease_until_ns = lease["lease ".len()..].parse().expect("a time");
        let mut marker = Marker::new();
        seen.wait_for(lease_until_ns, |seen| seen.from_vmac > 0);
        let pid = Pid::from_child(&child.0);
        kill_process(pid, Signal::STOP).expect("stop");
        if boottime::now_ns() >= lease_until_ns {
            return None;
        }
        sleep_until(lease_until_ns);
        let before = marker.count(&seen);
        kill_process(pid, Signal::CONT).expect("continue");
        assert!(lines.any(|line| line == "refused"), "it went on sending, and the kernel refused");
        Some((before, marker.count(&seen)))
    });
    stop.store(true, Ordering::Relaxed);
    outer_side.join().expect("outer side");
    let Some((before, after)) = before else { return false };
    assert!(before > 0, "within the lease frames arrive");
    assert_eq!(after, before, "frames that came after the lease");
    true
}
