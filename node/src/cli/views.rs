//! One status out of several: each member of the lab knows its own shards best, so all that answer are asked at once.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::member::{call_member, default_api};
use crate::answers::{Status, merge};
use crate::daemon::request::Request;
use qnat_lab::{LabStatus, ProcessState};

/// What the running members of the lab in `dir` together say, as far as they answer within `timeout`; `None` if none does.
pub(super) fn merged_status(dir: &Path, lab: &LabStatus, timeout: Duration) -> Option<Status> {
    let running = lab.nodes.iter().filter(|node| node.state == ProcessState::Running);
    let said: Vec<(u32, Option<Status>)> = std::thread::scope(|scope| {
        let ask = |id: u32| move || call_member(dir, id, default_api(), &Request::Status, timeout).ok();
        let asked: Vec<_> = running.map(|node| (node.node.id, scope.spawn(ask(node.node.id)))).collect();
        let read = |value: Option<Value>| value.and_then(|value| serde_json::from_value(value).ok());
        asked.into_iter().map(|(id, asked)| (id, read(asked.join().ok().flatten()))).collect()
    });
    let silent: Vec<u32> = said.iter().filter(|(_, said)| said.is_none()).map(|(id, _)| *id).collect();
    let answers: Vec<Status> = said.into_iter().filter_map(|(_, said)| said).collect();
    merge(&answers, &silent)
}
