//! Whether this member's data interfaces work and lead to networks that there are, what passes there, whether the next hop answers, who else claims its addresses there, and
//! whether its worker turns at all.

use control::concern::{Concern, Subject, What};
use engine::soundings::{NextHop, Passing};
use netio::link::LinkState;
use words::Side;

use super::facts::Facts;
use crate::daemon::reports::LinkLife;

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
    if facts.flows.running {
        interfaces(facts, found);
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

/// Interfaces that are down, and networks and interfaces that have none of the other kind.
fn interfaces(facts: &Facts<'_>, found: &mut Vec<Concern>) {
    let me = || Subject::Member { node: facts.node };
    let (links, networks) = (&facts.worker.links, &facts.worker.networks.0);
    let down = links.iter().filter(|link| link.link.is_some() && link.state != LinkState::Up);
    let down: Vec<&str> = down.map(|link| link.name.as_str()).collect();
    if !facts.flows.report.links_up || !down.is_empty() {
        let names = if down.is_empty() { "a data interface".to_owned() } else { down.join(" and ") };
        let why =
            format!("{names} has no carrier, or is gone: this member gives the shards that need it to one that has it");
        let remedy = "look at the cable and at `ip link`; it serves again by itself when all are up";
        found.push(Concern::critical(me(), What::LinkDown, why, remedy));
    }
    let led_to = |name: &String| links.iter().any(|l| l.link.is_some() && l.network.as_ref() == Some(name));
    let without: Vec<&str> = networks.keys().filter(|name| !led_to(name)).map(String::as_str).collect();
    if !links.is_empty() && !without.is_empty() {
        let why = format!(
            "no interface of this member leads to virtual network {}: it serves no backend there, and shards that have \
             some go to a member that does",
            without.join(" and ")
        );
        let remedy = "name interface and virtual_network under [[data.inside]] in its node.toml, on every member, and \
                      restart it";
        found.push(Concern::warning(me(), What::NoInterface, why, remedy));
    }
    let nowhere = |link: &&LinkLife| link.side == Side::Inside && link.link.is_none() && !networks.is_empty();
    let one = |link: &LinkLife| match &link.network {
        Some(network) => format!("{} leads to virtual network {network}, which there is not", link.name),
        None => format!("{} does not say to which of {} virtual networks it leads", link.name, networks.len()),
    };
    let nowhere: Vec<String> = links.iter().filter(nowhere).map(one).collect();
    if !nowhere.is_empty() {
        let why = nowhere.join("; ");
        let remedy = "declare the virtual network with `qnat apply -f FILE`, or correct virtual_network under \
                      [[data.inside]] in its node.toml and restart it";
        found.push(Concern::warning(me(), What::NoNetwork, why, remedy));
    }
}
