//! Where packets can get lost, and how many did: what members count, and what the kernel does in every host's namespace. A
//! drill that misses a datagram says with these who had it last. Called by the drills that hold a cluster to losing nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use netio::netns;
use qnat::answers::Counted;
use qnat_lab::Host;
use qnat_lab::topology::FABRIC;
use serde::Serialize;
use serde_json::Value;

use super::cluster::{Cluster, NODES};

/// Counts by place and reason, as `n1 drop no_port` or `b3 eth0 sent drop`.
pub(super) type Losses = BTreeMap<String, u64>;

/// What a data interface counts besides losses.
const NO_LOSS: [&str; 3] = ["received", "received_bytes", "transmitted"];
/// Of `/proc/net/snmp`: packets and datagrams that a host had and lost.
const OF_HOSTS: [(&str, &[&str]); 2] = [
    ("Ip", &["InDiscards", "InAddrErrors", "OutDiscards", "OutNoRoutes"]),
    ("Udp", &["InErrors", "RcvbufErrors", "SndbufErrors", "NoPorts"]),
];

/// All there are since the lab was made.
pub(super) fn all(cluster: &Cluster, backends: u32) -> Result<Losses> {
    let mut all = Losses::new();
    for node in cluster.running() {
        of_member(&format!("n{node}"), &cluster.counted(node)?, &mut all);
    }
    let hosts = (1..=NODES).map(Host::Node).chain((1..=backends).map(Host::Backend)).chain([Host::Inet]);
    let places = hosts.map(|host| (host.to_string(), host.namespace())).chain([(FABRIC.to_owned(), FABRIC.to_owned())]);
    for (place, namespace) in places {
        let read = |file: &'static str| move || std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let counted = netns::run_in(&namespace, read("snmp"))??;
        of_host(&place, &counted, &mut all).with_context(|| format!("snmp of {place}"))?;
        of_devices(&place, &netns::run_in(&namespace, read("dev"))??, &mut all);
    }
    of_processors(&std::fs::read_to_string("/proc/net/softnet_stat")?, &mut all);
    Ok(all)
}

/// By how much counts have grown, those that have; a member that began anew counts from nothing.
pub(super) fn grown<K: Ord>(before: &BTreeMap<K, u64>, now: BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let by = now.into_iter().map(|(what, count)| {
        let more = count.saturating_sub(before.get(&what).copied().unwrap_or(0));
        (what, more)
    });
    by.filter(|(_, more)| *more > 0).collect()
}

/// Datagrams that the ends themselves lost, backends and internet, since nobody read them in time.
pub(super) fn at_ends(losses: &Losses) -> u64 {
    // Members and who floods them have sockets too, but no datagrams of the drill's.
    let is_end =
        |place: &str| place.ends_with(" Udp RcvbufErrors") && (place.starts_with('b') || place.starts_with("inet "));
    losses.iter().filter(|(place, _)| is_end(place)).map(|(_, count)| count).sum()
}

fn of_member(member: &str, counted: &Counted, into: &mut Losses) {
    let named = [("drop", &counted.drops), ("peers' frame", &counted.frame_drops)];
    for (what, (why, count)) in named.into_iter().flat_map(|(what, drops)| drops.iter().map(move |one| (what, one))) {
        into.insert(format!("{member} {what} {why}"), *count);
    }
    let failed = counted.snat.iter().map(|snat| (format!("{member} mapping {} failed", snat.proto), snat.failed));
    into.extend(failed);
    for (name, link) in
        counted.inside.iter().map(|(name, link)| (name.as_str(), link)).chain([("outside", &counted.outside)])
    {
        fields(&format!("{member} {name}"), link, |field| !NO_LOSS.contains(&field), into);
    }
    if let Some(guard) = &counted.guard {
        fields(&format!("{member} guard"), guard, |field| field.starts_with("drop_"), into);
    }
}

fn fields(of: &str, counts: &impl Serialize, wanted: impl Fn(&str) -> bool, into: &mut Losses) {
    let Ok(Value::Object(counts)) = serde_json::to_value(counts) else { return };
    let counts = counts.iter().filter(|(field, _)| wanted(field));
    into.extend(counts.filter_map(|(field, count)| Some((format!("{of} {field}"), count.as_u64()?))));
}

/// `snmp` is two lines for each protocol: names, and counts below them.
fn of_host(host: &str, snmp: &str, into: &mut Losses) -> Result<()> {
    for (protocol, wanted) in OF_HOSTS {
        let mut lines = snmp.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
        let (names, counts) = (lines.next().context("no names")?, lines.next().context("no counts")?);
        for (name, count) in names.split_whitespace().zip(counts.split_whitespace()) {
            if wanted.contains(&name) {
                into.insert(format!("{host} {protocol} {name}"), count.parse()?);
            }
        }
    }
    Ok(())
}

/// `dev` has a line for each device, the twelfth count is of what it did not send. What it dropped on reception is not looked
/// at: nearly all of that are frames of protocols that nobody has asked for.
fn of_devices(host: &str, dev: &str, into: &mut Losses) {
    for (device, counts) in dev.lines().filter_map(|line| line.split_once(':')) {
        if let Some(count) = counts.split_whitespace().nth(11).and_then(|count| count.parse().ok()) {
            into.insert(format!("{host} {} sent drop", device.trim()), count);
        }
    }
}

/// Packets that found a processor's queue full: the second hexadecimal number of its line.
fn of_processors(softnet: &str, into: &mut Losses) {
    for (cpu, line) in softnet.lines().enumerate() {
        let dropped = line.split_whitespace().nth(1).and_then(|count| u64::from_str_radix(count, 16).ok());
        into.extend(dropped.map(|count| (format!("processor {cpu} queue full"), count)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_and_the_kernel_lost_is_found_by_its_place() {
        let mut counted = Counted::default();
        counted.drops.insert("no_port".into(), 3);
        counted.outside.kernel_drops = 2;
        counted.outside.received = 9;
        counted.guard = Some(qnat::answers::GuardCounts { pass_lease: 8, drop_lease: 1, ..Default::default() });
        let mut found = Losses::new();
        of_member("n1", &counted, &mut found);
        let snmp = "Ip: Forwarding InDiscards\nIp: 1 4\nUdp: InDatagrams RcvbufErrors\nUdp: 70 5\nUdpLite: RcvbufErrors\nUdpLite: 9\n";
        of_host("b2", snmp, &mut found).expect("whole");
        of_devices("b2", "Inter-|\n face |\n  eth0: 1 2 0 6 0 0 0 0 1 2 0 7 0 0 0 0\n", &mut found);
        of_processors("00000c33 0000000a 00000001\n", &mut found);
        let grown = grown(&Losses::from([("n1 drop no_port".into(), 1)]), found);
        let shown: Vec<String> = grown.iter().map(|(place, count)| format!("{place}: {count}")).collect();
        assert_eq!(
            shown,
            [
                "b2 Ip InDiscards: 4",
                "b2 Udp RcvbufErrors: 5",
                "b2 eth0 sent drop: 7",
                "n1 drop no_port: 2",
                "n1 guard drop_lease: 1",
                "n1 outside kernel_drops: 2",
                "processor 0 queue full: 10",
            ]
        );
        assert_eq!(at_ends(&grown), 5);
        let others = ["n1 Udp RcvbufErrors", "qnat-fabric Udp RcvbufErrors", "inet Udp RcvbufErrors"];
        assert_eq!(at_ends(&others.map(|place| (place.to_owned(), 2)).into()), 2);
    }
}
