//! What security rules cost under criterion: `cargo bench -p qnat-bench --bench classifier`. Judging by bit vectors beside asking
//! one rule after the other, for lists with ranges and prefixes, and compiling as many groups as a cluster may have.

use std::hint::black_box;
use std::io::Write as _;

use criterion::{BatchSize, BenchmarkId, Criterion};
use engine::nsg::{Access, Protocol, Range, Rule, Rules, Tuple};
use qnat_bench::engine::rounds::Draw;

/// Packets that are judged by turns.
const PACKETS: usize = 4_096;

/// Networks of /8 to /32.
fn prefix(draw: &mut Draw) -> Range {
    let span = u32::MAX >> (8 + draw.below(25));
    let first = draw.below(u32::MAX) & !span;
    Range { first, last: first | span }
}

fn ports(draw: &mut Draw) -> Range {
    let first = draw.below(65_000);
    Range { first, last: first + draw.below(500) }
}

/// A rule as augmented ones are: up to four networks and three ranges of ports.
fn rule(draw: &mut Draw) -> Rule {
    let mut networks = |most: u32| -> Vec<Range> { (0..draw.below(most + 1)).map(|_| prefix(draw)).collect() };
    let (sources, destinations) = (networks(2), networks(4));
    let destination_ports = (0..draw.below(4)).map(|_| ports(draw)).collect();
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Any][draw.below(3) as usize];
    let access = if draw.below(2) == 0 { Access::Allow } else { Access::Deny };
    // Who restricts nothing takes every packet: such rules stand last.
    let narrow = destinations.is_empty() && sources.is_empty();
    let destinations = if narrow { vec![prefix(draw)] } else { destinations };
    Rule { protocol, sources, source_ports: Vec::new(), destinations, destination_ports, access }
}

/// So many rules of one direction, the last of which takes all.
fn rules(draw: &mut Draw, count: usize) -> Vec<Rule> {
    let mut all: Vec<Rule> = (1..count).map(|_| rule(draw)).collect();
    let none = Vec::new;
    all.push(Rule {
        protocol: Protocol::Any,
        sources: none(),
        source_ports: none(),
        destinations: none(),
        destination_ports: none(),
        access: Access::Deny,
    });
    all
}

fn packets(draw: &mut Draw) -> Vec<Tuple> {
    let port = |draw: &mut Draw| u16::try_from(draw.below(65_536)).expect("a port");
    (0..PACKETS)
        .map(|_| Tuple {
            protocol: if draw.below(2) == 0 { 6 } else { 17 },
            source: draw.below(u32::MAX),
            source_port: port(draw),
            destination: draw.below(u32::MAX),
            destination_port: port(draw),
        })
        .collect()
}

/// One rule after the other.
fn in_turn(rules: &[Rule], packet: &Tuple) -> Option<(usize, Access)> {
    let holds = |all: &[Range], value: u32| all.is_empty() || all.iter().any(|r| r.first <= value && value <= r.last);
    let takes = |rule: &Rule| {
        let protocol = match rule.protocol {
            Protocol::Any => true,
            Protocol::Tcp => packet.protocol == 6,
            Protocol::Udp => packet.protocol == 17,
        };
        protocol
            && holds(&rule.destinations, packet.destination)
            && holds(&rule.destination_ports, packet.destination_port.into())
            && holds(&rule.sources, packet.source)
            && holds(&rule.source_ports, packet.source_port.into())
    };
    rules.iter().position(takes).map(|at| (at, rules[at].access))
}

fn judging(criterion: &mut Criterion) {
    for count in [10, 100, 1_000, 10_000] {
        let mut draw = Draw::new(count as u64);
        let (all, packets) = (rules(&mut draw, count), packets(&mut draw));
        let compiled = Rules::new(&all);
        assert!(packets.iter().all(|packet| compiled.judge(packet) == in_turn(&all, packet)), "the same verdicts");
        let mut group = criterion.benchmark_group(format!("a packet by {count} rules"));
        for (name, judge) in [
            ("bit vectors", &(|packet: &Tuple| compiled.judge(packet)) as &dyn Fn(&Tuple) -> Option<(usize, Access)>),
            ("in turn", &|packet| in_turn(&all, packet)),
        ] {
            let mut next = packets.iter().cycle();
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter(|| judge(black_box(next.next().expect("they go round"))));
            });
        }
    }
}

fn compiling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compiling");
    group.sample_size(10);
    for (groups, count) in [(1, 1_000), (1_000, 65), (65, 1_000), (1_000, 1_000)] {
        let mut draw = Draw::new(9);
        let declared: Vec<Vec<Rule>> = (0..groups).map(|_| rules(&mut draw, count)).collect();
        let compile = |all: &Vec<Vec<Rule>>| all.iter().map(|rules| Rules::new(rules)).collect::<Vec<Rules>>();
        let octets: usize = compile(&declared).iter().map(Rules::bytes).sum();
        let _closed = writeln!(std::io::stdout(), "{groups} groups of {count} rules: {octets} octets");
        group.bench_function(BenchmarkId::from_parameter(format!("{groups} groups of {count} rules")), |bencher| {
            bencher.iter_batched(|| (), |()| compile(&declared), BatchSize::PerIteration);
        });
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    judging(&mut criterion);
    compiling(&mut criterion);
    criterion.final_summary();
}
