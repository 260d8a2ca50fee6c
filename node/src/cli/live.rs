//! The live picture of `qnat lab up`: who owns what, twice a second, until Ctrl-C.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::tables;
use super::target::{call_member, default_api};
use crate::daemon::request::Request;
use crate::lab::{self, LabStatus, ProcessState};

/// A frozen or starved member must not hold up the picture.
const LOOK_TIMEOUT: Duration = Duration::from_millis(400);

/// Shows the lab in `dir` until the lab is told to end, then takes it down. On a terminal the picture replaces itself under
/// `header`; elsewhere it is written when it has changed.
pub(super) fn watch(dir: &Path, header: &str) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let mut last = String::new();
    lab::watch(dir, |status| {
        let picture = picture(dir, status)?;
        if picture == last {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        // Without a reader the lab goes on all the same: it is ended by a signal.
        let _unread = if terminal {
            write!(out, "\x1b[H\x1b[2J{header}\n{picture}\nCtrl-C takes the lab down.\n")
        } else {
            writeln!(out, "{picture}")
        };
        let _unread = out.flush();
        last = picture;
        Ok(())
    })
}

fn picture(dir: &Path, status: &LabStatus) -> Result<String> {
    let answers = ask_all(dir, status);
    let mut text = tables::lab_processes(&serde_json::to_value(status)?);
    match merge(&answers) {
        Some(cluster) => text += &tables::owners(&cluster),
        None => text += "\nno member answers\n",
    }
    Ok(text)
}

/// The statuses of all running members that answer in time, asked at once.
fn ask_all(dir: &Path, status: &LabStatus) -> Vec<Value> {
    let running = status.nodes.iter().filter(|node| node.state == ProcessState::Running);
    std::thread::scope(|scope| {
        let ask = |id: u32| move || call_member(dir, id, default_api(), &Request::Status, LOOK_TIMEOUT).ok();
        let asked: Vec<_> = running.map(|node| scope.spawn(ask(node.node.id))).collect();
        asked.into_iter().filter_map(|asked| asked.join().ok().flatten()).collect()
    })
}

/// One picture out of several views: that of the member furthest in the control log, in which each shard is described by
/// its owner where the owner answers. Of two that claim a shard the higher term is the newer.
fn merge(answers: &[Value]) -> Option<Value> {
    let newest = answers.iter().max_by_key(|answer| answer["cluster"]["control_index"].as_u64())?;
    let mut merged = newest.clone();
    for shard in merged["shards"].as_array_mut().into_iter().flatten() {
        let rows = answers.iter().flat_map(|answer| {
            let rows = answer["shards"].as_array().into_iter().flatten();
            rows.map(move |row| (&answer["me"]["node"], row))
        });
        let owners =
            rows.filter(|(me, row)| row["shard"] == shard["shard"] && !row["owner"].is_null() && row["owner"] == **me);
        let key = |row: &Value| (row["epoch"].as_u64(), row["term"].as_u64());
        if let Some((_, row)) = owners.max_by_key(|(_, row)| key(row))
            && key(row) >= key(shard)
        {
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
    fn each_shard_is_described_by_its_newest_owner() {
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
