//! The virtio header that PACKET_VNET_HDR puts before every frame, read into what the engine judges and written from it: what a
//! checksum still needs and how a super-packet is to be cut. Hot path. Ten bytes in native byte order (linux/virtio_net.h,
//! "legacy"); offsets count from the Ethernet header.

use words::{ChecksumState, FrameMeta, Gso};

/// Bytes of the header.
pub const HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
/// UDP segmentation over either IP version.
const GSO_UDP_L4: u8 = 5;
/// Beside a type: the mark of a reduced window belongs to the first segment.
const GSO_ECN: u8 = 0x80;

/// Reads the header at the start of a received buffer. Segmentation of any other kind is that of no packet that the engine
/// passes, and reads as none: what is longer than the way out takes is then cut or refused there.
#[must_use]
pub fn decode(header: &[u8; HEADER_LEN]) -> FrameMeta {
    let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *header;
    let checksum = if flags & NEEDS_CSUM != 0 {
        ChecksumState::Partial { start: u16::from_ne_bytes([s0, s1]), offset: u16::from_ne_bytes([o0, o1]) }
    } else if flags & DATA_VALID != 0 {
        ChecksumState::Valid
    } else {
        ChecksumState::Unverified
    };
    let size = u16::from_ne_bytes([g0, g1]);
    let (gso, ecn) = match gso_type & !GSO_ECN {
        GSO_TCPV4 => (Gso::Tcp4 { size }, gso_type & GSO_ECN != 0),
        GSO_UDP_L4 => (Gso::Udp { size }, false),
        _ => (Gso::None, false),
    };
    FrameMeta { checksum, gso, ecn, header_len: u16::from_ne_bytes([h0, h1]) }
}

/// Writes the header of a frame to be sent. That a checksum is valid is a receiver's word and left out.
#[must_use]
pub fn encode(meta: &FrameMeta) -> [u8; HEADER_LEN] {
    let (gso_type, size) = match meta.gso {
        Gso::None => (GSO_NONE, 0),
        Gso::Tcp4 { size } => (GSO_TCPV4 | if meta.ecn { GSO_ECN } else { 0 }, size),
        Gso::Udp { size } => (GSO_UDP_L4, size),
    };
    let (flags, start, offset) = match meta.checksum {
        ChecksumState::Partial { start, offset } => (NEEDS_CSUM, start, offset),
        ChecksumState::Valid | ChecksumState::Unverified => (0, 0, 0),
    };
    let ([h0, h1], [g0, g1]) = (meta.header_len.to_ne_bytes(), size.to_ne_bytes());
    let ([s0, s1], [o0, o1]) = (start.to_ne_bytes(), offset.to_ne_bytes());
    [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
}

#[cfg(test)]
mod tests {
    use super::{GSO_ECN, GSO_TCPV4, decode, encode};
    use words::{ChecksumState, FrameMeta, Gso};

    #[test]
    fn what_was_received_is_sent_again_but_for_the_receivers_flag() {
        let checksum = ChecksumState::Partial { start: 34, offset: 16 };
        for (gso, ecn) in [
            (Gso::None, false),
            (Gso::Tcp4 { size: 1448 }, false),
            (Gso::Tcp4 { size: 1448 }, true),
            (Gso::Udp { size: 1200 }, false),
        ] {
            let meta = FrameMeta { checksum, gso, ecn, header_len: 66 };
            assert_eq!(decode(&encode(&meta)), meta);
        }
        let valid = FrameMeta { checksum: ChecksumState::Valid, ..FrameMeta::default() };
        assert_eq!(encode(&valid), [0; 10]);
        assert_eq!(decode(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0]), valid);
    }

    #[test]
    fn the_header_is_the_kernels() {
        let checksum = ChecksumState::Partial { start: 34, offset: 16 };
        let meta = FrameMeta { checksum, gso: Gso::Tcp4 { size: 1448 }, ecn: true, header_len: 66 };
        let mut expected = vec![1, GSO_TCPV4 | GSO_ECN];
        for field in [66_u16, 1448, 34, 16] {
            expected.extend(field.to_ne_bytes());
        }
        assert_eq!(encode(&meta).as_slice(), expected);
    }

    #[test]
    fn an_unknown_segmentation_reads_as_none() {
        for gso_type in [3, 4, 0x84] {
            assert_eq!(decode(&[0, gso_type, 0, 0, 1, 1, 0, 0, 0, 0]), FrameMeta::default());
        }
    }
}
