//! What the drill `peer-flood` found, phase by phase, and what of it is wrong. Pure: figures in, reasons out. Called by the
//! drill.

use std::time::Duration;

use serde::Serialize;

use super::calm::{self, Cause, Move};
use super::losses::Losses;
use super::output::Judged;
use crate::stalls::Stall;

/// Handshakes a second.
pub(super) const PER_SECOND: u32 = 3_000;
/// What is on its way or waits at the port when a flood ends is over after this.
pub(super) const AFTER: Duration = Duration::from_millis(1_500);

/// What members say of a packet that a lapsed lease has cost.
const LAPSES: [&str; 2] = [" drop lease_lapsed", " drop not_owner"];

/// New flows may be held for so many times what they are without a flood.
const HOLD_TIMES_MAX: f64 = 2.0;

/// What was seen while one flood lasted, or none.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Phase {
    /// Where the flood came from.
    pub(super) flood: &'static str,
    pub(super) began_unix_ms: u64,
    pub(super) ended_unix_ms: u64,
    /// Handshakes begun.
    pub(super) handshakes: u64,
    /// What the peer ports of all members counted: refused, turned away, asked to prove their address, dropped unread.
    pub(super) counted_at_peer_ports: u64,
    /// Packets to the port that reached the member's card; handshakes that go on send several.
    pub(super) reached_the_card: Option<u64>,
    /// Packets of the port that came back to a data network.
    pub(super) answers: Option<u64>,
    /// Elections, and those of them that nothing explains.
    pub(super) elections: u64,
    pub(super) elections_unexplained: u64,
    pub(super) longest_stall_ms: u64,
    /// Until a new flow's first packet left: 99th percentile of the flooded member, and of all members.
    pub(super) hold_p99_ms: f64,
    pub(super) hold_p99_of_all_ms: f64,
    pub(super) new_flows: u64,
    pub(super) new_flows_lost: u64,
    pub(super) new_flow_p99_ms: f64,
    pub(super) datagrams: u64,
    pub(super) datagrams_lost: u64,
    /// Of both, those that the ends themselves lost since nobody read them in time.
    pub(super) dropped_at_ends: u64,
    /// What members and the kernel dropped.
    pub(super) losses: Losses,
    pub(super) longest_silence_ms: f64,
    pub(super) exchanges: usize,
    pub(super) exchanges_failed: usize,
}

/// What the drill found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FloodVerdict {
    drill: &'static str,
    /// Handshakes a second that were wanted.
    per_second: u32,
    phases: Vec<Phase>,
    moves: Vec<Move>,
    /// Losses of phases in which a stall of the machine cost a lease: they say nothing about the flood.
    excused: Vec<String>,
    pass: bool,
    reasons: Vec<String>,
}

impl FloodVerdict {
    /// Of a drill that was not carried through.
    pub(super) fn broken(why: String) -> Self {
        let (phases, moves, excused) = (Vec::new(), Vec::new(), Vec::new());
        Self { drill: "peer-flood", per_second: PER_SECOND, phases, moves, excused, pass: false, reasons: vec![why] }
    }
}

impl Phase {
    pub(super) fn explain(&mut self, moves: &[Move], causes: &[Cause], stalls: &[Stall]) {
        let within = |at: u64| (self.began_unix_ms..self.ended_unix_ms).contains(&at);
        let mine: (Vec<Move>, Vec<Cause>) =
            moves.iter().zip(causes).filter(|(one, _)| within(one.after_unix_ms) || within(one.until_unix_ms)).unzip();
        self.elections = mine.0.iter().map(|one| one.elections).sum();
        self.elections_unexplained = calm::count(&mine.0, &mine.1, Cause::Unexplained);
        let stalled = stalls.iter().filter(|stall| within(stall.ended_unix_ms)).map(|stall| stall.ms);
        self.longest_stall_ms = stalled.max().unwrap_or(0);
    }

    /// Handshakes with the member whose card is watched: from inside, every other one is with another member.
    fn at_one_card(&self) -> u64 {
        if self.flood == "inside" { self.handshakes / 2 } else { self.handshakes }
    }

    /// Datagrams that the cluster lost.
    fn lost(&self) -> u64 {
        (self.new_flows_lost + self.datagrams_lost).saturating_sub(self.dropped_at_ends)
    }

    /// Whether the machine itself made an election in it, or had a lease lapse, which takes a shorter stall, and members say that all
    /// that was lost was lost by that.
    fn is_disturbed(&self) -> bool {
        let lapsed: u64 = self
            .losses
            .iter()
            .filter(|(at, _)| LAPSES.iter().any(|why| at.ends_with(why)))
            .map(|(_, count)| count)
            .sum();
        let is_lapse = self.longest_stall_ms > 0 && self.exchanges_failed == 0 && self.lost() <= lapsed;
        self.elections > self.elections_unexplained || is_lapse
    }
}

/// Judges the phases.
pub(super) fn judged(phases: Vec<Phase>, moves: Vec<Move>) -> FloodVerdict {
    let (mut reasons, mut excused) = (Vec::new(), Vec::new());
    for phase in &phases {
        let what = format!("flood from {}", phase.flood);
        if phase.elections_unexplained > 0 {
            reasons.push(format!("{what}: {} elections that nothing explains", phase.elections_unexplained));
        }
        for (count, lost) in
            [(phase.lost(), "datagrams lost on the way"), (phase.exchanges_failed as u64, "idle connections failed")]
        {
            if count > 0 {
                let whose = if phase.is_disturbed() { &mut excused } else { &mut reasons };
                whose.push(format!("{what}: {count} {lost}"));
            }
        }
        let seconds = (phase.ended_unix_ms - phase.began_unix_ms) / 1_000;
        let at_least = u64::from(PER_SECOND) / 2 * seconds.saturating_sub(AFTER.as_secs() + 2);
        if phase.flood != "none" && phase.handshakes < at_least {
            reasons.push(format!("{what}: {} handshakes in {seconds} s, less than half: no flood", phase.handshakes));
        }
        match (phase.flood, phase.counted_at_peer_ports) {
            ("peers", count) if count < phase.handshakes / 10 => {
                reasons.push(format!("{what}: the peer port counted {count} of {}", phase.handshakes));
            }
            ("peers", _) | (_, 0) => {}
            (_, count) => reasons.push(format!("{what}: the peer ports counted {count}")),
        }
        if phase.reached_the_card.is_some_and(|reached| reached < phase.at_one_card() / 2) {
            reasons.push(format!("{what}: it did not reach the member's card, so nothing is proved"));
        }
        if let Some(answers) = phase.answers.filter(|answers| *answers > 0) {
            reasons.push(format!("{what}: {answers} answers"));
        }
    }
    let of = |flood| phases.iter().find(|phase| phase.flood == flood);
    if let (Some(quiet), Some(flooded)) = (of("none"), of("peers")) {
        for (who, before, during) in [
            ("the flooded member", quiet.hold_p99_ms, flooded.hold_p99_ms),
            ("all members", quiet.hold_p99_of_all_ms, flooded.hold_p99_of_all_ms),
        ] {
            let within = during <= before * HOLD_TIMES_MAX;
            // A time that is no number is none either.
            if !within {
                reasons.push(format!("hold p99 of {who}: {before:.2} ms without a flood, {during:.2} ms under it"));
            }
        }
    } else {
        reasons.push("no flood was carried through".to_owned());
    }
    FloodVerdict {
        drill: "peer-flood",
        per_second: PER_SECOND,
        phases,
        moves,
        excused,
        pass: reasons.is_empty(),
        reasons,
    }
}

impl Judged for FloodVerdict {
    fn drill(&self) -> &'static str {
        self.drill
    }

    fn reasons(&self) -> &[String] {
        &self.reasons
    }

    fn table(verdicts: &[Self]) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
        table.set_header([
            "flood from",
            "handshakes",
            "counted at\npeer ports",
            "answers",
            "elections\n(unexplained)",
            "hold p99 ms\nflooded/all",
            "datagrams\nlost on the way",
            "connections\nfailed",
        ]);
        for phase in verdicts.iter().flat_map(|one| &one.phases) {
            table.add_row([
                phase.flood.to_owned(),
                phase.handshakes.to_string(),
                phase.counted_at_peer_ports.to_string(),
                phase.answers.map_or_else(|| "-".to_owned(), |answers| answers.to_string()),
                format!("{} ({})", phase.elections, phase.elections_unexplained),
                format!("{:.2}/{:.2}", phase.hold_p99_ms, phase.hold_p99_of_all_ms),
                format!("{} of {}", phase.lost(), phase.new_flows + phase.datagrams),
                format!("{} of {}", phase.exchanges_failed, phase.exchanges),
            ]);
        }
        let mut text = table.to_string();
        for one in verdicts {
            text += &format!("\npeer-flood: {}", if one.pass { "pass" } else { "FAIL" });
            text.extend(one.reasons.iter().map(|reason| format!("\n  {reason}")));
            text.extend(one.excused.iter().map(|loss| format!("\n  the machine stood still: {loss}")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(flood: &'static str) -> Phase {
        let data = matches!(flood, "inside" | "outside");
        Phase {
            flood,
            began_unix_ms: 0,
            ended_unix_ms: 13_500,
            handshakes: if flood == "none" { 0 } else { 30_000 },
            counted_at_peer_ports: if flood == "peers" { 29_000 } else { 0 },
            reached_the_card: (flood != "none").then_some(30_000),
            answers: data.then_some(0),
            elections: 0,
            elections_unexplained: 0,
            longest_stall_ms: 0,
            hold_p99_ms: 1.0,
            hold_p99_of_all_ms: 1.0,
            new_flows: 1_000,
            new_flows_lost: 0,
            new_flow_p99_ms: 1.0,
            datagrams: 30_000,
            datagrams_lost: 0,
            dropped_at_ends: 0,
            losses: Losses::new(),
            longest_silence_ms: 2.0,
            exchanges: 100,
            exchanges_failed: 0,
        }
    }

    /// What is wrong if one phase is changed.
    fn wrong(flood: &str, change: impl Fn(&mut Phase)) -> Vec<String> {
        let mut phases: Vec<Phase> = ["none", "peers", "inside", "outside"].map(phase).to_vec();
        phases.iter_mut().filter(|one| one.flood == flood).for_each(change);
        judged(phases, Vec::new()).reasons
    }

    #[test]
    fn a_flood_that_is_felt_or_was_none_fails_the_drill() {
        assert_eq!(wrong("peers", |_| ()), [""; 0]);
        assert_eq!(wrong("peers", |one| one.hold_p99_ms = 2.0), [""; 0]);
        assert_eq!(wrong("peers", |one| (one.datagrams_lost, one.dropped_at_ends) = (7, 7)), [""; 0]);
        for (flood, change) in [
            ("peers", (|one| one.hold_p99_ms = 2.1) as fn(&mut Phase)),
            ("peers", |one| one.hold_p99_of_all_ms = f64::NAN),
            ("peers", |one| (one.elections, one.elections_unexplained) = (1, 1)),
            ("peers", |one| one.new_flows_lost = 1),
            ("peers", |one| one.datagrams_lost = 1),
            ("peers", |one| one.exchanges_failed = 1),
            ("peers", |one| one.handshakes = 10_000),
            ("peers", |one| one.counted_at_peer_ports = 0),
            ("inside", |one| one.counted_at_peer_ports = 1),
            ("outside", |one| one.answers = Some(1)),
            ("outside", |one| one.reached_the_card = Some(0)),
        ] {
            assert_eq!(wrong(flood, change).len(), 1, "{:?}", wrong(flood, change));
        }
        assert!(!judged(Vec::new(), Vec::new()).pass);
    }

    #[test]
    fn what_is_lost_in_an_election_that_the_machine_made_is_told_apart() {
        let mut phases = vec![phase("none"), phase("peers")];
        (phases[1].elections, phases[1].datagrams_lost) = (1, 7);
        let verdict = judged(phases, Vec::new());
        assert!(verdict.pass, "{:?}", verdict.reasons);
        assert_eq!(verdict.excused, ["flood from peers: 7 datagrams lost on the way"]);
    }

    #[test]
    fn what_is_lost_in_a_lapse_that_the_machine_made_is_told_apart_if_members_say_so() {
        let reasons = |stall, lapsed, lost, failed| {
            wrong("peers", |one| {
                (one.longest_stall_ms, one.datagrams_lost, one.exchanges_failed) = (stall, lost, failed);
                one.losses = Losses::from([("n1 drop not_owner".into(), lapsed), ("n1 drop no_port".into(), 9)]);
            })
            .len()
        };
        assert_eq!(reasons(61, 3, 3, 0), 0);
        assert_eq!(reasons(0, 3, 3, 0), 1, "nothing stood still");
        assert_eq!(reasons(61, 3, 4, 0), 1, "one more than they say");
        assert_eq!(reasons(61, 3, 0, 1), 1, "a connection is never lost by it");
    }
}
