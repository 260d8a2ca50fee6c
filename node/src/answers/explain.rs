//! What becomes of a packet, and why.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{FlowRow, Remedy};

/// The explanation of one packet, by the member that judges it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Explained {
    /// Who says so.
    pub node: u32,
    /// The configuration that it judges by.
    pub control_index: u64,
    /// `Outbound`: from a backend; `Inbound`: from outside.
    pub direction: String,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// Address and port; of a ping the identifier.
    pub source: String,
    /// Address and port.
    pub destination: String,
    /// Whose packet it is: instance/ip_configuration.
    pub backend: Option<String>,
    /// The shard that judges it.
    pub shard: Option<u16>,
    /// Who owns that.
    pub owner: Option<u32>,
    /// In which term.
    pub term: Option<u64>,
    /// What security groups say.
    #[serde(rename = "networkSecurityGroupResult")]
    pub groups: GroupResult,
    /// Members of the pool that it comes to who get no new flows, and why, the first few.
    pub passed_over: Vec<PassedOver>,
    /// The mapping that it belongs to.
    pub mapping: Option<FlowRow>,
    /// Who takes it outside.
    pub next_hop: Option<Ipv4Addr>,
    /// `passes`: by a mapping; `opens`: one, and then passes; `opens_if_free`: the same, if one of
    /// very many ports is free; `waits`: for one that opens; `dropped`; `not_served`: nobody who
    /// owns its shard answered; `not_told`: it depends on what no dump has.
    pub verdict: String,
    /// Why it is dropped, as `qnat counters` counts it.
    pub reason: Option<String>,
    /// If its backend has no way out: what the configuration says of that. If it has no port for it: since all are taken.
    pub why: Option<String>,
    /// And what helps.
    pub remedy: Option<String>,
    /// If no port is free towards its remote: when the first one that is held comes back, in ms from now, as far as known (S12).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_in_ms: Option<u64>,
    /// And what helps then, each with its condition and its price (S17).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remedies: Vec<Remedy>,
    /// The right under which it leaves.
    pub scenario: Option<String>,
    /// What it leaves as, or who gets it inside.
    pub translated: Option<String>,
    /// The own address of the backend that gets it, if it keeps the frontend's as its destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floats_to: Option<Ipv4Addr>,
    /// Who gets it, if it is for a public address of the same member's.
    pub turned_to: Option<String>,
    /// Why nobody gets it there.
    pub turned_away: Option<String>,
    /// Out of a dump: the fields that depend on what no dump has. Of `translated` the address may be known without its port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_in_dump: Vec<String>,
}

/// A member of a pool that gets no new flows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PassedOver {
    /// Which: instance/ip_configuration.
    pub backend: String,
    /// Why.
    pub why: String,
    /// The probe that says so: `load_balancer/probe`, or `instance NAME` for the machine's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
}

/// All groups together.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupResult {
    /// `Allow` or `Deny`.
    pub security_rule_access_result: String,
    /// Those that were asked, in their order.
    pub evaluated_network_security_groups: Vec<EvaluatedGroup>,
}

/// A group that was asked.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EvaluatedGroup {
    /// Its name.
    pub network_security_group_id: String,
    /// `subnet` or `networkInterface`.
    pub applied_to: String,
    /// The rule that decided.
    pub matched_rule: MatchedRule,
}

/// The rule that decided.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MatchedRule {
    /// `UserRule_NAME` or `DefaultRule_NAME`.
    pub rule_name: String,
    /// Its priority.
    pub priority: u16,
    /// `Allow` or `Deny`.
    pub action: String,
}
