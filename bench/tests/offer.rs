//! The generator and the sink over a pair of veths. Needs root.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use netio::netns;
use qnat_bench::offer::{FRAME, Flows, Generator, Sink};
use qnat_ends::End;
use qnat_reference::packet::{ETH, addresses, be16, examine};

const SENDER: &str = "qends-sender";
const RECEIVER: &str = "qends-receiver";
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Both namespaces; they go with the value.
struct Pair;

impl Pair {
    fn up() -> Self {
        for namespace in [SENDER, RECEIVER] {
            netns::delete(namespace).expect("root");
            netns::create(namespace).expect("root");
        }
        let pair = Self;
        ip(&["-n", SENDER, "link", "add", "one", "type", "veth", "peer", "name", "two", "netns", RECEIVER]);
        ip(&["-n", SENDER, "link", "set", "one", "up"]);
        ip(&["-n", RECEIVER, "link", "set", "two", "up"]);
        pair
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for namespace in [SENDER, RECEIVER] {
            let _gone = netns::delete(namespace);
        }
    }
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().expect("ip").success(), "{arguments:?}");
}

#[test]
fn each_flow_is_sent_in_turn_at_its_rate_and_all_that_arrives_is_counted() {
    let _pair = Pair::up();
    let receiver = End::open(RECEIVER, "two").expect("a raw socket");
    let mut generator = Generator::new((SENDER, "one"), (RECEIVER, "two")).expect("the kernel's");
    let flows = Flows {
        macs: ([2, 0, 0, 0, 0, 1], receiver.mac),
        source: SOURCE,
        remote: REMOTE,
        count: 7,
        inside: (20_000, 3),
        to: 10_000,
    };
    // No more than the socket has room for.
    let (sent, took) = generator.send(&flows, Some(8_000), 0, Duration::from_micros(37_500)).expect("sent");
    assert_eq!(sent, 300);
    assert!(took >= Duration::from_millis(30), "{took:?}: faster than its rate, but for what it makes up for");
    let mut seen = BTreeMap::new();
    for frame in receiver.receive(Duration::from_millis(100)).expect("a raw socket") {
        examine(&frame).expect("checksums");
        assert_eq!((frame.len(), addresses(&frame)), (usize::from(FRAME), (SOURCE, REMOTE)));
        *seen.entry((be16(&frame, ETH + 20), be16(&frame, ETH + 22))).or_insert(0_u64) += 1;
    }
    let flows: Vec<_> = seen.keys().copied().collect();
    let expected =
        [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1)].map(|(inside, to)| (20_000 + inside, 10_000 + to));
    assert_eq!(flows, expected);
    assert_eq!(seen.values().sum::<u64>(), sent);
    let (least, most) = (seen.values().min().expect("some"), seen.values().max().expect("some"));
    assert!(most - least <= 1, "{seen:?}");
    // Whoever comes behind the sink sees none of them.
    let sink = Sink::new(RECEIVER, "two").expect("the kernel's");
    let (sent, _) =
        generator.send(&flows_of_one(&receiver), Some(10_000), 0, Duration::from_millis(300)).expect("sent");
    assert_eq!(
        (sink.arrived().expect("counted"), receiver.receive(Duration::from_millis(50)).expect("a socket").len()),
        (sent, 0)
    );
    let (faster, _) = generator.send(&flows_of_one(&receiver), None, 0, Duration::from_millis(100)).expect("sent");
    assert!(faster > 20_000, "{faster} in 100 ms, as fast as can be");
}

fn flows_of_one(receiver: &End) -> Flows {
    let macs = ([2, 0, 0, 0, 0, 1], receiver.mac);
    Flows { macs, source: SOURCE, remote: REMOTE, count: 1, inside: (1, 1), to: 1 }
}
