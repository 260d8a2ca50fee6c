//! The parts of the worker that judging a frame touches. They are lent for one frame, or for the entries of one turn, and no
//! way sees more of the worker than this.

pub(crate) mod ahead;
mod caching;
mod entering;
mod errors;
mod established;
pub mod explain;
mod floating;
pub(crate) mod fragments;
mod frame;
mod hairpin;
mod inbound;
mod lapsed;
mod opening;
mod outbound;
mod pieces;
mod policy;
pub(crate) mod private;
mod probing;

use crate::cache::Cache;
use crate::context::Cx;
use crate::egress::Egress;
use crate::judge::fragments::Fragments;
use crate::revision::Revisions;
use crate::shard::shards::Shards;

/// What judging takes: each way is an `impl` of this in a file of its own.
pub(crate) struct Judge<'a, W> {
    pub(crate) cx: Cx<'a, W>,
    pub(crate) shards: &'a mut Shards,
    pub(crate) egress: &'a mut Egress,
    pub(crate) datagrams: &'a mut Fragments,
    pub(crate) revisions: &'a Revisions,
    pub(crate) cache: &'a mut Cache,
}
