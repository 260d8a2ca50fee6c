//! The packet loop between two real network stacks in namespaces.

mod net;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use net::Namespace;
use qnat_netio::bell::Doorbell;
use qnat_netio::boottime;
use qnat_netio::link::{Link, LinkState};
use qnat_netio::packet::PacketLoop;
use qnat_netio::port::{Disposition, Interface, LoopLimits, PortConfig, PortStats, Reception};
use qnat_netio::socket::BufferLimits;
use words::{ChecksumState, FrameMeta, Gso, Share};

fn open(limits: LoopLimits, bell: Doorbell) -> PacketLoop {
    let port = |name| PortConfig {
        link: Link::named(name).expect("link"),
        limits: BufferLimits::default(),
        reception: Reception::Promiscuous,
    };
    PacketLoop::new((&port("go"), &[port("gi")]), limits, bell, Share::WHOLE).expect("packet loop")
}

/// client 10.99.0.1 – gi [gateway] go – server 10.99.0.2, one subnet: the loop is a wire between them.
struct Wire {
    client: Namespace,
    gateway: Namespace,
    server: Namespace,
}

impl Wire {
    fn new() -> Self {
        let wire = Self { client: Namespace::new("c"), gateway: Namespace::new("g"), server: Namespace::new("s") };
        wire.client.veth("eth0", &wire.gateway, "gi");
        wire.server.veth("eth0", &wire.gateway, "go");
        wire.client.ip("address add 10.99.0.1/24 dev eth0");
        wire.server.ip("address add 10.99.0.2/24 dev eth0");
        wire
    }
}

/// What a forwarding loop saw.
#[derive(Debug, Clone, Copy)]
struct Seen {
    longest: usize,
    segmented: usize,
    partial_checksums: usize,
    stats: [PortStats; 2],
}

/// What the kernel says of the links, inside first.
fn states(packets: &mut PacketLoop) -> [LinkState; 2] {
    packets.look_at_links(boottime::now_ns());
    [Interface::inside(0), Interface::OUTSIDE].map(|interface| packets.link_state(interface))
}

/// Forwards every frame to the other side until told to stop.
fn forward(limits: LoopLimits, bell: Doorbell, stop: &AtomicBool, ready: &Sender<()>) -> Seen {
    let mut packets = open(limits, bell);
    // From here on the sockets hold what arrives.
    ready.send(()).expect("the test waits");
    let (mut longest, mut segmented, mut partial_checksums) = (0, 0, 0);
    while !stop.load(Ordering::Relaxed) {
        packets.wait(Duration::from_millis(200), || stop.load(Ordering::Relaxed)).expect("wait");
        packets.receive(&mut |from, meta, frame| {
            longest = longest.max(frame.len());
            segmented += usize::from(meta.gso != Gso::None);
            partial_checksums += usize::from(matches!(meta.checksum, ChecksumState::Partial { .. }));
            let interface = if from == Interface::OUTSIDE { Interface::inside(0) } else { Interface::OUTSIDE };
            Disposition::Transmit { interface, tag: 0 }
        });
        packets.flush(&mut |_| true).expect("flush");
    }
    let stats = [packets.stats(Interface::inside(0)), packets.stats(Interface::OUTSIDE)];
    Seen { longest, segmented, partial_checksums, stats }
}

#[test]
fn a_bulk_tcp_stream_crosses_whole_in_super_packets() {
    require_root!();
    const BYTES: usize = 64 << 20;
    let wire = Wire::new();
    let bell = Doorbell::new().expect("bell");
    let ringer = bell.ringer();
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, listening) = std::sync::mpsc::channel();
    let gateway = wire.gateway.spawn({
        let (stop, ready) = (stop.clone(), ready.clone());
        move || forward(LoopLimits::default(), bell, &stop, &ready)
    });
    listening.recv().expect("the gateway lives");
    let server = wire.server.spawn(move || {
        let listener = TcpListener::bind("10.99.0.2:5001").expect("bind");
        ready.send(()).expect("the test waits");
        let (mut stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        let (mut buffer, mut at) = (vec![0; 1 << 20], 0_usize);
        loop {
            let count = stream.read(&mut buffer).expect("read");
            if count == 0 {
                break;
            }
            for byte in &buffer[..count] {
                assert_eq!(*byte, pattern(at), "at byte {at}");
                at += 1;
            }
        }
        stream.write_all(&at.to_be_bytes()).expect("write");
    });
    listening.recv().expect("the server lives");
    let received = wire.client.run(|| {
        let mut stream =
            TcpStream::connect_timeout(&"10.99.0.2:5001".parse().expect("address"), Duration::from_secs(10))
                .expect("connect");
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("timeout");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        let chunk: Vec<u8> = (0..251 * 4096).map(pattern).collect();
        let mut left = BYTES;
        while left > 0 {
            let part = left.min(chunk.len());
            stream.write_all(&chunk[..part]).expect("write");
            left -= part;
        }
        stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let mut count = [0; 8];
        stream.read_exact(&mut count).expect("the server's count");
        usize::from_be_bytes(count)
    });
    server.join().expect("server");
    stop.store(true, Ordering::Relaxed);
    ringer.ring();
    let seen = gateway.join().expect("gateway");
    assert_eq!(received, BYTES);
    assert!(seen.longest > 32_000, "super-packets pass whole: {seen:?}");
    assert!(seen.segmented > 0 && seen.partial_checksums > 0, "{seen:?}");
    for stats in seen.stats {
        assert_eq!((stats.receive_errors, stats.transmit_errors, stats.link_down), (0, 0, 0), "{seen:?}");
    }
}

/// Period 251, so that a shifted or repeated piece shows.
fn pattern(at: usize) -> u8 {
    u8::try_from(at % 251).expect("below 251")
}

#[test]
fn few_buffers_lose_nothing_that_the_kernel_can_hold() {
    require_root!();
    let wire = Wire::new();
    // Known neighbours: a stack that resolves one may let later datagrams overtake those that waited for the answer.
    wire.client.ip("link set eth0 address 02:00:00:00:00:01");
    wire.server.ip("link set eth0 address 02:00:00:00:00:02");
    wire.client.ip("neighbour replace 10.99.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent");
    let bell = Doorbell::new().expect("bell");
    let ringer = bell.ringer();
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, listening) = std::sync::mpsc::channel();
    let limits = LoopLimits { receive_buffers: 4, transmit_buffers: 1, requests: 2 };
    let gateway = wire.gateway.spawn({
        let (stop, ready) = (stop.clone(), ready.clone());
        move || forward(limits, bell, &stop, &ready)
    });
    listening.recv().expect("the gateway lives");
    const COUNT: usize = 2000;
    let arrived = Arc::new(AtomicUsize::new(0));
    let server = wire.server.spawn({
        let arrived = arrived.clone();
        move || {
            let socket = UdpSocket::bind("10.99.0.2:5002").expect("bind");
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
            ready.send(()).expect("the test waits");
            let mut buffer = [0; 64];
            for expected in 0..COUNT {
                let count = socket.recv(&mut buffer).expect("a datagram");
                assert_eq!(buffer[..count], expected.to_be_bytes(), "in order");
                arrived.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    listening.recv().expect("the server lives");
    wire.client.run({
        let arrived = arrived.clone();
        move || {
            let socket = UdpSocket::bind("10.99.0.1:0").expect("bind");
            for number in 0..COUNT {
                // At most 100 ahead: within every kernel queue.
                let deadline = Instant::now() + Duration::from_secs(10);
                while number > arrived.load(Ordering::Relaxed) + 100 {
                    assert!(Instant::now() < deadline, "stuck at {number}");
                    std::thread::yield_now();
                }
                socket.send_to(&number.to_be_bytes(), "10.99.0.2:5002").expect("send");
            }
        }
    });
    server.join().expect("server");
    stop.store(true, Ordering::Relaxed);
    ringer.ring();
    let seen = gateway.join().expect("gateway");
    assert!(seen.stats[0].received >= 2000, "{seen:?}");
    assert_eq!(seen.stats[1].transmitted, seen.stats[0].received, "{seen:?}");
}

/// Waits until the kernel says that a thread of this process sleeps.
fn until_asleep(thread: i32) {
    let begun = Instant::now();
    loop {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).expect("the thread lives");
        // The name, in brackets, may contain anything.
        if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S')) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it never sleeps: {stat}");
        std::thread::yield_now();
    }
}

#[test]
fn an_idle_loop_sleeps_until_the_bell_rings() {
    require_root!();
    let wire = Wire::new();
    let bell = Doorbell::new().expect("bell");
    let ringer = bell.ringer();
    let (asleep, waiting) = std::sync::mpsc::channel();
    let gateway = wire.gateway.spawn(move || {
        let thread = rustix::thread::gettid().as_raw_nonzero();
        let mut packets = open(LoopLimits::default(), bell);
        // The first look takes what the links' start left over.
        packets.wait(Duration::from_millis(1), || false).expect("wait");
        let mut slept = Vec::new();
        for timeout in [Duration::from_millis(50), Duration::from_secs(30)] {
            let started = Instant::now();
            packets
                .wait(timeout, || {
                    asleep.send(thread).expect("the test waits");
                    false
                })
                .expect("wait");
            slept.push((started.elapsed(), Instant::now()));
        }
        // Pending work is not slept over.
        let started = Instant::now();
        packets.wait(Duration::from_secs(30), || true).expect("wait");
        slept.push((started.elapsed(), Instant::now()));
        slept
    });
    waiting.recv().expect("first sleep");
    until_asleep(waiting.recv().expect("second sleep").get());
    let rung = Instant::now();
    ringer.ring();
    let slept = gateway.join().expect("gateway");
    assert!(slept[0].0 >= Duration::from_millis(40) && slept[0].0 < Duration::from_secs(20), "{slept:?}");
    assert!(slept[1].1 >= rung && slept[1].0 < Duration::from_secs(20), "not before the bell: {slept:?}");
    assert!(slept[2].0 < Duration::from_secs(20), "{slept:?}");
}

#[test]
fn a_loop_at_rest_is_woken_by_the_bell_alone_and_finds_what_has_arrived() {
    require_root!();
    let wire = Wire::new();
    let (bell, stop) = (Doorbell::new().expect("bell"), Arc::new(AtomicBool::new(false)));
    let (ringer, seen) = (bell.ringer(), Arc::clone(&stop));
    let (ready, opened) = std::sync::mpsc::channel();
    let gateway = wire.gateway.spawn(move || {
        let mut packets = open(LoopLimits::default(), bell);
        packets.wait(Duration::ZERO, || false).expect("wait");
        ready.send(()).expect("the test waits");
        // The longest rest there is; the sender fills all of it.
        let began = Instant::now();
        let rest = Duration::from_millis(900);
        packets.rest(rest, || false).expect("rest");
        let (rested, mut arrived) = (began.elapsed(), 0);
        packets.receive(&mut |_, _, _| {
            arrived += 1;
            Disposition::Done
        });
        seen.store(true, Ordering::Relaxed);
        // What the sender still sends is not to wake it either.
        std::thread::sleep(Duration::from_millis(50));
        packets.wait(Duration::ZERO, || false).expect("wait");
        packets.receive(&mut |_, _, _| Disposition::Done);
        let rung = Instant::now();
        packets.rest(rest, || false).expect("rest");
        (rested, arrived, rung.elapsed())
    });
    opened.recv().expect("the loop is open");
    let sender = wire.client.spawn(move || {
        let socket = UdpSocket::bind("10.99.0.1:0").expect("bound");
        socket.set_broadcast(true).expect("may");
        while !stop.load(Ordering::Relaxed) {
            socket.send_to(b"one of many", "10.99.0.255:9").expect("sent");
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    sender.join().expect("sender");
    ringer.ring();
    while !gateway.is_finished() {
        std::thread::sleep(Duration::from_millis(1));
        ringer.ring();
    }
    let (rested, arrived, rung) = gateway.join().expect("loop");
    assert!(rested >= Duration::from_millis(890), "frames woke it after {rested:?}");
    assert!(arrived > 10, "{arrived} of some ninety frames");
    assert!(rung < Duration::from_millis(800), "the bell did not: {rung:?}");
}

#[test]
fn a_link_that_went_down_and_came_back_is_served_again() {
    require_root!();
    let wire = Wire::new();
    let bell = Doorbell::new().expect("bell");
    let (commands, orders) = std::sync::mpsc::channel::<[LinkState; 2]>();
    let (answers, reports) = std::sync::mpsc::channel::<bool>();
    let gateway = wire.gateway.spawn(move || {
        let mut packets = open(LoopLimits::default(), bell);
        for wanted in orders {
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut reached = false;
            while !reached && Instant::now() < deadline {
                packets.wait(Duration::from_millis(20), || false).expect("wait");
                packets.receive(&mut |_, _, _| Disposition::Done);
                packets.transmit(Interface::inside(0), FrameMeta::default(), 0, &arp_frame());
                packets.flush(&mut |_| true).expect("flush");
                reached = states(&mut packets) == wanted;
            }
            answers.send(reached).expect("the test waits");
        }
        let before = packets.stats(Interface::inside(0));
        let deadline = Instant::now() + Duration::from_secs(10);
        while packets.stats(Interface::inside(0)).received == before.received && Instant::now() < deadline {
            packets.wait(Duration::from_millis(20), || false).expect("wait");
            packets.receive(&mut |_, _, _| Disposition::Done);
        }
        (before, packets.stats(Interface::inside(0)))
    });
    let reach = |wanted| {
        commands.send(wanted).expect("the gateway lives");
        assert!(reports.recv().expect("the gateway lives"), "links never became {wanted:?}");
    };
    reach([LinkState::Up, LinkState::Up]);
    wire.gateway.ip("link set gi down");
    reach([LinkState::Down, LinkState::Up]);
    wire.gateway.ip("link set gi up");
    reach([LinkState::Up, LinkState::Up]);
    drop(commands);
    // Whoever has no address of its neighbour yet asks for it once a second at most: it sends until something has come.
    let heard = Arc::new(AtomicBool::new(false));
    let pinger = wire.client.spawn({
        let heard = heard.clone();
        move || {
            let socket = UdpSocket::bind("10.99.0.1:0").expect("bind");
            while !heard.load(Ordering::Relaxed) {
                let _ = socket.send_to(b"x", "10.99.0.2:9");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    });
    let (before, after) = gateway.join().expect("gateway");
    heard.store(true, Ordering::Relaxed);
    pinger.join().expect("pinger");
    assert!(before.receive_errors >= 1, "the socket heard of the link: {before:?}");
    assert!(before.link_down >= 1, "a frame was refused meanwhile: {before:?}");
    assert!(after.received > before.received, "{after:?}");
}

#[test]
fn an_interface_that_was_made_anew_is_not_taken_for_the_old_one() {
    require_root!();
    let (inner, outer) = (net::Namespace::new("g"), net::Namespace::new("o"));
    inner.veth("gi", &outer, "oi");
    inner.veth("go", &outer, "oo");
    let bell = Doorbell::new().expect("bell");
    let (commands, orders) = std::sync::mpsc::channel::<[LinkState; 2]>();
    let (answers, reports) = std::sync::mpsc::channel::<[LinkState; 2]>();
    let gateway = inner.spawn(move || {
        let mut packets = open(LoopLimits::default(), bell);
        for wanted in orders {
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut seen = states(&mut packets);
            while seen != wanted && Instant::now() < deadline {
                packets.wait(Duration::from_millis(20), || false).expect("wait");
                packets.receive(&mut |_, _, _| Disposition::Done);
                seen = states(&mut packets);
            }
            answers.send(seen).expect("the test waits");
        }
    });
    let reach = |wanted| {
        commands.send(wanted).expect("the gateway lives");
        assert_eq!(reports.recv().expect("the gateway lives"), wanted);
    };
    reach([LinkState::Up, LinkState::Up]);
    let mac = inner.run(|| Link::named("go").expect("link").mac);
    let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
    inner.ip("link del go");
    reach([LinkState::Up, LinkState::Gone]);
    inner.veth("go", &outer, "oo");
    inner.ip(&format!("link set go address {mac}"));
    reach([LinkState::Up, LinkState::Anew]);
    inner.ip("link set gi address 02:00:00:00:aa:01");
    reach([LinkState::Anew, LinkState::Anew]);
    drop(commands);
    gateway.join().expect("gateway");
}

/// A frame passes the guard for V after the turn that judged it (L5): so none may be left for a later turn, which would
/// stamp the word anew, and no send may go on in the kernel by itself. What the device's queue does not take is dead.
#[test]
fn a_send_that_finds_no_room_is_over_when_the_flush_is() {
    require_root!();
    let wire = Wire::new();
    wire.gateway.exec("tc qdisc add dev go root tbf rate 8kbit burst 1600 limit 1000000");
    let stats = wire.gateway.run(|| {
        let port = |name| PortConfig {
            link: Link::named(name).expect("link"),
            limits: BufferLimits { send_bytes: 32 << 10, ..BufferLimits::default() },
            reception: Reception::Promiscuous,
        };
        let bell = Doorbell::new().expect("bell");
        let limits = LoopLimits { requests: 32, ..LoopLimits::default() };
        let mut packets =
            PacketLoop::new((&port("go"), &[port("gi")]), limits, bell, Share::WHOLE).expect("packet loop");
        let mut frame = [0; 1000];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0]);
        let room = packets.transmit_room();
        for turn in 0..4 {
            for _ in 0..room {
                assert!(packets.transmit(Interface::OUTSIDE, FrameMeta::default(), 0, &frame));
            }
            packets.flush(&mut |_| true).expect("flush");
            assert_eq!(packets.transmit_room(), room, "turn {turn}: sends are under way");
        }
        let ended = packets.stats(Interface::OUTSIDE);
        // Nor does anything leave later, when there is room again.
        packets.wait(Duration::from_millis(300), || false).expect("wait");
        let later = packets.stats(Interface::OUTSIDE);
        assert_eq!((later.transmitted, later.refused_by_kernel), (ended.transmitted, ended.refused_by_kernel));
        ended
    });
    assert!(stats.transmitted > 0 && stats.refused_by_kernel > 500, "the queue was never full: {stats:?}");
}

fn arp_frame() -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[8, 6]);
    frame
}
