//! The worker as its callers see it: a tiny cluster in memory, real frames, a clock that the test moves.

mod faults;
mod lab;
mod ownership;
mod sharing;
mod tcp;
mod translation;
