//! What an apply takes away, said before it does: an order that ends live flows, or removes more resources than it adds, is carried
//! out only with a yes. It is judged by the dry run's own plan and counts. What it does not know it asks about too. Called by
//! `applying`.

use std::fmt::Write as _;

use control::command::PlanHash;
use control::config::{ConfigError, DECLARES_NOTHING, Emptiness};
use control::plan::{Change, ChangeKind};

use super::request::Failure;
use crate::answers::Applied;

/// Resources that are named; of more it is said how many.
const NAMED_MAX: usize = 5;
/// What plans list beside resources: what follows from these.
const FOLLOWING: [&str; 2] = ["lease.", "pool."];

/// What whoever gives the order has said to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Consent {
    /// That it may take away.
    pub(super) yes: bool,
    /// What they were shown: only that may be done.
    pub(super) plan: Option<String>,
}

impl Consent {
    /// Whether a file may declare nothing.
    pub(super) const fn emptiness(&self) -> Emptiness {
        if self.yes { Emptiness::Meant } else { Emptiness::Refused }
    }

    /// Refuses what nobody has said yes to, and what has become something else since they did. Live flows are no part of a plan:
    /// those that begin and end between the count and the commit are nobody's to refuse (C5).
    pub(super) fn given(&self, answer: &Applied, plan: Option<PlanHash>) -> Result<(), Failure> {
        let plan = plan.map(|hash| name_of(&hash));
        if !self.yes && !answer.asks.is_empty() {
            let mut problems = answer.asks.clone();
            problems.push("nothing was changed; if it is meant, say so: qnat apply -f FILE --yes".to_owned());
            return Err(Failure::needs_yes(409, problems, plan));
        }
        if self.plan.is_some() && self.plan != plan {
            let problem = "the configuration or its ports have changed since it was shown, and nothing was done";
            let remedy = "see what it would do now: qnat apply -f FILE --dry-run";
            return Err(Failure::all(409, vec![problem.to_owned(), remedy.to_owned()]));
        }
        Ok(())
    }
}

fn name_of(hash: &PlanHash) -> String {
    hash.iter().take(16).fold(String::new(), |mut text, octet| {
        let _infallible = write!(text, "{octet:02x}");
        text
    })
}

/// What is wrong with a file; one that declares nothing is taken with a yes.
pub(super) fn unreadable(errors: &[ConfigError]) -> Failure {
    let lines = errors.iter().map(ToString::to_string).collect();
    match errors {
        [error] if error.problem == DECLARES_NOTHING => Failure::needs_yes(422, lines, None),
        _ => Failure::all(422, lines),
    }
}

/// Why an apply wants a yes, one line each, by its plan and the counts of its flows.
pub(super) fn reasons(answer: &Applied) -> Vec<String> {
    let mut reasons = Vec::new();
    if answer.refused.is_some() {
        return reasons;
    }
    let now = "as counted now: what begins or ends until the commit is not foreseen";
    if let Some(cut) = answer.flows_cut.as_ref().filter(|cut| cut.flows > 0) {
        reasons.push(format!("it ends {} live flows, {now}", cut.flows));
    }
    if let Some(taken) = answer.flows_taken.filter(|taken| *taken > 0) {
        reasons.push(format!("it takes back ports that {taken} live flows are on, {now}"));
    }
    let of_groups = answer.flows_cut.iter().flat_map(|cut| &cut.uncounted_shards);
    let mut uncounted: Vec<u16> = of_groups.chain(&answer.uncounted_shards).copied().collect();
    uncounted.sort_unstable();
    uncounted.dedup();
    if !uncounted.is_empty() {
        let shards: Vec<String> = uncounted.iter().map(ToString::to_string).collect();
        reasons.push(format!("not all live flows of shard {} could be counted: it may end more", shards.join(", ")));
    }
    reasons.extend(removal(&answer.changes));
    reasons
}

/// Resources that go, if more do than come.
fn removal(changes: &[Change]) -> Option<String> {
    let is_resource = |change: &&Change| !FOLLOWING.iter().any(|kind| change.resource.starts_with(kind));
    let of = |kind| changes.iter().filter(is_resource).filter(move |change| change.kind == kind);
    let (gone, come) = (of(ChangeKind::Remove).count(), of(ChangeKind::Add).count());
    if gone <= come {
        return None;
    }
    let more = format!("{} more", gone.saturating_sub(NAMED_MAX));
    let mut named: Vec<&str> = of(ChangeKind::Remove).take(NAMED_MAX).map(|change| change.resource.as_str()).collect();
    if gone > NAMED_MAX {
        named.push(&more);
    }
    Some(format!("it removes more resources than it adds, {gone} and {come}: {}", named.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::FlowsCut;

    fn change(kind: ChangeKind, resource: &str) -> Change {
        Change { kind, resource: resource.into(), detail: String::new() }
    }

    const NO: Consent = Consent { yes: false, plan: None };

    #[test]
    fn what_takes_nothing_away_wants_no_yes() {
        let cut = FlowsCut::default();
        let changes = vec![
            change(ChangeKind::Remove, "instance.b1"),
            change(ChangeKind::Add, "instance.b2"),
            change(ChangeKind::Modify, "settings"),
            // These follow from the others.
            change(ChangeKind::Remove, "lease.b1/ipconfig1"),
        ];
        let answer = Applied { changes, flows_cut: Some(cut), flows_taken: Some(0), ..Applied::default() };
        assert_eq!(reasons(&answer), Vec::<String>::new());
        assert_eq!(NO.given(&answer, None), Ok(()));
    }

    #[test]
    fn flows_that_end_ports_that_go_back_what_nobody_counted_and_resources_that_go_want_one() {
        let cut = FlowsCut { flows: 7, listed: Vec::new(), uncounted_shards: vec![2] };
        let changes: Vec<Change> = (1..=7).map(|n| change(ChangeKind::Remove, &format!("instance.b{n}"))).collect();
        let mut answer = Applied {
            changes,
            flows_cut: Some(cut),
            flows_taken: Some(3),
            uncounted_shards: vec![2, 1],
            ..Applied::default()
        };
        answer.asks = reasons(&answer);
        let said = answer.asks.join("\n");
        for piece in ["ends 7 live flows", "3 live flows", "shard 1, 2", "than it adds, 7 and 0", "b5, 2 more"] {
            assert!(said.contains(piece), "{piece} is not in {said}");
        }
        let refused = NO.given(&answer, Some([9; 32])).expect_err("nobody said yes");
        assert_eq!((refused.status, refused.code.as_deref()), (409, Some("needs_yes")));
        assert!(refused.problems.last().is_some_and(|line| line.ends_with("--yes")), "{refused:?}");
        let yes = |plan| Consent { yes: true, plan };
        assert_eq!(yes(None).given(&answer, Some([9; 32])), Ok(()));
        assert_eq!(yes(refused.plan.clone()).given(&answer, Some([9; 32])), Ok(()));
        let other = yes(refused.plan).given(&answer, Some([8; 32])).expect_err("it is another plan now");
        assert!(other.problems.join(" ").contains("--dry-run") && other.code.is_none(), "{other:?}");
    }
}
