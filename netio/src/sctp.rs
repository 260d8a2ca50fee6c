//! Completes the checksum of an SCTP packet that a host of this machine left to its device (RFC 9260 6.8). It is a CRC32c, and the header
//! that goes with a frame through a packet socket has no word for that: whoever got it so would sum it up as if it were TCP's.
//! Called for what is received; changes nothing else.

use words::{ChecksumState, FrameMeta};

use crate::frame::ETHERNET_LEN;

const PROTOCOL: u8 = 132;
/// Where the checksum stands in the common header, which no other protocol has there.
const CHECKSUM_AT: u16 = 8;
/// The polynomial of Castagnoli, its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut value: u32 = 0;
    while value < 256 {
        let (mut crc, mut bit) = (value, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ (POLYNOMIAL * (crc & 1));
            bit += 1;
        }
        table[value as usize] = crc;
        value += 1;
    }
    table
}

/// Of octets in pieces.
fn crc32c<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let step = |crc: u32, octet: &u8| (crc >> 8) ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ octet)];
    !pieces.into_iter().flatten().fold(!0, step)
}

/// Does what the device would have done, if the frame is one of these.
pub(crate) fn complete(frame: &mut [u8], meta: &mut FrameMeta) {
    if let ChecksumState::Partial { start, offset: CHECKSUM_AT } = meta.checksum
        && let Some(packet) = whole(frame, start.into())
    {
        let at = usize::from(CHECKSUM_AT);
        let crc = crc32c([&packet[..at], &[0; 4], &packet[at + 4..]]);
        packet[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        meta.checksum = ChecksumState::Unverified;
    }
}

/// The SCTP packet that begins at `start`, if one does.
fn whole(frame: &mut [u8], start: usize) -> Option<&mut [u8]> {
    let ip = frame.get(ETHERNET_LEN..)?;
    let (first, protocol) = (*ip.first()?, *ip.get(9)?);
    let end = ETHERNET_LEN + usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let is_there = first >> 4 == 4 && protocol == PROTOCOL && start == ETHERNET_LEN + usize::from(first & 15) * 4;
    frame.get_mut(start..end).filter(|packet| is_there && packet.len() >= 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_rfc_3720() {
        let ascending: Vec<u8> = (0..32).collect();
        for (octets, wanted) in [(&[0; 32][..], 0x8a91_36aa), (&[0xff; 32], 0x62a8_ab43), (&ascending, 0x46dd_794e)] {
            assert_eq!(crc32c([octets]), wanted);
            assert_eq!(crc32c([&octets[..7], &octets[7..]]), wanted, "in pieces");
        }
    }

    /// An INIT between 192.0.2.1 and 192.0.2.2 with padding of the frame behind it.
    fn frame(protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14..24].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol]);
        frame[34..54].copy_from_slice(&[7, 8, 9, 10, 0, 0, 0, 0, 9, 9, 9, 9, 1, 0, 0, 4, 1, 2, 3, 4]);
        frame
    }

    fn partial(start: u16, offset: u16) -> FrameMeta {
        FrameMeta { checksum: ChecksumState::Partial { start, offset }, ..FrameMeta::default() }
    }

    #[test]
    fn what_a_device_would_have_completed_is_complete_and_nothing_else_changes() {
        let (mut done, mut meta) = (frame(132), partial(34, 8));
        complete(&mut done, &mut meta);
        assert_eq!(meta, FrameMeta::default());
        let mut wanted = frame(132);
        let covered = [&wanted[34..42], &[0; 4], &wanted[46..54]].concat();
        wanted[42..46].copy_from_slice(&crc32c([&covered[..]]).to_le_bytes());
        assert_eq!(done, wanted);
    }

    #[test]
    fn other_frames_stay_as_they_are() {
        let short = |len: usize| (frame(132)[..len].to_vec(), partial(34, 8));
        let mut long = frame(132);
        long[16..18].copy_from_slice(&[1, 0]);
        let cases = [
            (frame(6), partial(34, 16)),
            (frame(17), partial(34, 8)),
            (frame(132), partial(34, 6)),
            (frame(132), partial(38, 8)),
            (frame(132), FrameMeta::default()),
            (long, partial(34, 8)),
            short(53),
            short(20),
            short(14),
        ];
        for (before, meta) in cases {
            let (mut after, mut same) = (before.clone(), meta);
            complete(&mut after, &mut same);
            assert_eq!((after, same), (before, meta));
        }
    }
}
