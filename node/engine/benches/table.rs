//! The table at a million and at ten million flows: octets per flow, and the longest piece of processor time that a packet
//! may have to wait for when all of them go idle at once. `cargo bench -p qnat-engine --bench table [flows…]`.

#![expect(clippy::print_stdout, reason = "a measurement prints what it found")]

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use qnat_engine::LeaseWords;
use qnat_engine::codec::{ENTRY_RECORDS_MAX, Encoder};
use qnat_engine::event::{GroupEvent, WorkerOutput};
use qnat_engine::ids::*;
use qnat_engine::record::{Addr, Endpoint, EntryHeader, FlowRecord, HOLD_CLASSES, InsideKey, Proto, PublicKey};
use qnat_engine::snapshot::*;
use qnat_engine::worker::Worker;

const SHARD: ShardId = ShardId(1);
const TERM: Term = Term(1);
const ME: Incarnation = Incarnation(1);
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
const SECOND_NS: u64 = 1_000_000_000;
/// A driver lets timers run at least this often.
const STEP_NS: u64 = 10_000_000;
/// The goal, both directions together.
const OCTETS_PER_FLOW_MAX: usize = 128;

struct Always;

impl LeaseWords for Always {
    fn word(&self, _: ShardId) -> LeaseWord {
        LeaseWord { incarnation: ME, term: TERM, lease_until_ns: u64::MAX, grace_until_ns: u64::MAX }
    }
}

/// Processor time of this thread in nanoseconds.
fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).expect("positive") * SECOND_NS + u64::try_from(time.tv_nsec).expect("positive")
}

fn snapshot(flows: u32) -> Snapshot {
    let frontend = FrontendId(1);
    let mut s = Snapshot { control_index: ControlIndex(1), ..Snapshot::default() };
    s.params.flows_per_shard_max = flows;
    s.params.flows_per_backend_max = flows;
    s.frontends.insert(frontend, Frontend { ip: Ipv4Addr::new(203, 0, 113, 10), shard: SHARD });
    s.shards.insert(SHARD, ShardConfig { frontends: vec![frontend], draining: Vec::new() });
    let backend = Backend {
        vnet: VnetId(0),
        ip: BACKEND,
        home: SHARD,
        lease: vec![PortBlock { frontend, start: 2048, len: 1024 }],
        idle_timeout_ms: 240_000,
        tcp_reset_on_idle: TcpReset::Off,
        profile: Profile::Azure,
        sharing: Sharing::Tuple,
        filtering: Filtering::Tuple,
    };
    s.backends.insert(BackendId(1), backend);
    s.backend_by_ip.insert((VnetId(0), BACKEND), BackendId(1));
    s
}

/// The `n`th flow: 1024 ports to each remote.
fn open(n: u32) -> FlowRecord {
    let endpoint = |ip: Ipv4Addr, port| Endpoint { addr: Addr::from(ip), port };
    let port = 2048 + u16::try_from(n % 1024).expect("below 1024");
    let remote = endpoint(Ipv4Addr::from_bits(0xc633_0000 + n / 1024), 443);
    FlowRecord::Open {
        public: PublicKey { proto: Proto::Tcp, frontend: FrontendId(1), port, remote },
        inside: InsideKey { vnet: VnetId(0), endpoint: endpoint(BACKEND, port) },
        backend: BackendId(1),
    }
}

struct Run {
    worker: Worker,
    now_ns: u64,
    index: u64,
}

impl Run {
    fn event(&mut self, event: GroupEvent) {
        self.worker.handle_event(self.now_ns, &Always, event);
    }

    fn commit(&mut self, entry: Bytes) {
        self.index += 1;
        self.event(GroupEvent::Committed { shard: SHARD, index: LogIndex(self.index), term: TERM, entry });
    }

    fn with(flows: u32) -> Self {
        let mut run = Self { worker: Worker::new(ME, NodeId(1), VnetId(0), 7), now_ns: 1_000 * SECOND_NS, index: 1 };
        assert!(run.worker.load_snapshot(run.now_ns, Arc::new(snapshot(flows))));
        run.worker.set_links(run.now_ns, true);
        run.event(GroupEvent::Opened { shard: SHARD, epoch: 0, index: LogIndex(1) });
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
        for batch in numbers.chunks(ENTRY_RECORDS_MAX) {
            let records: Vec<FlowRecord> = batch.iter().map(|n| open(*n)).collect();
            run.commit(encoder.entry(header, &records));
        }
        run.event(GroupEvent::Leading { shard: SHARD, term: TERM });
        run.commit(Bytes::new());
        run
    }

    fn live(&self) -> u32 {
        self.worker.shard_status()[0].live
    }
}

fn measure(flows: u32) {
    let mut run = Run::with(flows);
    assert_eq!(run.live(), flows);
    let octets = run.worker.shard_status()[0].table_bytes / usize::try_from(flows).expect("small");
    println!("{flows} flows: {octets} octets each");
    assert!(octets <= OCTETS_PER_FLOW_MAX, "the memory budget");
    let (mut timers, mut entries, mut rounds) = (0, 0, 0_u64);
    let mut end_ns = 0;
    while run.live() > 0 {
        run.now_ns = run.worker.next_timer_ns().clamp(run.now_ns + 1_000_000, run.now_ns + STEP_NS);
        rounds += 1;
        let before = cpu_ns();
        run.worker.handle_timers(run.now_ns, &Always);
        timers = timers.max(cpu_ns() - before);
        loop {
            let before = cpu_ns();
            let Some(output) = run.worker.poll_output(run.now_ns, &Always) else { break };
            if let WorkerOutput::Propose { entry, .. } = output {
                run.commit(entry);
            }
            entries = entries.max(cpu_ns() - before);
        }
        end_ns = run.now_ns;
    }
    let idle_s = (end_ns - 1_000 * SECOND_NS) / SECOND_NS;
    println!("  all closed after {idle_s} s of silence, {rounds} rounds of timers");
    println!("  longest round of timers {} µs, longest entry {} µs of processor time", timers / 1_000, entries / 1_000);
}

fn main() {
    let wanted: Vec<u32> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let all = if wanted.is_empty() { vec![1_000_000, 10_000_000] } else { wanted };
    all.into_iter().for_each(measure);
}
