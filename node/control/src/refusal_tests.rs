use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::*;

/// A value to try a field with: as long in bytes as its type gets.
pub(super) trait Sample {
    fn sample() -> Self;
}

macro_rules! samples {
    ($($type:ty: $value:expr;)*) => { $(impl Sample for $type { fn sample() -> Self { $value } })* };
}

samples! {
    u16: 60_001;
    u32: 4_000_000_001;
    u64: u64::MAX - 1;
    ControlIndex: ControlIndex(u64::MAX - 2);
    Incarnation: Incarnation(u64::MAX - 3);
    NodeId: NodeId(4_000_000_004);
    ShardId: ShardId(1_023);
    BackendId: BackendId(4_000_000_005);
    FrontendId: FrontendId(4_000_000_006);
    Ipv4Addr: Ipv4Addr::new(203, 0, 113, 7);
    Nodes: (0..40).map(|n| NodeId(4_000_000_010 + n)).collect();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn numbers_names_and_bytes_are_those_that_were_given_out() {
    let mut now = String::new();
    for refusal in Refusal::samples() {
        let _ = writeln!(now, "{} {} {}", refusal.code(), refusal.name(), hex(&refusal.to_bytes()));
    }
    let golden = include_str!("../tests/golden/refusals.txt");
    assert_eq!(now, golden, "a refusal is stored: give a new one a new number, and leave the others");
}

#[test]
fn each_number_and_name_is_given_once() {
    let all = Refusal::samples();
    let codes: BTreeSet<u16> = all.iter().map(Refusal::code).collect();
    let names: BTreeSet<&str> = all.iter().map(Refusal::name).collect();
    assert_eq!((codes.len(), names.len()), (all.len(), all.len()));
}

#[test]
fn each_survives_its_bytes_and_is_no_longer_than_the_state_reckons_with() {
    for refusal in Refusal::samples() {
        let bytes = refusal.to_bytes();
        assert!(bytes.len() <= REFUSAL_LEN_MAX, "{refusal:?}: {} bytes", bytes.len());
        assert_eq!(Refusal::from_bytes(&bytes), Some(refusal.clone()));
        for len in 0..bytes.len() {
            assert_eq!(Refusal::from_bytes(&bytes[..len]), None, "{refusal:?} cut at {len}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Refusal::from_bytes(&longer), None, "{refusal:?} with more behind it");
    }
}

#[test]
fn a_number_that_nobody_gave_out_is_not_read() {
    let unknown = bincode::encode_to_vec(9_999_u16, bincode::config::standard()).expect("small");
    assert_eq!(Refusal::from_bytes(&unknown), None);
}

#[test]
fn each_says_its_values_and_what_helps() {
    for refusal in Refusal::samples() {
        let (why, remedy) = (refusal.why(), refusal.remedy());
        assert!(!why.is_empty() && !remedy.is_empty(), "{refusal:?}");
        assert!(!why.contains(['{', '}']) && !remedy.contains(['{', '}']), "{refusal}");
        for number in format!("{refusal:?}").split(|c: char| !c.is_ascii_digit()).filter(|digits| digits.len() > 4) {
            assert!(why.contains(number) || remedy.contains(number), "{refusal:?} keeps {number} to itself: {refusal}");
        }
    }
}

#[test]
fn a_long_list_of_nodes_is_cut_and_an_empty_one_is_said() {
    let many: Nodes = (0..40).rev().map(NodeId).chain([NodeId(3)]).collect();
    assert_eq!(many.to_string(), (0..NAMED_MAX).map(|n| n.to_string()).collect::<Vec<_>>().join(", "));
    assert_eq!(Nodes::default().to_string(), "none");
}
