//! Configurations and states that are longer than one entry or one frame, on their way between whole control halves.

use std::net::Ipv4Addr;

use control::command::{CommandBody, Configure};
use control::limits::PART_LEN_MAX;
use control::outcome::Outcome;
use control::resource::{Desired, Instance, IpConfiguration, Prefix, Subnet, VirtualNetwork};

use super::token_tests::Bed;
use super::*;

/// What the transport carries in one frame.
const FRAME_BYTES_MAX: usize = netio::quic::FRAME_BYTES_MAX;

/// `backends` addresses without a pool, with names of the greatest length that end in `mark`.
pub(super) fn long(backends: u32, mark: char) -> Desired {
    let mut desired = Desired::default();
    let prefix = Prefix { network: Ipv4Addr::new(10, 0, 0, 0), len: 8 };
    let subnet = Subnet {
        prefix,
        gateway: Ipv4Addr::new(10, 0, 0, 1),
        security_group: None,
        isolated: false,
        default_outbound_access: true,
    };
    let network = VirtualNetwork { subnets: [("default".to_owned(), subnet)].into(), ..VirtualNetwork::default() };
    desired.virtual_networks.insert("vnet1".into(), network);
    for n in 0..backends {
        let name = format!("{n:062}{mark}");
        let ip = IpConfiguration {
            name: name.clone(),
            virtual_network: "vnet1".into(),
            subnet: "default".into(),
            private_ip: Ipv4Addr::from_bits(0x0a00_0100 + n),
            mac: None,
            pool: None,
            admin_state: Default::default(),
            public_ip: None,
            nic: None,
        };
        desired.instances.insert(name, Instance { ip_configurations: vec![ip], ..Instance::default() });
    }
    desired
}

pub(super) fn body(desired: &Desired) -> CommandBody {
    CommandBody::Configure(Box::new(Configure { desired: desired.clone(), base_hash: None, hints: Vec::new() }))
}

fn begin(bed: &mut Bed, at: NodeId, ticket: u64, desired: &Desired) {
    let now = bed.now();
    bed.members.get_mut(&at).expect("a member").submit(now, ticket, body(desired));
}

/// Not the leader.
fn other(bed: &Bed) -> NodeId {
    *bed.members.keys().find(|node| **node != bed.leader()).expect("three members")
}

#[test]
fn a_configuration_of_several_entries_takes_effect_whole_on_every_member() {
    let mut bed = Bed::running(3);
    let wanted = long(6_000, 'a');
    let at = other(&bed);
    let outcome = bed.submit(at, body(&wanted));
    assert!(outcome.as_ref().is_ok_and(Outcome::is_applied), "{outcome:?}");
    bed.run(200);
    for member in bed.members.values() {
        assert_eq!(member.state().desired(), &wanted);
    }
    assert!(bed.longest > PART_LEN_MAX && bed.longest <= FRAME_BYTES_MAX, "{}", bed.longest);
}

#[test]
fn parts_go_on_to_the_next_leader_and_lost_ones_are_sent_again() {
    let mut bed = Bed::running(3);
    let wanted = long(9_000, 'a');
    let (at, before) = (other(&bed), bed.leader());
    let index = bed.state().index();
    bed.lose = 5;
    begin(&mut bed, at, 77, &wanted);
    // It has begun, and at least one part is in the log.
    bed.until(|bed| bed.members[&before].state().index().0 >= index.0 + 2);
    assert!(!bed.answers.contains_key(&77), "it went too fast to be disturbed");
    bed.silent.insert(before);
    bed.until(|bed| bed.members.iter().any(|(node, member)| *node != before && member.leading()));
    bed.until(|bed| bed.answers.contains_key(&77));
    let outcome = bed.answers.remove(&77);
    assert!(matches!(&outcome, Some(Ok(outcome)) if outcome.is_applied()), "{outcome:?}");
    bed.silent.clear();
    bed.until(|bed| bed.members.values().all(|member| member.state().desired() == &wanted));
}

#[test]
fn of_two_that_are_sent_at_once_the_one_that_is_replaced_hears_it() {
    let mut bed = Bed::running(3);
    let (first, second) = (long(6_000, 'a'), long(6_000, 'b'));
    begin(&mut bed, NodeId(1), 71, &first);
    begin(&mut bed, NodeId(2), 72, &second);
    bed.until(|bed| [71, 72].iter().all(|ticket| bed.answers.contains_key(ticket)));
    let answers: Vec<_> = [71, 72].iter().map(|ticket| bed.answers[ticket].clone().expect("in time")).collect();
    let won: Vec<bool> = answers.iter().map(Outcome::is_applied).collect();
    assert_eq!(won.iter().filter(|won| **won).count(), 1, "{answers:?}");
    let lost = answers.iter().find(|outcome| !outcome.is_applied()).expect("one of two");
    let refusal = lost.refusal().expect("it was refused");
    assert!(refusal.why().contains("replaced by attempt") && refusal.remedy().contains("qnat apply"), "{lost}");
    let wanted = if won[0] { &first } else { &second };
    assert_eq!(bed.state().desired(), wanted);
    assert!(bed.members.values().all(|member| member.uploads.is_empty()));
}

#[test]
fn without_a_majority_a_long_configuration_is_given_up_whole() {
    let mut bed = Bed::running(3);
    let at = bed.leader();
    bed.silent.extend(bed.members.keys().copied().filter(|node| *node != at).collect::<Vec<_>>());
    begin(&mut bed, at, 77, &long(6_000, 'a'));
    bed.until(|bed| bed.answers.contains_key(&77));
    assert_eq!(bed.answers.remove(&77), Some(Err(NotDone::Timeout)));
    assert!(bed.members[&at].uploads.is_empty());
}

#[test]
fn a_state_of_eight_mebibytes_reaches_a_replica_whose_entries_are_gone_also_with_frames_lost() {
    // Nothing is kept of the log behind a stored state.
    let timing = ControlTiming { trailing_entries: 0, trailing_bytes: 0, ..ControlTiming::default() };
    let mut bed = Bed::timed(3, timing);
    let behind = other(&bed);
    bed.silent.insert(behind);
    let wanted = long(30_000, 'a');
    let at = bed.leader();
    bed.members.values_mut().for_each(|member| member.set_compact_every(16));
    let outcome = bed.submit(at, body(&wanted));
    assert!(outcome.as_ref().is_ok_and(Outcome::is_applied), "{outcome:?}");
    for _ in 0..20 {
        assert!(bed.submit(at, CommandBody::Noop).is_ok());
    }
    let state = bed.state().encode().expect("below the limit").len();
    assert!(state > 8 << 20, "{state}");
    (bed.longest, bed.lose) = (0, 9);
    bed.silent.clear();
    bed.until(|bed| bed.members[&behind].state().desired() == &wanted);
    assert!(bed.longest <= FRAME_BYTES_MAX, "a frame of {} octets", bed.longest);
    bed.lose = 0;
    let index = bed.state().index();
    bed.until(|bed| bed.members[&behind].state().index() >= index);
    assert_eq!(bed.members[&behind].state().digest(), bed.members[&bed.leader()].state().digest());
    // Nothing of it is kept.
    bed.run(6_000);
    let kept = |member: &ControlMember<_>| !member.pieces.is_empty();
    assert!(!bed.members.values().any(kept));
}
