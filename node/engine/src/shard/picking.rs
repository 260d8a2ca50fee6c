//! By which public port a new mapping leaves: the first free one of the backend's order, or the one that its endpoint has.

use words::time::MS;

use crate::backend::in_lease;
use crate::flow::{State, Table};
use crate::ids::{BackendId, FrontendId, PortBlock};
use crate::ports::{LeaseOrder, PEEKS_MAX, PeekTooLong};
use crate::record::{Addr, Endpoint, InsideKey, PublicKey};
use crate::shard::Shard;
use crate::shard::overlay::Overlay;
use crate::snapshot::{Backend, Params, Sharing};

impl Shard {
    /// The first port of the lease's order that is free towards the remote as the backend's rule has it (D9, S8, S9, S12),
    /// or the one that the inside endpoint has already (R3). `key` names protocol and remote; frontend and port are filled in here.
    pub(crate) fn pick_port(
        &mut self,
        params: &Params,
        (id, backend): (BackendId, &Backend),
        inside: InsideKey,
        key: PublicKey,
    ) -> Option<(FrontendId, u16)> {
        let (lease, sharing) = (&backend.lease, backend.sharing);
        if let Some((frontend, port)) = self.port_of_endpoint(backend, inside, &key) {
            let free = !is_taken(&self.replica.table, &self.overlay, &PublicKey { frontend, port, ..key });
            return free.then_some((frontend, port));
        }
        let (table, overlay) = (&self.replica.table, &self.overlay);
        let order = self.orders.entry(id).or_insert_with(|| LeaseOrder::new(params.key, id, lease));
        if !order.is_of(lease) {
            *order = LeaseOrder::new(params.key, id, lease);
        }
        order.pick(scope(table, sharing, &key), |frontend, port| {
            is_barred(table, overlay, sharing, &PublicKey { frontend, port, ..key })
        })
    }

    /// What `pick_port` would return; changes nothing.
    pub(crate) fn peek_port(
        &self,
        params: &Params,
        (id, backend): (BackendId, &Backend),
        inside: InsideKey,
        key: PublicKey,
    ) -> Result<Option<(FrontendId, u16)>, PeekTooLong> {
        let (lease, sharing) = (&backend.lease, backend.sharing);
        let (table, overlay) = (&self.replica.table, &self.overlay);
        if let Some((frontend, port)) = self.port_of_endpoint(backend, inside, &key) {
            let free = !is_taken(table, overlay, &PublicKey { frontend, port, ..key });
            return Ok(free.then_some((frontend, port)));
        }
        let made;
        let order = match self.orders.get(&id).filter(|order| order.is_of(lease)) {
            Some(order) => order,
            None if lease.iter().map(|block| usize::from(block.len)).sum::<usize>() > PEEKS_MAX => {
                return Err(PeekTooLong);
            }
            None => {
                made = LeaseOrder::new(params.key, id, lease);
                &made
            }
        };
        order.peek(scope(table, sharing, &key), |frontend, port| {
            is_barred(table, overlay, sharing, &PublicKey { frontend, port, ..key })
        })
    }

    /// Takes note that no port was free towards a remote.
    pub(crate) fn fell_short(&mut self, now_ns: u64, (id, backend): (BackendId, &Backend), key: PublicKey) {
        let mut shortages = std::mem::take(&mut self.shortages);
        let frontend = backend.lease.first().map(|block| block.frontend);
        shortages.note(now_ns, (id, frontend), (key.proto, key.remote), || self.comes_back_ns(backend, key));
        self.shortages = shortages;
    }

    /// When the first port of a lease comes back that is held towards the remote (D6); none is held: all are in use. Of very many
    /// the first are looked at.
    pub(crate) fn comes_back_ns(&self, backend: &Backend, key: PublicKey) -> Option<u64> {
        let ports = |block: PortBlock| (block.start..block.start + block.len).map(move |port| (block.frontend, port));
        let takeover_ns = self.leadership.as_ref().and_then(|lead| lead.takeover_ns).unwrap_or(0);
        let ends = |(frontend, port)| {
            let record =
                self.replica.table.record(self.replica.table.find_public(&PublicKey { frontend, port, ..key })?);
            let State::Held(class) = record.state else { return None };
            // Holds restart in full on takeover (F6).
            Some(record.last_seen.ns().max(takeover_ns) + u64::from(self.replica.meta.hold_ms[class.index()]) * MS)
        };
        backend.lease.iter().copied().flat_map(ports).take(PEEKS_MAX).filter_map(ends).min()
    }

    /// The port that an inside endpoint has already, where it has one for all remotes (R3).
    fn port_of_endpoint(&self, backend: &Backend, inside: InsideKey, key: &PublicKey) -> Option<(FrontendId, u16)> {
        if backend.sharing != Sharing::Endpoint {
            return None;
        }
        let (table, overlay) = (self.replica.table.claims(), self.overlay.claims());
        let port = table.port_of(key.proto, inside).or_else(|| overlay.port_of(key.proto, inside));
        port.filter(|(frontend, port)| in_lease(&backend.lease, *frontend, *port))
    }

    /// A public key became free again.
    pub(crate) fn port_freed(&mut self, backend: BackendId, key: &PublicKey) {
        let table = &self.replica.table;
        if let Some(order) = self.orders.get_mut(&backend) {
            for sharing in [Sharing::Tuple, Sharing::Address, Sharing::Endpoint] {
                order.freed(scope(table, sharing, key), key);
            }
        }
    }
}

/// Whether a mapping has exactly this public end, or is about to.
pub(crate) fn is_taken(table: &Table, overlay: &Overlay, key: &PublicKey) -> bool {
    table.find_public(key).is_some() || overlay.is_reserved(key)
}

/// Whether a new mapping of a backend that shares ports in this way may not have it.
fn is_barred(table: &Table, overlay: &Overlay, sharing: Sharing, key: &PublicKey) -> bool {
    is_taken(table, overlay, key) || table.claims().forbid(sharing, key) || overlay.claims().forbid(sharing, key)
}

/// Among which mappings a port is sought: those to the same tuple, to the same address, or all.
fn scope(table: &Table, sharing: Sharing, key: &PublicKey) -> u64 {
    let remote = match sharing {
        Sharing::Tuple => key.remote,
        Sharing::Address => Endpoint { port: 0, ..key.remote },
        Sharing::Endpoint => Endpoint { addr: Addr::NONE, port: 0 },
    };
    table.remote_tag(&PublicKey { remote, ..*key })
}
