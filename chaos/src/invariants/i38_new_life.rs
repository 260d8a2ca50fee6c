//! I38: a node that started again is somebody else: its life is newer than any that it had (N1).

use std::collections::BTreeMap;

use engine::ids::{Incarnation, NodeId};

use super::{Check, ensure};

/// Lives by node, with the start that they belong to.
#[derive(Debug, Default)]
pub struct Lives(BTreeMap<NodeId, (u64, Incarnation)>);

impl Lives {
    /// `node` lives as `life` since its start number `start`.
    ///
    /// # Errors
    /// If an earlier start had this life or a later one, or if one start has two.
    pub fn check(&mut self, node: NodeId, start: u64, life: Incarnation) -> Check {
        let (before, was) = *self.0.entry(node).or_insert((start, life));
        let newer = if before == start { was == life } else { before < start && was < life };
        self.0.insert(node, (start, life));
        ensure(newer, "I38", || format!("node {node}, start {start}, is {life}; start {before} was {was}"))
    }
}
