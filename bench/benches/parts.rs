//! What the engine and the threads around it are made of, each by itself, under criterion: the flow table, the choice of a port, the
//! codec of log entries, and the rings between threads.

use std::collections::HashSet;
use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use engine::codec::{Encoder, decode_entry};
use engine::flow::Table;
use engine::ids::{BackendId, ControlIndex, FrontendId, LogIndex, PortBlock, Term, VnetId};
use engine::ports::LeaseOrder;
use engine::record::{
    Addr, Endpoint, EntryHeader, FlowRecord, HOLD_CLASSES, HoldClass, InsideKey, Open, Proto, PublicKey, Scenario,
};
use netio::sync::spsc;
use qnat_bench::engine::bed::Tuple;
use qnat_bench::engine::rounds::Draw;

/// Of the smallest pool.
const LEASE: PortBlock = PortBlock { frontend: FrontendId(1), start: 1024, len: 1024 };

fn open(n: u32) -> Open {
    let Tuple { backend, inside, public_port, remote } = Tuple::of(n);
    let endpoint = |(ip, port): (Ipv4Addr, u16)| Endpoint { addr: Addr::from(ip), port };
    Open {
        public: PublicKey { proto: Proto::Udp, frontend: FrontendId(1), port: public_port, remote: endpoint(remote) },
        inside: InsideKey { vnet: VnetId(0), endpoint: endpoint(inside) },
        backend: BackendId(backend),
        scenario: Scenario::Pool,
    }
}

fn table(criterion: &mut Criterion) {
    for flows in [10_000, 1_000_000] {
        let mut table = Table::new(1);
        for n in 0..flows {
            table.insert(open(n), LogIndex(1), 0);
        }
        let (mut draw, mut next) = (Draw::new(1), flows);
        let mut group = criterion.benchmark_group(format!("a table of {flows} flows"));
        group.bench_function("a look-up of a public key", |bencher| {
            let key = || open(draw.below(flows)).public;
            bencher.iter_batched(key, |key| table.find_public(black_box(&key)).expect("known"), BatchSize::SmallInput);
        });
        group.bench_function("a mapping from its first to its last", |bencher| {
            let new = || {
                next += 1;
                open(next)
            };
            let whole = |open| {
                let slot = table.insert(open, LogIndex(2), 0);
                table.close(slot, HoldClass::Fin, LogIndex(3), 0);
                table.release(slot);
            };
            bencher.iter_batched(new, whole, BatchSize::SmallInput);
        });
    }
}

fn allocator(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a port of a lease of 1,024");
    for taken in [0_usize, 512, 1_000] {
        let mut order = LeaseOrder::new([1, 2], BackendId(1), &[LEASE]);
        let mut used = HashSet::new();
        while used.len() < taken {
            used.insert(order.pick(1, |_, port| used.contains(&port)).expect("room").1);
        }
        group.bench_function(BenchmarkId::new("another remote's first, with so many taken", taken), |bencher| {
            let mut remote = 1;
            bencher.iter(|| {
                remote += 1;
                order.pick(black_box(remote), |_, port| used.contains(&port)).expect("room")
            });
        });
        group.bench_function(BenchmarkId::new("the next one, with so many taken", taken), |bencher| {
            bencher.iter(|| order.pick(black_box(1), |_, port| used.contains(&port)).expect("room"));
        });
    }
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("an entry of the log");
    for count in [1, 32, 256] {
        let records: Vec<FlowRecord> = (0..count).map(|n| FlowRecord::Open(open(n))).collect();
        let header = EntryHeader {
            term: Term(7),
            stream: 2,
            sequence: 9,
            control_index: ControlIndex(5),
            holds_ended: [LogIndex(1); HOLD_CLASSES],
            orphan_grace_ms: 3_000,
            hold_ms: [65_000; HOLD_CLASSES],
            records: 0,
        };
        let mut encoder = Encoder::new();
        let (format, mut found) = (engine::codec::Format::NEWEST, Vec::new());
        encoder.set_format(format);
        group.throughput(Throughput::Elements(count.into()));
        group.bench_function(BenchmarkId::new("written, of so many records", count), |bencher| {
            bencher.iter(|| encoder.entry(header, black_box(&records)));
        });
        let entry = encoder.entry(header, &records);
        group.bench_function(BenchmarkId::new("read, of so many records", count), |bencher| {
            bencher.iter(|| {
                found.clear();
                decode_entry(format, black_box(&entry), &mut found).expect("as it was written")
            });
        });
        assert_eq!(found, records);
    }
}

fn rings(criterion: &mut Criterion) {
    const BATCH: usize = 64;
    let (mut producer, mut consumer) = spsc::ring::<[u64; 8]>(1024);
    let mut group = criterion.benchmark_group("64 lines through a ring");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("one by one", |bencher| {
        bencher.iter(|| {
            for n in 0..BATCH as u64 {
                assert!(producer.push([n; 8]).is_ok(), "room");
            }
            (0..BATCH).map(|_| consumer.pop().expect("there")[0]).sum::<u64>()
        });
    });
    group.bench_function("at once", |bencher| {
        bencher.iter(|| {
            assert_eq!(producer.push_batch(&mut (0..BATCH as u64).map(|n| [n; 8])), BATCH);
            let mut sum = 0;
            assert_eq!(consumer.pop_batch(BATCH, |line| sum += line[0]), BATCH);
            sum
        });
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    table(&mut criterion);
    allocator(&mut criterion);
    codec(&mut criterion);
    rings(&mut criterion);
    criterion.final_summary();
}
