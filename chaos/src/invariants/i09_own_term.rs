//! I9: a mapping is proposed only by the leader of the very term in which it was judged (F1).

use engine::ids::{ShardId, Term};
use engine::record::EntryHeader;

use super::{Check, ensure};

/// Checks a committed entry of `term` that carries `header`.
///
/// # Errors
/// If it was judged in another term.
pub fn check(shard: ShardId, term: Term, header: &EntryHeader) -> Check {
    ensure(header.term == term, "I9", || {
        format!("shard {shard}: an entry of term {term} was judged in term {}", header.term)
    })
}
