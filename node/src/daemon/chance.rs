//! Chance from the operating system, for the seeds of whatever draws. Nothing that is replicated draws by itself.

use anyhow::Result;

/// 64 bits from the operating system.
pub(super) fn seed() -> Result<u64> {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(u64::from_ne_bytes(bytes))
}
