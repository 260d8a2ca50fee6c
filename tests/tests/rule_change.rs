//! A rule that comes while flows live ends those that it forbids, at once, and no other one: with the kernel's fast path, without it,
//! and when an owner dies meanwhile (D19). Needs root.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use qnat_ends::End;
use qnat_reference::packet::{ETH, UDP, addresses, be16, ipv4, udp};
use qnat_tests::lab::{Lab, json, ok, rows, wait_until};
use qnat_tests::resources::{self, Changes, file_of};
use qnat_tests::shared::{self, Check};
use serde_json::Value;

const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const BACKENDS: u8 = 4;
/// The first ports of each flow's two ends.
const FROM: u16 = 20_000;
const TO: u16 = 9_000;
const PATIENCE: Duration = Duration::from_secs(240);
/// Packets between two rests of the sender, and how long it rests: no more than an unoptimised member takes beside all others.
const BURST: usize = 30;
const REST: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    shared::run(vec![
        Check::new("a_rule_under_eight_thousand_flows_ends_those_that_it_forbids_and_no_other", |lab| {
            change_under(lab, Size { sources: 250, remotes: 8 });
        }),
        Check::long("a_rule_under_a_hundred_thousand_flows_ends_those_that_it_forbids_and_no_other", |lab| {
            change_under(lab, Size { sources: 960, remotes: 28 });
        }),
    ])
}

/// How many flows there are: of each backend so many ports, each to as many ports of the remote.
#[derive(Clone, Copy)]
struct Size {
    sources: u16,
    remotes: u16,
}

impl Size {
    fn flows(self) -> usize {
        usize::from(BACKENDS) * usize::from(self.sources) * usize::from(self.remotes)
    }

    /// Number of a backend, from 0, and the ports of both ends.
    fn ends_of(self, flow: usize) -> (usize, u16, u16) {
        let (sources, remotes) = (usize::from(self.sources), usize::from(self.remotes));
        let port = |base: u16, n: usize| base + u16::try_from(n).expect("a port");
        // Neighbours in the order are of other backends, so that none sends all of a burst.
        let (backend, rest) = (flow % usize::from(BACKENDS), flow / usize::from(BACKENDS));
        (backend, port(FROM, rest % sources), port(TO, rest / sources % remotes))
    }

    fn is_forbidden(self, flow: usize) -> bool {
        self.ends_of(flow).2.is_multiple_of(2)
    }

    fn forbidden(self) -> usize {
        (0..self.flows()).filter(|flow| self.is_forbidden(*flow)).count()
    }
}

/// What the remote has last seen of a flow.
#[derive(Clone, Copy)]
struct Seen {
    sent: Duration,
    arrived: Duration,
    public: (Ipv4Addr, u16),
    mac: [u8; 6],
}

/// Flows that a thread sends packets of, one after the other, and another one sees arrive.
struct Traffic {
    size: Size,
    begun: Instant,
    over: AtomicBool,
    seen: Mutex<Vec<Option<Seen>>>,
}

impl Traffic {
    fn seen(&self) -> MutexGuard<'_, Vec<Option<Seen>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn send(&self, ends: &[(End, [u8; 6])]) {
        for round in 0.. {
            for flow in 0..self.size.flows() {
                if self.over.load(Ordering::Relaxed) {
                    return;
                }
                if flow % BURST == 0 {
                    thread::sleep(REST);
                }
                let (backend, from, to) = self.size.ends_of(flow);
                let (end, gateway) = &ends[backend];
                let number = u32::try_from(flow).expect("few");
                let sent = u64::try_from(self.now().as_nanos()).expect("soon");
                let data = [&sent.to_be_bytes()[..], &number.to_be_bytes()].concat();
                let source = Ipv4Addr::new(10, 0, 1, u8::try_from(backend + 1).expect("few"));
                let frame = ipv4((end.mac, *gateway), source, REMOTE, UDP, &udp(from, to, &data));
                end.send(&frame).unwrap_or_else(|error| panic!("round {round}: {error:#}"));
            }
        }
    }

    fn receive(&self, inet: &End) {
        while !self.over.load(Ordering::Relaxed) {
            let Some(frame) = inet.next(Instant::now() + Duration::from_millis(100)).expect("a socket") else {
                continue;
            };
            let data = ETH + 28;
            let ours = frame.len() >= data + 12 && frame[ETH + 9] == UDP && addresses(&frame).1 == REMOTE;
            if !ours || be16(&frame, ETH + 22) < TO {
                continue;
            }
            let sent = u64::from_be_bytes(frame[data..data + 8].try_into().expect("eight octets"));
            let number = u32::from_be_bytes(frame[data + 8..data + 12].try_into().expect("four octets"));
            let seen = Seen {
                sent: Duration::from_nanos(sent),
                arrived: self.now(),
                public: (addresses(&frame).0, be16(&frame, ETH + 20)),
                mac: frame[6..12].try_into().expect("six octets"),
            };
            if let Some(place) = self.seen().get_mut(usize::try_from(number).expect("an index")) {
                *place = Some(seen);
            }
        }
    }

    /// Waits until of each of these flows a packet has arrived that was sent after a moment; their public ends.
    fn wait_for(
        &self,
        what: &str,
        after: Duration,
        wanted: impl Fn(usize) -> bool,
    ) -> BTreeMap<usize, (Ipv4Addr, u16)> {
        let begun = Instant::now();
        loop {
            let publics: BTreeMap<usize, (Ipv4Addr, u16)> = {
                let seen = self.seen();
                let late = |(flow, seen): (usize, &Option<Seen>)| {
                    seen.filter(|seen| seen.sent > after && wanted(flow)).map(|seen| (flow, seen.public))
                };
                seen.iter().enumerate().filter_map(late).collect()
            };
            let all = (0..self.size.flows()).filter(|flow| wanted(*flow)).count();
            if publics.len() == all {
                return publics;
            }
            let missing = all - publics.len();
            assert!(begun.elapsed() < PATIENCE, "{missing} of {all} flows are not {what}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The lab's resources; half of the remote's ports are forbidden to all backends, or none.
fn with_rule(size: Size, forbids: bool) -> String {
    let ports: Vec<String> =
        (TO..TO + size.remotes).filter(|port| port.is_multiple_of(2)).map(|port| port.to_string()).collect();
    let rule = format!(
        "[[security_group.rule]]\nname = \"half\"\npriority = 100\ndirection = \"outbound\"\naccess = \"deny\"\n\
         protocol = \"udp\"\ndestination_ports = [{}]\n",
        ports.join(", ")
    );
    let group = format!("[[security_group]]\nname = \"g\"\n{}", if forbids { rule } else { String::new() });
    let text = Changes { more: &group, ..Changes::default() }.text();
    text.replace("gateway = \"10.0.0.1\"\n", "gateway = \"10.0.0.1\"\nsecurity_group = \"g\"\n")
}

fn live() -> u64 {
    let status = json(&["status", "-o", "json"]);
    rows(&status["shards"]).filter_map(|row| row["live"].as_u64()).sum()
}

fn change_under(lab: &Lab, size: Size) {
    resources::apply(&with_rule(size, false));
    let ends: Vec<(End, [u8; 6])> = (1..=BACKENDS).map(|n| end_of(&format!("b{n}"))).collect();
    let inet = End::open("qnat-inet", "eth0").expect("a raw socket outside");
    let _silent: Vec<_> =
        ends.iter().map(|(end, _)| end).chain([&inet]).map(|end| end.silence().expect("nft")).collect();
    let traffic = Traffic {
        size,
        begun: Instant::now(),
        over: AtomicBool::new(false),
        seen: Mutex::new(vec![None; size.flows()]),
    };
    thread::scope(|scope| {
        scope.spawn(|| traffic.send(&ends));
        scope.spawn(|| traffic.receive(&inet));
        let ends_with_us = Over(&traffic.over);
        set_cache("off");
        ends_what_it_forbids(&traffic, "without the kernel's fast path", None);
        allow_all(size);
        set_cache("eager");
        ends_what_it_forbids(&traffic, "with the kernel's fast path", None);
        set_cache("off");
        allow_all(size);
        ends_what_it_forbids(&traffic, "with an owner killed meanwhile", Some(lab));
        drop(ends_with_us);
    });
}

/// Ends the traffic, also if a check fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn set_cache(turn: &str) {
    for node in 1..=3 {
        ok(&["cache", turn, "--node", &format!("n{node}")]);
    }
}

fn allow_all(size: Size) {
    resources::apply(&with_rule(size, false));
}

fn end_of(backend: &str) -> (End, [u8; 6]) {
    let end = End::open(&format!("qnat-{backend}"), "eth0").expect("a raw socket inside");
    // It asks for the gateway, and opens nothing that would idle out meanwhile.
    end.hello(GATEWAY).expect("an interface");
    let gateway = end.neighbour(GATEWAY).expect("the gateway answers");
    (end, gateway)
}

/// Applies the rule while all flows live. Where a lab is given, the owner of b1's shard is killed as the order is given.
fn ends_what_it_forbids(traffic: &Traffic, how: &str, killing: Option<&Lab>) {
    let size = traffic.size;
    let before = traffic.wait_for("open", traffic.now(), |_| true);
    let others = live() - u64::try_from(size.flows()).expect("few");
    let (shards, owner) = (json(&["get", "shards", "-o", "json"]), killing.map(|lab| lab.owner_of("b1")));
    // Whoever is asked has to live on.
    let asked = owner.map_or(1, |owner| owner % 3 + 1);
    let ordered = traffic.now();
    let answer = thread::scope(|scope| {
        let order = scope.spawn(|| {
            let file = file_of(&with_rule(size, true));
            let path = file.path().to_str().expect("a plain path").to_owned();
            json(&["apply", "--yes", "-o", "json", "-f", &path, "--node", &format!("n{asked}")])
        });
        if let Some(lab) = killing {
            let killed = lab.kill_owner_of("b1");
            lab.wait_for_successor("b1", killed);
        }
        order.join().expect("it is applied")
    });
    let answered = traffic.now();
    // From here on every member judges by it: what is sent later and is forbidden does not arrive.
    let after = traffic.wait_for("kept", answered, |flow| !size.is_forbidden(flow));
    let moved: Vec<_> = after.iter().filter(|(flow, public)| before[*flow] != **public).collect();
    assert!(moved.is_empty(), "{how}: no other flow is touched: {moved:?}");
    let late: Vec<(usize, Duration)> = {
        let seen = traffic.seen();
        let all = seen.iter().enumerate().filter(|(flow, _)| size.is_forbidden(*flow));
        all.filter_map(|(flow, seen)| seen.map(|seen| (flow, seen.sent))).filter(|(_, sent)| *sent > answered).collect()
    };
    assert!(late.is_empty(), "{how}: {} forbidden flows went on: {:?}", late.len(), late.first());
    let allowed = u64::try_from(size.flows() - size.forbidden()).expect("few");
    wait_until("the mappings of the others to be all that is left", Duration::from_secs(30), || {
        live() == allowed + others
    });
    if killing.is_none() {
        let cut = &answer["flows_cut"];
        let (counted, forbidden) = (cut["flows"].as_u64(), u64::try_from(size.forbidden()).ok());
        let is_whole = rows(&cut["uncounted_shards"]).count() == 0;
        // An owner that is not through with its flows within two seconds is named.
        assert!(counted == forbidden || (!is_whole && counted < forbidden), "{how}: {answer:#}");
    }
    told(traffic, how, &shards, (ordered, answered));
    if let Some(lab) = killing {
        lab.restart_the_dead();
    }
}

/// Prints when the last forbidden packet came by each shard's address.
fn told(traffic: &Traffic, how: &str, shards: &Value, (ordered, answered): (Duration, Duration)) {
    let mut last: BTreeMap<[u8; 6], Duration> = BTreeMap::new();
    for (flow, seen) in traffic.seen().iter().enumerate() {
        if let Some(seen) = seen.filter(|_| traffic.size.is_forbidden(flow)) {
            let arrived = last.entry(seen.mac).or_default();
            *arrived = seen.arrived.max(*arrived);
        }
    }
    let ms = |from: Duration, to: Duration| (to.as_secs_f64() - from.as_secs_f64()) * 1e3;
    eprintln!(
        "{how}: {} of {} flows forbidden; answered {:.0} ms after the order",
        traffic.size.forbidden(),
        traffic.size.flows(),
        ms(ordered, answered)
    );
    for (mac, arrived) in last {
        let text: Vec<String> = mac.iter().map(|octet| format!("{octet:02x}")).collect();
        let text = text.join(":");
        let shard = rows(shards).find(|row| row["virtual_mac"] == text.as_str()).map(|row| row["shard"].to_string());
        let whose = shard.map_or_else(|| format!("in grace, {text}"), |shard| format!("shard {shard}"));
        eprintln!("  {whose}: the last forbidden packet came {:.0} ms after the order", ms(ordered, arrived));
    }
}
