//! I23: at most one leader per group and term.

use std::collections::BTreeMap;

use engine::ids::{Incarnation, ShardId, Term};

use super::{Check, ensure};

/// Leaders seen so far.
#[derive(Debug, Default)]
pub struct Leaders(BTreeMap<(ShardId, Term), Incarnation>);

impl Leaders {
    /// `life` leads.
    ///
    /// # Errors
    /// If somebody else led in that term.
    pub fn check(&mut self, shard: ShardId, term: Term, life: Incarnation) -> Check {
        let other = self.0.insert((shard, term), life);
        ensure(other.is_none_or(|other| other == life), "I23", || {
            format!("{other:?} and {life:?} lead shard {shard} in term {term}")
        })
    }
}
