//! Since when each concern lasts, and what of it becomes a log line or a metric. What is measured against a bound flutters
//! about it: a concern of such a kind ends, or becomes milder, only when it has not been seen for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use control::concern::{Concern, Severity, Subject, What, sorted};

use crate::answers::EventKind;

/// What was seen when it was looked at last. One for all who ask.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<(What, Subject), Known>>>);

#[derive(Clone, Debug)]
struct Known {
    since_unix_ms: u64,
    /// When it was found last, as grave as it is told.
    seen_unix_ms: u64,
    concern: Concern,
}

impl Known {
    /// It is told of though it is not found, or not as grave, at this moment.
    fn lingers(&self, unix_ms: u64) -> bool {
        unix_ms.saturating_sub(self.seen_unix_ms) < times_ms(self.concern.what).1
    }
}

/// How long a kind has to last before it is said, since some are normal for a moment, and how long it stays when it is not
/// found any more; in ms.
const fn times_ms(what: What) -> (u64, u64) {
    match what {
        What::NotProgrammed => (3_000, 0),
        What::NotServing => (1_000, 0),
        What::LimitNear | What::PortUseHigh => (0, 30_000),
        What::PortsExhausted => (0, 15_000),
        // The next look at the disk comes after ten seconds.
        What::StoreSlow | What::DiskFails => (0, 12_000),
        What::NextHopSilent | What::LogStuck => (0, 5_000),
        What::NoOwner
        | What::FailureTolerance
        | What::BelowRedundancy
        | What::Moving
        | What::MemberSilent
        | What::NotRegistered
        | What::NoAnswer
        | What::ThreadStalled
        | What::NoControlLeader
        | What::LinkDown
        | What::LinkDeaf
        | What::NoInterface
        | What::NoNetwork
        | What::GuardMissing
        | What::MemoryNotLocked
        | What::ClockApart
        | What::AddressClaimed
        | What::DiskSpace
        | What::LogIncomplete
        | What::CertificateEnds
        | What::NoPath
        | What::NoHealthyBackends
        | What::BackendsDown
        | What::InstanceDown
        | What::SecurityGroup
        | What::DefaultOutbound
        | What::PortsMissing
        | What::Draining
        | What::VersionsDiffer
        | What::LevelBelow
        | What::StopTokenHeld
        | What::Other => (0, 0),
    }
}

impl Memory {
    /// `found` is all that there is now. What is new is logged and counted, and so is what has ended; both are returned.
    pub fn note(&self, found: Vec<Concern>, unix_ms: u64) -> Vec<(EventKind, Concern)> {
        let mut changes = Vec::new();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut still = BTreeMap::new();
        for concern in found {
            let before = known.remove(&concern.key());
            let since_unix_ms = before.as_ref().map_or(unix_ms, |before| before.since_unix_ms);
            let (concern, seen_unix_ms) = match before.as_ref().filter(|before| graver(before, &concern, unix_ms)) {
                Some(before) => (Concern { severity: before.concern.severity, ..concern }, before.seen_unix_ms),
                None => (concern, unix_ms),
            };
            if before.is_none_or(|before| before.concern.severity != concern.severity) {
                log_new(&concern);
                changes.push((EventKind::ConcernBegan, concern.clone()));
            }
            still.insert(concern.key(), Known { since_unix_ms, seen_unix_ms, concern });
        }
        known.retain(|key, before| {
            let lingers = before.lingers(unix_ms);
            if lingers {
                still.insert(key.clone(), before.clone());
            }
            !lingers
        });
        for (_, Known { since_unix_ms, concern, .. }) in std::mem::replace(&mut *known, still) {
            let lasted_ms = unix_ms.saturating_sub(since_unix_ms);
            tracing::info!(what = %label(concern.what), about = %concern.subject, lasted_ms, "concern has ended");
            changes.push((EventKind::ConcernEnded, concern));
        }
        for severity in [Severity::Notice, Severity::Warning, Severity::Critical] {
            let count = known.values().filter(|known| known.concern.severity == severity).count();
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            metrics::gauge!("qnat_concerns", "severity" => severity_label(severity)).set(count);
        }
        changes
    }

    /// `found` with its beginnings and what lingers, without what is normal for a moment.
    #[must_use]
    pub fn dated(&self, mut found: Vec<Concern>, unix_ms: u64) -> Vec<Concern> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let missing =
            |before: &&Known| before.lingers(unix_ms) && !found.iter().any(|c| c.key() == before.concern.key());
        let lingering: Vec<Concern> = known.values().filter(missing).map(|before| before.concern.clone()).collect();
        found.extend(lingering);
        let dated = found.into_iter().map(|concern| {
            let before = known.get(&concern.key());
            let since = before.map_or(unix_ms, |before| before.since_unix_ms);
            let graver = before.filter(|before| graver(before, &concern, unix_ms));
            let severity = graver.map_or(concern.severity, |before| before.concern.severity);
            Concern { severity, since_unix_ms: Some(concern.since_unix_ms.unwrap_or(since)), ..concern }
        });
        let lasts = |c: &Concern| unix_ms.saturating_sub(c.since_unix_ms.unwrap_or(0)) >= times_ms(c.what).0;
        sorted(dated.filter(lasts).collect())
    }
}

/// Whether `concern` was graver a moment ago, and is still told as such.
fn graver(before: &Known, concern: &Concern, unix_ms: u64) -> bool {
    before.concern.severity > concern.severity && before.lingers(unix_ms)
}

fn log_new(concern: &Concern) {
    let Concern { subject, what, why, remedy, .. } = concern;
    let what = label(*what);
    metrics::counter!("qnat_concerns_raised_total", "what" => what.clone()).increment(1);
    match concern.severity {
        Severity::Notice => tracing::info!(%what, about = %subject, %remedy, "{why}"),
        Severity::Warning => tracing::warn!(%what, about = %subject, %remedy, "{why}"),
        Severity::Critical => tracing::error!(%what, about = %subject, %remedy, "{why}"),
    }
}

/// The name that programs know it by.
fn label(what: What) -> String {
    serde_json::to_value(what).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

const fn severity_label(severity: Severity) -> &'static str {
    match severity {
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag() -> Concern {
        Concern::warning(Subject::Member { node: 1 }, What::NotProgrammed, "behind", "wait")
    }

    fn silent() -> Concern {
        Concern::warning(Subject::Member { node: 2 }, What::MemberSilent, "not heard", "start it")
    }

    #[test]
    fn a_concern_keeps_its_beginning_until_it_has_ended() {
        let memory = Memory::default();
        assert_eq!(memory.note(vec![silent()], 1_000), [(EventKind::ConcernBegan, silent())]);
        assert_eq!(memory.note(vec![silent()], 2_000), []);
        assert_eq!(memory.dated(vec![silent()], 2_500)[0].since_unix_ms, Some(1_000));
        assert_eq!(memory.note(Vec::new(), 3_000), [(EventKind::ConcernEnded, silent())]);
        memory.note(vec![silent()], 9_000);
        assert_eq!(memory.dated(vec![silent()], 9_500)[0].since_unix_ms, Some(9_000));
    }

    #[test]
    fn what_flutters_about_its_bound_is_one_concern_that_ends_when_it_has_been_quiet() {
        let memory = Memory::default();
        let table = |severity| Concern::new(severity, Subject::Shard { shard: 1 }, What::LimitNear, "full", "raise it");
        let near = || table(Severity::Warning);
        let full = || table(Severity::Critical);
        assert_eq!(memory.note(vec![near()], 0), [(EventKind::ConcernBegan, near())]);
        for round in 0..10 {
            let found = if round % 2 == 0 { Vec::new() } else { vec![near()] };
            assert_eq!(memory.note(found, 1_000 + round * 1_000), [], "it flutters");
        }
        let said = memory.dated(Vec::new(), 10_500);
        assert_eq!((said.len(), said[0].since_unix_ms), (1, Some(0)), "it is told of meanwhile");
        assert_eq!(memory.note(vec![full()], 11_000), [(EventKind::ConcernBegan, full())], "graver at once");
        assert_eq!(memory.note(vec![near()], 12_000), [], "and milder not at once");
        assert_eq!(memory.dated(vec![near()], 12_500)[0].severity, Severity::Critical);
        assert_eq!(memory.note(vec![near()], 41_000), [(EventKind::ConcernBegan, near())]);
        assert_eq!(memory.note(Vec::new(), 70_999), []);
        assert_eq!(memory.note(Vec::new(), 71_000), [(EventKind::ConcernEnded, near())]);
        assert_eq!(memory.dated(Vec::new(), 71_000), []);
    }

    #[test]
    fn what_is_normal_for_a_moment_is_said_when_it_lasts() {
        let memory = Memory::default();
        assert_eq!(memory.dated(vec![lag()], 1_000), [], "seen for the first time");
        memory.note(vec![lag()], 1_000);
        assert_eq!(memory.dated(vec![lag()], 3_999), []);
        assert_eq!(memory.dated(vec![lag()], 4_000).len(), 1);
        assert_eq!(memory.dated(vec![silent()], 4_000).len(), 1, "other kinds are said at once");
    }
}
