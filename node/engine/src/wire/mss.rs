//! Hot path, for SYNs alone. Lowers the segment size that a host offers to receive (R26): hosts behind a narrower path than
//! their own link, or than they know of, otherwise depend on path MTU discovery alone.

use super::checksum::Delta;
use super::packet::{FrameMeta, IpPacket};
use super::rewrite::is_partial;
use super::tcp;

const MIN_LEN: usize = 20;
const MSS: u8 = 2;
const MSS_LEN: u8 = 4;

/// Lowers the MSS option to `max`, if there is one and it is greater. Without one the peer sends 536 octets at most.
pub fn clamp_mss(frame: &mut [u8], meta: &FrameMeta, p: &IpPacket, max: u16) {
    let l4 = usize::from(p.l4);
    let Some(segment) = frame.get_mut(l4..) else { return };
    let header_len = segment.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4);
    let Some(options) = segment.get(MIN_LEN..header_len) else { return };
    let Some(at) = find(options).map(|at| MIN_LEN + at) else { return };
    let old = u16::from_be_bytes([segment[at], segment[at + 1]]);
    if old <= max {
        return;
    }
    segment[at..at + 2].copy_from_slice(&max.to_be_bytes());
    // A partial checksum covers the pseudo header only.
    if !is_partial(meta) {
        // Octets on odd places count for the other half of their word.
        let (from, to) = if at % 2 == 0 { (old, max) } else { (old.swap_bytes(), max.swap_bytes()) };
        let field = usize::from(tcp::CHECKSUM_AT);
        let sum = u16::from_be_bytes([segment[field], segment[field + 1]]);
        let new = Delta::default().word(from, to).on_checksum(sum);
        segment[field..field + 2].copy_from_slice(&new.to_be_bytes());
    }
}

/// Where the value of the MSS option stands. What follows an option that contradicts itself is ignored, as hosts do.
fn find(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at..)? {
            [] | [0, ..] | [_] => return None,
            [1, ..] => at += 1,
            [kind, len, ..] => {
                if usize::from(len) < 2 || at + usize::from(len) > options.len() {
                    return None;
                }
                if kind == MSS {
                    return (len == MSS_LEN).then_some(at + 2);
                }
                at += usize::from(len);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Parsed, parse};
    use super::*;
    use etherparse::{PacketBuilder, TcpHeader};
    use proptest::prelude::*;

    fn syn(options: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(5000, 443, 7, 1000);
        header.syn = true;
        header.set_options_raw(options).expect("at most 40 octets");
        let mut frame = Vec::new();
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 4], [198, 51, 100, 7], 64);
        step.tcp_header(header).write(&mut frame, b"").expect("fits");
        frame
    }

    fn clamped(options: &[u8], max: u16) -> Vec<u8> {
        let (mut frame, meta) = (syn(options), FrameMeta::default());
        let Ok(Parsed::Ip(p)) = parse(&frame, &meta) else { panic!("a sound SYN") };
        clamp_mss(&mut frame, &meta, &p, max);
        frame
    }

    #[test]
    fn a_greater_size_is_lowered_wherever_the_option_stands() {
        for before in [&[][..], &[1], &[1, 1], &[3, 3, 7], &[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1]] {
            let options = |mss: u16| [before, &[2, 4], &mss.to_be_bytes()[..]].concat();
            assert_eq!(clamped(&options(1460), 1400), syn(&options(1400)), "equal to the one built anew: {before:?}");
            assert_eq!(clamped(&options(1400), 1400), syn(&options(1400)));
            assert_eq!(clamped(&options(536), 1400), syn(&options(536)), "never raised");
        }
    }

    #[test]
    fn options_that_contradict_themselves_are_left_alone() {
        for options in [&[2, 3, 5, 180][..], &[2, 200, 5, 180], &[5, 0, 2, 4, 5, 180], &[0, 2, 4, 5, 180], &[2]] {
            assert_eq!(clamped(options, 600), syn(options), "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_options_are_the_segment_stays_sound(options in prop::collection::vec(0_u8..12, 0..40), max in 536_u16..) {
            let frame = clamped(&options, max);
            prop_assert!(parse(&frame, &FrameMeta::default()).is_ok());
        }
    }
}
