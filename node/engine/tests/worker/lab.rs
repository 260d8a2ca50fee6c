//! A tiny cluster in memory: workers, one log per shard, lease words and a clock that the test moves. Proposals come back
//! as committed entries unless the test holds them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use words::Prefix;

use bytes::Bytes;
use etherparse::PacketBuilder;
use qnat_engine::LeaseWords;
use qnat_engine::event::{Authority, DropReason, GroupEvent, Verdict, WorkerOutput};
use qnat_engine::ids::*;
use qnat_engine::snapshot::*;
use qnat_engine::wire::{ArpOp, FrameMeta, IpPacket, Parsed, build_arp, parse};
use qnat_engine::worker::Worker;

pub(crate) use words::time::MS;
pub(crate) use words::time::SECOND_NS as SEC;
pub(crate) const NETWORK: VnetId = VnetId(0);
pub(crate) const INSIDE: Link = Link::Inside(NETWORK);
pub(crate) const OUTSIDE: Link = Link::Outside;
pub(crate) const SHARD: ShardId = ShardId(1);
pub(crate) const OTHER: ShardId = ShardId(2);
pub(crate) const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(crate) const PUBLIC_2: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
pub(crate) const UPSTREAM: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
pub(crate) const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
/// Lives in shard `OTHER`.
pub(crate) const C: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 6);
/// Has an empty lease.
pub(crate) const NO_LEASE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
pub(crate) const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(crate) const FRONTEND: FrontendId = FrontendId(1);

pub(crate) fn block(start: u16, len: u16) -> PortBlock {
    PortBlock { frontend: FRONTEND, start, len }
}

pub(crate) fn mac_of(ip: Ipv4Addr) -> Mac {
    let [a, b, c, d] = ip.octets();
    Mac([0x52, 0, a, b, c, d])
}

/// The card that has an address on a link: another one in each network.
pub(crate) fn mac_in(link: Link, ip: Ipv4Addr) -> Mac {
    let Mac([first, rest @ ..]) = mac_of(ip);
    let [a, b, c, d, e] = rest;
    let other = link.is_inside() && link != INSIDE;
    Mac([if other { 0x56 } else { first }, a, b, c, d, e])
}

pub(crate) fn links(node: u32) -> NodeLinks {
    let n = u8::try_from(node).expect("few nodes");
    NodeLinks {
        node: NodeId(node),
        inside: vec![(NETWORK, Mac([0x52, 1, 0, 0, 0, n]))],
        outside: Mac([0x52, 2, 0, 0, 0, n]),
    }
}

pub(crate) fn snapshot(index: u64, me: u32, nodes: u32) -> Snapshot {
    let mut s = Snapshot {
        control_index: ControlIndex(index),
        params: Params { key: [11, 22], ..Params::default() },
        me: Some(links(me)),
        peers: (0..nodes).filter(|n| *n != me).map(links).collect(),
        subnets: vec![Subnet {
            vnet: NETWORK,
            prefix: Prefix { network: Ipv4Addr::new(10, 0, 0, 0), len: 24 },
            gateway: GATEWAY,
        }],
        outside: Outside {
            prefix: Prefix { network: Ipv4Addr::new(203, 0, 113, 0), len: 24 },
            next_hop: Some(UPSTREAM),
        },
        ..Snapshot::default()
    };
    s.put_frontends([
        (FRONTEND, Frontend { ip: PUBLIC, shard: SHARD }),
        (FrontendId(2), Frontend { ip: PUBLIC_2, shard: OTHER }),
    ]);
    let other = PortBlock { frontend: FrontendId(2), start: 2048, len: 64 };
    let backends = [
        (1, A, SHARD, vec![block(2048, 32), block(4096, 32)]),
        (2, B, SHARD, vec![block(2080, 32)]),
        (3, C, OTHER, vec![other]),
        (4, NO_LEASE, SHARD, vec![]),
    ];
    for (id, ip, home, lease) in backends {
        let backend = Backend {
            vnet: NETWORK,
            ip,
            mac: None,
            home,
            lease,
            ways: Ways::default(),
            idle_timeout_ms: 240_000,
            tcp_reset_on_idle: TcpReset::Off,
            profile: Profile::default(),
            sharing: Sharing::default(),
            filtering: Filtering::default(),
        };
        s.put_backend(BackendId(id), backend);
    }
    s
}

/// One more block of `SHARD` drains.
pub(crate) fn drains(s: &mut Snapshot, draining: Draining) {
    let config = s.shards.get_mut(&SHARD).expect("shard");
    let mut all = config.draining.to_vec();
    all.push(draining);
    all.sort_unstable_by_key(|d| (d.block.frontend, d.block.start));
    config.draining = all.into();
}

#[derive(Default, Debug, Clone)]
pub(crate) struct Words(pub BTreeMap<ShardId, LeaseWord>);

impl LeaseWords for Words {
    fn word(&self, shard: ShardId) -> LeaseWord {
        self.0.get(&shard).copied().unwrap_or_default()
    }
}

pub(crate) struct Node {
    pub(crate) worker: Worker,
    pub(crate) words: Words,
    /// Entries of `SHARD` that it was told of.
    pub(crate) seen: usize,
    /// It hears nothing of the log and of elections.
    pub(crate) cut: bool,
    /// Control index of its snapshot.
    pub(crate) loaded: u64,
}

pub(crate) struct Sent {
    pub(crate) node: usize,
    pub(crate) link: Link,
    pub(crate) frame: Vec<u8>,
    pub(crate) authority: Authority,
}

impl Sent {
    pub(crate) fn packet(&self) -> IpPacket {
        match parse(&self.frame, &FrameMeta::default()) {
            Ok(Parsed::Ip(p)) => p,
            other => panic!("not a valid packet: {other:?}"),
        }
    }

    /// Whether it is a question or an announcement rather than a packet.
    pub(crate) fn is_arp(&self) -> bool {
        self.frame[12..14] != [8, 0]
    }
}

pub(crate) struct Lab {
    pub(crate) now: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) log: Vec<(Term, Bytes)>,
    pub(crate) term: u64,
    pub(crate) leader: usize,
    /// Proposals stay here while `hold` is set.
    pub(crate) waiting: Vec<(Term, Bytes)>,
    pub(crate) hold: Hold,
    /// Whether hosts answer ARP.
    pub(crate) answers: bool,
    pub(crate) outputs: Vec<(usize, WorkerOutput)>,
    pub(crate) sent: Vec<Sent>,
}

#[derive(PartialEq, Eq, Clone, Copy)]
pub(crate) enum Hold {
    No,
    Yes,
    /// Refuse everything.
    Refuse,
}

impl Lab {
    /// `n` nodes with snapshot 10 loaded; node 0 serves `SHARD`.
    pub(crate) fn new(n: u32) -> Self {
        let mut lab = Self::unelected(n);
        lab.elect(0);
        lab.run(20);
        lab.sent.clear();
        lab.outputs.clear();
        lab
    }

    pub(crate) fn unelected(n: u32) -> Self {
        let mut lab = Self {
            now: 1_000 * SEC,
            nodes: Vec::new(),
            log: vec![(Term(0), Bytes::new())],
            term: 0,
            leader: 0,
            waiting: Vec::new(),
            hold: Hold::No,
            answers: true,
            outputs: Vec::new(),
            sent: Vec::new(),
        };
        for i in 0..n {
            lab.nodes.push(lab.boot(i, n));
        }
        for i in 0..lab.nodes.len() {
            lab.nodes[i].worker.handle_event(
                lab.now,
                &Words::default(),
                GroupEvent::Opened { shard: SHARD, epoch: 0, index: LogIndex(1), loads: false },
            );
            for ip in [A, B, C] {
                lab.learn(i, INSIDE, ip);
            }
            lab.learn(i, OUTSIDE, UPSTREAM);
        }
        lab.pump();
        lab
    }

    pub(crate) fn boot(&self, i: u32, n: u32) -> Node {
        let mut worker = Worker::new(Incarnation(u64::from(i) + 100), NodeId(i), 77 + u64::from(i));
        worker.set_networks(&[NETWORK]);
        assert!(worker.load_snapshot(self.now, Arc::new(snapshot(10, i, n))));
        for link in [INSIDE, OUTSIDE] {
            worker.set_link(self.now, link, true);
        }
        Node { worker, words: Words::default(), seen: 1, cut: false, loaded: 10 }
    }

    pub(crate) fn event(&mut self, node: usize, event: GroupEvent) {
        let n = &mut self.nodes[node];
        n.worker.handle_event(self.now, &n.words, event);
    }

    /// `node` becomes leader with a lease; everybody knows.
    pub(crate) fn elect(&mut self, node: usize) {
        self.begin_term(node);
        self.log.push((Term(self.term), Bytes::new()));
        self.pump();
    }

    /// The same, but nothing of the log comes to the new leader yet, its own first entry neither.
    pub(crate) fn begin_term(&mut self, node: usize) {
        self.lapse();
        self.waiting.clear();
        self.term += 1;
        let term = Term(self.term);
        self.leader = node;
        for i in 0..self.nodes.len() {
            if self.nodes[i].cut {
                continue;
            }
            if i != node {
                self.event(i, GroupEvent::Following { shard: SHARD });
            }
            let owner = NodeId(u32::try_from(node).expect("few nodes"));
            self.event(i, GroupEvent::Owner { shard: SHARD, term, node: Some(owner) });
        }
        self.lease(node, 3600 * SEC);
        self.event(node, GroupEvent::Leading { shard: SHARD, term });
    }

    /// The leader hears nothing any more and its lease ends: it knows no successor. `next` takes over.
    pub(crate) fn cut_off_leader(&mut self, next: usize) {
        let old = self.leader;
        self.lapse();
        let term = Term(self.term);
        self.event(old, GroupEvent::Owner { shard: SHARD, term, node: None });
        self.nodes[old].cut = true;
        self.elect(next);
    }

    /// Everybody hears everything again.
    pub(crate) fn heal(&mut self) {
        let owner = NodeId(u32::try_from(self.leader).expect("few nodes"));
        for i in 0..self.nodes.len() {
            if std::mem::take(&mut self.nodes[i].cut) && i != self.leader {
                self.event(i, GroupEvent::Following { shard: SHARD });
                self.event(i, GroupEvent::Owner { shard: SHARD, term: Term(self.term), node: Some(owner) });
            }
        }
        self.pump();
    }

    pub(crate) fn lease(&mut self, node: usize, ns: u64) {
        let word = LeaseWord {
            incarnation: Incarnation(u64::try_from(node).expect("few") + 100),
            term: Term(self.term),
            lease_until_ns: self.now + ns,
            grace_until_ns: self.now + ns + 3 * SEC,
        };
        self.nodes[node].words.0.insert(SHARD, word);
    }

    /// The leader's lease ends now, its grace in 3 s; nobody is known to follow.
    pub(crate) fn lapse(&mut self) {
        let now = self.now;
        if let Some(word) = self.nodes[self.leader].words.0.get_mut(&SHARD) {
            word.lease_until_ns = word.lease_until_ns.min(now);
            word.grace_until_ns = word.lease_until_ns + 3 * SEC;
        }
    }

    /// Delivers entries, collects outputs and frames, until nothing moves.
    pub(crate) fn pump(&mut self) {
        loop {
            let mut moved = false;
            for i in 0..self.nodes.len() {
                moved |= self.deliver(i);
                moved |= self.poll(i);
            }
            if !moved {
                break;
            }
        }
        for n in &self.nodes {
            assert!(n.worker.counters().is_balanced(), "I51: {:?}", n.worker.counters());
        }
    }

    fn deliver(&mut self, i: usize) -> bool {
        let mut moved = false;
        while !self.nodes[i].cut && self.nodes[i].seen < self.log.len() {
            let (term, entry) = self.log[self.nodes[i].seen].clone();
            self.nodes[i].seen += 1;
            let index = LogIndex(u64::try_from(self.nodes[i].seen).expect("short log"));
            self.event(i, GroupEvent::Committed { shard: SHARD, index, term, entry });
            moved = true;
        }
        moved
    }

    fn poll(&mut self, i: usize) -> bool {
        let mut moved = false;
        let mut frame = Vec::new();
        loop {
            let n = &mut self.nodes[i];
            if let Some((link, _, authority)) = n.worker.poll_frame(self.now, &n.words, &mut frame) {
                // RFC 5227 2.1.1: a probe for an address makes a host that is about to take it give it up.
                let probe = frame[12..14] == [8, 6] && frame[28..32] == [0; 4];
                assert!(!probe, "nobody asks from 0.0.0.0");
                self.sent.push(Sent { node: i, link, frame: frame.clone(), authority });
                self.answer(i, link, &frame);
                moved = true;
                continue;
            }
            let Some(output) = n.worker.poll_output(self.now, &n.words) else { break };
            moved = true;
            if let WorkerOutput::Propose { shard, term, stream, entry, .. } = &output {
                let (shard, term, stream, entry) = (*shard, *term, *stream, entry.clone());
                assert_eq!((i, shard, term), (self.leader, SHARD, Term(self.term)), "only the leader proposes");
                match self.hold {
                    Hold::No => self.log.push((term, entry)),
                    Hold::Yes => self.waiting.push((term, entry)),
                    Hold::Refuse => self.event(i, GroupEvent::Refused { shard, term, stream }),
                }
            }
            self.outputs.push((i, output));
        }
        moved
    }

    /// Hosts and the upstream answer questions about themselves.
    fn answer(&mut self, i: usize, link: Link, frame: &[u8]) {
        let Ok(Parsed::Arp(p)) = parse(frame, &FrameMeta::default()) else { return };
        let hosts: &[Ipv4Addr] = match link {
            Link::Inside(_) => &[A, B, C],
            Link::Outside => &[UPSTREAM],
        };
        if self.answers && p.op == ArpOp::Request && hosts.contains(&p.target_ip) {
            let mut reply = arp(ArpOp::Reply, mac_in(link, p.target_ip), p.target_ip, p.sender_mac, p.sender_ip);
            let n = &mut self.nodes[i];
            n.worker.handle_frame(self.now, &n.words, link, &FrameMeta::default(), &mut reply);
        }
    }

    pub(crate) fn commit_waiting(&mut self) {
        self.hold = Hold::No;
        let waiting = std::mem::take(&mut self.waiting);
        self.log.extend(waiting);
        self.pump();
    }

    pub(crate) fn run(&mut self, ms: u64) {
        steps(ms).for_each(|step| self.advance(step));
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.now += ms * MS;
        for i in 0..self.nodes.len() {
            let n = &mut self.nodes[i];
            n.worker.handle_fast(self.now, &n.words);
            n.worker.handle_timers(self.now, &n.words);
        }
        self.pump();
    }

    pub(crate) fn frame(&mut self, node: usize, link: Link, mut frame: Vec<u8>) -> Verdict {
        let n = &mut self.nodes[node];
        let verdict = n.worker.handle_frame(self.now, &n.words, link, &FrameMeta::default(), &mut frame);
        if let Verdict::Transmit { link, authority } = verdict {
            assert!(Worker::may_transmit(&n.words, self.now, authority));
            self.sent.push(Sent { node, link, frame, authority });
        }
        self.pump();
        verdict
    }

    pub(crate) fn out(&mut self, node: usize, frame: Vec<u8>) -> Verdict {
        self.frame(node, INSIDE, frame)
    }

    /// Sends a frame out and returns the only packet that left for it.
    pub(crate) fn pass(&mut self, node: usize, link: Link, frame: Vec<u8>) -> IpPacket {
        self.sent.clear();
        let verdict = self.frame(node, link, frame);
        self.sent.retain(|s| !s.is_arp());
        assert_eq!(self.sent.len(), 1, "one packet leaves, verdict {verdict:?}");
        self.sent[0].packet()
    }

    pub(crate) fn loaded(&self, node: usize) -> u64 {
        self.nodes[node].loaded
    }

    pub(crate) fn learn(&mut self, node: usize, link: Link, ip: Ipv4Addr) {
        self.learn_card(node, link, ip, mac_in(link, ip));
    }

    pub(crate) fn learn_card(&mut self, node: usize, link: Link, ip: Ipv4Addr, card: Mac) {
        let n = &mut self.nodes[node];
        let mut frame = arp(ArpOp::Request, card, ip, Mac::BROADCAST, Ipv4Addr::new(192, 0, 2, 1));
        let verdict = n.worker.handle_frame(self.now, &n.words, link, &FrameMeta::default(), &mut frame);
        assert_eq!(verdict, Verdict::Consumed);
    }

    pub(crate) fn load(&mut self, index: u64, change: impl Fn(&mut Snapshot)) {
        for i in 0..self.nodes.len() {
            self.load_on(i, index, &change);
        }
        self.run(10);
    }

    pub(crate) fn load_on(&mut self, i: usize, index: u64, change: impl Fn(&mut Snapshot)) {
        let nodes = u32::try_from(self.nodes.len()).expect("few");
        let mut s = snapshot(index, u32::try_from(i).expect("few"), nodes);
        change(&mut s);
        assert!(self.nodes[i].worker.load_snapshot(self.now, Arc::new(s)));
        self.nodes[i].loaded = index;
    }

    pub(crate) fn status(&self, node: usize) -> qnat_engine::status::ShardStatus {
        self.nodes[node].worker.view().shard_status().into_iter().find(|s| s.shard == SHARD).expect("replica")
    }

    pub(crate) fn hash(&self, node: usize) -> u64 {
        self.nodes[node].worker.view().state_hash(SHARD).expect("replica")
    }

    pub(crate) fn assert_in_step(&self) {
        for i in 1..self.nodes.len() {
            assert_eq!(self.hash(i), self.hash(0), "I22: node {i}");
        }
    }

    pub(crate) fn dropped(&self, node: usize, reason: DropReason) -> u64 {
        self.nodes[node].worker.counters().dropped(reason)
    }

    pub(crate) fn fenced(&self) -> Vec<PortBlock> {
        let mut blocks: Vec<PortBlock> = Vec::new();
        for (_, output) in &self.outputs {
            if let WorkerOutput::Fenced { block, .. } = output {
                blocks.push(*block);
            }
        }
        blocks.sort();
        blocks.dedup();
        blocks
    }
}

/// How time passes: 10 ms at once, or 200 if it is more than a minute.
pub(crate) fn steps(ms: u64) -> impl Iterator<Item = u64> {
    let step = if ms > 60_000 { 200 } else { 10 };
    (0..ms.div_ceil(step)).map(move |n| step.min(ms - n * step))
}

pub(crate) fn arp(op: ArpOp, mac: Mac, ip: Ipv4Addr, to: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut out = [0; 60];
    let target_mac = if op == ArpOp::Reply { to } else { Mac::default() };
    build_arp(&mut out, op, mac, to, mac, ip, target_mac, target);
    out.to_vec()
}

fn builder(from: Ipv4Addr, to: Ipv4Addr, dst: Mac) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(mac_of(from).0, dst.0).ipv4(from.octets(), to.octets(), 64)
}

/// A datagram of a backend to `remote`, sent to its home shard's vMAC.
pub(crate) fn udp(from: Ipv4Addr, port: u16, to: Ipv4Addr, to_port: u16) -> Vec<u8> {
    let home = if from == C { OTHER } else { SHARD };
    udp_to(Mac::of_shard(home), from, port, to, to_port)
}

pub(crate) fn udp_to(dst: Mac, from: Ipv4Addr, port: u16, to: Ipv4Addr, to_port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    builder(from, to, dst).udp(port, to_port).write(&mut frame, b"payload").expect("fits");
    frame
}

pub(crate) fn ping(from: Ipv4Addr, to: Ipv4Addr, id: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = builder(from, to, Mac::of_shard(SHARD)).icmpv4_echo_request(id, 1);
    step.write(&mut frame, b"payload").expect("fits");
    frame
}

pub(crate) fn pong(to: Ipv4Addr, id: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2(mac_of(UPSTREAM).0, Mac::of_shard(SHARD).0)
        .ipv4(REMOTE.octets(), to.octets(), 64)
        .icmpv4_echo_reply(id, 1);
    step.write(&mut frame, b"payload").expect("fits");
    frame
}

/// A datagram from outside, through the upstream router.
pub(crate) fn udp_in(from: Ipv4Addr, port: u16, to: Ipv4Addr, to_port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2(mac_of(UPSTREAM).0, Mac::of_shard(SHARD).0)
        .ipv4(from.octets(), to.octets(), 64)
        .udp(port, to_port);
    step.write(&mut frame, b"answer").expect("fits");
    frame
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// A segment; from outside if `from` is not a backend.
pub(crate) fn tcp(from: Ipv4Addr, port: u16, to: Ipv4Addr, to_port: u16, flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let src = if from.octets()[0] == 10 { mac_of(from) } else { mac_of(UPSTREAM) };
    let mut step = PacketBuilder::ethernet2(src.0, Mac::of_shard(SHARD).0)
        .ipv4(from.octets(), to.octets(), 64)
        .tcp(port, to_port, seq, 1000);
    if flags & FIN != 0 {
        step = step.fin();
    }
    if flags & SYN != 0 {
        step = step.syn();
    }
    if flags & RST != 0 {
        step = step.rst();
    }
    if flags & ACK != 0 {
        step = step.ack(ack);
    }
    let mut frame = Vec::new();
    step.write(&mut frame, b"").expect("fits");
    frame
}

/// A SYN, or its answer, that offers a segment size.
pub(crate) fn tcp_syn(from: Ipv4Addr, port: u16, to: Ipv4Addr, to_port: u16, flags: u8, mss: u16) -> Vec<u8> {
    let src = if from.octets()[0] == 10 { mac_of(from) } else { mac_of(UPSTREAM) };
    let step = PacketBuilder::ethernet2(src.0, Mac::of_shard(SHARD).0).ipv4(from.octets(), to.octets(), 64);
    let step = step.tcp(port, to_port, 1, 1000).syn();
    let step = if flags & ACK != 0 { step.ack(2) } else { step };
    let mut frame = Vec::new();
    let options = [etherparse::TcpOptionElement::MaximumSegmentSize(mss)];
    step.options(&options).expect("fits").write(&mut frame, b"").expect("fits");
    frame
}
