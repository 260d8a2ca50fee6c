//! Health probes as a table for people.

use control::probing::rows::{HealthView, ProbeView};
use serde_json::json;

use super::grid::Column;
use crate::nat_log::time_text;

/// `qnat get probes`.
pub(super) const PROBES: &[Column<ProbeView>] = &[
    ("probe", |row| json!(row.probe)),
    ("asks", |row| json!(format!("{} {}{}", row.protocol, row.port, row.request_path))),
    ("every", |row| json!(format!("{} s, down after {}", row.interval_seconds, row.number_of_probes))),
    ("pool", |row| json!(row.pool)),
    ("backend", |row| json!(row.backend)),
    ("ip", |row| json!(row.private_ip)),
    ("health", |row| match (row.health, &row.backend) {
        (_, None) => "asks nobody".into(),
        (HealthView::Up, _) => "up".into(),
        (HealthView::Down, _) => "DOWN".into(),
        (HealthView::Unknown, _) => "not known yet".into(),
    }),
    ("since", |row| json!(row.since_unix_ms.map(time_text))),
    ("why", |row| json!(row.why)),
];
