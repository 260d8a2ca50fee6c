//! Explains packets out of a dump: workers are made that have the dump's mappings and judge by its configuration, and are asked as
//! those of the cluster are. No part of what judges is written twice.
//!
//! The key by which ports are ordered and clients distributed is in no dump. So each question is put several times, by other keys
//! each, and what the answers do not agree on is not told. It must never ask a member. Called by the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use control::compile;
use control::state::State;
use control::view;
use engine::LeaseWords;
use engine::codec::{CHUNK_RECORDS_MAX, ChunkHeader, Encoder};
use engine::event::GroupEvent;
use engine::explain::{Explanation, Outcome, Question};
use engine::ids::{
    BackendId, ControlIndex, FrontendId, Incarnation, LeaseWord, Link, LogIndex, NodeId, ShardId, Term, VnetId,
};
use engine::record::{Addr, Endpoint, HoldClass, InsideKey, Open, Proto, PublicKey, ScanRecord, Scenario};
use engine::snapshot::{Params, Snapshot};
use engine::worker::Worker;
use serde_json::Value;

use crate::answers::{DUMP_FORMAT, Dump, DumpedShard, Explained, KeptFlow};
use crate::daemon::answer::flow;
use crate::daemon::explaining::{networks_of, only_network, row, with_names};
use crate::daemon::request::{Failure, PacketQuestion};

/// By how many keys a question is put. Of a pool of four a member that judges otherwise than the others is overlooked once in 10^8
/// cases; of a pool of a thousand nearly always, but then it is hardly ever the one that gets a client.
const KEYS: u64 = 64;
/// The life of each of the workers.
const LIFE: Incarnation = Incarnation(1);
/// The time at which they are asked: behind it is room for each mapping's idle time.
const NOW_NS: u64 = 1 << 62;
const MS: u64 = 1_000_000;

/// A dump that can be asked.
#[derive(Debug)]
pub struct Replay {
    dump: Dump,
    state: State,
    /// One for each worker that owned a shard, those of the member that gathered the dump first.
    workers: Vec<Played>,
}

#[derive(Debug)]
struct Played {
    node: u32,
    snapshot: Snapshot,
    worker: Worker,
}

/// Leases that do not end, of these shards.
#[derive(Clone, Debug, Default)]
struct Terms(BTreeMap<ShardId, Term>);

impl LeaseWords for Terms {
    fn word(&self, shard: ShardId) -> LeaseWord {
        match self.0.get(&shard) {
            Some(term) => {
                LeaseWord { incarnation: LIFE, term: *term, lease_until_ns: u64::MAX, grace_until_ns: u64::MAX }
            }
            None => LeaseWord::default(),
        }
    }
}

impl Replay {
    /// Reads a dump.
    ///
    /// # Errors
    /// If it is none, or of a version that wrote the control state otherwise.
    pub fn of(text: &str) -> Result<Self, Failure> {
        let unfit = |why: String| Failure::new(422, why);
        let dump: Dump = serde_json::from_str(text).map_err(|error| unfit(format!("it is no dump: {error}")))?;
        if dump.format != DUMP_FORMAT {
            return Err(unfit(format!("it is no dump: its format is {:?}, not {DUMP_FORMAT:?}", dump.format)));
        }
        let state = BASE64_STANDARD.decode(&dump.state).map_err(|error| unfit(format!("its state: {error}")))?;
        let state = State::decode(&state).map_err(|error| {
            unfit(format!("its state: {error}; it was written by version {}: ask that one", dump.version))
        })?;
        let mut owned: BTreeMap<(bool, u32, u16), Vec<&DumpedShard>> = BTreeMap::new();
        owned.entry((false, dump.node, 0)).or_default();
        for shard in &dump.shards {
            if let Some(owner) = shard.owner {
                owned.entry((owner != dump.node, owner, shard.worker)).or_default().push(shard);
            }
        }
        let workers =
            owned.into_iter().map(|((_, node, _), shards)| play(&state, node, &dump.shards, &shards)).collect();
        Ok(Self { state, workers, dump })
    }

    /// What it says of itself.
    #[must_use]
    pub const fn dump(&self) -> &Dump {
        &self.dump
    }

    /// What would have become of a packet at the moment of the dump.
    ///
    /// # Errors
    /// As a member's answer; and if the dump lacks what is needed for one.
    pub fn explain(&mut self, asked: &PacketQuestion) -> Result<Explained, Failure> {
        let vnet = self.network(asked)?;
        let end = |end: SocketAddrV4| (*end.ip(), end.port());
        let (source, destination) = (end(asked.source), end(asked.destination));
        let question = Question { vnet, proto: asked.protocol.proto(), source, destination };
        let mut answers = Vec::new();
        for key in 0..KEYS {
            answers.push(self.answer(asked, &question, key)?);
        }
        let told = agreed(&answers);
        self.lacks_nothing(&told)?;
        Ok(told)
    }

    fn network(&self, asked: &PacketQuestion) -> Result<VnetId, Failure> {
        let Some(first) = self.workers.first() else { return Err(Failure::new(422, "it has no shard".to_owned())) };
        let networks = &first.snapshot.networks;
        let names: Vec<String> = networks.0.keys().cloned().collect();
        let has = networks_of(&self.state, *asked.source.ip());
        let name = match &asked.vnet {
            Some(name) => Some(name),
            None if names.len() == 1 => names.first(),
            None => only_network(*asked.source.ip(), &has, &names)?,
        };
        let known = || Failure::new(404, format!("there is no such virtual network; there are: {}", names.join(", ")));
        networks.carried(name.map(String::as_str)).ok_or_else(known)
    }

    /// By one key.
    fn answer(&mut self, asked: &PacketQuestion, question: &Question, key: u64) -> Result<Explained, Failure> {
        let key = words::SplitMix::mix(key);
        let mut told: Vec<(u32, Explanation)> = Vec::new();
        for played in &mut self.workers {
            let params = Params { key: [key, !key], ..played.snapshot.params };
            played.worker.load_snapshot(NOW_NS, Arc::new(Snapshot { params, ..played.snapshot.clone() }));
            told.extend(played.worker.view().explain(NOW_NS, question).map(|told| (played.node, told)));
        }
        let served = told.iter().position(|(_, told)| told.outcome != Outcome::NotHere).unwrap_or(0);
        let none = || Failure::new(422, "it has no configuration".to_owned());
        let (node, told) = told.into_iter().nth(served).ok_or_else(none)?;
        let networks = &self.workers[0].snapshot.networks;
        let row = with_names(&self.state, &told, row(asked, &told));
        // Holds begin anew here: when one ends only its owner knows.
        let back_in_ms = None;
        Ok(Explained { node, mapping: told.mapping.map(|view| flow(&view, networks)), back_in_ms, ..row })
    }

    /// Refuses an answer that mappings might change which the dump does not have.
    fn lacks_nothing(&self, told: &Explained) -> Result<(), Failure> {
        let shard = self.dump.shards.iter().find(|shard| Some(shard.shard) == told.shard);
        if shard.is_some_and(|shard| shard.is_partial) && told.mapping.is_none() {
            let problem = "the dump has not all mappings of its shard, and one of those may be this flow's".to_owned();
            return Err(Failure::all(422, vec![problem, "dump fewer: qnat dump --backend NAME --to FILE".to_owned()]));
        }
        let only: BTreeSet<u32> = self.dump.only.iter().copied().collect();
        let mut named = view::backends(&self.state).into_iter().filter(|row| only.contains(&row.backend));
        if !only.is_empty() && !named.any(|row| told.backend.as_ref() == Some(&row.name)) {
            let whose = told.backend.clone().unwrap_or_else(|| "nobody".to_owned());
            let problem =
                format!("the dump has mappings of the backends that were named for it, and this is {whose}'s");
            return Err(Failure::new(422, problem));
        }
        Ok(())
    }
}

/// What all answers agree on; the names of the other fields stand in `not_in_dump`.
fn agreed(answers: &[Explained]) -> Explained {
    let values: Vec<Value> = answers.iter().filter_map(|told| serde_json::to_value(told).ok()).collect();
    let Some(first) = values.first().and_then(Value::as_object) else { return Explained::default() };
    let mut same = first.clone();
    let odd: Vec<String> = first
        .iter()
        .filter(|(name, told)| values.iter().any(|v| v[name.as_str()] != **told))
        .map(|(n, _)| n.clone())
        .collect();
    for name in &odd {
        same.remove(name);
    }
    let mut told: Explained = serde_json::from_value(Value::Object(same)).unwrap_or_default();
    // The address may be certain where the port is not.
    let addresses: BTreeSet<Option<&str>> =
        answers.iter().map(|told| told.translated.as_deref().and_then(|end| Some(end.rsplit_once(':')?.0))).collect();
    if let (true, Some(Some(address)), 1) = (told.translated.is_none(), addresses.first(), addresses.len()) {
        told.translated = Some((*address).to_owned());
    }
    if odd.iter().any(|name| name == "verdict") {
        told.verdict = "not_told".to_owned();
    }
    told.not_in_dump = odd;
    told
}

/// A worker with the mappings of these shards, which it serves, and with what is known of the owners of all.
fn play(state: &State, node: u32, all: &[DumpedShard], own: &[&DumpedShard]) -> Played {
    let snapshot = compile::snapshot(state, NodeId(node));
    let mut worker = Worker::new(LIFE, NodeId(node), 1);
    let vnets: Vec<VnetId> = snapshot.networks.0.values().copied().collect();
    worker.set_networks(&vnets);
    worker.load_snapshot(0, Arc::new(snapshot.clone()));
    for link in vnets.iter().map(|vnet| Link::Inside(*vnet)).chain([Link::Outside]) {
        worker.set_link(0, link, true);
    }
    let terms = Terms(own.iter().filter_map(|of| Some((ShardId(of.shard), Term(of.term?)))).collect());
    for shard in own {
        load(&mut worker, &terms, shard);
    }
    for of in all {
        if let (Some(owner), Some(term)) = (of.owner, of.term) {
            let event = GroupEvent::Owner { shard: ShardId(of.shard), term: Term(term), node: Some(NodeId(owner)) };
            worker.handle_event(NOW_NS, &terms, event);
        }
    }
    for (shard, term) in &terms.0 {
        worker.handle_event(NOW_NS, &terms, GroupEvent::Leading { shard: *shard, term: *term });
        // The first entry of its own term, without which it serves nothing.
        let index = LogIndex(applied(own.iter().find(|of| of.shard == shard.0)) + 1);
        let event = GroupEvent::Committed { shard: *shard, index, term: *term, entry: Bytes::new() };
        worker.handle_event(NOW_NS, &terms, event);
    }
    worker.handle_timers(NOW_NS, &terms);
    Played { node, snapshot, worker }
}

/// No mapping may claim to be newer than the table that it is in.
fn applied(shard: Option<&&DumpedShard>) -> u64 {
    shard.map_or(1, |of| of.mappings.iter().map(|flow| flow.written_at).max().unwrap_or(1).max(of.applied).max(1))
}

/// As a joiner gets a table; the longest idle mappings first, each at the time of its last packet.
fn load(worker: &mut Worker, terms: &Terms, of: &DumpedShard) {
    let (shard, epoch, base) = (ShardId(of.shard), of.epoch, LogIndex(applied(Some(&of))));
    worker.handle_event(0, terms, GroupEvent::Opened { shard, epoch, index: LogIndex(1), loads: true });
    let mut mappings: Vec<&KeptFlow> = of.mappings.iter().collect();
    mappings.sort_by_key(|flow| std::cmp::Reverse(flow.idle_ms));
    let mut encoder = Encoder::new();
    let same_time = mappings.chunk_by(|a, b| a.idle_ms == b.idle_ms);
    let mut chunks: Vec<&[&KeptFlow]> = same_time.flat_map(|some| some.chunks(CHUNK_RECORDS_MAX)).collect();
    if chunks.is_empty() {
        // Of an empty table there is one too: it says where the table stands.
        chunks.push(&[]);
    }
    for (sequence, some) in (0..).zip(chunks) {
        let header = ChunkHeader {
            sequence,
            base,
            control_index: ControlIndex(0),
            holds_ended: Default::default(),
            orphan_grace_ms: 0,
            grace_peak_ms: 0,
            hold_ms: Default::default(),
            records: 0,
        };
        let records: Vec<ScanRecord> = some.iter().filter_map(|flow| record(flow)).collect();
        let chunk = encoder.chunk(header, &records);
        let at = NOW_NS.saturating_sub(some.first().map_or(0, |flow| flow.idle_ms.saturating_mul(MS)));
        worker.handle_event(at, terms, GroupEvent::Load { shard, epoch, chunk });
    }
    worker.handle_event(NOW_NS, terms, GroupEvent::Loaded { shard, base, until: base });
}

/// `None`: of a protocol, a right or a hold that this version does not know.
fn record(flow: &KeptFlow) -> Option<ScanRecord> {
    let proto = Proto::of_number(flow.proto)?;
    let scenario = Scenario::ALL.into_iter().find(|scenario| *scenario as u8 == flow.scenario)?;
    let held = match flow.held {
        Some(held) => Some(HoldClass::ALL.into_iter().find(|class| *class as u8 == held)?),
        None => None,
    };
    let end = |end: SocketAddrV4| Endpoint { addr: Addr::from(*end.ip()), port: end.port() };
    let inside = InsideKey { vnet: VnetId(flow.vnet), endpoint: end(flow.inside) };
    let (frontend, port) = (FrontendId(flow.public.0), flow.public.1);
    let public = PublicKey { proto, frontend, port, remote: end(flow.remote) };
    let open = Open { public, inside, backend: BackendId(flow.backend), scenario };
    Some(ScanRecord { open, held, written_at: LogIndex(flow.written_at) })
}
