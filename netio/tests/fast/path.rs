//! A gateway's kernel with the fast path, and the far ends of both its wires.

use std::time::{Duration, Instant};

use qnat_netio::bell::Doorbell;
use qnat_netio::fast::{FastFates, FastSize, FastTable};
use qnat_netio::guard::Guard;
use qnat_netio::hooks::By;
use qnat_netio::lease_table::WordsWriter;
use qnat_netio::link::Link;
use qnat_netio::packet::PacketLoop;
use qnat_netio::port::{Disposition, Interface, LoopLimits, PortConfig, Reception};
use qnat_netio::socket::BufferLimits;
use words::{FrameMeta, Share};

use crate::net::Namespace;
use crate::{FLOWS, WORKERS};

/// The gateway's kernel with the fast path between its interfaces, one outside and two inside, and the far ends of all.
pub(crate) struct Path {
    pub(crate) inner: Namespace,
    pub(crate) outer: Namespace,
    pub(crate) own: [[u8; 6]; 3],
    pub(crate) parts: Option<Parts>,
}

/// What the gateway's process has of it.
pub(crate) struct Parts {
    pub(crate) guard: Guard,
    pub(crate) words: WordsWriter,
    pub(crate) tables: Vec<FastTable>,
}

impl Path {
    pub(crate) fn new() -> Self {
        Self::by(By::Tcx)
    }

    pub(crate) fn by(by: By) -> Self {
        let (inner, outer) = (Namespace::new("g"), Namespace::new("o"));
        inner.veth("gi", &outer, "oi");
        inner.veth("go", &outer, "oo");
        inner.veth("gj", &outer, "oj");
        let (own, parts) = inner.run(move || {
            let links = ["go", "gi", "gj"].map(|name| Link::named(name).expect("link"));
            let size = FastSize { workers: WORKERS, flows: FLOWS };
            let (guard, words, tables) = Guard::attach_by(&links[0], &links[1..], Some(size), by).expect("guard");
            (links.map(|link| link.mac), Parts { guard, words, tables })
        });
        Self { inner, outer, own, parts: Some(parts) }
    }

    /// Runs `f` at the far ends with the gateway's parts, then takes the fast path away.
    pub(crate) fn run(mut self, f: impl FnOnce(&mut Ends, [[u8; 6]; 3]) + Send + 'static) {
        let own = self.own;
        self.beyond(move |ends| f(ends, own));
        let parts = self.parts.take();
        self.inner.run(move || drop(parts));
    }

    /// Runs `f` at the far ends.
    pub(crate) fn beyond(&mut self, f: impl FnOnce(&mut Ends) + Send + 'static) {
        let parts = self.parts.take().expect("given back");
        self.parts = Some(self.outer.run(move || {
            let mut ends = Ends { packets: far_ends(), parts };
            f(&mut ends);
            ends.parts
        }));
    }

    /// The gateway looks at its interfaces again; those by which frames go straight to the far end of a pair.
    pub(crate) fn far_ends_now(&mut self) -> Vec<String> {
        let mut parts = self.parts.take().expect("given back");
        let (parts, far_ends) = self.inner.run(move || {
            assert!(parts.guard.look_again().missing.is_empty());
            let far_ends = parts.guard.far_ends();
            (parts, far_ends)
        });
        self.parts = Some(parts);
        far_ends
    }
}

fn far_ends() -> PacketLoop {
    let port = |name| PortConfig {
        link: Link::named(name).expect("link"),
        limits: BufferLimits::default(),
        reception: Reception::Promiscuous,
    };
    let limits = LoopLimits { receive_buffers: 64, transmit_buffers: 64, requests: 64 };
    PacketLoop::new((&port("oo"), &[port("oi"), port("oj")]), limits, Doorbell::new().expect("bell"), Share::WHOLE)
        .expect("loop")
}

pub(crate) struct Ends {
    pub(crate) packets: PacketLoop,
    pub(crate) parts: Parts,
}

impl Ends {
    pub(crate) fn fates(&self) -> FastFates {
        self.parts.guard.fates().expect("counters")
    }

    /// What arrives at another far end of a frame, and what the fast path counted meanwhile.
    pub(crate) fn pass(&mut self, from: Interface, meta: FrameMeta, frame: &[u8]) -> (Option<Vec<u8>>, FastFates) {
        let (arrived, counted) = self.pass_by(from, meta, frame);
        (arrived.filter(|(by, _)| *by != from).map(|(_, bytes)| bytes), counted)
    }

    /// What arrives at any far end of a frame, and at which.
    pub(crate) fn pass_by(
        &mut self,
        from: Interface,
        meta: FrameMeta,
        frame: &[u8],
    ) -> (Option<(Interface, Vec<u8>)>, FastFates) {
        let before = self.fates();
        let sent = self.packets.stats(from).transmitted;
        assert!(self.packets.transmit(from, meta, 0, frame), "a free buffer");
        self.packets.flush(&mut |_| true).expect("flush");
        let (mut arrived, end) = (None, Instant::now() + Duration::from_secs(5));
        // A veth hands it over before the send completes, but for the far end's own turn of its processor.
        let mut quiet = 0;
        while Instant::now() < end && arrived.is_none() && quiet < 3 {
            self.packets.wait(Duration::from_millis(10), || false).expect("wait");
            self.packets.receive(&mut |interface, _, bytes| {
                arrived = Some((interface, bytes.to_vec()));
                Disposition::Done
            });
            if self.packets.stats(from).transmitted > sent && self.fates() != before {
                quiet += 1;
            }
        }
        (arrived, difference(self.fates(), before))
    }

    /// The same of a whole frame, which must not arrive, but be the worker's for the reason that `fate` counts.
    pub(crate) fn misses(
        &mut self,
        what: &str,
        from: Interface,
        frame: &[u8],
        fate: impl Fn(&mut FastFates) -> &mut u64,
    ) {
        let (arrived, counted) = self.pass_by(from, FrameMeta::default(), frame);
        let mut expected = FastFates::default();
        *fate(&mut expected) += 1;
        assert_eq!((arrived, counted), (None, expected), "{what}");
    }

    /// The same of one that must arrive.
    pub(crate) fn hits(&mut self, what: &str, from: Interface, frame: &[u8]) -> Vec<u8> {
        let (arrived, counted) = self.pass(from, FrameMeta::default(), frame);
        assert_eq!(counted, FastFates { sent: 1, ..FastFates::default() }, "{what}");
        arrived.unwrap_or_else(|| panic!("{what}: it was sent, and did not arrive"))
    }
}

fn difference(now: FastFates, before: FastFates) -> FastFates {
    FastFates {
        sent: now.sent - before.sent,
        grace: now.grace - before.grace,
        unknown: now.unknown - before.unknown,
        odd: now.odd - before.odd,
        dead: now.dead - before.dead,
        revised: now.revised - before.revised,
        stranger: now.stranger - before.stranger,
        long: now.long - before.long,
        lease: now.lease - before.lease,
        dropped: now.dropped - before.dropped,
    }
}
