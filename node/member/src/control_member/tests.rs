//! The control half of node 1, whose control group is itself alone, with two other nodes that are only spoken for.

use std::net::{Ipv4Addr, SocketAddr};
use words::{Mac, level};

use consensus::control::storage::memory::MemoryStore;
use consensus::control::storage::{ClusterId, LogStore as _};
use control::command::{CommandBody, Configure};
use control::registry::Founder;
use control::registry::Registration;
use control::shards::Shard;

use super::*;
use crate::flow_member::ControlDuty;

fn addr(node: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7_800 + u16::try_from(node).expect("few nodes")))
}

struct Bed {
    member: ControlMember<MemoryStore>,
    now_ms: u64,
    nonce: u64,
    /// Nodes that say that they are there, and the shards of which they hear an owner.
    alive: BTreeMap<NodeId, Vec<(ShardId, u32)>>,
}

impl Bed {
    fn new() -> Self {
        let founders: Vec<Founder> =
            (1..=3).map(|n| Founder { node: NodeId(n), peer_addr: addr(n), api_addr: addr(n), key: [1; 32] }).collect();
        let state = Bytes::from(State::found([7; 16], &founders, [1, 2]).encode().expect("small"));
        let raft_id = FOUNDER_RAFT_ID | 1;
        let mut store = MemoryStore::new();
        store.found(ClusterId([7; 16]), raft_id, &[raft_id], &state).expect("a new store");
        let me = Identity {
            node: NodeId(1),
            peer_addr: addr(1),
            api_addr: addr(1),
            inside: vec![words::InsideInterface { network: None, mac: Mac([2, 0, 0, 0, 0, 1]) }],
            outside_mac: Mac([2, 0, 0, 0, 1, 1]),
            level: level::NEWEST,
            key: [1; 32],
            peers: vec![NodeId(2), NodeId(3)],
        };
        let now = Now { ns: 0, unix_ms: 0 };
        let member = ControlMember::new(me, store, ControlTiming::default(), 9, now).expect("it opens");
        let mut bed = Self { member, now_ms: 0, nonce: 0, alive: BTreeMap::new() };
        bed.run(2_000);
        assert!(bed.member.leading() && bed.member.incarnation().is_some());
        for node in [2, 3] {
            bed.register(node);
        }
        bed.configure();
        bed
    }

    fn now(&self) -> Now {
        Now { ns: self.now_ms * MS, unix_ms: self.now_ms }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now_ms += 10;
            let now = self.now();
            if self.now_ms.is_multiple_of(200) {
                for (node, owned) in &self.alive {
                    let frame = ControlFrame::Alive { owned: owned.clone() }.encode();
                    self.member.handle_peer(now, *node, &frame);
                }
            }
            self.member.tick(now);
            while let Some(out) = self.member.poll(now) {
                if let ControlOut::Job(job) = out {
                    self.member.finish(now, job.run());
                }
            }
        }
    }

    fn submit(&mut self, body: CommandBody) {
        let now = self.now();
        self.member.submit(now, 1, body);
        self.run(50);
    }

    fn register(&mut self, node: u32) {
        self.nonce += 1;
        let n = u8::try_from(node).expect("few nodes");
        let registration = Registration {
            node: NodeId(node),
            control_raft_id: FOUNDER_RAFT_ID | u64::from(node),
            nonce: self.nonce,
            peer_addr: addr(node),
            api_addr: addr(node),
            inside: vec![words::InsideInterface { network: None, mac: Mac([2, 0, 0, 0, 0, n]) }],
            outside_mac: Mac([2, 0, 0, 0, 1, n]),
            level: level::NEWEST,
        };
        self.submit(CommandBody::RegisterIncarnation(registration));
    }

    fn configure(&mut self) {
        let text = "[outside]\nnetwork = \"203.0.113.0/24\"\n[[public_ip]]\nname = \"p\"\naddress = \"203.0.113.1\"\n\
                    [[load_balancer]]\nname = \"lb\"\nfrontends = [\"p\"]\n";
        let desired = control::config::parse("test", text).expect("a correct configuration");
        self.submit(CommandBody::Configure(Box::new(Configure { desired, base_hash: None, hints: Vec::new() })));
        assert_eq!(self.shard().members.len(), 3);
    }

    fn id(&self) -> ShardId {
        *self.member.state().shards().keys().next().expect("one shard")
    }

    fn shard(&self) -> &Shard {
        &self.member.state().shards()[&self.id()]
    }

    fn owner_heard(&mut self, heard: bool) {
        let heard = if heard { BTreeMap::from([(self.id(), self.shard().epoch)]) } else { BTreeMap::new() };
        let now = self.now();
        self.member.handle_duty(now, ControlDuty::Owners { heard });
    }
}

#[test]
fn an_epoch_whose_owner_another_member_hears_is_not_sealed() {
    let mut bed = Bed::new();
    let owned = vec![(bed.id(), bed.shard().epoch)];
    bed.alive = BTreeMap::from([(NodeId(2), owned), (NodeId(3), vec![])]);
    bed.run(1_000);
    bed.register(3);
    bed.run(6_000);
    assert_eq!(bed.shard().sealing, None, "this node hears no owner, but node 2 does");
    bed.alive.insert(NodeId(2), vec![(bed.id(), bed.shard().epoch + 1)]);
    bed.run(3_000);
    assert!(bed.shard().sealing.is_some(), "what is said about another epoch does not count");
}

#[test]
fn an_owner_that_was_heard_by_a_flow_half_that_hangs_since_counts_no_longer() {
    let mut bed = Bed::new();
    bed.alive = BTreeMap::from([(NodeId(2), vec![]), (NodeId(3), vec![])]);
    for _ in 0..30 {
        bed.owner_heard(true);
        bed.run(100);
    }
    bed.register(3);
    for _ in 0..30 {
        bed.owner_heard(true);
        bed.run(100);
    }
    assert_eq!(bed.shard().sealing, None);
    let told = |bed: &Bed| bed.member.owners.told(bed.now_ms * MS);
    assert_eq!(told(&bed), [(bed.id(), 1)], "it is passed on");
    bed.run(600);
    assert_eq!(told(&bed), [], "not for ever");
    bed.run(2_000);
    assert!(bed.shard().sealing.is_some());
}

#[test]
fn a_live_member_whose_flow_half_never_seals_holds_nobody_up_for_ever() {
    let mut bed = Bed::new();
    bed.alive = BTreeMap::from([(NodeId(2), vec![]), (NodeId(3), vec![])]);
    bed.register(3);
    bed.run(3_000);
    let (shard, epoch) = (bed.id(), bed.shard().epoch);
    assert!(bed.shard().sealing.is_some(), "nobody hears an owner and a replica is gone");
    let now = bed.now();
    bed.member.handle_duty(now, ControlDuty::Sealed { shard, epoch, last_term: 1 << 32, last_index: 9 });
    let incarnation = bed.member.state().registry().newest(NodeId(3)).expect("registered");
    bed.submit(CommandBody::Sealed { shard, epoch, incarnation, last_term: 0, last_index: 0 });
    bed.run(1_000);
    assert_eq!(bed.shard().epoch, epoch, "node 2 is given time to answer");
    bed.run(4_000);
    assert_eq!(bed.shard().epoch, epoch + 1);
    assert!(matches!(bed.shard().origin, control::shards::Origin::Recreated { wait_ms, .. } if wait_ms > 0));
}
