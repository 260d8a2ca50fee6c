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
