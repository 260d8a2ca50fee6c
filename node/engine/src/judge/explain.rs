//! What would become of a packet, or becomes of those of a flow that is there, and why: asked of the very functions that judge
//! packets, of the snapshot and the table that they would be judged by. Changes nothing, sends nothing.
//!
//! The packet that is meant may open a flow (a SYN, a datagram, an echo request), has hops left and fits. Whether its neighbour
//! answers, and whether the log takes the mapping, is not foretold.

use std::net::Ipv4Addr;

use crate::addresses::{InsideEnd, check_destination, endpoint, is_spoofed, next_hop, own_address, subnet_of};
use crate::consent::tuple;
use crate::context::At;
use crate::event::{Authority, DropReason};
use crate::flow::FlowKey;
use crate::ids::{BackendId, ControlIndex, FrontendId, Mac, NodeId, ShardId, Term, VnetId};
use crate::judge::hairpin::receiver;
use crate::judge::opening::public_end;
use crate::judge::policy::{Entry, Plan, Role, chosen, enter, inbound_use, is_vain, plan};
use crate::judge::private;
use crate::nsg::{Access, Decision, Direction, Origin, Place};
use crate::private::{Ends, Pair, pair_of};
use crate::probes::{Health, SOURCE};
use crate::record::{Endpoint, InsideKey, Proto, PublicKey, Scenario};
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::tell::status::{FlowView, View};
use crate::wire::IcmpKind;

/// Members of a pool that are named as down at most.
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
    /// Members of the pool that it comes to who get no new flows, and what is known of each (S22).
    pub passed_over: Vec<(BackendId, Option<Health>)>,
    /// The mapping that it belongs to.
    pub mapping: Option<FlowView>,
    /// Who would take it outside.
    pub next_hop: Option<Ipv4Addr>,
    /// What becomes of it.
    pub outcome: Outcome,
    /// What becomes of it then at the public address of ours that it is for: the inside end that gets it (R7). `None`: it is for
    /// none, or goes to that one's shard elsewhere.
    pub turned: Option<Result<(Ipv4Addr, u16), DropReason>>,
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
            None => self.explain_in(at, question, &mut told),
        };
        told.outcome = outcome.unwrap_or_else(Outcome::Dropped);
        Some(told)
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
        told.groups = judged(s, id, Direction::Outbound, (q.proto, flow.inside.endpoint, flow.remote));
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
            Plan::Open(proposal) => match public_end(at, shard, &proposal, &flow)? {
                Some(public) => Ok(Outcome::Opens(proposal.scenario, public_ip(s, public.frontend)?, public.port)),
                None => Ok(Outcome::OpensIfFree(proposal.scenario)),
            },
            Plan::Stray => Err(DropReason::NotFirstPacket),
            Plan::Refuse(reason) => Err(reason),
        }?;
        // Allowed as an answer: the rule that decides is one for what comes.
        if told.groups.last().is_some_and(|last| last.access == Access::Deny) {
            told.groups = judged(s, id, Direction::Inbound, (q.proto, flow.remote, flow.inside.endpoint));
        }
        if let (Outcome::Passes(ip, port) | Outcome::Opens(_, ip, port), Some(to)) = (outcome, ours) {
            let sender = InsideEnd { vnet: q.vnet, ip: q.source.0, port: q.source.1 };
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
        let end = match shard.replica.table.find_public(&key) {
            Some(slot) => {
                let record = shard.replica.table.record(slot);
                told.backend = Some(record.backend);
                told.mapping = Some(self.view(at.now_ns, home, record));
                let end = inbound_use(s, record, s.backends.get(&record.backend).ok_or(DropReason::NoMapping)?);
                if end == Err(DropReason::SecurityRule) {
                    let ends = (record.proto, record.inside, record.remote);
                    told.groups = judged(s, record.backend, Direction::Outbound, ends);
                }
                end
            }
            None => {
                told.passed_over = passed_over(s, &key);
                let led = chosen(s, shard, &key).ok().map(|open| open.inside);
                if let Some(inside) = led.or_else(|| shard.endpoint_of(s, &key))
                    && let Some(end) = InsideEnd::of(inside)
                    && let Some(id) = s.backend_by_ip.get(&(end.vnet, end.ip))
                {
                    told.backend = Some(*id);
                    told.groups = judged(s, *id, Direction::Inbound, (q.proto, remote, inside.endpoint));
                }
                match enter(at, shard, authority, &key, (Role::First, None))? {
                    Entry::Stranger(to) => Ok(to),
                    Entry::Half { open, .. } | Entry::Park(open) | Entry::Open { open, .. } => {
                        InsideEnd::of(open.inside).ok_or(DropReason::NoMapping)
                    }
                }
            }
        }?;
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

/// Who is down of those that a rule leads to, the first few.
fn passed_over(s: &Snapshot, key: &PublicKey) -> Vec<(BackendId, Option<Health>)> {
    let Some((rule, id)) = s.rules.of(key).and_then(|rule| Some((rule, rule.probe?))) else { return Vec::new() };
    let Some(probe) = s.probes.get(id) else { return Vec::new() };
    let down = rule.members.iter().map(|id| (*id, probe.health(*id))).filter(|(_, health)| *health != Some(Health::Up));
    down.take(PASSED_OVER_MAX).collect()
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
