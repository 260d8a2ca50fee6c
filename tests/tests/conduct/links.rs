//! What the gateway makes of its data networks: questions and announcements, VLANs, whose card sends, and the order of packets.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use qnat_ends::End;

use crate::Second;
use crate::bed::{Backend, Bed, GATEWAY, SERVER, View};

/// Runs of checks that need flows of their own each time.
static RUNS: AtomicU16 = AtomicU16::new(0);

fn run() -> u16 {
    RUNS.fetch_add(1, Ordering::Relaxed)
}

/// An ARP request from `sender`, which may be nobody.
fn question(from: &End, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &from.mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &from.mac].concat();
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// M2, RFC 5227: no member asks for an address as one that looks whether it is taken, whatever happens; and the gateway
/// answers who looks whether its own is, by one member.
pub(crate) fn an_address_is_claimed_by_nobody_who_has_not_got_it(_: &Bed<'_>) -> Second {
    let arp = End::arp("qnat-b4", "eth0").expect("a raw socket");
    Box::new(move |bed| {
        let seen = arp.receive(Duration::from_millis(1_200)).expect("a socket");
        let probes = seen.iter().filter(|frame| frame[28..32] == [0; 4]).count();
        assert_eq!(probes, 0, "of {} ARP frames", seen.len());
        // A switch or a busy machine may lose a question, so one of several; but none has two answers.
        let answers: Vec<usize> = (0..4)
            .map(|_| {
                arp.send(&question(&arp, Ipv4Addr::UNSPECIFIED, GATEWAY)).expect("sending");
                let heard = arp.receive(Duration::from_millis(400)).expect("a socket");
                heard.iter().filter(|f| f[21] == 2 && f[28..32] == GATEWAY.octets() && f[..6] == arp.mac).count()
            })
            .collect();
        assert!(answers.contains(&1) && answers.iter().all(|n| *n <= 1), "{answers:?}");
        let _passes = bed.open(&bed.b1, SERVER, (26_000 + run(), 7_501));
    })
}

/// A frame of a VLAN is no traffic of this network; VLAN 0 is none but a priority (IEEE 802.1Q).
pub(crate) fn a_frame_of_a_vlan_is_no_traffic(_: &Bed<'_>) -> Second {
    fn tagged(frame: &[u8], tag: u16) -> Vec<u8> {
        [&frame[..12], &[0x81, 0x00], &tag.to_be_bytes(), &frame[12..]].concat()
    }
    Box::new(|bed| {
        let (inside, remote) = (26_100 + run(), 7_502);
        let frame = bed.b1.datagram(SERVER, (inside, remote), b"tagged");
        bed.b1.end.send(&tagged(&frame, 100)).expect("sending");
        bed.nothing(&bed.inet, "a frame of VLAN 100", |p| p.is_udp(|ports| ports.1 == remote));
        let leaves = |p: View<'_>| p.is_udp(|ports| ports.1 == remote);
        let seen = bed.provokes((&bed.b1.end, &bed.inet), &tagged(&frame, 0xa000), leaves);
        let public = View(&seen).ports().0;
        let udp = qnat_reference::packet::udp(remote, public, b"answer");
        let answer = bed.answer(SERVER, &bed.b1, qnat_reference::packet::UDP, &udp);
        let comes = |p: View<'_>| p.is_udp(|ports| ports == (remote, inside));
        bed.inet.send(&tagged(&answer, 200)).expect("sending");
        bed.nothing(&bed.b1.end, "a frame of VLAN 200", comes);
        let _passes = bed.provokes((&bed.inet, &bed.b1.end), &tagged(&answer, 0x2000), comes);
    })
}

/// I43: who writes another backend's address does not get into its flows and opens none.
pub(crate) fn a_backend_sends_under_its_own_address_only(bed: &Bed<'_>) -> Second {
    let _opens = bed.open(&bed.b1, SERVER, (26_200, 7_503));
    Box::new(|bed| {
        let borrowed = |ports| {
            let mut frame = bed.b1.datagram(SERVER, ports, b"borrowed");
            frame[6..12].copy_from_slice(&bed.b3.end.mac);
            frame
        };
        for ports in [(26_200, 7_503), (26_201, 7_504)] {
            bed.b3.end.send(&borrowed(ports)).expect("sending");
        }
        bed.nothing(&bed.inet, "somebody else's packet", |p| p.body().ends_with(b"borrowed"));
        assert!(bed.lab.live_mappings("10.0.1.1", 7_504).is_empty());
        let _passes = bed.open(&bed.b1, SERVER, (26_200, 7_503));
    })
}

/// I56: two packets of a new flow, one right behind the other, leave in this order.
pub(crate) fn two_packets_of_a_new_flow_leave_in_their_order(_: &Bed<'_>) -> Second {
    // Fewer than a backend may have while the limits are looked at, also if this runs twice.
    const FLOWS: u16 = 150;
    Box::new(|bed| {
        let (sender, remote): (&Backend, u16) = (&bed.b2, 7_510 + run());
        let mut seen: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
        let note = |seen: &mut BTreeMap<u16, Vec<u8>>, time| {
            for frame in bed.all(&bed.inet, time) {
                let packet = View(&frame);
                if let (true, [a, b, number, ..]) = (packet.is_udp(|ports| ports.1 == remote), &packet.body()[8..]) {
                    seen.entry(u16::from_be_bytes([*a, *b])).or_default().push(*number);
                }
            }
        };
        for port in 27_000..27_000 + FLOWS {
            let [a, b] = port.to_be_bytes();
            for number in [1, 2] {
                let frame = sender.datagram(SERVER, (port, remote), &[a, b, number]);
                sender.end.send(&frame).expect("sending");
            }
            note(&mut seen, Duration::from_millis(u64::from(port % 10 == 0)));
        }
        note(&mut seen, Duration::from_millis(500));
        let both = seen.values().filter(|numbers| numbers.len() == 2).count();
        let swapped = seen.values().filter(|numbers| numbers[..] == [2, 1]).count();
        assert_eq!(swapped, 0, "of {both} pairs");
        assert!(both > usize::from(FLOWS) / 2, "only {both} pairs arrived whole");
    })
}
