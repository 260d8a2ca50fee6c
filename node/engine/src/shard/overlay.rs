//! What the owner has proposed but not seen applied (F8): mappings that open, with their held packets, and mappings that
//! close. Lost with the term, whole.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashSet;

use crate::context::HELD_MAX_NS;
use crate::flow::{FlowKey, Slot};
use crate::ids::{BackendId, ControlIndex, FrontendId, Link, PortBlock};
use crate::map::Keyed;
use crate::ports::Claims;
use crate::record::{CloseReason, Open, PublicKey};
use crate::shard::half_open::flow_of;
use crate::snapshot::{Map, Sharing};
use crate::wire::{FrameMeta, IpPacket};

/// A packet waiting for the commit of its mapping.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) frame: Vec<u8>,
    pub(crate) meta: FrameMeta,
    pub(crate) packet: IpPacket,
    /// By which link it came.
    pub(crate) from: Link,
    pub(crate) arrived_ns: u64,
}

/// A mapping on its way through the log.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) open: Open,
    claim: Sharing,
    pub(crate) since_ns: u64,
    /// The first packet, if it has left already (W2).
    pub(crate) left: Option<IpPacket>,
    pub(crate) parked: VecDeque<Parked>,
}

/// The overlay of one shard.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    pending: Map<FlowKey, Pending>,
    by_public: Map<PublicKey, FlowKey>,
    per_backend: Map<BackendId, u32>,
    claims: Claims,
    deadlines: VecDeque<(u64, FlowKey)>,
    closing: HashSet<Slot, Keyed>,
    /// Those of them that a change ends (D19).
    cuts: u32,
    fences: BTreeSet<(PortBlock, ControlIndex)>,
}

impl Overlay {
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Mappings of one backend that open.
    pub(crate) fn opens_of(&self, backend: BackendId) -> u32 {
        self.per_backend.get(&backend).copied().unwrap_or(0)
    }

    pub(crate) fn is_opening(&self, flow: &FlowKey) -> bool {
        self.pending.contains_key(flow)
    }

    pub(crate) fn is_reserved(&self, public: &PublicKey) -> bool {
        self.by_public.contains_key(public)
    }

    /// The public ports on which a mapping opens.
    pub(crate) fn opening_ports(&self) -> BTreeSet<(FrontendId, u16)> {
        self.by_public.keys().map(|k| (k.frontend, k.port)).collect()
    }

    /// What mappings that open take besides their tuples.
    pub(crate) const fn claims(&self) -> &Claims {
        &self.claims
    }

    pub(crate) fn open(&mut self, open: &Open, sharing: Sharing, now_ns: u64) {
        let (flow, Open { public, backend, .. }) = (flow_of(open), *open);
        let claim = if self.claims.add(sharing, &public, flow.inside) { sharing } else { Sharing::Tuple };
        let pending = Pending { open: *open, claim, since_ns: now_ns, left: None, parked: VecDeque::new() };
        let former = self.pending.insert(flow, pending);
        assert!(former.is_none(), "a flow opens once at a time");
        self.by_public.insert(public, flow);
        *self.per_backend.entry(backend).or_default() += 1;
    }

    /// The first packet of an opening flow leaves before its commit (W2).
    pub(crate) fn leave(&mut self, flow: &FlowKey, first: IpPacket) {
        self.pending.get_mut(flow).expect("the caller has opened it").left = Some(first);
    }

    /// The flow whose first packet has left, so that its remote may answer by this public end before the commit (W2).
    pub(crate) fn answered(&self, public: &PublicKey) -> Option<FlowKey> {
        let flow = self.by_public.get(public)?;
        self.pending.get(flow).filter(|pending| pending.left.is_some()).map(|_| *flow)
    }

    /// The backend whose limits a packet of this opening flow counts against.
    pub(crate) fn backend(&self, flow: &FlowKey) -> Option<BackendId> {
        self.pending.get(flow).map(|p| p.open.backend)
    }

    pub(crate) fn park(&mut self, flow: &FlowKey, parked: Parked) {
        self.deadlines.push_back((parked.arrived_ns.saturating_add(HELD_MAX_NS), *flow));
        self.pending.get_mut(flow).expect("the caller has found or opened it").parked.push_back(parked);
    }

    /// The log has decided about an opening mapping.
    pub(crate) fn resolve(&mut self, public: &PublicKey) -> Option<(FlowKey, Pending)> {
        let flow = self.by_public.remove(public)?;
        let pending = self.pending.remove(&flow)?;
        self.claims.remove(pending.claim, public);
        let opens = self.per_backend.get_mut(&pending.open.backend).expect("counted when it was proposed");
        *opens -= 1;
        if *opens == 0 {
            self.per_backend.remove(&pending.open.backend);
        }
        Some((flow, pending))
    }

    /// A packet that has waited too long (I28), with its backend. The mapping stays on its way.
    pub(crate) fn expired(&mut self, now_ns: u64) -> Option<(BackendId, Parked)> {
        while let Some((deadline, flow)) = self.deadlines.front().copied() {
            if deadline > now_ns {
                return None;
            }
            self.deadlines.pop_front();
            if let Some(pending) = self.pending.get_mut(&flow)
                && pending.parked.front().is_some_and(|p| p.arrived_ns.saturating_add(HELD_MAX_NS) <= now_ns)
            {
                return pending.parked.pop_front().map(|p| (pending.open.backend, p));
            }
        }
        None
    }

    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.deadlines.front().map(|(at, _)| *at)
    }

    pub(crate) fn close(&mut self, slot: Slot, reason: CloseReason) {
        if self.closing.insert(slot) && reason == CloseReason::Policy {
            self.cuts += 1;
        }
    }

    pub(crate) fn closed(&mut self, slot: Slot, reason: CloseReason) {
        if self.closing.remove(&slot) && reason == CloseReason::Policy {
            self.cuts = self.cuts.saturating_sub(1);
        }
    }

    /// Ends on their way through the log that a change asked for.
    pub(crate) const fn cuts(&self) -> u32 {
        self.cuts
    }

    /// Takes note of a proposed fence; `false` if it is under way already.
    pub(crate) fn fence(&mut self, block: PortBlock, reclaim_index: ControlIndex) -> bool {
        self.fences.insert((block, reclaim_index))
    }

    pub(crate) fn fenced(&mut self, block: PortBlock, reclaim_index: ControlIndex) {
        self.fences.remove(&(block, reclaim_index));
    }

    /// Gives everything up: packets to drop with their backends, and slots that no longer close. Order is of no
    /// consequence: they are counted and unmarked.
    pub(crate) fn clear(&mut self) -> (Vec<(BackendId, Parked)>, Vec<Slot>) {
        self.by_public.clear();
        self.per_backend.clear();
        self.claims = Claims::default();
        self.deadlines.clear();
        self.fences.clear();
        self.cuts = 0;
        let packets =
            self.pending.drain().flat_map(|(_, p)| p.parked.into_iter().map(move |q| (p.open.backend, q))).collect();
        (packets, self.closing.drain().collect())
    }

    /// All opening mappings, in the order of their public keys.
    pub(crate) fn opening(&self) -> Vec<(FlowKey, &Pending)> {
        let mut all: Vec<_> = self.pending.iter().map(|(flow, p)| (*flow, p)).collect();
        all.sort_unstable_by_key(|(_, p)| p.open.public);
        all
    }
}
