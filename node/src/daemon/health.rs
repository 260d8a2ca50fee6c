//! Whether this member's threads turn, and whether it serves or could: what `/healthz` and `/readyz` answer.

use std::time::Duration;

use super::answer::Answerer;
use super::messages::AskFlows;
use super::questions::Query;
use super::reports::{ControlReport, FlowReport};
use super::status::shard_rows;
use crate::answers::{Health, ShardRow};

/// A thread that takes longer to answer does not turn.
const TURN_MAX: Duration = Duration::from_secs(1);

impl Answerer {
    /// Asks each thread, and none for longer than [`TURN_MAX`].
    pub(super) async fn health(&self) -> Health {
        let control = tokio::time::timeout(TURN_MAX, self.control()).await;
        let flows = tokio::time::timeout(TURN_MAX, self.flows.send(AskFlows)).await;
        let worker = tokio::time::timeout(TURN_MAX, self.ask_all(|reply| Query::Shards { reply })).await;
        let mut stalled = Vec::new();
        let (control, flows) = (control.ok().and_then(Result::ok), flows.ok().and_then(Result::ok));
        if control.is_none() {
            stalled.push("the control thread does not turn: its disk may hang".to_owned());
        }
        if flows.is_none() {
            stalled.push("the flow thread does not turn".to_owned());
        }
        let begun = flows.as_ref().is_some_and(|flows| flows.running);
        if begun && !worker.is_ok_and(|answer| answer.is_ok()) {
            stalled.push("a worker does not turn: no packet of its shards passes".to_owned());
        }
        let (Some(control), Some(flows)) = (control, flows) else {
            return Health { node: self.node, problems: stalled, ..Health::default() };
        };
        let missing = missing(self.node, &control, &flows, &shard_rows(&control, &flows, &[]));
        Health {
            live: stalled.is_empty(),
            ready: stalled.is_empty() && missing.is_empty(),
            node: self.node,
            incarnation: control.incarnation.map(|life| life.0),
            problems: stalled.into_iter().chain(missing).collect(),
        }
    }
}

/// What a member lacks to do its part.
fn missing(node: u32, control: &ControlReport, flows: &FlowReport, shards: &[ShardRow]) -> Vec<String> {
    let mut missing = Vec::new();
    if control.incarnation.is_none() || !flows.running {
        return vec!["not registered with the cluster yet".to_owned()];
    }
    if !flows.report.has_all_links() {
        missing.push("a data link is down".to_owned());
    }
    if flows.report.control_loaded == 0 {
        missing.push("no configuration is loaded yet".to_owned());
    }
    if flows.report.stopping {
        missing.push("it is stopping".to_owned());
    }
    for row in shards.iter().filter(|row| row.members.contains(&Some(node)) && row.role.is_none()) {
        missing.push(format!("the flow group of shard {} does not run", row.shard));
    }
    missing
}

#[cfg(test)]
mod tests {
    use engine::ids::Incarnation;

    use super::super::concerns::tests::bed;
    use super::*;

    #[test]
    fn a_member_is_ready_when_it_could_serve() {
        let of = |change: fn(&mut ControlReport, &mut FlowReport, &mut ShardRow)| {
            let mut bed = bed(3);
            change(&mut bed.control, &mut bed.flows, &mut bed.shards[0]);
            missing(1, &bed.control, &bed.flows, &bed.shards)
        };
        assert_eq!(of(|_, _, _| {}), [""; 0]);
        assert_eq!(of(|control, _, _| control.incarnation = None), ["not registered with the cluster yet"]);
        assert_eq!(of(|_, flows, _| flows.report.links_up = false), ["a data link is down"]);
        assert_eq!(of(|_, flows, _| flows.report.control_loaded = 0), ["no configuration is loaded yet"]);
        assert_eq!(of(|_, flows, _| flows.report.stopping = true), ["it is stopping"]);
        assert_eq!(of(|_, _, row| row.role = None), ["the flow group of shard 1 does not run"]);
        let elsewhere = of(|control, _, row| {
            control.incarnation = Some(Incarnation(7));
            (row.role, row.members) = (None, vec![Some(2), Some(3)]);
        });
        assert_eq!(elsewhere, [""; 0], "a shard of others");
    }
}
