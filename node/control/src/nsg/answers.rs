//! What groups would say (S34): the verdict on a packet that nobody has sent, and the rules that judge an interface, both
//! from what the packet path judges by (`compiling`, `engine::nsg`). Changes nothing.

use std::fmt;
use std::net::SocketAddrV4;
use std::sync::Arc;

use engine::nsg::{self, Attachment, Origin, Tuple, verdict};
use serde::{Deserialize, Serialize};

use super::compiling::{attachment_of, groups_of, ordered, way};
use super::model::{Addresses, Direction, Model, Rule, SecurityGroup};
use super::ranges;
use super::rows::{Reference, RuleProperties, direction_word};
use super::scope::{End, Members, Scope};
use crate::resource::{Desired, Instance, IpConfiguration};
use crate::state::State;

/// Protocols that can be asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FlowProtocol {
    /// TCP.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
}

/// The first packet of a flow that somebody asks about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowQuestion {
    /// The network interface.
    pub nic: String,
    /// To it or from it.
    pub direction: Direction,
    /// The protocol.
    pub protocol: FlowProtocol,
    /// The interface's end.
    pub local: SocketAddrV4,
    /// The other end.
    pub remote: SocketAddrV4,
}

/// The verdict, beside what was asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IpFlow {
    /// The network interface.
    #[serde(rename = "targetResourceId")]
    pub target_resource_id: String,
    /// `Inbound` or `Outbound`.
    pub direction: String,
    /// `TCP` or `UDP`.
    pub protocol: FlowProtocol,
    /// The interface's port.
    #[serde(rename = "localPort")]
    pub local_port: u16,
    /// The other end's.
    #[serde(rename = "remotePort")]
    pub remote_port: u16,
    /// The interface's address.
    #[serde(rename = "localIPAddress")]
    pub local_ip_address: String,
    /// The other end's.
    #[serde(rename = "remoteIPAddress")]
    pub remote_ip_address: String,
    /// `Allow` or `Deny`.
    pub access: String,
    /// `securityRules/NAME` or `defaultSecurityRules/NAME`; empty if no group judges.
    #[serde(rename = "ruleName")]
    pub rule_name: String,
    /// The group that decided.
    #[serde(rename = "networkSecurityGroup", default)]
    pub network_security_group: Option<String>,
    /// What it is attached to: `subnet` or `networkInterface`.
    #[serde(default)]
    pub association: Option<String>,
    /// The rule's priority.
    #[serde(default)]
    pub priority: Option<u16>,
    /// The configuration that says so.
    #[serde(rename = "controlIndex", default)]
    pub control_index: u64,
}

/// The rules that judge an interface: a list for each group.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EffectiveRules {
    /// The subnet's group and the interface's, in the order in which they judge what comes in.
    pub value: Vec<EffectiveGroup>,
    /// Members that did not say how often rules have decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<u32>,
    /// Hits of these or other rules that members had no room to tell apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hits_lost: Option<u64>,
}

/// Those of one group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveGroup {
    /// The group.
    pub network_security_group: Reference,
    /// What it is attached to.
    pub association: Association,
    /// Its rules, default ones too, in the order in which they are judged.
    pub effective_security_rules: Vec<EffectiveRule>,
}

/// What a group is attached to: one of the two.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Association {
    /// `virtual_network/subnet`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Reference>,
    /// The network interface; the instance in the classic model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_interface: Option<Reference>,
}

/// A rule, and the addresses that its tags and groups stand for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveRule {
    /// What its hits are found by.
    #[serde(skip)]
    pub key: u64,
    /// How often it has decided, wherever its group is attached: about first packets, and about flows that a change had judged
    /// again. As far as members have counted since they hold their shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hits: Option<u64>,
    /// `securityRules/NAME` or `defaultSecurityRules/NAME`.
    pub name: String,
    /// What it says.
    #[serde(flatten)]
    pub properties: RuleProperties,
    /// The networks that a tag or a group as source stands for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expanded_source_address_prefix: Vec<String>,
    /// The same of the destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expanded_destination_address_prefix: Vec<String>,
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unanswered {
    /// Nothing is called so.
    #[error("nic {nic} does not exist; use one of: qnat get nics")]
    NoNic {
        /// The name.
        nic: String,
    },
    /// The interface has other addresses.
    #[error("{address} is no address of nic {nic}, which has {known}; ask with one of them as the local end")]
    NoAddress {
        /// What was asked about.
        address: String,
        /// The interface.
        nic: String,
        /// Its addresses.
        known: String,
    },
}

/// An IP configuration, and whose it is.
type Owned<'a> = (&'a str, &'a Instance, &'a IpConfiguration);

/// The IP configurations of an interface, which is named in any case.
fn of_nic<'a>(desired: &'a Desired, nic: &'a str) -> impl Iterator<Item = Owned<'a>> + 'a {
    let all = desired.instances.iter();
    let all = all.flat_map(|(name, i)| i.ip_configurations.iter().map(move |ip| (name.as_str(), i, ip)));
    all.filter(move |(instance, _, ip)| match &ip.nic {
        Some(of) => of.eq_ignore_ascii_case(nic),
        None => nic.split_once('/').is_some_and(|(owner, own)| owner == *instance && own == ip.name),
    })
}

fn rule_name(name: &str, origin: Origin) -> String {
    match origin {
        Origin::User => format!("securityRules/{name}"),
        Origin::Default => format!("defaultSecurityRules/{name}"),
    }
}

/// What groups say of a packet.
///
/// # Errors
/// [`Unanswered`].
pub fn ip_flow(state: &State, asked: &FlowQuestion) -> Result<IpFlow, Unanswered> {
    let desired = state.desired();
    let all: Vec<Owned<'_>> = of_nic(desired, &asked.nic).collect();
    let declared = desired.nics.keys().any(|name| name.eq_ignore_ascii_case(&asked.nic));
    if all.is_empty() && !declared {
        return Err(Unanswered::NoNic { nic: asked.nic.clone() });
    }
    let Some((_, instance, ip)) = all.iter().find(|(_, _, ip)| ip.private_ip == *asked.local.ip()) else {
        let known: Vec<String> = all.iter().map(|(_, _, ip)| ip.private_ip.to_string()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let address = asked.local.ip().to_string();
        return Err(Unanswered::NoAddress { address, nic: asked.nic.clone(), known });
    };
    let attachment = attachment_of(state, instance.security_group.as_deref(), ip);
    Ok(judged(state, asked, attachment))
}

fn judged(state: &State, asked: &FlowQuestion, attachment: Option<Arc<Attachment>>) -> IpFlow {
    let (from, to, direction) = match asked.direction {
        Direction::Inbound => (asked.remote, asked.local, nsg::Direction::Inbound),
        Direction::Outbound => (asked.local, asked.remote, nsg::Direction::Outbound),
    };
    let tuple = Tuple {
        protocol: match asked.protocol {
            FlowProtocol::Tcp => 6,
            FlowProtocol::Udp => 17,
        },
        source: from.ip().to_bits(),
        source_port: from.port(),
        destination: to.ip().to_bits(),
        destination_port: to.port(),
    };
    let verdict = verdict(direction, attachment.as_deref(), &tuple);
    let decision = verdict.decision;
    let rule = decision.and_then(|decision| decision.rule);
    IpFlow {
        target_resource_id: asked.nic.clone(),
        direction: direction_word(asked.direction).into(),
        protocol: asked.protocol,
        local_port: asked.local.port(),
        remote_port: asked.remote.port(),
        local_ip_address: asked.local.ip().to_string(),
        remote_ip_address: asked.remote.ip().to_string(),
        access: match verdict.access {
            nsg::Access::Allow => "Allow",
            nsg::Access::Deny => "Deny",
        }
        .into(),
        rule_name: rule.map(|rule| rule_name(&rule.name, rule.origin)).unwrap_or_default(),
        network_security_group: decision.map(|decision| decision.group.to_owned()),
        association: decision.map(|decision| {
            match decision.place {
                nsg::Place::Subnet => "subnet",
                nsg::Place::Card => "networkInterface",
            }
            .into()
        }),
        priority: rule.map(|rule| rule.priority),
        control_index: state.index().0,
    }
}

/// The rules that judge an interface.
///
/// # Errors
/// [`Unanswered::NoNic`].
pub fn effective_rules(state: &State, nic: &str) -> Result<EffectiveRules, Unanswered> {
    let desired = state.desired();
    let Some((instance, of, ip)) = of_nic(desired, nic).next() else {
        return Err(Unanswered::NoNic { nic: nic.into() });
    };
    let (subnet, card) = groups_of(desired, of.security_group.as_deref(), ip);
    let members = Members::of(desired);
    let scope = Scope::of(desired, &ip.virtual_network, state.service_tags(), &members);
    let at = |id: String| Some(Reference { id });
    let on_card = if of.security_group.is_some() { instance.to_owned() } else { nic.to_owned() };
    let places = [
        (subnet, Association { subnet: at(format!("{}/{}", ip.virtual_network, ip.subnet)), ..Association::default() }),
        (card, Association { network_interface: at(on_card), ..Association::default() }),
    ];
    let of_group = |(name, association): (Option<&str>, Association)| {
        let group = desired.security_groups.get(name?)?;
        Some(EffectiveGroup {
            network_security_group: Reference { id: name?.to_owned() },
            association,
            effective_security_rules: effective(&scope, (name?, group)),
        })
    };
    Ok(EffectiveRules { value: places.into_iter().filter_map(of_group).collect(), ..EffectiveRules::default() })
}

fn effective(scope: &Scope<'_>, (of, group): (&str, &SecurityGroup)) -> Vec<EffectiveRule> {
    let directions = [Direction::Inbound, Direction::Outbound].into_iter();
    let all = directions.flat_map(|direction| ordered(group, direction));
    all.map(|(name, rule, origin)| effective_rule(scope, (of, group.model), (&name, &rule, origin))).collect()
}

fn effective_rule(
    scope: &Scope<'_>,
    (group, model): (&str, Model),
    (name, rule, origin): (&str, &Rule, Origin),
) -> EffectiveRule {
    let expanded = |addresses: &Addresses, end| -> Vec<String> {
        let is_word = matches!(addresses, Addresses::Tag(_) | Addresses::Members(_));
        let ranges = scope.resolve(addresses, end).filter(|_| is_word).unwrap_or_default();
        ranges::prefixes(&ranges).iter().map(ToString::to_string).collect()
    };
    EffectiveRule {
        key: nsg::rule_key(group, way(rule.direction), name),
        hits: None,
        name: rule_name(name, origin),
        expanded_source_address_prefix: expanded(&rule.source, End::Source),
        expanded_destination_address_prefix: expanded(&rule.destination, End::Destination),
        properties: RuleProperties::of(rule, model),
    }
}

impl fmt::Display for FlowProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}
