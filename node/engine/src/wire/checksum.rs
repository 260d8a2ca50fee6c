//! Hot path. The internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3).
//!
//! All values here are in host order, read big-endian from the packet. "Sum" means the folded one's-complement sum,
//! "checksum" its complement, which is what a packet carries. Knows nothing of headers; called by the rest of `wire`.

use std::net::Ipv4Addr;

/// Folded one's-complement sum of `bytes`; an odd last octet counts as the high half of a word.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    // The sum does not depend on the byte order that it is taken in, but for a swap at the end (RFC 1071, 2 B). Native
    // order lets the compiler vectorise the loop. 2^32 words fit the accumulator; a frame has at most 2^14.
    let (words, tail) = bytes.as_chunks::<4>();
    let mut total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0_u8; 4];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    total += u64::from(u32::from_ne_bytes(last));
    let halves = (total & 0xffff_ffff) + (total >> 32);
    let [_, _, a, b, c, d, e, f] = halves.to_be_bytes();
    let folded = fold(
        u32::from(u16::from_be_bytes([a, b]))
            + u32::from(u16::from_be_bytes([c, d]))
            + u32::from(u16::from_be_bytes([e, f])),
    );
    u16::from_be_bytes(folded.to_ne_bytes())
}

/// One's-complement addition.
#[must_use]
pub fn add(a: u16, b: u16) -> u16 {
    fold(u32::from(a) + u32::from(b))
}

/// Sum of the IPv4 pseudo header of TCP and UDP (RFC 9293 3.1, RFC 768).
#[must_use]
pub fn pseudo_header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> u16 {
    let ([a, b], [c, d]) = (words(src), words(dst));
    fold(u32::from(a) + u32::from(b) + u32::from(c) + u32::from(d) + u32::from(protocol) + u32::from(len))
}

/// A set of replaced words: `Σ (~old + new)`, to be applied to every checksum that covers them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u32);

impl Delta {
    /// Adds the replacement of one 16-bit word.
    #[must_use]
    pub fn word(self, old: u16, new: u16) -> Self {
        // Every word adds less than 2^17 and no caller changes more than a handful, so this cannot overflow.
        Self(self.0 + u32::from(!old) + u32::from(new))
    }

    /// Adds the replacement of an address.
    #[must_use]
    pub fn addr(self, old: Ipv4Addr, new: Ipv4Addr) -> Self {
        let ([a, b], [c, d]) = (words(old), words(new));
        self.word(a, c).word(b, d)
    }

    /// Both sets of replacements.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum after the replacement. A checksum of 0 stays the form of zero that a full computation gives.
    #[must_use]
    pub fn on_checksum(self, checksum: u16) -> u16 {
        !self.on_sum(!checksum)
    }

    /// The plain sum after the replacement: for a field that a device completes later (`ChecksumState::Partial`).
    #[must_use]
    pub fn on_sum(self, sum: u16) -> u16 {
        fold(self.0 + u32::from(sum))
    }
}

/// Adds the carries back until the sum fits 16 bits; two rounds suffice for any `u32`.
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let [_, _, hi, lo] = sum.to_be_bytes();
    u16::from_be_bytes([hi, lo])
}

fn words(ip: Ipv4Addr) -> [u16; 2] {
    let [a, b, c, d] = ip.octets();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}

/// 0 would say that there is no checksum: its other form is sent (RFC 768).
pub(super) const fn none_to_ones(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut total = 0_u32;
        for pair in bytes.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            total = (total & 0xffff) + (total >> 16);
        }
        u16::try_from(total).expect("folded")
    }

    #[test]
    fn rfc1071_example_sums_to_ddf2() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn rfc1624_example_gives_zero_not_minus_zero() {
        // Section 4: the case that the older equation of RFC 1141 gets wrong.
        assert_eq!(Delta::default().word(0x5555, 0x3285).on_checksum(0xdd2f), 0x0000);
    }

    #[test]
    fn carries_of_an_all_ones_buffer_are_kept() {
        let ones = vec![0xff; 65_535];
        assert_eq!(sum(&ones), naive(&ones));
    }

    proptest! {
        #[test]
        fn sum_equals_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(sum(&bytes), naive(&bytes));
        }

        #[test]
        fn delta_equals_a_full_sum(mut words in prop::collection::vec(any::<u16>(), 2..40), at in any::<prop::sample::Index>(), new in any::<u16>()) {
            // A first word that is not zero, as every header has: only an all-zero text tells the two zeros apart.
            words[0] |= 1;
            let at = 1 + at.index(words.len() - 1);
            let text = |words: &[u16]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
            let before = sum(&text(&words));
            let delta = Delta::default().word(words[at], new);
            words[at] = new;
            let after = sum(&text(&words));
            prop_assert_eq!(delta.on_sum(before), after);
            prop_assert_eq!(delta.on_checksum(!before), !after);
        }
    }
}
