//! What security groups cost: packets and new flows of a backend whose interface has a group of many rules.

use std::sync::Arc;

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use engine::ids::BackendId;
use engine::nsg::{Access, Attachment, Attachments, Label, List, Origin, Protocol, Range, Rule, RuleSet, Rules};
use engine::record::Proto;
use serde::{Deserialize, Serialize};

use super::bed::{BACKENDS, Bed};
use super::frames::{Batch, Size, Way};
use super::rounds::{BATCH, Draw, known, new_flows, whole};
use crate::numbers::Spread;

/// A group by its rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Rules in the direction of the packets; 0: there is no group.
    pub rules: usize,
    /// Nanoseconds per packet of a known flow: it asks no rule.
    pub known_ns: Spread,
    /// Nanoseconds per new flow: packet in, verdict, proposal, entry, commit, packet out.
    pub new_flow_ns: Spread,
}

impl RuleRow {
    const fn known(&self) -> &Spread {
        &self.known_ns
    }

    const fn new_flow(&self) -> &Spread {
        &self.new_flow_ns
    }
}

/// Flows in the table.
const FLOWS: u32 = 10_000;

/// Measures.
pub(super) fn row(rules: usize, rounds: u32) -> Result<RuleRow> {
    let mut bed = Bed::with(FLOWS, Proto::Udp, |s| {
        if rules > 0 {
            let attachment = Arc::new(attachment(rules));
            let all = (1..=BACKENDS).map(|n| (BackendId(n), Arc::clone(&attachment)));
            s.security = Arc::new(all.collect::<Attachments>());
        }
    });
    let (mut draw, mut batch) = (Draw::new(3), Batch::new(BATCH, Proto::Udp, Size::Small, Way::Out));
    let (mut of_known, mut of_new, mut next) = (Vec::new(), Vec::new(), FLOWS);
    for _ in 0..rounds {
        of_known.push(known(&mut bed, &mut batch, (FLOWS, Proto::Udp), &mut draw)?.0);
        of_new.push(new_flows(&mut bed, &mut batch, &mut next)?);
    }
    let [known_ns, new_flow_ns] = [of_known, of_new].map(Spread::of);
    let none = "at least one round";
    Ok(RuleRow { rules, known_ns: known_ns.context(none)?, new_flow_ns: new_flow_ns.context(none)? })
}

/// As Markdown, with an empty line behind it; nothing if nothing was measured.
pub(super) fn table(rows: &[RuleRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    let columns = rows.iter().map(|row| format!("{} rules", row.rules));
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(std::iter::once(format!("by security group, {FLOWS} flows")).chain(columns));
    for (name, of) in [
        ("ns per packet of a known flow", RuleRow::known as fn(&RuleRow) -> &Spread),
        ("ns per new flow", RuleRow::new_flow),
    ] {
        table.add_row(std::iter::once(name.to_owned()).chain(rows.iter().map(|row| whole(of(row)))));
    }
    format!("{table}\n\n")
}

/// Networks and ranges of ports drawn at random, denied one by one, and all else allowed: every rule has to be ruled out.
fn attachment(rules: usize) -> Attachment {
    let mut draw = Draw::new(7);
    let mut all: Vec<Rule> = (1..rules)
        .map(|_| {
            // None is in the space that the flows go to.
            let network = 0x3000_0000 + (draw.below(0x1000_0000) & !0xff);
            let port = draw.below(65_000);
            Rule {
                protocol: Protocol::Udp,
                sources: Vec::new(),
                source_ports: Vec::new(),
                destinations: vec![Range { first: network, last: network + 0xff }],
                destination_ports: vec![Range { first: port, last: port + draw.below(500) }],
                access: Access::Deny,
            }
        })
        .collect();
    let any = Vec::new;
    all.push(Rule {
        protocol: Protocol::Any,
        sources: any(),
        source_ports: any(),
        destinations: any(),
        destination_ports: any(),
        access: Access::Allow,
    });
    let label = Label { key: 1, name: "rule".into(), priority: 100, origin: Origin::User };
    let list = List::new(Arc::new(Rules::new(&all)), 1, [label].into(), vec![0; all.len()].into());
    let set = RuleSet { group: "group".into(), inbound: list.clone(), outbound: list };
    Attachment::new(None, Some(Arc::new(set))).expect("a group")
}
