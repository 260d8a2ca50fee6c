//! The engine's packets of known flows under criterion: `cargo bench -p qnat-bench`, then change something, then again.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use engine::record::Proto;
use qnat_bench::engine::bed::{Bed, Tuple};
use qnat_bench::engine::frames::{Batch, Size, Way};
use qnat_bench::engine::rounds::{BATCH, Draw, look_ahead, translate};

fn known_flows(criterion: &mut Criterion) {
    for flows in [10_000, 1_000_000, 10_000_000] {
        for proto in [Proto::Udp, Proto::Tcp] {
            let (mut bed, mut draw) = (Bed::new(flows, proto), Draw::new(1));
            let mut group = criterion.benchmark_group(format!("{proto:?} of {flows} flows"));
            group.throughput(Throughput::Elements(BATCH as u64));
            for size in [Size::Small, Size::Super] {
                for way in [Way::Out, Way::In, Way::Mixed] {
                    let mut batch = Batch::new(BATCH, proto, size, way);
                    group.bench_function(BenchmarkId::new(format!("{size:?}"), format!("{way:?}")), |bencher| {
                        bencher.iter_custom(|times| {
                            let mut time = Duration::ZERO;
                            for _ in 0..times {
                                batch.fill(proto, (0..BATCH).map(|_| Tuple::of(draw.below(flows))));
                                let begun = Instant::now();
                                look_ahead(&mut bed, &batch);
                                let sent = translate(&mut bed, &mut batch);
                                time += begun.elapsed();
                                assert_eq!(sent, BATCH, "packets of known flows pass");
                            }
                            time
                        });
                    });
                }
            }
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    known_flows(&mut criterion);
    criterion.final_summary();
}
