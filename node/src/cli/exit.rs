//! How commands end, for programs.

/// Failed or refused.
pub(super) const EXIT_FAILED: u8 = 1;
/// The command line was wrong; clap's own code.
pub(super) const EXIT_USAGE: u8 = 2;
/// No member could be reached, or none could decide (no majority).
pub(super) const EXIT_UNREACHABLE: u8 = 3;

/// The cluster answers, and something is wrong with it: `qnat status` has a warning or worse.
pub(super) const EXIT_WRONG: u8 = 4;
