//! Tables that fill: told of before flows are refused, as ports are (`ports.rs`).

use control::concern::{Concern, Severity, Subject, What};

use super::facts::Facts;

/// Of the flows that a shard may have, live, held or on their way, in percent: from here on it is told of.
const NEAR_PERCENT: u64 = 80;
/// And from here on new flows of whoever has many are refused already (I40).
const FULL_PERCENT: u64 = 95;

pub(super) fn concerns(facts: &Facts<'_>, found: &mut Vec<Concern>) {
    let most = u64::from(facts.control.flows_per_shard_max);
    for row in facts.shards {
        let (Some(live), Some(held)) = (row.live, row.held) else { continue };
        let pending = row.pending.map_or(0, |pending| pending as u64);
        let have = u64::from(live) + u64::from(held) + pending;
        let severity = match have * 100 {
            share if share >= most * FULL_PERCENT => Severity::Critical,
            share if share >= most * NEAR_PERCENT => Severity::Warning,
            _ => continue,
        };
        let why = format!("{have} of at most {most} flows ({held} of them held): new ones are refused when it is full");
        let remedy = "`qnat flows` shows whose they are; raise flows_per_shard_max under [settings], or spread the \
                      backends over more public addresses: `qnat apply -f FILE`";
        found.push(Concern::new(severity, Subject::Shard { shard: row.shard }, What::LimitNear, why, remedy));
    }
}
