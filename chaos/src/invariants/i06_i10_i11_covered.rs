//! I6: every translated packet is covered by a mapping that was committed before it left. With the reference's table this
//! is also I10 (the flow still has the translation under which it leaves) and I11 (nobody leaves under a port that is
//! held for somebody else).

use engine::ids::ShardId;
use engine::record::{Endpoint, InsideKey, Proto, PublicKey};

use super::committed::Committed;
use super::{Check, ensure};

/// A packet for `inside` comes in: also an answer to what may leave uncommitted waits for the commit (W2).
///
/// # Errors
/// If its flow has no committed mapping, live or held.
pub fn inwards(committed: &Committed, (proto, inside, remote): (Proto, InsideKey, Endpoint)) -> Check {
    ensure(committed.is_mapped(proto, inside, remote), "I6", || {
        format!("{proto:?} from {remote:?} reached {inside:?}, and no mapping for it is committed")
    })
}

/// Checks a packet that leaves as `public` for `inside`.
///
/// # Errors
/// If no committed mapping, live or held, says so.
pub fn check(committed: &Committed, shard: ShardId, public: &PublicKey, inside: InsideKey) -> Check {
    let mapping = committed.mapping(shard, public);
    ensure(mapping.is_some_and(|mapping| mapping.inside == inside), "I6", || match mapping {
        None => format!("shard {shard}: {inside:?} left as {public:?}, which is not committed"),
        Some(mapping) => format!("shard {shard}: {inside:?} left as {public:?}, which is {mapping:?}"),
    })
}
