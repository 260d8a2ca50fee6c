//! I8: only who holds a shard's lease sends from its virtual MAC (M1, L5), so terms of such frames never go back; without the
//! lease committed translations may be repeated, until the grace has ended.

use std::collections::BTreeMap;

use engine::ids::{LeaseWord, Mac, NodeId, ShardId, Term};

use super::{Check, ensure};

/// The newest term in which each shard's virtual MAC was used.
#[derive(Debug, Default)]
pub struct VmacTerms(BTreeMap<ShardId, (Term, NodeId)>);

impl VmacTerms {
    /// A frame from `shard`'s virtual MAC leaves `node`, whose lease word is `word` at that moment.
    ///
    /// # Errors
    /// If the lease does not run, or another node holds it in the same or a later term.
    pub fn check(&mut self, shard: ShardId, node: NodeId, word: LeaseWord, now_ns: u64) -> Check {
        ensure(now_ns < word.lease_until_ns, "I8", || {
            format!("node {node} sent from shard {shard}'s virtual MAC without its lease, {word:?} at {now_ns}")
        })?;
        let newest = *self.0.entry(shard).or_insert((word.term, node));
        let in_order = newest.0 < word.term || newest == (word.term, node);
        self.0.insert(shard, (word.term, node));
        ensure(in_order, "I8", || {
            format!("node {node} sent from shard {shard}'s virtual MAC in term {} after {newest:?}", word.term)
        })
    }
}

/// A frame is passed on untranslated: from the node's own MAC, to another member's, and to nobody else (M1, R28).
///
/// # Errors
/// If it goes elsewhere, or in another name.
pub fn forwarded(node: NodeId, own: Mac, members: &[Mac], (src, dst): (Mac, Mac)) -> Check {
    ensure(src == own && dst != own && members.contains(&dst), "I8", || {
        format!("node {node}, which is {own:?}, forwarded a frame from {src:?} to {dst:?}")
    })
}

/// A translated frame leaves from the node's own MAC: allowed in the grace only.
///
/// # Errors
/// If the grace is over.
pub fn orphan(shard: ShardId, node: NodeId, word: LeaseWord, now_ns: u64) -> Check {
    ensure(now_ns < word.grace_until_ns, "I8", || {
        format!("node {node} translated for shard {shard} after its grace, {word:?} at {now_ns}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forwarded_goes_from_a_member_to_another_one() {
        let mac = |n| Mac([2, 9, 0, 0, 1, n]);
        let (own, members) = (mac(1), [mac(1), mac(2), mac(3)]);
        let check = |src, dst| forwarded(NodeId(1), own, &members, (src, dst));
        assert!(check(own, mac(2)).is_ok());
        assert!(check(own, own).is_err() && check(own, mac(9)).is_err() && check(own, Mac::BROADCAST).is_err());
        assert!(check(own, Mac::of_shard(ShardId(1))).is_err() && check(Mac::of_shard(ShardId(1)), mac(2)).is_err());
    }
}
