//! What the security groups of a backend say of its flows (S26, S30), and which of their rules are counted for it. Pure; asked by
//! whoever judges a first packet (`judge::policy`, `private`) or whether a mapping may stand (`shard::standing`).

use std::sync::Arc;

use crate::addresses::own_end;
use crate::context::News;
use crate::flow::FlowKey;
use crate::ids::BackendId;
use crate::nsg::{Access, Attachment, Direction, Hits, Tuple, verdict};
use crate::record::{Endpoint, Proto};
use crate::revision::PARTS_MAX;
use crate::snapshot::{Backend, Filtering, Sharing, Snapshot};

/// Whether the security groups of a backend let it have this flow (S26): as one that leaves, or, where its ports are open to
/// whoever asks, as the answer to one that came in, since an answer needs no rule (S30).
pub(crate) fn groups_allow(s: &Snapshot, id: BackendId, flow: &FlowKey) -> bool {
    groups_permit(s, id, flow) || (takes_strangers(s, id) && groups_admit(s, id, flow))
}

/// Whether they let it begin the flow.
pub(crate) fn groups_permit(s: &Snapshot, id: BackendId, flow: &FlowKey) -> bool {
    let Some(attachment) = s.security.of(id) else { return true };
    let leaves = tuple(flow.proto, flow.inside.endpoint, flow.remote);
    leaves.is_some_and(|tuple| verdict(Direction::Outbound, Some(attachment), &tuple).access == Access::Allow)
}

/// Counts which rules decide about a flow of a backend's: those that let it leave or deny it, or, of one that stands as an
/// answer, those that let it come.
pub(crate) fn note_hits(hits: &mut Hits, s: &Snapshot, id: BackendId, flow: &FlowKey) {
    let Some(attachment) = s.security.of(id) else { return };
    let answers = takes_strangers(s, id) && !groups_permit(s, id, flow) && groups_admit(s, id, flow);
    if answers {
        return note_stranger(hits, s, id, flow);
    }
    note_leaving(hits, attachment, flow);
}

fn note_leaving(hits: &mut Hits, attachment: &Attachment, flow: &FlowKey) {
    if let Some(tuple) = tuple(flow.proto, flow.inside.endpoint, flow.remote) {
        hits.note(Direction::Outbound, attachment, &tuple);
    }
}

/// The same of a private flow (S41), whose receiver's groups are asked if its sender's allow it.
pub(crate) fn note_private(
    hits: &mut Hits,
    s: &Snapshot,
    (from, forth): (BackendId, &FlowKey),
    (to, back): (BackendId, &FlowKey),
) {
    if let Some(attachment) = s.security.of(from) {
        note_leaving(hits, attachment, forth);
    }
    if groups_permit(s, from, forth) {
        note_stranger(hits, s, to, back);
    }
}

/// The same of a packet that its remote begins with.
pub(crate) fn note_stranger(hits: &mut Hits, s: &Snapshot, id: BackendId, flow: &FlowKey) {
    if let Some(attachment) = s.security.of(id)
        && let Some(tuple) = tuple(flow.proto, flow.remote, own_end(s, id, flow.inside.endpoint))
    {
        hits.note(Direction::Inbound, attachment, &tuple);
    }
}

/// Whether they let the remote begin it. They see the instance's own address, whatever address the packet has (S24, D17).
pub(crate) fn groups_admit(s: &Snapshot, id: BackendId, flow: &FlowKey) -> bool {
    let Some(attachment) = s.security.of(id) else { return true };
    let comes = tuple(flow.proto, flow.remote, own_end(s, id, flow.inside.endpoint));
    comes.is_some_and(|tuple| verdict(Direction::Inbound, Some(attachment), &tuple).access == Access::Allow)
}

/// Whether somebody may begin a flow to a port of a backend's (R3, R6).
fn takes_strangers(s: &Snapshot, id: BackendId) -> bool {
    let open = |b: &Backend| b.sharing == Sharing::Endpoint && b.filtering != Filtering::Tuple;
    s.backends.get(&id).is_some_and(open)
}

/// `None`: not of IPv4, which no rule speaks of.
pub(crate) fn tuple(proto: Proto, from: Endpoint, to: Endpoint) -> Option<Tuple> {
    let (source, destination) = (from.addr.ipv4()?.to_bits(), to.addr.ipv4()?.to_bits());
    // What identifies a query is no port.
    let [source_port, destination_port] = if proto == Proto::Icmp { [0; 2] } else { [from.port, to.port] };
    Some(Tuple { protocol: proto as u8, source, source_port, destination, destination_port })
}

/// Whether private connections may be older than what their shard knows of them: groups judge somebody whom none judged before, or
/// somebody lives in another shard than before.
pub(crate) fn connections_came(before: Option<&Snapshot>, after: &Snapshot) -> News {
    let Some(before) = before else { return News::Yes };
    if after.security.is_empty() {
        return News::No;
    }
    let same = Arc::ptr_eq(&before.security, &after.security);
    let groups = || !same && after.security.iter().any(|(id, _)| before.security.of(id).is_none());
    let moved = |id| match (before.backends.get(&id), after.backends.get(&id)) {
        (Some(then), Some(now)) => then.home != now.home,
        (None, _) | (_, None) => false,
    };
    let many = after.backends.parts_apart_from(&before.backends) > PARTS_MAX;
    let came = groups() || many || after.backends.changed_since(&before.backends).any(moved);
    if came { News::Yes } else { News::No }
}
