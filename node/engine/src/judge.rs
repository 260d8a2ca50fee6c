//! The parts of the worker that judging a frame touches. They are lent for one frame, or for the entries of one turn, and no
//! way sees more of the worker than this.

use crate::context::Cx;
use crate::egress::Egress;
use crate::fragments::Fragments;
use crate::revision::Revisions;
use crate::shards::Shards;

/// What judging takes: each way is an `impl` of this in a file of its own.
pub(crate) struct Judge<'a, W> {
    pub(crate) cx: Cx<'a, W>,
    pub(crate) shards: &'a mut Shards,
    pub(crate) egress: &'a mut Egress,
    pub(crate) datagrams: &'a mut Fragments,
    pub(crate) revisions: &'a Revisions,
}
