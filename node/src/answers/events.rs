//! What has happened lately, as members noted it.

use control::concern::{Concern, Severity, Subject, What};
use serde::{Deserialize, Serialize};

use crate::nat_log::time_text;

/// Events, the newest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Events {
    /// One each.
    pub events: Vec<EventRow>,
    /// Members that did not answer.
    pub silent: Vec<u32>,
}

/// Something that has happened.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct EventRow {
    /// When it was noted, in milliseconds of the Unix epoch; members look once a second.
    pub unix_ms: u64,
    /// Who noted it.
    pub node: u32,
    /// Which kind.
    pub event: EventKind,
    /// About what.
    pub about: String,
    /// In words.
    pub text: String,
    /// The same in the form of a cloud's load-balancer alerts, where they have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<Alert>,
}

/// An alert about ports that run out, or have run out, in the form in which a cloud's load balancer writes it (S16).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Alert {
    /// `LoadBalancerAlertEvent`.
    pub category: String,
    /// The backend: instance/ip_configuration.
    pub resource_id: String,
    /// As a health event: `SnatPortExhaustion` or `HighSnatPortUsage`.
    pub health_event_type: String,
    /// `Critical` or `Warning`.
    pub severity: String,
    /// What has happened.
    pub properties: AlertProperties,
}

/// What an alert says has happened.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AlertProperties {
    /// When, as in 2026-01-31T12:00:00.000Z.
    pub event_time_stamp_utc: String,
    /// `Resource Limits Hit`; `Resource Limits Left` when it is over.
    pub event_name: String,
    /// `Ports exhausted`, or `Ports nearly exhausted`.
    pub event_description: String,
    /// Under which address and towards whom, as far as there are any.
    pub event_properties: AlertPlace,
}

/// Where ports ran out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AlertPlace {
    /// The public address.
    #[serde(rename = "public ip address", skip_serializing_if = "Option::is_none")]
    pub public_ip_address: Option<String>,
    /// Address, port and protocol of each remote.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<String>,
}

impl Alert {
    /// Of a concern that begins or ends; none if a load balancer has no alert for its kind.
    #[must_use]
    pub fn of(concern: &Concern, event: EventKind, unix_ms: u64) -> Option<Self> {
        let kinds = [
            (What::PortsExhausted, "SnatPortExhaustion", "Ports exhausted"),
            (What::PortUseHigh, "HighSnatPortUsage", "Ports nearly exhausted"),
        ];
        let (_, kind, description) = kinds.into_iter().find(|(what, ..)| *what == concern.what)?;
        let Subject::Backend { name } = &concern.subject else { return None };
        let over = event == EventKind::ConcernEnded;
        let place = concern.exhausted.as_ref().map_or_else(AlertPlace::default, |exhausted| AlertPlace {
            public_ip_address: exhausted.frontend.map(|ip| ip.to_string()),
            destinations: exhausted.destinations.iter().map(|to| format!("{}/{}", to.address, to.protocol)).collect(),
        });
        Some(Self {
            category: "LoadBalancerAlertEvent".to_owned(),
            resource_id: name.clone(),
            health_event_type: kind.to_owned(),
            severity: if concern.severity == Severity::Critical { "Critical" } else { "Warning" }.to_owned(),
            properties: AlertProperties {
                event_time_stamp_utc: time_text(unix_ms),
                event_name: if over { "Resource Limits Left" } else { "Resource Limits Hit" }.to_owned(),
                event_description: description.to_owned(),
                event_properties: place,
            },
        })
    }
}

/// Kinds of events.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// This life of the member began.
    Started,
    /// A shard has another owner, or none.
    Owner,
    /// The worker judges by another version of the control state.
    Loaded,
    /// A change ended flows that it forbids (D19).
    FlowsCut,
    /// Something is not as it should be.
    ConcernBegan,
    /// It is again.
    ConcernEnded,
}

/// The newest `limit` of all.
#[must_use]
pub fn merge_events(told: impl IntoIterator<Item = EventRow>, limit: usize) -> Vec<EventRow> {
    let mut events: Vec<EventRow> = told.into_iter().collect();
    events.sort_by(|a, b| b.cmp(a));
    events.truncate(limit);
    events
}
