//! The engine and the naive translator see the same packets at the same times and must agree on every octet that leaves
//! (S7-S13, S23, S26, D6, D7, D9, D14, D26, R1, R3, R5-R7, R9-R12, R14-R18, R21, R22, R25, R26, I2, I15, I16, I29). A difference shrinks to the shortest
//! sequence that shows it. `QNAT_PACKETS` sets how many packets are sent in all, and `QNAT_SEED` which.

mod play;
mod search;
mod steps;

use engine::ids::Side;
use qnat_reference::bed::Bed;
use qnat_reference::expect::Outcome;
use qnat_reference::model::Model;
use qnat_reference::packet::UDP;
use qnat_reference::sent::Packet;
use qnat_reference::world::World;

use play::Tally;
use search::{asked, search};

/// Threads that play.
const PLAYERS: u64 = 2;
/// Of a million packets at least so many have come to this; or else the script has gone quiet.
const LEAST: [(&str, u64); 33] = [
    ("Opened", 100_000),
    ("Out", 50_000),
    ("In", 100_000),
    ("LetIn", 5_000),
    ("Filtered", 10_000),
    ("Refused", 50_000),
    // In half of the worlds everybody has something to leave by.
    ("NoPort", 25_000),
    ("OverQuota", 1_000),
    ("OverRate", 2_000),
    ("Turned", 6_000),
    ("TurnedAway", 15_000),
    ("HopsRanOut", 3_000),
    ("TooLong", 400),
    ("Clamped", 3_000),
    ("Unsummed", 5_000),
    ("First", 3_000),
    ("WaitedFor", 500),
    ("Cut", 500),
    ("Error", 20_000),
    ("ErrorTurned", 200),
    ("ErrorRefused", 20_000),
    ("Followed", 10_000),
    ("Waits", 30_000),
    ("Copy", 1_000),
    ("Overlap", 1_000),
    ("Tiny", 150),
    ("Takeover", 600),
    ("Astray", 5_000),
    ("Begun", 15_000),
    ("Answered", 2_000),
    ("LetInside", 5_000),
    ("PingedInside", 400),
    ("Denied", 4_000),
];

#[test]
fn the_engine_does_what_the_naive_translator_does() {
    let (packets, seed) = asked(1_000_000);
    let mut seen = Tally::default();
    std::thread::scope(|scope| {
        let share = packets.div_ceil(PLAYERS);
        let players: Vec<_> =
            (0..PLAYERS).map(|n| scope.spawn(move || search((share, seed + n), steps::step(), &Bed::new))).collect();
        for player in players {
            match player.join().expect("a player that does not panic") {
                Ok(tally) => {
                    seen.compared += tally.compared;
                    tally.of.into_iter().for_each(|(what, n)| *seen.of.entry(what).or_default() += n);
                }
                Err(why) => panic!("{why}"),
            }
        }
    });
    println!("seed {seed}: {} packets compared: {:?}", seen.compared, seen.of);
    // Of a few packets nothing can be said.
    for (name, least) in LEAST.into_iter().filter(|_| seen.compared >= 500_000) {
        let n = seen.of.get(name).copied().unwrap_or(0);
        assert!(
            n * 1_000_000 >= least * seen.compared,
            "only {n} of {} were {name}: too quiet a script",
            seen.compared
        );
    }
}

#[test]
fn flows_to_different_remotes_share_ports() {
    let (mut bed, mut model) = (Bed::default(), Model::new(&World::default()));
    for round in 0..4_u16 {
        for service in 1000..1200_u16 {
            let packet = Packet { proto: UDP, near: 5000 + round, service, ..Packet::default() };
            let left = bed.inject(packet.link(Side::Inside), &packet.frame(Side::Inside));
            let judged = model.judge(bed.now_ns, Side::Inside, &packet, || None, &left);
            assert_eq!(judged, Ok(Outcome::Opened), "800 flows fit into 32 ports");
        }
        assert_eq!(model.ports_in_use(), usize::from(round) + 1, "as many ports as flows to one remote (S10)");
    }
}
