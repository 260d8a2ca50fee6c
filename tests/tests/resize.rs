//! Pools that grow past their tiers and shrink again under flows that use up what their backends have, on real packets, with
//! owners killed in between. Needs root.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use qnat_ends::{End, Silence, across};
use qnat_reference::packet::{ETH, UDP, addresses, be16, examine, ipv4, udp};
use qnat_tests::lab::{Lab, json, ok, rows, run, wait_until};
use qnat_tests::resources::{self, Changes, file_of, instances};
use qnat_tests::{checks, shared};

const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);
const PATIENCE: Duration = Duration::from_secs(30);
/// The inside port of a backend's first flow.
const FIRST: u16 = 20_000;
/// What a pool of up to 50 grants.
const GRANT: u16 = 1_024;

fn main() -> ExitCode {
    shared::run_in(
        || Lab::up_as(3, &["--backends", "50", "--file", file_of(&pool_of(50)).path().to_str().expect("a plain path")]),
        |lab| lab.mend_by(&pool_of(50)),
        checks![
            a_pool_that_grows_twice_and_shrinks_again_ends_the_flows_that_it_said_and_no_other_one,
            a_backend_without_a_port_left_for_a_remote_gets_an_address_of_its_own_and_has_all_at_once,
            pools_of_every_size_grant_each_instance_the_ports_of_their_tier,
        ],
    )
}

/// A pool of so many instances, fifty of which are there, behind one frontend. What is taken back is fenced after three seconds: an
/// owner that is killed at once has not done it.
fn pool_of(count: u32) -> String {
    let more = instances(5..=count) + "[settings]\norphan_grace_ms = 1000\nhold_ms = [3000, 3000, 3000, 3000, 3000]\n";
    let text = Changes { more: &more, ..Changes::default() }.text();
    text.replace("\"pip1\", \"pip2\", \"pip3\"", "\"pip1\"")
}

/// A public end.
type Public = (Ipv4Addr, u16);

/// A backend's end, and the public ends of its flows by their inside ports.
struct Sender {
    name: String,
    end: End,
    gateway: [u8; 6],
    address: Ipv4Addr,
    flows: BTreeMap<u16, Public>,
    /// The public ports of what else it has sent: its own stack, to learn its neighbour, and to other remotes.
    others: Vec<u16>,
    _silence: Silence,
}

impl Sender {
    fn new(lab: &Lab, number: u8) -> Self {
        let name = format!("b{number}");
        let end = End::open(&format!("qnat-{name}"), "eth0").expect("a raw socket inside");
        end.hello(REMOTE).expect("a way out");
        let gateway = end.neighbour(GATEWAY).expect("the gateway answers");
        let silence = end.silence().expect("nft");
        let address = Ipv4Addr::new(10, 0, 1, number);
        let mut hello = Vec::new();
        wait_until("the first mapping to be listed", PATIENCE, || {
            hello = lab.udp_ports(&address.to_string(), &REMOTE.to_string());
            !hello.is_empty()
        });
        Self { name, end, gateway, address, flows: BTreeMap::new(), others: hello, _silence: silence }
    }

    /// What its flows are told apart by: the last octet of its address, and the inside port.
    fn mark(&self, port: u16) -> [u8; 3] {
        let [high, low] = port.to_be_bytes();
        [self.address.octets()[3], high, low]
    }

    /// Sends a datagram of each of these flows to a port of the remote; the public ends of those that arrived.
    fn out(&self, inet: &End, ports: impl IntoIterator<Item = u16>, remote_port: u16) -> BTreeMap<u16, Public> {
        let frame = |port| {
            let data = udp(port, remote_port, &self.mark(port));
            ipv4((self.end.mac, self.gateway), self.address, REMOTE, UDP, &data)
        };
        let frames: Vec<Vec<u8>> = ports.into_iter().map(frame).collect();
        let ours = |frame: &[u8]| {
            let ours = is_datagram(frame) && addresses(frame).1 == REMOTE && be16(frame, ETH + 22) == remote_port;
            (ours && marked(frame)[0] == self.address.octets()[3]).then(|| marked(frame))
        };
        let seen = across((&self.end, inet), &frames, ours, marked).expect("sockets");
        let public = |frame: &[u8]| (addresses(frame).0, be16(frame, ETH + 20));
        seen.into_iter().map(|(mark, frame)| (be16(&mark, 1), public(&frame))).collect()
    }

    /// Sends an answer to each of its flows from a port of the remote; those that it reached.
    fn back(&self, inet: &End, shard: [u8; 6], remote_port: u16) -> BTreeSet<u16> {
        let frame = |(port, (address, public)): (&u16, &Public)| {
            let data = udp(remote_port, *public, &self.mark(*port));
            ipv4((inet.mac, shard), REMOTE, *address, UDP, &data)
        };
        let frames: Vec<Vec<u8>> = self.flows.iter().map(frame).collect();
        let ours = |frame: &[u8]| {
            let ours = is_datagram(frame) && addresses(frame) == (REMOTE, self.address);
            // Where it arrives is where it was sent from.
            (ours && marked(frame) == self.mark(be16(frame, ETH + 22))).then(|| marked(frame))
        };
        let seen = across((inet, &self.end), &frames, ours, marked).expect("sockets");
        seen.into_keys().map(|mark| be16(&mark, 1)).collect()
    }

    /// Its flows on some public ports.
    fn on(&self, ports: &BTreeSet<u16>) -> BTreeSet<u16> {
        self.flows.iter().filter(|(_, (_, public))| ports.contains(public)).map(|(port, _)| *port).collect()
    }

    /// How many of its other flows are on some public ports.
    fn others_on(&self, ports: &BTreeSet<u16>) -> usize {
        self.others.iter().filter(|port| ports.contains(port)).count()
    }
}

/// A datagram of a test's, whose checksums are right.
fn is_datagram(frame: &[u8]) -> bool {
    let is = frame.len() >= ETH + 31 && frame[ETH + 9] == UDP;
    if is {
        examine(frame).expect("checksums");
    }
    is
}

fn marked(frame: &[u8]) -> [u8; 3] {
    frame[ETH + 28..ETH + 31].try_into().expect("three octets")
}

/// The ports that each backend is granted.
fn leases() -> BTreeMap<String, BTreeSet<u16>> {
    let all = json(&["ports", "-o", "json"]);
    let end =
        |block: &serde_json::Value, end: &str| u16::try_from(block[end].as_u64().expect("a port")).expect("a port");
    let ports = |row: &serde_json::Value| {
        rows(&row["lease"]).flat_map(|block| end(block, "first")..=end(block, "last")).collect()
    };
    let backend = |row: &serde_json::Value| row["backend"].as_str()?.strip_suffix("/ipconfig1").map(str::to_owned);
    rows(&all["backends"]).filter_map(|row| Some((backend(row)?, ports(row)))).collect()
}

/// The Ethernet address of the shard in which a pool with one frontend is.
fn shard_of(lab: &Lab) -> [u8; 6] {
    let shard = u16::try_from(lab.ports_of("b1")["shard"].as_u64().expect("a number")).expect("a small one");
    let shards = json(&["get", "shards", "-o", "json"]);
    let row = rows(&shards).find(|row| row["shard"] == shard).expect("the shard");
    let mut mac = [0; 6];
    let text = row["virtual_mac"].as_str().expect("an address");
    for (octet, text) in mac.iter_mut().zip(text.split(':')) {
        *octet = u8::from_str_radix(text, 16).expect("an octet");
    }
    mac
}

/// Applies a pool of another size, and kills the owner of its flows as soon as that is committed. Returns how many flows the plan
/// and the answer say that it takes.
fn resize(lab: &Lab, count: u32) -> u64 {
    let file = file_of(&pool_of(count));
    let path = file.path().to_str().expect("a plain path");
    let plan = json(&["apply", "--dry-run", "-o", "json", "-f", path]);
    assert_eq!(rows(&plan["uncounted_shards"]).count(), 0, "{plan}");
    let owner = lab.owner_of("b1");
    let said = ok(&["apply", "--yes", "-f", path]);
    ok(&["lab", "kill", &format!("n{owner}")]);
    let taken = plan["flows_taken"].as_u64().expect("a number");
    assert!(taken == 0 || said.contains(&format!("{taken} live flows are on the ports that go back")), "{said}");
    lab.wait_for_successor("b1", owner);
    taken
}

/// Waits until each has so many ports, and none of them is on its way back; the ports that they have.
fn wait_for(senders: &[Sender], ports: u16) -> BTreeMap<String, BTreeSet<u16>> {
    let mut all = leases();
    wait_until(&format!("{ports} ports for each"), PATIENCE, || {
        let backends = json(&["get", "backends", "-o", "json"]);
        all = leases();
        rows(&backends).all(|row| rows(&row["draining"]).count() == 0)
            && senders.iter().all(|sender| all[&sender.name].len() == usize::from(ports))
    });
    all
}

/// Does something for each of them, for several at once; each of these has an end of the internet to itself.
fn for_each<T: Send>(senders: &mut [Sender], act: impl Fn(&mut Sender, &End) -> T + Sync) -> Vec<T> {
    const AT_ONCE: usize = 5;
    let some = senders.len().div_ceil(AT_ONCE);
    let all = |senders: &mut [Sender]| -> Vec<T> {
        let inet = internet();
        senders.iter_mut().map(|sender| act(sender, &inet)).collect()
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = senders.chunks_mut(some).map(|senders| scope.spawn(|| all(senders))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("what it says itself")).collect()
    })
}

fn internet() -> End {
    End::open("qnat-inet", "eth0").expect("a raw socket outside")
}

/// The port of the remote to which the flows of the pool go that changes its size.
const TO: u16 = 7_000;

/// Has a pool grow past a tier, and its owner die as soon as that is committed: of each backend's flows a half ends and a half goes
/// on, and what the first one opens towards another remote leaves at once.
fn grow(lab: &Lab, shard: [u8; 6], senders: &mut [Sender], (count, ports): (u32, u16)) {
    let before = leases();
    let taken = resize(lab, count);
    let elsewhere = TO + u16::try_from(count).expect("few");
    let again = senders[0].out(&internet(), FIRST..FIRST + 100, elsewhere);
    let again: BTreeSet<u16> = again.into_values().map(|public| public.1).collect();
    let after = wait_for(senders, ports);
    assert_eq!(after[&format!("b{count}")].len(), usize::from(ports), "S14: who came has its ports");
    assert!(again.len() == 100 && again.is_subset(&after[&senders[0].name]), "S14: elsewhere at once: {again:?}");
    let ended = for_each(senders, |sender, inet| {
        let (before, after) = (&before[&sender.name], &after[&sender.name]);
        assert!(after.is_subset(before), "S14: it keeps a half of what it had");
        let gone: BTreeSet<u16> = before.difference(after).copied().collect();
        let (stays, ends) = (sender.on(after), sender.on(&gone));
        // They were one on each port.
        assert_eq!((stays.len(), ends.len()), (usize::from(ports), usize::from(ports)), "S14");
        let (stay, end) = (stays.len() + sender.others_on(after), ends.len() + sender.others_on(&gone));
        assert!(end <= stay, "D4: the emptier half goes, {end} and {stay}");
        assert_eq!(
            sender.back(inet, shard, TO),
            stays,
            "{} of {count}: those on kept ports, and no other one",
            sender.name
        );
        sender.flows.retain(|port, _| stays.contains(port));
        let on = sender.out(inet, sender.flows.keys().copied(), TO);
        assert_eq!(on, sender.flows, "S14: on the ports that they had");
        u64::try_from(end).expect("small")
    });
    assert_eq!(ended.iter().sum::<u64>(), taken, "as many as it said");
    eprintln!("a pool of {count}: {} flows of {} instances ended, as many as it said", taken, senders.len());
    senders[0].others.extend(again);
}

/// Has a pool shrink to fifty, and its owner die as soon as that is committed: each has all ports of so few, and no flow is touched.
fn shrink(lab: &Lab, shard: [u8; 6], senders: &mut [Sender]) {
    assert_eq!(resize(lab, 50), 0, "S15");
    wait_for(senders, GRANT);
    for_each(senders, |sender, inet| {
        let all: BTreeSet<u16> = sender.flows.keys().copied().collect();
        assert_eq!(sender.back(inet, shard, TO), all, "S15: none ends");
        assert_eq!(sender.out(inet, all.iter().copied(), TO), sender.flows, "S15: none changes its port");
    });
}

fn a_pool_that_grows_twice_and_shrinks_again_ends_the_flows_that_it_said_and_no_other_one(lab: &Lab) {
    // All fifty have flows in the longer profile.
    let count = if shared::is_long() { 50 } else { 8 };
    let mut senders: Vec<Sender> = (1..=count).map(|number| Sender::new(lab, number)).collect();
    let _silent = internet().silence().expect("nft");
    let shard = shard_of(lab);
    let unique = |senders: &[Sender]| {
        let publics: BTreeSet<Public> = senders.iter().flat_map(|sender| sender.flows.values().copied()).collect();
        let flows = senders.iter().map(|sender| sender.flows.len()).sum::<usize>();
        assert_eq!(publics.len(), flows, "S7: no two of them are one");
        assert_eq!(publics.iter().map(|public| public.0).collect::<BTreeSet<_>>().len(), 1, "all by one address");
    };
    for_each(&mut senders, |sender, inet| {
        sender.flows = sender.out(inet, FIRST..FIRST + GRANT, TO);
        assert_eq!(sender.flows.len(), usize::from(GRANT), "{}: I25", sender.name);
    });
    unique(&senders);
    let whole = || {
        lab.restart_the_dead();
        lab.wait_until_whole(PATIENCE);
    };
    for size in [(51, GRANT / 2), (101, GRANT / 4)] {
        grow(lab, shard, &mut senders, size);
        whole();
    }
    shrink(lab, shard, &mut senders);
    for_each(&mut senders, |sender, inet| {
        let more = sender.out(inet, FIRST + GRANT..FIRST + GRANT + 500, TO);
        assert_eq!(more.len(), 500, "what came back is there to be used");
        sender.flows.extend(more);
    });
    unique(&senders);
    whole();
    // One more than fifty, and fifty again; two of them are enough.
    senders.truncate(2);
    resources::apply(&pool_of(51));
    let after = wait_for(&senders, GRANT / 2);
    for sender in &mut senders {
        let stays = sender.on(&after[&sender.name]);
        sender.flows.retain(|port, _| stays.contains(port));
        assert!(!sender.flows.is_empty());
    }
    shrink(lab, shard, &mut senders);
    lab.restart_the_dead();
}

/// How many instances a pool has, and how many ports each of them is granted then.
const TIERS: [(u32, u64); 12] = [
    (1, 1024),
    (50, 1024),
    (51, 512),
    (100, 512),
    (101, 256),
    (200, 256),
    (201, 128),
    (400, 128),
    (401, 64),
    (800, 64),
    (801, 32),
    (1000, 32),
];

/// Pools of these sizes, each behind an address of its own, beside the lab's.
fn pools_of_every_size() -> String {
    let (mut text, mut number) = (pool_of(4), 4);
    for (n, (size, _)) in TIERS.iter().enumerate() {
        text += &format!(
            "[[public_ip]]\nname = \"of{size}\"\naddress = \"203.0.113.{}\"\n\
             [[load_balancer]]\nname = \"of{size}\"\nfrontends = [\"of{size}\"]\n\
             [[load_balancer.pool]]\nname = \"pool\"\n\
             [[load_balancer.outbound_rule]]\nname = \"out\"\npool = \"pool\"\n",
            100 + n
        );
        for _ in 0..*size {
            number += 1;
            text += &format!(
                "[[instance]]\nname = \"of{size}-{number}\"\n[[instance.ip_configuration]]\nname = \"ipconfig1\"\n\
                 private_ip = \"10.0.{}.{}\"\nsubnet = \"vnet1/default\"\npool = \"of{size}/pool\"\n",
                1 + number / 256,
                number % 256
            );
        }
    }
    text
}

fn pools_of_every_size_grant_each_instance_the_ports_of_their_tier(lab: &Lab) {
    let file = file_of(&pools_of_every_size());
    ok(&["apply", "--yes", "-f", file.path().to_str().expect("a plain path")]);
    let (mut granted, mut wanted) = (BTreeMap::new(), BTreeMap::new());
    for (size, ports) in TIERS {
        wanted.insert((format!("of{size}"), Some(ports)), size);
    }
    let all_have_theirs = || {
        granted.clear();
        let all = json(&["ports", "-o", "json"]);
        for row in rows(&all["backends"]) {
            let of = row["backend"].as_str().and_then(|name| name.split_once('-'));
            if let Some((pool, _)) = of {
                *granted.entry((pool.to_owned(), row["allocated"].as_u64())).or_insert(0) += 1;
            }
        }
        granted == wanted
    };
    wait_until("S11: each pool's instances to have what its size grants", PATIENCE * 2, all_have_theirs);
    let seen = lab.exec("b1", &["curl", "-sS", "--max-time", "10", "http://203.0.113.10/"]);
    assert!(seen.contains("\"address\":\"203.0.113.1\""), "who was there goes on: {seen}");
}

/// S20: an address of its own for the instance that is to have one, were it the role of a classic service.
fn refused_to_a_role(text: &str) {
    let own = text.find("public_ip = \"own\"").expect("declared");
    let instance = text[..own].rfind("[[instance]]\n").expect("an instance's") + "[[instance]]\n".len();
    let file = file_of(&format!("{}role = \"web\"\n{}", &text[..instance], &text[instance..]));
    let said = run(&["apply", "-f", file.path().to_str().expect("a plain path")]);
    let error = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && error.contains("a web role has none"), "{error}");
}

fn a_backend_without_a_port_left_for_a_remote_gets_an_address_of_its_own_and_has_all_at_once(lab: &Lab) {
    const TO: u16 = 7_001;
    let inet = internet();
    let (mut b1, b2) = (Sender::new(lab, 1), Sender::new(lab, 2));
    let _silent = inet.silence().expect("nft");
    let shard = shard_of(lab);
    b1.flows = b1.out(&inet, FIRST..FIRST + GRANT + 6, TO);
    assert_eq!(b1.flows.len(), usize::from(GRANT), "S12: as many as it has ports, and no more");
    let used: BTreeSet<u16> = b1.flows.values().map(|public| public.1).collect();
    assert_eq!(used, leases()["b1"], "each of them once");
    let (public, remote) = (b1.flows[&FIRST].0.to_string(), format!("{REMOTE}:{TO}"));
    wait_until("it to be told of", PATIENCE, || {
        let concerns = lab.status()["concerns"].clone();
        let is = |row: &&serde_json::Value| {
            let told = &row["exhausted"];
            row["what"] == "ports_exhausted"
                && row["subject"]["name"] == "b1/ipconfig1"
                && told["frontend"] == public.as_str()
        };
        rows(&concerns).any(|row| is(&row) && row["exhausted"]["destinations"][0]["address"] == remote.as_str())
    });
    wait_until("an alert", PATIENCE, || {
        let events = json(&["events", "-o", "json"]);
        rows(&events["events"]).any(|row| {
            let alert = &row["alert"];
            row["event"] == "concern_began"
                && alert["healthEventType"] == "SnatPortExhaustion"
                && alert["resourceId"] == "b1/ipconfig1"
                && alert["properties"]["eventProperties"]["public ip address"] == public.as_str()
        })
    });
    assert_eq!(b1.out(&inet, [FIRST], TO + 1).len(), 1, "S10: another remote is there for it");
    assert_eq!(b2.out(&inet, [FIRST], TO).len(), 1, "and so is this one for its neighbour");
    let own = format!("[[public_ip]]\nname = \"own\"\naddress = \"{OWN}\"\n");
    let of = "private_ip = \"10.0.1.1\"\n";
    let text = pool_of(50).replacen(of, &format!("{of}public_ip = \"own\"\n"), 1);
    let text = text.replacen("[settings]", &format!("{own}[settings]"), 1);
    refused_to_a_role(&text);
    resources::apply(&text);
    let late: Vec<u16> = (FIRST + 2_000..FIRST + 2_200).collect();
    let mut by_own = BTreeMap::new();
    wait_until("its new flows to leave by its own address", PATIENCE, || {
        by_own = b1.out(&inet, late.iter().copied(), TO);
        by_own.len() == late.len()
    });
    let chosen: BTreeMap<u16, Public> = late.iter().map(|port| (*port, (OWN, *port))).collect();
    assert_eq!(by_own, chosen, "S2: with the ports that they chose");
    let all: BTreeSet<u16> = b1.flows.keys().copied().collect();
    assert_eq!(b1.back(&inet, shard, TO), all, "D12: what it had goes on by its frontend");
    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    assert_eq!(b1.back(&inet, shard, TO), all, "D12: also under a successor");
    b1.flows.extend(by_own);
    let on = b1.out(&inet, b1.flows.keys().copied(), TO);
    assert_eq!(on, b1.flows, "none has another end");
    lab.restart_the_dead();
}
