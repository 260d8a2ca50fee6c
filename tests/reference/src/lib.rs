//! The engine against naive counterparts. `packet` reads and writes frames byte by byte and shares no code with the engine;
//! `bed` runs a shard on two members, with a log that commits at once, configured as a `world`; `hostile` draws frames, most
//! of them wrong; `model` is a translator without any cleverness, for what is `sent`.
//!
//! The model's parts, one question each: how long (`life`), which port (`ports`), how many (`allowance`), what a connection
//! has come to (`connection`), one mapping (`flow`), an address that is one backend's own (`own`, `half`, `guard`), fragments (`datagrams`, `pieces`),
//! errors (`complaints`), what should leave (`expect`).

pub mod allowance;
pub mod bed;
mod complaints;
pub mod connection;
mod datagrams;
pub mod expect;
pub mod flow;
pub mod guard;
mod half;
pub mod hostile;
pub mod judge;
pub mod life;
pub mod model;
pub mod own;
pub mod packet;
mod pieces;
pub mod ports;
pub mod sent;
pub mod world;
