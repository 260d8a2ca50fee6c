//! The address-translation log (R24): who had which public port when, as RFC 5424 lines in a file of each member.
//!
//! Port blocks come from the control log, so every member has the whole record; mappings, if asked for, from their owner
//! alone. `book` keeps what stands, `line` writes and reads lines, `file` appends and rotates, `writer` is the thread that
//! does both, `who` answers from the files. Nothing here may hold up a packet: the worker hands records over a bounded ring.
//! Each file begins with all that stands, so that it can be read without the ones before it.

mod book;
mod file;
mod line;
mod who;
mod writer;

pub use file::files;
pub use line::{parse_time, time_text};
pub use who::{Question, who};
pub use writer::{Journal, JournalCounts, JournalParts, SessionRing};
