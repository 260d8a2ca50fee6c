//! What a flow group tells the worker that holds its shard's table: said by `consensus`, handed on by the member, understood by
//! `engine`.

use bytes::Bytes;

use crate::{ControlIndex, LogIndex, NodeId, ShardId, Term};

/// From the flow groups to the worker that holds a shard's table. Delivered in order, never lost.
#[derive(Clone, Debug)]
pub enum GroupEvent {
    /// A replica of the shard lives here from now on, its table standing at `index`: empty, or, if it `loads`, nothing to
    /// go by until the chunks that follow are in. Replaces any earlier table of the shard.
    Opened { shard: ShardId, epoch: u32, index: LogIndex, loads: bool },
    /// A re-created epoch continues from this replica's table (N4): keep it; flows outside their lease close.
    Reopened { shard: ShardId, epoch: u32, control_index: ControlIndex },
    /// The replica is gone; forget the table.
    Dropped { shard: ShardId },
    /// A committed entry. An empty `entry` is raft's own (a new term or a membership change).
    Committed { shard: ShardId, index: LogIndex, term: Term, entry: Bytes },
    /// This replica leads in `term`: proposals of that term are taken from now on. Serving still needs F7.
    Leading { shard: ShardId, term: Term },
    /// This replica does not lead (any more): drop the overlay and its held packets (F8).
    Following { shard: ShardId },
    /// Who owns the shard, for `Forward`; `None` when nobody is known, which is what grace (L4) needs.
    Owner { shard: ShardId, term: Term, node: Option<NodeId> },
    /// A batch of `stream` was refused, and all later ones of that stream will be (F1).
    Refused { shard: ShardId, term: Term, stream: u32 },
    /// Send the whole table as chunks, starting at the applied index of this moment (F10). Replaces an earlier order.
    Scan { shard: ShardId, transfer: u64 },
    /// Nobody waits for the chunks of this transfer any more.
    ScanOver { shard: ShardId, transfer: u64 },
    /// A chunk of another replica's scan, in order.
    Load { shard: ShardId, epoch: u32, chunk: Bytes },
    /// The joiner starts replaying at `base`; its inside index is built once `until` is applied (F10).
    Loaded { shard: ShardId, base: LogIndex, until: LogIndex },
}
