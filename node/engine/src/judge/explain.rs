//! What would become of a packet, or becomes of those of a flow that is there, and why: asked of the very functions that judge
//! packets, of the snapshot and the table that they would be judged by. Changes nothing, sends nothing.
//!
//! The packet that is meant may open a flow (a SYN, a datagram, an echo request), has hops left and fits. Whether its neighbour
//! answers, and whether the log takes the mapping, is not foretold.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::addresses::{
    InsideEnd, check_destination, endpoint, floating_end, is_spoofed, next_hop, own_address, own_end, subnet_of,
};
use crate::consent::tuple;
use crate::context::At;
use crate::event::{Authority, DropReason};
use crate::flow::FlowKey;
use crate::ids::{BackendId, ControlIndex, FrontendId, Mac, NodeId, ShardId, Term, VnetId};
use crate::judge::floating::whose;
use crate::judge::hairpin::receiver;
use crate::judge::opening::{granted_key, public_end};
use crate::judge::policy::{Entry, Plan, Role, chosen, end_of, enter, inbound_use, is_vain, mapping_of, plan};
use crate::judge::private;
use crate::nsg::{Access, Decision, Direction, Origin, Place};
use crate::private::{Ends, Pair, pair_of};
use crate::probes::{Health, SOURCE};
use crate::record::{Endpoint, InsideKey, Proto, PublicKey, Scenario};
use crate::rules::AdminState;
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::tell::status::{FlowView, View};
use crate::wire::IcmpKind;

/// Members of a pool that are named at most, of those that get nothing new.
const PASSED_OVER_MAX: usize = 16;

/// A packet that somebody asks about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// The virtual network of an inside source.
    pub vnet: VnetId,
    /// Protocol.
    pub proto: Proto,
    /// Source; of an echo request the port is its identifier.
    pub source: (Ipv4Addr, u16),
    /// Destination.
    pub destination: (Ipv4Addr, u16),
}

/// What there is to say about it.
#[derive(Clone, PartialEq, Debug)]
pub struct Explanation {
    /// The configuration that it is judged by here.
    pub control_index: ControlIndex,
    /// Whose packet it is, or would be.
    pub backend: Option<BackendId>,
    /// The shard that judges it.
    pub shard: Option<ShardId>,
    /// Who owns that, as far as known here, and in which term.
    pub owner: Option<(Term, Option<NodeId>)>,
    /// From outside, or from a backend.
    pub direction: Direction,
    /// The groups that were asked, in their order, up to the one that denies it.
    pub groups: Vec<Judged>,
    /// Members of the pool that it comes to who get no new flows (S22).
    pub passed_over: Vec<PassedOver>,
    /// The mapping that it belongs to.
    pub mapping: Option<FlowView>,
    /// Who would take it outside.
    pub next_hop: Option<Ipv4Addr>,
    /// The own address of the backend that takes it, if it keeps the frontend's as its destination (D17).
    pub floats_to: Option<Ipv4Addr>,
    /// If it is dropped for want of a port: when the first one that is held towards its remote comes back, in nanoseconds from now
    /// (S12); none: all are in use.
    pub back_in_ns: Option<u64>,
    /// What becomes of it.
    pub outcome: Outcome,
    /// What becomes of it then at the public address of ours that it is for: the inside end that gets it (R7). `None`: it is for
    /// none, or goes to that one's shard elsewhere.
    pub turned: Option<Result<(Ipv4Addr, u16), DropReason>>,
}

/// A member of a pool that gets no new flows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PassedOver {
    /// Who.
    pub backend: BackendId,
    /// Why.
    pub by: PassedBy,
}

/// Why a member of a pool gets no new flows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PassedBy {
    /// An operator drains it.
    Operator,
    /// A probe that it has not passed.
    Probe {
        /// The probe's name.
        name: Arc<str>,
        /// What is committed; `None`: nothing yet.
        health: Option<Health>,
    },
}

/// What a group says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    /// Where it is attached.
    pub place: Place,
    /// Its name.
    pub group: String,
    /// Whether it lets the packet pass.
    pub access: Access,
    /// The deciding rule's name, priority and author.
    pub rule: Option<(String, u16, Origin)>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It passes by its mapping: out with this source, or in to this inside end.
    Passes(Ipv4Addr, u16),
    /// It opens a mapping, and leaves with this source once a majority has it.
    Opens(Scenario, Ipv4Addr, u16),
    /// It opens a mapping if its backend has a port left; to look for one would take too long.
    OpensIfFree(Scenario),
    /// It waits with the first packet of a mapping that opens.
    Waits,
    /// It ends here.
    Dropped(DropReason),
    /// This worker does not serve its shard.
    NotHere,
}

impl Question {
    /// As its packets would be looked up: nothing that has no ports is asked about by one.
    const fn looked_up(self) -> Self {
        if self.proto.has_ports() || matches!(self.proto, Proto::Icmp) {
            return self;
        }
        Self { source: (self.source.0, 0), destination: (self.destination.0, 0), ..self }
    }
}

impl View<'_> {
    /// Explains a packet; `None` before a configuration is loaded.
    #[must_use]
    pub fn explain(&self, now_ns: u64, question: &Question) -> Option<Explanation> {
        let (at, question) = (At { now_ns, snapshot: self.snapshot? }, &question.looked_up());
        let s = at.snapshot;
        let mut told = Explanation {
            control_index: s.control_index,
            backend: None,
            shard: None,
            owner: None,
            direction: Direction::Outbound,
            groups: Vec::new(),
            passed_over: Vec::new(),
            mapping: None,
            next_hop: None,
            floats_to: None,
            back_in_ns: None,
            outcome: Outcome::NotHere,
            turned: None,
        };
        if !s.params.format.carries(question.proto) {
            return Some(Explanation { outcome: Outcome::Dropped(DropReason::ClusterLevel), ..told });
        }
        let outcome = match s.backend_by_ip.get(&(question.vnet, question.source.0)) {
            Some(id) => self.explain_out(at, question, *id, &mut told),
            // Nobody's address of an inside network.
            None if subnet_of(s, question.vnet, question.source.0).is_some() => Err(DropReason::SpoofedSource),
            None => match self.floating_backend(at, question, &mut told) {
                Some(Ok(Some(id))) => self.explain_out(at, question, id, &mut told),
                Some(Ok(None)) => Ok(Outcome::NotHere),
                Some(Err(reason)) => Err(reason),
                None => self.explain_in(at, question, &mut told),
            },
        };
        told.outcome = outcome.unwrap_or_else(Outcome::Dropped);
        Some(told)
    }

    /// Whose a packet is from a frontend's address that a rule floats to (D17), whatever card it comes from; `None`: no rule does.
    fn floating_backend(
        &self,
        at: At<'_>,
        q: &Question,
        told: &mut Explanation,
    ) -> Option<Result<Option<BackendId>, DropReason>> {
        let [inside, remote] = [q.source, q.destination].map(|(ip, port)| endpoint(ip, port));
        let (key, home) = floating_end(at.snapshot, q.proto, inside, remote)?;
        self.place(home, told);
        let Some((shard, _)) = self.serving(home) else { return Some(Ok(None)) };
        let flow = FlowKey { proto: q.proto, inside: InsideKey { vnet: q.vnet, endpoint: inside }, remote };
        Some(whose(at, shard, &key, &flow, Role::First).map(Some).ok_or(DropReason::SpoofedSource))
    }

    fn explain_out(
        &self,
        at: At<'_>,
        q: &Question,
        id: BackendId,
        told: &mut Explanation,
    ) -> Result<Outcome, DropReason> {
        let s = at.snapshot;
        let backend = s.backends.get(&id).ok_or(DropReason::SpoofedSource)?;
        self.place(backend.home, told);
        told.backend = Some(id);
        let inside = InsideKey { vnet: q.vnet, endpoint: endpoint(q.source.0, q.source.1) };
        let flow = FlowKey { proto: q.proto, inside, remote: endpoint(q.destination.0, q.destination.1) };
        let own = own_end(s, id, flow.inside.endpoint);
        told.groups = judged(s, id, Direction::Outbound, (q.proto, own, flow.remote));
        if let Some(pair) = pair_of(s, (q.vnet, q.source.0), q.destination.0) {
            return self.explain_private(at, &pair, q, told);
        }
        if q.destination.0 == SOURCE {
            return Err(DropReason::PlatformAddress);
        }
        let Some((shard, authority)) = self.serving(backend.home) else { return Ok(Outcome::NotHere) };
        let slot = shard.replica.table.find_inside(&flow);
        told.mapping = slot.map(|slot| self.view(at.now_ns, backend.home, shard.replica.table.record(slot)));
        let dst = q.destination.0;
        check_destination(s, q.vnet, dst)?;
        let ours = own_address(s, dst);
        if is_vain(s, dst, (q.proto == Proto::Icmp).then_some(IcmpKind::EchoRequest)) {
            return Err(DropReason::NoMapping);
        }
        if ours.is_none() {
            told.next_hop = Some(next_hop(s, dst)?);
        }
        let outcome = match plan(at, shard, authority, (id, backend), &flow, Role::First) {
            Plan::Translate(slot) => {
                let record = shard.replica.table.record(slot);
                Ok(Outcome::Passes(public_ip(s, record.frontend)?, record.public_port))
            }
            Plan::Answer(open) => Ok(Outcome::Passes(public_ip(s, open.public.frontend)?, open.public.port)),
            Plan::Park => Ok(Outcome::Waits),
            Plan::Open(proposal) => {
                let end = public_end(at, shard, &proposal, &flow);
                if end == Err(DropReason::PortsExhausted) {
                    let back_ns = shard.comes_back_ns(backend, granted_key(&flow));
                    told.back_in_ns = back_ns.map(|ns| ns.saturating_sub(at.now_ns));
                }
                match end? {
                    Some(public) => Ok(Outcome::Opens(proposal.scenario, public_ip(s, public.frontend)?, public.port)),
                    None => Ok(Outcome::OpensIfFree(proposal.scenario)),
                }
            }
            Plan::Stray => Err(DropReason::NotFirstPacket),
            Plan::Refuse(reason) => Err(reason),
        }?;
        // Allowed as an answer: the rule that decides is one for what comes.
        if told.groups.last().is_some_and(|last| last.access == Access::Deny) {
            told.groups = judged(s, id, Direction::Inbound, (q.proto, flow.remote, own));
        }
        if let (Outcome::Passes(ip, port) | Outcome::Opens(_, ip, port), Some(to)) = (outcome, ours) {
            let sender = InsideEnd { vnet: q.vnet, ip: q.source.0, port: q.source.1, at: backend.ip };
            told.turned = self.turned(at, authority, to, q, (sender, endpoint(ip, port)));
        }
        Ok(outcome)
    }

    fn explain_private(
        &self,
        at: At<'_>,
        pair: &Pair<'_>,
        q: &Question,
        told: &mut Explanation,
    ) -> Result<Outcome, DropReason> {
        let s = at.snapshot;
        self.place(pair.home, told);
        let ends = Ends { proto: q.proto, from_port: q.source.1, to_port: q.destination.1 };
        let comes = pair.back().flow(ends.back());
        if told.groups.last().is_none_or(|last| last.access == Access::Allow) {
            let theirs = judged(s, pair.to.id, Direction::Inbound, (q.proto, comes.remote, comes.inside.endpoint));
            told.groups.extend(theirs);
        }
        let Some((shard, authority)) = self.serving(pair.home) else { return Ok(Outcome::NotHere) };
        told.next_hop = Some(pair.to.backend.ip);
        match private::plan(at, (shard, None), authority, pair, ends, Role::First) {
            private::Plan::Pass => Ok(Outcome::Passes(q.source.0, q.source.1)),
            private::Plan::Flow(slot, _) => {
                told.mapping = Some(self.view(at.now_ns, pair.home, shard.replica.table.record(slot)));
                Ok(Outcome::Passes(q.source.0, q.source.1))
            }
            private::Plan::Open(open) => Ok(Outcome::Opens(open.scenario, q.source.0, q.source.1)),
            private::Plan::Park(_) => Ok(Outcome::Waits),
            private::Plan::Refuse(reason) => Err(reason),
        }
    }

    fn turned(
        &self,
        at: At<'_>,
        authority: Authority,
        (frontend, home): (FrontendId, ShardId),
        q: &Question,
        (sender, remote): (InsideEnd, Endpoint),
    ) -> Option<Result<(Ipv4Addr, u16), DropReason>> {
        self.shards.right_for(authority, home)?;
        let key = PublicKey { proto: q.proto, frontend, port: q.destination.1, remote };
        let got = receiver(at.snapshot, self.shards.replica(home)?, &key, sender);
        Some(got.map(|(_, end)| (end.ip, end.port)))
    }

    fn explain_in(&self, at: At<'_>, q: &Question, told: &mut Explanation) -> Result<Outcome, DropReason> {
        let s = at.snapshot;
        told.direction = Direction::Inbound;
        let (frontend, home) = own_address(s, q.destination.0).ok_or(DropReason::NotForUs)?;
        // As from where it would come if it were what it claims to be.
        let sender = own_address(s, q.source.0).map_or(Mac::default(), |(_, shard)| Mac::of_shard(shard));
        if is_spoofed(s, q.source.0, sender) {
            return Err(DropReason::SpoofedSource);
        }
        self.place(home, told);
        let Some((shard, authority)) = self.serving(home) else { return Ok(Outcome::NotHere) };
        let remote = endpoint(q.source.0, q.source.1);
        let key = PublicKey { proto: q.proto, frontend, port: q.destination.1, remote };
        let end = match mapping_of(shard, &key) {
            Some(slot) => {
                let record = shard.replica.table.record(slot);
                told.backend = Some(record.backend);
                told.mapping = Some(self.view(at.now_ns, home, record));
                let end = inbound_use(s, record, s.backends.get(&record.backend).ok_or(DropReason::NoMapping)?);
                if end == Err(DropReason::SecurityRule) {
                    let ends = (record.proto, own_end(s, record.backend, record.inside), record.remote);
                    told.groups = judged(s, record.backend, Direction::Outbound, ends);
                }
                end
            }
            None => {
                told.passed_over = passed_over(s, &key);
                let led = chosen(s, shard, &key).ok().map(|open| (open.backend, open.inside));
                let open = || {
                    let inside = shard.endpoint_of(s, &key)?;
                    Some((*s.backend_by_ip.get(&(inside.vnet, inside.endpoint.addr.ipv4()?))?, inside))
                };
                if let Some((id, inside)) = led.or_else(open) {
                    told.backend = Some(id);
                    let own = own_end(s, id, inside.endpoint);
                    told.groups = judged(s, id, Direction::Inbound, (q.proto, remote, own));
                }
                match enter(at, shard, authority, &key, (Role::First, None))? {
                    Entry::Stranger(to) => Ok(to),
                    Entry::Half { open, .. } | Entry::Park(open) | Entry::Open { open, .. } => end_of(s, &open),
                }
            }
        }?;
        told.floats_to = (end.at != end.ip).then_some(end.at);
        Ok(Outcome::Passes(end.ip, end.port))
    }

    fn place(&self, shard: ShardId, told: &mut Explanation) {
        told.shard = Some(shard);
        told.owner = self.shards.get(shard).and_then(|entry| entry.owner);
    }

    /// A shard that serves here. Whether the lease still runs is looked at as packets leave.
    fn serving(&self, id: ShardId) -> Option<(&Shard, Authority)> {
        let shard = self.shards.replica(id)?;
        let lead = shard.leadership.as_ref().filter(|lead| lead.serving == Some(Ok(())))?;
        Some((shard, Authority::Lease { shard: id, term: lead.term }))
    }
}

fn public_ip(s: &Snapshot, frontend: FrontendId) -> Result<Ipv4Addr, DropReason> {
    s.frontends.get(&frontend).map(|frontend| frontend.ip).ok_or(DropReason::NoOutboundPath)
}

/// Who gets nothing new of those that a rule leads to, the first few.
fn passed_over(s: &Snapshot, key: &PublicKey) -> Vec<PassedOver> {
    let Some(rule) = s.rules.of(key) else { return Vec::new() };
    let by = |backend| match rule.admin(backend) {
        Some(AdminState::Up) => None,
        Some(AdminState::Down) => Some(PassedBy::Operator),
        None => {
            let asked = s.probes.decisive(rule.health, backend)?;
            let probe = s.probes.get(asked.probe)?;
            let (name, health) = (Arc::clone(&probe.name), probe.health(asked.backend));
            (health != Some(Health::Up)).then_some(PassedBy::Probe { name, health })
        }
    };
    let all = rule.members.iter().filter_map(|id| Some(PassedOver { backend: *id, by: by(*id)? }));
    all.take(PASSED_OVER_MAX).collect()
}

/// What each of a backend's groups says, up to the first that denies.
fn judged(
    s: &Snapshot,
    id: BackendId,
    direction: Direction,
    (proto, from, to): (Proto, Endpoint, Endpoint),
) -> Vec<Judged> {
    let (Some(attachment), Some(tuple)) = (s.security.of(id), tuple(proto, from, to)) else { return Vec::new() };
    let told = |(access, decision): (Access, Decision<'_>)| Judged {
        place: decision.place,
        group: decision.group.to_owned(),
        access,
        rule: decision.rule.map(|label| (label.name.to_string(), label.priority, label.origin)),
    };
    attachment.decisions(direction, &tuple).map(told).collect()
}
