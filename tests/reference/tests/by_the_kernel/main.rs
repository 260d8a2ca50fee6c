//! The same as `against_the_model`, with the kernel's fast path ahead of each member's worker: every packet that it carries is as the
//! naive translator has it, and so is all that the worker then says of flows whose packets it has not seen (K1, R18, R27, I48,
//! I51). Needs root and clang. `QNAT_SEED` as there, and a tenth of `QNAT_PACKETS`.

mod kernel;
#[path = "../../../../netio/tests/net/mod.rs"]
mod net;
#[path = "../against_the_model/play.rs"]
mod play;
#[path = "../against_the_model/search.rs"]
mod search;
#[path = "../against_the_model/steps.rs"]
mod steps;

use engine::ids::Side;
use kernel::Kernel;
use net::Namespace;
use proptest::prelude::*;
use proptest::sample::Index;
use qnat_reference::bed::{Bed, Carrier};
use qnat_reference::connection::{ACK, SYN, Segment};
use qnat_reference::sent::Packet;

use search::{asked, search};
use steps::Step;

/// Of a million packets the kernel carries at least so many.
const CARRIED: u64 = 250_000;

/// Packets of flows that there are, as most look: whole, with hops left, after the handshake; and everything else besides.
fn step() -> impl Strategy<Value = Step> {
    let usual = |packet: Packet| {
        let flags = if packet.mark < 230 { ACK } else { packet.segment.flags & !SYN | ACK };
        let segment = Segment { flags, ..packet.segment };
        Packet { whole: true, ttl: packet.ttl.max(2), mss: None, segment, ..packet }
    };
    let of = move |side, packet: BoxedStrategy<Packet>| {
        (any::<Index>(), packet).prop_map(move |(nth, packet)| Step::Of(side, nth, usual(packet)))
    };
    prop_oneof![
        2 => steps::step(),
        1 => of(Side::Inside, steps::packet(Just(0)).boxed()),
        1 => of(Side::Outside, steps::packet(Just(0)).boxed()),
        1 => of(Side::Inside, steps::from_backend().boxed()),
        1 => of(Side::Outside, steps::from_remote().boxed()),
    ]
}

#[test]
fn with_the_kernel_ahead_of_it_the_engine_does_what_the_naive_translator_does() {
    require_root!();
    // Each takes ten times as long as there.
    let (packets, seed) = asked(1_000_000);
    let packets = packets / 10;
    let (members, hosts) = (Namespace::new("m"), Namespace::new("h"));
    for name in ["out1", "one1", "other1", "out2", "one2", "other2"] {
        members.veth(name, &hosts, name);
    }
    let seen = members.run(move || {
        search((packets, seed), step(), &|world| {
            let carriers = [["out1", "one1", "other1"], ["out2", "one2", "other2"]];
            let carriers = carriers.map(|names| -> Box<dyn Carrier> { Box::new(Kernel::on(names)) });
            Bed::with(world, Some(carriers))
        })
    });
    let seen = seen.unwrap_or_else(|why| panic!("{why}"));
    println!("seed {seed}: {} packets compared: {:?}", seen.compared, seen.of);
    let carried = seen.of.get("Carried").copied().unwrap_or(0);
    assert!(carried * 1_000_000 >= CARRIED * seen.compared, "the kernel carried {carried} of {}", seen.compared);
}
