//! Several packet loops on the same interfaces, one for each worker: each frame is one worker's, but ARP is everybody's.

mod net;

use std::time::Duration;

use net::Namespace;
use qnat_netio::bell::Doorbell;
use qnat_netio::link::Link;
use qnat_netio::packet::PacketLoop;
use qnat_netio::port::{Disposition, Interface, LoopLimits, PortConfig, Reception};
use qnat_netio::socket::BufferLimits;
use words::{FrameMeta, Mac, ShardId, Share};

const SENDER: [u8; 6] = [0x52, 0, 0, 0, 0, 9];

fn open(names: [&str; 2], share: Share) -> PacketLoop {
    let [inside, outside] = names.map(|name| PortConfig {
        link: Link::named(name).expect("link"),
        limits: BufferLimits::default(),
        reception: Reception::Promiscuous,
    });
    let limits = LoopLimits { receive_buffers: 64, transmit_buffers: 64, requests: 64 };
    PacketLoop::new((&outside, &[inside]), limits, Doorbell::new().expect("bell"), share).expect("loop")
}

fn frame(to: [u8; 6], kind: u16) -> Vec<u8> {
    let mut frame = [&to[..], &SENDER[..], &kind.to_be_bytes()[..]].concat();
    frame.resize(64, 0x45);
    frame
}

/// Where the frames went that one loop received, with their types.
fn received(near: &mut PacketLoop) -> Vec<([u8; 6], u16)> {
    let mut seen = Vec::new();
    for _ in 0..20 {
        near.wait(Duration::from_millis(5), || false).expect("wait");
        near.receive(&mut |from, _, bytes| {
            assert_eq!((from, &bytes[6..12]), (Interface::inside(0), &SENDER[..]));
            seen.push((bytes[..6].try_into().expect("six"), u16::from_be_bytes([bytes[12], bytes[13]])));
            Disposition::Done
        });
    }
    seen
}

#[test]
fn frames_for_a_shard_come_to_its_worker_those_for_none_to_the_first_and_arp_to_all() {
    require_root!();
    let (inner, outer) = (Namespace::new("g"), Namespace::new("o"));
    inner.veth("gi", &outer, "oi");
    inner.veth("go", &outer, "oo");
    inner.run(move || {
        let own = Link::named("gi").expect("gi").mac;
        let mut near: Vec<PacketLoop> = Share::all(3).map(|share| open(["gi", "go"], share)).collect();
        let shards = [0, 1, 2, 3, 4, 255, 256, 257].map(|shard| Mac::of_shard(ShardId(shard)).0);
        let others = [own, [0xff; 6], [0x02, 0x51, 0x4e, 0x01, 0, 1], [1, 0, 0x5e, 0, 0, 1]];
        let ip = shards.iter().chain(&others).map(|to| (*to, 0x0800));
        let all: Vec<([u8; 6], u16)> = ip.chain([([0xff; 6], 0x0806), (shards[1], 0x0806), (own, 0x88b6)]).collect();
        let frames = all.clone();
        outer.run(move || {
            let mut far = open(["oi", "oo"], Share::WHOLE);
            for (to, kind) in &frames {
                assert!(far.transmit(Interface::inside(0), FrameMeta::default(), 0, &frame(*to, *kind)), "a buffer");
                far.flush(&mut |_| true).expect("flush");
            }
            for _ in 0..20 {
                far.wait(Duration::from_millis(5), || false).expect("wait");
            }
        });
        for (share, near) in Share::all(3).zip(&mut near) {
            let takes = |(to, kind): &([u8; 6], u16)| match (kind, Mac(*to).shard()) {
                (0x0806, _) => true,
                (0x0800, Some(shard)) => share.has(shard),
                _ => share.is_first(),
            };
            let mut expected: Vec<_> = all.iter().copied().filter(takes).collect();
            let mut seen = received(near);
            expected.sort_unstable();
            seen.sort_unstable();
            assert_eq!(seen, expected, "{share:?}");
        }
    });
}
