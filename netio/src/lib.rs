//! Everything unsafe of qnat, each hazard in a file of its own behind a safe API: io_uring, AF_PACKET, the BPF egress
//! guard and its loader, shared lease words, lock-free rings; and the QUIC transport between members.
//!
//! The ladder of packet I/O, each file one hazard: `socket` (AF_PACKET descriptors) and `link` (interface ioctls), `frame`
//! (buffers that the kernel writes into), `uring` (the ring that shares them with it), `packet` (the safe loop on top).
//! Nothing here knows NAT, Raft or a clock other than CLOCK_BOOTTIME; of the workspace only `words` is imported.

pub mod awake;
pub mod bell;
pub mod boottime;
pub mod bpf;
pub mod ca;
mod far_end;
pub mod fast;
mod filters;
pub mod frame;
pub mod guard;
mod guard_counters;
mod guard_error;
pub mod hooks;
pub mod lease_table;
pub mod link;
pub mod memory;
mod netlink;
pub mod netns;
pub mod packet;
pub mod port;
pub mod process;
pub mod pulse;
pub mod quic;
mod sctp;
pub mod session;
pub mod socket;
mod socket_filter;
pub mod superpacket;
pub mod sync;
pub mod thread;
pub mod uring;
pub mod virtio;
