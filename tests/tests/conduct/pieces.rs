//! Datagrams in fragments, and packets that are too long for a link.

use std::time::Duration;

use qnat_ends::End;
use qnat_reference::packet::{ETH, ICMP, Reassembly, UDP, addresses, examine, fragments, mend, shape, udp};
use qnat_tests::lab::{Lab, wait_until};

use crate::Second;
use crate::bed::{Bed, GATEWAY, RESENT_AFTER, SENT_AT_MOST, SERVER, View, next};

const DO_NOT_FRAGMENT: u8 = 0x40;

/// 3,000 octets that differ at each place.
fn long_data() -> Vec<u8> {
    (0..3_000_u16).map(|n| n.to_be_bytes()[1] ^ n.to_be_bytes()[0]).collect()
}

fn identified(mut frame: Vec<u8>, id: u16) -> Vec<u8> {
    frame[ETH + 4..ETH + 6].copy_from_slice(&id.to_be_bytes());
    mend(&mut frame);
    frame
}

/// Sends frames, those of each attempt with identifications of their own, until a datagram has arrived at the other end in
/// `count` fragments; the datagram, and where each fragment began, in the order of arrival.
fn crosses((from, to): (&End, &End), count: usize, frames: impl Fn(u16) -> Vec<Vec<u8>>) -> (Vec<u8>, Vec<usize>) {
    for attempt in 0..SENT_AT_MOST {
        for frame in frames(attempt) {
            from.send(&frame).expect("sending");
        }
        if let Some((whole, starts)) = together(to) {
            assert_eq!(starts.len(), count, "{starts:?}");
            examine(&whole).unwrap_or_else(|wrong| panic!("put together: {wrong}"));
            return (whole, starts);
        }
    }
    panic!("no datagram arrives in {count} fragments");
}

/// The next datagram that is whole again, and where its fragments began.
fn together(at: &End) -> Option<(Vec<u8>, Vec<usize>)> {
    let (mut all, mut starts) = (Reassembly::default(), Vec::new());
    loop {
        let is_fragment = |p: View<'_>| shape(p.0).is_some_and(|shape| shape.fragment != (0, false));
        let piece = next(at, RESENT_AFTER, is_fragment, &mut Vec::new())?;
        starts.push((View(&piece).id(), shape(&piece).expect("it fits").fragment.0));
        if let Some(whole) = all.take(&piece).expect("no fragment lies over another") {
            let id = View(&whole).id();
            return Some((whole, starts.into_iter().filter(|start| start.0 == id).map(|start| start.1).collect()));
        }
    }
}

/// R10: the fragments of a datagram have one translation, whichever comes first, and its checksum is right at the end.
pub(crate) fn fragments_leave_and_come_in_any_order(bed: &Bed<'_>) -> Second {
    let public = bed.open(&bed.b1, SERVER, (34_000, 8_801));
    Box::new(move |bed| {
        let data = long_data();
        for (id, order) in (0x4001..).zip([[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]]) {
            // The last time it is the first of its flow.
            let inside = if order == [2, 0, 1] { 34_001 } else { 34_000 };
            let pieces = |frame: &Vec<u8>, attempt| {
                let pieces = fragments(&identified(frame.clone(), id + 0x100 * attempt), 1_200);
                order.map(|place| pieces[place].clone()).to_vec()
            };
            let (outside, b1) = (&bed.inet, &bed.b1.end);
            let question = bed.b1.datagram(SERVER, (inside, 8_801), &data);
            let (whole, _) = crosses((b1, outside), 3, |attempt| pieces(&question, attempt));
            assert_eq!((addresses(&whole), View(&whole).ports().1), ((bed.b1.public, SERVER), 8_801));
            assert!((View(&whole).ports().0 == public) == (inside == 34_000), "the port of its flow");
            assert_eq!(View(&whole).body()[8..], data);

            let answer = bed.answer(SERVER, &bed.b1, UDP, &udp(8_801, public, &data));
            let (whole, _) = crosses((outside, b1), 3, |attempt| pieces(&answer, attempt));
            assert_eq!((addresses(&whole), View(&whole).ports()), ((SERVER, bed.b1.address), (8_801, 34_000)));
            assert_eq!(View(&whole).body()[8..], data);
        }
    })
}

/// Sets the length of packets that the outside network takes.
fn set_outside_mtu(lab: &Lab, mtu: &str) {
    for (host, link) in [("n1", "outside"), ("n2", "outside"), ("n3", "outside"), ("inet", "eth0")] {
        let _changed = lab.exec(host, &["ip", "link", "set", link, "mtu", mtu]);
    }
}

/// R11: what must not be fragmented is answered with the size that fits, what may leaves in pieces in order; before and
/// after the owner died.
pub(crate) fn a_smaller_link_is_told_of_by_whoever_owns_the_shard(lab: &Lab) {
    let bed = Bed::new(lab);
    set_outside_mtu(lab, "1280");
    let mut strict = bed.b1.datagram(SERVER, (34_100, 8_811), &long_data()[..1_400]);
    strict[ETH + 6] = DO_NOT_FRAGMENT;
    mend(&mut strict);
    // Members look at their links now and then.
    wait_until("a packet that is too long to be refused", Duration::from_secs(10), || {
        bed.b1.end.send(&strict).expect("sending");
        bed.b1.end.receive(Duration::from_millis(50)).expect("a socket").iter().any(|p| View(p).proto() == ICMP)
    });
    refuses_or_cuts(&bed, &strict);
    bed.fail_over();
    refuses_or_cuts(&bed, &strict);
    set_outside_mtu(lab, "1500");
}

fn refuses_or_cuts(bed: &Bed<'_>, strict: &[u8]) {
    let b1 = &bed.b1.end;
    let heard = bed.provokes((b1, b1), strict, |p| p.kind() == Some((3, 4)));
    assert_eq!(addresses(&heard), (GATEWAY, bed.b1.address));
    assert_eq!(View(&heard).body()[6..8], 1_280_u16.to_be_bytes(), "the MTU of the link");
    assert_eq!(View(&heard).body()[8..36], strict[ETH..ETH + 28], "what it is about");
    let data = long_data();
    let datagram = bed.b1.datagram(SERVER, (34_101, 8_811), &data[..1_450]);
    let (whole, starts) = crosses((b1, &bed.inet), 2, |_| vec![datagram.clone()]);
    assert!(starts.is_sorted(), "in order: {starts:?}");
    assert_eq!(View(&whole).body()[8..], data[..1_450]);
}
