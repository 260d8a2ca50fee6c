//! IPv4 fragmentation of a packet that is larger than the link it leaves by (RFC 791 2.3, RFC 1812 4.2.2.7). Called for
//! packets that allow it, after translation; never touches what they say.

use super::checksum;
use super::checksum::none_to_ones;
use super::packet::{ChecksumState, FrameMeta, L3};
use super::rewrite::octets;
use super::udp;

/// Where things stand in an IPv4 header.
const TOTAL_LEN_AT: u16 = 2;
const FRAGMENT_AT: u16 = 6;
const PROTOCOL_AT: u16 = 9;
const CHECKSUM_AT: u16 = 10;
const MORE_FRAGMENTS: u16 = 0x2000;

/// A frame that is to be cut, read once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    header: u16,
    payload: u16,
    /// Octets of payload in each piece but the last.
    step: u16,
    /// Flags and offset as they came.
    fragment: u16,
}

impl Cut {
    /// How to cut a parsed frame for a link of this MTU; `None` if it fits.
    pub(crate) fn of(frame: &mut [u8], mtu: u16) -> Option<Self> {
        let [first] = *octets::<1>(frame, L3);
        let total = u16::from_be_bytes(*octets(frame, L3 + TOTAL_LEN_AT));
        let header = u16::from(first & 0x0f) * 4;
        let fragment = u16::from_be_bytes(*octets(frame, L3 + FRAGMENT_AT));
        let step = mtu.saturating_sub(header) & !7;
        (total > mtu && step > 0).then(|| Self { header, payload: total - header, step, fragment })
    }

    /// How many pieces there are.
    pub(crate) fn pieces(&self) -> u16 {
        self.payload.div_ceil(self.step)
    }

    /// Writes the piece at `place`. All options go into every piece: those that are let through may (RFC 791 3.1).
    pub(crate) fn piece(&self, frame: &[u8], place: u16, out: &mut Vec<u8>) {
        let start = place * self.step;
        let len = self.step.min(self.payload - start);
        let data = usize::from(L3 + self.header + start);
        out.clear();
        out.extend_from_slice(&frame[..usize::from(L3 + self.header)]);
        out.extend_from_slice(&frame[data..data + usize::from(len)]);
        let more = if start + len < self.payload { MORE_FRAGMENTS } else { 0 };
        *octets(out, L3 + TOTAL_LEN_AT) = (self.header + len).to_be_bytes();
        *octets(out, L3 + FRAGMENT_AT) = ((self.fragment | more) + start / 8).to_be_bytes();
        *octets(out, L3 + CHECKSUM_AT) = [0; 2];
        let sum = !checksum::sum(&out[usize::from(L3)..usize::from(L3 + self.header)]);
        *octets(out, L3 + CHECKSUM_AT) = sum.to_be_bytes();
    }
}

/// Completes a checksum that the device would have: it cannot for fragments.
pub(crate) fn complete_checksum(frame: &mut [u8], meta: &mut FrameMeta) {
    let ChecksumState::Partial { start, offset } = std::mem::take(&mut meta.checksum) else { return };
    let end = L3 + u16::from_be_bytes(*octets(frame, L3 + TOTAL_LEN_AT));
    let [protocol] = *octets::<1>(frame, L3 + PROTOCOL_AT);
    let sum = !checksum::sum(&frame[usize::from(start)..usize::from(end)]);
    let of_udp = protocol == 17 && offset == udp::CHECKSUM_AT;
    *octets(frame, start + offset) = if of_udp { none_to_ones(sum) } else { sum }.to_be_bytes();
}
