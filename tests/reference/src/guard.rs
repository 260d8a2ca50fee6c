//! Who may begin a flow with the backend that has an address of its own, naively (S24, S26, S29): the first rule that takes a packet
//! decides. Compiled to a security group of that backend's card.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;

use engine::ids::BackendId;
use engine::nsg::{
    Access, Attachment, Attachments, Direction, Label, List, Origin, Protocol, Range, Rule, RuleSet, Rules, rule_key,
};

use crate::packet::{ICMP, TCP, UDP};

/// A rule for what comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Door {
    /// Whether it lets in what it takes.
    pub open: bool,
    /// `TCP` or `UDP`; else any.
    pub proto: Option<u8>,
    /// From whom; else from anybody.
    pub from: Option<Ipv4Addr>,
    /// To which port; else to any.
    pub port: Option<u16>,
}

impl Door {
    fn takes(&self, proto: u8, remote: Ipv4Addr, near: u16) -> bool {
        // A ping has no port, so that no rule about ports takes it.
        let port = self.port.is_none_or(|port| proto != ICMP && port == near);
        port && self.proto.is_none_or(|one| one == proto) && self.from.is_none_or(|from| from == remote)
    }

    fn rule(&self) -> Rule {
        let one = |value: Option<u32>| value.map(Range::one).into_iter().collect();
        Rule {
            protocol: match self.proto {
                Some(TCP) => Protocol::Tcp,
                Some(UDP) => Protocol::Udp,
                _ => Protocol::Any,
            },
            sources: one(self.from.map(Ipv4Addr::to_bits)),
            source_ports: Vec::new(),
            destinations: Vec::new(),
            destination_ports: one(self.port.map(u32::from)),
            access: access(self.open),
        }
    }
}

/// The rules, in their order, and whether what none of them takes may come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guard {
    /// Some of them may be none.
    pub doors: [Option<Door>; 2],
    /// All others.
    pub others: bool,
}

impl Guard {
    /// Nobody is kept out.
    pub const OPEN: Self = Self { doors: [None; 2], others: true };

    /// Whether a packet of a remote to this port may begin something.
    #[must_use]
    pub fn admits(&self, proto: u8, remote: Ipv4Addr, near: u16) -> bool {
        let taken = self.doors.iter().flatten().find(|door| door.takes(proto, remote, near));
        taken.map_or(self.others, |door| door.open)
    }

    /// The group of this backend; without a rule there is none.
    pub(crate) fn groups(&self, backend: BackendId) -> Attachments {
        let any = |open| Door { open, proto: None, from: None, port: None }.rule();
        let inbound: Vec<Rule> = self.doors.iter().flatten().map(Door::rule).chain([any(self.others)]).collect();
        let (inbound, outbound) = (list(Direction::Inbound, &inbound), list(Direction::Outbound, &[any(true)]));
        let group = (*self != Self::OPEN).then(|| Arc::new(RuleSet { group: "guard".into(), inbound, outbound }));
        Attachment::new(None, group).map(|attachment| (backend, Arc::new(attachment))).into_iter().collect()
    }
}

const fn access(open: bool) -> Access {
    if open { Access::Allow } else { Access::Deny }
}

fn list(way: Direction, rules: &[Rule]) -> List {
    let mut stamp = DefaultHasher::new();
    format!("{rules:?}").hash(&mut stamp);
    let label = |n: usize| {
        let name = format!("r{n}");
        Label { key: rule_key("guard", way, &name), name: name.into(), priority: 100, origin: Origin::User }
    };
    let label_of = (0..rules.len()).map(|n| u16::try_from(n).expect("few")).collect();
    List::new(Arc::new(Rules::new(rules)), stamp.finish(), (0..rules.len()).map(label).collect(), label_of)
}
