//! Random traffic, elections, cut-off owners, refusals, lagging snapshots and reclaims, judged by what leaves outside:
//! a public tuple never passes from one inside end to another while anybody may still use it (I1, I11), every packet is
//! covered by a committed mapping (I6), and replicas stay in step (I22).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use proptest::prelude::*;
use qnat_engine::event::{Authority, WorkerOutput};
use qnat_engine::ids::*;
use qnat_engine::record::{Endpoint, Proto};
use qnat_engine::snapshot::{Draining, OnReclaim, Snapshot};
use qnat_engine::status::{FlowState, FlowView};

use crate::lab::*;

const FAULT_BLOCKS: [u16; 3] = [2048, 2080, 4096];

/// Who leases each block, or since which control index it drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Backend(u32),
    Draining(u64, OnReclaim),
}

/// What the control state said at an index.
type History = BTreeMap<u64, [Holder; 3]>;

#[derive(Clone, Copy, Debug)]
enum Op {
    Udp { node: usize, backend: u8, port: u16, remote: u8 },
    Tcp { node: usize, backend: u8, port: u16, flags: u8 },
    Reply { node: usize, nth: usize, flags: u8 },
    Run(u64),
    Elect { node: usize, adopt: usize },
    Cut { node: usize },
    Heal,
    Hold,
    Commit,
    Refuse,
    Reclaim { block: usize, close_now: bool },
    Grant { backend: u8 },
    Catch { node: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0usize..3;
    prop_oneof![
        8 => (node.clone(), 0u8..2, 0u16..40, 0u8..2)
            .prop_map(|(node, backend, port, remote)| Op::Udp { node, backend, port, remote }),
        4 => (node.clone(), 0u8..2, 0u16..8, prop_oneof![Just(SYN), Just(ACK), Just(FIN | ACK), Just(RST)])
            .prop_map(|(node, backend, port, flags)| Op::Tcp { node, backend, port, flags }),
        4 => (node.clone(), 0usize..40, prop_oneof![Just(SYN | ACK), Just(ACK), Just(FIN | ACK), Just(RST)])
            .prop_map(|(node, nth, flags)| Op::Reply { node, nth, flags }),
        5 => prop_oneof![Just(10), Just(200), Just(1_500), Just(4_000), Just(20_000), Just(70_000)].prop_map(Op::Run),
        1 => (node.clone(), 0usize..4).prop_map(|(node, adopt)| Op::Elect { node, adopt }),
        1 => node.clone().prop_map(|node| Op::Cut { node }),
        2 => Just(Op::Heal),
        1 => Just(Op::Hold),
        2 => Just(Op::Commit),
        1 => Just(Op::Refuse),
        1 => (0usize..3, any::<bool>()).prop_map(|(block, close_now)| Op::Reclaim { block, close_now }),
        2 => (0u8..2).prop_map(|backend| Op::Grant { backend }),
        2 => node.prop_map(|node| Op::Catch { node }),
    ]
}

fn address(backend: u8) -> Ipv4Addr {
    if backend == 0 { A } else { B }
}

/// A packet that carries its own inside end as payload.
fn packet(backend: u8, port: u16, remote: Endpoint, tcp: Option<u8>) -> Vec<u8> {
    let from = address(backend);
    let to = remote.addr.ipv4().expect("IPv4");
    let step = PacketBuilder::ethernet2(mac_of(from).0, Mac::of_shard(SHARD).0).ipv4(from.octets(), to.octets(), 64);
    let [hi, lo] = port.to_be_bytes();
    let (payload, mut frame) = ([backend, hi, lo], Vec::new());
    match tcp {
        None => step.udp(port, remote.port).write(&mut frame, &payload).expect("fits"),
        Some(flags) => {
            let mut step = step.tcp(port, remote.port, 100, 1000);
            if flags & SYN != 0 {
                step = step.syn();
            }
            if flags & FIN != 0 {
                step = step.fin();
            }
            if flags & RST != 0 {
                step = step.rst();
            }
            if flags & ACK != 0 {
                step = step.ack(1);
            }
            step.write(&mut frame, &payload).expect("fits");
        }
    }
    frame
}

fn compile(s: &mut Snapshot, holders: &[Holder; 3]) {
    for id in [1, 2] {
        s.backends.get_mut(&BackendId(id)).expect("A and B").lease = Vec::new();
        s.backends.get_mut(&BackendId(id)).expect("A and B").idle_timeout_ms = 30_000;
    }
    for (start, holder) in FAULT_BLOCKS.into_iter().zip(holders) {
        let block = block(start, 32);
        match *holder {
            Holder::Backend(id) => s.backends.get_mut(&BackendId(id)).expect("A or B").lease.push(block),
            Holder::Draining(index, on_reclaim) => {
                let draining = Draining { block, reclaim_index: ControlIndex(index), on_reclaim };
                drains(s, draining);
            }
        }
    }
}

type Tuple = (Proto, u16, Ipv4Addr, u16);

struct Judge {
    lab: Lab,
    history: History,
    /// Inside end and time of the last packet of each public tuple.
    used: BTreeMap<Tuple, ([u8; 3], u64)>,
    replies: Vec<Tuple>,
}

impl Judge {
    fn new() -> Self {
        let holders = [Holder::Backend(1), Holder::Backend(2), Holder::Backend(1)];
        let mut judge = Self {
            lab: Lab::new(3),
            history: BTreeMap::from([(11, holders)]),
            used: BTreeMap::new(),
            replies: Vec::new(),
        };
        for node in 0..3 {
            judge.catch_up(node);
        }
        judge.lab.run(10);
        judge
    }

    fn latest(&self) -> (u64, [Holder; 3]) {
        self.history.last_key_value().map(|(i, h)| (*i, *h)).expect("there is a first one")
    }

    fn catch_up(&mut self, node: usize) {
        let (index, holders) = self.latest();
        if !self.lab.nodes[node].cut && self.lab.loaded(node) < index {
            self.lab.load_on(node, index, |s| compile(s, &holders));
        }
    }

    fn change(&mut self, holders: [Holder; 3]) {
        let index = self.latest().0 + 1;
        self.history.insert(index, holders);
        // The others lag until they catch up; the leader's log forces them before they serve (F2).
        self.catch_up(self.lab.leader);
        self.lab.run(10);
    }

    fn step(&mut self, op: Op) {
        let remote = |n: u8| Endpoint { addr: REMOTE.into(), port: 53 + u16::from(n) };
        match op {
            Op::Udp { node, backend, port, remote: r } => {
                self.lab.out(node, packet(backend, port, remote(r), None));
            }
            Op::Tcp { node, backend, port, flags } => {
                self.lab.out(node, packet(backend, port, remote(2), Some(flags)));
            }
            Op::Reply { node, nth, flags } => {
                if let Some((proto, port, remote, remote_port)) = self.replies.get(nth).copied() {
                    let frame = if proto == Proto::Tcp {
                        tcp(remote, remote_port, PUBLIC, port, flags, 500, 104)
                    } else {
                        udp_in(remote, remote_port, PUBLIC, port)
                    };
                    self.lab.frame(node, OUTSIDE, frame);
                }
            }
            Op::Run(ms) => self.run(ms),
            Op::Elect { node, adopt } if !self.lab.nodes[node].cut => {
                // Some of what was proposed reached the successor's log.
                let adopted: Vec<_> = self.lab.waiting.drain(..).take(adopt).collect();
                self.lab.log.extend(adopted);
                self.lab.hold = Hold::No;
                self.lab.elect(node);
            }
            Op::Cut { node } if !self.lab.nodes[node].cut && node != self.lab.leader => {
                self.lab.heal();
                self.lab.hold = Hold::No;
                self.lab.cut_off_leader(node);
            }
            Op::Heal => self.lab.heal(),
            Op::Hold => self.lab.hold = Hold::Yes,
            Op::Commit => self.lab.commit_waiting(),
            Op::Refuse => {
                // What was taken before the refusal still commits.
                self.lab.hold = Hold::Refuse;
                self.lab.run(10);
                self.lab.commit_waiting();
            }
            Op::Reclaim { block, close_now } => {
                let (index, mut holders) = self.latest();
                if matches!(holders[block], Holder::Backend(_)) {
                    let how = if close_now { OnReclaim::Expire } else { OnReclaim::Drain };
                    holders[block] = Holder::Draining(index + 1, how);
                    self.change(holders);
                }
            }
            Op::Grant { backend } => self.grant(u32::from(backend) + 1),
            Op::Catch { node } => {
                self.catch_up(node);
                self.lab.run(10);
            }
            Op::Elect { .. } | Op::Cut { .. } => {}
        }
        self.judge();
    }

    /// Judges each packet when it leaves: a while later its mapping may have ended.
    fn run(&mut self, ms: u64) {
        for step in steps(ms) {
            self.lab.advance(step);
            if !self.lab.sent.is_empty() {
                self.judge();
            }
        }
    }

    /// A fenced block goes to another backend (F5).
    fn grant(&mut self, backend: u32) {
        let (_, mut holders) = self.latest();
        for (_, output) in std::mem::take(&mut self.lab.outputs) {
            let WorkerOutput::Fenced { block, reclaim_index, .. } = output else { continue };
            let at = FAULT_BLOCKS.iter().position(|s| *s == block.start).expect("one of ours");
            if matches!(holders[at], Holder::Draining(index, _) if ControlIndex(index) == reclaim_index) {
                holders[at] = Holder::Backend(backend);
            }
        }
        if holders != self.latest().1 {
            self.change(holders);
        }
    }

    fn judge(&mut self) {
        for sent in std::mem::take(&mut self.lab.sent) {
            if sent.is_arp() {
                assert!(matches!(sent.authority, Authority::Lease { .. }), "M1");
                continue;
            }
            let p = sent.packet();
            if sent.authority == Authority::Forward || sent.link == INSIDE {
                continue;
            }
            assert_eq!(p.src, PUBLIC, "R28: nothing leaves untranslated");
            let at = usize::from(p.l3 + p.total_len) - 3;
            let inside: [u8; 3] = sent.frame[at..at + 3].try_into().expect("three octets");
            let tuple = (p.proto, p.src_port, p.dst, p.dst_port);
            if let Some((former, last)) = self.used.insert(tuple, (inside, self.lab.now))
                && former != inside
            {
                let quiet = self.lab.now - last;
                assert!(quiet >= 16 * SEC, "I1, I11: {tuple:?} went from {former:?} to {inside:?} after {quiet} ns");
            }
            let covered = self.lab.nodes.iter().any(|n| {
                n.worker.view().dump_flows(self.lab.now, None, 10_000).iter().any(|f| {
                    f.written_at > LogIndex(0)
                        && (f.proto, f.public.2, f.remote.port) == (p.proto, p.src_port, p.dst_port)
                        && f.inside.endpoint.addr.ipv4() == Some(address(inside[0]))
                        && f.inside.endpoint.port == u16::from_be_bytes([inside[1], inside[2]])
                })
            });
            assert!(covered, "I6: {tuple:?} from {inside:?}");
            if !self.replies.contains(&tuple) {
                self.replies.push(tuple);
            }
        }
        if self.lab.nodes.iter().all(|n| !n.cut) {
            self.lab.assert_in_step();
        }
        self.ports_add_up();
        let counts = self.lab.status(self.lab.leader).counts;
        assert_eq!((counts.opens_refused, counts.control_behind, counts.undecodable), (0, 0, 0), "a sane owner");
    }

    /// Granted = live + held + free on every member (I47): what is counted by port is what its mappings say.
    fn ports_add_up(&self) {
        for node in &self.lab.nodes {
            let flows = node.worker.view().dump_flows(self.lab.now, Some(SHARD), 10_000);
            for (block, counted) in node.worker.view().dump_ports().iter().flat_map(|view| &view.blocks) {
                let here = flows.iter().filter(|f| f.public.0 == block.frontend && block.contains(f.public.2));
                let committed: Vec<_> = here.filter(|f| f.state != FlowState::Opening).collect();
                let is_held = |f: &&&FlowView| matches!(f.state, FlowState::Held(_));
                let live: BTreeSet<u16> = committed.iter().filter(|f| !is_held(f)).map(|f| f.public.2).collect();
                let held: BTreeSet<u16> = committed.iter().filter(is_held).map(|f| f.public.2).collect();
                let only_held = held.difference(&live).count();
                let ports = (u64::from(counted.used), u64::from(counted.held));
                assert_eq!(ports, (live.len() as u64, only_held as u64), "I47: {block:?}");
                let flows_of = counted.live_flows + counted.held_flows;
                assert_eq!(flows_of, committed.len() as u64, "I47: {block:?}");
                assert!(live.len() + only_held <= usize::from(block.len), "I47: {block:?}");
            }
        }
    }

    /// After all faults: everything works again (I25, I27).
    fn converge(&mut self) {
        self.lab.hold = Hold::No;
        self.lab.waiting.clear();
        self.lab.heal();
        for node in 0..3 {
            self.catch_up(node);
        }
        self.lab.elect(1);
        self.run(400_000);
        self.judge();
        let status = self.lab.status(1);
        assert_eq!((status.live, status.held, status.pending), (0, 0, 0), "I29, I47: all is idle and forgotten");
        for n in &self.lab.nodes {
            assert_eq!(n.worker.held_bytes(), (0, false));
            assert_eq!(n.worker.counters().parked, 0, "I28");
        }
        self.lab.assert_in_step();
        self.grant(1);
        let (_, holders) = self.latest();
        assert!(holders.iter().all(|h| matches!(h, Holder::Backend(_))), "every reclaim completes: {holders:?}");
    }
}

proptest! {

    #[test]
    fn no_public_tuple_changes_hands_while_anybody_may_use_it(ops in proptest::collection::vec(op(), 1..120)) {
        let mut judge = Judge::new();
        for op in ops {
            judge.step(op);
        }
        judge.converge();
    }
}
