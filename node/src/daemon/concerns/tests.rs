//! Each concern is produced by a state that has it, and a cluster in which all is well has none.

use consensus::event::Report;
use control::concern::{Severity, Subject, What};
use control::registry::Standing;
use control::view::{NodeView, OriginView, StatusView};
use engine::ids::{Incarnation, NodeId};

use super::*;
use crate::answers::{NodeRow, ShardRow};
use crate::answers::{Redundancy, failures_tolerated};
use crate::daemon::reports::{ControlReport, FlowReport, GUARD_ATTACHED, GUARD_OFF, LinkLife, WorkerStats};
use crate::nat_log::JournalCounts;

/// Three members, one shard owned by this one, and nothing wrong.
pub(in crate::daemon) struct Bed {
    pub(in crate::daemon) control: ControlReport,
    pub(in crate::daemon) flows: FlowReport,
    worker: WorkerStats,
    nodes: Vec<NodeRow>,
    pub(in crate::daemon) shards: Vec<ShardRow>,
    guard: String,
    log: JournalCounts,
    log_lost: Loss,
    machine: Vec<Concern>,
}

pub(in crate::daemon) fn bed(members: u32) -> Bed {
    let ids = 1..=members;
    let node = |node: u32| NodeView {
        node,
        standing: Standing::Member,
        incarnation: Some(u64::from(node)),
        named: node.into(),
        drained: false,
        control_raft_id: u64::from(node),
        peer_addr: "127.0.0.1:7800".parse().expect("an address"),
        api_addr: "127.0.0.1:7880".parse().expect("an address"),
        inside: Vec::new(),
        outside_mac: String::new(),
        level: 2,
        preferred_shards: 1,
        replicated_shards: 1,
    };
    let status = StatusView {
        cluster_id: "a5".into(),
        control_index: 40,
        level: 2,
        nodes: 3,
        nodes_registered: 3,
        control_voters_wanted: Vec::new(),
        control_voters_applied: Vec::new(),
        stop_token: None,
        shards: 1,
        shards_whole: 1,
        concerns: Vec::new(),
    };
    let row = |node: u32| NodeRow {
        node,
        name: format!("n{node}"),
        incarnation: Some(u64::from(node)),
        named: node.into(),
        drained: false,
        standing: Standing::Member,
        alive: true,
        control_voter: true,
    };
    Bed {
        control: ControlReport {
            status,
            nodes: ids.clone().map(node).collect(),
            shards: Vec::new(),
            leader: Some(NodeId(1)),
            term: 1,
            voters: ids.clone().map(u64::from).collect(),
            live: ids.clone().map(NodeId).collect(),
            incarnation: Some(Incarnation(1)),
            flows_per_shard_max: 1_000,
            flows_per_backend_max: 100,
        },
        flows: FlowReport {
            running: true,
            report: Report { links_up: true, turns: true, control_loaded: 40, ..Report::default() },
            ..FlowReport::default()
        },
        worker: WorkerStats::default(),
        nodes: ids.map(row).collect(),
        shards: vec![shard_row(members)],
        guard: GUARD_ATTACHED.into(),
        log: JournalCounts::default(),
        log_lost: Loss::default(),
        machine: Vec::new(),
    }
}

fn shard_row(members: u32) -> ShardRow {
    let count = usize::try_from(members).expect("few");
    ShardRow {
        shard: 1,
        frontends: Vec::new(),
        epoch: 1,
        owner: Some(1),
        term: Some(1),
        raft_term: Some(1),
        role: Some("leader".into()),
        serving: "yes".into(),
        redundancy: Redundancy { have: count, want: count, exact: true, reachable: false },
        members: (1..=members).map(Some).collect(),
        voters: Some((1..=members).collect()),
        applied: None,
        live: None,
        cut: Some(0),
        held: None,
        pending: None,
        lease_ms: None,
        origin: OriginView::Founded,
        sealing: false,
        why: String::new(),
        remedy: String::new(),
    }
}

impl Bed {
    fn all(&self) -> Vec<Concern> {
        collect(&self.facts(), &Alarms::default())
    }

    fn facts(&self) -> Facts<'_> {
        let Self { control, flows, worker, nodes, shards, guard, log, log_lost, machine } = self;
        let (log, log_lost, machine) = (*log, *log_lost, machine.clone());
        Facts { node: 1, control, flows, worker, nodes, shards, guard, log, log_lost, machine }
    }

    /// What is found, without its words.
    fn found(&self) -> Vec<(Severity, What, String)> {
        self.all().into_iter().map(|c| (c.severity, c.what, c.subject.to_string())).collect()
    }
}

fn warning(what: What, about: &str) -> (Severity, What, String) {
    (Severity::Warning, what, about.to_owned())
}

fn critical(what: What, about: &str) -> (Severity, What, String) {
    (Severity::Critical, what, about.to_owned())
}

#[test]
fn a_cluster_in_which_all_is_well_has_no_concern() {
    assert_eq!(bed(3).found(), []);
    assert_eq!(failures_tolerated(&bed(3).nodes, &bed(3).shards), Some(1));
    assert_eq!(failures_tolerated(&bed(5).nodes, &bed(5).shards), Some(2));
}

#[test]
fn a_killed_member_is_missed_and_the_next_failure_is_warned_of() {
    let mut bed = bed(3);
    bed.nodes[2].alive = false;
    bed.shards[0].redundancy.have = 2;
    assert_eq!(
        bed.found(),
        [
            warning(What::FailureTolerance, "cluster"),
            warning(What::BelowRedundancy, "control group"),
            warning(What::MemberSilent, "n3"),
            warning(What::BelowRedundancy, "shard 1"),
        ]
    );
}

#[test]
fn a_shard_below_redundancy_is_seen_though_all_members_are_heard() {
    let mut bed = bed(3);
    bed.shards[0].redundancy.have = 2;
    let found = bed.found();
    assert_eq!(found, [warning(What::FailureTolerance, "cluster"), warning(What::BelowRedundancy, "shard 1")]);
}

#[test]
fn an_owner_that_does_not_serve_is_named_whatever_its_halves_say() {
    for serving in ["no: no lease", "standby"] {
        let mut bed = bed(3);
        bed.shards[0].serving = serving.into();
        assert_eq!(bed.found(), [critical(What::NotServing, "shard 1")], "{serving}");
        bed.shards[0].owner = Some(2);
        assert_eq!(bed.found(), [], "{serving}: its owner tells of it");
    }
}

#[test]
fn a_cluster_of_one_or_two_says_what_it_cannot_lose_and_is_not_wrong() {
    for members in [1, 2] {
        assert_eq!(bed(members).found(), [(Severity::Notice, What::FailureTolerance, "cluster".into())]);
    }
}

#[test]
fn a_shard_without_an_owner_says_so_once() {
    let mut bed = bed(3);
    bed.shards[0].owner = None;
    bed.shards[0].redundancy = Redundancy { have: 1, want: 3, exact: false, reachable: true };
    bed.nodes[1].alive = false;
    bed.nodes[2].alive = false;
    bed.control.leader = None;
    let found = bed.found();
    let about_shard: Vec<_> = found.iter().filter(|(.., about)| about == "shard 1").collect();
    assert_eq!(about_shard, [&critical(What::NoOwner, "shard 1")]);
    assert!(found.contains(&critical(What::NoControlLeader, "control group")), "{found:?}");
}

#[test]
fn an_owner_that_does_not_serve_is_critical() {
    let mut bed = bed(3);
    bed.shards[0].serving = "no: data link down".into();
    assert_eq!(bed.found(), [critical(What::NotServing, "shard 1")]);
    assert!(bed.all()[0].why.contains("data link down"));
}

#[test]
fn a_member_that_is_not_registered_says_that_it_serves_nothing() {
    let mut bed = bed(3);
    bed.control.incarnation = None;
    bed.flows.running = false;
    assert_eq!(bed.found(), [critical(What::NotRegistered, "n1")]);
    let mut bed = self::bed(3);
    bed.nodes[1].incarnation = None;
    assert_eq!(bed.found(), [warning(What::NotRegistered, "n2")]);
}

#[test]
fn members_of_two_levels_are_told_of() {
    let mut bed = bed(3);
    bed.control.nodes[2].level = 3;
    assert_eq!(bed.found(), [(Severity::Notice, What::VersionsDiffer, "cluster".into())]);
}

#[test]
fn a_level_that_everybody_speaks_and_the_cluster_is_below_is_told_of_with_the_command() {
    let mut bed = bed(3);
    bed.control.status.level = 1;
    assert_eq!(bed.found(), [(Severity::Notice, What::LevelBelow, "cluster".into())]);
    assert!(bed.all()[0].remedy.contains("`qnat cluster level 2`"));
}

#[test]
fn links_guard_log_and_configuration_of_this_machine_are_looked_at() {
    let mut bed = bed(3);
    bed.flows.report.links_up = false;
    assert_eq!(bed.found(), [critical(What::LinkDown, "n1")]);
    let mut bed = self::bed(3);
    bed.guard = "absent: no permission".into();
    assert_eq!(bed.found(), [warning(What::GuardMissing, "n1")]);
    bed.guard = format!("absent: {}", GUARD_OFF);
    assert_eq!(bed.found(), [(Severity::Notice, What::GuardMissing, "n1".into())]);
    let mut bed = self::bed(3);
    bed.log_lost = Loss { count: 3, lately: true };
    assert_eq!(bed.found(), [warning(What::LogIncomplete, "n1")]);
    assert!(bed.all()[0].why.contains("lacks 3 lines"));
    bed.log_lost.lately = false;
    assert_eq!(bed.found(), [], "what was lost long ago is history");
    bed.log.waiting_ms = 1_999;
    assert_eq!(bed.found(), []);
    bed.log.waiting_ms = 2_000;
    assert_eq!(bed.found(), [warning(What::LogStuck, "n1")]);
    assert!(bed.all()[0].why.contains("for 2 s; 3 lines"), "{}", bed.all()[0].why);
    let mut bed = self::bed(3);
    bed.flows.report.control_loaded = 39;
    assert_eq!(bed.found(), [warning(What::NotProgrammed, "n1")]);
}

#[test]
fn what_is_raised_is_told_of_until_it_is_cleared() {
    let bed = bed(3);
    let facts = bed.facts();
    let alarms = Alarms::default();
    let me = Subject::Member { node: 1 };
    let concern = Concern::warning(me.clone(), What::DiskSpace, "12 MiB are left", "make room");
    alarms.clone().raise(concern.clone());
    assert_eq!(collect(&facts, &alarms), std::slice::from_ref(&concern));
    alarms.set(What::DiskSpace, &me, Some(concern));
    assert_eq!(collect(&facts, &alarms).len(), 1, "raised twice is raised once");
    alarms.set(What::DiskSpace, &me, None);
    assert_eq!(collect(&facts, &alarms), []);
}

#[test]
fn a_hung_worker_a_silent_network_and_a_stranger_with_our_address_are_told_of() {
    use engine::claims::Claim;
    use engine::ids::{Link, Mac, VnetId};
    use engine::soundings::{Heard, Passing};
    use netio::link::LinkState;

    let mut bed = bed(3);
    bed.flows.report.turns = false;
    assert_eq!(bed.found(), [critical(What::ThreadStalled, "n1")]);

    let mut bed = self::bed(3);
    let heard = Heard { passing: Passing::Silent, answered_ns: 1_000_000_000, ..Heard::default() };
    let link = |name: &str, link, heard| LinkLife { heard, ..LinkLife::unheard(name, link, LinkState::Up) };
    bed.worker.at_ns = 9_000_000_000;
    bed.worker.links =
        vec![link("inside", Link::Inside(VnetId(1)), Heard::default()), link("outside", Link::Outside, heard)];
    assert_eq!(bed.found(), [critical(What::LinkDeaf, "n1")]);
    assert_eq!(bed.all()[0].why, "outside: no member answers there (last 8 s ago), last frame never");

    let mut bed = self::bed(3);
    let ip = std::net::Ipv4Addr::new(203, 0, 113, 1);
    bed.worker.claims = vec![Claim { link: Link::Outside, ip, mac: Mac([2, 0, 0, 0, 0, 9]), count: 3, at_ns: 1 }];
    bed.worker.at_ns = 299_000_000_000;
    assert_eq!(bed.found(), [warning(What::AddressClaimed, "n1")]);
    bed.worker.at_ns = 301_000_000_000;
    assert_eq!(bed.found(), []);
}

#[test]
fn a_network_without_an_interface_and_an_interface_without_a_network_are_told_of() {
    use netio::link::LinkState;
    use words::{Link, Side, VnetId};

    let led = |name: &str, link, network: &str| LinkLife {
        network: Some(network.into()),
        ..LinkLife::unheard(name, link, LinkState::Up)
    };
    let networks = |names: &[&str]| {
        let named = names.iter().zip(1..).map(|(name, id)| ((*name).to_owned(), VnetId(id)));
        std::sync::Arc::new(engine::snapshot::Networks(named.collect()))
    };
    let mut bed = bed(3);
    let whole = vec![
        LinkLife::unheard("outside", Link::Outside, LinkState::Up),
        led("eth1", Link::Inside(VnetId(1)), "red"),
        led("eth2", Link::Inside(VnetId(2)), "blue"),
    ];
    (bed.worker.links, bed.worker.networks) = (whole.clone(), networks(&["blue", "red"]));
    assert_eq!(bed.found(), []);
    bed.worker.networks = networks(&["blue", "green", "red"]);
    assert_eq!(bed.found(), [warning(What::NoInterface, "n1")]);
    assert!(bed.all()[0].why.contains("leads to virtual network green"), "{}", bed.all()[0].why);
    bed.worker.networks = networks(&["red"]);
    bed.worker.links[2].link = None;
    assert_eq!(bed.found(), [warning(What::NoNetwork, "n1")]);
    assert!(bed.all()[0].why.contains("eth2 leads to virtual network blue, which there is not"), "{:?}", bed.all());
    // One interface without a name, and two networks.
    let unnamed = LinkLife { link: None, network: None, side: Side::Inside, ..whole[1].clone() };
    bed.worker.links = vec![whole[0].clone(), unnamed];
    bed.worker.networks = networks(&["blue", "red"]);
    assert_eq!(bed.found(), [warning(What::NoInterface, "n1"), warning(What::NoNetwork, "n1")]);
    assert!(bed.all()[1].why.contains("does not say to which of 2 virtual networks"), "{:?}", bed.all());
    bed.worker.networks = networks(&[]);
    assert_eq!(bed.found(), [], "nothing is configured yet");
    // A cable is pulled.
    (bed.worker.links, bed.worker.networks) = (whole, networks(&["blue", "red"]));
    bed.worker.links[2].state = LinkState::Down;
    assert_eq!(bed.found(), [critical(What::LinkDown, "n1")]);
    assert!(bed.all()[0].why.starts_with("eth2 has no carrier"), "{}", bed.all()[0].why);
}

#[test]
fn a_next_hop_that_answers_nobody_is_told_of_until_it_speaks() {
    use engine::soundings::NextHop;
    let mut bed = bed(3);
    let ip = std::net::Ipv4Addr::new(203, 0, 113, 254);
    bed.worker.at_ns = 90_000_000_000;
    bed.worker.next_hop = Some(NextHop { ip, heard_ns: 60_000_000_000, silent_since_ns: Some(70_000_000_000) });
    assert_eq!(bed.found(), [critical(What::NextHopSilent, "n1 outside")]);
    assert!(bed.all()[0].why.contains("203.0.113.254 has answered no ARP question for 20 s"), "{}", bed.all()[0].why);
    bed.worker.next_hop = Some(NextHop { ip, heard_ns: 90_000_000_000, silent_since_ns: None });
    assert_eq!(bed.found(), []);
}

#[test]
fn a_table_that_fills_is_told_of_before_it_is_full() {
    let mut bed = bed(3);
    let mut with = |live, held, pending| {
        let row = &mut bed.shards[0];
        (row.live, row.held, row.pending) = (Some(live), Some(held), Some(pending));
        bed.found()
    };
    assert_eq!(with(500, 290, 9), []);
    assert_eq!(with(500, 290, 10), [warning(What::LimitNear, "shard 1")]);
    assert_eq!(with(949, 0, 0), [warning(What::LimitNear, "shard 1")]);
    assert_eq!(with(900, 50, 0), [critical(What::LimitNear, "shard 1")]);
}

#[test]
fn what_the_machine_s_watchers_found_is_told_of() {
    let mut bed = bed(3);
    let me = Subject::Member { node: 1 };
    bed.machine = vec![Concern::critical(me, What::DiskFails, "/data: it hangs", "look at it")];
    assert_eq!(bed.found(), [critical(What::DiskFails, "n1")]);
}
