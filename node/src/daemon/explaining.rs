//! Explains packets: the worker that would judge it says what becomes of it; of a shard that others own, its owner.

use std::net::{Ipv4Addr, SocketAddrV4};

use control::state::State;
use control::view;
use engine::event::DropReason;
use engine::explain::{Explanation, Judged, Outcome, PassedBy, Question};
use engine::ids::{BackendId, VnetId};
use engine::nsg::{Access, Direction, Origin, Place};
use engine::probes::Health;

use super::answer::{Answerer, flow};
use super::questions::Query;
use super::request::{Failure, PacketQuestion, Request};
use crate::answers::{EvaluatedGroup, Explained, GroupResult, MatchedRule, PassedOver, against_exhaustion};

impl Answerer {
    /// By this member's workers.
    pub(super) async fn explain(&self, asked: &PacketQuestion) -> Result<Explained, Failure> {
        let (networks, named) = self.network(asked.vnet.as_deref())?;
        let vnet = match named.or_else(|| networks.carried(None)) {
            Some(vnet) => vnet,
            None => self.network_of(*asked.source.ip(), &networks.0.keys().cloned().collect::<Vec<_>>()).await?,
        };
        let end = |end: SocketAddrV4| (*end.ip(), end.port());
        let (source, destination) = (end(asked.source), end(asked.destination));
        let question = Question { vnet, proto: asked.protocol.proto(), source, destination };
        let told = self.ask_all(|reply| Query::Explain { question, reply }).await?;
        let served = told.iter().position(|told| told.outcome != Outcome::NotHere).unwrap_or(0);
        let Some(told) = told.into_iter().nth(served) else {
            return Err(Failure::new(503, "this member has no configuration yet".to_owned()));
        };
        let mapping = told.mapping.map(|view| flow(&view, &networks));
        let row = row(asked, &told);
        let row = self.of_state(move |state| with_names(state, &told, row)).await?;
        Ok(Explained { node: self.node, mapping, ..row })
    }

    /// By whoever owns its shard.
    pub(super) async fn explain_together(&self, asked: PacketQuestion) -> Result<Explained, Failure> {
        let own = self.explain(&asked).await?;
        let Some(owner) = own.owner.filter(|owner| own.verdict == NOT_SERVED && *owner != self.node) else {
            return Ok(own);
        };
        let request = Request::Explain { of: asked };
        Ok(self.peers.ask::<Explained>(owner, &request).await.unwrap_or(own))
    }

    /// The only network in which the address is a backend's; that of a packet from outside does not matter.
    async fn network_of(&self, ip: Ipv4Addr, names: &[String]) -> Result<VnetId, Failure> {
        let has = self.of_state(move |state| networks_of(state, ip)).await?;
        let name = only_network(ip, &has, names)?;
        let nobody = || Failure::new(503, "no virtual network is declared".to_owned());
        self.network(name.map(String::as_str))?.1.ok_or_else(nobody)
    }
}

/// The networks in which an address is a backend's.
pub(crate) fn networks_of(state: &State, ip: Ipv4Addr) -> Vec<String> {
    let of = view::backends(state).into_iter().filter(|backend| backend.private_ip == ip);
    of.map(|backend| backend.virtual_network).collect()
}

/// Which network is meant where none is named: that in which the address is a backend's, or any if it is nobody's.
pub(crate) fn only_network<'a>(
    ip: Ipv4Addr,
    has: &'a [String],
    names: &'a [String],
) -> Result<Option<&'a String>, Failure> {
    match has {
        [] => Ok(names.first()),
        [only] => Ok(Some(only)),
        _ => Err(Failure::new(409, format!("{ip} is a backend in {}: say which by --vnet", has.join(" and in ")))),
    }
}

/// The verdict of whoever does not serve the shard.
pub(crate) const NOT_SERVED: &str = "not_served";

/// With the names of backends and, where the one that it is about has no way out, why, and what helps.
pub(crate) fn with_names(state: &State, told: &Explanation, row: Explained) -> Explained {
    if told.backend.is_none() && told.passed_over.is_empty() {
        return row;
    }
    let backends = view::backends(state);
    let find = |id: BackendId| backends.iter().find(|backend| backend.backend == id.0);
    let passed_over = told.passed_over.iter().map(|engine::explain::PassedOver { backend, by }| {
        let backend = find(*backend).map(|backend| backend.name.clone()).unwrap_or_default();
        match by {
            PassedBy::Operator => PassedOver { backend, why: "an operator drains it".to_owned(), probe: None },
            PassedBy::Probe { name, health } => {
                let why = match health {
                    Some(Health::Down(failing)) => failing.text(),
                    Some(Health::Up) | None => "it has not passed its probe yet".to_owned(),
                };
                PassedOver { backend, why, probe: Some(name.to_string()) }
            }
        }
    });
    let row = Explained { passed_over: passed_over.collect(), ..row };
    let Some(backend) = told.backend.and_then(find) else { return row };
    if told.outcome == Outcome::Dropped(DropReason::PortsExhausted) {
        let of = backend.frontend.map_or_else(String::new, |ip| format!(" of {ip}"));
        let why = format!("none of its {} ports{of} is free towards {}", backend.ports_leased, row.destination);
        let back_in_ms = told.back_in_ns.map(|ns| ns.div_ceil(1_000_000));
        let (backend, remedies) = (Some(backend.name.clone()), against_exhaustion());
        return Explained { backend, why: Some(why), back_in_ms, remedies, ..row };
    }
    let has_no_way = told.outcome == Outcome::Dropped(DropReason::NoOutboundPath)
        || told.outcome == Outcome::Dropped(DropReason::DefaultOutboundOff);
    let said = |text: &String| Some(text.clone()).filter(|text| has_no_way && !text.is_empty());
    Explained { backend: Some(backend.name.clone()), why: said(&backend.why), remedy: said(&backend.remedy), ..row }
}

/// All but names and the mapping.
pub(crate) fn row(asked: &PacketQuestion, told: &Explanation) -> Explained {
    let end = |(ip, port): (Ipv4Addr, u16)| format!("{ip}:{port}");
    let (verdict, reason, scenario, translated) = match told.outcome {
        Outcome::Passes(ip, port) => ("passes", None, None, Some(end((ip, port)))),
        Outcome::Opens(scenario, ip, port) => ("opens", None, Some(scenario), Some(end((ip, port)))),
        Outcome::OpensIfFree(scenario) => ("opens_if_free", None, Some(scenario), None),
        Outcome::Waits => ("waits", None, None, None),
        Outcome::Dropped(reason) => ("dropped", Some(reason), None, None),
        Outcome::NotHere => (NOT_SERVED, None, None, None),
    };
    Explained {
        control_index: told.control_index.0,
        direction: format!("{}", Word(told.direction)),
        protocol: asked.protocol.proto().label().to_owned(),
        source: asked.source.to_string(),
        destination: asked.destination.to_string(),
        shard: told.shard.map(|shard| shard.0),
        owner: told.owner.and_then(|(_, node)| node).map(|node| node.0),
        term: told.owner.map(|(term, _)| term.0),
        groups: groups(&told.groups),
        next_hop: told.next_hop,
        verdict: verdict.to_owned(),
        reason: reason.map(|reason| reason.label().to_owned()),
        scenario: scenario.map(|scenario| scenario.label().to_owned()),
        translated,
        floats_to: told.floats_to,
        turned_to: told.turned.and_then(Result::ok).map(end),
        turned_away: told.turned.and_then(Result::err).map(|reason| reason.label().to_owned()),
        ..Explained::default()
    }
}

struct Word(Direction);

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Direction::Inbound => "Inbound",
            Direction::Outbound => "Outbound",
        })
    }
}

fn groups(all: &[Judged]) -> GroupResult {
    let access = |access: Access| match access {
        Access::Allow => "Allow".to_owned(),
        Access::Deny => "Deny".to_owned(),
    };
    let one = |judged: &Judged| {
        let (name, priority) = match &judged.rule {
            Some((name, priority, Origin::User)) => (format!("UserRule_{name}"), *priority),
            Some((name, priority, Origin::Default)) => (format!("DefaultRule_{name}"), *priority),
            None => (String::new(), 0),
        };
        let applied_to = match judged.place {
            Place::Subnet => "subnet",
            Place::Card => "networkInterface",
        };
        EvaluatedGroup {
            network_security_group_id: judged.group.clone(),
            applied_to: applied_to.to_owned(),
            matched_rule: MatchedRule { rule_name: name, priority, action: access(judged.access) },
        }
    };
    GroupResult {
        security_rule_access_result: access(all.last().map_or(Access::Allow, |last| last.access)),
        evaluated_network_security_groups: all.iter().map(one).collect(),
    }
}
