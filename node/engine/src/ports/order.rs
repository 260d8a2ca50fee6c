//! The keyed order of a lease's ports (D9, R19): unpredictable from outside, dense inside. A flow gets the first port in this
//! order that is free towards its remote (S8, S10), so flows to distinct remotes share the first port.
//!
//! A port's rank does not depend on the rest of the lease: growing or shrinking it moves no other port (S14, S15).

use crate::ids::{BackendId, FrontendId, PortBlock};
use crate::record::PublicKey;

/// How many remotes a backend's cursors remember; a forgotten one starts from the first port again.
const CURSORS: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// Position of the frontend in the lease: the first is used up before the next (R2, paired pooling).
    frontend_at: u16,
    rank: u64,
    frontend: FrontendId,
    port: u16,
}

impl Candidate {
    /// What the order is by.
    const fn place(&self) -> (u16, u64, u16) {
        (self.frontend_at, self.rank, self.port)
    }
}

/// All candidates before `next` are in use towards the remote with this tag.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    tag: u64,
    next: usize,
}

/// The ports of one backend's lease, in its order.
#[derive(Debug)]
pub struct LeaseOrder {
    lease: Vec<PortBlock>,
    key: [u8; 32],
    /// Distinct frontends in the order of the lease.
    frontends: Vec<FrontendId>,
    order: Vec<Candidate>,
    cursors: [Cursor; CURSORS],
    victim: usize,
}

/// Ports that one `peek` looks at.
pub const PEEKS_MAX: usize = 4096;

/// A free port, if there is one, is further away than `peek` looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeekTooLong;

impl LeaseOrder {
    /// Orders `lease` under the cluster's key.
    #[must_use]
    pub fn new(key: [u64; 2], backend: BackendId, lease: &[PortBlock]) -> Self {
        let mut material = [0u8; 20];
        material[..8].copy_from_slice(&key[0].to_le_bytes());
        material[8..16].copy_from_slice(&key[1].to_le_bytes());
        material[16..].copy_from_slice(&backend.0.to_le_bytes());
        let key = blake3::derive_key("qnat 2026 port order of a backend", &material);
        let mut frontends: Vec<FrontendId> = Vec::new();
        let mut order = Vec::with_capacity(lease.iter().map(|b| usize::from(b.len)).sum());
        let mut bytes = Vec::new();
        for block in lease {
            let at = frontends.iter().position(|f| *f == block.frontend).unwrap_or(frontends.len());
            if at == frontends.len() {
                frontends.push(block.frontend);
            }
            let frontend_at = u16::try_from(at).unwrap_or(u16::MAX);
            bytes.resize(usize::from(block.len) * 8, 0);
            ranks(&key, block.frontend, block.start, &mut bytes);
            for (port, rank) in (block.start..=u16::MAX).zip(bytes.chunks_exact(8)) {
                let rank = u64::from_le_bytes(rank.try_into().expect("chunks of eight"));
                order.push(Candidate { frontend_at, rank, frontend: block.frontend, port });
            }
        }
        order.sort_unstable_by_key(Candidate::place);
        Self { lease: lease.to_vec(), key, frontends, order, cursors: [Cursor::default(); CURSORS], victim: 0 }
    }

    /// Whether this is the order of exactly that lease.
    #[must_use]
    pub fn is_of(&self, lease: &[PortBlock]) -> bool {
        self.lease == lease
    }

    /// The first port that is free towards the remote with `tag`; `occupied` tells. `None`: all are in use (S12).
    pub fn pick(&mut self, tag: u64, occupied: impl Fn(FrontendId, u16) -> bool) -> Option<(FrontendId, u16)> {
        let cursor = match self.cursors.iter().position(|c| c.tag == tag && c.next > 0) {
            Some(cursor) => cursor,
            None => {
                self.victim = (self.victim + 1) % CURSORS;
                self.cursors[self.victim] = Cursor { tag, next: 0 };
                self.victim
            }
        };
        let next = &mut self.cursors[cursor].next;
        while let Some(candidate) = self.order.get(*next) {
            if !occupied(candidate.frontend, candidate.port) {
                return Some((candidate.frontend, candidate.port));
            }
            *next += 1;
        }
        None
    }

    /// What `pick` would return; changes nothing. It remembers nothing either, so it looks at [`PEEKS_MAX`] ports at most.
    ///
    /// # Errors
    /// If those are occupied, and there are more.
    pub fn peek(
        &self,
        tag: u64,
        occupied: impl Fn(FrontendId, u16) -> bool,
    ) -> Result<Option<(FrontendId, u16)>, PeekTooLong> {
        let next = self.cursors.iter().find(|c| c.tag == tag && c.next > 0).map_or(0, |c| c.next);
        let left = self.order.get(next..).unwrap_or_default();
        let free = left.iter().take(PEEKS_MAX).find(|c| !occupied(c.frontend, c.port));
        match free {
            Some(candidate) => Ok(Some((candidate.frontend, candidate.port))),
            None if left.len() <= PEEKS_MAX => Ok(None),
            None => Err(PeekTooLong),
        }
    }

    /// The public key became free: its remote's cursor goes back to it, so that the order stays dense.
    pub fn freed(&mut self, tag: u64, key: &PublicKey) {
        let Some(cursor) = self.cursors.iter().position(|c| c.tag == tag && c.next > 0) else { return };
        let mut rank = [0u8; 8];
        ranks(&self.key, key.frontend, key.port, &mut rank);
        let rank = u64::from_le_bytes(rank);
        let Some(at) = self.frontends.iter().position(|f| *f == key.frontend) else { return };
        let frontend_at = u16::try_from(at).unwrap_or(u16::MAX);
        let freed = Candidate { frontend_at, rank, frontend: key.frontend, port: key.port };
        let at = self.order.partition_point(|c| c.place() < freed.place());
        let next = &mut self.cursors[cursor].next;
        *next = (*next).min(at);
    }

    /// Forgets what was in use: the overlay was dropped.
    pub fn rewind(&mut self) {
        self.cursors = [Cursor::default(); CURSORS];
    }
}

/// Eight bytes of rank per port from `start`, cut from one keyed stream per frontend.
fn ranks(key: &[u8; 32], frontend: FrontendId, start: u16, out: &mut [u8]) {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&frontend.0.to_le_bytes());
    let mut stream = hasher.finalize_xof();
    stream.set_position(u64::from(start) * 8);
    stream.fill(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Addr, Endpoint, Proto};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const F: FrontendId = FrontendId(1);

    fn block(start: u16, len: u16) -> PortBlock {
        PortBlock { frontend: F, start, len }
    }

    fn key(port: u16) -> PublicKey {
        PublicKey {
            proto: Proto::Udp,
            frontend: F,
            port,
            remote: Endpoint { addr: Addr::from(std::net::Ipv4Addr::new(1, 1, 1, 1)), port: 53 },
        }
    }

    fn drain(order: &mut LeaseOrder, tag: u64) -> Vec<u16> {
        let mut used = BTreeSet::new();
        let mut out = Vec::new();
        while let Some((_, port)) = order.pick(tag, |_, p| used.contains(&p)) {
            used.insert(port);
            out.push(port);
        }
        out
    }

    #[test]
    fn every_port_is_used_once_and_exhaustion_is_told() {
        let mut order = LeaseOrder::new([1, 2], BackendId(1), &[block(2048, 64), block(4096, 32)]);
        let ports = drain(&mut order, 5);
        let distinct: BTreeSet<u16> = ports.iter().copied().collect();
        assert_eq!(ports.len(), 96);
        assert_eq!(distinct, (2048..2112).chain(4096..4128).collect());
        assert!(!ports.is_sorted() && !ports.iter().rev().is_sorted(), "R19: in numeric order: {ports:?}");
    }

    #[test]
    fn a_lease_that_shrinks_keeps_the_order_of_the_rest() {
        let mut whole = LeaseOrder::new([1, 2], BackendId(1), &[block(2048, 64)]);
        let mut half = LeaseOrder::new([1, 2], BackendId(1), &[block(2048, 32)]);
        let kept: Vec<u16> = drain(&mut whole, 1).into_iter().filter(|p| *p < 2080).collect();
        assert_eq!(drain(&mut half, 1), kept);
    }

    #[test]
    fn the_order_depends_on_backend_and_cluster_key() {
        let of = |key, backend| drain(&mut LeaseOrder::new(key, BackendId(backend), &[block(2048, 64)]), 1);
        assert_ne!(of([1, 2], 1), of([1, 2], 2));
        assert_ne!(of([1, 2], 1), of([1, 3], 1));
        assert_eq!(of([1, 2], 1), of([1, 2], 1));
    }

    #[test]
    fn the_last_port_of_a_frontend_may_be_leased() {
        let mut order = LeaseOrder::new([1, 2], BackendId(1), &[block(65_504, 32)]);
        assert_eq!(drain(&mut order, 1).into_iter().collect::<BTreeSet<_>>(), (65_504..=65_535).collect());
    }

    proptest! {
        #[test]
        fn the_pick_is_always_the_first_free_port_of_the_order(
            ops in proptest::collection::vec((0u64..24, any::<bool>(), 0u16..40), 1..300),
        ) {
            let lease = [block(2048, 16), PortBlock { frontend: FrontendId(0), start: 1024, len: 8 }, block(4096, 16)];
            let mut order = LeaseOrder::new([3, 4], BackendId(1), &lease);
            let all: Vec<(FrontendId, u16)> = order.order.iter().map(|c| (c.frontend, c.port)).collect();
            let mut used: BTreeSet<(u64, FrontendId, u16)> = BTreeSet::new();
            for (tag, open, nth) in ops {
                if open {
                    let expect = all.iter().copied().find(|(f, p)| !used.contains(&(tag, *f, *p)));
                    let found = order.pick(tag, |f, p| used.contains(&(tag, f, p)));
                    prop_assert_eq!(found, expect);
                    if let Some((f, p)) = found {
                        used.insert((tag, f, p));
                    }
                } else if let Some((f, p)) = all.get(usize::from(nth)).copied() && used.remove(&(tag, f, p)) {
                    order.freed(tag, &PublicKey { frontend: f, ..key(p) });
                }
            }
        }
    }

    #[test]
    fn a_peek_says_what_pick_would_and_gives_up_where_that_would_take_long() {
        let block = |len| PortBlock { frontend: FrontendId(1), start: 1024, len };
        let most = u16::try_from(PEEKS_MAX).expect("small");
        let mut order = LeaseOrder::new([1, 2], BackendId(1), &[block(most)]);
        let third = order.order[2];
        let first_two = |_: FrontendId, port: u16| order.order[..2].iter().any(|c| c.port == port);
        assert_eq!(order.peek(7, first_two), Ok(Some((third.frontend, third.port))));
        assert_eq!(order.peek(7, |_, _| true), Ok(None), "all of them were looked at");
        let taken: Vec<u16> = order.order[..2].iter().map(|c| c.port).collect();
        assert_eq!(order.pick(7, |_, port| taken.contains(&port)), Some((third.frontend, third.port)));
        assert_eq!(
            order.peek(7, |_, port| taken.contains(&port)),
            Ok(Some((third.frontend, third.port))),
            "from there on"
        );
        let more = LeaseOrder::new([1, 2], BackendId(1), &[block(most + 1)]);
        assert_eq!(more.peek(7, |_, _| true), Err(PeekTooLong));
    }
}
