//! What interfaces hand over that a gateway must not take as it looks: frames of a VLAN, and merged packets longer than IPv4.

mod net;

use std::time::Duration;

use net::Namespace;
use qnat_netio::bell::Doorbell;
use qnat_netio::fast::FastSize;
use qnat_netio::guard::{self, Guard};
use qnat_netio::link::Link;
use qnat_netio::packet::PacketLoop;
use qnat_netio::port::{Disposition, Interface, LoopLimits, PortConfig, Reception};
use qnat_netio::socket::BufferLimits;
use qnat_netio::superpacket;
use words::{FrameMeta, Share};

const VIRTUAL: [u8; 6] = [0x02, 0x51, 0x4e, 0, 0, 7];
const SENDER: [u8; 6] = [0x52, 0, 0, 0, 0, 9];

fn open(inside: &Link, outside: &Link) -> PacketLoop {
    let port = |link: &Link| PortConfig {
        link: link.clone(),
        limits: BufferLimits::default(),
        reception: Reception::Promiscuous,
    };
    let limits = LoopLimits { receive_buffers: 64, transmit_buffers: 64, requests: 64 };
    PacketLoop::new((&port(outside), &[port(inside)]), limits, Doorbell::new().expect("bell"), Share::WHOLE)
        .expect("loop")
}

/// A frame that says what it is: IPv4, or ARP if it goes to all.
fn frame(destination: [u8; 6], vlan: Option<u16>) -> Vec<u8> {
    let kind: [u8; 2] = if destination == [0xff; 6] { [8, 6] } else { [8, 0] };
    let mut frame = [&destination[..], &SENDER[..]].concat();
    if let Some(vlan) = vlan {
        frame.extend([0x81, 0x00]);
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(kind);
    frame.resize(64, 0x45);
    frame
}

/// Sends frames from the far end of the inside interface; how many of them came through.
fn received(near: &mut PacketLoop, far: &Namespace, frames: Vec<Vec<u8>>) -> usize {
    far.run(move || {
        let mut sender = open(&Link::named("oi").expect("oi"), &Link::named("oo").expect("oo"));
        for frame in &frames {
            assert!(sender.transmit(Interface::inside(0), FrameMeta::default(), 0, frame), "a buffer");
            sender.flush(&mut |_| true).expect("flush");
        }
        for _ in 0..20 {
            sender.wait(Duration::from_millis(5), || false).expect("wait");
        }
        assert_eq!(sender.stats(Interface::inside(0)).transmitted, u64::try_from(frames.len()).expect("few"));
    });
    let mut seen = 0;
    for _ in 0..20 {
        near.wait(Duration::from_millis(5), || false).expect("wait");
        near.receive(&mut |from, _, bytes| {
            assert_eq!((from, &bytes[6..12]), (Interface::inside(0), &SENDER[..]));
            seen += 1;
            Disposition::Done
        });
    }
    seen
}

fn gateway() -> (Namespace, Namespace) {
    let (inner, outer) = (Namespace::new("g"), Namespace::new("o"));
    inner.veth("gi", &outer, "oi");
    inner.veth("go", &outer, "oo");
    (inner, outer)
}

#[test]
fn frames_of_a_vlan_are_dropped_and_counted_and_priorities_pass() {
    require_root!();
    if !guard::available() {
        eprintln!("skipped: this build has no guard");
        return;
    }
    for room in [None, Some(FastSize { workers: 1, flows: 8 })] {
        frames_of_a_vlan(room);
    }
}

/// Without and with a fast path, which looks at tags itself.
fn frames_of_a_vlan(room: Option<FastSize>) {
    let (inner, outer) = gateway();
    inner.run(move || {
        let links = ["gi", "go"].map(|name| Link::named(name).expect("link"));
        let mut near = open(&links[0], &links[1]);
        let (guard, _words, _tables) = Guard::attach_with(&links[1], &links[..1], room).expect("attached");
        let to = [VIRTUAL, links[0].mac, [0xff; 6]];
        let all = |vlan| to.iter().map(|mac| frame(*mac, vlan)).collect::<Vec<_>>();
        assert_eq!(received(&mut near, &outer, all(None)), 3, "without a tag");
        assert_eq!(received(&mut near, &outer, all(Some(0))), 3, "VLAN 0 is a priority");
        assert_eq!(received(&mut near, &outer, all(Some(0xe000))), 3, "and so is it with one");
        assert_eq!(received(&mut near, &outer, all(Some(100))), 0, "VLAN 100");
        assert_eq!(near.stats(Interface::inside(0)).received_tagged, 2);
        // Those to other addresses may be for a VLAN device of the machine's own on the same interface.
        assert_eq!(guard.counters().expect("counters").drop_tagged, 1, "to the virtual address alone");
    });
}

#[test]
fn an_interface_merges_no_more_than_a_buffer_holds() {
    require_root!();
    let (inner, _outer) = gateway();
    inner.run(|| {
        let links = ["gi", "go"].map(|name| Link::named(name).expect("link"));
        superpacket::merge_at_most(&links[0], 185_000).expect("raised");
        assert_eq!(superpacket::merged_at_most(&links[0]).expect("asked"), Some(185_000));
        assert_eq!(superpacket::limit(&links[0]).expect("lowered"), Some(185_000));
        assert_eq!(superpacket::merged_at_most(&links[0]).expect("asked"), Some(superpacket::LIMIT));
        assert_eq!(superpacket::limit(&links[1]).expect("as it was"), None);
        let gone = Link { ifindex: 4_000, ..links[0].clone() };
        assert!(superpacket::limit(&gone).is_err(), "no such interface");
    });
}
