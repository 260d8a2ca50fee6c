//! Answers as tables for people. Each is read as what a member answers ([`crate::answers`]), where what is missing has its
//! default; what cannot be read so, from a member of another version, is shown as it is.

use control::concern::{Concern, is_wrong};
use control::plan::Change;
use serde_json::{Value, json};

use super::grid::{Column, anything, cell, listing, read, table, unwrapped};
use super::resource_tables::resources;
use super::{explained, group_tables};
use crate::answers::FastPath;
use crate::answers::{
    Applied, BackendPorts, CountedTogether, Done, EventRow, Events, FlowRow, Flows, FlowsCut, Holder, NodeRow, Ports,
    Session, ShardRow, Status, Who,
};
use crate::daemon::request::{DryRun, Request};
use crate::nat_log::time_text;
use qnat_lab::{LabStatus, NodeStatus, ProcessState};

/// The answer to `request`.
pub(super) fn render(request: &Request, answer: &Value) -> String {
    match request {
        Request::Status => read(answer, status),
        Request::Flows { limit, .. } => read(answer, |told: &Flows| flows(&told.flows, *limit)),
        Request::Events { .. } => read(answer, events),
        Request::Cache { .. } => read(answer, fast_path),
        Request::Ports => read(answer, |told: &Ports| listing(&told.backends, PORTS, "no backend has a lease")),
        Request::Get { kind } => resources(*kind, unwrapped(answer)),
        Request::Apply { dry_run, .. } => read(answer, |told| applied(told, *dry_run)),
        Request::Together { of } if **of == Request::Counters => read(answer, counters_of_all),
        Request::Together { of } => render(of, answer),
        Request::PortLoads { .. }
        | Request::LiveOf { .. }
        | Request::Mappings { .. }
        | Request::Dump { .. }
        | Request::Cuts { .. }
        | Request::Hits { .. }
        | Request::Loaded
        | Request::Health
        | Request::Counters
        | Request::Hashes
        | Request::State => anything(answer),
        Request::Who { .. } => read(answer, held_by),
        Request::RemoveNode { node, incarnation } => {
            done(answer, &format!("node n{node}, incarnation {incarnation}, counts as gone"))
        }
        Request::DrainNode { node, .. } => done(
            answer,
            &format!("node n{node} leaves: `qnat status` says when nothing is left on it, and what to do then"),
        ),
        Request::ResumeNode { node } => done(answer, &format!("node n{node} stays")),
        Request::SetLevel { level } => done(answer, &format!("the cluster is at level {level}")),
        Request::Explain { .. } => read(answer, explained::explained),
        Request::IpFlow { .. } => read(answer, group_tables::ip_flow),
        Request::EffectiveRules { .. } => read(answer, group_tables::effective_rules),
        Request::SetServiceTags { .. } => done(answer, "service tags have these prefixes: `qnat get service-tags`"),
        Request::RevokeStopToken => done(answer, "the stop token is free"),
        Request::Shutdown { .. } => done(answer, "the member hands over as soon as it has the stop token, and ends"),
    }
}

/// Each data interface with the path that packets take from there.
fn paths(fast: &FastPath) -> String {
    let paths: Vec<String> = fast.interfaces.iter().map(|(name, path)| format!("{name} by {path}")).collect();
    if paths.is_empty() { "not known".to_owned() } else { paths.join(", ") }
}

fn fast_path(fast: &FastPath) -> String {
    let mut text = format!(
        "fast path {}: {}\ncarries {} mappings of at most {}; {} handed over so far, {} taken back ({} cold), {} not taken\n\
         frames: {} sent by the kernel ({} in grace), {} dropped, left to workers: ",
        fast.mode,
        paths(fast),
        fast.entries,
        fast.room,
        fast.installed,
        fast.ended,
        fast.cold,
        fast.not_taken,
        fast.sent,
        fast.sent_in_grace,
        fast.dropped,
    );
    let left: Vec<String> = fast.left.iter().map(|(why, count)| format!("{count} {why}")).collect();
    text += &if left.is_empty() { "none".to_owned() } else { left.join(", ") };
    text
}

/// `n2`.
fn node(id: u32) -> String {
    format!("n{id}")
}

const FLOWS: &[Column<FlowRow>] = &[
    ("proto", |row| json!(row.proto)),
    ("network", |row| json!(row.network)),
    ("inside", |row| json!(row.inside)),
    ("public", |row| json!(row.public)),
    ("remote", |row| json!(row.remote)),
    ("right", |row| json!(if row.floating { format!("{}, floating", row.scenario) } else { row.scenario.clone() })),
    ("state", |row| json!(row.state)),
    ("idle", |row| duration(row.idle_ms).into()),
    ("by", |row| json!(if row.carried { "kernel" } else { "worker" })),
    ("shard", |row| json!(row.shard)),
];
const CUT: &[Column<FlowRow>] = &[
    ("proto", |row| json!(row.proto)),
    ("network", |row| json!(row.network)),
    ("inside", |row| json!(row.inside)),
    ("public", |row| json!(row.public)),
    ("remote", |row| json!(row.remote)),
];
const PORTS: &[Column<BackendPorts>] = &[
    ("backend", |row| json!(row.backend)),
    ("network", |row| json!(row.network)),
    ("ip", |row| json!(row.ip)),
    ("shard", |row| json!(row.shard)),
    ("frontend", |row| json!(row.frontend)),
    ("way out", |row| json!(row.way_out)),
    ("lease", |row| json!(row.lease)),
    ("allocated", |row| json!(row.allocated)),
    ("used", |row| json!(row.used)),
    ("held", |row| json!(row.held)),
    ("why", |row| json!(row.why)),
];
const HOLDERS: &[Column<Holder>] = &[
    ("backend", |row| json!(row.backend)),
    ("address", |row| json!(row.inside)),
    ("network", |row| json!(row.network)),
    ("ports", |row| json!(row.ports)),
    ("since", |row| json!(row.since)),
    ("draining since", |row| json!(row.draining_since)),
    ("until", |row| json!(row.until)),
];
const SESSIONS: &[Column<Session>] = &[
    ("proto", |row| json!(row.proto)),
    ("network", |row| json!(row.network)),
    ("inside", |row| json!(row.inside)),
    ("remote", |row| json!(row.remote)),
    ("opened", |row| json!(row.opened)),
    ("closed", |row| json!(row.closed)),
];
const EVENTS: &[Column<EventRow>] = &[
    ("time", |row| time_text(row.unix_ms).into()),
    ("noted by", |row| node(row.node).into()),
    ("event", |row| json!(row.event)),
    ("about", |row| json!(row.about)),
    ("what", |row| json!(row.text)),
];
const CHANGES: &[Column<Change>] =
    &[("change", |row| json!(row.kind)), ("resource", |row| json!(row.resource)), ("detail", |row| json!(row.detail))];
const CONCERNS: &[Column<Concern>] = &[
    ("", |row| json!(row.severity)),
    ("about", |row| row.subject.to_string().into()),
    ("concern", |row| json!(row.why)),
    ("since", |row| json!(row.since_unix_ms.map(time_text))),
    ("what helps", |row| json!(row.remedy)),
];
/// Who had a port, and which of its mappings are known.
fn held_by(who: &Who) -> String {
    let mut text = match (&who.holder, &who.reaches_back) {
        (Some(holder), _) => table(std::slice::from_ref(holder), HOLDERS),
        (None, _) if !who.public => {
            let ip = who.ip;
            format!("{ip} is no public address of this cluster (see `qnat get frontends`), and no log names it\n")
        }
        (None, None) => "nobody; the logs are empty\n".to_owned(),
        (None, Some(reaches_back)) => {
            format!("nobody, as far as the logs reach back: {}\n", cell(&json!(reaches_back)))
        }
    };
    if !who.sessions.is_empty() {
        text += &table(&who.sessions, SESSIONS);
    }
    if !who.silent.is_empty() {
        let silent = names(&who.silent);
        text += &format!("{silent} did not answer: mappings that are in their logs alone are missing\n");
    }
    text
}

fn names(nodes: &[u32]) -> String {
    nodes.iter().map(|id| node(*id)).collect::<Vec<_>>().join(", ")
}

/// The newest events, the newest first.
fn events(told: &Events) -> String {
    listing(&told.events, EVENTS, "no events yet")
}

/// Counters of each member, one below the other.
fn counters_of_all(told: &CountedTogether) -> String {
    let counted = |member: &crate::answers::MemberCounts| {
        let counters = serde_json::to_value(&member.counted).unwrap_or_default();
        format!("{}\n{}\n", node(member.node), anything(&counters))
    };
    let mut text: String = told.members.iter().map(counted).collect();
    for silent in &told.silent {
        text += &format!("{} did not answer\n", node(*silent));
    }
    if text.is_empty() { "nothing\n".to_owned() } else { text }
}

fn status(told: &Status) -> String {
    let (cluster, me) = (&told.cluster, &told.me);
    let or_nothing = |number: Option<u64>| cell(&json!(number));
    let mut text = format!(
        "cluster {}{}, level {}, control index {}, led by {} in term {}\n",
        if cluster.name.is_empty() { String::new() } else { format!("{} ", cell(&json!(cluster.name))) },
        cell(&json!(cluster.id)),
        cluster.level,
        cluster.control_index,
        name_of(told, cluster.control_leader),
        cluster.control_term,
    );
    text += &format!(
        "seen by {}, incarnation {}, egress guard {}, links {}\n",
        name_of(told, Some(me.node)),
        or_nothing(me.incarnation),
        cell(&json!(me.guard)),
        if me.links_up { "up" } else { "DOWN" },
    );
    text += &format!("packets of mappings in use: {}\n", paths(&me.fast));
    text += &match cluster.failures_tolerated {
        None => String::new(),
        Some(0) => "can lose NO member\n".to_owned(),
        Some(1) => "can lose 1 member\n".to_owned(),
        Some(spare) => format!("can lose {spare} members\n"),
    };
    if let Some(token) = told.stop_token {
        let restarted = if token.restarted { ", which has started anew since: `qnat stop-token revoke`" } else { "" };
        text += &format!("stop token: held by {}{restarted}\n", name_of(told, Some(token.holder)));
    }
    text + "\n" + &node_table(told) + "\n" + &shard_table(told) + &concerns(&told.concerns)
}

fn node_table(told: &Status) -> String {
    let leader = told.cluster.control_leader;
    let columns: &[Column<(NodeRow, bool)>] = &[
        ("node", |(row, _)| json!(row.name)),
        ("id", |(row, _)| json!(row.node)),
        ("incarnation", |(row, _)| json!(row.incarnation)),
        ("state", |(row, _)| if row.alive { "alive" } else { "NOT SEEN" }.into()),
        ("control", |(row, leads)| match (leads, row.control_voter) {
            (true, _) => "leader".into(),
            (false, true) => "voter".into(),
            (false, false) => "learner".into(),
        }),
    ];
    let rows: Vec<(NodeRow, bool)> = told.nodes.iter().map(|row| (row.clone(), leader == Some(row.node))).collect();
    table(&rows, columns)
}

/// A row of the shards' table: the shard, and what the members of the status are called.
type NamedShard = (ShardRow, String, String);

fn shard_table(told: &Status) -> String {
    let columns: &[Column<NamedShard>] = &[
        ("shard", |(row, ..)| json!(row.shard)),
        ("frontends", |(row, ..)| json!(row.frontends)),
        ("epoch", |(row, ..)| json!(row.epoch)),
        ("owner", |(_, owner, _)| json!(owner)),
        ("term", |(row, ..)| json!(row.raft_term)),
        ("members", |(.., members)| json!(members)),
        ("redundancy", |(row, ..)| json!(row.redundancy)),
        ("serving", |(row, ..)| json!(row.serving)),
        ("live", |(row, ..)| json!(row.live)),
        ("held", |(row, ..)| json!(row.held)),
        ("cut", |(row, ..)| json!(row.cut)),
        ("pending", |(row, ..)| json!(row.pending)),
        ("lease ms", |(row, ..)| json!(row.lease_ms)),
    ];
    let named = |row: &ShardRow| {
        let members: Vec<String> = row.members.iter().map(|member| name_of(told, *member)).collect();
        (row.clone(), name_of(told, row.owner), members.join(" "))
    };
    let rows: Vec<NamedShard> = told.shards.iter().map(named).collect();
    listing(&rows, columns, "no shards: apply a configuration with public addresses")
}

/// What is wrong, the gravest first.
fn concerns(concerns: &[Concern]) -> String {
    let said = if is_wrong(concerns) { "" } else { "nothing is wrong\n" };
    if concerns.is_empty() { format!("\n{said}") } else { format!("\n{said}{}", table(concerns, CONCERNS)) }
}

/// Shards and concerns only, for the live picture.
pub(super) fn owners(told: &Status) -> String {
    format!("\n{}{}", shard_table(told), concerns(&told.concerns))
}

/// `n2`, or what the cluster calls the node.
fn name_of(told: &Status, id: Option<u32>) -> String {
    let Some(id) = id else { return cell(&Value::Null) };
    let known = told.nodes.iter().find(|row| row.node == id).filter(|row| !row.name.is_empty());
    known.map_or_else(|| node(id), |row| cell(&json!(row.name)))
}

fn flows(rows: &[FlowRow], limit: usize) -> String {
    let text = listing(rows, FLOWS, "no flows");
    if rows.len() >= limit { text + &format!("{limit} flows are shown, there may be more: --limit\n") } else { text }
}

fn duration(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..120_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min", ms / 60_000),
    }
}

fn applied(told: &Applied, dry_run: DryRun) -> String {
    let changes = &told.changes;
    let mut text = if changes.is_empty() { String::new() } else { table(changes, CHANGES) };
    if let Some(refused) = &told.refused {
        return text + &format!("it would be refused: {}; {}\n", refused.why, refused.remedy);
    }
    text += &told.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect::<String>();
    if let Some(flows) = told.flows_taken {
        text += &format!("{flows} live flows are on the ports that go back\n");
    }
    text += &told.flows_cut.as_ref().map(|cut| flows_cut(cut, dry_run)).unwrap_or_default();
    if !told.uncounted_shards.is_empty() {
        let shards: Vec<String> = told.uncounted_shards.iter().map(ToString::to_string).collect();
        let shards = shards.join(", ");
        text += &format!("the flows of shard {shards} were not counted: the upper halves of its blocks go\n");
    }
    if dry_run == DryRun::Yes && !told.asks.is_empty() {
        text += &format!("applied, it wants --yes: {}\n", told.asks.join("; "));
    }
    text += &match (dry_run, told.committed) {
        (DryRun::Yes, _) if changes.is_empty() => "nothing would change\n".to_owned(),
        (DryRun::Yes, _) => "dry run: nothing was changed\n".to_owned(),
        (DryRun::No, Some(index)) => format!("committed at index {index}\n"),
        (DryRun::No, None) => "nothing to change\n".to_owned(),
    };
    if let (DryRun::No, Some(programmed)) = (dry_run, &told.programmed) {
        let missing = match &programmed.missing[..] {
            [] => String::new(),
            missing => format!(", not yet on {}", names(missing)),
        };
        text += &format!("programmed on {} of {} nodes{missing}\n", programmed.on, programmed.of);
    }
    text
}

/// Flows that lose their right by a change, or have lost it.
fn flows_cut(cut: &FlowsCut, dry_run: DryRun) -> String {
    let mut text = match dry_run {
        DryRun::Yes => format!("{} live flows would end\n", cut.flows),
        DryRun::No => format!("{} live flows ended\n", cut.flows),
    };
    if !cut.listed.is_empty() {
        text += &table(&cut.listed, CUT);
    }
    if !cut.uncounted_shards.is_empty() {
        let shards: Vec<String> = cut.uncounted_shards.iter().map(ToString::to_string).collect();
        text += &format!("of shard {} not all were counted: there may be more\n", shards.join(", "));
    }
    text
}

fn done(answer: &Value, what: &str) -> String {
    read(answer, |told: &Done| {
        let cut = told.flows_cut.as_ref().map(|cut| flows_cut(cut, DryRun::No)).unwrap_or_default();
        match told.committed {
            Some(index) => format!("{cut}{what}; committed at index {index}\n"),
            None => format!("{what}\n"),
        }
    })
}

/// `qnat lab status`.
pub(super) fn lab_status(status: &LabStatus) -> String {
    let config = &status.config;
    let mut text = format!(
        "{} members, {} backends, {} public addresses, in {}\n\n",
        config.nodes,
        config.backends,
        config.frontends,
        config.dir.display(),
    );
    text += &lab_processes(status);
    if !status.namespaces_missing.is_empty() {
        text += &format!("namespaces gone: {}; take the lab down\n", status.namespaces_missing.join(", "));
    }
    text
}

/// The lab's processes and faults.
pub(super) fn lab_processes(status: &LabStatus) -> String {
    const COLUMNS: &[Column<NodeStatus>] = &[
        ("host", |row| json!(row.node.name)),
        ("peers", |row| json!(row.node.peer_address)),
        ("process", |row| json!(row.state)),
        ("pid", |row| json!(row.process.map(|process| process.pid))),
        ("log", |row| json!(row.node.log_path)),
    ];
    let mut text = table(&status.nodes, COLUMNS);
    if status.inet != ProcessState::Running {
        text += &format!("the internet's server is {}\n", cell(&json!(status.inet)));
    }
    for cut in &status.cuts {
        let from = cut.from.map_or_else(|| "everyone".to_owned(), node);
        text += &format!(
            "fault: n{} loses {}% of its frames with {from} ({}, networks: {})\n",
            cut.node,
            cut.loss_percent,
            cell(&json!(cut.direction)),
            cell(&json!(cut.scope)),
        );
    }
    text
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
