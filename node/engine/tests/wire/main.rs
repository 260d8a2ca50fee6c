//! `engine::wire` against packets that etherparse builds: what is accepted means the same there, what is rewritten equals
//! the packet built anew, and what is wrong is refused by its reason.

mod accepted;
mod packets;
mod refused;
mod rewritten;
