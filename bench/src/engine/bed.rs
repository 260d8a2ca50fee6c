//! One engine that owns its shard, with as many flows as asked for: `BACKENDS` backends of 32 ports each behind one frontend,
//! and as many remotes as that takes. A flow's tuples follow from its number, so nothing has to be remembered. The log
//! commits what is proposed at once; time stands still unless the caller moves it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use words::Prefix;

use bytes::Bytes;
use engine::LeaseWords;
use engine::codec::{ENTRY_RECORDS_MAX, Encoder};
use engine::event::{GroupEvent, Verdict, WorkerOutput};
use engine::ids::{
    BackendId, ControlIndex, FrontendId, Incarnation, LeaseWord, Link, LogIndex, Mac, NodeId, PortBlock, ShardId, Term,
    VnetId,
};
use engine::record::{
    Addr, Endpoint, EntryHeader, FlowRecord, HOLD_CLASSES, InsideKey, Open, Proto, PublicKey, Scenario,
};
use engine::snapshot::{
    Backend, Filtering, Frontend, NodeLinks, Outside, Params, Profile, Sharing, Snapshot, Subnet, TcpReset, Ways,
};
use engine::wire::{ArpOp, FrameMeta, build_arp};
use engine::worker::Worker;
use words::time::SECOND_NS;

use crate::machine::cpu_ns;

/// The one shard.
pub const SHARD: ShardId = ShardId(1);
/// Its public address.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The largest pool.
pub(super) const BACKENDS: u32 = 1000;
/// What each backend of the largest pool is granted.
const PORTS_EACH: u16 = 32;
const FIRST_PORT: u16 = 1024;
/// How many flows more than at first fit.
const ROOM: u32 = 1_000_000;
const FIRST_INSIDE_PORT: u16 = 40_000;
const REMOTES: u32 = 0x2000_0000;
/// The remote port of all flows: none of those that end soon after an answer.
const SERVICE: u16 = 443;
const UPSTREAM: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 255, 254);
const TERM: Term = Term(1);
const ME: Incarnation = Incarnation(1);
const START_NS: u64 = 1_000 * SECOND_NS;

/// A lease that never ends.
#[derive(Debug)]
pub struct Always;

impl LeaseWords for Always {
    fn word(&self, _: ShardId) -> LeaseWord {
        LeaseWord { incarnation: ME, term: TERM, lease_until_ns: u64::MAX, grace_until_ns: u64::MAX }
    }
}

/// The ends of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    /// Which backend, from 0.
    pub backend: u32,
    /// Its end.
    pub inside: (Ipv4Addr, u16),
    /// The public port.
    pub public_port: u16,
    /// The remote end.
    pub remote: (Ipv4Addr, u16),
}

impl Tuple {
    /// Of the `n`th flow.
    ///
    /// # Panics
    /// Never: 1,000 backends have 32,000 ports.
    #[must_use]
    pub fn of(n: u32) -> Self {
        let (backend, rest) = (n % BACKENDS, n / BACKENDS);
        let port = u16::try_from(rest % u32::from(PORTS_EACH)).expect("below PORTS_EACH");
        let lease = u16::try_from(backend).expect("below BACKENDS") * PORTS_EACH;
        Self {
            backend,
            inside: (address(backend), FIRST_INSIDE_PORT + port),
            public_port: FIRST_PORT + lease + port,
            remote: (Ipv4Addr::from_bits(REMOTES + rest / u32::from(PORTS_EACH)), SERVICE),
        }
    }
}

fn address(backend: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 4).to_bits() + backend)
}

/// The MAC address of a host.
#[must_use]
pub fn mac_of(ip: Ipv4Addr) -> Mac {
    let [a, b, c, d] = ip.octets();
    Mac([0x52, 0, a, b, c, d])
}

/// The engine and its log.
#[derive(Debug)]
pub struct Bed {
    /// The engine.
    pub worker: Worker,
    /// Nanoseconds; only the caller moves it.
    pub now_ns: u64,
    /// How long each committed entry took to apply, nanoseconds of processor time.
    pub apply_ns: Vec<u64>,
    index: u64,
}

/// The only virtual network.
pub(super) const INSIDE: Link = Link::Inside(NETWORK);
const NETWORK: VnetId = VnetId(0);

impl Bed {
    /// An engine with `flows` live flows of `proto`, and room for a million more.
    ///
    /// # Panics
    /// If the engine does not serve.
    #[must_use]
    pub fn new(flows: u32, proto: Proto) -> Self {
        Self::with(flows, proto, |_| ())
    }

    /// The same under a configuration that differs.
    ///
    /// # Panics
    /// If the engine does not serve.
    #[must_use]
    pub fn with(flows: u32, proto: Proto, change: impl FnOnce(&mut Snapshot)) -> Self {
        let mut snapshot = snapshot(flows + ROOM);
        change(&mut snapshot);
        let mut worker = Worker::new(ME, NodeId(1), 7);
        worker.set_networks(&[NETWORK]);
        let mut bed = Self { worker, now_ns: START_NS, apply_ns: Vec::new(), index: 1 };
        assert!(bed.worker.load_snapshot(bed.now_ns, Arc::new(snapshot)), "the first one");
        for link in [INSIDE, Link::Outside] {
            bed.worker.set_mtu(link, 1500);
            bed.worker.set_link(bed.now_ns, link, true);
        }
        bed.event(GroupEvent::Opened { shard: SHARD, epoch: 0, index: LogIndex(1), loads: false });
        bed.event(GroupEvent::Owner { shard: SHARD, term: TERM, node: Some(NodeId(1)) });
        bed.open(flows, proto);
        bed.event(GroupEvent::Leading { shard: SHARD, term: TERM });
        bed.commit(Bytes::new());
        for backend in 0..BACKENDS {
            bed.greet(INSIDE, address(backend));
        }
        bed.greet(Link::Outside, UPSTREAM);
        // Every flow is judged once after a takeover; that is not what is measured.
        for _ in 0..=flows / 4096 {
            bed.now_ns += 1_000_000;
            bed.worker.handle_timers(bed.now_ns, &Always);
            bed.drain();
        }
        assert_eq!(bed.worker.view().shard_status()[0].live, flows, "all flows live");
        bed
    }

    /// Writes the flows as a log brings them.
    fn open(&mut self, flows: u32, proto: Proto) {
        let (mut encoder, params) = (Encoder::new(), Params::default());
        let header = EntryHeader {
            term: TERM,
            stream: 0,
            sequence: 0,
            control_index: ControlIndex(1),
            holds_ended: [LogIndex(0); HOLD_CLASSES],
            orphan_grace_ms: params.orphan_grace_ms,
            hold_ms: [65_000; HOLD_CLASSES],
            records: 0,
        };
        let numbers: Vec<u32> = (0..flows).collect();
        for batch in numbers.chunks(ENTRY_RECORDS_MAX.min(64)) {
            let records: Vec<FlowRecord> = batch.iter().map(|n| record(*n, proto)).collect();
            self.commit(encoder.entry(header, &records));
        }
    }

    fn event(&mut self, event: GroupEvent) {
        self.worker.handle_event(self.now_ns, &Always, event);
    }

    /// An entry comes back committed.
    pub fn commit(&mut self, entry: Bytes) {
        self.index += 1;
        let begun = cpu_ns();
        self.event(GroupEvent::Committed { shard: SHARD, index: LogIndex(self.index), term: TERM, entry });
        self.apply_ns.push(cpu_ns() - begun);
    }

    /// Commits all proposals and takes all frames. Returns how many frames left.
    pub fn drain(&mut self) -> u32 {
        let (mut left, mut buffer) = (0, Vec::new());
        while let Some(output) = self.worker.poll_output(self.now_ns, &Always) {
            if let WorkerOutput::Propose { entry, .. } = output {
                self.commit(entry);
            }
        }
        while self.worker.poll_frame(self.now_ns, &Always, &mut buffer).is_some() {
            left += 1;
        }
        left
    }

    /// A host says who it is.
    fn greet(&mut self, link: Link, ip: Ipv4Addr) {
        let mut frame = [0; 60];
        let (mac, nobody) = (mac_of(ip), Ipv4Addr::new(192, 0, 2, 1));
        build_arp(&mut frame, ArpOp::Request, mac, Mac::BROADCAST, mac, ip, Mac::default(), nobody);
        let verdict = self.worker.handle_frame(self.now_ns, &Always, link, &FrameMeta::default(), &mut frame);
        assert_eq!(verdict, Verdict::Consumed, "{ip} is learned");
    }
}

fn record(n: u32, proto: Proto) -> FlowRecord {
    let tuple = Tuple::of(n);
    let endpoint = |(ip, port)| Endpoint { addr: Addr::from(ip), port };
    let remote = endpoint(tuple.remote);
    FlowRecord::Open(Open {
        public: PublicKey { proto, frontend: FrontendId(1), port: tuple.public_port, remote },
        inside: InsideKey { vnet: NETWORK, endpoint: endpoint(tuple.inside) },
        backend: BackendId(tuple.backend + 1),
        scenario: Scenario::Pool,
    })
}

fn snapshot(flows: u32) -> Snapshot {
    let frontend = FrontendId(1);
    let me = NodeLinks {
        node: NodeId(1),
        inside: vec![(NETWORK, Mac([0x52, 1, 0, 0, 0, 1]))],
        outside: Mac([0x52, 2, 0, 0, 0, 1]),
    };
    let network = Ipv4Addr::new(10, 0, 0, 0);
    let mut s = Snapshot {
        control_index: ControlIndex(1),
        params: Params {
            flows_per_shard_max: flows,
            flows_per_backend_max: flows,
            new_flows_per_second_max: u32::MAX,
            key: [11, 22],
            ..Params::default()
        },
        me: Some(me),
        subnets: vec![Subnet { vnet: NETWORK, prefix: Prefix { network, len: 16 }, gateway: GATEWAY }],
        outside: Outside {
            prefix: Prefix { network: Ipv4Addr::new(203, 0, 113, 0), len: 24 },
            next_hop: Some(UPSTREAM),
        },
        ..Snapshot::default()
    };
    s.put_frontends([(frontend, Frontend { ip: PUBLIC, shard: SHARD })]);
    for n in 0..BACKENDS {
        let start = FIRST_PORT + u16::try_from(n).expect("below BACKENDS") * PORTS_EACH;
        let backend = Backend {
            vnet: NETWORK,
            ip: address(n),
            mac: None,
            home: SHARD,
            lease: vec![PortBlock { frontend, start, len: PORTS_EACH }],
            ways: Ways::default(),
            idle_timeout_ms: 240_000,
            tcp_reset_on_idle: TcpReset::Off,
            profile: Profile::Azure,
            sharing: Sharing::Tuple,
            filtering: Filtering::Tuple,
        };
        s.put_backend(BackendId(n + 1), backend);
    }
    s
}
