//! One status out of several: each member of the lab knows its own shards best, so all that answer are asked at once.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::target::{call_member, default_api};
use crate::daemon::request::Request;
use crate::lab::{LabStatus, ProcessState};

/// What the running members of the lab in `dir` together say, as far as they answer within `timeout`; `None` if none does.
pub(super) fn merged_status(dir: &Path, lab: &LabStatus, timeout: Duration) -> Option<Value> {
    let running = lab.nodes.iter().filter(|node| node.state == ProcessState::Running);
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let ask = |id: u32| move || call_member(dir, id, default_api(), &Request::Status, timeout).ok();
        let asked: Vec<_> = running.map(|node| scope.spawn(ask(node.node.id))).collect();
        asked.into_iter().filter_map(|asked| asked.join().ok().flatten()).collect()
    });
    merge(&answers)
}

/// The view of the member furthest in the control log, in which each shard is described by whoever has the newest term of
/// it; among those by its owner, who alone knows whether it forwards.
fn merge(answers: &[Value]) -> Option<Value> {
    let newest = answers.iter().max_by_key(|answer| answer["cluster"]["control_index"].as_u64())?;
    let mut merged = newest.clone();
    let rows = answers.iter().flat_map(|answer| {
        let rows = answer["shards"].as_array().into_iter().flatten();
        rows.map(move |row| (row, !row["owner"].is_null() && row["owner"] == answer["me"]["node"]))
    });
    for shard in merged["shards"].as_array_mut().into_iter().flatten() {
        let same = rows.clone().filter(|(row, _)| row["shard"] == shard["shard"]);
        let best = same.max_by_key(|(row, own)| (row["epoch"].as_u64(), row["term"].as_u64(), *own));
        if let Some((row, _)) = best {
            *shard = row.clone();
        }
    }
    Some(merged)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_shard_is_described_by_its_newest_owner_else_by_the_newest_term() {
        let view = |me: u32, index: u64, owner: u32, term: u64, live: u64| {
            json!({"me": {"node": me}, "cluster": {"control_index": index},
                   "shards": [{"shard": 1, "epoch": 1, "owner": owner, "term": term, "live": live}]})
        };
        // n1 is cut off and still believes in itself; n2 took over; n3 is furthest in the control log.
        let answers = [view(1, 10, 1, 3, 100), view(2, 11, 2, 4, 200), view(3, 12, 2, 4, 199)];
        let merged = merge(&answers).expect("answers");
        assert_eq!(merged["cluster"]["control_index"], 12);
        assert_eq!(merged["shards"][0]["owner"], 2);
        assert_eq!(merged["shards"][0]["live"], 200);
        // The new owner does not answer: the old one's claim is older than what n3 knows.
        let merged = merge(&[view(1, 10, 1, 3, 100), view(3, 12, 2, 4, 199)]).expect("answers");
        assert_eq!(merged["shards"][0]["owner"], 2);
        assert_eq!(merge(&[]), None);
    }
}
