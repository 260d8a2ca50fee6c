//! I39: a reply reaches only the backend that it answers.

use std::net::Ipv4Addr;

use super::{Check, ensure};

/// A reply to `asked` was delivered to `got`.
///
/// # Errors
/// If they differ.
pub fn check(asked: (Ipv4Addr, u16), got: (Ipv4Addr, u16)) -> Check {
    ensure(asked == got, "I39", || format!("the answer to {}:{} went to {}:{}", asked.0, asked.1, got.0, got.1))
}
