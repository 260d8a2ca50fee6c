//! What a backend may not have, and what it hears of that; what of the others is not touched.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use qnat_reference::packet::{ETH, addresses};
use qnat_tests::lab::{Lab, wait_until};

use crate::Second;
use crate::bed::{Backend, Bed, GATEWAY, SERVER, View, forget_own};

/// The most flows of a backend while these checks run: more than any other one of this program opens, but for those of b3.
const FLOWS_MAX: usize = 600;
/// And the most that it may open per second.
const RATE: u16 = 50;

/// `[settings]` for the first check, and for the second.
pub(crate) const TOLD: &str = "[settings]\nflows_per_backend_max = 600\nicmp_on_refusal = true\n";
pub(crate) const SLOW: &str = "[settings]\nnew_flows_per_second_max = 50\n";

/// Runs of the check that needs flows of its own each time.
static RUNS: AtomicU16 = AtomicU16::new(0);

/// R21, R23: a backend that has as many flows as it may is told that it gets no more, and keeps those it has.
pub(crate) fn a_backend_with_too_many_flows_is_told_and_keeps_those_it_has(bed: &Bed<'_>) -> Second {
    let b4 = Backend::of(bed.lab, 4);
    forget_own([&b4.end, &bed.inet]);
    let datagram = |port: u16| b4.datagram(SERVER, (port, 7_411), &port.to_be_bytes());
    let (mut public, mut told) = (BTreeMap::new(), false);
    for port in 50_000..50_700 {
        b4.end.send(&datagram(port)).expect("sending");
        if port % 20 == 0 {
            let left = bed.all(&bed.inet, Duration::from_millis(20));
            let left = left.iter().map(|frame| View(frame)).filter(|seen| seen.is_udp(|ports| ports.1 == 7_411));
            public.extend(left.map(|seen| (seen.body()[8..10].to_vec(), seen.ports().0)));
            let heard = bed.all(&b4.end, Duration::from_millis(1));
            told |= heard.iter().any(|frame| View(frame).kind() == Some((3, 1)));
        }
        if told {
            break;
        }
    }
    assert!(told, "nobody said that {} flows are too many", public.len());
    assert!(!public.is_empty() && public.len() <= FLOWS_MAX, "{} left", public.len());
    assert_eq!(bed.lab.flows_of("10.0.1.4"), FLOWS_MAX);
    Box::new(move |bed| {
        let refused = |to, port, kind| {
            let frame = b4.datagram(to, (port, 7_411), b"one too many");
            let heard = bed.provokes((&b4.end, &b4.end), &frame, |seen| seen.kind() == Some(kind));
            assert_eq!(addresses(&heard), (GATEWAY, b4.address));
            assert_eq!(View(&heard).body()[8..36], frame[ETH..ETH + 28], "what it is about");
        };
        refused(SERVER, 51_000, (3, 1));
        refused([169, 254, 1, 1].into(), 51_001, (3, 13));
        bed.nothing(&bed.inet, "a flow beyond the limit", |seen| seen.body().ends_with(b"one too many"));
        for (port, public) in public.iter().step_by(100) {
            let port = u16::from_be_bytes([port[0], port[1]]);
            assert_eq!(bed.open(&b4, SERVER, (port, 7_411)), *public);
        }
    })
}

/// R21: a backend that opens flows too fast opens the rest later; its neighbour does not feel it. A successor counts anew,
/// so this is done once more if the shard was taken over meanwhile.
pub(crate) fn a_backend_that_opens_too_fast_waits_and_its_neighbour_does_not(_: &Bed<'_>) -> Second {
    Box::new(|bed| {
        const FLOWS: u16 = 120;
        let least_s = f64::from(FLOWS - RATE) / f64::from(RATE);
        for _ in 0..5 {
            let term = bed.lab.term_of("b1");
            let (at_once, within, took) = opens_too_fast(bed, FLOWS);
            if bed.lab.term_of("b1") == term {
                let most = f64::from(RATE) * (1.0 + within.as_secs_f64());
                assert!(at_once as f64 <= most.ceil(), "{at_once} left at once");
                assert!(took.as_secs_f64() > least_s - 0.1, "all had left after {took:?}");
                return;
            }
            eprintln!("taken over while flows had to wait: once more");
        }
        panic!("the shard was taken over again and again");
    })
}

/// Opens so many flows of b1 at once. How many left at once, within what time that is, and when the last one had left.
fn opens_too_fast(bed: &Bed<'_>, flows: u16) -> (usize, Duration, Duration) {
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let remote = 7_421 + run;
    let mut missing: Vec<u16> = (52_000..52_000 + flows).collect();
    let begun = Instant::now();
    let mut send = |bed: &Bed<'_>| {
        for port in &missing {
            bed.b1.end.send(&bed.b1.datagram(SERVER, (*port, remote), &port.to_be_bytes())).expect("sending");
        }
        let left = bed.all(&bed.inet, Duration::from_millis(100));
        let left = left.iter().map(|frame| View(frame)).filter(|seen| seen.is_udp(|ports| ports.1 == remote));
        let left: Vec<Vec<u8>> = left.map(|seen| seen.body()[8..10].to_vec()).collect();
        missing.retain(|port| !left.contains(&port.to_be_bytes().to_vec()));
        missing.len()
    };
    let at_once = usize::from(flows) - send(bed);
    let within = begun.elapsed();
    assert!(at_once > 0, "none left at once");
    let _passes = bed.open(&bed.b2, SERVER, (52_900, remote));
    wait_until("the rest to leave", Duration::from_secs(10), || send(bed) == 0);
    (at_once, within, begun.elapsed())
}

/// I53: answers that are long, asked for by many at a time, travel beside the leases of whoever gives them.
pub(crate) fn questions_about_thousands_of_flows_move_no_shard(lab: &Lab) {
    const FLOWS: u16 = 900;
    let backends = [1, 2, 4].map(|number| Backend::of(lab, number));
    for number in 0..FLOWS {
        for backend in &backends {
            let datagram = backend.datagram(SERVER, (30_000 + number, 9_000 + number), b"one of many");
            backend.end.send(&datagram).expect("sending");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let flows = || backends.iter().map(|backend| lab.flows_of(&backend.address.to_string())).sum::<usize>();
    wait_until("all of them", Duration::from_secs(10), || flows() >= 3 * usize::from(FLOWS));
    let terms = || ["b1", "b2", "b4"].map(|backend| lab.term_of(backend));
    let before = terms();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..10).for_each(|_| assert!(flows() >= 3 * usize::from(FLOWS))));
        }
    });
    assert_eq!(terms(), before);
}
