//! ICMP errors (RFC 5508), in both directions.

use std::net::Ipv4Addr;

use qnat_reference::packet::{ETH, ICMP, TCP, UDP, addresses, checksum, examine, icmp, mend, sum, tcp, udp};

use crate::Second;
use crate::bed::{Bed, GATEWAY, OTHER, SERVER, View, echo};

const SYN: u8 = 0x02;
/// Octets of an ICMP header.
const HEADER: usize = 8;

/// The quoted packet of an error as a frame of its own.
fn quoted(error: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; ETH];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame.extend(&View(error).body()[HEADER..]);
    frame
}

/// The length of a frame's IP header.
fn ip_header(frame: &[u8]) -> usize {
    usize::from(frame[ETH] & 15) * 4
}

/// An IP packet with options that a router passes: no operation.
fn with_options(plain: &[u8]) -> Vec<u8> {
    let mut frame = [&plain[..ETH + 20], &[1, 1, 1, 0], &plain[ETH + 20..]].concat();
    frame[ETH] = 0x46;
    let total = u16::try_from(frame.len() - ETH).expect("short");
    frame[ETH + 2..ETH + 4].copy_from_slice(&total.to_be_bytes());
    mend(&mut frame);
    frame
}

/// R9, R16: an error about each kind of packet, whole or cut off behind eight octets, reaches its sender as if about the
/// packet that he sent; and his mapping goes on.
pub(crate) fn errors_find_the_sender_of_what_they_quote(bed: &Bed<'_>) -> Second {
    let b1 = &bed.b1;
    let sent = [
        b1.datagram(SERVER, (32_000, 8_601), b"some data"),
        b1.packet(SERVER, TCP, &tcp((32_001, 8_602), (100, 0), SYN, &[], b"")),
        b1.packet(SERVER, ICMP, &echo(8, 32_002, 86)),
        with_options(&b1.datagram(SERVER, (32_003, 8_603), b"with options")),
    ];
    let left: Vec<Vec<u8>> = sent.iter().map(|frame| bed.out(b1, frame)).collect();
    Box::new(move |bed| {
        for (sent, left) in sent.iter().zip(&left) {
            for (kind, code, rest) in [(3, 1, [0; 4]), (3, 4, [0, 0, 5, 0]), (11, 0, [0; 4]), (12, 0, [20, 0, 0, 0])] {
                let whole = View(left).packet();
                for quote in [whole, &whole[..ip_header(left) + 8]] {
                    let error = bed.answer(OTHER, &bed.b1, ICMP, &icmp(kind, code, rest, quote));
                    arrives_about(bed, &error, sent, quote.len() == whole.len());
                }
            }
            let port = View(sent).ports().1;
            assert!(View(sent).proto() == ICMP || !bed.lab.live_mappings("10.0.1.1", port).is_empty(), "R9");
        }
        let public = View(&left[0]).ports().0;
        let _passes = bed.back(&bed.b1, &bed.answer(SERVER, &bed.b1, UDP, &udp(8_601, public, b"alive")));
    })
}

fn arrives_about(bed: &Bed<'_>, error: &[u8], sent: &[u8], whole: bool) {
    let heard = bed.provokes((&bed.inet, &bed.b1.end), error, |p| p.kind() == View(error).kind());
    assert_eq!(addresses(&heard), (OTHER, bed.b1.address));
    assert_eq!(View(&heard).body()[4..8], View(error).body()[4..8], "pointer or MTU");
    let quote = quoted(&heard);
    let header = ip_header(&quote);
    assert_eq!(addresses(&quote), addresses(sent));
    assert_eq!(checksum(sum(&quote[ETH..ETH + header], 0)), 0, "of the quoted header");
    let ports = ETH + header..ETH + header + 8;
    if View(sent).proto() == ICMP {
        // Type, code, and the identifier and sequence number as they were sent.
        assert_eq!(quote[ports], sent[ETH + 20..ETH + 28]);
    } else {
        assert_eq!(quote[ports.start..ports.start + 4], View(sent).body()[..4], "the ports as they were sent");
    }
    if whole {
        let judged = examine(&quote).map(|shape| shape.ip_header);
        assert_eq!(judged, Ok(header), "the quoted packet with its own checksum");
    }
}

/// R16: what is about nothing, or does not say about what, reaches nobody.
pub(crate) fn errors_about_nothing_or_with_too_short_a_quote_are_dropped(bed: &Bed<'_>) -> Second {
    let left = bed.out(&bed.b1, &bed.b1.datagram(SERVER, (32_100, 8_611), b"data"));
    Box::new(move |bed| {
        let mut unknown = left.clone();
        unknown[ETH + 20..ETH + 22].copy_from_slice(&1_999_u16.to_be_bytes());
        let mut wrong = left.clone();
        wrong[ETH + 10] ^= 0x55;
        let mut elsewhere = left.clone();
        elsewhere[ETH + 16..ETH + 20].copy_from_slice(&Ipv4Addr::new(198, 51, 100, 9).octets());
        mend(&mut elsewhere);
        for quote in
            [&unknown[ETH..], &wrong[ETH..], &elsewhere[ETH..], &left[ETH..ETH + 27], &left[ETH..ETH + 12], &[]]
        {
            bed.inet.send(&bed.answer(OTHER, &bed.b1, ICMP, &icmp(3, 1, [0; 4], quote))).expect("sending");
        }
        bed.nothing(&bed.b1.end, "an error about nothing", |p| p.kind().is_some());
    })
}

/// R16: what a backend complains about is quoted as the remote sent it.
pub(crate) fn a_backend_complains_under_its_public_address(bed: &Bed<'_>) -> Second {
    let public = bed.open(&bed.b1, SERVER, (32_200, 8_621));
    let answer = bed.answer(SERVER, &bed.b1, UDP, &udp(8_621, public, b"unwanted"));
    let heard = bed.back(&bed.b1, &answer);
    Box::new(move |bed| {
        let error = bed.b1.packet(SERVER, ICMP, &icmp(3, 3, [0; 4], &heard[ETH..ETH + 36]));
        let seen = bed.provokes((&bed.b1.end, &bed.inet), &error, |p| p.kind() == Some((3, 3)));
        assert_eq!(addresses(&seen), (bed.b1.public, SERVER));
        let quote = quoted(&seen);
        assert_eq!(addresses(&quote), (SERVER, bed.b1.public));
        assert_eq!(View(&quote).ports(), (8_621, public));
        assert!(examine(&quote).is_ok(), "the quoted packet with its own checksum");
        let inside = bed.b1.address.octets();
        assert!(!seen.windows(4).any(|octets| octets == inside), "I13: the inside address is nowhere");
    })
}

/// R25: the gateway's own error has its address, and quotes what the backend sent.
pub(crate) fn a_packet_that_dies_here_is_told_of_by_the_gateway(_: &Bed<'_>) -> Second {
    Box::new(|bed| {
        let mut frame = bed.b1.datagram(SERVER, (32_300, 8_631), b"last hop");
        frame[ETH + 8] = 1;
        mend(&mut frame);
        let heard = bed.provokes((&bed.b1.end, &bed.b1.end), &frame, |p| p.kind() == Some((11, 0)));
        assert_eq!(addresses(&heard), (GATEWAY, bed.b1.address));
        assert_eq!(View(&heard).body()[HEADER..HEADER + 28], frame[ETH..ETH + 28]);
        bed.nothing(&bed.inet, "a packet without a hop left", |p| p.is_udp(|ports| ports.1 == 8_631));
    })
}

/// R17: two backends behind one gateway complain to each other by their public ends.
pub(crate) fn an_error_about_a_hairpinned_packet_finds_its_sender(bed: &Bed<'_>) -> Second {
    assert_ne!(bed.b1.public, bed.b2.public, "they are of different shards");
    let second = bed.open(&bed.b2, SERVER, (32_400, 8_641));
    let first = bed.open(&bed.b1, SERVER, (32_401, 8_641));
    Box::new(move |bed| {
        let sent = bed.b1.datagram(bed.b2.public, (32_401, second), b"hairpin");
        let heard = bed.provokes((&bed.b1.end, &bed.b2.end), &sent, |p| p.is_udp(|ports| ports.1 == 32_400));
        assert_eq!((addresses(&heard).0, View(&heard).ports().0), (bed.b1.public, first));
        let error = bed.b2.packet(bed.b1.public, ICMP, &icmp(3, 3, [0; 4], &heard[ETH..ETH + 35]));
        let told = bed.provokes((&bed.b2.end, &bed.b1.end), &error, |p| p.kind() == Some((3, 3)));
        assert_eq!(addresses(&told), (bed.b2.public, bed.b1.address));
        let quote = quoted(&told);
        assert_eq!((addresses(&quote), View(&quote).ports()), (addresses(&sent), (32_401, second)));
    })
}

/// RFC 1812 4.3.3.1: who sends to an address of the outside network that nobody has hears it from the gateway.
pub(crate) fn a_backend_hears_that_nobody_has_an_address(_: &Bed<'_>) -> Second {
    Box::new(|bed| {
        let nobody = Ipv4Addr::new(203, 0, 113, 250);
        let frame = bed.b1.datagram(nobody, (32_500, 8_651), b"anybody there");
        let heard = bed.provokes((&bed.b1.end, &bed.b1.end), &frame, |p| p.kind() == Some((3, 1)));
        assert_eq!(addresses(&heard), (GATEWAY, bed.b1.address));
        let quote = quoted(&heard);
        assert_eq!((addresses(&quote), View(&quote).ports()), (addresses(&frame), (32_500, 8_651)));
    })
}
