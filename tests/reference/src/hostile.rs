//! Frames drawn from a seed: half of them such as hosts send, half of them broken in one of the ways in which frames are
//! broken on purpose. The same seed draws the same frames.

use std::net::Ipv4Addr;

use engine::ids::{Link, Mac, Side};
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::bed::{BACKENDS, GATEWAY, NETWORKS, PUBLIC, SHARD, UPSTREAM, lease_of, mac_of};
use crate::packet::{ETH, ICMP, TCP, UDP, fragments, icmp, ipv4, mend, tcp, udp};

/// Draws frames.
#[derive(Debug)]
pub struct Hostile {
    rng: ChaCha8Rng,
    /// Fragments on their way, among the other frames.
    fragments: Vec<(Link, Vec<u8>)>,
    datagrams: u16,
}

/// Octets of data of a datagram in fragments, at least: more than stray fragments could add up to.
pub const WHOLE_MIN: usize = 700;
const REMOTES: [Ipv4Addr; 3] =
    [Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(198, 51, 100, 8), Ipv4Addr::new(203, 0, 113, 200)];

impl Hostile {
    /// Frames of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), fragments: Vec::new(), datagrams: 0x2000 }
    }

    /// Nanoseconds until the next frame: mostly none, now and then long enough for timeouts.
    pub fn pause_ns(&mut self) -> u64 {
        match self.rng.random_range(0..1000) {
            0..900 => 0,
            900..990 => self.rng.random_range(0..50_000_000),
            990..999 => self.rng.random_range(0..20_000_000_000),
            _ => self.rng.random_range(0..300_000_000_000),
        }
    }

    /// The next frame, and where it arrives.
    pub fn frame(&mut self) -> (Link, Vec<u8>) {
        if !self.fragments.is_empty() && self.rng.random_bool(0.6) {
            let place = if self.rng.random_bool(0.8) { 0 } else { self.rng.random_range(0..self.fragments.len()) };
            return self.fragments.remove(place);
        }
        // Addresses are drawn apart from networks: half of what comes from inside is under a name of the other one.
        let network = NETWORKS[usize::from(self.rng.random_bool(0.3))];
        let link = if self.rng.random_bool(0.5) { Link::Inside(network) } else { Link::Outside };
        if self.rng.random_bool(0.05) {
            self.split(link);
        }
        let mut frame = self.sound(link);
        if self.rng.random_bool(0.5) {
            self.break_it(&mut frame);
        }
        (link, frame)
    }

    /// A datagram in fragments, all of them or some missing, some twice, and one perhaps over others.
    fn split(&mut self, link: Link) {
        let data = vec![self.rng.random(); self.rng.random_range(WHOLE_MIN..4000)];
        let mut whole = self.sound_with(link, &data);
        if whole.len() < ETH + WHOLE_MIN {
            // An ICMP error: those are short.
            return;
        }
        self.datagrams += 1;
        whole[ETH + 4..ETH + 6].copy_from_slice(&self.datagrams.to_be_bytes());
        let step = self.rng.random_range(3..100_usize) * 8;
        let mut all: Vec<Vec<u8>> = fragments(&whole, step);
        match self.rng.random_range(0..6) {
            0 => drop(all.remove(self.rng.random_range(0..all.len()))),
            1 => all.push(all[self.rng.random_range(0..all.len())].clone()),
            2 => {
                // Eight octets further than it belongs.
                let mut over = all[self.rng.random_range(0..all.len())].clone();
                let place = u16::from_be_bytes([over[ETH + 6], over[ETH + 7]]);
                over[ETH + 6..ETH + 8].copy_from_slice(&(place + 1).to_be_bytes());
                mend(&mut over);
                all.insert(self.rng.random_range(0..all.len()), over);
            }
            3 => all.reverse(),
            4 => all.rotate_left(1),
            _ => {}
        }
        self.fragments.extend(all.into_iter().map(|frame| (link, frame)));
    }

    fn port(&mut self, side: Side) -> u16 {
        let near = match side {
            Side::Inside => 5000..5040,
            Side::Outside => lease_of(0).start..lease_of(2).end,
        };
        if self.rng.random_bool(0.95) { self.rng.random_range(near) } else { self.rng.random() }
    }

    /// A frame as a host would send it.
    fn sound(&mut self, link: Link) -> Vec<u8> {
        let mut data = vec![0; self.rng.random_range(0..64)];
        self.rng.fill(&mut data[..]);
        self.sound_with(link, &data)
    }

    fn sound_with(&mut self, link: Link, data: &[u8]) -> Vec<u8> {
        let side = link.side();
        let remote = *REMOTES.choose(&mut self.rng).expect("some");
        let backend = *BACKENDS.choose(&mut self.rng).expect("some");
        let service = *[53_u16, 80, 443, 7].choose(&mut self.rng).expect("some");
        let near = self.port(side);
        let (host, source, destination, ports) = match side {
            Side::Inside => (backend, backend, remote, (near, service)),
            Side::Outside => (UPSTREAM, remote, PUBLIC, (service, near)),
        };
        let (proto, payload) = match self.rng.random_range(0..4) {
            0 => (UDP, udp(ports.0, ports.1, data)),
            1 => (TCP, self.segment(ports, data)),
            2 => (ICMP, self.echo(side, near, data)),
            _ => (ICMP, self.error(side, source, destination, ports)),
        };
        ipv4((mac_of(link, host), Mac::of_shard(SHARD).0), source, destination, proto, &payload)
    }

    fn segment(&mut self, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
        let flags = *[0x02_u8, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14].choose(&mut self.rng).expect("some");
        let numbers = (self.rng.random_range(0..4000), self.rng.random_range(0..4000));
        let mss: &[u8] = if flags & 2 != 0 { &[2, 4, 5, 180] } else { &[] };
        tcp(ports, numbers, flags, mss, data)
    }

    fn echo(&mut self, side: Side, id: u16, data: &[u8]) -> Vec<u8> {
        let kind = if side == Side::Inside { 8 } else { 0 };
        let [a, b] = id.to_be_bytes();
        icmp(kind, 0, [a, b, 0, self.rng.random()], data)
    }

    /// An ICMP error about a packet that the receiver could have sent, with all kinds of quotes.
    fn error(&mut self, side: Side, source: Ipv4Addr, destination: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
        let (kind, code) =
            *[(3, 1), (3, 3), (3, 4), (11, 0), (4, 0), (12, 0), (5, 1)].choose(&mut self.rng).expect("some");
        let data = [7; 12];
        // From inside an answer is complained about, from outside a packet that went out.
        let (query, id) = if side == Side::Inside { (0, ports.0) } else { (8, ports.1) };
        let id = id.to_be_bytes();
        let (proto, payload) = match self.rng.random_range(0..4) {
            0 => (UDP, udp(ports.1, ports.0, &data)),
            1 => (TCP, tcp((ports.1, ports.0), (1, 2), 0x10, &[], &data)),
            2 => (ICMP, icmp(query, 0, [id[0], id[1], 0, 1], &data)),
            // An error about an error.
            _ => (ICMP, icmp(3, 1, [0; 4], &[0x45; 28])),
        };
        let mut quoted = ipv4(([0; 6], [0; 6]), destination, source, proto, &payload);
        if self.rng.random_bool(0.2) {
            self.option(&mut quoted);
        }
        let mut quote = quoted.split_off(ETH);
        if self.rng.random_bool(0.2) {
            // RFC 4884: so many words of quote, and an extension behind them, or nothing of the kind.
            let words = *[0, 5, 8, 32, 200].choose(&mut self.rng).expect("some");
            quote.resize(usize::from(words) * 4, 0);
            quote.extend([0x20, 0, 0xde, 0xad, 0, 8, 1, 1, 10, 0, 0, 4]);
            return icmp(kind, code, [0, words, 5, 0], &quote);
        }
        quote.truncate(self.rng.random_range(20..=quote.len()));
        icmp(kind, code, [0, 0, 5, 0], &quote)
    }

    /// Gives a header options: source route, record route, router alert, or padding.
    fn option(&mut self, frame: &mut Vec<u8>) {
        let ip = ETH;
        let option = *[0x83_u8, 0x89, 148, 7, 0].choose(&mut self.rng).expect("some");
        frame[ip] = 0x46;
        frame.splice(ip + 20..ip + 20, [option, 4, 4, 0]);
        let total = u16::try_from(frame.len() - ETH).expect("a frame");
        frame[ip + 2..ip + 4].copy_from_slice(&total.to_be_bytes());
        mend(frame);
    }

    /// Spoils a frame in one way; most ways leave the checksums right, so that they are not all that catches it.
    fn break_it(&mut self, frame: &mut Vec<u8>) {
        let ip = ETH;
        match self.rng.random_range(0..14) {
            0 => {
                let at = self.rng.random_range(0..frame.len());
                frame[at] ^= 1 << self.rng.random_range(0..8);
            }
            1 => frame.truncate(self.rng.random_range(0..frame.len())),
            2 => frame.extend(std::iter::repeat_n(0xee, self.rng.random_range(1..40))),
            3 => {
                frame[ip] = self.rng.random();
                mend(frame);
            }
            4 => {
                let total: u16 = self.rng.random_range(0..200);
                frame[ip + 2..ip + 4].copy_from_slice(&total.to_be_bytes());
                mend(frame);
            }
            5 => {
                let fragment: u16 = if self.rng.random() { 0x2000 } else { self.rng.random_range(0..0x40) };
                frame[ip + 6..ip + 8].copy_from_slice(&fragment.to_be_bytes());
                mend(frame);
            }
            6 => {
                frame[ip + 8] = self.rng.random_range(0..3);
                mend(frame);
            }
            7 => {
                frame[ip + 9] = self.rng.random();
                mend(frame);
            }
            8 => self.other_address(frame, ip + 12),
            9 => self.other_address(frame, ip + 16),
            10 => self.option(frame),
            11 => {
                // Flags, data offset, ICMP type and code: the bytes behind the IP header at random.
                let at = ip + 20 + self.rng.random_range(0..16);
                if let Some(byte) = frame.get_mut(at) {
                    *byte = self.rng.random();
                }
                mend(frame);
            }
            12 => {
                let ethertype = *[0x86dd_u16, 0x8100, 0x0806, 0x88a8, 5].choose(&mut self.rng).expect("some");
                frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            }
            _ => self.rng.fill(&mut frame[..]),
        }
    }

    fn other_address(&mut self, frame: &mut [u8], at: usize) {
        let any = Ipv4Addr::from(self.rng.random::<[u8; 4]>());
        let address = *[
            PUBLIC,
            GATEWAY,
            UPSTREAM,
            BACKENDS[0],
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::BROADCAST,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::new(224, 0, 0, 1),
            Ipv4Addr::new(10, 0, 0, 99),
            any,
        ]
        .choose(&mut self.rng)
        .expect("some");
        frame[at..at + 4].copy_from_slice(&address.octets());
        mend(frame);
    }
}
