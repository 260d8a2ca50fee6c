//! The member's two clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use member::control_member::Now;
use netio::boottime::now_ns;

/// What they show now.
#[must_use]
pub(super) fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { ns: now_ns(), unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
}
