//! I30: a healthy cluster elects nobody.

use super::{Check, ensure};

/// There were so many elections when a calm time began, and so many when it was over.
///
/// # Errors
/// If there were any in it.
pub fn check(before: u64, after: u64) -> Check {
    ensure(before == after, "I30", || format!("{} elections without any fault", after - before))
}
