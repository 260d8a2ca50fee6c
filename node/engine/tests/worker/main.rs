//! The worker as its callers see it: a tiny cluster in memory, real frames, a clock that the test moves.

mod access;
mod bounds;
mod established;
mod faults;
mod foreign;
mod fragments;
mod frontends;
mod grace;
mod groups;
mod hairpin;
mod icmp;
mod lab;
mod neighbours;
mod networks;
mod order;
mod ownership;
mod payload;
mod raw;
mod refusals;
mod scans;
mod sessions;
mod shares;
mod sharing;
mod sizes;
mod tcp;
mod translation;
