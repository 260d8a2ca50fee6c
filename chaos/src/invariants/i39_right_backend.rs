//! I39: a reply reaches only the backend that it answers.

use std::net::Ipv4Addr;

use engine::ids::Link;

use super::{Check, ensure};

/// An address and a port.
type End = (Ipv4Addr, u16);

/// A reply to `asked` was delivered to `got`: by which link, and to whom there.
///
/// # Errors
/// If they differ.
pub fn check(asked: (Link, End), got: (Link, End)) -> Check {
    ensure(asked == got, "I39", || format!("the answer to {asked:?} went to {got:?}"))
}
