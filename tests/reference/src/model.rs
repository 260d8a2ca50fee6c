//! A translator written for obviousness: a list of flows, searched from end to end, no index, no order of ports, no batch.
//! It knows UDP and ICMP echo, and errors about both. Where the specification leaves a choice (which free port) or a margin (when an idle flow is
//! noticed), it accepts what the engine did if that is allowed, and then holds it to it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::Range;

use engine::ids::{Mac, Side};

use crate::bed::{BACKENDS, Left, PUBLIC, SHARD, UPSTREAM, lease_of, mac_of};
use crate::packet::{ETH, ICMP, UDP, be16, icmp, ipv4, udp};

/// A router on the way to every remote.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 33);
const SECOND_NS: u64 = 1_000_000_000;
/// S13: four minutes without an outbound packet.
const IDLE_NS: u64 = 240 * SECOND_NS;
/// I48: how much later than that the engine may notice; the larger of 2 s and 1 %.
const IDLE_MARGIN_NS: u64 = 2_400_000_000;
/// D6: how long the tuple is kept from others after that.
const HOLD_NS: u64 = 65 * SECOND_NS;
/// I29.
const HOLD_MARGIN_NS: u64 = 2 * SECOND_NS;

/// A packet as a host means it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// `UDP` or `ICMP`.
    pub proto: u8,
    /// The backend's place in `BACKENDS`; of an inbound packet whoever the sender thinks of.
    pub backend: usize,
    /// The near end: the backend's port or identifier, or the public one of an inbound packet.
    pub near: u16,
    /// The far address.
    pub remote: Ipv4Addr,
    /// The far port; unused by ICMP.
    pub service: u16,
    /// First byte of the payload, so that packets differ.
    pub mark: u8,
}

impl Packet {
    fn payload(&self, side: Side, near: u16) -> Vec<u8> {
        let data = [self.mark, 1, 2];
        if self.proto == ICMP {
            let [a, b] = near.to_be_bytes();
            icmp(if side == Side::Inside { 8 } else { 0 }, 0, [a, b, 0, self.mark], &data)
        } else if side == Side::Inside {
            udp(near, self.service, &data)
        } else {
            udp(self.service, near, &data)
        }
    }

    /// The frame that arrives on `side`.
    #[must_use]
    pub fn frame(&self, side: Side) -> Vec<u8> {
        let vmac = Mac::of_shard(SHARD).0;
        let payload = self.payload(side, self.near);
        match side {
            Side::Inside => {
                let backend = BACKENDS[self.backend];
                ipv4((mac_of(backend), vmac), backend, self.remote, self.proto, &payload)
            }
            Side::Outside => ipv4((mac_of(UPSTREAM), vmac), self.remote, PUBLIC, self.proto, &payload),
        }
    }

    /// The frame that leaves for it when its near end becomes `near` (and, inwards, its receiver `backend`).
    fn translated(&self, arrived: Side, near: u16, backend: usize) -> Vec<u8> {
        let vmac = Mac::of_shard(SHARD).0;
        let payload = self.payload(arrived, near);
        let mut frame = match arrived {
            Side::Inside => ipv4((vmac, mac_of(UPSTREAM)), PUBLIC, self.remote, self.proto, &payload),
            Side::Outside => {
                let inside = BACKENDS[backend];
                ipv4((vmac, mac_of(inside)), self.remote, inside, self.proto, &payload)
            }
        };
        frame[ETH + 8] -= 1;
        crate::packet::mend(&mut frame);
        frame
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
        let vmac = Mac::of_shard(SHARD).0;
        let backend = BACKENDS[self.about.backend];
        match side {
            Side::Inside => self.build((mac_of(backend), vmac), (backend, self.about.remote), side, self.about.near),
            Side::Outside => self.build((mac_of(UPSTREAM), vmac), (ROUTER, PUBLIC), side, self.about.near),
        }
    }

    /// The same when the near end is somebody else's: around a packet of the opposite direction between the same two.
    fn build(&self, macs: ([u8; 6], [u8; 6]), ends: (Ipv4Addr, Ipv4Addr), side: Side, near: u16) -> Vec<u8> {
        let about = &self.about;
        let (from, to, was) = match side {
            Side::Inside => (about.remote, ends.0, Side::Outside),
            Side::Outside => (ends.1, about.remote, Side::Inside),
        };
        let quoted = ipv4(([0; 6], [0; 6]), from, to, about.proto, &about.payload(was, near));
        let quote = &quoted[ETH..quoted.len().min(ETH + 20 + self.keep)];
        ipv4(macs, ends.0, ends.1, ICMP, &icmp(self.head.0, self.head.1, [0, 0, 5, 0], quote))
    }

    /// The frame that leaves for it.
    fn translated(&self, arrived: Side, flow: &Flow) -> Vec<u8> {
        let vmac = Mac::of_shard(SHARD).0;
        let inside = BACKENDS[flow.backend];
        let mut frame = match arrived {
            Side::Inside => self.build((vmac, mac_of(UPSTREAM)), (PUBLIC, flow.remote), arrived, flow.port),
            Side::Outside => self.build((vmac, mac_of(inside)), (ROUTER, inside), arrived, flow.near),
        };
        frame[ETH + 8] -= 1;
        crate::packet::mend(&mut frame);
        frame
    }
}

/// One mapping.
#[derive(Clone, Debug)]
struct Flow {
    proto: u8,
    backend: usize,
    near: u16,
    remote: Ipv4Addr,
    service: u16,
    port: u16,
    last_out_ns: u64,
}

/// What is known of a mapping's age.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Age {
    /// It, or its hold, is certainly there.
    Kept,
    /// It may be gone.
    Perhaps,
    /// It is gone.
    Gone,
}

impl Flow {
    fn age(&self, now_ns: u64) -> Age {
        let silence = now_ns - self.last_out_ns;
        let kept = IDLE_NS + HOLD_NS;
        if silence < kept {
            Age::Kept
        } else if silence <= kept + IDLE_MARGIN_NS + HOLD_MARGIN_NS {
            Age::Perhaps
        } else {
            Age::Gone
        }
    }

    fn is_of(&self, p: &Packet) -> bool {
        (self.proto, self.remote, self.service) == (p.proto, p.remote, p.service)
    }
}

/// The naive translator.
#[derive(Debug, Default)]
pub struct Model {
    flows: Vec<Flow>,
}

impl Model {
    /// Forgets what has certainly ended.
    fn forget(&mut self, now_ns: u64) {
        self.flows.retain(|flow| flow.age(now_ns) != Age::Gone);
    }

    /// Judges what the engine did with `packet`, which arrived on `side`, and takes note of it.
    ///
    /// # Errors
    /// What the engine should have done instead.
    pub fn judge(&mut self, now_ns: u64, side: Side, packet: &Packet, left: &[Left]) -> Result<(), String> {
        self.forget(now_ns);
        let left = match left {
            [] => None,
            [one] => Some(one),
            more => return Err(format!("{} frames left for one", more.len())),
        };
        match side {
            Side::Inside => self.judge_out(now_ns, packet, left),
            Side::Outside => self.judge_in(now_ns, packet, left),
        }
    }

    fn judge_out(&mut self, now_ns: u64, p: &Packet, left: Option<&Left>) -> Result<(), String> {
        let own = |flow: &Flow| flow.is_of(p) && (flow.backend, flow.near) == (p.backend, p.near);
        let known = self.flows.iter().position(own);
        let lease = lease_of(p.backend);
        let Some(left) = left else {
            if known.is_some_and(|place| self.flows[place].age(now_ns) == Age::Kept) {
                return Err("a packet of a mapping that is there was dropped".into());
            }
            let free: Vec<u16> = lease.filter(|port| !self.is_taken(p, *port)).collect();
            return if free.is_empty() { Ok(()) } else { Err(format!("dropped, although {free:?} were free")) };
        };
        let port = public_port(left)?;
        expect(left, Side::Outside, &p.translated(Side::Inside, port, p.backend))?;
        if let Some(place) = known {
            let flow = &mut self.flows[place];
            if flow.port == port {
                flow.last_out_ns = now_ns;
                return Ok(());
            }
            if flow.age(now_ns) == Age::Kept {
                return Err(format!("port {port} instead of {}", flow.port));
            }
            self.flows.remove(place);
        }
        if !lease.contains(&port) {
            return Err(format!("port {port} is outside the lease {lease:?}"));
        }
        let holder = |flow: &Flow| flow.is_of(p) && flow.port == port && flow.age(now_ns) == Age::Kept;
        if let Some(holder) = self.flows.iter().find(|flow| holder(flow)) {
            return Err(format!("port {port} belongs to {holder:?}"));
        }
        self.flows.retain(|flow| !(flow.is_of(p) && flow.port == port));
        let (proto, backend, near, remote, service) = (p.proto, p.backend, p.near, p.remote, p.service);
        self.flows.push(Flow { proto, backend, near, remote, service, port, last_out_ns: now_ns });
        Ok(())
    }

    fn judge_in(&self, now_ns: u64, p: &Packet, left: Option<&Left>) -> Result<(), String> {
        let known = self.flows.iter().find(|flow| flow.is_of(p) && flow.port == p.near);
        match (known, left) {
            (None, None) => Ok(()),
            (Some(flow), None) if flow.age(now_ns) == Age::Perhaps => Ok(()),
            (Some(_), None) => Err("an answer to a mapping that is there was dropped".into()),
            (None, Some(_)) => Err("a packet came in without a mapping".into()),
            (Some(flow), Some(left)) => {
                expect(left, Side::Inside, &p.translated(Side::Outside, flow.near, flow.backend))
            }
        }
    }

    /// Judges what the engine did with a complaint; it changes nothing (R9, I18).
    ///
    /// # Errors
    /// What the engine should have done instead.
    pub fn judge_complaint(
        &mut self,
        now_ns: u64,
        side: Side,
        complaint: &Complaint,
        left: &[Left],
    ) -> Result<(), String> {
        self.forget(now_ns);
        let p = &complaint.about;
        let known = self.flows.iter().find(|flow| match side {
            Side::Inside => flow.is_of(p) && (flow.backend, flow.near) == (p.backend, p.near),
            Side::Outside => flow.is_of(p) && flow.port == p.near,
        });
        match (known, left) {
            (None, []) => Ok(()),
            (Some(flow), []) if flow.age(now_ns) == Age::Perhaps => Ok(()),
            (Some(_), []) => Err("an error about a mapping that is there was dropped".into()),
            (None, _) => Err("an error passed without a mapping".into()),
            (Some(flow), [left]) => {
                let to = if side == Side::Inside { Side::Outside } else { Side::Inside };
                expect(left, to, &complaint.translated(side, flow))
            }
            (Some(_), more) => Err(format!("{} frames left for one", more.len())),
        }
    }

    /// Whether the port may be in use towards the packet's remote.
    fn is_taken(&self, p: &Packet, port: u16) -> bool {
        self.flows.iter().any(|flow| flow.is_of(p) && flow.port == port)
    }

    /// S10, D9: ports are used densely. No backend uses more of them for a protocol than it has, or lately had, mappings
    /// towards a single remote.
    ///
    /// # Errors
    /// Who uses how many.
    pub fn judge_density(&self, most_at_once: usize) -> Result<(), String> {
        for (backend, proto) in (0..BACKENDS.len()).flat_map(|backend| [(backend, UDP), (backend, ICMP)]) {
            let own = self.flows.iter().filter(|flow| (flow.backend, flow.proto) == (backend, proto));
            let ports: BTreeSet<u16> = own.map(|flow| flow.port).collect();
            if ports.len() > most_at_once {
                return Err(format!("backend {backend} uses {} ports for protocol {proto}", ports.len()));
            }
        }
        Ok(())
    }
}

/// The ports or identifiers that a backend may show.
#[must_use]
pub fn public_ports() -> Range<u16> {
    lease_of(0).start..lease_of(BACKENDS.len() - 1).end
}

fn public_port(left: &Left) -> Result<u16, String> {
    let at = if left.frame[ETH + 9] == ICMP { 4 } else { 0 };
    let payload = left.frame.get(ETH + 20..).filter(|payload| payload.len() >= 8).ok_or("a frame cut short")?;
    Ok(be16(payload, at))
}

/// Compares what left with what should have; the IP identification is the translator's own to choose (R20).
fn expect(left: &Left, side: Side, wanted: &[u8]) -> Result<(), String> {
    let mut wanted = wanted.to_vec();
    if left.frame.len() == wanted.len() {
        wanted[ETH + 4..ETH + 6].copy_from_slice(&left.frame[ETH + 4..ETH + 6]);
        crate::packet::mend(&mut wanted);
    }
    if left.side == side && left.frame == wanted {
        return Ok(());
    }
    Err(format!("left {:?} {:02x?}, wanted {side:?} {wanted:02x?}", left.side, left.frame))
}
