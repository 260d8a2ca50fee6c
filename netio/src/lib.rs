//! Everything unsafe of qnat, each hazard in a file of its own behind a safe API: io_uring, AF_PACKET, the BPF egress
//! guard and its loader, shared lease words, lock-free rings; and the QUIC transport between members.

pub mod ca;
pub mod netns;
pub mod quic;
