//! The bench of the engine, and what it takes for granted.

use std::process::Command;

use engine::record::Proto;
use qnat_bench::engine::bed::{Bed, Tuple};
use qnat_bench::engine::frames::{Batch, Size, Way};
use qnat_bench::engine::rounds::BATCH;
use qnat_bench::report::Stored;

/// More than fit into a cache.
const FLOWS: u32 = 100_000;

#[test]
fn looking_ahead_finds_the_flows_that_are_known_and_allocates_nothing() {
    for proto in [Proto::Udp, Proto::Tcp] {
        let mut bed = Bed::new(FLOWS, proto);
        for size in [Size::Small, Size::Super] {
            for (first, expected) in [(0, BATCH), (FLOWS, 0)] {
                let mut batch = Batch::new(BATCH, proto, size, Way::Mixed);
                batch.fill(proto, (first..).step_by(31).map(Tuple::of));
                let mut found = 0;
                let counted = allocation_counter::measure(|| {
                    for (side, frame) in &batch.frames {
                        bed.worker.look_ahead(*side, frame);
                    }
                    found = bed.worker.fetch();
                });
                assert_eq!((found, counted.count_total), (expected, 0), "{proto:?} {size:?} from {first}");
            }
        }
    }
}

#[test]
fn a_flow_takes_at_most_128_octets_with_its_indexes() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qnat-bench"));
    let output = command.args(["engine", "--flows", "100000", "--rounds", "1", "-o", "json"]).output();
    let output = output.expect("the bench starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stored: Stored = serde_json::from_slice(&output.stdout).expect("a result");
    let Stored::Engine(result) = stored else { panic!("the result of another command") };
    let [table] = &result.tables[..] else { panic!("one table was asked for") };
    assert!(table.octets > 64.0 && table.octets <= 128.0, "a record alone takes 64: {table:?}");
    assert!(table.idle.closed_after_s >= 240, "{table:?}");
    assert_eq!(result.packets.len(), 12);
    assert!(result.packets.iter().all(|row| row.ns.median > 0.0), "{result:?}");
}
