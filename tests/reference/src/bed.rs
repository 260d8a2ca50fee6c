//! One engine that owns its shard, with backends, an upstream router and a log that commits whatever is proposed at once.
//! The caller moves the clock. Nothing here judges; it only carries frames.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use engine::LeaseWords;
use engine::event::{Authority, GroupEvent, Verdict, WorkerOutput};
use engine::ids::{
    BackendId, ControlIndex, FrontendId, Incarnation, LeaseWord, LogIndex, Mac, NodeId, PortBlock, ShardId, Side, Term,
    VnetId,
};
use engine::snapshot::{
    Backend, Filtering, Frontend, NodeLinks, Outside, Params, Profile, ShardConfig, Sharing, Snapshot, Subnet, TcpReset,
};
use engine::wire::FrameMeta;
use engine::worker::Worker;

use crate::packet::{ETH, be16};

/// The one shard.
pub const SHARD: ShardId = ShardId(1);
/// Its public address.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The router towards the internet.
pub const UPSTREAM: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The backends' addresses; the last has no lease.
pub const BACKENDS: [Ipv4Addr; 4] =
    [Ipv4Addr::new(10, 0, 0, 4), Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 6), Ipv4Addr::new(10, 0, 0, 7)];
/// Ports that each of the backends with a lease has; few, so that they run out.
pub const PORTS_EACH: u16 = 32;
/// The gateway's address inside.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

const ME: Incarnation = Incarnation(7);
const TERM: Term = Term(1);
const FIRST_PORT: u16 = 2048;
const SECOND_NS: u64 = 1_000_000_000;

/// The MAC address of a host of the bed.
#[must_use]
pub fn mac_of(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x52, 0, a, b, c, d]
}

/// The ports that the backend at `place` in `BACKENDS` was granted.
#[must_use]
pub fn lease_of(place: usize) -> std::ops::Range<u16> {
    let first = FIRST_PORT + u16::try_from(place).expect("few backends") * PORTS_EACH;
    if place + 1 == BACKENDS.len() { first..first } else { first..first + PORTS_EACH }
}

struct OneWord(LeaseWord);

impl LeaseWords for OneWord {
    fn word(&self, _: ShardId) -> LeaseWord {
        self.0
    }
}

/// A frame that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// On which interface.
    pub side: Side,
    /// The whole frame.
    pub frame: Vec<u8>,
    /// By what right.
    pub authority: Authority,
}

impl Left {
    /// Whether it is a question or announcement about addresses rather than a packet.
    #[must_use]
    pub fn is_arp(&self) -> bool {
        be16(&self.frame, 12) == 0x0806
    }
}

/// The engine and what it needs around it.
#[derive(Debug)]
pub struct Bed {
    /// The engine.
    pub worker: Worker,
    /// Nanoseconds; only the caller moves it.
    pub now_ns: u64,
    index: u64,
}

impl Default for Bed {
    fn default() -> Self {
        Self::new()
    }
}

impl Bed {
    /// An engine that serves, and knows its neighbours.
    #[must_use]
    pub fn new() -> Self {
        let mut bed = Self { worker: Worker::new(ME, NodeId(1), VnetId(0), 77), now_ns: 1_000 * SECOND_NS, index: 1 };
        assert!(bed.worker.load_snapshot(bed.now_ns, Arc::new(snapshot())));
        bed.worker.set_links(bed.now_ns, true);
        bed.event(GroupEvent::Opened { shard: SHARD, epoch: 0, index: LogIndex(1) });
        bed.event(GroupEvent::Owner { shard: SHARD, term: TERM, node: Some(NodeId(1)) });
        bed.event(GroupEvent::Leading { shard: SHARD, term: TERM });
        bed.commit(Bytes::new());
        for ip in BACKENDS {
            bed.greet(Side::Inside, ip);
        }
        bed.greet(Side::Outside, UPSTREAM);
        bed.pass_time(10_000_000);
        bed
    }

    fn words(&self) -> OneWord {
        let lease_until_ns = self.now_ns + SECOND_NS;
        OneWord(LeaseWord { incarnation: ME, term: TERM, lease_until_ns, grace_until_ns: lease_until_ns })
    }

    fn event(&mut self, event: GroupEvent) {
        let words = self.words();
        self.worker.handle_event(self.now_ns, &words, event);
    }

    fn commit(&mut self, entry: Bytes) {
        self.index += 1;
        self.event(GroupEvent::Committed { shard: SHARD, index: LogIndex(self.index), term: TERM, entry });
    }

    /// A host says who it is, as it does when it asks for the gateway.
    fn greet(&mut self, side: Side, ip: Ipv4Addr) {
        let _nothing_leaves = self.inject(side, &arp(1, [0xff; 6], ip, Ipv4Addr::new(192, 0, 2, 1)));
    }

    /// The hosts answer for themselves.
    fn answer(&mut self, question: &Left) {
        let frame = &question.frame;
        if be16(frame, 12) != 0x0806 || be16(frame, ETH + 6) != 1 {
            return;
        }
        let asked = Ipv4Addr::new(frame[ETH + 24], frame[ETH + 25], frame[ETH + 26], frame[ETH + 27]);
        let lives_here = match question.side {
            Side::Inside => BACKENDS.contains(&asked),
            Side::Outside => asked == UPSTREAM,
        };
        if lives_here {
            let asker: [u8; 6] = frame[6..12].try_into().expect("six bytes");
            let mut reply = arp(2, asker, asked, Ipv4Addr::new(192, 0, 2, 1));
            let words = self.words();
            self.worker.handle_frame(self.now_ns, &words, question.side, &FrameMeta::default(), &mut reply);
        }
    }

    /// Hands in a frame. Returns all that left for it, in order.
    pub fn inject(&mut self, side: Side, frame: &[u8]) -> Vec<Left> {
        let mut frame = frame.to_vec();
        let words = self.words();
        let verdict = self.worker.handle_frame(self.now_ns, &words, side, &FrameMeta::default(), &mut frame);
        let mut left = Vec::new();
        if let Verdict::Transmit { side, authority } = verdict {
            left.push(Left { side, frame, authority });
        }
        self.drain(&mut left);
        left
    }

    /// Lets time pass in one step. Returns what left by itself.
    pub fn pass_time(&mut self, ns: u64) -> Vec<Left> {
        self.now_ns += ns;
        let words = self.words();
        self.worker.handle_timers(self.now_ns, &words);
        let mut left = Vec::new();
        self.drain(&mut left);
        left
    }

    fn drain(&mut self, left: &mut Vec<Left>) {
        let words = self.words();
        let mut frame = Vec::new();
        loop {
            if let Some((side, _, authority)) = self.worker.poll_frame(self.now_ns, &words, &mut frame) {
                let one = Left { side, frame: frame.clone(), authority };
                self.answer(&one);
                left.push(one);
            } else if let Some(output) = self.worker.poll_output(self.now_ns, &words) {
                if let WorkerOutput::Propose { entry, .. } = output {
                    self.commit(entry);
                }
            } else {
                return;
            }
        }
    }
}

/// A question (1) or an answer (2) of the host at `ip`.
fn arp(operation: u8, to: [u8; 6], ip: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(mac_of(ip));
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac_of(ip));
    frame.extend(ip.octets());
    frame.extend(if operation == 1 { [0; 6] } else { to });
    frame.extend(target.octets());
    frame.resize(60, 0);
    frame
}

fn snapshot() -> Snapshot {
    let me = NodeLinks { node: NodeId(1), inside: Mac([0x52, 1, 0, 0, 0, 1]), outside: Mac([0x52, 2, 0, 0, 0, 1]) };
    let frontend = FrontendId(1);
    let mut s = Snapshot {
        control_index: ControlIndex(10),
        params: Params { key: [11, 22], ..Params::default() },
        me: Some(me),
        subnets: vec![Subnet {
            vnet: VnetId(0),
            network: Ipv4Addr::new(10, 0, 0, 0),
            prefix_len: 24,
            gateway: GATEWAY,
        }],
        outside: Outside { network: Ipv4Addr::new(203, 0, 113, 0), prefix_len: 24, next_hop: Some(UPSTREAM) },
        ..Snapshot::default()
    };
    s.frontends.insert(frontend, Frontend { ip: PUBLIC, shard: SHARD });
    s.frontend_by_ip.insert(PUBLIC, frontend);
    s.shards.insert(SHARD, ShardConfig { frontends: vec![frontend], draining: Vec::new() });
    for (place, ip) in BACKENDS.into_iter().enumerate() {
        let ports = lease_of(place);
        let block = PortBlock { frontend, start: ports.start, len: PORTS_EACH };
        let lease = if ports.is_empty() { Vec::new() } else { vec![block] };
        let id = BackendId(u32::try_from(place).expect("few") + 1);
        let backend = Backend {
            vnet: VnetId(0),
            ip,
            home: SHARD,
            lease,
            idle_timeout_ms: 240_000,
            tcp_reset_on_idle: TcpReset::Off,
            profile: Profile::default(),
            sharing: Sharing::default(),
            filtering: Filtering::default(),
        };
        s.backends.insert(id, backend);
        s.backend_by_ip.insert((VnetId(0), ip), id);
    }
    s
}
