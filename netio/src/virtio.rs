//! The virtio header that PACKET_VNET_HDR puts before every frame: what a checksum still needs and how a super-packet is to
//! be cut. Hot path. Ten bytes in native byte order (linux/virtio_net.h, "legacy"); offsets count from the Ethernet header.

/// Bytes of the header.
pub const HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

/// No segmentation offload.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// UDP segmentation over either IP version.
pub const GSO_UDP_L4: u8 = 5;

/// What the header says about a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameMeta {
    /// The L4 checksum field holds only the pseudo-header's sum; whoever sends the frame to a wire completes it: sum from
    /// `start` to the end, stored at `start + offset`, both from the Ethernet header. A rewrite then updates that field for
    /// the addresses only.
    pub needs_csum: Option<(u16, u16)>,
    /// The kernel verified the checksum already. Means nothing on transmission.
    pub csum_valid: bool,
    /// How the frame is to be segmented: `GSO_NONE`, `GSO_TCPV4`, `GSO_UDP_L4`, perhaps with the ECN bit 0x80.
    pub gso_type: u8,
    /// Payload bytes per segment; 0 without GSO.
    pub gso_size: u16,
    /// Bytes of all headers, a hint for how much to keep linear; 0 if unknown.
    pub hdr_len: u16,
}

impl FrameMeta {
    /// Reads the header at the start of a received buffer.
    #[must_use]
    pub fn decode(header: &[u8; HEADER_LEN]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *header;
        Self {
            needs_csum: (flags & NEEDS_CSUM != 0).then(|| (u16::from_ne_bytes([s0, s1]), u16::from_ne_bytes([o0, o1]))),
            csum_valid: flags & DATA_VALID != 0,
            gso_type,
            gso_size: u16::from_ne_bytes([g0, g1]),
            hdr_len: u16::from_ne_bytes([h0, h1]),
        }
    }

    /// Writes the header of a frame to be sent. DATA_VALID is a receiver's word and left out.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let flags = if self.needs_csum.is_some() { NEEDS_CSUM } else { 0 };
        let (start, offset) = self.needs_csum.unwrap_or((0, 0));
        let ([h0, h1], [g0, g1]) = (self.hdr_len.to_ne_bytes(), self.gso_size.to_ne_bytes());
        let ([s0, s1], [o0, o1]) = (start.to_ne_bytes(), offset.to_ne_bytes());
        [flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::{FrameMeta, GSO_TCPV4};

    #[test]
    fn what_was_received_is_sent_again_but_for_the_receivers_flag() {
        let meta = FrameMeta {
            needs_csum: Some((34, 16)),
            csum_valid: false,
            gso_type: GSO_TCPV4,
            gso_size: 1448,
            hdr_len: 66,
        };
        assert_eq!(FrameMeta::decode(&meta.encode()), meta);
        let valid = FrameMeta { csum_valid: true, ..FrameMeta::default() };
        assert_eq!(valid.encode(), [0; 10]);
        assert!(FrameMeta::decode(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0]).csum_valid);
    }
}
