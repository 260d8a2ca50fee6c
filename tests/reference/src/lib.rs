//! The engine against naive counterparts. `packet` reads and writes frames byte by byte and shares no code with the engine;
//! `bed` runs one engine that owns its shard, with a log that commits at once; `hostile` draws frames, most of them wrong;
//! `model` is a translator without any cleverness.

pub mod bed;
pub mod connection;
pub mod hostile;
pub mod judge;
pub mod model;
pub mod packet;
