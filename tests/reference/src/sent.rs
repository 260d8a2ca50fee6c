//! Packets and ICMP errors as hosts mean them: the frames that arrive, and, built anew from the same meaning, those that
//! should leave. Nothing is ever rewritten here, so that every checksum is summed over all that it covers.

use std::fmt;
use std::net::Ipv4Addr;

use engine::ids::{Link, Mac, Side};

use crate::connection::Segment;
use crate::packet::{ETH, ICMP, TCP, UDP, icmp, ipv4, mend, piece, tcp, udp};
use crate::world::{BACKENDS, PUBLIC, SHARD, UPSTREAM, link_of, mac_of};

/// A router on the way to every remote.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 33);

/// An address, and a port or identifier.
pub type End = (Ipv4Addr, u16);

/// Ethernet source and destination.
pub type Macs = ([u8; 6], [u8; 6]);

/// Ethernet addresses of what the shard's owner sends to a host on a link.
#[must_use]
pub fn to_host(link: Link, ip: Ipv4Addr) -> Macs {
    (Mac::of_shard(SHARD).0, mac_of(link, ip))
}

/// The same to the backend at this place.
#[must_use]
pub fn to_backend(place: usize) -> Macs {
    to_host(link_of(place), BACKENDS[place])
}

/// The same to the router towards the internet.
#[must_use]
pub fn to_upstream() -> Macs {
    to_host(Link::Outside, UPSTREAM)
}

/// The other way round.
#[must_use]
pub const fn turned((ours, theirs): Macs) -> Macs {
    (theirs, ours)
}

/// A packet as a host means it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// `UDP`, `TCP` or `ICMP`.
    pub proto: u8,
    /// The backend's place in `BACKENDS`; of an inbound packet whoever the sender thinks of.
    pub backend: usize,
    /// The near end: the backend's port or identifier, or the public one of an inbound packet.
    pub near: u16,
    /// The public address that an inbound packet is sent to.
    pub public: Ipv4Addr,
    /// The far address.
    pub remote: Ipv4Addr,
    /// The far port; 0 for ICMP, unless the remote asks: then its identifier, and the near end is 0.
    pub service: u16,
    /// Of ICMP alone: who asks, and is answered by the other.
    pub asker: Side,
    /// What the data is made from, so that packets differ.
    pub mark: u8,
    /// Octets of data of a datagram.
    pub len: u16,
    /// Of TCP alone.
    pub segment: Segment,
    /// The largest segment that it offers to take, behind so many octets of other options. Of TCP alone.
    pub mss: Option<(u8, u16)>,
    /// Hops that it has left.
    pub ttl: u8,
    /// It must not be fragmented.
    pub whole: bool,
    /// Of UDP alone: its sender made no checksum.
    pub unsummed: bool,
    /// IP identification.
    pub id: u16,
    /// It is a datagram's first fragment, with so many octets.
    pub first: Option<u16>,
}

/// Says only what is out of the ordinary, so that a sequence of packets can be read.
impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { proto, backend, near, remote, service, segment: s, .. } = self;
        let name = [(UDP, "udp"), (TCP, "tcp"), (ICMP, "echo")].iter().find(|(number, _)| number == proto);
        write!(f, "{} {backend}:{near} {remote}:{service}", name.map_or("?", |(_, name)| name))?;
        if *proto == TCP {
            write!(f, " {s:?}")?;
        }
        let plain = Self::default();
        let mut also = |there: bool, what: fmt::Arguments<'_>| if there { write!(f, " {what}") } else { Ok(()) };
        also(self.public != plain.public, format_args!("by {}", self.public))?;
        also(self.asker != plain.asker, format_args!("asked from {:?}", self.asker))?;
        also(self.len != plain.len, format_args!("len {}", self.len))?;
        also(self.ttl != plain.ttl, format_args!("ttl {}", self.ttl))?;
        also(self.mss.is_some(), format_args!("mss {:?}", self.mss))?;
        also(self.whole, format_args!("whole"))?;
        also(self.unsummed, format_args!("unsummed"))?;
        also(self.first.is_some(), format_args!("first {:?}", self.first))?;
        write!(f, " id {} mark {}", self.id, self.mark)
    }
}

impl Default for Packet {
    fn default() -> Self {
        Self {
            proto: UDP,
            backend: 0,
            near: 5000,
            public: PUBLIC,
            remote: Ipv4Addr::new(198, 51, 100, 7),
            service: 80,
            asker: Side::Inside,
            mark: 0,
            len: 3,
            segment: Segment::default(),
            mss: None,
            ttl: 64,
            whole: false,
            unsummed: false,
            id: 0x1234,
            first: None,
        }
    }
}

impl Packet {
    fn data(&self) -> Vec<u8> {
        let len = if self.proto == TCP { self.segment.len } else { u32::from(self.len) };
        (0..len).map(|n| self.mark.wrapping_mul(37).wrapping_add(u8::try_from(n % 251).expect("small"))).collect()
    }

    /// Whether it asks, arriving on `side`; what is no ping asks from inside.
    #[must_use]
    pub fn asks(&self, side: Side) -> bool {
        self.asker == side
    }

    /// The transport's part between these ends; `asks`: from the side of who asks. `mss_max`: the offer is lowered to it.
    fn payload(&self, asks: bool, from: u16, to: u16, mss_max: u16) -> Vec<u8> {
        let data = self.data();
        if self.proto == TCP {
            let s = self.segment;
            let mut options = Vec::new();
            if let Some((before, mss)) = self.mss {
                let mss = if mss_max > 0 { mss.min(mss_max) } else { mss };
                options.resize(usize::from(before), 1);
                options.extend([2, 4]);
                options.extend(mss.to_be_bytes());
                options.resize(options.len().next_multiple_of(4), 1);
            }
            tcp((from, to), (s.seq, s.ack), s.flags, &options, &data)
        } else if self.proto == ICMP {
            let [a, b] = if asks { from } else { to }.to_be_bytes();
            icmp(if asks { 8 } else { 0 }, 0, [a, b, 0, self.mark], &data)
        } else {
            udp(from, to, &data)
        }
    }

    fn build(&self, asks: bool, macs: Macs, (from, to): (End, End), ttl: u8, mss_max: u16) -> Vec<u8> {
        let mut frame = ipv4(macs, from.0, to.0, self.proto, &self.payload(asks, from.1, to.1, mss_max));
        frame[ETH + 4..ETH + 6].copy_from_slice(&self.id.to_be_bytes());
        frame[ETH + 6] = if self.whole { 0x40 } else { 0 };
        frame[ETH + 8] = ttl;
        mend(&mut frame);
        if self.unsummed && self.proto == UDP {
            frame[ETH + 26..ETH + 28].fill(0);
        }
        match self.first {
            Some(len) => piece(&frame, 0, usize::from(len)),
            None => frame,
        }
    }

    /// The link that it arrives by on `side`.
    #[must_use]
    pub const fn link(&self, side: Side) -> Link {
        match side {
            Side::Inside => link_of(self.backend),
            Side::Outside => Link::Outside,
        }
    }

    /// The frame that arrives on `side`.
    #[must_use]
    pub fn frame(&self, side: Side) -> Vec<u8> {
        let far = (self.remote, self.service);
        match side {
            Side::Inside => {
                let backend = BACKENDS[self.backend];
                let ends = ((backend, self.near), far);
                self.build(self.asks(side), turned(to_backend(self.backend)), ends, self.ttl, 0)
            }
            Side::Outside => {
                let ends = (far, (self.public, self.near));
                self.build(self.asks(side), turned(to_upstream()), ends, self.ttl, 0)
            }
        }
    }

    /// The frame that leaves for it between these ends; `asks` as for what arrived.
    #[must_use]
    pub fn translated(&self, asks: bool, macs: Macs, ends: (End, End), mss_max: u16) -> Vec<u8> {
        self.build(asks, macs, ends, self.ttl - 1, mss_max)
    }

    /// Octets of its transport header.
    #[must_use]
    pub fn header(&self) -> usize {
        let data = if self.proto == TCP { self.segment.len as usize } else { usize::from(self.len) };
        self.payload(true, 0, 0, 0).len() - data
    }

    /// What can be seen of its segment.
    #[must_use]
    pub fn seen(&self) -> Segment {
        let len = self
            .first
            .map_or(self.segment.len, |first| u32::from(first) - u32::try_from(self.header()).expect("small"));
        Segment { len, ..self.segment }
    }

    /// Octets of IP.
    #[must_use]
    pub fn size(&self) -> usize {
        match self.first {
            Some(len) => 20 + usize::from(len),
            None => 20 + self.payload(true, 0, 0, 0).len(),
        }
    }
}

/// An ICMP error about a packet of a flow: from a router outside about one that went out, or from a backend about an
/// answer to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Complaint {
    /// About what; its near end as the complainant sees it.
    pub about: Packet,
    /// Type and code.
    pub head: (u8, u8),
    /// How many octets of the payload are quoted, at least 8.
    pub keep: usize,
}

impl Complaint {
    /// The frame that arrives on `side`.
    #[must_use]
    pub fn frame(&self, side: Side) -> Vec<u8> {
        let (backend, far) = (BACKENDS[self.about.backend], (self.about.remote, self.about.service));
        match side {
            Side::Inside => {
                let quoted = (self.about.asks(Side::Outside), (far, (backend, self.about.near)));
                self.build(turned(to_backend(self.about.backend)), (backend, self.about.remote), quoted, 64)
            }
            Side::Outside => {
                let public = self.about.public;
                let quoted = (self.about.asks(Side::Inside), ((public, self.about.near), far));
                self.build(turned(to_upstream()), (ROUTER, public), quoted, 64)
            }
        }
    }

    /// The frame that leaves for it, about a packet between `quoted`'s ends.
    #[must_use]
    pub fn translated(&self, macs: Macs, ends: (Ipv4Addr, Ipv4Addr), quoted: (bool, (End, End))) -> Vec<u8> {
        self.build(macs, ends, quoted, 63)
    }

    fn build(&self, macs: Macs, ends: (Ipv4Addr, Ipv4Addr), (asks, quoted): (bool, (End, End)), ttl: u8) -> Vec<u8> {
        let about = self.about.build(asks, ([0; 6], [0; 6]), quoted, 64, 0);
        let quote = &about[ETH..about.len().min(ETH + 20 + self.keep)];
        let mut frame = ipv4(macs, ends.0, ends.1, ICMP, &icmp(self.head.0, self.head.1, [0, 0, 5, 0], quote));
        frame[ETH + 8] = ttl;
        mend(&mut frame);
        frame
    }
}
