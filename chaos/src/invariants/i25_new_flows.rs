//! I25: with a majority and a stable network a new flow passes.

use super::{Check, ensure};

/// `opened` flows were begun in calm, `answered` of them heard an answer.
///
/// # Errors
/// If any did not.
pub fn check(opened: usize, answered: usize) -> Check {
    ensure(answered == opened, "I25", || {
        format!("{answered} of {opened} new flows passed after the cluster had healed")
    })
}

/// The same of connections that have numbers: `silent` are those that did not pass.
///
/// # Errors
/// If there are any.
pub fn by_number(began: usize, silent: &[u32]) -> Check {
    ensure(silent.is_empty(), "I25", || {
        format!("connections {silent:?} of {began} new ones did not pass after the cluster had healed")
    })
}
