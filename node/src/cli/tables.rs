//! Answers as tables for people. Reads the JSON leniently: what is missing shows as `-`, for a member may be older or
//! newer than this command line.

use control::concern::{Concern, is_wrong};
use serde_json::{Value, json};

use super::grid::{Column, NOTHING, anything, cell, listing, rows_of, table, unwrapped};
use super::group_tables;
use crate::daemon::request::{DryRun, Request, ResourceKind};
use crate::nat_log::time_text;

/// The answer to `request`.
pub(super) fn render(request: &Request, answer: &Value) -> String {
    match request {
        Request::Status => status(answer),
        Request::Flows { limit, .. } => flows(answer, *limit),
        Request::Events { .. } => events(answer),
        Request::Ports => listing(&answer["backends"], PORTS, "no backend has a lease"),
        Request::Get { kind } => resources(*kind, answer),
        Request::Apply { dry_run, .. } => applied(answer, *dry_run),
        Request::Together { of } if **of == Request::Counters => counters_of_all(answer),
        Request::Together { of } => render(of, answer),
        Request::PortLoads { .. }
        | Request::Loaded
        | Request::Health
        | Request::Counters
        | Request::Hashes
        | Request::State => anything(answer),
        Request::Who { .. } => held_by(answer),
        Request::RemoveNode { node, incarnation } => {
            done(answer, &format!("node n{node}, incarnation {incarnation}, counts as gone"))
        }
        Request::DrainNode { node, .. } => done(
            answer,
            &format!("node n{node} leaves: `qnat status` says when nothing is left on it, and what to do then"),
        ),
        Request::ResumeNode { node } => done(answer, &format!("node n{node} stays")),
        Request::SetLevel { level } => done(answer, &format!("the cluster is at level {level}")),
        Request::SetServiceTags { .. } => done(answer, "service tags have these prefixes: `qnat get service-tags`"),
        Request::RevokeStopToken => done(answer, "the stop token is free"),
        Request::Shutdown { .. } => done(answer, "the member hands over as soon as it has the stop token, and ends"),
    }
}

const NODES: &[Column] =
    &[("node", "/name"), ("id", "/node"), ("incarnation", "/incarnation"), ("state", "/alive"), ("control", "/role")];
const SHARDS: &[Column] = &[
    ("shard", "/shard"),
    ("frontends", "/frontends"),
    ("epoch", "/epoch"),
    ("owner", "/owner"),
    ("term", "/raft_term"),
    ("members", "/members"),
    ("redundancy", "/redundancy"),
    ("serving", "/serving"),
    ("live", "/live"),
    ("held", "/held"),
    ("pending", "/pending"),
    ("lease ms", "/lease_ms"),
];
const FLOWS: &[Column] = &[
    ("proto", "/proto"),
    ("network", "/network"),
    ("inside", "/inside"),
    ("public", "/public"),
    ("remote", "/remote"),
    ("state", "/state"),
    ("idle", "/idle"),
    ("shard", "/shard"),
    ("owner", "/owner"),
];
const PORTS: &[Column] = &[
    ("backend", "/backend"),
    ("network", "/network"),
    ("ip", "/ip"),
    ("shard", "/shard"),
    ("frontend", "/frontend"),
    ("lease", "/lease"),
    ("allocated", "/allocated"),
    ("used", "/used"),
    ("held", "/held"),
    ("why", "/why"),
];
const HOLDERS: &[Column] = &[
    ("backend", "/backend"),
    ("address", "/inside"),
    ("network", "/network"),
    ("ports", "/ports"),
    ("since", "/since"),
    ("draining since", "/draining_since"),
    ("until", "/until"),
];
const SESSIONS: &[Column] = &[
    ("proto", "/proto"),
    ("network", "/network"),
    ("inside", "/inside"),
    ("remote", "/remote"),
    ("opened", "/opened"),
    ("closed", "/closed"),
];
const EVENTS: &[Column] =
    &[("time", "/time"), ("noted by", "/by"), ("event", "/event"), ("about", "/about"), ("what", "/text")];
const CHANGES: &[Column] = &[("change", "/kind"), ("resource", "/resource"), ("detail", "/detail")];
const CONCERNS: &[Column] =
    &[("", "/severity"), ("about", "/about"), ("concern", "/why"), ("since", "/since"), ("what helps", "/remedy")];

const fn resource_columns(kind: ResourceKind) -> &'static [Column] {
    match kind {
        ResourceKind::Nodes => &[
            ("node", "/node"),
            ("standing", "/standing"),
            ("incarnation", "/incarnation"),
            ("peers", "/peer_addr"),
            ("api", "/api_addr"),
            ("inside", "/inside"),
            ("outside mac", "/outside_mac"),
            ("level", "/level"),
            ("prefers", "/preferred_shards"),
            ("replicates", "/replicated_shards"),
        ],
        ResourceKind::Shards => &[
            ("shard", "/shard"),
            ("mac", "/virtual_mac"),
            ("frontends", "/frontends"),
            ("epoch", "/epoch"),
            ("members", "/members"),
            ("leaving", "/leaving"),
            ("origin", "/origin"),
            ("why", "/why"),
            ("what helps", "/remedy"),
        ],
        ResourceKind::Backends => &[
            ("backend", "/backend"),
            ("name", "/name"),
            ("address", "/private_ip"),
            ("pool", "/pool"),
            ("frontend", "/frontend"),
            ("home", "/home_shard"),
            ("granted", "/ports_granted"),
            ("leased", "/ports_leased"),
            ("lease", "/lease"),
            ("draining", "/draining"),
            ("why", "/why"),
            ("what helps", "/remedy"),
        ],
        ResourceKind::Frontends => &[
            ("frontend", "/frontend"),
            ("address", "/address"),
            ("name", "/name"),
            ("shard", "/shard"),
            ("backends", "/backends"),
            ("leased", "/ports_leased"),
            ("draining", "/ports_draining"),
            ("usable", "/ports_usable"),
            ("retiring", "/retiring"),
        ],
        ResourceKind::Pools => &[
            ("pool", "/pool"),
            ("instances", "/instances"),
            ("backends", "/backends"),
            ("ports each", "/ports_per_backend"),
            ("outbound rule", "/outbound_rule"),
            ("frontends", "/frontends"),
        ],
        ResourceKind::SecurityGroups => group_tables::RULES,
        ResourceKind::Nics => group_tables::NICS,
        ResourceKind::ApplicationSecurityGroups => group_tables::APPLICATION_GROUPS,
        ResourceKind::ServiceTags => group_tables::TAGS,
    }
}

/// Who had a port, and which of its mappings are known.
fn held_by(answer: &Value) -> String {
    let holder = &answer["holder"];
    let mut text = match (holder.is_null(), &answer["reaches_back"]) {
        (false, _) => table(std::slice::from_ref(holder), HOLDERS),
        (true, _) if answer["public"] == false => {
            format!(
                "{} is no public address of this cluster (see `qnat get frontends`), and no log names it\n",
                cell(&answer["ip"])
            )
        }
        (true, Value::Null) => "nobody; the logs are empty\n".to_owned(),
        (true, reaches_back) => format!("nobody, as far as the logs reach back: {}\n", cell(reaches_back)),
    };
    if !rows_of(&answer["sessions"]).is_empty() {
        text += &table(rows_of(&answer["sessions"]), SESSIONS);
    }
    let silent: Vec<String> = rows_of(&answer["silent"]).iter().map(|node| format!("n{}", cell(node))).collect();
    if !silent.is_empty() {
        text += &format!("{} did not answer: mappings that are in their logs alone are missing\n", silent.join(", "));
    }
    text
}

/// The newest events, the newest first.
fn events(answer: &Value) -> String {
    let row = |event: &Value| {
        let mut row = event.clone();
        row["time"] = event["unix_ms"].as_u64().map(time_text).into();
        row["by"] = name_of(answer, &event["node"]).into();
        row
    };
    let rows: Vec<Value> = rows_of(&answer["events"]).iter().map(row).collect();
    if rows.is_empty() { "no events yet\n".to_owned() } else { table(&rows, EVENTS) }
}

/// Counters of each member, one below the other.
fn counters_of_all(answer: &Value) -> String {
    let member = |member: &Value| format!("n{}\n{}\n", cell(&member["node"]), anything(&member["counted"]));
    let mut text: String = rows_of(&answer["members"]).iter().map(member).collect();
    for node in rows_of(&answer["silent"]) {
        text += &format!("n{} did not answer\n", cell(node));
    }
    if text.is_empty() { "nothing\n".to_owned() } else { text }
}

fn resources(kind: ResourceKind, answer: &Value) -> String {
    if kind == ResourceKind::SecurityGroups {
        return group_tables::security_groups(unwrapped(answer));
    }
    listing(unwrapped(answer), resource_columns(kind), "none")
}

/// A truth value in words of its own; other values as they are.
fn said(value: &Value, yes: &str, no: &str) -> String {
    value.as_bool().map_or_else(|| cell(value), |is| if is { yes } else { no }.to_owned())
}

/// Whether a shard of a status has an owner that forwards.
pub(super) fn is_served(shard: &Value) -> bool {
    !shard["owner"].is_null() && (shard["serving"] == "yes" || shard["serving"] == true)
}

fn status(answer: &Value) -> String {
    let (cluster, me) = (&answer["cluster"], &answer["me"]);
    let mut text = format!(
        "cluster {}{}, level {}, control index {}, led by {} in term {}\n",
        cluster["name"].as_str().map_or_else(String::new, |name| format!("{name} ")),
        cell(&cluster["id"]),
        cell(&cluster["level"]),
        cell(&cluster["control_index"]),
        name_of(answer, &cluster["control_leader"]),
        cell(&cluster["control_term"]),
    );
    text += &format!(
        "seen by {}, incarnation {}, egress guard {}, links {}\n",
        name_of(answer, &me["node"]),
        cell(&me["incarnation"]),
        cell(&me["guard"]),
        said(&me["links_up"], "up", "DOWN"),
    );
    if let Some(spare) = cluster["failures_tolerated"].as_u64() {
        let members = if spare == 1 { "member" } else { "members" };
        text += &match spare {
            0 => "can lose NO member\n".to_owned(),
            _ => format!("can lose {spare} {members}\n"),
        };
    }
    if !answer["stop_token"].is_null() {
        text += &format!("stop token: {}\n", stop_token(answer));
    }
    text += "\n";
    text += &table(&node_rows(answer), NODES);
    text += "\n";
    text += &shard_table(answer);
    text + &concerns(answer)
}

fn stop_token(answer: &Value) -> String {
    let token = &answer["stop_token"];
    let holder = if token["holder"].is_null() { token } else { &token["holder"] };
    let restarted =
        if token["restarted"] == true { ", which has started anew since: `qnat stop-token revoke`" } else { "" };
    format!("held by {}{restarted}", name_of(answer, holder))
}

fn node_rows(answer: &Value) -> Vec<Value> {
    let leader = &answer["cluster"]["control_leader"];
    let row = |node: &Value| {
        let mut row = node.clone();
        row["alive"] = said(&node["alive"], "alive", "NOT SEEN").into();
        let role = match (&node["control_voter"], &node["control_loaded"]) {
            _ if !leader.is_null() && node["node"] == *leader => "leader",
            (Value::Bool(true), Value::Bool(false)) => "voter, loading",
            (Value::Bool(true), _) => "voter",
            (Value::Bool(false), _) => "learner",
            _ => NOTHING,
        };
        row["role"] = role.into();
        row
    };
    rows_of(&answer["nodes"]).iter().map(row).collect()
}

fn shard_table(answer: &Value) -> String {
    let row = |shard: &Value| {
        let mut row = shard.clone();
        row["owner"] = name_of(answer, &shard["owner"]).into();
        let members: Vec<String> = rows_of(&shard["members"]).iter().map(|member| name_of(answer, member)).collect();
        row["members"] = members.join(" ").into();
        row
    };
    let rows: Vec<Value> = rows_of(&answer["shards"]).iter().map(row).collect();
    if rows.is_empty() {
        "no shards: apply a configuration with public addresses\n".to_owned()
    } else {
        table(&rows, SHARDS)
    }
}

/// What is wrong, the gravest first.
fn concerns(answer: &Value) -> String {
    let concerns: Vec<Concern> =
        rows_of(&answer["concerns"]).iter().filter_map(|row| serde_json::from_value(row.clone()).ok()).collect();
    if concerns.len() < rows_of(&answer["concerns"]).len() {
        return format!("\nconcerns of another version:\n{}\n", cell(&answer["concerns"]));
    }
    let row = |concern: &Concern| {
        json!({"severity": concern.severity, "about": concern.subject.to_string(), "why": concern.why,
               "since": concern.since_unix_ms.map(time_text), "remedy": concern.remedy})
    };
    let rows: Vec<Value> = concerns.iter().map(row).collect();
    let said = if is_wrong(&concerns) { "" } else { "nothing is wrong\n" };
    if rows.is_empty() { format!("\n{said}") } else { format!("\n{said}{}", table(&rows, CONCERNS)) }
}

/// Shards and concerns only, for the live picture.
pub(super) fn owners(answer: &Value) -> String {
    format!("\n{}{}", shard_table(answer), concerns(answer))
}

/// `n2`, or what the cluster calls the node.
fn name_of(answer: &Value, node: &Value) -> String {
    let Some(id) = node.as_u64() else { return cell(node) };
    let known = rows_of(&answer["nodes"]).iter().find(|row| row["node"] == *node);
    known.and_then(|row| row["name"].as_str()).map_or_else(|| format!("n{id}"), str::to_owned)
}

fn flows(answer: &Value, limit: usize) -> String {
    let rows = rows_of(&answer["flows"]);
    let row = |flow: &Value| {
        let mut row = flow.clone();
        row["idle"] = flow["idle_ms"].as_u64().map_or(Value::Null, |ms| duration(ms).into());
        row
    };
    let shown: Vec<Value> = rows.iter().map(row).collect();
    if shown.is_empty() {
        return "no flows\n".to_owned();
    }
    let mut text = table(&shown, FLOWS);
    if shown.len() >= limit {
        text += &format!("{limit} flows are shown, there may be more: --limit\n");
    }
    text
}

fn duration(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..120_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min", ms / 60_000),
    }
}

fn applied(answer: &Value, dry_run: DryRun) -> String {
    let changes = rows_of(&answer["changes"]);
    let mut text = if changes.is_empty() { String::new() } else { table(changes, CHANGES) };
    if let Some(why) = answer["refused"]["why"].as_str() {
        return text + &format!("it would be refused: {why}; {}\n", cell(&answer["refused"]["remedy"]));
    }
    if let Some(flows) = answer["flows_taken"].as_u64() {
        text += &format!("{flows} live flows are on the ports that go back\n");
    }
    let uncounted: Vec<String> = rows_of(&answer["uncounted_shards"]).iter().map(cell).collect();
    if !uncounted.is_empty() {
        let shards = uncounted.join(", ");
        text += &format!("the flows of shard {shards} were not counted: the upper halves of its blocks go\n");
    }
    text += &match (dry_run, answer["committed"].as_u64()) {
        (DryRun::Yes, _) if changes.is_empty() => "nothing would change\n".to_owned(),
        (DryRun::Yes, _) => "dry run: nothing was changed\n".to_owned(),
        (DryRun::No, Some(index)) => format!("committed at index {index}\n"),
        (DryRun::No, None) => "nothing to change\n".to_owned(),
    };
    let programmed = &answer["programmed"];
    if let (DryRun::No, Some(on), Some(of)) = (dry_run, programmed["on"].as_u64(), programmed["of"].as_u64()) {
        let missing: Vec<String> = rows_of(&programmed["missing"]).iter().map(|node| name_of(answer, node)).collect();
        let missing = if missing.is_empty() { String::new() } else { format!(", not yet on {}", missing.join(", ")) };
        text += &format!("programmed on {on} of {of} nodes{missing}\n");
    }
    text
}

fn done(answer: &Value, what: &str) -> String {
    match answer["committed"].as_u64() {
        Some(index) => format!("{what}; committed at index {index}\n"),
        None => format!("{what}\n"),
    }
}

/// `qnat lab status`.
pub(super) fn lab_status(status: &Value) -> String {
    let config = &status["config"];
    let mut text = format!(
        "{} members, {} backends, {} public addresses, in {}\n\n",
        cell(&config["nodes"]),
        cell(&config["backends"]),
        cell(&config["frontends"]),
        cell(&config["dir"]),
    );
    text += &lab_processes(status);
    let missing = rows_of(&status["namespaces_missing"]);
    if !missing.is_empty() {
        text += &format!("namespaces gone: {}; take the lab down\n", cell(&status["namespaces_missing"]));
    }
    text
}

/// The lab's processes and faults.
pub(super) fn lab_processes(status: &Value) -> String {
    const COLUMNS: &[Column] = &[
        ("host", "/node/name"),
        ("peers", "/node/peer_address"),
        ("process", "/state"),
        ("pid", "/process/pid"),
        ("log", "/node/log_path"),
    ];
    let mut text = table(rows_of(&status["nodes"]), COLUMNS);
    if status["inet"] != "running" {
        text += &format!("the internet's server is {}\n", cell(&status["inet"]));
    }
    for cut in rows_of(&status["cuts"]) {
        let from = cut["from"].as_u64().map_or("everyone".to_owned(), |id| format!("n{id}"));
        text += &format!(
            "fault: n{} loses {}% of its frames with {from} ({}, networks: {})\n",
            cell(&cut["node"]),
            cell(&cut["loss_percent"]),
            cell(&cut["direction"]),
            cell(&cut["scope"]),
        );
    }
    text
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
