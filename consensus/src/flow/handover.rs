//! When a leader hands its group over, and to whom (F7, N3): a pure decision over what is known of the other voters.
//!
//! If nobody is fit, the leader stays: two that cannot serve must not pass a group to and fro. A leader that nobody answers on
//! a data network gives the group only to somebody who is answered: if nobody hears anything, the network is at fault and
//! nobody moves. One that lacks a link of the group gives it only to somebody who has all of them: if nobody has, it serves
//! what it can. Called by the leader each tick; the transfer itself is raft's.

use words::Incarnation;

use crate::event::{Passage, Report, Timing};

/// How long a leader whose control index is behind a peer's waits for its own to catch up (F7).
const CONTROL_BEHIND_NS: u64 = 1_000_000_000;
/// How long the preferred owner must have been fit before it gets the group back.
const PREFERRED_NS: u64 = 2_000_000_000;
/// After a transfer for want of service or by preference, none of that kind for this long.
const PAUSE_NS: u64 = 2_000_000_000;
/// A preferred owner that gave the group away gets it back no earlier than this.
const DECLINED_NS: u64 = 30_000_000_000;

/// What the leader knows about itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    /// What it reports of this group.
    pub report: Report,
    /// It is on its way out: stopping, no member any more, or without a worker that lives.
    pub leaving: Leaving,
    /// Since when it leads without serving; `None` while it serves, or while it must wait (N4).
    pub unserved_since_ns: Option<u64>,
    /// Greatest control index in the applied flow log (F2).
    pub control_needed: u64,
}

/// Whether a leader must give its group away in any case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leaving {
    /// As soon as somebody can take it.
    Yes,
    /// Not for that reason.
    No,
}

/// What the leader knows about another voter that is a member, has the commit index and was heard of within V.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Which.
    pub id: Incarnation,
    /// What it reported of this group a moment ago.
    pub report: Report,
}

/// The memory behind the decision.
#[derive(Debug, Default)]
pub(super) struct Handover {
    behind_since_ns: Option<u64>,
    /// The control index that was ready here when a link of the group was first missed: who has not loaded it may not know
    /// yet that it misses the link too.
    lacking_since: Option<u64>,
    preferred_since_ns: Option<u64>,
    pause_until_ns: u64,
    declined: Option<(Incarnation, u64)>,
}

fn fit(own: &Own, candidate: &Candidate) -> bool {
    let report = candidate.report;
    report.can_serve() && !report.stopping && report.control_ready >= own.control_needed
}

/// Who could take the group, in order: those that hear others come first. A leader that need not go looks only at those that
/// hear no worse than itself.
fn takers<'a>(own: &Own, candidates: &'a [Candidate]) -> Vec<&'a Candidate> {
    let passes = |c: &&Candidate| c.report.passage == Passage::Passes;
    let mut takers: Vec<&Candidate> = candidates.iter().filter(|c| fit(own, c)).collect();
    if !must_go(own) {
        takers.retain(|c| !lacks(&c.report) || lacks(&own.report));
        if lacks(&own.report) {
            // Who alone has an interface in a network has nobody there who could answer.
            takers.retain(|c| c.report.passage != Passage::Silent);
        } else if own.report.passage != Passage::Unproved {
            takers.retain(passes);
        }
    }
    takers.sort_by_key(|c| (lacks(&c.report), !passes(c)));
    takers
}

/// Whether it misses a link of the group.
fn lacks(report: &Report) -> bool {
    !report.lacking.is_empty()
}

fn must_go(own: &Own) -> bool {
    own.leaving == Leaving::Yes || !own.report.links_up
}

/// Starts or stops a stopwatch; returns since when it runs.
fn since(watch: &mut Option<u64>, runs: bool, now_ns: u64) -> Option<u64> {
    *watch = if runs { watch.or(Some(now_ns)) } else { None };
    *watch
}

impl Handover {
    /// A new leadership: stopwatches start anew, pauses stay.
    pub(super) fn leadership_began(&mut self) {
        self.behind_since_ns = None;
        self.lacking_since = None;
        self.preferred_since_ns = None;
    }

    /// `from` handed the group over to this replica, for whatever reason.
    pub(super) fn was_handed_over(&mut self, from: Incarnation, now_ns: u64) {
        self.declined = Some((from, now_ns + DECLINED_NS));
    }

    /// Whom to transfer to now, if anybody. `candidates` are in order of rank, `preferred` is rank 0.
    pub(super) fn target(
        &mut self,
        own: &Own,
        candidates: &[Candidate],
        preferred: Option<Incarnation>,
        timing: &Timing,
        now_ns: u64,
    ) -> Option<Incarnation> {
        let takers = takers(own, candidates);
        let fits = || takers.iter().copied();
        let best = fits().map(|c| c.report.control_ready).max();
        let behind = best.is_some_and(|ready| ready > own.report.control_ready);
        let behind_since = since(&mut self.behind_since_ns, behind, now_ns);
        let declined = self.declined.filter(|(_, until)| now_ns < *until).map(|(id, _)| id);
        let wanted = fits().find(|c| Some(c.id) == preferred && Some(c.id) != declined).map(|c| c.id);
        let preferred_since = since(&mut self.preferred_since_ns, wanted.is_some(), now_ns);
        let past = |since_ns: Option<u64>, wait_ns: u64| since_ns.is_some_and(|s| now_ns.saturating_sub(s) >= wait_ns);

        if must_go(own) {
            return fits().next().map(|c| c.id);
        }
        self.lacking_since = lacks(&own.report).then(|| self.lacking_since.unwrap_or(own.report.control_ready));
        if let Some(since) = self.lacking_since {
            let whole = |c: &&Candidate| !lacks(&c.report) && c.report.control_loaded >= since;
            if let Some(whole) = fits().find(whole) {
                return Some(whole.id);
            }
        }
        if own.report.passage == Passage::Silent {
            return fits().next().map(|c| c.id);
        }
        if past(behind_since, CONTROL_BEHIND_NS) {
            return fits().find(|c| Some(c.report.control_ready) == best).map(|c| c.id);
        }
        if now_ns < self.pause_until_ns {
            return None;
        }
        let target = if past(own.unserved_since_ns, timing.vote_ns()) {
            // Not back to the one that has just given it away.
            fits().find(|c| Some(c.id) != declined).map(|c| c.id)
        } else if past(preferred_since, PREFERRED_NS) {
            wanted
        } else {
            None
        };
        if target.is_some() {
            self.pause_until_ns = now_ns + PAUSE_NS;
        }
        target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use words::time::MS;

    fn report(control_ready: u64) -> Report {
        let control_loaded = control_ready;
        Report { control_ready, control_loaded, links_up: true, turns: true, ..Report::default() }
    }

    fn own(control_ready: u64) -> Own {
        Own { report: report(control_ready), leaving: Leaving::No, unserved_since_ns: None, control_needed: 5 }
    }

    fn candidate(id: u64, control_ready: u64) -> Candidate {
        Candidate { id: Incarnation(id), report: report(control_ready) }
    }

    fn ask(h: &mut Handover, own: &Own, c: &[Candidate], now_ms: u64) -> Option<Incarnation> {
        h.target(own, c, Some(Incarnation(1)), &Timing::default(), now_ms * MS)
    }

    #[test]
    fn a_leader_that_cannot_serve_stays_if_nobody_satisfies_the_control_index() {
        let mut h = Handover::default();
        let mut me = own(5);
        me.unserved_since_ns = Some(0);
        assert_eq!(ask(&mut h, &me, &[candidate(2, 4)], 60), None);
        assert_eq!(ask(&mut h, &me, &[candidate(2, 5)], 60), Some(Incarnation(2)));
    }

    #[test]
    fn two_that_cannot_serve_do_not_pass_the_group_to_and_fro() {
        let mut h = Handover::default();
        h.was_handed_over(Incarnation(2), 0);
        let mut me = own(5);
        me.unserved_since_ns = Some(0);
        assert_eq!(ask(&mut h, &me, &[candidate(2, 5)], 100), None);
        assert_eq!(ask(&mut h, &me, &[candidate(2, 5), candidate(3, 5)], 100), Some(Incarnation(3)));
    }

    #[test]
    fn a_lost_link_moves_the_group_at_once_and_a_stale_control_index_after_a_second() {
        let mut h = Handover::default();
        let mut me = own(5);
        assert_eq!(ask(&mut h, &me, &[candidate(2, 6)], 0), None);
        assert_eq!(ask(&mut h, &me, &[candidate(2, 6)], 999), None);
        assert_eq!(ask(&mut h, &me, &[candidate(2, 6)], 1_000), Some(Incarnation(2)));
        me.report.links_up = false;
        assert_eq!(ask(&mut Handover::default(), &me, &[candidate(3, 5)], 0), Some(Incarnation(3)));
    }

    #[test]
    fn the_preferred_owner_gets_it_back_after_two_healthy_seconds_unless_it_gave_it_away() {
        let mut h = Handover::default();
        let me = own(5);
        assert_eq!(ask(&mut h, &me, &[candidate(1, 5)], 0), None);
        assert_eq!(ask(&mut h, &me, &[], 1_000), None);
        assert_eq!(ask(&mut h, &me, &[candidate(1, 5)], 1_500), None);
        assert_eq!(ask(&mut h, &me, &[candidate(1, 5)], 3_499), None);
        assert_eq!(ask(&mut h, &me, &[candidate(1, 5)], 3_500), Some(Incarnation(1)));
        let mut h = Handover::default();
        h.was_handed_over(Incarnation(1), 0);
        assert_eq!(ask(&mut h, &me, &[candidate(1, 5)], 0), None);
        assert_eq!(ask(&mut h, &me, &[candidate(1, 5)], 10_000), None);
    }

    #[test]
    fn a_leader_whose_worker_hangs_hands_over_and_one_whose_worker_stands_still_for_a_moment_does_not() {
        let mut me = own(5);
        me.report.turns = false;
        assert_eq!(ask(&mut Handover::default(), &me, &[candidate(3, 5)], 0), None);
        me.leaving = Leaving::Yes;
        assert_eq!(ask(&mut Handover::default(), &me, &[candidate(3, 5)], 0), Some(Incarnation(3)));
    }

    #[test]
    fn who_cannot_serve_is_no_target() {
        let mut h = Handover::default();
        let mut me = own(5);
        me.leaving = Leaving::Yes;
        let (mut a, mut b, mut c) = (candidate(2, 9), candidate(3, 9), candidate(4, 9));
        a.report.stopping = true;
        b.report.links_up = false;
        c.report.turns = false;
        assert_eq!(ask(&mut h, &me, &[a, b, c], 0), None);
    }

    fn lacking(mut report: Report) -> Report {
        report.lacking.insert(words::ShardId(1));
        report
    }

    #[test]
    fn a_leader_that_misses_a_network_gives_the_group_to_one_that_has_it_and_else_serves_what_it_can() {
        let (mut me, whole) = (own(5), candidate(3, 5));
        me.report = lacking(me.report);
        let other = Candidate { report: lacking(report(5)), ..candidate(2, 5) };
        assert_eq!(ask(&mut Handover::default(), &me, &[other], 0), None, "nobody has it");
        assert_eq!(ask(&mut Handover::default(), &me, &[other, whole], 0), Some(Incarnation(3)));
        // Nor does anybody get a group back that misses what the leader has.
        let preferred = Candidate { report: lacking(report(5)), ..candidate(1, 5) };
        let (mut h, me) = (Handover::default(), own(5));
        assert!((0..9).all(|second| ask(&mut h, &me, &[preferred], second * 1_000).is_none()));
    }

    #[test]
    fn who_has_not_loaded_the_configuration_may_miss_the_new_network_too() {
        let (mut h, mut me) = (Handover::default(), own(7));
        me.report = lacking(me.report);
        let mut late = candidate(3, 7);
        late.report.control_loaded = 6;
        assert_eq!(ask(&mut h, &me, &[late], 0), None);
        // Later versions are no reason to wait again.
        (me.report.control_ready, late.report.control_loaded) = (9, 7);
        late.report.control_ready = 9;
        assert_eq!(ask(&mut h, &me, &[late], 10), Some(Incarnation(3)));
    }

    #[test]
    fn a_leader_that_leaves_goes_to_one_that_misses_a_network_if_there_is_no_other() {
        let mut me = own(5);
        me.leaving = Leaving::Yes;
        let lacks = Candidate { report: lacking(report(5)), ..candidate(2, 5) };
        assert_eq!(ask(&mut Handover::default(), &me, &[lacks], 0), Some(Incarnation(2)));
        assert_eq!(ask(&mut Handover::default(), &me, &[lacks, candidate(3, 5)], 0), Some(Incarnation(3)));
    }

    #[test]
    fn a_report_says_of_each_group_what_its_own_networks_carry() {
        let group = words::ShardId;
        let mut report = Report { passage: Passage::Passes, ..report(5) };
        report.lacking.insert(group(1));
        report.silent.insert(group(2));
        report.unproved.insert(group(3));
        let of = |id| (lacks(&report.of(group(id))), report.of(group(id)).passage);
        assert_eq!(of(1), (true, Passage::Passes));
        assert_eq!(of(2), (false, Passage::Silent));
        assert_eq!(of(3), (false, Passage::Unproved));
        assert_eq!(of(4), (false, Passage::Passes));
        report.passage = Passage::Unproved;
        assert_eq!(report.of(group(2)).passage, Passage::Silent);
        report.passage = Passage::Silent;
        assert_eq!(report.of(group(3)).passage, Passage::Silent, "outside concerns all");
    }

    fn hearing(id: u64, passage: Passage) -> Candidate {
        let mut candidate = candidate(id, 5);
        candidate.report.passage = passage;
        candidate
    }

    #[test]
    fn a_leader_that_nobody_answers_moves_only_to_one_that_is_answered() {
        let mut me = own(5);
        me.report.passage = Passage::Silent;
        let unsure = hearing(2, Passage::Unproved);
        let deaf = hearing(3, Passage::Silent);
        assert_eq!(ask(&mut Handover::default(), &me, &[unsure, deaf], 0), None, "the network is at fault, not we");
        let hears = hearing(4, Passage::Passes);
        assert_eq!(ask(&mut Handover::default(), &me, &[unsure, deaf, hears], 0), Some(Incarnation(4)));
    }

    #[test]
    fn the_preferred_owner_gets_nothing_back_while_nobody_answers_it() {
        let mut h = Handover::default();
        let mut me = own(5);
        me.report.passage = Passage::Passes;
        for passage in [Passage::Silent, Passage::Unproved] {
            assert_eq!(ask(&mut h, &me, &[hearing(1, passage)], 0), None);
            assert_eq!(ask(&mut h, &me, &[hearing(1, passage)], 9_000), None);
        }
        assert_eq!(ask(&mut h, &me, &[hearing(1, Passage::Passes)], 10_000), None);
        assert_eq!(ask(&mut h, &me, &[hearing(1, Passage::Passes)], 12_000), Some(Incarnation(1)));
    }

    #[test]
    fn a_leader_that_leaves_goes_to_one_that_hears_and_else_to_anybody() {
        let mut me = own(5);
        (me.leaving, me.report.passage) = (Leaving::Yes, Passage::Passes);
        let (deaf, hears) = (hearing(2, Passage::Silent), hearing(3, Passage::Passes));
        assert_eq!(ask(&mut Handover::default(), &me, &[deaf, hears], 0), Some(Incarnation(3)));
        assert_eq!(ask(&mut Handover::default(), &me, &[deaf], 0), Some(Incarnation(2)));
    }
}
