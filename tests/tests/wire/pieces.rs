//! Datagrams in fragments, and packets that are too long for a link.

use std::time::Duration;

use qnat_ends::End;
use qnat_reference::packet::{ETH, ICMP, Reassembly, UDP, addresses, examine, fragments, mend, shape, udp};
use qnat_tests::lab::{Lab, wait_until};

use crate::Second;
use crate::bed::{Bed, GATEWAY, SERVER, View};

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

/// Puts together what arrives in `count` fragments; the datagram, and where each fragment began, in the order of arrival.
fn together(bed: &Bed<'_>, at: &End, count: usize) -> (Vec<u8>, Vec<usize>) {
    let (mut all, mut starts, mut ids) = (Reassembly::default(), Vec::new(), Vec::new());
    loop {
        let piece = bed.wait(at, "a fragment", |p| shape(p.0).is_some_and(|shape| shape.fragment != (0, false)));
        starts.push(shape(&piece).expect("it fits").fragment.0);
        ids.push(View(&piece).id());
        if let Some(whole) = all.take(&piece).expect("no fragment lies over another") {
            assert_eq!(starts.len(), count, "{starts:?}");
            assert!(ids.iter().all(|id| *id == ids[0]), "one identification: {ids:04x?}");
            examine(&whole).unwrap_or_else(|wrong| panic!("put together: {wrong}"));
            return (whole, starts);
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
            let pieces = fragments(&identified(bed.b1.datagram(SERVER, (inside, 8_801), &data), id), 1_200);
            for place in order {
                bed.b1.end.send(&pieces[place]).expect("sending");
            }
            let (whole, _) = together(bed, &bed.inet, 3);
            assert_eq!((addresses(&whole), View(&whole).ports().1), ((bed.b1.public, SERVER), 8_801));
            assert!((View(&whole).ports().0 == public) == (inside == 34_000), "the port of its flow");
            assert_eq!(View(&whole).body()[8..], data);

            let answer = identified(bed.answer(SERVER, &bed.b1, UDP, &udp(8_801, public, &data)), id);
            let pieces = fragments(&answer, 1_200);
            for place in order {
                bed.inet.send(&pieces[place]).expect("sending");
            }
            let (whole, _) = together(bed, &bed.b1.end, 3);
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
    bed.b1.end.send(strict).expect("sending");
    let heard = bed.wait(&bed.b1.end, "the size that fits", |p| p.kind() == Some((3, 4)));
    assert_eq!(addresses(&heard), (GATEWAY, bed.b1.address));
    assert_eq!(View(&heard).body()[6..8], 1_280_u16.to_be_bytes(), "the MTU of the link");
    assert_eq!(View(&heard).body()[8..36], strict[ETH..ETH + 28], "what it is about");
    let data = long_data();
    bed.b1.end.send(&bed.b1.datagram(SERVER, (34_101, 8_811), &data[..1_450])).expect("sending");
    let (whole, starts) = together(bed, &bed.inet, 2);
    assert!(starts.is_sorted(), "in order: {starts:?}");
    assert_eq!(View(&whole).body()[8..], data[..1_450]);
}
