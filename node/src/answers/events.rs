//! What has happened lately, as members noted it.

use serde::{Deserialize, Serialize};

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
