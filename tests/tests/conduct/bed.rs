//! The lab with raw ends: b1 to b3 inside, the internet outside. Every frame that arrives anywhere is examined for its
//! checksums, whatever a check is waiting for.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use qnat_ends::{End, Silence};
use qnat_reference::packet::{ETH, ICMP, TCP, UDP, addresses, be16, examine, icmp, ipv4, tcp, udp};
use qnat_tests::lab::{Lab, wait_until};

/// The internet's addresses.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
/// The backends' gateway.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// How long a packet may take.
const WITHIN: Duration = Duration::from_secs(2);
/// After how long a packet is sent again, and how often in all: a machine that is kept from running for a tenth of a second
/// costs an owner its lease.
pub(crate) const RESENT_AFTER: Duration = Duration::from_millis(700);
pub(crate) const SENT_AT_MOST: u16 = 4;
/// How many of a hundred exchanges of frames may need a second try, beside one that always may.
const AGAIN_MAX_PERCENT: u32 = 1;
/// How long nothing has to come where nothing may.
const SILENT_FOR: Duration = Duration::from_millis(150);

/// Beds of this run so far.
static BEDS: AtomicU16 = AtomicU16::new(0);
/// Exchanges of frames of this run so far, and those that needed a second try.
static EXCHANGES: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];

/// Says how often frames were sent again. More than a few were lost by the gateway, and not by the machine.
pub(crate) fn loses_few() -> bool {
    let [all, again] = EXCHANGES.each_ref().map(|count| count.load(Ordering::Relaxed));
    let few = again <= 1.max(all * AGAIN_MAX_PERCENT / 100);
    eprintln!("frames sent again: {again} of {all} exchanges{}", if few { "" } else { ": more than one in a hundred" });
    few
}

/// Ports of TCP and UDP, source first.
pub(crate) type Ports = (u16, u16);

/// A backend's end.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) end: End,
    pub(crate) address: Ipv4Addr,
    gateway: [u8; 6],
    /// Where the internet sees it, and the Ethernet address that this one is reached by.
    pub(crate) public: Ipv4Addr,
    shard: [u8; 6],
    _silence: Silence,
}

impl Backend {
    /// A backend of a lab, which finds the gateway by its own stack and is silent from then on.
    pub(crate) fn of(lab: &Lab, number: u8) -> Self {
        let end = End::open(&format!("qnat-b{number}"), "eth0").expect("a raw socket inside");
        end.hello(SERVER).expect("a way out");
        let gateway = end.neighbour(GATEWAY).expect("the gateway answers");
        let silence = end.silence().expect("nft");
        let frontend = lab.ports_of(&format!("b{number}"))["frontend"].clone();
        let public = frontend.as_str().and_then(|text| text.parse().ok()).expect("a public address");
        let address = Ipv4Addr::new(10, 0, 1, number);
        Self { end, address, gateway, public, shard: [0; 6], _silence: silence }
    }

    /// A frame of its own to anywhere.
    pub(crate) fn packet(&self, to: Ipv4Addr, proto: u8, payload: &[u8]) -> Vec<u8> {
        ipv4((self.end.mac, self.gateway), self.address, to, proto, payload)
    }

    pub(crate) fn datagram(&self, to: Ipv4Addr, ports: Ports, data: &[u8]) -> Vec<u8> {
        self.packet(to, UDP, &udp(ports.0, ports.1, data))
    }
}

/// Both sides of the gateway.
#[derive(Debug)]
pub(crate) struct Bed<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) b1: Backend,
    pub(crate) b2: Backend,
    /// Only sends: one of the exchanges uses up all of its ports.
    pub(crate) b3: Backend,
    pub(crate) inet: End,
    _silence: Silence,
}

impl<'a> Bed<'a> {
    /// Learns all addresses by the hosts' own stacks, then silences them.
    pub(crate) fn new(lab: &'a Lab) -> Self {
        let inet = End::open("qnat-inet", "eth0").expect("a raw socket outside");
        let [mut b1, mut b2, b3] = [1, 2, 3].map(|number| Backend::of(lab, number));
        let silence = inet.silence().expect("nft");
        forget_own([&b1.end, &b2.end, &b3.end, &inet]);
        // A flow of this bed's, under the rules of now: those of others in the same lab live on.
        let port = 20_000 + BEDS.fetch_add(1, Ordering::Relaxed);
        for backend in [&mut b1, &mut b2] {
            let asks = backend.datagram(OTHER, (port, 7), b"who am I");
            let seen = across((&backend.end, &inet), &[asks], |seen| seen.is_udp(|ports| ports.1 == 7));
            assert_eq!(addresses(&seen).0, backend.public, "the frontend of its lease");
            backend.shard.copy_from_slice(&seen[6..12]);
        }
        Self { lab, b1, b2, b3, inet, _silence: silence }
    }

    /// A frame from the internet to the public address of a backend.
    pub(crate) fn answer(&self, from: Ipv4Addr, to: &Backend, proto: u8, payload: &[u8]) -> Vec<u8> {
        ipv4((self.inet.mac, to.shard), from, to.public, proto, payload)
    }

    /// What leaves of a packet of a backend: translated, one hop older, and otherwise to whom it was sent.
    pub(crate) fn out(&self, backend: &Backend, frame: &[u8]) -> Vec<u8> {
        let sent = View(frame);
        let seen = self.provokes((&backend.end, &self.inet), frame, |seen| {
            addresses(seen.0).1 == addresses(frame).1 && seen.is_from(&sent, 2..4)
        });
        assert_eq!(addresses(&seen).0, backend.public, "the source");
        assert_eq!(View(&seen).ttl() + 1, sent.ttl(), "one hop");
        seen
    }

    /// What reaches a backend of a packet from outside.
    pub(crate) fn back(&self, backend: &Backend, frame: &[u8]) -> Vec<u8> {
        let sent = View(frame);
        let seen = self.provokes((&self.inet, &backend.end), frame, |seen| {
            addresses(seen.0).0 == addresses(frame).0 && seen.is_from(&sent, 0..2)
        });
        assert_eq!(addresses(&seen).1, backend.address, "the destination");
        assert_eq!(View(&seen).ttl() + 1, sent.ttl(), "one hop");
        seen
    }

    /// Sends a datagram to a new remote; the public end that it leaves from.
    pub(crate) fn open(&self, backend: &Backend, to: Ipv4Addr, ports: Ports) -> u16 {
        let seen = self.out(backend, &backend.datagram(to, ports, &ports.0.to_be_bytes()));
        assert_eq!(View(&seen).ports().1, ports.1);
        View(&seen).ports().0
    }

    /// Sends a segment of a connection of a backend; the public port.
    pub(crate) fn segment(&self, backend: &Backend, ports: Ports, numbers: (u32, u32), flags: u8, data: &[u8]) -> u16 {
        let seen = self.out(backend, &backend.packet(SERVER, TCP, &tcp(ports, numbers, flags, &[], data)));
        let (sent, seen) = (View(&seen), ports);
        assert_eq!(sent.ports().1, seen.1);
        assert_eq!(&sent.body()[4..14], &tcp(ports, numbers, flags, &[], data)[4..14], "numbers and flags");
        sent.ports().0
    }

    /// Sends a segment of the internet's to a public port of a backend; it has to arrive at the inside port.
    pub(crate) fn reply(&self, to: &Backend, (from, public, inside): (u16, u16, u16), numbers: (u32, u32), flags: u8) {
        let frame = self.answer(SERVER, to, TCP, &tcp((from, public), numbers, flags, &[], b""));
        let seen = self.back(to, &frame);
        assert_eq!(View(&seen).ports(), (from, inside));
        assert_eq!(&View(&seen).body()[4..14], &tcp((from, public), numbers, flags, &[], b"")[4..14]);
    }

    /// What arrives at one end because of a frame that another sends, as often as it takes.
    pub(crate) fn provokes(&self, between: (&End, &End), frame: &[u8], fits: impl Fn(View<'_>) -> bool) -> Vec<u8> {
        across(between, &[frame], fits)
    }

    /// All that comes to an end for a while.
    pub(crate) fn all(&self, at: &End, time: Duration) -> Vec<Vec<u8>> {
        let frames = at.receive(time).expect("a socket");
        frames.iter().for_each(|frame| check(frame));
        frames
    }

    /// Nothing that fits comes to an end.
    pub(crate) fn nothing(&self, at: &End, what: &str, fits: impl Fn(View<'_>) -> bool) {
        nothing_for(at, what, SILENT_FOR, fits);
    }

    /// The next frame that fits.
    pub(crate) fn wait(&self, at: &End, what: &str, fits: impl Fn(View<'_>) -> bool) -> Vec<u8> {
        first(at, what, fits)
    }

    /// Does what lets a mapping of b1 end soon, and waits for that. If its shard was taken over meanwhile, the flow has all
    /// its time again (I48), and it is done once more; otherwise the mapping has to end.
    pub(crate) fn ends(&self, remote_port: u16, within: Duration, lets_it_end: impl Fn(&Self)) {
        for _ in 0..10 {
            let term = self.lab.term_of("b1");
            lets_it_end(self);
            let began = Instant::now();
            while began.elapsed() < within {
                if self.lab.live_mappings("10.0.1.1", remote_port).is_empty() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            assert_ne!(self.lab.term_of("b1"), term, "waited {within:?} for the mapping towards {remote_port} to end");
            eprintln!("taken over while the mapping towards {remote_port} had to end: once more");
        }
        panic!("the shard was taken over again and again");
    }

    /// Kills the owner of b1's shard and waits until the successors of all shards serve.
    pub(crate) fn fail_over(&self) {
        let killed = self.lab.kill_owner_of("b1");
        for backend in ["b1", "b2", "b3"] {
            self.lab.wait_for_successor(backend, killed);
        }
        wait_until("all shards to be served", WITHIN * 5, || {
            let status = self.lab.status();
            let rows = status["shards"].as_array().cloned().unwrap_or_default();
            !rows.is_empty() && rows.iter().all(|row| row["serving"] == "yes" && row["owner"] != killed)
        });
        // A switch learns the new place of a virtual MAC with the announcement that follows.
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Forgets what the hosts' own stacks have sent: its checksums are left to a device.
pub(crate) fn forget_own<const N: usize>(ends: [&End; N]) {
    std::thread::sleep(Duration::from_millis(200));
    for end in ends {
        end.drain().expect("a socket");
    }
}

/// Sends frames from one end, all of them again and again, until what fits arrives at the other: so does a sender who hears
/// nothing. Copies that come later are forgotten.
fn across((from, to): (&End, &End), frames: &[impl AsRef<[u8]>], fits: impl Fn(View<'_>) -> bool) -> Vec<u8> {
    let mut others = Vec::new();
    EXCHANGES[0].fetch_add(1, Ordering::Relaxed);
    for sent in 0..SENT_AT_MOST {
        if sent == 1 {
            EXCHANGES[1].fetch_add(1, Ordering::Relaxed);
        }
        for frame in frames {
            from.send(frame.as_ref()).expect("sending");
        }
        if let Some(seen) = next(to, RESENT_AFTER, &fits, &mut others) {
            if sent > 0 {
                let _none_fits = next(to, SILENT_FOR, |_| false, &mut others);
            }
            return seen;
        }
    }
    let frames = frames.iter().map(|frame| View(frame.as_ref()).summary());
    panic!("no answer to {:#?}, but there came {others:#?}", frames.collect::<Vec<_>>());
}

/// The first frame at an end that fits.
fn first(at: &End, what: &str, fits: impl Fn(View<'_>) -> bool) -> Vec<u8> {
    let mut others = Vec::new();
    let seen = next(at, WITHIN, fits, &mut others);
    seen.unwrap_or_else(|| panic!("waited for {what}, but there came {others:#?}"))
}

/// The same if it comes in time; notes what else does.
pub(crate) fn next(
    at: &End,
    within: Duration,
    fits: impl Fn(View<'_>) -> bool,
    others: &mut Vec<String>,
) -> Option<Vec<u8>> {
    let until = Instant::now() + within;
    while let Some(frame) = at.next(until).expect("a socket") {
        check(&frame);
        if fits(View(&frame)) {
            return Some(frame);
        }
        others.push(View(&frame).summary());
    }
    None
}

/// Nothing that fits comes to an end for a while.
pub(crate) fn nothing_for(at: &End, what: &str, time: Duration, fits: impl Fn(View<'_>) -> bool) {
    for frame in at.receive(time).expect("a socket") {
        check(&frame);
        assert!(!fits(View(&frame)), "{what}: {}", View(&frame).summary());
    }
}

fn check(frame: &[u8]) {
    if let Err(wrong) = examine(frame) {
        panic!("{wrong} in {}", View(frame).summary());
    }
}

/// A received frame, read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a>(pub(crate) &'a [u8]);

impl<'a> View<'a> {
    pub(crate) fn proto(self) -> u8 {
        self.0[ETH + 9]
    }

    pub(crate) fn ttl(self) -> u8 {
        self.0[ETH + 8]
    }

    pub(crate) fn id(self) -> u16 {
        be16(self.0, ETH + 4)
    }

    /// The IP packet, without padding.
    pub(crate) fn packet(self) -> &'a [u8] {
        &self.0[ETH..ETH + usize::from(be16(self.0, ETH + 2))]
    }

    /// Behind the IP header, without padding.
    pub(crate) fn body(self) -> &'a [u8] {
        &self.packet()[usize::from(self.0[ETH] & 15) * 4..]
    }

    /// Source and destination port; of an ICMP query its identifier, twice.
    pub(crate) fn ports(self) -> Ports {
        let body = self.body();
        if self.proto() == ICMP { (be16(body, 4), be16(body, 4)) } else { (be16(body, 0), be16(body, 2)) }
    }

    /// Type and code of an ICMP message.
    pub(crate) fn kind(self) -> Option<(u8, u8)> {
        (self.proto() == ICMP).then(|| (self.body()[0], self.body()[1]))
    }

    pub(crate) fn is_udp(self, ports: impl Fn(Ports) -> bool) -> bool {
        self.proto() == UDP && ports(self.ports())
    }

    pub(crate) fn is_tcp(self, ports: impl Fn(Ports) -> bool) -> bool {
        self.proto() == TCP && ports(self.ports())
    }

    /// Whether this may be `sent` after its translation: the port that stays (of ICMP, the sequence number) and all that is
    /// no port and no checksum.
    fn is_from(self, sent: &View<'_>, port: std::ops::Range<usize>) -> bool {
        let alike = self.proto() == sent.proto();
        let (seen, sent) = (self.body(), sent.body());
        let same = |range: std::ops::Range<usize>| seen.get(range.clone()) == sent.get(range);
        let fields = match self.proto() {
            ICMP => same(0..2) && same(6..sent.len()),
            UDP => same(port) && same(8..sent.len()),
            _ => same(port) && same(4..14),
        };
        alike && seen.len() == sent.len() && fields
    }

    fn summary(self) -> String {
        let (from, to) = addresses(self.0);
        let start = &self.body()[..self.body().len().min(24)];
        format!("{from} to {to}, protocol {}, TTL {}: {start:02x?}", self.proto(), self.ttl())
    }
}

/// An echo request or reply.
pub(crate) fn echo(kind: u8, identifier: u16, sequence: u16) -> Vec<u8> {
    let ([a, b], [c, d]) = (identifier.to_be_bytes(), sequence.to_be_bytes());
    icmp(kind, 0, [a, b, c, d], b"echo")
}
