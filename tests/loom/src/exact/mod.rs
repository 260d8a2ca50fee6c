//! `netio::sync` over `primitives` of this folder.
#![allow(unreachable_pub, reason = "the included files are public in their own crate")]

#[path = "../../../../netio/src/sync/doorbell.rs"]
pub mod doorbell;
pub mod primitives;
#[path = "../../../../netio/src/sync/spsc.rs"]
pub mod spsc;
#[path = "../../../../netio/src/sync/word.rs"]
pub mod word;
