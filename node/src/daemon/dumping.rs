//! Gathers what is needed to explain packets elsewhere, or later, as they would be judged now: the control state without its
//! secrets, and each shard's mappings as its owner has them. Bounded in mappings; what is left out is said. It must never let a
//! key out. Called by the answerer.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use control::codec::CodecError;
use control::state::State;
use control::view;
use engine::cuts::Which;
use engine::ids::{BackendId, ShardId};
use engine::record::Endpoint;
use engine::status::{FlowState, FlowView};

use super::answer::Answerer;
use super::clock::now;
use super::questions::{LiveOf, Query};
use super::request::{Failure, Request};
use crate::answers::{DUMP_FORMAT, Dump, DumpedShard, KeptFlow, Mappings, ShardRow};

/// Mappings of one page: its frame stays below the longest.
const PAGE: usize = 6_000;
/// Backends that one question names.
const NAMED_MAX: usize = 4_096;
/// Mappings of a dump.
const MAPPINGS_MAX: usize = 200_000;
/// What no dump has.
const NEVER: [&str; 3] = [
    "keys and certificates, also the one by which ports are ordered and clients distributed over members",
    "first packets on their way through the log, handshakes that are not complete, datagrams that nobody has answered",
    "what members know of neighbours, and which of their interfaces are up",
];

impl Answerer {
    /// Of the whole cluster.
    pub(super) async fn dump(&self, named: &[String]) -> Result<Dump, Failure> {
        let wanted: Vec<String> = named.to_vec();
        let only = self.of_state(move |state| backends_of(state, &wanted)).await??;
        let rows = self.status().await?.shards;
        let (mut shards, mut left_out, mut room) = (Vec::new(), NEVER.map(ToOwned::to_owned).to_vec(), MAPPINGS_MAX);
        for row in &rows {
            let shard = self.dump_of(row, &only, room).await;
            room -= shard.mappings.len();
            match (shard.owner, shard.is_partial) {
                (None, _) => left_out.push(format!("shard {}: no owner of it answered", row.shard)),
                (Some(_), true) => left_out.push(format!(
                    "shard {}: all but {} of its mappings; fewer are asked for by qnat dump --backend NAME",
                    row.shard,
                    shard.mappings.len()
                )),
                (Some(_), false) => {}
            }
            shards.push(shard);
        }
        if !only.is_empty() {
            left_out.push(format!("mappings that others than {} began", named.join(", ")));
        }
        // Last: it has all that the mappings were judged by.
        let failed = |error: CodecError| Failure::new(500, error.to_string());
        let (control_index, state) = self.of_state(|state| (state.index().0, state.without_secrets().encode())).await?;
        Ok(Dump {
            format: DUMP_FORMAT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: self.cluster.clone(),
            node: self.node,
            unix_ms: now().unix_ms,
            control_index,
            only: only.into_iter().collect(),
            left_out,
            shards,
            state: BASE64_STANDARD.encode(state.map_err(failed)?),
        })
    }

    /// A shard as its owner has it, with so many mappings at most, of these backends or of all.
    async fn dump_of(&self, row: &ShardRow, whose: &BTreeSet<u32>, room: usize) -> DumpedShard {
        let mut told = DumpedShard { shard: row.shard, ..DumpedShard::default() };
        let Some(owner) = row.owner else { return told };
        let mut from = Some(0);
        while let Some(at) = from {
            let Some(page) = self.page_at(owner, row.shard, whose, at).await.filter(|page| page.term.is_some()) else {
                told.owner = None;
                return told;
            };
            told = DumpedShard {
                epoch: page.epoch,
                owner: Some(owner),
                term: page.term,
                worker: page.worker,
                applied: page.applied,
                loaded: page.loaded,
                unix_ms: page.unix_ms,
                ..told
            };
            let fits = room - told.mappings.len();
            told.is_partial = page.mappings.len() > fits || (page.mappings.len() == fits && page.next.is_some());
            told.mappings.extend(page.mappings.into_iter().take(fits));
            from = page.next.filter(|_| !told.is_partial);
        }
        told
    }

    async fn page_at(&self, owner: u32, shard: u16, whose: &BTreeSet<u32>, from: u32) -> Option<Mappings> {
        if owner == self.node {
            let whose = whose.iter().copied().map(BackendId).collect();
            return self.mappings(ShardId(shard), whose, from).await.ok();
        }
        let request = Request::Mappings { shard, backends: whose.iter().copied().collect(), from };
        self.peers.ask::<Mappings>(owner, &request).await
    }

    /// A page of a shard's mappings as this member has them, held ones too.
    pub(super) async fn mappings(
        &self,
        shard: ShardId,
        backends: BTreeSet<BackendId>,
        from: u32,
    ) -> Result<Mappings, Failure> {
        if backends.len() > NAMED_MAX {
            let problem = format!("{} backends are named; name at most {NAMED_MAX}, or none for all", backends.len());
            return Err(Failure::new(413, problem));
        }
        let worker = self.worker_of(shard);
        let of = LiveOf { shard, backends, which: Which::Committed, from, limit: PAGE };
        let (views, next) = self.ask(worker, |reply| Query::LiveOf { of, reply }).await?;
        // Behind the mappings: none is newer than what it says.
        let shards = self.ask(worker, |reply| Query::Shards { reply }).await?;
        let Some(status) = shards.into_iter().find(|status| status.shard == shard) else {
            return Err(Failure::new(404, format!("no replica of shard {shard} is here")));
        };
        Ok(Mappings {
            mappings: views.iter().filter_map(kept).collect(),
            next,
            epoch: status.epoch,
            term: status.leading.filter(|_| status.serving == Some(Ok(()))).map(|term| term.0),
            worker,
            applied: status.applied.0,
            loaded: self.loaded().await?.control_loaded,
            unix_ms: now().unix_ms,
        })
    }
}

/// Numbers of the backends that are named, by an instance or by one of its IP configurations.
fn backends_of(state: &State, named: &[String]) -> Result<BTreeSet<u32>, Failure> {
    let all = view::backends(state);
    let mut found = BTreeSet::new();
    for name in named {
        let is = |has: &str| has == name || has.split_once('/').is_some_and(|(instance, _)| instance == name);
        let of: Vec<u32> = all.iter().filter(|row| is(&row.name)).map(|row| row.backend).collect();
        if of.is_empty() {
            let problem = format!("--backend {name}: no instance and no instance/ip_configuration is called so");
            return Err(Failure::all(404, vec![problem, "see all there are: qnat get backends".to_owned()]));
        }
        found.extend(of);
    }
    if found.len() > NAMED_MAX {
        return Err(Failure::new(413, format!("{} backends are named; name at most {NAMED_MAX}", found.len())));
    }
    Ok(found)
}

/// `None`: it is on its way through the log, or not of IPv4.
fn kept(view: &FlowView) -> Option<KeptFlow> {
    let end = |end: Endpoint| Some(SocketAddrV4::new(end.addr.ipv4()?, end.port));
    let held = match view.state {
        FlowState::Opening => return None,
        FlowState::Live | FlowState::Closing => None,
        FlowState::Held(class) => Some(class as u8),
    };
    let (frontend, _, port) = view.public;
    Some(KeptFlow {
        proto: view.proto as u8,
        backend: view.backend.0,
        vnet: view.inside.vnet.0,
        inside: end(view.inside.endpoint)?,
        public: (frontend.0, port),
        remote: end(view.remote)?,
        scenario: view.scenario as u8,
        held,
        written_at: view.written_at.0,
        idle_ms: view.idle_ms,
    })
}
