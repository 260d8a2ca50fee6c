//! A small cluster at the level of the control log, for the tests of this crate.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use engine::ids::{FrontendId, Incarnation, Mac, NodeId, PortBlock, ShardId};
use qnat_control::allocation::{Declared, Frontend};
use qnat_control::command::{Command, CommandBody, Configure, InStep};
use qnat_control::loads::PortLoad;
use qnat_control::outcome::{Outcome, Yield};
use qnat_control::registry::Registration;
use qnat_control::registry::{FOUNDER_RAFT_ID, Founder, Joiner};
use qnat_control::resource::{
    Desired, Filtering, Instance, IpConfiguration, LoadBalancer, OnReclaim, OutboundRule, Outside, PoolRef, Prefix,
    Profile, PublicIp, Sharing, Subnet, VirtualNetwork,
};
use qnat_control::state::State;

pub(crate) struct Cluster {
    pub(crate) state: State,
    /// A second replica, fed with the same bytes.
    pub(crate) twin: State,
    pub(crate) index: u64,
    pub(crate) draw: u64,
    pub(crate) unix_ms: u64,
    keys: u64,
}

pub(crate) fn addr(node: u32) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(node).expect("small")], 7000))
}

/// A node asks to join, with the key that a node of that number is founded with.
pub(crate) fn joining(node: u32, nonce: u64) -> CommandBody {
    CommandBody::JoinControl(joiner(node, nonce))
}

pub(crate) fn joiner(node: u32, nonce: u64) -> Joiner {
    Joiner { node: NodeId(node), nonce, peer_addr: addr(node), api_addr: addr(node), key: [1; 32] }
}

impl Cluster {
    /// A founded cluster without registrations.
    pub(crate) fn founded(nodes: u32) -> Self {
        let founders: Vec<Founder> = (1..=nodes)
            .map(|n| Founder { node: NodeId(n), peer_addr: addr(n), api_addr: addr(n), key: [1; 32] })
            .collect();
        let state = State::found([7; 16], &founders, [1, 2]);
        Self { twin: state.clone(), state, index: 1, draw: 0, unix_ms: 1_000, keys: 0 }
    }

    /// A founded cluster in which every node has registered.
    pub(crate) fn running(nodes: u32) -> Self {
        let mut cluster = Self::founded(nodes);
        for node in 1..=nodes {
            cluster.start(node);
        }
        cluster
    }

    pub(crate) fn propose(&mut self, body: CommandBody) -> Outcome {
        self.keys += 1;
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.keys.to_le_bytes());
        self.propose_as(key, body)
    }

    pub(crate) fn propose_as(&mut self, key: [u8; 16], body: CommandBody) -> Outcome {
        self.index += 1;
        self.draw = self.draw.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let command = Command { key, stamped_unix_ms: self.unix_ms, draw: self.draw, body };
        let bytes = command.encode().expect("small");
        let outcome = self.state.apply_bytes(self.index, &bytes);
        assert_eq!(self.twin.apply_bytes(self.index, &bytes), outcome);
        assert_eq!(self.state, self.twin);
        // The digest of a large state is slow in a debug build: often enough to catch a field that it would miss.
        if self.index.is_multiple_of(8) {
            assert_eq!(self.state.digest(), self.twin.digest());
        }
        self.state.check().unwrap_or_else(|broken| panic!("at {}: {broken}\n{command:?}", self.index));
        outcome
    }

    #[track_caller]
    pub(crate) fn applied(&mut self, body: CommandBody) -> Yield {
        match self.propose(body) {
            Outcome::Applied { result, .. } => result,
            refused @ Outcome::Refused(_) => panic!("{refused}"),
        }
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, body: CommandBody) -> String {
        let before = self.state.clone();
        match self.propose(body) {
            Outcome::Applied { .. } => panic!("applied"),
            Outcome::Refused(refusal) => {
                assert_eq!(before.desired(), self.state.desired());
                assert_eq!(before.allocation(), self.state.allocation());
                assert_eq!(before.shards(), self.state.shards());
                assert_eq!(before.registry(), self.state.registry());
                refusal.why()
            }
        }
    }

    /// A wish to stop, proposed by a leader that sees all members of every shard in step.
    pub(crate) fn stop(&self, node: u32) -> CommandBody {
        let shards = self.state.shards().iter();
        let seen = shards.map(|(id, s)| InStep { shard: *id, epoch: s.epoch, lives: s.members.clone() });
        CommandBody::StopTokenTake { node: NodeId(node), seen: seen.collect() }
    }

    #[track_caller]
    pub(crate) fn refused_stop(&mut self, node: u32) -> String {
        let stop = self.stop(node);
        self.refused(stop)
    }

    /// Starts a node (again): a new incarnation.
    pub(crate) fn start(&mut self, node: u32) -> Incarnation {
        let raft_id = self.state.registry().nodes().get(&NodeId(node)).map_or(0, |n| n.raft_id);
        let body = CommandBody::RegisterIncarnation(registration(node, raft_id, self.index));
        let Yield::Incarnation(life) = self.applied(body) else { panic!("an incarnation") };
        life
    }

    /// The command that removes a node as it is now.
    pub(crate) fn removal(&self, node: u32) -> CommandBody {
        let known = self.state.registry().nodes().get(&NodeId(node));
        CommandBody::RemoveNode { node: NodeId(node), incarnation: known.map_or(Incarnation(0), |n| n.named()) }
    }

    pub(crate) fn configure(&mut self, desired: &Desired) -> Outcome {
        self.propose(configure(desired, Vec::new()))
    }

    /// Reports every draining block as reclaimed.
    pub(crate) fn drain_all(&mut self) {
        for _ in 0..20 {
            let drains: Vec<_> = self.state.allocation().drains.iter().map(|(b, d)| (*b, *d)).collect();
            if drains.is_empty() {
                return;
            }
            for (block, drain) in drains {
                let shard = self.state.allocation().frontends[&block.frontend].shard;
                let shard_epoch = self.state.shards()[&shard].epoch;
                let reclaim_index = drain.reclaim_index;
                self.propose(CommandBody::ReclaimComplete { shard, shard_epoch, blocks: vec![(block, reclaim_index)] });
            }
        }
        panic!("blocks drain for ever");
    }

    pub(crate) fn newest(&self, node: u32) -> Incarnation {
        self.state.registry().newest(NodeId(node)).expect("registered")
    }

    pub(crate) fn only_shard(&self) -> ShardId {
        assert_eq!(self.state.shards().len(), 1);
        *self.state.shards().keys().next().expect("one")
    }

    /// The frontend of an address.
    pub(crate) fn frontend_at(&self, ip: Ipv4Addr) -> (FrontendId, Frontend) {
        let mut all = self.state.allocation().frontends.iter();
        let (id, frontend) = all.find(|(_, frontend)| frontend.ip == ip).expect("a frontend");
        (*id, frontend.clone())
    }

    /// Retires all frontends that are no longer declared.
    #[track_caller]
    pub(crate) fn retire_all(&mut self) {
        let frontends = self.state.allocation().frontends.iter();
        let due = frontends.filter(|(_, frontend)| frontend.declared == Declared::No);
        let frontends = due.map(|(id, _)| *id).collect();
        self.applied(CommandBody::RetireFrontends { frontends });
    }

    pub(crate) fn lease_of(&self, instance: &str) -> Vec<PortBlock> {
        let mut found = self.state.allocation().backends.values().filter(|b| b.instance == instance);
        found.next().expect("the instance has a backend").lease.clone()
    }
}

pub(crate) fn registration(node: u32, raft_id: u64, nonce: u64) -> Registration {
    let mac = |side| Mac([2, 0, 0, side, 0, u8::try_from(node).expect("small")]);
    Registration {
        node: NodeId(node),
        control_raft_id: if raft_id == 0 { FOUNDER_RAFT_ID | u64::from(node) } else { raft_id },
        nonce,
        peer_addr: addr(node),
        api_addr: addr(node),
        inside: vec![words::InsideInterface { network: None, mac: mac(1) }],
        outside_mac: mac(2),
        level: words::level::NEWEST,
    }
}

pub(crate) fn configure(desired: &Desired, hints: Vec<PortLoad>) -> CommandBody {
    CommandBody::Configure(Box::new(Configure { desired: desired.clone(), base_hash: None, hints }))
}

pub(crate) fn public(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xcb00_7100 + n)
}

/// One network, `frontends` public addresses, one load balancer with pool "web" and `backends` instances in it.
pub(crate) fn desired(frontends: u32, backends: u32) -> Desired {
    let mut desired = Desired::default();
    let prefix = Prefix { network: Ipv4Addr::new(10, 0, 0, 0), len: 16 };
    let subnet = Subnet {
        prefix,
        gateway: Ipv4Addr::new(10, 0, 0, 1),
        security_group: None,
        isolated: false,
        default_outbound_access: true,
    };
    let network = VirtualNetwork { subnets: [("default".to_owned(), subnet)].into(), ..VirtualNetwork::default() };
    desired.virtual_networks.insert("vnet1".into(), network);
    let (network, next_hop) = match frontends {
        0..=253 => (Prefix { network: public(0), len: 24 }, public(254)),
        _ => (Prefix { network: Ipv4Addr::new(203, 0, 0, 0), len: 16 }, Ipv4Addr::new(203, 0, 255, 254)),
    };
    desired.outside = Outside { network, next_hop: Some(next_hop) };
    for n in 1..=frontends {
        desired.public_ips.insert(format!("pip{n}"), PublicIp { address: public(n), reserved_ports: BTreeSet::new() });
    }
    let rule = OutboundRule {
        pool: "web".into(),
        frontends: vec![],
        idle_timeout_minutes: 4,
        enable_tcp_reset: false,
        profile: Profile::Azure,
        sharing: Sharing::Tuple,
        filtering: Filtering::AddressDependent,
        on_reclaim: OnReclaim::Expire,
    };
    let balancer = LoadBalancer {
        frontends: (1..=frontends).map(|n| format!("pip{n}")).collect(),
        pools: ["web".to_owned()].into(),
        outbound_rules: [("out".to_owned(), rule)].into(),
        ..LoadBalancer::default()
    };
    if frontends > 0 {
        desired.load_balancers.insert("lb1".into(), balancer);
    }
    for n in 1..=backends {
        add_instance(&mut desired, n, frontends > 0);
    }
    desired
}

pub(crate) fn add_instance(desired: &mut Desired, n: u32, in_pool: bool) {
    let ip = IpConfiguration {
        name: "ipconfig1".into(),
        virtual_network: "vnet1".into(),
        subnet: "default".into(),
        private_ip: Ipv4Addr::from_bits(0x0a00_0100 + n),
        mac: None,
        pool: in_pool.then(|| PoolRef { load_balancer: "lb1".into(), pool: "web".into() }),
        admin_state: Default::default(),
        public_ip: None,
        nic: None,
    };
    desired.instances.insert(format!("b{n}"), Instance { ip_configurations: vec![ip], ..Instance::default() });
}
