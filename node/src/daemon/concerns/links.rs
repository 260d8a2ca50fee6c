//! What passes on this member's data networks, whether the next hop answers, who else claims its addresses there, and
//! whether its worker turns at all.

use control::concern::{Concern, Subject, What};
use engine::soundings::{NextHop, Passing};

use super::Facts;
use crate::daemon::worker_thread::LinkLife;

/// A claim is told of for so long after it was heard last.
const CLAIM_TOLD_NS: u64 = 300_000_000_000;

pub(super) fn concerns(facts: &Facts<'_>, found: &mut Vec<Concern>) {
    let me = || Subject::Member { node: facts.node };
    let (worker, report) = (facts.worker, facts.flows.report);
    if facts.flows.running && !report.turns {
        let why = "its worker's thread makes no turn: this member owns nothing meanwhile";
        let remedy = "none is needed: it ends itself within a second if that lasts, and begins anew; look at its log";
        found.push(Concern::critical(me(), What::ThreadStalled, why, remedy));
    }
    let deaf: Vec<&LinkLife> = worker.links.iter().filter(|link| link.heard.passing == Passing::Silent).collect();
    if !deaf.is_empty() {
        let one = |link: &&LinkLife| {
            let for_s = |at_ns: u64| worker.at_ns.saturating_sub(at_ns) / 1_000_000_000;
            let ago = |at_ns: u64| if at_ns == 0 { "never".to_owned() } else { format!("{} s ago", for_s(at_ns)) };
            let (name, heard) = (&link.name, &link.heard);
            format!(
                "{name}: no member answers there (last {}), last frame {}",
                ago(heard.answered_ns),
                ago(heard.heard_ns)
            )
        };
        let why = deaf.iter().map(one).collect::<Vec<_>>().join("; ");
        let remedy = "look at the switch between the members; it owns nothing while others hear each other, and serves \
                      again by itself";
        found.push(Concern::critical(me(), What::LinkDeaf, why, remedy));
    }
    if let Some(NextHop { ip, silent_since_ns: Some(since_ns), .. }) = worker.next_hop {
        let for_s = worker.at_ns.saturating_sub(since_ns) / 1_000_000_000;
        let why =
            format!("the next hop {ip} has answered no ARP question for {for_s} s: only what is on-link is reached");
        let remedy = "look at that router and at the switch; another one is named by next_hop under [outside]: \
                      `qnat apply -f FILE`";
        let subject = Subject::Link { node: facts.node, side: "outside".to_owned() };
        found.push(Concern::critical(subject, What::NextHopSilent, why, remedy));
    }
    let refused: u64 = worker.links.iter().map(|link| link.refused_macs).sum();
    if refused > 0 {
        let why = format!("a data interface did not take {refused} addresses of shards: frames to them may not arrive");
        let remedy =
            "use an interface that filters several unicast addresses, or switch it to promiscuous mode with `ip link`";
        found.push(Concern::warning(me(), What::Other, why, remedy));
    }
    let recent = worker.claims.iter().filter(|claim| worker.at_ns.saturating_sub(claim.at_ns) < CLAIM_TOLD_NS);
    let claims: Vec<String> =
        recent.map(|claim| format!("{} by {} ({} times)", claim.ip, claim.mac, claim.count)).collect();
    if !claims.is_empty() {
        let why = format!("somebody else claims addresses of the cluster by ARP: {}", claims.join(", "));
        let remedy = "find the host with that MAC at the switch, and take the address from it";
        found.push(Concern::warning(me(), What::AddressClaimed, why, remedy));
    }
}
