//! Hot path. Frames: checked and parsed into their meaning, and rewritten in place.
//!
//! Everything that a frame can be wrong in is refused here, with its `DropReason`, so later stages work on values and not
//! on octets. Pure, without allocation, and never panics on packet content. Does not judge policy: TTL, destinations,
//! subnets and who may be answered are `judge`'s. Called by `judge` and by the slow path's builders.

pub use crate::record::Proto;

pub mod arp;
mod by_address;
pub mod checksum;
pub mod ethernet;
mod fragment;
mod icmp;
mod ipv4;
mod mss;
mod notice;
mod packet;
mod parse;
mod quote;
mod reset;
mod rewrite;
pub mod sounding;
mod split;
mod tcp;
mod transport;
mod udp;

pub use arp::{ArpOp, ArpPacket, build_arp};
pub use ethernet::set_ethernet;
pub use fragment::{Fragment, Piece};
pub use mss::clamp_mss;
pub(crate) use notice::{FRAME_MAX, Notice, build_notice};
pub(crate) use packet::L3;
pub use packet::{ChecksumState, FrameMeta, Gso, IpPacket};
pub use parse::{Parsed, parse};
pub use quote::{IcmpError, Quote, rewrite_error_destination, rewrite_error_source};
pub use reset::build_reset;
pub use rewrite::{decrement_ttl, rewrite_destination, rewrite_source};
pub(crate) use rewrite::{increment_ttl, may_fragment, rewrite_addresses, set_identification};
pub use sounding::{Sounding, SoundingOp, build_sounding};
pub(crate) use split::{Cut, complete_checksum};
pub use transport::{IcmpKind, TcpFields, TcpFlags};
