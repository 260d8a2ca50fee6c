//! What must hold, one property per file, each a function of what can be observed: frames, dumps, committed entries.
//!
//! Pure: no clock, no network. Shared by the simulator, which asks after every event, and by whoever has the same dumps of
//! a live cluster. `committed` and `rights` are not properties but the references that several of them compare with.

pub mod committed;
pub mod d05_resets;
pub mod d12_kept_flows;
pub mod i01_unique_mappings;
pub mod i03_within_lease;
pub mod i04_leases_disjoint;
pub mod i06_i10_i11_covered;
pub mod i08_promised;
pub mod i08_vmac;
pub mod i09_own_term;
pub mod i12_fence;
pub mod i13_i14_clean_frames;
pub mod i15_i16_untouched;
pub mod i22_equal_tables;
pub mod i23_one_leader;
pub mod i25_new_flows;
pub mod i27_heals;
pub mod i29_ports_return;
pub mod i30_calm;
pub mod i31_redundancy;
pub mod i32_commit_survives;
pub mod i38_new_life;
pub mod i39_right_backend;
pub mod i53_available;
pub mod rights;
pub mod w2_behind_first;
pub mod w3_inwards;
pub mod w4_private;

use std::fmt;

/// A broken invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Its number, as in `I6`.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

impl std::error::Error for Violation {}

/// What a check says.
pub type Check = Result<(), Violation>;

/// The property holds if `holds`; else `what` says what was seen.
///
/// # Errors
/// The violation.
pub fn ensure(holds: bool, invariant: &'static str, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Violation { invariant, what: what() }) }
}
