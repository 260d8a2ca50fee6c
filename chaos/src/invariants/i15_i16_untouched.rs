//! I15: what hosts say to each other stays the same, bit for bit. I16: it has exactly one hop less, whoever carried it; also
//! if one member handed it to another.

use super::{Check, ensure};

/// A packet that leaves with this data; `sent`: some host sent exactly that.
///
/// # Errors
/// If none did.
pub fn data(sent: bool, data: &[u8]) -> Check {
    ensure(sent, "I15", || format!("nobody sent {data:02x?}"))
}

/// A packet was sent with so many hops to live, and leaves with so many.
///
/// # Errors
/// If it has not exactly one less.
pub fn hops(sent: u8, left: u8) -> Check {
    ensure(left.checked_add(1) == Some(sent), "I16", || format!("of {sent} hops {left} are left"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_hop_is_one() {
        assert_eq!(hops(64, 63), Ok(()));
        assert!(hops(64, 64).is_err() && hops(64, 62).is_err() && hops(0, u8::MAX).is_err());
    }
}
