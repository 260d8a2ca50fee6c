//! Whole control halves over stores in memory; frames are carried by hand, and time is a number.

use std::collections::{BTreeMap, BTreeSet};

use consensus::control::storage::ClusterId;
use consensus::control::storage::memory::MemoryStore;
use control::command::{CommandBody, Configure};
use control::outcome::Outcome;
use control::registry::Founder;

use super::*;
use crate::flow_member::ControlDuty;

const TOML: &str = r#"
[[virtual_network]]
name = "vnet1"
[[virtual_network.subnet]]
name = "default"
prefix = "10.0.0.0/16"
gateway = "10.0.0.1"
[[public_ip]]
name = "pip1"
address = "203.0.113.1"
[[load_balancer]]
name = "lb1"
frontends = ["pip1"]
[[load_balancer.pool]]
name = "web"
[[load_balancer.outbound_rule]]
name = "out"
pool = "web"
[outside]
network = "203.0.113.0/24"
next_hop = "203.0.113.254"
"#;

pub(super) struct Bed {
    pub(super) members: BTreeMap<NodeId, ControlMember<MemoryStore>>,
    pub(super) silent: BTreeSet<NodeId>,
    /// Frames of which every so many-th is lost; 0: none.
    pub(super) lose: usize,
    /// Lengths of all frames that were carried, and how many.
    pub(super) longest: usize,
    pub(super) carried: usize,
    ms: u64,
    pub(super) answers: BTreeMap<u64, Result<Outcome, NotDone>>,
    /// Jobs are brought back so many steps later.
    pub(super) job_steps: u64,
    pub(super) jobs: Vec<(u64, NodeId, Box<Job>)>,
}

fn identity(node: NodeId, peers: &[NodeId]) -> Identity {
    let addr = "127.0.0.1:7000".parse().expect("an address");
    Identity {
        node,
        peer_addr: addr,
        api_addr: addr,
        inside: Vec::new(),
        outside_mac: words::Mac::default(),
        level: words::level::NEWEST,
        key: [1; 32],
        peers: peers.to_vec(),
    }
}

impl Bed {
    /// Founders that have all registered.
    pub(super) fn running(nodes: u32) -> Self {
        Self::timed(nodes, ControlTiming::default())
    }

    pub(super) fn timed(nodes: u32, timing: ControlTiming) -> Self {
        let peers: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let addr = "127.0.0.1:7000".parse().expect("an address");
        let founder = |node: &NodeId| Founder { node: *node, peer_addr: addr, api_addr: addr, key: [1; 32] };
        let founders: Vec<Founder> = peers.iter().map(founder).collect();
        let genesis = Bytes::from(State::found([7; 16], &founders, [1, 2]).encode().expect("small"));
        let voters: Vec<u64> = peers.iter().map(|node| FOUNDER_RAFT_ID | u64::from(node.0)).collect();
        let mut members = BTreeMap::new();
        for node in &peers {
            let mut store = MemoryStore::new();
            store.found(ClusterId([7; 16]), FOUNDER_RAFT_ID | u64::from(node.0), &voters, &genesis).expect("fresh");
            let (me, now) = (identity(*node, &peers), Now { ns: 0, unix_ms: 0 });
            members.insert(*node, ControlMember::new(me, store, timing, u64::from(node.0), now).expect("opens"));
        }
        let mut bed = Self {
            members,
            silent: BTreeSet::new(),
            lose: 0,
            longest: 0,
            carried: 0,
            ms: 0,
            answers: BTreeMap::new(),
            job_steps: 1,
            jobs: Vec::new(),
        };
        bed.until(|bed| bed.members.values().all(|member| member.incarnation().is_some()));
        bed
    }

    /// Another life of the node, with the disk of the one before.
    pub(super) fn restart(&mut self, node: NodeId) {
        let (now, peers) = (self.now(), self.members.keys().copied().collect::<Vec<_>>());
        let store = self.members.remove(&node).and_then(ControlMember::into_store).expect("it runs");
        let (me, seed) = (identity(node, &peers), 1_000 + self.ms);
        self.members.insert(node, ControlMember::new(me, store, ControlTiming::default(), seed, now).expect("opens"));
    }

    pub(super) fn now(&self) -> Now {
        Now { ns: self.ms * MS, unix_ms: self.ms }
    }

    /// Five milliseconds: what is due, and all that comes of it.
    pub(super) fn step(&mut self) {
        self.ms += 5;
        let now = self.now();
        let due = |(at, ..): &mut (u64, NodeId, Box<Job>)| *at <= self.ms;
        let due: Vec<_> = self.jobs.extract_if(.., due).collect();
        for (_, node, job) in due {
            self.members.get_mut(&node).expect("a member").finish(now, job.run());
        }
        self.members.values_mut().for_each(|member| member.tick(now));
        self.carry();
    }

    fn carry(&mut self) {
        let now = self.now();
        loop {
            let mut sent = Vec::new();
            for (from, member) in &mut self.members {
                while let Some(out) = member.poll(now) {
                    match out {
                        ControlOut::Send { to, frame } => sent.push((*from, to, frame)),
                        ControlOut::Done { ticket, result } => drop(self.answers.insert(ticket, result)),
                        ControlOut::StoreFailed { reason } => panic!("{reason}"),
                        ControlOut::Job(job) => self.jobs.push((self.ms + 5 * self.job_steps, *from, job)),
                        ControlOut::Ask { .. }
                        | ControlOut::Answer { .. }
                        | ControlOut::View(_)
                        | ControlOut::Registered(_)
                        | ControlOut::Members(_)
                        | ControlOut::NotTaken { .. }
                        | ControlOut::Over { .. }
                        | ControlOut::Ports(_) => {}
                    }
                }
            }
            if sent.is_empty() {
                return;
            }
            for (from, to, frame) in sent {
                self.carried += 1;
                self.longest = self.longest.max(frame.len());
                let lost = self.lose > 0 && self.carried.is_multiple_of(self.lose);
                if !lost && !self.silent.contains(&from) && !self.silent.contains(&to) {
                    self.members.get_mut(&to).expect("a member").handle_peer(now, from, &frame);
                }
            }
        }
    }

    pub(super) fn until(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..4_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("not within 20 s");
    }

    pub(super) fn run(&mut self, ms: u64) {
        (0..ms / 5).for_each(|_| self.step());
    }

    pub(super) fn leader(&self) -> NodeId {
        *self.members.iter().find(|(_, member)| member.leading()).expect("a leader").0
    }

    pub(super) fn state(&self) -> &State {
        self.members[&self.leader()].state()
    }

    pub(super) fn submit(&mut self, at: NodeId, body: CommandBody) -> Result<Outcome, NotDone> {
        let (now, ticket) = (self.now(), self.ms);
        self.members.get_mut(&at).expect("a member").submit(now, ticket, body);
        self.until(|bed| bed.answers.contains_key(&ticket));
        self.step();
        self.answers.remove(&ticket).expect("it is there")
    }

    fn configure(&mut self, text: &str) {
        let desired = control::config::parse("net.toml", text).expect("a good file");
        let body = CommandBody::Configure(Box::new(Configure { desired, base_hash: None, hints: Vec::new() }));
        let outcome = self.submit(NodeId(1), body);
        assert!(outcome.as_ref().is_ok_and(Outcome::is_applied), "{outcome:?}");
        let placed = |bed: &Self| bed.state().shards().values().all(|shard| !shard.members.is_empty());
        self.until(placed);
    }

    /// The owner of the only shard, node 1, says who is in step.
    fn measure(&mut self, in_step: impl Fn(&[Incarnation]) -> Vec<Incarnation>) {
        let (shard, entry) = self.state().shards().iter().next().map(|(id, s)| (*id, s.clone())).expect("a shard");
        let (voters, in_step) = (entry.members.clone(), in_step(&entry.members));
        let duty = ControlDuty::Voters { shard, epoch: entry.epoch, voters, in_step, served: true };
        let now = self.now();
        self.members.get_mut(&NodeId(1)).expect("a member").handle_duty(now, duty);
    }

    fn ask_to_stop(&mut self, node: NodeId) -> Result<(), String> {
        match self.submit(node, CommandBody::StopTokenTake { node, seen: Vec::new() }) {
            Ok(Outcome::Applied { .. }) => Ok(()),
            Ok(Outcome::Refused(refusal)) => Err(refusal.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn whole(members: &[Incarnation]) -> Vec<Incarnation> {
    members.to_vec()
}

#[test]
fn the_stop_token_is_given_by_what_owners_measure_and_by_who_is_heard() {
    let mut bed = Bed::running(3);
    bed.configure(TOML);
    for node in [1, 2, 3].map(NodeId) {
        let refused = bed.ask_to_stop(node).expect_err("nobody has measured");
        assert!(refused.contains("no owner that says who is in step"), "{refused}");
    }
    bed.measure(|members| members[..2].to_vec());
    bed.run(250);
    let refused = bed.ask_to_stop(NodeId(2)).expect_err("a learner, or a replica that lags");
    assert!(refused.contains("nodes 1, 2 of 1, 2, 3 vote") && refused.contains("qnat stop --now"), "{refused}");
    bed.measure(whole);
    bed.run(250);
    assert_eq!(bed.ask_to_stop(NodeId(2)), Ok(()));
    assert_eq!(bed.state().stop_token().map(|token| token.holder), Some(NodeId(2)));
}

#[test]
fn nobody_may_stop_while_a_node_is_down_that_has_not_registered_anew() {
    let mut bed = Bed::running(3);
    bed.configure(TOML);
    let leader = bed.leader();
    let (down, other) = match leader.0 {
        1 => (NodeId(2), NodeId(3)),
        2 => (NodeId(3), NodeId(1)),
        _ => (NodeId(2), NodeId(1)),
    };
    bed.silent.insert(down);
    bed.run(700);
    // The owner has not noticed yet.
    bed.measure(whole);
    bed.run(250);
    for node in [leader, other] {
        let refused = bed.ask_to_stop(node).expect_err("one is down");
        assert!(refused.contains(&format!("node {down} is not heard")), "{refused}");
    }
    bed.silent.clear();
    bed.run(500);
    bed.measure(whole);
    bed.run(250);
    assert_eq!(bed.ask_to_stop(bed.leader()), Ok(()));
}

#[test]
fn what_was_measured_long_ago_gives_no_token() {
    let mut bed = Bed::running(3);
    bed.configure(TOML);
    bed.measure(whole);
    bed.run(2_500);
    assert!(bed.ask_to_stop(NodeId(1)).expect_err("an owner that is gone").contains("no owner"));
}

#[test]
fn a_life_keeps_the_token_that_it_asked_for_and_returns_one_that_only_a_former_life_wanted() {
    let mut bed = Bed::running(3);
    bed.configure(TOML);
    bed.measure(whole);
    bed.run(250);
    let leader = bed.leader();
    let other = NodeId(leader.0 % 3 + 1);
    // As if it came from a life of the other one that ended before the log had decided.
    let outcome = bed.submit(leader, CommandBody::StopTokenTake { node: other, seen: Vec::new() });
    assert!(outcome.as_ref().is_ok_and(Outcome::is_applied), "{outcome:?}");
    bed.until(|bed| bed.state().stop_token().is_none());
    bed.measure(whole);
    bed.run(250);
    assert_eq!(bed.ask_to_stop(other), Ok(()));
    bed.run(5_000);
    assert_eq!(bed.state().stop_token().map(|token| token.holder), Some(other));
}

#[test]
fn the_only_node_of_a_cluster_gets_the_token() {
    let mut bed = Bed::running(1);
    bed.configure(TOML);
    bed.measure(whole);
    bed.run(50);
    assert_eq!(bed.ask_to_stop(NodeId(1)), Ok(()));
}

#[test]
fn fences_of_a_shard_go_into_the_log_together_and_once() {
    let mut bed = Bed::running(3);
    let instance = |n: u32| {
        format!(
            "[[instance]]\nname = \"b{n}\"\n[[instance.ip_configuration]]\nname = \"i\"\nprivate_ip = \"10.0.1.{n}\"\n\
             subnet = \"vnet1/default\"\npool = \"lb1/web\"\n"
        )
    };
    let instances: String = (1..=60).map(instance).collect();
    bed.configure(&format!("{TOML}{instances}"));
    bed.configure(TOML);
    let drains: Vec<_> = bed.state().allocation().drains.iter().map(|(block, d)| (*block, d.reclaim_index)).collect();
    assert!(drains.len() >= 60, "{}", drains.len());
    let shard = *bed.state().shards().keys().next().expect("a shard");
    let before = bed.state().index().0;
    for _ in 0..3 {
        // Its owner says it again while nobody answers.
        for (block, reclaim_index) in &drains {
            let duty = ControlDuty::Fenced { shard, epoch: 1, block: *block, reclaim_index: *reclaim_index };
            let now = bed.now();
            bed.members.get_mut(&NodeId(2)).expect("a member").handle_duty(now, duty);
        }
        bed.run(50);
    }
    bed.until(|bed| bed.state().allocation().drains.is_empty());
    bed.run(500);
    let entries = bed.state().index().0 - before;
    assert!(entries <= 2, "{entries} entries for {} blocks", drains.len());
}
