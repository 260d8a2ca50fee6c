//! What `qnat get` shows, by kind of resource.

use control::default_outbound::rows::DefaultOutboundView;
use control::view::{BackendView, FrontendView, NodeView, PoolView, ShardView};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::grid::{Column, listing, read};
use super::{group_tables, probe_tables};
use crate::answers::ConfigFile;
use crate::daemon::request::ResourceKind;

const NODE_VIEWS: &[Column<NodeView>] = &[
    ("node", |row| json!(row.node)),
    ("standing", |row| json!(row.standing)),
    ("incarnation", |row| json!(row.incarnation)),
    ("peers", |row| json!(row.peer_addr)),
    ("api", |row| json!(row.api_addr)),
    ("inside", |row| json!(row.inside)),
    ("outside mac", |row| json!(row.outside_mac)),
    ("level", |row| json!(row.level)),
    ("prefers", |row| json!(row.preferred_shards)),
    ("replicates", |row| json!(row.replicated_shards)),
];
const SHARD_VIEWS: &[Column<ShardView>] = &[
    ("shard", |row| json!(row.shard)),
    ("mac", |row| json!(row.virtual_mac)),
    ("frontends", |row| json!(row.frontends)),
    ("epoch", |row| json!(row.epoch)),
    ("members", |row| json!(row.members)),
    ("leaving", |row| json!(row.leaving)),
    ("origin", |row| json!(row.origin)),
    ("why", |row| json!(row.why)),
    ("what helps", |row| json!(row.remedy)),
];
const BACKEND_VIEWS: &[Column<BackendView>] = &[
    ("backend", |row| json!(row.backend)),
    ("name", |row| json!(row.name)),
    ("address", |row| json!(row.private_ip)),
    ("pool", |row| json!(row.pool)),
    ("admin state", |row| json!(row.admin_state)),
    ("frontend", |row| json!(row.frontend)),
    ("own", |row| json!(row.public_ip)),
    ("way out", |row| json!(row.way_out)),
    ("home", |row| json!(row.home_shard)),
    ("granted", |row| json!(row.ports_granted)),
    ("leased", |row| json!(row.ports_leased)),
    ("lease", |row| json!(row.lease)),
    ("draining", |row| json!(row.draining)),
    ("why", |row| json!(row.why)),
    ("what helps", |row| json!(row.remedy)),
];
const FRONTEND_VIEWS: &[Column<FrontendView>] = &[
    ("frontend", |row| json!(row.frontend)),
    ("address", |row| json!(row.address)),
    ("name", |row| json!(row.name)),
    ("for", |row| json!(row.purpose)),
    ("shard", |row| json!(row.shard)),
    ("backends", |row| json!(row.backends)),
    ("leased", |row| json!(row.ports_leased)),
    ("draining", |row| json!(row.ports_draining)),
    ("usable", |row| json!(row.ports_usable)),
    ("retiring", |row| json!(row.retiring)),
];
const POOL_VIEWS: &[Column<PoolView>] = &[
    ("pool", |row| json!(row.pool)),
    ("instances", |row| json!(row.instances)),
    ("backends", |row| json!(row.backends)),
    ("ports each", |row| json!(row.ports_per_backend)),
    ("outbound rule", |row| json!(row.outbound_rule)),
    ("frontends", |row| json!(row.frontends)),
];
const DEFAULT_OUTBOUND: &[Column<DefaultOutboundView>] = &[
    ("availability set", |row| json!(row.availability_set)),
    ("address", |row| json!(row.address)),
    ("ports each", |row| json!(row.ports_per_backend)),
    ("backends", |row| json!(row.backends)),
    ("note", |row| json!(row.note)),
];

pub(super) fn resources(kind: ResourceKind, answer: &Value) -> String {
    fn all<T: DeserializeOwned>(answer: &Value, columns: &[Column<T>]) -> String {
        if answer.is_null() {
            listing::<T>(&[], columns, "none")
        } else {
            read(answer, |rows: &Vec<T>| listing(rows, columns, "none"))
        }
    }
    match kind {
        ResourceKind::Nodes => all(answer, NODE_VIEWS),
        ResourceKind::Shards => all(answer, SHARD_VIEWS),
        ResourceKind::Backends => all(answer, BACKEND_VIEWS),
        ResourceKind::Frontends => all(answer, FRONTEND_VIEWS),
        ResourceKind::Pools => all(answer, POOL_VIEWS),
        ResourceKind::Probes => all(answer, probe_tables::PROBES),
        ResourceKind::DefaultOutbound => all(answer, DEFAULT_OUTBOUND),
        ResourceKind::SecurityGroups => read(answer, |groups: &Vec<_>| group_tables::security_groups(groups)),
        ResourceKind::Nics => all(answer, group_tables::NICS),
        ResourceKind::ApplicationSecurityGroups => all(answer, group_tables::APPLICATION_GROUPS),
        ResourceKind::ServiceTags => all(answer, group_tables::TAGS),
        ResourceKind::Config => read(answer, |told: &ConfigFile| told.file.clone()),
    }
}
