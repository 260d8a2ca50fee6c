//! What time does to flows, in the real times of the default settings: for the longer profile.

use std::time::{Duration, Instant};

use qnat_reference::packet::{TCP, UDP, tcp, udp};
use qnat_tests::lab::{Lab, wait_until};
use qnat_tests::resources::Changes;

use crate::bed::{Bed, OTHER, SERVER, View, next};
use crate::connections::{ACK, Connection, FIN, SYN};

/// By then a flow that is silent goes on still, and by then it does not.
const LIVES: Duration = Duration::from_secs(230);
const ENDED: Duration = Duration::from_secs(250);
/// A closed connection's hold, and what the test is late.
const HOLD: Duration = Duration::from_secs(67);

/// S13, D6: two datagram flows and two connections fall silent at once. What the remote sends ten seconds before the four minutes are
/// over arrives by one of each; ten seconds after them no port is in use for the others, and nothing arrives by them.
pub(crate) fn what_fell_silent_uses_no_port_after_four_minutes_and_lets_nobody_in(lab: &Lab) {
    Changes::default().apply();
    let bed = &Bed::new(lab);
    // Each takeover gives flows all their time again (I48), and a machine that stands still may cause one.
    let calm = (0..4).any(|round| {
        let (term, first) = (served_in(lab), 8_910 + 10 * round);
        let datagrams = [0, 1].map(|n| (35_100 + first + n, first + n));
        let publics = datagrams.map(|ports| bed.open(&bed.b1, SERVER, ports));
        let connections = [2, 3].map(|n| Connection::establish(bed, 35_100 + first + n, first + n));
        let silent = Instant::now();
        let answer = |n: usize| bed.answer(SERVER, &bed.b1, UDP, &udp(datagrams[n].1, publics[n], b"still there?"));
        std::thread::sleep(LIVES.saturating_sub(silent.elapsed()));
        let seen = bed.back(&bed.b1, &answer(0));
        assert_eq!(View(&seen).ports(), (datagrams[0].1, datagrams[0].0));
        connections[0].comes(bed, (501, 101), ACK);
        std::thread::sleep(ENDED.saturating_sub(silent.elapsed()));
        let Connection { inside, remote, public } = connections[1];
        let used: Vec<String> =
            [datagrams[1].1, remote].iter().flat_map(|port| lab.live_mappings("10.0.1.1", *port)).collect();
        if served_in(lab) != term {
            eprintln!("taken over while flows had to be silent: once more");
            return false;
        }
        assert_eq!(used, [""; 0], "S13: after {:?}", silent.elapsed());
        let segment = tcp((remote, public), (501, 101), ACK, &[], b"");
        for frame in [answer(1), bed.answer(SERVER, &bed.b1, TCP, &segment)] {
            bed.inet.send(&frame).expect("sending");
        }
        let late = [datagrams[1].0, inside];
        bed.nothing(&bed.b1.end, "what came too late", |p| late.contains(&p.ports().1));
        true
    });
    assert!(calm, "the shard was taken over again and again");
}

/// The term in which b1's shard is served.
fn served_in(lab: &Lab) -> u64 {
    let mut term = None;
    wait_until("its owner to say so", Duration::from_secs(10), || {
        term = lab.term_of("b1");
        term.is_some()
    });
    term.expect("just waited for")
}

/// S12, S13, D6: who has used up its ports towards a remote has one again when a connection there has closed and its hold is over,
/// and towards another remote at once.
pub(crate) fn a_closed_connections_port_is_there_elsewhere_at_once_and_here_after_its_hold(lab: &Lab) {
    const GRANTED: u16 = 1_024;
    const REMOTE: u16 = 8_960;
    Changes::default().apply();
    let bed = &Bed::new(lab);
    let all: Vec<Connection> = (0..GRANTED).map(|n| Connection::establish(bed, 40_000 + n, REMOTE)).collect();
    let syn = bed.b1.packet(SERVER, TCP, &tcp((45_000, REMOTE), (100, 0), SYN, &[], b""));
    let passes = |within: Duration| {
        bed.b1.end.send(&syn).expect("sending");
        next(&bed.inet, within, |p| p.is_tcp(|ports| ports.1 == REMOTE), &mut Vec::new())
    };
    assert!(passes(Duration::from_secs(1)).is_none(), "S12: none of its ports is free");
    let closed = all[0];
    closed.leaves(bed, (101, 501), FIN | ACK, b"");
    closed.comes(bed, (501, 102), FIN | ACK);
    closed.leaves(bed, (102, 502), ACK, b"");
    let (mut since, mut term) = (Instant::now(), served_in(lab));
    let elsewhere = bed.b1.packet(OTHER, TCP, &tcp((45_001, REMOTE), (100, 0), SYN, &[], b""));
    let _at_once = bed.out(&bed.b1, &elsewhere);
    let seen = loop {
        if let Some(seen) = passes(Duration::from_secs(1)) {
            break seen;
        }
        // A successor holds it anew.
        let now = served_in(lab);
        if now != term {
            (since, term) = (Instant::now(), now);
        }
        assert!(since.elapsed() < HOLD, "it is not there after {:?}", since.elapsed());
    };
    assert_eq!(View(&seen).ports(), (closed.public, REMOTE), "the port of the one that closed");
    eprintln!("there again {:.1} s after it closed", since.elapsed().as_secs_f64());
    for one in [all[1], all[usize::from(GRANTED) - 1]] {
        one.leaves(bed, (101, 501), ACK, b"");
    }
}
