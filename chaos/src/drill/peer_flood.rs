//! The drill `peer-flood`: strangers begin 3,000 handshakes a second at the peer port of a member that owns a shard, first
//! from the peers' network, then from both data networks. What is held against the cluster: no election that nothing
//! explains, nothing lost, new flows held no longer than twice the time without a flood; and from the data networks the
//! port is not reached at all (I44, I58). Called by the command.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netio::netns;
use qnat::answers::{Counted, HistogramCounts};
use qnat_lab::topology::{FABRIC, Host, INET_ADDRESSES, Network, backend_address, mac, peer_address};

use super::calm::{self, Move};
use super::canary::{self, Idle};
use super::capture::{Capture, Frame, Side, UDP};
use super::cluster::{Cluster, NODES};
use super::flood_verdict::{AFTER, FloodVerdict, PER_SECOND, Phase, judged};
use super::flows::{self, in_backend, joined};
use super::losses;
use super::run;
use super::strangers::Source;
use crate::stalls::{Stalls, unix_ms};

/// The members' port on the peers' network.
const PEER_PORT: u16 = 7_800;
/// A host of the peers' network that is no member.
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 200);
/// Most flows that a backend opens to one remote before the first of them is forgotten: it has 1,024 ports.
const FLOWS_PER_REMOTE: u32 = 900;
/// Least time between two of them.
const NEW_EVERY_MIN: Duration = Duration::from_millis(200);
/// How long a mapping lives and is held when nothing more is sent.
const FLOW_LIFE: Duration = Duration::from_secs(305);
/// Between two rounds of exchanges over the idle connections.
const EXCHANGE_EVERY: Duration = Duration::from_secs(3);

/// Size and length of a drill.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) backends: u32,
    pub(super) connections: usize,
    /// Of the time without a flood and of each flood.
    pub(super) lasts: Duration,
}

/// Runs the drill upon a fresh lab.
pub(super) fn drill(binary: &Path, scale: Scale) -> FloodVerdict {
    match in_lab(binary, scale) {
        Ok((phases, moves)) => judged(phases, moves),
        Err(error) => FloodVerdict::broken(format!("{error:#}")),
    }
}

fn in_lab(binary: &Path, scale: Scale) -> Result<(Vec<Phase>, Vec<Move>)> {
    let cluster = Cluster::up(binary, scale.backends)?;
    calm::wait_at_rest(&cluster);
    let (over, stalls) = (AtomicBool::new(false), Stalls::default());
    let (phases, moves) = std::thread::scope(|scope| {
        let (over, stalls, cluster) = (&over, &stalls, &cluster);
        let cpus = netio::thread::allowed_cpus()?;
        let watches = cpus.into_iter().map(|cpu| scope.spawn(move || stalls.watch(cpu, over))).collect();
        let moves = scope.spawn(move || calm::watch(cluster, over));
        let phases = Scene::set(cluster, scale).and_then(Scene::play);
        over.store(true, Ordering::Relaxed);
        joined(watches)?;
        Ok::<_, anyhow::Error>((phases, joined(vec![moves])?.concat()))
    })?;
    let mut phases = phases?;
    let stalls = stalls.noted();
    let causes = calm::causes(&moves, &stalls);
    for phase in &mut phases {
        phase.explain(&moves, &causes, &stalls);
    }
    Ok((phases, moves))
}

/// A cluster under traffic.
struct Scene<'a> {
    cluster: &'a Cluster,
    scale: Scale,
    /// The member whose port is flooded.
    flooded: u32,
    /// The backend that floods from inside, and has no traffic of its own.
    hostile: u32,
    /// One backend of each shard, without the hostile one.
    streams: Vec<u32>,
    idle: Vec<Idle>,
    new_every: Duration,
}

impl<'a> Scene<'a> {
    fn set(cluster: &'a Cluster, scale: Scale) -> Result<Self> {
        let flooded = *cluster.owners().values().next().context("no shard has an owner")?;
        let hostile = scale.backends;
        let mut first = std::collections::BTreeMap::new();
        for backend in cluster.backends()?.into_iter().filter(|backend| backend.number != hostile) {
            first.entry(backend.shard).or_insert(backend.number);
        }
        let friends: Vec<u32> = (1..hostile).collect();
        let idle = canary::open_idle(cluster.dir(), &friends, scale.connections)?;
        let all = scale.lasts * 4 + AFTER * 4;
        let new_every = NEW_EVERY_MIN.max(all.min(FLOW_LIFE) / FLOWS_PER_REMOTE);
        let to_stranger = ["address", "add", &format!("{STRANGER}/24"), "dev", Network::Peers.name()];
        ip(FABRIC, &to_stranger)?;
        Ok(Self { cluster, scale, flooded, hostile, streams: first.into_values().collect(), idle, new_every })
    }

    fn play(mut self) -> Result<Vec<Phase>> {
        let (lasts, target) = (self.scale.lasts, SocketAddr::from((peer_address(self.flooded), PEER_PORT)));
        let quiet = self.phase("none", lasts, None)?;
        let mut phases = vec![quiet];
        let source = Source { namespace: FABRIC.to_owned(), from: STRANGER, targets: vec![target] };
        phases.push(self.flooded("peers", None, Network::Peers, lasts, &source)?);
        // Another member by the gateway, as a backend would try it.
        let other = SocketAddr::from((peer_address(self.flooded % NODES + 1), PEER_PORT));
        let (inside, outside) = (Host::Backend(self.hostile), Host::Inet);
        for (flood, host, network, from, targets) in [
            ("inside", inside, Network::Inside, backend_address(self.hostile), vec![target, other]),
            ("outside", outside, Network::Outside, INET_ADDRESSES[0], vec![target]),
        ] {
            self.lay_way(host, network)?;
            let source = Source { namespace: host.namespace(), from, targets };
            phases.push(self.flooded(flood, Some(host), network, lasts, &source)?);
        }
        Ok(phases)
    }

    /// A phase with a flood by `network`, with a look at what reaches the member's card and what comes back to `host`.
    fn flooded(
        &mut self,
        flood: &'static str,
        host: Option<Host>,
        network: Network,
        lasts: Duration,
        source: &Source,
    ) -> Result<Phase> {
        let files = run::tempdir()?;
        let card = Capture::start(&files.0, Host::Node(self.flooded), network, Side::ToHost)?;
        let back = host.map(|host| Capture::start(&files.0, host, network, Side::ToHost)).transpose()?;
        let mut phase = self.phase(flood, lasts, Some(source))?;
        let ports = |frame: &Frame| frame.ports.filter(|_| frame.proto == UDP);
        let count = |frames: Vec<Frame>, of: &dyn Fn(&Frame) -> bool| frames.iter().filter(|f| of(f)).count() as u64;
        let to_port = |frame: &Frame| frame.source == source.from && ports(frame).is_some_and(|p| p.1 == PEER_PORT);
        let is_target = |frame: &Frame| source.targets.iter().any(|target| target.ip() == frame.source);
        let from_port = |frame: &Frame| is_target(frame) && ports(frame).is_some_and(|p| p.0 == PEER_PORT);
        phase.reached_the_card = Some(count(card.stop()?, &to_port));
        phase.answers = back.map(|back| Ok::<_, anyhow::Error>(count(back.stop()?, &from_port))).transpose()?;
        eprintln!("peer-flood: {}", serde_json::to_string(&phase)?);
        Ok(phase)
    }

    /// Sends what is for the flooded member's peer address straight to its card on a data network.
    fn lay_way(&self, host: Host, network: Network) -> Result<()> {
        let address = peer_address(self.flooded).to_string();
        let card: Vec<String> =
            mac(Host::Node(self.flooded), network).iter().map(|octet| format!("{octet:02x}")).collect();
        ip(&host.namespace(), &["route", "add", &address, "dev", "eth0"])?;
        ip(&host.namespace(), &["neigh", "replace", &address, "lladdr", &card.join(":"), "dev", "eth0"])
    }

    fn counted(&self) -> Result<Vec<Counted>> {
        (1..=NODES).map(|node| self.cluster.counted(node)).collect()
    }

    fn phase(&mut self, flood: &'static str, lasts: Duration, source: Option<&Source>) -> Result<Phase> {
        let (before, began_unix_ms) = (self.counted()?, unix_ms()?);
        let lost = losses::all(self.cluster, self.scale.backends)?;
        let (over, dir, every) = (&AtomicBool::new(false), self.cluster.dir(), self.new_every);
        let (idle, friends) = (&mut self.idle, 1..self.hostile);
        let (streams, flows, handshakes, exchanges) = std::thread::scope(|scope| {
            let stream = |b| move || in_backend(dir, b, || flows::stream(over));
            let streams: Vec<_> = self.streams.iter().map(|&b| scope.spawn(stream(b))).collect();
            let open = |b| move || in_backend(dir, b, || flows::new_flows(over, every));
            let flows: Vec<_> = friends.map(|b| scope.spawn(open(b))).collect();
            let flood = source.map(|source| scope.spawn(move || source.flood(PER_SECOND, lasts)));
            let (begun, mut exchanges) = (Instant::now(), (0, 0));
            while begun.elapsed() < lasts {
                let (kept, why) = canary::exchange_all(idle, u64::try_from(exchanges.0).unwrap_or(0) << 20);
                why.into_iter().for_each(|why| eprintln!("peer-flood: {why}"));
                exchanges = (exchanges.0 + idle.len(), exchanges.1 + idle.len() - kept);
                std::thread::sleep(EXCHANGE_EVERY.min(lasts.saturating_sub(begun.elapsed())));
            }
            over.store(true, Ordering::Relaxed);
            let handshakes: u64 = joined(flood.into_iter().collect())?.iter().sum();
            Ok::<_, anyhow::Error>((joined(streams)?, joined(flows)?, handshakes, exchanges))
        })?;
        std::thread::sleep(AFTER);
        let (after, lost) = (self.counted()?, losses::grown(&lost, losses::all(self.cluster, self.scale.backends)?));
        let holds = |of: &[usize]| hold_p99_ms(of.iter().map(|&at| (&before[at].hold, &after[at].hold)));
        let flooded = usize::try_from(self.flooded - 1)?;
        let (new_flow_p99_ms, _) = flows::trips(&flows);
        Ok(Phase {
            flood,
            began_unix_ms,
            ended_unix_ms: unix_ms()?,
            handshakes,
            counted_at_peer_ports: after.iter().zip(&before).map(|(a, b)| at_port(a).saturating_sub(at_port(b))).sum(),
            reached_the_card: None,
            answers: None,
            elections: 0,
            elections_unexplained: 0,
            longest_stall_ms: 0,
            hold_p99_ms: holds(&[flooded]),
            hold_p99_of_all_ms: holds(&(0..after.len()).collect::<Vec<_>>()),
            new_flows: flows.iter().map(|one| one.opened).sum(),
            new_flows_lost: flows.iter().map(|one| one.lost).sum(),
            new_flow_p99_ms,
            datagrams: streams.iter().map(|one| one.sent).sum(),
            datagrams_lost: streams.iter().map(|one| one.sent - one.answered).sum(),
            dropped_at_ends: losses::at_ends(&lost),
            losses: lost,
            longest_silence_ms: streams.iter().map(|one| one.silence.as_secs_f64() * 1e3).fold(0.0, f64::max),
            exchanges: exchanges.0,
            exchanges_failed: exchanges.1,
        })
    }
}

fn ip(namespace: &str, arguments: &[&str]) -> Result<()> {
    let output = netns::run_in(namespace, || Command::new("ip").args(arguments).output())?.context("ip (iproute2)")?;
    ensure!(output.status.success(), "ip {arguments:?} in {namespace}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn at_port(counted: &Counted) -> u64 {
    let peers = counted.peers;
    peers.refused + peers.turned_away + peers.retried + peers.sieved
}

/// The 99th percentile of what was counted between two looks, in ms: the upper end of its bucket, a quarter of an octave.
fn hold_p99_ms<'a>(looks: impl Iterator<Item = (&'a HistogramCounts, &'a HistogramCounts)>) -> f64 {
    let mut counts = std::collections::BTreeMap::new();
    for (before, after) in looks {
        let ends = before.buckets_ns.iter().map(|(end, count)| (end, -i128::from(*count)));
        for (end, count) in after.buckets_ns.iter().map(|(end, count)| (end, i128::from(*count))).chain(ends) {
            *counts.entry(end.unwrap_or(u64::MAX)).or_insert(0) += count;
        }
    }
    let wanted = (counts.values().sum::<i128>() * 99 + 99) / 100;
    let mut below = 0;
    let end = counts.into_iter().find(|(_, count)| {
        below += count;
        wanted > 0 && below >= wanted
    });
    end.map_or(f64::NAN, |(end, _)| end as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_is_of_what_came_between_the_looks() {
        let counts = |buckets: &[(u64, u64)]| HistogramCounts {
            buckets_ns: buckets.iter().map(|(end, count)| (Some(*end), *count)).collect(),
            ..HistogramCounts::default()
        };
        let (before, after) =
            (counts(&[(1_000_000, 5), (9_000_000, 50)]), counts(&[(1_000_000, 105), (9_000_000, 51)]));
        assert_eq!(hold_p99_ms([(&before, &after)].into_iter()), 1.0);
        let after = counts(&[(1_000_000, 103), (9_000_000, 52)]);
        assert_eq!(hold_p99_ms([(&before, &after)].into_iter()), 9.0);
        assert!(hold_p99_ms([(&after, &after)].into_iter()).is_nan());
    }
}
