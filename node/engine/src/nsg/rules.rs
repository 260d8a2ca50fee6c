//! The rules of a group in one direction, and the first of them that takes a packet.
//!
//! One set of bits per field (`field`), and the lowest bit that is in all five: bit vectors (Lakshman and Stiliadis, 1998) with a
//! summary that skips empty words (Baboescu and Varghese, 2001). A rule with lists of prefixes and ports, as augmented rules and tags have them, costs no more than one without: a
//! decision tree or a table of tuples would hold each combination.

use super::field::{Field, Range, WORD};

/// Most rules of a set.
pub const RULES_MAX: usize = 16_384;

/// What a rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// The flow may be.
    Allow,
    /// It may not.
    Deny,
}

/// The protocols that a rule takes (S29).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// All, ICMP too.
    Any,
}

impl Protocol {
    /// The protocols that rules can tell apart.
    const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Any];

    /// That of an IP protocol number: `Any` stands for all that rules have no word for.
    const fn of(number: u8) -> Self {
        match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            _ => Self::Any,
        }
    }

    const fn takes(self, packets: Self) -> bool {
        matches!((self, packets), (Self::Any, _) | (Self::Tcp, Self::Tcp) | (Self::Udp, Self::Udp))
    }
}

/// A rule; an empty list takes any value. Ports count for TCP and UDP alone: a packet of another protocol has none, and is taken
/// only by rules that take any.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Protocol.
    pub protocol: Protocol,
    /// Source addresses, as numbers.
    pub sources: Vec<Range>,
    /// Source ports.
    pub source_ports: Vec<Range>,
    /// Destination addresses, as numbers.
    pub destinations: Vec<Range>,
    /// Destination ports.
    pub destination_ports: Vec<Range>,
    /// What it does.
    pub access: Access,
}

/// What a packet is judged by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    /// IP protocol number.
    pub protocol: u8,
    /// Source address.
    pub source: u32,
    /// Source port; 0 for protocols without.
    pub source_port: u16,
    /// Destination address.
    pub destination: u32,
    /// Destination port; 0 for protocols without.
    pub destination_port: u16,
}

/// Compiled rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Per protocol that rules can tell apart, the rules that take it.
    protocols: [Box<[u64]>; 3],
    /// Source and destination addresses, source and destination ports.
    fields: [Field; 4],
    access: Box<[Access]>,
}

impl Rules {
    /// Compiles rules; the first is judged first.
    ///
    /// # Panics
    /// If there are more than [`RULES_MAX`]: whoever takes rules in refuses them by name.
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        assert!(rules.len() <= RULES_MAX, "refused where rules come in");
        let takes = |packets: Protocol| {
            let mut words = vec![0; rules.len().div_ceil(WORD)];
            for (at, _) in rules.iter().enumerate().filter(|(_, rule)| {
                let ports = !rule.source_ports.is_empty() || !rule.destination_ports.is_empty();
                rule.protocol.takes(packets) && !(ports && packets == Protocol::Any)
            }) {
                words[at / WORD] |= 1 << (at % WORD);
            }
            words.into_boxed_slice()
        };
        Self {
            protocols: Protocol::ALL.map(takes),
            fields: [
                Field::new(rules.iter().map(|rule| &*rule.sources)),
                Field::new(rules.iter().map(|rule| &*rule.destinations)),
                Field::new(rules.iter().map(|rule| &*rule.source_ports)),
                Field::new(rules.iter().map(|rule| &*rule.destination_ports)),
            ],
            access: rules.iter().map(|rule| rule.access).collect(),
        }
    }

    /// The first rule that takes the packet, by its place, and what it does; `None`: no rule does.
    #[must_use]
    pub fn judge(&self, tuple: &Tuple) -> Option<(usize, Access)> {
        let protocol = &self.protocols[Protocol::of(tuple.protocol) as usize];
        let values = [tuple.source, tuple.destination, tuple.source_port.into(), tuple.destination_port.into()];
        let [sources, destinations, from, to] = [0, 1, 2, 3].map(|at| self.fields[at].row(values[at]));
        for mask in 0..protocol.len().div_ceil(WORD) {
            let mut filled = from.filled(mask) & to.filled(mask) & sources.filled(mask) & destinations.filled(mask);
            while filled != 0 {
                let at = mask * WORD + filled.trailing_zeros() as usize;
                filled &= filled - 1;
                let all = protocol[at] & from.word(at) & to.word(at) & sources.word(at) & destinations.word(at);
                if all != 0 {
                    let rule = at * WORD + all.trailing_zeros() as usize;
                    return Some((rule, self.access[rule]));
                }
            }
        }
        None
    }

    /// Octets of memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let fields: usize = self.fields.iter().map(Field::bytes).sum();
        let protocols: usize = self.protocols.iter().map(|words| size_of_val(&**words)).sum();
        fields + protocols + size_of_val(&*self.access)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// The first rule in order that takes the packet.
    fn naive(rules: &[Rule], packet: &Tuple) -> Option<(usize, Access)> {
        let within =
            |ranges: &[Range], value: u32| ranges.is_empty() || ranges.iter().any(|range| range.contains(value));
        let has_ports = packet.protocol == 6 || packet.protocol == 17;
        let takes = |rule: &&Rule| {
            let protocol = match rule.protocol {
                Protocol::Tcp => packet.protocol == 6,
                Protocol::Udp => packet.protocol == 17,
                Protocol::Any => true,
            };
            let ports = if has_ports {
                within(&rule.source_ports, packet.source_port.into())
                    && within(&rule.destination_ports, packet.destination_port.into())
            } else {
                rule.source_ports.is_empty() && rule.destination_ports.is_empty()
            };
            protocol && ports && within(&rule.sources, packet.source) && within(&rule.destinations, packet.destination)
        };
        rules.iter().enumerate().find(|(_, rule)| takes(rule)).map(|(at, rule)| (at, rule.access))
    }

    /// Few values, so that rules and packets meet at their edges, and both ends of the space.
    fn address() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..6, 0x0a00_0000_u32..0x0a00_0006, Just(u32::MAX - 1), Just(u32::MAX)]
    }

    fn port() -> impl Strategy<Value = u16> {
        prop_oneof![0u16..4, 78u16..82, Just(u16::MAX)]
    }

    fn ranges(value: impl Strategy<Value = u32> + Clone) -> impl Strategy<Value = Vec<Range>> {
        let range = (value.clone(), value).prop_map(|(a, b)| Range { first: a.min(b), last: a.max(b) });
        prop_oneof![Just(Vec::new()), proptest::collection::vec(range, 1..4)]
    }

    prop_compose! {
        fn rule()(
            protocol in select(&[Protocol::Tcp, Protocol::Udp, Protocol::Any][..]),
            sources in ranges(address().boxed()), destinations in ranges(address().boxed()),
            source_ports in ranges(port().prop_map(u32::from).boxed()),
            destination_ports in ranges(port().prop_map(u32::from).boxed()),
            access in select(&[Access::Allow, Access::Deny][..]),
        ) -> Rule {
            Rule { protocol, sources, source_ports, destinations, destination_ports, access }
        }
    }

    prop_compose! {
        fn packet()(
            protocol in select(&[1u8, 6, 17, 47][..]), source in address(), destination in address(),
            source_port in port(), destination_port in port(),
        ) -> Tuple {
            let has_ports = protocol == 6 || protocol == 17;
            let [source_port, destination_port] = [source_port, destination_port].map(|port| if has_ports { port } else { 0 });
            Tuple { protocol, source, source_port, destination, destination_port }
        }
    }

    proptest! {
        #[test]
        fn the_first_rule_that_takes_a_packet_decides(
            rules in proptest::collection::vec(rule(), 0..200), packets in proptest::collection::vec(packet(), 1..100),
        ) {
            let compiled = Rules::new(&rules);
            for packet in packets {
                prop_assert_eq!(compiled.judge(&packet), naive(&rules, &packet), "{:?}", packet);
            }
        }
    }

    #[test]
    fn more_rules_than_one_summary_word_has_are_judged_in_order() {
        let port = |port: u32| Rule {
            protocol: Protocol::Tcp,
            sources: Vec::new(),
            source_ports: Vec::new(),
            destinations: vec![Range::one(port)],
            destination_ports: vec![Range::one(port)],
            access: Access::Deny,
        };
        let rules: Vec<Rule> = (0..10_000).map(port).collect();
        let compiled = Rules::new(&rules);
        for at in [0u16, 63, 64, 4_095, 4_096, 9_999, 10_000] {
            let packet = Tuple { protocol: 6, source: 1, source_port: 1, destination: at.into(), destination_port: at };
            assert_eq!(compiled.judge(&packet), (at < 10_000).then_some((at.into(), Access::Deny)));
        }
    }

    #[test]
    fn no_rule_decides_about_nothing() {
        let packet = Tuple { protocol: 6, source: 1, source_port: 1, destination: 1, destination_port: 1 };
        assert_eq!(Rules::new(&[]).judge(&packet), None);
    }
}
