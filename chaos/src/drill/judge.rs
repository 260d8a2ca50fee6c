//! What the captures of one run prove: gaps of the streams, leaks outside, and what the old owner still emitted (I8, M1,
//! L4). Pure: frames in, counts out. Called by the runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use engine::ids::{Mac, ShardId};
use qnat_lab::topology::{Host, INET_ADDRESSES, Network, mac};

use super::capture::{Frame, IPV4, TCP, UDP};
use super::cluster::{Backend, Flow};

/// Longest lease after the last heartbeat (0.8 V), and what timers and the signal itself may add here.
const LEASE_NS: u64 = 60_000_000;
/// The orphan grace, and the same allowance.
const GRACE_NS: u64 = 3_060_000_000;

/// Protocol and both ends as the wire shows them, source first.
type Tuple = (u8, SocketAddrV4, SocketAddrV4);

/// What one member sent, on both sides.
#[derive(Debug)]
pub(super) struct Emitted {
    pub(super) node: u32,
    pub(super) inside: Vec<Frame>,
    pub(super) outside: Vec<Frame>,
}

impl Emitted {
    /// For people: how many frames, and when, in milliseconds from `began_ns` on.
    pub(super) fn summary(&self, began_ns: u64) -> String {
        let ms = |at: u64| (i128::from(at) - i128::from(began_ns)) / 1_000_000;
        let part = |frames: &[Frame]| match (frames.first(), frames.last()) {
            (Some(first), Some(last)) => format!("{} at {}..{} ms", frames.len(), ms(first.at_ns), ms(last.at_ns)),
            _ => "none".to_owned(),
        };
        format!("n{}: inside {}, outside {}", self.node, part(&self.inside), part(&self.outside))
    }
}

/// The fault, as the captures are to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    pub(super) owner: u32,
    pub(super) shard: u16,
    pub(super) began_ns: u64,
    /// When the fault was in force for certain.
    pub(super) sure_ns: u64,
    /// From here on the old owner may have become the owner again, or is another process.
    pub(super) end_ns: u64,
    /// Whether it handed over by itself, so that its lease ends with the hand-over and not with the fault.
    pub(super) handover: Handover,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Handover {
    Graceful,
    Abrupt,
}

/// Emissions of the old owner after the fault, by kind, and what of it is forbidden.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Emissions {
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) forbidden: u64,
    /// For people: what was forbidden first.
    pub(super) first_forbidden: Option<String>,
    /// How often the vMAC's place changed around the fault; once is right.
    pub(super) vmac_moves: u64,
    /// Frames from the vMAC that the owner sent shortly before the fault: without any, the rest proves nothing.
    pub(super) owner_sent_before: u64,
}

fn tuple(frame: &Frame) -> Option<Tuple> {
    let (from, to) = frame.ports?;
    Some((frame.proto, SocketAddrV4::new(frame.source, from), SocketAddrV4::new(frame.destination, to)))
}

fn is_frontend(address: Ipv4Addr) -> bool {
    let outside = INET_ADDRESSES[0].octets();
    address.octets()[..3] == outside[..3] && !INET_ADDRESSES.contains(&address)
}

fn is_inside(address: Ipv4Addr) -> bool {
    address.octets()[0] == 10
}

/// Whether the frame carries a translated packet, as opposed to one that is forwarded as it came.
fn is_translated(frame: &Frame, side: Network) -> bool {
    frame.ethertype == IPV4
        && match side {
            Network::Outside => is_frontend(frame.source),
            Network::Inside | Network::Inside2 => is_inside(frame.destination) && !is_inside(frame.source),
            Network::Peers => false,
        }
}

/// Mappings as the wire shows them on each side.
fn tuples_of(flows: &[Flow]) -> BTreeSet<Tuple> {
    let ends = |flow: &Flow| {
        let proto = match flow.proto.as_str() {
            "tcp" => TCP,
            "udp" => UDP,
            _ => return None,
        };
        let remote: SocketAddrV4 = flow.remote.parse().ok()?;
        Some([(proto, flow.public.parse().ok()?, remote), (proto, remote, flow.inside.parse().ok()?)])
    };
    flows.iter().filter_map(ends).flatten().collect()
}

/// When the shard's MAC was used, and by whom, in the order of time.
pub(super) fn places(all: &[Emitted], shard: u16) -> Vec<(u64, u32)> {
    let vmac = Mac::of_shard(ShardId(shard)).0;
    let mut places: Vec<(u64, u32)> = Vec::new();
    for emitted in all {
        let frames = emitted.inside.iter().chain(&emitted.outside).filter(|frame| frame.source_mac == vmac);
        places.extend(frames.map(|frame| (frame.at_ns, emitted.node)));
    }
    places.sort_unstable();
    places
}

/// Judges what the old owner sent after the fault. `known`: mappings that stood when its lease ended.
pub(super) fn emissions(all: &[Emitted], known: &[Flow], scene: Scene) -> Emissions {
    let vmac = Mac::of_shard(ShardId(scene.shard)).0;
    let mut places = places(all, scene.shard);
    places.retain(|(at, _)| (scene.began_ns - 300_000_000..scene.end_ns).contains(at));
    let successor = places.iter().find(|(at, node)| *at > scene.began_ns && *node != scene.owner).map(|place| place.0);
    let moves = places.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
    let lease_end = match scene.handover {
        Handover::Graceful => successor.unwrap_or(scene.end_ns),
        Handover::Abrupt => successor.unwrap_or(u64::MAX).min(scene.sure_ns + LEASE_NS),
    };
    let sent_before = places.iter().filter(|(at, node)| *at < scene.began_ns && *node == scene.owner).count();
    let mut found = Emissions {
        owner_sent_before: u64::try_from(sent_before).unwrap_or(u64::MAX),
        vmac_moves: u64::try_from(moves).unwrap_or(u64::MAX),
        ..Emissions::default()
    };
    let Some(owner) = all.iter().find(|emitted| emitted.node == scene.owner) else { return found };
    let mut known = tuples_of(known);
    for (side, frames) in [(Network::Inside, &owner.inside), (Network::Outside, &owner.outside)] {
        // What it translated with the vMAC while it was the owner was committed.
        let earlier = frames.iter().filter(|frame| frame.at_ns <= scene.sure_ns && is_translated(frame, side));
        known.extend(earlier.filter_map(tuple));
        let own = mac(Host::Node(scene.owner), side);
        for frame in frames.iter().filter(|frame| (scene.sure_ns..scene.end_ns).contains(&frame.at_ns)) {
            let (kind, forbidden) = if frame.source_mac == vmac {
                if frame.at_ns > lease_end { ("vMAC after its lease", true) } else { ("vMAC within its lease", false) }
            } else if frame.source_mac != own {
                ("vMAC of another shard", false)
            } else if !is_translated(frame, side) {
                ("own MAC, forwarded or ARP", false)
            } else if frame.at_ns > scene.sure_ns + GRACE_NS {
                ("own MAC, translated after the grace", true)
            } else if tuple(frame).is_some_and(|tuple| !known.contains(&tuple)) {
                ("own MAC, a mapping not live before", true)
            } else {
                ("own MAC, repeated within the grace", false)
            };
            *found.counts.entry(kind).or_default() += 1;
            if forbidden {
                found.forbidden += 1;
                let after_ms = (frame.at_ns - scene.sure_ns) / 1_000_000;
                found
                    .first_forbidden
                    .get_or_insert_with(|| format!("{kind}, {after_ms} ms after it: {:?}", tuple(frame)));
            }
        }
    }
    found
}

/// Frames that arrive in the internet with an inside address, and such with a port outside every lease of their address.
pub(super) fn leaks(arrived: &[Frame], backends: &[Backend]) -> (u64, u64) {
    let mut leases: BTreeMap<Ipv4Addr, Vec<(u64, u64)>> = BTreeMap::new();
    for backend in backends {
        if let Ok(address) = backend.frontend.parse() {
            leases.entry(address).or_default().extend(&backend.lease);
        }
    }
    let (mut untranslated, mut wrong_port) = (0, 0);
    for frame in arrived.iter().filter(|frame| frame.ethertype == IPV4) {
        untranslated += u64::from(is_inside(frame.source) || is_inside(frame.destination));
        let Some((port, _)) = frame.ports.filter(|_| is_frontend(frame.source)) else { continue };
        let of_lease = |(first, last): &(u64, u64)| (*first..=*last).contains(&u64::from(port));
        let leased = leases.get(&frame.source).is_some_and(|blocks| blocks.iter().any(of_lease));
        wrong_port += u64::from(!leased);
    }
    (untranslated, wrong_port)
}

/// When the echo's replies to `ports` arrived.
pub(super) fn replies(arrived: &[Frame], ports: &BTreeSet<u16>) -> Vec<u64> {
    let reply =
        |frame: &&Frame| frame.proto == UDP && frame.ports.is_some_and(|(from, to)| from == 7 && ports.contains(&to));
    arrived.iter().filter(reply).map(|frame| frame.at_ns).collect()
}

/// Longest time between two times, in nanoseconds, for which datagrams went out and none was answered, and how long after
/// the first of the two it began: from the first datagram that was sent after a reply (while a sender itself stands still,
/// nothing is asked and nothing proved) to the next reply, or to the end. `sent` and `replies` are in order.
pub(super) fn longest_gap(sent: &[u64], replies: &[u64], from_ns: u64, to_ns: u64) -> (u64, u64) {
    let within = replies.iter().copied().filter(|at| (from_ns..to_ns).contains(at));
    let mut last = from_ns;
    let mut longest = (0, 0);
    for at in within.chain([to_ns]) {
        let asked = sent.get(sent.partition_point(|sent| *sent < last)).copied().filter(|asked| *asked < at);
        longest = longest.max(asked.map_or((0, 0), |asked| (at - asked, asked - from_ns)));
        last = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(at_ms: u64, source_mac: [u8; 6], source: [u8; 4], port: u16) -> Frame {
        Frame {
            at_ns: at_ms * 1_000_000,
            source_mac,
            ethertype: IPV4,
            source: source.into(),
            destination: INET_ADDRESSES[0],
            proto: UDP,
            ports: Some((port, 7)),
        }
    }

    fn judged(owner_sends: Vec<Frame>) -> Emissions {
        judged_by(owner_sends, &[], Handover::Abrupt)
    }

    fn judged_by(owner_sends: Vec<Frame>, known: &[Flow], handover: Handover) -> Emissions {
        let vmac = Mac::of_shard(ShardId(1)).0;
        let successor = frame(1100, vmac, [203, 0, 113, 1], 1024);
        let all = [
            Emitted { node: 1, inside: Vec::new(), outside: owner_sends },
            Emitted { node: 2, inside: Vec::new(), outside: vec![successor] },
        ];
        let (began_ns, sure_ns, end_ns) = (1_000_000_000, 1_001_000_000, 9_000_000_000);
        emissions(&all, known, Scene { owner: 1, shard: 1, began_ns, sure_ns, end_ns, handover })
    }

    #[test]
    fn an_old_owner_may_repeat_known_mappings_from_its_own_mac_within_the_grace_only() {
        let (vmac, own) = (Mac::of_shard(ShardId(1)).0, mac(Host::Node(1), Network::Outside));
        let public = [203, 0, 113, 1];
        let lawful =
            vec![frame(900, vmac, public, 1024), frame(1030, vmac, public, 1024), frame(2000, own, public, 1024)];
        let found = judged(lawful.clone());
        assert_eq!((found.forbidden, found.vmac_moves), (0, 1));
        for wrong in [
            frame(1090, vmac, public, 1024),
            frame(1200, vmac, public, 1024),
            frame(2000, own, public, 1025),
            frame(4100, own, public, 1024),
        ] {
            let mut frames = lawful.clone();
            frames.push(wrong);
            assert_eq!(judged(frames).forbidden, 1, "{wrong:?}");
        }
        assert!(judged(vec![frame(900, vmac, public, 1024), frame(1200, vmac, public, 1024)]).vmac_moves > 1);
    }

    #[test]
    fn what_an_owner_opened_and_handed_over_it_may_repeat_and_no_other_mapping() {
        let (vmac, own) = (Mac::of_shard(ShardId(1)).0, mac(Host::Node(1), Network::Outside));
        let public = [203, 0, 113, 1];
        let frames =
            vec![frame(900, vmac, public, 1024), frame(1030, vmac, public, 1025), frame(1200, own, public, 1025)];
        let opened = Flow {
            shard: 1,
            proto: "udp".to_owned(),
            inside: "10.0.1.1:40000".to_owned(),
            public: "203.0.113.1:1025".to_owned(),
            remote: format!("{}:7", INET_ADDRESSES[0]),
        };
        let judged = |known: &[Flow]| judged_by(frames.clone(), known, Handover::Graceful);
        assert_eq!(judged(std::slice::from_ref(&opened)).forbidden, 0);
        let found = judged(&[Flow { public: "203.0.113.1:1026".to_owned(), ..opened }]);
        assert_eq!(found.forbidden, 1);
        assert!(found.first_forbidden.is_some_and(|first| first.contains("199 ms") && first.contains("1025")));
    }

    #[test]
    fn leaks_and_ports_outside_the_leases_are_counted() {
        let backends = [Backend { number: 1, shard: 1, frontend: "203.0.113.1".to_owned(), lease: vec![(1024, 2047)] }];
        let arrived = [
            frame(1, [0; 6], [203, 0, 113, 1], 1024),
            frame(1, [0; 6], [203, 0, 113, 1], 2048),
            frame(1, [0; 6], [203, 0, 113, 2], 1024),
            frame(1, [0; 6], [10, 0, 1, 1], 1024),
        ];
        assert_eq!(leaks(&arrived, &backends), (1, 2));
    }

    #[test]
    fn silence_up_to_the_end_is_a_gap() {
        let reply = |at_ms| Frame { ports: Some((7, 40000)), ..frame(at_ms, [0; 6], [203, 0, 113, 10], 7) };
        let ports = BTreeSet::from([40000]);
        let sent: Vec<u64> = (0..100).map(|ms| ms * 1_000_000).collect();
        let gap = |sent: &[u64], frames: &[Frame]| {
            let (gap, at) = longest_gap(sent, &replies(frames, &ports), 0, 100_000_000);
            (gap / 1_000_000, at / 1_000_000)
        };
        assert_eq!(gap(&sent, &[reply(10), reply(60), reply(90)]), (50, 10));
        assert_eq!(gap(&sent, &[reply(10)]), (90, 10));
        assert_eq!(gap(&sent, &[]), (100, 0));
        // The sender stood still from 20 to 55 ms: what it asked then was answered 5 ms later.
        let paused: Vec<u64> = sent.iter().copied().filter(|at| !(20_000_000..55_000_000).contains(at)).collect();
        assert_eq!(gap(&paused, &[reply(20), reply(60), reply(95)]), (35, 60));
        assert_eq!(gap(&[], &[]), (0, 0), "nobody asked");
    }
}
